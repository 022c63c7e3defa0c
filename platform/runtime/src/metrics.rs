//! What a process counts, and how all processes together are asked for it.
//!
//! Each connection to the bus has one [`Metrics`]: whatever a process counts is there once, and what
//! `nats service stats` shows is read from it. A process that serves something answers `$SRV.METRICS` with
//! everything it has, in the text format of Prometheus; a [`Gatherer`] asks them all and joins the answers, so no
//! function needs a port.
//!
//! Counting is an addition to an atomic, done for a batch at once. Labels are names that stand in the source
//! (functions, routes, codes), never what a caller sent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::HeaderMap;
use futures_util::StreamExt;
use prometheus::{
    Counter as Seconds, CounterVec, GaugeVec, HistogramOpts, Opts, Registry, TextEncoder, core::Collector,
    proto::MetricFamily,
};
pub use prometheus::{Gauge, HistogramVec, IntCounter, IntCounterVec};
use sqlx::PgPool;
use tokio::time::Instant;

use crate::{bus::Bus, service::Counts};

/// The media type of what is told.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Upper limits in seconds of how long functions take.
pub const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// The same for what may come late: seconds after an instant.
pub(crate) const DELAYS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// Where processes are asked.
pub(crate) const SUBJECT: &str = "$SRV.METRICS";
/// Says which process asks, and which one answers.
const INSTANCE: &str = "x-instance";
/// How long processes may take to answer.
const WITHIN: Duration = Duration::from_millis(500);
/// When all that are known have answered, others get so much more time.
const QUIET: Duration = Duration::from_millis(50);
/// How long an answer is given again: many who ask must not become many questions to all processes.
const FRESH: Duration = Duration::from_millis(500);
/// How often pools are written to the log.
const POOLS_EVERY: Duration = Duration::from_secs(30);

/// Something that a function counts as it decides, by one label. Declared with
/// [`Function::counts`](crate::Function::counts), added to with [`Cx::count`](crate::Cx::count).
#[derive(Debug)]
pub struct Counter {
    /// As Prometheus wants it, for example `bids_total`.
    pub name: &'static str,
    /// What is counted, for people.
    pub help: &'static str,
    /// The name of the label.
    pub label: &'static str,
}

/// How long after an instant a function's work was committed. Declared with
/// [`Function::times`](crate::Function::times), observed with [`Cx::time`](crate::Cx::time).
#[derive(Debug)]
pub struct Delay {
    /// As Prometheus wants it, for example `auction_close_lateness_seconds`.
    pub name: &'static str,
    /// What is measured, for people.
    pub help: &'static str,
}

/// Everything that one process counts.
pub struct Metrics {
    instance: String,
    registry: Registry,
    counters: Mutex<HashMap<&'static str, IntCounterVec>>,
    histograms: Mutex<HashMap<&'static str, HistogramVec>>,
    gauges: Mutex<HashMap<&'static str, GaugeVec>>,
    waited: CounterVec,
    counts: Mutex<HashMap<String, Arc<Counts>>>,
    pools: Mutex<BTreeMap<String, PgPool>>,
    is_served: AtomicBool,
}

impl Metrics {
    /// Of the process that is called `instance`.
    pub(crate) fn new(instance: &str) -> Arc<Self> {
        let opts =
            Opts::new("db_pool_wait_seconds_total", "Time spent waiting for a connection of a full pool.");
        let registry = Registry::new();
        Arc::new(Self {
            instance: instance.to_owned(),
            waited: registered(&registry, CounterVec::new(opts, &["pool"])),
            registry,
            counters: Mutex::default(),
            histograms: Mutex::default(),
            gauges: Mutex::default(),
            counts: Mutex::default(),
            pools: Mutex::default(),
            is_served: AtomicBool::new(false),
        })
    }

    /// Counters of this name, made when first asked for.
    pub fn counter(&self, name: &'static str, help: &str, labels: &[&str]) -> IntCounterVec {
        let make = || registered(&self.registry, IntCounterVec::new(Opts::new(name, help), labels));
        lock(&self.counters).entry(name).or_insert_with(make).clone()
    }

