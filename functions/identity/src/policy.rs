//! Which passwords are refused beside those that are too short: those that are tried first.
//!
//! How soon a password is tried is estimated by `zxcvbn`, which knows some thirty thousand that people chose before, words
//! and names, and how they are varied; what the account is called counts as such a word. There are no rules about kinds
//! of characters (security.md 2.2, ASVS 6.2.5).

use contracts::identity::Secret;
use platform::{Env, Kind, Refused, config::Mode};
use serde::Deserialize;

/// Refused is what is found within this many guesses: as many as somebody who is throttled can make in some years.
const GUESSES: u64 = 1_000_000;
/// Of a longer password only the beginning is looked at: the estimate takes time with the square of it.
const LOOKED_AT: usize = 72;
/// Words of ours that come to mind here.
const CONTEXT: [&str; 3] = ["outcry", "auction", "bidder"];

#[derive(Deserialize)]
struct Settings {
    password_blocklist: Option<Switch>,
    #[serde(default)]
    outcry_env: Mode,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switch {
    On,
    Off,
}

/// Which passwords are refused.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    refuses_common: bool,
}

impl Policy {
    /// Reads PASSWORD_BLOCKLIST; on in production and off in development when missing.
    pub fn load(env: &Env) -> anyhow::Result<Self> {
        let settings: Settings = env.read()?;
        let refuses_common = match settings.password_blocklist {
            Some(Switch::On) => true,
            Some(Switch::Off) => false,
            None => settings.outcry_env == Mode::Production,
        };
        Ok(Self { refuses_common })
    }

    /// Refuses with `COMMON_PASSWORD` a password that is tried early, also because it is made of what the account is called.
    pub fn check(&self, member: &str, password: &Secret, account: &[&str]) -> Result<(), Refused> {
        if !self.refuses_common || !is_common(&password.0, account) {
            return Ok(());
        }
        let message = "is one of those that are tried first; choose a longer or a rarer one";
        let mut refused = Refused::invalid_member(member, message);
        refused.code = "COMMON_PASSWORD".into();
        debug_assert_eq!(refused.status, Kind::Invalid.status());
        Err(refused)
    }
}

fn is_common(password: &str, account: &[&str]) -> bool {
    let beginning: String = password.chars().take(LOOKED_AT).collect();
    // An e-mail is thought of in its parts.
    let words = account.iter().flat_map(|name| name.split(|c: char| !c.is_alphanumeric()).chain([*name]));
    let words: Vec<&str> = words.chain(CONTEXT).filter(|word| word.len() > 2).collect();
    zxcvbn::zxcvbn(&beginning, &words).guesses() < GUESSES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(variables: &[(&str, &str)]) -> Policy {
        let mut env = Env::default();
        variables.iter().for_each(|(name, value)| env.set(name, *value));
        Policy::load(&env).unwrap()
    }

    fn code(policy: Policy, password: &str) -> Option<String> {
        let account = ["john.doe@test.com", "johnny", "John Doe"];
        let refused = policy.check("password", &Secret(password.into()), &account).err()?;
        assert!(refused.details.unwrap().starts_with("password: ") && refused.status == 400);
        Some(refused.code.into_owned())
    }

    /// S-04.
    #[test]
    fn what_is_tried_first_is_refused() {
        let production = policy(&[("PASSWORD_BLOCKLIST", "on")]);

        for common in [
            "password123",
            "secret123",
            "qwertyuiop",
            "P@ssw0rd",
            "johnnydoe",
            "auction1",
            "12345678",
            "aaaaaaaaaaaa",
        ] {
            assert_eq!(code(production, common).as_deref(), Some("COMMON_PASSWORD"), "{common}");
        }
        for rare in [
            "correct horse battery",
            "vK7#tq9z!w",
            "wärmepumpenfinsternis",
            "Unter den Kastanien wartet niemand auf den letzten Zug nach Norden, sagte sie",
        ] {
            assert_eq!(code(production, rare), None, "{rare}");
        }
    }

    #[test]
    fn it_is_on_in_production_and_off_in_development_unless_said_otherwise() {
        let refuses = |variables: &[(&str, &str)]| code(policy(variables), "password123").is_some();

        assert!(!refuses(&[]));
        assert!(refuses(&[("OUTCRY_ENV", "production")]));
        assert!(!refuses(&[("OUTCRY_ENV", "production"), ("PASSWORD_BLOCKLIST", "off")]));
        assert!(Policy::load(&Env::of([("PASSWORD_BLOCKLIST", "yes")])).is_err());
    }
}
