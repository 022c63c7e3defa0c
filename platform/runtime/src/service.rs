//! A part as `nats service` sees it: who is there, what it answers, how it goes.
//!
//! The micro protocol of NATS (ADR-32) is spoken here and not by the client's own micro service: that one
//! counts only what arrives as a request, and most functions pull their work from a stream.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use async_nats::{Message, Subscriber};
use futures_util::{StreamExt, future::BoxFuture};
use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Timestamp, bus::Bus, error::Result, invoke::Delivery, metrics, wire::Answer};

/// How long the server may take to end a subscription.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// What may be asked of a service.
pub(crate) const VERBS: [&str; 3] = ["PING", "INFO", "STATS"];

/// What became of a message that was handled once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done.
    Ok,
    /// A rule said no: an answer as well.
    Refused,
    /// Not ready, or others were in the way: it comes again.
    Later,
    /// Our failure, whether it is tried again or given up.
    Broken,
}

impl Outcome {
    const NAMES: [&str; 4] = ["ok", "refused", "later", "broken"];

    pub(crate) fn of(answer: &Answer) -> Self {
        match answer.status {
            0..400 => Self::Ok,
            400..500 => Self::Refused,
            _ => Self::Broken,
        }
    }
}

/// What a part has done since its process started: the same for `nats service stats` and for
/// [`metrics`](crate::metrics).
pub struct Counts {
    /// In the order of [`Outcome::NAMES`].
    outcomes: [IntCounter; 4],
    took: Histogram,
    in_flight: Gauge,
    last_failure: Mutex<String>,
}

impl Counts {
    pub(crate) fn new(
        name: &str,
        outcomes: &IntCounterVec,
        took: &HistogramVec,
        in_flight: &GaugeVec,
    ) -> Self {
        Self {
            outcomes: Outcome::NAMES.map(|outcome| outcomes.with_label_values(&[name, outcome])),
            took: took.with_label_values(&[name]),
            in_flight: in_flight.with_label_values(&[name]),
            last_failure: Mutex::default(),
        }
    }

    /// Messages are in work until what is returned is dropped.
    pub(crate) fn begin(&self, messages: usize) -> InFlight<'_> {
        let messages = messages as f64;
        self.in_flight.add(messages);
        InFlight { counts: self, messages }
    }

    /// Messages were handled together: what became of each, and how long it took.
    pub(crate) fn handled(&self, outcomes: impl IntoIterator<Item = Outcome>, took: Duration) {
        let mut added = [0; 4];
        for outcome in outcomes {
            added[outcome as usize] += 1;
        }
        for (count, added) in self.outcomes.iter().zip(added) {
            count.inc_by(added);
        }
        match added.iter().sum() {
            0_u64 => {}
            1 => self.took.observe(took.as_secs_f64()),
            messages => {
                let all = self.took.local();
                (0..messages).for_each(|_| all.observe(took.as_secs_f64()));
                all.flush();
            }
        }
    }

    /// Messages were handled together, all well.
    pub(crate) fn done(&self, messages: usize, took: Duration) {
        self.handled(std::iter::repeat_n(Outcome::Ok, messages), took);
    }

    /// A request found no room. It took no time, and says nothing about how long requests take.
    pub(crate) fn turned_away(&self, answer: &Answer) {
        self.note_failure(&format!("answered {}", answer.status));
        self.outcomes[Outcome::of(answer) as usize].inc();
    }

    /// Why something broke that is counted as [`Outcome::Broken`].
    pub(crate) fn note_failure(&self, why: &str) {
        why.clone_into(&mut self.last_failure.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Something broke.
    pub(crate) fn failed(&self, why: &str, took: Duration) {
        self.note_failure(why);
        self.handled([Outcome::Broken], took);
    }

    /// As the micro protocol names them. Refusals stand apart: they are no errors of the part.
    fn tell(&self) -> Value {
        let [ok, refused, later, broken] = [0, 1, 2, 3].map(|outcome: usize| self.outcomes[outcome].get());
        let handled = ok + refused + later + broken;
        let nanos = Duration::try_from_secs_f64(self.took.get_sample_sum()).unwrap_or_default().as_nanos();
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        json!({
            "num_requests": handled,
            "num_errors": broken,
            "last_error": *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner),
            "processing_time": nanos,
            "average_processing_time": nanos.checked_div(handled).unwrap_or_default(),
            "data": { "refused": refused, "later": later },
        })
    }
}

