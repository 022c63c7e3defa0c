//! `outcry`: the whole platform in one process, and the command line.

mod command_line;

use std::{io::Write, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Context;
use clap::{Parser, Subcommand};
use outcry::{
    demo::{self, Size},
    launch::{self, Menu, Options, Programs, Split},
    seed,
};
use platform::{Config, Env, Wakes, database};

use crate::command_line::{admin, bench, call, dlq, emit, join, replay, run, say, verify};

/// An auction marketplace built as small functions on NATS JetStream.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Forget all data of earlier runs first.
    #[arg(long)]
    fresh: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole platform; the same as no command.
    Up {
        /// Every function, relay and the edge in a process of its own, from its own binary beside this one.
        #[arg(long)]
        split: bool,
        /// How many processes a part has, for example `place-bid=2,edge=2`; one each when missing.
        #[arg(long, requires = "split", value_delimiter = ',', value_parser = replicas, value_name = "PART=N")]
        replicas: Vec<(String, usize)>,
    },
    /// Run the services alone, with tables and streams made: for functions that are run one by one.
    Infra,
    /// Hold an auction that prints what happens and checks the result.
    Demo {
        /// A running platform; without it one is started for the show and forgotten afterwards.
        #[arg(long)]
        url: Option<String>,
        /// How many people bid.
        #[arg(long, default_value_t = 5)]
        bidders: usize,
        /// How many items are offered.
        #[arg(long, default_value_t = 3)]
        items: usize,
        /// The ends are spread over this many seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Measure how many bids are decided, and audit every one that was accepted.
    Bench(bench::Bench),
    /// Check a running platform from outside, a line for each check; fails when one does.
    Verify {
        /// Its address, such as http://localhost:8080; the platform that runs here when missing.
        url: Option<String>,
    },
    /// List every function: what wakes it and what it says.
    Functions,
    /// Run one function, a relay (`auctions-relay`), `edge` or `maintain` in this process. It joins the platform that runs
    /// here, or the services named by NATS_URL and DATABASE_URL.
    Run {
        /// Its name, as `functions` lists it.
        function: String,
    },
    /// Fill a platform with a market: people, products, 250 items and their histories, in some ten seconds. A second time adds
    /// nothing.
    Seed {
        /// Its address; the platform that runs here when missing.
        #[arg(long)]
        url: Option<String>,
    },
    /// Call a function by hand.
    Call {
        /// Its name, as `functions` lists it.
        function: String,
        /// What to say, as JSON with the members of the HTTP contract, those of the path too.
        #[arg(default_value = "{}")]
        body: String,
        /// On behalf of the user with this e-mail.
        #[arg(long = "as", value_name = "EMAIL")]
        caller: Option<String>,
        /// The Idempotency-Key of a command.
        #[arg(long)]
        key: Option<String>,
    },
    /// Make somebody an administrator, from their next token on: the first one, as nobody else can.
    GrantAdmin {
        /// Who registered with this e-mail.
        email: String,
    },
    /// Take that role from somebody, at once; not from the last one.
    RevokeAdmin {
        /// Who registered with this e-mail.
        email: String,
    },
    /// Publish a sample of an event, with a fresh id; without a name, list the events.
    Emit {
        /// For example `bid.placed.v1`.
        event: Option<String>,
        /// Members of its payload to replace, as a JSON object.
        #[arg(default_value = "{}")]
        changes: String,
    },
    /// Look at what functions gave up, have it tried again, or forget it.
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Make a projection anew from what its authority knows and the stream, while everything runs.
    Replay {
        /// The consumer that keeps it, for example `update-stats`.
        consumer: String,
    },
    /// Replace a function of the platform that runs here by its release binary, without a gap.
    Deploy {
        /// Its name, as `functions` lists it.
        function: String,
        /// Its binary; the one beside this program when missing.
        program: Option<PathBuf>,
    },
    /// Write the users of the bus and what each may say and hear, as the functions declare it.
    Accounts {
        /// The file, such as `nats/accounts.conf`; standard output when missing.
        file: Option<PathBuf>,
    },
    /// Put a new key before those that sign access tokens; nobody need log in again.
    RotateKey,
    /// List the parts of the platform that runs here, and their processes.
    Ps,
    /// Make databases, roles and tables as far as they are missing.
    Migrate,
    /// Make streams and consumers as the files under `nats/` describe them.
    Provision,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Run { function }) = &arguments.command {
        return run::run(function);
    }
    let outcome = tokio::runtime::Runtime::new()
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "outcry: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        None => up(arguments.fresh, What::All(None)).await,
        Some(Command::Up { split, replicas }) => {
            let own = Programs::Own(programs()?);
            let split = split.then(|| Split { programs: own, replicas: replicas.into_iter().collect() });
            up(arguments.fresh, What::All(split)).await
        }
        Some(Command::Infra) => up(arguments.fresh, What::Services).await,
        Some(Command::Demo { url, bidders, items, seconds }) => {
            hold_demo(url, Size { bidders, items, seconds }).await
        }
        Some(Command::Bench(bench)) => bench::run(bench).await,
        Some(Command::Seed { url }) => plant(url).await,
        Some(Command::Verify { url }) => verify::verify(&address(url)?).await,
        Some(Command::Functions) => {
            list_functions();
            Ok(())
        }
        // Was served before there was a runtime.
        Some(Command::Run { .. }) => Ok(()),
        Some(Command::Call { function, body, caller, key }) => {
            call::call(&function, &body, caller.as_deref(), key).await
        }
        Some(Command::GrantAdmin { email }) => admin::grant(email).await,
        Some(Command::RevokeAdmin { email }) => admin::revoke(email).await,
        Some(Command::Emit { event, changes }) => emit::emit(event.as_deref(), &changes).await,
        Some(Command::Dlq(what)) => dlq::run(what).await,
        Some(Command::Replay { consumer }) => replay::replay(&consumer).await,
        Some(Command::Deploy { function, program }) => run::deploy(&function, program).await,
        Some(Command::RotateKey) => {
            let key = identity::keys::rotate(&Env::load_joined()?)?;
            say(&format!(
                "{key} is published, and signs in a minute; keys that are not named by any token may be taken from the file"
            ));
            Ok(())
        }
        Some(Command::Ps) => run::ps().await,
        Some(Command::Accounts { file }) => {
            let accounts = outcry::users::accounts()?;
            match file {
                Some(file) => {
                    std::fs::write(&file, accounts).with_context(|| format!("write {}", file.display()))
                }
                None => {
                    say(accounts.trim_end());
                    Ok(())
                }
            }
        }
        Some(Command::Migrate) => {
            database::migrate(&Env::load_joined()?, &outcry::databases()).await?;
            say("databases migrated");
            Ok(())
        }
        Some(Command::Provision) => {
            let (env, bus) = join().await?;
            run::admit(&env).await?;
            let applied = outcry::definitions()?.apply(&bus).await?;
            say(&format!("applied {} streams and {} consumers", applied.streams, applied.consumers));
            Ok(())
        }
    }
}

