//! The rules of an account. Pure: no database, no clock, no chance; what they need comes in.

use contracts::identity::{Login, Profile, PublicUser, Register, UpdateUser, User};
use platform::{Caller, Kind, Refusal, Refused, Role, UserId, error::Field};

/// How many names are tried for somebody who did not choose one.
const SUGGESTIONS: usize = 5;
/// What is kept of an e-mail's local part, so that a suffix of 7 still fits into 32.
const LONGEST_STEM: usize = 25;

/// Why there is no account or no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccountRefused {
    /// Somebody has registered with the e-mail, perhaps in another case.
    #[error("an account with this e-mail already exists")]
    EmailTaken,
    /// Somebody has the user name, perhaps in another case.
    #[error("an account with this user name already exists")]
    UsernameTaken,
    /// Nobody has that name, or the password is another one: the caller does not learn which.
    #[error("the name or the password is wrong")]
    BadCredentials,
    /// The session has ended, or the token never opened one: the caller does not learn which.
    #[error("the session has ended, log in again")]
    SessionOver,
    /// There is no such session of the caller's.
    #[error("there is no such session")]
    NoSession,
    /// The caller is known by a token, and does not know the password.
    #[error("the current password is another one")]
    WrongPassword,
    /// The token that was sent has been used, is too old, or never was one: the caller does not learn which.
    #[error("the token is not good any more, ask for another one")]
    TokenOver,
    /// The challenge has ended or never was one, or the code is wrong: the caller does not learn which.
    #[error("the code is wrong or came too late, log in again if it stays so")]
    ChallengeFailed,
    /// What was to show that it is the owner who asks did not: the caller does not learn what was wrong.
    #[error("the password and, with two factors, a code are needed, and right")]
    NotProven,
    /// The authenticator that is being enrolled shows another code.
    #[error("the code is wrong")]
    WrongCode,
    /// No authenticator is being enrolled, or that was begun too long ago.
    #[error("no authenticator is being enrolled, begin again")]
    NoEnrolment,
    /// There is no second factor to be changed.
    #[error("there is no second factor")]
    NoSecondFactor,
    /// Nobody has that e-mail or that id.
    #[error("there is no such user")]
    NoUser,
    /// It is somebody else's account.
    #[error("only its owner and administrators may change an account")]
    NotYours,
    /// Who may log in is not for its owner to say.
    #[error("only administrators may say whether an account is active")]
    OnlyAdmins,
    /// Nobody would be left who could make another one over HTTP.
    #[error("this is the last administrator: make another one first")]
    LastAdmin,
}

impl Refusal for AccountRefused {
    fn kind(&self) -> Kind {
        match self {
            Self::EmailTaken
            | Self::UsernameTaken
            | Self::NoEnrolment
            | Self::NoSecondFactor
            | Self::LastAdmin => Kind::Conflict,
            Self::BadCredentials | Self::SessionOver | Self::TokenOver | Self::ChallengeFailed => {
                Kind::Unauthenticated
            }
            Self::WrongPassword | Self::NotProven | Self::WrongCode | Self::NotYours | Self::OnlyAdmins => {
                Kind::Forbidden
            }
            Self::NoUser | Self::NoSession => Kind::NotFound,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::EmailTaken | Self::UsernameTaken => "ALREADY_EXISTS",
            Self::NoEnrolment | Self::NoSecondFactor | Self::LastAdmin => "CONFLICT",
            Self::BadCredentials | Self::SessionOver | Self::TokenOver | Self::ChallengeFailed => {
                "UNAUTHORIZED"
            }
            Self::WrongPassword | Self::NotProven | Self::WrongCode | Self::NotYours | Self::OnlyAdmins => {
                "FORBIDDEN"
            }
            Self::NoUser | Self::NoSession => "NOT_FOUND",
        }
    }
}

/// What an account is looked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'a> {
    /// By what never changes.
    Id(UserId),
    /// By e-mail.
    Email(&'a str),
    /// By user name.
    Username(&'a str),
}

impl<'a> Name<'a> {
    /// The one name that was given.
    pub fn of(login: &'a Login) -> Result<Self, Refused> {
        match (login.email.as_deref(), login.username.as_deref(), login.username_or_email.as_deref()) {
            (Some(email), None, None) => Ok(Self::Email(email)),
            (None, Some(username), None) => Ok(Self::Username(username)),
            // Every e-mail has an @, and no user name has one.
            (None, None, Some(either)) if either.contains('@') => Ok(Self::Email(either)),
            (None, None, Some(either)) => Ok(Self::Username(either)),
            _ => Err(Refused::invalid(
                ["email", "username", "username_or_email"]
                    .map(|name| Field {
                        name: name.into(),
                        message: "exactly one of the three names is needed".into(),
                    })
                    .into(),
            )),
        }
    }
}

/// What somebody is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// As shown to others; never empty.
    pub name: String,
    /// May be empty.
    pub first: String,
    /// May be empty.
    pub last: String,
}

