//! What a bench found, for people and for programs.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use serde::Serialize;

use super::{cpu::Cpu, market::Resolved, tally::Tally};
use crate::audit::Fault;

/// How many faults are told; all are counted.
const TOLD: usize = 20;

/// What a bench found. Rates are in each second, times in milliseconds unless their names say otherwise.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Of this program.
    pub version: &'static str,
    /// Of the sources in the current folder, when git knows them.
    pub revision: Option<String>,
    /// Where it ran.
    pub machine: Machine,
    /// How many connections asked.
    pub connections: usize,
    /// Requests due in each second over all connections; none when each connection asked again as soon as it was answered.
    pub rate: Option<f64>,
    /// How often the scenarios took turns.
    pub rounds: u32,
    /// How long each was counted in each round.
    pub seconds: u64,
    /// How long each ran before that.
    pub warm_up_seconds: u64,
    /// One for each scenario, in the order of their turns.
    pub scenarios: Vec<Row>,
}

/// Where a bench ran.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// How many threads run at once. Load, platform, nats-server and Postgres share them.
    pub cores: usize,
    /// How many processes wanted to run in the minute before, where the system tells.
    pub load_before: Option<f64>,
    /// Operating system and architecture.
    pub system: String,
}

impl Machine {
    /// This one.
    pub(super) fn here() -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            load_before: load.and_then(|load| load.split(' ').next()?.parse().ok()),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cores, {}", self.cores, self.system)?;
        self.load_before.map_or(Ok(()), |load| write!(f, ", load average {load:.1} before"))
    }
}

/// Of the sources in the current folder.
pub(super) fn revision() -> Option<String> {
    let told = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    let revision = String::from_utf8(told.stdout).ok()?.trim().to_owned();
    (told.status.success() && !revision.is_empty()).then_some(revision)
}

/// What was counted in one scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was asked for.
    pub scenario: Scenario,
    /// How many items were bid on.
    pub items: usize,
    /// Decisions: accepted, or refused by a rule.
    pub decided_per_second: f64,
    /// Bids that were accepted.
    pub accepted_per_second: f64,
    /// From when a request was due to its answer.
    pub p50_ms: f64,
    /// The same.
    pub p95_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// The same.
    pub max_ms: f64,
    /// In the time that was counted.
    pub accepted: u64,
    /// By code.
    pub refused: BTreeMap<String, u64>,
    /// Answered 202: stored and not decided within the deadline.
    pub pending: u64,
    /// By code, or what happened to the connection.
    pub errors: BTreeMap<String, u64>,
    /// Due and not sent, because every connection waited until the end; what they waited is counted.
    pub unsent: u64,
    /// Decisions in each second, as a multiple of those of one transaction for each bid in the same run.
    pub times_baseline: Option<f64>,
    /// Decisions in each second, as a part of the echoes in the same run.
    pub of_echo: Option<f64>,
    /// Where the processors' time went, on a platform that was started here and as far as the system tells.
    pub cpu: Option<Cpu>,
    /// Whether the platform kept what it had promised; none for echoes, which promise nothing.
    pub audit: Option<Audit>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Bids, as the platform decides them: many in one transaction.
    Bids,
    /// The same on a platform whose every part is a process of its own.
    Split,
    /// Bids on a platform that decides each in a transaction of its own.
    OneAtATime,
    /// Requests that are only answered, without a database.
    Echo,
}

/// What became of every bid, warm-up included.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    /// Nothing is wrong.
    pub passed: bool,
    /// Accepted bids, each of which is listed once as it was answered when nothing is wrong.
    pub bids: usize,
    /// Bids that nothing definite was known of when the load was over, and that turned out to be accepted.
    pub found_accepted: u64,
    /// The same, refused.
    pub found_refused: u64,
    /// After each round, how long it took until everybody's figures equalled the recount, in seconds: the longest.
    pub figures_within_seconds: f64,
    /// What is wrong: the first twenty.
    pub faults: Vec<String>,
    /// How much is wrong.
    pub fault_count: usize,
}

