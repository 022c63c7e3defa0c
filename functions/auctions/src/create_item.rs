//! `create-item`: offer something for sale.
//!
//! Emits [`ItemCreated`]. Refuses an end that is not after the start and the present, and prices
//! that do not fit the currency or each other.

use contracts::{
    ItemId, Timestamp, UserId,
    auctions::{CreateItem, Item, ItemCreated},
};
use platform::{Cx, Env, Function, Result, config::Mode};
use serde::Deserialize;

use crate::{
    listing::Listing,
    store::{self, Whole},
};

/// Commands of [`CreateItem`].
pub fn function() -> Function {
    Function::command(create_item).needs::<SoftClose>(SoftClose::load).emits::<ItemCreated>()
}

async fn create_item(cx: &mut Cx, new: CreateItem) -> Result<Item> {
    let (seller, now) = (cx.caller()?, cx.now());
    let listing = Listing::of(new, cx.resource::<SoftClose>()?.0, now)?;
    let item = offer(cx, seller.id, &listing, now).await?;
    Ok(item.item(Some(seller), now))
}

/// Writes and tells that something is for sale.
pub(crate) async fn offer(cx: &mut Cx, seller: UserId, listing: &Listing, now: Timestamp) -> Result<Whole> {
    let id = ItemId::new();
    sqlx::query!(
        r#"
        insert into items (id, seller_id, name, description, category_id, image_urls, currency,
            start_price, bid_increment, reserve_price, buy_now_price, extension_window_seconds,
            extension_seconds, starts_at, ends_at, planned_end, created_at, updated_at, increment_policy)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15, $16, $16, $17)
        "#,
        id.0,
        seller.0,
        listing.name,
        listing.description,
        listing.category_id,
        &listing.image_urls,
        listing.currency.code(),
        listing.start.minor,
        listing.increments.flat.minor,
        listing.reserve.map(|price| price.minor),
        listing.buy_now.map(|price| price.minor),
        i32::try_from(listing.window).unwrap_or(i32::MAX),
        i32::try_from(listing.extension).unwrap_or(i32::MAX),
        listing.starts_at,
        listing.ends_at,
        now,
        listing.increments.policy.as_str(),
    )
    .execute(cx.tx().await?)
    .await?;
    let item = store::load_one(cx.tx().await?, id).await?;
    cx.emit(&ItemCreated(item.state(now)))?;
    Ok(item)
}

/// How close to the end a bid moves the end of items whose sellers do not say, in seconds; 0 for never.
struct SoftClose(u32);

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    outcry_env: Mode,
    extension_window_secs: Option<u32>,
}

