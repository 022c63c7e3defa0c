//! Counts beside the listing, by category and by status.

use contracts::catalog::{CategoryCount, Facets, ItemSort, ListItems, StatusCount};
use platform::{Result, Timestamp};
use sqlx::PgConnection;

use crate::list_items::{FOR_FACET, Filter, Found, find, status_of};

/// Counts under the filters of a query, which `found` what it did, except each facet's own.
pub(crate) async fn count(
    tx: &mut PgConnection,
    query: &ListItems,
    found: &Found,
    now: Timestamp,
) -> Result<Facets> {
    let (of_any_category, of_any_status);
    let all = if query.category_id.is_none() {
        found
    } else {
        let filter = Filter::of(&ListItems { category_id: None, ..query.clone() }, now);
        of_any_category = find(tx, &filter, FOR_FACET).await?;
        &of_any_category
    };
    let (category, category_is_capped) = (categories(tx, all).await?, !all.complete);

    // With a status the next to end are all that stand so, with none only those that have not ended.
    let all = if query.status.is_none() && query.sort != ItemSort::EndingSoon {
        found
    } else {
        let sort = ItemSort::default();
        let filter = Filter::of(&ListItems { status: None, sort, ..query.clone() }, now);
        of_any_status = find(tx, &filter, FOR_FACET).await?;
        &of_any_status
    };
    let (status, status_is_capped) = (statuses(tx, all, now).await?, !all.complete);
    Ok(Facets { category, category_is_capped, status, status_is_capped })
}

async fn categories(tx: &mut PgConnection, found: &Found) -> Result<Vec<CategoryCount>> {
    let rows = sqlx::query!(
        r#"
        select category_id as "id!", count(*) as "count!" from items where id = any($1) and category_id is not null
        group by category_id order by count(*) desc, category_id limit $2
        "#,
        &found.ids,
        MOST_CATEGORIES,
    )
    .fetch_all(tx)
    .await?;
    Ok(rows.iter().map(|row| CategoryCount { id: row.id, count: row.count.unsigned_abs() }).collect())
}

async fn statuses(tx: &mut PgConnection, found: &Found, now: Timestamp) -> Result<Vec<StatusCount>> {
    let rows = sqlx::query!(
        r#"
        select outcome, outcome is not null or starts_at <= $2 as "begun!", count(*) as "count!"
        from items where id = any($1)
        group by 1, 2 order by count(*) desc, 1, 2
        "#,
        &found.ids,
        now as _,
    )
    .fetch_all(tx)
    .await?;
    let count = rows.iter().map(|row| StatusCount {
        status: status_of(row.outcome.as_deref(), row.begun),
        count: row.count.unsigned_abs(),
    });
    Ok(count.collect())
}

/// How many categories are told: a menu, not a catalogue.
const MOST_CATEGORIES: i64 = 100;