    /// Histograms of this name, made when first asked for. The buckets are upper limits.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let make = || registered(&self.registry, HistogramVec::new(opts, labels));
        lock(&self.histograms).entry(name).or_insert_with(make).clone()
    }

    /// A value that goes up and down, made when first asked for.
    pub fn gauge(&self, name: &'static str, help: &str) -> Gauge {
        self.gauges(name, help, &[]).with_label_values::<&str>(&[])
    }

    /// Values of this name, made when first asked for.
    pub(crate) fn gauges(&self, name: &'static str, help: &str, labels: &[&str]) -> GaugeVec {
        let make = || registered(&self.registry, GaugeVec::new(Opts::new(name, help), labels));
        lock(&self.gauges).entry(name).or_insert_with(make).clone()
    }

    /// What is counted of each function, relay and endpoint.
    pub(crate) fn counts(&self, function: &str) -> Arc<Counts> {
        let requests = self.counter(
            "fn_requests_total",
            "Messages handled, by what became of them.",
            &["fn", "outcome"],
        );
        let help = "How long a message was in work: the time of its batch.";
        let took = self.histogram("fn_duration_seconds", help, &["fn"], SECONDS);
        let in_flight = self.gauges("fn_inflight", "Messages in work.", &["fn"]);
        let make = || Arc::new(Counts::new(function, &requests, &took, &in_flight));
        Arc::clone(lock(&self.counts).entry(function.to_owned()).or_insert_with(make))
    }

    /// What a function did not take because it had too much.
    pub fn shed(&self, function: &str, reason: &str) -> IntCounter {
        let help = "What was not taken because there was no room, by what was full.";
        self.counter("fn_shed_total", help, &["fn", "reason"]).with_label_values(&[function, reason])
    }

    /// Tells of a pool from now on, under the name of its domain.
    pub(crate) fn watch_pool(&self, domain: &str, pool: &PgPool) -> Waits {
        lock(&self.pools).insert(domain.to_owned(), pool.clone());
        self.waits(domain)
    }

    fn waits(&self, domain: &str) -> Waits {
        let help = "How often a connection was waited for because the pool was full.";
        Waits {
            count: self.counter("db_pool_wait_total", help, &["pool"]).with_label_values(&[domain]),
            seconds: self.waited.with_label_values(&[domain]),
        }
    }

    /// Everything, in the text format of Prometheus.
    pub fn tell(&self) -> String {
        for (domain, pool) in lock(&self.pools).iter() {
            let set = |name, help, value: u32| {
                self.gauges(name, help, &["pool"]).with_label_values(&[domain]).set(value.into());
            };
            let now = PoolNow::of(pool);
            set("db_pool_open", "Connections that are open.", now.open);
            set("db_pool_in_use", "Connections in use.", now.in_use);
            set("db_pool_max", "The most connections.", now.max);
        }
        let mut families = self.registry.gather();
        for metric in families.iter_mut().flat_map(MetricFamily::mut_metric) {
            let mut labels = metric.take_label();
            let mut instance = prometheus::proto::LabelPair::default();
            instance.set_name("instance".into());
            instance.set_value(self.instance.clone());
            labels.push(instance);
            metric.set_label(labels);
        }
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            tracing::error!(%error, "metrics cannot be written");
            String::new()
        })
    }

    fn log_pools(&self) {
        for (domain, pool) in lock(&self.pools).iter() {
            let (now, waits) = (PoolNow::of(pool), self.waits(domain));
            tracing::info!(
                pool = domain,
                max_open = now.max,
                open = now.open,
                in_use = now.in_use,
                idle = now.open - now.in_use,
                wait_count = waits.count.get(),
                wait_duration_ms = (waits.seconds.get() * 1e3).round(),
                "pool stats"
            );
        }
    }
}

/// How a pool is used now.
struct PoolNow {
    max: u32,
    open: u32,
    in_use: u32,
}

