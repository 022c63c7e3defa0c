//! `/metrics`: what all processes of the platform count, and what is counted of HTTP.
//!
//! Served on the one port that there is. It holds no secret and no id, but it tells how business goes: in
//! production it is there for those who have `METRICS_TOKEN`, and without one it is not there at all.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use axum::{
    Router,
    extract::{MatchedPath, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use platform::{
    Bus,
    config::Mode,
    metrics::{Gatherer, Gauge, HistogramVec, IntCounter, TEXT},
};
use sha2::{Digest, Sha256};

use crate::{App, Settings, problem::Problem};

/// Where it is told.
pub(crate) const PATH: &str = "/metrics";

/// The semantic conventions' upper limits in seconds of how long requests take.
const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// A token that can be guessed is none.
const TOKEN: usize = 32;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new().route(PATH, get(show))
}

async fn show(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Problem> {
    app.metrics.readers.admit(&headers)?;
    let told = app.metrics.gatherer.gather().await;
    Ok(([(header::CONTENT_TYPE, TEXT)], told.to_string()).into_response())
}

/// What is counted of HTTP, and all else that processes count.
pub(crate) struct Metrics {
    gatherer: Gatherer,
    readers: Readers,
    durations: HistogramVec,
    active: Gauge,
    /// Requests for which there was no room.
    pub(crate) shed: IntCounter,
}

impl Metrics {
    pub(crate) fn new(bus: Bus, settings: &Settings) -> anyhow::Result<Self> {
        let help = "How long requests took until the head of the answer, by the route's template.";
        let labels = &["route", "method", "status"];
        Ok(Self {
            durations: bus.metrics().histogram("http_server_request_duration_seconds", help, labels, SECONDS),
            active: bus.metrics().gauge("http_server_active_requests", "Requests in work."),
            shed: bus.metrics().shed("edge", "requests"),
            readers: Readers::new(settings)?,
            gatherer: Gatherer::new(bus),
        })
    }

    /// A request is in work until what is returned is dropped.
    pub(crate) fn begin(&self) -> Active {
        Active::one(&self.active)
    }

    /// A request was answered. Nothing of what it carried becomes a label: neither a path nor a method that nobody
    /// knows.
    pub(crate) fn answered(
        &self,
        route: Option<&MatchedPath>,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        let route = route.map_or("unmatched", MatchedPath::as_str);
        let method = match *method {
            Method::GET | Method::POST | Method::PUT | Method::PATCH | Method::DELETE => method.as_str(),
            Method::HEAD | Method::OPTIONS => method.as_str(),
            _ => "_OTHER",
        };
        self.durations.with_label_values(&[route, method, status.as_str()]).observe(took.as_secs_f64());
    }
}

/// One more of something, until it is dropped.
pub(crate) struct Active(Gauge);

impl Active {
    pub(crate) fn one(of: &Gauge) -> Self {
        of.inc();
        Self(of.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Who may read it.
enum Readers {
    /// On a laptop.
    All,
    /// Who has the token of which this is the hash: comparing hashes tells nothing about the token.
    Bearers([u8; 32]),
    Nobody,
}

impl Readers {
    fn new(settings: &Settings) -> anyhow::Result<Self> {
        let Some(token) = &settings.metrics_token else {
            return Ok(match settings.outcry_env {
                Mode::Development => Self::All,
                Mode::Production => Self::Nobody,
            });
        };
        ensure!(
            token.len() >= TOKEN,
            "METRICS_TOKEN: expected at least {TOKEN} characters, for example the output of `openssl rand -hex 32`"
        );
        Ok(Self::Bearers(Sha256::digest(token).into()))
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        match (self, token) {
            (Self::All, _) => Ok(()),
            (Self::Nobody, _) => Err(Problem::not_found()),
            (Self::Bearers(hash), Some((scheme, token)))
                if scheme.eq_ignore_ascii_case("bearer") && Sha256::digest(token.trim())[..] == hash[..] =>
            {
                Ok(())
            }
            (Self::Bearers(_), _) => Err(Problem::unauthorized()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "0123456789abcdef0123456789abcdef";

    fn readers(token: Option<&str>, outcry_env: Mode) -> Readers {
        let settings: Settings = platform::Env::default().read().unwrap();
        Readers::new(&Settings { metrics_token: token.map(str::to_owned), outcry_env, ..settings }).unwrap()
    }

    fn status(readers: &Readers, authorization: &str) -> StatusCode {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, authorization.parse().unwrap())]);
        readers.admit(&headers).map_or_else(|problem| problem.into_response().status(), |()| StatusCode::OK)
    }

    #[test]
    fn production_without_a_token_tells_nobody() {
        assert_eq!(status(&readers(None, Mode::Production), "Bearer x"), StatusCode::NOT_FOUND);
        assert_eq!(status(&readers(None, Mode::Development), ""), StatusCode::OK);
    }

    #[test]
    fn a_token_is_asked_for_where_there_is_one() {
        for mode in [Mode::Production, Mode::Development] {
            let readers = readers(Some(GOOD), mode);
            assert_eq!(status(&readers, &format!("Bearer {GOOD}")), StatusCode::OK);
            for wrong in
                ["", "Bearer", "Bearer x", GOOD, &format!("Basic {GOOD}"), &format!("Bearer {GOOD}0")]
            {
                assert_eq!(status(&readers, wrong), StatusCode::UNAUTHORIZED, "{wrong}");
            }
        }
    }

    #[test]
    fn a_token_that_can_be_guessed_is_refused_at_the_start() {
        let settings: Settings = platform::Env::default().read().unwrap();
        let short = Settings { metrics_token: Some("secret".into()), ..settings };

        let error = Readers::new(&short).err().unwrap().to_string();

        assert!(error.starts_with("METRICS_TOKEN: expected at least 32 characters"), "{error}");
    }
}
