//! Sends commands and waits for their answers: the edge's half of the reply pattern.
//!
//! JetStream keeps no reply subject, so a command carries one in a header; answers arrive on a
//! subject of this process and find their waiter by a token.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use async_nats::{HeaderMap, jetstream::message::PublishMessage};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use crate::{
    Caller, Function, Result, Trace,
    bus::Bus,
    wire::{self, Answer, Command, header},
};

/// How long an answer is waited for.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long the stream may take to confirm that it has stored a command, before the next try.
const CONFIRM_WITHIN: Duration = Duration::from_millis(1_500);

/// On whose behalf, and in which request, something is sent.
#[derive(Debug, Clone)]
pub struct Request {
    /// The verified caller.
    pub caller: Option<Caller>,
    /// The request's trace.
    pub trace: Trace,
    /// The caller's own key.
    pub idempotency_key: Option<String>,
}

/// What became of a command.
#[derive(Debug)]
pub enum Sent {
    /// Decided, and committed in Postgres.
    Answered(Answer),
    /// In the stream, not decided within the deadline: it will be. The id under which its outcome
    /// is kept.
    Pending(Uuid),
    /// Carried a secret, so it is not kept: not decided within the deadline, and it may or may not be.
    TimedOut,
    /// The stream did not confirm, so it may or may not be there: to be sent again with the same key.
    Unavailable(String),
}

/// Sends commands and waits for their answers.
#[derive(Clone)]
pub struct Sender {
    bus: Bus,
    inner: Arc<Inner>,
}

struct Inner {
    /// The name of this process in reply subjects.
    name: String,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

impl Sender {
    /// Begins to listen for answers.
    pub async fn start(bus: Bus) -> anyhow::Result<Self> {
        let name = Uuid::new_v4().simple().to_string()[..12].to_owned();
        let mut answers =
            bus.client.subscribe(format!("reply.*.{name}.*")).await.context("subscribe to answers")?;
        let inner = Arc::new(Inner { name, next: AtomicU64::new(0), waiting: Mutex::default() });
        let listener = Arc::downgrade(&inner);
        tokio::spawn(async move {
            while let Some(message) = answers.next().await {
                let Some(inner) = listener.upgrade() else { return };
                let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
                if let Some(waiter) = token.and_then(|token| inner.waiting().remove(&token)) {
                    // Nobody waits any more when the caller hung up.
                    let _ = waiter.send(Answer::from_message(message));
                }
            }
        });
        Ok(Self { bus, inner })
    }

    /// The connection, for queries.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Sends a command and waits until it is decided or the deadline has passed.
    pub async fn send<C: Command>(&self, command: &C, request: &Request) -> Result<Sent> {
        self.send_to(C::FUNCTION, Addressed::of(command)?, request).await
    }

    /// The same for a command that was written by hand, whoever's it is.
    pub async fn call(&self, function: &Function, body: &[u8], request: &Request) -> Result<Sent> {
        self.send_to(function.spec().name, function.address(body)?, request).await
    }

    async fn send_to(&self, function: &str, command: Addressed, request: &Request) -> Result<Sent> {
        let deadline = Instant::now() + DEADLINE;
        let message_id = Uuid::now_v7();
        let waiter = self.inner.wait();
        let reply_to = format!("reply.{function}.{}.{}", self.inner.name, waiter.token);

        let mut headers = HeaderMap::new();
        headers.insert(header::MESSAGE_ID, message_id.to_string());
        headers.insert(header::REPLY_TO, reply_to);
        request.trace.write(&mut headers);
        if let Some(caller) = &request.caller {
            caller.write(&mut headers);
        }
        if let (Some(key), false) = (&request.idempotency_key, command.secret) {
            headers.insert(header::IDEMPOTENCY_KEY, key.as_str());
        }
        let user = request.caller.map(|caller| caller.id.to_string());
        let command_id = match &request.idempotency_key {
            Some(key) => wire::command_id(user.as_deref(), function, key),
            None => message_id,
        };
        Ok(self.deliver(command, headers, waiter, deadline, command_id).await)
    }

    /// Publishes until the stream confirms, and waits for the answer at the same time: it often
    /// comes first.
    async fn deliver(
        &self,
        command: Addressed,
        headers: HeaderMap,
        mut waiter: Waiter,
        deadline: Instant,
        command_id: Uuid,
    ) -> Sent {
        let mut stored = false;
        let mut problem = String::from("the stream did not confirm");
        while Instant::now() < deadline {
            if stored {
                match tokio::time::timeout_at(deadline, &mut waiter.answer).await {
                    Ok(Ok(answer)) => return Sent::Answered(answer),
                    _ => break,
                }
            }
            let published = PublishMessage::build().payload(command.payload.clone()).headers(headers.clone());
            let publish = async {
                // The same message id each time: the stream keeps one.
                let ack = self.bus.js.send_publish(command.subject.clone(), published).await?;
                ack.await
            };
            tokio::select! {
                biased;
                Ok(answer) = &mut waiter.answer => return Sent::Answered(answer),
                confirmed = tokio::time::timeout(CONFIRM_WITHIN, publish) => match confirmed {
                    Ok(Ok(_)) => stored = true,
                    Ok(Err(error)) => {
                        problem = error.to_string();
                        if is_full(&error) {
                            return Sent::Unavailable(format!("the stream is full: {problem}"));
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(_) => {}
                },
            }
        }
        match (stored, command.secret) {
            (true, false) => Sent::Pending(command_id),
            (true, true) => Sent::TimedOut,
            (false, _) => Sent::Unavailable(problem),
        }
    }
}

/// A command that is ready to go.
pub(crate) struct Addressed {
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
    pub(crate) secret: bool,
}

impl Addressed {
    pub(crate) fn of<C: Command>(command: &C) -> Result<Self> {
        let (subject, payload) = (wire::command_subject(command), serde_json::to_vec(command)?.into());
        Ok(Self { subject, payload, secret: C::SECRET })
    }
}

/// The stream refuses new messages rather than drop old ones: error 503 / 10077.
fn is_full(error: &async_nats::jetstream::context::PublishError) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.to_string().contains("maximum"))
}

impl Inner {
    fn wait(self: &Arc<Self>) -> Waiter {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(token, sender);
        Waiter { token, answer, inner: Arc::clone(self) }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those who wait; given up when dropped, so that a caller who hangs up leaves nothing.
struct Waiter {
    token: u64,
    answer: oneshot::Receiver<Answer>,
    inner: Arc<Inner>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.inner.waiting().remove(&self.token);
    }
}
