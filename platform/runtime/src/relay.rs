//! Publishes what transactions said, in the order in which they said it.
//!
//! One relay of a domain is active, by an advisory lock on a connection of its own; others stand by.
//! Rows stay after the stream's acknowledgement, because an acknowledgement is not yet an fsync.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use async_nats::{
    HeaderMap,
    jetstream::{
        context::{PublishAckFuture, PublishError},
        message::PublishMessage,
    },
};
use futures_util::{StreamExt, future::BoxFuture};
use prometheus::{Histogram, IntCounter};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::{
    Answer, Delivery, Trace,
    bus::{self, Bus, Extent, Session},
    cache,
    metrics::{Metrics, SECONDS},
    outbox::{self, Round, Row},
    service::{Counts, Service},
    wire::{self, Outgoing, header},
};

/// The advisory lock that the active relay of a database holds.
const LOCK: i64 = 0x6f75_7472_656c_6179;
/// The most that is published in one round.
const ROUND: Round = Round { rows: 64, events: 5_000 };
/// The most events that wait for the stream's confirmation.
const WINDOW: usize = 1_000;
/// Rounds begin at least this far apart, so that the rows of a busy time share them. A row that comes alone is not kept
/// waiting.
const GATHER: Duration = Duration::from_millis(20);
/// How often the outbox is looked at without a poke.
const POLL: Duration = Duration::from_millis(250);
/// How long to wait after a failure, or while another relay is active.
const AGAIN: Duration = Duration::from_millis(500);

/// What a relay counts beside its events.
struct Told {
    published: Histogram,
    losses: IntCounter,
    replayed: IntCounter,
}

impl Told {
    fn of(metrics: &Metrics, domain: &str) -> Self {
        let counter = |name, help| metrics.counter(name, help, &["domain"]).with_label_values(&[domain]);
        let help = "How long a round of outbox rows took until the stream had them and that was noted.";
        Self {
            published: metrics
                .histogram("outbox_publish_seconds", help, &["domain"], SECONDS)
                .with_label_values(&[domain]),
            losses: counter(
                "outbox_watermark_loss_total",
                "How often the stream was found to have lost what it had acknowledged.",
            ),
            replayed: counter(
                "outbox_replayed_total",
                "Outbox rows that were published again because of that.",
            ),
        }
    }
}

/// Relays a domain's outbox until told to stop.
pub async fn serve(domain: &str, pool: PgPool, bus: Bus, stop: CancellationToken) -> anyhow::Result<()> {
    let name = format!("{domain}-relay");
    let counts = bus.metrics.counts(&name);
    let (told, checked) = (Told::of(&bus.metrics, domain), Checked::default());
    let metadata = json!({ "domain": domain, "wakes": "the outbox" });
    let running = Service::new(name, format!("publishes what {domain} says"), metadata)
        .counted("outbox", wire::poke_subject(domain))
        .answering("published", format!("published.{domain}"), 4, published_answer(&pool, &bus, &checked))
        .start(&bus)
        .await?;
    // The same options as the pool's, but a connection that nobody else uses: it holds the lock.
    let options = pool.connect_options();
    while !stop.is_cancelled() {
        let active = async {
            // Without the bus there is nothing to do, and no reason to hold the lock.
            if !bus.is_connected() {
                return Ok(());
            }
            let mut connection = PgConnection::connect_with(&options).await?;
            run(domain, &mut connection, &bus, (&counts, &told), &checked, &stop).await?;
            connection.close().await?;
            Ok::<_, anyhow::Error>(())
        };
        if let Err(error) = active.await {
            counts.failed(&format!("{error:#}"), Duration::ZERO);
            tracing::warn!(domain, error = format!("{error:#}"), "relay interrupted, trying again");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
    running.stop().await;
    Ok(())
}

/// How far a domain's outbox is published.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Published {
    /// The newest row that is committed.
    pub(crate) newest: i64,
    /// How many rows up to the asked one wait.
    pub(crate) waiting: i64,
}

/// Asks the active relay of a domain how far it is, of all rows or up to one. What it calls published it has
/// seen in the stream since the connection was made.
pub(crate) async fn published(bus: &Bus, domain: &str, up_to: Option<i64>) -> crate::Result<Published> {
    bus.request(format!("published.{domain}"), &up_to, None, &Trace::start()).await?.parse()
}

/// The connection over which the active relay has compared the stream with its outbox.
#[derive(Clone, Default)]
struct Checked(Arc<Mutex<Option<Session>>>);

impl Checked {
    fn set(&self, session: &Session) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
    }

    fn holds(&self, bus: &Bus) -> bool {
        let checked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bus.is_connected() && checked.as_ref() == Some(&bus.session())
    }
}

