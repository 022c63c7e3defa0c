//! The promises of the edge as a whole, over a real NATS where one is needed.

use std::{collections::BTreeSet, path::Path, sync::OnceLock, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use contracts::{
    ItemId, UserId,
    auctions::{GetItem, Item},
    catalog::{ListItems, Listing},
    identity::GetJwks,
    page::PageInfo,
    stats::{GetUserStats, UserStats},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use platform::{Bus, Config, Cx, Env, Function, Host, database};
use serde_json::{Value, json};
use testing::exposition::Told;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use crate::{Settings, exchange::Line};

const ITEM: &str = "/api/v1/items/01900000-0000-7000-8000-000000000001";
const BIDS: &str = "/api/v1/items/01900000-0000-7000-8000-000000000001/bids";

// --- what is asked --------------------------------------------------------------------------------

pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answered {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    fn details(&self) -> &str {
        self.body["error"]["details"].as_str().unwrap_or_default()
    }
}

async fn call(
    router: &Router,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answered {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    Answered {
        status: parts.status,
        headers: parts.headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    }
}

pub(crate) async fn get(router: &Router, uri: &str, headers: &[(&str, &str)]) -> Answered {
    call(router, "GET", uri, headers, Body::empty()).await
}

async fn post(router: &Router, uri: &str, body: &str) -> Answered {
    call(router, "POST", uri, &[("content-type", "application/json")], body.to_owned()).await
}

pub(crate) async fn router_over(url: &str, settings: Settings) -> (Router, Bus) {
    let config = Config { nats_url: url.into(), ..Env::default().read().unwrap() };
    let bus = Bus::connect(&config, "edge").await.unwrap();
    (
        crate::router(crate::routes::table(), &settings, bus.clone(), CancellationToken::new())
            .await
            .unwrap()
            .0,
        bus,
    )
}

pub(crate) fn settings() -> Settings {
    Env::default().read().unwrap()
}

/// Nothing listens there: whatever is answered, the edge made it.
async fn alone() -> Router {
    router_over("nats://127.0.0.1:1", settings()).await.0
}

// --- who answers ----------------------------------------------------------------------------------

pub(crate) struct World {
    pub(crate) router: Router,
    pub(crate) bus: Bus,
    pub(crate) stop: CancellationToken,
    pub(crate) nats: local::Nats,
}

impl World {
    pub(crate) async fn start(functions: Vec<Function>) -> Self {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nats/settings.conf");
        let nats = local::Nats::throwaway(&config, &|_| {}).unwrap();
        let (router, bus) = router_over(&nats.url(), settings()).await;
        let world = Self { router, bus, stop: CancellationToken::new(), nats };
        until(async || world.bus.is_connected()).await;
        for function in functions {
            world.serve(function).await;
        }
        world
    }

    async fn serve(&self, function: Function) {
        // Never connected to: these functions keep nothing.
        let env = Env::of([("DATABASE_URL", "postgres://nobody:x@127.0.0.1:1/none")]);
        let name = function.spec().name;
        let options = database::options(&env, function.spec().domain).unwrap();
        let pool = database::pool(&env.read().unwrap(), options, name);
        let host = Host::new(function, pool, Some(self.bus.clone()), &env).unwrap();
        tokio::spawn(platform::serve(host, self.bus.clone(), self.stop.clone()));
        until(async || self.bus.is_serving(name, Duration::from_millis(100)).await).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..100 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("did not come to hold within 5 seconds");
}

async fn get_jwks(_: &mut Cx, _: GetJwks) -> platform::Result<Value> {
    Ok(json!({ "keys": [
        { "kty": "RSA", "kid": "other", "n": "AQAB", "e": "AQAB" },
        { "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "k1", "x": key().x },
    ]}))
}

/// Answers with whoever the message says the caller is.
async fn get_user_stats(cx: &mut Cx, asked: GetUserStats) -> platform::Result<UserStats> {
    let user_id = match asked.user_id {
        Some(user_id) => user_id,
        None => cx.caller()?.id,
    };
    Ok(serde_json::from_value(json!({
        "user_id": user_id, "total_bids": 0, "total_amount": "0", "items_won": 0, "total_spent": "0",
        "items_sold": 0, "last_bid_at": null, "updated_at": null,
    }))?)
}

async fn get_item(_: &mut Cx, asked: GetItem) -> platform::Result<Item> {
    Ok(lamp(asked.item_id, 7))
}

pub(crate) fn lamp(id: ItemId, version: i64) -> Item {
    let (user, time) = (UserId(Uuid::nil()), "2026-12-01T00:00:00Z");
    let item = json!({
        "id": id, "seller_id": user, "name": "Lamp", "description": "", "category_id": null,
        "image_urls": [], "currency": "USD", "start_price": "1.00", "bid_increment": "0.01", "reserve_met": true,
        "buy_now_price": null, "current_price": "1.00", "min_next_bid": "1.00", "bid_count": 0, "leader_id": null,
        "status": "open", "starts_at": time, "ends_at": time, "extension_window_seconds": 0, "extension_seconds": 0,
        "winner_id": null, "final_price": null, "closed_at": null, "version": version, "created_at": time,
        "updated_at": time,
    });
    serde_json::from_value(item).unwrap()
}

// --- tokens ---------------------------------------------------------------------------------------

struct Key {
    pkcs8: Vec<u8>,
    public: Vec<u8>,
    x: String,
}

fn new_key() -> Key {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let public = pair.public_key().as_ref().to_vec();
    Key { pkcs8: pkcs8.as_ref().to_vec(), x: URL_SAFE_NO_PAD.encode(&public), public }
}

fn key() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(new_key)
}

const ANN: &str = "01900000-0000-7000-8000-00000000000a";
const BOB: &str = "01900000-0000-7000-8000-00000000000b";

fn header() -> Header {
    Header { typ: Some("at+jwt".into()), kid: Some("k1".into()), ..Header::new(Algorithm::EdDSA) }
}

fn claims() -> Value {
    let now = jsonwebtoken::get_current_timestamp();
    json!({ "iss": "outcry", "aud": "auction-api", "sub": ANN, "sid": Uuid::nil(), "role": "user", "iat": now,
        "exp": now + 600 })
}

/// Claims with one of them changed, or taken away.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

fn signed(header: &Header, claims: &Value, key: &Key) -> String {
    jsonwebtoken::encode(header, claims, &EncodingKey::from_ed_der(&key.pkcs8)).unwrap()
}

fn good_token() -> String {
    signed(&header(), &claims(), key())
}

fn seconds_from_now(seconds: i64) -> Value {
    json!(i64::try_from(jsonwebtoken::get_current_timestamp()).unwrap() + seconds)
}

/// What answers with the keys of these tests.
pub(crate) fn keys() -> Function {
    Function::query(get_jwks)
}

/// As a header carries it.
pub(crate) fn token_that_ends_in(seconds: i64) -> String {
    bearer(&signed(&header(), &with("exp", seconds_from_now(seconds)), key()))
}

/// As a header carries it.
pub(crate) fn token_of_bob() -> String {
    bearer(&signed(&header(), &with("sub", json!(BOB)), key()))
}

fn raw(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

/// Tokens that must open nothing, with what is wrong with each.
fn bad_tokens() -> Vec<(&'static str, String)> {
    let signed_head = |change: &dyn Fn(&mut Header)| {
        let mut header = header();
        change(&mut header);
        signed(&header, &claims(), key())
    };
    let signed_with = |name: &str, value: Value| signed(&header(), &with(name, value), key());
    let hs256 = Header { alg: Algorithm::HS256, ..header() };
    let with_public_key = EncodingKey::from_secret(&key().public);
    let good = good_token();
    let (signing, signature) = good.rsplit_once('.').unwrap();
    let (head, _) = good.split_once('.').unwrap();
    let bobs = URL_SAFE_NO_PAD.encode(with("sub", json!(BOB)).to_string());
    let none = |alg: &str| raw(&json!({ "alg": alg, "typ": "at+jwt", "kid": "k1" }), &claims(), "");
    vec![
        ("ended", signed_with("exp", seconds_from_now(-10))),
        ("without an end", signed_with("exp", Value::Null)),
        ("not yet good", signed_with("nbf", seconds_from_now(60))),
        ("for someone else", signed_with("aud", json!("2fa"))),
        ("for no one", signed_with("aud", Value::Null)),
        ("from someone else", signed_with("iss", json!("mallory"))),
        ("from no one", signed_with("iss", Value::Null)),
        ("a role that is none", signed_with("role", json!("root"))),
        ("a user that is none", signed_with("sub", json!("1"))),
        ("of another kind", signed_head(&|header| header.typ = Some("2fa+jwt".into()))),
        ("of the general kind", signed_head(&|header| header.typ = Some("JWT".into()))),
        ("of no kind", signed_head(&|header| header.typ = None)),
        ("an unknown key", signed_head(&|header| header.kid = Some("k2".into()))),
        ("a key of another sort", signed_head(&|header| header.kid = Some("other".into()))),
        ("a key that is a path", signed_head(&|header| header.kid = Some("../../etc/passwd".into()))),
        ("a key with a line break", signed_head(&|header| header.kid = Some("k1\r\nx: y".into()))),
        ("no key", signed_head(&|header| header.kid = None)),
        ("its own keys", signed_head(&|header| header.jku = Some("https://mallory.example/jwks".into()))),
        ("its own chain", signed_head(&|header| header.x5u = Some("https://mallory.example/x5u".into()))),
        ("signed by someone else", signed(&header(), &claims(), &new_key())),
        ("signed with the public key", jsonwebtoken::encode(&hs256, &claims(), &with_public_key).unwrap()),
        ("not signed", none("none")),
        ("not signed, shouting", none("NONE")),
        ("a signature of nothing", format!("{signing}.")),
        ("someone else's words", format!("{head}.{bobs}.{signature}")),
        ("half a token", signing.to_owned()),
        ("no token", "x".to_owned()),
        ("empty", String::new()),
        ("endless", "a".repeat(5000)),
    ]
}

#[tokio::test]
async fn a_token_that_does_not_hold_is_refused_even_where_none_is_needed() {
    let world = World::start(vec![Function::query(get_jwks), Function::query(get_user_stats)]).await;
    let open = format!("/api/v1/users/{BOB}/stats");

    let good =
        get(&world.router, "/api/v1/users/me/stats", &[("authorization", &bearer(&good_token()))]).await;
    assert_eq!((good.status, &good.body["user_id"]), (StatusCode::OK, &json!(ANN)));
    assert_eq!(good.header("cache-control"), "no-store");

    for (what, token) in bad_tokens() {
        // Twice: what is remembered must not open anything either.
        for _ in 0..2 {
            let answer = get(&world.router, &open, &[("authorization", &bearer(&token))]).await;
            assert_eq!((answer.status, answer.code()), (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"), "{what}");
            assert_eq!(answer.header("www-authenticate"), "Bearer", "{what}");
        }
    }
    for value in ["Basic YTpi", "Bearer", &good_token()] {
        let answer = get(&world.router, &open, &[("authorization", value)]).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{value}");
    }
    let twice = [("authorization", bearer(&good_token())), ("authorization", bearer(&good_token()))];
    let twice = twice.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(get(&world.router, &open, &twice).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&world.router, &open, &[]).await.status, StatusCode::OK);
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn a_remembered_token_ends_when_it_says() {
    let world = World::start(vec![Function::query(get_jwks), Function::query(get_user_stats)]).await;
    // The leeway is five seconds.
    let token = bearer(&signed(&header(), &with("exp", seconds_from_now(-3)), key()));
    let me = async || get(&world.router, "/api/v1/users/me/stats", &[("authorization", &token)]).await.status;

    assert_eq!(me().await, StatusCode::OK);
    until(async || me().await == StatusCode::UNAUTHORIZED).await;
}

#[tokio::test]
async fn a_remembered_token_ends_with_its_key() {
    let (_, bus) = router_over("nats://127.0.0.1:1", settings()).await;
    let auth = crate::auth::Auth::new(bus, "outcry");
    let headers =
        HeaderMap::from_iter([(axum::http::header::AUTHORIZATION, bearer(&good_token()).parse().unwrap())]);
    let jwk = |kid: &str| json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": key().x });

    auth.learn(&json!({ "keys": [jwk("k1")] }));
    assert!(auth.caller(&headers, true).await.is_ok());
    auth.learn(&json!({ "keys": [jwk("k1"), jwk("k2")] }));
    assert!(auth.caller(&headers, true).await.is_ok());
    auth.learn(&json!({ "keys": [jwk("k2")] }));
    assert!(auth.caller(&headers, true).await.is_err());
}

#[tokio::test]
async fn while_the_keys_cannot_be_had_a_token_is_neither_good_nor_bad() {
    let world = World::start(vec![Function::query(get_user_stats)]).await;
    let token = bearer(&good_token());
    let me = async || get(&world.router, "/api/v1/users/me/stats", &[("authorization", &token)]).await;

    let answer = me().await;
    assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"));
    assert_eq!(answer.header("retry-after"), "1");

    world.serve(Function::query(get_jwks)).await;
    until(async || me().await.status == StatusCode::OK).await;
}

#[tokio::test]
async fn nobody_is_somebody_because_a_header_says_so() {
    let world = World::start(vec![Function::query(get_jwks), Function::query(get_user_stats)]).await;
    let forged = [
        ("x-user-id", BOB),
        ("x-user-role", "admin"),
        ("x-user-email", "b@x.y"),
        ("x-reply-to", "a.b"),
        ("nats-msg-id", "1"),
    ];
    let uri = "/api/v1/users/me/stats";

    let anonymous = get(&world.router, uri, &forged).await;
    let token = bearer(&good_token());
    let as_ann = get(&world.router, uri, &[&forged[..], &[("authorization", &token)]].concat()).await;
    let asked_for_bob =
        get(&world.router, &format!("{uri}?userId={BOB}&user_id={BOB}"), &[("authorization", &token)]).await;

    assert_eq!(anonymous.status, StatusCode::UNAUTHORIZED);
    assert_eq!(as_ann.body["user_id"], ANN);
    assert_eq!(asked_for_bob.body["user_id"], ANN);
}

#[tokio::test]
async fn who_has_the_version_gets_no_body() {
    let world = World::start(vec![Function::query(get_item)]).await;

    let fresh = get(&world.router, ITEM, &[]).await;
    assert_eq!((fresh.status, fresh.header("etag")), (StatusCode::OK, "\"7\""));
    assert_eq!(fresh.body["name"], "Lamp");

    for (known, status) in [
        ("\"7\"", StatusCode::NOT_MODIFIED),
        ("\"6\", W/\"7\"", StatusCode::NOT_MODIFIED),
        ("*", StatusCode::NOT_MODIFIED),
        ("\"6\"", StatusCode::OK),
        ("7", StatusCode::OK),
    ] {
        let answer = get(&world.router, ITEM, &[("if-none-match", known)]).await;
        assert_eq!((answer.status, answer.header("etag")), (status, "\"7\""), "{known}");
        assert_eq!(answer.body.is_null(), status == StatusCode::NOT_MODIFIED, "{known}");
    }
}

#[tokio::test]
async fn readyz_names_what_is_missing() {
    let nobody = alone().await;
    for path in ["/readyz", "/health"] {
        let answer = get(&nobody, path, &[]).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.body, json!({ "status": "unavailable", "missing": ["nats"] }));
    }
    assert_eq!(get(&nobody, "/livez", &[]).await.body, json!({ "status": "ok", "missing": [] }));

    let world = World::start(vec![Function::query(get_jwks), Function::query(get_item)]).await;
    let answer = get(&world.router, "/readyz", &[]).await;
    let away: BTreeSet<&str> = crate::routes::table().iter().filter_map(Line::function).collect();
    let away: Vec<&str> = away.into_iter().filter(|name| !["get-jwks", "get-item"].contains(name)).collect();
    assert!(away.contains(&"place-bid"));
    assert_eq!(answer.body["missing"], json!(away));
}

#[tokio::test]
async fn a_function_that_is_away_is_unavailable() {
    let world = World::start(Vec::new()).await;

    let answer = get(&world.router, ITEM, &[]).await;

    assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"));
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn a_command_that_is_stored_is_promised_and_one_that_is_not_stored_is_not() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nats/streams");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let [commands, credentials] = ["COMMANDS.json", "CREDENTIALS.json"].map(read);
    let (streams, none) = (
        World::start(vec![Function::query(get_jwks)]).await,
        World::start(vec![Function::query(get_jwks)]).await,
    );
    let files =
        [("streams/COMMANDS.json", commands.as_str()), ("streams/CREDENTIALS.json", credentials.as_str())];
    platform::provision::Definitions::from_files(files).unwrap().apply(&streams.bus).await.unwrap();
    let token = bearer(&good_token());
    let json = [("authorization", token.as_str()), ("content-type", "application/json")];
    let register = r#"{"email":"a@b.cd","password":"secret123"}"#;

    let (stored, secret, lost) = tokio::join!(
        call(&streams.router, "POST", BIDS, &json, r#"{"amount":1}"#),
        post(&streams.router, "/register", register),
        call(&none.router, "POST", BIDS, &json, r#"{"amount":1}"#),
    );

    assert_eq!(stored.status, StatusCode::ACCEPTED);
    let name = stored.body["command_id"].as_str().unwrap();
    assert_eq!(stored.body["status"], "pending");
    assert_eq!(stored.header("location"), format!("/api/v1/commands/{name}"));
    assert_eq!((secret.status, secret.code()), (StatusCode::GATEWAY_TIMEOUT, "TIMEOUT"));
    assert_eq!((lost.status, lost.code()), (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"));
    assert_eq!(lost.header("retry-after"), "1");
}

// --- what the edge answers by itself --------------------------------------------------------------

#[tokio::test]
async fn every_error_has_the_same_form_and_the_same_headers() {
    let router = alone().await;
    let long = format!("{ITEM}?{}", "a".repeat(9 * 1024));
    let wide = "a".repeat(17 * 1024);
    let body = [("content-type", "application/json")];
    for (method, uri, headers, sent, status, code) in [
        ("GET", "/nowhere", &[][..], "", 404, "NOT_FOUND"),
        ("GET", "//api/v1/items", &[], "", 404, "NOT_FOUND"),
        ("GET", "/api/v1/items/1", &[], "", 404, "NOT_FOUND"),
        ("GET", "/api/v1/items/..%2f..%2fetc", &[], "", 404, "NOT_FOUND"),
        ("GET", "/api/v1/items/%ff", &[], "", 404, "NOT_FOUND"),
        ("DELETE", "/register", &[], "", 405, "METHOD_NOT_ALLOWED"),
        ("TRACE", ITEM, &[], "", 405, "METHOD_NOT_ALLOWED"),
        ("OPTIONS", ITEM, &[], "", 405, "METHOD_NOT_ALLOWED"),
        ("POST", BIDS, &body, r#"{"amount":1}"#, 401, "UNAUTHORIZED"),
        ("POST", "/register", &[], "{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("POST", "/register", &[("content-type", "text/plain")], "{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("POST", "/register", &body, "{", 400, "INVALID_INPUT"),
        ("GET", &long, &[], "", 414, "URI_TOO_LONG"),
        ("GET", ITEM, &[("x-wide", &wide)], "", 431, "HEADERS_TOO_LARGE"),
    ] {
        let headers = [headers, &[("x-request-id", "req-7")]].concat();
        let answer = call(&router, method, uri, &headers, sent.to_owned()).await;

        let what = format!("{method} {}", &uri[..uri.len().min(60)]);
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{what}");
        assert_eq!(answer.body["error"]["request_id"], "req-7", "{what}");
        assert!(answer.body["error"]["message"].is_string(), "{what}");
        for (name, value) in [
            ("content-type", "application/json"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "strict-origin-when-cross-origin"),
            ("x-frame-options", "DENY"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
            ("strict-transport-security", "max-age=31536000; includeSubDomains"),
            ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
            ("cache-control", "no-store"),
            ("x-request-id", "req-7"),
            ("server", ""),
        ] {
            assert_eq!(answer.header(name), value, "{what}: {name}");
        }
        assert_eq!(answer.header("x-trace-id").len(), 32, "{what}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let router = alone().await;

    for (uri, allowed) in [
        ("/register", "POST"),
        (ITEM, "GET,HEAD,PUT,DELETE"),
        (BIDS, "POST,GET,HEAD"),
        ("/api/v1/items", "POST,GET,HEAD"),
        ("/livez", "GET,HEAD"),
    ] {
        assert_eq!(call(&router, "PATCH", uri, &[], "").await.header("allow"), allowed, "{uri}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let router = alone().await;
    let deep = format!(r#"{{"email":{}1{}}}"#, "[".repeat(64), "]".repeat(64));
    for (body, details) in [
        ("", "email: is missing"),
        ("[]", "expected a JSON object"),
        ("null", "expected a JSON object"),
        ("\"text\"", "expected a JSON object"),
        ("{}", "email: is missing"),
        (r#"{"email":"a@b.c","password":12345678}"#, "password: expected a string"),
        (r#"{"email":{"a":1},"password":"secret123"}"#, "email: expected a string"),
        (r#"{"email":"a","email":"b"}"#, "email: duplicate field `email`"),
        (r#"{"email":"a@b.c" "password"}"#, "malformed JSON: expected `,` or `}` at line 1 column 18"),
        (
            r#"{"email":"a@b.c","password":"secret123"} {}"#,
            "malformed JSON: trailing characters at line 1 column 42",
        ),
        (&deep, "the body nests deeper than 64 levels"),
        (
            r#"{"email":"a\u0000@b.c","password":"secret123"}"#,
            "a text holds the character U+0000, which cannot be stored",
        ),
    ] {
        let answer = post(&router, "/register", body).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::BAD_REQUEST, "INVALID_INPUT"), "{body}");
        assert_eq!(answer.details(), details, "{body}");
    }
    let answer = post(&router, "/register", r#"{"email":1}"#).await;
    assert_eq!(answer.body["error"]["fields"], json!([{ "name": "email", "message": "expected a string" }]));
}

#[tokio::test]
async fn what_a_query_string_cannot_say_is_named_with_what_it_can() {
    let router = alone().await;
    let orders = "expected one of `ending_soon`, `newest`, `price_asc`, `price_desc`, `most_bids`";
    let states = "expected one of `scheduled`, `open`, `sold`, `unsold`, `cancelled`";
    let amount = "expected an amount such as 150 or \"150.00\"";
    for (query, member, message) in [
        ("limit=x", "limit", "expected a whole number"),
        ("limit=-1", "limit", "expected a whole number"),
        ("q=lamp&offset=1.5&sort=newest", "offset", "expected a whole number"),
        ("sort=cheap", "sort", orders),
        ("status=closed", "status", states),
        ("categoryId=x", "categoryId", "expected a whole number"),
        ("min_price=cheap", "min_price", amount),
        ("max_price=", "max_price", amount),
        ("facets=maybe", "facets", "expected true or false"),
        ("ending_before=soon", "ending_before", "expected an RFC 3339 time such as 2026-11-21T02:21:44Z"),
    ] {
        let answer = get(&router, &format!("/api/v1/items?{query}"), &[]).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::BAD_REQUEST, "INVALID_INPUT"), "{query}");
        assert_eq!(answer.details(), format!("{member}: {message}"), "{query}");
        assert_eq!(
            answer.body["error"]["fields"],
            json!([{ "name": member, "message": message }]),
            "{query}"
        );
    }
    for path in [BIDS, "/api/v1/leaderboard"] {
        let answer = get(&router, &format!("{path}?limit=x"), &[]).await;
        assert_eq!(answer.details(), "limit: expected a whole number", "{path}");
    }
}

/// Answers with what arrived.
async fn list_items(_: &mut Cx, asked: ListItems) -> platform::Result<Listing> {
    let echo = json!(asked).to_string();
    let page_info = PageInfo {
        total: 1,
        total_is_capped: false,
        limit: asked.page.limit,
        offset: asked.page.offset,
        has_more: false,
        next_cursor: Some(echo),
    };
    Ok(Listing { data: Vec::new(), page_info, facets: None })
}

#[tokio::test]
async fn a_query_string_arrives_in_the_types_of_the_query() {
    let world = World::start(vec![Function::query(list_items)]).await;
    let uri = format!(
        "/api/v1/items?q=oak%20%26%00%22&categoryId=7&sellerId={ANN}&status=open&minPrice=1.5&maxPrice=20\
         &endingBefore=2026-12-01T00:00:00Z&sort=price_desc&limit=5&offset=2&stranger=1"
    );

    let answer = get(&world.router, &uri, &[]).await;

    assert_eq!((answer.status, &answer.body["page_info"]["limit"]), (StatusCode::OK, &json!(5)));
    let arrived: Value =
        serde_json::from_str(answer.body["page_info"]["next_cursor"].as_str().unwrap()).unwrap();
    assert_eq!(
        arrived,
        json!({
            "q": "oak &\0\"", "category_id": 7, "seller_id": ANN, "status": "open", "min_price": "1.5",
            "max_price": "20", "ending_before": "2026-12-01T00:00:00Z", "sort": "price_desc", "limit": 5, "offset": 2,
            "cursor": null, "facets": false,
        })
    );
    assert_eq!(post(&world.router, "/api/v1/items", "{}").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_body_is_too_large_with_and_without_saying_so() {
    let router = alone().await;
    let json = [("content-type", "application/json")];
    let of = |size: usize| format!(r#"{{"email":"{}"}}"#, "a".repeat(size - 12));
    let in_chunks = |text: String| {
        let chunks: Vec<_> = text.as_bytes().chunks(1000).map(<[u8]>::to_vec).collect();
        Body::from_stream(futures_util::stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
    };

    for (body, status) in [
        (Body::from(of(8 * 1024)), StatusCode::BAD_REQUEST),
        (Body::from(of(8 * 1024 + 1)), StatusCode::PAYLOAD_TOO_LARGE),
        (in_chunks(of(8 * 1024)), StatusCode::BAD_REQUEST),
        (in_chunks(of(8 * 1024 + 1)), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let answer = call(&router, "POST", "/register", &json, body).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
}

#[tokio::test]
async fn a_body_is_as_large_over_nats_as_over_http() {
    let world = World::start(vec![Function::query(get_jwks)]).await;
    let (_, app) =
        crate::router(crate::routes::table(), &settings(), world.bus.clone(), CancellationToken::new())
            .await
            .unwrap();
    let running = crate::service(&app).start(&world.bus).await.unwrap();
    let ask = async |subject: &str, size: usize| {
        let body = json!({ "email": "a".repeat(size - 12) });
        assert_eq!(body.to_string().len(), size);
        let answer = world.bus.request(subject.into(), &body, None, &platform::Trace::start()).await.unwrap();
        answer.status
    };

    assert_eq!(ask("svc.identity.register", 8 * 1024).await, 400);
    assert_eq!(ask("svc.identity.register", 8 * 1024 + 1).await, 413);
    running.stop().await;
}

#[tokio::test]
async fn a_key_is_one_to_255_visible_characters_bare_or_quoted() {
    let world = World::start(vec![Function::query(get_jwks)]).await;
    let token = bearer(&good_token());
    let (fits, too_long) = ("k".repeat(255), "k".repeat(256));
    let quoted = format!("\"{fits}\"");
    let try_key = async |keys: &[&str]| {
        let mut headers = vec![("authorization", token.as_str()), ("content-type", "application/json")];
        headers.extend(keys.iter().map(|key| ("idempotency-key", *key)));
        // Without an amount: a key that is good is not used up, and the answer tells which was looked at.
        call(&world.router, "POST", BIDS, &headers, "{}").await.details().to_owned()
    };

    for keys in [&[][..], &["k"], &[&fits], &[&quoted]] {
        assert_eq!(try_key(keys).await, "amount: is missing", "{keys:?}");
    }
    for keys in [&[""][..], &["\"\""], &["two words"], &[&too_long], &["schlüssel"], &["a", "b"]] {
        assert!(try_key(keys).await.starts_with("Idempotency-Key: "), "{keys:?}");
    }
}

#[tokio::test]
async fn ids_are_kept_when_they_are_plain_and_made_when_not() {
    let router = alone().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    let kept = get(&router, "/livez", &[("x-request-id", "req-7"), ("traceparent", parent)]).await;
    let made = get(&router, "/livez", &[("x-request-id", "two words"), ("traceparent", "nonsense")]).await;

    assert_eq!(kept.header("x-request-id"), "req-7");
    assert_eq!(kept.header("x-trace-id"), "0af7651916cd43dd8448eb211c80319c");
    assert!(Uuid::parse_str(made.header("x-request-id")).is_ok());
    assert_eq!(made.header("x-trace-id").len(), 32);
}

#[tokio::test]
async fn a_page_of_a_named_site_may_read_and_no_other() {
    let origins = ["https://outcry.example", "http://localhost:5173"].map(String::from);
    let settings = Settings { cors_origins: origins.into(), ..settings() };
    let (router, _) = router_over("nats://127.0.0.1:1", settings).await;

    for (origin, echoed) in [
        ("https://outcry.example", "https://outcry.example"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("https://evil.example", ""),
        ("https://outcry.example.evil", ""),
        ("null", ""),
    ] {
        let read = get(&router, "/nowhere", &[("origin", origin)]).await;
        let preflight = [("origin", origin), ("access-control-request-method", "POST")];
        let preflight = call(&router, "OPTIONS", BIDS, &preflight, "").await;
        for answer in [read, preflight] {
            assert_eq!(answer.header("access-control-allow-origin"), echoed, "{origin}");
            assert_eq!(answer.header("access-control-allow-credentials"), "", "{origin}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{origin}");
            assert!(answer.header("vary").contains("origin"), "{origin}");
        }
    }
    for wrong in ["*", "null", "outcry.example", "https://outcry.example/", "https://outcry.example/path"] {
        assert!(crate::parse_origin(wrong).unwrap_err().to_string().starts_with("CORS_ORIGINS: "), "{wrong}");
    }
}

#[tokio::test]
async fn a_panic_says_nothing_about_itself() {
    let (router, bus) = router_over("nats://127.0.0.1:1", settings()).await;
    let (_, app) =
        crate::router(crate::routes::table(), &settings(), bus, CancellationToken::new()).await.unwrap();
    drop(router);
    let broken = Router::new().route("/", axum::routing::get(async || -> () { panic!("canary") }));
    let router = crate::surround(broken, &app, &[]).unwrap();

    let answer = get(&router, "/", &[]).await;

    assert_eq!((answer.status, answer.code()), (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"));
    assert!(!answer.body.to_string().contains("canary"));
    assert_eq!(answer.header("x-frame-options"), "DENY");
}

#[tokio::test]
async fn when_there_is_no_room_it_is_said_at_once_and_probes_still_answer() {
    let config = Config { nats_url: "nats://127.0.0.1:1".into(), ..Env::default().read().unwrap() };
    let bus = Bus::connect(&config, "edge").await.unwrap();
    let (router, app) =
        crate::router(crate::routes::table(), &settings(), bus, CancellationToken::new()).await.unwrap();
    let _all = app.room.take_all();

    let answer = get(&router, ITEM, &[]).await;

    assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(get(&router, "/livez", &[]).await.status, StatusCode::OK);
}

// --- over a real connection -----------------------------------------------------------------------

pub(crate) struct Server {
    pub(crate) address: std::net::SocketAddr,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

pub(crate) async fn listening(router: Router) -> Server {
    listening_to(router, Router::new(), 100).await
}

async fn listening_to(router: Router, full: Router, connections: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(crate::server::serve(router, full, connections, listener, stop.clone()));
    Server { address, stop, serving }
}

/// What comes back for these bytes until the server closes.
pub(crate) async fn exchange(address: std::net::SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_the_connection_closed() {
    let server = listening(alone().await).await;
    let endless = format!("GET /livez HTTP/1.1\r\nHost: x\r\nx-wide: {}\r\n\r\n", "a".repeat(200_000));
    let many = format!("GET /livez HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    for (request, status) in [
        ("NONSENSE\r\n\r\n", "400"),
        ("POST /register HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", "400"),
        ("POST /register HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n{}", "400"),
        ("GET /livez HTTP/1.1\r\nHost: x\r\nx-nul: a\0b\r\n\r\n", "400"),
        ("GET /livez HTTP/1.1\r\nHost: x\r\nx-fold: a\r\n b\r\n\r\n", "400"),
        (&endless, "431"),
        (&many, "431"),
        ("CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "405"),
    ] {
        let answer = exchange(server.address, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{:.60} -> {:.60}", request, answer);
    }
}

/// S-22: a body whose end two readers would see in different places is refused, or at least nothing behind it is read.
#[tokio::test]
async fn nothing_is_smuggled_in_behind_a_request() {
    let server = listening(alone().await).await;
    let behind = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let post = |headers: &str, body: &str| {
        format!(
            "POST /register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}\r\n{body}{behind}"
        )
    };
    for (headers, body, status) in [
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n", "400"),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", "400"),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", "400"),
        ("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n", "400"),
        ("Content-Length: 2\r\nContent-Length: 3\r\n", "{} ", "400"),
        ("Content-Length: +2\r\n", "{}", "400"),
        ("Content-Length: -2\r\n", "{}", "400"),
        ("Content-Length: 0x2\r\n", "{}", "400"),
        ("Content-Length: 2, 3\r\n", "{}", "400"),
        ("Content-Length\0: 2\r\n", "{}", "400"),
        ("Content-Length: 2\rX: y\r\n", "{}", "400"),
        // Both: it is read in chunks, as RFC 9112 6.1 lets a server do that closes the connection then.
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n", "400"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "2\r\n{}\r\n0\r\n\r\n", "400"),
        ("Transfer-Encoding: chunked\r\n", "xyz\r\n{}\r\n", "400"),
        ("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n{}\r\n", "400"),
    ] {
        let answers = exchange(server.address, post(headers, body).as_bytes()).await;
        assert!(answers.starts_with(&format!("HTTP/1.1 {status} ")), "{headers:?} -> {answers:.60}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{headers:?} -> {answers}");
    }
    // What is in order is read, and what comes behind it is the next request.
    for (headers, body) in
        [("Content-Length: 2\r\n", "{}"), ("Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n")]
    {
        let last = post(headers, body).replace("Host: x\r\n\r\n", "Host: x\r\nConnection: close\r\n\r\n");
        let answers = exchange(server.address, last.as_bytes()).await;
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 2, "{headers:?} -> {answers}");
    }
}

/// S-23.
#[tokio::test]
async fn what_is_too_large_is_refused() {
    let server = listening(alone().await).await;
    let head = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n";
    let chunk = format!("400\r\n{}\r\n", "a".repeat(0x400));
    for (request, status) in [
        (format!("GET /livez?{} {head}\r\n", "a".repeat(9 * 1024)), 414),
        (format!("GET /livez {head}X-Wide: {}\r\n\r\n", "a".repeat(17 * 1024)), 431),
        (format!("POST /register {head}Content-Length: 66560\r\n\r\n"), 413),
        (format!("POST /register {head}Transfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(9)), 413),
    ] {
        let answer = exchange(server.address, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer:.80}");
        assert!(answer.contains("\"request_id\""), "{answer}");
    }
}

/// One letter a second keeps a connection busy, and is not enough. S-23.
#[tokio::test]
async fn headers_that_come_too_slowly_end_a_connection_and_idleness_does_not() {
    let server = listening(alone().await).await;
    let request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    // How long a connection goes on that has said this and says no more than a letter now and then.
    let drip = async |mut stream: TcpStream, said: &[u8]| {
        let started = std::time::Instant::now();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        while started.elapsed() < Duration::from_secs(15) {
            let read = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
            if read.is_ok() || !said.is_empty() && stream.write_all(b"x").await.is_err() {
                break;
            }
        }
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"));
        started.elapsed()
    };
    let connect = async || TcpStream::connect(server.address).await.unwrap();
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(request).await.unwrap();
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..read]));
    };
    let (mut used, mut idle) = (connect().await, connect().await);
    ask(&mut used).await;
    ask(&mut idle).await;
    let kept = async {
        // As long as callers keep a connection that they have just used, or longer.
        tokio::time::sleep(Duration::from_secs(12)).await;
        ask(&mut idle).await;
        ask(&mut idle).await;
    };

    let head = &request[..20];
    let (first, next, silent, ()) =
        tokio::join!(drip(connect().await, head), drip(used, head), drip(connect().await, b""), kept);

    for open in [first, next, silent] {
        assert!((9.0..11.5).contains(&open.as_secs_f64()), "{first:?} {next:?} {silent:?}");
    }
}

/// S-24.
#[tokio::test]
async fn another_spelling_of_a_path_opens_nothing() {
    let router = alone().await;
    for (path, status) in [
        ("/api/v1/users/me/stats", 401),
        ("/api/v1/users/%6de/stats", 404),
        ("/api/v1/users/me/stats/", 404),
        ("/api/v1/users/me/stats;x=1", 404),
        ("/api/v1/users/me;x=1/stats", 404),
        // Somebody with a slash in their id, whom nobody is shown who does not say who they are.
        ("/api/v1/users/me%2fstats", 401),
        ("/api/v1/users/%2e%2e/me", 404),
        ("/api/v1/users/x/../me/stats", 404),
        ("/./api/v1/users/me/stats", 404),
        ("//api/v1/users/me/stats", 404),
        ("/api//v1/users/me/stats", 404),
        ("/API/v1/users/me/stats", 404),
        ("/%61pi/v1/users/me/stats", 404),
        ("/me%00", 404),
        ("/me?x=/livez", 401),
        ("/livez/../me", 404),
    ] {
        assert_eq!(get(&router, path, &[]).await.status.as_u16(), status, "{path}");
        assert_eq!(call(&router, "HEAD", path, &[], "").await.status.as_u16(), status, "HEAD {path}");
    }
    let head = call(&router, "HEAD", "/livez", &[], "").await;
    assert_eq!((head.status, &head.body), (StatusCode::OK, &Value::Null));
}

#[tokio::test]
async fn what_is_in_flight_is_finished_and_idle_connections_are_closed() {
    let slow = axum::routing::get(async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        "done"
    });
    let server = listening(Router::new().route("/", slow)).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    let request = tokio::spawn(exchange(server.address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    tokio::time::sleep(Duration::from_millis(100)).await;

    server.stop.cancel();

    assert!(request.await.unwrap().ends_with("done"));
    let mut byte = [0];
    // After a second in which its next request might still come.
    let closed = tokio::time::timeout(Duration::from_millis(2_500), idle.read(&mut byte));
    assert_eq!(closed.await.unwrap().unwrap(), 0);
    tokio::time::timeout(Duration::from_secs(2), server.serving).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_connection_for_which_there_is_no_room_is_told_so_and_closed() {
    let config = Config { nats_url: "nats://127.0.0.1:1".into(), ..Env::default().read().unwrap() };
    let bus = Bus::connect(&config, "edge").await.unwrap();
    let (router, app) =
        crate::router(crate::routes::table(), &settings(), bus, CancellationToken::new()).await.unwrap();
    let server = listening_to(router, crate::full(&app), 2).await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    // Idle connections take the room.
    let (first, _second) =
        tokio::join!(TcpStream::connect(server.address), TcpStream::connect(server.address));
    tokio::time::sleep(Duration::from_millis(100)).await;

    let refused = exchange(server.address, request(ITEM).as_bytes()).await;

    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    for expected in
        ["retry-after: 1\r\n", "connection: close\r\n", "x-request-id: ", r#""code":"UNAVAILABLE""#]
    {
        assert!(refused.contains(expected), "{expected} in {refused}");
    }
    assert!(exchange(server.address, request("/livez").as_bytes()).await.starts_with("HTTP/1.1 200 "));
    // Who says nothing is not waited for.
    assert_eq!(exchange(server.address, b"").await, "");
    drop(first);
    until(async || {
        let nowhere = b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        exchange(server.address, nowhere).await.starts_with("HTTP/1.1 404 ")
    })
    .await;
    server.stop.cancel();
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = TcpListener::bind("0.0.0.0:0").await.unwrap();

    let error = crate::bind(taken.local_addr().unwrap().port()).await.unwrap_err();

    assert!(format!("{error:#}").starts_with("PORT: "), "{error:#}");
}

// --- what is counted ------------------------------------------------------------------------------

async fn told(router: &Router) -> Told {
    let request = Request::builder().uri("/metrics").body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Told::read(std::str::from_utf8(&body).unwrap())
}

/// Also while NATS is away: what the edge counts itself it knows.
#[tokio::test]
async fn metrics_know_templates_and_never_what_a_caller_sent() {
    let router = alone().await;
    let before = told(&router).await;
    for path in [ITEM, "/api/v1/items/not-an-id", "/secret/path", "/metrics/x"] {
        get(&router, path, &[]).await;
    }
    call(&router, "BREW", ITEM, &[], Body::empty()).await;
    tokio::time::sleep(Duration::from_millis(510)).await;

    let after = told(&router).await;

    let requests = |told: &Told, route, status| {
        let labels = [("route", route), ("method", "GET"), ("status", status)];
        told.find("http_server_request_duration_seconds_count", &labels).unwrap_or_default()
    };
    assert_eq!(requests(&after, "/api/v1/items/{item_id}", "404"), 1.0);
    assert_eq!(requests(&after, "/api/v1/items/{item_id}", "503"), 1.0);
    assert_eq!(requests(&after, "unmatched", "404"), 2.0);
    assert_eq!(requests(&after, "/metrics", "200") - requests(&before, "/metrics", "200"), 1.0);
    assert_eq!(after.values_of("method"), ["GET", "_OTHER"]);
    let routes = after.values_of("route");
    assert_eq!(routes, ["/api/v1/items/{item_id}", "/metrics", "unmatched"]);
    assert_eq!(after.value("http_server_active_requests", &[]), 1.0, "this one");
    assert_eq!(after.value("sse_clients", &[]), 0.0);
}

#[tokio::test]
async fn metrics_tell_of_the_functions_behind() {
    let world = World::start(vec![Function::query(get_item), Function::query(get_user_stats)]).await;
    get(&world.router, ITEM, &[]).await;

    let told = told(&world.router).await;

    assert_eq!(told.value("fn_requests_total", &[("fn", "get-item"), ("outcome", "ok")]), 1.0);
    assert_eq!(told.value("fn_duration_seconds_count", &[("fn", "get-item")]), 1.0);
    assert_eq!(told.value("fn_requests_total", &[("fn", "get-user-stats")]), 0.0);
}
