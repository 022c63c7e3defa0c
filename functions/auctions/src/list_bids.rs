//! `list-bids`: the accepted bids of an item, newest first.

use contracts::{
    BidId, Currency, Money, Page, UserId,
    auctions::{Bid, ListBids},
    page::PageInfo,
};
use platform::{Cx, Function, Refused, Result};

use crate::auction::NoItem;

/// Queries of [`ListBids`].
pub fn function() -> Function {
    Function::query(list_bids)
}

async fn list_bids(cx: &mut Cx, query: ListBids) -> Result<Page<Bid>> {
    let page = &query.page;
    let item = sqlx::query!("select bid_count, currency from items where id = $1", query.item_id.0)
        .fetch_optional(cx.tx().await?)
        .await?
        .ok_or(NoItem)?;
    let currency: Currency = item.currency.parse().map_err(anyhow::Error::new)?;
    // Accepted bids are numbered from 1 without a gap, so a place in the list is arithmetic.
    let after = match &page.cursor {
        Some(cursor) => cursor.parse().map_err(|_| Refused::unknown_place("cursor"))?,
        None => item.bid_count + 1 - i64::from(page.offset),
    };
    let rows = sqlx::query!(
        r#"
        select id, bidder_id as "bidder_id!", amount as "amount!", seq as "seq!", placed_at,
            command_id = id as "automatic!"
        from bids where item_id = $1 and seq < $2 order by seq desc limit $3
        "#,
        query.item_id.0,
        after,
        i64::from(page.limit),
    )
    .fetch_all(cx.tx().await?)
    .await?;
    let data: Vec<Bid> = rows
        .into_iter()
        .map(|row| Bid {
            id: BidId(row.id),
            item_id: query.item_id,
            bidder_id: UserId(row.bidder_id),
            amount: Money::new(row.amount, currency).into(),
            seq: row.seq,
            placed_at: row.placed_at,
            leading: row.seq == item.bid_count,
            automatic: row.automatic,
            max_amount: None,
            item: None,
        })
        .collect();
    let last = data.last().map_or(0, |bid| bid.seq);
    let page_info = PageInfo {
        total: u64::try_from(item.bid_count).unwrap_or_default(),
        total_is_capped: false,
        limit: page.limit,
        offset: page.offset,
        has_more: last > 1,
        next_cursor: (last > 1).then(|| last.to_string()),
    };
    Ok(Page { data, page_info })
}

#[cfg(test)]
mod tests {
    use contracts::{Amount, ItemId, auctions::PlaceBid, page::PageQuery};
    use testing::Harness;
    use uuid::Uuid;

    use super::*;
    use crate::store::testing::lamp;

    async fn seqs(app: &Harness, item_id: ItemId, page: PageQuery) -> (Vec<i64>, PageInfo) {
        let page = app.ask(&function(), &ListBids { item_id, page }).await.unwrap();
        (page.data.iter().map(|bid| bid.seq).collect(), page.page_info)
    }

    #[tokio::test]
    async fn pages_run_from_the_newest_to_the_first() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).offer().await;
        for dollars in 10..15_u32 {
            let amount: Amount = dollars.to_string().parse().unwrap();
            let bidder = app.as_user(UserId(Uuid::from_u128(7)));
            bidder.call(&crate::place_bid::function(), &PlaceBid::open(item.id, amount)).await.unwrap();
        }

        let first = seqs(&app, item.id, PageQuery { limit: 2, ..PageQuery::default() }).await;
        let cursor = first.1.next_cursor.clone();
        let second = seqs(&app, item.id, PageQuery { limit: 3, cursor, ..PageQuery::default() }).await;
        let skipped = seqs(&app, item.id, PageQuery { offset: 4, ..PageQuery::default() }).await;

        assert_eq!((first.0, first.1.total, first.1.has_more), (vec![5, 4], 5, true));
        assert_eq!((second.0, second.1.has_more, second.1.next_cursor), (vec![3, 2, 1], false, None));
        assert_eq!(skipped.0, [1]);
    }

    #[tokio::test]
    async fn an_invented_cursor_and_an_unknown_item_are_refused() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).offer().await;
        let page = PageQuery { cursor: Some("x".into()), ..PageQuery::default() };

        let cursor = app.ask(&function(), &ListBids { item_id: item.id, page }).await.unwrap_err();
        let unknown =
            app.ask(&function(), &ListBids { item_id: ItemId::new(), page: PageQuery::default() }).await;

        assert!(matches!(cursor, platform::Error::Refused(refused) if refused.status == 400));
        assert!(matches!(unknown, Err(platform::Error::Refused(refused)) if refused.status == 404));
    }
}
