//! `scaffold function`: everything that a new function is made of.

use std::fmt;

use anyhow::{bail, ensure};
use clap::ValueEnum;

use crate::{
    compose,
    edits::Edits,
    names::Name,
    repository::{Event, Repository},
    text::{self, Route},
};

/// What wakes a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Somebody wants something changed.
    Command,
    /// Somebody wants to know something.
    Query,
    /// Something happened.
    Events,
    /// The time has come.
    Due,
}

impl Kind {
    /// What the first word of a name says.
    pub(crate) fn of(name: &Name) -> Self {
        match name.words().next().unwrap_or_default() {
            "get" | "list" | "find" | "search" | "show" => Self::Query,
            "update" | "notify" | "on" => Self::Events,
            "close" | "expire" | "remind" => Self::Due,
            _ => Self::Command,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "command",
            Self::Query => "query",
            Self::Events => "events",
            Self::Due => "due",
        })
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) domain: Name,
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    /// The events that wake it.
    pub(crate) hears: Vec<String>,
    /// The path under which the edge offers it.
    pub(crate) route: Option<String>,
}

/// Code with `some-function` and its like where the names belong.
struct Templates {
    handler: &'static str,
    message: &'static str,
    consumer: &'static str,
}

impl Templates {
    fn of(kind: Kind) -> Self {
        let none = Self { handler: "", message: "", consumer: "" };
        match kind {
            Kind::Command => Self {
                handler: include_str!("../templates/command.rs"),
                message: include_str!("../templates/command_message.rs"),
                consumer: include_str!("../templates/command_consumer.json"),
            },
            Kind::Query => Self {
                handler: include_str!("../templates/query.rs"),
                message: include_str!("../templates/query_message.rs"),
                ..none
            },
            Kind::Events => Self {
                handler: include_str!("../templates/events.rs"),
                consumer: include_str!("../templates/events_consumer.json"),
                ..none
            },
            Kind::Due => Self { handler: include_str!("../templates/due.rs"), ..none },
        }
    }
}

/// Works out what a new function changes. Returns the changes, and what could not be done.
pub(crate) fn plan(repository: &Repository, wanted: &Wanted) -> anyhow::Result<(Edits, Vec<String>)> {
    let Wanted { domain, name, kind, .. } = wanted;
    repository.check_domain(domain)?;
    repository.check_free(name)?;
    repository.check_kept(name)?;
    ensure!(
        wanted.route.is_none() || matches!(kind, Kind::Command | Kind::Query),
        "only a command or a query has a route: choose it with --kind"
    );
    let mut new = New { wanted, edits: Edits::below(&repository.root), left: Vec::new() };
    match kind {
        Kind::Command | Kind::Query => new.answering()?,
        Kind::Events => new.hearing(&heard(repository, wanted)?, repository)?,
        Kind::Due => {
            ensure!(wanted.hears.is_empty(), "--hears is for --kind events; due work is woken by the clock");
            new.part(name, &new.named(Templates::of(*kind).handler), &["contracts", "platform", "tracing"])?;
            new.row(name, "the clock", "-")?;
        }
    }
    new.edits.format()?;
    Ok((new.edits, new.left))
}

/// The events that are named, which somebody must say.
fn heard(repository: &Repository, wanted: &Wanted) -> anyhow::Result<Vec<Event>> {
    let mut events = repository.events()?;
    let known = events.iter().map(|event| event.name.clone()).collect::<Vec<_>>().join(", ");
    ensure!(
        !wanted.hears.is_empty(),
        "what does {} hear? --hears with some of {known}, separated by commas",
        wanted.name
    );
    for name in &wanted.hears {
        ensure!(events.iter().any(|event| event.name == *name), "nobody says {name}; what is said: {known}");
    }
    events.retain(|event| wanted.hears.contains(&event.name));
    Ok(events)
}

/// A function on its way into the files.
struct New<'a> {
    wanted: &'a Wanted,
    edits: Edits,
    left: Vec<String>,
}

