//! What is known and decided about somedomain.

use platform::{Function, database::Database};
use sqlx::migrate::Migrator;

/// The domain's one word: its database and its subjects.
pub const DOMAIN: &str = "somedomain";

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/somedomain");

/// What this crate deploys, in the order a visitor meets it. One binary each.
pub fn functions() -> Vec<Function> {
    vec![]
}

/// The domain's database.
pub fn database() -> Database {
    Database { domain: DOMAIN, migrations: &MIGRATIONS }
}
