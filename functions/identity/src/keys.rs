//! The keys that sign access tokens and compute refresh tokens: both come from one file.
//!
//! Every function of the domain reads the same file. It is made when it is missing, so that a first
//! start needs no preparation. It holds one key after the other, the newest first: [`rotate`] puts one before the others, and
//! nobody need be started again or log in again.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, ensure};
use aws_lc_rs::{encoding::AsBigEndian, hmac, rand::SystemRandom, signature::Ed25519KeyPair};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use contracts::identity::{Claims, Secret, TOKEN_SECONDS, TOKEN_TYPE};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash},
};
use platform::Env;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

/// Keeps the refresh key apart from whatever else may come to be derived from the private key.
const REFRESH_LABEL: &[u8] = b"outcry refresh token v1";
const RESET_LABEL: &[u8] = b"outcry password reset v1";
/// How often the file is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How many keys access tokens may be signed with.
const PUBLISHED: usize = 2;
/// How long a key is published before it signs: everybody who publishes it has read the file by then.
const PUBLISHED_FIRST: Duration = Duration::from_secs(60);
/// The least time between two rotations: the tokens of the key that leaves have ended.
const APART: Duration = Duration::from_secs(TOKEN_SECONDS + 120);
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

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

pub(crate) fn default_key_file() -> PathBuf {
    ".outcry/jwt-key.pem".into()
}

/// Signs access tokens and computes refresh tokens.
pub struct Keys {
    issuer: String,
    path: PathBuf,
    ring: Mutex<Read>,
}

/// The file as it was read last.
struct Read {
    ring: Arc<Ring>,
    /// When the file was looked at.
    looked: Instant,
}

/// All keys of one file, the newest first.
struct Ring {
    /// None when there is no file.
    written: Option<Written>,
    keys: Vec<Key>,
    jwks: Value,
}

/// Tells one writing of the file from the next: a clock of files may stand still between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    at: SystemTime,
    inode: u64,
}

struct Key {
    header: Header,
    signing: EncodingKey,
    refresh: hmac::Key,
    reset: hmac::Key,
}

impl Keys {
    /// Reads JWT_KEY_FILE and JWT_ISSUER; makes the key when there is no such file. What changes in the file later is read
    /// within [`LOOK_AGAIN`].
    pub fn load(env: &Env) -> anyhow::Result<Self> {
        let settings: Settings = env.read()?;
        let path = settings.jwt_key_file;
        let shown = path.display();
        if !path.exists() {
            make(&path).with_context(|| {
                format!(
                    "JWT_KEY_FILE: cannot make {shown}: name a file in a folder that this process may write"
                )
            })?;
        }
        let ring = Arc::new(Ring::read(&path)?);
        Ok(Self {
            issuer: settings.jwt_issuer,
            ring: Mutex::new(Read { ring, looked: Instant::now() }),
            path,
        })
    }

    /// The keys as the file has them. One that cannot be read changes nothing: those that were read before are still good.
    fn ring(&self) -> Arc<Ring> {
        let mut read = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if read.looked.elapsed() >= LOOK_AGAIN {
            read.looked = Instant::now();
            if Written::of(&self.path) != read.ring.written {
                match Ring::read(&self.path) {
                    Ok(ring) => read.ring = Arc::new(ring),
                    Err(error) => tracing::warn!(
                        error = format!("{error:#}"),
                        "going on with the keys that were read before"
                    ),
                }
            }
        }
        Arc::clone(&read.ring)
    }

    /// Who the tokens say made them.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The access token that says this.
    pub fn sign(&self, claims: &Claims) -> anyhow::Result<Secret> {
        self.sign_as(TOKEN_TYPE, claims)
    }

    /// The token of this type that says this.
    pub(crate) fn sign_as(&self, kind: &str, claims: &impl Serialize) -> anyhow::Result<Secret> {
        let ring = self.ring();
        let key = ring.signer()?;
        let header = Header { typ: Some(kind.into()), ..key.header.clone() };
        let token = jsonwebtoken::encode(&header, claims, &key.signing).context("sign a token")?;
        Ok(Secret(token))
    }

