//! What `maintain` lets go of, and what it never does: on a real Postgres, with rows of other days.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod common;

use platform::{Config, Env, database};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::common::test_database;

/// A database, and a connection of its administrator to it.
struct Kept {
    name: String,
    admin: PgConnection,
}

impl Kept {
    async fn make() -> Self {
        let url = tokio::task::spawn_blocking(testing::database_url).await.unwrap();
        let name = format!("kept_{}", Uuid::new_v4().simple());
        database::migrate_as(&url, &test_database(), &name).await.unwrap();
        let (server, _) = url.rsplit_once('/').unwrap();
        let admin = PgConnection::connect(&format!("{server}/{name}")).await.unwrap();
        Self { name, admin }
    }

    async fn maintain(&self, variables: &[(&'static str, &str)]) {
        let mut env = Env::default();
        for (name, value) in variables {
            env.set(name, *value);
        }
        let config: Config = env.read().unwrap();
        database::maintain_as(&testing::database_url(), &config, &test_database(), &self.name).await.unwrap();
    }

    async fn run(&mut self, sql: &'static str) {
        self.admin.execute(sql).await.unwrap();
    }

    async fn count(&mut self, table: &str) -> i64 {
        let sql = format!("select count(*) from platform.{table}");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.admin).await.unwrap()
    }

    /// A partition of so many days ago, with rows.
    async fn day(&mut self, days: i32, rows: i32, published: bool) {
        let sql = format!(
            "do $$ declare d date := (now() at time zone 'utc')::date - {days}; begin
               execute format('create table if not exists platform.outbox_%s partition of platform.outbox for values from (%L) to (%L)',
                              to_char(d, 'YYYYMMDD'), d, d + 1);
               execute format('alter table platform.outbox_%s owner to tests_owner', to_char(d, 'YYYYMMDD'));
               insert into platform.outbox (day, created_at, published, first_seq, last_seq, events_count, events)
               select d, d::timestamptz, {published}, n, n, 1, repeat('x', 1000) from generate_series(1, {rows}) n;
             end $$"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.admin).await.unwrap();
    }
}

#[tokio::test]
async fn outbox_rows_leave_a_day_after_their_day_and_never_unpublished() {
    let mut kept = Kept::make().await;
    kept.day(5, 10, true).await;
    kept.day(4, 9, true).await;
    kept.day(4, 1, false).await;
    kept.day(1, 10, true).await;
    kept.day(0, 10, true).await;
    // Nobody had made a partition for these.
    kept.run(
        "insert into platform.outbox (day, created_at, published, last_seq, events_count, events)
         select current_date + 90, now() - interval '30 hours', n > 7, n, 1, '[]' from generate_series(1, 12007) n",
    )
    .await;

    kept.maintain(&[]).await;

    assert_eq!(kept.count("outbox where day = current_date - 5").await, 0);
    assert_eq!(kept.count("outbox where day = current_date - 4").await, 10, "one waits to be published");
    assert_eq!(kept.count("outbox where day >= current_date - 1 and day <= current_date").await, 20);
    assert_eq!(kept.count("outbox_default").await, 7, "those that wait to be published");
    assert_eq!(kept.count("outbox where not published").await, 8);

    kept.run("update platform.outbox set published = true").await;
    kept.maintain(&[("OUTBOX_RETENTION_HOURS", "96")]).await;
    assert_eq!(kept.count("outbox where day = current_date - 4").await, 10, "kept for longer");
    kept.maintain(&[]).await;
    assert_eq!(kept.count("outbox where day = current_date - 4").await, 0);
}

#[tokio::test]
async fn a_large_outbox_lets_go_of_its_oldest_published_rows_earlier() {
    let mut kept = Kept::make().await;
    kept.day(1, 3_000, true).await;
    kept.day(0, 50, false).await;
    kept.day(0, 12_000, true).await;
    kept.day(0, 50, false).await;

    kept.maintain(&[("OUTBOX_MAX_BYTES", "40000000")]).await;
    assert_eq!(kept.count("outbox").await, 15_100, "it is small enough");
    kept.maintain(&[("OUTBOX_MAX_BYTES", "4000000")]).await;

    assert_eq!(kept.count("outbox where day < current_date").await, 0, "yesterday goes first");
    let left = kept.count("outbox where published").await;
    assert!((3_000..4_000).contains(&left), "{left}");
    assert_eq!(kept.count("outbox where not published").await, 100);
    let oldest_kept = "outbox a where published and id < (select max(id) - 3600 from platform.outbox)";
    assert_eq!(kept.count(oldest_kept).await, 0, "the newest stay");
}

/// Several who migrate at once, as a deployment may while another one goes on.
#[tokio::test]
async fn those_who_make_the_same_roles_at_once_wait_for_each_other() {
    futures_util::future::join_all((0..6).map(|_| Kept::make())).await;
}

/// A relay that gives rows back, or a transaction that has not ended, is not run over and not waited for.
#[tokio::test]
async fn a_partition_that_is_in_use_is_left_for_the_next_time() {
    let mut kept = Kept::make().await;
    kept.day(5, 10, true).await;
    let mut tx = kept.admin.begin().await.unwrap();
    let give_back = "update platform.outbox set published = false where day = current_date - 5";
    sqlx::query(give_back).execute(&mut *tx).await.unwrap();
    let (name, url) = (kept.name.clone(), testing::database_url());
    let config: Config = Env::default().read().unwrap();

    let started = std::time::Instant::now();
    database::maintain_as(&url, &config, &test_database(), &name).await.unwrap();
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    tx.commit().await.unwrap();
    kept.maintain(&[]).await;

    assert_eq!(kept.count("outbox where not published").await, 10);
}

#[tokio::test]
async fn outcomes_inbox_rows_and_attempts_are_forgotten_when_nobody_can_ask_any_more() {
    let mut kept = Kept::make().await;
    kept.run(
        "insert into platform.outcome (id, function, status, body, expires_at)
         select gen_random_uuid(), 'add', 200, '1', now() + (n - 11000.5) * interval '1 second' from generate_series(1, 11100) n;
         insert into platform.inbox (consumer, event_id, seen_at)
         select 'update-sums', gen_random_uuid(), now() - interval '8 days' + (n - 11000.5) * interval '1 minute'
         from generate_series(1, 11100) n;
         insert into platform.attempt (function, message, count, updated_at)
         select 'add', 'COMMANDS:' || n, 1, now() - interval '8 days' + (n - 11000.5) * interval '1 minute'
         from generate_series(1, 11100) n",
    )
    .await;

    kept.maintain(&[]).await;

    for table in ["outcome", "inbox", "attempt"] {
        let left = kept.count(table).await;
        // Those of the second in which it ran may be gone, too.
        assert!((90..=100).contains(&left), "{table}: {left}");
    }
}
