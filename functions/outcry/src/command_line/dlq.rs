//! `outcry dlq`: what functions gave up, looked at and decided on. Safe while everything runs.

use std::collections::BTreeSet;

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use platform::{
    Bus,
    dead_letter::{self, DeadLetter},
};

use super::{is_running, join, pretty, say};

/// What to do with dead letters.
#[derive(Subcommand)]
pub(crate) enum Dlq {
    /// List them, the oldest first.
    List {
        /// Of one function only.
        #[arg(long)]
        function: Option<String>,
        /// The most to show.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one whole: why, its headers, its body.
    Show {
        /// Its number, as `list` shows it.
        letter: u64,
    },
    /// Have the function try once more; what is settled then leaves the list.
    Redrive(Which),
    /// Forget it for good.
    Drop(Which),
}

/// One letter, or many.
#[derive(clap::Args)]
pub(crate) struct Which {
    /// Its number, as `list` shows it.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    letter: Option<u64>,
    /// Every letter that is there now.
    #[arg(long)]
    all: bool,
    /// With --all: of one function only.
    #[arg(long, requires = "all")]
    function: Option<String>,
}

pub(crate) async fn run(what: Dlq) -> anyhow::Result<()> {
    let (_, bus) = join().await?;
    let done = match what {
        Dlq::List { function, limit } => list(&bus, function.as_deref(), limit).await,
        Dlq::Show { letter } => show(&find(&bus, letter).await?),
        Dlq::Redrive(which) => redrive(&bus, &which).await,
        Dlq::Drop(which) => drop_letters(&bus, &which).await,
    };
    bus.close().await;
    done
}

async fn list(bus: &Bus, function: Option<&str>, limit: usize) -> anyhow::Result<()> {
    check(function)?;
    let (mut from, mut shown) = (0, 0);
    while let Some(letter) = dead_letter::next(bus, function, from).await? {
        if shown == limit {
            say("there are more: --limit shows them");
            return Ok(());
        }
        if shown == 0 {
            say(&format!("{:>6}  {:<28}  {:<18}  reason", "letter", "given up at", "function"));
        }
        let reason: String = letter.reason.chars().take(100).collect();
        say(&format!(
            "{:>6}  {:<28}  {:<18}  {reason}",
            letter.sequence,
            letter.died_at.to_string(),
            letter.function
        ));
        (from, shown) = (letter.sequence + 1, shown + 1);
    }
    if shown == 0 {
        say("no dead letters");
    }
    Ok(())
}

fn show(letter: &DeadLetter) -> anyhow::Result<()> {
    let line = |name: &str, value: &str| say(&format!("{name:<12} {value}"));
    line("letter", &letter.sequence.to_string());
    line("function", &letter.function);
    line("reason", &letter.reason);
    line("subject", &letter.subject);
    line("message", &letter.message);
    line("deliveries", &letter.deliveries.to_string());
    line("stored at", &letter.since.map(|since| since.to_string()).unwrap_or_default());
    line("given up at", &letter.died_at.to_string());
    for (name, value) in letter.shown_headers() {
        line("header", &format!("{name}: {value}"));
    }
    say(&pretty(&letter.body));
    Ok(())
}

async fn redrive(bus: &Bus, which: &Which) -> anyhow::Result<()> {
    let (mut settled, mut failed) = (0_u32, 0_u32);
    let mut away = BTreeSet::new();
    for letter in choose(bus, which).await? {
        let function = letter.function.as_str();
        // Asked once: who is not there is not waited for again and again.
        let driven =
            if away.contains(function) { None } else { Some(dead_letter::redrive(bus, &letter).await) };
        let outcome = match driven {
            Some(Err(_)) if !is_running(bus, function).await => {
                failed += 1;
                away.insert(function.to_owned());
                format!("stays: {function} is not running")
            }
            None => {
                failed += 1;
                format!("stays: {function} is not running")
            }
            Some(Err(error)) => {
                failed += 1;
                format!("not known to be settled: {error}")
            }
            Some(Ok(answer)) if answer.status >= 500 => {
                failed += 1;
                format!("failed again and stays: {}", pretty(&answer.body))
            }
            Some(Ok(answer)) if answer.is_accepted() => {
                settled += 1;
                "done".to_owned()
            }
            Some(Ok(answer)) => {
                settled += 1;
                format!("refused ({}), which settles it: {}", answer.status, pretty(&answer.body))
            }
        };
        say(&format!("letter {} of {function}: {outcome}", letter.sequence));
    }
    say(&format!("{settled} settled, {failed} failed"));
    let away: Vec<String> = away.into_iter().collect();
    ensure!(
        away.is_empty(),
        "not running: {}; start it, then drive its letters again with `dlq redrive --all --function <name>`",
        away.join(", ")
    );
    ensure!(failed == 0, "some letters failed again: `dlq show <letter>` says why");
    Ok(())
}

async fn drop_letters(bus: &Bus, which: &Which) -> anyhow::Result<()> {
    let letters = choose(bus, which).await?;
    for letter in &letters {
        dead_letter::drop(bus, letter).await?;
    }
    say(&format!("{} dropped", letters.len()));
    Ok(())
}

/// The letters that are meant, as they are now: what dies meanwhile is not touched.
async fn choose(bus: &Bus, which: &Which) -> anyhow::Result<Vec<DeadLetter>> {
    if let Some(letter) = which.letter {
        return Ok(vec![find(bus, letter).await?]);
    }
    check(which.function.as_deref())?;
    let mut letters: Vec<DeadLetter> = Vec::new();
    let mut from = 0;
    while let Some(letter) = dead_letter::next(bus, which.function.as_deref(), from).await? {
        from = letter.sequence + 1;
        letters.push(letter);
    }
    Ok(letters)
}

async fn find(bus: &Bus, letter: u64) -> anyhow::Result<DeadLetter> {
    dead_letter::get(bus, letter).await?.with_context(|| format!("there is no dead letter {letter}"))
}

/// A name becomes part of a subject.
fn check(function: Option<&str>) -> anyhow::Result<()> {
    match function {
        Some(name) if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
            bail!("{name} is no name of a function")
        }
        _ => Ok(()),
    }
}