impl Audit {
    pub(super) fn new(bids: usize, resolved: Resolved, figures_within: f64, faults: &[Fault]) -> Self {
        Self {
            passed: faults.is_empty(),
            bids,
            found_accepted: resolved.accepted,
            found_refused: resolved.refused,
            figures_within_seconds: figures_within,
            faults: faults.iter().take(TOLD).map(ToString::to_string).collect(),
            fault_count: faults.len(),
        }
    }
}

impl Row {
    pub(super) fn of(scenario: Scenario, items: usize, tally: &Tally, audit: Option<Audit>) -> Self {
        Self {
            scenario,
            items,
            decided_per_second: tally.rate(tally.decided()),
            accepted_per_second: tally.rate(tally.accepted),
            p50_ms: tally.percentile(50.0),
            p95_ms: tally.percentile(95.0),
            p99_ms: tally.percentile(99.0),
            max_ms: tally.longest(),
            accepted: tally.accepted,
            refused: tally.refused.clone(),
            pending: tally.pending,
            errors: tally.errors.clone(),
            unsent: tally.unsent,
            times_baseline: None,
            of_echo: None,
            cpu: None,
            audit,
        }
    }

    fn name(&self) -> String {
        super::name(self.scenario, self.items)
    }
}

/// Fills in how the rows compare with each other.
pub(super) fn compare(rows: &mut [Row]) {
    let rate = |rows: &[Row], scenario, items: Option<usize>| {
        let mut found = rows.iter().filter(|row| row.scenario == scenario);
        let found = found.find(|row| items.is_none_or(|items| items == row.items));
        found.map(|row| row.decided_per_second).filter(|rate| *rate > 0.0)
    };
    let echo = rate(rows, Scenario::Echo, None);
    let baselines: Vec<Option<f64>> =
        rows.iter().map(|row| rate(rows, Scenario::OneAtATime, Some(row.items))).collect();
    for (row, baseline) in rows.iter_mut().zip(baselines) {
        if matches!(row.scenario, Scenario::Bids | Scenario::Split) {
            row.times_baseline = baseline.map(|baseline| row.decided_per_second / baseline);
        }
        if row.scenario != Scenario::Echo {
            row.of_echo = echo.map(|echo| row.decided_per_second / echo);
        }
    }
}

