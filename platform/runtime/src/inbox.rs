//! The ids of the events that a consumer has counted: at least once delivered, once counted.

use std::collections::HashSet;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::Result;

/// Notes events in the consumer's transaction. Returns those that it has not counted before.
pub(crate) async fn claim(tx: &mut PgConnection, consumer: &str, events: &[Uuid]) -> Result<HashSet<Uuid>> {
    let fresh = sqlx::query_scalar!(
        r#"
        insert into platform.inbox (consumer, event_id)
        select $1, event_id from unnest($2::uuid[]) as heard (event_id)
        order by event_id
        on conflict do nothing
        returning event_id
        "#,
        consumer,
        events,
    )
    .fetch_all(tx)
    .await?;
    Ok(fresh.into_iter().collect())
}
