//! `list-watchlist`: the items that the caller watches, the one that was added last first.

use contracts::{
    Page,
    auctions::{Item, ListWatchlist},
};
use platform::{Cx, Function, Result};

use crate::store::{self, Listed};

/// Queries of [`ListWatchlist`].
pub fn function() -> Function {
    Function::query(list_watchlist)
}

async fn list_watchlist(cx: &mut Cx, ListWatchlist { page }: ListWatchlist) -> Result<Page<Item>> {
    let caller = cx.caller()?;
    let after = store::after(&page)?;
    let rows = sqlx::query_as!(
        Listed,
        "select id as place, item_id from watches where user_id = $1 and id < $2 order by id desc limit $3 offset $4",
        caller.id.0,
        after,
        i64::from(page.limit) + 1,
        store::offset(&page),
    )
    .fetch_all(cx.tx().await?)
    .await?;
    let total =
        sqlx::query_scalar!(r#"select count(*) as "count!" from watches where user_id = $1"#, caller.id.0)
            .fetch_one(cx.tx().await?)
            .await?;
    store::page(cx, rows, &page, total).await
}

#[cfg(test)]
mod tests {
    use contracts::{UserId, auctions::WatchItem, page::PageQuery};
    use testing::Harness;
    use uuid::Uuid;

    use super::*;
    use crate::{store::testing::lamp, watch_item};

    const ANN: UserId = UserId(Uuid::from_u128(2));

    #[tokio::test]
    async fn what_was_added_last_comes_first_page_by_page() {
        let app = Harness::start(crate::database()).await;
        let ann = app.as_user(ANN);
        let mut items = Vec::new();
        for _ in 0..4 {
            items.push(lamp(&app).reserve("50").offer().await.id);
        }
        for item_id in [items[2], items[0], items[3]] {
            ann.call(&watch_item::function(), &WatchItem { item_id }).await.unwrap();
        }
        let list = async |page| ann.ask(&function(), &ListWatchlist { page }).await.unwrap();
        let ids = |page: &Page<Item>| page.data.iter().map(|item| item.id).collect::<Vec<_>>();

        let first = list(PageQuery { limit: 2, ..PageQuery::default() }).await;
        let cursor = first.page_info.next_cursor.clone();
        let second = list(PageQuery { cursor, ..PageQuery::default() }).await;
        let skipped = list(PageQuery { offset: 1, ..PageQuery::default() }).await;

        assert_eq!((ids(&first), first.page_info.total), (vec![items[3], items[0]], 3));
        assert_eq!((ids(&second), second.page_info.has_more), (vec![items[2]], false));
        assert_eq!(ids(&skipped), [items[0], items[2]]);
        assert!(first.data.iter().all(|item| item.reserve_price.is_none()), "of somebody else's item");
        let page = PageQuery { cursor: Some("x".into()), ..PageQuery::default() };
        let refused = ann.ask(&function(), &ListWatchlist { page }).await.unwrap_err();
        assert!(matches!(refused, platform::Error::Refused(refused) if refused.status == 400));
    }
}
