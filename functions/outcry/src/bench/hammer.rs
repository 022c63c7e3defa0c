//! The hammer at scale: many items that end at the same instant, while other items are bid on.
//!
//! Bids on the others are measured twice, for as long each: while nothing ends, and from the end on. Afterwards every item that
//! ended is looked at through the public API: closed once, not early, and won by whoever bid on it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use contracts::{
    Currency, ItemId, Money, Timestamp, UserId,
    auctions::{Item, ItemStatus},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use platform::Env;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::{
    Place, Plan, Scenario, Show, address,
    load::Load,
    market::{self, Market},
    offers::FIRST,
    one_place,
    report::{Audit, Machine, Row},
    stop,
};

/// How much is asked at once to prepare and to audit.
const AT_ONCE: usize = 64;
/// Everything must have been offered, bid on and measured before the end; at least so many a second are.
const PREPARED_PER_SECOND: u64 = 350;
/// And for what does not depend on how many there are.
const LEAD: Duration = Duration::from_secs(6);
/// How long the last one may take to close.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);
/// What the hammer promises.
const PROMISED: &str = "2";
const USD: Currency = Currency::USD;

/// What the hammer did. Times in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Hammered {
    /// Where it ran.
    pub machine: Machine,
    /// How many items ended at the same instant; a bid had been made on every second one.
    pub items: usize,
    /// From the end to the transaction that closed an item, as the items say.
    pub late_p50_ms: f64,
    /// The same.
    pub late_p99_ms: f64,
    /// The same.
    pub late_max_ms: f64,
    /// How many were committed within two seconds of their end, as the platform counts.
    pub within_two_seconds: u64,
    /// How long after the end everybody's figures knew who had won.
    pub known_after_ms: f64,
    /// Bids on other items while nothing ended.
    pub before: Row,
    /// And from the end on, for as long.
    pub meanwhile: Row,
    /// Decisions in each second before.
    pub decided_before: Vec<u64>,
    /// And from the end on.
    pub decided_meanwhile: Vec<u64>,
    /// What is wrong: the first twenty.
    pub faults: Vec<String>,
    /// How much is wrong.
    pub fault_count: usize,
}

impl Hammered {
    /// Whether every item closed once, in time and as it should, and every accepted bid is listed.
    pub fn passed(&self) -> bool {
        let rows = [&self.before, &self.meanwhile];
        self.fault_count == 0 && rows.iter().all(|row| row.audit.as_ref().is_none_or(|audit| audit.passed))
    }
}

impl fmt::Display for Hammered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; {} items that end at the same instant\n", self.machine, self.items)?;
        writeln!(
            f,
            "closed after their end: p50 {:.0} ms, p99 {:.0} ms, latest {:.0} ms; committed within 2 s: {}",
            self.late_p50_ms, self.late_p99_ms, self.late_max_ms, self.within_two_seconds
        )?;
        writeln!(f, "everybody's wins known after {:.0} ms", self.known_after_ms)?;
        for (name, row, seconds) in [
            ("while nothing ends", &self.before, &self.decided_before),
            ("from the end on", &self.meanwhile, &self.decided_meanwhile),
        ] {
            writeln!(
                f,
                "bids on {} others {name}: {:.0} decided/s, p50 {:.1} ms, p99 {:.1} ms, longest {:.0} ms; each second {seconds:?}",
                row.items, row.decided_per_second, row.p50_ms, row.p99_ms, row.max_ms
            )?;
            if row.pending > 0 || row.unsent > 0 || !row.errors.is_empty() {
                writeln!(
                    f,
                    "  not in time: {} answered 202, {} not sent, {:?}",
                    row.pending, row.unsent, row.errors
                )?;
            }
        }
        if let Some(audit) = &self.meanwhile.audit {
            writeln!(f, "bids on the others: {} right, {} wrong", audit.bids, audit.fault_count)?;
            audit.faults.iter().try_for_each(|fault| writeln!(f, "  WRONG: {fault}"))?;
        }
        writeln!(f, "items that ended: {} wrong", self.fault_count)?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "  WRONG: {fault}"))
    }
}

/// Lets `count` items end at once. Of the plan it takes where, how many others are bid on, by whom and how fast, and for how
/// long.
pub async fn run(env: &Env, plan: &Plan, count: usize, show: Show) -> anyhow::Result<Hammered> {
    plan.check()?;
    ensure!(
        (1..=100_000).contains(&count),
        "--hammer: expected 1 to 100000 items, for example --hammer 20000"
    );
    let machine = Machine::here();
    let mut places = Vec::new();
    let hammered = measure(env, plan, count, show, &mut places, machine).await;
    stop(places).await;
    hammered
}

