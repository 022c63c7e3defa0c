//! The connection to NATS, and what may be asked over it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use async_nats::{
    Client, ConnectOptions, HeaderMap, Message,
    jetstream::{self, context::ContextBuilder, message::PublishMessage, stream::RawMessageErrorKind},
};
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, future};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};
use tokio::{sync::watch, task::coop::unconstrained};
use uuid::Uuid;

use crate::{
    Caller, Result, Timestamp, Trace,
    config::{Config, Mode},
    error::Outage,
    metrics::Metrics,
    outcome::OutcomeOf,
    permissions,
    wire::{self, Answer, COMMANDS, Command, Envelope, Event, Query, header},
};

/// How long a query may take before the asker gives up.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a query may be unanswered before it is asked once more.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How many messages may wait in a subscription: a reader that is slow must not lose what was already sent to it.
pub(crate) const SUBSCRIPTION_CAPACITY: usize = 65_536;
/// How long the JetStream API may take.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection to NATS.
#[derive(Clone)]
pub struct Bus {
    pub(crate) client: Client,
    pub(crate) js: jetstream::Context,
    /// Tells this process from others of the same name.
    pub(crate) instance: String,
    pub(crate) metrics: Arc<Metrics>,
    connections: watch::Receiver<u64>,
}

/// What the COMMANDS stream still holds of one kind of command.
#[derive(Debug, Clone, PartialEq)]
pub struct Backlog {
    /// The stream's own clock, read before the commands were looked at: whatever was stamped
    /// before this instant and is not in `oldest` has been decided.
    pub now: Timestamp,
    /// For each key with undecided commands, the stamp of the oldest.
    pub oldest: HashMap<Uuid, Timestamp>,
}

/// One connection to one server process. Known before anything is sent over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    server: String,
    client: u64,
}

/// Where a stream begins and ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Extent {
    /// The place of the first message that it holds, or will hold.
    pub(crate) first: i64,
    /// The place of the last message that it ever held; 0 when there was none.
    pub(crate) last: i64,
    /// When it was made. A stream that was wiped and made again has another instant.
    pub(crate) created: Timestamp,
}

impl Bus {
    /// Connects as the part of this name, and keeps trying while the server is not there yet.
    pub async fn connect(config: &Config, name: &str) -> anyhow::Result<Self> {
        let (connected, connections) = watch::channel(0);
        let mut options = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .ping_interval(Duration::from_secs(10))
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .event_callback(move |event| {
                match event {
                    async_nats::Event::Connected => {
                        connected.send_modify(|count| *count += 1);
                        tracing::debug!("connected to NATS");
                    }
                    // One for each try to connect again, and those of an orderly end.
                    async_nats::Event::ClientError(_)
                    | async_nats::Event::Draining
                    | async_nats::Event::Closed => {
                        tracing::debug!(%event, "NATS connection")
                    }
                    event => tracing::warn!(%event, "NATS connection"),
                }
                std::future::ready(())
            });
        let login = config.login(name);
        ensure!(
            login.is_some() || config.outcry_env != Mode::Production,
            "NATS_PASSWORD is not set, and OUTCRY_ENV is production: {name} comes to the bus as its own user, see \
             nats/accounts.conf (NATS_PASSWORD_FILE reads the password from a file)"
        );
        let user = login.as_ref().map_or(name, |(user, _)| user);
        options = options.custom_inbox_prefix(permissions::inbox(user));
        if let Some((user, password)) = login {
            options = options.user_and_password(user, password);
        }
        let client = options
            .connect(config.nats_url.as_str())
            .await
            .with_context(|| format!("connect to NATS at {}", config.nats_address()))?;
        let js = ContextBuilder::new().timeout(API_TIMEOUT).build(client.clone());
        let instance = config.outcry_instance.clone().unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        Ok(Self { client, js, metrics: Metrics::new(&instance), instance, connections })
    }

    /// What this process counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Counts how often the connection was made; changes when it is made again.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// Which connection this is: another one after every time that it was made again.
    pub(crate) fn session(&self) -> Session {
        let info = self.client.server_info();
        Session { server: info.server_id, client: info.client_id }
    }

    /// True while the connection stands.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Whether the connection stands within the time.
    pub async fn is_up(&self, within: Duration) -> bool {
        let mut connections = self.connections.clone();
        tokio::time::timeout(within, connections.wait_for(|count| *count > 0)).await.is_ok()
    }

