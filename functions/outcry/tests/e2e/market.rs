//! The market that `outcry seed` makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use outcry::seed::{self, Made};
use platform::Timestamp;
use serde_json::{Value, json};

use super::{Visitor, bids_of, outcry, path_of, start, story};

/// What is to be made, as it is written.
static MARKET: &str = include_str!("../../src/seed/market.json");

/// Every item of the listing, page by page.
async fn listed(visitor: &Visitor) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = visitor.get(&format!("/api/v1/items?limit=100{cursor}")).await.body;
        items.extend(page["data"].as_array().unwrap().iter().cloned());
        match page["page_info"]["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

fn count(items: &[Value], wanted: impl Fn(&Value) -> bool) -> usize {
    items.iter().filter(|item| wanted(item)).count()
}

/// As the item itself says, not the listing.
async fn shown(visitor: &Visitor, item: &Value) -> Value {
    visitor.get(&path_of(item)).await.body
}

/// What was written of each item has become of it.
async fn histories_are_whole(visitor: &Visitor, offers: &[Value], items: &[Value]) {
    let mut automatic = 0;
    for offer in offers {
        let name = &offer["name"];
        let mut same: Vec<&Value> = items.iter().filter(|item| item["name"] == *name).collect();
        same.sort_by_key(|item| item["id"].as_str().unwrap());
        let item = shown(visitor, same[0]).await;
        let bids = offer["bids"].as_u64().unwrap_or(0);
        let stays = offer["ends_in_minutes"].as_f64() >= Some(1.0);
        if offer["cancelled"].is_string() {
            assert_eq!((&item["status"], &item["end_reason"]), (&json!("cancelled"), &offer["cancelled"]));
        } else if offer["bought_by"].is_string() {
            assert_eq!((&item["status"], &item["bid_count"]), (&json!("sold"), &json!(1)), "{name}");
            assert_eq!(item["final_price"], offer["buy_now_price"], "{name}");
        } else if offer["maximum"].is_string() {
            let made = visitor.get(&format!("{}?limit=100", bids_of(&item))).await.body;
            automatic += count(made["data"].as_array().unwrap(), |bid| bid["automatic"] == true);
        } else if stays && bids > 0 {
            assert_eq!(
                (&item["bid_count"], &item["current_price"]),
                (&json!(bids), &offer["price"]),
                "{name}"
            );
        }
        if let Some(addition) = offer["addition"].as_str() {
            assert!(item["description"].as_str().unwrap().ends_with(addition), "{name}");
        }
        if let Some(again) = offer["again"].as_object() {
            let second = shown(visitor, same[1]).await;
            assert_eq!((&item["relisted_as"], &second["status"]), (&second["id"], &json!("open")), "{name}");
            assert_eq!(second["bid_count"], *again.get("bids").unwrap_or(&json!(0)), "{name}");
        }
        assert_eq!(same.len(), 1 + usize::from(offer["again"].is_object()), "{name}");
    }
    assert!(automatic > 0, "the platform bids on behalf of those who say how far they go");
    let extended = items.iter().find(|item| item["name"] == "Portable typewriter, 1957").unwrap();
    let time = |member: &str| Timestamp::parse(extended[member].as_str().unwrap()).unwrap();
    // It was offered for twelve minutes, and a bid in the last fifteen moves the end.
    assert!(time("ends_at").since(time("created_at")) >= Duration::from_secs(15 * 60), "{extended}");
}

async fn bids_are_counted(visitor: &Visitor, items: &[Value]) {
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for item in items {
        let bids = visitor.get(&format!("{}?limit=100", bids_of(item))).await.body;
        for bid in bids["data"].as_array().unwrap() {
            *counted.entry(bid["bidder_id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    assert!(counted.len() >= 20 && counted.values().sum::<u64>() >= 1_000, "{counted:?}");
    for (bidder, bids) in counted {
        let stats = format!("/api/v1/users/{bidder}/stats");
        visitor.get_until(&stats, |stats| stats["total_bids"] == bids).await;
    }
}

async fn watchlists_are_kept(url: &str, offers: &[Value]) {
    let watches =
        |offer: &Value| offer["watchers"].as_array().is_some_and(|all| all.contains(&json!("hannah")));
    let mut hannah = Visitor::of(url);
    let credentials = json!({ "username": "hannah", "password": seed::PASSWORD });
    let session = hannah.post("/identity/login", credentials).await.body;
    hannah.token = session["token"].as_str().map(str::to_owned);
    let kept = hannah.get("/api/v1/users/me/watchlist?limit=100").await.body;
    assert_eq!(kept["page_info"]["total"], count(offers, watches));
}

#[test]
fn a_market_that_was_broken_off_is_completed_and_then_nothing_is_added() {
    story(async {
        let (platform, data) = start(Vec::new()).await;
        let visitor = Visitor::of(&platform.url);
        let market: Value = serde_json::from_str(MARKET).unwrap();
        let offers = market["items"].as_array().unwrap();
        let again = count(offers, |offer| offer["again"].is_object());
        let total = "/api/v1/items?limit=1";
        let some = |page: &Value| page["page_info"]["total"].as_u64().unwrap() >= 20;
        tokio::select! {
            made = seed::run(&platform.url) => panic!("it was not broken off: {made:?}"),
            _ = visitor.get_until(total, some) => {}
        }

        let second = seed::run(&platform.url).await.unwrap();

        assert!(second.items < offers.len(), "some were there: {second:?}");
        for made in [second.items, second.bids, second.bought, second.cancelled, second.relisted, second.sold]
        {
            assert!(made > 0, "{second:?}");
        }
        visitor.get_until(total, |page| page["page_info"]["total"] == offers.len() + again).await;
        let third = seed::run(&platform.url).await.unwrap();
        assert_eq!(third, Made { people: second.people, ..Made::default() });
        assert_eq!(second.people, market["people"].as_array().unwrap().len());

        let items = listed(&visitor).await;
        assert_eq!(items.len(), offers.len() + again, "nothing is offered twice");
        let laptop = visitor.get("/api/v1/products/prod-1").await.body;
        assert_eq!((&laptop["name"], &laptop["final_price"]), (&json!("Laptop"), &json!("999.99")));
        let categories = visitor.get("/api/v1/categories?limit=100").await.body;
        assert_eq!(categories["page_info"]["total"], market["categories"].as_array().unwrap().len());
        let known: BTreeSet<i64> =
            categories["data"].as_array().unwrap().iter().map(|one| one["id"].as_i64().unwrap()).collect();
        assert!(items.iter().all(|item| known.contains(&item["category_id"].as_i64().unwrap())));
        for status in ["scheduled", "open", "sold", "unsold", "cancelled"] {
            assert!(count(&items, |item| item["status"] == status) >= 5, "{status}");
        }
        histories_are_whole(&visitor, offers, &items).await;
        bids_are_counted(&visitor, &items).await;
        watchlists_are_kept(&platform.url, offers).await;

        // An operator may call in anybody's name.
        let (good, shown) = outcry(data.path(), &["call", "get-me", "--as", "john@test.com"]).await;
        assert!(good && shown.contains(r#""username": "john""#), "{shown}");
        let (good, told) = outcry(data.path(), &["call", "get-me", "--as", "nobody@test.com"]).await;
        assert!(!good && told.contains("nobody@test.com"), "{told}");
        let open = visitor.get("/api/v1/items?q=writing+desk&status=open").await.body;
        let desk = &open["data"][0];
        let body = json!({ "item_id": desk["id"], "amount": "5000.00" }).to_string();
        let (good, told) =
            outcry(data.path(), &["call", "place-bid", &body, "--as", "john@test.com", "--key", "k"]).await;
        assert!(good && told.contains(r#""leading": true"#), "{told}");
        let (_, again) =
            outcry(data.path(), &["call", "place-bid", &body, "--as", "john@test.com", "--key", "k"]).await;
        assert!(again.contains("the answer that this key was given before"), "{again}");
        platform.stop().await;
    });
}
