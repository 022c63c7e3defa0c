//! How often: who asks too often gets 429 before it costs anything.
//!
//! Everything is counted by key, in memory, by each edge for itself: with several edges a limit is at most that many times
//! as wide. Logins and registrations are counted for each command, however many of them one request brings.
//!
//! | what | of whom | how much |
//! |---|---|---|
//! | requests | a user; without a token that is known, an address | `RATE_LIMIT` a second |
//! | failed logins | an account from a network (/24, /64) | `LOGIN_LIMIT`, then waits of 1, 2, 4 .. 900 s until it was quiet for 15 minutes |
//! | failed logins | an account | 10 times as many an hour |
//! | failed logins | an address | 20 times as many an hour |
//! | passwords that do not change another | a user from a network | as failed logins |
//! | registrations | an address | `REGISTER_LIMIT` an hour |
//! | resets of passwords | an address | `REGISTER_LIMIT` an hour |
//!
//! An account is what the caller calls it: one that does not exist is counted as one that does. An attempt is counted when it
//! begins, so that many at once are not many for one, and given back when it turns out to have been none.

use std::{
    any::Any,
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use contracts::identity::{ChangePassword, Login, Register, RequestPasswordReset};
use moka::{policy::EvictionPolicy, sync::Cache};
use platform::{
    Caller,
    config::Mode,
    metrics::{IntCounterVec, Metrics},
};

use crate::{Settings, address::Client, problem::Problem};

/// How many keys of each limit are remembered. Beyond them those that were quiet longest are forgotten; to push one out costs
/// as many attempts, and passwords are not checked that fast.
const REMEMBERED: u64 = 100_000;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// How long a login that failed is remembered, and the longest wait.
const QUIET: Duration = Duration::from_secs(900);

/// All limits; one that is off is not there.
pub(crate) struct Throttle {
    requests: Option<Limit>,
    login_pair: Option<Limit>,
    login_account: Option<Limit>,
    login_address: Option<Limit>,
    register_address: Option<Limit>,
    limited: IntCounterVec,
}

impl Throttle {
    /// What the settings say; what they do not say is off in development.
    pub(crate) fn new(settings: &Settings, metrics: &Metrics) -> Self {
        let given = |setting: Option<u32>, production: u32| {
            let most = setting.unwrap_or(match settings.outcry_env {
                Mode::Development => 0,
                Mode::Production => production,
            });
            (most > 0).then_some(most)
        };
        let (logins, registrations) = (given(settings.login_limit, 5), given(settings.register_limit, 10));
        let limit = |name, most: u32, kind| Limit::new(Policy { name, most, kind });
        let help = "What was refused because it was asked too often, by the limit.";
        let throttle = Self {
            requests: given(settings.rate_limit, 100).map(|most| limit("requests", most, Kind::In(SECOND))),
            login_pair: logins.map(|most| limit("login", most, Kind::Slowing)),
            login_account: logins.map(|most| limit("login-account", most.saturating_mul(10), Kind::In(HOUR))),
            login_address: logins.map(|most| limit("login-address", most.saturating_mul(20), Kind::In(HOUR))),
            register_address: registrations.map(|most| limit("register", most, Kind::In(HOUR))),
            limited: metrics.counter("rate_limited_total", help, &["policy"]),
        };
        // What is not told until it happens cannot be watched.
        for limit in throttle.all() {
            throttle.limited.with_label_values(&[limit.policy.name]);
        }
        throttle
    }

    fn all(&self) -> impl Iterator<Item = &Limit> {
        let Self { requests, login_pair, login_account, login_address, register_address, limited: _ } = self;
        [requests, login_pair, login_account, login_address, register_address].into_iter().flatten()
    }

    /// Whether requests are counted at all.
    pub(crate) fn counts_requests(&self) -> bool {
        self.requests.is_some()
    }

    /// Counts a request, of a user if it is known whose, else of an address.
    pub(crate) fn request(&self, caller: Option<Caller>, client: Option<Client>) -> Result<(), Problem> {
        let Some(limit) = &self.requests else { return Ok(()) };
        let key = match (caller, client) {
            (Some(caller), _) => limit.key(caller.id),
            (None, Some(Client(address))) => limit.key(host(address)),
            (None, None) => return Ok(()),
        };
        limit.take(key, Instant::now()).map(drop).map_err(|wait| self.refuse(&limit.policy, wait))
    }

    /// Begins a command, if commands of its kind are counted. What became of it is to be told to the attempt.
    pub(crate) fn attempt<C: Any>(
        &self,
        command: &C,
        caller: Option<Caller>,
        client: Option<Client>,
    ) -> Result<Attempt<'_>, Problem> {
        let command: &dyn Any = command;
        let address = client.map(|Client(address)| address);
        if let Some(login) = command.downcast_ref::<Login>() {
            let account = account(login);
            return self.begin(
                login_became,
                [
                    self.login_pair
                        .as_ref()
                        .map(|limit| (limit, limit.key((&account, address.map(network))))),
                    self.login_account.as_ref().map(|limit| (limit, limit.key(&account))),
                    self.login_address
                        .as_ref()
                        .zip(address)
                        .map(|(limit, from)| (limit, limit.key(host(from)))),
                ],
            );
        }
        if command.is::<ChangePassword>()
            && let Some(caller) = caller
        {
            // Whoever has somebody's token learns the password no faster than by logging in.
            let key = |limit: &Limit| limit.key((caller.id, address.map(network)));
            return self.begin(login_became, [self.login_pair.as_ref().map(|limit| (limit, key(limit)))]);
        }
        if command.is::<Register>() {
            let limit = self.register_address.as_ref().zip(address);
            return self
                .begin(registration_became, [limit.map(|(limit, from)| (limit, limit.key(host(from))))]);
        }
        if command.is::<RequestPasswordReset>() {
            let limit = self.register_address.as_ref().zip(address);
            let key = |limit: &Limit, from| limit.key(("reset", host(from)));
            return self.begin(registration_became, [limit.map(|(limit, from)| (limit, key(limit, from)))]);
        }
        Ok(Attempt { became: |_| Became::Nothing, taken: Vec::new() })
    }

    /// Takes one from each limit, or from none.
    fn begin<'a, const N: usize>(
        &self,
        became: fn(StatusCode) -> Became,
        limits: [Option<(&'a Limit, u64)>; N],
    ) -> Result<Attempt<'a>, Problem> {
        let (now, mut refused) = (Instant::now(), None);
        let mut attempt = Attempt { became, taken: Vec::new() };
        for (limit, key) in limits.into_iter().flatten() {
            match limit.take(key, now) {
                Ok(taken) => attempt.taken.push((limit, taken)),
                // The longest wait of all: who comes again after a shorter one would only be told another.
                Err(wait) if refused.is_none_or(|(_, longest)| wait > longest) => {
                    refused = Some((&limit.policy, wait));
                }
                Err(_) => {}
            }
        }
        let Some((policy, wait)) = refused else { return Ok(attempt) };
        attempt.end(Became::Nothing);
        Err(self.refuse(policy, wait))
    }

    fn refuse(&self, policy: &Policy, wait: Duration) -> Problem {
        self.limited.with_label_values(&[policy.name]).inc();
        Problem::rate_limited(policy.limited(wait))
    }
}

