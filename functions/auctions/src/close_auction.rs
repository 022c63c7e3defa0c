//! `close-auction`: let the hammer fall on time.
//!
//! Emits [`ItemClosed`] always and [`BidWon`] when sold. An item closes after its end by the
//! stream's own clock, and not while the stream still holds an undecided bid stamped before the end.

use contracts::{
    Timestamp,
    auctions::{BidWon, BuyNow, ItemClosed, ItemCreated, ItemExtended, ItemUpdated, PlaceBid},
};
use platform::{Backlog, Cx, Function, Result, metrics::Delay};
use uuid::Uuid;

use crate::{DOMAIN, hammer, store};

/// The most items closed in one transaction. Half of a turn of 500 was spent on what each turn needs once: the look at the
/// stream, the commit.
const BATCH: i64 = 3_000;

static LATENESS: Delay = Delay {
    name: "auction_close_lateness_seconds",
    help: "From the end of an item to the commit that closed it.",
};

/// Due work over items whose end has passed.
pub fn function() -> Function {
    Function::due(DOMAIN, "close-auction", next_end, close_auctions)
        .emits::<ItemClosed>()
        .emits::<BidWon>()
        .times(&LATENESS)
        .sees_backlog()
        .wakes_on::<ItemCreated>()
        .wakes_on::<ItemExtended>()
        .wakes_on::<ItemUpdated>()
}

async fn next_end(cx: &mut Cx, (): ()) -> Result<Option<Timestamp>> {
    let next = sqlx::query_scalar!("select min(ends_at) from items where outcome is null")
        .fetch_one(cx.tx().await?)
        .await?;
    Ok(next)
}

async fn close_auctions(cx: &mut Cx, (): ()) -> Result<usize> {
    let mut waiting: Vec<Uuid> = Vec::new();
    loop {
        let ended = sqlx::query!(
            "select id, ends_at, buy_now_price from items where outcome is null and ends_at <= $1 and id <> all($2)
             order by ends_at limit $3",
            cx.now(),
            &waiting,
            BATCH,
        )
        .fetch_all(cx.tx().await?)
        .await?;
        if ended.is_empty() {
            return Ok(0);
        }
        let ids: Vec<Uuid> = ended.iter().map(|item| item.id).collect();
        let mut backlog = cx.backlog::<PlaceBid>(&ids).await?;
        let purchasable = ended.iter().filter(|item| item.buy_now_price.is_some()).map(|item| item.id);
        await_purchases(cx, &mut backlog, purchasable.collect()).await?;
        let ready: Vec<Uuid> = ended
            .iter()
            .filter(|item| is_ready(&backlog, item.id, item.ends_at))
            .map(|item| item.id)
            .collect();
        // Nothing is locked while the stream is asked, and what has been locked is let go of soon.
        if !ready.is_empty() {
            return close(cx, &ready, &backlog).await;
        }
        // Items that wait for a bid must not stand in the way of the others.
        waiting.extend(ids);
    }
}

/// Lets items wait for those who bought them in time as they wait for bids.
pub(crate) async fn await_purchases(cx: &Cx, backlog: &mut Backlog, items: Vec<Uuid>) -> Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    for (item, stamp) in cx.backlog::<BuyNow>(&items).await?.oldest {
        let oldest = backlog.oldest.entry(item).or_insert(stamp);
        *oldest = stamp.min(*oldest);
    }
    Ok(())
}

/// Whether an item's end has passed by the stream's clock, and every bid that counts is decided.
pub(crate) fn is_ready(backlog: &Backlog, item: Uuid, ends_at: Timestamp) -> bool {
    ends_at <= backlog.now && backlog.oldest.get(&item).is_none_or(|stamp| *stamp >= ends_at)
}

