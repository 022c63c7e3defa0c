//! The load: bids over many connections that stay open, from a thread of its own, so that its times do not
//! depend on how busy the platform's threads are. It costs little, because it shares the machine.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use contracts::{Currency, Money};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode, Uri,
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, task::LocalSet};

use super::{
    Beat, cpu,
    market::{Market, Offer, is_refusal},
    pace::{Pace, Schedule, waited},
    tally::{Tally, count},
};

/// How long an answer is waited for: longer than the edge allows itself.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long a connection that failed, or that was told to come later, waits.
const PAUSE: Duration = Duration::from_millis(50);
/// How long to wait after a login that failed.
const RENEW_AGAIN: Duration = Duration::from_secs(5);
/// Timers are this coarse: who is woken up by one is late by less.
const TICK: Duration = Duration::from_millis(1);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What is sent, where to, and for how long.
#[derive(Clone)]
pub(super) struct Load {
    /// What it is called where it is shown.
    pub(super) name: String,
    /// Host and port.
    pub(super) address: String,
    pub(super) market: Arc<Market>,
    /// What is sent to an item: `bids` or `echo`.
    pub(super) verb: &'static str,
    pub(super) connections: usize,
    pub(super) pace: Pace,
    /// Not counted, and before what is.
    pub(super) warm_up: Duration,
    pub(super) time: Duration,
    /// Told once a second.
    pub(super) show: fn(&Beat),
}

impl Load {
    /// Runs it and returns what was counted.
    pub(super) async fn run(self) -> anyhow::Result<Tally> {
        let market = Arc::clone(&self.market);
        let (done, mut tally) = tokio::sync::oneshot::channel();
        // Nobody waits for this thread when the bench is interrupted.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let driven = match runtime {
                Ok(runtime) => LocalSet::new().block_on(&runtime, drive(self)),
                Err(error) => Err(error.into()),
            };
            let _ = done.send(driven);
        });
        loop {
            // Tokens end in the middle of a long run. Who cannot log in now tries again before long.
            let again = market.renew().await.unwrap_or(RENEW_AGAIN);
            if let Ok(driven) = tokio::time::timeout(again, &mut tally).await {
                return driven.context("the load broke off")?;
            }
        }
    }

    fn offers_bids(&self) -> bool {
        self.verb == "bids"
    }
}

/// What the connections share, all on one thread.
struct Shared {
    load: Load,
    host: HeaderValue,
    paths: Vec<Uri>,
    started: Instant,
    schedule: RefCell<Schedule>,
    tally: RefCell<Tally>,
    /// Connections that have been opened.
    open: Cell<usize>,
    /// Decisions, warm-up included.
    decided: Cell<u64>,
}

async fn drive(load: Load) -> anyhow::Result<Tally> {
    let path = |item: &_| format!("/api/v1/items/{item}/{}", load.verb).parse::<Uri>();
    let shared = Rc::new(Shared {
        host: HeaderValue::try_from(load.address.clone())?,
        paths: load.market.items.iter().map(path).collect::<Result<_, _>>()?,
        started: Instant::now(),
        schedule: RefCell::new(Schedule::new(load.pace, load.warm_up + load.time)),
        tally: RefCell::new(Tally::new()?),
        open: Cell::new(0),
        decided: Cell::new(0),
        load,
    });
    let connections: Vec<_> = (0..shared.load.connections)
        .map(|number| tokio::task::spawn_local(Rc::clone(&shared).bid(number)))
        .collect();
    let beats = tokio::task::spawn_local(Rc::clone(&shared).beat());
    for connection in connections {
        connection.await?;
    }
    beats.abort();
    if shared.open.get() == 0 {
        bail!("{} takes no connections: is the platform running there?", shared.load.address);
    }
    let mut tally = shared.tally.replace(Tally::new()?);
    tally.time = shared.load.time;
    tally.all = (shared.decided.get(), cpu::of_this_thread());
    let (warm, end) = (shared.load.warm_up, shared.load.warm_up + shared.load.time);
    for due in shared.schedule.borrow().left().filter(|due| *due >= warm) {
        // They waited at least until the end.
        tally.waited(end - due);
        tally.unsent += 1;
    }
    Ok(tally)
}

/// What came back.
enum Outcome {
    Accepted,
    Refused(String),
    Pending,
    Error(String),
}

