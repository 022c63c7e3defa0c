//! A small auction over HTTP that prints what happens as it happens, and ends by checking that the
//! platform kept its promises. It sees nothing but the public API.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use contracts::{
    Amount, Timestamp, UserId,
    auctions::{Bid, Item, ItemStatus},
    identity::Session,
};
use futures_util::future::try_join_all;
use rand::RngExt;
use reqwest::StatusCode;
use serde_json::json;

use crate::{
    audit::{self, Figures, Kept, Shown},
    visitor::Api,
};

/// The latest that an item may close after its end.
const LATEST_CLOSE: Duration = Duration::from_secs(1);
/// How long the figures may lag behind.
const FIGURES_WITHIN: Duration = Duration::from_secs(10);

/// How big the auction is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// How many people bid.
    pub bidders: usize,
    /// How many items are offered.
    pub items: usize,
    /// The ends of the items are spread over this many seconds.
    pub seconds: u64,
}

/// What happened, when every check has passed.
#[derive(Debug)]
pub struct Report {
    /// Bids that were accepted.
    pub accepted: usize,
    /// Bids that were refused.
    pub refused: usize,
    /// Items that found a buyer.
    pub sold: usize,
    /// The latest close after an item's end.
    pub latest_close: Duration,
}

/// What was seen of one bid.
struct Seen {
    item: usize,
    bid: Bid,
}

/// Holds an auction at the platform and checks the result.
pub async fn run(url: &str, size: Size, say: &(dyn Fn(&str) + Sync)) -> anyhow::Result<Report> {
    let api = Api::at(url)?;
    let suffix = rand::rng().random_range(0..0x100_0000);
    let seller = register(&api, &format!("seller-{suffix:06x}")).await?;
    let names: Vec<String> = (0..size.bidders).map(|n| format!("{}-{suffix:06x}", first_name(n))).collect();
    let bidders = try_join_all(names.iter().map(|name| register(&api, name))).await?;
    say(&format!("{} registered, with {} bidders", seller.user.username, bidders.len()));

    let mut items = Vec::with_capacity(size.items);
    let first_end = Timestamp::now() + Duration::from_secs(2);
    for number in 0..size.items {
        let spread = Duration::from_secs(size.seconds).mul_f64((number + 1) as f64 / size.items as f64);
        let item = offer(&api, &seller, number, first_end + spread).await?;
        if number < 5 {
            say(&format!(
                "{} offers {} from {}, until {}",
                seller.user.username, item.name, item.start_price, item.ends_at
            ));
        }
        items.push(item);
    }

    let bidding =
        bidders.iter().enumerate().map(|(n, bidder)| bid_until_the_end(&api, n, bidder, &items, say));
    let bids: Vec<(Vec<Seen>, usize)> = try_join_all(bidding).await?;
    let refused = bids.iter().map(|(_, refused)| refused).sum();
    let seen: Vec<Seen> = bids.into_iter().flat_map(|(seen, _)| seen).collect();

    let mut report = Report { accepted: seen.len(), refused, sold: 0, latest_close: Duration::ZERO };
    for (number, item) in items.iter().enumerate() {
        let closed = closed(&api, item).await?;
        check_item(&api, &closed, seen.iter().filter(|seen| seen.item == number), &mut report).await?;
        if let (Some(winner), Some(price)) = (closed.winner_id, closed.final_price) {
            let name =
                bidders.iter().find(|bidder| bidder.user.id == winner).map(|b| b.user.username.clone());
            say(&format!("sold: {} to {} for {price}", closed.name, name.unwrap_or_default()));
        } else {
            say(&format!("not sold: {}", closed.name));
        }
    }
    check_figures(&api, &seller, &bidders, &items, &seen).await?;
    Ok(report)
}

