//! What one function counts beside its requests: its own figures, what came again, what it knew already.

use prometheus::{Histogram, IntCounter, IntCounterVec};

use crate::{
    Timestamp,
    function::{Spec, Wakes},
    metrics::{Counter, DELAYS, Delay, Metrics},
};

/// What a handler counted: it becomes true with the commit of its transaction.
#[derive(Default)]
pub(crate) struct Tally {
    counts: Vec<(&'static str, &'static str, u64)>,
    /// Since when.
    delays: Vec<(&'static str, Timestamp)>,
}

impl Tally {
    /// Adds up, so that a batch with many members is a few additions.
    pub(crate) fn count(&mut self, counter: &Counter, value: &'static str, more: u64) {
        let known = self.counts.iter_mut().find(|(name, of, _)| (*name, *of) == (counter.name, value));
        match known {
            Some((_, _, count)) => *count += more,
            None => self.counts.push((counter.name, value, more)),
        }
    }

    pub(crate) fn time(&mut self, delay: &Delay, since: Timestamp) {
        self.delays.push((delay.name, since));
    }
}

/// Where it is added to.
pub(crate) struct Tallies {
    counters: Vec<(&'static str, IntCounterVec)>,
    delays: Vec<(&'static str, Histogram)>,
    /// Of a function that pulls from a stream.
    redelivered: Option<IntCounter>,
    /// Of a function that reacts to events.
    heard: Option<(IntCounter, Histogram)>,
}

impl Tallies {
    pub(crate) fn of(spec: &Spec, metrics: &Metrics) -> Self {
        let redelivered = spec.consumer().map(|(stream, _)| {
            let help = "Messages that were delivered not for the first time.";
            metrics
                .counter("consumer_redelivered_total", help, &["stream", "consumer"])
                .with_label_values(&[stream, spec.name])
        });
        let heard = matches!(spec.wakes, Wakes::Events(_)).then(|| {
            let duplicates = metrics.counter(
                "inbox_duplicates_total",
                "Events that had been counted before and were left out.",
                &["consumer"],
            );
            let help = "From when something happened to when the consumer had counted it.";
            let lag = metrics.histogram("event_lag_seconds", help, &["consumer"], DELAYS);
            (duplicates.with_label_values(&[spec.name]), lag.with_label_values(&[spec.name]))
        });
        let counters = spec
            .counts
            .iter()
            .map(|counter| (counter.name, metrics.counter(counter.name, counter.help, &[counter.label])));
        let delays = spec.times.iter().map(|delay| {
            let histogram = metrics.histogram(delay.name, delay.help, &[], DELAYS);
            (delay.name, histogram.with_label_values::<&str>(&[]))
        });
        Self { counters: counters.collect(), delays: delays.collect(), redelivered, heard }
    }

    /// What a handler counted is true now.
    pub(crate) fn add(&self, tally: Tally) {
        for (counter, value, count) in tally.counts {
            if let Some((_, counts)) = self.counters.iter().find(|(name, _)| *name == counter) {
                counts.with_label_values(&[value]).inc_by(count);
            }
        }
        if tally.delays.is_empty() {
            return;
        }
        let now = Timestamp::now();
        for (name, histogram) in &self.delays {
            let since = tally.delays.iter().filter(|(delay, _)| delay == name).map(|(_, since)| *since);
            observe(histogram, now, since);
        }
    }

    pub(crate) fn redelivered(&self, messages: usize) {
        if let Some(redelivered) = self.redelivered.as_ref().filter(|_| messages > 0) {
            redelivered.inc_by(messages as u64);
        }
    }

    /// Events were counted that happened then; others had been counted before.
    pub(crate) fn heard(&self, happened: impl Iterator<Item = Timestamp>, duplicates: usize) {
        if let Some((known, lag)) = &self.heard {
            known.inc_by(duplicates as u64);
            observe(lag, Timestamp::now(), happened);
        }
    }
}

fn observe(histogram: &Histogram, now: Timestamp, since: impl Iterator<Item = Timestamp>) {
    let all = histogram.local();
    since.for_each(|since| all.observe(now.since(since).as_secs_f64()));
    all.flush();
}
