//! What the edge does not let in, on the whole platform: guesses, floods, and words of strangers about who they are.

use std::net::IpAddr;

use reqwest::Client;
use serde_json::{Value, json};

use crate::{Seen, Setting, Visitor, story};

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
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
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
