//! Who may do what: one table of every route, and for each what somebody without a token, the owner of what it is about,
//! somebody else and an administrator are answered (security.md 2.4).
//!
//! A route without a row fails a test, and so does a row without a route. Every row is tried by all four on a real platform.

use std::{collections::BTreeSet, time::Duration};

use contracts::identity::GrantAdmin;
use outcry::launch::Platform;
use platform::{Sender, Sent, Timestamp, Trace};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{Alone, Seen, Setting, Visitor, nats_of, see, story};

/// What each of four is answered.
struct Row {
    method: &'static str,
    /// Templates; the same function answers on all of them.
    paths: &'static [&'static str],
    body: Body,
    anonymous: u16,
    owner: u16,
    other: u16,
    admin: u16,
}

/// What is sent.
#[derive(Clone, Copy)]
enum Body {
    None,
    /// A person nobody knows.
    Person,
    /// The name and password of whoever asks; the owner's when nobody does.
    Credentials,
    Item,
    /// Of a name that nobody knows.
    Category,
    Product,
    Amount,
    /// Of a second session of whoever asks; the owner's when nobody does.
    RefreshToken,
    /// The password that whoever asks has already.
    Passwords,
    /// Made up.
    ResetToken,
    /// The password of whoever asks, and what is no code and no challenge.
    SecondFactor,
    /// Nothing to say, as JSON.
    Empty,
    /// A part of a name.
    Name,
    /// Nothing, about an account of its own: it is gone afterwards.
    Gone,
}

