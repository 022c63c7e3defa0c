//! What was counted while the time ran.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

/// The longest time that is told apart, in microseconds.
const LONGEST: u64 = 120_000_000;

/// What was counted while the time ran. Everything but `accepted` and `refused` is undecided as far as its
/// sender knows.
#[derive(Debug)]
pub(crate) struct Tally {
    /// From when a request was due to its decision, in microseconds.
    waits: Histogram<u32>,
    pub(crate) accepted: u64,
    /// By code.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Answered 202: stored, not decided within the deadline.
    pub(crate) pending: u64,
    /// By code, or what happened to the connection.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Due, and not sent before the time was over.
    pub(crate) unsent: u64,
    /// Decisions in each second of that.
    pub(crate) each_second: Vec<u64>,
    /// How long was counted.
    pub(crate) time: Duration,
    /// Decisions, those that were not counted too, and the processor time that making the load took.
    pub(crate) all: (u64, Duration),
}

impl Tally {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            waits: Histogram::new_with_max(LONGEST, 3)?,
            accepted: 0,
            refused: BTreeMap::new(),
            pending: 0,
            errors: BTreeMap::new(),
            unsent: 0,
            each_second: Vec::new(),
            time: Duration::ZERO,
            all: (0, Duration::ZERO),
        })
    }

    /// Somebody waited this long for an answer of whatever kind.
    pub(crate) fn waited(&mut self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(LONGEST);
        self.waits.saturating_record(micros);
    }

    /// Notes a decision, so long after the warm-up.
    pub(crate) fn decided_at(&mut self, second: usize) {
        if self.each_second.len() <= second {
            self.each_second.resize(second + 1, 0);
        }
        self.each_second[second] += 1;
    }

    /// Decided by the function: accepted, or refused by a rule.
    pub(crate) fn decided(&self) -> u64 {
        self.accepted + self.refused.values().sum::<u64>()
    }

    /// Adds another round.
    pub(crate) fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.waits.add(&other.waits)?;
        self.accepted += other.accepted;
        self.pending += other.pending;
        self.unsent += other.unsent;
        self.time += other.time;
        self.all = (self.all.0 + other.all.0, self.all.1 + other.all.1);
        for (sum, more) in [(&mut self.refused, &other.refused), (&mut self.errors, &other.errors)] {
            for (code, count) in more {
                *sum.entry(code.clone()).or_default() += count;
            }
        }
        Ok(())
    }

    /// In milliseconds; 0 when nothing was counted.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        self.waits.value_at_percentile(percent) as f64 / 1e3
    }

    /// In milliseconds.
    pub(crate) fn longest(&self) -> f64 {
        self.waits.max() as f64 / 1e3
    }

    /// Of a count, in each second.
    pub(crate) fn rate(&self, count: u64) -> f64 {
        if self.time.is_zero() { 0.0 } else { count as f64 / self.time.as_secs_f64() }
    }
}

/// Counts one more of a kind.
pub(crate) fn count(kinds: &mut BTreeMap<String, u64>, kind: &str) {
    match kinds.get_mut(kind) {
        Some(count) => *count += 1,
        None => {
            kinds.insert(kind.to_owned(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_add_up() {
        let round = |accepted: u64, millis: u64, seconds: u64| {
            let mut tally = Tally::new().unwrap();
            tally.accepted = accepted;
            count(&mut tally.refused, "BID_TOO_LOW");
            (0..accepted).for_each(|_| tally.waited(Duration::from_millis(millis)));
            tally.time = Duration::from_secs(seconds);
            tally
        };
        let mut sum = round(90, 2, 1);

        sum.add(&round(10, 50, 3)).unwrap();

        assert_eq!((sum.decided(), sum.refused["BID_TOO_LOW"]), (102, 2));
        assert_eq!(sum.rate(sum.decided()), 25.5);
        assert_eq!((sum.percentile(50.0).round(), sum.percentile(95.0).round()), (2.0, 50.0));
    }
}
