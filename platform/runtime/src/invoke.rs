//! What happens to a message, from bytes to verdict: decode, claim, handler, outcome, outbox, commit.
//!
//! Knows nothing of NATS: the [runner](crate::runner) brings deliveries and carries the verdicts out.

use std::{
    collections::{HashMap, HashSet},
    marker::PhantomData,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use serde_json::value::RawValue;
use sqlx::PgPool;
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    Caller, Cx, Error, Result, Timestamp, Trace, attempts,
    breaker::Breaker,
    bus::Bus,
    cache::{self, Cache},
    config::Env,
    cx::{Emitted, Reading, Received, Resources, Savepoint},
    dead_letter,
    error::{self, Outage, Refused},
    function::{Function, Handler, Hears, Spec, Wakes},
    inbox,
    metrics::{Metrics, Waits},
    outbox,
    outcome::{self, Claim},
    replay::{self, Heard, ToldBy},
    sender::Addressed,
    service::{Counts, Outcome},
    tally::{Tallies, Tally},
    wire::{self, Answer, Command, Envelope, Outgoing, Query, header},
};

/// An attempt that takes longer is broken off, before the stream would deliver it again.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(4);
/// How quickly a Postgres that is well answers. With an attempt it is less than the stream waits (`ack_wait`, 5 s).
const PROBE: Duration = Duration::from_millis(500);
/// From this delivery on a message runs alone: it may be what broke its batch or its process.
const SUSPICIOUS: u64 = 3;
/// How often an attempt that lost a race is repeated at once.
const RACES: usize = 3;

/// A message as a function receives it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Where it was published.
    pub subject: String,
    /// As published.
    pub headers: HeaderMap,
    /// As published.
    pub body: Bytes,
    /// When the stream stored it.
    pub stamp: Timestamp,
    /// The stream's name and the message's place in it; names the message in logs and counts.
    pub stream: String,
    /// See `stream`.
    pub sequence: u64,
    /// How many times the stream has delivered it, this one included.
    pub delivered: u64,
}

impl Delivery {
    /// A request as it arrives over core NATS: stored nowhere, so it is stamped here.
    pub(crate) fn of_request(request: &async_nats::Message) -> Self {
        Self {
            headers: request.headers.clone().unwrap_or_default(),
            body: request.payload.clone(),
            ..Self::of_bytes(&request.subject, b"")
        }
    }

    pub(crate) fn of_bytes(subject: &str, body: &'static [u8]) -> Self {
        Self {
            subject: subject.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body),
            stamp: Timestamp::now(),
            stream: String::new(),
            sequence: 0,
            delivered: 1,
        }
    }

    /// Its trace, or a new one.
    pub fn trace(&self) -> Trace {
        Trace::from_headers(&self.headers)
    }

    /// The value of a header; names are case-sensitive.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }

    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.stream, self.sequence)
    }

    /// The id under which the outcome of this command is kept.
    pub(crate) fn command_id(&self, function: &str) -> Uuid {
        let Some(key) = self.header(header::IDEMPOTENCY_KEY) else { return self.id() };
        let user = Caller::from_headers(&self.headers).map(|caller| caller.id.to_string());
        wire::command_id(user.as_deref(), function, key)
    }

    /// The id under which it is counted when its body has none.
    fn id(&self) -> Uuid {
        match self.header(header::MESSAGE_ID) {
            Some(id) => id.parse().unwrap_or_else(|_| wire::derived_id(&["message", id])),
            None => wire::derived_id(&["place", &self.place()]),
        }
    }
}

/// What is to become of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Decided: answer the caller and acknowledge.
    Answered(Answer),
    /// Done: acknowledge.
    Done,
    /// Deliver it again after this long.
    Again(Duration),
    /// Give it up: to the dead letters, with the reason.
    Dead(String),
}

/// A verdict, and how it is counted.
type Decided = (Verdict, Outcome);

/// The answer that a command was given before.
#[derive(Debug, Clone)]
pub struct Recalled {
    /// Of the command that came with the key.
    pub fingerprint: Option<Uuid>,
    /// What it was told.
    pub answer: Answer,
}

/// The answers found, by command id.
pub type Recall = HashMap<Uuid, Recalled>;

/// The code of a function, its message types erased.
#[derive(Clone)]
pub(crate) enum Work {
    Batch(Arc<dyn Batch>),
    Query(Arc<dyn Ask>),
    Due(Arc<dyn Due>),
}

/// Runs messages in one transaction. An error concerns all of them.
pub(crate) trait Batch: Send + Sync {
    fn attempt<'a>(
        &'a self,
        host: &'a Host,
        members: &'a [Delivery],
        careful: bool,
    ) -> BoxFuture<'a, Result<Vec<Verdict>>>;

    /// Runs the handler in the transaction of a rebuild, on those events that it does not contain yet.
    fn relive<'a>(
        &'a self,
        host: &'a Host,
        cx: &'a mut Cx,
        members: &'a [Delivery],
        told_by: ToldBy,
    ) -> BoxFuture<'a, Result<()>> {
        let _ = (cx, members, told_by);
        let function = host.spec().name;
        Box::pin(async move { Err(anyhow::anyhow!("{function} keeps no projection").into()) })
    }

    /// A command as its text says, ready to go; events are not sent to a function.
    fn address(&self, _body: &[u8]) -> Result<Addressed> {
        Err(Refused::malformed("it is woken by events").into())
    }
}

