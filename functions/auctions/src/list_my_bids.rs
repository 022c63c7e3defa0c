//! `list-my-bids`: the items that the caller bid on, the one that the caller joined last first.

use std::collections::HashMap;

use contracts::{
    Amount, Money, Page,
    auctions::{ItemStatus, ListMyBids, MyBid, Standing},
};
use platform::{Caller, Cx, Function, Result, Timestamp};
use sqlx::Connection;
use uuid::Uuid;

use crate::store::{self, Whole};

/// Queries of [`ListMyBids`].
pub fn function() -> Function {
    Function::query(list_my_bids)
}

/// What a bidder did on an item.
struct Participation {
    item_id: Uuid,
    /// The first of the bids: ids sort by time, so it says in which order somebody joined biddings.
    place: Uuid,
    bids: i64,
    amount: i64,
}

async fn list_my_bids(cx: &mut Cx, ListMyBids { status, page }: ListMyBids) -> Result<Page<MyBid>> {
    let (caller, now) = (cx.caller()?, cx.now());
    let after = store::after(&page)?;
    let wanted: Vec<String> = status.iter().map(|standing| standing.as_str().to_owned()).collect();
    // Of one moment: what is listed as winning leads in the item that is shown.
    let mut tx = cx.tx().await?.begin_with("begin isolation level repeatable read, read only").await?;
    let mut rows = sqlx::query_as!(
        Participation,
        r#"
        with own as (
            select item_id, (array_agg(id order by seq))[1] as place, count(*) as bids, max(amount) as amount
            from bids where bidder_id = $1 and seq is not null group by item_id
        )
        select item_id, place as "place!", bids as "bids!", amount as "amount!"
        from own join items on items.id = item_id
        where place < $2 and ($5::text[] = '{}' or case
            when outcome is null then case when leader_id = $1 then 'winning' else 'outbid' end
            when outcome = 'sold' and leader_id = $1 then 'won' else 'lost' end = any($5))
        order by place desc limit $3 offset $4
        "#,
        caller.id.0,
        after,
        i64::from(page.limit) + 1,
        store::offset(&page),
        &wanted,
    )
    .fetch_all(&mut *tx)
    .await?;
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "count!"
        from (select distinct item_id from bids where bidder_id = $1 and seq is not null) as own
            join items on items.id = item_id
        where $2::text[] = '{}' or case
            when outcome is null then case when leader_id = $1 then 'winning' else 'outbid' end
            when outcome = 'sold' and leader_id = $1 then 'won' else 'lost' end = any($2)
        "#,
        caller.id.0,
        &wanted,
    )
    .fetch_one(&mut *tx)
    .await?;
    let page_info = store::cut(&mut rows, &page, total, |row| row.place);
    let ids: Vec<Uuid> = rows.iter().map(|row| row.item_id).collect();
    let found = store::load(&mut tx, &ids).await?;
    tx.commit().await?;
    let mut items: HashMap<Uuid, Whole> = found.into_iter().map(|item| (item.auction.id.0, item)).collect();
    let data = rows.iter().filter_map(|row| Some(line(row, items.remove(&row.item_id)?, caller, now)));
    Ok(Page { data: data.collect(), page_info })
}

fn line(row: &Participation, item: Whole, caller: Caller, now: Timestamp) -> MyBid {
    // A leader's maximum leaves this place only towards the leader.
    let own = item.auction.leading.filter(|leading| leading.bidder == caller.id);
    let further = own.filter(|own| own.maximum.minor > own.price.minor);
    let amount = Amount::from(Money::new(row.amount, item.auction.currency));
    let item = item.item(Some(caller), now);
    let status = match item.status {
        ItemStatus::Scheduled | ItemStatus::Open if own.is_some() => Standing::Winning,
        ItemStatus::Scheduled | ItemStatus::Open => Standing::Outbid,
        ItemStatus::Sold if own.is_some() => Standing::Won,
        ItemStatus::Sold | ItemStatus::Unsold | ItemStatus::Cancelled => Standing::Lost,
    };
    MyBid { item, amount, max_amount: further.map(|own| own.maximum.into()), bids: row.bids, status }
}

#[cfg(test)]
mod tests {
    use contracts::{
        ItemId, UserId,
        auctions::{BuyNow, ListBids, PlaceBid},
        page::PageQuery,
    };
    use testing::Harness;

    use super::*;
    use crate::{
        buy_now, list_bids, place_bid,
        store::testing::{SELLER, lamp},
    };

    const ANN: UserId = UserId(Uuid::from_u128(2));
    const BOB: UserId = UserId(Uuid::from_u128(3));

    fn up_to(item_id: ItemId, amount: &str, maximum: &str) -> PlaceBid {
        let max_amount = Some(maximum.parse().unwrap());
        PlaceBid { max_amount, ..PlaceBid::open(item_id, amount.parse().unwrap()) }
    }

