//! Which request a piece of work belongs to, and on whose behalf it is done.

use std::{fmt, str::FromStr};

use async_nats::HeaderMap;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{error::Refused, wire::header};

/// A person with an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct UserId(pub Uuid);

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a user may do beyond their own things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Their own things only.
    User,
    /// Everyone's.
    Admin,
}

impl Role {
    /// The word used in tokens, headers and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        match text {
            "user" => Ok(Self::User),
            "admin" => Ok(Self::Admin),
            _ => Err(Refused::unauthenticated()),
        }
    }
}

/// The verified user on whose behalf a message was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub id: UserId,
    /// With which rights.
    pub role: Role,
    /// In which of their sessions; nobody's when an operator asks on somebody's behalf.
    pub session: Option<Uuid>,
}

impl Caller {
    /// Whether what this user owns is the caller's business: it is their own, or they are an administrator.
    pub fn is_owner_or_admin(&self, owner: UserId) -> bool {
        self.id == owner || self.role == Role::Admin
    }

    /// Reads the identity headers. Only the edge and the operator have the right to publish
    /// commands, so what stands here has been verified.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        Some(Self {
            id: UserId(headers.get(header::USER_ID)?.as_str().parse().ok()?),
            role: headers.get(header::USER_ROLE).map_or(Ok(Role::User), |role| role.as_str().parse()).ok()?,
            session: headers.get(header::SESSION_ID).and_then(|session| session.as_str().parse().ok()),
        })
    }

    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(header::USER_ID, self.id.to_string());
        headers.insert(header::USER_ROLE, self.role.as_str());
        if let Some(session) = self.session {
            headers.insert(header::SESSION_ID, session.to_string());
        }
    }
}

/// W3C trace context and the correlation id, carried by every message and every event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits: the piece of work that sent this.
    pub span_id: String,
    /// What belongs to one request of one caller.
    pub correlation_id: String,
}

impl Trace {
    /// The first piece of work of a new trace.
    pub fn start() -> Self {
        let trace = Uuid::new_v4().simple().to_string();
        Self { span_id: span_id(), correlation_id: trace.clone(), trace_id: trace }
    }

    /// Continues the trace of a `traceparent`; starts a new one when it is missing or malformed.
    pub fn resume(traceparent: Option<&str>, correlation_id: Option<&str>) -> Self {
        let mut trace = traceparent.and_then(Self::parse).unwrap_or_else(Self::start);
        if let Some(id) = correlation_id.filter(|id| is_plain(id)) {
            trace.correlation_id = id.to_owned();
        }
        trace
    }

    fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let (version, trace_id, span, _flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, length| {
            text.len() == length
                && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                && text.bytes().any(|b| b != b'0')
        };
        (version.len() == 2 && version != "ff" && hex(trace_id, 32) && hex(span, 16)).then(|| Self {
            trace_id: trace_id.to_owned(),
            span_id: span_id(),
            correlation_id: trace_id.to_owned(),
        })
    }

    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let get = |name| headers.get(name).map(async_nats::HeaderValue::as_str);
        Self::resume(get(header::TRACEPARENT), get(header::CORRELATION_ID))
    }

    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(header::TRACEPARENT, self.traceparent());
        headers.insert(header::TRACE_ID, self.trace_id.as_str());
        headers.insert(header::CORRELATION_ID, self.correlation_id.as_str());
    }

    /// The W3C header that continues this trace.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace_id, self.span_id)
    }
}

/// Short visible ASCII: what may be copied from a stranger into headers and log lines.
pub fn is_plain(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn span_id() -> String {
    let random = Uuid::new_v4();
    random.simple().to_string()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_is_continued_with_a_span_of_its_own() {
        let trace = Trace::resume(Some(PARENT), Some("req-7"));

        assert_eq!(trace.trace_id, "0af7651916cd43dd8448eb211c80319c");
        assert_ne!(trace.span_id, "b7ad6b7169203331");
        assert_eq!(trace.correlation_id, "req-7");
    }

    #[test]
    fn a_malformed_parent_starts_a_new_trace() {
        for parent in ["", "00-xyz-1-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
            let trace = Trace::resume(Some(parent), Some("two\r\nlines"));

            assert_eq!(trace.trace_id.len(), 32);
            assert_eq!(trace.correlation_id, trace.trace_id, "{parent}");
        }
    }
}