    /// What a token of this type for this audience says, if one of these keys signed it. Whether it has ended is for the
    /// caller to say: tokens that are read here have a row, which tells by the stream's clock.
    pub(crate) fn read_as<C: DeserializeOwned + Clone>(
        &self,
        kind: &str,
        audience: &str,
        token: &Secret,
    ) -> Option<C> {
        let head = jsonwebtoken::decode_header(&token.0).ok()?;
        if head.typ.as_deref() != Some(kind) {
            return None;
        }
        let known: JwkSet = serde_json::from_value(self.jwks()).ok()?;
        let key = DecodingKey::from_jwk(known.find(&head.kid?)?).ok()?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_exp = false;
        Some(jsonwebtoken::decode(&token.0, &key, &validation).ok()?.claims)
    }

    /// The public keys that access tokens verify with (RFC 7517): the newest, and the one before it.
    pub fn jwks(&self) -> Value {
        self.ring().jwks.clone()
    }

    /// The refresh token of a session in its generation: always the same one while the key is the newest, so that it need
    /// not be stored, and of no use to whoever has only the database.
    pub fn refresh_token(&self, session: Uuid, generation: i32, salt: &[u8]) -> anyhow::Result<Secret> {
        let ring = self.ring();
        Ok(ring.signer()?.refresh_token(session, generation, salt))
    }

    /// Whether this is the refresh token of a session in its generation, made with any of the keys.
    pub(crate) fn is_refresh_token(
        &self,
        token: &Secret,
        session: Uuid,
        generation: i32,
        salt: &[u8],
    ) -> bool {
        self.ring().keys.iter().any(|key| same(&key.refresh_token(session, generation, salt), token))
    }

    /// The token that lets somebody set a new password; stored as little as the other.
    pub fn reset_token(&self, reset: Uuid, salt: &[u8]) -> anyhow::Result<Secret> {
        let ring = self.ring();
        Ok(ring.signer()?.reset_token(reset, salt))
    }

    /// Whether this is the token of a reset, made with any of the keys.
    pub(crate) fn is_reset_token(&self, token: &Secret, reset: Uuid, salt: &[u8]) -> bool {
        self.ring().keys.iter().any(|key| same(&key.reset_token(reset, salt), token))
    }
}

impl Ring {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        // Before the text: what is written in between is read again.
        let written = Written::of(path);
        let text = fs::read_to_string(path).with_context(|| {
            format!("JWT_KEY_FILE: cannot read {shown}: let this process read it, or name another file")
        })?;
        Self::of(&text, written).with_context(|| {
            format!(
                "JWT_KEY_FILE: {shown} holds no Ed25519 keys in PEM (PKCS#8): restore it, or remove it and a new one \
                 is made, which ends all sessions"
            )
        })
    }

    fn of(text: &str, written: Option<Written>) -> anyhow::Result<Self> {
        let keys: Vec<(Key, Jwk)> = blocks(text).map(Key::from_pem).collect::<anyhow::Result<_>>()?;
        ensure!(!keys.is_empty(), "no key");
        let (keys, published): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
        let published = published.into_iter().take(PUBLISHED).collect();
        Ok(Self { written, keys, jwks: serde_json::to_value(JwkSet { keys: published })? })
    }

    /// The key that signs.
    fn signer(&self) -> anyhow::Result<&Key> {
        self.signer_at(self.written.map(|written| written.at.elapsed().unwrap_or_default()))
    }

    /// The newest, but for the time until everybody who publishes it has surely read the file.
    fn signer_at(&self, age: Option<Duration>) -> anyhow::Result<&Key> {
        let is_young = age.is_some_and(|age| age < PUBLISHED_FIRST);
        let newest = if is_young && self.keys.len() > 1 { 1 } else { 0 };
        self.keys.get(newest).context("no key")
    }
}

impl Key {
    fn from_pem(pem: &str) -> anyhow::Result<(Self, Jwk)> {
        let given = EncodingKey::from_ed_pem(pem.as_bytes())?;
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
        let derived = |label| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&seed, label).as_ref());
        Ok((Self { header, signing, refresh: derived(REFRESH_LABEL), reset: derived(RESET_LABEL) }, jwk))
    }

    fn refresh_token(&self, session: Uuid, generation: i32, salt: &[u8]) -> Secret {
        let mut code = hmac::Context::with_key(&self.refresh);
        // The first two have a fixed length, so no two sessions give the same bytes.
        code.update(session.as_bytes());
        code.update(&generation.to_be_bytes());
        code.update(salt);
        Secret(format!("{session}.{generation}.{}", URL_SAFE_NO_PAD.encode(code.sign())))
    }

    fn reset_token(&self, reset: Uuid, salt: &[u8]) -> Secret {
        let mut code = hmac::Context::with_key(&self.reset);
        code.update(reset.as_bytes());
        code.update(salt);
        Secret(format!("{reset}.{}", URL_SAFE_NO_PAD.encode(code.sign())))
    }

    fn kid(&self) -> &str {
        self.header.kid.as_deref().unwrap_or_default()
    }
}

