//! `snapshot-items`: tell every item as it is now, for projections that are made anew.
//!
//! As [`ItemCreated`] with the newest state, and [`BidPlaced`](contracts::auctions::BidPlaced) of the highest
//! bid: the newest of each says all. Items that are offered meanwhile are left to the stream.

use std::collections::HashMap;

use contracts::auctions::{ItemCreated, SnapshotItems};
use platform::{Cx, Function, Refused, Result, replay::SnapshotPage};
use uuid::Uuid;

use crate::{snapshot_bids::PastBid, store};

/// Queries of [`SnapshotItems`].
pub fn function() -> Function {
    Function::query(snapshot_items)
}

async fn snapshot_items(cx: &mut Cx, query: SnapshotItems) -> Result<SnapshotPage> {
    let after: Uuid = match &query.after {
        Some(after) => after.parse().map_err(|_| Refused::unknown_place("after"))?,
        None => Uuid::nil(),
    };
    let ids = sqlx::query_scalar!("select id from items where id > $1 order by id limit 200", after)
        .fetch_all(cx.tx().await?)
        .await?;
    let items = store::load(cx.tx().await?, &ids).await?;
    let leading: Vec<Uuid> =
        items.iter().filter_map(|item| item.auction.leading.map(|leading| leading.bid.0)).collect();
    let seqs: Vec<i64> = items
        .iter()
        .filter(|item| item.auction.leading.is_some())
        .map(|item| item.auction.bid_count)
        .collect();
    let places: Vec<Uuid> =
        items.iter().filter(|item| item.auction.leading.is_some()).map(|item| item.auction.id.0).collect();
    // Found by their places, for which there is an index.
    let bids = sqlx::query!(
        r#"
        select id, placed_at, coalesce(version, 0) as "version!", command_id = id as "automatic!" from bids
            join unnest($1::uuid[], $2::bigint[]) as highest (item_id, seq) using (item_id, seq)
        where id = any($3)
        "#,
        &places,
        &seqs,
        &leading,
    )
    .fetch_all(cx.tx().await?)
    .await?;
    let bids: HashMap<Uuid, _> = bids.into_iter().map(|bid| (bid.id, bid)).collect();
    let mut page = SnapshotPage::default();
    for item in items {
        if page.is_full() {
            break;
        }
        let auction = &item.auction;
        let seen = auction.leading.and_then(|leading| Some((leading, bids.get(&leading.bid.0)?)));
        let bid = seen.map(|(leading, bid)| PastBid {
            id: bid.id,
            item_id: auction.id.0,
            seller_id: auction.seller.0,
            bidder_id: leading.bidder.0,
            amount: leading.price,
            automatic: bid.automatic,
            increments: auction.increments,
            reserve: auction.reserve,
            seq: auction.bid_count,
            version: bid.version,
            placed_at: bid.placed_at,
        });
        page.tell(&ItemCreated(item.state(cx.now())))?;
        if let Some(bid) = bid {
            page.tell(&bid.told())?;
        }
        page.after = Some(auction.id.to_string());
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use contracts::{
        Timestamp, UserId,
        auctions::{BidPlaced, ItemStatus, PlaceBid},
    };
    use testing::Harness;

    use super::*;
    use crate::store::testing::{end_at, lamp};

    async fn tell(app: &Harness) -> (Vec<ItemCreated>, Vec<BidPlaced>, usize) {
        let (mut items, mut bids, mut pages, mut after) = (Vec::new(), Vec::new(), 0, None);
        loop {
            let page = app.ask(&function(), &SnapshotItems { after }).await.unwrap();
            pages += 1;
            for told in page.events {
                match told.event.as_str() {
                    "item.created.v1" => items.push(serde_json::from_str(told.payload.get()).unwrap()),
                    "bid.placed.v1" => bids.push(serde_json::from_str(told.payload.get()).unwrap()),
                    other => panic!("{other}"),
                }
            }
            after = page.after;
            if after.is_none() {
                return (items, bids, pages);
            }
        }
    }

    #[tokio::test]
    async fn an_item_is_told_as_it_is_now_with_its_highest_bid() {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        let (sold, fresh) = (lamp(&app).offer().await, lamp(&app).offer().await);
        for amount in ["10", "12.50"] {
            let offer = PlaceBid::open(sold.id, amount.parse().unwrap());
            let bidder = app.as_user(UserId(Uuid::from_u128(2)));
            bidder.call(&crate::place_bid::function(), &offer).await.unwrap();
        }
        end_at(&app, sold.id, Timestamp::now() - std::time::Duration::from_millis(50)).await;
        app.work(&crate::close_auction::function()).await.unwrap();

        let (items, bids, _) = tell(&app).await;

        let told: Vec<_> = items.iter().map(|ItemCreated(item)| (item.item_id, item.status)).collect();
        assert_eq!(told, [(sold.id, ItemStatus::Sold), (fresh.id, ItemStatus::Open)]);
        assert_eq!((items[0].0.item_version, items[0].0.version), (2, 4));
        let mut last = app.emitted::<BidPlaced>().await.pop().unwrap();
        (last.outbid_id, last.ends_at) = (None, None);
        assert_eq!(bids, [last]);
    }

    #[tokio::test]
    async fn pages_end_before_a_message_is_too_large_and_lose_nothing() {
        let app = Harness::start(crate::database()).await;
        lamp(&app).offer().await;
        let copies =
            "insert into items select gen_random_uuid(), seller_id, name, repeat('x', n * 40), category_id,
            image_urls, currency, start_price, bid_increment, reserve_price, buy_now_price,
            extension_window_seconds, extension_seconds, outcome, starts_at, ends_at, planned_end, price,
            leader_id, leading_bid_id, bid_count, revision, closed_at, created_at, updated_at
            from items, generate_series(1, 450) n";
        sqlx::query(copies).execute(app.pool()).await.unwrap();

        let (items, _, pages) = tell(&app).await;

        let ids: std::collections::BTreeSet<_> = items.iter().map(|ItemCreated(item)| item.item_id).collect();
        assert_eq!((items.len(), ids.len()), (451, 451));
        assert!(pages > 6, "{pages}");
    }
}