impl Names {
    /// Fills what was not given from what was: a name is split after its first word, two parts are
    /// joined, and who gave neither is shown by user name.
    pub fn of(register: &Register) -> Self {
        let [name, first, last] =
            [&register.name, &register.first_name, &register.last_name].map(|text| tidy(text.as_deref()));
        if first.is_empty() && last.is_empty() {
            let (first, last) = name.split_once(' ').unwrap_or((&name, ""));
            let (first, last) = (first.to_owned(), last.to_owned());
            let name = if name.is_empty() { handle(register) } else { name };
            return Self { name, first, last };
        }
        let name = if name.is_empty() { tidy(Some(&format!("{first} {last}"))) } else { name };
        Self { name, first, last }
    }
}

/// The account as this caller may see it.
pub fn seen_by(caller: Caller, user: User) -> Profile {
    if may_act_for(caller, user.id).is_ok() {
        return Profile::Whole(user);
    }
    let User { id, username, name, created_at, .. } = user;
    Profile::Public(PublicUser { id, username, name, created_at })
}

/// Everybody acts for themselves, and administrators for all.
pub fn may_act_for(caller: Caller, user: UserId) -> Result<(), AccountRefused> {
    if caller.is_owner_or_admin(user) { Ok(()) } else { Err(AccountRefused::NotYours) }
}

/// The account with what was given in place of what it had. The name shown to others follows from its parts when one of
/// them was given, and from the user name when there is nothing else.
pub fn changed(user: &User, update: UpdateUser) -> User {
    let UpdateUser { user_id: _, first_name, last_name, username, email, is_active } = update;
    let is_named = first_name.is_some() || last_name.is_some();
    let part =
        |given: Option<String>, had: &str| given.map_or_else(|| had.to_owned(), |new| tidy(Some(&new)));
    let mut changed = User {
        first_name: part(first_name, &user.first_name),
        last_name: part(last_name, &user.last_name),
        username: username.unwrap_or_else(|| user.username.clone()),
        email: email.unwrap_or_else(|| user.email.clone()),
        is_active: is_active.unwrap_or(user.is_active),
        ..user.clone()
    };
    if is_named {
        changed.name = tidy(Some(&format!("{} {}", changed.first_name, changed.last_name)));
    }
    if changed.name.is_empty() || changed.name == user.username {
        changed.name.clone_from(&changed.username);
    }
    changed
}

/// The account of somebody who is gone. Nobody can register these names, so that nobody can be in their way.
pub fn pseudonymous(user: User) -> User {
    let pseudonym = format!("deleted~{}", user.id);
    User {
        email: pseudonym.clone(),
        username: pseudonym,
        name: "Deleted user".into(),
        first_name: String::new(),
        last_name: String::new(),
        role: Role::User,
        is_active: false,
        two_factor_enabled: false,
        ..user
    }
}

/// The user names to try in order: the chosen one, or else some made from the e-mail, each with a
/// part of `chance` so that two people called `jo` at different domains do not collide.
pub fn usernames(register: &Register, mut chance: impl FnMut() -> u32) -> Vec<String> {
    if let Some(chosen) = &register.username {
        return vec![chosen.clone()];
    }
    let stem = stem(&register.email);
    (0..SUGGESTIONS).map(|_| format!("{stem}-{:06x}", chance() & 0xff_ffff)).collect()
}

fn handle(register: &Register) -> String {
    register.username.clone().unwrap_or_else(|| stem(&register.email))
}

/// The local part of an e-mail in the characters of a user name.
fn stem(email: &str) -> String {
    let local = email.split('@').next().unwrap_or_default();
    let stem: String = local
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c))
        .take(LONGEST_STEM)
        .collect();
    if stem.is_empty() { "user".into() } else { stem }
}

