//! Looks at hot items and at the leaderboard while bids arrive: what it saves to keep them in memory.
//!
//! Two platforms take turns in one run, one as it is and one that keeps nothing. Every look at an item is compared with the
//! bids that were answered before it was sent: it must show them.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use contracts::{Currency, Money};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use platform::Env;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{net::TcpStream, sync::oneshot, task::LocalSet};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Cpu, Place, Plan, Show, address,
    cpu::{self, Used},
    market::Market,
    report::Machine,
    stop,
};
use crate::launch::{Menu, Platform};

/// How many bids arrive each second unless the plan says.
const BIDS: f64 = 100.0;
/// An answer that takes longer counts as none.
const PATIENCE: Duration = Duration::from_secs(10);
const LEADERBOARD: &str = "/api/v1/leaderboard";

/// What looking costs, with memory and without.
#[derive(Debug, Clone, Serialize)]
pub struct Looked {
    /// Where it ran.
    pub machine: Machine,
    /// How many connections looked, one look after the other on each.
    pub connections: usize,
    /// How many bids were sent each second meanwhile.
    pub bids_per_second: f64,
    /// One for each thing that was looked at.
    pub things: Vec<Thing>,
}

/// Looks at one thing.
#[derive(Debug, Clone, Serialize)]
pub struct Thing {
    /// What was looked at.
    pub what: String,
    /// By a platform as it is.
    pub kept: Looks,
    /// By one that keeps nothing.
    pub asked: Looks,
}

/// What came of looks. Times in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Looks {
    /// Answered in the time that was counted.
    pub per_second: f64,
    /// From sending a look to its answer.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// For each look, with the part of the bids that arrived meanwhile.
    pub cpu: Option<Cpu>,
    /// Bids that were accepted meanwhile, in all turns.
    pub bids: u64,
    /// The share of the looks that were answered from memory.
    pub from_memory: f64,
    /// Looks that did not show a bid that had been answered before.
    pub older: u64,
    /// Looks that failed.
    pub failed: u64,
}

impl Looked {
    /// Whether every look was answered with nothing older than what had been answered before.
    pub fn passed(&self) -> bool {
        self.things
            .iter()
            .flat_map(|thing| [&thing.kept, &thing.asked])
            .all(|looks| looks.older == 0 && looks.failed == 0 && looks.per_second > 0.0)
    }
}

impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, connections, bids_per_second, .. } = self;
        writeln!(f, "{machine}; {connections} connections look, {bids_per_second} bids/s meanwhile\n")?;
        for thing in &self.things {
            for (how, looks) in [("kept in memory", &thing.kept), ("asked each time", &thing.asked)] {
                write!(
                    f,
                    "{}, {how}: {:.0} looks/s, p50 {:.1} ms, p99 {:.1} ms, {:.1} % from memory, {} bids accepted",
                    thing.what,
                    looks.per_second,
                    looks.p50_ms,
                    looks.p99_ms,
                    looks.from_memory * 100.0,
                    looks.bids
                )?;
                if let Some(cpu) = looks.cpu {
                    write!(
                        f,
                        "; us per look: platform {:.0}, nats {:.0}, postgres {:.0}, load {:.0}",
                        cpu.platform_us, cpu.nats_us, cpu.postgres_us, cpu.load_us
                    )?;
                }
                writeln!(f)?;
                if looks.older + looks.failed > 0 {
                    writeln!(f, "  WRONG: {} older than an answer, {} failed", looks.older, looks.failed)?;
                }
            }
            let cost = |looks: &Looks| looks.cpu.map(|cpu| cpu.platform_us + cpu.nats_us + cpu.postgres_us);
            let cost = cost(&thing.asked).zip(cost(&thing.kept)).map(|(asked, kept)| asked / kept);
            let cost = cost.map(|times| format!(", each for 1/{times:.1} of the processor time"));
            let times = thing.kept.per_second / thing.asked.per_second;
            writeln!(f, "  memory: {times:.1} times the looks{}\n", cost.unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Looks at the items of the plan, by turns on both platforms, while its rate of bids arrives.
pub async fn run(env: &Env, plan: &Plan, show: Show) -> anyhow::Result<Looked> {
    plan.check()?;
    ensure!(plan.url.is_none(), "--looks compares two platforms that are started for it: leave --url away");
    let machine = Machine::here();
    let mut places = Vec::new();
    let things = measure(env, plan, show, &mut places).await;
    stop(places).await;
    let bids_per_second = plan.rate.unwrap_or(BIDS);
    Ok(Looked { machine, connections: plan.connections, bids_per_second, things: things? })
}

async fn measure(env: &Env, plan: &Plan, show: Show, places: &mut Vec<Place>) -> anyhow::Result<Vec<Thing>> {
    for entries in [None, Some("0")] {
        let mut env = env.clone();
        if let Some(entries) = entries {
            env.set("CACHE_ENTRIES", entries);
        }
        places.push(Place::start(env, &[], Menu::default(), None, show).await?);
    }
    let [kept, asked] = &places[..] else { bail!("two platforms were to be started") };
    let mut things = Vec::new();
    for items in &plan.items {
        let what = if *items == 1 { "one hot item".to_owned() } else { format!("{items} items") };
        things.push((what, *items, false));
    }
    things.push(("the leaderboard".to_owned(), plan.items[0], true));
    let mut told = Vec::new();
    for (what, items, board) in things {
        let mut sides =
            [Side::open(kept, plan, items, board).await?, Side::open(asked, plan, items, board).await?];
        for _ in 0..plan.rounds {
            for (side, how) in sides.iter_mut().zip(["kept in memory", "asked each time"]) {
                (show.step)(&format!("{what}, {how}"));
                side.turn(plan).await?;
            }
        }
        let [kept, asked] = sides;
        told.push(Thing { what, kept: kept.told(), asked: asked.told() });
    }
    Ok(told)
}

/// One platform, looked at in turns.
struct Side {
    market: Arc<Market>,
    watch: Watch,
    services: (Option<u32>, Option<u32>),
    waits: Histogram<u32>,
    counted: Counted,
    time: Duration,
    used: Used,
    /// From memory, and in all.
    lookups: (f64, f64),
    bids: u64,
}

/// What is looked at, and what must be seen.
#[derive(Clone)]
struct Watch {
    address: String,
    paths: Arc<Vec<String>>,
    /// How many bids each item had when the newest was answered.
    answered: Arc<Vec<AtomicI64>>,
    /// Whose memory answers.
    function: &'static str,
}

/// What one turn counted.
#[derive(Default)]
struct Counted {
    looks: u64,
    older: u64,
    failed: u64,
    /// Those of the warm-up too.
    all: u64,
}

impl Side {
    async fn open(place: &Place, plan: &Plan, items: usize, board: bool) -> anyhow::Result<Self> {
        let market = Market::open(&place.url, plan.bidders, items, true).await?;
        let of_item = |item: &contracts::ItemId| format!("/api/v1/items/{item}");
        let paths =
            if board { vec![LEADERBOARD.to_owned()] } else { market.items.iter().map(of_item).collect() };
        let watch = Watch {
            address: address(&place.url)?,
            paths: Arc::new(paths),
            answered: Arc::new(market.items.iter().map(|_| AtomicI64::new(0)).collect()),
            function: if board { "get-leaderboard" } else { "get-item" },
        };
        Ok(Self {
            market: Arc::new(market),
            watch,
            services: place.platform.as_ref().map(Platform::service_pids).unwrap_or_default(),
            waits: Histogram::new_with_max(PATIENCE.as_micros() as u64 * 2, 3)?,
            counted: Counted::default(),
            time: Duration::ZERO,
            used: Used::default(),
            lookups: (0.0, 0.0),
            bids: 0,
        })
    }

    async fn turn(&mut self, plan: &Plan) -> anyhow::Result<()> {
        self.market.renew().await?;
        let bids = self.bid(plan.rate.unwrap_or(BIDS));
        let before = (Used::until_now(self.services, &[]), self.lookups().await?);
        let looking = Looking {
            watch: self.watch.clone(),
            connections: plan.connections,
            warm_up: Duration::from_secs(plan.warm_up),
            time: Duration::from_secs(plan.seconds),
        };
        let (done, looked) = oneshot::channel();
        // Of its own, as the load of bids is.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let looked = match runtime {
                Ok(runtime) => LocalSet::new().block_on(&runtime, look(looking)),
                Err(error) => Err(error.into()),
            };
            let _ = done.send(looked);
        });
        let (waits, counted, load) = looked.await.context("the looks broke off")??;
        let after = (Used::until_now(self.services, &[]), self.lookups().await?);
        drop(bids);
        if let (Some(before), Some(after)) = (before.0, after.0) {
            self.used.add(Used { load, ..after.since(before) });
        }
        self.lookups.0 += after.1.0 - before.1.0;
        self.lookups.1 += after.1.1 - before.1.1;
        self.waits.add(&waits)?;
        self.time += Duration::from_secs(plan.seconds);
        self.counted.looks += counted.looks;
        self.counted.older += counted.older;
        self.counted.failed += counted.failed;
        self.counted.all += counted.all;
        self.bids = self.watch.answered.iter().map(|bids| bids.load(Ordering::SeqCst)).sum::<i64>() as u64;
        Ok(())
    }

    /// Sends bids at fixed times until what is returned is dropped.
    fn bid(&self, rate: f64) -> AbortOnDropHandle<()> {
        let (market, answered) = (Arc::clone(&self.market), Arc::clone(&self.watch.answered));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
            let mut sending = tokio::task::JoinSet::new();
            for bidder in (0..market.bidders.len()).cycle() {
                ticks.tick().await;
                while sending.try_join_next().is_some() {}
                let (market, answered) = (Arc::clone(&market), Arc::clone(&answered));
                sending.spawn(async move {
                    let offer = market.offer(bidder);
                    let path = format!("/api/v1/items/{}/bids", market.items[offer.item]);
                    let amount = json!({ "amount": Money::new(offer.minor, Currency::USD).to_string() });
                    let session = market.session(bidder);
                    let sent = market.api.call(Method::POST, &path, Some(&session), None, Some(amount)).await;
                    // Who came too late with a higher offer of somebody else is refused: that is the load as well.
                    if let Ok((StatusCode::CREATED, bid)) = sent {
                        let seq = bid["seq"].as_i64().unwrap_or_default();
                        answered[offer.item].fetch_max(seq, Ordering::SeqCst);
                    }
                });
            }
        }))
    }

    /// How often the platform found what was looked for in memory, and how often it looked, as it says.
    async fn lookups(&self) -> anyhow::Result<(f64, f64)> {
        let (_, told) = self.market.api.call(Method::GET, "/metrics", None, None, None).await?;
        let of = format!("fn=\"{}\"", self.watch.function);
        let mut sums = BTreeMap::from([("cache_lookups_total", 0.0), ("fn_requests_total", 0.0)]);
        for line in told.as_str().unwrap_or_default().lines().filter(|line| line.contains(&of)) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (name, labels) = series.split_once('{').unwrap_or_default();
            if name == "cache_lookups_total" && !labels.contains("result=\"hit\"") {
                continue;
            }
            if let Some(sum) = sums.get_mut(name) {
                *sum += value.parse::<f64>().unwrap_or_default();
            }
        }
        Ok((sums["cache_lookups_total"], sums["fn_requests_total"]))
    }

    fn told(self) -> Looks {
        let ms = |percentile| self.waits.value_at_percentile(percentile) as f64 / 1e3;
        Looks {
            per_second: self.counted.looks as f64 / self.time.as_secs_f64(),
            p50_ms: ms(50.0),
            p99_ms: ms(99.0),
            cpu: if self.used == Used::default() { None } else { self.used.each(self.counted.all) },
            bids: self.bids,
            from_memory: if self.lookups.1 > 0.0 { self.lookups.0 / self.lookups.1 } else { 0.0 },
            older: self.counted.older,
            failed: self.counted.failed,
        }
    }
}

