//! What is said about people and their sessions.

use std::fmt;

use garde::Validate;
use platform::{Command, Event, Message, Query, Role, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

mod passwords;
mod sessions;
mod two_factors;
mod users;

pub use passwords::{
    ChangePassword, PasswordChanged, PasswordResetRequested, RequestPasswordReset, ResetPassword,
};
pub use sessions::{EndSession, ListSessions, OpenSession, Sessions};
pub use two_factors::*;
pub use users::{
    DeleteUser, GetUser, GrantAdmin, ListUsers, Profile, PublicUser, RevokeAdmin, SnapshotUsers, UpdateUser,
    UserDeleted, UserUpdated,
};

/// A secret that is read and written but never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Make an account and log in to it. E-mail and user name are unique whatever their case.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct Register {
    /// Where its owner gets mail.
    #[garde(custom(is_email))]
    pub email: String,
    /// 8 to 256 bytes; any characters (security.md 2.2).
    #[garde(custom(is_password))]
    pub password: Secret,
    /// 3 to 32 letters, digits, `.`, `-` or `_`; made from the e-mail when missing.
    #[serde(default, alias = "userName")]
    #[garde(custom(is_username))]
    pub username: Option<String>,
    /// As shown to others.
    #[serde(default)]
    #[garde(length(chars, max = 200))]
    pub name: Option<String>,
    /// With `last_name`, instead of `name`.
    #[serde(default, alias = "firstName")]
    #[garde(length(chars, max = 100))]
    pub first_name: Option<String>,
    /// With `first_name`, instead of `name`.
    #[serde(default, alias = "lastName")]
    #[garde(length(chars, max = 100))]
    pub last_name: Option<String>,
}

impl Message for Register {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "register";
    type Reply = Session;
}

impl Command for Register {
    const SECRET: bool = true;
}

/// Open a session with a password; with a second factor, ask for that first. One of the three names is needed.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct Login {
    /// The account's e-mail.
    #[serde(default)]
    #[garde(length(max = 320))]
    pub email: Option<String>,
    /// The account's user name.
    #[serde(default, alias = "userName")]
    #[garde(length(max = 320))]
    pub username: Option<String>,
    /// Either.
    #[serde(default, alias = "usernameOrEmail")]
    #[garde(length(max = 320))]
    pub username_or_email: Option<String>,
    /// As registered.
    #[garde(skip)]
    pub password: Secret,
}

impl Message for Login {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "login";
    type Reply = LoginAnswer;
}

impl Command for Login {
    const SECRET: bool = true;
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The access token: a JWT signed with EdDSA.
    pub token: Secret,
    /// Always `Bearer`.
    pub token_type: String,
    /// Seconds until the access token ends.
    pub expires_in: u64,
    /// Opens the next access token.
    pub refresh_token: Secret,
    /// Whose session it is.
    pub user: User,
}

/// An account, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Who.
    pub id: UserId,
    /// Where they get mail.
    pub email: String,
    /// Unique.
    pub username: String,
    /// As shown to others.
    pub name: String,
    /// Part of the name.
    pub first_name: String,
    /// Part of the name.
    pub last_name: String,
    /// What they may do.
    pub role: Role,
    /// Whether they may log in.
    pub is_active: bool,
    /// Whether a second factor is asked for at login.
    pub two_factor_enabled: bool,
    /// Counts the account's changes; 1 is as registered.
    pub version: i64,
    /// When the account was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// Who am I?
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct GetMe {}

impl Message for GetMe {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "get-me";
    type Reply = User;
}

impl Query for GetMe {}

/// Whose e-mail is that? For operators and the command line: no route leads here.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct FindUser {
    /// In any case.
    #[garde(length(max = 320))]
    pub email: String,
}

impl Message for FindUser {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "find-user";
    type Reply = User;
}

impl Query for FindUser {}

/// Which public keys do access tokens verify with?
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct GetJwks {}

impl Message for GetJwks {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "get-jwks";
    type Reply = serde_json::Value;
}

impl Query for GetJwks {}

/// Give the next access token of a session for its refresh token, and a new one of those: each is good once, and for
/// some seconds more for whoever did not hear the answer. An older one that comes again was stolen from
/// somebody, so it ends the session.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct Refresh {
    /// As the session was given it last.
    #[serde(alias = "refreshToken")]
    #[garde(skip)]
    pub refresh_token: Secret,
}

impl Message for Refresh {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "refresh";
    type Reply = Session;
}

impl Command for Refresh {
    const SECRET: bool = true;
}

/// End one of the caller's sessions; also one that has ended already.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct Logout {
    /// Of that session, in any generation.
    #[serde(alias = "refreshToken")]
    #[garde(skip)]
    pub refresh_token: Secret,
}

impl Message for Logout {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "logout";
    type Reply = ();
}

impl Command for Logout {
    const SECRET: bool = true;
}

/// End all sessions of the caller.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct LogoutAll {}

