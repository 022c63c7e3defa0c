//! What a transaction says is written beside what it does, as one row.
//!
//! The [relay](crate::relay) publishes rows after their commit.

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::{Config, Result, Timestamp, error::is_crowded, relay::Published, wire::Outgoing};

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

/// How much is published at once: so many rows, and none behind so many events.
#[derive(Clone, Copy)]
pub(crate) struct Round {
    pub(crate) rows: i64,
    pub(crate) events: i64,
}

impl Round {
    /// Whether there may be more behind so many rows with so many events.
    pub(crate) fn is_full(self, rows: usize, events: usize) -> bool {
        let reached = |count: usize, most: i64| i64::try_from(count).is_ok_and(|count| count >= most);
        reached(rows, self.rows) || reached(events, self.events)
    }
}

/// A row that waits to be published.
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) events: Vec<Outgoing>,
}

/// The oldest rows that were not published yet, in which there are few events together: a row may hold thousands, and many
/// such rows are more than a relay has memory for. Rows of one thing are in the order of its changes: a later change takes
/// its id while holding a lock that the earlier one held to its end.
pub(crate) async fn unpublished(connection: &mut PgConnection, most: Round) -> Result<Vec<Row>> {
    let rows = sqlx::query!(
        r#"
        select id as "id!", events as "events!" from (
            select id, events, sum(events_count) over (order by id) - events_count as before from (
                select id, events, events_count from platform.outbox where not published order by id limit $1
            ) as oldest
        ) as counted
        where before < $2 order by id
        "#,
        most.rows,
        most.events,
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

/// The most rows deleted in one piece.
const PIECE: i64 = 5_000;

/// Drops the partitions whose every row is past keeping, and more while the outbox is larger than it may be. A row
/// that is not published never goes. Needs the owner's role.
pub(crate) async fn let_go(owner: &mut PgConnection, config: &Config) -> anyhow::Result<()> {
    let hours = i32::try_from(config.outbox_retention_hours).unwrap_or(i32::MAX);
    let past = sqlx::query!(
        r#"
        select relname::text as "name!",
            to_date(right(relname, 8), 'YYYYMMDD') + 1 < (now() at time zone 'utc') - make_interval(hours => $1)
                as "is_past_keeping!",
            pg_total_relation_size(oid) as "bytes!"
        from pg_class
        where relnamespace = 'platform'::regnamespace and relname ~ '^outbox_[0-9]{8}$' and relkind = 'r'
            and to_date(right(relname, 8), 'YYYYMMDD') < (now() at time zone 'utc')::date
        order by 1
        "#,
        hours,
    )
    .fetch_all(&mut *owner)
    .await?;
    let most = i64::try_from(config.outbox_max_bytes).unwrap_or(i64::MAX);
    let mut bytes = size(owner).await?;
    for partition in past {
        if (partition.is_past_keeping || bytes > most) && drop_partition(owner, &partition.name).await? {
            bytes -= partition.bytes;
        }
    }
    // What came on a day for which no partition was made.
    delete(
        owner,
        "outbox_default",
        "created_at < now() - make_interval(hours => $1::integer)",
        i64::from(hours),
    )
    .await?;
    if bytes > most {
        shorten(owner, most).await?;
    }
    Ok(())
}

async fn size(owner: &mut PgConnection) -> anyhow::Result<i64> {
    let bytes = sqlx::query_scalar!(
        r#"
        select coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint as "bytes!"
        from pg_inherits where inhparent = 'platform.outbox'::regclass
        "#,
    )
    .fetch_one(owner)
    .await?;
    Ok(bytes)
}

/// Drops a partition that has no unpublished row; false when it has one, or when others keep it busy.
async fn drop_partition(owner: &mut PgConnection, name: &str) -> anyhow::Result<bool> {
    let mut tx = owner.begin().await?;
    // Nobody writes between the look and the drop: the relay may give rows back at any time. Whoever writes to
    // the outbox waits behind this lock, so it is not waited for long; the next round comes.
    let lock = format!(
        "set local lock_timeout = '500ms'; lock table only platform.outbox, platform.{name} in access exclusive mode"
    );
    match sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *tx).await.map_err(anyhow::Error::from) {
        Ok(_) => {}
        Err(error) if is_crowded(&error) => {
            tracing::info!(partition = name, "busy, not dropped this time");
            return Ok(false);
        }
        Err(error) => return Err(error.context(format!("drop {name}"))),
    }
    let check = format!("select exists (select from platform.{name} where not published)");
    let waiting: bool = sqlx::query_scalar(AssertSqlSafe(check)).fetch_one(&mut *tx).await?;
    if waiting {
        tracing::warn!(partition = name, "rows wait to be published, not dropped: is the relay running?");
        return Ok(false);
    }
    sqlx::raw_sql(AssertSqlSafe(format!("drop table platform.{name}"))).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}

/// Deletes the oldest published rows of today, when they alone are more than there may be. Their room is
/// used again.
async fn shorten(owner: &mut PgConnection, most: i64) -> anyhow::Result<()> {
    let kept = sqlx::query!(
        r#"
        select max(id) as newest, avg(bytes)::bigint as bytes
        from (select id, octet_length(events) + 150 as bytes from platform.outbox order by id desc limit 1000) rows
        "#,
    )
    .fetch_one(&mut *owner)
    .await?;
    let (Some(newest), Some(bytes)) = (kept.newest, kept.bytes) else { return Ok(()) };
    let before = newest - most / bytes.max(1);
    let deleted = delete(owner, "outbox", "id <= $1", before).await?;
    if deleted > 0 {
        tracing::warn!(
            rows = deleted,
            "the outbox is as large as it may be: what the stream loses is kept for less long"
        );
    }
    Ok(())
}

/// Deletes published rows in small pieces.
async fn delete(owner: &mut PgConnection, table: &str, which: &str, value: i64) -> anyhow::Result<u64> {
    let sql = format!(
        "delete from platform.{table} where published and (id, day) in
            (select id, day from platform.{table} where published and {which} order by id limit {PIECE})"
    );
    let mut all = 0;
    loop {
        let query = sqlx::query(AssertSqlSafe(sql.clone())).bind(value);
        let deleted = query.execute(&mut *owner).await?.rows_affected();
        all += deleted;
        if deleted < PIECE.unsigned_abs() {
            return Ok(all);
        }
    }
}
