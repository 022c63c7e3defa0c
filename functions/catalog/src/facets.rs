//! Counts beside the listing, by category and by status.

use contracts::catalog::{CategoryCount, Facets, ItemSort, ListItems, StatusCount};
use platform::{Result, Timestamp};
use sqlx::PgConnection;

use crate::list_items::{Filter, MOST_COUNTED, over_items, status_of};

/// Counts under the filters of a query, except each facet's own.
pub(crate) async fn count(tx: &mut PgConnection, query: &ListItems, now: Timestamp) -> Result<Facets> {
    let (category, category_is_capped) = categories(tx, query, now).await?;
    let (status, status_is_capped) = statuses(tx, query, now).await?;
    Ok(Facets { category, category_is_capped, status, status_is_capped })
}

async fn categories(
    tx: &mut PgConnection,
    query: &ListItems,
    now: Timestamp,
) -> Result<(Vec<CategoryCount>, bool)> {
    let filter = Filter::of(&ListItems { category_id: None, ..query.clone() }, now);
    let rows = over_items!(
        query!(
            r#"select category_id as "id!", count(*) as "count!", (sum(count(*)) over ())::bigint as "all!"
            from (select category_id from items left join prices on item_id = id"#,
            "and category_id is not null limit $10) as kept
            group by category_id order by count(*) desc, category_id limit $11"
        ),
        filter,
        MOST_COUNTED + 1,
        MOST_CATEGORIES
    )
    .fetch_all(tx)
    .await?;
    let capped = rows.first().is_some_and(|row| row.all > MOST_COUNTED);
    Ok((
        rows.iter().map(|row| CategoryCount { id: row.id, count: row.count.unsigned_abs() }).collect(),
        capped,
    ))
}

async fn statuses(
    tx: &mut PgConnection,
    query: &ListItems,
    now: Timestamp,
) -> Result<(Vec<StatusCount>, bool)> {
    // With a status the next to end are all that stand so, with none only those that have not ended.
    let sort = ItemSort::default();
    let filter = Filter::of(&ListItems { status: None, sort, ..query.clone() }, now);
    let rows = over_items!(
        query!(
            r#"select outcome, begun as "begun!", count(*) as "count!", (sum(count(*)) over ())::bigint as "all!"
            from (select outcome, outcome is not null or starts_at <= $8 as begun
                from items left join prices on item_id = id"#,
            "limit $10) as kept
            group by outcome, begun order by count(*) desc, outcome, begun"
        ),
        filter,
        MOST_COUNTED + 1
    )
    .fetch_all(tx)
    .await?;
    let capped = rows.first().is_some_and(|row| row.all > MOST_COUNTED);
    let count = rows.iter().map(|row| StatusCount {
        status: status_of(row.outcome.as_deref(), row.begun),
        count: row.count.unsigned_abs(),
    });
    Ok((count.collect(), capped))
}

/// How many categories are told: a menu, not a catalogue.
const MOST_CATEGORIES: i64 = 100;
