//! How much waits: in streams, for consumers, among the dead letters and in outboxes.
//!
//! Told by `maintain`, which knows all of them, and not by those who should take it: they may be what is away.
//! What cannot be asked in time is left out, so that a scrape shows a gap and no old value.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use prometheus::{GaugeVec, Opts, Registry, proto::MetricFamily};
use serde::Deserialize;
use serde_json::json;
use sqlx::PgPool;

use crate::{
    Result,
    bus::Bus,
    config::{Config, Env},
    database::{self, Database},
    dead_letter::DEAD_LETTERS,
};

/// How long one stream or one outbox may take to say how much it holds.
const WITHIN: Duration = Duration::from_millis(300);
/// More rows than this are not counted: the count would cost more with every row that waits.
const MOST_ROWS: i64 = 100_000;

/// Looks at everything that holds messages.
pub(crate) struct Depths {
    bus: Bus,
    streams: Vec<String>,
    outboxes: Vec<(&'static str, PgPool)>,
}

/// What is found, by name: made anew each time, so that nothing that is gone is told.
struct Found {
    registry: Registry,
    stream_messages: GaugeVec,
    stream_bytes: GaugeVec,
    pending: GaugeVec,
    ack_pending: GaugeVec,
    dead: GaugeVec,
    unpublished: GaugeVec,
    oldest: GaugeVec,
}

impl Found {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let gauges = |name, help, labels: &[&str]| {
            let gauges = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            prometheus::Result::Ok(gauges)
        };
        let consumer = &["stream", "consumer"];
        Ok(Self {
            stream_messages: gauges("stream_messages", "Messages that a stream holds.", &["stream"])?,
            stream_bytes: gauges("stream_bytes", "Bytes that a stream holds.", &["stream"])?,
            pending: gauges("consumer_pending", "Messages that wait to be taken.", consumer)?,
            ack_pending: gauges(
                "consumer_ack_pending",
                "Messages that were taken and not settled.",
                consumer,
            )?,
            dead: gauges("dlq_messages", "Messages that a function gave up.", &["consumer"])?,
            unpublished: gauges(
                "outbox_unpublished",
                "Outbox rows that wait to be published, a hundred thousand at most.",
                &["domain"],
            )?,
            oldest: gauges(
                "outbox_oldest_unpublished_seconds",
                "How long the first of them has waited; 0 when none waits.",
                &["domain"],
            )?,
            registry,
        })
    }
}

impl Depths {
    pub(crate) fn new(
        env: &Env,
        config: &Config,
        bus: &Bus,
        streams: Vec<String>,
        databases: &[Database],
    ) -> anyhow::Result<Self> {
        let outboxes = databases.iter().map(|Database { domain, .. }| {
            let options = database::options(env, domain)?;
            Ok((*domain, database::pool(config, options, "maintain")))
        });
        Ok(Self { bus: bus.clone(), streams, outboxes: outboxes.collect::<anyhow::Result<_>>()? })
    }

    /// Tells whoever asks this process, until what is returned is dropped.
    pub(crate) fn tell_on(self, bus: &Bus) -> Telling {
        let depths = Arc::new(self);
        bus.metrics.ask_also(
            NAME,
            Arc::new(move || {
                let depths = Arc::clone(&depths);
                Box::pin(async move { depths.look().await })
            }),
        );
        Telling(bus.clone())
    }

    async fn look(&self) -> Vec<MetricFamily> {
        let found = match Found::new() {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "depths cannot be told");
                return Vec::new();
            }
        };
        let streams = self.streams.iter().map(|stream| in_time(stream, self.look_at_stream(stream, &found)));
        let outboxes =
            self.outboxes.iter().map(|(domain, pool)| in_time(domain, look_at_outbox(domain, pool, &found)));
        tokio::join!(join_all(streams), join_all(outboxes));
        found.registry.gather()
    }

    async fn look_at_stream(&self, stream: &str, found: &Found) -> Result<()> {
        let filter = if stream == DEAD_LETTERS { json!({ "subjects_filter": ">" }) } else { json!({}) };
        let info: StreamInfo = self.bus.call(format!("STREAM.INFO.{stream}"), filter).await?;
        found.stream_messages.with_label_values(&[stream]).set(info.state.messages as f64);
        found.stream_bytes.with_label_values(&[stream]).set(info.state.bytes as f64);
        for (subject, letters) in info.state.subjects.unwrap_or_default() {
            let function = subject.strip_prefix("dlq.").unwrap_or(&subject);
            found.dead.with_label_values(&[function]).set(letters as f64);
        }
        let mut seen = 0;
        loop {
            let page: Consumers =
                self.bus.call(format!("CONSUMER.LIST.{stream}"), json!({ "offset": seen })).await?;
            for consumer in &page.consumers {
                let names = [stream, &consumer.name];
                found.pending.with_label_values(&names).set(consumer.num_pending as f64);
                found.ack_pending.with_label_values(&names).set(consumer.num_ack_pending as f64);
                // Made when missing: who has no dead letters says so.
                found.dead.with_label_values(&[&consumer.name]);
            }
            seen += page.consumers.len();
            if page.consumers.is_empty() || seen >= page.total {
                return Ok(());
            }
        }
    }
}

const NAME: &str = "depths";

/// Ends the telling when dropped.
pub(crate) struct Telling(Bus);

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.metrics.ask_no_more(NAME);
    }
}

async fn in_time(what: &str, look: impl Future<Output = Result<()>>) {
    let looked = tokio::time::timeout(WITHIN, look).await;
    if let Ok(Err(error)) = looked {
        tracing::debug!(what, %error, "depth not known");
    }
}

async fn look_at_outbox(domain: &str, pool: &PgPool, found: &Found) -> Result<()> {
    let outbox = sqlx::query!(
        r#"
        select (select count(*) from (select 1 from platform.outbox where not published limit $1) as waiting)
                as "rows!",
            (select extract(epoch from clock_timestamp() - created_at)::float8 from platform.outbox
                where not published order by id limit 1) as age
        "#,
        MOST_ROWS,
    )
    .fetch_one(pool)
    .await?;
    found.unpublished.with_label_values(&[domain]).set(outbox.rows as f64);
    found.oldest.with_label_values(&[domain]).set(outbox.age.unwrap_or_default().max(0.0));
    Ok(())
}

#[derive(Deserialize)]
struct StreamInfo {
    state: StreamState,
}

#[derive(Deserialize)]
struct StreamState {
    messages: u64,
    bytes: u64,
    subjects: Option<HashMap<String, u64>>,
}

#[derive(Deserialize)]
struct Consumers {
    total: usize,
    #[serde(default)]
    consumers: Vec<Consumer>,
}

#[derive(Deserialize)]
struct Consumer {
    name: String,
    num_pending: u64,
    num_ack_pending: u64,
}
