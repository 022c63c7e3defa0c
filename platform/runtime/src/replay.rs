//! Makes a projection anew from what its authority knows, or several of them, while its consumer goes on.
//!
//! The rebuild works in tables of its own, beside the live ones, and takes their place in one transaction:
//! nobody ever reads an empty or a half table. Every event counts once, although the authority's snapshot and
//! the stream overlap:
//!
//! 1. The end of the stream is noted, then the snapshot is read, page by page. What the stream held by then had
//!    been committed before, so the snapshot tells it: events up to the noted place are contained. Of several
//!    authorities each tells its own events, so it is as if one told all.
//! 2. For every thing the snapshot tells all events up to a version, and that version is noted. Of the events
//!    behind the noted place those up to their thing's version are contained, and the others are applied.
//! 3. The relay of the authority is asked until it has published all that had been said when the snapshot
//!    ended. From here on every event that the snapshot contains has a place in the stream.
//! 4. The stream is read to its end, from where the consumer has settled everything, and the id of each event
//!    is noted, whether it was contained or applied.
//! 5. The swap holds off the consumer by a lock on its inbox, reads the little that came meanwhile, changes the
//!    live tables into the new ones, and notes all those ids in the inbox. What the consumer had counted is in the new
//!    tables, because it had been delivered from the stream by then; what it had not counted and the new
//!    tables contain, it will find in its inbox. All other events come after and are counted by it.
//!
//! When the server was away meanwhile, the stream may have gone back, and the rebuild is broken off.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgPoolOptions};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Answer, Cx, Delivery, Event, Host, Kind, Refused, Timestamp, Trace,
    bus::{Bus, Session},
    cache, dead_letter,
    error::{Outage, Result, is_outage},
    function::{Fact, Rebuild, Snapshot},
    invoke::Work,
    runner,
    service::Service,
    wire,
};

/// The advisory lock of a rebuild: one at a time in a database.
const LOCK: i64 = 0x6f75_7472_6562_6c64;
/// The most events of the stream that are read at once.
const BATCH: usize = 1_000;
/// The swap begins when fewer events than this are left to read.
const NEARLY: usize = 2_000;
/// How long the swap may hold off the consumer by reading; then it lets go and tries again.
const LONGEST_READ: Duration = Duration::from_secs(1);
/// How often the swap is tried.
const SWAPS: usize = 20;
/// How long the relay may take to publish what the snapshot contains.
const RELAY_PATIENCE: Duration = Duration::from_secs(60);
/// How often a page of the snapshot is asked for.
const ASKS: usize = 5;
/// When a page of a snapshot is full, in bytes: well below what a message may hold.
const PAGE: usize = 400_000;
/// How often a consumer looks whether the stream has outrun it.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A part of all that a domain could tell: events as it would say them now.
///
/// For one name and key they come in the order of their versions, without a gap up to the highest; where a
/// name's newer event says all that an older one did, the newest is enough.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SnapshotPage {
    /// The events.
    pub events: Vec<Told>,
    /// Where the next page begins; none behind the last one.
    pub after: Option<String>,
    #[serde(skip)]
    bytes: usize,
}

/// An event that a snapshot tells.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    /// Its name.
    pub event: String,
    /// The fact.
    pub payload: Box<RawValue>,
}

impl SnapshotPage {
    /// Adds an event.
    pub fn tell<E: Event>(&mut self, event: &E) -> Result<()> {
        let payload = serde_json::value::to_raw_value(event)?;
        self.bytes += payload.get().len();
        self.events.push(Told { event: E::NAME.to_owned(), payload });
        Ok(())
    }

    /// Whether the rest belongs on the next page.
    pub fn is_full(&self) -> bool {
        self.bytes >= PAGE
    }
}

/// Who tells events that are lived through again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToldBy {
    /// The authority's snapshot.
    Snapshot,
    /// The stream; events up to this place are in the snapshot.
    Stream { contained: i64 },
}

/// An event that is told again.
pub(crate) struct Heard {
    pub(crate) id: Uuid,
    pub(crate) place: u64,
    pub(crate) fact: Fact,
}