/// Answers a request.
pub(crate) trait Ask: Send + Sync {
    fn ask<'a>(&'a self, host: &'a Host, request: &'a Delivery) -> BoxFuture<'a, Result<Answer>>;
}

/// Works when its time has come.
pub(crate) trait Due: Send + Sync {
    fn next<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Option<Timestamp>>>;
    fn work<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<usize>>;
}

/// A function with what it works on.
pub struct Host {
    pub(crate) function: Function,
    pub(crate) pool: PgPool,
    pub(crate) bus: Option<Bus>,
    pub(crate) breaker: Breaker,
    pub(crate) counts: Arc<Counts>,
    pub(crate) tallies: Tallies,
    pub(crate) cache: Option<Arc<Cache>>,
    waits: Waits,
    resources: Arc<Resources>,
}

impl Host {
    /// Makes what the function needs. Without a bus a handler can neither ask nor see the backlog.
    pub fn new(function: Function, pool: PgPool, bus: Option<Bus>, env: &Env) -> anyhow::Result<Self> {
        let mut resources = Resources::new();
        for make in &function.resources {
            make(env, &mut resources)?;
        }
        // Without a bus nobody can ask what is counted.
        let metrics = bus.as_ref().map_or_else(|| Metrics::new(""), |bus| Arc::clone(&bus.metrics));
        let cache = match function.spec.caches {
            true => Cache::new(function.spec.name, env, &metrics)?,
            false => None,
        };
        Ok(Self {
            cache,
            breaker: Breaker::default(),
            counts: metrics.counts(function.spec.name),
            tallies: Tallies::of(&function.spec, &metrics),
            waits: metrics.watch_pool(function.spec.domain, &pool),
            function,
            pool,
            bus,
            resources: Arc::new(resources),
        })
    }

    /// The same function on other tables: what it does there is neither counted nor told.
    pub(crate) fn beside(&self, pool: PgPool) -> Self {
        // Nobody asks these.
        let metrics = Metrics::new("");
        Self {
            cache: None,
            breaker: Breaker::default(),
            counts: metrics.counts(self.spec().name),
            tallies: Tallies::of(self.spec(), &metrics),
            waits: metrics.watch_pool(self.spec().domain, &pool),
            function: self.function.clone(),
            pool,
            bus: self.bus.clone(),
            resources: Arc::clone(&self.resources),
        }
    }

    /// What is known of the function without running it.
    pub fn spec(&self) -> &Arc<Spec> {
        &self.function.spec
    }

    /// An invocation that only reads, on behalf of who asks.
    pub(crate) fn reading(&self, request: &Delivery) -> Cx {
        let caller = Caller::from_headers(&request.headers);
        let mut cx = self.cx(caller, request.stamp, Trace::from_headers(&request.headers));
        cx.reading = Reading::Yes(None);
        cx
    }

    pub(crate) fn cx(&self, caller: Option<Caller>, now: Timestamp, trace: Trace) -> Cx {
        Cx {
            spec: Arc::clone(self.spec()),
            pool: self.pool.clone(),
            resources: Arc::clone(&self.resources),
            bus: self.bus.clone(),
            caller,
            now,
            trace,
            tx: None,
            reading: Reading::No,
            savepoint: Savepoint::None,
            emitted: Emitted::default(),
            tally: Tally::default(),
            waits: self.waits.clone(),
            cache: self.cache.clone(),
        }
    }

    /// Says what these messages and events may have changed. To be called after the commit, and before anybody is answered.
    async fn say_changed(&self, members: &[Delivery], events: &[Outgoing]) {
        let Some(bus) = self.bus.as_ref().filter(|_| self.spec().changes()) else { return };
        let changes = match &self.spec().rebuild {
            Some(_) => Some(cache::everything()),
            None => {
                // An answer that is given again, or that refuses, speaks of its key as well.
                let subjects = members.iter().map(|member| &member.subject);
                let subjects = subjects.chain(events.iter().map(|event| &event.subject));
                cache::changes(subjects.filter_map(|subject| cache::key_of(subject)))
            }
        };
        if let Some(changes) = changes {
            bus.say_changed(self.spec().domain, changes).await;
        }
    }

    /// Runs messages, together where that works, and says what is to become of each, in order.
    pub async fn execute(&self, members: &[Delivery]) -> Vec<Verdict> {
        let (started, in_flight) = (Instant::now(), self.counts.begin(members.len()));
        let decided = self.decide(members).await;
        drop(in_flight);
        self.counts.handled(decided.iter().map(|(_, outcome)| *outcome), started.elapsed());
        decided.into_iter().map(|(verdict, _)| verdict).collect()
    }

