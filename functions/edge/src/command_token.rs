//! The name of an undecided command, as its owner knows it: what it is and whose, signed.
//!
//! Nothing has to be stored to find a command again, and nobody can name one that was not theirs to send.

use anyhow::ensure;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use platform::{Timestamp, UserId};
use sha2::Sha256;
use uuid::Uuid;

/// Length of the signature.
const SIGNATURE: usize = 32;
/// The shortest `EDGE_KEY`.
const SHORTEST: usize = 32;

/// Signs names of commands, and reads its own.
#[derive(Clone)]
pub struct CommandKey([u8; 32]);

/// What a name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The domain that keeps the outcome.
    pub domain: String,
    /// The function that decides.
    pub function: String,
    /// The id under which the outcome is kept.
    pub id: Uuid,
    /// When it was given, in whole seconds.
    pub issued: Timestamp,
    /// Who may see it; anyone who has the name when there is none.
    pub owner: Option<UserId>,
}

impl CommandKey {
    /// A key made from this secret, or a random one.
    pub fn new(secret: Option<&str>) -> anyhow::Result<Self> {
        let Some(secret) = secret else { return Ok(Self(rand::random())) };
        ensure!(secret.len() >= SHORTEST, "EDGE_KEY: expected at least {SHORTEST} random characters");
        let mut key = [0; 32];
        for (byte, part) in key.iter_mut().zip(mac(secret.as_bytes(), b"command names")) {
            *byte = part;
        }
        Ok(Self(key))
    }

    /// The name of a command.
    pub fn sign(&self, named: &Named) -> String {
        let Named { domain, function, id, issued, owner } = named;
        let owner = owner.map(|owner| owner.to_string()).unwrap_or_default();
        let text = format!("{domain}.{function}.{id}.{}.{owner}", issued.unix_seconds());
        let mut token = mac(&self.0, text.as_bytes()).to_vec();
        token.extend_from_slice(text.as_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// What the name says, if this key made it.
    pub fn read(&self, token: &str) -> Option<Named> {
        let token = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (signature, text) = token.split_at_checked(SIGNATURE)?;
        let mut expected = keyed(&self.0);
        expected.update(text);
        expected.verify_slice(signature).ok()?;
        let mut parts = std::str::from_utf8(text).ok()?.split('.');
        let named = Named {
            domain: parts.next()?.to_owned(),
            function: parts.next()?.to_owned(),
            id: parts.next()?.parse().ok()?,
            issued: Timestamp::from_unix_nanos(parts.next()?.parse::<i128>().ok()? * 1_000_000_000)?,
            owner: match parts.next()? {
                "" => None,
                owner => Some(UserId(owner.parse().ok()?)),
            },
        };
        parts.next().is_none().then_some(named)
    }
}

fn mac(key: &[u8], text: &[u8]) -> [u8; SIGNATURE] {
    let mut mac = keyed(key);
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(owner: Option<UserId>) -> Named {
        let issued = Timestamp::parse("2026-11-21T02:21:44Z").unwrap();
        Named { domain: "auctions".into(), function: "place-bid".into(), id: Uuid::now_v7(), issued, owner }
    }

    #[test]
    fn a_name_reads_back_with_the_key_that_made_it_and_no_other() {
        let key = CommandKey::new(None).unwrap();
        for owner in [None, Some(UserId(Uuid::now_v7()))] {
            let named = named(owner);

            let token = key.sign(&named);

            assert_eq!(key.read(&token), Some(named));
            assert_eq!(CommandKey::new(None).unwrap().read(&token), None);
        }
    }

    #[test]
    fn a_changed_name_is_nobodys() {
        let key = CommandKey::new(None).unwrap();
        let token = key.sign(&named(None));

        for end in 0..token.len() {
            assert_eq!(key.read(&token[..end]), None);
        }
        for at in 0..token.len() - 1 {
            let other = if &token[at..=at] == "A" { "B" } else { "A" };
            let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            assert_eq!(key.read(&changed), None);
        }
    }

    #[test]
    fn replicas_with_the_same_secret_read_each_others_names() {
        let secret = Some("0123456789abcdef0123456789abcdef");
        let token = CommandKey::new(secret).unwrap().sign(&named(None));

        assert!(CommandKey::new(secret).unwrap().read(&token).is_some());
        assert!(CommandKey::new(Some("short")).is_err());
    }
}
