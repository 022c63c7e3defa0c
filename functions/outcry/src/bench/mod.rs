//! A measurement: bids over HTTP from many connections, and afterwards an audit of every accepted one through
//! the public API.
//!
//! On a platform of its own it compares, in the same run and by turns, with a platform whose parts are processes, with
//! one that decides each bid in a transaction of its own, and with a function that only answers.
//!
//! | I look for | here |
//! |---|---|
//! | one scenario, from its people to its audit | `turn` |
//! | when a request is due, and how long it waited | `pace` |
//! | who offers how much | `offers` |
//! | connections, requests, answers | `load` |
//! | people, items, undecided bids | `market` |
//! | what must be true afterwards | `crate::audit` |
//! | where the time goes | `cpu` |
//! | the table and the JSON | `report` |
//! | many items that end at once | `hammer` |
//! | many who watch | `watchers` |
//! | many who look, with memory and without | `looks` |

mod cpu;
mod echo;
mod hammer;
mod load;
mod looks;
mod market;
mod offers;
mod pace;
mod report;
mod tally;
mod turn;
mod watchers;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use platform::{Config, Env, Function, Message};

pub use self::{
    cpu::Cpu,
    hammer::{Hammered, run as hammer},
    looks::{Looked, Looks, run as looks},
    report::{Audit, Machine, Report, Row, Scenario},
    watchers::{Watched, run as watchers},
};
use self::{pace::Pace, turn::Turn};
use crate::launch::{self, Menu, Options, Platform, Programs, Split};

/// How many bids the baseline decides at once, each in a transaction of its own: what a function has that is
/// not made for batches. The best for it: on a busy machine eight lanes decided 510 bids per second on 1,000 items
/// and 145 on one, a single lane 129 and 130, because each bid then waits for the disk alone.
const LANES: usize = 8;
/// The most connections: more than the edge takes requests at once would measure its refusals.
const MOST_CONNECTIONS: usize = 1_000;

/// What to measure, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// A platform that runs; without it some are started and forgotten afterwards.
    pub url: Option<String>,
    /// What is measured by turns. A platform that runs decides bids as it does: nothing else can be asked of it.
    pub scenarios: Vec<Scenario>,
    /// How many items are bid on: one scenario for each.
    pub items: Vec<usize>,
    /// How many people bid.
    pub bidders: usize,
    /// How many connections they have.
    pub connections: usize,
    /// Requests due in each second over all connections; none for one after the other on each.
    pub rate: Option<f64>,
    /// How often the scenarios take turns.
    pub rounds: u32,
    /// How many seconds of each turn are counted.
    pub seconds: u64,
    /// And how many before them are not.
    pub warm_up: u64,
    /// The program `outcry`, whose parts are started for a platform of many processes.
    pub program: PathBuf,
}

/// How it goes.
#[derive(Debug, Clone)]
pub struct Beat {
    /// What is measured.
    pub scenario: String,
    /// The time since it began.
    pub passed: Duration,
    /// The time that it takes.
    pub whole: Duration,
    /// Decisions in the last second.
    pub decided: u64,
    /// Of what is counted so far; nothing is while it warms up.
    pub p99_ms: Option<f64>,
}

/// Where to tell how it goes.
#[derive(Clone, Copy)]
pub struct Show {
    /// Each step, in a line.
    pub step: fn(&str),
    /// Once a second while the load runs.
    pub beat: fn(&Beat),
}

/// Measures, and audits what was accepted.
pub async fn run(env: &Env, plan: &Plan, show: Show) -> anyhow::Result<Report> {
    plan.check()?;
    let machine = Machine::here();
    let mut places = Vec::new();
    let measured = measure(env, plan, show, &mut places).await;
    stop(places).await;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        revision: report::revision(),
        machine,
        connections: plan.connections,
        rate: plan.rate,
        rounds: plan.rounds,
        seconds: plan.seconds,
        warm_up_seconds: plan.warm_up,
        scenarios: measured?,
    })
}