    async fn decide(&self, members: &[Delivery]) -> Vec<Decided> {
        let Work::Batch(work) = &self.function.work else {
            let dead = || self.counted(Verdict::Dead("not a function of messages".into()));
            return members.iter().map(|_| dead()).collect();
        };
        let suspicious = members.iter().any(|member| member.delivered >= SUSPICIOUS);
        if members.len() > 1 && !suspicious {
            match self.guarded(work.as_ref(), members, false).await {
                Ok(verdicts) => return verdicts.into_iter().map(|verdict| self.counted(verdict)).collect(),
                Err(Error::Later(delay)) => {
                    return vec![(Verdict::Again(delay), Outcome::Later); members.len()];
                }
                Err(Error::Broken(error)) if error::is_outage(&error) => {
                    return vec![self.outage(&error); members.len()];
                }
                Err(Error::Broken(error)) => {
                    tracing::debug!(error = format!("{error:#}"), "batch broke, its members run one by one");
                }
                Err(Error::Refused(_)) => {}
            }
        }
        let mut verdicts = Vec::with_capacity(members.len());
        for member in members {
            verdicts.push(self.alone(work.as_ref(), member).await);
        }
        verdicts
    }

    async fn alone(&self, work: &dyn Batch, member: &Delivery) -> Decided {
        let (function, message) = (self.spec().name, member.place());
        // A message that came back often may have killed the process each time, so the attempt is
        // written down before it is made. One that came for the first time costs nothing.
        let mut count = 0;
        if member.delivered >= SUSPICIOUS {
            match attempts::begin(&self.pool, function, &message).await {
                Ok((tries, error)) if tries > attempts::MOST => return self.give_up(member, error).await,
                Ok((tries, _)) => count = tries,
                Err(error) => return self.away(error),
            }
        }
        let mut races = 0;
        let outcome = loop {
            match self.guarded(work, std::slice::from_ref(member), true).await {
                Err(Error::Broken(error)) if error::is_race(&error) && races < RACES => races += 1,
                outcome => break outcome,
            }
        };
        let counted = count > 0;
        match outcome {
            Ok(mut verdicts) => {
                if counted {
                    let _ = attempts::forget(&self.pool, function, &message).await;
                }
                self.counted(verdicts.pop().unwrap_or(Verdict::Done))
            }
            Err(Error::Later(delay)) => {
                if counted {
                    let _ = attempts::take_back(&self.pool, function, &message).await;
                }
                (Verdict::Again(delay), Outcome::Later)
            }
            Err(Error::Refused(refused)) => {
                self.counted(Verdict::Dead(format!("{}: {}", refused.code, refused.message)))
            }
            Err(Error::Broken(error)) if error::is_outage(&error) => {
                if counted {
                    let _ = attempts::take_back(&self.pool, function, &message).await;
                }
                self.outage(&error)
            }
            // Others were in the way each time: not the message's doing.
            Err(Error::Broken(error)) if error::is_crowded(&error) => {
                if counted {
                    let _ = attempts::take_back(&self.pool, function, &message).await;
                }
                (Verdict::Again(attempts::delay(1)), Outcome::Later)
            }
            // The caller of a command with a secret is told at once and tries again: nothing is kept.
            Err(Error::Broken(error)) if self.spec().wakes == (Wakes::Command { secret: true }) => {
                let error = format!("{error:#}");
                tracing::error!(function, error, "invocation broke");
                self.counted(Verdict::Dead(error))
            }
            Err(Error::Broken(error)) => {
                let error = format!("{error:#}");
                if !counted {
                    match attempts::begin(&self.pool, function, &message).await {
                        Ok((tries, _)) => count = tries,
                        Err(error) => return self.away(error),
                    }
                }
                let _ = attempts::failed(&self.pool, function, &message, &error).await;
                tracing::error!(function, message, attempt = count, error, "invocation broke");
                self.counts.note_failure(&error);
                if count >= attempts::MOST {
                    return self.give_up(member, error).await;
                }
                (Verdict::Again(attempts::delay(count)), Outcome::Broken)
            }
        }
    }

    async fn give_up(&self, member: &Delivery, error: String) -> Decided {
        let _ = attempts::forget(&self.pool, self.spec().name, &member.place()).await;
        self.counted(Verdict::Dead(if error.is_empty() {
            "the process died each time".into()
        } else {
            error
        }))
    }

    /// A verdict that says by itself what became of the message.
    fn counted(&self, verdict: Verdict) -> Decided {
        let outcome = match &verdict {
            Verdict::Answered(answer) => Outcome::of(answer),
            Verdict::Done => Outcome::Ok,
            Verdict::Again(_) => Outcome::Later,
            Verdict::Dead(reason) => {
                self.counts.note_failure(reason);
                Outcome::Broken
            }
        };
        (verdict, outcome)
    }