/// One turn of looks.
struct Looking {
    watch: Watch,
    connections: usize,
    warm_up: Duration,
    time: Duration,
}

/// Looks, and the processor time of this thread that it took.
async fn look(looking: Looking) -> anyhow::Result<(Histogram<u32>, Counted, Duration)> {
    let waits = Histogram::new_with_max(PATIENCE.as_micros() as u64 * 2, 3)?;
    let shared =
        Rc::new((looking, RefCell::new(waits), RefCell::new(Counted::default()), Cell::new(0_usize)));
    let began = Instant::now();
    let connections: Vec<_> = (0..shared.0.connections)
        .map(|_| {
            let shared = Rc::clone(&shared);
            tokio::task::spawn_local(async move {
                let (looking, waits, counted, next) = &*shared;
                let end = looking.warm_up + looking.time;
                let stream = TcpStream::connect(&looking.watch.address).await?;
                stream.set_nodelay(true)?;
                let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::task::spawn_local(connection);
                while began.elapsed() < end {
                    let item = next.get() % looking.watch.paths.len();
                    next.set(next.get() + 1);
                    let (told, sent) = (looking.watch.answered[item].load(Ordering::SeqCst), began.elapsed());
                    let request = Request::get(looking.watch.paths[item].as_str())
                        .header(header::HOST, looking.watch.address.as_str())
                        .body(Empty::<Bytes>::new())?;
                    sender.ready().await?;
                    let answered = async {
                        let (head, body) = sender.send_request(request).await?.into_parts();
                        Ok::<_, hyper::Error>((head.status, body.collect().await?.to_bytes()))
                    };
                    let (status, body) = tokio::time::timeout(PATIENCE, answered).await??;
                    let mut counted = counted.borrow_mut();
                    counted.all += 1;
                    counted.failed += u64::from(status != StatusCode::OK);
                    counted.older += u64::from(shown(&body).is_some_and(|shown| shown < told));
                    let now = began.elapsed();
                    if (looking.warm_up..end).contains(&sent) && now <= end {
                        counted.looks += 1;
                        let micros = u64::try_from((now - sent).as_micros())?;
                        waits.borrow_mut().saturating_record(micros);
                    }
                }
                Ok::<_, anyhow::Error>(())
            })
        })
        .collect();
    for connection in connections {
        connection.await??;
    }
    let (_, waits, counted, _) = &*shared;
    Ok((waits.borrow().clone(), counted.take(), cpu::of_this_thread()))
}

/// How many bids an item shows; none of what is no item.
fn shown(body: &[u8]) -> Option<i64> {
    #[derive(Deserialize)]
    struct Item {
        bid_count: i64,
    }
    serde_json::from_slice::<Item>(body).ok().map(|item| item.bid_count)
}
