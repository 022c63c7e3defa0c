//! What the edge does not let in, on the whole platform: guesses, floods, and words of strangers about who they are.

use std::{
    net::IpAddr,
    process::{Command, Stdio},
    time::Duration,
};

use reqwest::Client;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{Alone, Seen, Setting, Visitor, path_of, start, story};

/// Somebody whose connections come from this address; all of 127.0.0.0/8 is this machine.
fn from(url: &str, address: &str) -> Visitor {
    let address: IpAddr = address.parse().unwrap();
    let http = Client::builder().no_proxy().local_address(address).build().unwrap();
    Visitor { http, ..Visitor::of(url) }
}

impl Visitor {
    async fn login(&self, name: &str, password: &str) -> Seen {
        self.post("/identity/login", json!({ "username_or_email": name, "password": password })).await
    }
}

/// What an answer says without what is of this one request alone.
fn told(seen: &Seen) -> (u16, Value) {
    let mut error = seen.body["error"].clone();
    for own in ["request_id", "retry_after_ms"] {
        error.as_object_mut().unwrap().remove(own);
    }
    (seen.status, error)
}

/// S-02.
#[test]
fn who_guesses_passwords_has_to_wait_and_nobody_learns_who_has_an_account() {
    story(async {
        let data = local::temp_dir().unwrap();
        let setting = Setting { variables: &[("LOGIN_LIMIT", "5")], ..Setting::default() };
        let platform = setting.start(data.path()).await;
        let url = &platform.url;
        let ann = Visitor::new(url, "ann").await;
        let ann = ann.get("/me").await.body["username"].as_str().unwrap().to_owned();
        let (mallory, neighbour, owner) =
            (from(url, "127.0.7.1"), from(url, "127.0.7.2"), from(url, "127.0.8.1"));

        // Those who type well are not counted.
        for _ in 0..7 {
            assert_eq!(owner.login(&ann, "secret123").await.status, 200);
        }
        let mut refused = Vec::new();
        for name in [ann.as_str(), "nobody-of-this-name"] {
            for guess in 0..5 {
                // However it is written it is the same account.
                let name = if guess % 2 == 0 { name.to_owned() } else { name.to_uppercase() };
                let wrong = mallory.login(&name, "wrong-guess").await;
                assert_eq!((wrong.status, wrong.code()), (401, "UNAUTHORIZED"), "{name} {guess}");
            }
            let sixth = mallory.login(name, "secret123").await;
            assert_eq!((sixth.status, sixth.code()), (429, "RATE_LIMITED"), "{name}: the right one too");
            assert_eq!(sixth.headers["retry-after"], "1");
            assert_eq!(sixth.headers["ratelimit-policy"], "\"login\";q=5;w=900");
            assert_eq!(neighbour.login(name, "secret123").await.status, 429, "{name}: the same network");
            refused.push(told(&sixth));
        }
        assert_eq!(refused[0], refused[1], "the same words whether there is such an account or not");

        assert_eq!(owner.login(&ann, "secret123").await.status, 200, "from elsewhere she gets in");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(mallory.login(&ann, "wrong-guess").await.status, 401, "one more after a second");
        let again = mallory.login(&ann, "wrong-guess").await;
        assert_eq!((again.status, &again.headers["retry-after"].to_str().unwrap()), (429, &"2"));
        platform.stop().await;
    });
}

#[test]
fn many_guesses_at_once_are_not_more_guesses() {
    story(async {
        let data = local::temp_dir().unwrap();
        let variables = &[("LOGIN_LIMIT", "5"), ("REGISTER_LIMIT", "3")];
        let platform = Setting { variables, ..Setting::default() }.start(data.path()).await;
        let mallory = from(&platform.url, "127.0.9.1");

        let guesses = (0..20).map(|_| mallory.login("ann@example.com", "wrong-guess"));
        let guesses = futures_util::future::join_all(guesses).await;

        let of = |status: u16| guesses.iter().filter(|seen| seen.status == status).count();
        // The last may come after the wait of a second, when the machine is slow.
        assert!((5..=7).contains(&of(401)) && of(401) + of(429) == 20, "{} of {}", of(401), of(429));

        // As many registrations as there may be; what could not be read is none.
        for _ in 0..4 {
            assert_eq!(mallory.post("/register", json!({ "email": "a", "password": "b" })).await.status, 400);
        }
        let mut statuses = Vec::new();
        for (name, path) in
            ["/register", "/identity/register", "/api/v1/auth/register", "/register"].into_iter().enumerate()
        {
            let person = json!({ "email": format!("m{name}@example.com"), "password": "secret123" });
            statuses.push(mallory.post(path, person).await.status);
        }
        assert_eq!(statuses, [201, 201, 201, 429], "on whichever path");
        let elsewhere = from(&platform.url, "127.0.9.2");
        let person = json!({ "email": "bob@example.com", "password": "secret123" });
        assert_eq!(elsewhere.post("/register", person).await.status, 201);
        platform.stop().await;
    });
}