    async fn bid(app: &Harness, who: UserId, offer: PlaceBid) {
        app.as_user(who).call(&place_bid::function(), &offer).await.unwrap();
    }

    async fn list(app: &Harness, who: UserId, status: &[Standing]) -> Vec<MyBid> {
        let query = ListMyBids { status: status.to_vec(), ..ListMyBids::default() };
        let page = app.as_user(who).ask(&function(), &query).await.unwrap();
        assert_eq!(page.page_info.total, u64::try_from(page.data.len()).unwrap());
        page.data
    }

    fn seen(line: &MyBid) -> (ItemId, String, Option<String>, i64, Standing) {
        let text = |amount: Amount| amount.to_string();
        (line.item.id, text(line.amount), line.max_amount.map(text), line.bids, line.status)
    }

    async fn end(app: &Harness, item: ItemId, outcome: &str) {
        let update = "update items set outcome = $2, closed_at = now() where id = $1";
        sqlx::query(update).bind(item.0).bind(outcome).execute(app.pool()).await.unwrap();
    }

    #[tokio::test]
    async fn each_bidder_sees_the_own_bids_and_maximum_and_where_they_stand() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).increment("1").offer().await.id;
        bid(&app, ANN, up_to(item, "10", "20")).await;
        let alone = list(&app, ANN, &[]).await;
        bid(&app, BOB, up_to(item, "12", "14")).await;

        assert_eq!(
            alone.iter().map(seen).collect::<Vec<_>>(),
            [(item, "10.00".into(), Some("20.00".into()), 1, Standing::Winning)]
        );
        // Her maximum answered his: two bids of hers, one of his.
        let ann = list(&app, ANN, &[]).await;
        assert_eq!(
            ann.iter().map(seen).collect::<Vec<_>>(),
            [(item, "15.00".into(), Some("20.00".into()), 2, Standing::Winning)]
        );
        let bob = list(&app, BOB, &[]).await;
        assert_eq!(
            bob.iter().map(seen).collect::<Vec<_>>(),
            [(item, "14.00".into(), None, 1, Standing::Outbid)]
        );
        assert!(!serde_json::to_string(&bob).unwrap().contains("20.00"), "her maximum is nobody's business");
        assert_eq!(ann[0].item.current_price.to_string(), "15.00");
        assert_eq!(list(&app, SELLER, &[]).await, []);
    }

    #[tokio::test]
    async fn a_refused_bid_is_no_participation_and_the_own_automatic_answer_counts() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).increment("1").offer().await.id;
        bid(&app, ANN, up_to(item, "10", "20")).await;
        let low = PlaceBid::open(item, "10.50".parse().unwrap());
        app.as_user(BOB).call(&place_bid::function(), &low).await.unwrap_err();

        assert_eq!(list(&app, BOB, &[]).await, []);
        // Going further than before is no bid.
        bid(&app, ANN, up_to(item, "10", "30")).await;
        let ann = list(&app, ANN, &[]).await;
        assert_eq!((ann[0].bids, ann[0].max_amount.unwrap().to_string()), (1, "30.00".into()));
    }

    #[tokio::test]
    async fn the_words_choose_where_the_caller_stands() {
        let app = Harness::start(crate::database()).await;
        let mut items = Vec::new();
        for n in 0..6 {
            let item = lamp(&app).buy_now("99").offer().await.id;
            if n < 5 {
                bid(&app, ANN, PlaceBid::open(item, "10".parse().unwrap())).await;
            } else {
                app.as_user(ANN).call(&buy_now::function(), &BuyNow { item_id: item }).await.unwrap();
            }
            items.push(item);
        }
        for item in [items[1], items[3]] {
            bid(&app, BOB, PlaceBid::open(item, "12".parse().unwrap())).await;
        }
        end(&app, items[2], "unsold").await;
        end(&app, items[3], "sold").await;
        end(&app, items[4], "sold").await;
        let ids = async |status: &[Standing]| {
            let lines = list(&app, ANN, status).await;
            let wanted = |line: &MyBid| status.is_empty() || status.contains(&line.status);
            assert!(lines.iter().all(wanted), "{lines:?}");
            lines.iter().map(|line| line.item.id).collect::<Vec<_>>()
        };

        assert_eq!(ids(&[Standing::Winning]).await, [items[0]]);
        assert_eq!(ids(&[Standing::Outbid]).await, [items[1]]);
        assert_eq!(ids(&[Standing::Won]).await, [items[5], items[4]]);
        assert_eq!(ids(&[Standing::Lost]).await, [items[3], items[2]], "sold to somebody else, and not sold");
        assert_eq!(ids(&[Standing::Lost, Standing::Winning]).await, [items[3], items[2], items[0]]);
        let newest_first: Vec<_> = items.iter().rev().copied().collect();
        assert_eq!(ids(&[]).await, newest_first);
    }

    #[tokio::test]
    async fn pages_go_on_where_the_last_one_ended_also_when_somebody_bids_again() {
        let app = Harness::start(crate::database()).await;
        let mut items = Vec::new();
        for _ in 0..5 {
            let item = lamp(&app).increment("1").offer().await.id;
            bid(&app, ANN, PlaceBid::open(item, "10".parse().unwrap())).await;
            items.insert(0, item);
        }
        let list = async |page| {
            let query = ListMyBids { page, ..ListMyBids::default() };
            let page = app.as_user(ANN).ask(&function(), &query).await.unwrap();
            (page.data.iter().map(|line| line.item.id).collect::<Vec<_>>(), page.page_info)
        };

        let (first, info) = list(PageQuery { limit: 2, ..PageQuery::default() }).await;
        bid(&app, BOB, PlaceBid::open(items[4], "12".parse().unwrap())).await;
        bid(&app, ANN, PlaceBid::open(items[4], "14".parse().unwrap())).await;
        let cursor = info.next_cursor.clone();
        let (second, last) = list(PageQuery { limit: 3, cursor, ..PageQuery::default() }).await;
        let (skipped, _) = list(PageQuery { offset: 4, ..PageQuery::default() }).await;

        assert_eq!((first.as_slice(), info.total, info.has_more), (&items[..2], 5, true));
        assert_eq!((second.as_slice(), last.has_more, last.next_cursor), (&items[2..], false, None));
        assert_eq!(skipped, &items[4..]);
        let page = PageQuery { cursor: Some("x".into()), ..PageQuery::default() };
        let foreign = ListMyBids { page, ..ListMyBids::default() };
        let refused = app.as_user(ANN).ask(&function(), &foreign).await.unwrap_err();
        assert!(matches!(refused, platform::Error::Refused(refused) if refused.status == 400));
        let anonymous = app.ask(&function(), &ListMyBids::default()).await.unwrap_err();
        assert!(matches!(anonymous, platform::Error::Refused(refused) if refused.status == 401));
    }

    /// What is shown is what the history of each item says, also when batches met.
    #[tokio::test]
    async fn counts_and_amounts_are_those_of_the_history() {
        let app = Harness::start(crate::database()).await;
        let items = [lamp(&app).offer().await.id, lamp(&app).offer().await.id];
        let bidders = [ANN, BOB, UserId(Uuid::from_u128(4))];
        let offers = |round: usize| -> Vec<(UserId, PlaceBid)> {
            (0..30)
                .map(|n| {
                    let amount = (100 * round + n).to_string();
                    let maximum = if n % 4 == 0 { "9000" } else { &amount };
                    (bidders[n % 3], up_to(items[n % 2], &amount, maximum))
                })
                .collect()
        };
        let function = place_bid::function();
        let (one, two, three) = (offers(1), offers(2), offers(3));
        tokio::join!(app.batch(&function, &one), app.batch(&function, &two), app.batch(&function, &three));

        let mut histories = Vec::new();
        for item_id in items {
            let page = PageQuery { limit: 100, ..PageQuery::default() };
            let bids = ListBids { item_id, page };
            histories.extend(app.ask(&list_bids::function(), &bids).await.unwrap().data);
        }
        let mut lines = 0;
        for bidder in bidders {
            for line in list(&app, bidder, &[]).await {
                let own =
                    histories.iter().filter(|bid| bid.item_id == line.item.id && bid.bidder_id == bidder);
                let newest = own.clone().max_by_key(|bid| bid.seq).unwrap();
                assert_eq!((line.bids, line.amount), (i64::try_from(own.count()).unwrap(), newest.amount));
                assert_eq!(line.status == Standing::Winning, newest.seq == line.item.bid_count);
                lines += line.bids;
            }
        }
        assert!(lines > 4, "{lines} bids");
        assert_eq!(lines, i64::try_from(histories.len()).unwrap());
    }

    #[tokio::test]
    async fn an_index_alone_answers_who_bid_on_what() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).offer().await.id;
        bid(&app, ANN, PlaceBid::open(item, "10".parse().unwrap())).await;
        // As autovacuum does: until then rows are looked at, too.
        testing::as_administrator(app.pool(), "vacuum analyze bids").await;
        let explain =
            "explain select item_id, (array_agg(id order by seq))[1], count(*), max(amount) from bids
            where bidder_id = '00000000-0000-0000-0000-000000000002' and seq is not null group by item_id";

        let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(app.pool()).await.unwrap();

        assert!(plan.iter().any(|line| line.contains("Index Only Scan using bid_of_bidder")), "{plan:#?}");
    }
}