/// Something that is counted while it is done. Dropped without a word it stays counted: who hangs up has tried all the same.
pub(crate) struct Attempt<'a> {
    became: fn(StatusCode) -> Became,
    taken: Vec<(&'a Limit, Taken)>,
}

impl Attempt<'_> {
    /// Tells what the answer was.
    pub(crate) fn answered(self, status: StatusCode) {
        let became = (self.became)(status);
        self.end(became);
    }

    fn end(self, became: Became) {
        let now = Instant::now();
        for (limit, taken) in self.taken {
            taken.end(became, limit.policy.kind, now);
        }
    }
}

/// What an attempt turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Became {
    /// One that counts.
    Counted,
    /// One that does not, and that shows whose the account is: what this network did before is forgiven.
    Proven,
    /// None: it could not be read, or there was no room.
    Nothing,
}

fn login_became(status: StatusCode) -> Became {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Became::Counted,
        status if status.is_success() => Became::Proven,
        _ => Became::Nothing,
    }
}

/// A name that is taken tells whether there is such an account, so it counts.
fn registration_became(status: StatusCode) -> Became {
    if status.is_success() || status == StatusCode::CONFLICT { Became::Counted } else { Became::Nothing }
}

/// What the caller calls the account, as its function compares it.
fn account(login: &Login) -> String {
    let given = [&login.email, &login.username, &login.username_or_email].into_iter().flatten().next();
    given.map(|name| name.trim().to_lowercase()).unwrap_or_default()
}

/// Who one address is: a house has as many of IPv6 as it likes.
fn host(address: IpAddr) -> IpAddr {
    masked(address, 32)
}

/// A provider moves people about within these.
fn network(address: IpAddr) -> IpAddr {
    masked(address, 24)
}

fn masked(address: IpAddr, v4: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            Ipv4Addr::from_bits(address.to_bits() & !(u32::MAX.checked_shr(v4).unwrap_or(0))).into()
        }
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !(u128::from(u64::MAX))).into(),
    }
}

