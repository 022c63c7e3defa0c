//! Checks a running platform from outside: a walk through the public API, one check after the other.
//!
//! What stays behind: two users, and an item with one bid that closes by itself after a minute.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use contracts::{
    Timestamp,
    auctions::{Bid, Item},
    identity::Session,
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::visitor::{Api, expect};

/// How long one check may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the listing and the figures may lag behind. Below the above, so that the check itself says what it saw.
const EVENTUALLY: Duration = Duration::from_secs(10);
/// How often is asked what is there eventually.
const AGAIN: Duration = Duration::from_millis(100);
const PASSWORD: &str = "correct horse";

/// What one check saw.
#[derive(Debug)]
pub struct Check {
    /// What should hold, as a sentence.
    pub name: &'static str,
    /// Whether it does: what was seen, or what was wrong.
    pub outcome: Result<String, String>,
    /// How long it took.
    pub took: Duration,
}

/// Checks the platform at this address and tells each check to `say` as soon as it is done. Returns how many have failed.
/// A check without what an earlier one should have made fails as well.
pub async fn run(url: &str, say: &(dyn Fn(&Check) + Sync)) -> anyhow::Result<usize> {
    let api = Api::at(url)?;
    let mut walk = Walk { say, failed: 0 };
    let suffix = format!("{:06x}", rand::random::<u32>() & 0xff_ffff);

    walk.check("the edge lives", healthy(&api, "/livez")).await;
    walk.check("everything the routes need is there", healthy(&api, "/readyz")).await;
    walk.check("the keys that tokens verify with are public", keys(&api)).await;
    let seller = walk.check("a seller registers", register(&api, "seller", &suffix)).await;
    let bidder = walk.check("a bidder registers", register(&api, "bidder", &suffix)).await;
    let bidder = walk.check("the bidder logs in", login(&api, bidder.as_ref())).await;
    walk.check("without a token nothing is changed", stranger(&api)).await;
    let item = walk.check("an item is offered", offer(&api, seller.as_ref(), &suffix)).await;
    let watched = walk.check("the live view begins with a snapshot", watch(&api, item.as_ref())).await;
    let bid = walk.check("a bid is accepted", bid(&api, bidder.as_ref(), item.as_ref())).await;
    walk.check("the live view tells of the bid", told(watched, bid.as_ref())).await;
    walk.check("a repeated key has one effect", repeat(&api, bidder.as_ref(), bid.as_ref())).await;
    walk.check("a refusal says why", refused(&api, seller.as_ref(), item.as_ref())).await;
    walk.check("the listing has the item and its price", listed(&api, bid.as_ref())).await;
    walk.check("the figures count the bid", counted(&api, bid.as_ref())).await;
    Ok(walk.failed)
}

/// The checks on their way.
struct Walk<'a> {
    say: &'a (dyn Fn(&Check) + Sync),
    failed: usize,
}

impl Walk<'_> {
    /// Does one check. What it found is there for the next ones, if it passed.
    async fn check<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = anyhow::Result<(String, T)>>,
    ) -> Option<T> {
        let started = Instant::now();
        let outcome = match tokio::time::timeout(PATIENCE, work).await {
            Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        };
        let (outcome, found) = match outcome {
            Ok((seen, found)) => (Ok(seen), Some(found)),
            Err(wrong) => (Err(wrong), None),
        };
        self.failed += usize::from(outcome.is_err());
        (self.say)(&Check { name, outcome, took: started.elapsed() });
        found
    }
}

/// What an earlier check should have found.
fn needed<'a, T>(found: Option<&'a T>, what: &str) -> anyhow::Result<&'a T> {
    found.with_context(|| format!("not tried: {what}"))
}

async fn healthy(api: &Api, path: &str) -> anyhow::Result<(String, ())> {
    let (status, body) = api.call(Method::GET, path, None, None, None).await?;
    ensure!(status == StatusCode::OK && body["status"] == "ok", "{path} was answered with {status}: {body}");
    Ok((format!("{path} says ok"), ()))
}

