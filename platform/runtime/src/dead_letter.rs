//! Dead letters: messages that a function gave up, kept with the reason until somebody decides.
//!
//! A letter is the message as it was, on `dlq.<function>`, with headers that say why. It is driven again
//! by asking the function itself, on `redrive.<function>`: only that function sees it, under the identity
//! that it had, and the answer says what became of it. Who asks says which letter, and nothing else: the
//! function reads it where it lies, so the right to ask is no right to be anyone.

use async_nats::{
    HeaderMap,
    jetstream::{
        message::{PublishMessage, StreamMessage},
        stream::RawMessageErrorKind,
    },
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    bus::Bus,
    error::{Outage, Result},
    invoke::Delivery,
    wire::{Answer, header},
};

/// The stream of dead letters.
pub const DEAD_LETTERS: &str = "DEAD_LETTERS";

/// How long a function may take with a letter that is driven again.
const REDRIVE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(6);

const REASON: &str = "x-dead-reason";
const SUBJECT: &str = "x-dead-subject";
const MESSAGE: &str = "x-dead-message";
const MESSAGE_ID: &str = "x-dead-message-id";
const DELIVERIES: &str = "x-dead-deliveries";
const SINCE: &str = "x-dead-since";

/// Asks a function to try one of its letters again.
#[derive(Serialize, Deserialize)]
struct Redrive {
    /// Its place among the dead letters.
    letter: u64,
}

/// A message that was given up.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its place among the dead letters: its name for people.
    pub sequence: u64,
    /// Who gave it up.
    pub function: String,
    /// Why.
    pub reason: String,
    /// Where it had been published.
    pub subject: String,
    /// Its place where it had been stored, `<stream>:<sequence>`.
    pub message: String,
    /// How many times it had been delivered.
    pub deliveries: u64,
    /// When it had been stored.
    pub since: Option<Timestamp>,
    /// When it was given up.
    pub died_at: Timestamp,
    /// As published, and what was added.
    headers: HeaderMap,
    /// As published.
    pub body: Bytes,
}

impl DeadLetter {
    /// The headers that the message came with.
    pub fn shown_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            let own = !name.starts_with("x-dead-") && name != header::MESSAGE_ID;
            values.iter().filter(move |_| own).map(move |value| (name, value.as_str()))
        })
    }

    /// The message as its function had received it; `None` for what no function put there.
    fn restore(&self) -> Option<Delivery> {
        let (stream, sequence) = self.message.split_once(':')?;
        let mut original = Delivery {
            subject: self.subject.clone(),
            headers: HeaderMap::new(),
            body: self.body.clone(),
            stamp: self.since?,
            stream: stream.to_owned(),
            sequence: sequence.parse().ok()?,
            delivered: 1,
        };
        for (name, values) in self.headers.iter() {
            let name: &str = name.as_ref();
            let added = name.starts_with("x-dead-") || name == header::MESSAGE_ID || name == header::REPLY_TO;
            for value in values.iter().filter(|_| !added) {
                original.headers.append(name, value.clone());
            }
        }
        if let Some(id) = self.headers.get(MESSAGE_ID) {
            original.headers.insert(header::MESSAGE_ID, id.clone());
        }
        Some(original)
    }
}

/// Keeps a message that was given up, with the reason. Once, however often this is tried.
pub(crate) async fn keep(bus: &Bus, function: &str, delivery: &Delivery, reason: &str) -> anyhow::Result<()> {
    // What was said to the server about the message's own stream is not true of this one.
    let mut headers = HeaderMap::new();
    for (name, values) in delivery.headers.iter() {
        let name: &str = name.as_ref();
        for value in values.iter().filter(|_| !name.starts_with("Nats-")) {
            headers.append(name, value.clone());
        }
    }
    if let Some(id) = delivery.headers.get(header::MESSAGE_ID) {
        headers.insert(MESSAGE_ID, id.clone());
    }
    headers.insert(header::MESSAGE_ID, format!("{}:{function}", delivery.place()));
    headers.insert(REASON, reason.replace(['\r', '\n'], " "));
    headers.insert(SUBJECT, delivery.subject.as_str());
    headers.insert(MESSAGE, delivery.place());
    headers.insert(DELIVERIES, delivery.delivered.to_string());
    headers.insert(SINCE, delivery.stamp.to_string());
    let letter = PublishMessage::build().payload(delivery.body.clone()).headers(headers);
    bus.js.send_publish(format!("dlq.{function}"), letter).await?.await?;
    Ok(())
}