    /// Notes that a command was given up, for its sender to find.
    pub(crate) async fn note_failure(&self, member: &Delivery) -> Result<()> {
        if self.spec().wakes != (Wakes::Command { secret: false }) {
            return Ok(());
        }
        let user = Caller::from_headers(&member.headers).map(|caller| caller.id.0);
        let (id, answer) = (member.command_id(self.spec().name), Answer::broken());
        let mut connection = self.pool.acquire().await?;
        outcome::fail(&mut connection, self.spec(), id, user, &answer).await
    }

    /// One more attempt at the dead letter that a request names, apart from the count of attempts. A failure is
    /// told with its reason: who asks is an operator.
    pub(crate) async fn redrive(&self, bus: &Bus, request: &Delivery) -> Answer {
        let failed = |reason: String| Answer::failure(500, "INTERNAL", &reason);
        let Work::Batch(work) = &self.function.work else {
            return failed("not a function of messages".into());
        };
        let original = match dead_letter::named(bus, self.spec().name, &request.body).await {
            Ok(original) => original,
            Err(reason) => return failed(reason),
        };
        match self.guarded(work.as_ref(), &[original], true).await.map(|mut verdicts| verdicts.pop()) {
            Ok(Some(Verdict::Answered(answer))) => answer,
            Ok(Some(Verdict::Done) | None) => Answer { status: 200, body: Bytes::new(), replayed: false },
            Ok(Some(Verdict::Dead(reason))) => failed(reason),
            Ok(Some(Verdict::Again(_))) | Err(Error::Later(_)) => {
                failed("it is not ready, try again later".into())
            }
            Err(Error::Refused(refused)) => failed(format!("{}: {}", refused.code, refused.message)),
            Err(Error::Broken(error)) => failed(format!("{error:#}")),
        }
    }

    fn away(&self, error: Error) -> Decided {
        match error {
            Error::Broken(error) => self.outage(&error),
            _ => (Verdict::Again(Duration::from_secs(1)), Outcome::Later),
        }
    }

    /// Postgres or the bus is away: stop taking messages until it is back.
    fn outage(&self, error: &anyhow::Error) -> Decided {
        self.breaker.open(self.spec().name, error);
        self.counts.note_failure(&format!("{error:#}"));
        (Verdict::Again(Duration::from_secs(1)), Outcome::Broken)
    }

    /// One attempt, with a time limit and panics caught.
    async fn guarded(&self, work: &dyn Batch, members: &[Delivery], careful: bool) -> Result<Vec<Verdict>> {
        let attempt = AssertUnwindSafe(work.attempt(self, members, careful)).catch_unwind();
        match tokio::time::timeout(LONGEST_ATTEMPT, attempt).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Err(Error::Broken(anyhow::anyhow!("panicked: {}", panic_text(&*panic)))),
            Err(_) => Err(self.overdue().await),
        }
    }

    /// Who is to blame when the time is over: Postgres, when it does not answer now either, else the message.
    async fn overdue(&self) -> Error {
        let why = format!("took longer than {LONGEST_ATTEMPT:?}");
        let probe = sqlx::query("select 1").execute(&self.pool);
        match tokio::time::timeout(PROBE, probe).await {
            Ok(Ok(_)) => Error::Broken(anyhow::anyhow!(why)),
            _ => Outage(why).into(),
        }
    }

    /// Answers a request; failures become answers too.
    pub async fn answer(&self, request: &Delivery) -> Answer {
        let Work::Query(work) = &self.function.work else {
            return Answer::broken();
        };
        let asked = AssertUnwindSafe(self.ask(work.as_ref(), request)).catch_unwind();
        let error = match tokio::time::timeout(LONGEST_ATTEMPT, asked).await {
            Ok(Ok(Ok(answer))) => return answer,
            Ok(Ok(Err(Error::Refused(refused)))) => return Answer::refused(&refused),
            Ok(Ok(Err(Error::Later(_)))) => return Answer::unavailable(),
            Ok(Ok(Err(Error::Broken(error)))) => error,
            Ok(Err(panic)) => anyhow::anyhow!("panicked: {}", panic_text(&*panic)),
            // It changed nothing, so the asker may well come again.
            Err(_) => anyhow::Error::from(Outage(format!("took longer than {LONGEST_ATTEMPT:?}"))),
        };
        let trace_id = Trace::from_headers(&request.headers).trace_id;
        tracing::error!(function = self.spec().name, trace_id, error = format!("{error:#}"), "query broke");
        if error::is_outage(&error) { Answer::unavailable() } else { Answer::broken() }
    }

    /// Once more when the connection was lost: those that Postgres ended right after they were used, as when it is started
    /// again under load, are found out by the first who use them. What was idle for longer the pool looks at itself.
    async fn ask(&self, work: &dyn Ask, request: &Delivery) -> Result<Answer> {
        for _ in 0..self.pool.options().get_max_connections() {
            match work.ask(self, request).await {
                Err(Error::Broken(error)) if error::is_connection_lost(&error) => {
                    tracing::debug!(function = self.spec().name, "asking over another connection");
                }
                answered => return answered,
            }
        }
        work.ask(self, request).await
    }

    /// When due work is next due.
    pub async fn next_due(&self) -> Result<Option<Timestamp>> {
        match &self.function.work {
            Work::Due(due) => due.next(self).await,
            _ => Ok(None),
        }
    }

    /// Does what is due; returns how much it did.
    pub async fn work(&self) -> Result<usize> {
        match &self.function.work {
            Work::Due(due) => {
                let (started, _in_flight) = (Instant::now(), self.counts.begin(1));
                let done = match AssertUnwindSafe(due.work(self)).catch_unwind().await {
                    Ok(done) => done,
                    Err(panic) => Err(Error::Broken(anyhow::anyhow!("panicked: {}", panic_text(&*panic)))),
                };
                match &done {
                    Ok(0) | Err(Error::Later(_)) => {}
                    Ok(done) => self.counts.done(*done, started.elapsed()),
                    Err(error) => self.counts.failed(&error.to_string(), started.elapsed()),
                }
                done
            }
            _ => Ok(0),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}

/// Writes the events of messages and commits; afterwards tells those who keep what changed, and the relay.
async fn commit(host: &Host, cx: &mut Cx, members: &[Delivery], keep: impl Fn(usize) -> bool) -> Result<()> {
    let events = cx.emitted.take(keep);
    if !events.is_empty() {
        outbox::store(cx.tx().await?, &events).await?;
    }
    if let Some(tx) = cx.tx.take() {
        tx.commit().await?;
    }
    host.tallies.add(std::mem::take(&mut cx.tally));
    host.say_changed(members, &events).await;
    if let (false, Some(bus)) = (events.is_empty(), &host.bus) {
        bus.poke(host.spec().domain).await;
    }
    Ok(())
}

/// The two ways in which commands are handled.
pub(crate) trait HandleCommands<C: Command>: Send + Sync {
    fn handle<'a>(
        &'a self,
        cx: &'a mut Cx,
        members: Vec<Received<C>>,
    ) -> BoxFuture<'a, Result<Vec<Result<C::Reply>>>>;
}