impl Message for LogoutAll {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "logout-all";
    type Reply = ();
}

impl Command for LogoutAll {}

/// Which sessions were ended while access tokens of theirs may still be about? For the edge: no route leads here.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct ListEndedSessions {}

impl Message for ListEndedSessions {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "list-ended-sessions";
    type Reply = EndedSessions;
}

impl Query for ListEndedSessions {}

/// The answer to [`ListEndedSessions`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedSessions {
    /// In no order.
    pub sessions: Vec<Uuid>,
}

/// How long an access token opens things, in seconds, unless its session is ended before.
pub const TOKEN_SECONDS: u64 = 600;

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who made it.
    pub iss: String,
    /// For whom: [`AUDIENCE`].
    pub aud: String,
    /// The user.
    pub sub: UserId,
    /// The session.
    pub sid: Uuid,
    /// The user's role.
    pub role: Role,
    /// How the session was opened (RFC 8176): `pwd`, and `otp` with a second factor.
    #[serde(default)]
    pub amr: Vec<String>,
    /// Made at, in seconds since 1970.
    pub iat: i64,
    /// Ends at, in seconds since 1970.
    pub exp: i64,
}

/// The audience of access tokens.
pub const AUDIENCE: &str = "auction-api";
/// The `typ` of access tokens (RFC 9068), so that a token of another kind opens nothing.
pub const TOKEN_TYPE: &str = "at+jwt";

/// Somebody registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserCreated {
    /// Who.
    pub user_id: UserId,
    /// Where they get mail.
    pub email: String,
    /// Unique.
    pub username: String,
    /// As shown to others.
    pub name: String,
    /// When.
    pub created_at: Timestamp,
}

impl Event for UserCreated {
    const NAME: &'static str = "user.created.v1";

    fn key(&self) -> Uuid {
        self.user_id.0
    }
}

/// A session was ended before its time: what its tokens open is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnded {
    /// Which, as access tokens name it.
    pub session_id: Uuid,
    /// Whose it was.
    pub user_id: UserId,
    /// When.
    pub ended_at: Timestamp,
}

impl Event for SessionEnded {
    const NAME: &'static str = "session.ended.v1";

    fn key(&self) -> Uuid {
        self.session_id
    }
}

/// Whether the text is an address as people have them: one `@`, a domain with a dot, nothing odd.
/// Whether mail arrives there is known only by sending some.
fn is_email(email: &str, (): &()) -> garde::Result {
    let plain = |text: &str| {
        !text.is_empty()
            && text.chars().all(|c| !c.is_whitespace() && !c.is_control() && !"<>()[],;:\\\"@".contains(c))
    };
    let good = email.len() <= 254
        && email.split_once('@').is_some_and(|(local, domain)| {
            plain(local)
                && local.len() <= 64
                && plain(domain)
                && domain.contains('.')
                && domain
                    .split('.')
                    .all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'))
        });
    if good { Ok(()) } else { Err(garde::Error::new("Invalid email format")) }
}

fn is_password(password: &Secret, (): &()) -> garde::Result {
    match password.0.len() {
        0..8 => Err(garde::Error::new("must have at least 8 characters")),
        8..=256 => Ok(()),
        _ => Err(garde::Error::new("must have at most 256 bytes")),
    }
}

#[expect(clippy::ref_option, reason = "the signature that the derive calls")]
fn is_username(username: &Option<String>, (): &()) -> garde::Result {
    let Some(name) = username else { return Ok(()) };
    let good = (3..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    if good { Ok(()) } else { Err(garde::Error::new("must have 3 to 32 letters, digits, '.', '-' or '_'")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(email: &str, password: &str) -> Register {
        serde_json::from_value(serde_json::json!({ "email": email, "password": password, "firstName": "Jo" }))
            .unwrap()
    }

    #[test]
    fn an_address_needs_a_name_and_a_domain() {
        for (address, good) in [
            ("john@test.com", true),
            ("jo.hn+tag@sub.test.co.uk", true),
            ("john", false),
            ("@test.com", false),
            ("john@test", false),
            ("john@-test.com", false),
            ("jo hn@test.com", false),
            ("john@test..com", false),
            ("a@b@test.com", false),
        ] {
            assert_eq!(register(address, "secret123").check().is_ok(), good, "{address}");
        }
    }

    #[test]
    fn a_wrong_address_is_named_in_the_contracts_words() {
        let refused = register("john", "secret123").check().unwrap_err();

        assert_eq!(refused.details.unwrap(), "email: Invalid email format");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let shown = format!("{:?}", register("john@test.com", "secret123"));

        assert!(!shown.contains("secret123"), "{shown}");
    }

    #[test]
    fn seven_characters_are_too_few_and_spaces_count() {
        assert!(register("john@test.com", "1234567").check().is_err());
        assert!(register("john@test.com", "a b ü z 9").check().is_ok());
    }
}