/// Single spaces and no control characters: Postgres stores no NUL, and a name is one line.
fn tidy(text: Option<&str>) -> String {
    let words = text.unwrap_or_default().split(|c: char| c.is_whitespace() || c.is_control());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use contracts::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::fixtures::john;

    fn jane() -> User {
        let now = Timestamp::now();
        User {
            id: UserId(Uuid::from_u128(7)),
            email: "jane@test.com".into(),
            username: "jane".into(),
            name: "Jane Roe".into(),
            first_name: "Jane".into(),
            last_name: "Roe".into(),
            role: Role::Admin,
            is_active: true,
            two_factor_enabled: true,
            version: 3,
            created_at: now,
            updated_at: now,
        }
    }

    fn update(members: serde_json::Value) -> UpdateUser {
        let mut update = serde_json::json!({ "user_id": jane().id });
        update.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        serde_json::from_value(update).unwrap()
    }

    #[test]
    fn the_name_shown_to_others_follows_from_its_parts() {
        use serde_json::json;

        let named = |user: &User, members| changed(user, update(members)).name;
        assert_eq!(named(&jane(), json!({})), "Jane Roe");
        assert_eq!(named(&jane(), json!({ "last_name": " Doe " })), "Jane Doe");
        assert_eq!(named(&jane(), json!({ "first_name": "" })), "Roe");
        assert_eq!(named(&jane(), json!({ "first_name": "", "last_name": "\0" })), "jane");
        assert_eq!(named(&jane(), json!({ "username": "jr" })), "Jane Roe");
        let nameless =
            User { name: "jane".into(), first_name: String::new(), last_name: String::new(), ..jane() };
        assert_eq!(named(&nameless, json!({ "username": "jr" })), "jr");
        let jane = jane();
        assert_eq!(changed(&jane, update(json!({}))), jane);
    }

    #[test]
    fn nobody_can_register_what_a_deleted_account_is_called() {
        let gone = pseudonymous(jane());

        for register in [
            Register { username: Some(gone.username.clone()), ..john() },
            Register { email: gone.email.clone(), ..john() },
        ] {
            assert!(platform::Message::check(&register).is_err(), "{register:?}");
        }
        let shown = format!("{gone:?}");
        assert!(!["jane", "Jane", "Roe"].iter().any(|name| shown.contains(name)), "{shown}");
        assert_eq!((gone.role, gone.is_active, gone.two_factor_enabled), (Role::User, false, false));
    }

    fn names(name: Option<&str>, first: Option<&str>, last: Option<&str>) -> (String, String, String) {
        let names = Names::of(&Register {
            name: name.map(Into::into),
            first_name: first.map(Into::into),
            last_name: last.map(Into::into),
            ..john()
        });
        (names.name, names.first, names.last)
    }

    fn three(name: &str, first: &str, last: &str) -> (String, String, String) {
        (name.into(), first.into(), last.into())
    }

    #[test]
    fn missing_names_come_from_the_given_ones() {
        assert_eq!(names(None, Some("John"), Some("Doe")), three("John Doe", "John", "Doe"));
        assert_eq!(
            names(Some("Ada King Lovelace"), None, None),
            three("Ada King Lovelace", "Ada", "King Lovelace")
        );
        assert_eq!(names(Some("Plato"), None, None), three("Plato", "Plato", ""));
        assert_eq!(names(None, None, Some("Doe")), three("Doe", "", "Doe"));
        assert_eq!(names(Some("JD"), Some("John"), Some("Doe")), three("JD", "John", "Doe"));
        assert_eq!(names(None, None, None), three("john", "", ""));
    }

    #[test]
    fn a_name_is_one_line_without_control_characters() {
        assert_eq!(names(Some(" Jo\0hn\r\n  Doe\t"), None, None).0, "Jo hn Doe");
        assert_eq!(names(Some("\0"), None, None).0, "john");
    }

    #[test]
    fn a_chosen_user_name_is_the_only_one_tried() {
        assert_eq!(usernames(&john(), || 1), ["john"]);
    }

    #[test]
    fn a_made_user_name_has_the_form_of_a_chosen_one() {
        let long = format!("{}@test.com", "x".repeat(64));
        for (email, made) in [
            ("jo.hn+tag@test.com", "jo.hntag-00002a"),
            ("żółć@test.com", "user-00002a"),
            ("a@test.com", "a-00002a"),
            (long.as_str(), "xxxxxxxxxxxxxxxxxxxxxxxxx-00002a"),
        ] {
            let register = Register { email: email.into(), username: None, ..john() };

            let names = usernames(&register, || 0xff00_002a);

            assert_eq!(names[0], made);
            let chosen = Register { username: Some(names[0].clone()), ..john() };
            assert!(platform::Message::check(&chosen).is_ok(), "{made}");
        }
    }
}
