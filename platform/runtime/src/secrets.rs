//! What production takes for a secret: nothing short, nothing that stands in an example.

use anyhow::bail;

use crate::config::Env;

/// Words of examples and defaults. Random letters and digits hold none of them.
const EXAMPLES: [&str; 7] =
    ["secret", "password", "changeme", "change-me", "change_me", "example", "default"];
/// The fewest characters of a key, from which something follows that others see.
const KEY: usize = 32;
/// The fewest characters of a password, which a server checks.
const PASSWORD: usize = 16;
/// A random secret of that length has more different characters than this.
const DIFFERENT: usize = 8;

/// Refuses secrets that somebody might guess. For production.
pub(crate) fn check(env: &Env) -> anyhow::Result<()> {
    for (name, value) in env.iter().filter(|(_, value)| !value.is_empty()) {
        if ["EDGE_KEY", "METRICS_TOKEN", "NATS_SECRET"].contains(&name) {
            check_one(name, value, KEY)?;
        } else if name == "NATS_PASSWORD" {
            check_one(name, value, PASSWORD)?;
        } else if (name == "NATS_URL" || name.ends_with("DATABASE_URL"))
            && let Ok(url) = url::Url::parse(value)
            && let Some(password) = url.password()
        {
            check_one(&format!("the password in {name}"), password, PASSWORD)?;
        }
    }
    Ok(())
}

/// The message does not repeat the secret: it may be the right one with a slip.
fn check_one(name: &str, secret: &str, fewest: usize) -> anyhow::Result<()> {
    let lower = secret.to_lowercase();
    let different = lower.chars().collect::<std::collections::BTreeSet<_>>().len();
    let why = if secret.len() < fewest {
        format!("has fewer than {fewest} characters")
    } else if EXAMPLES.iter().any(|word| lower.contains(word)) {
        "looks like an example".to_owned()
    } else if different < DIFFERENT {
        "repeats a few characters".to_owned()
    } else {
        return Ok(());
    };
    bail!(
        "{name} {why}, and OUTCRY_ENV is production: take a random one, for example the output of `openssl rand -hex 32` \
         (`deploy/secrets` makes those of the containers)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: &str = "28a2a5f8ed6f71b8eb265e673fbd3cd57b1cae1d9bb40c0b6d0f4a7e9c1d2b3a";

    #[test]
    fn short_secrets_and_those_of_examples_are_refused_by_name_and_not_repeated() {
        let database = |password: &str| format!("postgres://lamps:{password}@db:5432/lamps");
        for (name, value) in [
            ("EDGE_KEY", "your-secret-key".to_owned()),
            ("EDGE_KEY", "change-me-in-production-change-me-in-production".to_owned()),
            ("METRICS_TOKEN", RANDOM[..31].to_owned()),
            ("NATS_SECRET", "a".repeat(64)),
            ("NATS_PASSWORD", "outcry".to_owned()),
            ("NATS_URL", "nats://edge:pw@nats:4222".to_owned()),
            ("DATABASE_URL", database("postgres")),
            ("LAMPS_DATABASE_URL", database("secretsecretsecret12")),
        ] {
            let error = check(&Env::of([(name, value.as_str())])).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("openssl rand -hex 32"), "{error}");
            assert!(!error.contains(&value), "{error}");
        }
    }

    #[test]
    fn random_secrets_are_taken() {
        let database = format!("postgres://lamps:{RANDOM}@db:5432/lamps");
        let env = Env::of([
            ("EDGE_KEY", RANDOM),
            ("METRICS_TOKEN", &RANDOM[..32]),
            ("NATS_PASSWORD", RANDOM),
            ("NATS_URL", "nats://nats:4222"),
            ("LAMPS_DATABASE_URL", &database),
            ("RUST_LOG", "info"),
        ]);

        check(&env).unwrap();
    }
}
