//! Configuration: one flat struct for each program, read from the environment by `envy`.
//!
//! Values come from the process environment, then from `.env` in development; `X_FILE` names a file
//! that holds the value of `X`, for secrets.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, bail};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{permissions, secrets};

/// What the runner needs to know. A function's own settings are its own struct, read with
/// [`Env::read`].
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// Where nats-server listens.
    #[serde(default = "default_nats_url")]
    pub nats_url: String,
    /// With `nats_password`; the part's own name when missing.
    pub nats_user: Option<String>,
    /// The password of `nats_user`.
    pub nats_password: Option<String>,
    /// Every part's password follows from it, where no user is named.
    pub nats_secret: Option<String>,
    /// Connections to each database.
    #[serde(default = "default_connections")]
    pub db_max_connections: u32,
    /// Seconds after which an unused connection is closed.
    #[serde(default = "default_idle")]
    pub db_max_idle_seconds: u64,
    /// Overrides how many transactions of one replica run at once.
    pub concurrency: Option<usize>,
    /// Overrides the most messages in one transaction.
    pub batch_max: Option<usize>,
    /// `development` or `production`.
    #[serde(default)]
    pub outcry_env: Mode,
    /// `pretty` or `json`; the default follows `outcry_env`.
    pub log_format: Option<LogFormat>,
    /// What is logged, in the syntax of `tracing_subscriber::EnvFilter`.
    pub rust_log: Option<String>,
    /// Names this process among those that serve the same function; random when missing.
    pub outcry_instance: Option<String>,
    /// Hours that published outbox rows stay, so that a lost tail of the stream can be replaced.
    #[serde(default = "default_outbox_hours")]
    pub outbox_retention_hours: u32,
    /// How large a domain's outbox may be, in bytes; published rows leave earlier then.
    #[serde(default = "default_outbox_bytes")]
    pub outbox_max_bytes: u64,
}

impl Config {
    /// Where nats-server listens, without the login that the URL may hold: for people and logs.
    pub fn nats_address(&self) -> String {
        match self.nats_url.split_once("://").zip(self.nats_url.rsplit_once('@')) {
            Some(((scheme, _), (_, place))) => format!("{scheme}://{place}"),
            None => self.nats_url.clone(),
        }
    }

    /// The user and the password with which a part comes to the bus: those that are set, else those in the URL, else its
    /// own, which follow from the secret. None where there is none of these.
    pub fn login(&self, part: &str) -> Option<(String, String)> {
        if let Some(password) = &self.nats_password {
            let user = self.nats_user.as_deref().unwrap_or(part);
            return Some((user.to_owned(), password.clone()));
        }
        if let Ok(url) = url::Url::parse(&self.nats_url)
            && let Some(password) = url.password()
        {
            return Some((url.username().to_owned(), password.to_owned()));
        }
        let secret = self.nats_secret.as_ref()?;
        Some((part.to_owned(), permissions::password_of(part, secret)))
    }
}

/// How careful the platform is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// On a laptop: no limits, `.env` is read.
    #[default]
    Development,
    /// For real.
    Production,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One object a line.
    Json,
}

fn default_nats_url() -> String {
    "nats://127.0.0.1:4222".into()
}
fn default_connections() -> u32 {
    8
}
fn default_idle() -> u64 {
    300
}
fn default_outbox_hours() -> u32 {
    24
}
fn default_outbox_bytes() -> u64 {
    8 << 30
}