pub(crate) struct SingleCommand<H>(pub(crate) H);

impl<C, H> HandleCommands<C> for SingleCommand<H>
where
    C: Command,
    H: for<'a> Handler<'a, C, C::Reply>,
{
    fn handle<'a>(
        &'a self,
        cx: &'a mut Cx,
        members: Vec<Received<C>>,
    ) -> BoxFuture<'a, Result<Vec<Result<C::Reply>>>> {
        Box::pin(async move {
            let mut results = Vec::with_capacity(1);
            for member in members {
                cx.caller = member.caller;
                cx.now = member.received_at;
                cx.trace = member.trace;
                results.push(self.0.call(cx, member.message).await);
            }
            Ok(results)
        })
    }
}

pub(crate) struct BatchCommand<H>(pub(crate) H);

impl<C, H> HandleCommands<C> for BatchCommand<H>
where
    C: Command,
    H: for<'a> Handler<'a, Vec<Received<C>>, Vec<Result<C::Reply>>>,
{
    fn handle<'a>(
        &'a self,
        cx: &'a mut Cx,
        members: Vec<Received<C>>,
    ) -> BoxFuture<'a, Result<Vec<Result<C::Reply>>>> {
        Box::pin(self.0.call(cx, members))
    }
}

/// Reads answers back from a function's own rows.
pub(crate) trait RecallOwn: Send + Sync {
    fn recall<'a>(&'a self, cx: &'a mut Cx, ids: Vec<Uuid>) -> BoxFuture<'a, Result<Recall>>;
}

impl<H> RecallOwn for H
where
    H: for<'a> Handler<'a, Vec<Uuid>, Recall>,
{
    fn recall<'a>(&'a self, cx: &'a mut Cx, ids: Vec<Uuid>) -> BoxFuture<'a, Result<Recall>> {
        Box::pin(self.call(cx, ids))
    }
}

pub(crate) struct Commands<C, H> {
    handler: H,
    /// Set when the function's own rows are the outcomes.
    recall: Option<Arc<dyn RecallOwn>>,
    command: PhantomData<fn(C)>,
}

impl<C: Command, H: HandleCommands<C>> Commands<C, H> {
    pub(crate) fn new(handler: H, recall: Option<Arc<dyn RecallOwn>>) -> Self {
        Self { handler, recall, command: PhantomData }
    }

