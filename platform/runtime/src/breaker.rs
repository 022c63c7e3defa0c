//! Stops a function from taking messages while what it needs is away.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sqlx::PgPool;

/// How often the database is tried while it is away.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Open while Postgres or the bus is away: nothing is taken, so nothing fails and no attempt is
/// counted, however long it lasts.
#[derive(Default)]
pub(crate) struct Breaker(AtomicBool);

impl Breaker {
    /// Opens, and says so once.
    pub(crate) fn open(&self, function: &str, error: &anyhow::Error) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                function,
                error = format!("{error:#}"),
                "outage, taking no messages until it ends"
            );
        }
    }

    /// Returns when the database answers; at once while closed.
    pub(crate) async fn closed(&self, function: &str, pool: &PgPool) {
        while self.0.load(Ordering::Relaxed) {
            tokio::time::sleep(PROBE_EVERY).await;
            let probe = tokio::time::timeout(PROBE_EVERY, sqlx::raw_sql("select 1").execute(pool));
            if matches!(probe.await, Ok(Ok(_))) {
                self.0.store(false, Ordering::Relaxed);
                tracing::info!(function, "outage over, taking messages again");
            }
        }
    }
}
