//! Why an invocation did not succeed.
//!
//! There are two reasons, because there are two reactions: tell the caller, or try again. Return a
//! [`Refusal`] of your domain when a rule says no; let `?` carry everything else, it becomes
//! [`Error::Broken`]. [`Error::Later`] is neither: the work is not ready, come back.

use std::{borrow::Cow, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What handlers return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an invocation did not succeed.
#[derive(Debug)]
pub enum Error {
    /// A rule said no. The caller learns the code and the message; repeating the same call will
    /// not help. A consumer dead-letters the message.
    Refused(Refused),
    /// Something on our side broke. The caller learns nothing, the log learns everything, and the
    /// message is tried again with a growing delay.
    Broken(anyhow::Error),
    /// Not yet: try again after this long. Not counted as an attempt.
    Later(Duration),
}

/// One line with the causes and without a stack, for logs.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => {
                write!(f, "{}: {}", refused.code, refused.details.as_ref().unwrap_or(&refused.message))
            }
            Self::Broken(error) => write!(f, "{error:#}"),
            Self::Later(delay) => write!(f, "not before {delay:?}"),
        }
    }
}

/// What the caller can do about a refusal, as the HTTP status that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Correct the request (400).
    Invalid,
    /// Say who you are (401).
    Unauthenticated,
    /// You are not allowed to (403).
    Forbidden,
    /// There is no such thing, or not for you (404).
    NotFound,
    /// The state of the thing does not allow it now (409).
    Conflict,
    /// It is not what you thought it was: look again (412).
    Precondition,
    /// The same key came with another request (422).
    Mismatch,
}

impl Kind {
    /// The HTTP status, which is also the code of a NATS micro error.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Precondition => 412,
            Self::Mismatch => 422,
        }
    }
}

/// A refusal in the form in which it travels and is shown: the `error` object of the HTTP contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// The HTTP status; not part of the body.
    #[serde(skip)]
    pub status: u16,
    /// Machine-readable, one of the contract's codes, for example `BID_TOO_LOW`.
    pub code: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// What exactly, as one string.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub details: Option<String>,
    /// Machine-readable extras that stand beside the details, for example `min_next_bid`.
    #[serde(flatten)]
    pub extras: Map<String, Value>,
    /// What the handler did before it refused stays done; else it is undone.
    #[serde(skip)]
    pub keeps: bool,
}

/// One wrong member of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The member, dotted when nested.
    pub name: String,
    /// What is wrong with it.
    pub message: String,
}

impl Refused {
    /// A refusal with nothing beside its code and message.
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: kind.status(),
            code: Cow::Borrowed(code),
            message: message.into(),
            details: None,
            extras: Map::new(),
            keeps: false,
        }
    }

    /// The same refusal of a command, and what its handler did and said before stays: a count of tries, a session
    /// that was ended because of what came.
    #[must_use]
    pub fn keeping(mut self) -> Self {
        self.keeps = true;
        self
    }

    /// Its code as a label of what is counted: a word of the source, and `OTHER` when it came from elsewhere.
    pub fn label(&self) -> &'static str {
        match self.code {
            Cow::Borrowed(code) => code,
            Cow::Owned(_) => "OTHER",
        }
    }

    /// `INVALID_INPUT` that names the wrong members.
    pub fn invalid(fields: Vec<Field>) -> Self {
        let details: Vec<String> =
            fields.iter().map(|field| format!("{}: {}", field.name, field.message)).collect();
        let mut refused = Self::malformed(details.join("; "));
        refused.extras.insert("fields".into(), serde_json::to_value(fields).unwrap_or_default());
        refused
    }

    /// `INVALID_INPUT` that names one wrong member.
    pub fn invalid_member(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(vec![Field { name: name.into(), message: message.into() }])
    }

    /// For a place to go on from that nobody was told of.
    pub fn unknown_place(member: &str) -> Self {
        Self::invalid_member(member, "is not one that was given out")
    }

    /// `INVALID_INPUT` for a request that could not even be read.
    pub fn malformed(details: impl Into<String>) -> Self {
        let mut refused = Self::new(Kind::Invalid, "INVALID_INPUT", "Validation failed");
        refused.details = Some(details.into());
        refused
    }

    /// The caller is unknown, or the token does not hold.
    pub fn unauthenticated() -> Self {
        Self::new(Kind::Unauthenticated, "UNAUTHORIZED", "a valid bearer token is needed")
    }
}