impl Shared {
    /// One connection: a bid, its answer, the next bid.
    async fn bid(self: Rc<Self>, number: usize) {
        let bidder = number % self.load.market.bidders.len();
        let mut connection = None;
        loop {
            let next = self.schedule.borrow_mut().next(self.started.elapsed());
            let Some(due) = next else { return };
            if let Some(ahead) = due.checked_sub(self.started.elapsed() + TICK) {
                tokio::time::sleep(ahead).await;
            }
            let sent = self.started.elapsed();
            let outcome = self.send(&mut connection, bidder).await;
            let now = self.started.elapsed();
            if matches!(outcome, Outcome::Accepted | Outcome::Refused(_)) {
                self.decided.set(self.decided.get() + 1);
            }
            let come_later = matches!(outcome, Outcome::Error(_));
            if due >= self.load.warm_up {
                self.count(outcome, due, sent, now);
            }
            if come_later {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn count(&self, outcome: Outcome, due: Duration, sent: Duration, now: Duration) {
        let mut tally = self.tally.borrow_mut();
        tally.waited(waited(due, sent, now));
        // A decision after the end was waited for, and is no part of what was done in the time.
        let in_time = now <= self.load.warm_up + self.load.time;
        if in_time && matches!(outcome, Outcome::Accepted | Outcome::Refused(_)) {
            let second = now.saturating_sub(self.load.warm_up).as_secs();
            tally.decided_at(usize::try_from(second).unwrap_or_default());
        }
        match outcome {
            Outcome::Accepted if in_time => tally.accepted += 1,
            Outcome::Refused(code) if in_time => count(&mut tally.refused, &code),
            Outcome::Accepted | Outcome::Refused(_) => {}
            Outcome::Pending => tally.pending += 1,
            Outcome::Error(what) => count(&mut tally.errors, &what),
        }
    }

    async fn send(&self, connection: &mut Option<SendRequest<Full<Bytes>>>, bidder: usize) -> Outcome {
        // The platform closes what is idle for long; then there is nothing to complain about.
        if let Some(open) = connection
            && open.ready().await.is_err()
        {
            *connection = None;
        }
        let sender = match connection {
            Some(open) => open,
            None => match self.connect().await {
                Ok(open) => connection.insert(open),
                Err(_) => return Outcome::Error("no connection".into()),
            },
        };
        let offer = self.load.market.offer(bidder);
        let request = self.request(&offer);
        let exchange = async {
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok((head, body))) => {
                let location = head.headers.get(header::LOCATION).and_then(|place| place.to_str().ok());
                self.answered(offer, head.status, location, &body)
            }
            Ok(Err(_)) => {
                *connection = None;
                self.undecided(offer, None);
                Outcome::Error("connection broke".into())
            }
            Err(_) => {
                *connection = None;
                self.undecided(offer, None);
                Outcome::Error("no answer".into())
            }
        }
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.load.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        self.open.set(self.open.get() + 1);
        Ok(sender)
    }

    fn request(&self, offer: &Offer) -> Request<Full<Bytes>> {
        let body = format!("{{\"amount\":\"{}\"}}", Money::new(offer.minor, Currency::USD));
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.paths[offer.item].clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::AUTHORIZATION, self.load.market.bidders[offer.bidder].authorization());
        if let Ok(key) = HeaderValue::from_str(&offer.key) {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        request
    }

    fn answered(&self, offer: Offer, status: StatusCode, location: Option<&str>, body: &[u8]) -> Outcome {
        match status {
            StatusCode::CREATED => {
                if self.load.offers_bids() {
                    self.load.market.accepted(&offer, body);
                }
                Outcome::Accepted
            }
            StatusCode::ACCEPTED => {
                self.undecided(offer, location.map(str::to_owned));
                Outcome::Pending
            }
            status if is_refusal(status.as_u16()) => Outcome::Refused(code(status, body)),
            status => {
                self.undecided(offer, None);
                Outcome::Error(code(status, body))
            }
        }
    }

    fn undecided(&self, offer: Offer, command: Option<String>) {
        if self.load.offers_bids() {
            self.load.market.undecided(offer, command);
        }
    }

    /// Tells once a second how it goes.
    async fn beat(self: Rc<Self>) {
        let (mut last, whole) = (0, self.load.warm_up + self.load.time);
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let beat = {
                let passed = self.started.elapsed().min(whole);
                let decided = self.decided.get();
                let beat = Beat {
                    scenario: self.load.name.clone(),
                    passed,
                    whole,
                    decided: decided - last,
                    p99_ms: (passed > self.load.warm_up).then(|| self.tally.borrow().percentile(99.0)),
                };
                last = decided;
                beat
            };
            (self.load.show)(&beat);
        }
    }
}

/// The code of an error; its status when it has none.
fn code(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        error: Code<'a>,
    }
    #[derive(Deserialize)]
    struct Code<'a> {
        code: &'a str,
    }
    match serde_json::from_slice::<Body<'_>>(body) {
        Ok(body) => body.error.code.to_owned(),
        Err(_) => status.as_u16().to_string(),
    }
}
