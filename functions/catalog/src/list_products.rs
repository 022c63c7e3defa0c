//! `list-products`: find products, the newest first.

use contracts::{
    Page,
    catalog::{ItemSort, ListProducts, Product},
    cursor,
};
use platform::{Cx, Function, Result};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    store::{self, MOST_COUNTED},
    words,
};

/// So many are collected and sorted. Among more a page is found by walking through the ids that are left by an index.
const FEW: i64 = 1_000;

/// Queries of [`ListProducts`].
pub fn function() -> Function {
    Function::query(list_products)
}

async fn list_products(cx: &mut Cx, query: ListProducts) -> Result<Page<Product>> {
    let page = &query.page;
    let after = page.cursor.as_deref().map(|cursor| cursor::decode(ItemSort::Newest, cursor)).transpose()?;
    let after = after.map(|((), id)| id);
    let filter = Filter::of(&query);
    let tx = cx.tx().await?;
    // As in `list-items`: the values decide which index serves.
    sqlx::raw_sql("set plan_cache_mode = force_custom_plan").execute(&mut *tx).await?;
    let Matches { counted, few } = count(tx, &filter).await?;
    let most = i64::from(page.limit) + 1;
    // A cursor says where to go on: nothing is passed over again.
    let passed = if after.is_some() { 0 } else { page.offset };
    let mut ids = match few {
        Some(few) => part(few, after, passed, most),
        None => walk(tx, &filter, after, passed, most).await?,
    };
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let has_more = ids.len() > limit;
    ids.truncate(limit);
    let next_cursor = match ids.last() {
        Some(last) if has_more => Some(cursor::encode(ItemSort::Newest, &(), *last)?),
        _ => None,
    };
    let data = store::products(tx, &ids).await?;
    Ok(Page { data, page_info: store::page_info(page, counted, next_cursor) })
}

/// What is wanted, as the statements take it.
struct Filter {
    q: Option<String>,
    store: Option<String>,
    category_id: Option<i64>,
}

impl Filter {
    fn of(query: &ListProducts) -> Self {
        Self {
            q: query.q.as_deref().and_then(words::search),
            store: query.store.as_deref().map(|store| words::plain(store.trim())),
            category_id: query.category_id,
        }
    }
}

/// What the filter keeps.
struct Matches {
    /// How many, up to one more than are counted.
    counted: i64,
    /// Which, when there are few.
    few: Option<Vec<Uuid>>,
}

async fn count(tx: &mut PgConnection, filter: &Filter) -> Result<Matches> {
    let matches = sqlx::query_as!(
        Matches,
        r#"
        select count(*) as "counted!", case when count(*) <= $5 then coalesce(array_agg(id), '{}') end as few
        from (
            select id from products
            where ($1::text is null or words @@ websearch_to_tsquery('simple', $1))
                and ($2::text is null or plain_store = $2) and ($3::bigint is null or category_id = $3)
            limit $4
        ) as kept
        "#,
        filter.q,
        filter.store,
        filter.category_id,
        MOST_COUNTED + 1,
        FEW,
    );
    Ok(matches.fetch_one(tx).await?)
}

/// A page of ids that are all known.
fn part(mut ids: Vec<Uuid>, after: Option<Uuid>, passed: u32, most: i64) -> Vec<Uuid> {
    let size = |count: i64| usize::try_from(count).unwrap_or(usize::MAX);
    ids.sort_unstable_by(|one, other| other.cmp(one));
    ids.into_iter()
        .filter(|id| after.is_none_or(|after| *id < after))
        .skip(size(passed.into()))
        .take(size(most))
        .collect()
}

