//! How items change and go before their end, seen over HTTP on a whole platform.

use std::time::Duration;

use platform::Timestamp;
use reqwest::{Method, header::IF_MATCH};
use serde_json::{Value, json};

use crate::{
    Seen, Setting, Visitor, Watching, assert_dense, authorization::admin, bids_of, path_of, see, story,
};

impl Visitor {
    async fn change(&self, item: &Value, seen: &str, members: Value) -> Seen {
        let request = self.request(Method::PUT, &path_of(item)).header(IF_MATCH, seen).json(&members);
        see(request.send().await.unwrap()).await
    }

    async fn act(&self, item: &Value, what: &str, body: Value) -> Seen {
        self.post(&format!("{}/{what}", path_of(item)), body).await
    }
}

/// The item in the listing of its seller.
async fn listed(visitor: &Visitor, item: &Value, expected: impl Fn(Option<&Value>) -> bool) {
    let listing = format!("/api/v1/items?limit=100&seller_id={}", item["seller_id"].as_str().unwrap());
    let found = |seen: &Value| -> Option<Value> {
        seen["data"].as_array().unwrap().iter().find(|listed| listed["id"] == item["id"]).cloned()
    };
    visitor.get_until(&listing, |seen| expected(found(seen).as_ref())).await;
}

#[test]
fn an_item_lives_its_life_and_everybody_sees_the_same() {
    story(async {
        let data = local::temp_dir().unwrap();
        let platform = Setting::default().start(data.path()).await;
        let url = platform.url.as_str();
        let (ann, bob, admin) =
            (Visitor::new(url, "ann").await, Visitor::new(url, "bob").await, admin(&platform).await);
        let item = ann.offer(600.0, json!({ "description": "Brass" })).await;
        let mut watching = Watching::open(url, &item, None).await;
        let etag = ann.get(&path_of(&item)).await.headers["etag"].clone();
        assert_eq!(etag, "\"1\"");

        // A change, by who has seen the newest version.
        let changed = ann.change(&item, "\"1\"", json!({ "name": "Table", "if_match": "\"9\"" })).await;
        assert_eq!((changed.status, &changed.headers["etag"]), (200, &"\"2\"".parse().unwrap()));
        let outdated = ann.change(&item, "\"1\"", json!({ "name": "Chair" })).await;
        assert_eq!((outdated.status, outdated.code()), (412, "PRECONDITION_FAILED"));
        assert_eq!(outdated.body["error"]["version"], 2);
        assert_eq!(bob.change(&item, "*", json!({ "name": "Mine" })).await.code(), "FORBIDDEN");
        listed(&bob, &item, |listed| listed.is_some_and(|listed| listed["name"] == "Table")).await;
        let searched = "/api/v1/items?q=table&limit=100";
        let has =
            |seen: &Value| seen["data"].as_array().unwrap().iter().any(|found| found["id"] == item["id"]);
        bob.get_until(searched, has).await;

        // After a bid.
        assert_eq!(bob.bid(&item, json!(12)).await.status, 201);
        assert_eq!(ann.put(&path_of(&item), json!({ "start_price": 5 })).await.code(), "ITEM_HAS_BIDS");
        let longer = ann.put(&path_of(&item), json!({ "description": "Brass, rewired" })).await;
        assert_eq!((longer.status, &longer.body["version"]), (200, &json!(4)));
        assert_eq!(ann.delete(&path_of(&item)).await.code(), "ITEM_HAS_BIDS");
        assert_eq!(ann.act(&item, "cancel", json!({})).await.code(), "ITEM_HAS_BIDS");

        // Taken back by an administrator.
        let cancelled = admin.act(&item, "cancel", json!({ "reason": "Stolen" })).await;
        assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("cancelled")));
        assert_eq!(cancelled.body["end_reason"], "Stolen");
        assert_eq!(bob.bid(&item, json!(20)).await.code(), "AUCTION_CLOSED");
        listed(&bob, &item, |listed| listed.is_some_and(|listed| listed["status"] == "cancelled")).await;
        let told = watching.until(5).await;
        assert_dense(&told, 1);
        let events: Vec<&str> = told.iter().map(|told| told.event.as_str()).collect();
        assert_eq!(events, ["snapshot", "updated", "bid", "updated", "cancelled"]);
        assert_eq!(told[1].json()["name"], "Table");
        assert_eq!(told[4].json()["end_reason"], "Stolen");
        let log = Watching::open(url, &item, Some(1)).await.until(5).await;
        assert_eq!(
            log.iter().map(|told| &told.data).collect::<Vec<_>>(),
            told[1..].iter().map(|told| &told.data).collect::<Vec<_>>(),
            "the log says what was heard"
        );

        // Offered again, watched, and deleted.
        let again = ann.act(&item, "relist", json!({})).await;
        assert_eq!((again.status, &again.body["name"]), (201, &json!("Table")));
        let again = again.body;
        assert_eq!(ann.get(&path_of(&item)).await.body["relisted_as"], again["id"]);
        assert_eq!(bob.put(&format!("{}/watch", path_of(&again)), json!({})).await.status, 204);
        listed(&bob, &again, |listed| listed.is_some()).await;
        let mut watching = Watching::open(url, &again, None).await;
        assert_eq!(watching.next().await.unwrap().event, "snapshot");
        assert_eq!(ann.delete(&path_of(&again)).await.status, 204);
        let last = watching.next().await.unwrap();
        assert_eq!((last.event.as_str(), last.id), ("deleted", 2));
        assert!(watching.next().await.is_none(), "the stream ends");
        for path in [path_of(&again), bids_of(&again), format!("{}/events", path_of(&again))] {
            assert_eq!(bob.get(&path).await.status, 404, "{path}");
        }
        listed(&bob, &again, |listed| listed.is_none()).await;
        let watched = bob.get("/api/v1/users/me/watchlist").await.body;
        assert_eq!(watched["page_info"]["total"], 0);
        platform.stop().await;
    });
}

