//! Secrets that sing: a platform is used with passwords, codes and tokens that are found again wherever they are, and then
//! everything that it keeps and tells is searched for them (security.md, S-60).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use platform::{Env, config::RUNNING};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::{
    Seen, Visitor, outcry, passwords, see, story,
    two_factors::{Phone, settle},
};

/// What the commands say of themselves where it may be found, so that a search that finds nothing at all is noticed.
const PLAIN: &str = "canary-who-is-known@example.com";

/// What the process says, line by line.
const WORDS: &str = "words.log";

/// A platform in a process of its own, whose every word is kept.
struct Told {
    process: Child,
    env: Env,
    url: String,
}

impl Told {
    async fn start(data: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let words = fs::File::create(data.join(WORDS)).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_outcry"))
            .env("OUTCRY_DATA", data)
            .env("PORT", port.to_string())
            .env("LOG_FORMAT", "json")
            // More than anybody asks for.
            .env("RUST_LOG", "trace,hyper_util=info,h2=info")
            .stdin(Stdio::null())
            .stdout(words.try_clone().unwrap())
            .stderr(words)
            .spawn()
            .unwrap();
        let mut told = Self { process, env: Env::default(), url: format!("http://127.0.0.1:{port}") };
        let http = Visitor::of(&told.url).http;
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let ready = http.get(format!("{}/readyz", told.url)).send().await;
            if ready.is_ok_and(|ready| ready.status() == 200) {
                told.env = Env::of_file(&data.join(RUNNING)).unwrap();
                return told;
            }
        }
        panic!("not ready: {}", fs::read_to_string(data.join(WORDS)).unwrap());
    }

    /// The databases' administrator, in this one.
    async fn administrator(&self, database: &str) -> PgConnection {
        let options: PgConnectOptions = self.env.get("DATABASE_URL").unwrap().parse().unwrap();
        PgConnection::connect_with(&options.database(database)).await.unwrap()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

/// What must not be found, each with what it is.
#[derive(Default)]
struct Canaries(Vec<(&'static str, Vec<u8>)>);

impl Canaries {
    fn add(&mut self, what: &'static str, secret: impl AsRef<[u8]>) {
        assert!(secret.as_ref().len() >= 8, "{what} is found by chance");
        self.0.push((what, secret.as_ref().to_vec()));
    }

    /// The part of a token that nobody knows but its owner.
    fn add_token(&mut self, what: &'static str, token: &str) {
        self.add(what, token.rsplit_once('.').unwrap().1);
    }

    fn add_session(&mut self, session: &Value) {
        self.add_token("an access token", &text(session, "token"));
        self.add_token("a refresh token", &text(session, "refresh_token"));
    }

    /// Six digits are found everywhere; as a member of JSON they are only where somebody wrote the command.
    fn add_code(&mut self, code: &str) {
        self.add("a code", format!("\"{code}\""));
    }

    /// Which of them are in this text.
    fn heard_in(&self, place: &str, text: &[u8]) -> Vec<String> {
        let is_in = |secret: &[u8]| contains(text, secret);
        let heard = self.0.iter().filter(|(_, secret)| is_in(secret));
        heard.map(|(what, _)| format!("{what} in {place}")).collect()
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    let mut rest = text;
    // Far faster than looking at every window.
    while let Some(at) = rest.iter().position(|byte| *byte == part[0]) {
        rest = &rest[at..];
        if rest.starts_with(part) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

fn text(body: &Value, member: &str) -> String {
    body[member].as_str().unwrap_or_else(|| panic!("no {member} in {body}")).to_owned()
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .flat_map(|entry| match entry.file_type().unwrap() {
            kind if kind.is_dir() => files(&entry.path()),
            kind if kind.is_file() => vec![entry.path()],
            _ => Vec::new(),
        })
        .collect()
}

/// Every row of every table of every database, as text.
async fn dump(told: &Told) -> String {
    let mut dump = String::new();
    for domain in outcry::databases().into_iter().map(|database| database.domain) {
        let mut database = told.administrator(domain).await;
        let tables: Vec<String> = sqlx::query_scalar(
            "select format('%I.%I', table_schema, table_name) from information_schema.tables
             where table_schema not in ('pg_catalog', 'information_schema')",
        )
        .fetch_all(&mut database)
        .await
        .unwrap();
        for table in tables {
            let rows = format!("select coalesce(string_agg(t::text, e'\\n'), '') from {table} t");
            dump +=
                &sqlx::query_scalar::<_, String>(AssertSqlSafe(rows)).fetch_one(&mut database).await.unwrap();
        }
        // All pages to the files, so that these are the whole truth.
        sqlx::raw_sql("checkpoint").execute(&mut database).await.unwrap();
    }
    dump
}

/// Lives through all that secrets are sent for, well and badly, and collects them.
async fn sing(told: &Told) -> Canaries {
    let mut canaries = Canaries::default();
    let (password, wrong) = ("canary-password-7b1e", "canary-wrong-password-44c0");
    canaries.add("a password", password);
    canaries.add("a wrong password", wrong);
    let mut visitor = Visitor::of(&told.url);
    let person = json!({ "email": PLAIN, "username": "canary", "password": password });
    let registered = ok(visitor.post("/identity/register", person).await, 201);
    canaries.add_session(&registered);
    visitor.token = Some(text(&registered, "token"));
    // A token that comes is checked, and some of those here have ended.
    let anybody = Visitor::of(&told.url);
    let login = async |password: &str| log_in(&anybody, password).await;
    ok(login(wrong).await, 401);
    let session = ok(login(password).await, 200);
    canaries.add_session(&session);
    let refresh = |session: &Value| json!({ "refresh_token": session["refresh_token"] });
    let next = ok(visitor.post("/identity/refresh", refresh(&session)).await, 200);
    canaries.add_session(&next);

    settle().await;
    let begun = ok(visitor.post("/identity/2fa/enable", json!({ "password": password })).await, 200);
    let seed = text(&begun, "secret");
    let bytes = BASE32_NOPAD.decode(seed.as_bytes()).unwrap();
    canaries.add("a seed in base32", &seed);
    canaries.add("a seed in hexadecimal", HEXLOWER.encode(&bytes));
    canaries.add("a seed", bytes);
    let (phone, _) = Phone::scan(&text(&begun, "qr_svg"));
    canaries.add_code(&phone.code(1));
    let verified = ok(visitor.post("/identity/2fa/verify", json!({ "code": phone.code(1) })).await, 200);
    let codes: Vec<String> = serde_json::from_value(verified["recovery_codes"].clone()).unwrap();
    for code in &codes {
        canaries.add("a recovery code", code);
    }
    let answer = async |code: &str, status: u16| {
        let challenge = text(&ok(login(password).await, 202), "challenge");
        let told = json!({ "challenge": challenge, "code": code });
        (challenge, ok(visitor.post("/identity/2fa/challenge", told).await, status))
    };
    canaries.add_code(&phone.code(0));
    for (code, status) in [(phone.code(0), 200), (codes[0].clone(), 200), ("canary-no-code".into(), 401)] {
        let (challenge, session) = answer(&code, status).await;
        canaries.add_token("a challenge", &challenge);
        if status == 200 {
            canaries.add_session(&session);
        }
    }
    canaries.add("what is no code", "canary-no-code");
    let proof = |password: &str, code: &str| json!({ "password": password, "code": code });
    let renewed = proof(password, &codes[1]);
    let renewed = ok(visitor.post("/identity/2fa/recovery-codes", renewed).await, 200);
    let code = renewed["recovery_codes"][0].as_str().unwrap();
    canaries.add("a renewed recovery code", code);
    ok(visitor.post("/identity/2fa/disable", proof(wrong, code)).await, 403);
    ok(visitor.post("/identity/2fa/disable", proof(password, code)).await, 204);
    let (newer, newest) = ("canary-newer-password-90ab", "canary-newest-password-e1f7");
    canaries.add("a newer password", newer);
    canaries.add("the newest password", newest);
    let change = |current: &str, new: &str| json!({ "current_password": current, "new_password": new });
    ok(visitor.put("/identity/password", change(wrong, newer)).await, 403);
    ok(visitor.put("/identity/password", change(password, newer)).await, 204);
    ok(visitor.post("/identity/password/reset", json!({ "email": PLAIN })).await, 202);
    let token = passwords::token(&told.env).await.0;
    canaries.add_token("a token that is sent", &token);
    let reset = |token: &str, new: &str| json!({ "token": token, "new_password": new });
    ok(visitor.post("/identity/password/reset/confirm", reset("canary-no-token.x", newest)).await, 401);
    ok(visitor.post("/identity/password/reset/confirm", reset(&token, newest)).await, 204);
    // All sessions ended with it.
    visitor.token = Some(text(&ok(login(newest).await, 200), "token"));
    ok(visitor.put("/identity/password", change(newest, password)).await, 204);
    ok(login(newest).await, 401);
    let last = ok(login(password).await, 200);
    canaries.add_session(&last);
    ok(visitor.post("/identity/logout", refresh(&last)).await, 204);

    // What cannot be read, and what breaks while it is done.
    for (path, body) in [
        ("/identity/login", json!({ "email": PLAIN, "password": [password] })),
        ("/identity/register", json!({ "email": 7, "password": password })),
        ("/identity/refresh", json!({ "refresh_token": { "token": session["refresh_token"] } })),
        ("/identity/2fa/challenge", json!({ "challenge": "none", "code": { "code": codes[0] } })),
    ] {
        ok(visitor.post(path, body).await, 400);
    }
    ok(visitor.post_text("/identity/login", r#"{"password":"canary-password-7b1e""#).await, 400);
    let mut identity = told.administrator("identity").await;
    for sql in ["alter table sessions add constraint none check (false) not valid", "checkpoint"] {
        sqlx::raw_sql(sql).execute(&mut identity).await.unwrap();
    }
    let broken = login(password).await;
    assert!(broken.status >= 500, "{}", broken.body);
    canaries
}

/// What is found on the disk while every command that carries a secret is under way: afterwards a stream forgets it.
async fn listen_while_they_wait(told: &Told, data: &Path) -> Vec<String> {
    const WAITING: &str = "canary-that-waits-5d20";
    let mut canaries = Canaries::default();
    canaries.add("a secret on its way", WAITING);
    let mut visitor = Visitor::of(&told.url);
    let waiter = json!({ "email": "waiter@example.com", "password": "no canary" });
    visitor.token = Some(text(&ok(visitor.post("/identity/register", waiter).await, 201), "token"));
    let everything = json!({
        "email": "another@example.com", "password": WAITING, "refresh_token": WAITING, "code": WAITING,
        "challenge": WAITING, "current_password": WAITING, "new_password": WAITING,
        "token": format!("{}.{WAITING}", Uuid::now_v7()),
    });
    let mut identity = told.administrator("identity").await;
    sqlx::raw_sql("begin; lock table users, sessions, challenges, password_resets")
        .execute(&mut identity)
        .await
        .unwrap();
    let paths = [
        "register",
        "login",
        "refresh",
        "logout",
        "2fa/enable",
        "2fa/verify",
        "2fa/challenge",
        "2fa/disable",
        "2fa/recovery-codes",
        "password",
        "password/reset/confirm",
    ];
    let waiting = paths.into_iter().map(|path| {
        let (visitor, everything) = (visitor.clone(), everything.clone());
        tokio::spawn(async move {
            match path {
                "password" => visitor.put("/identity/password", everything).await,
                path => visitor.post(&format!("/identity/{path}"), everything).await,
            }
        })
    });
    let waiting: Vec<_> = waiting.collect();

    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let mut heard = Vec::new();
    for file in files(&data.join("nats")) {
        let text = fs::read(&file).unwrap_or_default();
        heard.extend(canaries.heard_in(&file.strip_prefix(data).unwrap().display().to_string(), &text));
    }
    sqlx::raw_sql("rollback").execute(&mut identity).await.unwrap();
    for one in waiting {
        one.await.unwrap();
    }
    heard
}

async fn log_in(visitor: &Visitor, password: &str) -> Seen {
    visitor.post("/identity/login", json!({ "email": PLAIN, "password": password })).await
}

fn ok(seen: Seen, status: u16) -> Value {
    assert_eq!(seen.status, status, "{}", seen.body);
    seen.body
}

#[test]
fn no_secret_is_found_in_anything_that_a_platform_keeps_or_tells() {
    story(async {
        let folder = local::temp_dir().unwrap();
        let data = folder.path();
        let told = Told::start(data).await;

        let mut heard = listen_while_they_wait(&told, data).await;
        let canaries = sing(&told).await;

        // Events are on their way for a moment.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let dump = dump(&told).await;
        heard.extend(canaries.heard_in("the databases", dump.as_bytes()));
        let metrics = Visitor::of(&told.url).request(reqwest::Method::GET, "/metrics");
        let metrics = see(metrics.send().await.unwrap()).await.body.to_string();
        heard.extend(canaries.heard_in("/metrics", metrics.as_bytes()));
        let (listed, letters) = outcry(data, &["dlq", "list"]).await;
        assert!(listed, "{letters}");
        heard.extend(canaries.heard_in("the dead letters", letters.as_bytes()));
        let mut known = 0;
        for file in files(data) {
            // What is gone meanwhile was only there for a moment.
            let Ok(text) = fs::read(&file) else { continue };
            let place = file.strip_prefix(data).unwrap().display().to_string();
            if place == WORDS {
                continue;
            }
            heard.extend(canaries.heard_in(&place, &text));
            known += usize::from(contains(&text, PLAIN.as_bytes()));
        }

        let words = fs::read_to_string(data.join(WORDS)).unwrap();
        for line in words.lines() {
            heard.extend(canaries.heard_in(line.get(..200).unwrap_or(line), line.as_bytes()));
        }
        assert_eq!(heard, Vec::<String>::new());
        // The search finds what there is: what may be known stands in tables and their log, in the stream of events.
        assert!(dump.contains(PLAIN) && dump.contains("two-factor.disabled"));
        assert!(metrics.contains("fn=\\\"challenge-2fa\\\""), "{metrics}");
        assert!(known >= 3, "the e-mail is in {known} files only");
        assert!(words.contains("challenge-2fa"));
        assert!(words.contains("\"level\":\"DEBUG\""));
        let has_events = |file: &PathBuf| {
            file.starts_with(data.join("nats"))
                && contains(&fs::read(file).unwrap_or_default(), b"user.created")
        };
        assert!(files(data).iter().any(has_events));
    });
}
