//! Brings messages to a function and carries its verdicts out. The same for all functions.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use async_nats::{
    HeaderMap, Message, Subscriber,
    jetstream::{self, AckKind},
};
use futures_util::StreamExt;
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Error, Timestamp, Trace,
    bus::{self, Bus},
    dead_letter,
    error::{Outage, is_outage},
    function::Wakes,
    invoke::{Delivery, Host, Verdict},
    replay,
    service::Service,
    wire::{self, Answer, header},
};

/// How long one pull waits at the server for a first message, and so how long a function without work takes to stop.
const PULL_EXPIRES: Duration = Duration::from_secs(1);
/// How long to wait after the server could not serve a pull.
const PULL_AGAIN: Duration = Duration::from_millis(250);
/// Batches of events begin at least this far apart, so that the events of a busy time share transactions. One that
/// comes alone is not kept waiting.
const GATHER: Duration = Duration::from_millis(50);
/// How often the stream is told that a message is still being worked on; well under `ack_wait`.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// A turn of due work that takes longer is broken off.
const LONGEST_TURN: Duration = Duration::from_secs(10);
/// The longest sleep of due work, should the poke that would wake it be lost.
const DUE_POLL: Duration = Duration::from_millis(500);
/// The sleep of due work that is overdue but must wait for something.
const DUE_WAIT: Duration = Duration::from_millis(25);
/// Turns of due work that are woken begin at least this far after the last one, so that one serves all that woke it in a
/// busy time. What wakes it alone is not kept waiting.
const DUE_GATHER: Duration = Duration::from_millis(10);

/// Serves a function until told to stop; returns when what was in flight is finished.
pub async fn serve(host: Host, bus: Bus, stop: CancellationToken) -> anyhow::Result<()> {
    let host = Arc::new(host);
    match &host.spec().wakes {
        Wakes::Command { .. } | Wakes::Events(_) => pull(Arc::clone(&host), &bus, &stop).await,
        Wakes::Due(events) => due(Arc::clone(&host), &bus, events, &stop).await,
        Wakes::Query => queries(Arc::clone(&host), &bus, &stop).await,
    }
}

/// Every function is a micro service under its one word, so that `nats service` finds it.
fn service(host: &Host) -> Service {
    let spec = host.spec();
    let wakes = match &spec.wakes {
        Wakes::Command { .. } => "command".to_owned(),
        Wakes::Query => "query".to_owned(),
        Wakes::Events(names) => names.join(" "),
        Wakes::Due(_) => "due work".to_owned(),
    };
    let metadata = json!({ "domain": spec.domain, "wakes": wakes, "emits": spec.emits.join(" ") });
    Service::new(spec.name, format!("{} of {}", spec.name, spec.domain), metadata)
}

async fn pull(host: Arc<Host>, bus: &Bus, stop: &CancellationToken) -> anyhow::Result<()> {
    let spec = Arc::clone(host.spec());
    let (stream, _) = spec.consumer().context("not a function of messages")?;
    let mut puller = Puller::start(bus, stream, spec.name).await?;
    let running = pulled(&host, bus, stream, stop).start(bus).await?;
    let mut watch = (stream == wire::EVENTS).then(replay::Watch::default);
    let mut gathered = Instant::now();
    let lanes = Arc::new(Semaphore::new(spec.lanes));
    let tasks = TaskTracker::new();
    loop {
        let taken = async {
            host.breaker.closed(spec.name, &host.pool).await;
            if let Some(watch) = &mut watch {
                watch.look(&host, bus).await;
            }
            let mut permits = vec![Arc::clone(&lanes).acquire_owned().await?];
            // One transaction holds a batch, or one message; then several may be fetched at once.
            if spec.batch == 1 {
                permits.extend(std::iter::from_fn(|| Arc::clone(&lanes).try_acquire_owned().ok()));
            }
            let most = if spec.batch == 1 { permits.len() } else { spec.batch };
            tokio::time::sleep_until(gathered).await;
            let messages = puller.pull(most).await?;
            // What a full batch left behind has waited already.
            if stream == wire::EVENTS && messages.len() < most {
                gathered = Instant::now() + GATHER;
            }
            Ok::<_, anyhow::Error>((messages, permits))
        };
        let (messages, permits) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            taken = taken => taken?,
        };
        for (batch, permit) in share(messages, permits, spec.batch) {
            let (host, bus) = (Arc::clone(&host), bus.clone());
            tasks.spawn(async move {
                process(&host, &bus, batch).await;
                drop(permit);
            });
        }
    }
    puller.give_back(&host).await;
    tasks.close();
    tasks.wait().await;
    running.stop().await;
    Ok(())
}

