//! `close-item`: let the hammer fall now, before its time. For administrators.
//!
//! Moves the end to the stream's stamp of the command, and bids stamped before count. When all of them are decided the
//! hammer falls at once, with [`ItemClosed`] and [`BidWon`] when sold; else the new end is told with [`ItemUpdated`], and
//! `close-auction` waits for them as always. Refuses as in [`LifeRefused`].

use std::time::Duration;

use contracts::auctions::{BidWon, CloseItem, Item, ItemClosed, ItemUpdated, PlaceBid};
use platform::{Cx, Function, Result, Role};

use crate::{
    close_auction, hammer,
    life::{self, LifeRefused},
};

/// Commands of [`CloseItem`].
pub fn function() -> Function {
    Function::command(close_item)
        .emits::<ItemUpdated>()
        .emits::<ItemClosed>()
        .emits::<BidWon>()
        .sees_backlog()
}

async fn close_item(cx: &mut Cx, CloseItem { item_id }: CloseItem) -> Result<Item> {
    let (caller, now) = (cx.caller()?, cx.now());
    if caller.role != Role::Admin {
        return Err(LifeRefused::OnlyAdmins.into());
    }
    // Asked before anything is locked. What is stamped before the command is in the stream by now.
    let mut backlog = cx.backlog::<PlaceBid>(&[item_id.0]).await?;
    close_auction::await_purchases(cx, &mut backlog, vec![item_id.0]).await?;
    let mut item = life::lock(cx, item_id).await?;
    life::still_runs(&item, now)?;
    if now < item.auction.starts_at {
        return Err(LifeRefused::NotStarted { starts_at: item.auction.starts_at }.into());
    }
    // Bids that overtook the command were in time when they were accepted, and stay so.
    let last = sqlx::query_scalar!(
        "select max(placed_at) from bids where item_id = $1 and seq is not null",
        item_id.0
    )
    .fetch_one(cx.tx().await?)
    .await?;
    let end = last.map_or(now, |last| now.max(last + Duration::from_micros(1)));
    let ready = close_auction::is_ready(&backlog, item_id.0, end);
    item.auction.ends_at = end;
    item.auction.planned_end = end;
    item.description.ended_by = Some(caller.id);
    item.description.updated_at = now;
    if !ready {
        // The bids for which it waits must not move the end again.
        item.auction.window = Duration::ZERO;
        item.auction.revision += 1;
    }
    sqlx::query!(
        r#"
        update items set ends_at = $2, planned_end = $2, extension_window_seconds = $3, revision = $4, ended_by = $5,
            updated_at = $6
        where id = $1
        "#,
        item_id.0,
        end,
        i32::try_from(item.auction.window.as_secs()).unwrap_or(i32::MAX),
        item.auction.revision,
        caller.id.0,
        now,
    )
    .execute(cx.tx().await?)
    .await?;
    if ready {
        item.auction.close();
        hammer::fall(cx, std::slice::from_mut(&mut item), backlog.now.max(now)).await?;
    } else {
        life::tell_update(cx, &item, now).await?;
    }
    Ok(item.item(Some(caller), now))
}

#[cfg(test)]
mod tests {
    use contracts::{
        ItemId, Timestamp, UserId,
        auctions::{GetItem, ItemStatus},
    };
    use platform::{Answer, Request, Sender, Trace};
    use testing::{Harness, code};
    use uuid::Uuid;

    use super::*;
    use crate::{
        get_item, place_bid,
        store::testing::{SELLER, lamp},
    };

    const ANN: UserId = UserId(Uuid::from_u128(2));
    const ADMIN: UserId = UserId(Uuid::from_u128(3));

    async fn close(app: &Harness, item_id: ItemId) -> Answer {
        app.answer(&function(), &CloseItem { item_id }).await
    }

    async fn bid(app: &Harness, item_id: ItemId, amount: &str) -> Answer {
        let offer = PlaceBid::open(item_id, amount.parse().unwrap());
        app.as_user(ANN).answer(&place_bid::function(), &offer).await
    }

    async fn show(app: &Harness, item_id: ItemId) -> Item {
        app.ask(&get_item::function(), &GetItem { item_id }).await.unwrap()
    }