#[test]
fn an_edit_moves_the_end_and_an_administrator_brings_it_about() {
    story(async {
        let data = local::temp_dir().unwrap();
        let platform = Setting::default().start(data.path()).await;
        let url = platform.url.as_str();
        let (ann, admin) = (Visitor::new(url, "ann").await, admin(&platform).await);
        let bidders = Visitor::several(url, 4).await;
        let (sooner, now) = (ann.offer(600.0, json!({})).await, ann.offer(600.0, json!({})).await);

        // The hammer notices an end that was moved to be the next.
        let end = Timestamp::now() + Duration::from_millis(1500);
        assert_eq!(ann.put(&path_of(&sooner), json!({ "ends_at": end })).await.status, 200);
        let closed = ann.get_until(&path_of(&sooner), |item| item["status"] == "unsold").await;
        let late = Timestamp::parse(closed["closed_at"].as_str().unwrap()).unwrap().since(end);
        assert!(late < Duration::from_secs(2), "{late:?}");

        // Bids and the administrator at once: what was accepted counts, and the highest of it wins.
        let bids = bidders.iter().enumerate().map(|(n, bidder)| {
            let item = &now;
            async move {
                let mut accepted = Vec::new();
                for round in 0..20 {
                    let seen = bidder.bid(item, json!(20 + round * 4 + n)).await;
                    match (seen.status, seen.code()) {
                        (201, _) => accepted.push(seen.body["amount"].clone()),
                        (409, "BID_TOO_LOW" | "AUCTION_CLOSED") => {}
                        other => panic!("{other:?}"),
                    }
                }
                accepted
            }
        });
        let close = async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            admin.act(&now, "close", json!({})).await
        };
        let (accepted, closing) = tokio::join!(futures_util::future::join_all(bids), close);
        assert_eq!(closing.status, 200, "{}", closing.body);
        let closed = ann.get_until(&path_of(&now), |item| item["closed_at"].is_string()).await;
        let accepted: Vec<Value> = accepted.concat();
        assert_eq!(closed["bid_count"], json!(accepted.len()));
        let minor = |amount: &Value| amount.as_str().unwrap().replace('.', "").parse::<i64>().unwrap();
        let highest = accepted.iter().max_by_key(|amount| minor(amount));
        assert_eq!(closed["final_price"], highest.cloned().unwrap_or_default());
        let version = closed["version"].as_i64().unwrap();
        let told = Watching::open(url, &now, Some(1)).await.until(version).await;
        assert_dense(&told, 2);
        assert_eq!(told.last().unwrap().event, "closed");
        platform.stop().await;
    });
}
