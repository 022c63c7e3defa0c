//! Which sessions somebody has.

use garde::Validate;
use platform::{Command, Message, Query, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Where am I logged in?
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct ListSessions {}

impl Message for ListSessions {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "list-sessions";
    type Reply = Sessions;
}

impl Query for ListSessions {}

/// The answer to [`ListSessions`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Those that are open, the one that was used last first; at most 100.
    pub data: Vec<OpenSession>,
}

/// A session, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// As access tokens name it.
    pub id: Uuid,
    /// When its owner logged in.
    pub created_at: Timestamp,
    /// When it was refreshed last.
    pub refreshed_at: Timestamp,
    /// When it ends if it is refreshed until then.
    pub expires_at: Timestamp,
    /// Whether it is the one that asks.
    pub current: bool,
}

/// End one of the caller's sessions by its name; also one that has ended already.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct EndSession {
    /// Which.
    #[garde(skip)]
    pub session_id: Uuid,
}

impl Message for EndSession {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "end-session";
    type Reply = ();
}

impl Command for EndSession {}
