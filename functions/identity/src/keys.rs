//! The keys that sign access tokens and compute refresh tokens: both come from one file.
//!
//! Every function of the domain reads the same file. It is made when it is missing, so that a first
//! start needs no preparation.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use aws_lc_rs::{encoding::AsBigEndian, hmac, rand::SystemRandom, signature::Ed25519KeyPair};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use contracts::identity::{Claims, Secret, TOKEN_TYPE};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash},
};
use platform::Env;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

/// Keeps the refresh key apart from whatever else may come to be derived from the private key.
const REFRESH_LABEL: &[u8] = b"outcry refresh token v1";

#[derive(Deserialize)]
struct Settings {
    #[serde(default = "default_issuer")]
    jwt_issuer: String,
    #[serde(default = "default_key_file")]
    jwt_key_file: PathBuf,
}

fn default_issuer() -> String {
    "outcry".into()
}

fn default_key_file() -> PathBuf {
    ".outcry/jwt-key.pem".into()
}

/// Signs access tokens and computes refresh tokens.
pub struct Keys {
    issuer: String,
    header: Header,
    signing: EncodingKey,
    refresh: hmac::Key,
    jwks: Value,
}

impl Keys {
    /// Reads JWT_KEY_FILE and JWT_ISSUER; makes the key when there is no such file.
    pub fn load(env: &Env) -> anyhow::Result<Self> {
        let settings: Settings = env.read()?;
        let path = &settings.jwt_key_file;
        let shown = path.display();
        if !path.exists() {
            make(path).with_context(|| {
                format!(
                    "JWT_KEY_FILE: cannot make {shown}: name a file in a folder that this process may write"
                )
            })?;
        }
        let pem = fs::read(path).with_context(|| {
            format!("JWT_KEY_FILE: cannot read {shown}: let this process read it, or name another file")
        })?;
        Self::from_pem(&pem, settings.jwt_issuer).with_context(|| {
            format!(
                "JWT_KEY_FILE: {shown} is not an Ed25519 key in PEM (PKCS#8): restore it, or remove it and a new one \
                 is made, which ends all sessions"
            )
        })
    }

    fn from_pem(pem: &[u8], issuer: String) -> anyhow::Result<Self> {
        let given = EncodingKey::from_ed_pem(pem)?;
        let pair = Ed25519KeyPair::from_pkcs8(given.as_bytes())?;
        // jsonwebtoken reads only version 1 of PKCS#8, the one without the public key.
        let signing = EncodingKey::from_ed_der(pair.to_pkcs8v1()?.as_ref());
        let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::EdDSA)?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TOKEN_TYPE.into());
        header.kid = Some(kid);
        let seed = hmac::Key::new(hmac::HMAC_SHA256, pair.seed()?.as_be_bytes()?.as_ref());
        let refresh = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&seed, REFRESH_LABEL).as_ref());
        let jwks = serde_json::to_value(JwkSet { keys: vec![jwk] })?;
        Ok(Self { issuer, header, signing, refresh, jwks })
    }

    /// Who the tokens say made them.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The access token that says this.
    pub fn sign(&self, claims: &Claims) -> anyhow::Result<Secret> {
        let token = jsonwebtoken::encode(&self.header, claims, &self.signing).context("sign a token")?;
        Ok(Secret(token))
    }

    /// The public keys that access tokens verify with (RFC 7517).
    pub fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// The refresh token of a session in its generation: always the same one, so that it need not be
    /// stored, and of no use to whoever has only the database.
    pub fn refresh_token(&self, session: Uuid, generation: i32, salt: &[u8]) -> Secret {
        let mut code = hmac::Context::with_key(&self.refresh);
        // The first two have a fixed length, so no two sessions give the same bytes.
        code.update(session.as_bytes());
        code.update(&generation.to_be_bytes());
        code.update(salt);
        Secret(format!("{session}.{generation}.{}", URL_SAFE_NO_PAD.encode(code.sign())))
    }

    /// Whether this is the refresh token of a session in its generation. Takes as long for a wrong one as for a right one.
    pub(crate) fn is_refresh_token(
        &self,
        token: &Secret,
        session: Uuid,
        generation: i32,
        salt: &[u8],
    ) -> bool {
        let right = self.refresh_token(session, generation, salt);
        aws_lc_rs::constant_time::verify_slices_are_equal(right.0.as_bytes(), token.0.as_bytes()).is_ok()
    }
}