async fn measure(
    env: &Env,
    plan: &Plan,
    count: usize,
    show: Show,
    places: &mut Vec<Place>,
    machine: Machine,
) -> anyhow::Result<Hammered> {
    let url = one_place(env, plan, show, places).await?;
    let others = plan.items[0];
    let market = Arc::new(Market::open(&url, plan.bidders, others, true).await?);
    let (warm_up, time) = (Duration::from_secs(plan.warm_up), Duration::from_secs(plan.seconds));
    let ends_at = Timestamp::now()
        + LEAD
        + Duration::from_secs(count as u64 / PREPARED_PER_SECOND)
        + (warm_up + time) * 2;
    let lots = offer(&market, count, ends_at).await?;
    (show.step)(&format!("{count} items offered, every second one bid on: they end at {ends_at}"));
    let committed = committed(&market).await?;
    let load = Load {
        name: "while nothing ends".to_owned(),
        address: address(&url)?,
        market: Arc::clone(&market),
        verb: "bids",
        connections: plan.connections,
        pace: plan.pace(),
        warm_up,
        time,
        show: show.beat,
    };
    let before = load.clone().run().await?;
    market.resolve().await;
    let ahead = ends_at.since(Timestamp::now());
    ensure!(
        ahead > warm_up,
        "preparing took too long: measure on a machine that is less busy, or with fewer items"
    );
    tokio::time::sleep(ahead - warm_up).await;
    // Counted from the end on.
    let warm_up = ends_at.since(Timestamp::now());
    let (meanwhile, known_after) = tokio::join!(
        Load { name: "from the end on".to_owned(), warm_up, ..load }.run(),
        known(&market, &lots, ends_at)
    );
    let (meanwhile, known_after) = (meanwhile?, known_after?);
    (show.step)("looking at every item and every bid");
    let resolved = market.resolve().await;
    let closed = look(&market, &lots, ends_at).await?;
    let (bids, faults) = market.audit().await?;
    let audit = Audit::new(bids, resolved, 0.0, &faults);
    let ms = |micros: u64| micros as f64 / 1e3;
    Ok(Hammered {
        machine,
        items: count,
        late_p50_ms: ms(closed.late.value_at_percentile(50.0)),
        late_p99_ms: ms(closed.late.value_at_percentile(99.0)),
        late_max_ms: ms(closed.late.max()),
        within_two_seconds: self::committed(&market).await?.saturating_sub(committed),
        known_after_ms: known_after.as_secs_f64() * 1e3,
        decided_before: before.each_second.clone(),
        decided_meanwhile: meanwhile.each_second.clone(),
        before: Row::of(Scenario::Bids, others, &before, None),
        meanwhile: Row::of(Scenario::Bids, others, &meanwhile, Some(audit)),
        fault_count: closed.faults.len(),
        faults: closed.faults.into_iter().take(20).collect(),
    })
}

/// An item that will end, and who bid on it.
struct Lot {
    id: ItemId,
    bidder: Option<usize>,
}