impl Plan {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.scenarios.is_empty(), "nothing is to be measured");
        ensure!(
            (1..=MOST_CONNECTIONS).contains(&self.connections),
            "--connections: expected 1 to {MOST_CONNECTIONS}, for example --connections 128"
        );
        ensure!(
            !self.items.is_empty() && self.items.iter().all(|items| (1..=100_000).contains(items)),
            "--items: expected 1 to 100000, or several such numbers, for example --items 1000,1"
        );
        ensure!(
            (1..=10_000).contains(&self.bidders),
            "--bidders: expected 1 to 10000, for example --bidders 50"
        );
        ensure!(self.seconds > 0, "--seconds: expected at least 1, for example --seconds 10");
        ensure!(self.rounds > 0, "--rounds: expected at least 1, for example --rounds 2");
        ensure!(
            self.rate.is_none_or(|rate| (1.0..=1e6).contains(&rate)),
            "--rate: expected 1 to 1000000 requests per second, for example --rate 5000"
        );
        let seconds = self.seconds.saturating_add(self.warm_up) as f64;
        ensure!(
            self.rate.is_none_or(|rate| rate * seconds < f64::from(u32::MAX)),
            "--rate and --seconds: expected fewer than {} requests in all",
            u32::MAX
        );
        if let Some(url) = &self.url {
            address(url)?;
            ensure!(
                self.scenarios == [Scenario::Bids],
                "--split, --one-at-a-time and --echo need platforms that are started for them: leave --url away"
            );
        }
        Ok(())
    }

    fn pace(&self) -> Pace {
        self.rate.map_or(Pace::Closed, Pace::Open)
    }
}

/// A platform that is measured.
struct Place {
    url: String,
    /// What it is measured for.
    scenarios: &'static [Scenario],
    /// When it was started here.
    platform: Option<Platform>,
    data: Option<tempfile::TempDir>,
}

impl Place {
    /// Starts a platform with services and data of its own.
    async fn start(
        env: Env,
        scenarios: &'static [Scenario],
        menu: Menu,
        split: Option<Split>,
        show: Show,
    ) -> anyhow::Result<Self> {
        for name in ["NATS_URL", "DATABASE_URL"] {
            ensure!(
                env.get(name).is_none(),
                "{name} is set, and a bench starts services of its own: unset it, or measure a platform that runs with --url"
            );
        }
        let data = local::temp_dir()?;
        let options = Options {
            data: data.path().to_owned(),
            listen: Some("127.0.0.1:0".into()),
            fresh: false,
            // Bids that are measured are on disk when they are answered.
            throwaway: false,
            without: Vec::new(),
            split,
            menu,
        };
        let platform = launch::start(env, options, show.step).await?;
        Ok(Self { url: platform.url.clone(), scenarios, platform: Some(platform), data: Some(data) })
    }
}

/// Where the plan's platform is, or one that is started for it.
async fn one_place(env: &Env, plan: &Plan, show: Show, places: &mut Vec<Place>) -> anyhow::Result<String> {
    match &plan.url {
        Some(url) => Ok(url.trim_end_matches('/').to_owned()),
        None => {
            start(env, plan, show, places).await?;
            Ok(places.first().context("no platform was started")?.url.clone())
        }
    }
}

/// Stops what was started here, and forgets its data.
async fn stop(places: Vec<Place>) {
    for Place { platform, data, .. } in places {
        if let Some(platform) = platform {
            platform.stop().await;
        }
        drop(data);
    }
}

async fn measure(env: &Env, plan: &Plan, show: Show, places: &mut Vec<Place>) -> anyhow::Result<Vec<Row>> {
    match &plan.url {
        Some(url) => {
            let url = url.trim_end_matches('/').to_owned();
            places.push(Place { url, scenarios: &[Scenario::Bids], platform: None, data: None });
        }
        None => start(env, plan, show, places).await?,
    }
    let mut turns = Vec::new();
    for scenario in [Scenario::Bids, Scenario::Split, Scenario::OneAtATime, Scenario::Echo] {
        if !plan.scenarios.contains(&scenario) {
            continue;
        }
        // Echoes say nothing of an item.
        let items = if scenario == Scenario::Echo { &plan.items[..1] } else { &plan.items[..] };
        for items in items {
            let place = places.iter().find(|place| place.scenarios.contains(&scenario));
            let place = place.context("no platform was started for this")?;
            turns.push(Turn::prepare(plan, show, place, scenario, *items).await?);
        }
    }
    // What is compared stands side by side, the echo at the end.
    turns.sort_by_key(|turn| {
        let place = plan.items.iter().position(|items| *items == turn.items);
        (turn.scenario == Scenario::Echo, place)
    });
    for _ in 0..plan.rounds {
        for turn in &mut turns {
            turn.take().await?;
        }
    }
    (show.step)("auditing every accepted bid");
    let mut rows = Vec::new();
    for turn in turns {
        rows.push(turn.finish().await?);
    }
    // What is sent at fixed times is decided as fast as it comes, whoever decides it.
    if plan.rate.is_none() {
        report::compare(&mut rows);
    }
    Ok(rows)
}