/// The session and the generation that a refresh token names, whether it was made for them or not.
pub(crate) fn parts(token: &Secret) -> Option<(Uuid, i32)> {
    let mut parts = token.0.splitn(3, '.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.header.kid.as_deref().unwrap_or_default())
    }
}

/// Makes a key, unless another process is faster: then theirs stays. The file appears whole or not
/// at all, because it is linked to its name only when it is complete.
fn make(path: &Path) -> anyhow::Result<()> {
    let key = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new())?;
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(key.as_ref())
    );
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = folder.join(format!(".{}.tmp", Uuid::new_v4()));
    let linked = write(&draft, &pem).and_then(|()| fs::hard_link(&draft, path));
    // A draft that cannot be removed is no reason to fail: nobody reads it.
    let _ = fs::remove_file(&draft);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        linked => linked?,
    }
    File::open(folder)?.sync_all()?;
    tracing::info!(path = %path.display(), "made a key to sign tokens with; every function of identity must read this one");
    Ok(())
}

fn write(path: &Path, pem: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Barrier};

    use super::*;

    /// The key of RFC 8037, appendix A.
    fn known() -> Keys {
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        // Version 2, which carries the public key as well.
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(pair.to_pkcs8().unwrap())
        );
        Keys::from_pem(pem.as_bytes(), "outcry".into()).unwrap()
    }

    fn load(path: &Path) -> anyhow::Result<Keys> {
        Keys::load(&Env::of([("JWT_KEY_FILE", path.to_str().unwrap())]))
    }

    #[test]
    fn the_key_set_names_the_key_by_its_thumbprint() {
        assert_eq!(
            *known().jwks(),
            serde_json::json!({ "keys": [{
                "kty": "OKP",
                "crv": "Ed25519",
                "alg": "EdDSA",
                "use": "sig",
                "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
                "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            }]})
        );
    }

    #[test]
    fn a_refresh_token_depends_on_everything_that_goes_into_it() {
        let (keys, id) = (known(), Uuid::from_u128(7));
        let token = keys.refresh_token(id, 1, b"salt");

        assert_eq!(token, keys.refresh_token(id, 1, b"salt"));
        assert!(token.0.starts_with(&format!("{id}.1.")), "{}", token.0);
        assert_ne!(token, keys.refresh_token(id, 2, b"salt"));
        assert_ne!(token, keys.refresh_token(id, 1, b"pepper"));
        let code = |id, generation| {
            keys.refresh_token(id, generation, b"salt").0.rsplit_once('.').unwrap().1.to_owned()
        };
        assert_ne!(code(id, 1), code(Uuid::from_u128(8), 1));
        assert_ne!(code(id, 1), code(id, 2));
    }

    #[test]
    fn processes_that_start_at_once_agree_on_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/jwt-key.pem");
        let start = Barrier::new(8);

        let kids: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        format!("{:?}", load(&path).unwrap())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });

        assert!(kids.iter().all(|kid| *kid == kids[0]), "{kids:?}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "drafts are left");
    }

    #[test]
    fn a_file_that_is_not_a_key_is_left_alone_and_the_error_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt-key.pem");
        for content in ["", "garbage", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            fs::write(&path, content).unwrap();

            let error = load(&path).unwrap_err().to_string();

            assert!(error.starts_with("JWT_KEY_FILE: ") && error.contains("restore it"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn a_place_where_no_file_can_be_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();

        let error = load(&folder.path().join("file/jwt-key.pem")).unwrap_err().to_string();
        assert!(error.starts_with("JWT_KEY_FILE: cannot make "), "{error}");
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("JWT_KEY_FILE: cannot read "), "{error}");
    }

    #[test]
    fn the_private_key_is_never_shown() {
        assert_eq!(format!("{:?}", known()), "Keys(kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k)");
    }
}