/// What each variable expects, with an example; shown when a value cannot be read.
const EXPECTED: &[(&str, &str, &str)] = &[
    ("NATS_URL", "the address of nats-server", "nats://127.0.0.1:4222"),
    (
        "DATABASE_URL",
        "a Postgres URL of an administrator",
        "postgres://postgres:secret@127.0.0.1:5432/postgres",
    ),
    ("PORT", "a port number", "8080"),
    ("DB_MAX_CONNECTIONS", "a whole number above 0", "8"),
    ("DB_MAX_IDLE_SECONDS", "a whole number of seconds", "300"),
    ("CACHE_ENTRIES", "a whole number of entries, or 0 to keep nothing", "10000"),
    ("CONCURRENCY", "a whole number above 0", "4"),
    ("BATCH_MAX", "a whole number above 0", "256"),
    ("OUTCRY_ENV", "development or production", "development"),
    ("LOG_FORMAT", "pretty or json", "json"),
    ("OUTBOX_RETENTION_HOURS", "a whole number of hours", "24"),
    ("OUTBOX_MAX_BYTES", "a whole number of bytes", "8589934592"),
    ("EXTENSION_WINDOW_SECS", "0 to 3600 seconds", "120"),
    ("JWT_ISSUER", "a name or URL", "outcry"),
    ("REFRESH_GRACE_SECS", "0 to 60 seconds", "10"),
    ("PASSWORD_BLOCKLIST", "on or off", "on"),
    ("JWT_KEY_FILE", "the path of an Ed25519 key in PEM", ".outcry/jwt-key.pem"),
    ("TWO_FACTOR_KEY_FILE", "the path of a file with 32 bytes in base64", ".outcry/two-factor-key"),
    ("OUTCRY_DATA", "a folder", ".outcry"),
    ("CORS_ORIGINS", "origins separated by commas", "https://outcry.example"),
    ("EDGE_KEY", "at least 32 characters", "the output of `openssl rand -hex 32`"),
    ("RATE_LIMIT", "a whole number of requests a second, or 0 for no limit", "100"),
    ("LOGIN_LIMIT", "a whole number of failed logins, or 0 for no limit", "5"),
    ("REGISTER_LIMIT", "a whole number of registrations an hour, or 0 for no limit", "10"),
    ("METRICS_TOKEN", "at least 32 characters", "the output of `openssl rand -hex 32`"),
];

/// Where a platform keeps its data when `OUTCRY_DATA` does not say.
pub const DATA: &str = ".outcry";
/// The note in that folder, by which functions and the command line join a platform that runs.
pub const RUNNING: &str = "running.env";

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    // Made anew, so that the mode is this one whatever was there.
    let _ = std::fs::remove_file(path);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}

/// `NATS_URL`, `DATABASE_URL`, `AUCTIONS_DATABASE_URL` and so on.
fn is_address_of_service(name: &str) -> bool {
    name == "NATS_URL" || name.ends_with("DATABASE_URL")
}