/// S-31.
#[test]
fn when_something_breaks_inside_nothing_of_the_inside_is_told() {
    story(async {
        let (platform, _data) = start(Vec::new()).await;
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(120.0, json!({})).await;
        // A table that is not there yet is an outage, a column that is not there is an error.
        for (domain, broken) in [
            ("auctions", "alter table items rename to canary_items"),
            ("identity", "alter table users rename column email to canary_email"),
        ] {
            let options: PgConnectOptions = platform.env.get("DATABASE_URL").unwrap().parse().unwrap();
            let mut administrator = options.database(domain).connect().await.unwrap();
            sqlx::query(broken).execute(&mut administrator).await.unwrap();
        }

        let mut statuses = Vec::new();
        for seen in [
            ann.get(&path_of(&item)).await,
            ann.get("/me").await,
            ann.login("somebody", "secret123").await,
            ann.post("/register", json!({ "email": "x@example.com", "password": "secret123" })).await,
        ] {
            statuses.push(seen.status);
            let request_id = seen.headers["x-request-id"].to_str().unwrap();
            let (code, message) = match seen.status {
                500 => ("INTERNAL", "something went wrong on our side"),
                503 => ("UNAVAILABLE", "the service is busy, try again shortly"),
                _ => panic!("{} {}", seen.status, seen.body),
            };
            let all = json!({ "error": { "code": code, "message": message, "request_id": request_id } });
            assert_eq!(seen.body, all);
            let headers = format!("{:?}", seen.headers).to_lowercase();
            for inside in ["canary", "select", "postgres", "src/", ".rs", "127.0.0.1"] {
                assert!(!headers.contains(inside), "{inside} in {headers}");
            }
        }
        assert_eq!(statuses, [503, 500, 500, 500]);
        platform.stop().await;
    });
}

/// S-63.
#[test]
fn what_a_stranger_sends_makes_no_lines_in_the_log() {
    story(async {
        let (platform, data) = start(Vec::new()).await;
        let log = data.path().join("edge.log");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut edge = Command::new(env!("CARGO_BIN_EXE_outcry"));
        edge.args(["run", "edge"]).stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
        let said = [("PORT", port.to_string()), ("LOG_FORMAT", "json".into()), ("RUST_LOG", "debug".into())];
        edge.env("OUTCRY_DATA", platform.env.get("OUTCRY_DATA").unwrap()).envs(said);
        let _edge = Alone(edge.spawn().unwrap());
        let somebody = Visitor::of(&format!("http://127.0.0.1:{port}"));
        for _ in 0..200 {
            if somebody.http.get(format!("{}/readyz", somebody.url)).send().await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }

        let ask = async |path: &str, header: &str, value: &[u8]| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}: ");
            let _ = stream.write_all(&[head.as_bytes(), value, b"\r\n\r\n"].concat()).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let long = "canary".repeat(200_000);
        for value in [
            &b"canary\x1b[31m"[..],
            b"canary\xc2\x9b31m\xe2\x80\xa8canary",
            b"canary\r{\"level\":\"canary\"}",
            b"canary%0d%0a{\"level\":\"canary\"}",
            b"canary\\n\\u001b[2J",
            long.as_bytes(),
            &long.as_bytes()[..12_000],
        ] {
            for header in ["User-Agent", "X-Request-Id", "X-Correlation-Id", "traceparent", "Authorization"] {
                ask("/api/v1/users/canary/stats?canary=%0d%0a%1b[31m", header, value).await;
            }
        }
        ask("/the-end", "X-Request-Id", b"the-end").await;

        let mut text = String::new();
        for _ in 0..100 {
            text = std::fs::read_to_string(&log).unwrap();
            if text.contains("\"request_id\":\"the-end\"") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(text.contains("\"request_id\":\"the-end\""), "{text:.2000}");
        for line in text.lines() {
            let mut said: Value =
                serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line:.500}"));
            assert!(said["timestamp"].is_string() && line.len() < 2000, "{line:.500}");
            assert!(!line.chars().any(char::is_control), "{line:.500}");
            // A caller may name its request, in visible ASCII, and finds it by that name.
            said.as_object_mut().unwrap().remove("request_id");
            assert!(!said.to_string().contains("canary"), "{said}");
        }
        platform.stop().await;
    });
}
