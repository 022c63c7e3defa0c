//! `change-password`: forget one password for another.
//!
//! Emits [`PasswordChanged`], and [`SessionEnded`] for each session of the caller's but the one that asks. Refuses with
//! [`AccountRefused::WrongPassword`], and what the [`Policy`] refuses.

use contracts::identity::{ChangePassword, PasswordChanged, SessionEnded};
use platform::{Cx, Function, Result};

use crate::{
    account::AccountRefused,
    challenge, password,
    policy::Policy,
    session::{self, Ended},
    store::{self, CallersPassword},
};

/// Commands of [`ChangePassword`].
pub fn function() -> Function {
    Function::command(change_password)
        .needs::<Policy>(Policy::load)
        .emits::<PasswordChanged>()
        .emits::<SessionEnded>()
}

async fn change_password(cx: &mut Cx, change: ChangePassword) -> Result<()> {
    let caller = cx.caller()?;
    let CallersPassword { user, stored, is_right } =
        store::check_password(cx, change.current_password).await?;
    if !is_right {
        return Err(AccountRefused::WrongPassword.into());
    }
    cx.resource::<Policy>()?.check("new_password", &change.new_password, &[&user.email, &user.username])?;
    let hash = password::slot().await?.hash(change.new_password).await?;
    // Before the account, as whoever answers one locks them.
    challenge::end_all_of(cx, user.id).await?;
    // Of two changes at once the second one's current password is not current any more.
    if !store::set_password(cx, user.id, Some(&stored), &hash).await? {
        return Err(AccountRefused::WrongPassword.into());
    }
    session::end(cx, Ended::OthersOf(caller)).await?;
    cx.emit(&PasswordChanged { user_id: user.id, email: user.email, reset: false, changed_at: cx.now() })
}

#[cfg(test)]
mod tests {
    use contracts::identity::{ListSessions, Login, LoginAnswer, Secret};
    use platform::{Error, Refused};

    use super::*;
    use crate::{
        fixtures::{App, PASSWORD, app, john, login},
        list_sessions, login, register,
    };

    async fn log_in(app: &App, password: &str) -> Result<LoginAnswer> {
        let by_name = Login { username: Some("john".into()), ..login(password) };
        app.call(&login::function(), &by_name).await
    }

    fn change(current: &str, new: &str) -> ChangePassword {
        ChangePassword { current_password: Secret(current.into()), new_password: Secret(new.into()) }
    }

    fn refused(result: Result<()>) -> Refused {
        match result {
            Err(Error::Refused(refused)) => refused,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[tokio::test]
    async fn the_new_password_opens_and_the_old_one_does_not_and_other_sessions_end() {
        let app = app().await;
        let user = app.call(&register::function(), &john()).await.unwrap().user;
        log_in(&app, PASSWORD).await.unwrap();
        let owner = app.as_user(user.id);
        let sessions = owner.ask(&list_sessions::function(), &ListSessions {}).await.unwrap().data;
        let here = app.as_user(user.id).in_session(sessions[1].id);

        here.call(&function(), &change(PASSWORD, "another secret")).await.unwrap();

        assert!(log_in(&app, PASSWORD).await.is_err());
        let left = here.ask(&list_sessions::function(), &ListSessions {}).await.unwrap().data;
        assert_eq!(left.len(), 1);
        assert!(left[0].current);
        let told = app.emitted::<PasswordChanged>().await;
        assert!(told.len() == 1 && !told[0].reset && told[0].email == "john@test.com");
        log_in(&app, "another secret").await.unwrap();
    }

    #[tokio::test]
    async fn who_does_not_know_the_password_changes_nothing() {
        let app = app().await;
        let user = app.call(&register::function(), &john()).await.unwrap().user;
        let owner = app.as_user(user.id);

        let wrong = refused(owner.call(&function(), &change("secret124", "another secret")).await);
        let short = refused(owner.call(&function(), &change(PASSWORD, "1234567")).await);

        assert_eq!((wrong.status, wrong.code.as_ref()), (403, "FORBIDDEN"));
        assert_eq!((short.status, short.code.as_ref()), (400, "INVALID_INPUT"));
        log_in(&app, PASSWORD).await.unwrap();
    }

    #[tokio::test]
    async fn of_two_changes_at_once_one_is_made() {
        let app = app().await;
        let user = app.call(&register::function(), &john()).await.unwrap().user;
        let owner = app.as_user(user.id);
        let (first, second) = (change(PASSWORD, "the first secret"), change(PASSWORD, "the second secret"));
        let function = function();

        let both = tokio::join!(owner.call(&function, &first), owner.call(&function, &second));

        assert!(both.0.is_ok() != both.1.is_ok(), "{both:?}");
        let made = if both.0.is_ok() { "the first secret" } else { "the second secret" };
        log_in(&app, made).await.unwrap();
    }
}
