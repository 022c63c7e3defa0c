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

/// A crate that holds SQL. Its name is also that of its folder under `migrations/`, and of its database; every database
/// has the tables of `migrations/platform` as well.
struct Crate {
    name: String,
    folder: PathBuf,
}

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
    let crates = crates(&root)?;
    for one in &crates {
        let url = runtime.block_on(make_database(&root, &postgres.url(), &one.name))?;
        refresh(&root, one, &crates, &url)?;
        say(&format!("{}: {} queries", one.name, fs::read_dir(one.folder.join(".sqlx"))?.count()));
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

/// The crates with a `sqlx.toml`: those of the platform first, because the others are built on them.
fn crates(root: &Path) -> anyhow::Result<Vec<Crate>> {
    let mut crates = Vec::new();
    for family in ["platform", "functions"] {
        let mut folders = entries(&root.join(family))?;
        folders.retain(|folder| folder.join("sqlx.toml").exists());
        for folder in folders {
            let manifest = folder.join("Cargo.toml");
            let text =
                fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))?;
            let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
            let name = name.with_context(|| format!("{} names no package", manifest.display()))?.to_owned();
            crates.push(Crate { name, folder });
        }
    }
    Ok(crates)
}

/// A database with the tables that the crate's SQL is about.
async fn make_database(root: &Path, admin_url: &str, domain: &str) -> anyhow::Result<String> {
    let mut admin = PgConnection::connect(admin_url).await?;
    // Domains are words: nothing needs quoting. The role is the application's, from which migrations take rights.
    for sql in [format!("create role {domain}"), format!("create database {domain}_build")] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await?;
    }
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
    let mut files = entries(folder)?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
    Ok(files)
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// Lets the compiler ask the database about every query of the crate, its tests included.
fn refresh(root: &Path, Crate { name, folder }: &Crate, all: &[Crate], url: &str) -> anyhow::Result<()> {
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
    for other in all {
        cargo.env_remove(build_variable(&other.name));
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
