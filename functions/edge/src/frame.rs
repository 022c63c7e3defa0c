//! What every request gets and every answer carries: its ids, the security headers, a log line.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::Response,
};
use platform::{Trace, is_plain};
use uuid::Uuid;

use crate::{App, problem::Problem};

const REQUEST_ID: &str = "x-request-id";
const TRACE_ID: &str = "x-trace-id";

/// Every answer is data, never a page: nothing may run in it, frame it or guess at it (security.md 2.2).
const SECURITY: [(HeaderName, &str); 8] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "strict-origin-when-cross-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000; includeSubDomains"),
];

/// The outermost layer.
pub(crate) async fn frame(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let (started, active) = (Instant::now(), app.metrics.begin());
    let (request_id, trace) = ids(request.headers());
    let trace_id = trace.trace_id.clone();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let is_authenticated = request.headers().contains_key(header::AUTHORIZATION);
    request.extensions_mut().insert(trace);

    let mut response = next.run(request).await;

    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        problem.write(&request_id, &mut response);
    }
    let headers = response.headers_mut();
    for (name, value) in SECURITY {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Answers are nobody else's, unless the exchange says that they are everybody's.
    if is_authenticated || !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    insert(headers, REQUEST_ID, &request_id);
    insert(headers, TRACE_ID, &trace_id);
    let took = started.elapsed();
    app.metrics.answered(route.as_ref(), &method, response.status(), took);
    drop(active);
    log(&method, route.as_ref(), &response, took, &trace_id, &request_id);
    response
}

/// The caller's own ids when they can be copied safely, else new ones.
fn ids(headers: &HeaderMap) -> (String, Trace) {
    let given = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let plain = |name| given(name).filter(|id| is_plain(id));
    let request_id = plain(REQUEST_ID).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
    let correlation_id = plain("x-correlation-id").unwrap_or(&request_id);
    let trace = Trace::resume(given("traceparent"), Some(correlation_id));
    (request_id, trace)
}

/// The text is visible ASCII, so it is always a header.
fn insert(headers: &mut HeaderMap, name: &'static str, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn log(
    method: &axum::http::Method,
    route: Option<&MatchedPath>,
    response: &Response,
    took: Duration,
    trace_id: &str,
    request_id: &str,
) {
    let route = route.map_or("-", MatchedPath::as_str);
    let status = response.status();
    let duration_ms = took.as_secs_f64() * 1000.0;
    if status.is_server_error() {
        tracing::warn!(%method, route, status = status.as_u16(), duration_ms, trace_id, request_id, "request");
    } else {
        tracing::debug!(%method, route, status = status.as_u16(), duration_ms, trace_id, request_id, "request");
    }
}
