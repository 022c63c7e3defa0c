//! `list-sessions`: show the caller where they are logged in.

use contracts::identity::{ListSessions, OpenSession, Sessions};
use platform::{Cx, Function, Result};

use crate::session;

/// Queries of [`ListSessions`].
pub fn function() -> Function {
    Function::query(list_sessions)
}

async fn list_sessions(cx: &mut Cx, _: ListSessions) -> Result<Sessions> {
    let (caller, now) = (cx.caller()?, cx.now());
    let open = session::open_ones(cx.tx().await?, caller.id, now).await?;
    let data = open
        .into_iter()
        .map(|stored| OpenSession {
            id: stored.id,
            created_at: stored.created_at,
            refreshed_at: stored.rotated_at,
            expires_at: stored.expires_at,
            current: caller.session == Some(stored.id),
        })
        .collect();
    Ok(Sessions { data })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::identity::{LogoutAll, Register};
    use platform::Timestamp;

    use super::*;
    use crate::{
        fixtures::{App, PASSWORD, app, john, login},
        login, logout_all, register,
    };

    async fn log_in(app: &App) {
        let by_name = contracts::identity::Login { username: Some("john".into()), ..login(PASSWORD) };
        app.call(&login::function(), &by_name).await.unwrap();
    }

    #[tokio::test]
    async fn everybody_sees_their_open_sessions_and_which_is_this_one() {
        let app = app().await;
        let owner = app.call(&register::function(), &john()).await.unwrap().user;
        log_in(&app).await;
        let jane = Register { email: "jane@test.com".into(), username: Some("jane".into()), ..john() };
        let jane = app.call(&register::function(), &jane).await.unwrap().user;
        let list = async |app: &testing::Harness| app.ask(&function(), &ListSessions {}).await.unwrap().data;

        let seen = list(&app.as_user(owner.id)).await;
        let inside = list(&app.as_user(owner.id).in_session(seen[1].id)).await;

        assert!(seen[0].created_at > seen[1].created_at && seen[0].expires_at > seen[0].created_at);
        assert_eq!(seen.iter().map(|seen| seen.current).collect::<Vec<_>>(), [false, false]);
        assert_eq!(inside.iter().map(|seen| seen.current).collect::<Vec<_>>(), [false, true]);
        assert_eq!(list(&app.as_user(jane.id)).await.len(), 1);
        let later = Timestamp::now() + Duration::from_secs(7 * 24 * 3_600);
        assert_eq!(list(&app.as_user(jane.id).at(later)).await, []);
        app.as_user(owner.id).call(&logout_all::function(), &LogoutAll {}).await.unwrap();
        assert_eq!(list(&app.as_user(owner.id)).await, []);
    }
}
