//! What the platform counted: figures for each user, from the events alone.
//!
//! Promises: every event counts once, and the figures never run ahead of what happened.
//! The domain says nothing itself, so it has no relay.

mod figures;
#[cfg(test)]
mod fixtures;
pub mod get_leaderboard;
pub mod get_user_stats;
pub mod update_stats;

use platform::{Function, database::Database};
use sqlx::migrate::Migrator;

/// The domain's one word: its database and its subjects.
pub const DOMAIN: &str = "stats";

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/stats");

/// What this crate deploys, in the order a visitor meets it. One binary each.
pub fn functions() -> Vec<Function> {
    vec![update_stats::function(), get_user_stats::function(), get_leaderboard::function()]
}

/// Where the figures live.
pub fn database() -> Database {
    Database { domain: DOMAIN, migrations: &MIGRATIONS }
}
