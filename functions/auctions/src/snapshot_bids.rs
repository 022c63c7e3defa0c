//! `snapshot-bids`: tell every accepted bid and every sale, for projections that are made anew.
//!
//! As [`BidPlaced`] and [`BidWon`], item by item in the order of the bids. Bids that are accepted meanwhile on
//! an item that was told are left to the stream.

use contracts::{
    BidId, Currency, ItemId, Money, Timestamp, UserId,
    auctions::{BidPlaced, BidWon, SnapshotBids},
};
use platform::{Cx, Function, Refused, Result, replay::SnapshotPage};
use uuid::Uuid;

use crate::{increments::Increments, store};

/// Queries of [`SnapshotBids`].
pub fn function() -> Function {
    Function::query(snapshot_bids)
}

async fn snapshot_bids(cx: &mut Cx, query: SnapshotBids) -> Result<SnapshotPage> {
    let (after_item, after_seq) = match &query.after {
        Some(after) => parse(after).ok_or_else(|| Refused::unknown_place("after"))?,
        None => (Uuid::nil(), 0),
    };
    let rows = sqlx::query!(
        r#"
        select bids.id, item_id, bidder_id as "bidder_id!", amount as "amount!", seq as "seq!",
            coalesce(version, 0) as "version!", placed_at, seller_id, currency, bid_increment, increment_policy,
            reserve_price, name, closed_at, command_id = bids.id as "automatic!", (outcome = 'sold' and leading_bid_id = bids.id) is true as "won!"
        from bids join items on items.id = item_id
        where seq is not null and (item_id, seq) > ($1, $2) order by item_id, seq limit 1000
        "#,
        after_item,
        after_seq,
    )
    .fetch_all(cx.tx().await?)
    .await?;
    let mut page = SnapshotPage::default();
    for row in rows {
        if page.is_full() {
            break;
        }
        let currency: Currency = row.currency.parse().map_err(anyhow::Error::new)?;
        let money = |minor| Money::new(minor, currency);
        let past = PastBid {
            id: row.id,
            item_id: row.item_id,
            seller_id: row.seller_id,
            bidder_id: row.bidder_id,
            amount: money(row.amount),
            automatic: row.automatic,
            increments: store::increments(&row.increment_policy, money(row.bid_increment)),
            reserve: row.reserve_price.map(money),
            seq: row.seq,
            version: row.version,
            placed_at: row.placed_at,
        };
        page.tell(&past.told())?;
        if let (true, Some(closed_at)) = (row.won, row.closed_at) {
            page.tell(&BidWon {
                item_id: ItemId(row.item_id),
                item_name: row.name,
                bid_id: BidId(row.id),
                winner_id: UserId(row.bidder_id),
                seller_id: UserId(row.seller_id),
                amount: money(row.amount).into(),
                currency,
                seq: row.seq,
                closed_at,
            })?;
        }
        page.after = Some(format!("{}:{}", row.item_id, row.seq));
    }
    Ok(page)
}

/// A bid as it was accepted.
pub(crate) struct PastBid {
    pub(crate) id: Uuid,
    pub(crate) item_id: Uuid,
    pub(crate) seller_id: Uuid,
    pub(crate) bidder_id: Uuid,
    pub(crate) amount: Money,
    pub(crate) automatic: bool,
    pub(crate) increments: Increments,
    pub(crate) reserve: Option<Money>,
    pub(crate) seq: i64,
    pub(crate) version: i64,
    pub(crate) placed_at: Timestamp,
}

impl PastBid {
    /// As it was told then, but for what only those who were there wanted to know: whom it outbid, and where
    /// the end stood.
    pub(crate) fn told(self) -> BidPlaced {
        BidPlaced {
            bid_id: BidId(self.id),
            item_id: ItemId(self.item_id),
            seller_id: UserId(self.seller_id),
            bidder_id: UserId(self.bidder_id),
            outbid_id: None,
            automatic: self.automatic,
            amount: self.amount.into(),
            currency: self.amount.currency,
            seq: self.seq,
            version: self.version,
            ends_at: None,
            placed_at: self.placed_at,
            current_price: self.amount.into(),
            min_next_bid: self.increments.above(self.amount).into(),
            reserve_met: self.reserve.is_none_or(|reserve| self.amount.minor >= reserve.minor),
        }
    }
}

