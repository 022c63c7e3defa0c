//! Maxima, purchases and races between them, seen over HTTP on a whole platform.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use platform::Timestamp;
use rand::RngExt;
use serde_json::{Value, json};
use sqlx::Connection;

use crate::{
    Alone, Command, SHARED, Seen, Visitor, Watching, assert_dense, bids_of, outcry, path_of, start, story,
};

impl Visitor {
    async fn bid_up_to(&self, item: &Value, amount: impl Into<Value>, maximum: impl Into<Value>) -> Seen {
        self.post(&bids_of(item), json!({ "amount": amount.into(), "max_amount": maximum.into() })).await
    }

    /// As the contract has it: without a body.
    async fn buy_now(&self, item: &Value) -> Seen {
        let path = format!("{}/buy-now", path_of(item));
        crate::see(self.request(reqwest::Method::POST, &path).send().await.unwrap()).await
    }
}

fn minor(amount: &Value) -> i64 {
    amount.as_str().unwrap().replace('.', "").parse().unwrap()
}

fn time(value: &Value) -> Timestamp {
    Timestamp::parse(value.as_str().unwrap()).unwrap()
}

/// All bids of an item, the first bid first.
async fn history(visitor: &Visitor, item: &Value) -> Vec<Value> {
    let (mut bids, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = visitor.get(&format!("{}?limit=100{cursor}", bids_of(item))).await;
        assert_eq!(page.status, 200, "{}", page.body);
        bids.extend(page.body["data"].as_array().unwrap().iter().cloned());
        match page.body["page_info"]["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    bids.reverse();
    bids
}

/// The history is dense and rises, and the item, the listing and the live view say the same.
async fn assert_consistent(visitor: &Visitor, item: &Value) -> (Value, Vec<Value>) {
    let (shown, bids) = (visitor.get(&path_of(item)).await.body, history(visitor, item).await);
    let mut last = 0;
    for (seq, bid) in (1..).zip(&bids) {
        assert_eq!(bid["seq"], json!(seq), "{bid}");
        let price = minor(&bid["amount"]);
        assert!(price > last || (price == last && bid["automatic"] == true), "{last} and then {bid}");
        last = price;
    }
    let leader = bids.last().map_or(Value::Null, |bid| bid["bidder_id"].clone());
    assert_eq!((&shown["bid_count"], &shown["leader_id"]), (&json!(bids.len()), &leader));
    let version = shown["version"].as_i64().unwrap();
    let told = Watching::open(&visitor.url, item, Some(1)).await.until(version).await;
    assert_dense(&told, 2);
    let told: Vec<Value> =
        told.iter().filter(|told| told.event == "bid").map(|told| told.json()["id"].clone()).collect();
    assert_eq!(told, bids.iter().map(|bid| bid["id"].clone()).collect::<Vec<_>>());
    let listing = format!("/api/v1/items?limit=100&seller_id={}", item["seller_id"].as_str().unwrap());
    let listed = |seen: &Value| {
        let items = seen["data"].as_array().unwrap();
        items.iter().find(|listed| listed["id"] == item["id"]).cloned()
    };
    let seen = visitor
        .get_until(&listing, |seen| listed(seen).is_some_and(|listed| listed["version"] == shown["version"]))
        .await;
    let listed = listed(&seen).unwrap();
    for member in [
        "current_price",
        "min_next_bid",
        "bid_increment",
        "increment_policy",
        "bid_count",
        "leader_id",
        "status",
        "winner_id",
        "final_price",
        "reserve_met",
        "buy_now_price",
        "ends_at",
    ] {
        assert_eq!(listed[member], shown[member], "{member}");
    }
    (shown, bids)
}

#[test]
fn the_known_oracle_holds_over_http() {
    story(async {
        let (ann, bob, cid) = (
            Visitor::new(&SHARED, "ann").await,
            Visitor::new(&SHARED, "bob").await,
            Visitor::new(&SHARED, "cid").await,
        );
        let terms = json!({ "start_price": 100, "reserve_price": 2000, "bid_increment": 50 });
        let item = ann.offer(60.0, terms).await;
        let price = |seen: &Seen| seen.body["item"]["current_price"].clone();

        let first = bob.bid_up_to(&item, 100, 2500).await;
        assert_eq!(
            (first.status, price(&first), &first.body["max_amount"]),
            (201, json!("2000.00"), &json!("2500.00"))
        );
        let further = bob.bid_up_to(&item, 100, 3000).await;
        assert_eq!(
            (further.status, price(&further), &further.body["id"]),
            (201, json!("2000.00"), &first.body["id"])
        );
        let outbid = cid.bid_up_to(&item, 2050, 2500).await;
        assert_eq!(
            (outbid.status, price(&outbid), &outbid.body["leading"]),
            (201, json!("2550.00"), &json!(false))
        );
        for (who, amount, maximum) in [(&cid, 2570, 2570), (&bob, 2000, 2540)] {
            let refused = who.bid_up_to(&item, amount, maximum).await;
            assert_eq!((refused.status, refused.code()), (409, "BID_TOO_LOW"));
            assert_eq!(refused.body["error"]["min_next_bid"], "2600.00");
        }
        let equal = cid.bid_up_to(&item, 2600, 3000).await;
        assert_eq!((price(&equal), &equal.body["leading"]), (json!("3000.00"), &json!(false)));
        let higher = cid.bid_up_to(&item, 3050, 4000).await;
        assert_eq!((price(&higher), &higher.body["leading"]), (json!("3050.00"), &json!(true)));

        let (shown, bids) = assert_consistent(&bob, &item).await;
        let history: Vec<(&str, bool)> =
            bids.iter().map(|bid| (bid["amount"].as_str().unwrap(), bid["automatic"] == true)).collect();
        let expected = [
            ("2000.00", false),
            ("2500.00", false),
            ("2550.00", true),
            ("3000.00", false),
            ("3000.00", true),
            ("3050.00", false),
        ];
        assert_eq!(history, expected);
        assert_eq!((&shown["reserve_met"], shown.get("reserve_price")), (&json!(true), None));
        for (bidder, count, total) in [(&bob, 3, "7550.00"), (&cid, 3, "8550.00")] {
            let stats = format!("/api/v1/users/{}/stats", bidder.id);
            let stats = bob.get_until(&stats, |stats| stats["total_bids"] == count).await;
            assert_eq!(stats["total_amount"], total);
        }
    });
}

/// The maximum is told to its bidder; everything else that anybody can read, and what is logged, is without it.
#[test]
fn how_far_a_bidder_goes_is_nowhere_to_be_read() {
    story(async {
        let (platform, data) = start(vec!["place-bid".into()]).await;
        let log = data.path().join("place-bid.log");
        let mut place_bid = Command::new(env!("CARGO_BIN_EXE_outcry"));
        place_bid
            .args(["run", "place-bid"])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap());
        let said = [("OUTCRY_DATA", platform.env.get("OUTCRY_DATA").unwrap()), ("RUST_LOG", "debug")];
        let _place_bid = Alone(place_bid.envs(said).spawn().unwrap());
        let (ann, bob, cid) = (
            Visitor::new(&platform.url, "ann").await,
            Visitor::new(&platform.url, "bob").await,
            Visitor::new(&platform.url, "cid").await,
        );
        let item =
            ann.offer(60.0, json!({ "extension_window_seconds": 3600, "extension_seconds": 60 })).await;
        let mut watching = Watching::open(&platform.url, &item, None).await;

        let own = bob.bid_up_to(&item, 10, "4321.09").await;
        assert_eq!(own.body["max_amount"], "4321.09");
        let mut seen = vec![cid.bid(&item, json!(12)).await.body];
        let further = bob.bid_up_to(&item, 10, "8765.43").await;
        assert_eq!(further.body["max_amount"], "8765.43");
        assert_eq!(bob.bid(&item, json!(20)).await.body["max_amount"], "8765.43", "an open bid keeps it");
        assert_eq!(bob.bid_up_to(&item, 30, "8000").await.code(), "BID_TOO_LOW");
        seen.push(cid.bid_up_to(&item, 25, 40).await.body);
        seen.push(cid.bid(&item, json!(30)).await.body);

        let (shown, _) = assert_consistent(&cid, &item).await;
        let version = shown["version"].as_i64().unwrap();
        for visitor in [&Visitor::of(&platform.url), &ann, &cid] {
            seen.push(visitor.get(&path_of(&item)).await.body);
            seen.push(visitor.get(&bids_of(&item)).await.body);
            seen.push(visitor.get("/api/v1/items").await.body);
            seen.push(visitor.get(&format!("/api/v1/users/{}/stats", bob.id)).await.body);
        }
        let mut seen: Vec<String> = seen.iter().map(ToString::to_string).collect();
        seen.extend(watching.until(version).await.into_iter().map(|told| told.data));
        let log_again = Watching::open(&platform.url, &item, Some(1)).await.until(version).await;
        seen.extend(log_again.into_iter().map(|told| told.data));
        // What the relay publishes is what lies here, word for word.
        let auctions = platform::database::options(&platform.env, "auctions").unwrap();
        let mut auctions = sqlx::PgConnection::connect_with(&auctions).await.unwrap();
        let outbox = sqlx::query_scalar("select events from platform.outbox").fetch_all(&mut auctions).await;
        let outbox: Vec<String> = outbox.unwrap();
        assert!(outbox.iter().any(|events| events.contains("bid.placed")));
        seen.extend(outbox);
        let logged = std::fs::read_to_string(&log).unwrap();
        assert!(logged.contains("place-bid"), "{logged}");
        seen.push(logged);
        assert!(seen.len() > 30, "{}", seen.len());
        for text in seen {
            for secret in ["4321.09", "432109", "8765.43", "876543", "max_amount"] {
                assert!(!text.contains(secret), "{secret} in {text}");
            }
        }
        platform.stop().await;
    });
}

#[test]
fn who_buys_at_once_wins_and_everybody_hears_it() {
    story(async {
        let (ann, bob, cid) = (
            Visitor::new(&SHARED, "ann").await,
            Visitor::new(&SHARED, "bob").await,
            Visitor::new(&SHARED, "cid").await,
        );
        let item = ann.offer(60.0, json!({ "buy_now_price": "75", "reserve_price": "50" })).await;
        let mut watching = Watching::open(&SHARED, &item, None).await;
        assert_eq!(cid.bid(&item, json!(20)).await.status, 201);
        assert_eq!(ann.buy_now(&item).await.code(), "SELF_BID");
        assert_eq!(Visitor::of(&SHARED).buy_now(&item).await.status, 401);

        let bought = bob.buy_now(&item).await;

        assert_eq!((bought.status, &bought.body["amount"]), (201, &json!("75.00")), "{}", bought.body);
        let told = watching.until(4).await;
        let events: Vec<&str> = told.iter().map(|told| told.event.as_str()).collect();
        assert_eq!(events, ["snapshot", "bid", "bid", "closed"]);
        assert_eq!(
            (&told[3].json()["winner_id"], &told[3].json()["final_price"]),
            (&json!(bob.id), &json!("75.00"))
        );
        assert_eq!(cid.bid(&item, json!(80)).await.code(), "AUCTION_CLOSED");
        assert_eq!(cid.buy_now(&item).await.code(), "AUCTION_CLOSED");
        let (shown, _) = assert_consistent(&cid, &item).await;
        assert_eq!((&shown["status"], &shown["final_price"]), (&json!("sold"), &json!("75.00")));
        let stats = |user: &Visitor| format!("/api/v1/users/{}/stats", user.id);
        let won = bob.get_until(&stats(&bob), |stats| stats["items_won"] == 1).await;
        assert_eq!((&won["total_spent"], &won["total_bids"]), (&json!("75.00"), &json!(1)));
        bob.get_until(&stats(&ann), |stats| stats["items_sold"] == 1).await;
        let without = ann.offer(60.0, json!({})).await;
        assert_eq!(bob.buy_now(&without).await.code(), "BUY_NOW_UNAVAILABLE");
    });
}

#[test]
fn of_all_that_comes_at_once_one_thing_is_first() {
    story(async {
        let ann = Visitor::new(&SHARED, "ann").await;
        let bidders = Visitor::several(&SHARED, 4).await;
        for round in 0..8 {
            // Equal bids: one is accepted.
            let item = ann.offer(60.0, json!({})).await;
            let bids = bidders.iter().map(|bidder| bidder.bid(&item, json!(10)));
            let answers = futures_util::future::join_all(bids).await;
            let accepted = answers.iter().filter(|answer| answer.status == 201).count();
            assert_eq!(accepted, 1);
            assert!(answers.iter().all(|answer| answer.status == 201 || answer.code() == "BID_TOO_LOW"));

            // Equal maxima: one leads and pays it, and of the others one was in time to make it so.
            let item = ann.offer(60.0, json!({})).await;
            let bids = bidders.iter().map(|bidder| bidder.bid_up_to(&item, 10, 50));
            let answers = futures_util::future::join_all(bids).await;
            let leads: Vec<&Seen> = answers.iter().filter(|answer| answer.body["leading"] == true).collect();
            assert_eq!((leads.len(), &leads[0].body["seq"]), (1, &json!(1)));
            let (shown, bids) = assert_consistent(&ann, &item).await;
            assert_eq!((&shown["current_price"], bids.len()), (&json!("50.00"), 3));
            assert_eq!(shown["leader_id"], leads[0].body["bidder_id"]);

            // A purchase, two purchases and a bid: one sale or none.
            let item = ann.offer(60.0, json!({ "buy_now_price": 90 })).await;
            let (one, other, bid) = tokio::join!(
                bidders[0].buy_now(&item),
                bidders[1].buy_now(&item),
                bidders[2].bid(&item, json!(10))
            );
            let (shown, bids) = assert_consistent(&ann, &item).await;
            let bought: Vec<&Seen> =
                [&one, &other].into_iter().filter(|answer| answer.status == 201).collect();
            if bid.status == 201 {
                assert_eq!((bought.len(), &shown["status"], bids.len()), (0, &json!("open"), 1), "{round}");
                assert!([&one, &other].iter().all(|answer| answer.code() == "BUY_NOW_UNAVAILABLE"));
            } else {
                assert_eq!((bought.len(), bid.code(), bids.len()), (1, "AUCTION_CLOSED", 1), "{round}");
                assert_eq!(shown["winner_id"], bought[0].body["bidder_id"]);
            }
        }
    });
}

#[test]
fn whoever_is_first_at_the_end_the_item_closes_once_and_to_the_highest() {
    story(async {
        let (platform, data) = start(Vec::new()).await;
        let ann = Visitor::new(&platform.url, "ann").await;
        let bidders = Visitor::several(&platform.url, 5).await;
        let mut items = Vec::new();
        for number in 0..6 {
            let policy = ["flat", "ebay", "trademe"][number % 3];
            let mut terms = json!({ "increment_policy": policy });
            if number % 2 == 0 {
                terms["reserve_price"] = json!("40");
                terms["buy_now_price"] = json!("500");
            }
            if number < 4 {
                terms["extension_window_seconds"] = json!(1);
            }
            items.push(ann.offer(3.0, terms).await);
        }
        // Plain bids and maxima, beyond the end; and somebody who buys at the last moment.
        let bidding = bidders.iter().map(|bidder| {
            let (items, until) = (&items, Timestamp::now() + Duration::from_secs(4));
            async move {
                let mut accepted = Vec::new();
                while Timestamp::now() < until {
                    let item = &items[rand::rng().random_range(..items.len())];
                    let least = minor(&bidder.get(&path_of(item)).await.body["min_next_bid"]);
                    let dollars = |minor: i64| format!("{}.{:02}", minor / 100, minor % 100);
                    let further = rand::rng().random_range(0..500);
                    let answer = if further % 3 == 0 {
                        bidder.bid(item, json!(dollars(least + further % 7))).await
                    } else {
                        bidder.bid_up_to(item, dollars(least), dollars(least + further)).await
                    };
                    match (answer.status, answer.code()) {
                        (201, _) => accepted.push((item["id"].clone(), answer.body)),
                        (409, "BID_TOO_LOW" | "AUCTION_CLOSED") => {}
                        other => panic!("{other:?} {}", answer.body),
                    }
                }
                accepted
            }
        });
        let buying = async {
            tokio::time::sleep(time(&items[0]["ends_at"]).since(Timestamp::now()) - Duration::from_millis(5))
                .await;
            futures_util::future::join_all(items.iter().map(|item| bidders[0].buy_now(item))).await
        };
        let (accepted, bought) = tokio::join!(futures_util::future::join_all(bidding), buying);
        let accepted: Vec<(Value, Value)> = accepted.into_iter().flatten().collect();
        assert!(accepted.len() > 30, "{}", accepted.len());

        let mut figures: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let mut automatic = 0;
        for (item, bought) in items.iter().zip(&bought) {
            ann.get_until(&path_of(item), |item| item["closed_at"].is_string()).await;
            let (shown, bids) = assert_consistent(&ann, item).await;
            assert!(bids.iter().all(|bid| time(&bid["placed_at"]) < time(&shown["ends_at"])));
            let last = bids.last().unwrap();
            let sold = shown["status"] == "sold";
            assert_eq!(sold, shown["reserve_met"] == true, "{shown}");
            if sold {
                assert_eq!(
                    (&shown["winner_id"], &shown["final_price"]),
                    (&last["bidder_id"], &last["amount"])
                );
            }
            let bought = bought.status == 201;
            assert_eq!(bought, last["amount"] == "500.00" && sold, "{shown}");
            for (_, answer) in accepted.iter().filter(|(id, _)| *id == item["id"]) {
                let listed = bids.iter().find(|bid| bid["id"] == answer["id"]).unwrap();
                for member in ["amount", "bidder_id", "seq"] {
                    assert_eq!(listed[member], answer[member], "{member} of {answer}");
                }
            }
            automatic += bids.iter().filter(|bid| bid["automatic"] == true).count();
            for bid in &bids {
                let (count, sum) = figures.entry(bid["bidder_id"].as_str().unwrap().to_owned()).or_default();
                (*count, *sum) = (*count + 1, *sum + minor(&bid["amount"]));
            }
        }
        assert!(automatic > 5, "{automatic}");
        let check = async || {
            for (user, (count, sum)) in &figures {
                let stats = format!("/api/v1/users/{user}/stats");
                let stats = ann.get_until(&stats, |stats| stats["total_bids"] == *count).await;
                assert_eq!(minor(&stats["total_amount"]), *sum, "{stats}");
            }
        };
        check().await;
        // Made anew from the authority they are the same.
        for consumer in ["update-stats", "update-catalog"] {
            let (good, said) = outcry(data.path(), &["replay", consumer]).await;
            assert!(good, "{said}");
        }
        check().await;
        for item in &items {
            assert_consistent(&ann, item).await;
        }
        platform.stop().await;
    });
}

#[test]
fn what_cannot_be_is_named() {
    story(async {
        let (ann, bob) = (Visitor::new(&SHARED, "ann").await, Visitor::new(&SHARED, "bob").await);
        let ends_at = Timestamp::now() + Duration::from_secs(60);
        for (more, details) in [
            (json!({ "increment_policy": "steep" }), "increment_policy: "),
            (json!({ "increment_policy": "ebay", "bid_increment": 1 }), "bid_increment: must be left to"),
            (
                json!({ "reserve_price": 50, "buy_now_price": 49 }),
                "buy_now_price: must not be below reserve_price",
            ),
        ] {
            let mut body = json!({ "name": "Lamp", "start_price": "10.00", "ends_at": ends_at });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let refused = ann.post("/api/v1/items", body).await;
            assert_eq!((refused.status, refused.code()), (400, "INVALID_INPUT"));
            let said = refused.body["error"]["details"].as_str().unwrap();
            assert!(said.contains(details), "{said}");
        }
        let item = ann.offer(60.0, json!({})).await;
        for (maximum, details) in
            [(json!(9), "max_amount: must not be below amount"), (json!("x"), "max_amount: ")]
        {
            let refused = bob.bid_up_to(&item, 10, maximum).await;
            assert_eq!((refused.status, refused.code()), (400, "INVALID_INPUT"));
            let said = refused.body["error"]["details"].as_str().unwrap();
            assert!(said.contains(details), "{said}");
        }
        assert_eq!(bob.bid_up_to(&item, 10, Value::Null).await.status, 201, "no maximum");
    });
}
