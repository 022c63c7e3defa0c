//! One request becomes one message, one answer becomes one response: the same for all routes.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{FromRequestParts, RawPathParams, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use platform::{Answer, Command, Query, Sent, Trace};
use serde::Deserialize;

use crate::{
    App,
    decode::{self, Given},
    problem::Problem,
};

/// The largest body.
const BODY: usize = 64 * 1024;
/// The largest body of a command that carries a secret.
const SECRET_BODY: usize = 8 * 1024;
/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(15);
/// The longest `Idempotency-Key`.
const KEY: usize = 255;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A line of the table: paths, and what a request to one of them becomes.
pub(crate) struct Line {
    method: MethodFilter,
    paths: Vec<&'static str>,
    how: How,
    exchange: Exchange,
}

type Exchange = fn(Arc<App>, How, Request) -> Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;

/// What differs from line to line.
#[derive(Clone, Copy)]
struct How {
    function: &'static str,
    success: StatusCode,
    /// A request without a token is refused. A token that comes is always checked.
    bearer: bool,
    /// The answer has a version, which is its entity tag.
    versioned: bool,
    without: &'static [&'static str],
}

/// Sends the command `C`: the path and the JSON body.
pub(crate) fn send<C: Command>(paths: impl Into<Vec<&'static str>>) -> Line {
    Line::new(MethodFilter::POST, paths.into(), C::FUNCTION, |app, how, request| {
        Box::pin(async move { send_command::<C>(&app, how, request).await })
    })
}

/// Asks the query `Q`: the path and the query string.
pub(crate) fn ask<Q: Query>(paths: impl Into<Vec<&'static str>>) -> Line {
    Line::new(MethodFilter::GET, paths.into(), Q::FUNCTION, |app, how, request| {
        Box::pin(async move { ask_query::<Q>(&app, how, request).await })
    })
}

impl Line {
    fn new(
        method: MethodFilter,
        paths: Vec<&'static str>,
        function: &'static str,
        exchange: Exchange,
    ) -> Self {
        let how = How { function, success: StatusCode::OK, bearer: false, versioned: false, without: &[] };
        Self { method, paths, how, exchange }
    }

    /// Success is 201.
    pub(crate) fn created(mut self) -> Self {
        self.how.success = StatusCode::CREATED;
        self
    }

    /// Only for those who are logged in.
    pub(crate) fn bearer(mut self) -> Self {
        self.how.bearer = true;
        self
    }

    /// The answer carries its version as `ETag`; who has that version gets 304.
    pub(crate) fn versioned(mut self) -> Self {
        self.how.versioned = true;
        self
    }

    /// These members are not taken from the caller.
    pub(crate) fn without(mut self, members: &'static [&'static str]) -> Self {
        self.how.without = members;
        self
    }

    /// The function that answers.
    pub(crate) fn function(&self) -> &'static str {
        self.how.function
    }

    pub(crate) fn add_to(self, router: Router<Arc<App>>) -> Router<Arc<App>> {
        let Self { method, paths, how, exchange } = self;
        paths.into_iter().fold(router, |router, path| {
            let exchange = move |State(app): State<Arc<App>>, request: Request| exchange(app, how, request);
            router.route(path, on(method, exchange))
        })
    }
}

async fn send_command<C: Command>(app: &App, how: How, request: Request) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = app.auth.caller(&parts.headers, how.bearer).await?;
    // No secret is ever stored to be replayed, so a key has nothing to do here.
    let idempotency_key = if C::SECRET { None } else { idempotency_key(&parts.headers)? };
    let path = path(&mut parts).await?;
    let most = if C::SECRET { SECRET_BODY } else { BODY };
    let body = tokio::time::timeout(BODY_WITHIN, read_json(&parts.headers, body, most))
        .await
        .map_err(|_| Problem::request_timeout())??;
    let command: C = decode::json(&given(&path, how), &body)?;
    let request = platform::Request { caller, trace: trace(&mut parts), idempotency_key };
    match app.sender.send(&command, &request).await {
        Ok(Sent::Answered(answer)) => answered(answer, how, &parts.headers),
        Ok(Sent::Pending(id)) => {
            let token = app.commands.sign(C::DOMAIN, C::FUNCTION, id, caller.map(|caller| caller.id));
            Ok(pending(&token))
        }
        Ok(Sent::TimedOut) => Err(Problem::timeout()),
        Ok(Sent::Unavailable(reason)) => {
            tracing::warn!(function = C::FUNCTION, reason, "command not stored");
            Err(Problem::unavailable())
        }
        Err(error) => {
            tracing::error!(function = C::FUNCTION, %error, "command not sent");
            Err(Problem::internal())
        }
    }
}