/// Takes as long for a wrong token as for a right one.
fn same(right: &Secret, given: &Secret) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(right.0.as_bytes(), given.0.as_bytes()).is_ok()
}

impl Written {
    /// None when there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self { at: file.modified().ok()?, inode: file.ino() })
    }
}

/// Each key of the text, from its first line to its last.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(PEM_END).filter_map(|part| part.find(PEM_BEGIN).map(|begin| &part[begin..]))
}

/// The session and the generation that a refresh token names, whether it was made for them or not.
pub(crate) fn parts(token: &Secret) -> Option<(Uuid, i32)> {
    let mut parts = token.0.splitn(3, '.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The reset that a token names, whether it was made for it or not.
pub(crate) fn reset_of(token: &Secret) -> Option<Uuid> {
    token.0.split_once('.')?.0.parse().ok()
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.ring();
        write!(f, "Keys({})", ring.keys.iter().map(Key::kid).collect::<Vec<_>>().join(", "))
    }
}

/// Puts a new key before those of JWT_KEY_FILE, and says its name. It signs after [`PUBLISHED_FIRST`]; the one before it
/// is published as long as it is the second, and all of them are good for refresh tokens.
///
/// Refuses to do so again before the tokens of the key that would not be published any more have ended.
pub fn rotate(env: &Env) -> anyhow::Result<String> {
    let path = env.read::<Settings>()?.jwt_key_file;
    let ring = Ring::read(&path)?;
    let age = ring.written.and_then(|written| written.at.elapsed().ok()).unwrap_or_default();
    ensure!(
        ring.keys.len() < PUBLISHED || age >= APART,
        "the key was rotated {} s ago and tokens of the one before may be about: come again in {} s",
        age.as_secs(),
        (APART - age).as_secs() + 1
    );
    let new = new_pem()?;
    let (key, _) = Key::from_pem(&new)?;
    let text = fs::read_to_string(&path)?;
    let draft = draft(&path);
    let replaced = write(&draft, &format!("{new}{text}")).and_then(|()| fs::rename(&draft, &path));
    if replaced.is_err() {
        let _ = fs::remove_file(&draft);
    }
    replaced.with_context(|| format!("JWT_KEY_FILE: cannot replace {}", path.display()))?;
    File::open(folder_of(&path))?.sync_all()?;
    Ok(key.kid().to_owned())
}

/// Makes a key, unless another process is faster: then theirs stays.
fn make(path: &Path) -> anyhow::Result<()> {
    put(path, &new_pem()?)?;
    tracing::info!(path = %path.display(), "made a key to sign tokens with; every function of identity must read this one");
    Ok(())
}

/// Writes a file that only its owner may read, unless there is one. It appears whole or not at all, because it is linked
/// to its name only when it is complete.
pub(crate) fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder_of(path))?;
    let draft = draft(path);
    let linked = write(&draft, text).and_then(|()| fs::hard_link(&draft, path));
    // A draft that cannot be removed is no reason to fail: nobody reads it.
    let _ = fs::remove_file(&draft);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        linked => linked?,
    }
    File::open(folder_of(path))?.sync_all()?;
    Ok(())
}

