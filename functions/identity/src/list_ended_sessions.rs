//! `list-ended-sessions`: tell which sessions were ended while access tokens of theirs may still be about.

use std::time::Duration;

use contracts::identity::{EndedSessions, ListEndedSessions};
use platform::{Cx, Function, Result, Timestamp};

use crate::session::TOKEN;

/// How far clocks may be apart.
const CLOCKS: Duration = Duration::from_secs(60);
/// More than these do not fit into a message; the latest are told.
const MOST: i64 = 20_000;

/// Queries of [`ListEndedSessions`].
pub fn function() -> Function {
    Function::query(list_ended_sessions)
}

async fn list_ended_sessions(cx: &mut Cx, _: ListEndedSessions) -> Result<EndedSessions> {
    let since = cx.now() - TOKEN - CLOCKS;
    let sessions = sqlx::query_scalar!(
        "select id from sessions where revoked_at > $1 order by revoked_at desc limit $2",
        since as Timestamp,
        MOST,
    )
    .fetch_all(cx.tx().await?)
    .await?;
    Ok(EndedSessions { sessions })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{app, john},
        register,
    };

    #[tokio::test]
    async fn a_session_is_told_until_its_last_token_has_ended() {
        let app = app().await;
        app.call(&register::function(), &john()).await.unwrap();
        let mut told = Vec::new();
        for seconds in [0, 600, 700] {
            let ended = Timestamp::now() - Duration::from_secs(seconds);
            let end = sqlx::query!("update sessions set revoked_at = $1", ended as Timestamp);
            end.execute(app.pool()).await.unwrap();
            told.push(app.ask(&function(), &ListEndedSessions {}).await.unwrap().sessions.len());
        }

        assert_eq!(told, [1, 1, 0]);
    }
}