    /// Reads a message as a command, with the id under which its outcome is kept.
    fn read(host: &Host, cx: &Cx, index: usize, delivery: &Delivery) -> Result<Received<C>, Refused> {
        let message: C =
            serde_json::from_slice(&delivery.body).map_err(|error| Refused::malformed(error.to_string()))?;
        let caller = Caller::from_headers(&delivery.headers);
        let (mut id, mut fingerprint) = (delivery.id(), None);
        if delivery.header(header::IDEMPOTENCY_KEY).is_some() && !C::SECRET {
            id = delivery.command_id(C::FUNCTION);
            // Of the decoded command, so that spelling and order of members do not matter.
            let canonical =
                serde_json::to_string(&message).map_err(|error| Refused::malformed(error.to_string()))?;
            fingerprint = Some(wire::derived_id(&["command", &canonical]));
        }
        Ok(Received {
            caller,
            received_at: delivery.stamp,
            id,
            fingerprint,
            message,
            index,
            spec: Arc::clone(host.spec()),
            trace: Trace::from_headers(&delivery.headers),
            emitted: cx.emitted.clone(),
        })
    }

    async fn decide(&self, host: &Host, members: &[Delivery], careful: bool) -> Result<Vec<Verdict>> {
        let started = Instant::now();
        let mut cx = host.cx(None, Timestamp::now(), Trace::start());
        let mut answers: Vec<Option<Answer>> = vec![None; members.len()];
        let mut fresh: Vec<Received<C>> = Vec::with_capacity(members.len());
        let mut repeated: Vec<(usize, Uuid, Option<Uuid>)> = Vec::new();
        let mut firsts: HashMap<Uuid, (usize, Option<Uuid>)> = HashMap::with_capacity(members.len());
        for (index, delivery) in members.iter().enumerate() {
            match Self::read(host, &cx, index, delivery) {
                Err(refused) => answers[index] = Some(Answer::refused(&refused)),
                Ok(member) if firsts.contains_key(&member.id) => {
                    repeated.push((index, member.id, member.fingerprint));
                }
                Ok(member) => {
                    firsts.insert(member.id, (index, member.fingerprint));
                    fresh.push(member);
                }
            }
        }

        let known = self.known(host, &mut cx, members, &fresh, careful).await?;
        fresh.retain(|member| match known.get(&member.id) {
            None => true,
            Some(recalled) => {
                let answer = replay(&recalled.answer, recalled.fingerprint, member.fingerprint);
                answers[member.index] = Some(answer);
                false
            }
        });
        // A function that records its own outcomes records the refusal of a shape as well.
        if self.recall.is_none() {
            fresh.retain(|member| match member.message.check() {
                Ok(()) => true,
                Err(refused) => {
                    answers[member.index] = Some(Answer::refused(&refused));
                    false
                }
            });
        }

        let places: Vec<usize> = fresh.iter().map(|member| member.index).collect();
        let mut kept = HashSet::new();
        let keep_claim = !C::SECRET && self.recall.is_none();
        if keep_claim && members.len() == 1 {
            cx.savepoint = Savepoint::Wanted;
        }
        if !fresh.is_empty() {
            let results = self.handler.handle(&mut cx, fresh).await?;
            if results.len() != places.len() {
                let (given, wanted) = (results.len(), places.len());
                return Err(anyhow::anyhow!("{given} results for {wanted} commands").into());
            }
            for (index, result) in places.iter().zip(results) {
                answers[*index] = Some(match result {
                    Ok(reply) => Answer::accepted(&reply)?,
                    Err(Error::Refused(refused)) => {
                        if refused.keeps {
                            kept.insert(*index);
                        } else if members.len() == 1 && self.recall.is_none() {
                            cx.undo().await?;
                        }
                        Answer::refused(&refused)
                    }
                    Err(error) => return Err(error),
                });
            }
        }

        if keep_claim {
            let decided: Vec<(Uuid, &Answer)> = firsts
                .iter()
                .filter(|(id, _)| !known.contains_key(id))
                .filter_map(|(id, (index, _))| Some((*id, answers[*index].as_ref()?)))
                .collect();
            if !decided.is_empty() {
                cx.savepoint = Savepoint::None;
                outcome::store(cx.tx().await?, &decided).await?;
            }
        }
        cx.savepoint = Savepoint::None;
        let stays =
            |index: usize| kept.contains(&index) || answers[index].as_ref().is_some_and(Answer::is_accepted);
        commit(host, &mut cx, members, stays).await?;

        for (index, id, fingerprint) in repeated {
            if let Some((first, original)) = firsts.get(&id)
                && let Some(answer) = &answers[*first]
            {
                answers[index] = Some(replay(answer, *original, fingerprint));
            }
        }
        log_commands(host, members, &answers, started);
        answers
            .into_iter()
            .map(|answer| {
                let answer = answer.ok_or_else(|| anyhow::anyhow!("a command was left undecided"))?;
                Ok(Verdict::Answered(answer))
            })
            .collect()
    }

