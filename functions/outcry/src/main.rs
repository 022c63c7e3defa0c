//! `outcry`: the whole platform in one process, and the command line.

use std::{io::Write, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use outcry::{
    demo::{self, Size},
    launch::{self, Options},
};
use platform::{Bus, Config, Env, Host, Wakes, database};

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
    Up,
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
    /// List every function: what wakes it and what it says.
    Functions,
    /// Run one function against the services named by NATS_URL and DATABASE_URL.
    Run {
        /// Its name, as `functions` lists it.
        function: String,
    },
    /// Make databases, roles and tables as far as they are missing. Needs DATABASE_URL.
    Migrate,
    /// Make streams and consumers as the files under `nats/` describe them. Needs NATS_URL.
    Provision,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
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
    let env = Env::load()?;
    let config: Config = env.read()?;
    match arguments.command {
        None | Some(Command::Up) => {
            platform::init_telemetry(&config);
            up(env, arguments.fresh).await
        }
        Some(Command::Demo { url, bidders, items, seconds }) => {
            hold_demo(env, &config, url, Size { bidders, items, seconds }).await
        }
        Some(Command::Functions) => {
            list_functions();
            Ok(())
        }
        Some(Command::Run { function }) => {
            platform::init_telemetry(&config);
            run_function(&function, &env, &config).await
        }
        Some(Command::Migrate) => {
            database::migrate(&env, &outcry::databases()).await?;
            say("databases migrated");
            Ok(())
        }
        Some(Command::Provision) => {
            let bus = Bus::connect(&config, "outcry").await?;
            let applied = outcry::definitions()?.apply(&bus).await?;
            say(&format!("applied {} streams and {} consumers", applied.streams, applied.consumers));
            Ok(())
        }
    }
}

async fn up(env: Env, fresh: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    // From the first moment, so that a signal during the start also ends in order.
    let signal = platform::stop_on_signal();
    let options = Options {
        data: data_folder(&env),
        listen: format!("0.0.0.0:{}", env.read::<edge::Settings>()?.port),
        fresh,
        throwaway: false,
        without: Vec::new(),
    };
    let platform = tokio::select! {
        platform = launch::start(env, options, step) => platform?,
        () = signal.cancelled() => return Ok(()),
    };
    let url = &platform.url;
    say(&format!("\nOutcry is ready on {url} after {:.1?}. Stop it with Ctrl-C.\n", started.elapsed()));
    say(&format!("  health   {url}/readyz"));
    say("  menu     cargo run --release -- functions");
    say(&format!("  a show   cargo run --release -- demo --url {url}"));
    say("\nTry:\n");
    say(&format!(
        "  curl -X POST {url}/api/v1/auth/register -H 'Content-Type: application/json' \\\n    \
         -d '{{\"username\":\"john\",\"email\":\"john@test.com\",\"password\":\"secret123\"}}'\n"
    ));
    tokio::select! {
        () = signal.cancelled() => {}
        () = platform.stopping().cancelled() => {}
    }
    platform.stop().await;
    say("stopped");
    Ok(())
}

async fn hold_demo(env: Env, config: &Config, url: Option<String>, size: Size) -> anyhow::Result<()> {
    if let Some(url) = url {
        return report(demo::run(&url, size, &show()).await?);
    }
    let mut quiet = config.clone();
    quiet.rust_log.get_or_insert_with(|| "warn".into());
    platform::init_telemetry(&quiet);
    let data = local::temp_dir()?;
    let options = Options {
        data: data.path().to_owned(),
        listen: "127.0.0.1:0".into(),
        fresh: false,
        throwaway: true,
        without: Vec::new(),
    };
    let platform = launch::start(env, options, step).await?;
    let held = demo::run(&platform.url, size, &show()).await;
    platform.stop().await;
    report(held?)
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

async fn run_function(name: &str, env: &Env, config: &Config) -> anyhow::Result<()> {
    let Some(function) = outcry::functions().into_iter().find(|function| function.spec().name == name) else {
        bail!("there is no function {name}; `outcry functions` lists them");
    };
    let stop = platform::stop_on_signal();
    let bus = Bus::connect(config, function.spec().name).await?;
    let connection = database::options(env, function.spec().domain)?;
    let pool = database::pool(config, connection, function.spec().name);
    let host = Host::new(function.tuned(config), pool, Some(bus.clone()), env)?;
    platform::serve(host, bus.clone(), stop).await?;
    bus.close().await;
    Ok(())
}

fn data_folder(env: &Env) -> PathBuf {
    PathBuf::from(env.get("OUTCRY_DATA").unwrap_or(".outcry"))
}

/// A step of the start.
fn step(line: &str) {
    say(&format!("  {line}"));
}

/// For people, so on standard output; log lines go to standard error.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
