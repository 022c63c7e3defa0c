//! `scaffold`: the first lines of a function or a domain, in all the places where they belong.
//!
//! What it writes compiles, passes its own test and runs: something small and real, to be replaced. The code is in
//! `templates/`, as it will look. A refusal changes nothing.

mod compose;
mod domain;
mod edits;
mod function;
mod names;
mod repository;
#[cfg(test)]
mod tests;
mod text;

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::{
    edits::Edits,
    function::{Kind, Wanted},
    names::Name,
    repository::Repository,
};

/// The first lines of a function or a domain.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A function of a domain: its words, its handler with a test, its binary, and its place in every list.
    Function {
        /// The domain, such as `auctions`.
        domain: Name,
        /// The name, verb first, such as `bookmark-item`.
        name: Name,
        /// What wakes it; the first word of the name says when missing.
        #[arg(long)]
        kind: Option<Kind>,
        /// The events that wake it, such as `bid.placed.v1`, separated by commas.
        #[arg(long, value_delimiter = ',')]
        hears: Vec<String>,
        /// The path under which HTTP reaches it, such as `/api/v1/items/{item_id}/bookmark`.
        #[arg(long)]
        route: Option<String>,
    },
    /// A domain: a crate with a database of its own.
    Domain {
        /// The name, one word, such as `watchlists`.
        name: Name,
    },
    /// The relay of a domain, when the first of its functions says what happened.
    Relay {
        /// The domain, such as `auctions`.
        domain: Name,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "scaffold: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let repository = Repository::find(&std::env::current_dir().context("find the current folder")?)?;
    match command {
        Command::Function { domain, name, kind, hears, route } => {
            let guess = if hears.is_empty() { Kind::of(&name) } else { Kind::Events };
            let wanted = Wanted { domain, name, kind: kind.unwrap_or(guess), hears, route };
            if kind.is_none() {
                say(&format!(
                    "{} sounds like --kind {guess}; the others are {}",
                    wanted.name,
                    others(guess).join(", ")
                ));
            }
            let (edits, left) = function::plan(&repository, &wanted)?;
            write(edits, &left)?;
            next_of_function(&wanted);
        }
        Command::Domain { name } => {
            let (edits, left) = domain::plan(&repository, name.clone())?;
            write(edits, &left)?;
            say("\nNext:");
            step(&format!("just new {name} <function>"), "its first function");
            step("just migrate", "its database, in the platform that runs here");
            step("just prepare-sql", &format!("after its tables are in migrations/{name}/0001_first.sql"));
        }
        Command::Relay { domain } => {
            write(domain::plan_relay(&repository, &domain)?, &[])?;
            say(&format!("\nNext: a function of {domain} that declares an event, with `.emits::<Event>()`"));
        }
    }
    Ok(())
}

fn others(kind: Kind) -> Vec<String> {
    let all = [Kind::Command, Kind::Query, Kind::Events, Kind::Due];
    all.into_iter().filter(|other| *other != kind).map(|other| format!("--kind {other}")).collect()
}

fn write(edits: Edits, left: &[String]) -> anyhow::Result<()> {
    for file in edits.write()? {
        say(&format!("  {} {}", if file.is_new { "new    " } else { "changed" }, file.path));
    }
    for one in left {
        say(&format!("  left    {one}"));
    }
    Ok(())
}

fn next_of_function(wanted: &Wanted) {
    let Wanted { name, kind, hears, route, .. } = wanted;
    say("\nNext:");
    step(&format!("just test {name}"), "its test, on a real Postgres");
    step("just accounts", "its user of the bus, to be committed with it");
    let place =
        if matches!(kind, Kind::Command | Kind::Events) { ", and its place in the streams" } else { "" };
    step("just provision", &format!("the platform that runs here learns of that user{place}"));
    step(&format!("just run {name}"), "in this terminal; it joins that platform");
    match kind {
        Kind::Command => step(&format!(r#"just call {name} '{{"note":"hello"}}'"#), "in another one"),
        Kind::Query => step(&format!(r#"just call {name} '{{"text":"a brass lamp"}}'"#), "in another one"),
        Kind::Events => hears.iter().for_each(|event| step(&format!("just emit {event}"), "in another one")),
        Kind::Due => {}
    }
    step(&format!("just deploy {name}"), "into that platform, after every change");
    if let Some(path) = route {
        step("just up", &format!("the platform anew: its edge learns of {path}"));
    }
}

fn step(what: &str, why: &str) {
    say(&format!("  {what:<52} # {why}"));
}

/// For people, so on standard output.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
