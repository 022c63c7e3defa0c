//! Publishes what transactions said, in the order in which they said it.
//!
//! One relay of a domain is active, by an advisory lock on a connection of its own; others stand by.
//! Rows stay after the stream's acknowledgement, because an acknowledgement is not yet an fsync.

use std::time::Duration;

use anyhow::Context;
use async_nats::{HeaderMap, jetstream::message::PublishMessage};
use futures_util::StreamExt;
use sqlx::{Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::Bus,
    outbox::{self, Row},
    wire::{self, header},
};

/// The advisory lock that the active relay of a database holds.
const LOCK: i64 = 0x6f75_7472_656c_6179;
/// The most rows published in one round.
const ROUND: i64 = 64;
/// How often the outbox is looked at without a poke.
const POLL: Duration = Duration::from_millis(250);
/// How long to wait after a failure, or while another relay is active.
const AGAIN: Duration = Duration::from_millis(500);

/// Relays a domain's outbox until told to stop.
pub async fn serve(domain: &str, pool: PgPool, bus: Bus, stop: CancellationToken) -> anyhow::Result<()> {
    // The same options as the pool's, but a connection that nobody else uses: it holds the lock.
    let options = pool.connect_options();
    while !stop.is_cancelled() {
        let active = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            run(domain, &mut connection, &bus, &stop).await?;
            connection.close().await?;
            Ok::<_, anyhow::Error>(())
        };
        if let Err(error) = active.await {
            tracing::warn!(domain, error = format!("{error:#}"), "relay interrupted, trying again");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
    Ok(())
}

async fn run(
    domain: &str,
    connection: &mut PgConnection,
    bus: &Bus,
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
        tracing::warn!(domain, rows = lost, "the stream lost its tail, publishing it again");
    }
    tracing::debug!(domain, "relay active");
    let mut pokes = bus.client.subscribe(wire::poke_subject(domain)).await?;
    while !stop.is_cancelled() {
        // A server that was away may have come back with less than it had acknowledged.
        if connections.has_changed()? {
            return Ok(());
        }
        let rows = outbox::unpublished(connection, ROUND).await.map_err(into_anyhow)?;
        let full = rows.len() == usize::try_from(ROUND)?;
        if !rows.is_empty() {
            publish(connection, bus, rows).await?;
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
/// it no longer does. A stream loses from its end and rows are published in the order of their ids,
/// so the first lost row is found by bisection.
async fn find_lost_tail(connection: &mut PgConnection, bus: &Bus) -> anyhow::Result<u64> {
    let Some((oldest, newest)) = outbox::stored_range(connection).await.map_err(into_anyhow)? else {
        return Ok(0);
    };
    // Nearly always the last row is there, and that is all there is to ask.
    if first_intact(connection, bus, newest).await?.is_some() {
        return Ok(0);
    }
    // Every row below `from` is there, and the first one from `to` on is not.
    let (mut from, mut to) = (oldest, newest);
    while from < to {
        let middle = i64::midpoint(from, to);
        match first_intact(connection, bus, middle).await? {
            Some(row) => from = row + 1,
            None => to = middle,
        }
    }
    outbox::unmark(connection, from).await.map_err(into_anyhow)
}

/// The first published row from this id on, if the stream still holds its last event.
async fn first_intact(connection: &mut PgConnection, bus: &Bus, id: i64) -> anyhow::Result<Option<i64>> {
    let Some(row) = outbox::stored_from(connection, id).await.map_err(into_anyhow)? else { return Ok(None) };
    let held = bus.message_id(wire::EVENTS, row.last_seq).await.map_err(into_anyhow)?;
    let noted = row.last_event.and_then(|id| id.parse().ok());
    Ok((held.is_some() && held == noted).then_some(row.id))
}

/// Publishes rows, then marks those that are stored. After a failure it stops at the first event
/// that is not stored: nothing overtakes it.
async fn publish(connection: &mut PgConnection, bus: &Bus, rows: Vec<Row>) -> anyhow::Result<()> {
    let mut sent = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut acks = Vec::with_capacity(row.events.len());
        for event in &row.events {
            let mut headers = HeaderMap::new();
            headers.insert(header::MESSAGE_ID, event.id.to_string());
            headers.insert(header::TRACEPARENT, event.traceparent.as_str());
            headers.insert(header::TRACE_ID, event.traceparent.get(3..35).unwrap_or_default());
            headers.insert(header::CORRELATION_ID, event.correlation_id.as_str());
            headers.insert(header::SERVICE, event.service.as_str());
            let message = PublishMessage::build()
                .payload(event.body.get().to_owned().into())
                .headers(headers)
                .expected_stream(wire::EVENTS);
            acks.push(bus.js.send_publish(event.subject.clone(), message).await?);
        }
        sent.push((row.id, acks));
    }
    let (mut ids, mut firsts, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
    let mut failure = None;
    'rows: for (id, acks) in sent {
        let (mut first, mut last) = (i64::MAX, 0);
        for ack in acks {
            match ack.await {
                Ok(ack) => {
                    let sequence = i64::try_from(ack.sequence)?;
                    (first, last) = (first.min(sequence), last.max(sequence));
                }
                Err(error) => {
                    failure = Some(error);
                    break 'rows;
                }
            }
        }
        ids.push(id);
        firsts.push(first);
        lasts.push(last);
    }
    outbox::mark_published(connection, &ids, &firsts, &lasts).await.map_err(into_anyhow)?;
    match failure {
        Some(error) => Err(error).context("publish events"),
        None => Ok(()),
    }
}

fn into_anyhow(error: crate::Error) -> anyhow::Error {
    match error {
        crate::Error::Broken(error) => error,
        other => anyhow::anyhow!("{other}"),
    }
}