impl New<'_> {
    /// A command or a query: its words, and where HTTP finds it.
    fn answering(&mut self) -> anyhow::Result<()> {
        let Wanted { domain, name, kind, hears, route } = self.wanted;
        ensure!(hears.is_empty(), "--hears is for --kind events; a {kind} is woken by whoever sends it");
        let reply = self.words()?;
        let named = |template: &str| self.named(template).replace("SomeReply", &reply);
        let templates = Templates::of(*kind);
        let (handler, message) = (named(templates.handler), named(templates.message));
        self.edits.change(&words_of(domain), |text| {
            let mut text = text::message(text, &message);
            for (krate, word) in imports(*kind) {
                text = text::import(&text, krate, word)?;
            }
            Ok(text)
        })?;
        // The outcomes of commands, which may come along, are about ids.
        let uuid = (*kind == Kind::Command).then_some("uuid");
        self.part(name, &handler, &["contracts", "platform"].into_iter().chain(uuid).collect::<Vec<_>>())?;
        let (verb, method, who) =
            if *kind == Kind::Command { ("send", "POST", " (bearer)") } else { ("ask", "GET", "") };
        let over_http = match route {
            Some(path) => {
                self.route(verb, path)?;
                format!("{method} `{path}`{who}")
            }
            None => "-".to_owned(),
        };
        self.row(name, &format!("a {kind}"), &over_http)?;
        if *kind == Kind::Command {
            self.consumer("COMMANDS", self.named(templates.consumer))?;
            self.outcome()?;
        }
        Ok(())
    }

    /// Makes sure that the domain has words, and finds one for the reply.
    fn words(&mut self) -> anyhow::Result<String> {
        let Wanted { domain, name, kind, .. } = self.wanted;
        let path = words_of(domain);
        if !self.edits.exists(&path) {
            let words =
                include_str!("../templates/domain/contracts.rs").replace("somedomain", domain.kebab());
            self.edits.create(&path, words)?;
            self.edits.change(CONTRACTS, |text| Ok(text::module(text, domain.kebab())))?;
        }
        let (message, words) = (name.camel(), self.edits.read(&path)?);
        let templates = Templates::of(*kind);
        let imported = imports(*kind).into_iter().any(|(_, word)| word == message);
        let is_free = |word: &str| {
            !imported
                && [&words, templates.handler, templates.message]
                    .iter()
                    .all(|text| !text::has_word(text, word))
        };
        ensure!(
            is_free(&message),
            "{message} means something else in {path}: choose another name than {name}"
        );
        // What a query asks for is a good name for what it gets.
        let is_question = *kind == Kind::Query && Kind::of(name) == Kind::Query;
        if let Some(object) = name.object().filter(|object| is_question && is_free(object)) {
            return Ok(object);
        }
        let reply = format!("{message}Reply");
        ensure!(is_free(&reply), "{reply} means something else in {path}: choose another name than {name}");
        Ok(reply)
    }

    /// A consumer of events.
    fn hearing(&mut self, events: &[Event], repository: &Repository) -> anyhow::Result<()> {
        let Wanted { name, kind, .. } = self.wanted;
        let templates = Templates::of(*kind);
        let mut handler = per_event(&self.named(templates.handler), events);
        for event in events {
            let Some(sample) = repository.sample(&event.name) else {
                bail!(
                    "{} has no sample in nats/samples yet, from which the test is made: write it first",
                    event.name
                );
            };
            let path = format!("{}::{}", event.module, event.message);
            handler = text::import(&handler, "contracts", &path)?;
            handler = handler.replacen("\"sample\"", &format!("\"../../../{sample}\""), 1);
        }
        let links = events.iter().map(|event| format!("[`{}`]", event.message)).collect::<Vec<_>>();
        handler = handler.replace("some events", &enumerated(&links));
        self.part(name, &handler, &["contracts", "platform", "tracing"])?;
        let subjects =
            events.iter().map(|event| format!("    \"events.{}.*\"", event.name)).collect::<Vec<_>>();
        let consumer =
            self.named(templates.consumer).replace("    \"events.some.event.v1.*\"", &subjects.join(",\n"));
        self.consumer("EVENTS", consumer)?;
        let names = events.iter().map(|event| format!("`{}`", event.name)).collect::<Vec<_>>();
        self.row(name, &names.join(", "), "-")
    }

    /// What every function has: its file, its place in the menu, its binary, its container.
    fn part(&mut self, name: &Name, handler: &str, uses: &[&str]) -> anyhow::Result<()> {
        let domain = &self.wanted.domain;
        let module = name.snake();
        let library = format!("functions/{domain}/src/lib.rs");
        let menu = text::menu(&self.edits.read(&library)?)?;
        let outcome = format!("{domain}_outcome");
        let neighbour =
            menu.iter().rfind(|module| **module != outcome).map(|module| module.replace('_', "-"));
        self.edits.create(&format!("functions/{domain}/src/{module}.rs"), handler.to_owned())?;
        let bin = include_str!("../templates/bin.rs")
            .replace("some-function", name.kebab())
            .replace("some_function", &module)
            .replace("somedomain", domain.kebab());
        self.edits.create(&format!("functions/{domain}/src/bin/{name}.rs"), bin)?;
        self.edits.change(compose::FILE, |text| compose::function(text, domain.kebab(), name))?;
        self.edits
            .change(&library, |text| text::add_to_menu(&text::module(text, &module), &module, &outcome))?;
        self.edits.change(&format!("functions/{domain}/Cargo.toml"), |text| {
            let mut text = text::bin(text, name.kebab(), neighbour.as_deref(), &format!("{domain}-relay"));
            for used in uses {
                text = text::dependency(&text, "dependencies", used)?;
            }
            // Only the test needs these.
            for used in ["serde_json", "tokio"] {
                let is_used = handler.contains(&format!("{used}::"));
                if is_used && !text::depends(&text, "dependencies", used) {
                    text = text::dependency(&text, "dev-dependencies", used)?;
                }
            }
            Ok(text)
        })
    }

    /// The function that tells what became of the commands that were answered 202, with the first command.
    fn outcome(&mut self) -> anyhow::Result<()> {
        let domain = &self.wanted.domain;
        let name: Name = format!("{domain}-outcome").parse()?;
        if self.edits.exists(&format!("functions/{domain}/src/{}.rs", name.snake())) {
            return Ok(());
        }
        let handler = include_str!("../templates/outcome.rs").replace("some-function", name.kebab());
        self.part(&name, &handler, &["platform", "uuid"])?;
        let over_http =
            "GET `/api/v1/commands/{id}` (bearer): what became of a command that was answered 202";
        self.row(&name, "a query", over_http)
    }

    fn consumer(&mut self, stream: &str, text: String) -> anyhow::Result<()> {
        self.edits.create(&format!("nats/consumers/{stream}/{}.json", self.wanted.name), text)
    }

    fn route(&mut self, verb: &str, path: &str) -> anyhow::Result<()> {
        let Wanted { domain, name, kind, .. } = self.wanted;
        let message = name.camel();
        let adverb = if *kind == Kind::Command { ".bearer()" } else { "" };
        let routes = self.edits.read(ROUTES)?;
        text::check_route(&routes, verb, path)?;
        ensure!(
            !text::has_word(&routes, &message),
            "{message} means something else in {ROUTES}: choose another name"
        );
        self.edits.change(ROUTES, |text| {
            text::route(text, &Route { verb, path, message: &message, adverb, domain: domain.kebab() })
        })
    }

    /// A row of the README's table, beside those of the same domain.
    fn row(&mut self, name: &Name, wakes: &str, over_http: &str) -> anyhow::Result<()> {
        let domain = &self.wanted.domain;
        let menu = text::menu(&self.edits.read(&format!("functions/{domain}/src/lib.rs"))?)?;
        let siblings: Vec<String> = menu
            .into_iter()
            .map(|module| module.replace('_', "-"))
            .filter(|one| one != name.kebab())
            .collect();
        let row = format!("| `{name}` | {wakes} | {over_http} |\n");
        let Some(text) = text::row(&self.edits.read("README.md")?, &siblings, &row) else {
            self.left.push(format!("README.md has no table of functions for {}", row.trim()));
            return Ok(());
        };
        self.edits.change("README.md", |_| Ok(text))
    }

    fn named(&self, template: &str) -> String {
        let Wanted { domain, name, .. } = self.wanted;
        template
            .replace("some-function", name.kebab())
            .replace("some_function", &name.snake())
            .replace("SomeFunction", &name.camel())
            .replace("somedomain", domain.kebab())
    }
}

