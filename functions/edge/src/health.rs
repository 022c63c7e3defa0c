//! How it goes: whether this process lives, and whether everything that the routes need is there.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use futures_util::future::join_all;
use platform::{Bus, Env};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::{App, Settings};

/// Where it is told.
pub(crate) const PATHS: [&str; 3] = ["/livez", "/readyz", "/health"];

/// How long a function may take to say that it is there.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long an answer is given again: many who ask must not become many questions to all functions.
const FRESH: Duration = Duration::from_millis(250);

/// `/livez` says that this process lives; `/readyz` and `/health` name what is missing.
pub(crate) fn routes() -> Router<Arc<App>> {
    let [livez, readyz, health] = PATHS;
    Router::new()
        .route(livez, get(async || Json(Health::missing(Vec::new()))))
        .route(readyz, get(ready))
        .route(health, get(ready))
}

async fn ready(State(app): State<Arc<App>>) -> (StatusCode, Json<Health>) {
    let missing = app.readiness.missing().await;
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Health::missing(missing)))
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    missing: Vec<&'static str>,
}

impl Health {
    fn missing(missing: Vec<&'static str>) -> Self {
        Self { status: if missing.is_empty() { "ok" } else { "unavailable" }, missing }
    }
}

/// Knows what the routes need.
pub(crate) struct Readiness {
    bus: Bus,
    functions: Vec<&'static str>,
    seen: Mutex<Option<(Instant, Vec<&'static str>)>>,
}

impl Readiness {
    pub(crate) fn of(bus: Bus, functions: impl Iterator<Item = &'static str>) -> Self {
        let mut functions: Vec<_> = functions.collect();
        functions.sort_unstable();
        functions.dedup();
        Self { bus, functions, seen: Mutex::default() }
    }

    /// What is not there. Without NATS nothing is known of the functions, and they are not blamed.
    async fn missing(&self) -> Vec<&'static str> {
        let mut seen = self.seen.lock().await;
        if let Some((at, missing)) = &*seen
            && at.elapsed() < FRESH
        {
            return missing.clone();
        }
        let missing = if self.bus.is_connected() { self.silent().await } else { vec!["nats"] };
        *seen = Some((Instant::now(), missing.clone()));
        missing
    }

    /// The functions that do not answer, asked all at once.
    async fn silent(&self) -> Vec<&'static str> {
        let asked = self.functions.iter().map(|function| async move {
            let serves = self.bus.is_serving(function, PATIENCE).await;
            (!serves).then_some(*function)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

/// `edge health`: whether the edge of this machine is ready.
pub(crate) fn probe() -> ExitCode {
    match ask_readyz() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ask_readyz() -> anyhow::Result<()> {
    let port = Env::load()?.read::<Settings>()?.port;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("nothing listens on port {port}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the edge does not answer")?;
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    ensure!(answer.starts_with("HTTP/1.1 200 "), "not ready: {body}");
    Ok(())
}
