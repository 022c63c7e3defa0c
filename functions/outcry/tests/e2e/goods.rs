//! Categories and products, as shops and their visitors have them.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{Alone, SHARED, Seen, Visitor, outcry, see, start, story};

const CATEGORIES: &str = "/api/v1/categories";
const PRODUCTS: &str = "/api/v1/products";

/// A name that nobody else uses.
fn word(name: &str) -> String {
    format!("{name} {}", Uuid::new_v4().simple())
}

fn at(list: &str, thing: &Value) -> String {
    format!("{list}/{}", thing["id"].to_string().trim_matches('"'))
}

async fn category(owner: &Visitor, parent: Option<&Value>) -> Value {
    let body = json!({ "name": word("Category"), "parent_id": parent.map(|parent| &parent["id"]) });
    let made = owner.post(CATEGORIES, body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.body
}

async fn product(owner: &Visitor, more: Value) -> Value {
    let mut body = json!({ "name": "AirFryer", "price": "100.00", "store": "ABC TECH" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = owner.post(PRODUCTS, body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.body
}

/// With this header.
async fn with(who: &Visitor, method: Method, path: &str, header: (&str, &str), body: Option<Value>) -> Seen {
    let request = who.request(method, path).header(header.0, header.1);
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    see(request.send().await.unwrap()).await
}

fn tag(seen: &Seen) -> &str {
    seen.headers["etag"].to_str().unwrap()
}

/// On empty data, where the first category is 1; then the count is spoilt, and made anew from the products.
#[test]
fn the_second_seeds_category_and_product_work_as_printed_and_are_counted() {
    story(async {
        let (platform, data) = start(Vec::new()).await;
        let mut john = Visitor::new(&platform.url, "john").await;
        let devices = john.post_text(CATEGORIES, r#"{"name":"Electronics","description":"Devices"}"#).await;
        let fryer = john
            .post_text(
                PRODUCTS,
                r#"{"name":"AirFryer","price":1000,"description":"Digital air fryer","discount":10,"store":"ABC TECH","category_id":1}"#,
            )
            .await;

        assert_eq!(
            (devices.status, &devices.body["id"], &devices.body["parent_id"]),
            (201, &json!(1), &json!(null))
        );
        assert_eq!((fryer.status, &fryer.body["category_id"]), (201, &json!(1)));
        assert_eq!((&fryer.body["price"], &fryer.body["final_price"]), (&json!("1000.00"), &json!("900.00")));
        assert_eq!((&fryer.body["owner_id"], &fryer.body["currency"]), (&json!(john.id), &json!("USD")));
        let counted = format!("{CATEGORIES}/1");
        john.get_until(&counted, |category| category["product_count"] == 1).await;

        let more = product(&john, json!({ "category_id": 1, "sku": "prod-1" })).await;
        product(&john, json!({})).await;
        assert_eq!(john.put(&at(PRODUCTS, &fryer.body), json!({ "stock": 3 })).await.status, 200);
        john.get_until(&counted, |category| category["product_count"] == 2).await;
        let options = platform::database::options(&platform.env, "catalog").unwrap();
        let mut database = PgConnection::connect_with(&options).await.unwrap();
        for sql in ["update product_counts set products = 17", "delete from counted_products"] {
            sqlx::query(sql).execute(&mut database).await.unwrap();
        }
        let (good, said) = outcry(data.path(), &["replay", "count-products"]).await;
        assert!(good, "{said}");
        john.get_until(&counted, |category| category["product_count"] == 2).await;

        // What is counted goes on.
        assert_eq!(john.delete(&at(PRODUCTS, &more)).await.status, 204);
        john.get_until(&counted, |category| category["product_count"] == 1).await;
        // Whoever is nobody makes nothing.
        john.token = None;
        assert_eq!(john.post(CATEGORIES, json!({ "name": "A" })).await.status, 401);
        platform.stop().await;
    });
}

#[test]
fn a_category_is_changed_by_whoever_has_seen_it_as_it_is() {
    story(async {
        let (ann, bob) = (Visitor::new(&SHARED, "ann").await, Visitor::new(&SHARED, "bob").await);
        let (whole, part) = (category(&ann, None).await, category(&ann, None).await);
        let path = at(CATEGORIES, &part);

        let seen = bob.get(&path).await;
        assert_eq!((seen.status, tag(&seen), &seen.body), (200, "\"1-0\"", &part));
        let known = with(&bob, Method::GET, &path, ("If-None-Match", "\"1-0\""), None).await;
        assert_eq!(known.status, 304);
        product(&bob, json!({ "category_id": part["id"] })).await;
        bob.get_until(&path, |category| category["product_count"] == 1).await;
        let counted = with(&bob, Method::GET, &path, ("If-None-Match", "\"1-0\""), None).await;
        assert_eq!((counted.status, tag(&counted)), (200, "\"1-1\""));

        let moved = json!({ "parentId": whole["id"] });
        let change = async |who: &Visitor, tag: &str| {
            with(who, Method::PUT, &path, ("If-Match", tag), Some(moved.clone())).await
        };
        assert_eq!(change(&bob, "\"1-1\"").await.code(), "FORBIDDEN");
        for stale in ["\"2\"", "W/\"1\"", "\"x\""] {
            let refused = change(&ann, stale).await;
            assert_eq!((refused.status, refused.code()), (412, "PRECONDITION_FAILED"), "{stale}");
        }
        assert_eq!(change(&ann, "\"1\", \"2\"").await.status, 400);
        let done = change(&ann, "\"1-1\"").await;
        assert_eq!(
            (done.status, &done.body["parent_id"], &done.body["version"]),
            (200, &whole["id"], &json!(2))
        );
        assert_eq!(tag(&done), "\"2-1\"");
        // Nobody says in a body what a header says.
        let told = ann.put(&path, json!({ "if_match": 77, "ifMatch": "x", "description": "Parts" })).await;
        assert_eq!((told.status, &told.body["version"]), (200, &json!(3)));

        let circle = ann.put(&at(CATEGORIES, &whole), json!({ "parent_id": part["id"] })).await;
        assert_eq!((circle.status, circle.code()), (409, "CONFLICT"));
        let taken =
            ann.post(CATEGORIES, json!({ "name": whole["name"].as_str().unwrap().to_uppercase() })).await;
        assert_eq!((taken.status, taken.code()), (409, "ALREADY_EXISTS"));
        for (category, why) in [(&whole, "has parts"), (&part, "has products")] {
            let kept = ann.delete(&at(CATEGORIES, category)).await;
            assert_eq!((kept.status, kept.code()), (409, "CONFLICT"));
            assert!(kept.body["error"]["message"].as_str().unwrap().contains(why), "{}", kept.body);
        }
        let used = category(&ann, None).await;
        ann.offer(60.0, json!({ "category_id": used["id"] })).await;
        let listed = format!("/api/v1/items?category_id={}", used["id"]);
        ann.get_until(&listed, |items| items["page_info"]["total"] == 1).await;
        assert_eq!(ann.delete(&at(CATEGORIES, &used)).await.status, 409);
        let empty = category(&ann, None).await;
        assert_eq!(ann.delete(&at(CATEGORIES, &empty)).await.status, 204);
        assert_eq!(ann.get(&at(CATEGORIES, &empty)).await.status, 404);
        assert_eq!(ann.get(&format!("{CATEGORIES}/x")).await.status, 404);
        let listed = ann.get(&format!("{CATEGORIES}?limit=1&offset=1")).await;
        assert_eq!((listed.status, listed.body["data"].as_array().unwrap().len()), (200, 1));
    });
}

#[test]
fn a_product_is_sold_changed_and_found_and_bad_input_is_named() {
    story(async {
        let (ann, bob) = (Visitor::new(&SHARED, "ann").await, Visitor::new(&SHARED, "bob").await);
        let (kitchen, shop) = (category(&ann, None).await, word("Shop"));
        let sku = Uuid::new_v4().simple().to_string()[..12].to_owned();
        let more = json!({ "store": shop, "sku": sku, "categoryId": kitchen["id"], "stock": 5,
            "imageUrls": ["https://images.example.com/1.jpg"] });
        let (pan, pot) =
            (product(&ann, more).await, product(&ann, json!({ "store": shop, "name": "Pot" })).await);
        let path = at(PRODUCTS, &pan);

        let seen = bob.get(&path).await;
        assert_eq!((seen.status, tag(&seen), &seen.body), (200, "\"1\"", &pan));
        assert_eq!(bob.get(&format!("{PRODUCTS}/{sku}")).await.body, pan);
        let known = with(&bob, Method::GET, &path, ("If-None-Match", "\"1\""), None).await;
        assert_eq!(known.status, 304);
        let found = async |query: &str| {
            let page = bob.get(&format!("{PRODUCTS}?{query}")).await;
            assert_eq!(page.status, 200, "{}", page.body);
            page.body["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|product| product["id"].clone())
                .collect::<Vec<_>>()
        };
        let of_shop = format!("store={}", shop.replace(' ', "+").to_uppercase());
        assert_eq!(found(&of_shop).await, [pot["id"].clone(), pan["id"].clone()]);
        assert_eq!(found(&format!("{of_shop}&limit=1&offset=1")).await, [pan["id"].clone()]);
        assert_eq!(found(&format!("{of_shop}&q=pot")).await, [pot["id"].clone()]);
        assert_eq!(found(&format!("categoryId={}", kitchen["id"])).await, [pan["id"].clone()]);
        let page = bob.get(&format!("{PRODUCTS}?{of_shop}&limit=1")).await.body["page_info"].clone();
        let next = format!("{of_shop}&limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
        assert_eq!((&page["total"], found(&next).await), (&json!(2), vec![pan["id"].clone()]));

        let stale = with(&ann, Method::PUT, &path, ("If-Match", "\"2\""), Some(json!({ "stock": 4 }))).await;
        assert_eq!((stale.status, &stale.body["error"]["version"]), (412, &json!(1)));
        let fresh =
            with(&ann, Method::PUT, &path, ("If-Match", "\"1\""), Some(json!({ "discount": 15 }))).await;
        assert_eq!((fresh.status, &fresh.body["final_price"]), (200, &json!("85.00")));
        assert_eq!(tag(&fresh), "\"2\"", "what was changed can be changed again with what was answered");
        assert_eq!(bob.put(&path, json!({ "stock": 0 })).await.code(), "FORBIDDEN");

        for (body, member) in [
            (json!({ "price": 0 }), "price"),
            (json!({ "price": "-5" }), "price"),
            (json!({ "price": "1.001" }), "price"),
            (json!({ "price": "cheap" }), "price"),
            (json!({ "discount": 71 }), "discount"),
            (json!({ "discount": -1 }), "discount"),
            (json!({ "discount": 12.5 }), "discount"),
            (json!({ "stock": -1 }), "stock"),
            (json!({ "category_id": 999_999_999 }), "category_id"),
            (json!({ "image_urls": ["file:///etc/passwd"] }), "image_urls[0]"),
            (json!({ "sku": "a b" }), "sku"),
            (json!({ "currency": "DOLLARS" }), "currency"),
        ] {
            let mut new = json!({ "name": "AirFryer", "price": 1, "store": "ABC" });
            new.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            for seen in [ann.post(PRODUCTS, new).await, ann.put(&path, body.clone()).await] {
                assert_eq!((seen.status, seen.code()), (400, "INVALID_INPUT"), "{body}: {}", seen.body);
                let details = seen.body["error"]["details"].as_str().unwrap();
                assert!(details.starts_with(&format!("{member}: ")), "{body}: {details}");
            }
        }
        for query in ["limit=0", "limit=101", "cursor=x", "category_id=x"] {
            assert_eq!(bob.get(&format!("{PRODUCTS}?{query}")).await.code(), "INVALID_INPUT", "{query}");
        }
        assert_eq!(bob.delete(&path).await.status, 403);
        assert_eq!(with(&ann, Method::DELETE, &path, ("If-Match", "\"1\""), None).await.status, 412);
        assert_eq!(with(&ann, Method::DELETE, &path, ("If-Match", "\"2\""), None).await.status, 204);
        for gone in [&path, &format!("{PRODUCTS}/{sku}"), &format!("{PRODUCTS}/%00")] {
            assert_eq!((bob.get(gone).await.status, ann.delete(&path).await.status), (404, 404), "{gone}");
        }
    });
}

/// Whoever makes, tells and counts products is killed in turn; every product is there once and counted once.
#[test]
fn killing_whoever_makes_tells_and_counts_products_loses_and_doubles_none() {
    story(async {
        const PARTS: [&str; 3] = ["create-product", "catalog-relay", "count-products"];
        let (platform, _data) = start(PARTS.map(str::to_owned).to_vec()).await;
        let mut parts = PARTS.map(|part| Alone::run(part, &platform.env));
        let ann = Visitor::new(&platform.url, "ann").await;
        let (one, other) = (category(&ann, None).await, category(&ann, None).await);
        product(&ann, json!({ "category_id": one["id"] })).await;

        let make = |number: usize| {
            let (ann, into) = (ann.clone(), [&one["id"], &other["id"]][number % 2].clone());
            async move {
                let body = json!({ "name": "Pan", "price": 1, "store": "ABC", "category_id": into });
                // Who was told 202 asks again with the same key.
                for _ in 0..20 {
                    let key = format!("pan-{number}");
                    let seen = ann.post_with_key(PRODUCTS, &key, body.clone()).await;
                    if seen.status != 202 {
                        return seen.status;
                    }
                }
                202
            }
        };
        let making = futures_util::stream::iter((0..200).map(make)).buffer_unordered(8).collect::<Vec<_>>();
        let killing = async {
            for number in 0..6 {
                tokio::time::sleep(Duration::from_millis(150)).await;
                parts[number % 3].kill_9();
                parts[number % 3] = Alone::run(PARTS[number % 3], &platform.env);
            }
        };
        let (made, ()) = tokio::join!(making, killing);

        assert!(made.iter().all(|status| *status == 201), "{made:?}");
        for (category, count) in [(&one, 101), (&other, 100)] {
            let listed = ann.get(&format!("{PRODUCTS}?category_id={}", category["id"])).await;
            assert_eq!(listed.body["page_info"]["total"], count);
            ann.get_until(&at(CATEGORIES, category), |category| category["product_count"] == count).await;
        }
        // And it stays so.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(ann.get(&at(CATEGORIES, &one)).await.body["product_count"], 101);
        platform.stop().await;
    });
}