/// Which of the events the rebuilt tables do not contain yet, in order; from now on they do.
pub(crate) async fn fresh(tx: &mut PgConnection, heard: &[Heard], told_by: ToldBy) -> Result<Vec<bool>> {
    let events: Vec<&str> = heard.iter().map(|heard| heard.fact.event).collect();
    let keys: Vec<Uuid> = heard.iter().map(|heard| heard.fact.key).collect();
    let versions: Vec<i64> = heard.iter().map(|heard| heard.fact.ordinal).collect();
    let contained = match told_by {
        ToldBy::Snapshot => {
            sqlx::query(
                "insert into rebuild.contained (event, key, version)
                select event, key, max(version) from unnest($1::text[], $2::uuid[], $3::bigint[])
                    as told (event, key, version) group by event, key
                on conflict (event, key) do update set version = greatest(contained.version, excluded.version)",
            )
            .bind(&events)
            .bind(&keys)
            .bind(&versions)
            .execute(tx)
            .await?;
            return Ok(vec![true; heard.len()]);
        }
        ToldBy::Stream { contained } => contained,
    };
    let ids: Vec<Uuid> = heard.iter().map(|heard| heard.id).collect();
    let claimed: Vec<Uuid> = sqlx::query_scalar(
        "insert into rebuild.inbox (event_id) select unnest($1::uuid[]) on conflict do nothing returning event_id",
    )
    .bind(&ids)
    .fetch_all(&mut *tx)
    .await?;
    let told: Vec<(String, Uuid, i64)> = sqlx::query_as(
        "select event, key, version from rebuild.contained where (event, key) in
            (select * from unnest($1::text[], $2::uuid[]))",
    )
    .bind(&events)
    .bind(&keys)
    .fetch_all(tx)
    .await?;
    let told: HashMap<(&str, Uuid), i64> =
        told.iter().map(|(event, key, version)| ((event.as_str(), *key), *version)).collect();
    let mut claimed: HashSet<Uuid> = claimed.into_iter().collect();
    let is_fresh = |heard: &Heard| {
        let Heard { id, place, fact } = heard;
        // Removing keeps one of two copies in the same batch.
        claimed.remove(id)
            && i64::try_from(*place).is_ok_and(|place| place > contained)
            && told.get(&(fact.event, fact.key)).is_none_or(|version| fact.ordinal > *version)
    };
    Ok(heard.iter().map(is_fresh).collect())
}

/// How a rebuild goes, or went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    /// Whether it runs now.
    pub running: bool,
    /// What it does, or did last.
    pub step: String,
    /// How many events the snapshot told.
    pub told: i64,
    /// How many events of the stream were looked at.
    pub heard: i64,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; none while it runs, and when it was broken off.
    pub ended_at: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What is asked of a function about its projection.
#[derive(Serialize, Deserialize)]
struct Asked {
    start: bool,
}

/// Has a function rebuild its projection. Returns when it has begun; refused when one runs already.
pub async fn start(bus: &Bus, function: &str) -> Result<Progress> {
    ask(bus, function, true).await
}

/// How the rebuild goes that was started last.
pub async fn progress(bus: &Bus, function: &str) -> Result<Progress> {
    ask(bus, function, false).await
}

async fn ask(bus: &Bus, function: &str, start: bool) -> Result<Progress> {
    let subject = format!("replay.{function}");
    bus.request_once(subject, &Asked { start }, &Trace::start()).await?.parse()
}

/// Lets a service be asked for a rebuild.
pub(crate) fn serve(service: Service, host: &Arc<Host>, bus: &Bus, stop: &CancellationToken) -> Service {
    let (host, bus, stop) = (Arc::clone(host), bus.clone(), stop.clone());
    let subject = format!("replay.{}", host.spec().name);
    service.answering("replay", subject, 4, move |request| {
        let (host, bus, stop) = (Arc::clone(&host), bus.clone(), stop.clone());
        Box::pin(async move {
            match answer(&request, host, bus, stop).await.and_then(|told| Ok(Answer::accepted(&told)?)) {
                Ok(answer) => answer,
                Err(crate::Error::Refused(refused)) => Answer::refused(&refused),
                // Who asks is an operator.
                Err(error) => Answer::failure(500, "INTERNAL", &format!("{:#}", anyhow::Error::from(error))),
            }
        })
    })
}

async fn answer(request: &Delivery, host: Arc<Host>, bus: Bus, stop: CancellationToken) -> Result<Progress> {
    let asked: Asked =
        serde_json::from_slice(&request.body).map_err(|error| Refused::malformed(error.to_string()))?;
    if asked.start {
        let lock = Lock::take(&host).await?;
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            let _ = stop.run_until_cancelled(rebuild_under(lock, &host, &bus)).await;
        });
    }
    look_up(&host).await
}