    /// The answers of commands that were decided before; claims the others.
    async fn known(
        &self,
        host: &Host,
        cx: &mut Cx,
        members: &[Delivery],
        fresh: &[Received<C>],
        careful: bool,
    ) -> Result<Recall> {
        if C::SECRET || fresh.is_empty() {
            return Ok(Recall::new());
        }
        let Some(recall) = &self.recall else {
            let claims: Vec<Claim> = fresh
                .iter()
                .map(|member| Claim {
                    id: member.id,
                    user: member.caller.map(|caller| caller.id.0),
                    fingerprint: member.fingerprint,
                })
                .collect();
            return outcome::claim(cx.tx().await?, host.spec(), &claims).await;
        };
        // A first delivery without a key can only have been decided before if its publisher
        // repeated it after the stream's window; then the unique id stops it, and the careful run
        // that follows finds the answer.
        let ids: Vec<Uuid> = fresh
            .iter()
            .filter(|member| careful || member.fingerprint.is_some() || members[member.index].delivered > 1)
            .map(|member| member.id)
            .collect();
        if ids.is_empty() {
            return Ok(Recall::new());
        }
        recall.recall(cx, ids).await
    }
}

/// The stored answer, unless the key came with another command.
fn replay(answer: &Answer, original: Option<Uuid>, repeated: Option<Uuid>) -> Answer {
    if original == repeated {
        return Answer { replayed: true, ..answer.clone() };
    }
    Answer::refused(&Refused::new(
        crate::Kind::Mismatch,
        "IDEMPOTENCY_MISMATCH",
        "this Idempotency-Key was used with another request",
    ))
}

fn log_commands(host: &Host, members: &[Delivery], answers: &[Option<Answer>], started: Instant) {
    let accepted = answers.iter().flatten().filter(|answer| answer.is_accepted()).count();
    let trace = members.first().map(|member| Trace::from_headers(&member.headers));
    let (trace_id, correlation_id) = trace.map_or_else(Default::default, |t| (t.trace_id, t.correlation_id));
    tracing::info!(
        function = host.spec().name,
        messages = members.len(),
        accepted,
        refused = members.len() - accepted,
        duration_ms = started.elapsed().as_secs_f64() * 1e3,
        trace_id,
        correlation_id,
        "decided"
    );
}

impl<C: Command, H: HandleCommands<C>> Batch for Commands<C, H> {
    fn attempt<'a>(
        &'a self,
        host: &'a Host,
        members: &'a [Delivery],
        careful: bool,
    ) -> BoxFuture<'a, Result<Vec<Verdict>>> {
        let span = tracing::debug_span!("command", function = C::FUNCTION);
        Box::pin(self.decide(host, members, careful).instrument(span))
    }

    fn address(&self, body: &[u8]) -> Result<Addressed> {
        let command: C =
            serde_json::from_slice(body).map_err(|error| Refused::malformed(error.to_string()))?;
        command.check()?;
        Addressed::of(&command)
    }
}

/// An event, and when it happened.
type Dated<E> = (Received<E>, Timestamp);

pub(crate) struct Events<E, H> {
    handler: H,
    event: PhantomData<fn(E)>,
}

impl<E, H> Events<E, H>
where
    E: Hears,
    H: for<'a> Handler<'a, Vec<Received<E>>, ()>,
{
    pub(crate) fn new(handler: H) -> Self {
        Self { handler, event: PhantomData }
    }

    /// Reads a message as an event; the reason why not otherwise.
    fn read(host: &Host, cx: &Cx, index: usize, delivery: &Delivery) -> Result<Dated<E>, String> {
        let envelope: Envelope<&RawValue> =
            serde_json::from_slice(&delivery.body).map_err(|error| format!("not an event: {error}"))?;
        // The subject decides, because consumers filter by it: events.<thing>.<fact>.<version>.<key>
        let name = delivery
            .subject
            .strip_prefix("events.")
            .and_then(|rest| rest.rsplit_once('.'))
            .map_or("", |(name, _key)| name);
        let message = E::read(name, envelope.payload.get())
            .ok_or_else(|| format!("not an event for this consumer: {name}"))?
            .map_err(|error| format!("{name}: {error}"))?;
        let event = Received {
            caller: None,
            received_at: delivery.stamp,
            id: envelope.id.unwrap_or_else(|| delivery.id()),
            fingerprint: None,
            message,
            index,
            spec: Arc::clone(host.spec()),
            trace: Trace::from_headers(&delivery.headers),
            emitted: cx.emitted.clone(),
        };
        Ok((event, envelope.timestamp.unwrap_or(delivery.stamp)))
    }

    async fn react(&self, host: &Host, members: &[Delivery]) -> Result<Vec<Verdict>> {
        let started = Instant::now();
        let trace = members.first().map_or_else(Trace::start, |first| Trace::from_headers(&first.headers));
        let mut cx = host.cx(None, Timestamp::now(), trace);
        let mut verdicts = vec![Verdict::Done; members.len()];
        let mut heard: Vec<Dated<E>> = Vec::with_capacity(members.len());
        for (index, delivery) in members.iter().enumerate() {
            match Self::read(host, &cx, index, delivery) {
                Ok(event) => heard.push(event),
                Err(reason) => verdicts[index] = Verdict::Dead(reason),
            }
        }
        let ids: Vec<Uuid> = heard.iter().map(|(event, _)| event.id).collect();
        if !ids.is_empty() {
            let mut fresh = inbox::claim(cx.tx().await?, host.spec().name, &ids).await?;
            // Removing keeps one of two copies in the same batch.
            heard.retain(|(event, _)| fresh.remove(&event.id));
        }
        let counted = heard.len();
        let (heard, happened): (Vec<_>, Vec<_>) = heard.into_iter().unzip();
        if counted > 0 {
            self.handler.call(&mut cx, heard).await?;
        }
        commit(host, &mut cx, members, |_| true).await?;
        host.tallies.heard(happened.into_iter(), ids.len() - counted);
        tracing::debug!(
            function = host.spec().name,
            messages = members.len(),
            counted,
            duration_ms = started.elapsed().as_secs_f64() * 1e3,
            trace_id = cx.trace.trace_id,
            correlation_id = cx.trace.correlation_id,
            "reacted"
        );
        Ok(verdicts)
    }
}

