//! Who is calling: access tokens, and the public keys they verify with.
//!
//! A token is verified once and then remembered, by its hash, until it ends: the hot path costs a hash and no signature.
//! Which sessions were ended before their time is heard from the bus, and asked for whenever the connection is made.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use contracts::identity::{
    AUDIENCE, Claims, GetJwks, ListEndedSessions, SessionEnded, TOKEN_SECONDS, TOKEN_TYPE,
};
use futures_util::StreamExt;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use moka::sync::Cache;
use platform::{Bus, Caller, Trace};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::problem::Problem;

/// How far clocks may be apart, in seconds.
const LEEWAY: u64 = 5;
/// The longest token.
const LONGEST: usize = 4096;
/// How many verified tokens are remembered.
const REMEMBERED: u64 = 100_000;
/// How long it is remembered that a session was ended: longer than any of its tokens lasts.
const ENDED: Duration = Duration::from_secs(TOKEN_SECONDS + 120);
/// How many ended sessions are remembered.
const MOST_ENDED: u64 = 1_000_000;
/// Keys are not fetched more often than this, however many strange tokens come.
const FETCH_AGAIN: Duration = Duration::from_secs(1);
/// Keys are fetched this often without being asked for, so that one that was withdrawn goes.
const FETCH_ANYWAY: Duration = Duration::from_secs(300);

/// Verifies access tokens.
pub(crate) struct Auth {
    bus: Bus,
    validation: Validation,
    keys: RwLock<HashMap<String, DecodingKey>>,
    fetched: Mutex<Option<Fetched>>,
    verified: Cache<[u8; 32], Verified>,
    ended: Cache<Uuid, ()>,
}

/// The last attempt to get the keys.
#[derive(Clone, Copy)]
struct Fetched {
    at: Instant,
    good: bool,
}

/// What is known of a token that was verified.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    caller: Caller,
    session: Uuid,
    ended: Cache<Uuid, ()>,
    /// Seconds since 1970.
    until: u64,
}

impl Verified {
    /// Who it names, while it holds.
    pub(crate) fn caller(&self) -> Option<Caller> {
        let holds =
            jsonwebtoken::get_current_timestamp() <= self.until && !self.ended.contains_key(&self.session);
        holds.then_some(self.caller)
    }
}

/// The header of a token of ours. One with anything more, such as an address of keys, was not made by us.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    alg: Algorithm,
    typ: String,
    kid: String,
}

