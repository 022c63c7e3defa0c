//! What a function's connection to Postgres is like.

mod common;

use sqlx::Connection;

use crate::common::test_database;

/// A plan is made once for a connection: the one of a small table also reads the large one that it becomes.
#[tokio::test]
async fn a_plan_made_for_a_small_table_reads_its_index() {
    let pool = testing::database(&test_database()).await;
    let mut connection = pool.acquire().await.unwrap();
    let prepare = "
        insert into platform.outcome (id, function, status, body, expires_at)
        select gen_random_uuid(), 'count', 200, '', now() from generate_series(1, 400);
        prepare look (uuid[]) as select body from platform.outcome where id = any($1)";
    sqlx::raw_sql(prepare).execute(&mut *connection).await.unwrap();

    let plan: Vec<String> =
        sqlx::query_scalar("explain execute look('{}')").fetch_all(&mut *connection).await.unwrap();

    let plan = plan.join("\n");
    assert!(plan.contains("outcome_pkey") && !plan.contains("Seq Scan"), "{plan}");
}

/// As after a restart of Postgres: all connections are gone, and nobody has noticed.
#[tokio::test]
async fn connections_that_ended_while_nobody_used_them_break_nothing() {
    let pool = testing::database(&test_database()).await;
    let all: Vec<_> = futures_util::future::join_all((0..3).map(|_| pool.acquire())).await;
    drop(all);
    let mut admin = sqlx::PgConnection::connect(&testing::database_url()).await.unwrap();
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
    let name = pool.connect_options().get_database().unwrap().to_owned();
    let ended = sqlx::query(end).bind(name).fetch_all(&mut admin).await.unwrap();
    assert!(ended.len() >= 3);
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;

    let begun = futures_util::future::join_all((0..3).map(|_| pool.begin())).await;

    assert!(begun.iter().all(Result::is_ok), "{begun:?}");
}
