//! `outcry bench`: what is asked for, how it goes, and what was found.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
};

use anyhow::{Context, bail};
use clap::Args;
use outcry::bench::{self, Beat, Plan, Scenario, Show};
use platform::Env;

use super::say;

/// What is asked for.
#[derive(Args)]
pub(crate) struct Bench {
    /// A running platform. Without it some are started and forgotten afterwards: one as it is, one in many processes, and
    /// one that decides each bid in a transaction of its own, to compare.
    #[arg(long)]
    url: Option<String>,
    /// How many items are bid on; several numbers are several scenarios: 1000,1.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    items: Vec<usize>,
    /// How many connections ask at once.
    #[arg(long, default_value_t = 128)]
    connections: usize,
    /// Send this many requests per second at fixed times, and count how long they wait from then on. Without it each
    /// connection asks again when it is answered.
    #[arg(long)]
    rate: Option<f64>,
    /// How many seconds of each turn are counted.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many seconds of each turn come before those.
    #[arg(long, default_value_t = 2)]
    warm_up: u64,
    /// How often the scenarios take turns.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// How many people bid.
    #[arg(long, default_value_t = 50)]
    bidders: usize,
    /// Measure bids as the platform decides them. Of this and the next three, all are measured when none is asked for.
    #[arg(long)]
    bids: bool,
    /// Measure bids on a platform whose every part is a process of its own.
    #[arg(long)]
    split: bool,
    /// Measure bids that are decided in a transaction each.
    #[arg(long)]
    one_at_a_time: bool,
    /// Measure requests that are only answered, without a database.
    #[arg(long)]
    echo: bool,
    /// Let so many items end at the same instant instead, while the others are bid on as they otherwise are.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["split", "one_at_a_time", "echo"])]
    hammer: Option<usize>,
    /// Open so many live views instead, and see how long a bid takes to reach all of them.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["hammer", "split", "one_at_a_time", "echo"])]
    watchers: Option<usize>,
    /// Look at the items and at the leaderboard instead while `--rate` bids a second arrive (100), on a platform as it is and
    /// on one that keeps nothing in memory.
    #[arg(long, conflicts_with_all = ["url", "hammer", "watchers", "split", "one_at_a_time", "echo"])]
    looks: bool,
    /// Write the report as JSON, too; `-` for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Bench {
    fn plan(&self) -> anyhow::Result<Plan> {
        let asked = [
            (self.bids || self.looks || self.hammer.is_some() || self.watchers.is_some(), Scenario::Bids),
            (self.split, Scenario::Split),
            (self.one_at_a_time, Scenario::OneAtATime),
            (self.echo, Scenario::Echo),
        ];
        // Of a platform that runs only its bids can be measured.
        let none = asked.iter().all(|(asked, _)| !asked);
        let all = |scenario| none && (self.url.is_none() || scenario == Scenario::Bids);
        let scenarios = asked.into_iter().filter(|(asked, scenario)| *asked || all(*scenario));
        Ok(Plan {
            url: self.url.clone(),
            scenarios: scenarios.map(|(_, scenario)| scenario).collect(),
            items: self.items.clone(),
            bidders: self.bidders,
            connections: self.connections,
            rate: self.rate,
            rounds: self.rounds,
            seconds: self.seconds,
            warm_up: self.warm_up,
            program: std::env::current_exe().context("find this program")?,
        })
    }
}

/// Measures; fails when an accepted bid is not as it should be.
pub(crate) async fn run(bench: Bench) -> anyhow::Result<()> {
    let env = Env::load()?;
    platform::init_telemetry(&bench::quiet(&env)?);
    let plan = bench.plan()?;
    let (signal, show) = (platform::stop_on_signal(), Show { step: tell, beat });
    let measured = async {
        Ok::<_, anyhow::Error>(match (bench.hammer, bench.watchers) {
            _ if bench.looks => {
                let looked = bench::looks(&env, &plan, show).await?;
                (looked.to_string(), serde_json::to_string_pretty(&looked)?, looked.passed())
            }
            (_, Some(count)) => {
                let watched = bench::watchers(&env, &plan, count, show).await?;
                (watched.to_string(), serde_json::to_string_pretty(&watched)?, watched.passed())
            }
            (Some(count), None) => {
                let hammered = bench::hammer(&env, &plan, count, show).await?;
                (hammered.to_string(), serde_json::to_string_pretty(&hammered)?, hammered.passed())
            }
            (None, None) => {
                let report = bench::run(&env, &plan, show).await?;
                (report.table(), serde_json::to_string_pretty(&report)?, report.passed())
            }
        })
    };
    let (table, json, passed) = tokio::select! {
        measured = measured => measured?,
        () = signal.cancelled() => bail!("interrupted: nothing was found out"),
    };
    match bench.json.as_deref() {
        Some(path) if path.as_os_str() == "-" => {
            tell(&table);
            say(&json);
        }
        Some(path) => {
            say(&table);
            std::fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
        }
        None => say(&table),
    }
    if !passed {
        bail!("the audit failed: what is wrong stands below the table");
    }
    Ok(())
}

/// For who waits, so on standard error: the report alone is the output.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "  {line}");
}

/// One line that is written again and again, or one a second where nobody looks.
fn beat(beat: &Beat) {
    const WIDTH: usize = 20;
    let (passed, whole) = (beat.passed.as_secs_f64(), beat.whole.as_secs_f64());
    let done = ((passed / whole) * WIDTH as f64) as usize;
    let bar = "#".repeat(done.min(WIDTH)) + &".".repeat(WIDTH - done.min(WIDTH));
    let p99 = beat.p99_ms.map_or("warming up".to_owned(), |p99| format!("p99 {p99:.1} ms"));
    let line = format!(
        "  {:<28} [{bar}] {passed:>3.0} of {whole:.0} s {:>8} decided/s   {p99:<16}",
        beat.scenario, beat.decided
    );
    let mut out = std::io::stderr();
    let _ = if out.is_terminal() {
        write!(out, "\r{line}{}", if passed < whole { "" } else { "\n" })
    } else {
        writeln!(out, "{line}")
    };
}
