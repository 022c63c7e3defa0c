//! One Postgres database for each domain, with an owner who may change its schema and an application
//! role that may not.

use std::{borrow::Cow, time::Duration};

use anyhow::Context;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    config::{Config, Env},
    outbox, scram, wire,
};

/// The tables of the runner; every domain's database has them.
static MACHINERY: Migrator = sqlx::migrate!("../../migrations/platform");

/// How many days of outbox partitions are kept ready.
const PARTITIONS_AHEAD: i32 = 7;
/// The advisory lock of whoever makes roles and databases.
const MAKING: i64 = 0x6f75_7472_6d61_6b65;

/// A domain's database.
#[derive(Clone, Copy)]
pub struct Database {
    /// The domain, which is also the name of the database and of its application role.
    pub domain: &'static str,
    /// The domain's own tables.
    pub migrations: &'static Migrator,
}

/// Where a domain's database is: `<DOMAIN>_DATABASE_URL`, else derived from `DATABASE_URL`.
///
/// Derived roles have passwords that follow from the administrator's, so that nothing else needs to
/// be configured or stored.
pub fn options(env: &Env, domain: &str) -> anyhow::Result<PgConnectOptions> {
    let own = own(domain);
    if let Some(url) = env.get(&own) {
        return url.parse().with_context(|| format!("{own}: expected a Postgres URL"));
    }
    let admin = admin(env).with_context(|| format!("set {own}, or DATABASE_URL for all domains"))?;
    Ok(derived(&admin, domain, domain))
}

/// The same as the owner of its tables, for who looks after them. Needs `DATABASE_URL`.
pub(crate) fn owner_options(env: &Env, domain: &str) -> anyhow::Result<PgConnectOptions> {
    Ok(derived(&admin(env)?, domain, &owner(domain)))
}

/// The variable that names a domain's database.
fn own(domain: &str) -> String {
    format!("{}_DATABASE_URL", domain.to_uppercase())
}

/// The password with which a domain's functions come, when `<DOMAIN>_DATABASE_URL` says one.
fn own_password(env: &Env, domain: &str) -> anyhow::Result<Option<String>> {
    let own = own(domain);
    let Some(url) = env.get(&own) else { return Ok(None) };
    let url = url::Url::parse(url).with_context(|| format!("{own}: expected a Postgres URL"))?;
    // Another user than the domain's role is made and looked after by somebody else.
    let Some(password) = url.password().filter(|_| url.username() == domain) else { return Ok(None) };
    // Others are written in several ways: RFC 5802 would have them prepared first.
    anyhow::ensure!(
        password.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{own}: expected a password of letters and digits, for example the output of `openssl rand -hex 32`"
    );
    Ok(Some(password.to_owned()))
}

fn admin(env: &Env) -> anyhow::Result<Admin> {
    let url = env.get("DATABASE_URL").context("DATABASE_URL is not set")?;
    Admin::parse(url)
}

/// The administrator of a server.
struct Admin {
    options: PgConnectOptions,
    password: String,
}

impl Admin {
    fn parse(url: &str) -> anyhow::Result<Self> {
        let options: PgConnectOptions = url
            .parse()
            .context("DATABASE_URL: expected a Postgres URL, for example postgres://postgres:secret@127.0.0.1:5432/postgres")?;
        let password = url::Url::parse(url)?.password().unwrap_or_default().to_owned();
        // What exists already is left alone; that is no news.
        Ok(Self { options: options.options([("client_min_messages", "warning")]), password })
    }

    /// The password of a derived role.
    fn password_of(&self, role: &str) -> String {
        let id = |half| wire::derived_id(&["role", role, half, &self.password]).simple().to_string();
        id("1") + &id("2")
    }
}

fn derived(admin: &Admin, database: &str, role: &str) -> PgConnectOptions {
    admin.options.clone().database(database).username(role).password(&admin.password_of(role))
}

/// A connection that was used within this time is believed to stand. Asking each would cost a round trip for every
/// transaction; asking none, a Postgres that was started again would break the first work of each connection.
const FRESH: Duration = Duration::from_secs(1);