async fn keys(api: &Api) -> anyhow::Result<(String, ())> {
    let set: Value = api.get("/.well-known/jwks.json").await?;
    let key = &set["keys"][0];
    ensure!(key["alg"] == "EdDSA" && key["x"].is_string() && key["d"].is_null(), "no public key: {set}");
    Ok((format!("key {}", key["kid"].as_str().unwrap_or_default()), ()))
}

fn email(username: &str) -> String {
    format!("{username}@example.com")
}

async fn register(api: &Api, who: &str, suffix: &str) -> anyhow::Result<(String, Session)> {
    let username = format!("verify-{who}-{suffix}");
    let person = json!({ "username": username, "email": email(&username), "password": PASSWORD });
    let session = api.register(person).await?;
    Ok((username, session))
}

async fn login(api: &Api, registered: Option<&Session>) -> anyhow::Result<(String, Session)> {
    let user = &needed(registered, "nobody is registered")?.user;
    let path = "/identity/login";
    let with = |password: &str| Some(json!({ "email": email(&user.username), "password": password }));
    let (status, _) = api.call(Method::POST, path, None, None, with("wrong horse")).await?;
    ensure!(status == StatusCode::UNAUTHORIZED, "a wrong password was answered with {status}");
    let session: Session =
        expect(StatusCode::OK, path, api.call(Method::POST, path, None, None, with(PASSWORD)).await?)?;
    ensure!(session.user.id == user.id, "somebody else was logged in: {}", session.user.id);
    Ok(("and not with another password".into(), session))
}

async fn stranger(api: &Api) -> anyhow::Result<(String, ())> {
    let answer = api.call(Method::POST, "/api/v1/items", None, None, Some(json!({ "name": "Lamp" }))).await?;
    Ok((refusal(StatusCode::UNAUTHORIZED, answer)?, ()))
}

async fn offer(api: &Api, seller: Option<&Session>, suffix: &str) -> anyhow::Result<(String, Item)> {
    let seller = needed(seller, "nobody is registered")?;
    let ends_at = Timestamp::now() + Duration::from_secs(60);
    let item = json!({ "name": format!("verify {suffix}"), "start_price": "10.00", "ends_at": ends_at });
    let item = api.offer(seller, item).await?;
    let read = api.item(item.id).await?;
    ensure!(read.seller_id == seller.user.id, "the item is read with the seller {}", read.seller_id);
    Ok((format!("item {}", item.id), item))
}

/// A live view, with what was read and not yet looked at.
struct Watched {
    response: Response,
    unread: String,
}

impl Watched {
    /// The data of the next message of this name; others are passed over.
    async fn next(&mut self, name: &str) -> anyhow::Result<Value> {
        loop {
            while let Some((frame, rest)) = self.unread.split_once("\n\n") {
                let field = |field: &str| frame.lines().find_map(|line| line.strip_prefix(field));
                let data = (field("event: ") == Some(name)).then(|| field("data: ").map(str::to_owned));
                self.unread = rest.to_owned();
                if let Some(data) = data {
                    return Ok(serde_json::from_str(&data.with_context(|| format!("{name} has no data"))?)?);
                }
            }
            match self.response.chunk().await? {
                Some(chunk) => self.unread += std::str::from_utf8(&chunk)?,
                None => bail!("the live view ended before a {name}"),
            }
        }
    }
}

async fn watch(api: &Api, item: Option<&Item>) -> anyhow::Result<(String, Watched)> {
    let item = needed(item, "nothing is offered")?;
    let response = api.live(item.id).await?;
    ensure!(response.status() == StatusCode::OK, "the live view was answered with {}", response.status());
    let mut watched = Watched { response, unread: String::new() };
    let snapshot = watched.next("snapshot").await?;
    ensure!(snapshot["id"] == json!(item.id), "the snapshot is of another item: {snapshot}");
    Ok((format!("of version {}", snapshot["version"]), watched))
}

const AMOUNT: &str = "12.50";
const KEY: &str = "verify-1";