    /// Sends what is still buffered. To be called before the process ends.
    pub async fn flush(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.client.flush()).await;
    }

    /// Sends what is still buffered, and ends the connection.
    pub async fn close(&self) {
        self.flush().await;
        let _ = self.client.drain().await;
    }

    /// Asks a query function.
    pub async fn ask<Q: Query>(&self, query: &Q, caller: Option<Caller>, trace: &Trace) -> Result<Answer> {
        self.request(wire::query_subject(Q::DOMAIN, Q::FUNCTION), query, caller, trace).await
    }

    /// Asks a query function by its subject.
    ///
    /// Once more when nobody has answered within a second, and the first answer counts: a process that was killed, or
    /// that took its leave while the question was on its way, never answers.
    pub async fn request(
        &self,
        subject: String,
        question: &(impl Serialize + Sync),
        caller: Option<Caller>,
        trace: &Trace,
    ) -> Result<Answer> {
        let question = Bytes::from(serde_json::to_vec(question)?);
        let mut first = std::pin::pin!(self.send(&subject, question.clone(), caller, trace, QUERY_TIMEOUT));
        if let Ok(answered) = tokio::time::timeout(ASK_AGAIN, first.as_mut()).await {
            return answered;
        }
        tracing::debug!(subject, "not answered, asking once more");
        let again = std::pin::pin!(self.send(&subject, question, caller, trace, QUERY_TIMEOUT - ASK_AGAIN));
        future::select_ok([future::Either::Left(first), future::Either::Right(again)])
            .await
            .map(|(answer, _)| answer)
    }

    /// Asks a function to do something that must not be asked twice.
    pub(crate) async fn request_once(
        &self,
        subject: String,
        question: &(impl Serialize + Sync),
        trace: &Trace,
    ) -> Result<Answer> {
        self.send(&subject, serde_json::to_vec(question)?.into(), None, trace, QUERY_TIMEOUT).await
    }

    async fn send(
        &self,
        subject: &str,
        question: Bytes,
        caller: Option<Caller>,
        trace: &Trace,
        within: Duration,
    ) -> Result<Answer> {
        let mut headers = HeaderMap::new();
        trace.write(&mut headers);
        if let Some(caller) = caller {
            caller.write(&mut headers);
        }
        let request = async_nats::Request::new().payload(question).headers(headers).timeout(Some(within));
        let answered = self.client.send_request(subject.to_owned(), request).await;
        let message = answered.map_err(|error| Outage(format!("ask {subject}: {error}")))?;
        Ok(Answer::from_message(message))
    }

    /// Asks a domain what became of a command: a [`CommandOutcome`](crate::CommandOutcome), or a refusal when
    /// it is no longer known. `issued` is when its sender was told that it is stored.
    pub async fn outcome(
        &self,
        domain: &str,
        function: &str,
        id: Uuid,
        issued: Timestamp,
        trace: &Trace,
    ) -> Result<Answer> {
        let subject = wire::query_subject(domain, &wire::outcome_function(domain));
        let of = OutcomeOf { function: function.to_owned(), id, issued };
        self.request(subject, &of, None, trace).await
    }

    /// Whether a function of this name answers within the time.
    pub async fn is_serving(&self, function: &str, within: Duration) -> bool {
        let request = async_nats::Request::new().timeout(Some(within));
        self.client.send_request(format!("$SRV.PING.{function}"), request).await.is_ok()
    }

    /// Whether this very process serves the function.
    pub async fn is_instance_serving(&self, function: &str, instance: &str, within: Duration) -> bool {
        self.is_serving(&format!("{function}.{instance}"), within).await
    }

    /// Gives an answer to who asked.
    pub(crate) async fn publish_answer(&self, asker: String, answer: &Answer) -> Result<()> {
        let body = answer.body.clone();
        let published = match answer.headers() {
            None => self.client.publish(asker, body).await,
            Some(headers) => self.client.publish_with_headers(asker, headers, body).await,
        };
        published.map_err(|error| Outage(format!("answer: {error}")).into())
    }

    /// What happens to one thing from now on: the name and the payload of each event, as soon as the stream
    /// has it.
    ///
    /// Best effort: what is said while the connection is away is not heard. Whoever must not miss anything
    /// asks; what is asked over this connection from now on is answered when the listening has begun.
    pub async fn live(&self, key: Uuid) -> Result<impl Stream<Item = (String, Box<RawValue>)> + use<>> {
        let heard = self
            .client
            .subscribe(wire::live_subject(key))
            .await
            .map_err(|error| Outage(format!("listen to {key}: {error}")))?;
        Ok(heard.filter_map(|message| std::future::ready(event_of(&message))))
    }

    /// What happens from now on to whatever it happens to, as soon as the stream has it. Best effort, as
    /// [`live`](Self::live).
    pub async fn hear<E: Event>(&self) -> Result<impl Stream<Item = E> + use<E>> {
        let subject = format!("live.{}.*", E::NAME);
        let heard = self.client.subscribe(subject).await;
        let heard = heard.map_err(|error| Outage(format!("listen to {}: {error}", E::NAME)))?;
        Ok(heard.filter_map(|message| {
            let envelope = serde_json::from_slice::<Envelope<E>>(&message.payload);
            std::future::ready(envelope.ok().map(|envelope| envelope.payload))
        }))
    }

    /// Tells the relay of a domain that its outbox has something. Best effort: the relay also polls.
    pub(crate) async fn poke(&self, domain: &str) {
        let _ = self.client.publish(wire::poke_subject(domain), Bytes::new()).await;
    }

    /// Says what changed in a domain, to queries that keep it in memory. Best effort: they keep nothing for long.
    pub(crate) async fn say_changed(&self, domain: &str, changes: Bytes) {
        let _ = self.client.publish(wire::changed_subject(domain), changes).await;
    }

    /// See [`Cx::backlog`](crate::Cx::backlog).
    pub async fn backlog<C: Command>(&self, keys: &[Uuid]) -> Result<Backlog> {
        let now = self.stream_info(COMMANDS, json!({})).await?.ts;
        let prefix = format!("cmd.{}.{}.", C::DOMAIN, C::FUNCTION);
        let mut waiting = HashMap::new();
        loop {
            let offset = waiting.len();
            let page = self
                .stream_info(COMMANDS, json!({ "subjects_filter": format!("{prefix}>"), "offset": offset }))
                .await?;
            let subjects = page.state.subjects.unwrap_or_default();
            let more = !subjects.is_empty();
            waiting.extend(subjects);
            if !more || waiting.len() >= page.total {
                break;
            }
        }
        let mut oldest = HashMap::new();
        for key in keys {
            let subject = format!("{prefix}{key}");
            if waiting.contains_key(&subject)
                && let Some(stamp) = self.oldest(&subject).await?
            {
                oldest.insert(*key, stamp);
            }
        }
        Ok(Backlog { now, oldest })
    }

    /// Where a stream begins and ends now.
    pub(crate) async fn extent(&self, stream: &str) -> Result<Extent> {
        let info = self.stream_info(stream, json!({})).await?;
        let place = |sequence| i64::try_from(sequence).unwrap_or_default();
        let StreamState { first_seq, last_seq, .. } = info.state;
        Ok(Extent { first: place(first_seq), last: place(last_seq), created: info.created })
    }

    /// The `Nats-Msg-Id` of the message at a place in a stream; `None` when there is none.
    pub(crate) async fn message_id(&self, stream: &str, sequence: i64) -> Result<Option<Uuid>> {
        let stream = self.stream(stream).await?;
        match stream.get_raw_message(u64::try_from(sequence).unwrap_or_default()).await {
            Ok(message) => {
                let id = message.headers.get(header::MESSAGE_ID).map(async_nats::HeaderValue::as_str);
                Ok(id.and_then(|id| id.parse().ok()))
            }
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(Outage(format!("look at message {sequence}: {error}")).into()),
        }
    }

    /// A stream, to read single messages of.
    pub(crate) async fn stream(&self, name: &str) -> Result<jetstream::stream::Stream<()>> {
        let stream = self.js.get_stream_no_info(name).await;
        stream.map_err(|error| Outage(format!("look into {name}: {error}")).into())
    }

    /// How many messages a consumer has still to settle: those that wait, and those in work.
    pub async fn unsettled(&self, stream: &str, consumer: &str) -> Result<u64> {
        Ok(self.consumer(stream, consumer).await?.unsettled())
    }

    /// How far a consumer is.
    pub(crate) async fn consumer(&self, stream: &str, consumer: &str) -> Result<ConsumerInfo> {
        self.call(format!("CONSUMER.INFO.{stream}.{consumer}"), json!({})).await
    }

    /// Puts an event into its stream, as an operator may; returns its place there.
    pub async fn publish_event(&self, subject: &str, body: impl Into<Bytes>) -> Result<u64> {
        let trace = Trace::start();
        let mut headers = HeaderMap::new();
        headers.insert(header::MESSAGE_ID, Uuid::now_v7().to_string());
        trace.write(&mut headers);
        let event =
            PublishMessage::build().payload(body.into()).headers(headers).expected_stream(wire::EVENTS);
        let failed = |error| Outage(format!("publish {subject}: {error}"));
        let stored = self.js.send_publish(subject.to_owned(), event).await.map_err(failed)?;
        Ok(stored.await.map_err(failed)?.sequence)
    }

    /// Forgets one message of a stream. For tests, and for an operator who means it.
    pub async fn forget(&self, stream: &str, sequence: u64) -> Result<()> {
        self.call(format!("STREAM.MSG.DELETE.{stream}"), json!({ "seq": sequence })).await.map(drop::<Value>)
    }

    /// Forgets every message of a stream. For tests, and for an operator who means it.
    pub async fn purge(&self, stream: &str) -> Result<()> {
        self.call(format!("STREAM.PURGE.{stream}"), json!({})).await.map(drop::<Value>)
    }

    /// How many messages a stream holds.
    pub async fn stored(&self, stream: &str) -> Result<u64> {
        Ok(self.stream_info(stream, json!({})).await?.state.messages)
    }

    async fn stream_info(&self, stream: &str, request: Value) -> Result<StreamInfo> {
        self.call(format!("STREAM.INFO.{stream}"), request).await
    }

    /// Calls the JetStream API, where every error means that the bus is not as it should be.
    pub(crate) async fn call<T: DeserializeOwned>(&self, call: String, request: Value) -> Result<T> {
        let answer = self.api(&call, request).await?;
        answer.map_err(|error| Outage(format!("{call}: {}", error.description)).into())
    }

    /// The stamp of the oldest message on a subject of the work queue, which is undecided because
    /// a decided one is no longer stored. The subject may have wildcards.
    pub(crate) async fn oldest(&self, subject: &str) -> Result<Option<Timestamp>> {
        let request = json!({ "seq": 1, "next_by_subj": subject });
        let call = format!("STREAM.MSG.GET.{COMMANDS}");
        match self.api::<Stored>(&call, request).await? {
            Ok(stored) => Ok(Some(stored.message.time)),
            // Decided since the subjects were listed.
            Err(error) if error.err_code == NO_MESSAGE => Ok(None),
            Err(error) => Err(Outage(format!("{call}: {}", error.description)).into()),
        }
    }

    /// Calls the JetStream API; an inner error is the server's own.
    pub(crate) async fn api<T: DeserializeOwned>(
        &self,
        call: &str,
        request: impl serde::Serialize,
    ) -> Result<std::result::Result<T, ApiError>> {
        let answer = self.js.request::<_, _, ApiAnswer<T>>(call.to_owned(), &request).await;
        match answer.map_err(|error| Outage(format!("{call}: {error}")))? {
            ApiAnswer::Ok(value) => Ok(Ok(value)),
            ApiAnswer::Err { error } => Ok(Err(error)),
        }
    }
}

