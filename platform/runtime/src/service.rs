//! A part as `nats service` sees it: who is there, what it answers, how it goes.
//!
//! The micro protocol of NATS (ADR-32) is spoken here and not by the client's own micro service: that one
//! counts only what arrives as a request, and most functions pull their work from a stream.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use async_nats::{Message, Subscriber};
use futures_util::{StreamExt, future::BoxFuture};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Timestamp, bus::Bus, error::Result, invoke::Delivery, wire::Answer};

/// How long the server may take to end a subscription.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// What a part has done since it started.
#[derive(Default)]
pub struct Counts {
    handled: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    nanos: AtomicU64,
    last_failure: Mutex<String>,
}

impl Counts {
    /// Messages were handled together, and this is how long it took.
    pub(crate) fn handled(&self, messages: usize, took: Duration) {
        self.handled.fetch_add(messages as u64, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// An answer was given: a refusal is an answer too, a failure of ours is counted as one.
    pub(crate) fn answered(&self, answer: &Answer) {
        match answer.status {
            0..400 => {}
            400..500 => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            status => self.failed(&format!("answered {status}")),
        }
    }

    /// Something broke.
    pub(crate) fn failed(&self, why: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        why.clone_into(&mut self.last_failure.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// As the micro protocol names them. Refusals stand apart: they are no errors of the part.
    fn tell(&self) -> Value {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (handled, nanos) = (get(&self.handled), get(&self.nanos));
        json!({
            "num_requests": handled,
            "num_errors": get(&self.failed),
            "last_error": *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner),
            "processing_time": nanos,
            "average_processing_time": nanos.checked_div(handled).unwrap_or_default(),
            "data": { "refused": get(&self.refused) },
        })
    }
}

/// Answers one request.
pub type Answerer = Arc<dyn Fn(Delivery) -> BoxFuture<'static, Answer> + Send + Sync>;

/// A place where a service takes work.
struct Endpoint {
    name: String,
    subject: String,
    counts: Arc<Counts>,
    /// Who answers, and how many at once; nobody when the work is pulled from a stream.
    answerer: Option<(Answerer, usize)>,
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

    /// Shows the counts of work that comes another way, for example from a stream.
    #[must_use]
    pub(crate) fn counted(mut self, name: &str, subject: String, counts: Arc<Counts>) -> Self {
        self.endpoints.push(Endpoint { name: name.into(), subject, counts, answerer: None });
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
        let (counts, answerer) = (Arc::default(), Some((Arc::new(answer) as Answerer, lanes)));
        self.endpoints.push(Endpoint { name: name.into(), subject, counts, answerer });
        self
    }

    /// Begins to answer. When this returns, whoever asks finds it; while nats-server is away, as soon as it is back.
    pub async fn start(self, bus: &Bus) -> anyhow::Result<Running> {
        let running = Running { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let about = Arc::new(About {
            name: self.name,
            description: self.description,
            metadata: self.metadata,
            id: bus.instance.clone(),
            started: Timestamp::now(),
            endpoints: self.endpoints.into_iter().map(Arc::new).collect(),
        });
        for endpoint in &about.endpoints {
            let Some((answerer, lanes)) = &endpoint.answerer else { continue };
            let requests = bus
                .client
                .queue_subscribe(endpoint.subject.clone(), about.name.clone())
                .await
                .with_context(|| format!("serve {}", endpoint.subject))?;
            let work = (Arc::clone(answerer), Arc::new(Semaphore::new(*lanes)), Arc::clone(endpoint));
            running.tasks.spawn(answer_all(bus.clone(), requests, work, running.stop.clone()));
        }
        let (name, id) = (&about.name, &about.id);
        for subject in ["$SRV.*".to_owned(), format!("$SRV.*.{name}"), format!("$SRV.*.{name}.{id}")] {
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
    endpoints: Vec<Arc<Endpoint>>,
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
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let mut told = json!({
                "name": endpoint.name,
                "subject": endpoint.subject,
                "queue_group": self.name,
            });
            if kind == "stats" {
                extend(&mut told, endpoint.counts.tell());
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

type Work = (Answerer, Arc<Semaphore>, Arc<Endpoint>);

async fn answer_all(bus: Bus, mut requests: Subscriber, work: Work, stop: CancellationToken) {
    let (answerer, lanes, endpoint) = work;
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
            let answer = Answer::unavailable();
            endpoint.counts.handled(1, Duration::ZERO);
            endpoint.counts.answered(&answer);
            let _ = respond(&bus, &request, answer).await;
            continue;
        };
        let (bus, answerer, endpoint) = (bus.clone(), Arc::clone(&answerer), Arc::clone(&endpoint));
        tasks.spawn(async move {
            let started = Instant::now();
            let answer = answerer(Delivery::of_request(&request)).await;
            endpoint.counts.handled(1, started.elapsed());
            endpoint.counts.answered(&answer);
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
    use crate::{Kind, error::Refused};

    #[test]
    fn a_refusal_is_an_answer_and_a_failure_is_an_error() {
        let counts = Counts::default();

        counts.handled(3, Duration::from_nanos(30));
        counts.answered(&Answer { status: 200, body: Default::default(), replayed: false });
        counts.answered(&Answer::refused(&Refused::new(Kind::Conflict, "BID_TOO_LOW", "too low")));
        counts.answered(&Answer::broken());

        let told = counts.tell();
        assert_eq!((&told["num_requests"], &told["num_errors"]), (&json!(3), &json!(1)));
        assert_eq!(told["data"]["refused"], 1);
        assert_eq!(told["average_processing_time"], 10);
        assert_eq!(told["last_error"], "answered 500");
    }
}