async fn walk(
    tx: &mut PgConnection,
    filter: &Filter,
    after: Option<Uuid>,
    passed: u32,
    most: i64,
) -> Result<Vec<Uuid>> {
    let ids = sqlx::query_scalar!(
        r#"
        select id from products
        where ($1::text is null or words @@ websearch_to_tsquery('simple', $1))
            and ($2::text is null or plain_store = $2) and ($3::bigint is null or category_id = $3)
            and ($4::uuid is null or id < $4)
        order by id desc limit $5 offset $6
        "#,
        filter.q,
        filter.store,
        filter.category_id,
        after,
        most,
        i64::from(passed),
    );
    Ok(ids.fetch_all(tx).await?)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use contracts::page::PageQuery;
    use serde_json::{Value, json};
    use testing::Harness;

    use super::*;
    use crate::fixtures::{ANN, category, product};

    async fn list(app: &Harness, query: Value) -> Page<Product> {
        let query: ListProducts = serde_json::from_value(query).unwrap();
        app.ask(&function(), &query).await.unwrap()
    }

    async fn found(app: &Harness, query: Value) -> Vec<String> {
        list(app, query).await.data.into_iter().map(|product| product.name).collect()
    }

    /// All pages, one after the other.
    async fn walked(app: &Harness, limit: u32) -> Vec<Uuid> {
        let (mut walked, mut cursor) = (Vec::new(), None);
        loop {
            let page = PageQuery { limit, offset: 0, cursor };
            let next = app.ask(&function(), &ListProducts { page, ..Default::default() }).await.unwrap();
            assert_eq!(next.page_info.has_more, next.page_info.next_cursor.is_some());
            walked.extend(next.data.iter().map(|product| product.id.0));
            cursor = next.page_info.next_cursor;
            if cursor.is_none() {
                return walked;
            }
        }
    }

    #[tokio::test]
    async fn products_are_found_by_words_shop_and_category() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let (kitchen, garden) = (category(&app, "Kitchen").await.id, category(&app, "Garden").await.id);
        for body in [
            json!({ "name": "Big Pan", "category_id": kitchen }),
            json!({ "name": "Rake", "category_id": garden, "store": "Łąka" }),
            json!({ "name": "Pot", "category_id": kitchen, "store": "Łąka", "description": "to a big pan" }),
            json!({ "name": "Book" }),
        ] {
            product(&app, body).await;
        }

        for (query, names) in [
            (json!({}), vec!["Book", "Pot", "Rake", "Big Pan"]),
            (json!({ "q": "BIG pan" }), vec!["Pot", "Big Pan"]),
            (json!({ "q": "pan -pot" }), vec!["Big Pan"]),
            (json!({ "q": "\0" }), vec!["Book", "Pot", "Rake", "Big Pan"]),
            (json!({ "store": " łĄKA" }), vec!["Pot", "Rake"]),
            (json!({ "store": "ABC" }), vec![]),
            (json!({ "categoryId": kitchen }), vec!["Pot", "Big Pan"]),
            (json!({ "category_id": kitchen, "store": "Łąka", "q": "pot" }), vec!["Pot"]),
            (json!({ "category_id": 99 }), vec![]),
            (json!({ "limit": 2, "offset": 1 }), vec!["Pot", "Rake"]),
        ] {
            assert_eq!(found(&app, query.clone()).await, names, "{query}");
        }
        let page = list(&app, json!({ "category_id": kitchen, "limit": 1 })).await.page_info;
        assert_eq!((page.total, page.total_is_capped, page.has_more), (2, false, true));
        let wrong: ListProducts = serde_json::from_value(json!({ "cursor": "x" })).unwrap();
        assert!(app.ask(&function(), &wrong).await.is_err());
    }

    /// Few are sorted by us, many by an index: the same pages, while others come and go.
    #[tokio::test]
    async fn pages_neither_repeat_nor_skip_whether_few_match_or_many() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        for _ in 0..5 {
            product(&app, json!({})).await;
        }
        assert_eq!(walked(&app, 2).await.len(), 5);

        many(&app, 2_500, None).await;
        let all = walked(&app, 100).await;

        assert_eq!(all.len(), 2_505);
        assert!(all.is_sorted_by(|one, next| one > next));
        let page = list(&app, json!({ "offset": 2_500 })).await;
        assert_eq!(page.data.iter().map(|product| product.id.0).collect::<Vec<_>>(), all[2_500..]);
        assert_eq!((page.page_info.total, page.page_info.has_more), (2_505, false));
        let store = list(&app, json!({ "store": "shop 7", "limit": 100 })).await;
        assert_eq!((store.page_info.total, store.data.len()), (25, 25));
    }

    /// Products as if they had been made, of words and shops that are seldom or often there; a tenth is in the category.
    async fn many(app: &Harness, count: i32, category: Option<i64>) {
        sqlx::query(
            "insert into products (id, owner_id, name, description, currency, price, discount, store, plain_store, image_urls,
                category_id, stock, created_at, updated_at, words)
            select gen_random_uuid(), gen_random_uuid(), 'Thing ' || n, '', 'USD', n, 0, 'Shop ' || n % 100, 'shop ' || n % 100,
                '{}', case when n % 10 = 0 then $2 end, 1, now(), now(), to_tsvector('simple', 'thing word' || n % 500 || ' rare' || n / 50)
            from generate_series(1, $1) as n",
        )
        .bind(count)
        .bind(category)
        .execute(app.pool())
        .await
        .unwrap();
        testing::as_administrator(app.pool(), "analyze products").await;
    }

    /// As Postgres counts it: no look at products reads the whole table.
    #[tokio::test]
    async fn indexes_serve_every_filter_among_many() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let kitchen = category(&app, "Kitchen").await.id;
        many(&app, 30_000, Some(kitchen)).await;

        for (query, total) in [
            (json!({ "store": "Shop 7" }), 300),
            (json!({ "q": "rare7" }), 50),
            (json!({ "category_id": kitchen }), 3_000),
            (json!({ "category_id": kitchen, "offset": 2_990 }), 3_000),
        ] {
            assert_eq!(list(&app, query.clone()).await.page_info.total, total, "{query}");
        }

        let deadline = Instant::now() + Duration::from_secs(30);
        for index in ["product_store", "product_words", "product_category_id"] {
            // A session tells what it counted when it does something and has not told for a while.
            while scans(&app, "select idx_scan from pg_stat_user_indexes where indexrelname = $1", index)
                .await
                == 0
            {
                assert!(Instant::now() < deadline, "{index} served nothing");
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        let whole = "select seq_scan from pg_stat_user_tables where relname = $1";
        assert_eq!(scans(&app, whole, "products").await, 0);
    }

    async fn scans(app: &Harness, sql: &'static str, name: &str) -> i64 {
        sqlx::query_scalar(sql).bind(name).fetch_one(app.pool()).await.unwrap()
    }
}
