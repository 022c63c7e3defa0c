//! Accounts in the database.

use contracts::identity::User;
use platform::{Cx, OnConstraint, Result, Role, Timestamp, UserId};
use sqlx::PgConnection;

use crate::account::{AccountRefused, Name};

/// Writes the account under the first of the names that is free, and returns that name.
pub(crate) async fn insert(
    tx: &mut PgConnection,
    user: &User,
    hash: &str,
    names: Vec<String>,
) -> Result<String> {
    for username in names {
        // A name that is taken inserts nothing rather than fail, so that the transaction lives on to
        // try the next one. Whoever inserts the same name or e-mail at the same time is waited for.
        let inserted = sqlx::query!(
            "insert into users (id, email, username, name, first_name, last_name, password_hash, role, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
             on conflict (lower(username)) do nothing",
            user.id.0,
            user.email,
            username,
            user.name,
            user.first_name,
            user.last_name,
            hash,
            user.role.as_str(),
            user.created_at,
        )
        .execute(&mut *tx)
        .await
        .refuse_on("user_email", AccountRefused::EmailTaken)?;
        if inserted.rows_affected() == 1 {
            return Ok(username);
        }
    }
    Err(AccountRefused::UsernameTaken.into())
}

/// The account with that name, and its password's hash.
pub(crate) async fn find(tx: &mut PgConnection, name: Name<'_>) -> Result<Option<(User, String)>> {
    let (id, email, username) = match name {
        Name::Id(id) => (Some(id.0), None, None),
        Name::Email(email) => (None, Some(email), None),
        Name::Username(username) => (None, None, Some(username)),
    };
    // Postgres takes no NUL, so nobody can be called that.
    let plain = |name: &&str| !name.contains('\0');
    let found = sqlx::query!(
        r#"select id as "id: UserId", email, username, name, first_name, last_name, role, two_factor_enabled,
               created_at, updated_at, password_hash
           from users where id = $1 or lower(email) = lower($2) or lower(username) = lower($3)"#,
        id,
        email.filter(plain),
        username.filter(plain),
    )
    .fetch_optional(tx)
    .await?;
    let Some(row) = found else { return Ok(None) };
    let user = User {
        id: row.id,
        email: row.email,
        username: row.username,
        name: row.name,
        first_name: row.first_name,
        last_name: row.last_name,
        role: if row.role == Role::Admin.as_str() { Role::Admin } else { Role::User },
        two_factor_enabled: row.two_factor_enabled,
        created_at: row.created_at,
        updated_at: row.updated_at,
    };
    Ok(Some((user, row.password_hash)))
}

/// Stores the hash of a password, in place of `known` if that is given and still stored; says whether it did.
pub(crate) async fn set_password(cx: &mut Cx, user: UserId, known: Option<&str>, hash: &str) -> Result<bool> {
    let now = cx.now();
    let stored = sqlx::query!(
        "update users set password_hash = $3, updated_at = $4
         where id = $1 and ($2::text is null or password_hash = $2)",
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
