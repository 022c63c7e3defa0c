//! `register`: make an account and open its first session.
//!
//! Emits [`UserCreated`]. Refuses with [`EmailTaken`](crate::account::AccountRefused::EmailTaken) and
//! [`UsernameTaken`](crate::account::AccountRefused::UsernameTaken).

use contracts::identity::{Register, Session, User, UserCreated};
use platform::{Cx, Function, Result, Role, UserId};
use uuid::Uuid;

use crate::{
    account::{self, Names},
    keys::Keys,
    password,
    policy::Policy,
    session::{self, Proof},
    store,
};

/// The function.
pub fn function() -> Function {
    Function::command(register).emits::<UserCreated>().needs::<Keys>(Keys::load).needs::<Policy>(Policy::load)
}

async fn register(cx: &mut Cx, new: Register) -> Result<Session> {
    let now = cx.now();
    let Names { name, first: first_name, last: last_name } = Names::of(&new);
    let usernames = account::usernames(&new, rand::random);
    cx.resource::<Policy>()?.check("password", &new.password, &[&new.email, &usernames[0], &name])?;
    // Before the transaction, so that no connection waits for a core.
    let hash = password::slot().await?.hash(new.password).await?;
    let mut user = User {
        id: UserId(Uuid::now_v7()),
        email: new.email,
        username: String::new(),
        name,
        first_name,
        last_name,
        role: Role::User,
        is_active: true,
        two_factor_enabled: false,
        version: 1,
        created_at: now,
        updated_at: now,
    };
    user.username = store::insert(cx.tx().await?, &user, &hash, usernames).await?;
    cx.emit(&UserCreated {
        user_id: user.id,
        email: user.email.clone(),
        username: user.username.clone(),
        name: user.name.clone(),
        created_at: now,
    })?;
    session::open(cx, user, Proof::Password).await
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use contracts::identity::Secret;
    use platform::Error;
    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::fixtures::{App, PASSWORD, app, john};

    async fn code(app: &App, register: &Register) -> String {
        match app.call(&function(), register).await {
            Err(Error::Refused(refused)) => refused.code.into_owned(),
            other => panic!("not refused: {other:?}"),
        }
    }

    async fn count(app: &App, table: &str) -> i64 {
        let sql = AssertSqlSafe(format!("select count(*) from {table}"));
        sqlx::query_scalar(sql).fetch_one(app.pool()).await.unwrap()
    }

    #[tokio::test]
    async fn somebody_registers_has_a_session_and_is_announced_once() {
        let app = app().await;

        let session = app.call(&function(), &john()).await.unwrap();

        let user = &session.user;
        assert_eq!((user.email.as_str(), user.username.as_str()), ("john@test.com", "john"));
        assert_eq!((user.name.as_str(), user.role), ("John Doe", Role::User));
        assert_eq!((session.token_type.as_str(), session.expires_in), ("Bearer", 600));
        let rows = sqlx::query!(
            r#"select user_id as "user_id: UserId", generation, length(salt) as "salt!", expires_at - created_at = interval '30 days' as "month!" from sessions"#
        )
        .fetch_all(app.pool())
        .await
        .unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].user_id, rows[0].generation, rows[0].salt, rows[0].month),
            (user.id, 1, 16, true)
        );
        let announced = app.emitted::<UserCreated>().await;
        assert_eq!(announced.len(), 1);
        assert_eq!((announced[0].user_id, announced[0].created_at), (user.id, user.created_at));
    }

    #[tokio::test]
    async fn an_email_and_a_user_name_are_taken_in_any_case() {
        let app = app().await;
        app.call(&function(), &john()).await.unwrap();

        let email = Register { email: "John@TEST.com".into(), username: None, ..john() };
        let username = Register { email: "other@test.com".into(), username: Some("JOHN".into()), ..john() };

        assert_eq!(code(&app, &email).await, "ALREADY_EXISTS");
        assert_eq!(code(&app, &username).await, "ALREADY_EXISTS");
        assert_eq!((count(&app, "users").await, count(&app, "sessions").await), (1, 1));
        assert_eq!(app.emitted::<UserCreated>().await.len(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_two_who_register_at_once_one_wins() {
        for (one, two) in [
            (john(), john()),
            (
                Register { username: None, ..john() },
                Register { username: None, email: "JOHN@test.com".into(), ..john() },
            ),
            (john(), Register { email: "other@test.com".into(), ..john() }),
        ] {
            let app = app().await;
            let function = function();

            let (one, two) = tokio::join!(app.call(&function, &one), app.call(&function, &two));

            assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|won| **won).count(), 1);
            let lost = one.err().or(two.err());
            assert!(
                matches!(&lost, Some(Error::Refused(refused)) if refused.code == "ALREADY_EXISTS"),
                "{lost:?}"
            );
            assert_eq!((count(&app, "users").await, count(&app, "sessions").await), (1, 1));
            assert_eq!(app.emitted::<UserCreated>().await.len(), 1);
        }
    }

    #[tokio::test]
    async fn who_chose_no_user_name_gets_one_of_their_own() {
        let app = app().await;
        let mut names = HashSet::new();

        for domain in ["a.com", "b.com", "c.com"] {
            let jo = Register { email: format!("jo@{domain}"), username: None, ..john() };
            let session = app.call(&function(), &jo).await.unwrap();
            assert!(session.user.username.starts_with("jo-"), "{}", session.user.username);
            names.insert(session.user.username);
        }

        assert_eq!(names.len(), 3);
    }

    #[tokio::test]
    async fn seven_characters_are_too_few() {
        let app = app().await;

        let short = Register { password: Secret("1234567".into()), ..john() };

        assert_eq!(code(&app, &short).await, "INVALID_INPUT");
        assert_eq!(count(&app, "users").await, 0);
    }

    #[tokio::test]
    async fn a_name_with_a_nul_is_stored_without_it() {
        let app = app().await;

        let odd = Register { name: Some("Jo\0hn".into()), first_name: None, last_name: None, ..john() };

        assert_eq!(app.call(&function(), &odd).await.unwrap().user.name, "Jo hn");
    }

    #[tokio::test]
    async fn no_password_no_token_and_no_outcome_is_stored() {
        let app = app().await;
        let session = app.with_key("once").call(&function(), &john()).await.unwrap();
        let login =
            contracts::identity::Login { username: Some("john".into()), ..crate::fixtures::login(PASSWORD) };
        let second =
            app.with_key("twice").call(&crate::login::function(), &login).await.unwrap().session().unwrap();

        let tables: Vec<String> = sqlx::query_scalar(
            "select format('%I.%I', table_schema, table_name) from information_schema.tables
             where table_schema in ('public', 'platform')",
        )
        .fetch_all(app.pool())
        .await
        .unwrap();
        let mut dump = String::new();
        for table in &tables {
            let rows =
                AssertSqlSafe(format!("select coalesce(string_agg(t::text, e'\\n'), '') from {table} t"));
            dump += &sqlx::query_scalar::<_, String>(rows).fetch_one(app.pool()).await.unwrap();
        }

        assert!(
            dump.contains("john@test.com") && dump.contains("user.created"),
            "the dump holds what it should"
        );
        assert!(!dump.contains(PASSWORD));
        for token in [&session.token, &session.refresh_token, &second.token, &second.refresh_token] {
            let (_, code) = token.0.rsplit_once('.').unwrap();
            assert!(!dump.contains(code), "a token's last part");
        }
        assert_eq!(count(&app, "platform.outcome").await, 0);
        assert_eq!(count(&app, "sessions").await, 2);
    }
}