async fn look_up(host: &Host) -> Result<Progress> {
    // Before the row is read: who holds the lock no longer has written how it ended.
    let running = sqlx::query_scalar!(
        r#"
        select exists (select from pg_locks where locktype = 'advisory' and objsubid = 1
            and database = (select oid from pg_database where datname = current_database())
            and (classid::bigint << 32) | objid::bigint = $1) as "running!"
        "#,
        LOCK,
    )
    .fetch_one(&host.pool)
    .await?;
    let row = sqlx::query!(
        "select step, told, heard, started_at, ended_at, error from platform.rebuild where consumer = $1",
        host.spec().name,
    )
    .fetch_optional(&host.pool)
    .await?;
    let never = || Refused::new(Kind::NotFound, "NOT_FOUND", "it was never rebuilt");
    let row = row.ok_or_else(never)?;
    Ok(Progress {
        running: running && row.ended_at.is_none(),
        step: row.step,
        told: row.told,
        heard: row.heard,
        started_at: row.started_at,
        ended_at: row.ended_at,
        error: row.error,
    })
}

/// The right to rebuild, on a connection of its own: it ends with the process.
struct Lock(PgConnection);

impl Lock {
    async fn take(host: &Host) -> Result<Self> {
        let mut connection = PgConnection::connect_with(&host.pool.connect_options()).await?;
        let locked = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "locked!""#, LOCK)
            .fetch_one(&mut connection)
            .await?;
        if !locked {
            let busy = format!("a projection of {} is being rebuilt already", host.spec().domain);
            return Err(Refused::new(Kind::Conflict, "CONFLICT", busy).into());
        }
        sqlx::query!(
            r#"
            insert into platform.rebuild (consumer, step) values ($1, 'beginning')
            on conflict (consumer) do update set step = excluded.step, told = 0, heard = 0, started_at = now(),
                ended_at = null, error = null
            "#,
            host.spec().name,
        )
        .execute(&mut connection)
        .await?;
        Ok(Self(connection))
    }
}

/// Rebuilds the projection of a consumer. Refused when one of its database is being rebuilt already.
async fn rebuild(host: &Host, bus: &Bus) -> Result<()> {
    let lock = Lock::take(host).await?;
    rebuild_under(lock, host, bus).await
}

async fn rebuild_under(mut lock: Lock, host: &Host, bus: &Bus) -> Result<()> {
    let function = host.spec().name;
    tracing::info!(function, "rebuilding the projection");
    let started = Instant::now();
    let rebuilt = match Rebuilding::prepare(host, bus).await {
        Ok(mut rebuilding) => {
            let rebuilt = rebuilding.run().await;
            let _ = rebuilding.clear().await;
            rebuilding.shadow.pool.close().await;
            rebuilt.map(|()| (rebuilding.told, rebuilding.heard, rebuilding.skipped))
        }
        Err(error) => Err(error),
    };
    let error = rebuilt.as_ref().err().map(|error| format!("{error:#}"));
    match &rebuilt {
        Ok((told, heard, skipped)) => {
            let duration_ms = started.elapsed().as_secs_f64() * 1e3;
            tracing::info!(function, told, heard, skipped, duration_ms, "projection rebuilt");
        }
        Err(error) => tracing::error!(function, error = format!("{error:#}"), "projection not rebuilt"),
    }
    sqlx::query!(
        "update platform.rebuild set ended_at = now(), error = $2, step = case when $2::text is null then 'done' else step end
         where consumer = $1",
        function,
        error,
    )
    .execute(&mut lock.0)
    .await?;
    lock.0.close().await?;
    Ok(rebuilt.map(drop)?)
}

/// A rebuild under way.
struct Rebuilding<'a> {
    plan: Rebuild,
    live: &'a Host,
    /// The same function on the tables that are made anew.
    shadow: Host,
    bus: &'a Bus,
    session: Session,
    /// When the stream was made, and where it ended before the snapshot was read.
    created: Timestamp,
    contained: i64,
    /// Behind this place the stream is read: before it the consumer has settled everything.
    settled: i64,
    told: i64,
    heard: i64,
    skipped: i64,
}

