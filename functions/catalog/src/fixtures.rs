//! What the tests of several functions start from.

use std::time::Duration;

use contracts::{
    Amount, BidId, Currency, ItemId, Timestamp, UserId,
    auctions::{BidPlaced, IncrementPolicy, Item, ItemCreated, ItemState, ItemStatus},
    catalog::{Category, CreateCategory, CreateProduct, ListItems, Product},
};
use platform::{Delivery, Event, Verdict};
use serde_json::{Value, json};
use testing::Harness;
use uuid::Uuid;

pub(crate) const SELLER: UserId = UserId(Uuid::from_u128(1));
pub(crate) const ANN: UserId = UserId(Uuid::from_u128(2));

pub(crate) fn amount(text: &str) -> Amount {
    text.parse().unwrap()
}

/// When everything in these tests happens, give or take.
pub(crate) fn noon() -> Timestamp {
    Timestamp::parse("2026-12-01T12:00:00Z").unwrap()
}

pub(crate) fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// A lamp, from 10.00, offered at noon for an hour.
pub(crate) fn lamp(id: u128) -> ItemState {
    ItemState {
        item_id: ItemId(Uuid::from_u128(id)),
        item_version: 1,
        version: 1,
        seller_id: SELLER,
        name: "Lamp".into(),
        description: String::new(),
        category_id: None,
        image_urls: Vec::new(),
        currency: Currency::USD,
        start_price: amount("10.00"),
        bid_increment: amount("0.01"),
        increment_policy: IncrementPolicy::Flat,
        buy_now_price: None,
        status: ItemStatus::Open,
        starts_at: noon(),
        ends_at: noon() + minutes(60),
        extension_window_seconds: 0,
        extension_seconds: 0,
        winner_id: None,
        final_price: None,
        closed_at: None,
        ended_by: None,
        end_reason: None,
        created_at: noon(),
    }
}

/// The `seq`-th bid on an item, by Ann.
pub(crate) fn bid(item: &ItemState, seq: i64, price: &str) -> BidPlaced {
    BidPlaced {
        bid_id: BidId::new(),
        item_id: item.item_id,
        seller_id: item.seller_id,
        bidder_id: ANN,
        outbid_id: None,
        automatic: false,
        amount: amount(price),
        currency: item.currency,
        seq,
        version: item.item_version + seq,
        ends_at: Some(item.ends_at),
        placed_at: noon() + minutes(1) + Duration::from_secs(seq.unsigned_abs()),
        current_price: amount(price),
        min_next_bid: amount(&format!("{price}1")),
        reserve_met: seq > 2,
    }
}

/// An event as the stream would deliver it, with an id of its own: as if it had been emitted twice.
pub(crate) fn told<E: Event>(app: &Harness, event: &E) -> Delivery {
    let body = serde_json::json!({ "payload": event });
    app.delivery(&format!("events.{}.{}", E::NAME, event.key()), &body)
}

/// Lets the listing hear events as one batch.
pub(crate) async fn hear(app: &Harness, events: &[Delivery]) {
    let verdicts = app.host(&crate::update_catalog::function()).execute(events).await;
    assert_eq!(verdicts, vec![Verdict::Done; events.len()]);
}

/// Lets the listing hear of new items.
pub(crate) async fn offer(app: &Harness, items: &[ItemState]) {
    let events: Vec<Delivery> = items.iter().map(|item| told(app, &ItemCreated(item.clone()))).collect();
    hear(app, &events).await;
}

/// What a visitor finds at noon.
pub(crate) async fn find(app: &Harness, query: &ListItems) -> Vec<Item> {
    app.at(noon()).ask(&crate::list_items::function(), query).await.unwrap().data
}

pub(crate) const BOB: UserId = UserId(Uuid::from_u128(3));

/// A category of this name.
pub(crate) fn named(name: &str) -> CreateCategory {
    CreateCategory { name: name.into(), description: String::new(), parent_id: None }
}

/// Makes a category.
pub(crate) async fn category(app: &Harness, name: &str) -> Category {
    app.call(&crate::create_category::function(), &named(name)).await.unwrap()
}

/// A product that differs so from the one that the tests know.
pub(crate) fn fryer(changes: Value) -> CreateProduct {
    let mut body = json!({ "name": "AirFryer", "price": 1000, "discount": 10, "store": "ABC TECH" });
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(body).unwrap()
}

/// Makes a product.
pub(crate) async fn product(app: &Harness, changes: Value) -> Product {
    app.call(&crate::create_product::function(), &fryer(changes)).await.unwrap()
}