/// The message as the function had received it, of the letter that a request names. Only a letter that lies
/// among the function's own is believed; the reason otherwise.
pub(crate) async fn named(
    bus: &Bus,
    function: &str,
    request: &[u8],
) -> std::result::Result<Delivery, String> {
    let Redrive { letter: sequence } = serde_json::from_slice(request)
        .map_err(|error| format!("expected {{\"letter\": <number>}}, as `dlq list` shows it: {error}"))?;
    let found = next(bus, Some(function), sequence).await.map_err(|error| error.to_string())?;
    let letter = found.filter(|letter| letter.sequence == sequence);
    let letter = letter.ok_or_else(|| format!("{sequence} is no dead letter of {function}"))?;
    letter.restore().ok_or_else(|| format!("dead letter {sequence} does not say what it was"))
}

/// The first letter from this place on, of one function or of all.
pub async fn next(bus: &Bus, function: Option<&str>, from: u64) -> Result<Option<DeadLetter>> {
    let subject = format!("dlq.{}", function.unwrap_or(">"));
    let stream = bus.stream(DEAD_LETTERS).await?;
    match stream.get_first_raw_message_by_subject(&subject, from).await {
        Ok(message) => Ok(Some(DeadLetter::from(message))),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(Outage(format!("look into {DEAD_LETTERS}: {error}")).into()),
    }
}

/// The letter at this place.
pub async fn get(bus: &Bus, sequence: u64) -> Result<Option<DeadLetter>> {
    Ok(next(bus, None, sequence).await?.filter(|letter| letter.sequence == sequence))
}

/// Forgets a letter.
pub async fn drop(bus: &Bus, letter: &DeadLetter) -> Result<()> {
    bus.forget(DEAD_LETTERS, letter.sequence).await
}

/// Has the function try once more. An accepted or refused answer means that it is settled, and the letter
/// is forgotten; otherwise the letter stays and the answer says why.
pub async fn redrive(bus: &Bus, letter: &DeadLetter) -> Result<Answer> {
    let named = serde_json::to_vec(&Redrive { letter: letter.sequence })?;
    let request = async_nats::Request::new().payload(named.into()).timeout(Some(REDRIVE_TIMEOUT));
    let message = bus
        .client
        .send_request(format!("redrive.{}", letter.function), request)
        .await
        .map_err(|error| Outage(format!("ask {}: {error}", letter.function)))?;
    let answer = Answer::from_message(message);
    if answer.status < 500 {
        self::drop(bus, letter).await?;
    }
    Ok(answer)
}

impl From<StreamMessage> for DeadLetter {
    fn from(message: StreamMessage) -> Self {
        let get = |name| message.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
        Self {
            sequence: message.sequence,
            function: message.subject.strip_prefix("dlq.").unwrap_or_default().to_owned(),
            reason: get(REASON),
            subject: get(SUBJECT),
            message: get(MESSAGE),
            deliveries: get(DELIVERIES).parse().unwrap_or_default(),
            since: Timestamp::parse(&get(SINCE)).ok(),
            died_at: message.time.into(),
            headers: message.headers,
            body: message.payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_reads_back_as_the_message_that_it_was() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (REASON, "panicked"),
            (SUBJECT, "cmd.auctions.place-bid.7"),
            (MESSAGE, "COMMANDS:12"),
            (MESSAGE_ID, "0199-original"),
            (SINCE, "2026-11-21T02:21:44.776Z"),
            (header::MESSAGE_ID, "COMMANDS:12:place-bid"),
            (header::REPLY_TO, "reply.place-bid.x.1"),
            (header::USER_ID, "7"),
        ] {
            headers.insert(name, value);
        }
        let letter = DeadLetter::from(StreamMessage {
            subject: "dlq.place-bid".into(),
            sequence: 3,
            headers,
            payload: Bytes::from_static(b"{}"),
            time: time::OffsetDateTime::UNIX_EPOCH,
        });

        let original = letter.restore().unwrap();

        assert_eq!(
            (original.subject.as_str(), original.place()),
            ("cmd.auctions.place-bid.7", "COMMANDS:12".into())
        );
        assert_eq!(original.stamp.to_string(), "2026-11-21T02:21:44.776Z");
        let names: Vec<&str> = original.headers.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(original.headers.get(header::MESSAGE_ID).unwrap().as_str(), "0199-original");
        assert_eq!((names.len(), original.headers.get(header::USER_ID).unwrap().as_str()), (2, "7"));
    }
}