impl SoftClose {
    /// Reads EXTENSION_WINDOW_SECS. In development nobody wants to wait; in production two minutes, which is what
    /// houses do.
    fn load(env: &Env) -> anyhow::Result<Self> {
        let settings: Settings = env.read()?;
        let seconds = settings.extension_window_secs.unwrap_or(match settings.outcry_env {
            Mode::Production => 120,
            Mode::Development => 0,
        });
        anyhow::ensure!(
            seconds <= 3600,
            "EXTENSION_WINDOW_SECS: expected 0 to 3600 seconds, for example 120"
        );
        Ok(Self(seconds))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::auctions::{IncrementPolicy, ItemStatus};
    use serde_json::{Value, json};
    use testing::Harness;
    use uuid::Uuid;

    use super::*;

    const ANN: UserId = UserId(Uuid::from_u128(1));

    fn lamp(changes: Value) -> CreateItem {
        let ends_at = Timestamp::now() + Duration::from_secs(60);
        let mut body = json!({ "name": "Lamp", "start_price": "10.00", "ends_at": ends_at });
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value(body).unwrap()
    }

    #[tokio::test]
    async fn a_new_item_is_open_and_announced() {
        let app = Harness::start(crate::database()).await.as_user(ANN);

        let item = app.call(&function(), &lamp(json!({ "reserve_price": 20 }))).await.unwrap();

        assert_eq!((item.seller_id, item.status, item.version), (ANN, ItemStatus::Open, 1));
        assert_eq!(item.min_next_bid.to_string(), "10.00");
        assert_eq!(item.bid_increment.to_string(), "0.01");
        assert_eq!(item.reserve_price.unwrap().to_string(), "20.00");
        let announced = app.emitted::<ItemCreated>().await;
        assert_eq!(announced.len(), 1);
        assert_eq!(announced[0].0.item_id, item.id);
    }

    #[tokio::test]
    async fn an_item_of_nobody_is_refused() {
        let app = Harness::start(crate::database()).await;

        assert_eq!(app.answer(&function(), &lamp(json!({}))).await.status, 401);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_leaves_nothing() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let past = Timestamp::now() - Duration::from_secs(1);
        let late = Timestamp::now() + Duration::from_secs(120);
        for (changes, member) in [
            (json!({ "ends_at": past }), "ends_at: must be in the future"),
            (json!({ "starts_at": late }), "ends_at: must be after starts_at"),
            (json!({ "start_price": "1.005" }), "start_price: the amount has more decimals than USD"),
            (json!({ "currency": "JPY", "start_price": "1.5" }), "start_price: "),
            (json!({ "reserve_price": 9 }), "reserve_price: must not be below start_price"),
            (
                json!({ "reserve_price": 30, "buy_now_price": 29 }),
                "buy_now_price: must not be below reserve_price",
            ),
            (json!({ "bid_increment": 1, "increment_policy": "ebay" }), "bid_increment: must be left to "),
            (json!({ "extension_window_seconds": 3601 }), "extension_window_seconds: "),
            (json!({ "name": "" }), "name: "),
        ] {
            let refused = app.answer(&function(), &lamp(changes)).await;
            let body = String::from_utf8_lossy(&refused.body).into_owned();
            assert_eq!(refused.status, 400, "{body}");
            assert!(body.contains(member), "{body}");
        }

        let items: i64 =
            sqlx::query_scalar("select count(*) from items").fetch_one(app.pool()).await.unwrap();
        assert_eq!(items, 0);
        assert!(app.emitted::<ItemCreated>().await.is_empty());
    }

    #[tokio::test]
    async fn the_step_comes_from_the_policy_that_the_seller_chose() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        for (changes, policy, step, price) in [
            (json!({}), IncrementPolicy::Flat, "0.01", "10.00"),
            (json!({ "bid_increment": 3 }), IncrementPolicy::Flat, "3.00", "10.00"),
            (json!({ "increment_policy": "trademe" }), IncrementPolicy::TradeMe, "0.50", "10.00"),
            (
                json!({ "incrementPolicy": "ebay", "start_price": 100 }),
                IncrementPolicy::Ebay,
                "2.50",
                "100.00",
            ),
        ] {
            let item = app.call(&function(), &lamp(changes)).await.unwrap();
            assert_eq!((item.increment_policy, item.bid_increment.to_string()), (policy, step.into()));
            assert_eq!(item.min_next_bid.to_string(), price, "the first bid may be the start price");
        }
        let told: Vec<_> =
            app.emitted::<ItemCreated>().await.iter().map(|told| told.0.increment_policy).collect();
        assert_eq!(told[2..], [IncrementPolicy::TradeMe, IncrementPolicy::Ebay]);
    }

    #[tokio::test]
    async fn late_bids_move_the_end_unless_told_otherwise_in_production_alone() {
        let production = ("OUTCRY_ENV", "production");
        let windows = async |app: Harness| {
            let mut windows = Vec::new();
            for changes in
                [json!({}), json!({ "extension_window_seconds": 0 }), json!({ "extension_seconds": 7 })]
            {
                let item = app.as_user(ANN).call(&function(), &lamp(changes)).await.unwrap();
                windows.push((item.extension_window_seconds, item.extension_seconds));
            }
            windows
        };
        let app = || Harness::start(crate::database());

        assert_eq!(windows(app().await).await, [(0, 0), (0, 0), (0, 7)]);
        assert_eq!(windows(app().await.with_env([production])).await, [(120, 120), (0, 0), (120, 7)]);
        let set = [production, ("EXTENSION_WINDOW_SECS", "30")];
        assert_eq!(windows(app().await.with_env(set)).await, [(30, 30), (0, 0), (30, 7)]);
        let too_long = SoftClose::load(&Env::of([("EXTENSION_WINDOW_SECS", "3601")]));
        assert!(too_long.is_err());
    }

    #[tokio::test]
    async fn the_same_key_makes_one_item_and_another_body_is_a_mismatch() {
        let app = Harness::start(crate::database()).await.as_user(ANN).with_key("k1");
        let new = lamp(json!({}));

        let first = app.answer(&function(), &new).await;
        let again = app.answer(&function(), &new).await;
        let other = app.answer(&function(), &lamp(json!({ "name": "Other" }))).await;

        assert_eq!(first.status, 200);
        assert_eq!((again.body, again.replayed), (first.body, true));
        assert_eq!(other.status, 422);
        assert_eq!(app.emitted::<ItemCreated>().await.len(), 1);
    }

    #[tokio::test]
    async fn a_refusal_is_replayed_too() {
        let app = Harness::start(crate::database()).await.as_user(ANN).with_key("k1");
        let new = lamp(json!({ "start_price": "1.005" }));

        let first = app.answer(&function(), &new).await;
        let again = app.answer(&function(), &new).await;

        assert_eq!((first.status, first.replayed), (400, false));
        assert_eq!((again.body, again.replayed), (first.body, true));
    }
}
