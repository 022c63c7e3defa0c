//! How an error becomes a status and a body, whoever made it.
//!
//! A problem is rendered last, by `frame`, because its body names the request and only the frame knows its name.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use platform::{Answer, Kind, Refused};
use serde_json::Value;

use crate::throttle::Limited;

/// Seconds after which a caller may come again when nothing else is known.
const COME_AGAIN: u64 = 1;

/// Why a request is not answered as it hoped.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    /// `{"error":{...}}`, without the request's id.
    body: Bytes,
    /// What was asked too often.
    limited: Option<Limited>,
}

impl Problem {
    /// One that the edge makes itself.
    fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        Refused { status: status.as_u16(), ..Refused::new(Kind::Invalid, code, message) }.into()
    }

    /// The body or a header cannot be read.
    pub(crate) fn malformed(details: impl Into<String>) -> Self {
        Refused::malformed(details).into()
    }

    pub(crate) fn unauthorized() -> Self {
        Refused::unauthenticated().into()
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such thing")
    }

    pub(crate) fn precondition_failed() -> Self {
        let message = "it does not have this entity tag";
        Self::new(StatusCode::PRECONDITION_FAILED, "PRECONDITION_FAILED", message)
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "this path takes other methods, see Allow";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message)
    }

    pub(crate) fn request_timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "the request took too long")
    }

    pub(crate) fn payload_too_large(most: usize) -> Self {
        let message = format!("the body may have at most {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", &message)
    }

    pub(crate) fn uri_too_long(most: usize) -> Self {
        let message = format!("the address may have at most {most} bytes");
        Self::new(StatusCode::URI_TOO_LONG, "URI_TOO_LONG", &message)
    }

    pub(crate) fn unsupported_media_type() -> Self {
        let message = "the body must be JSON, with Content-Type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message)
    }

    pub(crate) fn headers_too_large(most: usize) -> Self {
        let message = format!("the headers may have at most {most} bytes");
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "HEADERS_TOO_LARGE", &message)
    }

    /// Asked too often.
    pub(crate) fn rate_limited(limited: Limited) -> Self {
        let message = "this was asked too often, come again when Retry-After is over";
        let mut refused = Refused::new(Kind::Invalid, "RATE_LIMITED", message);
        refused.status = StatusCode::TOO_MANY_REQUESTS.as_u16();
        let wait = limited.wait.as_nanos().div_ceil(1_000_000);
        refused.extras.insert("retry_after_ms".into(), u64::try_from(wait).unwrap_or(u64::MAX).into());
        Self { limited: Some(limited), ..refused.into() }
    }

    /// Something broke; says nothing about what.
    pub(crate) fn internal() -> Self {
        Answer::broken().into()
    }

    /// There is no room, or a part is away.
    pub(crate) fn unavailable() -> Self {
        Answer::unavailable().into()
    }

    pub(crate) fn timeout() -> Self {
        let message = "there was no answer in time; it may have been done, or not";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "TIMEOUT", message)
    }

    /// What the caller is told first.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether it is our doing, so that the same request may well succeed later.
    pub(crate) fn is_ours(&self) -> bool {
        self.status.is_server_error()
    }

    /// Completes the response that carries this problem.
    pub(crate) fn write(self, request_id: &str, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after()));
            }
            _ => {}
        }
        if let Some(limited) = self.limited {
            // draft-ietf-httpapi-ratelimit-headers.
            let Limited { policy, most, window, .. } = limited;
            let told = [
                ("ratelimit-policy", format!("\"{policy}\";q={most};w={}", window.as_secs())),
                ("ratelimit", format!("\"{policy}\";r=0;t={}", self.retry_after())),
            ];
            for (name, value) in told {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(name, value);
                }
            }
        }
        *response.body_mut() = naming(&self.body, request_id).into();
    }

    /// Whole seconds, from the milliseconds in the body.
    fn retry_after(&self) -> u64 {
        let body: Option<Value> = serde_json::from_slice(&self.body).ok();
        let wait = body.and_then(|body| body["error"]["retry_after_ms"].as_u64());
        wait.map_or(COME_AGAIN, |wait| wait.div_ceil(1000))
    }
}

impl From<Answer> for Problem {
    fn from(answer: Answer) -> Self {
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, body: answer.body, limited: None }
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        Self { status: problem.status.as_u16(), body: problem.body, replayed: false }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Answer::refused(&refused).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The body with the request's id in its `error` object; the rest stays as the function wrote it.
fn naming(body: &[u8], request_id: &str) -> Vec<u8> {
    let id = Value::from(request_id).to_string();
    match body.strip_prefix(br#"{"error":{""#).and(body.strip_suffix(b"}}")) {
        Some(open) => [open, br#","request_id":"#, id.as_bytes(), b"}}"].concat(),
        // Nothing that a function of ours makes.
        None => {
            let broken = Answer::broken().body;
            if body == broken { body.to_vec() } else { naming(&broken, request_id) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(problem: Problem, request_id: &str) -> (Response, Value) {
        let body = serde_json::from_slice(&naming(&problem.body, request_id)).unwrap();
        let mut response = problem.clone().into_response();
        problem.write(request_id, &mut response);
        (response, body)
    }

    #[test]
    fn the_requests_id_stands_beside_what_the_function_wrote() {
        let mut refused = Refused::new(Kind::Conflict, "BID_TOO_LOW", "too low");
        refused.extras.insert("allowed".into(), serde_json::json!({"from": {"a": 1}}));

        let (_, body) = written(refused.into(), r#"a"b\"#);

        assert_eq!(
            body,
            serde_json::json!({"error": {
                "code": "BID_TOO_LOW", "message": "too low", "allowed": {"from": {"a": 1}}, "request_id": r#"a"b\"#,
            }})
        );
    }

    #[test]
    fn a_body_that_is_no_error_is_not_shown() {
        for body in ["", "{}", "panicked at src/lib.rs", r#"{"error":{}}"#] {
            let answer = Answer { status: 500, body: Bytes::from_static(body.as_bytes()), replayed: false };

            assert_eq!(written(answer.into(), "r").1["error"]["code"], "INTERNAL");
        }
    }

    #[test]
    fn a_caller_is_told_when_to_come_again() {
        let mut limited = Refused::new(Kind::Invalid, "RATE_LIMITED", "slowly");
        limited.status = 429;
        limited.extras.insert("retry_after_ms".into(), 1200.into());

        for (problem, seconds) in [(limited.into(), "2"), (Problem::unavailable(), "1")] {
            assert_eq!(written(problem, "r").0.headers()[header::RETRY_AFTER], seconds);
        }
    }
}