impl<'a> Rebuilding<'a> {
    /// Makes empty tables like the live ones, and notes where the stream ends.
    async fn prepare(live: &'a Host, bus: &'a Bus) -> anyhow::Result<Self> {
        let plan = live.spec().rebuild.clone().context("it keeps no projection that could be rebuilt")?;
        // The same names in another schema, and only there: the handler runs as it is, and what it writes beside the
        // declared tables is an error.
        let options = live.pool.connect_options().as_ref().clone().options([("search_path", "rebuild")]);
        let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(options);
        let shadow = live.beside(pool);
        let mut connection = shadow.pool.acquire().await?;
        clear(&mut connection).await?;
        for table in plan.tables {
            // Names are our own words: nothing needs quoting.
            let sql = format!("create unlogged table rebuild.{table} (like public.{table} including all)");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await?;
        }
        sqlx::raw_sql(
            "create unlogged table rebuild.inbox (event_id uuid primary key);
             create unlogged table rebuild.contained (event text, key uuid, version bigint not null, primary key (event, key))",
        )
        .execute(&mut *connection)
        .await?;
        drop(connection);
        let session = bus.session();
        // In this order: whatever is settled now has been in the stream before.
        let consumer = bus.consumer(wire::EVENTS, live.spec().name).await?;
        let stream = bus.extent(wire::EVENTS).await?;
        Ok(Self {
            plan,
            live,
            shadow,
            bus,
            session,
            created: stream.created,
            contained: stream.last,
            settled: consumer.settled_to().min(stream.last),
            told: 0,
            heard: 0,
            skipped: 0,
        })
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        self.step("reading the snapshot").await?;
        for snapshot in self.plan.snapshots.clone() {
            self.read_snapshot(snapshot).await?;
        }
        self.step("waiting for the relay").await?;
        for snapshot in &self.plan.snapshots {
            self.wait_for_relay(snapshot.authority).await?;
        }
        self.step("reading the stream").await?;
        let first = self.settled.max(0) + 1;
        let mut reader = Reader::open(self.bus, self.live, u64::try_from(first)?).await?;
        for _ in 0..SWAPS {
            loop {
                let read = reader.next().await?;
                let nearly = reader.left < NEARLY;
                self.apply(&read).await?;
                if nearly {
                    break;
                }
            }
            self.step("swapping").await?;
            let mut read = Vec::new();
            match self.swap(&mut reader, &mut read).await {
                Ok(true) => return self.settle_dead_letters().await,
                Ok(false) => {}
                Err(error) if is_lasting(&error) => return Err(error),
                Err(error) => {
                    tracing::info!(
                        function = self.live.spec().name,
                        error = format!("{error:#}"),
                        "not swapped yet"
                    );
                }
            }
            // What was read for the swap was undone with it.
            for batch in read.chunks(BATCH) {
                self.apply(batch).await?;
            }
        }
        bail!("events come faster than they can be read; try again when less happens")
    }

    async fn step(&self, step: &str) -> Result<()> {
        sqlx::query!(
            "update platform.rebuild set step = $2, told = $3, heard = $4 where consumer = $1",
            self.live.spec().name,
            step,
            self.told,
            self.heard,
        )
        .execute(&self.live.pool)
        .await?;
        Ok(())
    }

    async fn read_snapshot(&mut self, snapshot: Snapshot) -> anyhow::Result<()> {
        let mut after = None;
        loop {
            let page = self.page(snapshot, after.as_deref()).await?;
            let told: Vec<Delivery> = page.events.into_iter().map(delivered).collect();
            let mut cx = self.begin();
            self.relive(&mut cx, &told, ToldBy::Snapshot).await?;
            commit(cx).await?;
            self.told += i64::try_from(told.len())?;
            self.step("reading the snapshot").await?;
            if page.after.is_none() {
                return Ok(());
            }
            after = page.after;
        }
    }

