//! People as others see them: found, changed, deactivated, and gone without a name.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    SHARED, Seen, Visitor,
    authorization::{admin, email_of},
    outcry, path_of, see, start, story,
};

/// How long an access token of somebody who is out may still open something.
const OUT_WITHIN: Duration = Duration::from_secs(1);

fn user(id: &str) -> String {
    format!("/api/v1/users/{id}")
}

async fn put(who: &Visitor, id: &str, members: Value) -> Seen {
    see(who.request(Method::PUT, &user(id)).json(&members).send().await.unwrap()).await
}

async fn delete(who: &Visitor, id: &str) -> Seen {
    see(who.request(Method::DELETE, &user(id)).send().await.unwrap()).await
}

async fn log_in(url: &str, email: &str) -> Seen {
    Visitor::of(url).post("/login", json!({ "email": email, "password": "secret123" })).await
}

/// Within a second.
async fn assert_token_is_dead(who: &Visitor) {
    let since = Instant::now();
    while who.get("/me").await.status != 401 {
        assert!(since.elapsed() < OUT_WITHIN, "its token still opens something");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// S-16: its token opens nothing, and the name and password answer like those of a stranger.
async fn assert_out(who: &Visitor, email: &str, refresh_token: &Value) {
    assert_token_is_dead(who).await;
    let nobody = log_in(&who.url, "nobody@example.com").await;
    let refused = log_in(&who.url, email).await;
    assert_eq!((refused.status, refused.code()), (401, nobody.code()));
    assert_eq!(refused.body["error"]["message"], nobody.body["error"]["message"]);
    let refreshed =
        Visitor::of(&who.url).post("/identity/refresh", json!({ "refresh_token": refresh_token })).await;
    assert_eq!(refreshed.status, 401);
}

#[test]
fn somebody_is_found_and_changes_their_names() {
    story(async {
        let (mut ann, bob) = (Visitor::new(&SHARED, "ann").await, Visitor::new(&SHARED, "bob").await);
        let word = format!("w{}", Uuid::new_v4().simple());

        let changed = put(&ann, &ann.id, json!({ "firstName": "Ann", "lastName": word })).await;

        assert_eq!(
            (changed.status, &changed.body["name"]),
            (200, &json!(format!("Ann {word}"))),
            "{}",
            changed.body
        );
        let listed = bob.get(&format!("/api/v1/users?q=ann+{}", &word[..20])).await;
        let public = json!([{
            "id": ann.id, "username": changed.body["username"], "name": changed.body["name"],
            "created_at": changed.body["created_at"],
        }]);
        assert_eq!(listed.body["data"], public, "{}", listed.body);
        assert_eq!(listed.body["page_info"]["total"], 1);
        let whole = ann.get(&user(&ann.id)).await;
        assert_eq!((&whole.body, whole.headers["etag"].to_str().unwrap()), (&changed.body, "\"2\""));
        let known = ann.request(Method::GET, &user(&ann.id)).header("If-None-Match", "\"2\"");
        assert_eq!(see(known.send().await.unwrap()).await.status, 304);
        assert_eq!(bob.get(&user(&ann.id)).await.body, public[0]);

        let taken =
            put(&bob, &bob.id, json!({ "email": changed.body["email"].as_str().unwrap().to_uppercase() }))
                .await;
        assert_eq!((taken.status, taken.code()), (409, "ALREADY_EXISTS"));
        let address = format!("{word}@example.com");
        assert_eq!(put(&ann, &ann.id, json!({ "email": address })).await.status, 200);
        assert_eq!(log_in(&SHARED, &address).await.status, 200);
        assert_eq!(put(&ann, &ann.id, json!({ "email": "nowhere" })).await.code(), "INVALID_INPUT");
        for nothing in ["not-an-id", "me%2fstats", &Uuid::nil().to_string()] {
            assert_eq!(bob.get(&user(nothing)).await.status, 404, "{nothing}");
        }
        ann.token = None;
        assert_eq!(ann.get("/api/v1/users").await.code(), "UNAUTHORIZED");
    });
}

/// S-56.
#[test]
fn what_is_not_for_people_to_say_has_no_effect() {
    story(async {
        let mut eve = Visitor::of(&SHARED);
        let name = format!("eve-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let more = json!({
            "id": Uuid::nil(), "role": "admin", "is_admin": true, "isAdmin": true, "is_active": false, "version": 7,
            "created_at": "2000-01-01T00:00:00Z", "two_factor_enabled": true, "deleted_at": "2000-01-01T00:00:00Z",
            "password_hash": "x", "user_id": Uuid::nil(),
        });
        let mut person =
            json!({ "username": name, "email": format!("{name}@example.com"), "password": "secret123" });
        person.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());

        let session = eve.post("/identity/register", person).await;

        let as_it_should = |user: &Value, version: i64| {
            assert_eq!((&user["role"], &user["is_active"]), (&json!("user"), &json!(true)), "{user}");
            assert_eq!(
                (&user["two_factor_enabled"], &user["version"]),
                (&json!(false), &json!(version)),
                "{user}"
            );
            assert!(
                user["id"] != json!(Uuid::nil()) && !user["created_at"].as_str().unwrap().starts_with("2000")
            );
        };
        as_it_should(&session.body["user"], 1);
        eve.token = Some(session.body["token"].as_str().unwrap().to_owned());
        eve.id = session.body["user"]["id"].as_str().unwrap().to_owned();

        // What may be said counts, whatever stands beside it.
        let mut change = more.clone();
        change.as_object_mut().unwrap().remove("is_active");
        change["first_name"] = json!("Eve");
        let changed = put(&eve, &eve.id, change).await;
        assert_eq!((changed.status, &changed.body["name"]), (200, &json!("Eve")), "{}", changed.body);
        as_it_should(&changed.body, 2);
        assert_eq!(changed.body["created_at"], session.body["user"]["created_at"]);
        let refused = put(&eve, &eve.id, json!({ "is_active": false })).await;
        assert_eq!((refused.status, refused.code()), (403, "FORBIDDEN"));
        as_it_should(&eve.get("/me").await.body, 2);
        // Nobody's word makes somebody else of the caller either.
        let as_admin =
            eve.request(Method::GET, "/api/v1/users").header("X-User-Role", "admin").send().await.unwrap();
        let listed = see(as_admin).await.body;
        let others = listed["data"].as_array().unwrap().iter().filter(|user| user["id"] != json!(eve.id));
        assert!(others.into_iter().all(|user| user.get("email").is_none()), "{listed}");
    });
}

