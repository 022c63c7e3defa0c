//! The searchable listing: what is for sale, as the events tell it.
//!
//! Promises: whatever the order and however often events arrive, the listing ends up with the newest
//! of each; pages neither repeat nor skip items because others changed; any text may be searched for.
//! The listing follows the authority by a moment. The domain says nothing itself, so it has no relay.

#[cfg(test)]
mod fixtures;
pub mod list_items;
pub mod update_catalog;
mod words;

use platform::{Function, database::Database};
use sqlx::migrate::Migrator;

/// The domain's one word: its database and its subjects.
pub const DOMAIN: &str = "catalog";

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/catalog");

/// What this crate deploys, in the order a visitor meets it. One binary each.
pub fn functions() -> Vec<Function> {
    vec![update_catalog::function(), list_items::function()]
}

/// Where the listing lives.
pub fn database() -> Database {
    Database { domain: DOMAIN, migrations: &MIGRATIONS }
}