async fn close(cx: &mut Cx, candidates: &[Uuid], backlog: &Backlog) -> Result<usize> {
    // Locked, then looked at again: a bid decided meanwhile may have moved the end. What another
    // replica or a batch of bids holds is left for the next turn.
    let mut items = store::lock_free(cx.tx().await?, candidates).await?;
    items.retain(|item| is_ready(backlog, item.auction.id.0, item.auction.ends_at));
    if items.is_empty() {
        return Ok(0);
    }
    let closed_at = backlog.now.max(cx.now());
    for item in &mut items {
        item.auction.close();
        cx.time(&LATENESS, item.auction.ends_at)?;
    }
    hammer::fall(cx, &mut items, closed_at).await?;
    Ok(items.len())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::{
        ItemId, UserId,
        auctions::{GetItem, Item, ItemStatus},
    };
    use platform::{Request, Sender, Trace};
    use testing::Harness;

    use super::*;
    use crate::store::testing::{end_at, lamp};

    const ANN: UserId = UserId(Uuid::from_u128(2));

    async fn show(app: &Harness, item_id: ItemId) -> Item {
        app.ask(&crate::get_item::function(), &GetItem { item_id }).await.unwrap()
    }

    async fn bid(app: &Harness, item_id: ItemId, amount: &str) {
        let offer = PlaceBid::open(item_id, amount.parse().unwrap());
        app.as_user(ANN).call(&crate::place_bid::function(), &offer).await.unwrap();
    }

    fn past() -> Timestamp {
        Timestamp::now() - Duration::from_millis(50)
    }

    #[tokio::test]
    async fn the_hammer_names_the_winner_once_and_tells_everyone() {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        let (sold, unsold, below) =
            (lamp(&app).offer().await, lamp(&app).offer().await, lamp(&app).reserve("50").offer().await);
        let running = lamp(&app).offer().await;
        for item in [&sold, &below, &running] {
            bid(&app, item.id, "12").await;
        }
        for item in [&sold, &unsold, &below] {
            end_at(&app, item.id, past()).await;
        }

        assert_eq!(app.work(&function()).await.unwrap(), 3);
        assert_eq!(app.work(&function()).await.unwrap(), 0, "once");

        let closed = show(&app, sold.id).await;
        assert_eq!((closed.status, closed.winner_id), (ItemStatus::Sold, Some(ANN)));
        assert_eq!(closed.final_price.unwrap().to_string(), "12.00");
        assert!(closed.closed_at.unwrap() >= closed.ends_at);
        assert_eq!(show(&app, unsold.id).await.status, ItemStatus::Unsold);
        assert_eq!(show(&app, below.id).await.status, ItemStatus::Unsold);
        assert_eq!(show(&app, running.id).await.status, ItemStatus::Open);
        assert_eq!(app.emitted::<ItemClosed>().await.len(), 3);
        let won = app.emitted::<BidWon>().await;
        assert_eq!((won.len(), won[0].item_id, won[0].winner_id), (1, sold.id, ANN));
        let logged: Vec<Uuid> =
            sqlx::query_scalar("select item_id from item_changes where event = 'closed' order by item_id")
                .fetch_all(app.pool())
                .await
                .unwrap();
        assert_eq!(logged, [sold.id.0, unsold.id.0, below.id.0]);
    }

    #[tokio::test]
    async fn an_item_waits_for_a_bid_that_is_stored_but_not_decided() {
        waits_for(|item_id| PlaceBid::open(item_id, "10".parse().unwrap())).await;
    }

    #[tokio::test]
    async fn an_item_waits_for_a_purchase_that_is_stored_but_not_decided() {
        waits_for(|item_id| BuyNow { item_id }).await;
    }

    async fn waits_for<C: platform::Command>(command: fn(ItemId) -> C) {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus.clone());
        let (waits, ends) = (lamp(&app).buy_now("99").offer().await, lamp(&app).buy_now("99").offer().await);
        // Nobody serves the command: it stays in the stream.
        let sender = Sender::start(bus.clone()).await.unwrap();
        let command = command(waits.id);
        let request = Request { caller: None, trace: Trace::start(), idempotency_key: None };
        let sending = tokio::spawn(async move { sender.send(&command, &request).await });
        while app.bus().backlog::<C>(&[waits.id.0]).await.unwrap().oldest.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let end = Timestamp::now();
        end_at(&app, waits.id, end).await;
        end_at(&app, ends.id, end).await;
        tokio::time::sleep(Duration::from_millis(20)).await;

        assert_eq!(app.work(&function()).await.unwrap(), 1);
        assert_eq!(show(&app, ends.id).await.status, ItemStatus::Unsold);
        assert_eq!(show(&app, waits.id).await.status, ItemStatus::Open);

        bus.purge(platform::wire::COMMANDS).await.unwrap();
        assert_eq!(app.work(&function()).await.unwrap(), 1);
        assert_eq!(show(&app, waits.id).await.status, ItemStatus::Unsold);
        sending.abort();
    }

    #[tokio::test]
    async fn many_items_that_wait_do_not_hold_up_the_others() {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        let item = lamp(&app).offer().await;
        let copies = "insert into items select gen_random_uuid(), seller_id, name, description, category_id,
            image_urls, currency, start_price, bid_increment, reserve_price, buy_now_price,
            extension_window_seconds, extension_seconds, outcome, starts_at, ends_at, planned_end, price,
            leader_id, leading_bid_id, bid_count, revision, closed_at, created_at, updated_at,
            increment_policy, leader_maximum from items, generate_series(1, 4200)";
        sqlx::query(copies).execute(app.pool()).await.unwrap();
        sqlx::query("update items set ends_at = now() - interval '1 second'")
            .execute(app.pool())
            .await
            .unwrap();
        assert_eq!(app.next_due(&function()).await.unwrap().map(|end| end < Timestamp::now()), Some(true));

        let mut closed = Vec::new();
        while let Ok(done @ 1..) = app.work(&function()).await {
            closed.push(done);
        }

        assert_eq!(closed, [3_000, 1_201]);
        assert_eq!(app.emitted::<ItemClosed>().await.len(), 4_201);
        assert_eq!(show(&app, item.id).await.status, ItemStatus::Unsold);
    }
}
