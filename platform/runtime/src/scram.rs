//! What Postgres keeps of a password, made here: so the password itself is in no statement, and in no log of statements.

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// How often a password is hashed. Postgres' 4,096 slow down who guesses what people choose; these are long and random,
/// or follow from an administrator's, which Postgres keeps itself. Whoever connects must hash as often, and sqlx goes
/// to the end of the runtime's queue after every fifth time: under load a connection took up to 3 s so.
const ITERATIONS: u32 = 8;

/// The verifier of a password of letters and digits, as `create role .. password` takes it: RFC 5803 in Postgres' writing.
/// Another one each time.
pub(crate) fn verifier(password: &str) -> String {
    with_salt(password, Uuid::new_v4().as_bytes(), ITERATIONS)
}

fn with_salt(password: &str, salt: &[u8], iterations: u32) -> String {
    let salted = salted(password, salt, iterations);
    let stored = Sha256::digest(hmac(&salted, &[b"Client Key"]));
    let server = hmac(&salted, &[b"Server Key"]);
    let [salt, stored, server] = [salt, &stored[..], &server[..]].map(|bytes| BASE64_STANDARD.encode(bytes));
    format!("SCRAM-SHA-256${iterations}:{salt}${stored}:{server}")
}

/// `Hi` of RFC 5802.
fn salted(password: &str, salt: &[u8], iterations: u32) -> [u8; 32] {
    let mut last = hmac(password.as_bytes(), &[salt, &1_u32.to_be_bytes()]);
    let mut all = last;
    for _ in 1..iterations {
        last = hmac(password.as_bytes(), &[&last]);
        for (all, last) in all.iter_mut().zip(last) {
            *all ^= last;
        }
    }
    all
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The conversation of RFC 7677, section 3: its client proves itself to what is kept here.
    #[test]
    fn the_example_of_the_standard_is_proven_to_the_verifier() {
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let said = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
                    r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
                    c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = BASE64_STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();

        let verifier = with_salt("pencil", &salt, 4096);

        let keys = verifier.strip_prefix("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$").unwrap();
        let (stored, server) = keys.split_once(':').unwrap();
        let stored = BASE64_STANDARD.decode(stored).unwrap();
        let signature = hmac(&stored, &[said.as_bytes()]);
        let client: Vec<u8> =
            proof.iter().zip(signature).map(|(proof, signature)| proof ^ signature).collect();
        assert_eq!(Sha256::digest(client)[..], stored);
        let server = BASE64_STANDARD.decode(server).unwrap();
        let signature = BASE64_STANDARD.encode(hmac(&server, &[said.as_bytes()]));
        assert_eq!(signature, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn two_verifiers_of_one_password_differ() {
        assert_ne!(verifier("28a2a5f8ed6f71b8"), verifier("28a2a5f8ed6f71b8"));
    }
}
