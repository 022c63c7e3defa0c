//! `cancel-item`: take an item back before its end.
//!
//! Its seller may while nobody has bid, an administrator until the end, who has to say why: the bids are void. Who did it
//! and why is kept with the item. Emits [`ItemClosed`], as every end does, with the status `cancelled`. Refuses as in
//! [`LifeRefused`].

use contracts::auctions::{CancelItem, Item, ItemClosed};
use platform::{Cx, Function, Refused, Result, Role};

use crate::{
    hammer,
    life::{self, LifeRefused},
};

/// Commands of [`CancelItem`].
pub fn function() -> Function {
    Function::command(cancel_item).emits::<ItemClosed>()
}

async fn cancel_item(cx: &mut Cx, CancelItem { item_id, reason }: CancelItem) -> Result<Item> {
    let (caller, now) = (cx.caller()?, cx.now());
    let mut item = life::lock(cx, item_id).await?;
    life::may_change(caller, &item)?;
    life::still_runs(&item, now)?;
    if caller.role == Role::Admin {
        if reason.is_none() {
            return Err(Refused::invalid_member("reason", "is missing").into());
        }
    } else if item.auction.bid_count > 0 {
        return Err(LifeRefused::HasBids.into());
    }
    sqlx::query!(
        "update items set ended_by = $2, end_reason = $3 where id = $1",
        item_id.0,
        caller.id.0,
        reason
    )
    .execute(cx.tx().await?)
    .await?;
    item.auction.cancel();
    item.description.ended_by = Some(caller.id);
    item.description.end_reason = reason;
    hammer::fall(cx, std::slice::from_mut(&mut item), now).await?;
    Ok(item.item(Some(caller), now))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::{
        ItemId, Timestamp, UserId,
        auctions::{BidWon, BuyNow, GetItem, ItemChange, ItemStatus, ListChanges, PlaceBid},
    };
    use platform::Answer;
    use testing::{Harness, code};
    use uuid::Uuid;

    use super::*;
    use crate::{
        buy_now, close_auction, get_item, list_changes, place_bid,
        store::testing::{SELLER, end_at, lamp},
    };

    const ANN: UserId = UserId(Uuid::from_u128(2));
    const ADMIN: UserId = UserId(Uuid::from_u128(3));

    async fn cancel(app: &Harness, item_id: ItemId, reason: Option<&str>) -> Answer {
        app.answer(&function(), &CancelItem { item_id, reason: reason.map(str::to_owned) }).await
    }

    async fn bid(app: &Harness, item: ItemId) -> Answer {
        let offer = PlaceBid::open(item, "12".parse().unwrap());
        app.as_user(ANN).answer(&place_bid::function(), &offer).await
    }

    async fn show(app: &Harness, item_id: ItemId) -> Item {
        app.ask(&get_item::function(), &GetItem { item_id }).await.unwrap()
    }

    #[tokio::test]
    async fn a_seller_takes_back_what_nobody_has_bid_on() {
        let app = Harness::start(crate::database()).await;
        let (item, with_bid) = (lamp(&app).buy_now("99").offer().await, lamp(&app).offer().await);
        bid(&app, with_bid.id).await;
        let seller = app.as_user(SELLER);

        let cancelled = cancel(&seller, item.id, Some("Broken")).await.parse::<Item>().unwrap();

        assert_eq!(
            (cancelled.status, cancelled.version, cancelled.winner_id),
            (ItemStatus::Cancelled, 2, None)
        );
        assert_eq!(cancelled.end_reason.as_deref(), Some("Broken"));
        assert_eq!(show(&app, item.id).await, cancelled);
        assert_eq!(code(&cancel(&seller, with_bid.id, None).await), "ITEM_HAS_BIDS");
        assert_eq!(code(&cancel(&app.as_user(ANN), with_bid.id, None).await), "FORBIDDEN");
        assert_eq!(cancel(&app, with_bid.id, None).await.status, 401);
        assert_eq!(code(&cancel(&seller, ItemId::new(), None).await), "NOT_FOUND");
        assert_eq!(cancel(&seller, with_bid.id, Some(" ")).await.status, 400);
        for refused in [
            cancel(&seller, item.id, None).await,
            bid(&app, item.id).await,
            app.as_user(ANN).answer(&buy_now::function(), &BuyNow { item_id: item.id }).await,
        ] {
            assert_eq!((refused.status, code(&refused)), (409, "AUCTION_CLOSED".into()));
        }
        let told = app.emitted::<ItemClosed>().await;
        assert_eq!(
            (told.len(), told[0].0.status, told[0].0.ended_by),
            (1, ItemStatus::Cancelled, Some(SELLER))
        );
        let log =
            app.ask(&list_changes::function(), &ListChanges { item_id: item.id, after: 1 }).await.unwrap();
        assert_eq!(log.changes, [ItemChange::ended(&told[0].0)]);
        assert_eq!(log.changes[0].name(), "cancelled");
    }

    #[tokio::test]
    async fn an_administrator_voids_bids_and_has_to_say_why() {
        let app = Harness::start(crate::database()).await;
        let (item, ended) = (lamp(&app).offer().await, lamp(&app).offer().await);
        bid(&app, item.id).await;
        let admin = app.as_admin(ADMIN);
        end_at(&app, ended.id, Timestamp::now() - Duration::from_millis(1)).await;

        let wordless = cancel(&admin, item.id, None).await;
        let cancelled = cancel(&admin, item.id, Some("Stolen")).await.parse::<Item>().unwrap();

        assert_eq!((wordless.status, code(&wordless)), (400, "INVALID_INPUT".into()));
        assert_eq!(
            (cancelled.status, cancelled.winner_id, cancelled.final_price),
            (ItemStatus::Cancelled, None, None)
        );
        assert!(app.emitted::<BidWon>().await.is_empty());
        let kept: (Uuid, String) = sqlx::query_as("select ended_by, end_reason from items where id = $1")
            .bind(item.id.0)
            .fetch_one(app.pool())
            .await
            .unwrap();
        assert_eq!(kept, (ADMIN.0, "Stolen".into()));
        assert_eq!(code(&cancel(&admin, ended.id, Some("Late")).await), "AUCTION_CLOSED");
    }

    #[tokio::test]
    async fn of_a_withdrawal_and_the_first_bid_at_once_one_is_first() {
        let app = Harness::start(crate::database()).await;
        for _ in 0..20 {
            let item = lamp(&app).offer().await;
            let seller = app.as_user(SELLER);

            let (cancelled, offered) = tokio::join!(cancel(&seller, item.id, None), bid(&app, item.id));

            let shown = show(&app, item.id).await;
            match (code(&cancelled).as_str(), code(&offered).as_str()) {
                ("done", "AUCTION_CLOSED") => {
                    assert_eq!((shown.status, shown.bid_count), (ItemStatus::Cancelled, 0))
                }
                ("ITEM_HAS_BIDS", "done") => {
                    assert_eq!((shown.status, shown.bid_count), (ItemStatus::Open, 1))
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn an_item_is_taken_back_or_the_hammer_falls_and_never_both() {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        for count in 1..=10 {
            let item = lamp(&app).offer().await;
            bid(&app, item.id).await;
            let end = Timestamp::now() - Duration::from_millis(20);
            end_at(&app, item.id, end).await;
            // Stamped in time, and decided at the moment of the hammer.
            let admin = app.as_admin(ADMIN).at(end - Duration::from_millis(1));

            let hammer = close_auction::function();
            let (cancelled, fallen) =
                tokio::join!(cancel(&admin, item.id, Some("Stolen")), app.work(&hammer));

            fallen.unwrap();
            app.work(&hammer).await.unwrap();
            let shown = show(&app, item.id).await;
            let expected = if code(&cancelled) == "done" { ItemStatus::Cancelled } else { ItemStatus::Sold };
            assert_eq!((shown.status, shown.version), (expected, 3));
            assert_eq!(app.emitted::<ItemClosed>().await.len(), count, "once");
            let won = app.emitted::<BidWon>().await.iter().filter(|won| won.item_id == item.id).count();
            assert_eq!(won == 1, shown.status == ItemStatus::Sold);
        }
    }
}