/// The pool of a function's database.
pub fn pool(config: &Config, options: PgConnectOptions, name: &str) -> PgPool {
    let options = options.application_name(name).options([
        // A statement that hangs must not hold its locks, and a client that vanished must not either.
        ("statement_timeout", "5s"),
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "10s"),
        // Every statement is prepared once; planning it again for each call costs more than it finds.
        ("plan_cache_mode", "force_generic_plan"),
        // A plan made while a table was small would read all of it for ever; functions find rows by an index. Where
        // there is none the plan looks so dear that Postgres would compile it first.
        ("enable_seqscan", "off"),
        ("jit", "off"),
    ]);
    PgPoolOptions::new()
        .max_connections(config.db_max_connections)
        .idle_timeout(Duration::from_secs(config.db_max_idle_seconds))
        .acquire_timeout(Duration::from_secs(3))
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move { Ok(meta.idle_for < FRESH || connection.ping().await.is_ok()) })
        })
        .connect_lazy_with(options)
}

/// Makes databases, roles and tables as far as they are missing. Needs `DATABASE_URL`. Where `<DOMAIN>_DATABASE_URL` is set
/// too, the domain's role gets the password in it, so that functions need not know the administrator's.
pub async fn migrate(env: &Env, databases: &[Database]) -> anyhow::Result<()> {
    let admin = admin(env)?;
    let mut connection = connect(&admin.options).await?;
    for database in databases {
        let domain = database.domain;
        let password = own_password(env, domain)?.unwrap_or_else(|| admin.password_of(domain));
        make(&admin, &mut connection, domain, domain, &password).await?;
        migrate_one(&admin, database, domain).await.with_context(|| format!("migrate {domain}"))?;
    }
    connection.close().await?;
    Ok(())
}

/// Makes a database under a name of its own, for tests and for checking SQL at build time; returns
/// how its application role connects.
pub async fn migrate_as(url: &str, database: &Database, name: &str) -> anyhow::Result<PgConnectOptions> {
    let admin = Admin::parse(url)?;
    let mut connection = connect(&admin.options).await?;
    let password = admin.password_of(database.domain);
    make(&admin, &mut connection, database.domain, name, &password).await?;
    migrate_one(&admin, database, name).await?;
    connection.close().await?;
    Ok(derived(&admin, name, database.domain))
}

async fn connect(options: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    PgConnection::connect_with(options)
        .await
        .context("connect to Postgres as its administrator: is DATABASE_URL right, and does the server run?")
}

/// Makes the domain's two roles, and a database that nobody else may enter. One at a time on a server: Postgres refuses
/// two who make the same role at once.
async fn make(
    admin: &Admin,
    connection: &mut PgConnection,
    domain: &str,
    name: &str,
    password: &str,
) -> anyhow::Result<()> {
    // Whoever fails before the end gives up the connection, and the lock with it.
    execute(connection, format!("select pg_advisory_lock({MAKING})")).await?;
    let owner = owner(domain);
    for (role, password) in [(domain, password), (owner.as_str(), &admin.password_of(&owner))] {
        // The names are ours, and no verifier holds a quote.
        let verifier = scram::verifier(password);
        let sql = format!(
            "do $$ begin create role {role} login; exception when duplicate_object then null; end $$;
             alter role {role} password '{verifier}';"
        );
        execute(connection, sql).await?;
    }
    let exists = sqlx::query_scalar!(
        r#"select exists (select from pg_database where datname = $1) as "exists!""#,
        name
    )
    .fetch_one(&mut *connection)
    .await?;
    if !exists {
        execute(connection, format!("create database \"{name}\" owner {owner}")).await?;
        let sql = format!(
            "revoke all on database \"{name}\" from public; grant connect on database \"{name}\" to {domain};"
        );
        execute(connection, sql).await?;
    }
    execute(connection, format!("select pg_advisory_unlock({MAKING})")).await
}

async fn migrate_one(admin: &Admin, database: &Database, name: &str) -> anyhow::Result<()> {
    let domain = database.domain;
    let mut owner = connect(&derived(admin, name, &owner(domain))).await?;
    let sql = format!(
        "create schema if not exists platform;
         grant usage on schema platform, public to {domain};
         -- Where a projection is rebuilt beside its live tables, by the function itself.
         create schema if not exists rebuild;
         grant usage, create on schema rebuild to {domain};
         alter default privileges grant select, insert, update on tables to {domain};
         -- Of the machinery's tables rows leave by the owner's hand, its partitions of tomorrow included.
         alter default privileges revoke delete on tables from {domain};
         alter default privileges in schema public grant delete on tables to {domain};
         alter default privileges grant usage on sequences to {domain};"
    );
    execute(&mut owner, sql).await?;
    MACHINERY.run(&mut owner).await?;
    let sql = format!(
        "revoke delete on all tables in schema platform from {domain}; grant delete on platform.attempt to {domain};"
    );
    execute(&mut owner, sql).await?;
    database.migrations.run(&mut owner).await?;
    make_partitions(&mut owner).await?;
    owner.close().await?;
    Ok(())
}