fn parse(after: &str) -> Option<(Uuid, i64)> {
    let (item, seq) = after.split_once(':')?;
    Some((item.parse().ok()?, seq.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use contracts::auctions::PlaceBid;
    use testing::Harness;

    use super::*;
    use crate::store::testing::{end_at, lamp};

    async fn tell(app: &Harness) -> (Vec<BidPlaced>, Vec<BidWon>, usize) {
        let (mut placed, mut won, mut pages, mut after) = (Vec::new(), Vec::new(), 0, None);
        loop {
            let page = app.ask(&function(), &SnapshotBids { after }).await.unwrap();
            pages += 1;
            for told in page.events {
                match told.event.as_str() {
                    "bid.placed.v1" => placed.push(serde_json::from_str(told.payload.get()).unwrap()),
                    "bid.won.v1" => won.push(serde_json::from_str(told.payload.get()).unwrap()),
                    other => panic!("{other}"),
                }
            }
            after = page.after;
            if after.is_none() {
                return (placed, won, pages);
            }
        }
    }

    #[tokio::test]
    async fn every_bid_is_told_once_and_as_it_was_told_then() {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        let items = [lamp(&app).reserve("11").offer().await, lamp(&app).increment("2").offer().await];
        for (item, amount) in [(0, "10"), (1, "10"), (0, "11.50"), (1, "13"), (1, "11"), (1, "15")] {
            let offer = PlaceBid::open(items[item].id, amount.parse().unwrap());
            let _ = app.as_user(UserId(Uuid::from_u128(2))).call(&crate::place_bid::function(), &offer).await;
        }
        // The leader goes further in secret, and pays for it when somebody comes.
        for (user, amount, maximum) in [(2, "15", Some("20")), (3, "17", None)] {
            let max_amount = maximum.map(|maximum| maximum.parse().unwrap());
            let offer = PlaceBid { max_amount, ..PlaceBid::open(items[1].id, amount.parse().unwrap()) };
            app.as_user(UserId(Uuid::from_u128(user)))
                .call(&crate::place_bid::function(), &offer)
                .await
                .unwrap();
        }
        end_at(&app, items[0].id, Timestamp::now() - std::time::Duration::from_millis(50)).await;
        app.work(&crate::close_auction::function()).await.unwrap();

        let (mut placed, won, _) = tell(&app).await;

        let mut then = app.emitted::<BidPlaced>().await;
        for bid in &mut then {
            (bid.outbid_id, bid.ends_at) = (None, None);
        }
        for bids in [&mut placed, &mut then] {
            bids.sort_by_key(|bid| (bid.item_id, bid.seq));
        }
        assert_eq!(placed.len(), 7, "one was too low, and one was answered");
        assert!(placed.iter().map(|bid| bid.automatic).eq([false, false, false, false, false, false, true]));
        assert_eq!(placed, then);
        assert_eq!(won, app.emitted::<BidWon>().await);
    }

    #[tokio::test]
    async fn pages_end_before_a_message_is_too_large_and_lose_nothing() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).offer().await;
        let bids = "insert into bids (command_id, id, item_id, bidder_id, amount, seq, version, placed_at, status, answer)
            select gen_random_uuid(), gen_random_uuid(), $1, gen_random_uuid(), 1000 + n, n, n + 1, now(), 200, '{}'
            from generate_series(1, 2345) n";
        sqlx::query(bids).bind(item.id.0).execute(app.pool()).await.unwrap();

        let (placed, _, pages) = tell(&app).await;

        assert!(placed.iter().map(|bid| bid.seq).eq(1..=2345));
        assert!(pages > 3, "{pages}");
    }

    #[tokio::test]
    async fn an_invented_place_is_refused() {
        let app = Harness::start(crate::database()).await;

        let refused = app.ask(&function(), &SnapshotBids { after: Some("x".into()) }).await.unwrap_err();

        assert!(matches!(refused, platform::Error::Refused(refused) if refused.status == 400));
    }
}
