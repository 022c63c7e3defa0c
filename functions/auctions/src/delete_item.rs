//! `delete-item`: remove an item on which nobody has bid, from watchlists too.
//!
//! Emits [`ItemDeleted`]. Refuses as in [`LifeRefused`].

use contracts::{
    auctions::{DeleteItem, ItemDeleted},
    if_match,
};
use platform::{Cx, Function, Result};

use crate::life::{self, LifeRefused};

/// Commands of [`DeleteItem`].
pub fn function() -> Function {
    Function::command(delete_item).emits::<ItemDeleted>()
}

async fn delete_item(cx: &mut Cx, DeleteItem { item_id, if_match }: DeleteItem) -> Result<()> {
    let (caller, now) = (cx.caller()?, cx.now());
    let mut item = life::lock(cx, item_id).await?;
    life::may_change(caller, &item)?;
    if_match::check(if_match, item.auction.version())?;
    if item.auction.bid_count > 0 {
        return Err(LifeRefused::HasBids.into());
    }
    sqlx::query!("delete from item_changes where item_id = $1", item_id.0).execute(cx.tx().await?).await?;
    sqlx::query!("delete from items where id = $1", item_id.0).execute(cx.tx().await?).await?;
    item.auction.revision += 1;
    item.description.ended_by = Some(caller.id);
    cx.emit(&ItemDeleted(item.state(now)))
}

#[cfg(test)]
mod tests {
    use contracts::{
        ItemId, UserId,
        auctions::{GetItem, ItemUpdated, ListChanges, ListWatchlist, PlaceBid, UpdateItem, WatchItem},
    };
    use platform::Answer;
    use serde_json::json;
    use testing::{Harness, code};
    use uuid::Uuid;

    use super::*;
    use crate::{
        get_item, list_changes, list_watchlist, place_bid,
        store::testing::{SELLER, lamp},
        update_item, watch_item,
    };

    const ANN: UserId = UserId(Uuid::from_u128(2));
    const ADMIN: UserId = UserId(Uuid::from_u128(3));

    fn delete(item_id: ItemId) -> DeleteItem {
        DeleteItem { item_id, if_match: None }
    }

    async fn bid(app: &Harness, item: ItemId) -> Answer {
        let offer = PlaceBid::open(item, "12".parse().unwrap());
        app.as_user(ANN).answer(&place_bid::function(), &offer).await
    }

    async fn is_there(app: &Harness, item_id: ItemId) -> bool {
        let shown = app.ask(&get_item::function(), &GetItem { item_id }).await.is_ok();
        let log = app.ask(&list_changes::function(), &ListChanges { item_id, after: 1 }).await.is_ok();
        assert_eq!(shown, log);
        shown
    }

    #[tokio::test]
    async fn what_is_deleted_is_not_there_any_more_for_anybody() {
        let app = Harness::start(crate::database()).await;
        let (item, other) = (lamp(&app).offer().await, lamp(&app).offer().await);
        let edit: UpdateItem =
            serde_json::from_value(json!({ "item_id": item.id, "name": "Table" })).unwrap();
        app.as_user(SELLER).call(&update_item::function(), &edit).await.unwrap();
        for item_id in [item.id, other.id] {
            app.as_user(ANN).call(&watch_item::function(), &WatchItem { item_id }).await.unwrap();
        }

        app.as_user(SELLER).call(&function(), &delete(item.id)).await.unwrap();

        assert!(!is_there(&app, item.id).await);
        assert!(is_there(&app, other.id).await);
        let again = app.as_user(SELLER).answer(&function(), &delete(item.id)).await;
        assert_eq!(
            (again.status, code(&again), code(&bid(&app, item.id).await)),
            (404, "NOT_FOUND".into(), "NOT_FOUND".into())
        );
        let watch = app.as_user(ANN).answer(&watch_item::function(), &WatchItem { item_id: item.id }).await;
        assert_eq!(code(&watch), "NOT_FOUND");
        let watched =
            app.as_user(ANN).ask(&list_watchlist::function(), &ListWatchlist::default()).await.unwrap();
        assert_eq!((watched.data.len(), watched.page_info.total), (1, 1));
        let (updated, told) = (app.emitted::<ItemUpdated>().await, app.emitted::<ItemDeleted>().await);
        assert_eq!((updated[0].0.version, told.len()), (2, 1));
        assert_eq!((told[0].0.version, told[0].0.item_version, told[0].0.ended_by), (3, 3, Some(SELLER)));
        let left: i64 = sqlx::query_scalar("select count(*) from item_changes where item_id = $1")
            .bind(item.id.0)
            .fetch_one(app.pool())
            .await
            .unwrap();
        assert_eq!(left, 0);
    }

    #[tokio::test]
    async fn what_has_bids_or_is_somebody_elses_or_has_changed_stays() {
        let app = Harness::start(crate::database()).await;
        let (item, with_bid) = (lamp(&app).offer().await, lamp(&app).offer().await);
        bid(&app, with_bid.id).await;
        let outdated: DeleteItem =
            serde_json::from_value(json!({ "item_id": item.id, "if_match": 2 })).unwrap();

        assert_eq!(app.answer(&function(), &delete(item.id)).await.status, 401);
        assert_eq!(code(&app.as_user(ANN).answer(&function(), &delete(item.id)).await), "FORBIDDEN");
        assert_eq!(code(&app.as_user(SELLER).answer(&function(), &outdated).await), "PRECONDITION_FAILED");
        for who in [app.as_user(SELLER), app.as_admin(ADMIN)] {
            assert_eq!(code(&who.answer(&function(), &delete(with_bid.id)).await), "ITEM_HAS_BIDS");
        }
        assert!(is_there(&app, item.id).await && is_there(&app, with_bid.id).await);
        assert!(app.emitted::<ItemDeleted>().await.is_empty());
        assert_eq!(code(&app.as_admin(ADMIN).answer(&function(), &delete(item.id)).await), "done");
    }

    #[tokio::test]
    async fn of_a_removal_and_the_first_bid_at_once_one_is_first() {
        let app = Harness::start(crate::database()).await;
        for _ in 0..20 {
            let item = lamp(&app).offer().await;
            let (seller, function, command) = (app.as_user(SELLER), function(), delete(item.id));

            let (deleted, offered) = tokio::join!(seller.answer(&function, &command), bid(&app, item.id));

            let is_there = is_there(&app, item.id).await;
            match (code(&deleted).as_str(), code(&offered).as_str()) {
                ("done", "NOT_FOUND") => assert!(!is_there),
                ("ITEM_HAS_BIDS", "done") => assert!(is_there),
                other => panic!("{other:?}"),
            }
        }
    }
}
