//! How often a message that came back was tried.
//!
//! The server's own counter also counts outages and restarts, so it decides nothing: a message is
//! given up after [`MOST`] attempts that failed by themselves.

use std::time::Duration;

use sqlx::PgPool;

use crate::Result;

/// After this many failures a message goes to the dead letters.
pub(crate) const MOST: i32 = 5;

/// Notes that an attempt begins; returns how many there were, this one included, and the error of
/// the one before.
pub(crate) async fn begin(pool: &PgPool, function: &str, message: &str) -> Result<(i32, String)> {
    let row = sqlx::query!(
        r#"
        insert into platform.attempt (function, message, count) values ($1, $2, 1)
        on conflict (function, message)
            do update set count = attempt.count + 1, updated_at = now()
        returning count, last_error
        "#,
        function,
        message,
    )
    .fetch_one(pool)
    .await?;
    Ok((row.count, row.last_error))
}

/// Notes why the attempt failed.
pub(crate) async fn failed(pool: &PgPool, function: &str, message: &str, error: &str) -> Result<()> {
    sqlx::query!(
        "update platform.attempt set last_error = $3, updated_at = now() where function = $1 and message = $2",
        function,
        message,
        error,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Takes an attempt back that failed through no fault of the message.
pub(crate) async fn take_back(pool: &PgPool, function: &str, message: &str) -> Result<()> {
    sqlx::query!(
        "update platform.attempt set count = count - 1 where function = $1 and message = $2",
        function,
        message,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Forgets a message that was settled.
pub(crate) async fn forget(pool: &PgPool, function: &str, message: &str) -> Result<()> {
    sqlx::query!("delete from platform.attempt where function = $1 and message = $2", function, message,)
        .execute(pool)
        .await?;
    Ok(())
}

/// How long to wait before the next attempt: 0.4 s doubled each time, at most 30 s, a fifth more or
/// less so that messages which failed together do not return together.
pub(crate) fn delay(count: i32) -> Duration {
    let doubled = 0.2 * 2f64.powi(count.clamp(1, 10));
    let spread = 0.8 + 0.4 * f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    Duration::from_secs_f64(doubled.min(30.0) * spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_and_stays_bounded() {
        for (count, least, most) in [(1, 0.32, 0.48), (3, 1.28, 1.92), (50, 24.0, 36.0)] {
            let seconds = delay(count).as_secs_f64();
            assert!((least..=most).contains(&seconds), "{count}: {seconds}");
        }
    }
}
