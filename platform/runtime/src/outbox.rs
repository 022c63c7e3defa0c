//! What a transaction says is written beside what it does, as one row.
//!
//! The [relay](crate::relay) publishes rows after their commit.

use sqlx::{PgConnection, PgPool};

use crate::{Result, Timestamp, relay::Published, wire::Outgoing};

/// Writes the events of the transaction.
pub(crate) async fn store(tx: &mut PgConnection, events: &[Outgoing]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into platform.outbox (events_count, events) values ($1, $2)",
        i32::try_from(events.len()).unwrap_or(i32::MAX),
        serde_json::to_string(events)?,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// A row that waits to be published.
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) events: Vec<Outgoing>,
}

/// The oldest rows that were not published yet. Rows of one thing are in the order of its
/// changes: a later change takes its id while holding a lock that the earlier one held to its end.
pub(crate) async fn unpublished(connection: &mut PgConnection, limit: i64) -> Result<Vec<Row>> {
    let rows = sqlx::query!(
        "select id, events from platform.outbox where not published order by id limit $1",
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let events = serde_json::from_str(&row.events)?;
            Ok(Row { id: row.id, events })
        })
        .collect()
}

/// Notes where in the stream the rows' first and last events were stored.
pub(crate) async fn mark_published(
    connection: &mut PgConnection,
    ids: &[i64],
    first: &[i64],
    last: &[i64],
) -> Result<()> {
    sqlx::query!(
        r#"
        update platform.outbox set published = true, first_seq = row.first_seq, last_seq = row.last_seq
        from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as row (id, first_seq, last_seq)
        where outbox.id = row.id and not published
        "#,
        ids,
        first,
        last,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A row that was published, and where the stream stored it.
pub(crate) struct Stored {
    pub(crate) first_seq: i64,
    pub(crate) last_seq: i64,
    /// The ids of its events; the one at `last_seq` is among them.
    pub(crate) events: Vec<String>,
    pub(crate) created_at: Timestamp,
}

/// The lowest and the highest place among the rows that were published and are still kept.
pub(crate) async fn stored_range(connection: &mut PgConnection) -> Result<Option<(i64, i64)>> {
    let range = sqlx::query!(
        r#"
        select (select last_seq from platform.outbox where published order by last_seq limit 1) as oldest,
            (select last_seq from platform.outbox where published order by last_seq desc limit 1) as newest
        "#,
    )
    .fetch_one(connection)
    .await?;
    Ok(range.oldest.zip(range.newest))
}

/// The first published row from this place on.
pub(crate) async fn stored_from(connection: &mut PgConnection, place: i64) -> Result<Option<Stored>> {
    let row = sqlx::query_as!(
        Stored,
        r#"
        select first_seq as "first_seq!", last_seq as "last_seq!", created_at,
            array(select event ->> 'id' from json_array_elements(events::json) as event) as "events!"
        from platform.outbox where published and last_seq >= $1 order by last_seq limit 1
        "#,
        place,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// How many rows up to this one wait to be published, and which is the newest.
pub(crate) async fn published(pool: &PgPool, up_to: Option<i64>) -> Result<Published> {
    let row = sqlx::query_as!(
        Published,
        r#"
        select coalesce((select max(id) from platform.outbox), 0) as "newest!",
            (select count(*) from platform.outbox where not published and id <= coalesce($1, id)) as "waiting!"
        "#,
        up_to,
    )
    .fetch_one(pool)
    .await?;
    Ok(row)
}

/// Gives back every published row from this place on. Returns how many.
pub(crate) async fn unmark(connection: &mut PgConnection, place: i64) -> Result<u64> {
    let mut all = 0;
    loop {
        // In pieces: a wiped stream gives back a day, and a statement has five seconds.
        let given_back = sqlx::query!(
            r#"
            update platform.outbox set published = false where (id, day) in (
                select id, day from platform.outbox where published and last_seq >= $1
                order by last_seq desc limit 2000
            )
            "#,
            place
        )
        .execute(&mut *connection)
        .await?
        .rows_affected();
        all += given_back;
        if given_back == 0 {
            return Ok(all);
        }
    }
}
