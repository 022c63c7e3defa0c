//! `prepare-sql`: refreshes the cache against which SQL is checked at build time.
//!
//! Starts a Postgres, makes each crate's tables as its migrations say, and lets the compiler ask it
//! about every `query!`. The answers land in the crate's `.sqlx/`, which is committed; a build reads
//! them and needs no database. With `--check` it fails when that changes a committed file.
//!
//! Depends on none of those crates, so that it builds when their caches are stale.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, ensure};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// The crates that hold SQL, in the order in which they depend on each other, each with its folder
/// under `migrations/`. Every database also has the tables of `migrations/platform`.
const CRATES: [(&str, &str, &str); 4] = [
    ("platform", "platform/runtime", "platform"),
    ("identity", "functions/identity", "identity"),
    ("auctions", "functions/auctions", "auctions"),
    ("stats", "functions/stats", "stats"),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "prepare-sql: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let postgres = local::Postgres::throwaway(&|line| say(line))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for (name, folder, domain) in CRATES {
        let url = runtime.block_on(make_database(&root, &postgres.url(), domain))?;
        refresh(&root, name, &root.join(folder), &url)?;
        say(&format!("{name}: {} queries", fs::read_dir(root.join(folder).join(".sqlx"))?.count()));
    }
    if std::env::args().any(|argument| argument == "--check") {
        let status = Command::new("git")
            .current_dir(&root)
            .args(["status", "--porcelain", "--", "*/.sqlx/*"])
            .output()
            .context("ask git for changes")?;
        let changed = String::from_utf8_lossy(&status.stdout);
        ensure!(
            changed.is_empty(),
            "the committed cache is stale; run `just prepare-sql` and commit:\n{changed}"
        );
    }
    Ok(())
}

/// A database with the tables that the crate's SQL is about.
async fn make_database(root: &Path, admin_url: &str, domain: &str) -> anyhow::Result<String> {
    let mut admin = PgConnection::connect(admin_url).await?;
    // Domains are words: nothing needs quoting.
    sqlx::raw_sql(AssertSqlSafe(format!("create database {domain}_build"))).execute(&mut admin).await?;
    admin.close().await?;
    let url = match admin_url.rsplit_once('/') {
        Some((server, _)) => format!("{server}/{domain}_build"),
        None => anyhow::bail!("not a database URL: {admin_url}"),
    };
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::raw_sql("create schema platform").execute(&mut connection).await?;
    let mut folders = vec![root.join("migrations/platform")];
    if domain != "platform" {
        folders.push(root.join("migrations").join(domain));
    }
    for folder in folders {
        for file in sql_files(&folder)? {
            let sql = fs::read_to_string(&file)?;
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await
                .with_context(|| format!("apply {}", file.display()))?;
        }
    }
    connection.close().await?;
    Ok(url)
}

fn sql_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    Ok(files)
}

/// Lets the compiler ask the database about every query of the crate, its tests included.
fn refresh(root: &Path, name: &str, folder: &Path, url: &str) -> anyhow::Result<()> {
    let cache = folder.join(".sqlx");
    if cache.exists() {
        fs::remove_dir_all(&cache)?;
    }
    fs::create_dir_all(&cache)?;
    // The macros do not see that a table changed: touching the crate makes them look again.
    let source = folder.join("src/lib.rs");
    fs::File::options().append(true).open(&source)?.set_modified(std::time::SystemTime::now())?;
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    // A crate that is built along the way must read its own cache, not write into this one.
    for (other, _, _) in CRATES {
        cargo.env_remove(build_variable(other));
    }
    let status = cargo
        .current_dir(root)
        .args(["check", "--quiet", "--package", name, "--all-targets"])
        .env(build_variable(name), url)
        .env("SQLX_OFFLINE_DIR", &cache)
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "{name} does not compile; the lines above say why");
    Ok(())
}

/// The variable that the crate's `sqlx.toml` names.
fn build_variable(name: &str) -> String {
    format!("{}_BUILD_DATABASE_URL", name.to_uppercase())
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