fn published_answer(
    pool: &PgPool,
    bus: &Bus,
    checked: &Checked,
) -> impl Fn(Delivery) -> BoxFuture<'static, Answer> + Send + Sync + 'static {
    let (pool, bus, checked) = (pool.clone(), bus.clone(), checked.clone());
    move |request| {
        let (pool, bus, checked) = (pool.clone(), bus.clone(), checked.clone());
        Box::pin(async move {
            let up_to = serde_json::from_slice(&request.body).unwrap_or_default();
            match outbox::published(&pool, up_to).await {
                // Looked at afterwards: the marks that were read are those of a stream that was checked.
                Ok(published) if checked.holds(&bus) => {
                    Answer::accepted(&published).unwrap_or_else(|_| Answer::broken())
                }
                _ => Answer::unavailable(),
            }
        })
    }
}

async fn run(
    domain: &str,
    connection: &mut PgConnection,
    bus: &Bus,
    (counts, told): (&Counts, &Told),
    checked: &Checked,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let locked = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "locked!""#, LOCK)
        .fetch_one(&mut *connection)
        .await?;
    if !locked {
        return Ok(());
    }
    // Before the check: what is checked and what is published belong to one and the same connection.
    let session = bus.session();
    let lost = find_lost_tail(domain, connection, bus).await?;
    if lost > 0 {
        told.losses.inc();
        told.replayed.inc_by(lost);
        tracing::warn!(domain, rows = lost, "the stream lost its tail, publishing it again");
    }
    let newest = outbox::stored_range(connection).await?.map_or(0, |(_, newest)| newest);
    let mut progress = Progress { session, newest };
    checked.set(&progress.session);
    tracing::debug!(domain, "relay active");
    let mut pokes = bus.client.subscribe(wire::poke_subject(domain)).await?;
    while !stop.is_cancelled() {
        // A server that was away may have come back with less than it had acknowledged.
        if !progress.holds(bus) {
            return Ok(());
        }
        let next_round = tokio::time::Instant::now() + GATHER;
        let rows = outbox::unpublished(connection, ROUND).await?;
        let events = rows.iter().map(|row| row.events.len()).sum();
        let full = ROUND.is_full(rows.len(), events);
        if !rows.is_empty() {
            let started = Instant::now();
            let subjects = rows.iter().flat_map(|row| &row.events).map(|event| &event.subject);
            let changes = cache::changes(subjects.filter_map(|subject| cache::key_of(subject)));
            // Once more: who committed it may have died before saying so. First, so that nobody hears of an event
            // and is then shown what was before it.
            if let Some(changes) = changes {
                bus.say_changed(domain, changes).await;
            }
            publish(connection, bus, rows, &mut progress).await?;
            counts.done(events, started.elapsed());
            told.published.observe(started.elapsed().as_secs_f64());
        }
        if full {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(POLL) => {}
            _ = pokes.next() => {
                // One look serves all pokes that came meanwhile.
                tokio::time::sleep_until(next_round).await;
                bus::arrived(&mut pokes).for_each(drop);
            }
        }
    }
    Ok(())
}

/// What a relay knows of the stream since it compared it with the outbox.
struct Progress {
    session: Session,
    /// The highest place that is noted: what is stored from now on comes behind it.
    newest: i64,
}

impl Progress {
    /// Whether the connection over which the stream was checked still stands.
    fn holds(&self, bus: &Bus) -> bool {
        bus.is_connected() && bus.session() == self.session
    }
}

/// Compares what the outbox noted as stored with what the stream holds, and gives back the rows that
/// it no longer does. A stream loses from its end, so in the order of their places the first lost row
/// is found by bisection.
async fn find_lost_tail(domain: &str, connection: &mut PgConnection, bus: &Bus) -> anyhow::Result<u64> {
    let Some((oldest, newest)) = outbox::stored_range(connection).await? else {
        return Ok(0);
    };
    let stream = bus.extent(wire::EVENTS).await?;
    // Nearly always the last row is there, and that is all there is to ask.
    if first_intact(connection, bus, &stream, newest).await?.is_some() {
        return Ok(0);
    }
    // Every row below `from` is there, and the first one from `to` on is not.
    let (mut from, mut to) = (oldest, newest);
    while from < to {
        let middle = i64::midpoint(from, to);
        match first_intact(connection, bus, &stream, middle).await? {
            Some(place) => from = place + 1,
            None => to = middle,
        }
    }
    let gap = outbox::stored_from(connection, oldest).await?.filter(|_| from <= oldest);
    if let Some(row) = gap.filter(|row| row.first_seq > stream.last + 1) {
        // Published again is what is kept. What came before it may be lost too, and was not kept.
        tracing::error!(
            domain,
            stream_ends_at = stream.last,
            outbox_begins_at = row.first_seq,
            "the stream lost more than the outbox keeps: rebuild the projections, `outcry replay <consumer>`"
        );
    }
    Ok(outbox::unmark(connection, from).await?)
}