/// One person: now and then offers a little more on something that is still open.
async fn bid_until_the_end(
    api: &Api,
    number: usize,
    bidder: &Session,
    items: &[Item],
    say: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<(Vec<Seen>, usize)> {
    let quiet = items.len() > 5;
    let (mut seen, mut refused) = (Vec::new(), 0);
    let mut known: HashMap<usize, Amount> = HashMap::new();
    loop {
        let now = Timestamp::now();
        // A little past the end, so that bids which come too late are part of the show.
        let open: Vec<usize> =
            (0..items.len()).filter(|n| items[*n].ends_at + Duration::from_millis(300) > now).collect();
        if open.is_empty() {
            return Ok((seen, refused));
        }
        let (item, raise, pause) = {
            let mut random = rand::rng();
            (
                open[random.random_range(0..open.len())],
                random.random_range(0..500),
                random.random_range(50..600),
            )
        };
        let offer = &items[item];
        let least = known.get(&item).copied().unwrap_or(offer.min_next_bid).in_currency(offer.currency)?;
        let amount = contracts::Money::new(least.minor + raise, offer.currency);
        let key = format!("{number}-{}", uuid::Uuid::now_v7());
        let (status, body) = api.bid(bidder, offer.id, &amount.to_string(), &key).await?;
        match status {
            StatusCode::CREATED => {
                let bid: Bid = serde_json::from_value(body)?;
                if let Some(after) = &bid.item {
                    known.insert(item, after.min_next_bid);
                }
                if !quiet {
                    say(&format!("{} bids {} on {}", bidder.user.username, bid.amount, offer.name));
                }
                seen.push(Seen { item, bid });
            }
            StatusCode::CONFLICT => {
                refused += 1;
                let code = body["error"]["code"].as_str().unwrap_or_default().to_owned();
                if let Some(least) = body["error"]["min_next_bid"].as_str() {
                    known.insert(item, least.parse()?);
                }
                if !quiet {
                    say(&format!("{} offered {amount} on {}: {code}", bidder.user.username, offer.name));
                }
            }
            status => bail!("a bid was answered with {status}: {body}"),
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// Every accepted bid is listed as it was answered, and in time; the winner is the last of them.
async fn check_item(
    api: &Api,
    item: &Item,
    seen: impl Iterator<Item = &Seen>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let listed = api.bids(item.id).await?;
    let start = item.start_price.in_currency(item.currency)?.minor;
    let (kept, answered) =
        (Kept::all(&listed, item.currency)?, Kept::all(seen.map(|seen| &seen.bid), item.currency)?);
    if let Some(fault) = audit::item(start, Shown::of(item)?, &kept, &answered).first() {
        bail!("{}: {fault}", item.name);
    }
    for bid in &listed {
        ensure!(bid.placed_at < item.ends_at, "{}: bid {} came too late", item.name, bid.seq);
        ensure!(bid.bidder_id != item.seller_id, "{}: the seller bid", item.name);
    }

    let last = listed.last();
    ensure!(
        item.winner_id == last.map(|bid| bid.bidder_id),
        "{}: the winner is not the last bidder",
        item.name
    );
    let expected = if last.is_some() { ItemStatus::Sold } else { ItemStatus::Unsold };
    ensure!(item.status == expected, "{}: is {:?}", item.name, item.status);
    let closed_at = item.closed_at.context("a closed item has a time")?;
    ensure!(closed_at >= item.ends_at, "{}: closed early", item.name);
    let late = closed_at.since(item.ends_at);
    ensure!(late <= LATEST_CLOSE, "{}: closed {late:?} after its end", item.name);
    report.latest_close = report.latest_close.max(late);
    report.sold += usize::from(last.is_some());
    Ok(())
}

/// The figures of everybody equal a recount; they may lag a little.
async fn check_figures(
    api: &Api,
    seller: &Session,
    bidders: &[Session],
    items: &[Item],
    seen: &[Seen],
) -> anyhow::Result<()> {
    let kept = seen.iter().map(|seen| Kept::of(&seen.bid, items[seen.item].currency));
    let recounted = audit::recount(kept.collect::<anyhow::Result<Vec<_>>>()?.iter());
    let mut wins: BTreeMap<UserId, i64> = BTreeMap::new();
    for item in items {
        if let Some(winner) = api.item(item.id).await?.winner_id {
            *wins.entry(winner).or_default() += 1;
        }
    }
    let deadline = Instant::now() + FIGURES_WITHIN;
    loop {
        let (mut said, mut won) = (Figures::new(), BTreeMap::new());
        for bidder in bidders {
            let stats = api.stats(bidder.user.id).await?;
            let total = stats.total_amount.in_currency(contracts::Currency::USD)?.minor;
            said.insert(bidder.user.id, (stats.total_bids, total));
            if stats.items_won > 0 {
                won.insert(bidder.user.id, stats.items_won);
            }
        }
        let (sold, wanted) = (api.stats(seller.user.id).await?.items_sold, wins.values().sum::<i64>());
        let mut wrong: Vec<String> =
            audit::figures(&said, &recounted).iter().map(ToString::to_string).collect();
        if won != wins {
            wrong.push(format!("won {won:?} instead of {wins:?}"));
        }
        if sold != wanted {
            wrong.push(format!("sold {sold} instead of {wanted}"));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "figures differ from the recount: {}", wrong.join("; "));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn first_name(number: usize) -> String {
    let names = ["ann", "bob", "cid", "dee", "eve", "finn", "gus", "hal"];
    match number / names.len() {
        0 => names[number].to_owned(),
        round => format!("{}{round}", names[number % names.len()]),
    }
}

async fn register(api: &Api, username: &str) -> anyhow::Result<Session> {
    let email = format!("{username}@example.com");
    api.register(json!({ "username": username, "email": email, "password": "correct horse" })).await
}

async fn offer(api: &Api, seller: &Session, number: usize, ends_at: Timestamp) -> anyhow::Result<Item> {
    let names = ["a brass lamp", "an oak chair", "a first edition", "a bicycle", "a sea chart"];
    let name = format!("{} (lot {})", names[number % names.len()], number + 1);
    // The demonstration ends when it says, wherever it is held.
    let terms = json!({
        "name": name, "start_price": "10.00", "ends_at": ends_at, "extension_window_seconds": 0,
    });
    api.offer(seller, terms).await
}

/// Waits until the hammer has fallen.
async fn closed(api: &Api, item: &Item) -> anyhow::Result<Item> {
    let deadline = Instant::now() + item.ends_at.since(Timestamp::now()) + Duration::from_secs(10);
    loop {
        let item = api.item(item.id).await?;
        if item.closed_at.is_some() {
            return Ok(item);
        }
        ensure!(Instant::now() < deadline, "{} did not close", item.name);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