/// The name and the payload of an event that the stream repeats: live.<thing>.<fact>.<version>.<key>
fn event_of(message: &async_nats::Message) -> Option<(String, Box<RawValue>)> {
    let (name, _key) = message.subject.strip_prefix("live.")?.rsplit_once('.')?;
    let envelope: Envelope<Box<RawValue>> = serde_json::from_slice(&message.payload).ok()?;
    Some((name.to_owned(), envelope.payload))
}

/// The server's code for "no message found".
const NO_MESSAGE: u64 = 10037;

/// The JetStream API answers with the value's members or with an `error`.
#[derive(Deserialize)]
#[serde(untagged)]
enum ApiAnswer<T> {
    Err { error: ApiError },
    Ok(T),
}

/// What the server says is wrong with a call.
#[derive(Debug, Deserialize)]
pub(crate) struct ApiError {
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

/// How far a consumer is.
#[derive(Deserialize)]
pub(crate) struct ConsumerInfo {
    num_pending: u64,
    num_ack_pending: u64,
    ack_floor: SequencePair,
}

#[derive(Deserialize)]
struct SequencePair {
    stream_seq: u64,
}

impl ConsumerInfo {
    /// How many messages are not settled: those that wait, and those in work.
    pub(crate) fn unsettled(&self) -> u64 {
        self.num_pending + self.num_ack_pending
    }

    /// Every message up to this place is settled, as far as it is meant for the consumer.
    pub(crate) fn settled_to(&self) -> i64 {
        i64::try_from(self.ack_floor.stream_seq).unwrap_or_default()
    }
}

/// What a subscription has been sent until now, without waiting for more.
pub(crate) fn arrived(messages: &mut (impl Stream<Item = Message> + Unpin)) -> impl Iterator<Item = Message> {
    // Unconstrained: a task that has done much would otherwise be told that nothing has arrived.
    std::iter::from_fn(|| unconstrained(messages.next()).now_or_never().flatten())
}

#[derive(Deserialize)]
struct StreamInfo {
    ts: Timestamp,
    created: Timestamp,
    state: StreamState,
    #[serde(default)]
    total: usize,
}

#[derive(Deserialize)]
struct StreamState {
    #[serde(default)]
    messages: u64,
    #[serde(default)]
    first_seq: u64,
    #[serde(default)]
    last_seq: u64,
    subjects: Option<HashMap<String, u64>>,
}

#[derive(Deserialize)]
struct Stored {
    message: StoredMessage,
}

#[derive(Deserialize)]
struct StoredMessage {
    time: Timestamp,
}