impl Auth {
    pub(crate) fn new(bus: Bus, issuer: &str) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY;
        Self {
            bus,
            validation,
            keys: RwLock::default(),
            fetched: Mutex::default(),
            verified: Cache::new(REMEMBERED),
            ended: Cache::builder().max_capacity(MOST_ENDED).time_to_live(ENDED).build(),
        }
    }

    /// The caller of a request: nobody when it carries no token and none is `needed`.
    pub(crate) async fn caller(&self, headers: &HeaderMap, needed: bool) -> Result<Option<Caller>, Problem> {
        Ok(self.verified(headers, needed).await?.map(|verified| verified.caller))
    }

    /// The caller of a request whose token was verified before; costs no signature and decides nothing.
    pub(crate) fn remembered(&self, headers: &HeaderMap) -> Option<Caller> {
        let token = bearer(headers.get(header::AUTHORIZATION)?.to_str().ok()?)?;
        let hash: [u8; 32] = Sha256::digest(token).into();
        self.verified.get(&hash)?.caller()
    }

    /// The same for what lasts longer than a token may: who it is has to be asked each time.
    pub(crate) async fn verified(
        &self,
        headers: &HeaderMap,
        needed: bool,
    ) -> Result<Option<Verified>, Problem> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => self.verified_of(None, needed).await,
            // A value that is no text is no token.
            (Some(value), None) => self.verified_of(Some(value.to_str().unwrap_or_default()), needed).await,
            (Some(_), Some(_)) => Err(Problem::unauthorized()),
        }
    }

    /// The same for the one `Authorization` that there is.
    pub(crate) async fn caller_of(
        &self,
        authorization: Option<&str>,
        needed: bool,
    ) -> Result<Option<Caller>, Problem> {
        Ok(self.verified_of(authorization, needed).await?.map(|verified| verified.caller))
    }

    async fn verified_of(
        &self,
        authorization: Option<&str>,
        needed: bool,
    ) -> Result<Option<Verified>, Problem> {
        match authorization {
            None if needed => Err(Problem::unauthorized()),
            None => Ok(None),
            Some(value) => {
                let token = bearer(value).ok_or_else(Problem::unauthorized)?;
                self.verify(token).await.map(Some)
            }
        }
    }

    async fn verify(&self, token: &str) -> Result<Verified, Problem> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.verified.get(&hash) {
            return if known.caller().is_some() { Ok(known) } else { Err(Problem::unauthorized()) };
        }
        let kid = kid(token).ok_or_else(Problem::unauthorized)?;
        let key = self.key(&kid).await?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &self.validation)
            .map_err(|_| Problem::unauthorized())?
            .claims;
        let caller = Caller { id: claims.sub, role: claims.role, session: Some(claims.sid) };
        let until = u64::try_from(claims.exp).unwrap_or_default() + LEEWAY;
        let verified = Verified { caller, session: claims.sid, ended: self.ended.clone(), until };
        self.verified.insert(hash, verified.clone());
        if verified.caller().is_some() { Ok(verified) } else { Err(Problem::unauthorized()) }
    }

    /// The public key of this name, fetched when it is new.
    async fn key(&self, kid: &str) -> Result<DecodingKey, Problem> {
        if let Some(key) = self.known(kid) {
            return Ok(key);
        }
        let fetched = self.fetch().await;
        match self.known(kid) {
            Some(key) => Ok(key),
            None if fetched.good => Err(Problem::unauthorized()),
            // It may be a new key: whether the token holds cannot be said.
            None => Err(Problem::unavailable()),
        }
    }

    fn known(&self, kid: &str) -> Option<DecodingKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(kid).cloned()
    }

    /// Fetches the keys, unless that was just done. Those who need them at the same time wait for one fetch.
    async fn fetch(&self) -> Fetched {
        let mut last = self.fetched.lock().await;
        if let Some(last) = last.filter(|last| last.at.elapsed() < FETCH_AGAIN) {
            return last;
        }
        if !self.bus.is_connected() {
            // Everyone who brings a new token would wait in line for the same silence. It costs nothing, so it is
            // no reason either to wait when the connection stands.
            return Fetched { at: Instant::now(), good: false };
        }
        let good = match self.ask().await {
            Ok(set) => {
                self.learn(&set);
                true
            }
            Err(error) => {
                // Once for each outage, however many ask.
                if last.is_none_or(|last| last.good) {
                    tracing::warn!(
                        %error,
                        "no public keys; tokens that are new cannot be verified"
                    );
                }
                false
            }
        };
        *last.insert(Fetched { at: Instant::now(), good })
    }

    async fn ask(&self) -> platform::Result<Value> {
        self.bus.ask(&GetJwks {}, None, &Trace::start()).await?.parse()
    }

    /// Takes a key set in place of the one before.
    pub(crate) fn learn(&self, set: &Value) {
        let keys: HashMap<_, _> = set["keys"].as_array().into_iter().flatten().filter_map(ed25519).collect();
        let mut known = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let is_withdrawn = |kid| !keys.contains_key(kid);
        if known.keys().any(is_withdrawn) {
            self.verified.invalidate_all();
        }
        *known = keys;
    }

    /// Fetches the keys at the start and now and then; never returns.
    pub(crate) async fn keep_keys(&self) {
        loop {
            let fetched = self.fetch().await;
            tokio::time::sleep(if fetched.good { FETCH_ANYWAY } else { FETCH_AGAIN }).await;
        }
    }

    /// Keeps in mind which sessions were ended before their time; never returns.
    ///
    /// What the bus said while the connection was away was not heard, so it is asked for when the connection is
    /// made again, and now and then.
    pub(crate) async fn keep_ended(&self) {
        let mut connections = self.bus.connections();
        // Fails only when the connection is closed for good.
        let Ok(heard) = self.bus.hear::<SessionEnded>().await else { return };
        // Beside each other: what is told at once does not wait for an answer.
        let hear = heard.for_each(async |ended| self.ended.insert(ended.session_id, ()));
        let ask = async {
            loop {
                connections.borrow_and_update();
                let again = match self.ask_ended().await {
                    Ok(()) => FETCH_ANYWAY,
                    Err(error) => {
                        tracing::debug!(%error, "ended sessions not known");
                        FETCH_AGAIN
                    }
                };
                let _ = tokio::time::timeout(again, connections.changed()).await;
            }
        };
        tokio::select! {
            () = hear => {}
            () = ask => {}
        }
    }

    async fn ask_ended(&self) -> platform::Result<()> {
        let ended = self.bus.ask(&ListEndedSessions {}, None, &Trace::start()).await?;
        let ended = ended.parse::<contracts::identity::EndedSessions>()?;
        ended.sessions.into_iter().for_each(|session| self.ended.insert(session, ()));
        Ok(())
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= LONGEST).then_some(token)
}

/// The name of the key a token claims to be signed with, if its header is one of ours.
fn kid(token: &str) -> Option<String> {
    let (head, _) = token.split_once('.')?;
    let head: Head = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
    let ours = head.alg == Algorithm::EdDSA && head.typ == TOKEN_TYPE && platform::is_plain(&head.kid);
    ours.then_some(head.kid)
}

/// The name and the key, if it is one that access tokens are signed with.
fn ed25519(key: &Value) -> Option<(String, DecodingKey)> {
    let is = |member: &str, word: &str| key[member] == word;
    let is_ours = is("kty", "OKP") && is("crv", "Ed25519") && (key["use"].is_null() || is("use", "sig"));
    let decoding = is_ours.then(|| DecodingKey::from_ed_components(key["x"].as_str()?).ok())??;
    Some((key["kid"].as_str()?.to_owned(), decoding))
}
