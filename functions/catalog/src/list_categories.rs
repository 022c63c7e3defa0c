//! `list-categories`: all categories, the first that was made first. Their `parent_id`s make the tree.

use contracts::{
    Page,
    catalog::{Category, ItemSort, ListCategories},
    cursor,
};
use platform::{Cx, Function, Result};
use uuid::Uuid;

use crate::store::{self, CategoryRow, MOST_COUNTED};

/// Queries of [`ListCategories`].
pub fn function() -> Function {
    Function::query(list_categories)
}

async fn list_categories(cx: &mut Cx, ListCategories { page }: ListCategories) -> Result<Page<Category>> {
    let after = page.cursor.as_deref().map(|cursor| cursor::decode(ItemSort::Newest, cursor)).transpose()?;
    let after: Option<i64> = after.map(|(id, _)| id);
    let tx = cx.tx().await?;
    let counted = sqlx::query_scalar!(
        r#"select count(*) as "count!" from (select from categories limit $1) as counted"#,
        MOST_COUNTED + 1
    )
    .fetch_one(&mut *tx)
    .await?;
    let mut rows = sqlx::query_as!(
        CategoryRow,
        r#"
        select id, owner_id, name, description, parent_id, coalesce(products, 0) as "product_count!", version,
            created_at, updated_at
        from categories left join product_counts on category_id = id
        where id > $1 order by id limit $2 offset $3
        "#,
        after.unwrap_or(0),
        i64::from(page.limit) + 1,
        // A cursor says where to go on: nothing is passed over again.
        if after.is_some() { 0 } else { i64::from(page.offset) },
    )
    .fetch_all(tx)
    .await?;
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = match rows.last() {
        Some(last) if has_more => Some(cursor::encode(ItemSort::Newest, &last.id, Uuid::nil())?),
        _ => None,
    };
    let page_info = store::page_info(&page, counted, next_cursor);
    Ok(Page { data: rows.into_iter().map(Category::from).collect(), page_info })
}

#[cfg(test)]
mod tests {
    use contracts::page::PageQuery;
    use testing::Harness;

    use super::*;
    use crate::fixtures::{ANN, category};

    #[tokio::test]
    async fn pages_neither_repeat_nor_skip() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let list = async |page: PageQuery| app.ask(&function(), &ListCategories { page }).await.unwrap();
        assert_eq!(list(PageQuery::default()).await.data, []);
        let mut made = Vec::new();
        for name in ["A", "B", "C", "D", "E"] {
            made.push(category(&app, name).await);
        }

        let (mut walked, mut cursor) = (Vec::new(), None);
        loop {
            let page = list(PageQuery { limit: 2, offset: 0, cursor }).await;
            assert_eq!((page.page_info.total, page.page_info.limit), (5, 2));
            assert_eq!(page.page_info.has_more, page.page_info.next_cursor.is_some());
            walked.extend(page.data);
            cursor = page.page_info.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(walked, made);
        let late = list(PageQuery { limit: 2, offset: 3, cursor: None }).await;
        assert_eq!((late.data.as_slice(), late.page_info.has_more), (&made[3..], false));
        let wrong = PageQuery { cursor: Some("x".into()), ..PageQuery::default() };
        assert!(app.ask(&function(), &ListCategories { page: wrong }).await.is_err());
    }
}
