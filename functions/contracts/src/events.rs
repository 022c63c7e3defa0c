//! All events by name, for those who handle any of them: the command line, and the test of the samples.
//!
//! Each has a golden sample in `nats/samples/`: documentation, fixture, and what `outcry emit` publishes. A sample
//! never changes in what it means; an incompatible change is a new event.

use platform::Event;
use serde_json::{Result, Value};
use uuid::Uuid;

use crate::{
    auctions::{BidPlaced, BidWon, ItemClosed, ItemCreated, ItemDeleted, ItemExtended, ItemUpdated},
    catalog::{
        CategoryCreated, CategoryDeleted, CategoryUpdated, ProductCreated, ProductDeleted, ProductUpdated,
    },
    identity::{
        PasswordChanged, PasswordResetRequested, RecoveryCodeUsed, SessionEnded, TwoFactorDisabled,
        TwoFactorEnabled, UserCreated, UserDeleted, UserUpdated,
    },
};

/// An event that can be read by its name.
#[derive(Clone, Copy)]
pub struct Known {
    /// `<thing>.<fact>.v<n>`.
    pub name: &'static str,
    /// Reads a payload as this event.
    pub read: fn(Value) -> Result<Payload>,
}

/// A payload that was read.
pub struct Payload {
    /// What it happened to: the last token of its subject.
    pub key: Uuid,
    /// As the event's type writes it.
    pub json: Value,
}

/// Every event, domain by domain.
pub fn all() -> Vec<Known> {
    vec![
        known::<UserCreated>(),
        known::<UserUpdated>(),
        known::<UserDeleted>(),
        known::<SessionEnded>(),
        known::<PasswordResetRequested>(),
        known::<PasswordChanged>(),
        known::<TwoFactorEnabled>(),
        known::<TwoFactorDisabled>(),
        known::<RecoveryCodeUsed>(),
        known::<ItemCreated>(),
        known::<ItemUpdated>(),
        known::<ItemExtended>(),
        known::<ItemClosed>(),
        known::<ItemDeleted>(),
        known::<BidPlaced>(),
        known::<BidWon>(),
        known::<CategoryCreated>(),
        known::<CategoryUpdated>(),
        known::<CategoryDeleted>(),
        known::<ProductCreated>(),
        known::<ProductUpdated>(),
        known::<ProductDeleted>(),
    ]
}

fn known<E: Event>() -> Known {
    let read = |payload| {
        let event: E = serde_json::from_value(payload)?;
        Ok(Payload { key: event.key(), json: serde_json::to_value(&event)? })
    };
    Known { name: E::NAME, read }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use platform::wire::Envelope;
    use serde_json::json;

    use super::*;

    /// The samples by the names of their files.
    fn samples() -> BTreeMap<String, Envelope<Value>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nats/samples");
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let named = files.map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap())
        });
        named.collect()
    }

    #[test]
    fn every_event_has_a_sample_and_every_sample_an_event() {
        let mut names: Vec<&str> = all().iter().map(|known| known.name).collect();
        names.sort_unstable();

        assert_eq!(samples().keys().map(String::as_str).collect::<Vec<_>>(), names);
    }

    /// Both ways: nothing of the sample is lost when it is read, and nothing is added when it is written.
    #[test]
    fn a_type_writes_exactly_what_its_sample_says() {
        for known in all() {
            let Envelope { event, version, payload, id, timestamp, .. } =
                samples().remove(known.name).unwrap();

            let read =
                (known.read)(payload.clone()).unwrap_or_else(|error| panic!("{}: {error}", known.name));

            assert_eq!(read.json, payload, "{}", known.name);
            assert_eq!(format!("{event}.{version}"), known.name);
            assert!(id.is_some() && timestamp.is_some(), "{}", known.name);
        }
    }

    #[test]
    fn what_a_consumer_does_not_know_is_ignored() {
        for known in all() {
            let mut payload = samples().remove(known.name).unwrap().payload;
            let expected = (known.read)(payload.clone()).unwrap().json;
            payload["a_member_of_next_year"] = json!({ "deep": [1] });

            assert_eq!((known.read)(payload).unwrap().json, expected, "{}", known.name);
        }
    }

    /// Members that were added after an event was first published: streams still hold events without them.
    #[test]
    fn events_from_before_a_member_was_added_are_read() {
        let added = [
            ("item.created.v1", &["version", "extension_window_seconds", "extension_seconds"][..]),
            ("item.extended.v1", &["version", "extension_window_seconds", "extension_seconds"][..]),
            ("item.closed.v1", &["version", "extension_window_seconds", "extension_seconds"][..]),
            ("bid.placed.v1", &["version", "ends_at"][..]),
        ];
        for (name, members) in added {
            let mut payload = samples().remove(name).unwrap().payload;
            for member in members {
                assert!(payload.as_object_mut().unwrap().remove(*member).is_some(), "{name}: {member}");
            }
            let known = all().into_iter().find(|known| known.name == name).unwrap();

            assert!((known.read)(payload).is_ok(), "{name}");
        }
    }
}
