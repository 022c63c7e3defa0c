//! Challenges: what a login gives somebody with a second factor. A signed token whose row counts the tries and is gone when
//! it was good for something.

use std::time::Duration;

use contracts::identity::{
    CHALLENGE_AUDIENCE, CHALLENGE_SECONDS, CHALLENGE_TYPE, Challenge, ChallengeClaims, Secret, User,
};
use platform::{Cx, Result, Timestamp, UserId};
use uuid::Uuid;

use crate::keys::Keys;

/// How many codes may be tried with one challenge (security.md 2.2).
const TRIES: i32 = 5;

/// Gives a challenge to whoever has the account's password.
pub(crate) async fn open(cx: &mut Cx, user: &User) -> Result<Challenge> {
    let (keys, now) = (cx.resource::<Keys>()?, cx.now());
    let (id, ends) = (Uuid::now_v7(), now + Duration::from_secs(CHALLENGE_SECONDS));
    sqlx::query!(
        "with ended as (delete from challenges where user_id = $2 and expires_at <= $4)
         insert into challenges (id, user_id, expires_at) values ($1, $2, $3)",
        id,
        user.id.0,
        ends as Timestamp,
        now as Timestamp,
    )
    .execute(cx.tx().await?)
    .await?;
    let challenge = keys.sign_as(
        CHALLENGE_TYPE,
        &ChallengeClaims {
            iss: keys.issuer().to_owned(),
            aud: CHALLENGE_AUDIENCE.to_owned(),
            sub: user.id,
            jti: id,
            iat: now.unix_seconds(),
            exp: ends.unix_seconds(),
        },
    )?;
    Ok(Challenge { challenge, expires_in: CHALLENGE_SECONDS })
}

/// Takes a try of a challenge, which stays locked: whose it is and what it is called. Nothing when it is none of ours, has
/// ended, was answered, or was tried too often.
pub(crate) async fn take_try(cx: &mut Cx, challenge: &Secret) -> Result<Option<(Uuid, UserId)>> {
    let (keys, now) = (cx.resource::<Keys>()?, cx.now());
    let read = keys.read_as::<ChallengeClaims>(CHALLENGE_TYPE, CHALLENGE_AUDIENCE, challenge);
    let Some(claims) = read else { return Ok(None) };
    let tried = sqlx::query!(
        "update challenges set tries = tries + 1
         where id = $1 and user_id = $2 and tries < $3 and expires_at > $4",
        claims.jti,
        claims.sub.0,
        TRIES,
        now as Timestamp,
    )
    .execute(cx.tx().await?)
    .await?;
    Ok((tried.rows_affected() == 1).then_some((claims.jti, claims.sub)))
}

/// A challenge that was answered is none any more.
pub(crate) async fn end(cx: &mut Cx, id: Uuid) -> Result<()> {
    sqlx::query!("delete from challenges where id = $1", id).execute(cx.tx().await?).await?;
    Ok(())
}

/// Nor are any of somebody whose second factor is gone.
pub(crate) async fn end_all_of(cx: &mut Cx, user: UserId) -> Result<()> {
    sqlx::query!("delete from challenges where user_id = $1", user.0).execute(cx.tx().await?).await?;
    Ok(())
}
