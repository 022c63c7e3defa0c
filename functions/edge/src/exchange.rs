//! One request becomes one message, one answer becomes one response: the same for all routes.

use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{FromRequestParts, RawPathParams, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use bytes::{Bytes, BytesMut};
use contracts::{
    auctions::{GetItem, ListChanges},
    identity::Challenge,
};
use futures_util::StreamExt;
use platform::{Answer, Command, Delivery, Message, Query, Sent, Timestamp, Trace, wire};
use serde_json::value::RawValue;

use crate::{
    App,
    address::Client,
    command_token::Named,
    commands,
    decode::{self, Given},
    live,
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

/// What a line's method is called.
const METHODS: [(MethodFilter, &str); 5] = [
    (MethodFilter::GET, "GET"),
    (MethodFilter::POST, "POST"),
    (MethodFilter::PUT, "PUT"),
    (MethodFilter::PATCH, "PATCH"),
    (MethodFilter::DELETE, "DELETE"),
];

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What commands call the version of `If-Match`, which nobody says in a body.
const IF_MATCH_MEMBER: &str = "if_match";
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A line of the table: paths, and what a request to one of them becomes.
pub struct Line {
    method: MethodFilter,
    paths: Vec<&'static str>,
    how: How,
    exchange: Exchange,
    /// The same over NATS, for commands.
    served: Option<Served>,
}

type Exchange = fn(Arc<App>, How, Request) -> Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;
type Serve = fn(Arc<App>, How, Delivery) -> Answering;
type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A command's endpoint on NATS, for people with the CLI: takes a token and a key in headers, as HTTP does.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) function: &'static str,
    pub(crate) subject: String,
    how: How,
    serve: Serve,
}

impl Served {
    pub(crate) fn answer(&self, app: Arc<App>, request: Delivery) -> Answering {
        (self.serve)(app, self.how, request)
    }
}

/// What differs from line to line.
#[derive(Clone, Copy)]
struct How {
    /// The function that answers; not known before the request is read when there is none.
    function: Option<&'static str>,
    success: StatusCode,
    /// A request without a token is refused. A token that comes is always checked.
    bearer: bool,
    /// The answer may be a [`Challenge`], which is 202: something has to come before success.
    may_ask_more: bool,
    /// The members of the answer that make its entity tag, its version first; none when it has no tag.
    tag: &'static [&'static str],
    /// `If-Match` names the version that is changed.
    conditional: bool,
    without: &'static [&'static str],
}

/// Sends the command `C`: the path and the JSON body.
pub fn send<C: Command>(paths: impl Into<Vec<&'static str>>) -> Line {
    let line = Line::new(MethodFilter::POST, paths.into(), Some(C::FUNCTION), |app, how, request| {
        Box::pin(async move { send_command::<C>(&app, how, request).await })
    });
    let served = Served {
        function: C::FUNCTION,
        subject: wire::service_subject::<C>(),
        how: line.how,
        serve: |app, how, request| {
            Box::pin(
                async move { serve_command::<C>(&app, how, &request).await.unwrap_or_else(Answer::from) },
            )
        },
    };
    Line { served: Some(served), ..line }
}

/// Asks the query `Q`: the path and the query string.
pub(crate) fn ask<Q: Query>(paths: impl Into<Vec<&'static str>>) -> Line {
    Line::new(MethodFilter::GET, paths.into(), Some(Q::FUNCTION), |app, how, request| {
        Box::pin(async move { ask_query::<Q>(&app, how, request).await })
    })
}

/// Shows what became of a command.
pub(crate) fn outcome(paths: impl Into<Vec<&'static str>>) -> Line {
    Line::new(MethodFilter::GET, paths.into(), None, |app, _, request| {
        Box::pin(async move { commands::show(&app, request).await })
    })
    .bearer()
}

/// Opens the live view of the item in the path.
pub(crate) fn watch(paths: impl Into<Vec<&'static str>>) -> Line {
    Line::new(MethodFilter::GET, paths.into(), Some(ListChanges::FUNCTION), |app, how, request| {
        Box::pin(async move { watch_item(&app, how, request).await })
    })
}

/// Opens the live view of the items that the query string names.
pub(crate) fn watch_all(paths: impl Into<Vec<&'static str>>) -> Line {
    Line::new(MethodFilter::GET, paths.into(), Some(ListChanges::FUNCTION), |app, how, request| {
        Box::pin(async move { watch_items(&app, how, request).await })
    })
}

