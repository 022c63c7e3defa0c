//! `refresh`: give the next access token of a session for its refresh token.
//!
//! Refuses with [`AccountRefused::SessionOver`], whatever is wrong. A token that was used up long ago ends the session, and
//! [`SessionEnded`] says so.

use contracts::identity::{Refresh, Session, SessionEnded};
use platform::{Cx, Function, Refused, Result};

use crate::{
    account::AccountRefused,
    keys::Keys,
    session::{self, Ended, Grace, Standing},
};

/// Commands of [`Refresh`].
pub fn function() -> Function {
    Function::command(refresh).needs::<Keys>(Keys::load).needs::<Grace>(Grace::load).emits::<SessionEnded>()
}

async fn refresh(cx: &mut Cx, Refresh { refresh_token }: Refresh) -> Result<Session> {
    let grace = *cx.resource::<Grace>()?;
    // Whoever comes with the same token at the same time waits here.
    let (mut stored, generation) = session::lock(cx, &refresh_token).await?;
    match stored.standing(generation, cx.now(), grace) {
        Standing::Current => session::rotate(cx, &mut stored).await?,
        Standing::JustUsed => {}
        Standing::Stolen => {
            tracing::warn!(session = %stored.id, "a refresh token came again after its time: its session is ended");
            session::end(cx, Ended::One(stored.id)).await?;
            return Err(Refused::from(AccountRefused::SessionOver).keeping().into());
        }
        Standing::Over => return Err(AccountRefused::SessionOver.into()),
    }
    session::issue(cx, &stored).await
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use contracts::identity::Secret;
    use platform::{Answer, Timestamp};

    use super::*;
    use crate::{
        fixtures::{App, app, john},
        register,
    };

    async fn opened() -> (App, Session) {
        let app = app().await;
        let session = app.call(&register::function(), &john()).await.unwrap();
        (app, session)
    }

    fn with(token: &Secret) -> Refresh {
        Refresh { refresh_token: token.clone() }
    }

    async fn after(app: &App, seconds: u64, token: &Secret) -> Answer {
        let later = app.at(Timestamp::now() + Duration::from_secs(seconds));
        later.answer(&function(), &with(token)).await
    }

    #[tokio::test]
    async fn each_refresh_gives_the_next_token_of_the_same_session() {
        let (app, first) = opened().await;

        let second = app.call(&function(), &with(&first.refresh_token)).await.unwrap();
        let third = app.call(&function(), &with(&second.refresh_token)).await.unwrap();

        let tokens = [&first, &second, &third].map(|session| session.refresh_token.0.clone());
        assert_eq!(HashSet::from(tokens.clone()).len(), 3);
        let sessions = tokens.map(|token| token.split('.').next().unwrap().to_owned());
        assert_eq!(HashSet::from(sessions).len(), 1);
        assert_eq!(third.user, first.user);
    }

    #[tokio::test]
    async fn twenty_at_once_get_the_same_successor() {
        let (app, session) = opened().await;
        let (function, refresh) = (function(), with(&session.refresh_token));

        let all = futures_util::future::join_all((0..20).map(|_| app.call(&function, &refresh))).await;

        let tokens: HashSet<String> =
            all.into_iter().map(|session| session.unwrap().refresh_token.0).collect();
        assert_eq!(tokens.len(), 1);
        let generation = sqlx::query_scalar!("select generation from sessions").fetch_one(app.pool()).await;
        assert_eq!(generation.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_token_that_comes_again_after_its_time_ends_the_session() {
        let (app, first) = opened().await;
        let second = app.call(&function(), &with(&first.refresh_token)).await.unwrap();

        let again = after(&app, 11, &first.refresh_token).await;
        let successor = after(&app, 12, &second.refresh_token).await;

        assert_eq!((again.status, successor.status), (401, 401));
        assert_eq!(again.body, successor.body, "nobody learns why");
        let told = app.emitted::<SessionEnded>().await;
        assert_eq!((told.len(), told[0].user_id), (1, first.user.id));
    }

    #[tokio::test]
    async fn what_was_not_given_out_is_refused_and_ends_nothing() {
        let (app, session) = opened().await;
        let given = session.refresh_token.0.clone();
        let mut other = given.clone();
        other.replace_range(given.len() - 4.., "AAAA");
        let (id, rest) = given.split_once('.').unwrap();
        let later = format!("{id}.2.{}", rest.split_once('.').unwrap().1);
        let elsewhere = format!("{}.{rest}", uuid::Uuid::now_v7());

        for token in [other, later, elsewhere, String::new(), "..".into(), format!("{given}.")] {
            let answer = app.answer(&function(), &with(&Secret(token.clone()))).await;
            assert_eq!(answer.status, 401, "{token}");
        }

        app.call(&function(), &with(&session.refresh_token)).await.unwrap();
    }
}