fn new_pem() -> anyhow::Result<String> {
    let key = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new())?;
    Ok(format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(key.as_ref())))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn draft(path: &Path) -> PathBuf {
    folder_of(path).join(format!(".{}.tmp", Uuid::new_v4()))
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
        keys_of(&pem)
    }

    fn keys_of(text: &str) -> Keys {
        let ring = Arc::new(Ring::of(text, None).unwrap());
        // It is no file's, so that none is looked for.
        Keys {
            issuer: "outcry".into(),
            path: PathBuf::new(),
            ring: Mutex::new(Read { ring, looked: Instant::now() }),
        }
    }

    fn load(path: &Path) -> anyhow::Result<Keys> {
        Keys::load(&Env::of([("JWT_KEY_FILE", path.to_str().unwrap())]))
    }

    #[test]
    fn the_key_set_names_the_key_by_its_thumbprint() {
        assert_eq!(
            known().jwks(),
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
        let of = |id, generation, salt: &[u8]| keys.refresh_token(id, generation, salt).unwrap();
        let token = of(id, 1, b"salt");

        assert_eq!(token, of(id, 1, b"salt"));
        assert!(token.0.starts_with(&format!("{id}.1.")), "{}", token.0);
        assert_ne!(token, of(id, 2, b"salt"));
        assert_ne!(token, of(id, 1, b"pepper"));
        let code = |id, generation| of(id, generation, b"salt").0.rsplit_once('.').unwrap().1.to_owned();
        assert_ne!(code(id, 1), code(Uuid::from_u128(8), 1));
        assert_ne!(code(id, 1), code(id, 2));
    }

    #[test]
    fn a_token_is_read_only_as_what_it_is() {
        let (keys, claims) =
            (known(), serde_json::json!({ "iss": "outcry", "aud": "2fa", "sub": "x", "exp": 1 }));
        let read = |kind, audience, token: &Secret| keys.read_as::<Value>(kind, audience, token).is_some();
        let token = keys.sign_as("2fa+jwt", &claims).unwrap();

        assert!(read("2fa+jwt", "2fa", &token));
        assert!(!read(TOKEN_TYPE, "2fa", &token), "of another type");
        assert!(!read("2fa+jwt", "auction-api", &token), "for others");
        let body = token.0.split('.').nth(1).unwrap();
        let changed = URL_SAFE_NO_PAD.encode(claims.to_string().replace("\"x\"", "\"y\""));
        assert!(!read("2fa+jwt", "2fa", &Secret(token.0.replace(body, &changed))), "changed");
        let elsewhere = Keys { issuer: "elsewhere".into(), ..known() };
        assert!(elsewhere.read_as::<Value>("2fa+jwt", "2fa", &token).is_none(), "of another platform");
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

    #[test]
    fn a_new_key_is_published_before_it_signs_and_the_old_one_after_it_signed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt-key.pem");
        let env = Env::of([("JWT_KEY_FILE", path.to_str().unwrap())]);
        let (id, salt) = (Uuid::from_u128(7), b"salt");
        let before = load(&path).unwrap();
        let old = before.ring().keys[0].kid().to_owned();
        let (refresh, reset) =
            (before.refresh_token(id, 1, salt).unwrap(), before.reset_token(id, salt).unwrap());
        let kids = |keys: &Keys| -> Vec<String> {
            let set = keys.jwks();
            set["keys"]
                .as_array()
                .unwrap()
                .iter()
                .map(|key| key["kid"].as_str().unwrap().to_owned())
                .collect()
        };

        let new = rotate(&env).unwrap();

        let after = load(&path).unwrap();
        assert_eq!(kids(&after), [new.clone(), old.clone()]);
        let ring = after.ring();
        let signer = |seconds| ring.signer_at(Some(Duration::from_secs(seconds))).unwrap().kid();
        assert_eq!((signer(59), signer(60)), (old.as_str(), new.as_str()));
        assert!(
            after.is_refresh_token(&refresh, id, 1, salt) && !after.is_refresh_token(&refresh, id, 2, salt)
        );
        assert!(after.is_reset_token(&reset, id, salt) && !after.is_reset_token(&refresh, id, salt));
        let error = rotate(&env).unwrap_err().to_string();
        assert!(error.contains("come again in "), "{error}");
        let earlier = after.ring().written.unwrap().at - APART;
        File::options().append(true).open(&path).unwrap().set_modified(earlier).unwrap();
        let newest = rotate(&env).unwrap();
        let after = load(&path).unwrap();
        assert_eq!(kids(&after), [newest, new]);
        assert!(after.is_refresh_token(&refresh, id, 1, salt), "who was idle meanwhile goes on");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_process_that_runs_reads_the_file_again_and_keeps_its_keys_if_it_cannot() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt-key.pem");
        let keys = load(&path).unwrap();
        let look_again = || keys.ring.lock().unwrap().looked -= LOOK_AGAIN;
        let old = format!("{keys:?}");
        rotate(&Env::of([("JWT_KEY_FILE", path.to_str().unwrap())])).unwrap();
        assert_eq!(format!("{keys:?}"), old, "not looked at yet");

        look_again();
        let both = format!("{keys:?}");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "garbage").unwrap();
        look_again();

        assert_eq!((keys.jwks()["keys"].as_array().unwrap().len(), format!("{keys:?}")), (2, both));
    }
}
