//! The end of an item, whatever caused it: its time is over, somebody bought it, or it was taken back.

use contracts::{
    Timestamp,
    auctions::{BidWon, ItemChange, ItemClosed, ItemState},
};
use platform::{Cx, Result};
use uuid::Uuid;

use crate::{
    auction::Outcome,
    store::{self, Whole},
};

/// Writes and tells how items ended. The caller holds their locks, and has asked the rules.
pub(crate) async fn fall(cx: &mut Cx, items: &mut [Whole], closed_at: Timestamp) -> Result<()> {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for item in &mut *items {
        let outcome = item.auction.outcome.ok_or_else(|| anyhow::anyhow!("an item that has not ended"))?;
        columns.0.push(item.auction.id.0);
        columns.1.push(outcome.as_str().to_owned());
        columns.2.push(item.auction.revision);
        item.description.closed_at = Some(closed_at);
        item.description.updated_at = closed_at;
    }
    let (ids, outcomes, revisions): (Vec<Uuid>, Vec<String>, Vec<i64>) = columns;
    sqlx::query!(
        r#"
        update items set outcome = hammer.outcome, closed_at = $4, updated_at = $4, revision = hammer.revision
        from unnest($1::uuid[], $2::text[], $3::bigint[]) as hammer (item_id, outcome, revision)
        where items.id = hammer.item_id
        "#,
        &ids,
        &outcomes,
        &revisions,
        closed_at,
    )
    .execute(cx.tx().await?)
    .await?;
    let states: Vec<ItemState> = items.iter().map(|item| item.state(closed_at)).collect();
    store::log_changes(cx.tx().await?, &states, ItemChange::ended).await?;
    for (item, state) in items.iter().zip(states) {
        cx.emit(&ItemClosed(state))?;
        if let (Some(Outcome::Sold), Some(won)) = (item.auction.outcome, item.auction.leading) {
            cx.emit(&BidWon {
                item_id: item.auction.id,
                item_name: item.description.name.clone(),
                bid_id: won.bid,
                winner_id: won.bidder,
                seller_id: item.auction.seller,
                amount: won.price.into(),
                currency: won.price.currency,
                seq: item.auction.bid_count,
                closed_at,
            })?;
        }
    }
    Ok(())
}
