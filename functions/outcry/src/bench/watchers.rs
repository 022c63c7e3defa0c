//! Many open live views: how long a bid takes to reach all who watch its item.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use contracts::{Currency, ItemId, Money};
use hdrhistogram::Histogram;
use platform::Env;
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};

use super::{Place, Plan, Show, market::Market, offers::FIRST, one_place, report::Machine, stop};

/// How many items are watched where it is not one.
const ITEMS: usize = 100;
/// How many bids are made in each scenario, one after the other.
const BIDS: usize = 50;
/// So far apart.
const APART: Duration = Duration::from_millis(100);
/// Somebody who has not heard of a bid after so long never will.
const HEARD_WITHIN: Duration = Duration::from_secs(10);
/// How many streams are opened at once.
const AT_ONCE: usize = 64;

/// What watchers saw, of a bid on each way of watching.
#[derive(Debug, Clone, Serialize)]
pub struct Watched {
    /// Where it ran.
    pub machine: Machine,
    /// One for each way of watching.
    pub ways: Vec<Reach>,
}

/// How bids reached those who watched. Times in milliseconds, from sending a bid.
#[derive(Debug, Clone, Serialize)]
pub struct Reach {
    /// What they watched.
    pub way: String,
    /// How many streams were open.
    pub streams: usize,
    /// How long it took to open them, until each had the items as they were.
    pub opened_ms: f64,
    /// Until somebody heard.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// Until the last one heard of the slowest bid.
    pub max_ms: f64,
    /// In kilobytes: resident memory of this process before and with the streams, both of their ends.
    pub resident: Option<(u64, u64)>,
    /// Somebody who should have heard did not.
    pub missed: usize,
}

impl Watched {
    /// Whether everybody heard everything.
    pub fn passed(&self) -> bool {
        self.ways.iter().all(|way| way.missed == 0)
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; {BIDS} bids, from sending one to hearing it\n", self.machine)?;
        for way in &self.ways {
            let memory = way.resident.map(|(before, with)| {
                format!("; resident, with the watchers' ends: {} to {} MB", before / 1024, with / 1024)
            });
            writeln!(
                f,
                "{} streams, {}: p50 {:.1} ms, p99 {:.1} ms, last {:.1} ms, missed {}; opened in {:.0} ms{}",
                way.streams,
                way.way,
                way.p50_ms,
                way.p99_ms,
                way.max_ms,
                way.missed,
                way.opened_ms,
                memory.unwrap_or_default()
            )?;
        }
        Ok(())
    }
}

/// Opens `count` live views on one item, spread over a hundred, and each on a list of a hundred.
pub async fn run(env: &Env, plan: &Plan, count: usize, show: Show) -> anyhow::Result<Watched> {
    plan.check()?;
    ensure!((1..=9_000).contains(&count), "--watchers: expected 1 to 9000, for example --watchers 1000");
    let machine = Machine::here();
    let mut places = Vec::new();
    let ways = watch(env, plan, count, show, &mut places).await;
    stop(places).await;
    Ok(Watched { machine, ways: ways? })
}

async fn watch(
    env: &Env,
    plan: &Plan,
    count: usize,
    show: Show,
    places: &mut Vec<Place>,
) -> anyhow::Result<Vec<Reach>> {
    let url = one_place(env, plan, show, places).await?;
    let market = Market::open(&url, plan.bidders.max(2), ITEMS, true).await?;
    let list: Vec<String> = market.items.iter().map(ToString::to_string).collect();
    let list = format!("/api/v1/items/events?ids={}", list.join(","));
    let one = |item: &ItemId| format!("/api/v1/items/{item}/events");
    let ways: [(&str, Vec<String>, usize, usize); 3] = [
        ("all on one item", vec![one(&market.items[0])], 1, 1),
        ("spread over 100 items", market.items.iter().map(one).collect(), ITEMS, 1),
        ("each on a list of 100 items", vec![list], ITEMS, ITEMS),
    ];
    let (mut reached, mut price) = (Vec::new(), FIRST);
    for (way, paths, items, each) in ways {
        (show.step)(&format!("{count} streams, {way}"));
        reached.push(reach(&market, way, &paths, count, (items, each), &mut price).await?);
    }
    Ok(reached)
}

async fn reach(
    market: &Market,
    way: &str,
    paths: &[String],
    count: usize,
    (items, each): (usize, usize),
    price: &mut i64,
) -> anyhow::Result<Reach> {
    let before = resident();
    let began = Instant::now();
    let (heard, mut hearing) = mpsc::unbounded_channel();
    let mut streams = JoinSet::new();
    for number in 0..count {
        let stream = market.api.open(&paths[number % paths.len()]).await?;
        streams.spawn(listen(stream, heard.clone()));
        if number % AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut snapshots = 0;
    while snapshots < count * each {
        let told = tokio::time::timeout(HEARD_WITHIN, hearing.recv()).await;
        snapshots +=
            usize::from(told.context("a stream did not begin")?.context("nobody listens")?.is_none());
    }
    let opened = began.elapsed();
    let resident = before.zip(resident());
    let mut waits = Histogram::<u32>::new_with_max(120_000_000, 3)?;
    let mut missed = 0;
    for bid in 0..BIDS {
        let (item, bidder) = (market.items[bid % items], bid % market.bidders.len());
        // Who watches one of the items, or all of them.
        let audience = if each > 1 { count } else { (count + items - 1 - bid % items) / items };
        *price += 1;
        let (path, amount) = (format!("/api/v1/items/{item}/bids"), Money::new(*price, Currency::USD));
        let (session, sent) = (market.session(bidder), Instant::now());
        let body = json!({ "amount": amount.to_string() });
        let (status, answer) = market.api.call(Method::POST, &path, Some(&session), None, Some(body)).await?;
        ensure!(status == StatusCode::CREATED, "a bid was answered with {status}: {answer}");
        let mut told = 0;
        while told < audience {
            match tokio::time::timeout(HEARD_WITHIN, hearing.recv()).await {
                Ok(Some(Some(at))) => {
                    told += 1;
                    waits.saturating_record(u64::try_from((at - sent).as_micros())?);
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        missed += audience - told;
        tokio::time::sleep(APART).await;
    }
    streams.shutdown().await;
    let ms = |micros: u64| micros as f64 / 1e3;
    Ok(Reach {
        way: way.to_owned(),
        streams: count,
        opened_ms: opened.as_secs_f64() * 1e3,
        p50_ms: ms(waits.value_at_percentile(50.0)),
        p99_ms: ms(waits.value_at_percentile(99.0)),
        max_ms: ms(waits.max()),
        resident,
        missed,
    })
}

/// Tells when a bid is heard, and of each item that comes whole: nothing.
async fn listen(mut stream: Response, heard: mpsc::UnboundedSender<Option<Instant>>) {
    let mut text = String::new();
    while let Ok(Some(more)) = stream.chunk().await {
        let now = Instant::now();
        text.push_str(&String::from_utf8_lossy(&more));
        while let Some((frame, rest)) = text.split_once("\n\n") {
            let event = frame.lines().find_map(|line| line.strip_prefix("event: "));
            let told = match event {
                Some("bid") => heard.send(Some(now)),
                Some("snapshot") => heard.send(None),
                _ => Ok(()),
            };
            if told.is_err() {
                return;
            }
            text = rest.to_owned();
        }
    }
}

/// Resident memory of this process in kilobytes, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().split(' ').next()?.parse().ok()
}
