//! How much is let in, and for how long. Bodies are limited where they are read, connections in `server`.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tokio::sync::Semaphore;

use crate::{App, address::Peer, health, metrics, problem::Problem};

/// The longest path with its query string.
const URI: usize = 8 * 1024;
/// All headers with their names.
const HEADERS: usize = 16 * 1024;
/// How long a request may take.
const TIME: Duration = Duration::from_secs(30);
/// Requests in flight at once. More would only wait for each other.
const IN_FLIGHT: usize = 1024;

/// Room for requests in flight.
pub(crate) struct Room(Semaphore);

impl Default for Room {
    fn default() -> Self {
        Self(Semaphore::new(IN_FLIGHT))
    }
}

#[cfg(test)]
impl Room {
    pub(crate) fn take_all(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.0.try_acquire_many(u32::try_from(IN_FLIGHT).unwrap()).unwrap()
    }
}

/// Lets a request in, or says why not. What panics inside is an error of ours and ends here.
pub(crate) async fn limit(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if request.method() == Method::CONNECT {
        // It names a host and no path, so no route could say this.
        return ([(header::ALLOW, "GET, POST")], Problem::method_not_allowed()).into_response();
    }
    if let Err(problem) = fits(&request) {
        return problem.into_response();
    }
    if let Err(problem) = admit(&app, &mut request) {
        return problem.into_response();
    }
    let _permit = match app.room.0.try_acquire() {
        Ok(permit) => Some(permit),
        // Who asks how it goes is answered all the more when there is no room.
        Err(_) if is_probe(&request) => None,
        Err(_) => {
            app.metrics.shed.inc();
            return Problem::unavailable().into_response();
        }
    };
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(TIME, answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!("a request panicked");
            Problem::internal().into_response()
        }
        Err(_) => Problem::request_timeout().into_response(),
    }
}

fn fits(request: &Request) -> Result<(), Problem> {
    let uri = request.uri().path_and_query().map_or(0, |uri| uri.as_str().len());
    if uri > URI {
        return Err(Problem::uri_too_long(URI));
    }
    // As on the wire: `name: value\r\n`.
    let headers: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers > HEADERS {
        return Err(Problem::headers_too_large(HEADERS));
    }
    Ok(())
}

/// Notes where the request comes from, and counts it. Who asks how it goes may ask as often as they like.
fn admit(app: &App, request: &mut Request) -> Result<(), Problem> {
    let peer = request.extensions().get::<Peer>().copied();
    let client = peer.map(|peer| app.proxies.client(peer, request.headers()));
    if let Some(client) = client {
        request.extensions_mut().insert(client);
    }
    if !app.throttle.counts_requests() || is_probe(request) {
        return Ok(());
    }
    app.throttle.request(app.auth.remembered(request.headers()), client)
}

fn is_probe(request: &Request) -> bool {
    let route = request.extensions().get::<MatchedPath>();
    route.is_some_and(|route| route.as_str() == metrics::PATH || health::PATHS.contains(&route.as_str()))
}
