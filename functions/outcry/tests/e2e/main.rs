//! Stories over HTTP, on the whole platform with real services. One binary, one platform.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod authorization;
mod bench;
mod bidding;
mod canary;
mod full;
mod gate;
mod goods;
mod killed;
mod life;
mod lists;
mod market;
mod passwords;
mod replay;
mod sessions;
mod split;
mod two_factors;
mod users;
mod users_story;

use std::{
    future::Future,
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use outcry::{
    demo::{self, Size},
    launch::{self, Menu, Options, Platform, Split},
    verify,
};
use platform::{Env, Timestamp, permissions::OPERATOR};
use reqwest::{Client, Method, RequestBuilder, Response, header::HeaderMap};
use serde_json::{Value, json};
use testing::exposition::Told as Exposition;
use uuid::Uuid;

/// Outlives every test, so that the platform does.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());
/// The platform that most stories share.
static SHARED: LazyLock<String> = LazyLock::new(|| {
    let (platform, data) = RUNTIME.block_on(start(Vec::new()));
    let url = platform.url.clone();
    std::mem::forget((platform, data));
    url
});

fn story(body: impl Future<Output = ()>) {
    // Outside of the runtime, because starting blocks.
    LazyLock::force(&SHARED);
    RUNTIME.block_on(body);
}

/// What a story's platform is like.
struct Setting {
    /// Functions that the story runs itself.
    without: Vec<String>,
    /// Its data need not survive kill -9 of Postgres.
    throwaway: bool,
    split: Option<Split>,
    /// What its environment says.
    variables: &'static [(&'static str, &'static str)],
}

impl Default for Setting {
    fn default() -> Self {
        Self { without: Vec::new(), throwaway: true, split: None, variables: &[] }
    }
}

impl Setting {
    async fn start(self, data: &std::path::Path) -> Platform {
        // RUST_LOG=info shows what a failing story did.
        let env = Env::load().unwrap();
        let mut config: platform::Config = env.read().unwrap();
        let rust_log = config.rust_log.get_or_insert_with(|| "off".into()).clone();
        platform::init_telemetry(&config);
        let options = Options {
            data: data.to_owned(),
            listen: Some("127.0.0.1:0".into()),
            fresh: false,
            throwaway: self.throwaway,
            without: self.without,
            split: self.split,
            menu: Menu::default(),
        };
        let mut env = Env::default();
        env.set("RUST_LOG", rust_log);
        for (name, value) in self.variables {
            env.set(name, *value);
        }
        launch::start(env, options, |_| {}).await.unwrap()
    }
}

async fn start(without: Vec<String>) -> (Platform, tempfile::TempDir) {
    let data = local::temp_dir().unwrap();
    (start_in(data.path(), without, true).await, data)
}

async fn start_in(data: &std::path::Path, without: Vec<String>, throwaway: bool) -> Platform {
    Setting { without, throwaway, ..Setting::default() }.start(data).await
}

/// Where the bus of a platform is, for its operator.
fn nats_of(platform: &Platform) -> String {
    let config: platform::Config = platform.env.read().unwrap();
    let (user, password) = config.login(OPERATOR).unwrap();
    config.nats_url.replace("://", &format!("://{user}:{password}@"))
}

/// A visitor of the platform.
#[derive(Clone)]
struct Visitor {
    http: Client,
    url: String,
    token: Option<String>,
    id: String,
}

/// What came back.
struct Seen {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Seen {
    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

impl Visitor {
    fn of(url: &str) -> Self {
        let http = Client::builder().no_proxy().build().unwrap();
        Self { http, url: url.to_owned(), token: None, id: String::new() }
    }

    /// Somebody who has just registered.
    async fn new(url: &str, name: &str) -> Self {
        let mut visitor = Self::of(url);
        let name = format!("{name}-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let body =
            json!({ "username": name, "email": format!("{name}@example.com"), "password": "secret123" });
        let session = visitor.post("/identity/register", body).await;
        assert_eq!(session.status, 201, "{}", session.body);
        visitor.token = Some(session.body["token"].as_str().unwrap().to_owned());
        visitor.id = session.body["user"]["id"].as_str().unwrap().to_owned();
        visitor
    }

    /// Some who have registered one after the other: a password takes its time.
    async fn several(url: &str, count: u64) -> Vec<Self> {
        let mut visitors = Vec::new();
        for _ in 0..count {
            visitors.push(Self::new(url, "bidder").await);
        }
        visitors
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn get(&self, path: &str) -> Seen {
        see(self.request(Method::GET, path).send().await.unwrap()).await
    }

    async fn post(&self, path: &str, body: Value) -> Seen {
        see(self.request(Method::POST, path).json(&body).send().await.unwrap()).await
    }

    async fn put(&self, path: &str, body: Value) -> Seen {
        see(self.request(Method::PUT, path).json(&body).send().await.unwrap()).await
    }

    async fn delete(&self, path: &str) -> Seen {
        see(self.request(Method::DELETE, path).send().await.unwrap()).await
    }

    async fn post_text(&self, path: &str, body: &'static str) -> Seen {
        let request = self.request(Method::POST, path).header("Content-Type", "application/json").body(body);
        see(request.send().await.unwrap()).await
    }

    async fn post_with_key(&self, path: &str, key: &str, body: Value) -> Seen {
        self.try_post_with_key(path, key, body).await.unwrap()
    }

    /// An error when the connection broke.
    async fn try_post_with_key(&self, path: &str, key: &str, body: Value) -> reqwest::Result<Seen> {
        let request = self.request(Method::POST, path).header("Idempotency-Key", key).json(&body);
        try_see(request.send().await?).await
    }

    async fn offer(&self, seconds: f64, more: Value) -> Value {
        let ends_at = Timestamp::now() + Duration::from_secs_f64(seconds);
        let mut body = json!({ "name": "Lamp", "start_price": "10.00", "ends_at": ends_at });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let item = self.post("/api/v1/items", body).await;
        assert_eq!(item.status, 201, "{}", item.body);
        item.body
    }

    async fn bid(&self, item: &Value, amount: Value) -> Seen {
        self.post(&bids_of(item), json!({ "amount": amount })).await
    }

    /// Asks again until the answer is as expected.
    async fn get_until(&self, path: &str, expected: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..200 {
            let seen = self.get(path).await;
            if expected(&seen.body) {
                return seen.body;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} never was as expected: {}", self.get(path).await.body);
    }
}

async fn see(response: Response) -> Seen {
    try_see(response).await.unwrap()
}

async fn try_see(response: Response) -> reqwest::Result<Seen> {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await?;
    Ok(Seen { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
}

fn bids_of(item: &Value) -> String {
    format!("/api/v1/items/{}/bids", item["id"].as_str().unwrap())
}

fn path_of(item: &Value) -> String {
    format!("/api/v1/items/{}", item["id"].as_str().unwrap())
}

#[test]
fn ann_sells_bob_and_cid_bid_and_cid_wins_on_time() {
    story(async {
        let (ann, bob, cid) = (
            Visitor::new(&SHARED, "ann").await,
            Visitor::new(&SHARED, "bob").await,
            Visitor::new(&SHARED, "cid").await,
        );
        let item = ann.offer(2.0, json!({ "bid_increment": "1.00", "reserve_price": "12" })).await;
        assert_eq!((&item["status"], &item["version"]), (&json!("open"), &json!(1)));

        let first = bob.bid(&item, json!("10.00")).await;
        assert_eq!(
            (first.status, &first.body["seq"], &first.body["leading"]),
            (201, &json!(1), &json!(true))
        );
        assert_eq!(first.body["item"]["min_next_bid"], "11.00");
        let low = cid.bid(&item, json!(10.5)).await;
        assert_eq!((low.status, low.code()), (409, "BID_TOO_LOW"));
        assert_eq!(low.body["error"]["min_next_bid"], "11.00");
        assert_eq!(cid.bid(&item, json!(12)).await.status, 201);

        let closed = bob.get_until(&path_of(&item), |item| item["closed_at"].is_string()).await;

        assert_eq!((&closed["status"], &closed["winner_id"]), (&json!("sold"), &json!(cid.id)));
        assert_eq!((&closed["final_price"], &closed["bid_count"]), (&json!("12.00"), &json!(2)));
        assert_eq!(closed.get("reserve_price"), None, "only the seller sees the reserve");
        let late = bob.bid(&item, json!("50.00")).await;
        assert_eq!((late.status, late.code()), (409, "AUCTION_CLOSED"));

        let stats = |user: &Visitor| format!("/api/v1/users/{}/stats", user.id);
        let won = bob.get_until(&stats(&cid), |stats| stats["items_won"] == 1).await;
        assert_eq!((&won["total_bids"], &won["total_spent"]), (&json!(1), &json!("12.00")));
        bob.get_until(&stats(&ann), |stats| stats["items_sold"] == 1).await;
        let own = bob.get("/api/v1/users/me/stats").await;
        assert_eq!((&own.body["user_id"], &own.body["total_amount"]), (&json!(bob.id), &json!("10.00")));

        let list = ann.get(&bids_of(&item)).await;
        let bidders: Vec<&str> = list.body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|bid| bid["bidder_id"].as_str().unwrap())
            .collect();
        assert_eq!(bidders, [&cid.id, &bob.id]);
        assert_eq!(list.body["page_info"]["total"], 2);
    });
}

#[test]
fn what_is_offered_is_found_by_words_filters_and_order_and_follows_what_happens() {
    story(async {
        let (ann, bob) = (Visitor::new(&SHARED, "ann").await, Visitor::new(&SHARED, "bob").await);
        let word = format!("w{}", Uuid::new_v4().simple());
        let offer = async |seconds, name: &str, more: Value| {
            let mut body = json!({ "name": format!("{name} {word}") });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            ann.offer(seconds, body).await
        };
        let lamp = offer(6.0, "Łamp", json!({ "category_id": 7 })).await;
        let table = offer(60.0, "Table", json!({ "start_price": "25", "description": "oak, no lamp" })).await;
        let chair = offer(90.0, "Chair", json!({ "start_price": "5.50" })).await;
        let listed = |seen: &Value| -> Vec<Value> {
            seen["data"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect()
        };
        let all = format!("/api/v1/items?sellerId={}", ann.id);
        bob.get_until(&all, |seen| seen["page_info"]["total"] == 3).await;

        assert_eq!(bob.bid(&lamp, json!(40)).await.status, 201);
        let dearest = bob
            .get_until(&format!("{all}&sort=price_desc&status=open"), |seen| {
                seen["data"][0]["bid_count"] == 1
            })
            .await;
        assert_eq!(listed(&dearest), [&lamp, &table, &chair].map(|item| item["id"].clone()));
        // But for what only the authority tells, it is the item itself.
        let (mut shown, mut itself) = (dearest["data"][0].clone(), bob.get(&path_of(&lamp)).await.body);
        assert_eq!((&shown["version"], &shown["current_price"]), (&json!(2), &json!("40.00")));
        for item in [&mut shown, &mut itself] {
            item.as_object_mut().unwrap().remove("updated_at");
        }
        assert_eq!(shown, itself);

        for (query, expected) in [
            (format!("q={word}&sort=newest"), &[&chair, &table, &lamp][..]),
            (format!("q=%C5%82amp+{word}"), &[&lamp]),
            (format!("q={word}+oak+-chair"), &[&table]),
            (
                format!("q={word}&sort=ending_soon&endingBefore={}", table["ends_at"].as_str().unwrap()),
                &[&lamp],
            ),
            (format!("q={word}&minPrice=5.50&maxPrice=25&sort=price_asc"), &[&chair, &table]),
            (format!("q={word}&category_id=7&sort=most_bids"), &[&lamp]),
            (format!("q={word}&status=scheduled"), &[]),
        ] {
            let seen = bob.get(&format!("/api/v1/items?{query}")).await.body;
            assert_eq!(
                listed(&seen),
                expected.iter().map(|item| item["id"].clone()).collect::<Vec<_>>(),
                "{query}"
            );
        }
        let first = bob.get(&format!("{all}&sort=price_asc&limit=2")).await.body;
        let cursor = first["page_info"]["next_cursor"].as_str().unwrap();
        let second = bob.get(&format!("{all}&sort=price_asc&limit=2&cursor={cursor}")).await.body;
        assert_eq!(
            [listed(&first), listed(&second)].concat(),
            [&chair, &table, &lamp].map(|item| item["id"].clone())
        );
        let foreign = bob.get(&format!("{all}&sort=price_desc&cursor={cursor}")).await;
        assert_eq!((foreign.status, foreign.code()), (400, "INVALID_INPUT"));

        let sold = bob.get_until(&format!("{all}&status=sold"), |seen| seen["page_info"]["total"] == 1).await;
        assert_eq!(
            (&sold["data"][0]["winner_id"], &sold["data"][0]["final_price"]),
            (&json!(bob.id), &json!("40.00"))
        );
        let soon = bob.get(&format!("{all}&sort=ending_soon")).await.body;
        assert_eq!(listed(&soon), [&table, &chair].map(|item| item["id"].clone()));
    });
}

#[test]
fn everybody_can_ask_who_they_are() {
    story(async {
        let ann = Visitor::new(&SHARED, "ann").await;
        let anonymous = Visitor { token: None, ..ann.clone() };
        for path in ["/identity/me", "/me", "/api/v1/users/me"] {
            let me = ann.get(path).await;
            assert_eq!((me.status, &me.body["id"]), (200, &json!(ann.id)), "{path}");
            assert_eq!(anonymous.get(path).await.status, 401, "{path}");
        }
    });
}

#[test]
fn many_bidders_at_once_and_every_promise_is_kept() {
    story(async {
        let report = demo::run(&SHARED, Size { bidders: 20, items: 5, seconds: 4 }, &|_| {}).await.unwrap();

        assert!(report.accepted > 20, "{report:?}");
        assert_eq!(report.sold, 5);
    });
}

#[test]
fn a_platform_is_checked_from_outside() {
    story(async {
        assert_eq!(
            verify::run(&SHARED, &|check| assert!(check.outcome.is_ok(), "{check:?}")).await.unwrap(),
            0
        );
    });
}

/// Whoever checks must hear of what is missing, and of nothing else.
#[test]
fn a_check_from_outside_notices_what_is_missing() {
    story(async {
        let (platform, _data) = start(vec!["update-stats".into()]).await;
        let failed = std::sync::Mutex::new(Vec::new());

        let note = |check: &verify::Check| {
            if check.outcome.is_err() {
                failed.lock().unwrap().push(check.name);
            }
        };

        let count = verify::run(&platform.url, &note).await.unwrap();
        assert_eq!(*failed.lock().unwrap(), ["the figures count the bid"]);
        assert_eq!(count, 1);
        platform.stop().await;
    });
}

#[test]
fn the_seeds_commands_work_as_printed() {
    story(async {
        let (platform, _data) = start(Vec::new()).await;
        let visitor = Visitor::of(&platform.url);

        let john = visitor
            .post_text(
                "/api/v1/auth/register",
                r#"{"username":"john","email":"john@test.com","password":"secret123","first_name":"John","last_name":"Doe"}"#,
            )
            .await;
        let login = visitor
            .post_text("/api/v1/auth/login", r#"{"username_or_email":"john","password":"secret123"}"#)
            .await;

        assert_eq!((john.status, &john.body["user"]["name"]), (201, &json!("John Doe")));
        assert_eq!((login.status, &login.body["token_type"]), (200, &json!("Bearer")));
        assert_eq!((&login.body["expires_in"], &login.body["user"]["role"]), (&json!(600), &json!("user")));
        let again = visitor
            .post_text("/register", r#"{"username":"JOHN","email":"other@test.com","password":"secret123"}"#)
            .await;
        assert_eq!((again.status, again.code()), (409, "ALREADY_EXISTS"));
        platform.stop().await;
    });
}

#[test]
fn bad_input_gets_the_contracts_answer() {
    story(async {
        let (ann, bob) = (Visitor::new(&SHARED, "ann").await, Visitor::new(&SHARED, "bob").await);
        let item = ann.offer(60.0, json!({})).await;
        bob.bid(&item, json!("20.00")).await;
        let bids = bids_of(&item);
        for (body, status, code) in [
            (r#"{"amount":-1}"#, 400, "INVALID_INPUT"),
            (r#"{"amount":0}"#, 400, "INVALID_INPUT"),
            (r#"{"amount":1e309}"#, 400, "INVALID_INPUT"),
            (r#"{"amount":"1,000"}"#, 400, "INVALID_INPUT"),
            (r#"{"amount":"NaN"}"#, 400, "INVALID_INPUT"),
            (r#"{"amount":"20.005"}"#, 400, "INVALID_INPUT"),
            (r#"{"amount":null}"#, 400, "INVALID_INPUT"),
            (r#"{}"#, 400, "INVALID_INPUT"),
            (r#"{"amount":25"#, 400, "INVALID_INPUT"),
            (r#"[25]"#, 400, "INVALID_INPUT"),
            (r#"{"amount":"20.00"}"#, 409, "BID_TOO_LOW"),
            (r#"{"amount":"15.00"}"#, 409, "BID_TOO_LOW"),
        ] {
            let seen = bob.post_text(&bids, body).await;
            assert_eq!((seen.status, seen.code()), (status, code), "{body}: {}", seen.body);
            assert!(
                seen.body["error"]["message"].is_string() && seen.body["error"]["request_id"].is_string()
            );
        }
        let own = ann.bid(&item, json!(30)).await;
        assert_eq!((own.status, own.code()), (403, "SELF_BID"));
        let unknown =
            bob.post(&format!("/api/v1/items/{}/bids", Uuid::now_v7()), json!({ "amount": 30 })).await;
        assert_eq!((unknown.status, unknown.code()), (404, "NOT_FOUND"));
        for path in ["/api/v1/items/not-an-id", &format!("/api/v1/items/{}", Uuid::now_v7()), "/nowhere"] {
            let seen = bob.get(path).await;
            assert_eq!((seen.status, seen.code()), (404, "NOT_FOUND"), "{path}");
        }
        for limit in ["0", "101", "x", "-1"] {
            let seen = bob.get(&format!("{bids}?limit={limit}")).await;
            assert_eq!((seen.status, seen.code()), (400, "INVALID_INPUT"), "{limit}: {}", seen.body);
            assert!(!seen.body["error"]["details"].as_str().unwrap().contains("page."), "{}", seen.body);
        }

        let list = bob.get(&bids).await;
        assert_eq!(list.body["page_info"]["total"], 1, "nothing of this was accepted");
    });
}

#[test]
fn without_a_token_that_holds_nothing_is_written() {
    story(async {
        let bob = Visitor::new(&SHARED, "bob").await;
        let token = bob.token.clone().unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        // The last character of a signature does not carry six bits, so another one is changed.
        let other = if parts[2].starts_with('A') { "B" } else { "A" };
        let forged = format!("{}.{}.{other}{}", parts[0], parts[1], &parts[2][1..]);
        // {"alg":"none","typ":"at+jwt"}
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.{}.", parts[1]);
        for wrong in [None, Some(String::new()), Some("x".into()), Some(forged), Some(unsigned)] {
            let visitor = Visitor { token: wrong.clone(), ..bob.clone() };
            let seen = visitor.post("/api/v1/items", json!({ "name": "x" })).await;
            assert_eq!((seen.status, seen.code()), (401, "UNAUTHORIZED"), "{wrong:?}");
            assert!(seen.headers.contains_key("www-authenticate"));
        }
        // Identity headers from outside mean nothing.
        let anonymous = Visitor { token: None, ..bob.clone() };
        let request =
            anonymous.request(Method::POST, "/api/v1/items").header("x-user-id", &bob.id).json(&json!({}));
        assert_eq!(see(request.send().await.unwrap()).await.status, 401);
    });
}

#[test]
fn the_same_request_again_gets_the_first_answer() {
    story(async {
        let (ann, bob) = (Visitor::new(&SHARED, "ann").await, Visitor::new(&SHARED, "bob").await);
        let item = ann.offer(60.0, json!({})).await;
        let bids = bids_of(&item);

        let twenty = (0..20).map(|_| bob.post_with_key(&bids, "k1", json!({ "amount": "15.00" })));
        let answers = futures_util::future::join_all(twenty).await;
        let again = bob.post_with_key(&bids, "\"k1\"", json!({ "amount": "15.00" })).await;
        let other = bob.post_with_key(&bids, "k1", json!({ "amount": "16.00" })).await;
        let low = bob.post_with_key(&bids, "k2", json!({ "amount": "15.00" })).await;
        let low_again = bob.post_with_key(&bids, "k2", json!({ "amount": "15.00" })).await;

        assert!(answers.iter().all(|seen| seen.status == 201 && seen.body == answers[0].body));
        let replayed = |seen: &Seen| seen.headers.contains_key("idempotent-replayed");
        assert_eq!(answers.iter().filter(|seen| !replayed(seen)).count(), 1);
        assert_eq!(
            (again.status, replayed(&again), &again.body),
            (201, true, &answers[0].body),
            "quotes do not count"
        );
        assert_eq!((other.status, other.code()), (422, "IDEMPOTENCY_MISMATCH"));
        assert_eq!((low.status, low_again.status, replayed(&low_again)), (409, 409, true));
        assert_eq!(bob.get(&bids).await.body["page_info"]["total"], 1);
        for key in ["", "tab\there", &"x".repeat(256)] {
            let request = bob
                .request(Method::POST, &bids)
                .header("Idempotency-Key", key)
                .json(&json!({ "amount": 20 }));
            assert_eq!(see(request.send().await.unwrap()).await.status, 400, "{key:?}");
        }
    });
}

#[test]
fn of_equal_bids_at_once_one_is_accepted() {
    story(async {
        let ann = Visitor::new(&SHARED, "ann").await;
        let item = ann.offer(60.0, json!({})).await;
        let bidders: Vec<Visitor> =
            futures_util::future::join_all((0..10).map(|_| Visitor::new(&SHARED, "bidder"))).await;

        let seen =
            futures_util::future::join_all(bidders.iter().map(|bidder| bidder.bid(&item, json!("10.00"))))
                .await;

        assert_eq!(seen.iter().filter(|seen| seen.status == 201).count(), 1);
        assert_eq!(seen.iter().filter(|seen| seen.code() == "BID_TOO_LOW").count(), 9);
    });
}

#[test]
fn a_trace_and_a_request_id_come_back() {
    story(async {
        let visitor = Visitor::of(&SHARED);
        let request = visitor
            .request(Method::GET, "/nowhere")
            .header("x-request-id", "mine-7")
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");

        let seen = see(request.send().await.unwrap()).await;

        assert_eq!(seen.headers["x-request-id"], "mine-7");
        assert_eq!(seen.headers["x-trace-id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(seen.body["error"]["request_id"], "mine-7");
    });
}

#[test]
fn what_was_there_is_there_after_a_restart() {
    story(async {
        let data = local::temp_dir().unwrap();
        let platform = start_in(data.path(), Vec::new(), true).await;
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(60.0, json!({})).await;
        let bob = Visitor::new(&platform.url, "bob").await;
        bob.bid(&item, json!(11)).await;
        platform.stop().await;

        let platform = start_in(data.path(), Vec::new(), true).await;

        let bob = Visitor { url: platform.url.clone(), ..bob };
        let bid = bob.bid(&item, json!(12)).await;
        assert_eq!(
            (bid.status, &bid.body["seq"]),
            (201, &json!(2)),
            "the token still opens, the bid still counts"
        );
        platform.stop().await;
    });
}

/// A function in a process of its own, gone with the test.
struct Alone(Child);

impl Alone {
    fn run(function: &str, env: &Env) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outcry"));
        command.args(["run", function]).stdout(Stdio::null()).stderr(Stdio::null());
        // Everything else it finds in the folder of the platform that it joins.
        command.env("OUTCRY_DATA", env.get("OUTCRY_DATA").unwrap());
        Self(command.spawn().unwrap())
    }

    fn kill_9(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn killing_place_bid_in_the_middle_of_a_batch_loses_and_doubles_nothing() {
    story(async {
        let (platform, _data) = start(vec!["place-bid".into()]).await;
        let mut place_bid = Alone::run("place-bid", &platform.env);
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(120.0, json!({ "start_price": "1.00" })).await;
        let bob = Visitor::new(&platform.url, "bob").await;
        assert_eq!(bob.bid(&item, json!("1.00")).await.status, 201);

        // 300 bids, forty at a time, each with a key of its own, while the process is killed three times.
        let bids = bids_of(&item);
        let send = |number: usize| {
            let (bob, bids) = (bob.clone(), bids.clone());
            async move {
                let body = json!({ "amount": format!("{}.00", number + 2) });
                let seen = bob.post_with_key(&bids, &format!("n-{number}"), body).await;
                (number, seen.status, seen.body)
            }
        };
        let sending = async {
            use futures_util::StreamExt;
            futures_util::stream::iter((0..300).map(send)).buffer_unordered(40).collect::<Vec<_>>().await
        };
        let killing = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(120)).await;
                place_bid.kill_9();
                tokio::time::sleep(Duration::from_millis(300)).await;
                place_bid = Alone::run("place-bid", &platform.env);
            }
            place_bid
        };
        let (answers, _place_bid) = tokio::join!(sending, killing);

        let mut settled = Vec::new();
        for (number, status, body) in answers {
            let (mut status, mut body) = (status, body);
            // 202 is a promise: the same key learns what became of it.
            for _ in 0..20 {
                if status != 202 {
                    break;
                }
                (_, status, body) = send(number).await;
            }
            assert!(matches!(status, 201 | 409), "{number}: {status} {body}");
            settled.push((number, status, body));
        }
        let mut listed = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = bob.get(&format!("{bids}?limit=100{cursor}")).await.body;
            listed.extend(page["data"].as_array().unwrap().clone());
            match page["page_info"]["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        listed.reverse();
        let accepted: Vec<&Value> =
            settled.iter().filter(|(_, status, _)| *status == 201).map(|(_, _, body)| body).collect();
        assert_eq!(listed.len(), accepted.len() + 1);
        for bid in accepted {
            let same =
                listed.iter().filter(|listed| listed["id"] == bid["id"] && listed["amount"] == bid["amount"]);
            assert_eq!(same.count(), 1, "{bid}");
        }
        for (place, bid) in listed.iter().enumerate() {
            assert_eq!(bid["seq"], json!(place + 1));
        }
        let total = listed.len();
        bob.get_until(&format!("/api/v1/users/{}/stats", bob.id), |stats| stats["total_bids"] == total).await;
        platform.stop().await;
    });
}

#[test]
fn a_killed_nats_server_and_a_killed_postgres_come_back_and_nothing_is_lost() {
    story(async {
        // With its data on disk: a throw-away Postgres keeps no promise when it is killed.
        let data = local::temp_dir().unwrap();
        let platform = start_in(data.path(), Vec::new(), false).await;
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(120.0, json!({})).await;
        let bob = Visitor::new(&platform.url, "bob").await;
        let (nats, postgres) = platform.service_pids();
        let mut accepted = 0;
        for (round, pid) in [None, nats, postgres, None].into_iter().enumerate() {
            if let Some(pid) = pid {
                let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
                assert!(killed.success());
            }
            // Until it is there again callers are told so, or told that it will be decided.
            let key = format!("round-{round}");
            let mut status = 0;
            for _ in 0..40 {
                let seen = bob.post_with_key(&bids_of(&item), &key, json!({ "amount": 20 + round })).await;
                status = seen.status;
                if status == 201 {
                    break;
                }
                assert!(matches!(status, 202 | 503), "{status} {}", seen.body);
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            assert_eq!(status, 201, "round {round}");
            accepted += 1;
        }

        assert_eq!(bob.get(&bids_of(&item)).await.body["page_info"]["total"], accepted);
        bob.get_until(&format!("/api/v1/users/{}/stats", bob.id), |stats| stats["total_bids"] == accepted)
            .await;
        platform.stop().await;
    });
}

/// `place-bid` is away for ten seconds while bids keep coming.
#[test]
fn answers_that_come_too_late_are_found_by_those_who_asked() {
    story(async {
        let (platform, _data) = start(vec!["place-bid".into()]).await;
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(120.0, json!({ "start_price": "1.00" })).await;
        let (bob, cid) = (Visitor::new(&platform.url, "bob").await, Visitor::new(&platform.url, "cid").await);
        let bids = bids_of(&item);

        let send = async |number: u64| {
            // Over four seconds, so that all are told before the function is back.
            tokio::time::sleep(Duration::from_millis(number * 66)).await;
            let who = if number.is_multiple_of(2) { &bob } else { &cid };
            (who, who.post(&bids, json!({ "amount": number % 20 + 1 })).await)
        };
        let started = std::time::Instant::now();
        let late = futures_util::future::join_all((0..60).map(send)).await;

        let (first, told) = &late[0];
        assert_eq!((told.status, &told.body["status"]), (202, &json!("pending")));
        let location = told.headers["location"].to_str().unwrap().to_owned();
        let pending = first.get(&location).await;
        assert_eq!((pending.status, &pending.body["status"]), (200, &json!("pending")));
        assert_eq!(pending.body["id"], told.body["command_id"]);
        assert_eq!(cid.get(&location).await.status, 404, "somebody else's");
        assert_eq!(Visitor::of(&platform.url).get(&location).await.status, 401);
        assert_eq!(first.get(&format!("{location}x")).await.status, 404, "not a name that was given");

        tokio::time::sleep_until((started + Duration::from_secs(10)).into()).await;
        let _place_bid = Alone::run("place-bid", &platform.env);
        let mut accepted = 0;
        for (who, told) in &late {
            assert_eq!(told.status, 202, "{}", told.body);
            let location = told.headers["location"].to_str().unwrap();
            let outcome = who.get_until(location, |outcome| outcome["status"] != "pending").await;
            match outcome["status"].as_str() {
                Some("succeeded") => {
                    accepted += 1;
                    assert_eq!(outcome["result"]["bidder_id"], json!(who.id));
                }
                Some("refused") => assert_eq!(outcome["error"]["code"], "BID_TOO_LOW"),
                _ => panic!("{outcome}"),
            }
        }
        assert_eq!(bob.get(&path_of(&item)).await.body["bid_count"], json!(accepted));
        assert!(accepted > 1, "{accepted}");
        platform.stop().await;
    });
}

/// Runs the command line beside the platform whose data is there; whether it went well, and what it printed.
async fn outcry(data: &std::path::Path, arguments: &[&str]) -> (bool, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_outcry"));
    command.args(arguments).env("OUTCRY_DATA", data).env_remove("NATS_URL");
    let output = command.output().await.unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), text)
}

#[test]
fn functions_are_called_and_events_emitted_from_the_command_line() {
    story(async {
        let (platform, data) = start(Vec::new()).await;
        let outcry = async |arguments: &[&str]| outcry(data.path(), arguments).await;
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(60.0, json!({})).await;
        let body = json!({ "item_id": item["id"] }).to_string();

        let (good, shown) = outcry(&["call", "get-item", &body]).await;
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["id"], item["id"]);
        assert!(good);
        for (arguments, said) in [
            (&["call", "get-item", "{"][..], "the body is no JSON"),
            (&["call", "get-item", "{}"][..], "item_id"),
            (&["call", "get-what"][..], "there is no function get-what"),
            (&["call", "update-stats"][..], "outcry emit bid.placed.v1"),
            (&["call", "place-bid", &body][..], "amount"),
            (&["emit", "bid.placed.v9"][..], "there is no event bid.placed.v9"),
            (&["emit", "bid.placed.v1", r#"{"bidder":1}"#][..], "has no member bidder"),
            (&["emit", "bid.placed.v1", r#"{"amount":"much"}"#][..], "this is no bid.placed.v1"),
        ] {
            let (good, told) = outcry(arguments).await;
            assert!(!good && told.contains(said), "{arguments:?}: {told}");
        }

        // Each is a new event, so it counts each time.
        let bidder = json!({ "bidder_id": ann.id }).to_string();
        for _ in 0..2 {
            let (good, told) = outcry(&["emit", "bid.placed.v1", &bidder]).await;
            assert!(good && told.contains("stored as EVENTS:"), "{told}");
        }
        ann.get_until("/api/v1/users/me/stats", |stats| {
            stats["total_bids"] == 2 && stats["total_amount"] == "51.00"
        })
        .await;
        let (_, events) = outcry(&["emit"]).await;
        assert!(events.lines().any(|line| line == "bid.won.v1"), "{events}");
        platform.stop().await;
    });
}

#[test]
fn what_was_given_up_is_looked_at_and_driven_again_from_the_command_line() {
    story(async {
        let (platform, data) = start(Vec::new()).await;
        let outcry = async |arguments: &[&str]| outcry(data.path(), arguments).await;
        assert_eq!(outcry(&["dlq", "list"]).await, (true, "no dead letters\n".into()));

        // An event that cannot be counted until its body is one: typed by hand, on the bus itself.
        let bus = testing::connect(&nats_of(&platform)).await;
        for body in ["not json", "{}"] {
            bus.publish_event("events.bid.placed.v1.x", body).await.unwrap();
        }
        let mut listed = String::new();
        for _ in 0..100 {
            (_, listed) = outcry(&["dlq", "list", "--function", "update-stats"]).await;
            if listed.lines().count() == 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(listed.contains("not an event"), "{listed}");
        let first = listed.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();

        let (_, shown) = outcry(&["dlq", "show", &first]).await;
        assert!(shown.contains("events.bid.placed.v1.x") && shown.contains("not json"), "{shown}");
        let (good, told) = outcry(&["dlq", "redrive", "--all", "--function", "update-stats"]).await;
        assert!(!good && told.contains("0 settled, 2 failed"), "{told}");
        // Who is not there keeps nobody else from trying.
        let nats = &nats_of(&platform);
        testing::request(nats, "dlq.a-function-that-is-gone", &[], json!({})).await;
        bus.publish_event("events.bid.placed.v1.x", "[]").await.unwrap();
        for _ in 0..100 {
            (_, listed) = outcry(&["dlq", "list", "--function", "update-stats"]).await;
            if listed.lines().count() == 4 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (good, told) = outcry(&["dlq", "redrive", "--all"]).await;
        let driven = told.lines().position(|line| line.contains("a-function-that-is-gone: stays")).unwrap();
        assert!(
            told.lines().skip(driven + 1).any(|line| line.contains("update-stats: failed again")),
            "{told}"
        );
        assert!(!good && told.contains("not running: a-function-that-is-gone"), "{told}");
        assert!(outcry(&["dlq", "drop", "--all", "--function", "a-function-that-is-gone"]).await.0);
        assert!(outcry(&["dlq", "drop", &first]).await.0);
        let (good, told) = outcry(&["dlq", "drop", "--all", "--function", "update-stats"]).await;
        assert!(good && told.contains("2 dropped"), "{told}");
        // The listing could not read them either, nor could whoever else hears of bids.
        let (good, told) = outcry(&["dlq", "drop", "--all"]).await;
        let dropped: usize = told.split(' ').next().unwrap().parse().unwrap();
        assert!(good && dropped >= 2, "{told}");
        assert_eq!(outcry(&["dlq", "list"]).await, (true, "no dead letters\n".into()));
        platform.stop().await;
    });
}

#[test]
fn commands_are_taken_over_nats_as_over_http() {
    story(async {
        let (platform, _data) = start(Vec::new()).await;
        let nats = &nats_of(&platform);
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(60.0, json!({})).await;
        let person = json!({ "username": "bob", "email": "bob@example.com", "password": "secret123" });
        let (_, session) = testing::request(nats, "svc.identity.register", &[], person).await;
        let bearer = format!("Bearer {}", session["token"].as_str().unwrap());
        let bid = |amount: &str| json!({ "item_id": item["id"], "amount": amount });
        let subject = "svc.auctions.place-bid";

        let (nobody, _) = testing::request(nats, subject, &[], bid("10")).await;
        assert_eq!(nobody["Nats-Service-Error-Code"], "401");
        let keyed = [("Authorization", bearer.as_str()), ("Idempotency-Key", "k1")];
        let (_, first) = testing::request(nats, subject, &keyed, bid("10")).await;
        assert_eq!((&first["seq"], &first["bidder_id"]), (&json!(1), &session["user"]["id"]));
        let (again, same) = testing::request(nats, subject, &keyed, bid("10")).await;
        assert_eq!((again["x-replayed"].as_str(), &same), ("true", &first));
        let (low, refused) = testing::request(nats, subject, &keyed[..1], bid("10")).await;
        assert_eq!(
            (low["Nats-Service-Error"].as_str(), &refused["error"]["min_next_bid"]),
            ("BID_TOO_LOW", &json!("10.01"))
        );
        let (_, wrong) =
            testing::request(nats, subject, &keyed[..1], json!({ "item_id": item["id"], "amount": -1 }))
                .await;
        assert_eq!(wrong["error"]["fields"][0]["name"], "amount");
        // Who is not the edge cannot say who is calling.
        let forged = [("x-user-id", ann.id.as_str())];
        let (forged, _) = testing::request(nats, subject, &forged, bid("20")).await;
        assert_eq!(forged["Nats-Service-Error-Code"], "401");

        let seen =
            testing::request(nats, "qry.auctions.get-item", &[], json!({ "item_id": item["id"] })).await.1;
        assert_eq!(seen["bid_count"], 1);
        let (_, told) = testing::request(nats, "$SRV.STATS.place-bid", &[], json!({})).await;
        assert_eq!(told["endpoints"][0]["num_requests"], 4, "{told}");
        platform.stop().await;
    });
}

// --- the live view --------------------------------------------------------------------------------

/// Somebody who looks on: an open stream of Server-Sent Events.
struct Watching {
    response: Response,
    text: String,
}

/// One event of a stream, its data as it came.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    event: String,
    id: i64,
    data: String,
}

impl Told {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

impl Watching {
    async fn open(url: &str, item: &Value, seen: Option<i64>) -> Self {
        let request = Visitor::of(url).request(Method::GET, &format!("{}/events", path_of(item)));
        let request = seen.into_iter().fold(request, |request, id| request.header("Last-Event-ID", id));
        let response = request.send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        Self { response, text: String::new() }
    }

    /// The next event, which comes sooner than the log is asked in a silence; `None` when the stream has ended.
    async fn next(&mut self) -> Option<Told> {
        tokio::time::timeout(Duration::from_secs(10), self.read()).await.unwrap()
    }

    async fn read(&mut self) -> Option<Told> {
        loop {
            while let Some((frame, rest)) = self.text.split_once("\n\n") {
                let lines: Vec<&str> = frame.lines().collect();
                let told = match lines.as_slice() {
                    [id, event, data] => Some(Told {
                        event: event.strip_prefix("event: ").unwrap().to_owned(),
                        id: id.strip_prefix("id: ").unwrap().parse().unwrap(),
                        data: data.strip_prefix("data: ").unwrap().to_owned(),
                    }),
                    _ => None,
                };
                self.text = rest.to_owned();
                if told.is_some() {
                    return told;
                }
            }
            let more = self.response.chunk().await.ok()??;
            self.text.push_str(std::str::from_utf8(&more).unwrap());
        }
    }

    /// Everything up to a version.
    async fn until(&mut self, version: i64) -> Vec<Told> {
        let mut told: Vec<Told> = Vec::new();
        while told.last().is_none_or(|last| last.id < version) {
            told.push(self.next().await.unwrap());
        }
        told
    }
}

/// Each version once and in order, the snapshot first.
fn assert_dense(told: &[Told], first: i64) {
    let ids: Vec<i64> = told.iter().map(|told| told.id).collect();
    let expected: Vec<i64> = (first..).take(told.len()).collect();
    assert_eq!(ids, expected);
}

fn version_after(bid: &Seen) -> i64 {
    assert_eq!(bid.status, 201, "{}", bid.body);
    bid.body["item"]["version"].as_i64().unwrap()
}

#[test]
fn a_watcher_sees_the_item_every_bid_the_extension_and_the_hammer() {
    story(async {
        let (ann, bob) = (Visitor::new(&SHARED, "ann").await, Visitor::new(&SHARED, "bob").await);
        let item = ann.offer(2.5, json!({ "extension_window_seconds": 1, "extension_seconds": 1 })).await;
        let mut watching = Watching::open(&SHARED, &item, None).await;

        let first = bob.bid(&item, json!(10)).await;
        let second = bob.bid(&item, json!(11)).await;
        let ends_at = Timestamp::parse(item["ends_at"].as_str().unwrap()).unwrap();
        tokio::time::sleep(ends_at.since(Timestamp::now()) - Duration::from_millis(600)).await;
        let late = bob.bid(&item, json!(12)).await;
        assert_eq!((version_after(&first), version_after(&second), version_after(&late)), (2, 3, 5));

        let told = watching.until(6).await;
        assert_dense(&told, 1);
        let events: Vec<&str> = told.iter().map(|told| told.event.as_str()).collect();
        assert_eq!(events, ["snapshot", "bid", "bid", "bid", "extended", "closed"]);
        assert_eq!((&told[0].json()["name"], &told[0].json()["bid_count"]), (&json!("Lamp"), &json!(0)));
        assert_eq!((&told[1].json(), told[2].json()), (&first.body, second.body));
        // The bid is the answer that its bidder got, but for the version: what it caused comes after it.
        let mut bid = late.body.clone();
        bid["item"]["version"] = json!(4);
        assert_eq!(told[3].json(), bid);
        assert_eq!(told[4].json()["ends_at"], late.body["item"]["ends_at"]);
        let closed = bob.get(&path_of(&item)).await.body;
        for member in ["status", "winner_id", "final_price", "closed_at", "ends_at", "version"] {
            assert_eq!(told[5].json()[member], closed[member], "{member}");
        }

        // Told from the log it is the same, letter by letter.
        let again = Watching::open(&SHARED, &item, Some(1)).await.until(6).await;
        assert_eq!(again, told[1..]);
        let anew = Watching::open(&SHARED, &item, None).await.next().await.unwrap();
        assert_eq!((anew.event.as_str(), anew.id, anew.json()), ("snapshot", 6, closed));
    });
}

#[test]
fn who_was_cut_off_goes_on_where_it_ended_with_nothing_missing_and_nothing_twice() {
    story(async {
        let (ann, bob) = (Visitor::new(&SHARED, "ann").await, Visitor::new(&SHARED, "bob").await);
        let item = ann.offer(120.0, json!({})).await;
        let bidding = async {
            for amount in 10..60 {
                version_after(&bob.bid(&item, json!(amount)).await);
            }
        };
        // Cut off after every few events, in the middle of it all.
        let watching = async {
            let mut told = Vec::new();
            let mut seen = None;
            while seen != Some(51) {
                let mut watching = Watching::open(&SHARED, &item, seen).await;
                for _ in 0..7 {
                    let next = watching.next().await.unwrap();
                    seen = Some(next.id);
                    told.push(next);
                    if seen == Some(51) {
                        break;
                    }
                }
            }
            told
        };
        let ((), told) = tokio::join!(bidding, watching);

        assert_dense(&told, told[0].id);
        let snapshots = told.iter().filter(|told| told.event == "snapshot").count();
        assert_eq!((snapshots, told[0].event.as_str()), (1, "snapshot"));
    });
}

#[test]
fn many_who_watch_many_bidders_all_see_the_same() {
    story(async {
        let ann = Visitor::new(&SHARED, "ann").await;
        let item = ann.offer(4.0, json!({ "extension_window_seconds": 3 })).await;
        let bidders: Vec<Visitor> =
            futures_util::future::join_all((0..5).map(|_| Visitor::new(&SHARED, "bidder"))).await;
        let mut watching =
            futures_util::future::join_all((0..20).map(|_| Watching::open(&SHARED, &item, None))).await;
        let bidding = bidders.iter().enumerate().map(|(n, bidder)| {
            let item = &item;
            async move {
                for round in 0..20 {
                    bidder.bid(item, json!(10 + round * 5 + n)).await;
                }
            }
        });
        futures_util::future::join_all(bidding).await;
        // A bid that comes late moves the end by three seconds.
        let closed = bidders[0].get_until(&path_of(&item), |item| item["closed_at"].is_string()).await;

        let version = closed["version"].as_i64().unwrap();
        let told =
            futures_util::future::join_all(watching.iter_mut().map(|watching| watching.until(version))).await;

        for each in &told {
            assert_dense(each, 1);
            assert_eq!(each, &told[0]);
        }
        let bids = told[0].iter().filter(|told| told.event == "bid").count();
        let extensions = told[0].iter().filter(|told| told.event == "extended").count();
        assert_eq!(
            (json!(bids), i64::try_from(bids + extensions).unwrap() + 2),
            (closed["bid_count"].clone(), version)
        );
        assert_eq!(told[0].last().unwrap().event, "closed");
    });
}

#[test]
fn while_nats_is_killed_and_the_edge_restarts_a_watcher_misses_nothing() {
    story(async {
        let data = local::temp_dir().unwrap();
        let platform = start_in(data.path(), Vec::new(), false).await;
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(300.0, json!({})).await;
        let bob = Visitor::new(&platform.url, "bob").await;
        let mut watching = Watching::open(&platform.url, &item, None).await;
        let killing = async {
            for _ in 0..2 {
                tokio::time::sleep(Duration::from_millis(400)).await;
                let pid = platform.service_pids().0.unwrap();
                assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
            }
        };
        let bidding = async {
            let mut last = 0;
            for amount in 10..40 {
                let key = format!("n-{amount}");
                for attempt in 0.. {
                    let seen = bob.post_with_key(&bids_of(&item), &key, json!({ "amount": amount })).await;
                    if seen.status == 201 {
                        last = version_after(&seen);
                        break;
                    }
                    assert!(
                        matches!(seen.status, 202 | 503) && attempt < 40,
                        "{} {}",
                        seen.status,
                        seen.body
                    );
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            last
        };
        let (last, ()) = tokio::join!(bidding, killing);
        let mut told = watching.until(last).await;
        assert_eq!((last, told.len()), (31, 31));

        // A stream that is open does not hold up the end, and ends with it.
        let started = std::time::Instant::now();
        platform.stop().await;
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        assert_eq!(watching.next().await, None);
        let platform = start_in(data.path(), Vec::new(), false).await;
        let bob = Visitor { url: platform.url.clone(), ..bob };
        let last = version_after(&bob.bid(&item, json!(50)).await);
        let mut watching = Watching::open(&platform.url, &item, Some(told.last().unwrap().id)).await;
        told.extend(watching.until(last).await);
        assert_dense(&told, 1);
        assert_eq!(told.len(), 32);
        drop(watching);
        platform.stop().await;
    });
}

/// A way to nats-server that can be cut and mended.
struct Wire {
    url: String,
    cut: tokio::sync::watch::Sender<bool>,
}

impl Wire {
    async fn to(nats_url: &str) -> Self {
        let server = nats_url.trim_start_matches("nats://").to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let (cut, is_cut) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (server, mut is_cut) = (server.clone(), is_cut.clone());
                tokio::spawn(async move {
                    let mut far = tokio::net::TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = is_cut.wait_for(|cut| *cut) => {}
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    }
                });
            }
        });
        Self { url, cut }
    }
}

#[test]
fn an_edge_that_was_cut_off_from_the_bus_makes_up_for_it() {
    story(async {
        let (platform, _data) = start(Vec::new()).await;
        let wire = Wire::to(platform.env.get("NATS_URL").unwrap()).await;
        let config = platform::Config { nats_url: wire.url.clone(), ..platform.env.read().unwrap() };
        let bus = platform::Bus::connect(&config, "edge").await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = format!("http://{}", listener.local_addr().unwrap());
        let stop = platform.stopping().clone();
        let serving = tokio::spawn(edge::serve(platform.env.clone(), bus, listener, stop));
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(120.0, json!({})).await;
        let bob = Visitor::new(&platform.url, "bob").await;
        let mut watching = Watching::open(&other, &item, None).await;
        version_after(&bob.bid(&item, json!(10)).await);
        assert_dense(&watching.until(2).await, 1);

        // While it is away nobody repeats to it what happens.
        wire.cut.send_replace(true);
        for amount in 11..20 {
            version_after(&bob.bid(&item, json!(amount)).await);
        }
        wire.cut.send_replace(false);

        let told = watching.until(11).await;
        assert_dense(&told, 3);
        // And it hears again.
        version_after(&bob.bid(&item, json!(20)).await);
        assert_eq!(watching.next().await.unwrap().id, 12);
        platform.stop().await;
        serving.await.unwrap().unwrap();
    });
}

// --- what is counted ------------------------------------------------------------------------------

/// The metrics that deploy/prometheus/alerts.yaml looks at.
fn alerted() -> Vec<String> {
    let alerts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/prometheus/alerts.yaml");
    let alerts = std::fs::read_to_string(alerts).unwrap();
    let rules = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    // Outside of quotes and of braces, every word with a line in it is a metric, or one of two functions.
    let bare = rules.flat_map(|rule| rule.split('"').step_by(2).collect::<Vec<_>>());
    let words = bare.flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let names =
        words.filter(|word| word.contains('_') && !["label_replace", "histogram_quantile"].contains(word));
    let names: std::collections::BTreeSet<String> = names.map(str::to_owned).collect();
    assert!(names.len() > 8, "{names:?}");
    names.into_iter().collect()
}

#[test]
fn one_place_tells_how_every_part_of_the_platform_goes() {
    let (platform, _data) = RUNTIME.block_on(start(Vec::new()));
    RUNTIME.block_on(async {
        let url = platform.url.clone();
        let (ann, bob) = (Visitor::new(&url, "ann").await, Visitor::new(&url, "bob").await);
        let item = ann.offer(3.0, json!({})).await;
        assert_eq!(bob.bid(&item, json!(20)).await.status, 201);
        assert_eq!(bob.bid(&item, json!(20)).await.code(), "BID_TOO_LOW");
        assert_eq!(ann.bid(&item, json!(30)).await.code(), "SELF_BID");
        ann.get_until(&path_of(&item), |item| item["status"] == "sold").await;
        ann.get_until(&format!("/api/v1/users/{}/stats", bob.id), |stats| stats["items_won"] == 1).await;
        testing::connect(&nats_of(&platform))
            .await
            .publish_event("events.bid.placed.v1.x", "no event")
            .await
            .unwrap();

        let (mut told, deadline) = (None, Timestamp::now() + Duration::from_secs(20));
        while told.is_none() {
            assert!(Timestamp::now() < deadline, "it does not come to rest");
            let answer = ann.http.get(format!("{url}/metrics")).send().await.unwrap();
            assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
            let seen = Exposition::read(&answer.text().await.unwrap());
            // Both who hear it give it up, and the outboxes are soon empty.
            let at_rest = [("dlq_messages", 2.0), ("outbox_unpublished", 0.0)];
            if at_rest.iter().all(|(name, value)| seen.find(name, &[]) == Some(*value)) {
                told = Some(seen);
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let told = told.unwrap();

        let bids = |result| told.value("bids_total", &[("result", result)]);
        assert_eq!(["accepted", "BID_TOO_LOW", "SELF_BID"].map(bids), [1.0; 3]);
        assert_eq!(told.value("bid_accept_seconds_count", &[]), 1.0);
        assert_eq!(told.value("auction_close_lateness_seconds_count", &[]), 1.0);
        assert_eq!(told.value("auction_close_lateness_seconds_bucket", &[("le", "10")]), 1.0);
        let requests =
            |function, outcome| told.value("fn_requests_total", &[("fn", function), ("outcome", outcome)]);
        assert_eq!((requests("place-bid", "ok"), requests("place-bid", "refused")), (1.0, 2.0));
        // item.created, bid.placed, item.closed, bid.won.
        assert_eq!(requests("auctions-relay", "ok"), 4.0);
        // Two users, a bid and a sale.
        assert_eq!((requests("update-stats", "ok"), requests("update-stats", "broken")), (4.0, 1.0));
        assert_eq!(told.value("event_lag_seconds_count", &[("consumer", "update-stats")]), 4.0);
        let route = [("route", "/api/v1/items/{item_id}/bids"), ("method", "POST"), ("status", "201")];
        assert_eq!(told.value("http_server_request_duration_seconds_count", &route), 1.0);
        for function in outcry::functions().iter().map(|function| function.spec()) {
            assert!(told.find("fn_requests_total", &[("fn", function.name)]).is_some(), "{}", function.name);
            let Some((stream, _)) = function.consumer() else { continue };
            let consumer = [("stream", stream), ("consumer", function.name)];
            assert_eq!(told.value("consumer_pending", &consumer), 0.0, "{}", function.name);
            assert_eq!(told.value("consumer_ack_pending", &consumer), 0.0, "{}", function.name);
        }
        for domain in outcry::databases().iter().map(|database| database.domain) {
            assert_eq!(told.value("outbox_oldest_unpublished_seconds", &[("domain", domain)]), 0.0);
            assert!(told.value("db_pool_max", &[("pool", domain)]) >= 1.0);
        }
        assert_eq!(told.value("stream_messages", &[("stream", "COMMANDS")]), 0.0);
        for name in alerted() {
            assert!(told.find(&name, &[]).is_some(), "an alert waits for {name}, which nobody tells");
        }
        // Each has its own name, and one at the edge or for its redrives and rebuilds.
        let names = 3 * outcry::functions().len();
        for (label, most) in [("route", 40), ("fn", names), ("result", 20), ("outcome", 4)] {
            assert!(told.values_of(label).len() <= most, "{label}: {:?}", told.values_of(label));
        }
        for id in [&bob.id, &ann.id, item["id"].as_str().unwrap()] {
            assert!(!format!("{told:?}").contains(id), "an id became a label");
        }
        platform.stop().await;
    });
}
