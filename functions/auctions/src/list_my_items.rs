//! `list-my-items`: the items that the caller offers, the newest first.

use contracts::{
    Page,
    auctions::{Item, ItemStatus, ListMyItems},
};
use platform::{Cx, Function, Result};

use crate::store::{self, Listed};

/// Queries of [`ListMyItems`].
pub fn function() -> Function {
    Function::query(list_my_items)
}

async fn list_my_items(cx: &mut Cx, ListMyItems { status, page }: ListMyItems) -> Result<Page<Item>> {
    let (caller, now) = (cx.caller()?, cx.now());
    let after = store::after(&page)?;
    // What has no outcome is open or not yet, by the clock.
    let (outcome, begun) = match status {
        None => (None, None),
        Some(ItemStatus::Scheduled) => (None, Some(false)),
        Some(ItemStatus::Open) => (None, Some(true)),
        Some(ended) => (Some(ended.as_str()), None),
    };
    let rows = sqlx::query_as!(
        Listed,
        r#"
        select id as place, id as item_id from items
        where seller_id = $1 and id < $2 and ($5::text is null or outcome = $5)
            and ($6::boolean is null or (outcome is null and (starts_at <= $7) = $6))
        order by id desc limit $3 offset $4
        "#,
        caller.id.0,
        after,
        i64::from(page.limit) + 1,
        store::offset(&page),
        outcome,
        begun,
        now,
    )
    .fetch_all(cx.tx().await?)
    .await?;
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "count!" from items
        where seller_id = $1 and ($2::text is null or outcome = $2)
            and ($3::boolean is null or (outcome is null and (starts_at <= $4) = $3))
        "#,
        caller.id.0,
        outcome,
        begun,
        now,
    )
    .fetch_one(cx.tx().await?)
    .await?;
    store::page(cx, rows, &page, total).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::{Timestamp, UserId, page::PageQuery};
    use testing::Harness;
    use uuid::Uuid;

    use super::*;
    use crate::store::testing::{SELLER, lamp};

    #[tokio::test]
    async fn a_seller_sees_the_own_items_with_their_reserves_and_how_they_stand() {
        let app = Harness::start(crate::database()).await;
        let mut items = Vec::new();
        for _ in 0..3 {
            items.push(lamp(&app).reserve("50").offer().await.id);
        }
        let later = Timestamp::now() + Duration::from_secs(30);
        let update = "update items set starts_at = case when id = $1 then $3 else starts_at end,
            outcome = case when id = $2 then 'unsold' end";
        sqlx::query(update).bind(items[0].0).bind(items[1].0).bind(later).execute(app.pool()).await.unwrap();
        let list = async |who, status, limit, cursor| {
            let page = PageQuery { limit, cursor, ..PageQuery::default() };
            app.as_user(who).ask(&function(), &ListMyItems { status, page }).await.unwrap()
        };
        let ids = |page: &Page<Item>| page.data.iter().map(|item| item.id).collect::<Vec<_>>();

        let first = list(SELLER, None, 2, None).await;
        let second = list(SELLER, None, 2, first.page_info.next_cursor.clone()).await;

        assert_eq!((ids(&first), first.page_info.has_more), (vec![items[2], items[1]], true));
        assert_eq!((ids(&second), second.page_info.total), (vec![items[0]], 3));
        assert!(first.data.iter().all(|item| item.reserve_price.is_some()));
        for (status, item) in
            [(ItemStatus::Scheduled, items[0]), (ItemStatus::Unsold, items[1]), (ItemStatus::Open, items[2])]
        {
            let listed = list(SELLER, Some(status), 20, None).await;
            assert_eq!((ids(&listed), listed.page_info.total), (vec![item], 1), "{status:?}");
        }
        assert_eq!(list(SELLER, Some(ItemStatus::Sold), 20, None).await.data, []);
        assert_eq!(list(UserId(Uuid::from_u128(9)), None, 20, None).await.data, []);
    }
}
