//! What is bid on in one scenario, by whom, and what came of it.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use contracts::{Currency, ItemId, Money, Timestamp, UserId, identity::Session};
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::header::HeaderValue;
use rand::RngExt;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::offers::{FIRST, Offers};
use crate::{
    audit::{self, Fault, Figures, Kept, Shown},
    visitor::Api,
};

/// How much is asked at once apart from the load.
const AT_ONCE: usize = 16;
/// Items end long after the bench.
const LONG: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long bids may stay undecided once the load is over.
const DECIDED_WITHIN: Duration = Duration::from_secs(60);
/// How long everybody's figures may lag behind once the load is over.
const FIGURES_WITHIN: Duration = Duration::from_secs(60);
const PASSWORD: &str = "correct horse";
const USD: Currency = Currency::USD;

/// What is bid on, and by whom.
pub(super) struct Market {
    pub(super) api: Api,
    pub(super) bidders: Vec<Bidder>,
    pub(super) items: Vec<ItemId>,
    offers: Mutex<Offers>,
    /// Names this market in names and keys.
    name: String,
    keys: AtomicU64,
    book: Mutex<Book>,
}

/// Somebody who bids.
pub(super) struct Bidder {
    pub(super) id: UserId,
    email: String,
    pass: Mutex<Pass>,
}

/// A session, ready to be sent.
struct Pass {
    session: Session,
    authorization: HeaderValue,
    taken: Instant,
}

/// A bid as it is sent: places of item and bidder, cents, and its key.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) item: usize,
    pub(super) bidder: usize,
    pub(super) minor: i64,
    pub(super) key: String,
}

/// What came of all bids.
#[derive(Default)]
struct Book {
    accepted: Vec<(usize, Kept)>,
    /// With the path of the command, when the answer named one.
    undecided: Vec<(Offer, Option<String>)>,
    faults: Vec<Fault>,
}

/// What came of the bids that were undecided when the load was over.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) accepted: u64,
    pub(super) refused: u64,
}

/// The part of a bid that is remembered.
#[derive(Deserialize)]
struct Answered {
    id: contracts::BidId,
    item_id: ItemId,
    bidder_id: UserId,
    amount: contracts::Amount,
    seq: i64,
}

impl Market {
    /// Registers people. With `offered` somebody sells the items; otherwise they are names only.
    pub(super) async fn open(url: &str, bidders: usize, items: usize, offered: bool) -> anyhow::Result<Self> {
        let api = Api::at(url)?;
        let name = format!("{:08x}", rand::rng().random::<u32>());
        let bidders: Vec<Bidder> = stream::iter(0..bidders)
            .map(|number| Bidder::register(&api, format!("bench-{name}-{number}")))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let items = if offered {
            let seller = register(&api, &format!("bench-{name}-seller")).await?;
            let ends_at = Timestamp::now() + LONG;
            stream::iter(0..items)
                .map(|number| {
                    let lot = json!({
                        "name": format!("bench {name}, lot {}", number + 1), "start_price": Money::new(FIRST, USD).to_string(),
                        "ends_at": ends_at,
                    });
                    let (api, seller) = (&api, &seller);
                    async move { Ok::<_, anyhow::Error>(api.offer(seller, lot).await?.id) }
                })
                .buffered(AT_ONCE)
                .try_collect()
                .await?
        } else {
            (0..items).map(|_| ItemId::new()).collect::<Vec<_>>()
        };
        let offers = Mutex::new(Offers::on(items.len()));
        Ok(Self { api, bidders, items, offers, name, keys: AtomicU64::default(), book: Mutex::default() })
    }

    /// Names it among other markets.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The next bid of somebody.
    pub(super) fn offer(&self, bidder: usize) -> Offer {
        let (item, minor) = lock(&self.offers).next();
        let key = format!("{}-{}", self.name, self.keys.fetch_add(1, Ordering::Relaxed));
        Offer { item, bidder, minor, key }
    }