/// A route that answers everybody alike.
const fn open(method: &'static str, paths: &'static [&'static str], body: Body, status: u16) -> Row {
    Row { method, paths, body, anonymous: status, owner: status, other: status, admin: status }
}

/// A route for those who are logged in.
const fn bearer(method: &'static str, paths: &'static [&'static str], body: Body, status: u16) -> Row {
    Row { anonymous: 401, ..open(method, paths, body, status) }
}

/// The table. The owner offers the item of the paths, and has asked for the command in them.
#[rustfmt::skip]
const MATRIX: &[Row] = &[
    // identity
    open("POST", &["/identity/register", "/register", "/api/v1/auth/register", "/api/v1/users/register"], Body::Person, 201),
    open("POST", &["/identity/login", "/login", "/api/v1/auth/login", "/api/v1/users/login"], Body::Credentials, 200),
    open("POST", &["/identity/refresh"], Body::RefreshToken, 200),
    bearer("POST", &["/identity/logout"], Body::RefreshToken, 204),
    bearer("GET", &["/identity/sessions"], Body::None, 200),
    // The owner's, which somebody else cannot see; an administrator neither.
    Row { owner: 204, ..bearer("DELETE", &["/identity/sessions/{session_id}"], Body::None, 404) },
    bearer("PUT", &["/identity/password"], Body::Passwords, 204),
    open("POST", &["/identity/password/reset"], Body::Credentials, 202),
    // Who was sent nothing.
    open("POST", &["/identity/password/reset/confirm"], Body::ResetToken, 401),
    // Nobody here has a second factor; two_factors.rs shows what those get who do.
    open("POST", &["/identity/2fa/challenge", "/2fa/challenge"], Body::SecondFactor, 401),
    bearer("POST", &["/identity/2fa/enable", "/2fa/enable"], Body::SecondFactor, 200),
    bearer("POST", &["/identity/2fa/verify", "/2fa/verify"], Body::SecondFactor, 403),
    bearer("POST", &["/identity/2fa/disable", "/2fa/disable"], Body::SecondFactor, 409),
    bearer("POST", &["/identity/2fa/recovery-codes", "/2fa/recovery-codes"], Body::SecondFactor, 409),
    bearer("GET", &["/identity/me", "/me", "/api/v1/users/me"], Body::None, 200),
    open("GET", &["/.well-known/jwks.json"], Body::None, 200),
    // How much is shown is another test's matter.
    bearer("GET", &["/api/v1/users"], Body::None, 200),
    bearer("GET", &["/api/v1/users/{user_id}"], Body::None, 200),
    Row { other: 403, ..bearer("PUT", &["/api/v1/users/{user_id}"], Body::Name, 200) },
    Row { other: 403, ..bearer("DELETE", &["/api/v1/users/{user_id}"], Body::Gone, 204) },
    // items and bids
    bearer("POST", &["/api/v1/items"], Body::Item, 201),
    open("GET", &["/api/v1/items"], Body::None, 200),
    open("GET", &["/api/v1/items/{item_id}"], Body::None, 200),
    // The owner is the seller.
    Row { owner: 403, ..bearer("POST", &["/api/v1/items/{item_id}/bids"], Body::Amount, 201) },
    open("GET", &["/api/v1/items/{item_id}/bids"], Body::None, 200),
    // Somebody would win it already.
    Row { owner: 403, ..bearer("POST", &["/api/v1/items/{item_id}/buy-now"], Body::Empty, 409) },
    open("GET", &["/api/v1/items/{item_id}/events"], Body::None, 200),
    open("GET", &["/api/v1/items/events"], Body::None, 200),
    // It has bids by now, and nothing that is known is said.
    Row { other: 403, ..bearer("PUT", &["/api/v1/items/{item_id}"], Body::Name, 200) },
    Row { other: 403, ..bearer("DELETE", &["/api/v1/items/{item_id}"], Body::None, 409) },
    // An administrator has to say why.
    Row { other: 403, admin: 400, ..bearer("POST", &["/api/v1/items/{item_id}/cancel"], Body::Empty, 409) },
    Row { owner: 409, ..bearer("POST", &["/api/v1/items/{item_id}/relist"], Body::Empty, 403) },
    Row { admin: 200, ..bearer("POST", &["/api/v1/items/{item_id}/close"], Body::Empty, 403) },
    bearer("PUT", &["/api/v1/items/{item_id}/watch"], Body::None, 204),
    bearer("DELETE", &["/api/v1/items/{item_id}/watch"], Body::None, 204),
    bearer("GET", &["/api/v1/users/me/watchlist"], Body::None, 200),
    bearer("GET", &["/api/v1/users/me/items"], Body::None, 200),
    bearer("GET", &["/api/v1/users/me/bids"], Body::None, 200),
    // categories and products; the owner has made one for each who asks
    bearer("POST", &["/api/v1/categories"], Body::Category, 201),
    open("GET", &["/api/v1/categories"], Body::None, 200),
    open("GET", &["/api/v1/categories/{category_id}"], Body::None, 200),
    Row { other: 403, ..bearer("PUT", &["/api/v1/categories/{category_id}"], Body::Empty, 200) },
    Row { other: 403, ..bearer("DELETE", &["/api/v1/categories/{category_id}"], Body::None, 204) },
    bearer("POST", &["/api/v1/products"], Body::Product, 201),
    open("GET", &["/api/v1/products"], Body::None, 200),
    open("GET", &["/api/v1/products/{product_id}"], Body::None, 200),
    Row { other: 403, ..bearer("PUT", &["/api/v1/products/{product_id}"], Body::Empty, 200) },
    Row { other: 403, ..bearer("DELETE", &["/api/v1/products/{product_id}"], Body::None, 204) },
    // stats
    open("GET", &["/api/v1/users/{user_id}/stats"], Body::None, 200),
    bearer("GET", &["/api/v1/users/me/stats"], Body::None, 200),
    open("GET", &["/api/v1/leaderboard"], Body::None, 200),
    // Somebody else's command is not there, for an administrator neither.
    Row { owner: 200, ..bearer("GET", &["/api/v1/commands/{command_id}"], Body::None, 404) },
    // The last of those that write: whoever asked is out.
    bearer("POST", &["/identity/logout-all"], Body::Empty, 204),
    // operations; in development everybody may read the metrics
    open("GET", &["/livez"], Body::None, 200),
    open("GET", &["/readyz"], Body::None, 200),
    open("GET", &["/health"], Body::None, 200),
    open("GET", &["/metrics"], Body::None, 200),
];

#[test]
fn every_route_has_a_row_and_every_row_a_route() {
    let rows: Vec<_> =
        MATRIX.iter().flat_map(|row| row.paths.iter().map(|path| (row.method, *path))).collect();
    let routes = edge::routes();

    let (rows_once, routes_once): (BTreeSet<_>, BTreeSet<_>) =
        (rows.iter().collect(), routes.iter().collect());
    assert_eq!(rows.len(), rows_once.len(), "two rows of one route");
    let unjudged: Vec<_> = routes_once.difference(&rows_once).collect();
    assert!(unjudged.is_empty(), "say in MATRIX who may do this: {unjudged:?}");
    let gone: Vec<_> = rows_once.difference(&routes_once).collect();
    assert!(gone.is_empty(), "MATRIX has rows of what is no route: {gone:?}");
}

const PASSWORD: &str = "secret123";
/// Who asks, in the order of the columns.
const WHO: [&str; 4] = ["anonymous", "owner", "other", "admin"];

const OWNER: usize = 1;

impl Row {
    fn method(&self) -> Method {
        Method::from_bytes(self.method.as_bytes()).unwrap()
    }

    fn expected(&self) -> [u16; 4] {
        [self.anonymous, self.owner, self.other, self.admin]
    }
}

/// Everybody, and what the paths are about.
struct Cast {
    who: [Visitor; 4],
    emails: [String; 4],
    refresh_tokens: [String; 4],
    item: String,
    command: String,
    /// One of the owner's.
    session: String,
    /// The owner's, one for each.
    categories: [String; 4],
    products: [String; 4],
}

impl Cast {
    async fn gather(platform: &Platform) -> Self {
        let url = &platform.url;
        let (owner, other) = (Visitor::new(url, "owner").await, Visitor::new(url, "other").await);
        let admin = admin(platform).await;
        let item =
            owner.offer(600.0, json!({ "start_price": "1.00" })).await["id"].as_str().unwrap().to_owned();
        // `place-bid` is not there, so that the command is answered with its name.
        let bid = owner.post(&format!("/api/v1/items/{item}/bids"), json!({ "amount": 5 })).await;
        assert_eq!(bid.status, 202, "{}", bid.body);
        let command = bid.body["command_id"].as_str().unwrap().to_owned();
        let [owners, others, admins] =
            [email_of(&owner).await, email_of(&other).await, email_of(&admin).await];
        // Who has no name tries the owner's.
        let emails = [owners.clone(), owners, others, admins];
        let who = [Visitor::of(url), owner, other, admin];
        let mut cast = Self {
            who,
            emails,
            refresh_tokens: Default::default(),
            item,
            command,
            session: String::new(),
            categories: Default::default(),
            products: Default::default(),
        };
        for who in 0..WHO.len() {
            cast.refresh_tokens[who] = text(&cast.session(who).await, "refresh_token");
            let category = cast.who[1].post("/api/v1/categories", category()).await;
            cast.categories[who] = category.body["id"].to_string();
            cast.products[who] = text(&cast.who[1].post("/api/v1/products", product()).await.body, "id");
        }
        // The first of the list is the newest.
        cast.session(1).await;
        cast.session = text(&cast.who[1].get("/identity/sessions").await.body["data"][0], "id");
        cast
    }

    /// A new session of one of them; the owner's for who has no name.
    async fn session(&self, who: usize) -> Value {
        let credentials = json!({ "email": self.emails[who], "password": PASSWORD });
        let session = self.who[0].post("/login", credentials).await;
        assert_eq!(session.status, 200, "{}", session.body);
        session.body
    }

    /// Everybody logs in again who has a name.
    async fn come_back(&mut self) {
        for who in 1..WHO.len() {
            self.who[who].token = Some(text(&self.session(who).await, "token"));
        }
    }

    fn request(&self, row: &Row, path: &str, who: usize) -> RequestBuilder {
        let path = path
            .replace("{item_id}", &self.item)
            .replace("/items/events", &format!("/items/events?ids={}", self.item))
            .replace("{user_id}", &self.who[1].id)
            .replace("{command_id}", &self.command)
            .replace("{session_id}", &self.session)
            .replace("{category_id}", &self.categories[who])
            .replace("{product_id}", &self.products[who]);
        self.who[who].request(row.method(), &path)
    }

    fn body(&self, row: &Row, who: usize) -> Option<Value> {
        Some(match row.body {
            Body::None | Body::Gone => return None,
            Body::Person => {
                json!({ "email": format!("{}@example.com", Uuid::new_v4().simple()), "password": PASSWORD })
            }
            Body::Credentials => json!({ "email": self.emails[who], "password": PASSWORD }),
            Body::Item => {
                let ends_at = Timestamp::now() + Duration::from_secs(600);
                json!({ "name": "Lamp", "start_price": "1.00", "ends_at": ends_at })
            }
            Body::Category => category(),
            Body::Product => product(),
            // Each more than the one before.
            Body::Amount => json!({ "amount": 10 * (who + 1) }),
            Body::RefreshToken => json!({ "refresh_token": self.refresh_tokens[who] }),
            Body::Passwords => json!({ "current_password": PASSWORD, "new_password": PASSWORD }),
            Body::ResetToken => json!({ "token": format!("{}.x", Uuid::now_v7()), "new_password": PASSWORD }),
            Body::SecondFactor => json!({ "password": PASSWORD, "code": "none", "challenge": "none" }),
            Body::Empty => json!({}),
            Body::Name => json!({ "first_name": "Ann" }),
        })
    }

    async fn ask(&self, row: &Row, path: &str, who: usize) -> Seen {
        if matches!(row.body, Body::Gone) {
            let owner = Visitor::new(&self.who[0].url, "leaver").await;
            let asking = if who == OWNER { &owner } else { &self.who[who] };
            return seen(asking.request(row.method(), &path.replace("{user_id}", &owner.id))).await;
        }
        let request = self.request(row, path, who);
        let request = match self.body(row, who) {
            Some(body) => request.json(&body),
            None => request,
        };
        seen(request).await
    }

    /// Asks for these rows as everybody, and says what was answered otherwise than the table says.
    async fn try_all(&self, rows: impl Iterator<Item = &'static Row>) -> Vec<String> {
        let mut wrong = Vec::new();
        for row in rows {
            for (path, who) in row.paths.iter().flat_map(|path| (0..WHO.len()).map(move |who| (path, who))) {
                let (seen, expected) = (self.ask(row, path, who).await, row.expected()[who]);
                let what = format!("{} {path} as {}", row.method, WHO[who]);
                assert_framed(&seen, &what);
                if seen.status != expected {
                    wrong.push(format!("{what}: {} instead of {expected}: {}", seen.status, seen.body));
                }
            }
        }
        wrong
    }
}

fn category() -> Value {
    json!({ "name": Uuid::new_v4().simple().to_string() })
}

fn product() -> Value {
    json!({ "name": "AirFryer", "price": 1000, "store": "ABC TECH" })
}

fn text(body: &Value, member: &str) -> String {
    body[member].as_str().unwrap().to_owned()
}

pub(crate) async fn email_of(who: &Visitor) -> String {
    who.get("/me").await.body["email"].as_str().unwrap().to_owned()
}

async fn seen(request: RequestBuilder) -> Seen {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let is_endless = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
    if is_endless { Seen { status, headers, body: Value::Null } } else { see(response).await }
}

/// Somebody whom the operator made an administrator.
pub(crate) async fn admin(platform: &Platform) -> Visitor {
    let mut admin = Visitor::new(&platform.url, "admin").await;
    let email = email_of(&admin).await;
    let sender = Sender::start(testing::connect(&nats_of(platform)).await).await.unwrap();
    let request = platform::Request { caller: None, trace: Trace::start(), idempotency_key: None };
    let sent = sender.send(&GrantAdmin { email: email.clone() }, &request).await.unwrap();
    assert!(matches!(&sent, Sent::Answered(answer) if answer.is_accepted()), "{sent:?}");
    let session = admin.post("/login", json!({ "email": email, "password": PASSWORD })).await;
    assert_eq!(session.body["user"]["role"], "admin", "{}", session.body);
    admin.token = Some(text(&session.body, "token"));
    admin
}

/// S-25: on every answer, whatever it is.
fn assert_framed(seen: &Seen, what: &str) {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "strict-origin-when-cross-origin"),
        ("x-frame-options", "DENY"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("permissions-policy", "camera=()"),
        ("strict-transport-security", "max-age=31536000; includeSubDomains"),
    ] {
        let found = seen.headers.get(name).map(|value| value.to_str().unwrap());
        assert!(found.is_some_and(|found| found.starts_with(value)), "{what}: {name} is {found:?}");
    }
    for name in ["server", "x-powered-by"] {
        assert!(seen.headers.get(name).is_none(), "{what}: {name}");
    }
    assert!(seen.headers.contains_key("x-request-id") && seen.headers.contains_key("x-trace-id"), "{what}");
}

#[test]
fn everybody_may_do_what_the_table_says_and_nothing_else() {
    story(async {
        let data = local::temp_dir().unwrap();
        let setting = Setting { without: vec!["place-bid".into()], ..Setting::default() };
        let platform = setting.start(data.path()).await;
        let mut cast = Cast::gather(&platform).await;
        let _place_bid = Alone::run("place-bid", &platform.env);
        let outcome = format!("/api/v1/commands/{}", cast.command);
        cast.who[1].get_until(&outcome, |outcome| outcome["status"] == "refused").await;
        let bus = testing::connect(&nats_of(&platform)).await;
        let commands = async || {
            let mut last = Vec::new();
            for stream in ["COMMANDS", "CREDENTIALS"] {
                let info = format!("$JS.API.STREAM.INFO.{stream}");
                let told = bus.request(info, &json!({}), None, &Trace::start()).await.unwrap();
                let told: Value = serde_json::from_slice(&told.body).unwrap();
                last.push(told["state"]["last_seq"].as_u64().unwrap());
            }
            last
        };

        let before = commands().await;
        let wrong = cast.try_all(MATRIX.iter().filter(|row| row.method == "GET")).await;
        assert_eq!(wrong, Vec::<String>::new());
        // S-27: every write is a command, and who only reads made none.
        assert_eq!(commands().await, before);

        let writers = || MATRIX.iter().filter(|row| row.method != "GET");
        let wrong = cast.try_all(writers()).await;
        assert_eq!(wrong, Vec::<String>::new());
        assert!(commands().await.iter().zip(&before).all(|(after, before)| after > before));

        cast.come_back().await;
        // S-27: what a page of another site can send without asking first is no command either.
        let written = commands().await;
        for (row, path) in writers().flat_map(|row| row.paths.iter().map(move |path| (row, path))) {
            for kind in
                ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
            {
                let body = cast.body(row, 2).unwrap_or_else(|| json!({})).to_string();
                let request = cast.request(row, path, 2).header("Content-Type", kind).body(body);
                let refused = seen(request).await;
                let what = format!("{} {path} with {kind:?}", row.method);
                assert_eq!((refused.status, refused.code()), (415, "UNSUPPORTED_MEDIA_TYPE"), "{what}");
                assert_framed(&refused, &what);
            }
        }
        assert_eq!(commands().await, written);
        platform.stop().await;
    });
}
