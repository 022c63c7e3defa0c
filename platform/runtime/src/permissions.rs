//! Who may say and hear what on the bus: a user for each part, with the rights that follow from what the functions
//! declare and no others. Pure: declarations in, the text of nats-server's configuration out.
//!
//! What the server cannot tell apart is not told apart: whoever may read one message of a stream may read all of them,
//! because the subject of that request names the stream alone.

use std::{collections::BTreeSet, fmt::Write};

use crate::{
    Function, Spec, Wakes,
    dead_letter::DEAD_LETTERS,
    metrics,
    provision::Definitions,
    replay,
    service::VERBS,
    wire::{self, COMMANDS, EVENTS},
};

/// People with a command line: may do everything.
pub const OPERATOR: &str = "operator";
/// All parts in one process, which has one connection: may do what any of them may, and change streams and consumers.
pub const ALL_IN_ONE: &str = "outcry";

/// A user of nats-server.
#[derive(Debug, Clone, Default)]
pub struct User {
    /// Its name: the part's one word.
    pub name: String,
    /// None: everything.
    rights: Option<Rights>,
}

/// Subjects; `<subject> <queue>` is one that may be heard in that queue group only.
#[derive(Debug, Clone, Default)]
struct Rights {
    publish: BTreeSet<String>,
    subscribe: BTreeSet<String>,
}

impl Rights {
    fn may_say(&mut self, subject: impl Into<String>) {
        self.publish.insert(subject.into());
    }

    fn may_hear(&mut self, subject: impl Into<String>) {
        self.subscribe.insert(subject.into());
    }

    /// Answers requests, sharing them with those of the same name.
    fn may_answer(&mut self, subject: &str, name: &str) {
        self.may_hear(format!("{subject} {name}"));
    }

    fn may_call(&mut self, api: &str) {
        self.may_say(format!("$JS.API.{api}"));
    }

    /// What every part needs that others find and look at, and that asks about itself (`<part> health`).
    fn of_part(name: &str) -> Self {
        let mut rights = Self::default();
        VERBS.iter().for_each(|verb| rights.may_hear(format!("$SRV.{verb}")));
        rights.may_hear(format!("$SRV.*.{name}"));
        rights.may_hear(format!("$SRV.*.{name}.*"));
        rights.may_hear(metrics::SUBJECT);
        rights.may_say(format!("$SRV.PING.{name}"));
        rights.may_say(format!("$SRV.PING.{name}.*"));
        rights
    }

    fn of_function(spec: &Spec) -> Self {
        let Spec { domain, name, .. } = spec;
        let mut rights = Self::of_part(name);
        if let Some((stream, _)) = spec.consumer() {
            rights.may_call(&format!("CONSUMER.MSG.NEXT.{stream}.{name}"));
            rights.may_say(format!("$JS.ACK.{stream}.{name}.>"));
        }
        match &spec.wakes {
            Wakes::Command { secret } => {
                rights.may_say(format!("reply.{name}.*.*"));
                if !secret {
                    rights.keep_dead_letters(name);
                }
            }
            Wakes::Events(_) => {
                rights.keep_dead_letters(name);
                // Whether the stream has outrun it.
                rights.may_call(&format!("STREAM.INFO.{EVENTS}"));
                rights.may_call(&format!("CONSUMER.INFO.{EVENTS}.{name}"));
            }
            Wakes::Query => rights.may_answer(&wire::query_subject(domain, name), name),
            Wakes::Due(events) => events.iter().for_each(|event| rights.may_hear(format!("live.{event}.*"))),
        }
        if !spec.emits.is_empty() {
            rights.may_say(wire::poke_subject(domain));
        }
        if spec.changes() {
            rights.may_say(wire::changed_subject(domain));
        }
        if spec.caches {
            rights.may_hear(wire::changed_subject(domain));
            // A word of its own, to know that it hears.
            rights.may_say(wire::changed_subject(domain));
        }
        for (domain, query) in &spec.asks {
            rights.may_say(wire::query_subject(domain, query));
        }
        if spec.backlog {
            rights.may_call(&format!("STREAM.INFO.{COMMANDS}"));
            rights.may_call(&format!("STREAM.MSG.GET.{COMMANDS}"));
        }
        if let Some(rebuild) = &spec.rebuild {
            rights.may_answer(&format!("replay.{name}"), name);
            for snapshot in &rebuild.snapshots {
                rights.may_say(wire::query_subject(snapshot.authority, snapshot.query));
                rights.may_say(format!("published.{}", snapshot.authority));
            }
            let reader = replay::reader(name);
            for api in ["CREATE", "DELETE", "MSG.NEXT"] {
                rights.may_call(&format!("CONSUMER.{api}.{EVENTS}.{reader}"));
            }
            // What the rebuild has settled.
            rights.may_call(&format!("STREAM.MSG.DELETE.{DEAD_LETTERS}"));
        }
        rights
    }