/// Starts the platforms that are needed: one as it is, with the echo, one in many processes, and one that decides bids
/// one at a time.
async fn start(env: &Env, plan: &Plan, show: Show, places: &mut Vec<Place>) -> anyhow::Result<()> {
    let split = Split { programs: Programs::One(plan.program.clone()), replicas: BTreeMap::new() };
    let wanted: [(&[Scenario], Menu, Option<Split>); 3] = [
        (&[Scenario::Bids, Scenario::Echo], echo::menu(), None),
        (&[Scenario::Split], Menu::default(), Some(split)),
        (&[Scenario::OneAtATime], Menu { functions: one_at_a_time, ..Menu::default() }, None),
    ];
    for (scenarios, menu, split) in wanted {
        if !scenarios.iter().any(|scenario| plan.scenarios.contains(scenario)) {
            continue;
        }
        places.push(Place::start(env.clone(), scenarios, menu, split, show).await?);
    }
    Ok(())
}

/// Everything that there is; a bid is a transaction.
fn one_at_a_time() -> Vec<Function> {
    let place_bid = contracts::auctions::PlaceBid::FUNCTION;
    let tuned = |function: Function| {
        if function.spec().name == place_bid { function.lanes(LANES, 1) } else { function }
    };
    crate::functions().into_iter().map(tuned).collect()
}

/// What people call it.
fn name(scenario: Scenario, items: usize) -> String {
    let on = if items == 1 { "one hot item".to_owned() } else { format!("{items} items") };
    match scenario {
        Scenario::Bids => on,
        Scenario::Split => format!("{on}, split"),
        Scenario::OneAtATime => format!("{on}, one at a time"),
        Scenario::Echo => "echo, no database".to_owned(),
    }
}

/// Host and port of a platform's address.
fn address(url: &str) -> anyhow::Result<String> {
    let parsed = reqwest::Url::parse(url).ok();
    let address = parsed
        .filter(|url| url.scheme() == "http" && url.path() == "/")
        .and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
    match address {
        Some(address) => Ok(address),
        None => bail!(
            "--url: expected the address of an edge, for example --url http://localhost:8080 (not `{url}`)"
        ),
    }
}

/// Log lines of a platform that is measured: what is wrong, and nothing else unless it is asked for. One line
/// for each transaction would cost the baseline more than the batches.
pub fn quiet(env: &Env) -> anyhow::Result<Config> {
    let mut config: Config = env.read()?;
    config.rust_log.get_or_insert_with(|| "warn".into());
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            url: Some("http://localhost:8080".into()),
            scenarios: vec![Scenario::Bids],
            items: vec![1],
            bidders: 1,
            connections: 1,
            rate: None,
            rounds: 1,
            seconds: 1,
            warm_up: 0,
            program: PathBuf::new(),
        }
    }

    #[test]
    fn what_cannot_be_measured_is_said_with_what_can() {
        assert!(plan().check().is_ok());
        let wrong = |change: fn(&mut Plan)| {
            let mut plan = plan();
            change(&mut plan);
            plan.check().unwrap_err().to_string()
        };

        assert!(wrong(|plan| plan.connections = 0).starts_with("--connections: expected 1 to "));
        assert!(wrong(|plan| plan.items = vec![5, 0]).contains("--items 1000,1"));
        assert!(wrong(|plan| plan.rate = Some(0.0)).starts_with("--rate: expected "));
        assert!(wrong(|plan| plan.rate = Some(f64::NAN)).starts_with("--rate: expected "));
        assert!(wrong(|plan| plan.url = Some("https://localhost".into())).contains("--url http://"));
        assert!(wrong(|plan| plan.scenarios.push(Scenario::Echo)).contains("leave --url away"));
    }

    #[test]
    fn the_baseline_differs_in_one_function_alone() {
        for (usual, baseline) in crate::functions().iter().zip(one_at_a_time()) {
            let (usual, baseline) = (usual.spec(), baseline.spec().clone());
            let expected = if usual.name == "place-bid" { (LANES, 1) } else { (usual.lanes, usual.batch) };
            assert_eq!((baseline.lanes, baseline.batch), expected, "{}", usual.name);
        }
    }
}