    async fn page(&self, snapshot: Snapshot, after: Option<&str>) -> anyhow::Result<SnapshotPage> {
        let Snapshot { authority, query } = snapshot;
        let mut asked = 0;
        loop {
            let subject = wire::query_subject(authority, query);
            let answer = self.bus.request(subject, &json!({ "after": after }), None, &Trace::start()).await;
            match answer.and_then(|answer| answer.parse()) {
                Ok(page) => return Ok(page),
                Err(crate::Error::Broken(error)) if is_outage(&error) && asked < ASKS => {
                    asked += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => {
                    let asked = anyhow::Error::from(error);
                    return Err(asked.context(format!("ask {query} of {authority}: is it running?")));
                }
            }
        }
    }

    /// Waits until the stream has everything that had been said when the snapshot ended.
    async fn wait_for_relay(&self, authority: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + RELAY_PATIENCE;
        let mut up_to = None;
        loop {
            let published = crate::relay::published(self.bus, authority, up_to).await;
            match &published {
                Ok(published) if published.waiting == 0 && up_to.is_some() => return Ok(()),
                Ok(published) if up_to.is_none() => {
                    up_to = Some(published.newest);
                    continue;
                }
                _ => {}
            }
            if Instant::now() > deadline {
                let waits = published.map(|published| format!("{} transactions wait", published.waiting));
                let why = waits.unwrap_or_else(|error| format!("{:#}", anyhow::Error::from(error)));
                bail!("{authority}-relay does not publish what {authority} said: is it running? {why}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn begin(&self) -> Cx {
        self.shadow.cx(None, Timestamp::now(), Trace::start())
    }

    async fn relive(&self, cx: &mut Cx, members: &[Delivery], told_by: ToldBy) -> Result<()> {
        match &self.shadow.function.work {
            Work::Batch(work) => work.relive(&self.shadow, cx, members, told_by).await,
            _ => Err(anyhow!("it is not woken by events").into()),
        }
    }

    /// Applies events of the stream, together where that works. One that cannot be applied is left to the live
    /// consumer, which gives it up.
    async fn apply(&mut self, members: &[Delivery]) -> anyhow::Result<()> {
        if members.is_empty() {
            return Ok(());
        }
        let told_by = ToldBy::Stream { contained: self.contained };
        let mut cx = self.begin();
        let applied = match self.relive(&mut cx, members, told_by).await {
            Ok(()) => commit(cx).await,
            Err(error) => Err(error),
        };
        self.heard += i64::try_from(members.len())?;
        self.step("reading the stream").await?;
        match applied {
            Ok(()) => return Ok(()),
            Err(crate::Error::Broken(error)) if is_outage(&error) => return Err(error),
            Err(_) => {}
        }
        for member in members {
            let mut cx = self.begin();
            let applied = match self.relive(&mut cx, std::slice::from_ref(member), told_by).await {
                Ok(()) => commit(cx).await,
                Err(error) => Err(error),
            };
            if let Err(error) = applied.map_err(anyhow::Error::from) {
                if is_outage(&error) {
                    return Err(error);
                }
                self.skipped += 1;
                tracing::warn!(message = member.place(), error = format!("{error:#}"), "event not applied");
            }
        }
        Ok(())
    }

    /// Puts the new tables into the place of the live ones; false when there is too much to read before.
    async fn swap(&self, reader: &mut Reader, read: &mut Vec<Delivery>) -> anyhow::Result<bool> {
        let function = self.live.spec().name;
        let mut cx = self.begin();
        // From here to the commit the consumer counts nothing: counting begins with its inbox.
        sqlx::raw_sql(
            "set local lock_timeout = '10s'; set local statement_timeout = '60s';
             lock table platform.inbox in share row exclusive mode",
        )
        .execute(cx.tx().await?)
        .await?;
        let end = self.bus.extent(wire::EVENTS).await?;
        let deadline = Instant::now() + LONGEST_READ;
        while reader.place < u64::try_from(end.last)? {
            let batch = reader.next().await?;
            if batch.is_empty() {
                break;
            }
            self.relive(&mut cx, &batch, ToldBy::Stream { contained: self.contained }).await?;
            read.extend(batch);
            if Instant::now() > deadline {
                return Ok(false);
            }
        }
        let same = self.bus.is_connected()
            && self.bus.session() == self.session
            && end.created == self.created
            && end.last >= self.contained;
        ensure!(same, Broken("the server was away and its stream may have gone back: start again"));
        let tx = cx.tx().await?;
        for table in self.plan.tables {
            take_place(tx, table).await?;
        }
        sqlx::query(
            "insert into platform.inbox (consumer, event_id) select $1, event_id from rebuild.inbox order by event_id
            on conflict do nothing",
        )
        .bind(function)
        .execute(&mut *tx)
        .await?;
        note_heard(tx, function, end.last).await?;
        commit(cx).await?;
        self.bus.say_changed(self.live.spec().domain, cache::everything()).await;
        Ok(true)
    }

    /// Letters about events that the snapshot contained are settled: driven again they would count twice.
    async fn settle_dead_letters(&self) -> anyhow::Result<()> {
        let function = self.live.spec().name;
        let mut from = 0;
        while let Some(letter) = dead_letter::next(self.bus, Some(function), from).await? {
            from = letter.sequence + 1;
            let place = letter.message.strip_prefix("EVENTS:").and_then(|place| place.parse::<i64>().ok());
            if place.is_some_and(|place| place <= self.contained) {
                tracing::info!(function, letter = letter.sequence, "settled by the rebuild");
                dead_letter::drop(self.bus, &letter).await?;
            }
        }
        Ok(())
    }

    async fn clear(&self) -> Result<()> {
        clear(&mut *self.shadow.pool.acquire().await?).await
    }
}

/// A failure that another try does not mend.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Broken(&'static str);

fn is_lasting(error: &anyhow::Error) -> bool {
    error.is::<Broken>() || is_outage(error)
}

async fn commit(mut cx: Cx) -> Result<()> {
    match cx.tx.take() {
        Some(tx) => Ok(tx.commit().await?),
        None => Ok(()),
    }
}

/// Drops what an earlier rebuild left.
async fn clear(connection: &mut PgConnection) -> Result<()> {
    let left: Vec<String> =
        sqlx::query_scalar("select quote_ident(tablename) from pg_tables where schemaname = 'rebuild'")
            .fetch_all(&mut *connection)
            .await?;
    for table in left {
        let sql = format!("drop table rebuild.{table}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Makes a live table equal to the one that was made anew; rows that are equal already are left alone.
async fn take_place(tx: &mut PgConnection, table: &str) -> anyhow::Result<()> {
    let columns: Vec<(String, bool)> = sqlx::query_as(
        "select quote_ident(attname), attnum = any(coalesce(indkey::smallint[], '{}'))
        from pg_attribute left join pg_index on indrelid = attrelid and indisprimary
        where attrelid = ('public.' || $1)::regclass and attnum > 0 and not attisdropped and attgenerated = ''
        order by attnum",
    )
    .bind(table)
    .fetch_all(&mut *tx)
    .await?;
    let list = |which: &dyn Fn(bool) -> bool, text: &dyn Fn(&str) -> String, between: &str| {
        let names = columns.iter().filter(|(_, key)| which(*key)).map(|(name, _)| text(name));
        names.collect::<Vec<_>>().join(between)
    };
    let all = list(&|_| true, &str::to_owned, ", ");
    let key = list(&|key| key, &str::to_owned, ", ");
    ensure!(!key.is_empty(), "{table} has no primary key: a projection needs one to be rebuilt");
    let same_key = list(&|key| key, &|name| format!("live.{name} = made.{name}"), " and ");
    let sets = list(&|key| !key, &|name| format!("{name} = excluded.{name}"), ", ");
    let live = list(&|_| true, &|name| format!("live.{name}"), ", ");
    let made = list(&|_| true, &|name| format!("excluded.{name}"), ", ");
    let conflict = if sets.is_empty() {
        "nothing".to_owned()
    } else {
        format!("update set {sets} where ({live}) is distinct from ({made})")
    };
    let delete = format!(
        "delete from public.{table} live where not exists (select from rebuild.{table} made where {same_key})"
    );
    let write = format!(
        "insert into public.{table} as live ({all}) select {all} from rebuild.{table} order by {key}
         on conflict ({key}) do {conflict}"
    );
    for sql in [delete, write] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await?;
    }
    Ok(())
}

/// An event of a snapshot, as the stream would deliver it.
fn delivered(told: Told) -> Delivery {
    let body = format!(r#"{{"payload":{}}}"#, told.payload.get());
    Delivery { body: Bytes::from(body), ..Delivery::of_bytes(&format!("events.{}.-", told.event), b"") }
}

/// The name of the consumer with which a function's rebuild reads the stream.
pub(crate) fn reader(function: &str) -> String {
    format!("rebuild-{function}")
}

/// Reads what a consumer hears, from a place on and in order, without touching the consumer.
struct Reader {
    consumer: jetstream::consumer::Consumer<pull::Config>,
    /// The place of the last message that was read.
    place: u64,
    /// How many were left behind it.
    left: usize,
    count: u64,
}

impl Reader {
    async fn open(bus: &Bus, host: &Host, first: u64) -> anyhow::Result<Self> {
        let (stream, filter_subjects) = host.spec().consumer().context("not a function of messages")?;
        let config = pull::Config {
            name: Some(reader(host.spec().name)),
            description: Some(format!("rebuilds the projection of {}", host.spec().name)),
            filter_subjects,
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: first },
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(60),
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        // One that was broken off a moment ago may be there still, and stands elsewhere.
        let left = format!("CONSUMER.DELETE.{stream}.{}", reader(host.spec().name));
        let _: Result<serde_json::Value, _> = bus.api(&left, json!({})).await?;
        let stream = bus.stream(stream).await?;
        let consumer = stream.create_consumer(config).await.context("read the stream")?;
        Ok(Self { consumer, place: 0, left: usize::MAX, count: 0 })
    }

    /// The next messages; none when there are no more.
    async fn next(&mut self) -> anyhow::Result<Vec<Delivery>> {
        let mut messages = self.consumer.fetch().max_messages(BATCH).messages().await?;
        let mut read = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| Outage(format!("read the stream: {error}")))?;
            let info = message.info().map_err(|error| anyhow!("read the stream: {error}"))?;
            // Nothing is acknowledged, so one that went lost on the way does not come again.
            ensure!(
                info.consumer_sequence == self.count + 1,
                Broken("a message went lost on the way: start again")
            );
            (self.count, self.place) = (info.consumer_sequence, info.stream_sequence);
            self.left = usize::try_from(info.pending)?;
            read.extend(runner::delivery(&message));
        }
        if read.is_empty() {
            self.left = 0;
        }
        Ok(read)
    }
}

/// Looks from time to time whether the stream has let go of events that the consumer had not heard.
#[derive(Default)]
pub(crate) struct Watch {
    looked: Option<Instant>,
}

impl Watch {
    /// Returns when the consumer may go on: at once nearly always, and after a rebuild when it was outrun.
    pub(crate) async fn look(&mut self, host: &Host, bus: &Bus) {
        while self.looked.is_none_or(|looked| looked.elapsed() > LOOK_EVERY) {
            match look(host, bus).await {
                Ok(()) => self.looked = Some(Instant::now()),
                Err(error) => {
                    let (function, error) = (host.spec().name, format!("{:#}", anyhow::Error::from(error)));
                    tracing::warn!(function, error, "the place in the stream is not known, looking again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

async fn look(host: &Host, bus: &Bus) -> Result<()> {
    let function = host.spec().name;
    // In this order: when nothing is unsettled then, everything up to this end is settled.
    let stream = bus.extent(wire::EVENTS).await?;
    let consumer = bus.consumer(wire::EVENTS, function).await?;
    let settled = match consumer.unsettled() {
        0 => stream.last.max(consumer.settled_to()),
        _ => consumer.settled_to(),
    };
    let heard_to = sqlx::query_scalar!("select heard_to from platform.heard where consumer = $1", function)
        .fetch_optional(&host.pool)
        .await?;
    // A stream that went back begins before what was noted: its relays tell again what it lost.
    if heard_to.unwrap_or(0) + 1 >= stream.first {
        if heard_to != Some(settled) {
            note_heard(&mut *host.pool.acquire().await?, function, settled).await?;
        }
        return Ok(());
    }
    tracing::error!(
        function,
        heard_to,
        stream_begins_at = stream.first,
        "the stream let go of events that were not heard yet; taking no more until the projection is rebuilt"
    );
    if host.spec().rebuild.is_some() {
        return rebuild(host, bus).await;
    }
    tracing::error!(
        function,
        "it keeps no projection that could be rebuilt: what it missed is lost to it, going on"
    );
    note_heard(&mut *host.pool.acquire().await?, function, stream.first - 1).await
}

async fn note_heard(connection: &mut PgConnection, consumer: &str, heard_to: i64) -> Result<()> {
    sqlx::query!(
        r#"
        insert into platform.heard (consumer, heard_to) values ($1, $2)
        on conflict (consumer) do update set heard_to = excluded.heard_to, heard_at = now()
        "#,
        consumer,
        heard_to,
    )
    .execute(connection)
    .await?;
    Ok(())
}