    #[tokio::test]
    async fn the_hammer_falls_at_once_for_administrators_alone() {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        let (item, empty) = (lamp(&app).extension(60).offer().await, lamp(&app).offer().await);
        let scheduled = lamp(&app).starts_at(Timestamp::now() + Duration::from_secs(30)).offer().await;
        bid(&app, item.id, "12").await;
        let admin = app.as_admin(ADMIN);

        for (who, expected) in [(app.as_user(SELLER), "FORBIDDEN"), (app.as_user(ANN), "FORBIDDEN")] {
            assert_eq!(code(&close(&who, item.id).await), expected);
        }
        assert_eq!(close(&app, item.id).await.status, 401);
        assert_eq!(code(&close(&admin, scheduled.id).await), "AUCTION_NOT_STARTED");
        assert_eq!(code(&close(&admin, ItemId::new()).await), "NOT_FOUND");
        let closed = close(&admin, item.id).await.parse::<Item>().unwrap();
        let unsold = close(&admin, empty.id).await.parse::<Item>().unwrap();

        assert_eq!((closed.status, closed.winner_id), (ItemStatus::Sold, Some(ANN)));
        assert!(closed.ends_at < item.ends_at && closed.closed_at.unwrap() >= closed.ends_at);
        assert_eq!(unsold.status, ItemStatus::Unsold);
        assert_eq!(show(&app, item.id).await, closed);
        let told = app.emitted::<ItemClosed>().await;
        assert_eq!((told.len(), told[0].0.ended_by, told[0].0.ends_at), (2, Some(ADMIN), closed.ends_at));
        assert_eq!(app.emitted::<BidWon>().await.len(), 1);
        assert_eq!(code(&close(&admin, item.id).await), "AUCTION_CLOSED");
        assert_eq!(code(&bid(&app, item.id, "20").await), "AUCTION_CLOSED");
    }

    #[tokio::test]
    async fn a_bid_that_was_stored_before_counts() {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus.clone());
        let item = lamp(&app).extension(600).offer().await;
        // Nobody serves the command: it stays in the stream.
        let sender = Sender::start(bus.clone()).await.unwrap();
        let command = PlaceBid::open(item.id, "10".parse().unwrap());
        let request = Request { caller: None, trace: Trace::start(), idempotency_key: None };
        let sending = tokio::spawn(async move { sender.send(&command, &request).await });
        while app.bus().backlog::<PlaceBid>(&[item.id.0]).await.unwrap().oldest.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let before = Timestamp::now();
        tokio::time::sleep(Duration::from_millis(20)).await;

        let waits = close(&app.as_admin(ADMIN), item.id).await.parse::<Item>().unwrap();

        assert_eq!((waits.status, waits.version), (ItemStatus::Open, 2));
        assert!(waits.ends_at >= before && waits.ends_at < item.ends_at);
        assert_eq!(app.emitted::<ItemUpdated>().await[0].0.ends_at, waits.ends_at);
        let hammer = close_auction::function();
        assert_eq!(app.work(&hammer).await.unwrap(), 0, "it waits");
        assert_eq!(code(&bid(&app, item.id, "30").await), "AUCTION_CLOSED", "stamped after");
        let in_time = app.at(before);
        assert_eq!(code(&bid(&in_time, item.id, "20").await), "done");
        bus.purge(platform::wire::COMMANDS).await.unwrap();
        assert_eq!(app.work(&hammer).await.unwrap(), 1);
        let shown = show(&app, item.id).await;
        assert_eq!(
            (shown.status, shown.winner_id, shown.ends_at),
            (ItemStatus::Sold, Some(ANN), waits.ends_at)
        );
        assert_eq!(app.emitted::<ItemClosed>().await[0].0.ended_by, Some(ADMIN));
        sending.abort();
    }

    #[tokio::test]
    async fn a_bid_that_overtook_the_command_stays_in_time() {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        let item = lamp(&app).offer().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let early = app.as_admin(ADMIN).at(Timestamp::now() - Duration::from_millis(10));
        let placed = bid(&app, item.id, "12").await.parse::<contracts::auctions::Bid>().unwrap();

        let closed = close(&early, item.id).await.parse::<Item>().unwrap();

        assert_eq!((closed.status, closed.winner_id), (ItemStatus::Sold, Some(ANN)));
        assert!(closed.ends_at > placed.placed_at);
    }

    #[tokio::test]
    async fn among_many_bids_the_highest_accepted_one_wins() {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        for _ in 0..10 {
            let item = lamp(&app).offer().await;
            let bids = (10..20).map(|amount| {
                let app = app.clone();
                async move { bid(&app, item.id, &amount.to_string()).await }
            });
            let admin = app.as_admin(ADMIN);

            let (answers, closed) =
                tokio::join!(futures_util::future::join_all(bids), close(&admin, item.id));

            let closed = closed.parse::<Item>().unwrap();
            let accepted: Vec<_> = answers.iter().filter(|answer| code(answer) == "done").collect();
            assert!(
                answers
                    .iter()
                    .all(|answer| ["done", "AUCTION_CLOSED", "BID_TOO_LOW"].contains(&code(answer).as_str()))
            );
            let shown = show(&app, item.id).await;
            assert_eq!(
                (shown.bid_count, shown.version),
                (i64::try_from(accepted.len()).unwrap(), shown.bid_count + 2)
            );
            assert_eq!(shown.status, if accepted.is_empty() { ItemStatus::Unsold } else { ItemStatus::Sold });
            assert_eq!(shown, closed, "nothing after the hammer");
        }
    }
}
