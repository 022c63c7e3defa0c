//! The seeds of authenticators at rest: sealed with XChaCha20-Poly1305, each for its account alone.
//!
//! The key is a file beside the one that signs tokens and has nothing to do with it, so that signing keys can change and
//! every authenticator goes on. It is made when it is missing. Without it nobody's authenticator counts: recovery
//! codes do.

use std::{fmt, fs, path::PathBuf};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use platform::{Env, UserId};
use serde::Deserialize;

use crate::keys;

/// Bytes in front of what is sealed.
const NONCE: usize = 24;

#[derive(Deserialize)]
struct Settings {
    #[serde(default = "keys::default_key_file")]
    jwt_key_file: PathBuf,
    two_factor_key_file: Option<PathBuf>,
}

/// Seals and opens seeds.
pub struct SeedKey(XChaCha20Poly1305);

impl fmt::Debug for SeedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeedKey(***)")
    }
}

impl SeedKey {
    /// Reads TWO_FACTOR_KEY_FILE, `two-factor-key` beside JWT_KEY_FILE when that is not set; makes the key when there is no such
    /// file.
    pub fn load(env: &Env) -> anyhow::Result<Self> {
        let settings: Settings = env.read()?;
        let path = settings
            .two_factor_key_file
            .unwrap_or_else(|| settings.jwt_key_file.with_file_name("two-factor-key"));
        let shown = path.display();
        if !path.exists() {
            let key: [u8; 32] = rand::random();
            keys::put(&path, &format!("{}\n", STANDARD.encode(key))).with_context(|| {
                format!("TWO_FACTOR_KEY_FILE: cannot make {shown}: name a file in a folder that this process may write")
            })?;
        }
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "TWO_FACTOR_KEY_FILE: cannot read {shown}: let this process read it, or name another file"
            )
        })?;
        Self::of(text.trim()).with_context(|| {
            format!("TWO_FACTOR_KEY_FILE: {shown} is not a key of 32 bytes in base64: restore it")
        })
    }

    fn of(text: &str) -> anyhow::Result<Self> {
        let key = STANDARD.decode(text)?;
        Ok(Self(XChaCha20Poly1305::new_from_slice(&key).map_err(|_| anyhow::anyhow!("{} bytes", key.len()))?))
    }

    /// The seed as it may be stored for this account.
    pub(crate) fn seal(&self, user: UserId, seed: &[u8]) -> anyhow::Result<Vec<u8>> {
        let nonce: [u8; NONCE] = rand::random();
        let payload = Payload { msg: seed, aad: user.0.as_bytes() };
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| anyhow::anyhow!("a seed cannot be sealed"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// The seed that was sealed for this account.
    pub(crate) fn open(&self, user: UserId, stored: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (nonce, sealed) = stored.split_first_chunk::<NONCE>().context("a stored seed is too short")?;
        let payload = Payload { msg: sealed, aad: user.0.as_bytes() };
        let seed = self.0.decrypt(&XNonce::from(*nonce), payload);
        seed.map_err(|_| anyhow::anyhow!("a stored seed was sealed with another key, or for somebody else"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use uuid::Uuid;

    use super::*;

    const ANN: UserId = UserId(Uuid::from_u128(1));
    const BOB: UserId = UserId(Uuid::from_u128(2));

    fn key(byte: u8) -> SeedKey {
        SeedKey::of(&STANDARD.encode([byte; 32])).unwrap()
    }

    #[test]
    fn a_seed_opens_with_its_key_for_its_account_and_never_looks_the_same() {
        let (seed, sealed) = (b"a seed of twenty byt", key(1).seal(ANN, b"a seed of twenty byt").unwrap());

        assert_eq!(key(1).open(ANN, &sealed).unwrap(), seed);
        assert_ne!(key(1).seal(ANN, seed).unwrap(), sealed);
        assert!(!sealed.windows(6).any(|part| part == b"twenty"));
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        for (key, user, stored) in [
            (key(1), BOB, &sealed[..]),
            (key(2), ANN, &sealed),
            (key(1), ANN, &changed),
            (key(1), ANN, b"short"),
        ] {
            key.open(user, stored).unwrap_err();
        }
    }

    #[test]
    fn the_key_is_made_once_beside_the_other_and_what_is_no_key_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::of([("JWT_KEY_FILE", folder.path().join("jwt-key.pem").to_str().unwrap())]);
        let path = folder.path().join("two-factor-key");

        let sealed = SeedKey::load(&env).unwrap().seal(ANN, b"seed").unwrap();

        assert_eq!(SeedKey::load(&env).unwrap().open(ANN, &sealed).unwrap(), b"seed");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for content in ["", "garbage!", "c2hvcnQ="] {
            fs::write(&path, content).unwrap();
            let error = SeedKey::load(&env).unwrap_err().to_string();
            assert!(error.starts_with("TWO_FACTOR_KEY_FILE: ") && error.ends_with("restore it"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }
}
