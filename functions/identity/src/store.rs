//! Accounts in the database.

use contracts::identity::{Secret, User};
use platform::{Cx, OnConstraint, Refused, Result, Role, Timestamp, UserId};
use sqlx::PgConnection;

use crate::{
    account::{AccountRefused, Name},
    password::{self, Match},
    words,
};

/// Writes the account under the first of the names that is free, and returns that name.
pub(crate) async fn insert(
    tx: &mut PgConnection,
    user: &User,
    hash: &str,
    names: Vec<String>,
) -> Result<String> {
    let mut user = user.clone();
    for username in names {
        user.username = username;
        // A name that is taken inserts nothing rather than fail, so that the transaction lives on to
        // try the next one. Whoever inserts the same name or e-mail at the same time is waited for.
        let inserted = sqlx::query!(
            "insert into users (id, email, username, name, first_name, last_name, password_hash, role, created_at, updated_at,
                 words)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, array_to_tsvector($10))
             on conflict (lower(username)) do nothing",
            user.id.0,
            user.email,
            user.username,
            user.name,
            user.first_name,
            user.last_name,
            hash,
            user.role.as_str(),
            user.created_at,
            &words::of(&user),
        )
        .execute(&mut *tx)
        .await
        .refuse_on("user_email", AccountRefused::EmailTaken)?;
        if inserted.rows_affected() == 1 {
            return Ok(user.username);
        }
    }
    Err(AccountRefused::UsernameTaken.into())
}

/// An account as its row has it.
pub(crate) struct Account {
    pub(crate) user: User,
    pub(crate) hash: String,
    /// Its names are a pseudonym, and nobody comes in any more.
    pub(crate) is_deleted: bool,
}

/// The account with that name, and its password's hash. Only of those who may log in.
pub(crate) async fn find(tx: &mut PgConnection, name: Name<'_>) -> Result<Option<(User, String)>> {
    let found = account(tx, name).await?.filter(|account| account.user.is_active && !account.is_deleted);
    Ok(found.map(|account| (account.user, account.hash)))
}

/// The caller's account, and what they gave for its password.
pub(crate) struct CallersPassword {
    pub(crate) user: User,
    /// The hash that it was compared with.
    pub(crate) stored: String,
    pub(crate) is_right: bool,
}

/// Compares what the caller gave with their password. Refused as unauthenticated when the account is gone.
pub(crate) async fn check_password(cx: &Cx, given: Secret) -> Result<CallersPassword> {
    let caller = cx.caller()?;
    let slot = password::slot().await?;
    let found = find(&mut *cx.connection().await?, Name::Id(caller.id)).await?;
    let (user, stored) = found.ok_or_else(Refused::unauthenticated)?;
    let is_right = slot.verify(given, Some(stored.clone())).await? != Match::No;
    Ok(CallersPassword { user, stored, is_right })
}

/// The account with that name, also one that may not be used or was deleted.
pub(crate) async fn account(tx: &mut PgConnection, name: Name<'_>) -> Result<Option<Account>> {
    let (id, email, username) = match name {
        Name::Id(id) => (Some(id.0), None, None),
        Name::Email(email) => (None, Some(email), None),
        Name::Username(username) => (None, None, Some(username)),
    };
    // Postgres takes no NUL, so nobody can be called that.
    let plain = |name: &&str| !name.contains('\0');
    let found = sqlx::query_as!(
        Row,
        r#"select id as "id: UserId", email, username, name, first_name, last_name, role, is_active, two_factor_enabled,
               version, created_at, updated_at, password_hash, deleted_at is not null as "is_deleted!"
           from users where id = $1 or lower(email) = lower($2) or lower(username) = lower($3)"#,
        id,
        email.filter(plain),
        username.filter(plain),
    )
    .fetch_optional(tx)
    .await?;
    Ok(found.map(Account::from))
}

/// The account, locked until the transaction ends; none when it was deleted. Whoever logs in to it meanwhile waits.
pub(crate) async fn lock(tx: &mut PgConnection, id: UserId) -> Result<Option<User>> {
    sqlx::query_scalar!("select id from users where id = $1 for update", id.0)
        .fetch_optional(&mut *tx)
        .await?;
    let account = account(tx, Name::Id(id)).await?.filter(|account| !account.is_deleted);
    Ok(account.map(|account| account.user))
}