async fn bid(api: &Api, bidder: Option<&Session>, item: Option<&Item>) -> anyhow::Result<(String, Bid)> {
    let (bidder, item) = (needed(bidder, "nobody is logged in")?, needed(item, "nothing is offered")?);
    let bid: Bid = expect(StatusCode::CREATED, "the bid", api.bid(bidder, item.id, AMOUNT, KEY).await?)?;
    Ok((format!("bid {} of {}", bid.id, bid.amount), bid))
}

async fn told(watched: Option<Watched>, bid: Option<&Bid>) -> anyhow::Result<(String, ())> {
    let (mut watched, bid) = (watched.context("not tried: nobody watches")?, needed(bid, "nobody has bid")?);
    let told = watched.next("bid").await?;
    ensure!(told["id"] == json!(bid.id), "it tells of another bid: {told}");
    Ok(("as it happens".into(), ()))
}

async fn repeat(api: &Api, bidder: Option<&Session>, bid: Option<&Bid>) -> anyhow::Result<(String, ())> {
    let (bidder, bid) = (needed(bidder, "nobody is logged in")?, needed(bid, "nobody has bid")?);
    let answer = api.bid(bidder, bid.item_id, AMOUNT, KEY).await?;
    let again: Bid = expect(StatusCode::CREATED, "the same bid again", answer)?;
    ensure!(again.id == bid.id, "the same key made another bid: {}", again.id);
    let bids = api.bids(bid.item_id).await?.len();
    ensure!(bids == 1, "{bids} bids are listed");
    Ok(("the same answer again, and one bid in the list".into(), ()))
}

async fn refused(api: &Api, seller: Option<&Session>, item: Option<&Item>) -> anyhow::Result<(String, ())> {
    let (seller, item) = (needed(seller, "nobody is registered")?, needed(item, "nothing is offered")?);
    let answer = api.bid(seller, item.id, "20.00", "verify-2").await?;
    let seen = refusal(StatusCode::FORBIDDEN, answer)?;
    ensure!(seen.ends_with("SELF_BID"), "the seller's own bid was refused for another reason: {seen}");
    Ok((seen, ()))
}

/// The envelope of an error: code, message and the id of the request.
fn refusal(wanted: StatusCode, (status, body): (StatusCode, Value)) -> anyhow::Result<String> {
    let error = &body["error"];
    let has = |member: &str| error[member].as_str().is_some_and(|text| !text.is_empty());
    ensure!(
        status == wanted && has("code") && has("message") && has("request_id"),
        "expected {wanted} with code, message and request_id, got {status}: {body}"
    );
    Ok(format!("{} {}", status.as_u16(), error["code"].as_str().unwrap_or_default()))
}

async fn listed(api: &Api, bid: Option<&Bid>) -> anyhow::Result<(String, ())> {
    let bid = needed(bid, "nobody has bid")?;
    let seller = api.item(bid.item_id).await?.seller_id;
    eventually(async || {
        let listing: Value = api.get(&format!("/api/v1/items?seller_id={seller}")).await?;
        let item = &listing["data"][0];
        ensure!(
            item["id"] == json!(bid.item_id) && item["current_price"] == json!(bid.amount),
            "the listing says {listing}"
        );
        Ok(())
    })
    .await
}

async fn counted(api: &Api, bid: Option<&Bid>) -> anyhow::Result<(String, ())> {
    let bid = needed(bid, "nobody has bid")?;
    eventually(async || {
        let stats = api.stats(bid.bidder_id).await?;
        let (bids, total) = (stats.total_bids, stats.total_amount.to_string());
        ensure!((bids, total.as_str()) == (1, AMOUNT), "{bids} bids of {total} in all are counted");
        Ok(())
    })
    .await
}

/// Asks until it is so.
async fn eventually(ask: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<(String, ())> {
    let started = Instant::now();
    loop {
        match ask().await {
            Ok(()) => return Ok(("eventually".into(), ())),
            Err(error) if started.elapsed() > EVENTUALLY => {
                return Err(error.context(format!("not so after {EVENTUALLY:?}")));
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}
