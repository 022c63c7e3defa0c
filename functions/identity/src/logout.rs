//! `logout`: end one of the caller's sessions.
//!
//! Emits [`SessionEnded`] unless it had ended. Refuses with [`AccountRefused::SessionOver`] what is no token of the caller's.

use contracts::identity::{Logout, SessionEnded};
use platform::{Cx, Function, Result};

use crate::{
    account::AccountRefused,
    keys::Keys,
    session::{self, Ended},
};

/// Commands of [`Logout`].
pub fn function() -> Function {
    Function::command(logout).needs::<Keys>(Keys::load).emits::<SessionEnded>()
}

async fn logout(cx: &mut Cx, Logout { refresh_token }: Logout) -> Result<()> {
    let caller = cx.caller()?;
    let (stored, _) = session::lock(cx, &refresh_token).await?;
    if stored.user_id != caller.id {
        return Err(AccountRefused::SessionOver.into());
    }
    session::end(cx, Ended::One(stored.id)).await
}

#[cfg(test)]
mod tests {
    use contracts::identity::{Refresh, Session};
    use platform::UserId;
    use uuid::Uuid;

    use super::*;
    use crate::{
        fixtures::{PASSWORD, app, john, login},
        login, refresh, register,
    };

    fn of(session: &Session) -> Logout {
        Logout { refresh_token: session.refresh_token.clone() }
    }

    #[tokio::test]
    async fn one_session_ends_and_the_others_go_on() {
        let app = app().await;
        let one = app.call(&register::function(), &john()).await.unwrap();
        let by_name = contracts::identity::Login { username: Some("john".into()), ..login(PASSWORD) };
        let other = app.call(&login::function(), &by_name).await.unwrap().session().unwrap();
        let john = app.as_user(one.user.id);

        for _ in 0..2 {
            john.call(&function(), &of(&one)).await.unwrap();
        }

        let refreshed = |session: &Session| Refresh { refresh_token: session.refresh_token.clone() };
        assert_eq!(app.answer(&refresh::function(), &refreshed(&one)).await.status, 401);
        app.call(&refresh::function(), &refreshed(&other)).await.unwrap();
        assert_eq!(app.emitted::<SessionEnded>().await.len(), 1, "it ended once");
    }

    #[tokio::test]
    async fn nobody_ends_the_session_of_somebody_else() {
        let app = app().await;
        let session = app.call(&register::function(), &john()).await.unwrap();

        let stranger = app.as_user(UserId(Uuid::now_v7())).answer(&function(), &of(&session)).await;
        let nobody = app.answer(&function(), &of(&session)).await;

        assert_eq!((stranger.status, nobody.status), (401, 401));
        assert!(app.emitted::<SessionEnded>().await.is_empty());
    }
}
