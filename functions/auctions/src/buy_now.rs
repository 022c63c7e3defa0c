//! `buy-now`: take an item for what its seller asks, at once.
//!
//! The purchase is a bid of that price, and the last one: emits [`BidPlaced`], [`ItemClosed`] and [`BidWon`]. Offered
//! while nobody would win the item: before the first bid, and while none has met the reserve. Refuses as in
//! [`BidRefused`](crate::auction::BidRefused).

use std::collections::BTreeSet;

use contracts::{
    BidId,
    auctions::{Bid, BidPlaced, BidWon, BuyNow, ItemClosed},
};
use platform::{Answer, Cx, Function, Result};

use crate::{
    auction::NoItem,
    bid_rows::{self, Answered, BidRows},
    hammer, store,
};

/// Commands of [`BuyNow`].
pub fn function() -> Function {
    Function::command(buy_now).emits::<BidPlaced>().emits::<ItemClosed>().emits::<BidWon>()
}

async fn buy_now(cx: &mut Cx, command: BuyNow) -> Result<Bid> {
    let (buyer, now, item_id) = (cx.caller()?, cx.now(), command.item_id);
    // The row lock puts purchases, bids and the hammer in a queue.
    let mut auctions = store::lock_auctions(cx.tx().await?, &[item_id.0]).await?;
    let auction = auctions.get_mut(&item_id).ok_or(NoItem)?;
    let placed = auction.buy_now(BidId::new(), buyer.id, now)?;
    let bid = bid_rows::answer(auction, &placed, now);
    let event = bid_rows::event(auction, &placed, now, false);
    let mut rows = BidRows::default();
    let answer = Answer::accepted(&bid)?;
    let answered = Answered {
        // Commands of this function have their outcomes elsewhere; the row needs a name that nobody asks for.
        command: uuid::Uuid::now_v7(),
        fingerprint: None,
        bidder: Some(buyer.id),
        item: item_id.0,
        at: now,
        status: answer.status,
        answer: String::from_utf8_lossy(&answer.body).into_owned(),
    };
    // Everybody is told the bid as it was before the hammer fell because of it.
    rows.push(answered, Some(&placed), Some(bid_rows::public(&event)?));
    rows.write(cx.tx().await?).await?;
    store::write_bidding(cx.tx().await?, &auctions, &BTreeSet::from([item_id])).await?;
    cx.emit(&event)?;
    let mut items = store::load(cx.tx().await?, &[item_id.0]).await?;
    for (item, auction) in items.iter_mut().zip(auctions.into_values()) {
        item.auction = auction;
    }
    hammer::fall(cx, &mut items, now).await?;
    Ok(bid)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::{
        ItemId, Timestamp, UserId,
        auctions::{GetItem, ItemChange, ItemStatus, ListBids, ListChanges, PlaceBid},
        page::PageQuery,
    };
    use testing::{Harness, code};
    use uuid::Uuid;

    use super::*;
    use crate::{
        close_auction, get_item, list_bids, list_changes, place_bid,
        store::testing::{SELLER, end_at, lamp},
    };

    const ANN: UserId = UserId(Uuid::from_u128(2));
    const BOB: UserId = UserId(Uuid::from_u128(3));

    async fn buy(app: &Harness, user: UserId, item_id: ItemId) -> Answer {
        app.as_user(user).answer(&function(), &BuyNow { item_id }).await
    }

    async fn bid(app: &Harness, user: UserId, item_id: ItemId, amount: &str) -> Answer {
        let offer = PlaceBid::open(item_id, amount.parse().unwrap());
        app.as_user(user).answer(&place_bid::function(), &offer).await
    }

    #[tokio::test]
    async fn the_buyer_wins_at_once_and_everybody_is_told() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).buy_now("99").offer().await;

        let bought = buy(&app, ANN, item.id).await.parse::<Bid>().unwrap();

        let after = bought.item.clone().unwrap();
        assert_eq!((bought.seq, bought.leading, bought.amount.to_string()), (1, true, "99.00".into()));
        assert_eq!((after.bid_count, after.version, after.current_price.to_string()), (1, 3, "99.00".into()));
        let shown = app.ask(&get_item::function(), &GetItem { item_id: item.id }).await.unwrap();
        assert_eq!((shown.status, shown.winner_id, shown.version), (ItemStatus::Sold, Some(ANN), 3));
        assert_eq!(shown.final_price.unwrap().to_string(), "99.00");
        assert_eq!(shown.closed_at, Some(bought.placed_at));
        let placed = app.emitted::<BidPlaced>().await;
        assert_eq!((placed.len(), placed[0].version, placed[0].bid_id), (1, 2, bought.id));
        let closed = app.emitted::<ItemClosed>().await;
        assert_eq!((closed.len(), closed[0].0.version, closed[0].0.item_version), (1, 3, 2));
        let won = app.emitted::<BidWon>().await;
        assert_eq!((won.len(), won[0].winner_id, won[0].bid_id), (1, ANN, bought.id));
        let log =
            app.ask(&list_changes::function(), &ListChanges { item_id: item.id, after: 1 }).await.unwrap();
        assert!(log.complete);
        assert_eq!(log.changes[0], ItemChange::Bid(placed[0].clone().bid().unwrap()));
        assert_eq!(log.changes[1].version(), 3);
        let bids = ListBids { item_id: item.id, page: PageQuery::default() };
        let bids = app.ask(&list_bids::function(), &bids).await.unwrap().data;
        assert_eq!((bids.len(), bids[0].id, bids[0].automatic), (1, bought.id, false));
    }

    #[tokio::test]
    async fn what_is_not_offered_is_refused_and_leaves_nothing() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).buy_now("99").offer().await;
        let (without, ended, with_bid) = (
            lamp(&app).offer().await,
            lamp(&app).buy_now("99").offer().await,
            lamp(&app).buy_now("99").offer().await,
        );
        end_at(&app, ended.id, Timestamp::now() - Duration::from_secs(1)).await;
        bid(&app, BOB, with_bid.id, "10").await;
        for (user, item_id, status, expected) in [
            (ANN, ItemId::new(), 404, "NOT_FOUND"),
            (SELLER, item.id, 403, "SELF_BID"),
            (ANN, ended.id, 409, "AUCTION_CLOSED"),
            (ANN, without.id, 409, "BUY_NOW_UNAVAILABLE"),
            (ANN, with_bid.id, 409, "BUY_NOW_UNAVAILABLE"),
        ] {
            let answer = buy(&app, user, item_id).await;
            assert_eq!((answer.status, code(&answer)), (status, expected.to_owned()), "{item_id}");
        }
        assert_eq!(app.answer(&function(), &BuyNow { item_id: item.id }).await.status, 401);
        let early = app.at(Timestamp::now() - Duration::from_secs(60));
        assert_eq!(code(&buy(&early, ANN, item.id).await), "AUCTION_NOT_STARTED");
        assert!(app.emitted::<ItemClosed>().await.is_empty());
        assert!(app.emitted::<BidWon>().await.is_empty());
        assert_eq!(app.emitted::<BidPlaced>().await.len(), 1);
    }

    #[tokio::test]
    async fn it_is_offered_until_the_reserve_is_met() {
        let app = Harness::start(crate::database()).await;
        let [below, met] = [(), ()].map(|()| lamp(&app).reserve("50").buy_now("99"));
        let (below, met) = (below.offer().await, met.offer().await);
        bid(&app, BOB, below.id, "49.99").await;
        bid(&app, BOB, met.id, "50").await;

        assert_eq!(code(&buy(&app, ANN, below.id).await), "done");
        assert_eq!(code(&buy(&app, ANN, met.id).await), "BUY_NOW_UNAVAILABLE");
    }

    #[tokio::test]
    async fn a_key_buys_once_and_the_second_buyer_is_too_late() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).buy_now("99").offer().await;
        let (ann, function, command) =
            (app.as_user(ANN).with_key("k"), function(), BuyNow { item_id: item.id });

        let all = (0..10).map(|_| ann.answer(&function, &command));
        let answers = futures_util::future::join_all(all).await;
        let late = buy(&app, BOB, item.id).await;

        assert!(answers.iter().all(|answer| answer.body == answers[0].body && code(answer) == "done"));
        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
        assert_eq!(code(&late), "AUCTION_CLOSED");
        assert_eq!(app.emitted::<BidWon>().await.len(), 1);
    }

    #[tokio::test]
    async fn of_a_purchase_and_a_bid_at_once_one_is_first() {
        let app = Harness::start(crate::database()).await;
        for _ in 0..20 {
            let item = lamp(&app).buy_now("99").offer().await;

            let (bought, offered) = tokio::join!(buy(&app, ANN, item.id), bid(&app, BOB, item.id, "10"));

            let codes = (code(&bought), code(&offered));
            let shown = app.ask(&get_item::function(), &GetItem { item_id: item.id }).await.unwrap();
            match (codes.0.as_str(), codes.1.as_str()) {
                ("done", "AUCTION_CLOSED") => {
                    assert_eq!((shown.winner_id, shown.bid_count), (Some(ANN), 1));
                }
                ("BUY_NOW_UNAVAILABLE", "done") => {
                    assert_eq!((shown.status, shown.leader_id), (ItemStatus::Open, Some(BOB)));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn the_hammer_does_not_fall_on_what_is_sold() {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        let mut closed = 0;
        for _ in 0..10 {
            let item = lamp(&app).buy_now("99").offer().await;
            let end = Timestamp::now() - Duration::from_millis(20);
            end_at(&app, item.id, end).await;
            sqlx::query("update items set starts_at = $2 where id = $1")
                .bind(item.id.0)
                .bind(end - Duration::from_secs(60))
                .execute(app.pool())
                .await
                .unwrap();
            // Stamped in time, and decided at the moment of the hammer.
            let in_time = app.at(end - Duration::from_millis(1));

            let hammer = close_auction::function();
            let (bought, fallen) = tokio::join!(buy(&in_time, ANN, item.id), app.work(&hammer));

            closed += 1;
            assert_eq!(app.emitted::<ItemClosed>().await.len(), closed, "once");
            let sold = code(&bought) == "done";
            let shown = app.ask(&get_item::function(), &GetItem { item_id: item.id }).await.unwrap();
            assert_eq!(shown.winner_id.is_some(), sold, "{fallen:?}");
            assert_eq!(app.work(&hammer).await.unwrap(), 0);
        }
    }
}