impl Report {
    /// Whether every audit passed.
    pub fn passed(&self) -> bool {
        self.scenarios.iter().filter_map(|row| row.audit.as_ref()).all(|audit| audit.passed)
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let pace = match self.rate {
            Some(rate) => format!("{rate} requests/s at fixed times"),
            None => "each asking again when answered".to_owned(),
        };
        let revision = self.revision.as_deref().map(|revision| format!(", {revision}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "{}{revision}; {} connections, {pace}; {} x {} s each, after {} s\n",
            self.machine, self.connections, self.rounds, self.seconds, self.warm_up_seconds
        );
        let _ = writeln!(
            text,
            "{:<28}{:>11}{:>12}{:>9}{:>9}{:>9}{:>10}{:>12}{:>9}   audit",
            "scenario",
            "decided/s",
            "accepted/s",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "max ms",
            "x baseline",
            "of echo"
        );
        for row in &self.scenarios {
            let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
            let _ = writeln!(
                text,
                "{:<28}{:>11.0}{:>12.0}{:>9.1}{:>9.1}{:>9.1}{:>10.1}{:>12}{:>9}   {}",
                row.name(),
                row.decided_per_second,
                row.accepted_per_second,
                row.p50_ms,
                row.p95_ms,
                row.p99_ms,
                row.max_ms,
                or_dash(row.times_baseline.map(|times| format!("{times:.1}"))),
                or_dash(row.of_echo.map(|part| format!("{:.0} %", part * 100.0))),
                or_dash(row.audit.as_ref().map(Audit::line)),
            );
        }
        for row in &self.scenarios {
            text += &row.rest();
        }
        text
    }
}

impl Audit {
    fn line(&self) -> String {
        if self.passed { format!("{} bids right", self.bids) } else { format!("{} WRONG", self.fault_count) }
    }
}

impl Row {
    /// What does not fit into the table, when there is any.
    fn rest(&self) -> String {
        let mut text = String::new();
        let kinds = |kinds: &BTreeMap<String, u64>| {
            kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
        };
        if let Some(Cpu { load_us, platform_us, nats_us, postgres_us }) = self.cpu {
            let _ = writeln!(
                text,
                "  processor time of each: platform {platform_us:.0} us, nats-server {nats_us:.0} us, Postgres {postgres_us:.0} us, load {load_us:.0} us"
            );
        }
        if !self.refused.is_empty() {
            let _ = writeln!(text, "  refused: {}", kinds(&self.refused));
        }
        if !self.errors.is_empty() || self.pending > 0 {
            let _ = writeln!(
                text,
                "  not decided in time: {} answered 202; errors: {}",
                self.pending,
                kinds(&self.errors)
            );
        }
        if self.unsent > 0 {
            let _ = writeln!(text, "  due and not sent, every connection was waiting: {}", self.unsent);
        }
        if let Some(audit) = &self.audit {
            if audit.found_accepted + audit.found_refused > 0 {
                let (accepted, refused) = (audit.found_accepted, audit.found_refused);
                let _ = writeln!(text, "  found out afterwards: {accepted} accepted, {refused} refused");
            }
            let _ =
                writeln!(text, "  figures equal to the recount after {:.1} s", audit.figures_within_seconds);
            for fault in &audit.faults {
                let _ = writeln!(text, "  WRONG: {fault}");
            }
        }
        if text.is_empty() { text } else { format!("\n{}\n{text}", self.name()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn row(scenario: Scenario, items: usize, decided: u64) -> Row {
        let mut tally = Tally::new().unwrap();
        (tally.accepted, tally.time) = (decided, Duration::from_secs(2));
        Row::of(scenario, items, &tally, None)
    }

    #[test]
    fn bids_are_compared_with_the_baseline_of_as_many_items() {
        let mut rows = [
            row(Scenario::Bids, 1_000, 16_000),
            row(Scenario::OneAtATime, 1_000, 4_000),
            row(Scenario::Bids, 1, 20_000),
            row(Scenario::OneAtATime, 1, 2_000),
            row(Scenario::Echo, 1_000, 40_000),
        ];

        compare(&mut rows);

        let times: Vec<_> = rows.iter().map(|row| row.times_baseline).collect();
        assert_eq!(times, [Some(4.0), None, Some(10.0), None, None]);
        let parts: Vec<_> = rows.iter().map(|row| row.of_echo).collect();
        assert_eq!(parts, [Some(0.4), Some(0.1), Some(0.5), Some(0.05), None]);
    }

    #[test]
    fn a_report_with_a_fault_has_not_passed_and_says_what_is_wrong() {
        let fault = Fault::Lost(contracts::BidId::new());
        let audit = |faults: &[Fault]| Some(Audit::new(1, Resolved::default(), 0.1, faults));
        let mut report = Report {
            version: "0",
            revision: None,
            machine: Machine { cores: 2, load_before: None, system: "linux".into() },
            connections: 1,
            rate: None,
            rounds: 1,
            seconds: 1,
            warm_up_seconds: 0,
            scenarios: vec![Row { audit: audit(&[]), ..row(Scenario::Bids, 1, 1) }],
        };
        assert!(report.passed(), "{}", report.table());

        report
            .scenarios
            .push(Row { audit: audit(std::slice::from_ref(&fault)), ..row(Scenario::Bids, 2, 1) });

        assert!(!report.passed());
        assert!(report.table().contains(&format!("WRONG: {fault}")), "{}", report.table());
    }
}