/// Messages in work.
pub(crate) struct InFlight<'a> {
    counts: &'a Counts,
    messages: f64,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.counts.in_flight.sub(self.messages);
    }
}

/// Answers one request.
pub type Answerer = Arc<dyn Fn(Delivery) -> BoxFuture<'static, Answer> + Send + Sync>;

/// A place where a service takes work.
struct Endpoint {
    name: String,
    subject: String,
    /// Who answers, and how many at once; nobody when the work is pulled from a stream.
    answerer: Option<(Answerer, usize)>,
}

impl Endpoint {
    /// The name of its counts: the service's one word, or `<service>/<endpoint>` for what it does besides.
    fn counted_as(&self, service: &str) -> String {
        if self.answerer.is_none() || self.name == service {
            return service.to_owned();
        }
        format!("{service}/{}", self.name)
    }
}

/// A part that can be found, asked and looked at.
pub struct Service {
    name: String,
    description: String,
    metadata: Value,
    endpoints: Vec<Endpoint>,
}

impl Service {
    /// One of this name; all of that name share the work.
    pub fn new(name: impl Into<String>, description: impl Into<String>, metadata: Value) -> Self {
        Self { name: name.into(), description: description.into(), metadata, endpoints: Vec::new() }
    }

    /// Shows the counts of the service itself, whose work comes another way, for example from a stream.
    #[must_use]
    pub(crate) fn counted(mut self, name: &str, subject: String) -> Self {
        self.endpoints.push(Endpoint { name: name.into(), subject, answerer: None });
        self
    }

    /// Answers requests on a subject, `lanes` of them at once; more are told to come again.
    #[must_use]
    pub fn answering(
        mut self,
        name: &str,
        subject: String,
        lanes: usize,
        answer: impl Fn(Delivery) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    ) -> Self {
        let answerer = Some((Arc::new(answer) as Answerer, lanes));
        self.endpoints.push(Endpoint { name: name.into(), subject, answerer });
        self
    }

