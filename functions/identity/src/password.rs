//! Passwords become Argon2id hashes, off the async threads, as many at once as there are cores.
//!
//! Each hash takes 19 MiB and some 30 ms of one core; more at once would only make all of them late.

use std::{
    sync::{Arc, LazyLock},
    thread::available_parallelism,
};

use anyhow::Context;
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{self, PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use contracts::identity::Secret;
use platform::Result;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// KiB of memory: the minimum that OWASP names for two passes.
const MEMORY: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Of no password that anybody knows, with the parameters above: for names that nobody has, so that
/// looking for them takes as long as a wrong password.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$b3V0Y3J5LW5vYm9keS0wMQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

static SLOTS: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from))));

/// The right to hash one password. Taken before the transaction begins, so that a connection is
/// never held by somebody who waits for a core.
pub struct Slot(OwnedSemaphorePermit);

/// Whether a password is the one that was hashed.
#[derive(PartialEq, Eq)]
pub enum Match {
    /// It is another one, or there was nothing to compare with.
    No,
    /// It is, and the hash is as strong as a new one would be.
    Yes,
    /// It is, and this hash is stronger than the stored one.
    Outdated(String),
}

/// Waits for a core.
pub async fn slot() -> Result<Slot> {
    let permit = Arc::clone(&SLOTS).acquire_owned().await;
    Ok(Slot(permit.context("wait for a core to hash on")?))
}

impl Slot {
    /// Hashes a new password; the result is a PHC string.
    pub async fn hash(self, password: Secret) -> Result<String> {
        self.run(move || hash(&password)).await
    }

    /// Compares a password with a stored hash. Works as hard when there is none.
    pub async fn verify(self, password: Secret, stored: Option<String>) -> Result<Match> {
        self.run(move || verify(&password, stored.as_deref())).await
    }

    async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = tokio::task::spawn_blocking(move || {
            // Given back when the work ends, even if nobody waits for it any more.
            let Self(_permit) = self;
            work()
        });
        Ok(done.await.context("hash a password")??)
    }
}

fn argon2() -> anyhow::Result<Argon2<'static>> {
    let params = Params::new(MEMORY, PASSES, LANES, None).context("the parameters of Argon2")?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &Secret) -> anyhow::Result<String> {
    let hash: PasswordHash = argon2()?.hash_password(password.0.as_bytes()).context("hash a password")?;
    Ok(hash.to_string())
}

fn verify(password: &Secret, stored: Option<&str>) -> anyhow::Result<Match> {
    let parsed = PasswordHash::new(stored.unwrap_or(NOBODY)).context("read a stored hash")?;
    match argon2()?.verify_password(password.0.as_bytes(), &parsed) {
        Ok(()) if stored.is_none() => Ok(Match::No),
        Ok(()) if is_outdated(&parsed)? => Ok(Match::Outdated(hash(password)?)),
        Ok(()) => Ok(Match::Yes),
        Err(password_hash::Error::PasswordInvalid) => Ok(Match::No),
        Err(error) => Err(error).context("compare with a stored hash"),
    }
}

/// Whether a hash is weaker than a new one. A stronger one stays: during a roll-out an old replica
/// must not undo what a new one did.
fn is_outdated(hash: &PasswordHash) -> anyhow::Result<bool> {
    let params = Params::try_from(hash).context("read the parameters of a stored hash")?;
    Ok(hash.algorithm.as_str() != "argon2id" || params.m_cost() < MEMORY || params.t_cost() < PASSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret(text.into())
    }

    fn is_match(verified: anyhow::Result<Match>) -> bool {
        verified.unwrap() != Match::No
    }

    #[test]
    fn a_hash_names_its_parameters_and_never_repeats() {
        let hashes = [1, 2].map(|_| hash(&secret("secret123")).unwrap());

        assert!(hashes[0].starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hashes[0]);
        assert_ne!(hashes[0], hashes[1]);
    }

    #[test]
    fn every_byte_of_a_long_password_counts() {
        let long = "pässwörd with späces ".repeat(11);
        let stored = hash(&secret(&long)).unwrap();

        assert!(verify(&secret(&long), Some(&stored)).unwrap() == Match::Yes);
        assert!(!is_match(verify(&secret(&long[..long.len() - 1]), Some(&stored))));
    }

    #[test]
    fn nobody_costs_as_much_as_somebody_and_never_matches() {
        let nobody = PasswordHash::new(NOBODY).unwrap();
        let somebody = PasswordHash::new(&hash(&secret("secret123")).unwrap()).unwrap();

        assert_eq!(nobody.params, somebody.params);
        assert_eq!(nobody.hash.unwrap().as_bytes().len(), somebody.hash.unwrap().as_bytes().len());
        assert_eq!(nobody.salt.unwrap().as_ref().len(), somebody.salt.unwrap().as_ref().len());
        assert!(!is_match(verify(&secret(""), None)));
    }

    #[test]
    fn a_weak_hash_is_replaced_and_a_stronger_one_kept() {
        let with = |memory, passes| {
            let params = Params::new(memory, passes, 1, None).unwrap();
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
            let hash: PasswordHash = argon2.hash_password(b"secret123").unwrap();
            hash.to_string()
        };

        let Match::Outdated(new) = verify(&secret("secret123"), Some(&with(8, 1))).unwrap() else { panic!() };
        assert!(verify(&secret("secret123"), Some(&new)).unwrap() == Match::Yes);
        assert!(verify(&secret("secret123"), Some(&with(MEMORY, 3))).unwrap() == Match::Yes);
        assert!(!is_match(verify(&secret("secret124"), Some(&with(8, 1)))));
    }

    #[tokio::test]
    async fn no_more_are_hashed_at_once_than_there_are_cores() {
        let cores = available_parallelism().unwrap().get();
        let mut slots = Vec::new();
        for _ in 0..cores {
            slots.push(slot().await.unwrap());
        }
        // Other tests of this process may hold some, but there is none left either way.
        assert!(SLOTS.try_acquire().is_err());

        slots.pop().unwrap().hash(secret("secret123")).await.unwrap();

        slots.push(slot().await.unwrap());
    }
}