/// Makes the outbox partitions of the next days, drops those that are past keeping, and forgets
/// outcomes and inbox rows that nobody can ask for any more. Needs `DATABASE_URL`.
///
/// A database that cannot be reached does not keep the others from being looked after.
pub async fn maintain(env: &Env, config: &Config, databases: &[Database]) -> anyhow::Result<()> {
    let admin = admin(env)?;
    let mut maintained = Ok(());
    for database in databases {
        let domain = database.domain;
        let options = derived(&admin, domain, &owner(domain));
        if let Err(error) = maintain_one(&options, config).await {
            maintained = Err(error.context(format!("maintain {domain}")));
        }
    }
    maintained
}

/// Looks after one database, as its owner.
async fn maintain_one(owner: &PgConnectOptions, config: &Config) -> anyhow::Result<()> {
    let mut connection = connect(owner).await?;
    make_partitions(&mut connection).await?;
    outbox::let_go(&mut connection, config).await?;
    // In small pieces, so that no lock and no replication lag grows with the traffic.
    for purge in [
        "delete from platform.outcome where id in (select id from platform.outcome where expires_at < now() limit 5000)",
        "delete from platform.inbox where ctid in (select ctid from platform.inbox where seen_at < now() - interval '8 days' limit 5000)",
        "delete from platform.attempt where ctid in (select ctid from platform.attempt where updated_at < now() - interval '8 days' limit 5000)",
    ] {
        while sqlx::raw_sql(purge).execute(&mut connection).await?.rows_affected() >= 5_000 {}
    }
    connection.close().await?;
    Ok(())
}

/// As [`maintain`], of a database under a name of its own: for tests.
pub async fn maintain_as(url: &str, config: &Config, database: &Database, name: &str) -> anyhow::Result<()> {
    let admin = Admin::parse(url)?;
    maintain_one(&derived(&admin, name, &owner(database.domain)), config).await
}

async fn make_partitions(owner: &mut PgConnection) -> anyhow::Result<()> {
    for ahead in 0..=PARTITIONS_AHEAD {
        let sql = format!(
            "do $$ declare d date := (now() at time zone 'utc')::date + {ahead}; begin
               execute format('create table if not exists platform.outbox_%s partition of platform.outbox for values from (%L) to (%L)',
                              to_char(d, 'YYYYMMDD'), d, d + 1);
             -- Rows of that day are already in the default partition: they stay there.
             exception when check_violation then null; end $$"
        );
        execute(owner, sql).await?;
    }
    Ok(())
}

fn owner(domain: &str) -> String {
    format!("{domain}_owner")
}

async fn execute(connection: &mut PgConnection, sql: impl Into<Cow<'static, str>>) -> anyhow::Result<()> {
    // Roles, databases and partitions have no parameters; every part of the text is our own.
    sqlx::raw_sql(AssertSqlSafe(sql.into().into_owned())).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    static NO_TABLES: Migrator = Migrator::DEFAULT;

    #[tokio::test]
    async fn a_domain_may_come_with_a_password_of_its_own() {
        let start = || local::Postgres::throwaway(&|_| {}).unwrap();
        let postgres = tokio::task::spawn_blocking(start).await.unwrap();
        let admin = postgres.url();
        let host = admin.split_once('@').unwrap().1.split_once('/').unwrap().0;
        let own = format!("postgres://lamps:0f1e2d@{host}/lamps");
        let with = Env::of([("DATABASE_URL", &admin), ("LAMPS_DATABASE_URL", &own)]);
        let databases = [Database { domain: "lamps", migrations: &NO_TABLES }];

        migrate(&with, &databases).await.unwrap();

        let function = Env::of([("LAMPS_DATABASE_URL", own.as_str())]);
        connect(&options(&function, "lamps").unwrap()).await.unwrap();
        // The owner's password still follows from the administrator's: nobody else needs it.
        maintain(&with, &Env::default().read().unwrap(), &databases).await.unwrap();
        let derived = Env::of([("DATABASE_URL", admin.as_str())]);
        connect(&options(&derived, "lamps").unwrap()).await.unwrap_err();
    }

    #[test]
    fn a_password_of_other_than_letters_and_digits_is_refused() {
        let env = Env::of([("LAMPS_DATABASE_URL", "postgres://lamps:a'b@127.0.0.1/lamps")]);

        let error = own_password(&env, "lamps").unwrap_err().to_string();

        assert!(error.contains("LAMPS_DATABASE_URL: expected a password of letters and digits"), "{error}");
    }
}