impl<E, H> Batch for Events<E, H>
where
    E: Hears,
    H: for<'a> Handler<'a, Vec<Received<E>>, ()>,
{
    fn attempt<'a>(
        &'a self,
        host: &'a Host,
        members: &'a [Delivery],
        _careful: bool,
    ) -> BoxFuture<'a, Result<Vec<Verdict>>> {
        let span = tracing::debug_span!("events", function = host.spec().name);
        Box::pin(self.react(host, members).instrument(span))
    }

    fn relive<'a>(
        &'a self,
        host: &'a Host,
        cx: &'a mut Cx,
        members: &'a [Delivery],
        told_by: ToldBy,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // What cannot be read is for the live consumer to give up.
            let heard = members
                .iter()
                .enumerate()
                .filter_map(|(index, member)| Self::read(host, cx, index, member).ok())
                .map(|(event, _)| event);
            let heard: Vec<Received<E>> = heard.collect();
            let known: Vec<Heard> = heard
                .iter()
                .map(|event| Heard {
                    id: event.id,
                    place: members.get(event.index).map_or(0, |member| member.sequence),
                    fact: event.message.fact(),
                })
                .collect();
            let fresh = replay::fresh(cx.tx().await?, &known, told_by).await?;
            let heard: Vec<Received<E>> =
                heard.into_iter().zip(fresh).filter(|(_, fresh)| *fresh).map(|(event, _)| event).collect();
            if !heard.is_empty() {
                self.handler.call(cx, heard).await?;
            }
            // What the handler says was said when it happened.
            cx.emitted.clear();
            Ok(())
        })
    }
}

pub(crate) struct Queries<Q, H> {
    handler: H,
    query: PhantomData<fn(Q)>,
}

impl<Q, H> Queries<Q, H>
where
    Q: Query,
    H: for<'a> Handler<'a, Q, Q::Reply>,
{
    pub(crate) fn new(handler: H) -> Self {
        Self { handler, query: PhantomData }
    }
}

impl<Q, H> Ask for Queries<Q, H>
where
    Q: Query,
    H: for<'a> Handler<'a, Q, Q::Reply>,
{
    fn ask<'a>(&'a self, host: &'a Host, request: &'a Delivery) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(async move {
            let query: Q = serde_json::from_slice(&request.body)
                .map_err(|error| Refused::malformed(error.to_string()))?;
            query.check()?;
            let mut cx = host.reading(request);
            let reply = self.handler.call(&mut cx, query).await?;
            Ok(Answer::accepted(&reply)?)
        })
    }
}

pub(crate) struct DueWork<N, H> {
    next: N,
    handler: H,
}

impl<N, H> DueWork<N, H> {
    pub(crate) fn new(next: N, handler: H) -> Self {
        Self { next, handler }
    }
}

impl<N, H> Due for DueWork<N, H>
where
    N: for<'a> Handler<'a, (), Option<Timestamp>>,
    H: for<'a> Handler<'a, (), usize>,
{
    fn next<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Option<Timestamp>>> {
        Box::pin(async move {
            let mut cx = host.cx(None, Timestamp::now(), Trace::start());
            cx.reading = Reading::Yes(None);
            self.next.call(&mut cx, ()).await
        })
    }

    fn work<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<usize>> {
        Box::pin(async move {
            let started = Instant::now();
            let mut cx = host.cx(None, Timestamp::now(), Trace::start());
            let done = self.handler.call(&mut cx, ()).await?;
            commit(host, &mut cx, &[], |_| true).await?;
            if done > 0 {
                tracing::info!(
                    function = host.spec().name,
                    done,
                    duration_ms = started.elapsed().as_secs_f64() * 1e3,
                    trace_id = cx.trace.trace_id,
                    "worked"
                );
            }
            Ok(done)
        })
    }
}