/// Implemented by each domain's refusals; `?` does the rest.
pub trait Refusal: std::error::Error {
    /// What the caller can do about it.
    fn kind(&self) -> Kind;
    /// One of the contract's codes.
    fn code(&self) -> &'static str;
    /// Machine-readable extras, shown beside the message.
    fn extras(&self) -> Map<String, Value> {
        Map::new()
    }
    /// The member of the request that is wrong, when that is why: it is told like any other, as [`Refused::invalid`] does.
    fn field(&self) -> Option<Field> {
        None
    }
}

impl<R: Refusal> From<R> for Refused {
    fn from(refusal: R) -> Self {
        if let Some(field) = refusal.field() {
            return Self::invalid(vec![field]);
        }
        let mut refused = Self::new(refusal.kind(), refusal.code(), refusal.to_string());
        refused.extras = refusal.extras();
        refused
    }
}

impl<R: Refusal> From<R> for Error {
    fn from(refusal: R) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Outside of invocations nobody reacts to the difference.
impl From<Error> for anyhow::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Broken(error) => error,
            other => anyhow::anyhow!("{other}"),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Broken(error.into())
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Broken(error.into())
    }
}

/// Gives a constraint of the database its business name.
pub trait OnConstraint<T> {
    /// Turns a violation of `constraint` into `refusal`; every other error stays what it is.
    fn refuse_on<R: Refusal>(self, constraint: &str, refusal: R) -> Result<T>;
}

impl<T> OnConstraint<T> for Result<T, sqlx::Error> {
    fn refuse_on<R: Refusal>(self, constraint: &str, refusal: R) -> Result<T> {
        self.map_err(|error| match error.as_database_error() {
            Some(violation) if violation.constraint() == Some(constraint) => refusal.into(),
            _ => error.into(),
        })
    }
}

/// True when the fault lies with Postgres or the network and not with the message: such a failure
/// is never counted as an attempt, however long it lasts.
pub(crate) fn is_outage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        match cause.downcast_ref::<sqlx::Error>() {
            Some(
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed,
            ) => true,
            // 08: connection; 53: out of resources; 57P0x: the server is going down or coming up;
            // 25006: it has become a read-only standby; 28, 3D, 42P01, 42501: its roles, databases, tables or
            // rights are not there yet; 57014: a statement took too long, which is not the message's doing.
            Some(sqlx::Error::Database(error)) => error.code().is_some_and(|code| {
                ["08", "53", "57P0", "25006", "28", "3D", "42P01", "42501", "57014"]
                    .iter()
                    .any(|class| code.starts_with(class))
            }),
            _ => cause.is::<Outage>(),
        }
    })
}

/// True when a connection that had stood was found to be gone.
pub(crate) fn is_connection_lost(error: &anyhow::Error) -> bool {
    let is_io = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref::<sqlx::Error>(), Some(sqlx::Error::Io(_)))
    };
    // 57P01: it was ended by the server.
    error.chain().any(is_io) || has_code(error, &["57P01"])
}

/// True when running the same work once more at once is likely to help: others were in the way, or
/// two invocations claimed the same command at the same time.
pub(crate) fn is_race(error: &anyhow::Error) -> bool {
    is_crowded(error) || has_code(error, &["23505"])
}

/// True when others were in the way: a serialization failure, a deadlock, a lock that was not given.
pub(crate) fn is_crowded(error: &anyhow::Error) -> bool {
    has_code(error, &["40001", "40P01", "55P03"])
}

fn has_code(error: &anyhow::Error, codes: &[&str]) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<sqlx::Error>()
            .and_then(|error| error.as_database_error()?.code())
            .is_some_and(|code| codes.contains(&code.as_ref()))
    })
}

/// The bus or a peer is away. Counts as an outage, not as an attempt.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Outage(pub String);

impl From<Outage> for Error {
    fn from(outage: Outage) -> Self {
        Self::Broken(outage.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_request_names_its_members_twice() {
        let refused = Refused::invalid_member("email", "Invalid email format");

        assert_eq!(
            serde_json::to_value(&refused).unwrap(),
            serde_json::json!({
                "code": "INVALID_INPUT",
                "message": "Validation failed",
                "details": "email: Invalid email format",
                "fields": [{"name": "email", "message": "Invalid email format"}],
            })
        );
    }

    #[test]
    fn a_lost_connection_is_an_outage_and_a_missing_row_is_not() {
        assert!(is_outage(&sqlx::Error::PoolTimedOut.into()));
        assert!(is_outage(&anyhow::Error::from(sqlx::Error::PoolTimedOut).context("load item")));
        assert!(!is_outage(&sqlx::Error::RowNotFound.into()));
    }
}