/// Has somebody offer the items, and others bid on every second one.
async fn offer(market: &Market, count: usize, ends_at: Timestamp) -> anyhow::Result<Vec<Lot>> {
    let seller = market::register(&market.api, &format!("{}-hammer", market.name())).await?;
    let price = Money::new(FIRST, USD).to_string();
    stream::iter(0..count)
        .map(|number| {
            let (seller, price) = (&seller, price.as_str());
            async move {
                let lot = json!({
                    "name": format!("lot {}", number + 1), "start_price": price, "ends_at": ends_at,
                    "extension_window_seconds": 0,
                });
                let id = market.api.offer(seller, lot).await?.id;
                let bidder = (number % 2 == 0).then_some(number / 2 % market.bidders.len());
                if let Some(bidder) = bidder {
                    let path = format!("/api/v1/items/{id}/bids");
                    let (session, amount) = (market.session(bidder), json!({ "amount": price }));
                    let answer =
                        market.api.call(Method::POST, &path, Some(&session), None, Some(amount)).await?;
                    ensure!(answer.0 == StatusCode::CREATED, "a bid was answered {answer:?}");
                }
                Ok(Lot { id, bidder })
            }
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

/// How many items the platform says that it closed within two seconds of their end.
async fn committed(market: &Market) -> anyhow::Result<u64> {
    let (_, told) = market.api.call(Method::GET, "/metrics", None, None, None).await?;
    let text = told.as_str().unwrap_or_default();
    let line = |line: &&str| {
        line.starts_with("auction_close_lateness_seconds_bucket")
            && line.contains(&format!("le=\"{PROMISED}\""))
    };
    Ok(text.lines().filter(line).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
        as u64)
}

/// Waits until everybody's figures know what they won; returns how long after the end that was.
async fn known(market: &Market, lots: &[Lot], ends_at: Timestamp) -> anyhow::Result<Duration> {
    let mut wins: BTreeMap<UserId, i64> = BTreeMap::new();
    for bidder in lots.iter().filter_map(|lot| lot.bidder) {
        *wins.entry(market.bidders[bidder].id).or_default() += 1;
    }
    tokio::time::sleep(ends_at.since(Timestamp::now())).await;
    let began = Instant::now();
    for (user, won) in wins {
        while market.api.stats(user).await?.items_won < won {
            ensure!(
                began.elapsed() < CLOSED_WITHIN,
                "{user} should have won {won}, and the figures do not know"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(began.elapsed())
}

/// What the items say of themselves.
struct Closed {
    /// Microseconds.
    late: Histogram<u32>,
    faults: Vec<String>,
}

async fn look(market: &Market, lots: &[Lot], ends_at: Timestamp) -> anyhow::Result<Closed> {
    let mut closed = Closed {
        late: Histogram::new_with_max(CLOSED_WITHIN.as_micros() as u64 * 2, 3)?,
        faults: Vec::new(),
    };
    let mut shown = stream::iter(lots)
        .map(|lot| async move { Ok::<_, anyhow::Error>((lot, market.api.item(lot.id).await?)) })
        .buffer_unordered(AT_ONCE);
    while let Some((lot, item)) = shown.try_next().await? {
        let bidder = lot.bidder.map(|bidder| market.bidders[bidder].id);
        closed.faults.extend(wrong(&item, bidder, ends_at).map(|what| format!("item {}: {what}", lot.id)));
        if let Some(closed_at) = item.closed_at {
            let late = closed_at.since(ends_at).as_micros();
            closed.late.saturating_record(u64::try_from(late).unwrap_or(u64::MAX));
        }
    }
    Ok(closed)
}

/// What is wrong with an item that has ended, on which nobody or one bid.
fn wrong(item: &Item, bidder: Option<UserId>, ends_at: Timestamp) -> Option<String> {
    let status = if bidder.is_some() { ItemStatus::Sold } else { ItemStatus::Unsold };
    // The item as it was offered, a bid, the hammer: each is one version.
    let version = if bidder.is_some() { 3 } else { 2 };
    if item.status != status {
        return Some(format!("{:?} instead of {status:?}", item.status));
    }
    if item.winner_id != bidder {
        return Some(format!("won by {:?} instead of {bidder:?}", item.winner_id));
    }
    if item.version != version {
        return Some(format!("version {} instead of {version}: it did not close once", item.version));
    }
    match item.closed_at {
        Some(closed_at) if closed_at >= ends_at => None,
        closed_at => Some(format!("closed at {closed_at:?}, and its end is {ends_at}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_that_did_not_close_as_it_should_is_said_to_be_wrong() {
        let ends_at = Timestamp::now();
        let user = UserId(uuid::Uuid::from_u128(1));
        let item = |status: &str, winner: Option<UserId>, version: i64, closed_at: Option<Timestamp>| {
            let item = json!({
                "id": ItemId::new(), "seller_id": user, "name": "Lamp", "description": "", "category_id": null,
                "image_urls": [], "currency": "USD", "start_price": "1.00", "bid_increment": "0.01",
                "reserve_met": true, "buy_now_price": null, "current_price": "1.00", "min_next_bid": "1.00",
                "bid_count": 0, "leader_id": null, "status": status, "starts_at": ends_at, "ends_at": ends_at,
                "extension_window_seconds": 0, "extension_seconds": 0, "winner_id": winner, "final_price": null,
                "closed_at": closed_at, "created_at": ends_at, "updated_at": ends_at, "version": version,
            });
            serde_json::from_value::<Item>(item).unwrap()
        };
        let late = Some(ends_at + Duration::from_millis(5));
        let sold = |item: &Item| wrong(item, Some(user), ends_at);

        assert_eq!(sold(&item("sold", Some(user), 3, late)), None);
        assert_eq!(wrong(&item("unsold", None, 2, late), None, ends_at), None);
        assert!(sold(&item("open", None, 2, None)).is_some());
        assert!(sold(&item("unsold", None, 3, late)).is_some());
        assert!(sold(&item("sold", Some(UserId(uuid::Uuid::from_u128(2))), 3, late)).is_some());
        assert!(sold(&item("sold", Some(user), 4, late)).is_some(), "closed twice");
        assert!(sold(&item("sold", Some(user), 3, Some(ends_at - Duration::from_millis(5)))).is_some());
        assert!(wrong(&item("sold", Some(user), 2, late), None, ends_at).is_some());
    }
}
