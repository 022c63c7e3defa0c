//! What is said about passwords.

use garde::Validate;
use platform::{Command, Event, Message, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Secret, is_password};

/// Change the caller's password. All sessions of theirs end but the one that asks.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct ChangePassword {
    /// The one that is to be forgotten.
    #[serde(alias = "currentPassword")]
    #[garde(skip)]
    pub current_password: Secret,
    /// 8 to 256 bytes; any characters.
    #[serde(alias = "newPassword")]
    #[garde(custom(is_password))]
    pub new_password: Secret,
}

impl Message for ChangePassword {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "change-password";
    type Reply = ();
}

impl Command for ChangePassword {
    const SECRET: bool = true;
}

/// Have a token sent to whoever has this e-mail, if somebody has: with it [`ResetPassword`] sets a new password. The answer
/// is the same for an e-mail that nobody has.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct RequestPasswordReset {
    /// In any case.
    #[garde(length(max = 320))]
    pub email: String,
}

impl Message for RequestPasswordReset {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "request-password-reset";
    type Reply = ();
}

impl Command for RequestPasswordReset {}

/// Set a new password with a token that was sent. It is good once and for half an hour; all sessions end.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct ResetPassword {
    /// As it was sent.
    #[garde(skip)]
    pub token: Secret,
    /// 8 to 256 bytes; any characters.
    #[serde(alias = "newPassword")]
    #[garde(custom(is_password))]
    pub new_password: Secret,
}

impl Message for ResetPassword {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "reset-password";
    type Reply = ();
}

impl Command for ResetPassword {
    const SECRET: bool = true;
}

/// Somebody forgot their password. Says which token is to be sent and not the token: that is computed from the reset's row
/// with the key of the domain's functions, so the stream can open nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordResetRequested {
    /// Which token.
    pub reset_id: Uuid,
    /// Whose password.
    pub user_id: UserId,
    /// Where to.
    pub email: String,
    /// As shown to others.
    pub name: String,
    /// Until when the token is good.
    pub expires_at: Timestamp,
}

impl Event for PasswordResetRequested {
    const NAME: &'static str = "password.reset-requested.v1";

    fn key(&self) -> Uuid {
        self.user_id.0
    }
}

/// Somebody has a new password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordChanged {
    /// Whose.
    pub user_id: UserId,
    /// Where to tell them, so that they hear of what was not their doing.
    pub email: String,
    /// Whether a token was used instead of the password before.
    pub reset: bool,
    /// When.
    pub changed_at: Timestamp,
}

impl Event for PasswordChanged {
    const NAME: &'static str = "password.changed.v1";

    fn key(&self) -> Uuid {
        self.user_id.0
    }
}
