//! Comes to a real Postgres as every domain's application role, and tries what it must not do.

use platform::{Env, database};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

/// The server's code for "insufficient privilege".
const NO_RIGHT: &str = "42501";

fn code(error: &sqlx::Error) -> String {
    let error = error.as_database_error().unwrap_or_else(|| panic!("{error}"));
    error.code().unwrap_or_default().into_owned()
}

/// The databases as `migrate` makes them, and who comes to each.
async fn databases() -> &'static [(&'static str, PgConnectOptions)] {
    static MADE: tokio::sync::OnceCell<Vec<(&'static str, PgConnectOptions)>> =
        tokio::sync::OnceCell::const_new();
    MADE.get_or_init(make).await
}

async fn make() -> Vec<(&'static str, PgConnectOptions)> {
    let url = tokio::task::spawn_blocking(testing::database_url).await.unwrap();
    let env = Env::of([("DATABASE_URL", url.as_str())]);
    database::migrate(&env, &crate::databases()).await.unwrap();
    // Once more: what is there already has the same rights.
    database::migrate(&env, &crate::databases()).await.unwrap();
    let options = |domain| database::options(&env, domain).unwrap();
    crate::databases().into_iter().map(|database| (database.domain, options(database.domain))).collect()
}

async fn refused(connection: &mut PgConnection, sql: &str) -> String {
    let tried = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    code(&tried.err().unwrap_or_else(|| panic!("{sql} was done")))
}

#[tokio::test]
async fn a_domains_role_changes_no_tables_and_reaches_nothing_that_is_not_its_own() {
    let databases = databases().await;
    for (domain, options) in databases {
        let mut role = PgConnection::connect_with(options).await.unwrap();
        for sql in [
            "create table mine (id int)",
            "create table platform.mine (id int)",
            "create schema mine",
            "create temporary table mine (id int)",
            "drop table platform.outbox",
            "alter table platform.outbox add column mine int",
            "truncate platform.outbox",
            "delete from platform.outbox",
            "delete from platform.outbox_default",
            "delete from platform.outcome",
            "delete from platform.inbox",
            "select * from pg_authid",
            "create role mine",
            "create database mine",
            "alter role postgres password 'mine'",
            "copy (select 1) to program 'true'",
            &format!("set role {domain}_owner"),
            &format!("grant {domain}_owner to {domain}"),
        ] {
            assert_eq!(refused(&mut role, sql).await, NO_RIGHT, "{domain}: {sql}");
        }
        // A partition of tomorrow too.
        let days: Vec<String> = sqlx::query_scalar(
            "select quote_ident(relname) from pg_class where relname ~ '^outbox_[0-9]+$' and relkind = 'r'",
        )
        .fetch_all(&mut role)
        .await
        .unwrap();
        assert!(days.len() > 5, "{days:?}");
        for day in days {
            assert_eq!(refused(&mut role, &format!("delete from platform.{day}")).await, NO_RIGHT, "{day}");
        }
        for (other, _) in databases.iter().filter(|(other, _)| other != domain) {
            let connected = PgConnection::connect_with(&options.clone().database(other)).await;
            assert_eq!(code(&connected.err().unwrap()), NO_RIGHT, "{domain} came to {other}");
        }
    }
}

#[tokio::test]
async fn a_decision_on_a_bid_is_neither_changed_nor_removed() {
    let databases = databases().await;
    let (_, options) = databases.iter().find(|(domain, _)| *domain == "auctions").unwrap();
    let mut role = PgConnection::connect_with(options).await.unwrap();

    for sql in
        ["delete from bids", "update bids set amount = 1", "truncate bids", "select * from bids for update"]
    {
        assert_eq!(refused(&mut role, sql).await, NO_RIGHT, "{sql}");
    }
    sqlx::raw_sql("select * from bids").execute(&mut role).await.unwrap();
}