/// `place-bid=2`
fn replicas(text: &str) -> Result<(String, usize), String> {
    let (name, count) = text.split_once('=').ok_or("expected <part>=<number>, for example place-bid=2")?;
    let count = count.parse().map_err(|_| format!("{count} is no number of processes"))?;
    Ok((name.to_owned(), count))
}

/// Where the binaries of all parts are: beside this one.
fn programs() -> anyhow::Result<PathBuf> {
    let outcry = std::env::current_exe().context("find this program")?;
    Ok(outcry.parent().context("this program is in no folder")?.to_owned())
}

/// What to run.
enum What {
    /// Everything, in one process or in many.
    All(Option<Split>),
    Services,
}

async fn up(fresh: bool, what: What) -> anyhow::Result<()> {
    let started = Instant::now();
    let env = Env::load()?;
    platform::init_telemetry(&env.read()?);
    // From the first moment, so that a signal during the start also ends in order.
    let signal = platform::stop_on_signal();
    let data = launch::data_folder(&env);
    let (listen, split) = match what {
        What::All(split) => (Some(format!("0.0.0.0:{}", env.read::<edge::Settings>()?.port)), split),
        What::Services => (None, None),
    };
    let is_whole = listen.is_some();
    let options =
        Options { data, listen, fresh, throwaway: false, without: Vec::new(), split, menu: Menu::default() };
    let platform = tokio::select! {
        platform = launch::start(env, options, step) => platform?,
        () = signal.cancelled() => return Ok(()),
    };
    if !is_whole {
        say(&format!("\nThe services are ready after {:.1?}. Stop them with Ctrl-C.\n", started.elapsed()));
        say("  a function   cargo run --release -- run place-bid");
    } else {
        greet(&platform.url, started);
    }
    tokio::select! {
        () = signal.cancelled() => {}
        () = platform.stopping().cancelled() => {}
    }
    platform.stop().await;
    say("stopped");
    Ok(())
}

