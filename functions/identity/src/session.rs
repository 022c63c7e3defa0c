//! Sessions: opened with a password, refreshed with a token that changes each time, ended by their owner or because a
//! token came that had been used up.

use std::time::Duration;

use contracts::identity::{AUDIENCE, Claims, Secret, Session, SessionEnded, TOKEN_SECONDS, User};
use platform::{Caller, Cx, Env, Result, Timestamp, UserId};
use serde::Deserialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    account::{AccountRefused, Name},
    keys::{self, Keys},
    store,
};

/// How long an access token opens things.
pub(crate) const TOKEN: Duration = Duration::from_secs(TOKEN_SECONDS);
/// How long a session lasts, however often it is refreshed.
const SESSION: Duration = Duration::from_secs(30 * 24 * 3_600);
/// A session that nobody has refreshed for so long has ended (security.md 2.2).
const IDLE: Duration = Duration::from_secs(7 * 24 * 3_600);
const FIRST_GENERATION: i32 = 1;
/// How many open sessions are shown.
const MOST_LISTED: i64 = 100;

/// How long after a refresh the token before it gives the same successor: two tabs ask at once, an answer is lost on
/// its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grace(Duration);

#[derive(Deserialize)]
struct Settings {
    /// 0: a token that is used up is never taken again.
    #[serde(default = "default_grace")]
    refresh_grace_secs: u64,
}

fn default_grace() -> u64 {
    10
}

impl Grace {
    /// Reads REFRESH_GRACE_SECS.
    pub(crate) fn load(env: &Env) -> anyhow::Result<Self> {
        let settings: Settings = env.read()?;
        anyhow::ensure!(
            settings.refresh_grace_secs <= 60,
            "REFRESH_GRACE_SECS: expected 0 to 60 seconds, for example 10"
        );
        Ok(Self(Duration::from_secs(settings.refresh_grace_secs)))
    }
}

/// A session as its row has it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) id: Uuid,
    pub(crate) user_id: UserId,
    generation: i32,
    salt: Vec<u8>,
    pub(crate) created_at: Timestamp,
    pub(crate) rotated_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    revoked_at: Option<Timestamp>,
    two_factors: bool,
}

/// What a refresh token of a session is good for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is the one that was given last.
    Current,
    /// It was used up just now: whoever has it is about to have its successor.
    JustUsed,
    /// It was used up before, so somebody has it who should not.
    Stolen,
    /// The session has ended.
    Over,
}

impl Stored {
    /// What the token of this generation is good for.
    pub(crate) fn standing(&self, generation: i32, now: Timestamp, Grace(grace): Grace) -> Standing {
        let idle = now.since(self.rotated_at);
        if self.revoked_at.is_some() || now >= self.expires_at || idle >= IDLE {
            return Standing::Over;
        }
        match self.generation - generation {
            0 => Standing::Current,
            1 if idle < grace => Standing::JustUsed,
            1.. => Standing::Stolen,
            // A generation that is to come: the database was put back to an earlier copy.
            _ => Standing::Over,
        }
    }

    /// The methods that opened it, as RFC 8176 calls them.
    fn opened_by(&self) -> impl Iterator<Item = &'static str> {
        ["pwd"].into_iter().chain(self.two_factors.then_some("otp"))
    }

    /// The session as its owner gets it.
    fn issue(&self, keys: &Keys, user: User, now: Timestamp) -> Result<Session> {
        let token = keys.sign(&Claims {
            iss: keys.issuer().to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user.id,
            sid: self.id,
            role: user.role,
            amr: self.opened_by().map(str::to_owned).collect(),
            iat: now.unix_seconds(),
            exp: (now + TOKEN).unix_seconds(),
        })?;
        Ok(Session {
            token,
            token_type: "Bearer".into(),
            expires_in: TOKEN.as_secs(),
            refresh_token: keys.refresh_token(self.id, self.generation, &self.salt)?,
            user,
        })
    }
}

