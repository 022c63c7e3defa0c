//! `list-changes`: what happened to an item after a version of it, in order.
//!
//! Tells everything or says that it cannot: there is no answer with a hole in it.

use contracts::auctions::{Bid, Changes, ItemChange, ListChanges};
use platform::{Cx, Function, Result};

use crate::auction::NoItem;

/// The most changes of one answer.
const MOST: u16 = 500;

/// Queries of [`ListChanges`].
pub fn function() -> Function {
    Function::query(list_changes)
}

async fn list_changes(cx: &mut Cx, query: ListChanges) -> Result<Changes> {
    let ListChanges { item_id, after } = query;
    let now =
        sqlx::query_scalar!(r#"select revision + bid_count as "now!" from items where id = $1"#, item_id.0)
            .fetch_optional(cx.tx().await?)
            .await?
            .ok_or(NoItem)?;
    // Version 1 is the item as it was offered, and nobody has seen a version that is still to come.
    if !(1..=now).contains(&after) {
        return Ok(incomplete());
    }
    if after == now {
        return Ok(Changes { changes: Vec::new(), has_more: false, complete: true });
    }
    // Bids are found by their places, because a version is a revision and a number of bids: without an
    // index on the version, which every bid would pay for.
    let mut rows = sqlx::query!(
        r#"
        (select version as "version?", 'bid' as "event!", coalesce(told, answer) as "change!" from bids
        where item_id = $1 and seq > $2 - coalesce(
            (select revision from item_changes where item_id = $1 and version <= $2 order by version desc limit 1),
            1)
        order by seq limit $3)
        union all
        (select version, event, change from item_changes
        where item_id = $1 and version > $2 order by version limit $3)
        order by 1 limit $3
        "#,
        item_id.0,
        after,
        i64::from(MOST) + 1,
    )
    .fetch_all(cx.tx().await?)
    .await?;
    let has_more = rows.len() > usize::from(MOST);
    rows.truncate(MOST.into());
    // Each version is one above the one before, up to the present. What was not logged, such as bids of the
    // time before the log, shows as a gap.
    let dense = rows.iter().zip(after + 1..).all(|(row, version)| row.version == Some(version));
    let reached = rows.last().and_then(|row| row.version).unwrap_or(after);
    if !dense || (!has_more && reached < now) {
        return Ok(incomplete());
    }
    let changes =
        rows.into_iter().zip(after + 1..).map(|(row, version)| read(&row.event, &row.change, version));
    Ok(Changes { changes: changes.collect::<Result<_>>()?, has_more, complete: true })
}

fn incomplete() -> Changes {
    Changes { changes: Vec::new(), has_more: false, complete: false }
}

/// Reads a change as it was written.
fn read(event: &str, change: &str, version: i64) -> Result<ItemChange> {
    match event {
        "extended" => Ok(ItemChange::Extended(serde_json::from_str(change)?)),
        "updated" => Ok(ItemChange::Updated(serde_json::from_str(change)?)),
        "closed" => Ok(ItemChange::Closed(serde_json::from_str(change)?)),
        "cancelled" => Ok(ItemChange::Cancelled(serde_json::from_str(change)?)),
        _ => {
            let mut bid: Bid = serde_json::from_str(change)?;
            // Its bidder was told the version after what the bid caused.
            if let Some(item) = &mut bid.item {
                item.version = version;
            }
            Ok(ItemChange::Bid(bid))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::{ItemId, Timestamp, UserId, auctions::PlaceBid};
    use platform::wire::{Envelope, Outgoing};
    use serde_json::value::RawValue;
    use testing::Harness;
    use uuid::Uuid;

    use super::*;
    use crate::{
        close_auction, place_bid,
        store::testing::{end_at, lamp},
    };

    const ANN: UserId = UserId(Uuid::from_u128(2));
    const BOB: UserId = UserId(Uuid::from_u128(3));

    async fn changes(app: &Harness, item_id: ItemId, after: i64) -> Changes {
        app.ask(&function(), &ListChanges { item_id, after }).await.unwrap()
    }

    fn offer(item_id: ItemId, amount: u32) -> PlaceBid {
        PlaceBid::open(item_id, amount.to_string().parse().unwrap())
    }

    /// What the bus tells of an item, as those who listen read it, in the order of its telling.
    async fn told(app: &Harness, item: ItemId) -> Vec<ItemChange> {
        let rows: Vec<String> = sqlx::query_scalar("select events from platform.outbox order by id")
            .fetch_all(app.pool())
            .await
            .unwrap();
        let events = rows.iter().flat_map(|row| serde_json::from_str::<Vec<Outgoing>>(row).unwrap());
        let heard = events.filter_map(|event| {
            let (name, id) = event.subject.strip_prefix("events.").unwrap().rsplit_once('.').unwrap();
            let envelope: Envelope<Box<RawValue>> = serde_json::from_str(event.body.get()).unwrap();
            let change = ItemChange::from_event(name, envelope.payload.get());
            change.filter(|_| id == item.to_string())
        });
        heard.collect()
    }

    fn versions(changes: &[ItemChange]) -> Vec<(&str, i64)> {
        changes.iter().map(|change| (change.name(), change.version())).collect()
    }

    #[tokio::test]
    async fn the_log_says_word_for_word_what_the_events_said() {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        let (item, other) = (lamp(&app).extension(120).offer().await, lamp(&app).offer().await);

        let batch = [
            (ANN, offer(item.id, 10)),
            (BOB, offer(other.id, 10)),
            (BOB, offer(item.id, 10)),
            (BOB, offer(item.id, 11)),
            (ANN, offer(item.id, 13)),
        ];
        app.at(Timestamp::now()).batch(&place_bid::function(), &batch).await;
        end_at(&app, item.id, Timestamp::now() - Duration::from_millis(50)).await;
        assert_eq!(app.work(&close_auction::function()).await.unwrap(), 1);

        let logged = changes(&app, item.id, 1).await;
        // All offers have the same stamp, so only the first of them can move the end.
        assert_eq!(
            versions(&logged.changes),
            [("bid", 2), ("extended", 3), ("bid", 4), ("bid", 5), ("closed", 6)]
        );
        assert_eq!((logged.has_more, logged.complete), (false, true));
        let told = told(&app, item.id).await;
        let json = |changes: &[ItemChange]| -> Vec<String> {
            changes.iter().map(|change| serde_json::to_string(change).unwrap()).collect()
        };
        assert_eq!(json(&logged.changes), json(&told));
        let ItemChange::Closed(closed) = &told[4] else { panic!("{told:?}") };
        assert_eq!((closed.winner_id, closed.final_price.unwrap().to_string()), (Some(ANN), "13.00".into()));
    }

    #[tokio::test]
    async fn of_maxima_the_log_says_what_the_events_said_too() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).extension(120).offer().await;
        let up_to = |amount, maximum: u32| PlaceBid {
            max_amount: Some(maximum.to_string().parse().unwrap()),
            ..offer(item.id, amount)
        };

        let batch = [
            (ANN, up_to(10, 50)),
            (BOB, up_to(11, 40)),
            (ANN, up_to(11, 60)),
            (BOB, offer(item.id, 45)),
            (BOB, up_to(46, 70)),
        ];
        app.at(Timestamp::now()).batch(&place_bid::function(), &batch).await;

        let logged = changes(&app, item.id, 1).await;
        assert!(logged.complete);
        assert_eq!(logged.changes, told(&app, item.id).await);
        let bids: Vec<(i64, String, bool, bool)> = logged
            .changes
            .iter()
            .filter_map(|change| match change {
                ItemChange::Bid(bid) => Some(bid),
                _ => None,
            })
            .map(|bid| {
                let item = bid.item.as_ref().unwrap();
                assert_eq!((bid.amount, bid.seq), (item.current_price, item.bid_count), "what was after it");
                (bid.seq, bid.amount.to_string(), bid.bidder_id == ANN, bid.automatic)
            })
            .collect();
        let row = |seq, amount: &str, of_ann, automatic| (seq, amount.to_owned(), of_ann, automatic);
        assert_eq!(
            bids,
            [
                row(1, "10.00", true, false),
                row(2, "40.00", false, false),
                row(3, "40.01", true, true),
                row(4, "45.00", false, false),
                row(5, "45.01", true, true),
                row(6, "60.01", false, false),
            ]
        );
        for after in 1..=8 {
            let rest = changes(&app, item.id, after).await;
            assert!(rest.complete, "{after}");
            assert_eq!(i64::try_from(rest.changes.len()).unwrap(), 8 - after, "{after}");
        }
    }

    #[tokio::test]
    async fn any_version_can_be_gone_on_from() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).extension(120).offer().await;
        for amount in 10..14 {
            app.as_user(ANN).call(&place_bid::function(), &offer(item.id, amount)).await.unwrap();
        }

        let all = changes(&app, item.id, 1).await.changes;

        let kinds = ["bid", "extended"].into_iter().cycle().zip(2..=9);
        assert_eq!(versions(&all), kinds.collect::<Vec<_>>());
        for (known, after) in (1..=9).enumerate() {
            let rest = changes(&app, item.id, after).await;
            assert_eq!((rest.changes.as_slice(), rest.complete), (&all[known..], true), "{after}");
        }
    }

    #[tokio::test]
    async fn a_long_log_comes_in_pages_without_a_hole() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).extension(120).offer().await;
        let mut expected = 1;
        for start in (0..600).step_by(200) {
            let batch: Vec<_> = (0..200).map(|n| (ANN, offer(item.id, 10 + start + n))).collect();
            app.at(Timestamp::now()).batch(&place_bid::function(), &batch).await;
            // The first of the batch moved the end.
            expected += 201;
        }

        let (mut after, mut pages) = (1, Vec::new());
        loop {
            let page = changes(&app, item.id, after).await;
            assert!(page.complete);
            for change in &page.changes {
                after += 1;
                assert_eq!(change.version(), after);
            }
            pages.push(page.changes.len());
            if !page.has_more {
                break;
            }
        }

        assert_eq!((pages, after), (vec![500, 103], expected));
    }

    #[tokio::test]
    async fn what_cannot_be_told_without_a_hole_is_not_told() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).extension(120).offer().await;
        for amount in 10..13 {
            app.as_user(ANN).call(&place_bid::function(), &offer(item.id, amount)).await.unwrap();
        }
        let complete = async |after| changes(&app, item.id, after).await.complete;

        // Versions that the item never had.
        for after in [-1, 0, 8, i64::MAX] {
            assert!(!complete(after).await, "{after}");
        }
        assert!(complete(7).await);
        // The first bid and its extension are of the time before the log.
        testing::as_administrator(app.pool(), "update bids set version = null where seq = 1").await;
        sqlx::query("delete from item_changes where version = 3").execute(app.pool()).await.unwrap();
        for (after, expected) in [(1, false), (2, false), (3, false), (4, false), (5, true), (7, true)] {
            assert_eq!(complete(after).await, expected, "{after}");
        }
        // A last change that nobody logged.
        sqlx::query("update items set revision = revision + 1").execute(app.pool()).await.unwrap();
        assert!(!complete(7).await);
    }

    #[tokio::test]
    async fn an_unknown_item_is_not_found() {
        let app = Harness::start(crate::database()).await;

        let refused =
            app.ask(&function(), &ListChanges { item_id: ItemId::new(), after: 1 }).await.unwrap_err();

        assert!(matches!(refused, platform::Error::Refused(refused) if refused.code == "NOT_FOUND"));
    }
}
