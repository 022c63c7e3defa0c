//! What travels on the bus: subjects, headers, the event envelope and answers.
//!
//! A message type says where it goes and what comes back; nobody writes a subject by hand.

use std::fmt;

use bytes::Bytes;
use garde::Validate;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    Timestamp,
    error::{Field, Refused},
};

/// Header names. NATS header names are case-sensitive.
pub mod header {
    /// Deduplicates publishes within the stream's window; fresh for each attempt of a caller.
    pub const MESSAGE_ID: &str = "Nats-Msg-Id";
    /// The caller's own key: the same key is the same command, for 48 hours.
    pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
    /// Where the answer goes. JetStream does not keep the reply subject of a message.
    pub const REPLY_TO: &str = "x-reply-to";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// The trace id alone, for people and `grep`.
    pub const TRACE_ID: &str = "x-trace-id";
    /// What belongs to one request of one caller, through every hop.
    pub const CORRELATION_ID: &str = "x-correlation-id";
    /// Who published the message.
    pub const SERVICE: &str = "x-service";
    /// The verified caller; only the edge and the operator may publish it.
    pub const USER_ID: &str = "x-user-id";
    /// The verified caller's role.
    pub const USER_ROLE: &str = "x-user-role";
    /// The session in which the verified caller asks.
    pub const SESSION_ID: &str = "x-session-id";
    /// On an answer: it was given before, to the same command.
    pub const REPLAYED: &str = "x-replayed";
    /// On an answer that is an error: its code. Read by the `nats` CLI.
    pub const ERROR: &str = "Nats-Service-Error";
    /// On an answer that is an error: its status.
    pub const ERROR_CODE: &str = "Nats-Service-Error-Code";
}

/// Asks a function to change something.
pub trait Command: Message {
    /// Carries a password or a code: it travels in memory only and is never stored, repeated or
    /// dead-lettered.
    const SECRET: bool = false;

    /// The last token of the subject: what the command is about, for example the item's id.
    fn key(&self) -> String {
        "-".into()
    }
}

/// Asks a function for something; changes nothing.
pub trait Query: Message {}

/// What commands and queries have in common.
pub trait Message: Serialize + DeserializeOwned + Validate<Context = ()> + Send + Sync + 'static {
    /// The domain whose function answers, for example `auctions`.
    const DOMAIN: &'static str;
    /// The function that answers, for example `place-bid`.
    const FUNCTION: &'static str;
    /// What it answers.
    type Reply: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Checks the shape: what can be said without looking anything up.
    fn check(&self) -> Result<(), Refused> {
        check(self)
    }
}

/// Checks the shape of a value; the refusal names every wrong member.
pub fn check(value: &impl Validate<Context = ()>) -> Result<(), Refused> {
    value.validate().map_err(|report| {
        let fields = report
            .iter()
            .map(|(path, error)| Field { name: path.to_string(), message: error.message().to_string() });
        Refused::invalid(fields.collect())
    })
}

/// Something that happened.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// `<thing>.<fact>.v<n>`, for example `bid.placed.v1`. An incompatible change is a new name.
    const NAME: &'static str;

    /// What it happened to; events about one key keep their order.
    fn key(&self) -> Uuid;

    /// Which of the events of this name about its key it is: above that of every one before it. What a
    /// snapshot tells is told up to the highest version in it.
    fn ordinal(&self) -> i64 {
        // What happens once.
        1
    }
}

/// The stream of ordinary commands.
pub const COMMANDS: &str = "COMMANDS";
/// The stream, in memory only, of commands that carry a secret.
pub const CREDENTIALS: &str = "CREDENTIALS";
/// The stream of everything that happened.
pub const EVENTS: &str = "EVENTS";

/// The subject of a command.
pub fn command_subject<C: Command>(command: &C) -> String {
    if C::SECRET {
        format!("auth.{}.{}", C::DOMAIN, C::FUNCTION)
    } else {
        format!("cmd.{}.{}.{}", C::DOMAIN, C::FUNCTION, command.key())
    }
}

/// Where people with the `nats` CLI send a command, with a token: the edge puts it into its stream.
pub fn service_subject<C: Command>() -> String {
    format!("svc.{}.{}", C::DOMAIN, C::FUNCTION)
}

/// The subject of a query.
pub fn query_subject(domain: &str, function: &str) -> String {
    format!("qry.{domain}.{function}")
}

/// The function that tells what became of a domain's commands.
pub(crate) fn outcome_function(domain: &str) -> String {
    format!("{domain}-outcome")
}

/// Tells the relay of a domain that its outbox has something.
pub(crate) fn poke_subject(domain: &str) -> String {
    format!("poke.{domain}")
}

/// Where whatever commits a change in a domain says what changed: keys with spaces between them, or nothing when it may be
/// anything. Heard by queries of the domain that keep something in memory.
pub(crate) fn changed_subject(domain: &str) -> String {
    format!("changed.{domain}")
}

/// Where the stream of events repeats what happens to one thing.
pub(crate) fn live_subject(key: Uuid) -> String {
    format!("live.*.*.*.{key}")
}