/// What a session is opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A password alone.
    Password,
    /// A password, and a code after it.
    TwoFactors,
}

/// Opens a session of this user, unless the account was deactivated or deleted meanwhile.
pub(crate) async fn open(cx: &mut Cx, user: User, proof: Proof) -> Result<Session> {
    let (keys, now) = (cx.resource::<Keys>()?, cx.now());
    let stored = Stored {
        id: Uuid::now_v7(),
        user_id: user.id,
        generation: FIRST_GENERATION,
        salt: rand::random::<[u8; 16]>().to_vec(),
        created_at: now,
        rotated_at: now,
        expires_at: now + SESSION,
        revoked_at: None,
        two_factors: proof == Proof::TwoFactors,
    };
    // Whoever deactivates or deletes the account, or changes its role, at the same time is waited for: a session that was
    // opened just before is ended with the others, and one that comes after finds nobody, or the new role.
    let role = sqlx::query_scalar!(
        "with account as (select id, role from users where id = $2 and is_active and deleted_at is null for share),
         opened as (
             insert into sessions (id, user_id, generation, salt, created_at, rotated_at, expires_at, two_factors)
             select $1, id, $3, $4, $5, $5, $6, $7 from account
         )
         select role from account",
        stored.id,
        stored.user_id.0,
        stored.generation,
        stored.salt,
        now as Timestamp,
        stored.expires_at as Timestamp,
        stored.two_factors,
    )
    .fetch_optional(cx.tx().await?)
    .await?
    .ok_or(AccountRefused::BadCredentials)?;
    let user = User { role: store::role(&role), ..user };
    stored.issue(&keys, user, now)
}

/// The session of a refresh token, locked, and the token's generation. Refuses a token that was not made for it.
pub(crate) async fn lock(cx: &mut Cx, token: &Secret) -> Result<(Stored, i32)> {
    let keys = cx.resource::<Keys>()?;
    let (id, generation) = keys::parts(token).ok_or(AccountRefused::SessionOver)?;
    let stored = find(cx.tx().await?, id).await?.ok_or(AccountRefused::SessionOver)?;
    if !keys.is_refresh_token(token, id, generation, &stored.salt) {
        return Err(AccountRefused::SessionOver.into());
    }
    Ok((stored, generation))
}

/// The session of this name, locked.
pub(crate) async fn find(tx: &mut PgConnection, id: Uuid) -> Result<Option<Stored>> {
    let stored = sqlx::query_as!(
        Stored,
        r#"select id, user_id as "user_id: UserId", generation, salt, created_at, rotated_at, expires_at, revoked_at,
               two_factors
           from sessions where id = $1 for update"#,
        id,
    )
    .fetch_optional(tx)
    .await?;
    Ok(stored)
}

/// The sessions of a user that are open, the one that was refreshed last first.
pub(crate) async fn open_ones(tx: &mut PgConnection, user: UserId, now: Timestamp) -> Result<Vec<Stored>> {
    let open = sqlx::query_as!(
        Stored,
        r#"select id, user_id as "user_id: UserId", generation, salt, created_at, rotated_at, expires_at, revoked_at,
               two_factors
           from sessions
           where user_id = $1 and revoked_at is null and expires_at > $2 and rotated_at > $3
           order by rotated_at desc, id desc limit $4"#,
        user.0,
        now as Timestamp,
        (now - IDLE) as Timestamp,
        MOST_LISTED,
    )
    .fetch_all(tx)
    .await?;
    Ok(open)
}

/// Begins the session's next generation: its refresh token is used up.
pub(crate) async fn rotate(cx: &mut Cx, stored: &mut Stored) -> Result<()> {
    let now = cx.now();
    stored.generation += 1;
    sqlx::query!(
        "update sessions set generation = $2, rotated_at = $3 where id = $1",
        stored.id,
        stored.generation,
        now as Timestamp,
    )
    .execute(cx.tx().await?)
    .await?;
    Ok(())
}

