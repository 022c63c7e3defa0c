//! `get-item`: show an item as it is now.

use std::sync::Arc;

use contracts::{
    ItemId,
    auctions::{GetItem, Item},
};
use platform::{Cx, Function, Result};

use crate::store::{self, Whole};

/// Queries of [`GetItem`].
pub fn function() -> Function {
    Function::query(get_item).caches()
}

async fn get_item(cx: &mut Cx, query: GetItem) -> Result<Item> {
    // Everybody may look; the seller also sees the reserve.
    let viewer = cx.caller().ok();
    let item = cx.cached(query.item_id.0)?.or_load(load(cx, query.item_id)).await?;
    Ok(Arc::unwrap_or_clone(item).item(viewer, cx.now()))
}

async fn load(cx: &mut Cx, item: ItemId) -> Result<Whole> {
    store::load_one(cx.tx().await?, item).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::{
        Timestamp, UserId,
        auctions::{CancelItem, ItemStatus, PlaceBid},
    };
    use serde_json::json;
    use testing::Harness;
    use uuid::Uuid;

    use super::*;
    use crate::{cancel_item, place_bid, store::testing::lamp};

    #[tokio::test]
    async fn only_the_seller_sees_the_reserve() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).reserve("50").offer().await;
        let query = GetItem { item_id: item.id };

        let shown = app.ask(&function(), &query).await.unwrap();
        let to_seller = app.as_user(item.seller_id).ask(&function(), &query).await.unwrap();
        let to_other = app.as_user(UserId(Uuid::from_u128(99))).ask(&function(), &query).await.unwrap();

        assert_eq!((shown.reserve_price, to_other.reserve_price), (None, None));
        assert_eq!(to_seller.reserve_price.unwrap().to_string(), "50.00");
        assert!(!shown.reserve_met);
    }

    #[tokio::test]
    async fn an_unknown_item_is_not_found() {
        let app = Harness::start(crate::database()).await;

        let refused = app.ask(&function(), &GetItem { item_id: ItemId::new() }).await.unwrap_err();

        assert!(matches!(refused, platform::Error::Refused(refused) if refused.code == "NOT_FOUND"));
    }

    /// The database is gone, so all of it is made of what is kept.
    #[tokio::test]
    async fn what_is_kept_is_shown_to_each_as_they_may_see_it_and_as_it_is_now() {
        let (_nats, bus) = ::testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        let start = Timestamp::now() + Duration::from_secs(2);
        let item = lamp(&app).reserve("50").starts_at(start).offer().await;
        app.serve(&function()).await;
        let query = GetItem { item_id: item.id };
        assert_eq!(app.kept(&query).await.status, ItemStatus::Scheduled);

        app.pool().close().await;

        assert_eq!(app.served(&query).await.reserve_price, None);
        let to_seller = app.as_user(item.seller_id).served(&query).await;
        assert_eq!(to_seller.reserve_price.unwrap().to_string(), "50.00");
        tokio::time::sleep(start.since(Timestamp::now()) + Duration::from_millis(10)).await;
        assert_eq!(app.served(&query).await.status, ItemStatus::Open);
    }

    #[tokio::test]
    async fn who_was_answered_sees_what_they_did() {
        let (_nats, bus) = ::testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        let item = lamp(&app).offer().await;
        app.serve(&function()).await;
        let (query, seller) = (GetItem { item_id: item.id }, app.as_user(item.seller_id));
        assert_eq!(app.kept(&query).await.bid_count, 0);

        for (bids, amount) in (1..=50).zip(11_u128..) {
            let bid = PlaceBid::open(item.id, amount.to_string().parse().unwrap());
            let bidder = app.as_user(UserId(Uuid::from_u128(2 + amount)));
            bidder.call(&place_bid::function(), &bid).await.unwrap();
            let shown = app.served(&query).await;
            assert_eq!((shown.bid_count, shown.version), (bids, item.version + bids));
        }
        let cancel: CancelItem = serde_json::from_value(json!({ "item_id": item.id })).unwrap();
        let refused = seller.call(&cancel_item::function(), &cancel).await.unwrap_err();
        assert!(matches!(refused, platform::Error::Refused(_)), "it has bids");

        let other = lamp(&app).offer().await;
        let query = GetItem { item_id: other.id };
        app.kept(&query).await;
        let cancel: CancelItem = serde_json::from_value(json!({ "item_id": other.id })).unwrap();
        seller.call(&cancel_item::function(), &cancel).await.unwrap();
        assert_eq!(app.served(&query).await.status, ItemStatus::Cancelled);
    }
}
