//! `reset-password`: set a new password with a token that was sent.
//!
//! Emits [`PasswordChanged`], and [`SessionEnded`] for each session. Refuses with [`AccountRefused::TokenOver`] a token that
//! was used, is too old or never was one, and what the [`Policy`] refuses.

use contracts::identity::{PasswordChanged, ResetPassword, SessionEnded};
use platform::{Cx, Function, Result, Timestamp, UserId};

use crate::{
    account::{AccountRefused, Name},
    challenge,
    keys::{self, Keys},
    password,
    policy::Policy,
    session::{self, Ended},
    store,
};

/// Commands of [`ResetPassword`].
pub fn function() -> Function {
    Function::command(reset_password)
        .needs::<Keys>(Keys::load)
        .needs::<Policy>(Policy::load)
        .emits::<PasswordChanged>()
        .emits::<SessionEnded>()
}

async fn reset_password(cx: &mut Cx, ResetPassword { token, new_password }: ResetPassword) -> Result<()> {
    let (keys, now) = (cx.resource::<Keys>()?, cx.now());
    let id = keys::reset_of(&token).ok_or(AccountRefused::TokenOver)?;
    let reset = sqlx::query!(
        r#"select user_id as "user_id: UserId", salt from password_resets where id = $1 and expires_at > $2"#,
        id,
        now as Timestamp,
    )
    .fetch_optional(&mut *cx.connection().await?)
    .await?
    .ok_or(AccountRefused::TokenOver)?;
    if !keys.is_reset_token(&token, id, &reset.salt) {
        return Err(AccountRefused::TokenOver.into());
    }
    let found = store::find(&mut *cx.connection().await?, Name::Id(reset.user_id)).await?;
    let (user, _) = found.ok_or(AccountRefused::TokenOver)?;
    cx.resource::<Policy>()?.check("new_password", &new_password, &[&user.email, &user.username])?;
    // Only who holds a token has this done.
    let hash = password::slot().await?.hash(new_password).await?;
    // With it all the others of the account: who of two comes second finds none.
    let used = sqlx::query!(
        r#"delete from password_resets where user_id = $1 and exists (select from password_resets where id = $2)"#,
        user.id.0,
        id,
    )
    .execute(cx.tx().await?)
    .await?;
    if used.rows_affected() == 0 {
        return Err(AccountRefused::TokenOver.into());
    }
    // Before the account, as whoever answers one locks them.
    challenge::end_all_of(cx, user.id).await?;
    if !store::set_password(cx, user.id, None, &hash).await? {
        return Err(AccountRefused::TokenOver.into());
    }
    session::end(cx, Ended::AllOf(user.id)).await?;
    cx.emit(&PasswordChanged { user_id: user.id, email: user.email, reset: true, changed_at: now })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::identity::{
        ListSessions, Login, PasswordResetRequested, RequestPasswordReset, Secret, User,
    };
    use platform::Error;
    use uuid::Uuid;

    use super::*;
    use crate::{
        fixtures::{App, PASSWORD, app, john, login},
        list_sessions, login, register, request_password_reset,
    };

    async fn forgetful() -> (App, User) {
        let app = app().await;
        let user = app.call(&register::function(), &john()).await.unwrap().user;
        (app, user)
    }

    /// What is sent by mail.
    async fn token(app: &App) -> Secret {
        let request = RequestPasswordReset { email: "john@test.com".into() };
        app.call(&request_password_reset::function(), &request).await.unwrap();
        let told = app.emitted::<PasswordResetRequested>().await;
        let id = told.last().unwrap().reset_id;
        let salt = sqlx::query_scalar!("select salt from password_resets where id = $1", id);
        app.keys().reset_token(id, &salt.fetch_one(app.pool()).await.unwrap()).unwrap()
    }

    async fn reset(app: &testing::Harness, token: &Secret, password: &str) -> u16 {
        let command = ResetPassword { token: token.clone(), new_password: Secret(password.into()) };
        match app.call(&function(), &command).await {
            Ok(()) => 204,
            Err(Error::Refused(refused)) => refused.status,
            Err(error) => panic!("{error}"),
        }
    }

    async fn opens(app: &App, password: &str) -> bool {
        let by_name = Login { username: Some("john".into()), ..login(password) };
        app.call(&login::function(), &by_name).await.is_ok()
    }

    #[tokio::test]
    async fn a_token_sets_a_password_once_and_ends_all_sessions() {
        let (app, user) = forgetful().await;
        let (other, token) = (token(&app).await, token(&app).await);

        assert_eq!(reset(&app, &token, "another secret").await, 204);

        let sessions = app.as_user(user.id).ask(&list_sessions::function(), &ListSessions {}).await.unwrap();
        assert_eq!(sessions.data, []);
        assert!(opens(&app, "another secret").await && !opens(&app, PASSWORD).await);
        assert_eq!(reset(&app, &token, "a third secret").await, 401);
        assert_eq!(reset(&app, &other, "a third secret").await, 401, "sent before");
        assert!(app.emitted::<PasswordChanged>().await.iter().all(|told| told.reset));
    }

    #[tokio::test]
    async fn of_twenty_at_once_one_sets_its_password() {
        let (app, _) = forgetful().await;
        let token = token(&app).await;
        let passwords: Vec<_> = (10..30).map(|n| format!("the {n}th secret")).collect();

        let statuses =
            futures_util::future::join_all(passwords.iter().map(|password| reset(&app, &token, password)))
                .await;

        let set: Vec<_> = (0..20).filter(|n| statuses[*n] == 204).collect();
        assert_eq!(set.len(), 1, "{statuses:?}");
        assert!(opens(&app, &passwords[set[0]]).await);
    }

    #[tokio::test]
    async fn what_is_no_token_any_more_or_never_was_one_sets_nothing() {
        let (app, _) = forgetful().await;
        let token = token(&app).await;
        let altered = Secret(format!("{}x", token.0));
        let invented = Secret(format!("{}.{}", Uuid::now_v7(), token.0.split_once('.').unwrap().1));

        for wrong in [altered, invented, Secret(String::new()), Secret("x.y".into())] {
            assert_eq!(reset(&app, &wrong, "another secret").await, 401, "{}", wrong.0);
        }
        let late = app.at(Timestamp::now() + Duration::from_secs(1_801));
        assert_eq!(reset(&late, &token, "another secret").await, 401);
        assert_eq!(reset(&app, &token, "1234567").await, 400);
        assert!(opens(&app, PASSWORD).await);
        assert_eq!(reset(&app, &token, "another secret").await, 204);
    }
}