impl Line {
    fn new(
        method: MethodFilter,
        paths: Vec<&'static str>,
        function: Option<&'static str>,
        exchange: Exchange,
    ) -> Self {
        let how = How {
            function,
            success: StatusCode::OK,
            bearer: false,
            may_ask_more: false,
            tag: &[],
            conditional: false,
            without: &[],
        };
        Self { method, paths, how, exchange, served: None }
    }

    /// Success is 201.
    #[must_use]
    pub fn created(mut self) -> Self {
        self.how.success = StatusCode::CREATED;
        self
    }

    /// Success is 204: there is nothing to say.
    #[must_use]
    pub fn empty(mut self) -> Self {
        self.how.success = StatusCode::NO_CONTENT;
        self
    }

    /// Success is 202, and says nothing of what will come of it.
    #[must_use]
    pub fn accepted(mut self) -> Self {
        self.how.success = StatusCode::ACCEPTED;
        self
    }

    /// Sent with PUT.
    pub(crate) fn put(mut self) -> Self {
        self.method = MethodFilter::PUT;
        self
    }

    /// Sent with DELETE, mostly without a body.
    pub(crate) fn delete(mut self) -> Self {
        self.method = MethodFilter::DELETE;
        self
    }

    /// Only for those who are logged in.
    #[must_use]
    pub fn bearer(mut self) -> Self {
        self.how.bearer = true;
        self
    }

    /// The answer carries its version as `ETag`, if it has one; who has that version gets 304.
    pub(crate) fn versioned(self) -> Self {
        self.versioned_by(&["version"])
    }

    /// The same of an answer that shows what changes without its version. The version comes first.
    pub(crate) fn versioned_by(mut self, members: &'static [&'static str]) -> Self {
        self.how.tag = members;
        self
    }

    /// Who sends `If-Match` changes what has that entity tag, and nothing else: the command hears the version.
    pub(crate) fn conditional(mut self) -> Self {
        self.how.conditional = true;
        self.how.without = &[IF_MATCH_MEMBER];
        self
    }

    /// 202 when the answer is a [`Challenge`].
    pub(crate) fn may_ask_more(mut self) -> Self {
        self.how.may_ask_more = true;
        self
    }

    /// These members are not taken from the caller.
    pub(crate) fn without(mut self, members: &'static [&'static str]) -> Self {
        self.how.without = members;
        self
    }

    /// The function that answers.
    pub(crate) fn function(&self) -> Option<&'static str> {
        self.how.function
    }

    /// Its method with each of its paths.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let method = METHODS.iter().find(|(method, _)| *method == self.method).map_or("?", |(_, name)| name);
        self.paths.iter().map(move |path| (method, *path))
    }

    /// What it answers over NATS.
    pub(crate) fn served(&self) -> Option<Served> {
        self.served.clone().map(|served| Served { how: self.how, ..served })
    }

    pub(crate) fn add_to(self, router: Router<Arc<App>>) -> Router<Arc<App>> {
        let Self { method, paths, how, exchange, .. } = self;
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
    let body = tokio::time::timeout(BODY_WITHIN, read_json(&parts.headers, body, largest::<C>()))
        .await
        .map_err(|_| Problem::request_timeout())??;
    let expected = expected_version(if_match(&parts.headers).as_deref(), how)?;
    let mut given = given(&path, how);
    given.path.extend(expected.as_deref().map(|version| (IF_MATCH_MEMBER, version)));
    let command: C = decode::json(&given, &body)?;
    let request = platform::Request { caller, trace: trace(&mut parts), idempotency_key };
    let client = parts.extensions.get().copied();
    match dispatch(app, &command, &request, client).await? {
        // What the caller knows already is no matter: something was done.
        Dispatched::Answered(answer) => answered(answer, how, &HeaderMap::new()),
        Dispatched::Pending(token) => Ok(pending(&token)),
    }
}

/// The same over NATS; a command that is not decided in time is answered with its name.
async fn serve_command<C: Command>(app: &App, how: How, request: &Delivery) -> Result<Answer, Problem> {
    let authorization = request.header("Authorization").or_else(|| request.header("authorization"));
    let caller = app.auth.caller_of(authorization, how.bearer).await?;
    let key = if C::SECRET { None } else { request.header(wire::header::IDEMPOTENCY_KEY) };
    let idempotency_key = key.map(|key| read_key(key.as_bytes())).transpose()?;
    if request.body.len() > largest::<C>() {
        return Err(Problem::payload_too_large(largest::<C>()));
    }
    let if_match = request.header("If-Match").or_else(|| request.header("if-match"));
    let expected = expected_version(if_match, how)?;
    let path = expected.as_deref().map(|version| (IF_MATCH_MEMBER, version)).into_iter().collect();
    let command: C = decode::json(&Given { path, without: how.without }, &request.body)?;
    let sent = platform::Request { caller, trace: request.trace(), idempotency_key };
    Ok(match dispatch(app, &command, &sent, None).await? {
        Dispatched::Answered(answer) => answer,
        Dispatched::Pending(token) => {
            let body = undecided(&token).to_string();
            Answer { status: StatusCode::ACCEPTED.as_u16(), body: body.into(), replayed: false }
        }
    })
}

