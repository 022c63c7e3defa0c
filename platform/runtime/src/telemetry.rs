//! Log lines: for people, or as JSON for machines. They carry trace and correlation ids.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::config::{Config, LogFormat, Mode};

/// Starts logging to standard error; once for each process.
pub fn init(config: &Config) {
    let filter = config.rust_log.as_deref().unwrap_or("info,async_nats=warn,sqlx=warn");
    let default = match config.outcry_env {
        Mode::Development => LogFormat::Pretty,
        Mode::Production => LogFormat::Json,
    };
    let colours = std::io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(EnvFilter::new(filter));
    // A second start in one process (tests) keeps the first.
    let _ = match config.log_format.unwrap_or(default) {
        LogFormat::Pretty => registry
            .with(fmt::layer().with_ansi(colours).with_writer(std::io::stderr).with_target(false))
            .try_init(),
        LogFormat::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
        }
    };
}