    /// Gives up messages, and tries again those of its letters that it is asked to.
    fn keep_dead_letters(&mut self, name: &str) {
        self.may_say(format!("dlq.{name}"));
        self.may_answer(&format!("redrive.{name}"), name);
        self.may_call(&format!("STREAM.MSG.GET.{DEAD_LETTERS}"));
    }

    fn of_relay(domain: &str, specs: &[&Spec]) -> Self {
        let name = format!("{domain}-relay");
        let mut rights = Self::of_part(&name);
        for spec in specs.iter().filter(|spec| spec.domain == domain) {
            spec.emits.iter().for_each(|event| rights.may_say(format!("events.{event}.*")));
        }
        rights.may_hear(wire::poke_subject(domain));
        rights.may_say(wire::changed_subject(domain));
        rights.may_answer(&format!("published.{domain}"), &name);
        // Whether the stream still holds what was noted as stored.
        rights.may_call(&format!("STREAM.INFO.{EVENTS}"));
        rights.may_call(&format!("STREAM.MSG.GET.{EVENTS}"));
        rights
    }

    /// The right to send commands is the right to be anyone: nobody else but the operator has it.
    fn of_edge(specs: &[&Spec]) -> Self {
        let mut rights = Self::of_part("edge");
        for spec in specs {
            let (domain, name) = (spec.domain, spec.name);
            match (&spec.wakes, spec.consumer()) {
                (Wakes::Command { .. }, Some((_, subjects))) => {
                    subjects.into_iter().for_each(|subject| rights.may_say(subject));
                    rights.may_answer(&format!("svc.{domain}.{name}"), "edge");
                }
                (Wakes::Query, _) => rights.may_say(wire::query_subject(domain, name)),
                _ => {}
            }
        }
        rights.may_hear("reply.*.*.*");
        rights.may_hear("live.*.*.*.*");
        rights.may_say("$SRV.PING.*");
        rights.may_say(metrics::SUBJECT);
        rights
    }

    /// Makes what is missing, and looks how much waits.
    fn of_maintain(definitions: &Definitions) -> Self {
        let mut rights = Self::of_part("maintain");
        rights.may_call("INFO");
        for stream in definitions.stream_names() {
            for api in ["STREAM.INFO", "STREAM.CREATE", "CONSUMER.LIST"] {
                rights.may_call(&format!("{api}.{stream}"));
            }
        }
        for (stream, consumer) in &definitions.consumers {
            let name = consumer.get("name").and_then(|name| name.as_str()).unwrap_or_default();
            rights.may_call(&format!("CONSUMER.CREATE.{stream}.{name}"));
            rights.may_call(&format!("CONSUMER.CREATE.{stream}.{name}.>"));
        }
        rights
    }

