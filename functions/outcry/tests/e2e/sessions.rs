//! Sessions as a browser has them: refreshed again and again, and ended.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{SHARED, Seen, Visitor, story};

/// How long an access token of an ended session may still open something.
const DEAD_WITHIN: Duration = Duration::from_secs(1);

/// Somebody with a session.
pub(crate) struct Owner {
    pub(crate) visitor: Visitor,
    pub(crate) email: String,
    pub(crate) refresh_token: String,
}

impl Owner {
    pub(crate) async fn new() -> Self {
        let mut visitor = Visitor::new(&SHARED, "owner").await;
        let me = visitor.get("/me").await.body;
        let email = me["email"].as_str().unwrap().to_owned();
        let refresh_token = open(&mut visitor, &email).await;
        Self { visitor, email, refresh_token }
    }

    /// The same person in another browser.
    pub(crate) async fn elsewhere(&self) -> Self {
        let mut visitor = Visitor::of(&SHARED);
        let refresh_token = open(&mut visitor, &self.email).await;
        Self { visitor, email: self.email.clone(), refresh_token }
    }

    pub(crate) async fn refresh(&self, token: &str) -> Seen {
        Visitor::of(&SHARED).post("/identity/refresh", json!({ "refresh_token": token })).await
    }

    pub(crate) async fn status(&self) -> u16 {
        self.visitor.get("/me").await.status
    }

    pub(crate) async fn is_out(&self) {
        let since = Instant::now();
        while self.status().await != 401 {
            assert!(since.elapsed() < DEAD_WITHIN, "its token still opens something");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.refresh(&self.refresh_token).await.status, 401);
    }
}

async fn open(visitor: &mut Visitor, email: &str) -> String {
    let session = visitor.post("/login", json!({ "email": email, "password": "secret123" })).await;
    assert_eq!(session.status, 200, "{}", session.body);
    visitor.token = Some(text(&session.body, "token"));
    text(&session.body, "refresh_token")
}

fn text(body: &Value, member: &str) -> String {
    body[member].as_str().unwrap().to_owned()
}

#[test]
fn a_session_goes_on_with_each_refresh_and_two_tabs_stay_together() {
    story(async {
        let owner = Owner::new().await;

        let first = owner.refresh(&owner.refresh_token).await;
        let tab = owner.refresh(&owner.refresh_token).await;

        assert_eq!((first.status, tab.status), (200, 200), "{} {}", first.body, tab.body);
        assert_eq!(first.body["refresh_token"], tab.body["refresh_token"]);
        assert_eq!(first.body["expires_in"], 600);
        let next = owner.refresh(&text(&first.body, "refresh_token")).await;
        assert_ne!(next.body["refresh_token"], first.body["refresh_token"]);
        let mut renewed = Visitor::of(&SHARED);
        renewed.token = Some(text(&next.body, "token"));
        assert_eq!(renewed.get("/me").await.body["email"], json!(owner.email));
        for body in [json!({}), json!({ "refresh_token": 7 })] {
            assert_eq!(renewed.post("/identity/refresh", body).await.status, 400);
        }
    });
}

#[test]
fn who_logs_out_is_out_within_a_second_and_only_there() {
    story(async {
        let owner = Owner::new().await;
        let (other, stranger) = (owner.elsewhere().await, Owner::new().await);
        let theirs = json!({ "refresh_token": owner.refresh_token });
        assert_eq!(stranger.visitor.post("/identity/logout", theirs.clone()).await.status, 401);

        let out = owner.visitor.post("/identity/logout", theirs.clone()).await;

        assert_eq!((out.status, out.body), (204, json!("")));
        owner.is_out().await;
        assert_eq!(other.status().await, 200);
        assert_eq!(other.visitor.post("/identity/logout", theirs).await.status, 204, "ended already");
        let third = other.elsewhere().await;
        assert_eq!(other.visitor.post("/identity/logout-all", json!({})).await.status, 204);
        other.is_out().await;
        third.is_out().await;
        assert_eq!(stranger.status().await, 200);
    });
}

#[test]
fn who_is_logged_in_elsewhere_sees_it_and_ends_it_from_here() {
    story(async {
        let owner = Owner::new().await;
        let (elsewhere, stranger) = (owner.elsewhere().await, Owner::new().await);
        let list =
            async || owner.visitor.get("/identity/sessions").await.body["data"].as_array().unwrap().clone();
        // With the one that registering opened.
        let open = list().await;
        assert_eq!(open.len(), 3);
        assert_eq!(open.iter().map(|open| open["current"] == true).collect::<Vec<_>>(), [false, true, false]);
        let path = format!("/identity/sessions/{}", text(&open[0], "id"));
        assert_eq!(stranger.visitor.delete(&path).await.status, 404);

        let ended = owner.visitor.delete(&path).await;

        assert_eq!((ended.status, ended.body), (204, json!("")));
        elsewhere.is_out().await;
        assert_eq!((owner.status().await, list().await.len()), (200, 2));
        assert_eq!(owner.visitor.delete("/identity/sessions/none").await.status, 404);
    });
}
