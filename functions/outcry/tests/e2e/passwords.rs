//! Passwords: changed by who knows the one before, and reset by who was sent a token.

use std::time::Duration;

use contracts::identity::Secret;
use identity::keys::Keys;
use platform::Env;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{SHARED, Setting, Visitor, sessions::Owner, story};

async fn log_in(visitor: &Visitor, email: &str, password: &str) -> u16 {
    visitor.post("/login", json!({ "email": email, "password": password })).await.status
}

/// S-16.
#[test]
fn a_changed_password_ends_the_other_sessions_and_keeps_this_one() {
    story(async {
        let owner = Owner::new().await;
        let elsewhere = owner.elsewhere().await;
        let change = |current: &str, new: &str| json!({ "current_password": current, "newPassword": new });
        let put = async |body| owner.visitor.put("/identity/password", body).await;

        for (body, status) in [
            (change("secret124", "another secret"), 403),
            (change("secret123", "short"), 400),
            (json!({ "new_password": "another secret" }), 400),
        ] {
            assert_eq!(put(body).await.status, status);
        }
        assert_eq!(elsewhere.status().await, 200);
        let changed = put(change("secret123", "another secret")).await;

        assert_eq!((changed.status, changed.body), (204, json!("")));
        elsewhere.is_out().await;
        assert_eq!(owner.status().await, 200);
        assert_eq!(owner.refresh(&owner.refresh_token).await.status, 200);
        let anybody = Visitor::of(&SHARED);
        assert_eq!(log_in(&anybody, &owner.email, "secret123").await, 401);
        assert_eq!(log_in(&anybody, &owner.email, "another secret").await, 200);
    });
}

#[test]
fn who_forgot_the_password_sets_another_and_nobody_learns_who_has_an_account() {
    story(async {
        let data = local::temp_dir().unwrap();
        let platform = Setting::default().start(data.path()).await;
        let visitor = Visitor::new(&platform.url, "owner").await;
        let email = visitor.get("/me").await.body["email"].as_str().unwrap().to_owned();
        let anybody = Visitor::of(&platform.url);
        let ask =
            async |email: &str| anybody.post("/identity/password/reset", json!({ "email": email })).await;

        let (known, unknown) = (ask(&email).await, ask("nobody@example.com").await);

        assert_eq!((known.status, &known.body), (202, &json!("")));
        assert_eq!((unknown.status, unknown.body), (202, known.body));
        let token = token(&platform.env).await;
        let confirm = async |token: &str, password: &str| {
            let body = json!({ "token": token, "new_password": password });
            anybody.post("/identity/password/reset/confirm", body).await.status
        };
        assert_eq!(confirm("made up", "another secret").await, 401);
        assert_eq!(confirm(&token.0, "short").await, 400);
        assert_eq!(confirm(&token.0, "another secret").await, 204);
        assert_eq!(confirm(&token.0, "a third secret").await, 401);
        let since = std::time::Instant::now();
        while visitor.get("/me").await.status != 401 {
            assert!(since.elapsed() < Duration::from_secs(1), "its token still opens something");
        }
        assert_eq!(log_in(&anybody, &email, "secret123").await, 401);
        assert_eq!(log_in(&anybody, &email, "another secret").await, 200);
        platform.stop().await;
    });
}

/// The token of the one reset that there is, as whoever sends the mail computes it: from the reset's row and the key.
pub(crate) async fn token(env: &Env) -> Secret {
    let options = platform::database::options(env, "identity").unwrap();
    let pool = platform::database::pool(&env.read().unwrap(), options, "a test");
    let (id, salt): (Uuid, Vec<u8>) =
        sqlx::query_as("select id, salt from password_resets").fetch_one(&pool).await.unwrap();
    Keys::load(env).unwrap().reset_token(id, &salt).unwrap()
}

/// A new key is put before the old one while everything runs: both sign what is accepted, and sessions go on.
#[test]
fn a_key_is_rotated_and_nobody_notices() {
    story(async {
        let data = local::temp_dir().unwrap();
        let platform = Setting::default().start(data.path()).await;
        let visitor = Visitor::new(&platform.url, "owner").await;
        let email = visitor.get("/me").await.body["email"].as_str().unwrap().to_owned();
        let open =
            async || visitor.post("/login", json!({ "email": email, "password": "secret123" })).await.body;
        let kid = |session: &Value| {
            let token = session["token"].as_str().unwrap();
            jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
        };
        let before = open().await;

        let new = identity::keys::rotate(&platform.env).unwrap();

        // Within seconds it is published; it would sign in a minute, and here a minute has passed.
        let set = visitor
            .get_until("/.well-known/jwks.json", |set| {
                set["keys"].as_array().is_some_and(|keys| keys.len() == 2)
            })
            .await;
        assert_eq!(set["keys"][0]["kid"], json!(new));
        assert_eq!(kid(&open().await), kid(&before), "not yet");
        let path = platform.env.get("JWT_KEY_FILE").unwrap();
        let file = std::fs::File::options().append(true).open(path).unwrap();
        let written = file.metadata().unwrap().modified().unwrap();
        file.set_modified(written - Duration::from_secs(61)).unwrap();
        let mut after = open().await;
        for _ in 0..100 {
            if kid(&after) == new {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            after = open().await;
        }
        assert_eq!(kid(&after), new);
        for session in [&before, &after] {
            let mut holder = Visitor::of(&platform.url);
            holder.token = Some(session["token"].as_str().unwrap().to_owned());
            assert_eq!(holder.get("/me").await.status, 200);
            let refreshed =
                holder.post("/identity/refresh", json!({ "refresh_token": session["refresh_token"] })).await;
            assert_eq!(refreshed.status, 200, "{}", refreshed.body);
        }
        platform.stop().await;
    });
}
