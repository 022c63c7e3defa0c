//! The machinery every function runs on: messages in, one transaction, events out.
//!
//! A function is a name, what wakes it, and an `async fn`. It says what it does; decoding, claims,
//! transactions, the outbox, answers, acknowledgements, retries and shutdown happen here, once.
//!
//! | I look for | here |
//! |---|---|
//! | what a function is | [`function`] |
//! | what a handler can do | [`Cx`] |
//! | how errors are told apart | [`error`] |
//! | what happens to a message, step by step | `invoke` |
//! | pulls, acknowledgements, shutdown | `runner` |
//! | subjects, headers, the event envelope | [`wire`] |
//! | what queries keep in memory, and for how long | `cache` |
//! | what is counted, and who is asked for it | [`metrics`] |
//! | who may say and hear what on the bus | [`permissions`] |

mod attempts;
mod breaker;
mod bus;
mod cache;
pub mod config;
mod cx;
pub mod database;
pub mod dead_letter;
mod depths;
pub mod error;
pub mod function;
mod inbox;
mod invoke;
pub mod maintain;
pub mod metrics;
mod outbox;
mod outcome;
pub mod permissions;
pub mod provision;
pub mod relay;
pub mod replay;
mod runner;
mod scram;
mod secrets;
mod sender;
pub mod service;
mod tally;
mod telemetry;
mod time;
mod trace;
pub mod wire;

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

pub use self::{
    bus::{Backlog, Bus},
    cache::Cached,
    config::{Config, Env},
    cx::{Cx, Received},
    error::{Error, Kind, OnConstraint, Refusal, Refused, Result},
    function::{Function, Spec, Wakes},
    invoke::{Delivery, Host, Recall, Recalled, Verdict},
    outcome::{CommandOutcome, CommandStatus},
    runner::serve,
    sender::{Request, Sender, Sent},
    telemetry::init as init_telemetry,
    time::Timestamp,
    trace::{Caller, Role, Trace, UserId, is_plain},
    wire::{Answer, Command, Event, Message, Query},
};

/// The C library's allocator keeps what each thread once used: a hundred registrations, each hashing
/// in 19 MiB, left it with 800 MiB for ever.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long work in flight may take to finish after a signal.
const DRAIN: Duration = Duration::from_secs(30);

/// The whole body of a function's binary.
///
/// `<function>` serves until SIGTERM or Ctrl-C; `<function> health` exits with 0 when one answers. With `OUTCRY_INSTANCE` it
/// is that very process that must answer: a container asks for its own.
pub fn main(function: Function) -> ExitCode {
    let name = function.spec().name;
    run(name, async move |env, config, bus, stop| {
        let spec = function.spec().clone();
        let pool = database::pool(&config, database::options(&env, spec.domain)?, spec.name);
        let function = function.tuned(&config);
        let host = Host::new(function, pool, Some(bus.clone()), &env)?;
        tracing::info!(function = name, "serving");
        serve(host, bus, stop).await
    })
}

/// The whole body of a domain's relay binary.
pub fn relay_main(domain: &'static str, name: &str) -> ExitCode {
    run(name, async move |env, config, bus, stop| {
        let pool = database::pool(&config, database::options(&env, domain)?, name);
        relay::serve(domain, pool, bus, stop).await
    })
}

/// Reads the configuration, connects, serves until a signal, finishes what is in flight.
pub fn run<F>(name: &str, serve: F) -> ExitCode
where
    F: AsyncFnOnce(Env, Config, Bus, CancellationToken) -> anyhow::Result<()>,
{
    let body = async {
        let env = Env::load_joined()?;
        let config: Config = env.read()?;
        telemetry::init(&config);
        let bus = Bus::connect(&config, name).await?;
        if std::env::args().nth(1).as_deref() == Some("health") {
            let patience = Duration::from_secs(2);
            let serves = match &config.outcry_instance {
                Some(instance) => bus.is_instance_serving(name, instance, patience).await,
                None => bus.is_serving(name, patience).await,
            };
            anyhow::ensure!(serves, "{name} does not answer");
            return Ok(());
        }
        let stop = stop_on_signal();
        if !bus.is_up(Duration::from_secs(2)).await {
            tracing::warn!(url = config.nats_address(), "nats-server does not answer, waiting for it");
        }
        let served = serve(env, config, bus.clone(), stop).await;
        bus.close().await;
        served
    };
    let runtime = tokio::runtime::Runtime::new().context("start the runtime");
    match runtime.and_then(|runtime| runtime.block_on(body)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if tracing::dispatcher::has_been_set() {
                tracing::error!(function = name, error = format!("{error:#}"), "stopped");
            } else {
                // What is wrong with the configuration is found before there is a log.
                let _ = writeln!(std::io::stderr(), "{name}: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Cancelled by the first SIGTERM or Ctrl-C; the second ends the process at once.
pub fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        signal().await;
        tracing::info!("stopping: finishing what is in flight; a second signal ends it at once");
        token.cancel();
        tokio::select! {
            () = signal() => {}
            () = tokio::time::sleep(DRAIN) => {}
        }
        std::process::exit(1);
    });
    stop
}

async fn signal() {
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
