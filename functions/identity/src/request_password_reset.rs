//! `request-password-reset`: make a token with which somebody who forgot their password sets a new one.
//!
//! Emits [`PasswordResetRequested`], which names the token without telling it: whoever sends the mail computes it with the
//! key of this domain's functions. An e-mail that nobody has, or that asks too often, is answered alike.

use std::time::Duration;

use contracts::identity::{PasswordResetRequested, RequestPasswordReset};
use platform::{Cx, Function, Result, Timestamp};
use uuid::Uuid;

use crate::{account::Name, store};

/// How long a token is good.
const GOOD: Duration = Duration::from_secs(1_800);
/// How many tokens of one account are good at once: more mails than these nobody needs.
const MOST: i64 = 3;

/// Commands of [`RequestPasswordReset`].
pub fn function() -> Function {
    Function::command(request_password_reset).emits::<PasswordResetRequested>()
}

async fn request_password_reset(
    cx: &mut Cx,
    RequestPasswordReset { email }: RequestPasswordReset,
) -> Result<()> {
    let now = cx.now();
    let Some((user, _)) = store::find(cx.tx().await?, Name::Email(email.trim())).await? else {
        return Ok(());
    };
    // Locked, so that many at once are not many.
    sqlx::query!("select id from users where id = $1 for update", user.id.0)
        .fetch_one(cx.tx().await?)
        .await?;
    sqlx::query!(
        "delete from password_resets where user_id = $1 and expires_at <= $2",
        user.id.0,
        now as Timestamp
    )
    .execute(cx.tx().await?)
    .await?;
    let good = sqlx::query_scalar!(
        r#"select count(*) as "count!" from password_resets where user_id = $1"#,
        user.id.0
    )
    .fetch_one(cx.tx().await?)
    .await?;
    if good >= MOST {
        return Ok(());
    }
    let (reset_id, expires_at) = (Uuid::now_v7(), now + GOOD);
    sqlx::query!(
        "insert into password_resets (id, user_id, salt, expires_at) values ($1, $2, $3, $4)",
        reset_id,
        user.id.0,
        &rand::random::<[u8; 16]>(),
        expires_at as Timestamp,
    )
    .execute(cx.tx().await?)
    .await?;
    let (user_id, email, name) = (user.id, user.email, user.name);
    cx.emit(&PasswordResetRequested { reset_id, user_id, email, name, expires_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{app, john},
        register,
    };

    #[tokio::test]
    async fn who_has_the_address_is_sent_a_token_and_not_many() {
        let app = app().await;
        let user = app.call(&register::function(), &john()).await.unwrap().user;
        let ask = async |email: &str, at| {
            let request = RequestPasswordReset { email: email.into() };
            app.at(at).answer(&function(), &request).await
        };
        let now = Timestamp::now();

        let known = ask("John@Test.com ", now).await;
        let unknown = ask("jane@test.com", now).await;
        for _ in 0..5 {
            ask("john@test.com", now).await;
        }

        assert_eq!((known.status, &known.body), (unknown.status, &unknown.body));
        let told = app.emitted::<PasswordResetRequested>().await;
        assert_eq!(told.len(), 3);
        assert!(told.iter().all(|told| told.user_id == user.id && told.expires_at == now + GOOD));
        ask("john@test.com", now + GOOD).await;
        assert_eq!(app.emitted::<PasswordResetRequested>().await.len(), 4);
        let kept = sqlx::query_scalar!(r#"select count(*) as "count!" from password_resets"#);
        assert_eq!(kept.fetch_one(app.pool()).await.unwrap(), 1);
    }
}