    /// Logs in again who will be logged out soon. Returns after how long this is to be done again.
    pub(super) async fn renew(&self) -> anyhow::Result<Duration> {
        let mut again = Duration::MAX;
        for bidder in &self.bidders {
            let (taken, life) = {
                let pass = lock(&bidder.pass);
                (pass.taken, Duration::from_secs(pass.session.expires_in))
            };
            if taken.elapsed() > life / 2 {
                let pass = Pass::of(self.api.login(&bidder.email, PASSWORD).await?)?;
                *lock(&bidder.pass) = pass;
            }
            again = again.min(life / 4);
        }
        Ok(again)
    }

    /// The bid was accepted, says this answer. An answer that fits to no bid is a fault.
    pub(super) fn accepted(&self, offer: &Offer, body: &[u8]) {
        let kept = self.read(offer, body);
        let mut book = lock(&self.book);
        match kept {
            Ok(kept) => book.accepted.push((offer.item, kept)),
            Err(error) => book.faults.push(Fault::Misanswered(format!("{error:#}"))),
        }
    }

    fn read(&self, offer: &Offer, body: &[u8]) -> anyhow::Result<Kept> {
        let Answered { id, item_id, bidder_id, amount, seq } =
            serde_json::from_slice(body).with_context(|| String::from_utf8_lossy(body).into_owned())?;
        let minor = amount.in_currency(USD)?.minor;
        let asked = (self.items[offer.item], self.bidders[offer.bidder].id, offer.minor);
        ensure!((item_id, bidder_id, minor) == asked, "{asked:?} was answered with bid {id}");
        Ok(Kept { id, bidder: bidder_id, minor, seq, automatic: false })
    }

    /// Nothing definite is known of the bid; maybe the answer named its command.
    pub(super) fn undecided(&self, offer: Offer, command: Option<String>) {
        lock(&self.book).undecided.push((offer, command));
    }

    /// Finds out what came of the bids that are undecided, by their commands or by sending them again with their
    /// keys: a key is one bid however often it comes.
    pub(super) async fn resolve(&self) -> Resolved {
        let deadline = Instant::now() + DECIDED_WITHIN;
        let undecided = std::mem::take(&mut lock(&self.book).undecided);
        let found: Vec<Option<bool>> = stream::iter(undecided)
            .map(|(offer, command)| async move { self.find(&offer, command.as_deref(), deadline).await })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let count = |wanted| found.iter().filter(|found| **found == Some(wanted)).count() as u64;
        Resolved { accepted: count(true), refused: count(false) }
    }

