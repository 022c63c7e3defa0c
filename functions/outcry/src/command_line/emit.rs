//! `outcry emit`: publishes a test event.

use anyhow::{Context, bail};
use contracts::{Timestamp, events};
use platform::wire::Envelope;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{join, say};

/// Publishes the sample of an event, with a fresh id and these members of its payload replaced.
pub(crate) async fn emit(name: Option<&str>, changes: &str) -> anyhow::Result<()> {
    let Some(name) = name else {
        for known in events::all() {
            say(known.name);
        }
        return Ok(());
    };
    let (Some(known), Some(sample)) =
        (events::all().into_iter().find(|known| known.name == name), outcry::sample(name))
    else {
        bail!("there is no event {name}; `outcry emit` alone lists them");
    };
    let changes: Map<String, Value> = serde_json::from_str(changes)
        .context("the members to replace are no JSON object, for example '{\"amount\":\"30.00\"}'")?;
    let mut envelope: Envelope<Value> = serde_json::from_str(sample)?;
    for (member, value) in changes {
        match envelope.payload.get_mut(&member) {
            Some(place) => *place = value,
            None => bail!("{name} has no member {member}"),
        }
    }
    let payload = (known.read)(envelope.payload).with_context(|| format!("this is no {name}"))?;
    let id = Uuid::now_v7();
    let envelope = Envelope {
        id: Some(id),
        timestamp: Some(Timestamp::now()),
        service: "outcry emit".into(),
        payload: payload.json,
        ..envelope
    };
    let subject = format!("events.{name}.{}", payload.key);
    let (_, bus) = join().await?;
    let place = bus.publish_event(&subject, serde_json::to_vec(&envelope)?).await?;
    bus.close().await;
    say(&format!("{subject}\nid {id}, stored as EVENTS:{place}"));
    Ok(())
}