// --- one limit ------------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy)]
struct Policy {
    name: &'static str,
    most: u32,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// So many in a window, which begins with the first.
    In(Duration),
    /// So many, then a wait after each that doubles, until it was quiet for [`QUIET`].
    Slowing,
}

/// What a caller is told who comes too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limited {
    /// The limit's name.
    pub(crate) policy: &'static str,
    /// How many there may be.
    pub(crate) most: u32,
    /// Within how long.
    pub(crate) window: Duration,
    /// After how long there may be one more.
    pub(crate) wait: Duration,
}

impl Policy {
    fn limited(&self, wait: Duration) -> Limited {
        let window = match self.kind {
            Kind::In(window) => window,
            Kind::Slowing => QUIET,
        };
        Limited { policy: self.name, most: self.most, window, wait }
    }
}

struct Limit {
    policy: Policy,
    counts: Cache<u64, Arc<Mutex<Count>>>,
    /// Keys are hashes that nobody can foresee: no name is kept, and each takes the same room.
    hasher: RandomState,
}

impl Limit {
    fn new(policy: Policy) -> Self {
        let keep = match policy.kind {
            Kind::In(window) => window,
            Kind::Slowing => QUIET,
        };
        // As long again as it matters, so that what is forgotten has surely ended.
        let counts = Cache::builder()
            .max_capacity(REMEMBERED)
            .time_to_idle(keep * 2)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { policy, counts, hasher: RandomState::new() }
    }

    fn key(&self, of: impl Hash) -> u64 {
        self.hasher.hash_one(of)
    }

    /// Counts one more, or says after how long there may be one.
    fn take(&self, key: u64, now: Instant) -> Result<Taken, Duration> {
        let count = self.counts.get_with(key, || Arc::new(Mutex::new(Count::new(now))));
        let since = locked(&count).take(&self.policy, now)?;
        Ok(Taken { count, since })
    }
}

/// One that was counted.
struct Taken {
    count: Arc<Mutex<Count>>,
    since: Instant,
}

impl Taken {
    fn end(self, became: Became, kind: Kind, now: Instant) {
        let mut count = locked(&self.count);
        match (became, kind) {
            (Became::Counted, _) => count.last = now,
            (Became::Proven, Kind::Slowing) => count.used = 0,
            (Became::Proven, Kind::In(_)) | (Became::Nothing, _) => count.give_back(self.since),
        }
    }
}

fn locked(count: &Mutex<Count>) -> std::sync::MutexGuard<'_, Count> {
    count.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of one key. Times are given, so that the rules can be looked at without waiting.
#[derive(Debug)]
struct Count {
    /// When the first one came.
    since: Instant,
    /// When the last one came, or failed.
    last: Instant,
    used: u32,
}

impl Count {
    fn new(now: Instant) -> Self {
        Self { since: now, last: now, used: 0 }
    }

    /// Counts one more and returns which window it was, or says after how long there may be one.
    fn take(&mut self, policy: &Policy, now: Instant) -> Result<Instant, Duration> {
        let is_over = match policy.kind {
            Kind::In(window) => now.duration_since(self.since) >= window,
            Kind::Slowing => now.duration_since(self.last) >= QUIET,
        };
        if is_over || self.used == 0 {
            *self = Self::new(now);
        }
        if self.used >= policy.most {
            let free = match policy.kind {
                Kind::In(window) => self.since + window,
                Kind::Slowing => self.last + pause(self.used - policy.most),
            };
            let wait = free.saturating_duration_since(now);
            if !wait.is_zero() {
                return Err(wait);
            }
        }
        self.used = self.used.saturating_add(1);
        self.last = now;
        Ok(self.since)
    }

    fn give_back(&mut self, since: Instant) {
        // Of a window that is over there is nothing to give back.
        if self.since == since {
            self.used = self.used.saturating_sub(1);
        }
    }
}