const CONTRACTS: &str = "functions/contracts/src/lib.rs";
const ROUTES: &str = "functions/edge/src/routes.rs";

fn words_of(domain: &Name) -> String {
    format!("functions/contracts/src/{domain}.rs")
}

/// What the words of a message are made with.
fn imports(kind: Kind) -> Vec<(&'static str, &'static str)> {
    let mut words = vec![("garde", "Validate"), ("platform", "Message"), ("platform", "Timestamp")];
    words.extend(match kind {
        Kind::Command => vec![("platform", "Command"), ("platform", "UserId")],
        _ => vec![("platform", "Query")],
    });
    words.extend([("serde", "Deserialize"), ("serde", "Serialize")]);
    words
}

/// Repeats the lines about `SomeEvent` for each event.
fn per_event(template: &str, events: &[Event]) -> String {
    let lines = template.split_inclusive('\n').collect::<Vec<_>>();
    let mut text = String::new();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        // A comment belongs to the line below it.
        let length = if line.trim_start().starts_with("/// Noted") { 2 } else { 1 };
        let block = lines.get(at..at + length).unwrap_or_default().concat();
        at += length;
        if block.contains("SomeEvent") {
            events.iter().for_each(|event| text += &block.replace("SomeEvent", &event.message));
        } else {
            text += &block;
        }
    }
    text
}

/// `a, b and c`.
fn enumerated(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
