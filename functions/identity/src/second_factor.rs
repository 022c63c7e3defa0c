//! Second factors in the database: tried, counted, changed, always with the account's row locked.

use contracts::identity::{RecoveryCodeUsed, RecoveryCodes, Secret, User};
use platform::{Cx, Refused, Result, Timestamp, UserId};

use crate::{
    account::AccountRefused,
    seed::SeedKey,
    store::{self, CallersPassword},
    totp::{self, Code},
};

/// An account's second factor as its row has it. The row stays locked until the invocation ends, so that whoever tries at
/// the same time comes after.
pub(crate) struct SecondFactor {
    user_id: UserId,
    seed: Option<Vec<u8>>,
    pending: Option<Vec<u8>>,
    pending_since: Option<Timestamp>,
    wrong: i32,
    wrong_since: Option<Timestamp>,
}

impl SecondFactor {
    /// Of an account that there is; one that has none gets a row to count in.
    pub(crate) async fn lock(cx: &mut Cx, user: UserId) -> Result<Self> {
        let tx = cx.tx().await?;
        sqlx::query!("insert into second_factors (user_id) values ($1) on conflict do nothing", user.0)
            .execute(&mut *tx)
            .await?;
        let found = sqlx::query_as!(
            Self,
            r#"select user_id as "user_id: UserId", seed, pending, pending_since, wrong, wrong_since
               from second_factors where user_id = $1 for update"#,
            user.0,
        )
        .fetch_one(tx)
        .await?;
        Ok(found)
    }

    /// Whether logins ask for it.
    pub(crate) fn is_on(&self) -> bool {
        self.seed.is_some()
    }

    /// Whether it was tried too often: then nothing is right for a while.
    pub(crate) fn is_worn_out(&self, now: Timestamp) -> bool {
        totp::is_worn_out(self.wrong, self.wrong_since, now)
    }

    /// Whether a code is right, and uses it up: a step or a recovery code counts once. A wrong one is counted, which stays
    /// only if the refusal keeps it; after too many none is right.
    pub(crate) async fn accept(&self, cx: &mut Cx, code: &Secret) -> Result<bool> {
        if self.is_worn_out(cx.now()) {
            return Ok(false);
        }
        let good = match (Code::read(code), &self.seed) {
            (Code::Totp(code), Some(sealed)) => match self.step(cx, sealed, &code)? {
                Some(step) => self.use_step(cx, step).await?,
                None => false,
            },
            (Code::Recovery(hash), Some(_)) => self.use_recovery_code(cx, &hash).await?,
            (Code::Garbage, _) | (_, None) => false,
        };
        if !good {
            self.count_wrong(cx).await?;
        }
        Ok(good)
    }

    fn step(&self, cx: &Cx, sealed: &[u8], code: &str) -> Result<Option<i64>> {
        let seed = cx.resource::<SeedKey>()?.open(self.user_id, sealed)?;
        Ok(totp::step(&seed, code, cx.now())?)
    }

    async fn use_step(&self, cx: &mut Cx, step: i64) -> Result<bool> {
        let used = sqlx::query!(
            "update second_factors set last_step = $2 where user_id = $1 and last_step < $2",
            self.user_id.0,
            step,
        )
        .execute(cx.tx().await?)
        .await?;
        Ok(used.rows_affected() == 1)
    }

    async fn use_recovery_code(&self, cx: &mut Cx, hash: &[u8]) -> Result<bool> {
        let now = cx.now();
        let tx = cx.tx().await?;
        let used = sqlx::query!(
            "update recovery_codes set used_at = $3 where user_id = $1 and hash = $2 and used_at is null",
            self.user_id.0,
            hash,
            now as Timestamp,
        )
        .execute(&mut *tx)
        .await?;
        if used.rows_affected() == 0 {
            return Ok(false);
        }
        let left = sqlx::query_scalar!(
            r#"select count(*) as "left!" from recovery_codes where user_id = $1 and used_at is null"#,
            self.user_id.0,
        )
        .fetch_one(tx)
        .await?;
        cx.emit(&RecoveryCodeUsed { user_id: self.user_id, left, used_at: now })?;
        Ok(true)
    }

