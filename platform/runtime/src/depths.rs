//! How much waits: in streams, for consumers, among the dead letters and in outboxes.
//!
//! Told by `maintain`, which knows all of them, and not by those who should take it: they may be what is away.
//! Looked at now and then and not when somebody asks, so that an answer is quick when everything else is slow.
//! What cannot be looked at is told no longer: a gap is better than an old value.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use futures_util::future::join_all;
use prometheus::GaugeVec;
use serde::Deserialize;
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    Result,
    bus::Bus,
    config::{Config, Env},
    database::{self, Database},
    dead_letter::DEAD_LETTERS,
};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(5);
/// How long one stream or one outbox may take to say how much it holds.
const WITHIN: Duration = Duration::from_secs(4);
/// More rows than this are not counted: the count would cost more with every row that waits.
const MOST_ROWS: i64 = 100_000;

/// A name, what it is for people, and its labels.
type Depth = (&'static str, &'static str, &'static [&'static str]);

const STREAM_MESSAGES: Depth = ("stream_messages", "Messages that a stream holds.", &["stream"]);
const STREAM_BYTES: Depth = ("stream_bytes", "Bytes that a stream holds.", &["stream"]);
const PENDING: Depth = ("consumer_pending", "Messages that wait to be taken.", &["stream", "consumer"]);
const ACK_PENDING: Depth =
    ("consumer_ack_pending", "Messages that were taken and not settled.", &["stream", "consumer"]);
const DEAD: Depth = ("dlq_messages", "Messages that a function gave up.", &["consumer"]);
const UNPUBLISHED: Depth =
    ("outbox_unpublished", "Outbox rows that wait to be published, a hundred thousand at most.", &["domain"]);
const OLDEST: Depth = (
    "outbox_oldest_unpublished_seconds",
    "How long the first of them has waited; 0 when none waits.",
    &["domain"],
);
const ALL: [Depth; 7] = [STREAM_MESSAGES, STREAM_BYTES, PENDING, ACK_PENDING, DEAD, UNPUBLISHED, OLDEST];

/// What was found: a name and the values of its labels.
type Found = BTreeMap<(&'static str, Vec<String>), f64>;

/// Looks at everything that holds messages.
pub(crate) struct Depths {
    bus: Bus,
    streams: Vec<String>,
    outboxes: Vec<(&'static str, PgPool)>,
}

/// What is told at present; nothing more when it is dropped.
struct Told {
    gauges: HashMap<&'static str, GaugeVec>,
    found: Found,
}

impl Told {
    /// Tells this, and what is not in it no longer.
    fn tell(&mut self, found: Found) {
        for ((name, labels), depth) in &found {
            if let Some(gauge) = self.gauges.get(name) {
                gauge.with_label_values(labels).set(*depth);
            }
        }
        for (name, labels) in self.found.keys().filter(|gone| !found.contains_key(*gone)) {
            if let Some(gauge) = self.gauges.get(name) {
                let _ = gauge.remove_label_values(labels);
            }
        }
        self.found = found;
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.tell(Found::new());
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
            let options = database::owner_options(env, domain)?;
            Ok((*domain, database::pool(config, options, "maintain")))
        });
        Ok(Self { bus: bus.clone(), streams, outboxes: outboxes.collect::<anyhow::Result<_>>()? })
    }

    /// Looks and tells until told to stop.
    pub(crate) async fn keep(&self, stop: &CancellationToken) {
        let gauges = ALL.map(|(name, help, labels)| (name, self.bus.metrics.gauges(name, help, labels)));
        let mut told = Told { gauges: gauges.into(), found: Found::new() };
        let mut due = tokio::time::interval(EVERY);
        let looking = async {
            loop {
                due.tick().await;
                told.tell(self.look().await);
            }
        };
        stop.run_until_cancelled(looking).await;
    }

    async fn look(&self) -> Found {
        let streams = self.streams.iter().map(|stream| in_time(stream, self.look_at_stream(stream)));
        let outboxes =
            self.outboxes.iter().map(|(domain, pool)| in_time(domain, look_at_outbox(domain, pool)));
        let (streams, outboxes) = tokio::join!(join_all(streams), join_all(outboxes));
        let found = streams.into_iter().chain(outboxes).flatten();
        let mut found: Found = found.map(|((name, ..), labels, depth)| ((name, labels), depth)).collect();
        // Who has no dead letters says so.
        let consumers = found.keys().filter(|(name, _)| *name == PENDING.0);
        let consumers: Vec<String> = consumers.filter_map(|(_, labels)| labels.last().cloned()).collect();
        let are_letters_known = found.contains_key(&(STREAM_MESSAGES.0, vec![DEAD_LETTERS.to_owned()]));
        for consumer in consumers.into_iter().filter(|_| are_letters_known) {
            found.entry((DEAD.0, vec![consumer])).or_default();
        }
        found
    }

    async fn look_at_stream(&self, stream: &str) -> Result<Vec<Seen>> {
        let filter = if stream == DEAD_LETTERS { json!({ "subjects_filter": ">" }) } else { json!({}) };
        let info: StreamInfo = self.bus.call(format!("STREAM.INFO.{stream}"), filter).await?;
        let of_stream = || vec![stream.to_owned()];
        let mut seen = vec![
            (STREAM_MESSAGES, of_stream(), info.state.messages as f64),
            (STREAM_BYTES, of_stream(), info.state.bytes as f64),
        ];
        for (subject, letters) in info.state.subjects.unwrap_or_default() {
            let function = subject.strip_prefix("dlq.").unwrap_or(&subject);
            seen.push((DEAD, vec![function.to_owned()], letters as f64));
        }
        let mut offset = 0;
        loop {
            let page: Consumers =
                self.bus.call(format!("CONSUMER.LIST.{stream}"), json!({ "offset": offset })).await?;
            for consumer in &page.consumers {
                let names = || vec![stream.to_owned(), consumer.name.clone()];
                seen.push((PENDING, names(), consumer.num_pending as f64));
                seen.push((ACK_PENDING, names(), consumer.num_ack_pending as f64));
            }
            offset += page.consumers.len();
            if page.consumers.is_empty() || offset >= page.total {
                return Ok(seen);
            }
        }
    }
}

type Seen = (Depth, Vec<String>, f64);

async fn in_time(what: &str, look: impl Future<Output = Result<Vec<Seen>>>) -> Vec<Seen> {
    match tokio::time::timeout(WITHIN, look).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(error)) => {
            tracing::debug!(what, %error, "depth not known");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

async fn look_at_outbox(domain: &str, pool: &PgPool) -> Result<Vec<Seen>> {
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
    let of_domain = || vec![domain.to_owned()];
    Ok(vec![
        (UNPUBLISHED, of_domain(), outbox.rows as f64),
        (OLDEST, of_domain(), outbox.age.unwrap_or_default().max(0.0)),
    ])
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