    /// Begins to answer. When this returns, whoever asks finds it; while nats-server is away, as soon as it is back.
    pub async fn start(self, bus: &Bus) -> anyhow::Result<Running> {
        metrics::serve(bus).await.context("serve metrics")?;
        let running = Running { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let counted = |endpoint: Endpoint| {
            let counts = bus.metrics.counts(&endpoint.counted_as(&self.name));
            (endpoint, counts)
        };
        let about = Arc::new(About {
            endpoints: self.endpoints.into_iter().map(counted).collect(),
            name: self.name,
            description: self.description,
            metadata: self.metadata,
            id: bus.instance.clone(),
            started: Timestamp::now(),
        });
        for (endpoint, counts) in &about.endpoints {
            let Some((answerer, lanes)) = &endpoint.answerer else { continue };
            let requests = bus
                .client
                .queue_subscribe(endpoint.subject.clone(), about.name.clone())
                .await
                .with_context(|| format!("serve {}", endpoint.subject))?;
            let shed = bus.metrics.shed(&endpoint.counted_as(&about.name), "lanes");
            let work = (Arc::clone(answerer), Arc::new(Semaphore::new(*lanes)), Arc::clone(counts), shed);
            running.tasks.spawn(answer_all(bus.clone(), requests, work, running.stop.clone()));
        }
        let (name, id) = (&about.name, &about.id);
        // Each verb: who may hear `$SRV.*` may hear `$SRV.>`, by the rules of the server, and answer for others.
        let to_all = VERBS.map(|verb| format!("$SRV.{verb}"));
        for subject in to_all.into_iter().chain([format!("$SRV.*.{name}"), format!("$SRV.*.{name}.{id}")]) {
            let questions = bus.client.subscribe(subject).await.context("serve $SRV")?;
            let answers = tell_all(bus.clone(), questions, Arc::clone(&about), running.stop.clone());
            running.tasks.spawn(answers);
        }
        // Only what the server has heard of is there. While it is away there is nothing to wait for.
        if bus.is_connected() {
            bus.flush().await;
        }
        Ok(running)
    }
}

/// A service that was started.
pub struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    /// Takes no new requests, and returns when those that came are answered.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What is told about a service.
struct About {
    name: String,
    description: String,
    metadata: Value,
    id: String,
    started: Timestamp,
    endpoints: Vec<(Endpoint, Arc<Counts>)>,
}

impl About {
    /// The answer to a verb of the protocol.
    fn tell(&self, verb: &str) -> Option<Value> {
        let kind = match verb {
            "PING" => "ping",
            "INFO" => "info",
            "STATS" => "stats",
            _ => return None,
        };
        let mut told = json!({
            "type": format!("io.nats.micro.v1.{kind}_response"),
            "name": self.name,
            "id": self.id,
            "version": env!("CARGO_PKG_VERSION"),
            "metadata": self.metadata,
        });
        let endpoints = self.endpoints.iter().map(|(endpoint, counts)| {
            let mut told = json!({
                "name": endpoint.name,
                "subject": endpoint.subject,
                "queue_group": self.name,
            });
            if kind == "stats" {
                extend(&mut told, counts.tell());
            }
            told
        });
        match kind {
            "info" => {
                let endpoints: Vec<Value> = endpoints.collect();
                extend(&mut told, json!({ "description": self.description, "endpoints": endpoints }));
            }
            "stats" => {
                let endpoints: Vec<Value> = endpoints.collect();
                extend(&mut told, json!({ "started": self.started, "endpoints": endpoints }));
            }
            _ => {}
        }
        Some(told)
    }
}

fn extend(object: &mut Value, with: Value) {
    if let (Value::Object(object), Value::Object(with)) = (object, with) {
        object.extend(with);
    }
}

async fn tell_all(bus: Bus, mut questions: Subscriber, about: Arc<About>, stop: CancellationToken) {
    while let Some(Some(question)) = stop.run_until_cancelled(questions.next()).await {
        let verb = question.subject.split('.').nth(1).unwrap_or_default();
        if let (Some(told), Some(asker)) = (about.tell(verb), question.reply) {
            let _ = bus.client.publish(asker, told.to_string().into()).await;
        }
    }
    let _ = questions.unsubscribe().await;
}

type Work = (Answerer, Arc<Semaphore>, Arc<Counts>, IntCounter);

async fn answer_all(bus: Bus, mut requests: Subscriber, work: Work, stop: CancellationToken) {
    let (answerer, lanes, counts, shed) = work;
    let tasks = TaskTracker::new();
    let mut leave_by = None;
    loop {
        let request = tokio::select! {
            biased;
            () = stop.cancelled(), if leave_by.is_none() => {
                // What has arrived is still answered; then the subscription ends, if the server can be told.
                if !bus.is_connected() || requests.drain().await.is_err() {
                    break;
                }
                leave_by = Some(Instant::now() + LEAVE_WITHIN);
                continue;
            }
            () = tokio::time::sleep_until(leave_by.unwrap_or_else(Instant::now).into()), if leave_by.is_some() => break,
            request = requests.next() => request,
        };
        let Some(request) = request else { break };
        let Ok(permit) = Arc::clone(&lanes).try_acquire_owned() else {
            // Saying so at once beats a queue that ends in a timeout.
            shed.inc();
            let answer = Answer::unavailable();
            counts.turned_away(&answer);
            let _ = respond(&bus, &request, answer).await;
            continue;
        };
        let (bus, answerer, counts) = (bus.clone(), Arc::clone(&answerer), Arc::clone(&counts));
        tasks.spawn(async move {
            let (started, in_flight) = (Instant::now(), counts.begin(1));
            let answer = answerer(Delivery::of_request(&request)).await;
            drop(in_flight);
            let outcome = Outcome::of(&answer);
            if outcome == Outcome::Broken {
                counts.note_failure(&format!("answered {}", answer.status));
            }
            counts.handled([outcome], started.elapsed());
            let _ = respond(&bus, &request, answer).await;
            drop(permit);
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn respond(bus: &Bus, request: &Message, answer: Answer) -> Result<()> {
    match &request.reply {
        Some(asker) => bus.publish_answer(asker.to_string(), &answer).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, error::Refused, metrics::Metrics};

    #[test]
    fn a_refusal_is_an_answer_and_a_failure_is_an_error() {
        let counts = Metrics::new("one").counts("place-bid");
        let answers = [
            Answer { status: 200, body: Default::default(), replayed: false },
            Answer::refused(&Refused::new(Kind::Conflict, "BID_TOO_LOW", "too low")),
            Answer::broken(),
        ];

        counts.handled(answers.iter().map(Outcome::of), Duration::from_millis(30));
        counts.note_failure("the sky fell");

        let told = counts.tell();
        assert_eq!((&told["num_requests"], &told["num_errors"]), (&json!(3), &json!(1)));
        assert_eq!(told["data"]["refused"], 1);
        assert_eq!(told["average_processing_time"], 30_000_000);
        assert_eq!(told["last_error"], "the sky fell");
    }
}
