//! What somebody bids on, and the listing with its counts, seen over HTTP on a whole platform.

use serde_json::{Value, json};

use crate::{SHARED, Visitor, bids_of, path_of, story};

const BIDS: &str = "/api/v1/users/me/bids";

/// The items of a list, and where the caller stands.
fn standings(list: &Value) -> Vec<(&Value, &str)> {
    let lines = list["data"].as_array().unwrap().iter();
    lines.map(|line| (&line["item"]["id"], line["status"].as_str().unwrap())).collect()
}

#[test]
fn bidders_find_what_they_bid_on_and_where_they_stand() {
    story(async {
        let (ann, bob, cid) = (
            Visitor::new(&SHARED, "ann").await,
            Visitor::new(&SHARED, "bob").await,
            Visitor::new(&SHARED, "cid").await,
        );
        let lamp = ann.offer(60.0, json!({ "bid_increment": "1.00" })).await;
        let table = ann.offer(60.0, json!({ "bid_increment": "1.00", "buy_now_price": "99" })).await;
        let maximum = json!({ "amount": 10, "max_amount": 50 });
        assert_eq!(bob.post(&bids_of(&lamp), maximum).await.status, 201);
        assert_eq!(cid.bid(&lamp, json!(20)).await.status, 201);
        assert_eq!(cid.bid(&table, json!(11)).await.status, 201);

        // An answer means that it is committed: the list is the authority's, so it is there at once.
        let (bobs, cids) = (bob.get(BIDS).await.body, cid.get(BIDS).await.body);
        assert_eq!(standings(&bobs), [(&lamp["id"], "winning")]);
        let line = &bobs["data"][0];
        assert_eq!(
            (&line["amount"], &line["max_amount"], &line["bids"], &line["item"]["bid_count"]),
            (&json!("21.00"), &json!("50.00"), &json!(2), &json!(3))
        );
        assert_eq!(standings(&cids), [(&table["id"], "winning"), (&lamp["id"], "outbid")]);
        assert!(!cids.to_string().contains("50.00"), "{cids}");

        // Somebody else goes further on the table, and buys nothing; then the hammer falls on a lamp.
        assert_eq!(bob.bid(&table, json!(40)).await.status, 201);
        let vase = ann.offer(1.0, json!({})).await;
        assert_eq!(cid.bid(&vase, json!(10)).await.status, 201);
        ann.get_until(&path_of(&vase), |item| item["status"] == "sold").await;
        let of = async |visitor: &Visitor, status: &str| {
            let seen = visitor.get(&format!("{BIDS}?status={status}")).await;
            assert_eq!(seen.status, 200, "{}", seen.body);
            seen.body
        };
        assert_eq!(standings(&of(&cid, "won").await), [(&vase["id"], "won")]);
        let lost = of(&cid, "outbid,lost").await;
        assert_eq!(standings(&lost), [(&table["id"], "outbid"), (&lamp["id"], "outbid")]);
        assert_eq!(lost["page_info"]["total"], 2);
        assert_eq!(standings(&of(&cid, "winning").await), []);

        // Page by page.
        let first = of(&cid, "&limit=2").await;
        let cursor = first["page_info"]["next_cursor"].as_str().unwrap();
        let second = of(&cid, &format!("&cursor={cursor}")).await;
        assert_eq!(first["page_info"]["total"], 3);
        assert_eq!(standings(&first), [(&vase["id"], "won"), (&table["id"], "outbid")]);
        assert_eq!(standings(&second), [(&lamp["id"], "outbid")]);

        let wrong = cid.get(&format!("{BIDS}?status=open")).await;
        assert_eq!((wrong.status, wrong.code()), (400, "INVALID_INPUT"));
        assert!(wrong.body.to_string().contains("outbid"), "{}", wrong.body);
        assert_eq!(Visitor::of(&SHARED).get(BIDS).await.status, 401);
    });
}

#[test]
fn visitors_see_how_many_items_each_choice_has() {
    story(async {
        let ann = Visitor::new(&SHARED, "ann").await;
        let offer = async |category: u32| ann.offer(60.0, json!({ "category_id": category })).await;
        for category in [3, 3, 4] {
            offer(category).await;
        }
        let path = format!("/api/v1/items?seller_id={}", ann.id);
        ann.get_until(&path, |list| list["page_info"]["total"] == 3).await;

        let plain = ann.get(&path).await.body;
        let counted = ann.get(&format!("{path}&category_id=4&facets=true")).await.body;

        assert_eq!(plain.get("facets"), None);
        assert_eq!(counted["page_info"]["total"], 1);
        assert_eq!(
            counted["facets"],
            json!({
                "category": [{ "id": 3, "count": 2 }, { "id": 4, "count": 1 }],
                "status": [{ "status": "open", "count": 1 }],
            })
        );
        let wrong = ann.get(&format!("{path}&facets=maybe")).await;
        assert_eq!((wrong.status, wrong.code()), (400, "INVALID_INPUT"));
    });
}