/// The place of the first published row from this place on, if the stream still holds it.
async fn first_intact(
    connection: &mut PgConnection,
    bus: &Bus,
    stream: &Extent,
    place: i64,
) -> anyhow::Result<Option<i64>> {
    let Some(row) = outbox::stored_from(connection, place).await? else {
        return Ok(None);
    };
    // What the stream let go of at its beginning was not lost: it had its time. Unless it was said before
    // this stream was made: then it went with the one before.
    if row.last_seq < stream.first && row.created_at > stream.created {
        return Ok(Some(row.last_seq));
    }
    let held = bus.message_id(wire::EVENTS, row.last_seq).await?.map(|id| id.to_string());
    Ok(held.is_some_and(|held| row.events.contains(&held)).then_some(row.last_seq))
}

/// Publishes rows, then marks those that are stored. A failure ends the round at the first event that
/// is not stored: it comes first in the next one. Events sent together with it may be stored before
/// it; consumers go by the versions that events carry.
async fn publish(
    connection: &mut PgConnection,
    bus: &Bus,
    rows: Vec<Row>,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let mut window = Vec::with_capacity(WINDOW);
    let mut places = vec![Places::default(); rows.len()];
    let mut failure = None;
    'rows: for (index, row) in rows.iter().enumerate() {
        for event in &row.events {
            // The client keeps a permit for each unconfirmed message and waits without end for more.
            if window.len() == WINDOW {
                failure = settle(&mut window, &mut places).await;
            }
            if failure.is_some() {
                break 'rows;
            }
            match bus.js.send_publish(event.subject.clone(), message(event)).await {
                Ok(ack) => window.push((index, ack)),
                Err(error) => {
                    failure = settle(&mut window, &mut places).await.or(Some((index, error)));
                    break 'rows;
                }
            }
        }
    }
    if failure.is_none() {
        failure = settle(&mut window, &mut places).await;
    }
    let stored = failure.as_ref().map_or(rows.len(), |(index, _)| *index);
    let ids: Vec<i64> = rows.iter().take(stored).map(|row| row.id).collect();
    let places = places.get(..stored).unwrap_or_default();
    // Sent over one connection and stored over the next, or stored where other rows are noted: the stream may
    // have lost those, and a place noted now would hide it. Looked at again first; what was stored already is
    // not stored twice.
    ensure!(progress.holds(bus), "the connection was made again, looking at the stream first");
    if let Some(place) =
        places.iter().map(|place| place.fresh).min().filter(|place| *place <= progress.newest)
    {
        bail!("the stream stored an event at {place}, where it held another: it went back");
    }
    let firsts: Vec<i64> = places.iter().map(|place| place.first).collect();
    let lasts: Vec<i64> = places.iter().map(|place| place.last).collect();
    outbox::mark_published(connection, &ids, &firsts, &lasts).await?;
    progress.newest = lasts.into_iter().fold(progress.newest, i64::max);
    match failure {
        Some((_, error)) => Err(error).context("publish events"),
        None => Ok(()),
    }
}

/// Where the events of a row are stored.
#[derive(Clone)]
struct Places {
    first: i64,
    last: i64,
    /// The first of those that were not there before.
    fresh: i64,
}

impl Default for Places {
    fn default() -> Self {
        Self { first: i64::MAX, last: 0, fresh: i64::MAX }
    }
}

/// Waits until everything in the window is stored; the row that is not, otherwise.
async fn settle(
    window: &mut Vec<(usize, PublishAckFuture)>,
    places: &mut [Places],
) -> Option<(usize, PublishError)> {
    for (index, ack) in window.drain(..) {
        match ack.await {
            Ok(ack) => {
                let place = i64::try_from(ack.sequence).unwrap_or(i64::MAX);
                let row = &mut places[index];
                (row.first, row.last) = (row.first.min(place), row.last.max(place));
                if !ack.duplicate {
                    row.fresh = row.fresh.min(place);
                }
            }
            Err(error) => return Some((index, error)),
        }
    }
    None
}

fn message(event: &Outgoing) -> PublishMessage {
    let mut headers = HeaderMap::new();
    headers.insert(header::MESSAGE_ID, event.id.to_string());
    headers.insert(header::TRACEPARENT, event.traceparent.as_str());
    headers.insert(header::TRACE_ID, event.traceparent.get(3..35).unwrap_or_default());
    headers.insert(header::CORRELATION_ID, event.correlation_id.as_str());
    headers.insert(header::SERVICE, event.service.as_str());
    PublishMessage::build()
        .payload(event.body.get().to_owned().into())
        .headers(headers)
        .expected_stream(wire::EVENTS)
}