#[test]
fn an_administrator_deactivates_and_who_leaves_leaves_no_name() {
    story(async {
        let (platform, data) = start(Vec::new()).await;
        let url = &platform.url;
        let (root, ann, bob) =
            (Visitor::new(url, "root").await, Visitor::new(url, "ann").await, Visitor::new(url, "bob").await);
        let (roots, anns) = (email_of(&root).await, email_of(&ann).await);

        // The first administrator, as its operator makes one.
        let (good, told) = outcry(data.path(), &["grant-admin", &roots.to_uppercase()]).await;
        assert!(good && told.contains(&root.id), "{told}");
        let (good, told) = outcry(data.path(), &["grant-admin", "nobody@example.com"]).await;
        assert!(!good && told.contains("no such user"), "{told}");
        let (good, told) = outcry(data.path(), &["revoke-admin", &roots]).await;
        assert!(!good && told.contains("last administrator"), "{told}");
        assert!(root.get(&user(&ann.id)).await.body.get("email").is_none(), "its token is from before");
        let session = log_in(url, &roots).await.body;
        let root = Visitor { token: session["token"].as_str().map(str::to_owned), ..root };
        assert_eq!(root.get(&user(&ann.id)).await.body["email"], json!(anns));
        let listed = root.get("/api/v1/users").await.body;
        assert!(listed["data"].as_array().unwrap().iter().all(|user| user["email"].is_string()), "{listed}");
        let refused = delete(&root, &root.id).await;
        assert_eq!((refused.status, refused.code()), (409, "CONFLICT"));

        // Ann sells to Bob, is deactivated, and comes back.
        let item = ann.offer(600.0, json!({})).await;
        assert_eq!(bob.bid(&item, json!(20)).await.status, 201);
        let session = log_in(url, &anns).await.body;
        let elsewhere = Visitor { token: session["token"].as_str().map(str::to_owned), ..ann.clone() };
        let out = put(&root, &ann.id, json!({ "is_active": false })).await;
        assert_eq!((out.status, &out.body["is_active"]), (200, &json!(false)), "{}", out.body);
        assert_out(&ann, &anns, &session["refresh_token"]).await;
        assert_eq!(elsewhere.get("/me").await.status, 401);
        assert_eq!(put(&root, &ann.id, json!({ "is_active": true })).await.status, 200);
        let session = log_in(url, &anns).await;
        assert_eq!(session.status, 200, "{}", session.body);

        // She leaves: her item stays, and names her by nothing but an id.
        let token = session.body["token"].as_str().map(str::to_owned);
        let ann = Visitor { token, ..ann };
        assert_eq!(delete(&ann, &ann.id).await.status, 204);
        assert_out(&ann, &anns, &session.body["refresh_token"]).await;
        assert_eq!(bob.get(&path_of(&item)).await.body["seller_id"], json!(ann.id));
        let seen = bob.get(&user(&ann.id)).await;
        assert_eq!((seen.status, &seen.body["name"]), (200, &json!("Deleted user")), "{}", seen.body);
        let all = [root.get("/api/v1/users?limit=100").await, root.get(&user(&ann.id)).await];
        assert!(all.iter().all(|seen| !seen.body.to_string().contains("ann-")), "{}", all[0].body);
        assert_eq!(put(&root, &ann.id, json!({ "username": "ann" })).await.status, 404);
        assert_eq!(delete(&root, &ann.id).await.status, 404);

        // Name and e-mail are free for somebody who is not her.
        let name = anns.split('@').next().unwrap();
        let person = json!({ "username": name, "email": anns, "password": "another123" });
        let next = bob.post("/identity/register", person).await;
        assert_eq!(next.status, 201, "{}", next.body);
        assert_ne!(next.body["user"]["id"], json!(ann.id));

        // With a second administrator the first may go, and is none at once.
        let second = admin(&platform).await;
        assert_eq!(delete(&second, &bob.id).await.status, 204);
        let (good, told) = outcry(data.path(), &["revoke-admin", &roots]).await;
        assert!(good, "{told}");
        assert_token_is_dead(&root).await;
        platform.stop().await;
    });
}
