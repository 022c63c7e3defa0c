//! Opening a session; `register` and `login` both end with it.

use std::time::Duration;

use contracts::identity::{AUDIENCE, Claims, Session, User};
use platform::{Cx, Result, Timestamp};
use uuid::Uuid;

use crate::keys::Keys;

/// How long an access token opens things: as long as a session that was ended is still believed.
const TOKEN: Duration = Duration::from_secs(600);
/// How long a session lasts, however often it is refreshed.
const SESSION: Duration = Duration::from_secs(30 * 24 * 3_600);
const FIRST_GENERATION: i32 = 1;

/// Opens a session of this user.
pub(crate) async fn open(cx: &mut Cx, user: User) -> Result<Session> {
    let (keys, now) = (cx.resource::<Keys>()?, cx.now());
    let (id, salt) = (Uuid::now_v7(), rand::random::<[u8; 16]>());
    sqlx::query!(
        "insert into sessions (id, user_id, generation, salt, created_at, rotated_at, expires_at)
         values ($1, $2, $3, $4, $5, $5, $6)",
        id,
        user.id.0,
        FIRST_GENERATION,
        &salt[..],
        now as Timestamp,
        (now + SESSION) as Timestamp,
    )
    .execute(cx.tx().await?)
    .await?;
    let token = keys.sign(&Claims {
        iss: keys.issuer().to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: user.id,
        sid: id,
        role: user.role,
        iat: now.unix_seconds(),
        exp: (now + TOKEN).unix_seconds(),
    })?;
    Ok(Session {
        token,
        token_type: "Bearer".into(),
        expires_in: TOKEN.as_secs(),
        refresh_token: keys.refresh_token(id, FIRST_GENERATION, &salt),
        user,
    })
}
