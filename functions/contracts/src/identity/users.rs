//! Accounts as others see them, and how they change and go.

use garde::Validate;
use platform::{Command, Event, Message, Query, Refused, Role, Timestamp, UserId, replay::SnapshotPage};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{User, is_email, is_username};
use crate::{Page, page::PageQuery};

/// An account, as others see it. One that was deleted has a pseudonym for its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicUser {
    /// Who.
    pub id: UserId,
    /// Unique.
    pub username: String,
    /// As shown to others.
    pub name: String,
    /// When the account was made.
    pub created_at: Timestamp,
}

/// An account, as whoever asks may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Profile {
    /// For its owner and for administrators.
    Whole(User),
    /// For others.
    Public(PublicUser),
}

/// List the accounts, the newest first, without those that were deleted. Administrators see them whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct ListUsers {
    /// Beginnings of words of the user name or the name; all of them are found.
    #[serde(default)]
    #[garde(length(chars, max = 200))]
    pub q: Option<String>,
    /// Which part of the list.
    #[serde(flatten)]
    #[garde(skip)]
    pub page: PageQuery,
}

impl Message for ListUsers {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "list-users";
    type Reply = Page<Profile>;

    /// Under the names that callers use: they see no `page` around its members.
    fn check(&self) -> Result<(), Refused> {
        platform::wire::check(self)?;
        platform::wire::check(&self.page)
    }
}

impl Query for ListUsers {}

/// Who is that? Also one that was deleted: what it did is still shown with its id.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct GetUser {
    /// Who.
    #[garde(skip)]
    pub user_id: UserId,
}

impl Message for GetUser {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "get-user";
    type Reply = Profile;
}

impl Query for GetUser {}

/// Change an account: the caller's own, or any for an administrator. What is missing stays as it is.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct UpdateUser {
    /// Whose.
    #[garde(skip)]
    pub user_id: UserId,
    /// Part of the name; the name shown to others follows from its parts.
    #[serde(default, alias = "firstName")]
    #[garde(length(chars, max = 100))]
    pub first_name: Option<String>,
    /// Part of the name.
    #[serde(default, alias = "lastName")]
    #[garde(length(chars, max = 100))]
    pub last_name: Option<String>,
    /// 3 to 32 letters, digits, `.`, `-` or `_`; unique whatever its case.
    #[serde(default, alias = "userName")]
    #[garde(custom(is_username))]
    pub username: Option<String>,
    /// Where they get mail from now on; unique whatever its case.
    #[serde(default)]
    #[garde(inner(custom(is_email)))]
    pub email: Option<String>,
    /// Whether they may log in. Only an administrator may change it.
    #[serde(default, alias = "isActive")]
    #[garde(skip)]
    pub is_active: Option<bool>,
}

impl Message for UpdateUser {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "update-user";
    type Reply = User;
}

impl Command for UpdateUser {
    fn key(&self) -> String {
        self.user_id.to_string()
    }
}

/// Delete an account: the caller's own, or any for an administrator. Its name and e-mail are free again, its sessions
/// end, and what it did stays under its id.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct DeleteUser {
    /// Whose.
    #[garde(skip)]
    pub user_id: UserId,
}

impl Message for DeleteUser {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "delete-user";
    type Reply = ();
}

impl Command for DeleteUser {
    fn key(&self) -> String {
        self.user_id.to_string()
    }
}

/// Make somebody an administrator, from their next token on. For operators and the command line: no route leads here.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct GrantAdmin {
    /// Whose account, in any case.
    #[garde(length(max = 320))]
    pub email: String,
}

impl Message for GrantAdmin {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "grant-admin";
    type Reply = User;
}

impl Command for GrantAdmin {}

/// Take the role of an administrator from somebody, at once: their sessions end. For operators and the command line:
/// no route leads here.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct RevokeAdmin {
    /// Whose account, in any case.
    #[garde(length(max = 320))]
    pub email: String,
}

impl Message for RevokeAdmin {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "revoke-admin";
    type Reply = User;
}

impl Command for RevokeAdmin {}

/// Tell every account, page by page: for projections that are made anew.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct SnapshotUsers {
    /// Where the page before ended.
    #[serde(default)]
    #[garde(skip)]
    pub after: Option<String>,
}

impl Message for SnapshotUsers {
    const DOMAIN: &'static str = "identity";
    const FUNCTION: &'static str = "snapshot-users";
    type Reply = SnapshotPage;
}

impl Query for SnapshotUsers {}

/// An account changed: its names, its e-mail, its role, or whether it may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserUpdated {
    /// Who.
    pub user_id: UserId,
    /// Where they get mail.
    pub email: String,
    /// Unique.
    pub username: String,
    /// As shown to others.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Whether they may log in.
    pub is_active: bool,
    /// Counts the account's changes; 1 is as registered.
    pub version: i64,
    /// When.
    pub updated_at: Timestamp,
}

impl Event for UserUpdated {
    const NAME: &'static str = "user.updated.v1";

    fn key(&self) -> Uuid {
        self.user_id.0
    }

    fn ordinal(&self) -> i64 {
        self.version
    }
}

/// An account was deleted. Whoever keeps its names or its e-mail replaces them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDeleted {
    /// Who; what they did stays under this id.
    pub user_id: UserId,
    /// A pseudonym that nobody can register.
    pub username: String,
    /// As shown to others from now on.
    pub name: String,
    /// Counts the account's changes.
    pub version: i64,
    /// When.
    pub deleted_at: Timestamp,
}

impl Event for UserDeleted {
    const NAME: &'static str = "user.deleted.v1";

    fn key(&self) -> Uuid {
        self.user_id.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn update(mut members: serde_json::Value) -> UpdateUser {
        members["user_id"] = json!(Uuid::from_u128(1));
        serde_json::from_value(members).unwrap()
    }

    #[test]
    fn names_are_held_to_what_registering_holds_them_to() {
        for (wrong, details) in [
            (json!({"email": "john"}), "email: Invalid email format"),
            (json!({"userName": "j@hn"}), "username: must have 3 to 32 letters, digits, '.', '-' or '_'"),
            (json!({"lastName": "x".repeat(101)}), "last_name: length is greater than 100"),
        ] {
            assert_eq!(update(wrong).check().unwrap_err().details.unwrap(), details);
        }
        assert!(update(json!({})).check().is_ok());
        assert!(
            update(json!({"email": "jo@test.com", "username": "jo.1", "isActive": false})).check().is_ok()
        );
    }

    #[test]
    fn a_whole_account_and_a_public_one_are_told_apart() {
        let now = Timestamp::now();
        let public = PublicUser {
            id: UserId(Uuid::from_u128(1)),
            username: "john".into(),
            name: "John".into(),
            created_at: now,
        };
        let whole = User {
            id: public.id,
            email: "john@test.com".into(),
            username: "john".into(),
            name: "John".into(),
            first_name: String::new(),
            last_name: String::new(),
            role: Role::User,
            is_active: true,
            two_factor_enabled: false,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        for profile in [Profile::Public(public), Profile::Whole(whole)] {
            assert_eq!(serde_json::from_value::<Profile>(json!(profile)).unwrap(), profile);
        }
    }
}