    /// What any of these may, and what provisioning needs.
    fn of_all<'a>(parts: impl Iterator<Item = &'a Rights>, definitions: &Definitions) -> Self {
        let mut rights = Self::default();
        for part in parts {
            rights.publish.extend(part.publish.iter().cloned());
            rights.subscribe.extend(part.subscribe.iter().cloned());
        }
        for stream in definitions.stream_names() {
            rights.may_call(&format!("STREAM.UPDATE.{stream}"));
        }
        rights
    }
}

/// The user of every part that these functions make up: each function, a relay for each domain that says something,
/// `maintain` and `edge`; then [`ALL_IN_ONE`] and [`OPERATOR`].
pub fn users(functions: &[Function], definitions: &Definitions) -> Vec<User> {
    let specs: Vec<&Spec> = functions.iter().map(|function| function.spec().as_ref()).collect();
    let saying: BTreeSet<&str> =
        specs.iter().filter(|spec| !spec.emits.is_empty()).map(|spec| spec.domain).collect();
    let of_functions = specs.iter().map(|spec| (spec.name.to_owned(), Rights::of_function(spec)));
    let of_relays = saying.iter().map(|domain| (format!("{domain}-relay"), Rights::of_relay(domain, &specs)));
    let mut parts: Vec<(String, Rights)> = of_functions.chain(of_relays).collect();
    parts.push(("maintain".to_owned(), Rights::of_maintain(definitions)));
    parts.push(("edge".to_owned(), Rights::of_edge(&specs)));
    let all = Rights::of_all(parts.iter().map(|(_, rights)| rights), definitions);
    parts.push((ALL_IN_ONE.to_owned(), all));
    let mut users: Vec<User> =
        parts.into_iter().map(|(name, rights)| User { name, rights: Some(rights) }).collect();
    users.push(User { name: OPERATOR.to_owned(), rights: None });
    users
}

/// What nats-server's configuration says of them. Each password is a variable, [`variable`], to be defined before this.
pub fn accounts(users: &[User]) -> String {
    let mut text = String::from("authorization {\n  users: [\n");
    for user in users {
        let (name, password) = (&user.name, variable(&user.name));
        let Some(rights) = &user.rights else {
            let _ = writeln!(text, "    {{ user: \"{name}\", password: ${password} }}");
            continue;
        };
        let _ = writeln!(text, "    {{ user: \"{name}\", password: ${password}, permissions: {{");
        let inbox = format!("{}.>", inbox(name));
        let subscribe = rights.subscribe.iter().chain(std::iter::once(&inbox));
        for (what, subjects) in
            [("publish", rights.publish.iter().collect::<Vec<_>>()), ("subscribe", subscribe.collect())]
        {
            let _ = writeln!(text, "        {what}: [");
            for subject in subjects {
                let _ = writeln!(text, "          \"{subject}\"");
            }
            text.push_str("        ]\n");
        }
        // Whoever asked is answered, once.
        text.push_str("        allow_responses: { max: 1, expires: \"30s\" }\n    } }\n");
    }
    text.push_str("  ]\n}\n");
    text
}

/// The definitions of all variables in [`accounts`], with the passwords that follow from this secret.
pub fn passwords(users: &[User], secret: &str) -> String {
    let lines = users
        .iter()
        .map(|user| format!("{}: \"{}\"\n", variable(&user.name), password_of(&user.name, secret)));
    lines.collect()
}

/// The variable of a user's password, for example `PLACE_BID_PASSWORD`.
pub fn variable(user: &str) -> String {
    format!("{}_PASSWORD", user.to_uppercase().replace('-', "_"))
}

/// The password that a user has where all follow from one secret.
pub fn password_of(user: &str, secret: &str) -> String {
    let half = |half| wire::derived_id(&["nats", user, half, secret]).simple().to_string();
    half("1") + &half("2")
}

/// Below it a user hears the answers to what it asks, and nobody else does.
pub(crate) fn inbox(user: &str) -> String {
    format!("_INBOX.{user}")
}
