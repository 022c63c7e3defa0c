//! `outcry call`: one function, called by hand.

use anyhow::{Context, bail};
use contracts::identity::User;
use platform::{Answer, Bus, Caller, Request, Sender, Trace, Wakes, wire};
use serde_json::json;

use super::{decided, join, pretty, say};

/// Calls a function with a JSON body, on behalf of the user with this e-mail, as the operator may. A refusal is shown
/// and is an error of the command.
pub(crate) async fn call(
    name: &str,
    body: &str,
    email: Option<&str>,
    key: Option<String>,
) -> anyhow::Result<()> {
    let Some(function) = outcry::functions().into_iter().find(|function| function.spec().name == name) else {
        bail!("there is no function {name}; `outcry functions` lists them");
    };
    let body: serde_json::Value =
        serde_json::from_str(body).context("the body is no JSON, for example '{\"limit\":5}'")?;
    let (_, bus) = join().await?;
    let trace = Trace::start();
    let caller = match email {
        Some(email) => Some(find(&bus, email, &trace).await?),
        None => None,
    };
    let spec = function.spec();
    let answer = match &spec.wakes {
        Wakes::Query => {
            let subject = wire::query_subject(spec.domain, spec.name);
            bus.request(subject, &body, caller, &trace).await?
        }
        Wakes::Command { .. } => {
            let request = Request { caller, trace, idempotency_key: key };
            let sender = Sender::start(bus.clone()).await?;
            decided(sender.call(&function, body.to_string().as_bytes(), &request).await?)?
        }
        Wakes::Events(names) => {
            bail!("{name} is woken by events: `outcry emit {}`", names.join("` or `outcry emit "))
        }
        Wakes::Due(_) => bail!("{name} is woken by the clock, nobody calls it"),
    };
    bus.close().await;
    show(&answer)
}

/// The user with this e-mail.
async fn find(bus: &Bus, email: &str, trace: &Trace) -> anyhow::Result<Caller> {
    let subject = wire::query_subject("identity", "find-user");
    let answer = bus.request(subject, &json!({ "email": email }), None, trace).await?;
    let user: User = answer.parse().map_err(anyhow::Error::from).with_context(|| format!("find {email}"))?;
    Ok(Caller { id: user.id, role: user.role, session: None })
}

fn show(answer: &Answer) -> anyhow::Result<()> {
    if !answer.is_accepted() {
        bail!("{} {}", answer.status, pretty(&answer.body));
    }
    if answer.replayed {
        say("(the answer that this key was given before)");
    }
    say(&pretty(&answer.body));
    Ok(())
}
