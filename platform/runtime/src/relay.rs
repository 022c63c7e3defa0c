//! Publishes what transactions said, in the order in which they said it.
//!
//! One relay of a domain is active, by an advisory lock on a connection of its own; others stand by.
//! Rows stay after the stream's acknowledgement, because an acknowledgement is not yet an fsync.

use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::{
    HeaderMap,
    jetstream::{
        context::{PublishAckFuture, PublishError},
        message::PublishMessage,
    },
};
use futures_util::StreamExt;
use prometheus::{Histogram, IntCounter};
use serde_json::json;
use sqlx::{Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::Bus,
    metrics::{Metrics, SECONDS},
    outbox::{self, Row},
    service::{Counts, Service},
    wire::{self, Outgoing, header},
};

/// The advisory lock that the active relay of a database holds.
const LOCK: i64 = 0x6f75_7472_656c_6179;
/// The most rows published in one round.
const ROUND: i64 = 64;
/// The most events that wait for the stream's confirmation.
const WINDOW: usize = 1_000;
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
    let told = Told::of(&bus.metrics, domain);
    let metadata = json!({ "domain": domain, "wakes": "the outbox" });
    let running = Service::new(name, format!("publishes what {domain} says"), metadata)
        .counted("outbox", wire::poke_subject(domain))
        .start(&bus)
        .await?;
    // The same options as the pool's, but a connection that nobody else uses: it holds the lock.
    let options = pool.connect_options();
    while !stop.is_cancelled() {
        let active = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            run(domain, &mut connection, &bus, (&counts, &told), &stop).await?;
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

async fn run(
    domain: &str,
    connection: &mut PgConnection,
    bus: &Bus,
    (counts, told): (&Counts, &Told),
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let locked = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "locked!""#, LOCK)
        .fetch_one(&mut *connection)
        .await?;
    if !locked {
        return Ok(());
    }
    let mut connections = bus.connections();
    connections.mark_unchanged();
    let lost = find_lost_tail(connection, bus).await?;
    if lost > 0 {
        told.losses.inc();
        told.replayed.inc_by(lost);
        tracing::warn!(domain, rows = lost, "the stream lost its tail, publishing it again");
    }
    tracing::debug!(domain, "relay active");
    let mut pokes = bus.client.subscribe(wire::poke_subject(domain)).await?;
    while !stop.is_cancelled() {
        // A server that was away may have come back with less than it had acknowledged.
        if connections.has_changed()? {
            return Ok(());
        }
        let rows = outbox::unpublished(connection, ROUND).await?;
        let full = rows.len() == usize::try_from(ROUND)?;
        if !rows.is_empty() {
            let (started, events) = (Instant::now(), rows.iter().map(|row| row.events.len()).sum());
            publish(connection, bus, rows).await?;
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
                while let Some(Some(_)) = futures_util::FutureExt::now_or_never(pokes.next()) {}
            }
        }
    }
    Ok(())
}

/// Compares what the outbox noted as stored with what the stream holds, and gives back the rows that
/// it no longer does. A stream loses from its end, so in the order of their places the first lost row
/// is found by bisection.
async fn find_lost_tail(connection: &mut PgConnection, bus: &Bus) -> anyhow::Result<u64> {
    let Some((oldest, newest)) = outbox::stored_range(connection).await? else {
        return Ok(0);
    };
    // What the stream let go of at its beginning was not lost: it had its time.
    let kept_from = bus.first_sequence(wire::EVENTS).await?;
    // Nearly always the last row is there, and that is all there is to ask.
    if first_intact(connection, bus, kept_from, newest).await?.is_some() {
        return Ok(0);
    }
    // Every row below `from` is there, and the first one from `to` on is not.
    let (mut from, mut to) = (oldest, newest);
    while from < to {
        let middle = i64::midpoint(from, to);
        match first_intact(connection, bus, kept_from, middle).await? {
            Some(place) => from = place + 1,
            None => to = middle,
        }
    }
    Ok(outbox::unmark(connection, from).await?)
}

/// The place of the first published row from this place on, if the stream still holds its last event.
async fn first_intact(
    connection: &mut PgConnection,
    bus: &Bus,
    kept_from: i64,
    place: i64,
) -> anyhow::Result<Option<i64>> {
    let Some(row) = outbox::stored_from(connection, place).await? else {
        return Ok(None);
    };
    if row.last_seq < kept_from {
        return Ok(Some(row.last_seq));
    }
    let held = bus.message_id(wire::EVENTS, row.last_seq).await?;
    let noted = row.last_event.and_then(|id| id.parse().ok());
    Ok((held.is_some() && held == noted).then_some(row.last_seq))
}

/// Publishes rows, then marks those that are stored. A failure ends the round at the first event that
/// is not stored: it comes first in the next one. Events sent together with it may be stored before
/// it; consumers go by the versions that events carry.
async fn publish(connection: &mut PgConnection, bus: &Bus, rows: Vec<Row>) -> anyhow::Result<()> {
    let mut window = Vec::with_capacity(WINDOW);
    let mut places = vec![(i64::MAX, 0); rows.len()];
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
    let (firsts, lasts): (Vec<i64>, Vec<i64>) = places.into_iter().take(stored).unzip();
    outbox::mark_published(connection, &ids, &firsts, &lasts).await?;
    match failure {
        Some((_, error)) => Err(error).context("publish events"),
        None => Ok(()),
    }
}

/// Waits until everything in the window is stored; the row that is not, otherwise.
async fn settle(
    window: &mut Vec<(usize, PublishAckFuture)>,
    places: &mut [(i64, i64)],
) -> Option<(usize, PublishError)> {
    for (index, ack) in window.drain(..) {
        match ack.await {
            Ok(ack) => {
                let place = i64::try_from(ack.sequence).unwrap_or(i64::MAX);
                let (first, last) = &mut places[index];
                (*first, *last) = ((*first).min(place), (*last).max(place));
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