/// The variables a program was started with.
#[derive(Debug, Clone, Default)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// Reads the process environment, `.env` in development, and the files that `X_FILE` names. In production an error
    /// names a secret that somebody might guess.
    pub fn load() -> anyhow::Result<Self> {
        let mut variables: BTreeMap<String, String> = std::env::vars().collect();
        if variables.get("OUTCRY_ENV").map(String::as_str) != Some("production") && Path::new(".env").exists()
        {
            for (name, value) in Self::of_file(Path::new(".env"))?.0 {
                variables.entry(name).or_insert(value);
            }
        }
        let mut env = Self(variables);
        env.read_files()?;
        if env.get("OUTCRY_ENV") == Some("production") {
            secrets::check(&env)?;
        }
        if env.get("JWT_SECRET").is_some() {
            tracing::warn!("JWT_SECRET is ignored: tokens are signed with the key in JWT_KEY_FILE");
        }
        Ok(env)
    }

    /// The same, joined to the platform that runs here: what is not set is taken from the note that it keeps in
    /// its data folder. In development only: in production everything is said. And not by halves: whoever names another
    /// nats-server or database than the note means another platform.
    pub fn load_joined() -> anyhow::Result<Self> {
        let mut env = Self::load()?;
        env.join()?;
        Ok(env)
    }

    fn join(&mut self) -> anyhow::Result<()> {
        let note = Path::new(self.get("OUTCRY_DATA").unwrap_or(DATA)).join(RUNNING);
        if self.get("OUTCRY_ENV") == Some("production") || !note.exists() {
            return Ok(());
        }
        let note = Self::of_file(&note)?;
        let is_elsewhere = |(name, value): (&String, &String)| {
            is_address_of_service(name) && note.get(name) != Some(value.as_str())
        };
        if !self.0.iter().any(is_elsewhere) {
            for (name, value) in note.0 {
                self.0.entry(name).or_insert(value);
            }
        }
        Ok(())
    }

    /// The variables by which whoever joins reaches the same nats-server and the same databases.
    pub fn services(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_login = |name: &str| matches!(name, "NATS_USER" | "NATS_PASSWORD" | "NATS_SECRET");
        self.iter().filter(move |(name, _)| is_address_of_service(name) || is_login(name))
    }

    /// The variables of a file of `name=value` lines.
    pub fn of_file(path: &Path) -> anyhow::Result<Self> {
        let unread = || format!("read {}", path.display());
        let entries = dotenvy::from_path_iter(path).with_context(unread)?;
        entries.map(|entry| entry.with_context(unread)).collect::<anyhow::Result<_>>().map(Self)
    }

    /// Writes the note by which others find a platform, `name="value"` lines.
    pub fn note(path: &Path, variables: &[(&str, &str)]) -> anyhow::Result<()> {
        let escape = |value: &str| value.replace('\\', r"\\").replace('"', r#"\""#).replace('$', r"\$");
        let lines = variables.iter().map(|(name, value)| format!("{name}=\"{}\"\n", escape(value)));
        write_private(path, &lines.collect::<String>())
    }

    /// All variables.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Replaces `X_FILE=path` by the content of the file, for every X that is a secret, and for the instance, which a
    /// container finds in `/etc/hostname`.
    fn read_files(&mut self) -> anyhow::Result<()> {
        let is_secret = |name: &str| {
            name.ends_with("PASSWORD")
                || name.ends_with("DATABASE_URL")
                || ["EDGE_KEY", "METRICS_TOKEN", "NATS_SECRET", "OUTCRY_INSTANCE"].contains(&name)
        };
        let files: Vec<(String, String)> = self
            .0
            .iter()
            .filter(|(_, path)| !path.is_empty())
            .filter_map(|(name, path)| {
                let secret = name.strip_suffix("_FILE").filter(|secret| is_secret(secret))?;
                Some((secret.to_owned(), path.clone()))
            })
            .collect();
        for (name, path) in files {
            let content = std::fs::read_to_string(&path)
                .with_context(|| format!("{name}_FILE names {path}, which cannot be read"))?;
            self.0.insert(name, content.trim_end().to_owned());
        }
        Ok(())
    }

    /// These variables and no others; for tests.
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }

    /// The value of a variable; an empty one counts as missing.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Sets a variable for this process's own functions.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Reads a struct whose fields are named like the variables, in lower case.
    pub fn read<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        let variables = self.0.iter().filter(|(_, value)| !value.is_empty());
        envy::from_iter(variables.map(|(name, value)| (name.clone(), value.clone()))).or_else(|error| {
            let text = match &error {
                envy::Error::MissingValue(field) => format!("{} is not set", field.to_uppercase()),
                envy::Error::Custom(text) => text.clone(),
            };
            match EXPECTED.iter().find(|(name, _, _)| self.blames(name, &text)) {
                Some((name, expects, example)) => {
                    bail!("{name}: expected {expects}, for example {name}={example} ({text})")
                }
                None => bail!("{text}"),
            }
        })
    }

    /// Whether the error text speaks of the variable. For a value that is not one of an enum's
    /// words, serde names the value but not the variable.
    fn blames(&self, name: &str, text: &str) -> bool {
        let words = |text: &str, word: &str| {
            text.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|part| part == word)
        };
        words(text, name)
            || (text.contains("unknown variant")
                && self.get(name).is_some_and(|value| text.contains(&format!("`{value}`"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_default() {
        let config: Config = Env::default().read().unwrap();

        assert_eq!(config.nats_url, "nats://127.0.0.1:4222");
        assert_eq!(config.outcry_env, Mode::Development);
    }

    #[test]
    fn a_wrong_value_is_answered_with_variable_expectation_and_example() {
        for (name, value) in [("DB_MAX_CONNECTIONS", "many"), ("LOG_FORMAT", "xml")] {
            let error = Env::of([(name, value)]).read::<Config>().unwrap_err().to_string();

            assert!(error.starts_with(&format!("{name}: expected ")), "{error}");
            assert!(error.contains(&format!("for example {name}=")), "{error}");
        }
    }

    #[test]
    fn a_function_started_alone_joins_the_platform_that_runs() {
        use std::os::unix::fs::PermissionsExt;
        let data = std::env::temp_dir().join(format!("outcry-joined-{}", std::process::id()));
        std::fs::create_dir_all(&data).unwrap();
        let note = data.join(RUNNING);
        Env::note(&note, &[("NATS_URL", "nats://127.0.0.1:4999"), ("DB_MAX_CONNECTIONS", "3")]).unwrap();
        let (quoted, odd) = (data.join("quoted.env"), r#"a'b"c$d\e"#);
        Env::note(&quoted, &[("NATS_PASSWORD", odd)]).unwrap();
        assert_eq!(Env::of_file(&quoted).unwrap().get("NATS_PASSWORD"), Some(odd));

        let mut env = Env::of([("DB_MAX_CONNECTIONS", "5"), ("OUTCRY_DATA", data.to_str().unwrap())]);
        env.join().unwrap();
        let mut production = Env::of([("OUTCRY_ENV", "production"), ("OUTCRY_DATA", data.to_str().unwrap())]);
        production.join().unwrap();
        let there = ("NATS_URL", "nats://127.0.0.1:4999");
        let mut same = Env::of([there, ("OUTCRY_DATA", data.to_str().unwrap())]);
        same.join().unwrap();
        let other = ("STATS_DATABASE_URL", "postgres://stats@elsewhere/stats");
        let mut elsewhere = Env::of([other, ("OUTCRY_DATA", data.to_str().unwrap())]);
        elsewhere.join().unwrap();

        assert_eq!(env.get("NATS_URL"), Some("nats://127.0.0.1:4999"));
        assert_eq!(env.get("DB_MAX_CONNECTIONS"), Some("5"), "what is set is not changed");
        assert_eq!(production.get("NATS_URL"), None);
        assert_eq!(same.get("DB_MAX_CONNECTIONS"), Some("3"));
        assert_eq!(elsewhere.get("NATS_URL"), None, "half of one platform and half of another is none");
        assert_eq!(std::fs::metadata(&note).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(data).unwrap();
    }

    #[test]
    fn a_part_comes_with_what_is_set_else_as_the_url_says_else_as_itself() {
        let login = |variables: [(&str, &str); 3]| {
            Env::of(variables).read::<Config>().unwrap().login("edge").map(|(user, _)| user)
        };
        let url = ("NATS_URL", "nats://ann:x@127.0.0.1:4222");
        let (user, password, secret) = (("NATS_USER", "bob"), ("NATS_PASSWORD", "y"), ("NATS_SECRET", "z"));

        assert_eq!(login([url, user, password]).as_deref(), Some("bob"));
        assert_eq!(login([url, password, secret]).as_deref(), Some("edge"));
        assert_eq!(login([url, user, secret]).as_deref(), Some("ann"), "a user alone is no login");
        assert_eq!(login([secret, secret, secret]).as_deref(), Some("edge"));
        assert_eq!(login([user, user, user]), None);
        let config: Config = Env::of([url]).read().unwrap();
        assert_eq!(config.nats_address(), "nats://127.0.0.1:4222");
    }

    #[test]
    fn a_secret_may_come_from_a_file() {
        let file = std::env::temp_dir().join(format!("outcry-secret-{}", std::process::id()));
        std::fs::write(&file, "s3cret\n").unwrap();
        let mut env = Env::of([("NATS_PASSWORD_FILE", file.to_str().unwrap())]);

        env.read_files().unwrap();

        assert_eq!(env.get("NATS_PASSWORD"), Some("s3cret"));
        std::fs::remove_file(file).unwrap();
        let mut none = Env::of([("NATS_PASSWORD_FILE", "")]);
        none.read_files().unwrap();
        assert_eq!(none.get("NATS_PASSWORD"), None);
    }
}
