//! `end-session`: end one of the caller's sessions, as they see it in their list.
//!
//! Emits [`SessionEnded`] unless it had ended. Refuses with [`AccountRefused::NoSession`] what is no session of the caller's.

use contracts::identity::{EndSession, SessionEnded};
use platform::{Cx, Function, Result};

use crate::{
    account::AccountRefused,
    session::{self, Ended},
};

/// Commands of [`EndSession`].
pub fn function() -> Function {
    Function::command(end_session).emits::<SessionEnded>()
}

async fn end_session(cx: &mut Cx, EndSession { session_id }: EndSession) -> Result<()> {
    let caller = cx.caller()?;
    let stored = session::find(cx.tx().await?, session_id).await?;
    if stored.is_none_or(|stored| stored.user_id != caller.id) {
        return Err(AccountRefused::NoSession.into());
    }
    session::end(cx, Ended::One(session_id)).await
}

#[cfg(test)]
mod tests {
    use contracts::identity::{ListSessions, Register};
    use platform::Error;
    use uuid::Uuid;

    use super::*;
    use crate::{
        fixtures::{app, john},
        list_sessions, register,
    };

    #[tokio::test]
    async fn who_owns_a_session_ends_it_and_nobody_else_does() {
        let app = app().await;
        let owner = app.call(&register::function(), &john()).await.unwrap().user;
        let jane = Register { email: "jane@test.com".into(), username: Some("jane".into()), ..john() };
        let jane = app.call(&register::function(), &jane).await.unwrap().user;
        let list = async || {
            app.as_user(owner.id).ask(&list_sessions::function(), &ListSessions {}).await.unwrap().data
        };
        let session_id = list().await[0].id;

        for (user, session_id) in [(jane.id, session_id), (owner.id, Uuid::now_v7())] {
            let refused = app.as_user(user).call(&function(), &EndSession { session_id }).await;
            assert!(matches!(refused, Err(Error::Refused(refused)) if refused.status == 404));
        }
        assert_eq!(list().await.len(), 1);
        for _ in 0..2 {
            app.as_user(owner.id).call(&function(), &EndSession { session_id }).await.unwrap();
        }
        assert_eq!(list().await, []);
        assert_eq!(app.emitted::<SessionEnded>().await.len(), 1);
    }
}