impl PoolNow {
    fn of(pool: &PgPool) -> Self {
        let (open, idle) = (pool.size(), u32::try_from(pool.num_idle()).unwrap_or(u32::MAX));
        Self { max: pool.options().get_max_connections(), open, in_use: open.saturating_sub(idle) }
    }
}

/// What was waited for a pool that was full.
#[derive(Clone)]
pub(crate) struct Waits {
    count: IntCounter,
    seconds: Seconds,
}

impl Waits {
    /// Takes a connection, and notes the wait when there was none to take and none to open.
    pub(crate) async fn note<T>(&self, pool: &PgPool, take: impl Future<Output = T>) -> T {
        if pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections() {
            return take.await;
        }
        let started = Instant::now();
        let taken = take.await;
        self.count.inc();
        self.seconds.inc_by(started.elapsed().as_secs_f64());
        taken
    }
}

/// The name and the labels stand in the source, and each name is registered once, so nothing is left to fail.
fn registered<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let made = made.and_then(|made| registry.register(Box::new(made.clone())).map(|()| made));
    made.unwrap_or_else(|error| panic!("{error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers for this process until its connection ends, and writes its pools to the log; once for each process.
pub(crate) async fn serve(bus: &Bus) -> anyhow::Result<()> {
    let metrics = Arc::clone(&bus.metrics);
    if metrics.is_served.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let mut questions = bus.client.subscribe(SUBJECT).await?;
    let client = bus.client.clone();
    tokio::spawn(async move {
        let mut pools = tokio::time::interval_at(Instant::now() + POOLS_EVERY, POOLS_EVERY);
        loop {
            let question = tokio::select! {
                question = questions.next() => question,
                _ = pools.tick() => {
                    metrics.log_pools();
                    continue;
                }
            };
            let Some(question) = question else { return };
            let Some(asker) = question.reply else { continue };
            // Who asks knows its own.
            if name_in(question.headers.as_ref()) == Some(metrics.instance.as_str()) {
                continue;
            }
            let (headers, told) = (named(&metrics.instance), metrics.tell());
            if let Err(error) = client.publish_with_headers(asker, headers, told.into()).await {
                tracing::warn!(%error, "metrics cannot be told");
            }
        }
    });
    Ok(())
}

fn named(instance: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(INSTANCE, instance);
    headers
}

fn name_in(headers: Option<&HeaderMap>) -> Option<&str> {
    headers?.get(INSTANCE).map(async_nats::HeaderValue::as_str)
}

/// Asks all processes what they count.
pub struct Gatherer {
    bus: Bus,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who answered the last time; none when nobody was asked yet.
    known: Option<BTreeSet<String>>,
    gathered: Option<(Instant, Arc<str>)>,
}

impl Gatherer {
    /// Asks over this connection; its own process is asked directly, also while NATS is away.
    pub fn new(bus: Bus) -> Self {
        Self { bus, state: tokio::sync::Mutex::default() }
    }

    /// What all processes count, in the text format of Prometheus, each series with its process as `instance`.
    ///
    /// Takes as long as the processes that answered the last time need, and half a second at most: who does not
    /// answer within it is missing.
    pub async fn gather(&self) -> Arc<str> {
        let mut state = self.state.lock().await;
        if let Some((at, gathered)) = &state.gathered
            && at.elapsed() < FRESH
        {
            return Arc::clone(gathered);
        }
        let known = state.known.take();
        let others = async {
            if !self.bus.is_connected() {
                return BTreeMap::new();
            }
            self.ask_others(known).await.unwrap_or_else(|error| {
                tracing::warn!(error = format!("{error:#}"), "no metrics of others");
                BTreeMap::new()
            })
        };
        let (others, own) = (others.await, self.bus.metrics.tell());
        let gathered: Arc<str> = join(std::iter::once(&own).chain(others.values())).into();
        state.known = Some(others.into_keys().collect());
        state.gathered = Some((Instant::now(), Arc::clone(&gathered)));
        gathered
    }

    async fn ask_others(&self, known: Option<BTreeSet<String>>) -> anyhow::Result<BTreeMap<String, String>> {
        let deadline = Instant::now() + WITHIN;
        let is_first = known.is_none();
        let mut known = known.unwrap_or_default();
        let inbox = self.bus.client.new_inbox();
        let mut answers = self.bus.client.subscribe(inbox.clone()).await?;
        let asker = named(&self.bus.instance);
        self.bus.client.publish_with_reply_and_headers(SUBJECT, inbox, asker, Default::default()).await?;
        let mut told = BTreeMap::new();
        loop {
            // Who is asked for the first time does not know whom to wait for.
            let until =
                if known.is_empty() && !is_first { deadline.min(Instant::now() + QUIET) } else { deadline };
            let Ok(Some(answer)) = tokio::time::timeout_at(until, answers.next()).await else { break };
            let Some(instance) = name_in(answer.headers.as_ref()) else { continue };
            known.remove(instance);
            told.insert(instance.to_owned(), String::from_utf8_lossy(&answer.payload).into_owned());
        }
        Ok(told)
    }
}

/// One text of several: all series of one name stand together under one heading, each once.
fn join<'a>(texts: impl Iterator<Item = &'a String>) -> String {
    #[derive(Default)]
    struct Family<'a> {
        heading: Vec<&'a str>,
        samples: Vec<&'a str>,
        seen: HashSet<&'a str>,
    }
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    for text in texts {
        let mut family = None;
        let mut is_new = false;
        for line in text.lines() {
            if let Some(named) = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")) {
                let name = named.split(' ').next().unwrap_or_default();
                if family != Some(name) {
                    is_new = !families.contains_key(name);
                    family = Some(name);
                }
                if is_new {
                    families.entry(name).or_default().heading.push(line);
                }
            } else if let (Some(name), Some((series, _value))) = (family, line.rsplit_once(' ')) {
                let family = families.entry(name).or_default();
                // Two processes under one name would spoil the whole for whoever reads it.
                if family.seen.insert(series) {
                    family.samples.push(line);
                }
            }
        }
    }
    let mut joined = String::new();
    for line in families.values().flat_map(|family| family.heading.iter().chain(&family.samples)) {
        let _ = writeln!(joined, "{line}");
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_two_processes_are_joined_by_name_and_told_apart_by_instance() {
        let texts = ["one", "two"].map(|instance| {
            let metrics = Metrics::new(instance);
            metrics.shed("place-bid", "lanes").inc();
            metrics.gauge("sse_clients", "Open live views.").set(3.0);
            metrics
        });
        let texts = [texts[0].tell(), texts[1].tell(), texts[1].tell()];

        let joined = join(texts.iter());

        let lines: Vec<&str> = joined.lines().collect();
        assert_eq!(
            lines,
            [
                "# HELP fn_shed_total What was not taken because there was no room, by what was full.",
                "# TYPE fn_shed_total counter",
                "fn_shed_total{fn=\"place-bid\",reason=\"lanes\",instance=\"one\"} 1",
                "fn_shed_total{fn=\"place-bid\",reason=\"lanes\",instance=\"two\"} 1",
                "# HELP sse_clients Open live views.",
                "# TYPE sse_clients gauge",
                "sse_clients{instance=\"one\"} 3",
                "sse_clients{instance=\"two\"} 3",
            ]
        );
    }

    #[test]
    fn what_is_no_metric_is_left_out() {
        let text = "garbage\nmore 1\n# HELP a b\n# TYPE a gauge\na 1\n\n".to_owned();

        assert_eq!(join([text].iter()), "# HELP a b\n# TYPE a gauge\na 1\n");
    }

    #[test]
    fn what_is_asked_for_twice_is_one() {
        let metrics = Metrics::new("one");

        metrics.counter("bids_total", "Bids.", &["result"]).with_label_values(&["accepted"]).inc_by(2);
        metrics.counter("bids_total", "Bids.", &["result"]).with_label_values(&["accepted"]).inc();

        assert!(metrics.tell().contains("bids_total{result=\"accepted\",instance=\"one\"} 3"));
    }
}