/// The envelope of every event, on the wire and in the outbox.
///
/// Every member but the payload may be missing in a message typed by hand.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope<P> {
    /// Identifies this event for ever; consumers count an id once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// `<thing>.<fact>`.
    #[serde(default)]
    pub event: String,
    /// `v<n>`.
    #[serde(default)]
    pub version: String,
    /// When it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// The trace in which it happened.
    #[serde(default)]
    pub trace_id: String,
    /// The request in which it happened.
    #[serde(default)]
    pub correlation_id: String,
    /// The function that says so.
    #[serde(default)]
    pub service: String,
    /// The fact.
    pub payload: P,
}

/// What an invocation answers: the body exactly as it goes out, and a status.
#[derive(Clone, PartialEq)]
pub struct Answer {
    /// 200 when accepted, else the status of the refusal or failure.
    pub status: u16,
    /// JSON: the reply, or `{"error":{...}}`.
    pub body: Bytes,
    /// The same command had been answered before.
    pub replayed: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ErrorBody<E> {
    pub(crate) error: E,
}

impl Answer {
    /// The accepted answer.
    pub fn accepted<R: Serialize>(reply: &R) -> Result<Self, serde_json::Error> {
        Ok(Self { status: 200, body: serde_json::to_vec(reply)?.into(), replayed: false })
    }

    /// The answer a rule gave.
    pub fn refused(refused: &Refused) -> Self {
        let body = serde_json::to_vec(&ErrorBody { error: refused }).unwrap_or_default();
        Self { status: refused.status, body: body.into(), replayed: false }
    }

    /// The answer when something broke: says nothing about what.
    pub fn broken() -> Self {
        Self::failure(500, "INTERNAL", "something went wrong on our side")
    }

    /// The answer when there is no room or a part is away: the caller may come again.
    pub fn unavailable() -> Self {
        Self::failure(503, "UNAVAILABLE", "the service is busy, try again shortly")
    }

    pub(crate) fn failure(status: u16, code: &'static str, message: &str) -> Self {
        let mut refused = Refused::new(crate::Kind::Invalid, code, message);
        refused.status = status;
        Self::refused(&refused)
    }

    /// True for an accepted command or an answered query.
    pub fn is_accepted(&self) -> bool {
        self.status < 300
    }

    /// The reply, or why there is none.
    pub fn parse<R: DeserializeOwned>(&self) -> crate::Result<R> {
        if self.is_accepted() {
            return Ok(serde_json::from_slice(&self.body)?);
        }
        let mut refused: Refused = serde_json::from_slice::<ErrorBody<Refused>>(&self.body)?.error;
        refused.status = self.status;
        if self.status >= 500 {
            return Err(crate::error::Outage(format!("{}: {}", refused.code, refused.message)).into());
        }
        Err(refused.into())
    }

    /// The headers that carry everything but the body; none for the common case.
    pub(crate) fn headers(&self) -> Option<async_nats::HeaderMap> {
        if self.is_accepted() && !self.replayed {
            return None;
        }
        let mut headers = async_nats::HeaderMap::new();
        if self.replayed {
            headers.insert(header::REPLAYED, "true");
        }
        if !self.is_accepted() {
            let code = serde_json::from_slice::<ErrorBody<Refused>>(&self.body)
                .map_or("INTERNAL".into(), |body| body.error.code);
            headers.insert(header::ERROR, code.as_ref());
            headers.insert(header::ERROR_CODE, self.status.to_string());
        }
        Some(headers)
    }

    /// Reads an answer back from a message.
    pub(crate) fn from_message(message: async_nats::Message) -> Self {
        let headers = message.headers.as_ref();
        let get = |name| headers.and_then(|headers| headers.get(name));
        Self {
            status: get(header::ERROR_CODE).and_then(|code| code.as_str().parse().ok()).unwrap_or(200),
            replayed: get(header::REPLAYED).is_some(),
            body: message.payload,
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Bodies may hold tokens and personal data.
        write!(f, "Answer({}, {} bytes)", self.status, self.body.len())
    }
}

/// One event of a transaction, ready to be published.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// The envelope's id, which is also the `Nats-Msg-Id`.
    pub id: Uuid,
    /// W3C trace context of the invocation that emitted it.
    pub traceparent: String,
    /// The correlation id of the request.
    pub correlation_id: String,
    /// The function that emitted it.
    pub service: String,
    /// The envelope, serialized once.
    pub body: Box<RawValue>,
}

/// The id under which the outcome of a command with an `Idempotency-Key` is kept.
pub fn command_id(user: Option<&str>, function: &str, key: &str) -> Uuid {
    derived_id(&["key", user.unwrap_or_default(), function, key])
}

/// An identifier for things that have none of their own: stable, and spread like a random one.
pub(crate) fn derived_id(parts: &[&str]) -> Uuid {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for part in parts {
        // The length first, so that ("ab", "c") and ("a", "bc") differ.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn a_refusal_survives_the_wire() {
        let mut refused = Refused::new(Kind::Conflict, "BID_TOO_LOW", "too low");
        refused.extras.insert("min_next_bid".into(), "1.50".into());

        let back = Answer::refused(&refused).parse::<()>().unwrap_err();

        assert!(matches!(back, crate::Error::Refused(same) if same == refused));
    }

    #[test]
    fn derived_ids_depend_on_where_one_part_ends() {
        assert_eq!(derived_id(&["a", "b"]), derived_id(&["a", "b"]));
        assert_ne!(derived_id(&["ab", "c"]), derived_id(&["a", "bc"]));
    }
}