/// Locks the account and all administrators, before anything else, and says whether there is an administrator beside
/// it. Of two administrators who leave at the same time one waits and learns that it is the last.
pub(crate) async fn lock_beside_admins(tx: &mut PgConnection, id: UserId) -> Result<bool> {
    // In the order of their ids, so that two cannot wait for each other. What is read is what whoever was waited for left.
    let locked = sqlx::query!(
        r#"select id as "id: UserId", role = 'admin' and is_active as "is_admin!" from users
           where id = any (array(select id from users where role = 'admin') || $1::uuid) order by id for update"#,
        id.0,
    )
    .fetch_all(tx)
    .await?;
    Ok(locked.iter().any(|other| other.is_admin && other.id != id))
}

/// Writes what may change of an account.
pub(crate) async fn save(tx: &mut PgConnection, user: &User) -> Result<()> {
    let saved = sqlx::query!(
        "update users set email = $2, username = $3, name = $4, first_name = $5, last_name = $6, role = $7, is_active = $8,
             version = $9, updated_at = $10, words = array_to_tsvector($11)
         where id = $1",
        user.id.0,
        user.email,
        user.username,
        user.name,
        user.first_name,
        user.last_name,
        user.role.as_str(),
        user.is_active,
        user.version,
        user.updated_at,
        &words::of(user),
    )
    .execute(tx)
    .await;
    let taken = saved.as_ref().err().and_then(|error| error.as_database_error()?.constraint());
    match taken {
        Some("user_email") => Err(AccountRefused::EmailTaken.into()),
        Some("user_username") => Err(AccountRefused::UsernameTaken.into()),
        _ => Ok(saved.map(|_| ())?),
    }
}

/// A role as its column has it.
pub(crate) fn role(text: &str) -> Role {
    if text == Role::Admin.as_str() { Role::Admin } else { Role::User }
}

/// What is read of an account.
pub(crate) struct Row {
    pub(crate) id: UserId,
    pub(crate) email: String,
    pub(crate) username: String,
    pub(crate) name: String,
    pub(crate) first_name: String,
    pub(crate) last_name: String,
    pub(crate) role: String,
    pub(crate) is_active: bool,
    pub(crate) two_factor_enabled: bool,
    pub(crate) version: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) password_hash: String,
    pub(crate) is_deleted: bool,
}

impl From<Row> for Account {
    fn from(row: Row) -> Self {
        let user = User {
            id: row.id,
            email: row.email,
            username: row.username,
            name: row.name,
            first_name: row.first_name,
            last_name: row.last_name,
            role: role(&row.role),
            is_active: row.is_active,
            two_factor_enabled: row.two_factor_enabled,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        };
        Self { user, hash: row.password_hash, is_deleted: row.is_deleted }
    }
}

/// Stores the hash of a password, in place of `known` if that is given and still stored; says whether it did.
pub(crate) async fn set_password(cx: &mut Cx, user: UserId, known: Option<&str>, hash: &str) -> Result<bool> {
    let now = cx.now();
    let stored = sqlx::query!(
        "update users set password_hash = $3, updated_at = $4, version = version + 1
         where id = $1 and deleted_at is null and ($2::text is null or password_hash = $2)",
        user.0,
        known,
        hash,
        now as Timestamp,
    )
    .execute(cx.tx().await?)
    .await?;
    Ok(stored.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        fixtures::{app, john},
        register::function,
    };

    #[tokio::test]
    async fn a_made_user_name_that_is_taken_is_made_again() {
        let app = app().await;
        let user = app.call(&function(), &john()).await.unwrap().user;
        let jo = User { id: UserId(Uuid::now_v7()), email: "jo@test.com".into(), ..user };
        let mut tx = app.pool().begin().await.unwrap();

        let name = insert(&mut tx, &jo, "hash", vec!["JOHN".into(), "jo-2".into()]).await.unwrap();

        assert_eq!(name, "jo-2");
        let stored = sqlx::query_scalar!("select username from users where id = $1", jo.id.0);
        assert_eq!(stored.fetch_one(&mut *tx).await.unwrap(), "jo-2");
    }
}