/// 1, 2, 4 .. 900 seconds.
fn pause(beyond: u32) -> Duration {
    Duration::from_secs(1_u64.checked_shl(beyond).unwrap_or(u64::MAX)).min(QUIET)
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;
    use crate::tests::{self, Server, World, exchange, listening, router_over, settings, until};

    const PAIR: Policy = Policy { name: "login", most: 5, kind: Kind::Slowing };

    /// Takes at this second after the start: nothing, or the seconds to wait.
    fn at(count: &mut Count, policy: &Policy, start: Instant, second: u64) -> Option<u64> {
        count.take(policy, start + Duration::from_secs(second)).err().map(|wait| wait.as_secs())
    }

    #[test]
    fn so_many_in_a_window_and_then_none_until_it_is_over() {
        let start = Instant::now();
        let (policy, mut count) = (Policy { name: "x", most: 3, kind: Kind::In(HOUR) }, Count::new(start));

        for (second, wait) in
            [(0, None), (10, None), (20, None), (30, Some(3570)), (3599, Some(1)), (3600, None), (3601, None)]
        {
            assert_eq!(at(&mut count, &policy, start, second), wait, "{second}");
        }
    }

    #[test]
    fn after_five_each_wait_is_twice_the_one_before_and_quiet_forgives() {
        let start = Instant::now();
        let mut count = Count::new(start);
        for _ in 0..5 {
            assert_eq!(at(&mut count, &PAIR, start, 0), None);
        }
        let mut now = 0;
        for wait in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
            assert_eq!(at(&mut count, &PAIR, start, now), Some(wait));
            now += wait;
            assert_eq!(at(&mut count, &PAIR, start, now), None);
        }
        // The longest wait is as long as the quiet that forgives, so nobody is locked out for good.
        assert_eq!(at(&mut count, &PAIR, start, now), Some(900));
        for _ in 0..5 {
            assert_eq!(at(&mut count, &PAIR, start, now + 900), None);
        }
        assert_eq!(at(&mut count, &PAIR, start, now + 900), Some(1));
        assert_eq!(pause(u32::MAX), QUIET);
    }

    #[test]
    fn what_was_none_is_given_back_and_to_its_own_window() {
        let start = Instant::now();
        let (policy, mut count) = (Policy { name: "x", most: 1, kind: Kind::In(HOUR) }, Count::new(start));

        let first = count.take(&policy, start).unwrap();
        count.give_back(first);
        assert_eq!(at(&mut count, &policy, start, 1), None);
        assert_eq!(at(&mut count, &policy, start, 3601), None);
        count.give_back(first);
        assert!(at(&mut count, &policy, start, 3602).is_some());
    }

    #[test]
    fn who_was_quiet_longest_is_forgotten_first_and_there_is_an_end_to_memory() {
        let limit = Limit::new(Policy { name: "x", most: 1, kind: Kind::In(HOUR) });
        let now = Instant::now();
        for stranger in 0..REMEMBERED {
            limit.take(limit.key(stranger), now).ok().unwrap();
        }
        limit.counts.run_pending_tasks();
        let oldest_but_busy = limit.key(0_u64);
        assert!(limit.take(oldest_but_busy, now).is_err());
        for stranger in REMEMBERED..REMEMBERED + 1000 {
            limit.take(limit.key(stranger), now).ok().unwrap();
        }
        limit.counts.run_pending_tasks();

        assert!(limit.counts.entry_count() <= REMEMBERED, "{}", limit.counts.entry_count());
        assert!(limit.take(oldest_but_busy, now).is_err(), "who comes again is remembered");
        assert!(limit.take(limit.key(1_u64), now).is_ok(), "who was quiet is not");
    }

    #[test]
    fn a_house_is_one_address_and_neighbours_are_one_network() {
        let of = |text: &str| -> IpAddr { text.parse().unwrap() };
        for (address, house, neighbours) in [
            ("192.0.2.77", "192.0.2.77", "192.0.2.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", "2001:db8:1:2::"),
        ] {
            assert_eq!((host(of(address)), network(of(address))), (of(house), of(neighbours)));
        }
    }

    #[test]
    fn only_what_a_guess_gains_from_is_counted() {
        use Became::{Counted, Nothing, Proven};
        for (status, login, registration) in [
            (200, Proven, Counted),
            (201, Proven, Counted),
            (202, Proven, Counted),
            (400, Nothing, Nothing),
            (401, Counted, Nothing),
            (403, Counted, Nothing),
            (409, Nothing, Counted),
            (503, Nothing, Nothing),
            (504, Nothing, Nothing),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                (login_became(status), registration_became(status)),
                (login, registration),
                "{status}"
            );
        }
    }

    // --- over real connections --------------------------------------------------------------------

    /// Asks with each of these addresses in `X-Forwarded-For`, over one connection, and returns what came back.
    async fn ask(server: &Server, path: &str, forwarded: &[&str]) -> String {
        let last = forwarded.len() - 1;
        let requests = forwarded.iter().enumerate().map(|(index, address)| {
            let connection = if index == last { "close" } else { "keep-alive" };
            format!(
                "GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\nConnection: {connection}\r\n\r\n"
            )
        });
        exchange(server.address, requests.collect::<String>().as_bytes()).await
    }

    async fn edge(change: impl Fn(&mut Settings)) -> Server {
        let mut settings = settings();
        change(&mut settings);
        listening(router_over("nats://127.0.0.1:1", settings).await.0).await
    }

    fn limited(answers: &str) -> usize {
        answers.matches("HTTP/1.1 429 ").count()
    }

    /// S-30.
    #[tokio::test]
    async fn the_101st_request_in_a_second_is_refused_and_told_when_to_come_again() {
        let edge = edge(|settings| settings.rate_limit = Some(100)).await;

        let answers = ask(&edge, "/nowhere", &["-"; 101]).await;

        assert_eq!((answers.matches("HTTP/1.1 404 ").count(), limited(&answers)), (100, 1));
        let refused = &answers[answers.find("HTTP/1.1 429 ").unwrap()..];
        for expected in [
            "retry-after: 1\r\n",
            "ratelimit-policy: \"requests\";q=100;w=1\r\n",
            "ratelimit: \"requests\";r=0;t=1\r\n",
            "x-content-type-options: nosniff\r\n",
            "\"code\":\"RATE_LIMITED\"",
            "\"retry_after_ms\":",
            "\"request_id\":",
        ] {
            assert!(refused.contains(expected), "{expected} in {refused}");
        }
        assert_eq!(
            limited(&ask(&edge, "/livez", &["-"; 50]).await),
            0,
            "who asks how it goes is not counted"
        );
        tokio::time::sleep(SECOND).await;
        assert_eq!(limited(&ask(&edge, "/nowhere", &["-"]).await), 0, "a second later it is over");
        let told = ask(&edge, "/metrics", &["-"]).await;
        assert!(told.contains("rate_limited_total{policy=\"requests\"") && told.contains("} 1\n"), "{told}");
    }

    /// S-21.
    #[tokio::test]
    async fn an_address_that_a_stranger_makes_up_gives_it_no_more_requests() {
        let made_up = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];
        for (trusted, refused) in [(&[][..], 1), (&["10.0.0.0/8"], 1), (&["127.0.0.0/8"], 0)] {
            let edge = edge(|settings| {
                settings.rate_limit = Some(3);
                settings.trusted_proxies = trusted.iter().map(|&network| network.to_owned()).collect();
            })
            .await;

            assert_eq!(limited(&ask(&edge, "/nowhere", &made_up).await), refused, "{trusted:?}");
        }
    }

    #[tokio::test]
    async fn a_user_is_counted_wherever_the_requests_come_from_and_nobody_else() {
        let world = World::start(vec![tests::keys()]).await;
        let settings = Settings { rate_limit: Some(4), ..settings() };
        let (router, _) = router_over(&world.nats.url(), settings).await;
        let (ann, bob) = (tests::token_that_ends_in(60), tests::token_of_bob());
        let from = async |address: &str, token: &str| {
            let request = axum::http::Request::builder()
                .uri("/api/v1/commands/none")
                .header("authorization", token)
                .extension(crate::address::Peer(address.parse().unwrap()));
            let response = router.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await;
            response.unwrap().status()
        };
        // The first shows whose it is, and is counted for its address.
        until(async || from("192.0.2.1", &ann).await == StatusCode::NOT_FOUND).await;
        tokio::time::sleep(SECOND).await;

        let mut seen = Vec::new();
        for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"] {
            seen.push(from(address, &ann).await.as_u16());
        }

        assert_eq!(seen, [404, 404, 404, 404, 429]);
        assert_eq!(from("192.0.2.1", &bob).await.as_u16(), 404);
        assert_eq!(from("192.0.2.5", "Bearer made-up").await.as_u16(), 401, "counted for its address");
    }

    #[tokio::test]
    async fn in_production_there_are_limits_and_in_development_none_unless_said() {
        let (_, bus) = router_over("nats://127.0.0.1:1", settings()).await;
        let names = |settings: &Settings| {
            let throttle = Throttle::new(settings, bus.metrics());
            throttle.all().map(|limit| (limit.policy.name, limit.policy.most)).collect::<Vec<_>>()
        };
        let production = Settings { outcry_env: Mode::Production, ..settings() };

        assert_eq!(names(&settings()), []);
        assert_eq!(
            names(&production),
            [
                ("requests", 100),
                ("login", 5),
                ("login-account", 50),
                ("login-address", 100),
                ("register", 10)
            ]
        );
        let off = Some(0);
        let production =
            Settings { rate_limit: off, login_limit: off, register_limit: Some(7), ..production };
        assert_eq!(names(&production), [("register", 7)]);
    }
}
