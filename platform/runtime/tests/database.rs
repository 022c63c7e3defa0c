//! What a function's connection to Postgres is like.

mod common;

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
