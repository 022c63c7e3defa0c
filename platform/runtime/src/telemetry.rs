//! Log lines: for people, or as JSON for machines. They carry trace and correlation ids.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, prelude::*};

use crate::config::{Config, LogFormat, Mode};

/// Starts logging to standard error; once for each process.
pub fn init(config: &Config) {
    let filter = config.rust_log.as_deref().unwrap_or("info,async_nats=warn,sqlx=warn");
    let default = match config.outcry_env {
        Mode::Development => LogFormat::Pretty,
        Mode::Production => LogFormat::Json,
    };
    let colours = std::io::stderr().is_terminal();
    let registry =
        tracing_subscriber::registry().with(EnvFilter::new(filter)).with(filter_fn(tells_no_payload));
    // Who reads the log may end before us; then there is nobody left to tell, and saying so would panic.
    let lines = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    // A second start in one process (tests) keeps the first.
    let _ = match config.log_format.unwrap_or(default) {
        LogFormat::Pretty => registry.with(lines.with_ansi(colours).with_target(false)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
}

/// Whatever RUST_LOG asks for: at this level the client of NATS tells whole messages, and some carry passwords.
fn tells_no_payload(said: &Metadata<'_>) -> bool {
    *said.level() != Level::TRACE || !said.target().starts_with("async_nats")
}