/// The largest body of this command, however it comes.
fn largest<C: Command>() -> usize {
    if C::SECRET { SECRET_BODY } else { BODY }
}

/// What became of a command within the deadline.
enum Dispatched {
    Answered(Answer),
    /// Not decided yet: the name under which its owner finds it.
    Pending(String),
}

/// Delivers a command, unless commands of its kind came too often.
async fn dispatch<C: Command>(
    app: &App,
    command: &C,
    request: &platform::Request,
    client: Option<Client>,
) -> Result<Dispatched, Problem> {
    let attempt = app.throttle.attempt(command, request.caller, client)?;
    let dispatched = deliver(app, command, request).await;
    attempt.answered(match &dispatched {
        Ok(Dispatched::Answered(answer)) => {
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Ok(Dispatched::Pending(_)) => StatusCode::ACCEPTED,
        Err(problem) => problem.status(),
    });
    dispatched
}

async fn deliver<C: Command>(
    app: &App,
    command: &C,
    request: &platform::Request,
) -> Result<Dispatched, Problem> {
    match app.sender.send(command, request).await {
        Ok(Sent::Answered(answer)) => Ok(Dispatched::Answered(answer)),
        Ok(Sent::Pending(id)) => {
            let (domain, function) = (C::DOMAIN.to_owned(), C::FUNCTION.to_owned());
            let (issued, owner) = (Timestamp::now(), request.caller.map(|caller| caller.id));
            Ok(Dispatched::Pending(app.commands.sign(&Named { domain, function, id, issued, owner })))
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

async fn watch_item(app: &App, how: How, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let caller = app.auth.verified(&parts.headers, how.bearer).await?;
    let path = path(&mut parts).await?;
    let GetItem { item_id } = decode::query(&given(&path, how), "")?;
    let seen = last_event_id(&parts.headers);
    app.live.watch(item_id, seen, caller, &trace(&mut parts)).await
}

async fn watch_items(app: &App, how: How, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let caller = app.auth.verified(&parts.headers, how.bearer).await?;
    let items = live::items(parts.uri.query().unwrap_or_default())?;
    let trace = trace(&mut parts);
    let seen = parts.headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    app.live.watch_all(items, seen, caller, &trace).await
}

/// The version that a client of a live view has seen. What is not a version is ignored: then it gets the whole.
fn last_event_id(headers: &HeaderMap) -> Option<i64> {
    headers.get(LAST_EVENT_ID)?.to_str().ok()?.trim().parse().ok().filter(|version| *version > 0)
}

/// The function's words, byte for byte.
fn answered(answer: Answer, how: How, asked: &HeaderMap) -> Result<Response, Problem> {
    let replayed = answer.replayed;
    let mut response = if !answer.is_accepted() {
        Problem::from(answer).into_response()
    } else if !how.tag.is_empty() {
        versioned(answer.body, how.tag, asked)
    } else if [StatusCode::NO_CONTENT, StatusCode::ACCEPTED].contains(&how.success) {
        how.success.into_response()
    } else {
        let asks_more = how.may_ask_more && serde_json::from_slice::<Challenge>(&answer.body).is_ok();
        let success = if asks_more { StatusCode::ACCEPTED } else { how.success };
        (success, [(header::CONTENT_TYPE, "application/json")], answer.body).into_response()
    };
    if replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Stored, not decided yet: where the outcome will be.
fn pending(token: &str) -> Response {
    let location = format!("/api/v1/commands/{token}");
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], axum::Json(undecided(token))).into_response()
}

fn undecided(token: &str) -> serde_json::Value {
    serde_json::json!({ "command_id": token, "status": "pending" })
}

/// The answer with its entity tag, or 304 for who has that one.
fn versioned(body: Bytes, members: &[&str], asked: &HeaderMap) -> Response {
    let Ok(answer) = serde_json::from_slice::<HashMap<String, &RawValue>>(&body) else {
        tracing::error!("an answer that should have a version is no object");
        return Problem::internal().into_response();
    };
    let values: Option<Vec<&str>> =
        members.iter().map(|member| answer.get(*member).map(|value| value.get())).collect();
    let Some(values) = values else {
        // Only a part is shown to this caller.
        return (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    };
    let tag = format!("\"{}\"", values.join("-"));
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

pub(crate) async fn path(parts: &mut Parts) -> Result<RawPathParams, Problem> {
    // Not UTF-8, or what nothing can be called: there is no such thing.
    let path = RawPathParams::from_request_parts(parts, &()).await.map_err(|_| Problem::not_found())?;
    if path.iter().any(|(_, value)| value.contains('\0')) { Err(Problem::not_found()) } else { Ok(path) }
}

fn given(path: &RawPathParams, how: How) -> Given<'_> {
    Given { path: path.iter().collect(), without: how.without }
}

/// Put there by the frame.
pub(crate) fn trace(parts: &mut Parts) -> Trace {
    parts.extensions.remove().unwrap_or_else(Trace::start)
}

/// The version that the caller wants to change, if they say so: the first part of the entity tag.
fn expected_version(if_match: Option<&str>, how: How) -> Result<Option<String>, Problem> {
    let Some(tag) = if_match.map(str::trim).filter(|tag| how.conditional && *tag != "*") else {
        return Ok(None);
    };
    if tag.contains(',') {
        return Err(Problem::malformed("If-Match: expected one entity tag, or *"));
    }
    let version = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or_default();
    let version = version.split('-').next().unwrap_or_default();
    match version.parse::<u32>() {
        Ok(_) => Ok(Some(version.to_owned())),
        // No tag of ours, so nothing has it; a weak one never matches.
        Err(_) => Err(Problem::precondition_failed()),
    }
}

/// The tags of all its lines, as one; one that is no text is no tag of ours.
fn if_match(headers: &HeaderMap) -> Option<String> {
    let tags: Vec<&str> =
        headers.get_all(header::IF_MATCH).iter().map(|tag| tag.to_str().unwrap_or_default()).collect();
    (!tags.is_empty()).then(|| tags.join(","))
}

/// The caller's own name for this command, bare or quoted.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    // Of two keys neither is the one.
    let key = if keys.next().is_some() { b"" } else { key.as_bytes() };
    read_key(key).map(Some)
}

fn read_key(key: &[u8]) -> Result<String, Problem> {
    let key = key.strip_prefix(b"\"").and_then(|key| key.strip_suffix(b"\"")).unwrap_or(key);
    let good = (1..=KEY).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    match std::str::from_utf8(key) {
        Ok(key) if good => Ok(key.to_owned()),
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

    const HOW: How = How {
        function: Some("f"),
        success: StatusCode::CREATED,
        bearer: false,
        may_ask_more: false,
        tag: &[],
        conditional: false,
        without: &[],
    };

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
    fn if_match_is_one_tag_of_ours() {
        let how = How { conditional: true, ..HOW };
        let read = |tag: &str, how| expected_version(Some(tag), how).map_err(|problem| problem.status());
        for (tag, version) in [("\"3\"", Some("3")), (" \"3-17\" ", Some("3")), ("*", None)] {
            assert_eq!(read(tag, how), Ok(version.map(str::to_owned)), "{tag}");
        }
        for tag in ["W/\"3\"", "3", "\"\"", "\"x\"", "\"-3\"", "", "\"3"] {
            assert_eq!(read(tag, how), Err(StatusCode::PRECONDITION_FAILED), "{tag}");
        }
        assert_eq!(read("\"3\", \"4\"", how), Err(StatusCode::BAD_REQUEST));
        assert_eq!(read("\"3\"", HOW), Ok(None));
        assert!(expected_version(None, how).unwrap().is_none());
    }

    #[test]
    fn a_tag_is_of_all_that_changes() {
        let tag = |body: &'static str, members: &[&str]| {
            let response = versioned(Bytes::from_static(body.as_bytes()), members, &HeaderMap::new());
            response.headers().get(header::ETAG).map(|tag| tag.to_str().unwrap().to_owned())
        };
        let body = r#"{"id":1,"version":3,"product_count":17,"name":"version"}"#;

        assert_eq!(tag(body, &["version"]).as_deref(), Some("\"3\""));
        assert_eq!(tag(body, &["version", "product_count"]).as_deref(), Some("\"3-17\""));
        assert_eq!(tag(r#"{"version":3}"#, &["version", "product_count"]), None);
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
