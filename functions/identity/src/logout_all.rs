//! `logout-all`: end all sessions of the caller. Emits [`SessionEnded`] for each.

use contracts::identity::{LogoutAll, SessionEnded};
use platform::{Cx, Function, Result};

use crate::session::{self, Ended};

/// Commands of [`LogoutAll`].
pub fn function() -> Function {
    Function::command(logout_all).emits::<SessionEnded>()
}

async fn logout_all(cx: &mut Cx, _: LogoutAll) -> Result<()> {
    let caller = cx.caller()?;
    session::end(cx, Ended::AllOf(caller.id)).await
}

#[cfg(test)]
mod tests {
    use contracts::identity::{ListEndedSessions, Register};

    use super::*;
    use crate::{
        fixtures::{PASSWORD, app, john, login},
        list_ended_sessions, login, register,
    };

    #[tokio::test]
    async fn everybody_ends_their_own_sessions_and_all_of_them() {
        let app = app().await;
        let first = app.call(&register::function(), &john()).await.unwrap();
        let by_name = contracts::identity::Login { username: Some("john".into()), ..login(PASSWORD) };
        app.call(&login::function(), &by_name).await.unwrap();
        let jane = Register { email: "jane@test.com".into(), username: Some("jane".into()), ..john() };
        app.call(&register::function(), &jane).await.unwrap();

        app.as_user(first.user.id).call(&function(), &LogoutAll {}).await.unwrap();

        let told = app.emitted::<SessionEnded>().await;
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|told| told.user_id == first.user.id));
        let ended = app.ask(&list_ended_sessions::function(), &ListEndedSessions {}).await.unwrap();
        assert_eq!(ended.sessions.len(), 2);
        assert!(told.iter().all(|told| ended.sessions.contains(&told.session_id)));
    }
}