/// A function that pulls, with its way to try a dead letter again: never for secrets, which leave none.
fn pulled(host: &Arc<Host>, bus: &Bus, stream: &str, stop: &CancellationToken) -> Service {
    let spec = host.spec();
    let subjects = spec.consumer().map(|(_, subjects)| subjects.join(" ")).unwrap_or_default();
    let service = service(host).counted(spec.name, subjects);
    if stream == wire::CREDENTIALS {
        return service;
    }
    let service = match &spec.rebuild {
        Some(_) => replay::serve(service, host, bus, stop),
        None => service,
    };
    let (again, bus) = (Arc::clone(host), bus.clone());
    service.answering("redrive", format!("redrive.{}", spec.name), 1, move |request| {
        let (host, bus) = (Arc::clone(&again), bus.clone());
        Box::pin(async move { host.redrive(&bus, &request).await })
    })
}

/// Deals messages to permits: all to one, or one to each.
fn share(
    messages: Vec<Message>,
    permits: Vec<OwnedSemaphorePermit>,
    batch: usize,
) -> Vec<(Vec<Message>, OwnedSemaphorePermit)> {
    let mut messages = messages.into_iter().peekable();
    let mut shares = Vec::new();
    for permit in permits {
        if messages.peek().is_none() {
            break;
        }
        shares.push((messages.by_ref().take(batch).collect(), permit));
    }
    shares
}