fn greet(url: &str, started: Instant) {
    say(&format!("\nOutcry is ready on {url} after {:.1?}. Stop it with Ctrl-C.\n", started.elapsed()));
    say(&format!("  health   {url}/readyz"));
    say("  menu     cargo run --release -- functions");
    say(&format!("  a show   cargo run --release -- demo --url {url}"));
    say("\nTry:\n");
    say(&format!(
        "  curl -X POST {url}/api/v1/auth/register -H 'Content-Type: application/json' \\\n    \
         -d '{{\"username\":\"john\",\"email\":\"john@test.com\",\"password\":\"secret123\"}}'\n"
    ));
}

async fn hold_demo(url: Option<String>, size: Size) -> anyhow::Result<()> {
    if let Some(url) = url {
        return report(demo::run(&url, size, &show()).await?);
    }
    let env = Env::load()?;
    let mut quiet: Config = env.read()?;
    quiet.rust_log.get_or_insert_with(|| "warn".into());
    platform::init_telemetry(&quiet);
    let data = local::temp_dir()?;
    let options = Options {
        data: data.path().to_owned(),
        listen: Some("127.0.0.1:0".into()),
        fresh: false,
        throwaway: true,
        without: Vec::new(),
        split: None,
        menu: Menu::default(),
    };
    let platform = launch::start(env, options, step).await?;
    let held = demo::run(&platform.url, size, &show()).await;
    platform.stop().await;
    report(held?)
}

async fn plant(url: Option<String>) -> anyhow::Result<()> {
    let url = address(url)?;
    let made = seed::run(&url).await?;
    say(&format!("{made}; everybody's password is {}", seed::PASSWORD));
    say(&format!(
        "\nLook around:\n\n  curl '{url}/api/v1/items?status=open&sort=ending_soon'\n  curl -X POST {url}/identity/login \\\n    \
         -H 'Content-Type: application/json' -d '{{\"email\":\"john@test.com\",\"password\":\"{}\"}}'",
        seed::PASSWORD
    ));
    Ok(())
}

/// The address of a platform: the one that is named, or of the one that runs here.
fn address(url: Option<String>) -> anyhow::Result<String> {
    let env = Env::load_joined()?;
    Ok(url.unwrap_or_else(|| env.get("OUTCRY_URL").unwrap_or("http://localhost:8080").to_owned()))
}

/// Prints what happens with the seconds since the beginning.
fn show() -> impl Fn(&str) + Sync {
    let started = Instant::now();
    move |line| say(&format!("{:>6.2} s  {line}", started.elapsed().as_secs_f64()))
}

fn report(report: demo::Report) -> anyhow::Result<()> {
    let demo::Report { accepted, refused, sold, latest_close } = report;
    say(&format!(
        "\n{accepted} bids accepted, {refused} refused, {sold} items sold, the latest hammer {} ms after its end",
        latest_close.as_millis()
    ));
    say(
        "checked: every accepted bid listed once and in order, one winner each, no item closed early or over 1 s late, figures equal to the recount",
    );
    Ok(())
}

fn list_functions() {
    let mut domain = "";
    for function in outcry::functions() {
        let spec = function.spec();
        if spec.domain != domain {
            domain = spec.domain;
            say(&format!("\n{domain}"));
        }
        let wakes = match &spec.wakes {
            Wakes::Command { secret: true } => format!("auth.{domain}.{}", spec.name),
            Wakes::Command { secret: false } => format!("cmd.{domain}.{}.*", spec.name),
            Wakes::Query => format!("qry.{domain}.{}", spec.name),
            Wakes::Events(names) => names.join(", "),
            Wakes::Due(_) => "the clock".to_owned(),
        };
        let emits =
            if spec.emits.is_empty() { String::new() } else { format!("-> {}", spec.emits.join(", ")) };
        say(format!("  {:<16} {:<34} {emits}", spec.name, wakes).trim_end());
    }
}

/// A step of the start.
fn step(line: &str) {
    say(&format!("  {line}"));
}
