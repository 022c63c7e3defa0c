//! What the tests of the machinery have in common.

use std::sync::LazyLock;

use platform::database::Database;
use sqlx::migrate::Migrator;

/// Beside the machinery's own migrations, so noted in a table of their own.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!("tests/migrations");
    migrations.dangerous_set_table_name("tally_migration");
    migrations
});

/// The domain that exists in these tests alone.
pub(crate) fn test_database() -> Database {
    Database { domain: "tests", migrations: &MIGRATIONS }
}