/// Runs one batch, telling the stream meanwhile that it is being worked on.
async fn process(host: &Host, bus: &Bus, messages: Vec<Message>) {
    let mut deliveries = Vec::with_capacity(messages.len());
    let mut handles = Vec::with_capacity(messages.len());
    for message in messages {
        let message = jetstream::Message { message, context: bus.js.clone() };
        if let Some(delivery) = delivery(&message) {
            deliveries.push(delivery);
            handles.push(message);
        }
    }
    host.tallies.redelivered(deliveries.iter().filter(|delivery| delivery.delivered > 1).count());
    let verdicts = {
        let mut running = std::pin::pin!(host.execute(&deliveries));
        let mut ticks = tokio::time::interval_at(Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
        loop {
            tokio::select! {
                biased;
                verdicts = &mut running => break verdicts,
                _ = ticks.tick() => {
                    for message in &handles {
                        let _ = message.ack_with(AckKind::Progress).await;
                    }
                }
            }
        }
    };
    for ((message, delivery), verdict) in handles.iter().zip(&deliveries).zip(verdicts) {
        if let Err(error) = carry_out(host, bus, message, delivery, verdict).await {
            // The message comes again; what was committed is not done twice.
            tracing::warn!(
                function = host.spec().name,
                error = format!("{error:#}"),
                "verdict not carried out"
            );
        }
    }
}

pub(crate) fn delivery(message: &jetstream::Message) -> Option<Delivery> {
    let info = message.info().ok()?;
    Some(Delivery {
        subject: message.subject.to_string(),
        headers: message.headers.clone().unwrap_or_default(),
        body: message.payload.clone(),
        stamp: Timestamp::from(info.published),
        stream: info.stream.to_owned(),
        sequence: info.stream_sequence,
        delivered: u64::try_from(info.delivered).unwrap_or_default(),
    })
}

async fn carry_out(
    host: &Host,
    bus: &Bus,
    message: &jetstream::Message,
    delivery: &Delivery,
    verdict: Verdict,
) -> anyhow::Result<()> {
    let secret = host.spec().wakes == Wakes::Command { secret: true };
    let headers = &delivery.headers;
    let kind = match verdict {
        Verdict::Done => AckKind::Ack,
        Verdict::Answered(answer) => {
            reply(host, bus, headers, &answer).await?;
            AckKind::Ack
        }
        // A message with a secret is neither kept nor written anywhere: the caller tries again.
        Verdict::Again(_) if secret => {
            reply(host, bus, headers, &Answer::unavailable()).await?;
            AckKind::Ack
        }
        Verdict::Dead(_) if secret => {
            reply(host, bus, headers, &Answer::broken()).await?;
            AckKind::Ack
        }
        Verdict::Again(delay) => AckKind::Nak(Some(delay)),
        Verdict::Dead(reason) => match give_up(host, bus, delivery, &reason).await {
            Ok(()) => {
                reply(host, bus, headers, &Answer::broken()).await?;
                AckKind::Term
            }
            Err(error) => {
                tracing::error!(function = host.spec().name, error = format!("{error:#}"), "no dead letter");
                AckKind::Nak(Some(Duration::from_secs(5)))
            }
        },
    };
    message.ack_with(kind).await.map_err(|error| anyhow::anyhow!("acknowledge: {error}"))
}

/// Keeps a message that nothing could be done with. Its sender finds out that it failed.
async fn give_up(host: &Host, bus: &Bus, delivery: &Delivery, reason: &str) -> anyhow::Result<()> {
    let function = host.spec().name;
    tracing::error!(function, message = delivery.place(), subject = delivery.subject, reason, "dead letter");
    dead_letter::keep(bus, function, delivery, reason).await?;
    Ok(host.note_failure(delivery).await?)
}

/// Answers the sender, on a subject of its own function's only.
async fn reply(host: &Host, bus: &Bus, headers: &HeaderMap, answer: &Answer) -> anyhow::Result<()> {
    let Some(subject) = headers.get(header::REPLY_TO) else { return Ok(()) };
    let own = format!("reply.{}.", host.spec().name);
    if !subject.as_str().starts_with(&own) || subject.as_str().contains(['*', '>', ' ']) {
        return Ok(());
    }
    Ok(bus.publish_answer(subject.as_str().to_owned(), answer).await?)
}

/// Pulls messages of a durable consumer. Asks for messages only when there is a lane for them, so
/// none waits here while another replica is free.
struct Puller {
    bus: Bus,
    subject: String,
    inbox: String,
    answers: Subscriber,
    pulls: u64,
    /// The pull that has not ended.
    open: Option<Pull>,
    /// What it has received so far.
    taken: Vec<Message>,
}

/// A pull that was asked for.
struct Pull {
    inbox: String,
    most: usize,
    deadline: Instant,
}

impl Puller {
    /// Begins to listen for what is pulled. Whether there is such a consumer shows at the first pull: until
    /// `maintain` has made it, pulls are refused and tried again.
    async fn start(bus: &Bus, stream: &str, consumer: &str) -> anyhow::Result<Self> {
        let inbox = bus.client.new_inbox();
        let answers = bus.client.subscribe(format!("{inbox}.*")).await?;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        Ok(Self { bus: bus.clone(), subject, inbox, answers, pulls: 0, open: None, taken: Vec::new() })
    }

    /// Waits for a first message and returns it with what else is there, up to `most`; nothing
    /// when none came for a while. Broken off, it leaves a pull open.
    async fn pull(&mut self, most: usize) -> anyhow::Result<Vec<Message>> {
        self.pulls += 1;
        let inbox = format!("{}.{}", self.inbox, self.pulls);
        let request = json!({ "batch": most, "expires": PULL_EXPIRES.as_nanos() as u64, "no_wait": true });
        self.bus
            .client
            .publish_with_reply(self.subject.clone(), inbox.clone(), request.to_string().into())
            .await?;
        self.open = Some(Pull { inbox, most, deadline: Instant::now() + PULL_EXPIRES + PULL_AGAIN });
        self.finish().await?;
        Ok(std::mem::take(&mut self.taken))
    }

    /// Receives until the open pull has ended.
    async fn finish(&mut self) -> anyhow::Result<()> {
        while let Some(Pull { inbox, most, deadline }) = &self.open {
            if self.taken.len() >= *most {
                break;
            }
            let Ok(answer) = tokio::time::timeout_at(*deadline, self.answers.next()).await else { break };
            let message = answer.context("the connection to NATS is closed")?;
            let Some(status) = message.status else {
                self.taken.push(message);
                continue;
            };
            // The end of an earlier pull says nothing about this one.
            if message.subject.as_str() != inbox {
                continue;
            }
            self.open = None;
            // 404: no more; 408: none came. Anything else: the consumer or its leader is away.
            if !matches!(status.as_u16(), 404 | 408) {
                tracing::debug!(%status, description = ?message.description, subject = self.subject, "pull refused");
                tokio::time::sleep(PULL_AGAIN).await;
            }
        }
        self.open = None;
        Ok(())
    }

    /// Stops, and returns what arrived but was not begun. Only when the open pull has ended: what the server sends to
    /// one that listens no more is lost on its way, and would be delivered again after `ack_wait` only.
    async fn give_back(mut self, host: &Host) {
        if self.bus.is_connected() {
            let _ = self.finish().await;
        }
        for message in self.taken {
            let message = jetstream::Message { message, context: self.bus.js.clone() };
            if let Some(delivery) = delivery(&message) {
                let verdict = Verdict::Again(Duration::from_millis(1));
                let _ = carry_out(host, &self.bus, &message, &delivery, verdict).await;
            }
        }
    }
}

async fn queries(host: Arc<Host>, bus: &Bus, stop: &CancellationToken) -> anyhow::Result<()> {
    let spec = Arc::clone(host.spec());
    let _hearing = match &host.cache {
        Some(cache) => Some(cache.hear(bus, spec.domain).await?),
        None => None,
    };
    let subject = wire::query_subject(spec.domain, spec.name);
    let service = service(&host).answering(spec.name, subject, spec.lanes, move |request| {
        let host = Arc::clone(&host);
        Box::pin(async move {
            let started = Instant::now();
            let answer = host.answer(&request).await;
            let trace = Trace::from_headers(&request.headers);
            tracing::debug!(
                function = host.spec().name,
                status = answer.status,
                duration_ms = started.elapsed().as_secs_f64() * 1e3,
                trace_id = trace.trace_id,
                correlation_id = trace.correlation_id,
                "answered"
            );
            answer
        })
    });
    let running = service.start(bus).await?;
    stop.cancelled().await;
    running.stop().await;
    Ok(())
}

async fn due(host: Arc<Host>, bus: &Bus, events: &[&str], stop: &CancellationToken) -> anyhow::Result<()> {
    let mut pokes = Vec::new();
    for event in events {
        pokes.push(bus.client.subscribe(format!("live.{event}.*")).await?);
    }
    let mut pokes = futures_util::stream::select_all(pokes);
    let running = service(&host).counted(host.spec().name, "clock".into()).start(bus).await?;
    while !stop.is_cancelled() {
        let turned = async {
            host.breaker.closed(host.spec().name, &host.pool).await;
            let late = || Error::from(Outage(format!("a turn took longer than {LONGEST_TURN:?}")));
            tokio::time::timeout(LONGEST_TURN, turn(&host)).await.unwrap_or_else(|_| Err(late()))
        };
        // What a turn began is undone when it is dropped.
        let Some(turned) = stop.run_until_cancelled(turned).await else { break };
        let sleep = match turned {
            Ok(sleep) => sleep,
            Err(Error::Later(delay)) => delay,
            Err(Error::Refused(refused)) => {
                tracing::error!(function = host.spec().name, refused = refused.message, "due work refused");
                Duration::from_secs(1)
            }
            Err(Error::Broken(error)) => {
                if is_outage(&error) {
                    host.breaker.open(host.spec().name, &error);
                } else {
                    tracing::error!(
                        function = host.spec().name,
                        error = format!("{error:#}"),
                        "due work broke"
                    );
                }
                Duration::from_secs(1)
            }
        };
        let now = Instant::now();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep_until(now + sleep) => {}
            Some(_) = pokes.next() => tokio::time::sleep_until(now + sleep.min(DUE_GATHER)).await,
        }
        bus::arrived(&mut pokes).for_each(drop);
    }
    running.stop().await;
    Ok(())
}

/// Does what is due, and says how long to sleep.
async fn turn(host: &Host) -> crate::Result<Duration> {
    if host.work().await? > 0 {
        return Ok(Duration::ZERO);
    }
    let Some(next) = host.next_due().await? else { return Ok(DUE_POLL) };
    let ahead = next.since(Timestamp::now());
    Ok(if ahead.is_zero() { DUE_WAIT } else { ahead.min(DUE_POLL) })
}