async fn ask_query<Q: Query>(app: &App, how: How, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let caller = app.auth.caller(&parts.headers, how.bearer).await?;
    let path = path(&mut parts).await?;
    let query: Q = decode::query(&given(&path, how), parts.uri.query().unwrap_or_default())?;
    let answer = app.sender.bus().ask(&query, caller, &trace(&mut parts)).await.map_err(|error| {
        tracing::warn!(function = Q::FUNCTION, %error, "query not answered");
        Problem::unavailable()
    })?;
    answered(answer, how, &parts.headers)
}

/// The function's words, byte for byte.
fn answered(answer: Answer, how: How, asked: &HeaderMap) -> Result<Response, Problem> {
    let replayed = answer.replayed;
    let mut response = if !answer.is_accepted() {
        Problem::from(answer).into_response()
    } else if how.versioned {
        versioned(answer.body, asked)
    } else {
        (how.success, [(header::CONTENT_TYPE, "application/json")], answer.body).into_response()
    };
    if replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Stored, not decided yet: where the outcome will be.
fn pending(token: &str) -> Response {
    let body = serde_json::json!({ "command_id": token, "status": "pending" });
    let location = format!("/api/v1/commands/{token}");
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], axum::Json(body)).into_response()
}

/// The answer with its version, or 304 for who has that version.
fn versioned(body: Bytes, asked: &HeaderMap) -> Response {
    #[derive(Deserialize)]
    struct Versioned {
        version: i64,
    }
    let Ok(Versioned { version }) = serde_json::from_slice(&body) else {
        tracing::error!("an answer has no version");
        return Problem::internal().into_response();
    };
    let tag = format!("\"{version}\"");
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    let is_known = known
        .flat_map(|tags| tags.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag);
    // What is shown depends on who asks; the frame forbids to store it when that is known.
    let headers =
        [(header::ETAG, tag.as_str()), (header::CACHE_CONTROL, "no-cache"), (header::VARY, "Authorization")];
    if is_known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (StatusCode::OK, headers, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn path(parts: &mut Parts) -> Result<RawPathParams, Problem> {
    // Not UTF-8: there is no such thing.
    RawPathParams::from_request_parts(parts, &()).await.map_err(|_| Problem::not_found())
}

fn given(path: &RawPathParams, how: How) -> Given<'_> {
    Given { path: path.iter().collect(), without: how.without }
}

/// Put there by the frame.
fn trace(parts: &mut Parts) -> Trace {
    parts.extensions.remove().unwrap_or_else(Trace::start)
}

/// The caller's own name for this command, bare or quoted.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let key = key.as_bytes();
    let key = key.strip_prefix(b"\"").and_then(|key| key.strip_suffix(b"\"")).unwrap_or(key);
    let good =
        (1..=KEY).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic) && keys.next().is_none();
    match std::str::from_utf8(key) {
        Ok(key) if good => Ok(Some(key.to_owned())),
        _ => Err(Problem::malformed(format!(
            "Idempotency-Key: expected one key of 1 to {KEY} visible ASCII characters"
        ))),
    }
}

/// The body, when it says that it is JSON and is not larger than `most`.
async fn read_json(headers: &HeaderMap, body: Body, most: usize) -> Result<Bytes, Problem> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if !is_json(headers) {
        return Err(Problem::unsupported_media_type());
    }
    if body.size_hint().lower() > most as u64 {
        return Err(Problem::payload_too_large(most));
    }
    let mut chunks = body.into_data_stream();
    let mut next = async || match chunks.next().await {
        None => Ok(None),
        Some(Ok(chunk)) => Ok(Some(chunk)),
        Some(Err(_)) => Err(Problem::malformed("the body broke off")),
    };
    // Nearly always one chunk, which is not copied.
    let mut whole = next().await?.unwrap_or_default();
    while whole.len() <= most {
        let Some(more) = next().await? else { return Ok(whole) };
        let mut longer = BytesMut::from(whole);
        longer.extend_from_slice(&more);
        whole = longer.freeze();
    }
    Err(Problem::payload_too_large(most))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOW: How =
        How { function: "f", success: StatusCode::CREATED, bearer: false, versioned: false, without: &[] };

    #[tokio::test]
    async fn the_functions_words_go_out_as_they_are() {
        let body = Bytes::from_static(b"{ \"amount\" : \"1.50\" }");
        let answer = Answer { status: 200, body: body.clone(), replayed: true };

        let response = answered(answer, HOW, &HeaderMap::new()).unwrap();

        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.headers()[IDEMPOTENT_REPLAYED], "true");
        assert_eq!(axum::body::to_bytes(response.into_body(), BODY).await.unwrap(), body);
    }

    #[test]
    fn a_refusal_that_was_given_before_says_so() {
        let refused = platform::Refused::new(platform::Kind::Conflict, "BID_TOO_LOW", "too low");
        let answer = Answer { replayed: true, ..Answer::refused(&refused) };

        let response = answered(answer, HOW, &HeaderMap::new()).unwrap();

        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(response.headers()[IDEMPOTENT_REPLAYED], "true");
    }
}
