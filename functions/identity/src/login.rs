//! `login`: open a session with a password. With a second factor it opens nothing but a challenge, which
//! [`challenge_2fa`](crate::challenge_2fa) takes with a code.
//!
//! Refuses with [`AccountRefused::BadCredentials`], whether the name or the password is wrong.

use contracts::identity::{Login, LoginAnswer};
use platform::{Cx, Function, Result};

use crate::{
    account::{AccountRefused, Name},
    challenge,
    keys::Keys,
    password::{self, Match},
    session::{self, Proof},
    store,
};

/// The function.
pub fn function() -> Function {
    Function::command(login).needs::<Keys>(Keys::load)
}

async fn login(cx: &mut Cx, login: Login) -> Result<LoginAnswer> {
    let name = Name::of(&login)?;
    let slot = password::slot().await?;
    let (user, stored) = store::find(&mut *cx.connection().await?, name).await?.unzip();
    let verified = slot.verify(login.password, stored.clone()).await?;
    let (Some(user), Match::Yes | Match::Outdated(_)) = (user, &verified) else {
        return Err(AccountRefused::BadCredentials.into());
    };
    if let Match::Outdated(stronger) = verified {
        // Compared, so that a password that is being changed at this moment stays changed.
        sqlx::query!(
            "update users set password_hash = $3 where id = $1 and password_hash = $2",
            user.id.0,
            stored,
            stronger
        )
        .execute(cx.tx().await?)
        .await?;
    }
    if user.two_factor_enabled {
        return Ok(LoginAnswer::Challenge(challenge::open(cx, &user).await?));
    }
    Ok(LoginAnswer::Session(session::open(cx, user, Proof::Password).await?.into()))
}

#[cfg(test)]
mod tests {
    use contracts::identity::User;
    use platform::{Error, Refused};

    use super::*;
    use crate::{
        fixtures::{self, App, PASSWORD, app, john},
        register,
    };

    async fn registered() -> (App, User) {
        let app = app().await;
        let user = app.call(&register::function(), &john()).await.unwrap().user;
        (app, user)
    }

    fn named(name: &str, password: &str) -> Login {
        Login { username_or_email: Some(name.into()), ..fixtures::login(password) }
    }

    async fn refusal(app: &App, login: &Login) -> Refused {
        match app.call(&function(), login).await {
            Err(Error::Refused(refused)) => refused,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[tokio::test]
    async fn each_name_opens_a_session_in_any_case() {
        let (app, user) = registered().await;
        let by = || fixtures::login(PASSWORD);

        for login in [
            Login { email: Some("John@Test.com".into()), ..by() },
            Login { username: Some("JOHN".into()), ..by() },
            named("john", PASSWORD),
            named("JOHN@test.com", PASSWORD),
        ] {
            let session = app.call(&function(), &login).await.unwrap().session().unwrap();
            assert_eq!(session.user, user, "{login:?}");
        }

        let sessions = sqlx::query_scalar!(r#"select count(*) as "count!" from sessions"#);
        assert_eq!(sessions.fetch_one(app.pool()).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_wrong_password_and_an_unknown_name_are_refused_alike() {
        let (app, _) = registered().await;

        let wrong = refusal(&app, &named("john", "secret124")).await;

        assert_eq!((wrong.status, wrong.code.as_ref()), (401, "UNAUTHORIZED"));
        for name in ["jane", "jane@test.com", "", "j\0hn", "%", "JOHN "] {
            assert_eq!(refusal(&app, &named(name, PASSWORD)).await, wrong, "{name:?}");
        }
        assert_eq!(refusal(&app, &named("john", "")).await, wrong);
    }

    #[tokio::test]
    async fn one_name_is_needed_and_two_are_too_many() {
        let app = app().await;
        let both = Login { username: Some("john".into()), ..named("john", PASSWORD) };

        for login in [fixtures::login(PASSWORD), both] {
            let refused = refusal(&app, &login).await;

            assert_eq!(refused.code, "INVALID_INPUT");
            assert!(refused.details.unwrap().contains("username_or_email: exactly one"));
        }
    }

    #[tokio::test]
    async fn a_weak_hash_is_replaced_at_the_next_login() {
        let (app, user) = registered().await;
        // Argon2id of the password with 8 KiB and one pass.
        let argon2 = argon2::Argon2::from(argon2::Params::new(8, 1, 1, None).unwrap());
        let weak = argon2::PasswordHasher::hash_password(&argon2, PASSWORD.as_bytes()).unwrap().to_string();
        let update = sqlx::query!("update users set password_hash = $2 where id = $1", user.id.0, weak);
        update.execute(app.pool()).await.unwrap();

        app.call(&function(), &named("john", PASSWORD)).await.unwrap();

        let hash =
            sqlx::query_scalar!("select password_hash from users").fetch_one(app.pool()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        app.call(&function(), &named("john", PASSWORD)).await.unwrap();
    }

    /// S-03.
    #[tokio::test]
    async fn every_character_of_a_long_password_counts() {
        let app = app().await;
        for (name, password) in
            [("jane", format!("Zwölf Ü und ein Leerzeichen {}", "x".repeat(35))), ("joan", "y".repeat(256))]
        {
            let email = format!("{name}@test.com");
            let new = contracts::identity::Register {
                email,
                username: Some(name.into()),
                password: contracts::identity::Secret(password.clone()),
                ..john()
            };
            app.call(&register::function(), &new).await.unwrap();
            let mut other = password.clone();
            other.pop();
            other.push('z');

            assert!(app.call(&function(), &named(name, &password)).await.is_ok(), "{name}");
            assert_eq!(refusal(&app, &named(name, &other)).await.status, 401, "{name}");
        }
    }

    /// S-01: asked in turns, so that whatever else the machine does concerns both.
    #[tokio::test]
    async fn a_wrong_password_and_an_unknown_name_take_as_long() {
        let (app, _) = registered().await;
        let host = app.host(&function());
        let took = async |name: &str| {
            let delivery = app.delivery("auth.identity.login", &serde_json::json!(named(name, "secret124")));
            let begun = std::time::Instant::now();
            host.execute(&[delivery]).await;
            begun.elapsed()
        };
        let (mut wrong, mut unknown) = (Vec::new(), Vec::new());
        for _ in 0..40 {
            wrong.push(took("john").await);
            unknown.push(took("jane").await);
        }

        let median = |took: &mut Vec<std::time::Duration>| {
            took.sort_unstable();
            took[took.len() / 2].as_secs_f64()
        };
        let ratio = median(&mut wrong) / median(&mut unknown);
        assert!(
            (0.8..1.25).contains(&ratio),
            "{ratio}: a name without an account is told by the time it takes"
        );
    }
}