    /// Whether the bid was accepted; none, and a fault, when that cannot be found out.
    async fn find(&self, offer: &Offer, command: Option<&str>, deadline: Instant) -> Option<bool> {
        loop {
            let told = match command {
                Some(command) => self.ask(offer, command).await,
                None => self.repeat(offer).await,
            };
            let last = match told {
                Ok((StatusCode::CREATED, body)) => {
                    self.accepted(offer, body.to_string().as_bytes());
                    return Some(true);
                }
                Ok((status, _)) if is_refusal(status.as_u16()) => return Some(false),
                Ok((status, body)) => format!("{status} {body}"),
                // A platform that was killed is on its way back.
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                lock(&self.book).faults.push(Fault::Undecided(format!("{offer:?}: {last}")));
                return None;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn repeat(&self, offer: &Offer) -> anyhow::Result<(StatusCode, Value)> {
        let amount = Money::new(offer.minor, USD).to_string();
        let session = self.session(offer.bidder);
        self.api.bid(&session, self.items[offer.item], &amount, &offer.key).await
    }

    /// The same words as a bid would be answered with.
    async fn ask(&self, offer: &Offer, command: &str) -> anyhow::Result<(StatusCode, Value)> {
        let session = self.session(offer.bidder);
        let (status, mut body) = self.api.call(Method::GET, command, Some(&session), None, None).await?;
        if status != StatusCode::OK {
            // Not even the command is known: nothing definite.
            return Ok((StatusCode::ACCEPTED, body));
        }
        Ok(match body["status"].as_str() {
            Some("succeeded") => (StatusCode::CREATED, body["result"].take()),
            Some("refused") => (StatusCode::CONFLICT, body),
            _ => (StatusCode::ACCEPTED, body),
        })
    }

    /// Of somebody who bids.
    pub(super) fn session(&self, bidder: usize) -> Session {
        lock(&self.bidders[bidder].pass).session.clone()
    }

    /// Waits until everybody's figures equal the recount. Returns how long that took, or what is still wrong.
    pub(super) async fn settle(&self) -> anyhow::Result<Result<Duration, Vec<Fault>>> {
        let started = Instant::now();
        let recounted = audit::recount(lock(&self.book).accepted.iter().map(|(_, kept)| kept));
        loop {
            let late = started.elapsed() > FIGURES_WITHIN;
            match self.figures().await {
                Ok(said) => {
                    let faults = audit::figures(&said, &recounted);
                    if faults.is_empty() {
                        return Ok(Ok(started.elapsed()));
                    }
                    if late {
                        return Ok(Err(faults));
                    }
                }
                // A platform that was killed is on its way back.
                Err(error) if late => return Err(error),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn figures(&self) -> anyhow::Result<Figures> {
        stream::iter(&self.bidders)
            .map(async |bidder| {
                let stats = self.api.stats(bidder.id).await?;
                let sum = stats.total_amount.in_currency(USD)?.minor;
                Ok::<_, anyhow::Error>((bidder.id, (stats.total_bids, sum)))
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Compares every item and its list with what was answered. Returns how many accepted bids there are, and
    /// what is wrong.
    pub(super) async fn audit(&self) -> anyhow::Result<(usize, Vec<Fault>)> {
        let (mut answered, mut faults) = (HashMap::<usize, Vec<Kept>>::new(), Vec::new());
        {
            let mut book = lock(&self.book);
            faults.append(&mut book.faults);
            for (item, kept) in &book.accepted {
                answered.entry(*item).or_default().push(*kept);
            }
        }
        let accepted = answered.values().map(Vec::len).sum();
        let found: Vec<Vec<Fault>> = stream::iter(self.items.iter().enumerate())
            .map(|(place, id)| {
                let answered = answered.remove(&place).unwrap_or_default();
                async move {
                    let (shown, listed) = (self.api.item(*id).await?, self.api.bids(*id).await?);
                    let listed = Kept::all(&listed, USD)?;
                    Ok::<_, anyhow::Error>(audit::item(FIRST, Shown::of(&shown)?, &listed, &answered))
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        faults.extend(found.into_iter().flatten());
        Ok((accepted, faults))
    }
}

/// A rule said no: the bid will never be.
pub(super) fn is_refusal(status: u16) -> bool {
    matches!(status, 400 | 403 | 404 | 409 | 422)
}

impl Bidder {
    async fn register(api: &Api, name: String) -> anyhow::Result<Self> {
        let session = register(api, &name).await?;
        let (id, email) = (session.user.id, session.user.email.clone());
        Ok(Self { id, email, pass: Mutex::new(Pass::of(session)?) })
    }

    /// The header that says who it is.
    pub(super) fn authorization(&self) -> HeaderValue {
        lock(&self.pass).authorization.clone()
    }
}

impl Pass {
    fn of(session: Session) -> anyhow::Result<Self> {
        let authorization = HeaderValue::try_from(format!("Bearer {}", session.token.0))?;
        Ok(Self { session, authorization, taken: Instant::now() })
    }
}

/// A new account with a session.
pub(super) async fn register(api: &Api, name: &str) -> anyhow::Result<Session> {
    let email = format!("{name}@example.com");
    api.register(json!({ "username": name, "email": email, "password": PASSWORD })).await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
