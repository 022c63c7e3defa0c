//! `some-function`: note in the log what happened.
//!
//! Reacts to some events.

use platform::{Cx, Event, Function, Received, Result};

use crate::DOMAIN;

platform::hears! {
    /// What it reacts to.
    pub enum Heard {
        /// Noted.
        SomeEvent(SomeEvent),
    }
}

/// A consumer of [`Heard`].
pub fn function() -> Function {
    Function::events(DOMAIN, "some-function", some_function)
}

async fn some_function(_cx: &mut Cx, events: Vec<Received<Heard>>) -> Result<()> {
    // Next: what it is for, for the whole batch in few statements on `cx.tx().await?`. Each event counts once,
    // in the same transaction, so that plain additions are safe.
    for event in &events {
        let (name, about) = match &event.message {
            Heard::SomeEvent(fact) => (SomeEvent::NAME, fact.key()),
        };
        tracing::info!(event = %event.id, about = %about, "heard {name}");
    }
    tracing::info!(count = events.len(), "heard");
    Ok(())
}

#[cfg(test)]
mod tests {
    use platform::Verdict;
    use serde_json::json;
    use testing::Harness;

    use super::*;

    /// What it hears, as the stream delivers it.
    const SAMPLES: &[(&str, &str)] = &[
        (SomeEvent::NAME, include_str!("sample")),
    ];

    #[tokio::test]
    async fn what_it_hears_is_taken_and_what_only_looks_like_it_is_given_up() {
        let app = Harness::start(crate::database()).await;
        for (name, sample) in SAMPLES {
            let subject = format!("events.{name}.x");
            let good = app.delivery(&subject, &serde_json::from_str(sample).unwrap());
            let bad = app.delivery(&subject, &json!({ "payload": "nothing" }));

            let verdicts = app.host(&function()).execute(&[bad, good]).await;

            assert!(matches!(&verdicts[0], Verdict::Dead(why) if why.starts_with(name)), "{verdicts:?}");
            assert_eq!(verdicts[1], Verdict::Done);
        }
    }
}