    /// Counts a wrong try, of whatever.
    pub(crate) async fn count_wrong(&self, cx: &mut Cx) -> Result<()> {
        let (wrong, since) = totp::one_more(self.wrong, self.wrong_since, cx.now());
        sqlx::query!(
            "update second_factors set wrong = $2, wrong_since = $3 where user_id = $1",
            self.user_id.0,
            wrong,
            since as Timestamp,
        )
        .execute(cx.tx().await?)
        .await?;
        Ok(())
    }

    /// Begins to enrol another authenticator, in place of one that was begun before.
    pub(crate) async fn begin(&self, cx: &mut Cx, seed: &[u8]) -> Result<()> {
        let now = cx.now();
        let sealed = cx.resource::<SeedKey>()?.seal(self.user_id, seed)?;
        sqlx::query!(
            "update second_factors set pending = $2, pending_since = $3 where user_id = $1",
            self.user_id.0,
            sealed,
            now as Timestamp,
        )
        .execute(cx.tx().await?)
        .await?;
        Ok(())
    }

    /// Takes the authenticator that is being enrolled, if it shows this code. That code has been used then.
    pub(crate) async fn finish(&self, cx: &mut Cx, code: &Secret) -> Result<()> {
        let now = cx.now();
        let begun = self.pending_since.is_some_and(|since| now.since(since) < totp::ENROLMENT);
        let Some(sealed) = self.pending.as_deref().filter(|_| begun) else {
            return Err(AccountRefused::NoEnrolment.into());
        };
        let step = match Code::read(code) {
            Code::Totp(code) if !self.is_worn_out(now) => self.step(cx, sealed, &code)?,
            _ => None,
        };
        let Some(step) = step else {
            self.count_wrong(cx).await?;
            return Err(Refused::from(AccountRefused::WrongCode).keeping().into());
        };
        sqlx::query!(
            "update second_factors set seed = pending, pending = null, pending_since = null, last_step = $2
             where user_id = $1",
            self.user_id.0,
            step,
        )
        .execute(cx.tx().await?)
        .await?;
        self.switch(cx, true).await
    }

    /// Forgets the authenticator and the recovery codes.
    pub(crate) async fn forget(&self, cx: &mut Cx) -> Result<()> {
        let tx = cx.tx().await?;
        sqlx::query!(
            "update second_factors set seed = null, pending = null, pending_since = null where user_id = $1",
            self.user_id.0,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!("delete from recovery_codes where user_id = $1", self.user_id.0).execute(tx).await?;
        self.switch(cx, false).await
    }

    async fn switch(&self, cx: &mut Cx, on: bool) -> Result<()> {
        let now = cx.now();
        sqlx::query!(
            "update users set two_factor_enabled = $2, updated_at = $3, version = version + 1 where id = $1",
            self.user_id.0,
            on,
            now as Timestamp,
        )
        .execute(cx.tx().await?)
        .await?;
        Ok(())
    }

    /// Makes recovery codes in place of all that there are.
    pub(crate) async fn renew_codes(&self, cx: &mut Cx) -> Result<RecoveryCodes> {
        let codes: [_; totp::CODES] = std::array::from_fn(|_| totp::recovery_code(rand::random()));
        let (recovery_codes, hashes): (Vec<Secret>, Vec<Vec<u8>>) = codes.into_iter().unzip();
        let tx = cx.tx().await?;
        sqlx::query!("delete from recovery_codes where user_id = $1", self.user_id.0)
            .execute(&mut *tx)
            .await?;
        sqlx::query!(
            "insert into recovery_codes (user_id, hash) select $1, hash from unnest($2::bytea[]) as hash",
            self.user_id.0,
            &hashes,
        )
        .execute(tx)
        .await?;
        Ok(RecoveryCodes { recovery_codes })
    }
}

/// The caller's second factor, when the password and the code are theirs. Refuses, and counts, whatever is wrong.
pub(crate) async fn prove(cx: &mut Cx, password: Secret, code: &Secret) -> Result<(User, SecondFactor)> {
    let CallersPassword { user, is_right, .. } = store::check_password(cx, password).await?;
    let factor = SecondFactor::lock(cx, user.id).await?;
    if !factor.is_on() {
        return Err(AccountRefused::NoSecondFactor.into());
    }
    if !is_right {
        factor.count_wrong(cx).await?;
    } else if factor.accept(cx, code).await? {
        return Ok((user, factor));
    }
    Err(Refused::from(AccountRefused::NotProven).keeping().into())
}