/// Gives the tokens of the session's generation.
pub(crate) async fn issue(cx: &mut Cx, stored: &Stored) -> Result<Session> {
    let (keys, now) = (cx.resource::<Keys>()?, cx.now());
    let found = store::find(cx.tx().await?, Name::Id(stored.user_id)).await?;
    let (user, _) = found.ok_or(AccountRefused::SessionOver)?;
    stored.issue(&keys, user, now)
}

/// Whether the caller's session was opened less than `age` ago. One that is not known was not.
pub(crate) async fn is_younger(cx: &mut Cx, age: Duration) -> Result<bool> {
    let (caller, since) = (cx.caller()?, cx.now() - age);
    let found = sqlx::query_scalar!(
        "select id from sessions where id = $1 and user_id = $2 and revoked_at is null and created_at > $3",
        caller.session,
        caller.id.0,
        since as Timestamp,
    )
    .fetch_optional(cx.tx().await?)
    .await?;
    Ok(found.is_some())
}

/// Whose sessions end.
pub(crate) enum Ended {
    /// One.
    One(Uuid),
    /// All of somebody.
    AllOf(UserId),
    /// All of somebody but the one in which they ask.
    OthersOf(Caller),
}

/// Ends sessions that have not ended, and says so.
pub(crate) async fn end(cx: &mut Cx, which: Ended) -> Result<()> {
    let now = cx.now();
    let (id, user, spared) = match which {
        Ended::One(id) => (Some(id), None, None),
        Ended::AllOf(user) => (None, Some(user.0), None),
        Ended::OthersOf(caller) => (None, Some(caller.id.0), caller.session),
    };
    let ended = sqlx::query!(
        r#"update sessions set revoked_at = $3
           where (id = $1 or user_id = $2) and id is distinct from $4 and revoked_at is null
           returning id, user_id as "user_id: UserId""#,
        id,
        user,
        now as Timestamp,
        spared,
    )
    .fetch_all(cx.tx().await?)
    .await?;
    for row in ended {
        cx.emit(&SessionEnded { session_id: row.id, user_id: row.user_id, ended_at: now })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Grace = Grace(Duration::from_secs(10));

    fn standing(generation: i32, seconds: u64, change: impl FnOnce(&mut Stored)) -> Standing {
        let now = Timestamp::now();
        let mut stored = Stored {
            id: Uuid::nil(),
            user_id: UserId(Uuid::nil()),
            generation: 5,
            salt: Vec::new(),
            created_at: now,
            rotated_at: now - Duration::from_secs(seconds),
            expires_at: now + Duration::from_secs(1),
            revoked_at: None,
            two_factors: false,
        };
        change(&mut stored);
        stored.standing(generation, now, GRACE)
    }

    #[test]
    fn a_token_is_good_once_and_a_little_longer_for_the_same_successor() {
        let same = |_: &mut Stored| {};

        assert_eq!(standing(5, 3_600, same), Standing::Current);
        assert_eq!(standing(4, 9, same), Standing::JustUsed);
        assert_eq!(standing(4, 10, same), Standing::Stolen);
        assert_eq!(standing(3, 1, same), Standing::Stolen);
        assert_eq!(standing(6, 1, same), Standing::Over);
    }

    #[test]
    fn a_session_ends_by_its_owner_by_its_age_and_by_idleness() {
        assert_eq!(standing(5, 1, |s| s.revoked_at = Some(s.rotated_at)), Standing::Over);
        assert_eq!(standing(5, 1, |s| s.expires_at = s.expires_at - Duration::from_secs(1)), Standing::Over);
        assert_eq!(standing(5, 7 * 24 * 3_600, |_| {}), Standing::Over);
        // Stolen or not: what has ended is not ended again.
        assert_eq!(standing(3, 1, |s| s.revoked_at = Some(s.rotated_at)), Standing::Over);
    }
}
