//! What is said about second factors: an authenticator, and the recovery codes for when it is lost.

use garde::Validate;
use platform::{Command, Event, Message, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Secret, Session};

/// How long a challenge can be answered, in seconds.
pub const CHALLENGE_SECONDS: u64 = 300;
/// The audience of challenges.
pub const CHALLENGE_AUDIENCE: &str = "2fa";
/// The `typ` of challenges, so that one opens nothing else and nothing else is one.
pub const CHALLENGE_TYPE: &str = "2fa+jwt";

/// What a login opens: a session, or with a second factor the question for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LoginAnswer {
    /// There is no second factor.
    Session(Box<Session>),
    /// The password was right; nothing is open yet.
    Challenge(Challenge),
}

impl LoginAnswer {
    /// The session, if one was opened.
    pub fn session(self) -> Option<Session> {
        match self {
            Self::Session(session) => Some(*session),
            Self::Challenge(_) => None,
        }
    }
}

/// The question for a second factor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// To be given back with a code.
    pub challenge: Secret,
    /// Seconds until it ends.
    pub expires_in: u64,
}

/// What a challenge says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeClaims {
    /// Who made it.
    pub iss: String,
    /// For what: [`CHALLENGE_AUDIENCE`].
    pub aud: String,
    /// The user.
    pub sub: UserId,
    /// Names it: it is good once.
    pub jti: Uuid,
    /// Made at, in seconds since 1970.
    pub iat: i64,
    /// Ends at, in seconds since 1970.
    pub exp: i64,
}

/// Open the session that a login asked a second factor for.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct Challenge2fa {
    /// As the login gave it.
    #[garde(skip)]
    pub challenge: Secret,
    /// Six digits from the authenticator, or a recovery code.
    #[garde(skip)]
    pub code: Secret,
}

impl Message for Challenge2fa {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "challenge-2fa";
    type Reply = Session;
}

impl Command for Challenge2fa {
    const SECRET: bool = true;
}

/// Begin to enrol an authenticator. It counts when [`Verify2fa`] has shown that it works; until then the one before does.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct Enable2fa {
    /// Needless while the login is under five minutes old and there is no second factor.
    #[serde(default)]
    #[garde(skip)]
    pub password: Option<Secret>,
    /// Of the second factor that there is.
    #[serde(default)]
    #[garde(skip)]
    pub code: Option<Secret>,
}

impl Message for Enable2fa {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "enable-2fa";
    type Reply = Enrolment;
}

impl Command for Enable2fa {
    const SECRET: bool = true;
}

/// The answer to [`Enable2fa`]: three ways to tell an authenticator the same. Shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// What authenticators read.
    pub otpauth_url: Secret,
    /// The seed alone in base32, to be typed.
    pub secret: Secret,
    /// The URL as a QR code: an SVG image.
    pub qr_svg: Secret,
}

/// Show that the authenticator that is being enrolled works: from now on logins ask for it.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct Verify2fa {
    /// Six digits from it.
    #[garde(skip)]
    pub code: Secret,
}

impl Message for Verify2fa {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "verify-2fa";
    type Reply = RecoveryCodes;
}

impl Command for Verify2fa {
    const SECRET: bool = true;
}

/// Codes that stand in for the authenticator, each once. Shown once; those before them are void.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryCodes {
    /// Ten, of 24 characters each.
    pub recovery_codes: Vec<Secret>,
}

/// Ask for no second factor any more.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct Disable2fa {
    /// The account's.
    #[garde(skip)]
    pub password: Secret,
    /// Six digits from the authenticator, or a recovery code.
    #[garde(skip)]
    pub code: Secret,
}

impl Message for Disable2fa {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "disable-2fa";
    type Reply = ();
}

impl Command for Disable2fa {
    const SECRET: bool = true;
}

/// Give ten new recovery codes in place of all that there are.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct RenewRecoveryCodes {
    /// The account's.
    #[garde(skip)]
    pub password: Secret,
    /// Six digits from the authenticator, or a recovery code.
    #[garde(skip)]
    pub code: Secret,
}

impl Message for RenewRecoveryCodes {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "renew-recovery-codes";
    type Reply = RecoveryCodes;
}

impl Command for RenewRecoveryCodes {
    const SECRET: bool = true;
}

/// An authenticator was enrolled, perhaps in place of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwoFactorEnabled {
    /// Whose.
    pub user_id: UserId,
    /// When.
    pub enabled_at: Timestamp,
}

impl Event for TwoFactorEnabled {
    const NAME: &'static str = "two-factor.enabled.v1";

    fn key(&self) -> Uuid {
        self.user_id.0
    }
}

/// Logins ask for no second factor any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwoFactorDisabled {
    /// Whose.
    pub user_id: UserId,
    /// When.
    pub disabled_at: Timestamp,
}

impl Event for TwoFactorDisabled {
    const NAME: &'static str = "two-factor.disabled.v1";

    fn key(&self) -> Uuid {
        self.user_id.0
    }
}

/// A recovery code stood in for the authenticator: its owner should know, and how many there are still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryCodeUsed {
    /// Whose.
    pub user_id: UserId,
    /// How many there are still.
    pub left: i64,
    /// When.
    pub used_at: Timestamp,
}

impl Event for RecoveryCodeUsed {
    const NAME: &'static str = "recovery-code.used.v1";

    fn key(&self) -> Uuid {
        self.user_id.0
    }
}
