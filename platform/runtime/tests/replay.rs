//! A projection that is made anew counts everything once, whatever happens meanwhile: sums, which forgive nothing.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod common;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use garde::Validate;
use platform::{
    Bus, Cx, Env, Error, Event, Function, Host, Message, Query, Received, Result, dead_letter,
    provision::Definitions,
    relay,
    replay::{self, Progress, SnapshotPage},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::common::test_database;

/// A number was added to those of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Added {
    key: Uuid,
    seq: i64,
    number: i64,
}

impl Event for Added {
    const NAME: &'static str = "number.added.v1";

    fn key(&self) -> Uuid {
        self.key
    }

    fn ordinal(&self) -> i64 {
        self.seq
    }
}

platform::hears! {
    enum Heard {
        Added(Added),
    }
}

#[derive(Debug, Default, Serialize, Deserialize, Validate)]
struct SnapshotAdded {
    #[serde(default)]
    #[garde(skip)]
    after: Option<String>,
}

impl Message for SnapshotAdded {
    const DOMAIN: &'static str = "tests";
    const FUNCTION: &'static str = "snapshot-added";
    type Reply = SnapshotPage;
}

impl Query for SnapshotAdded {}

/// A number that breaks its handler until that is mended.
const POISON: i64 = 666;
static MENDED: AtomicBool = AtomicBool::new(false);

fn update_sums() -> Function {
    async fn update_sums(cx: &mut Cx, events: Vec<Received<Heard>>) -> Result<()> {
        let mut sums: BTreeMap<Uuid, (i64, i64)> = BTreeMap::new();
        for event in events {
            let Heard::Added(added) = event.message;
            if added.number == POISON && !MENDED.load(Ordering::Relaxed) {
                return Err(anyhow::anyhow!("not mended yet").into());
            }
            let (count, total) = sums.entry(added.key).or_default();
            (*count, *total) = (*count + 1, *total + added.number);
        }
        for (key, (count, total)) in sums {
            let sql = "insert into sums values ($1, $2, $3) on conflict (key) do update
                set count = sums.count + excluded.count, total = sums.total + excluded.total";
            sqlx::query(sql).bind(key).bind(count).bind(total).execute(cx.tx().await?).await?;
        }
        Ok(())
    }
    Function::events("tests", "update-sums", update_sums).rebuilt_from::<SnapshotAdded>(&["sums"])
}

fn snapshot_added() -> Function {
    async fn snapshot_added(cx: &mut Cx, query: SnapshotAdded) -> Result<SnapshotPage> {
        let after = query.after.unwrap_or_else(|| format!("{}:0", Uuid::nil()));
        let (key, seq) = after.split_once(':').unwrap();
        let rows: Vec<(Uuid, i64, i64)> = sqlx::query_as(
            "select key, seq, number from added where (key, seq) > ($1, $2) order by key, seq limit 200",
        )
        .bind(key.parse::<Uuid>().unwrap())
        .bind(seq.parse::<i64>().unwrap())
        .fetch_all(cx.tx().await?)
        .await?;
        let mut page = SnapshotPage::default();
        for (key, seq, number) in rows {
            page.tell(&Added { key, seq, number })?;
            page.after = Some(format!("{key}:{seq}"));
        }
        Ok(page)
    }
    Function::query(snapshot_added)
}

/// Something that serves until it is stopped.
struct Serving(CancellationToken, JoinHandle<anyhow::Result<()>>);

impl Serving {
    fn start<F>(serve: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        Self(stop.clone(), tokio::spawn(serve(stop)))
    }

    async fn stop(self) {
        self.0.cancel();
        self.1.await.unwrap().unwrap();
    }
}

/// An authority, a stream and a projection.
struct Stage {
    nats: Option<local::Nats>,
    bus: Bus,
    pool: PgPool,
}

impl Stage {
    async fn start() -> Self {
        let pool = testing::database(&test_database()).await;
        let (nats, bus) = testing::bus().await;
        let consumer = json!({
            "name": "update-sums", "durable_name": "update-sums", "filter_subject": "events.number.added.v1.*",
            "deliver_policy": "all", "ack_policy": "explicit", "ack_wait": 1_500_000_000_u64, "max_deliver": -1,
            "max_ack_pending": 1024,
        });
        let consumers = vec![("EVENTS".to_owned(), consumer)];
        Definitions { streams: Vec::new(), consumers }.apply(&bus).await.unwrap();
        Self { nats: Some(nats), bus, pool }
    }

    fn serve(&self, function: Function) -> Serving {
        let host = Host::new(function, self.pool.clone(), Some(self.bus.clone()), &Env::default()).unwrap();
        let bus = self.bus.clone();
        Serving::start(|stop| platform::serve(host, bus, stop))
    }

    fn relay(&self) -> Serving {
        let (pool, bus) = (self.pool.clone(), self.bus.clone());
        Serving::start(|stop| async move { relay::serve("tests", pool, bus, stop).await })
    }

    async fn add(&self, key: u128, numbers: &[i64]) {
        add(&self.pool, Uuid::from_u128(key), numbers).await;
    }

    /// Waits until the rebuild that was asked for has ended.
    async fn ended(&self) -> Progress {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let progress = replay::progress(&self.bus, "update-sums").await.unwrap();
            if !progress.running {
                return progress;
            }
            assert!(Instant::now() < deadline, "{progress:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn step(&self, step: &str) {
        while replay::progress(&self.bus, "update-sums").await.unwrap().step != step {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Has it rebuilt, as soon as the consumer is there to be asked.
    async fn begin(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = replay::start(&self.bus, "update-sums").await {
            assert!(Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn rebuild(&self) {
        self.begin().await;
        let progress = self.ended().await;
        assert_eq!((progress.error, progress.ended_at.is_some()), (None, true));
    }

    /// How many numbers there are and their sum, of those in a table.
    async fn sum(&self, sql: &'static str) -> (i64, i64) {
        sqlx::query_as(sql).fetch_one(&self.pool).await.unwrap()
    }

    async fn projected(&self) -> (i64, i64) {
        self.sum("select coalesce(sum(count), 0)::bigint, coalesce(sum(total), 0)::bigint from sums").await
    }

    async fn known(&self) -> (i64, i64) {
        self.sum("select count(*), coalesce(sum(number), 0)::bigint from added").await
    }

    /// Waits until everything is published and heard; then the projection equals the recount.
    async fn converges(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let waiting: i64 = sqlx::query_scalar("select count(*) from platform.outbox where not published")
                .fetch_one(&self.pool)
                .await
                .unwrap();
            let answer = self.bus.unsettled("EVENTS", "update-sums").await.unwrap();
            if waiting == 0 && answer == 0 {
                break;
            }
            assert!(Instant::now() < deadline, "{waiting} wait in the outbox, {answer} in the stream");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.projected().await, self.known().await);
        let per_key: i64 = sqlx::query_scalar(
            "select count(*) from sums full join (select key, count(*), sum(number) as total from added group by key) known
                using (key) where (sums.count, sums.total) is distinct from (known.count, known.total)",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap();
        assert_eq!(per_key, 0);
    }
}

/// Commits numbers, and says so in the same transaction.
async fn add(pool: &PgPool, key: Uuid, numbers: &[i64]) {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(hashtext($1::text))")
        .bind(key)
        .execute(&mut *tx)
        .await
        .unwrap();
    let mut events = Vec::new();
    for number in numbers {
        let seq: i64 = sqlx::query_scalar(
            "insert into added select $1, coalesce(max(seq), 0) + 1, $2 from added where key = $1 returning seq",
        )
        .bind(key)
        .bind(number)
        .fetch_one(&mut *tx)
        .await
        .unwrap();
        let id = Uuid::now_v7();
        events.push(json!({
            "subject": format!("events.number.added.v1.{key}"), "id": id, "traceparent": "", "correlation_id": "",
            "service": "add", "body": { "id": id, "payload": Added { key, seq, number: *number } },
        }));
    }
    sqlx::query("insert into platform.outbox (events_count, events) values ($1, $2)")
        .bind(i32::try_from(events.len()).unwrap())
        .bind(json!(events).to_string())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// Writers that never rest, a consumer that comes and goes, and one rebuild after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_counts_once_although_snapshot_and_stream_overlap() {
    let stage = Stage::start().await;
    let _others = [stage.relay(), stage.serve(snapshot_added())];
    let stop = CancellationToken::new();
    let writers = (0..6_u128).map(|writer| {
        let (pool, stop) = (stage.pool.clone(), stop.clone());
        tokio::spawn(async move {
            let mut number = 0;
            while !stop.is_cancelled() {
                number += 1;
                let key = Uuid::from_u128(1 + (writer + u128::try_from(number).unwrap()) % 10);
                add(&pool, key, &[number, number * 1_000][..usize::try_from(1 + number % 2).unwrap()]).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut steady = stage.serve(update_sums());

    for round in 0..6 {
        stage.begin().await;
        let progress = stage.ended().await;
        assert_eq!((progress.error, progress.ended_at.is_some()), (None, true), "round {round}");
        let projected = stage.projected().await.0;
        assert!(projected <= stage.known().await.0, "it runs ahead of what happened");
        // Every other round the consumer is away for a while, and has something to make up for.
        if round % 2 == 0 {
            steady.stop().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            steady = stage.serve(update_sums());
        }
    }
    stop.cancel();
    for writer in writers {
        writer.await.unwrap();
    }

    assert!(stage.known().await.0 > 200);
    stage.converges().await;
    steady.stop().await;
}

#[tokio::test]
async fn what_the_snapshot_contains_and_the_relay_still_has_to_publish_counts_once() {
    let stage = Stage::start().await;
    let (relay, _authority) = (stage.relay(), stage.serve(snapshot_added()));
    let consumer = stage.serve(update_sums());
    stage.add(1, &[1, 2, 3]).await;
    stage.converges().await;
    relay.stop().await;
    stage.add(1, &[10]).await;
    stage.add(2, &[20, 30]).await;

    stage.begin().await;
    stage.step("waiting for the relay").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(stage.projected().await, (3, 6), "readers see what they saw");
    let again = replay::start(&stage.bus, "update-sums").await.unwrap_err();
    assert!(matches!(again, Error::Refused(refused) if refused.status == 409), "one at a time");
    let _relay = stage.relay();

    assert_eq!(stage.ended().await.error, None);
    stage.converges().await;
    consumer.stop().await;
}

/// The swap is held up after it has read the stream to its end: what is said then comes after it.
#[tokio::test]
async fn what_is_said_during_the_swap_counts_once() {
    let stage = Stage::start().await;
    let relay = stage.relay();
    let _others = [stage.serve(snapshot_added()), stage.serve(update_sums())];
    stage.add(1, &[1]).await;
    stage.converges().await;
    relay.stop().await;
    stage.begin().await;
    stage.step("waiting for the relay").await;
    let mut tx = stage.pool.begin().await.unwrap();
    sqlx::raw_sql("lock table rebuild.sums in access exclusive mode").execute(&mut *tx).await.unwrap();
    let _relay = stage.relay();
    stage.step("swapping").await;
    tokio::time::sleep(Duration::from_millis(300)).await;

    stage.add(1, &[50]).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(stage.projected().await, (1, 1), "the consumer waits, and readers see what they saw");
    tx.rollback().await.unwrap();

    assert_eq!(stage.ended().await.error, None);
    stage.converges().await;
    assert_eq!(stage.projected().await, (2, 51));
}

/// The consumer was away: what waits for it is older than the snapshot, or not, and all of it is contained.
#[tokio::test]
async fn what_waited_for_the_consumer_counts_once() {
    let stage = Stage::start().await;
    let _others = [stage.relay(), stage.serve(snapshot_added())];
    let consumer = stage.serve(update_sums());
    stage.add(1, &[1]).await;
    stage.converges().await;
    consumer.stop().await;
    for number in 0..50 {
        stage.add(1 + number % 3, &[i64::try_from(number).unwrap(), 7]).await;
    }

    let consumer = stage.serve(update_sums());
    stage.rebuild().await;
    stage.add(2, &[1_000]).await;

    stage.converges().await;
    consumer.stop().await;
}

#[tokio::test]
async fn a_dead_letter_that_the_snapshot_contains_is_settled() {
    let stage = Stage::start().await;
    let _others = [stage.relay(), stage.serve(snapshot_added()), stage.serve(update_sums())];
    stage.add(1, &[1]).await;
    stage.add(2, &[POISON]).await;
    while dead_letter::next(&stage.bus, Some("update-sums"), 0).await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    stage.begin().await;
    let error = stage.ended().await.error.unwrap();
    assert!(error.contains("not mended yet"), "{error}");
    assert_eq!(stage.projected().await, (1, 1), "what is live was not touched");

    MENDED.store(true, Ordering::Relaxed);
    stage.rebuild().await;

    assert_eq!(stage.projected().await, (2, 1 + POISON));
    assert!(dead_letter::next(&stage.bus, None, 0).await.unwrap().is_none());
}

#[tokio::test]
async fn a_rebuild_that_was_broken_off_leaves_nothing_behind() {
    let stage = Stage::start().await;
    let relay = stage.relay();
    let (_authority, consumer) = (stage.serve(snapshot_added()), stage.serve(update_sums()));
    stage.add(1, &[1, 2]).await;
    stage.converges().await;
    relay.stop().await;
    stage.add(1, &[4]).await;

    stage.begin().await;
    stage.step("waiting for the relay").await;
    consumer.stop().await;
    let (_relay, _consumer) = (stage.relay(), stage.serve(update_sums()));
    stage.converges().await;
    let progress = stage.ended().await;
    assert_eq!((progress.running, progress.ended_at.is_none()), (false, true));

    stage.rebuild().await;
    stage.converges().await;
    let left: i64 = sqlx::query_scalar("select count(*) from pg_tables where schemaname = 'rebuild'")
        .fetch_one(&stage.pool)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_rebuild_does_not_trust_a_stream_whose_server_was_away() {
    let mut stage = Stage::start().await;
    let relay = stage.relay();
    let _others = [stage.serve(snapshot_added()), stage.serve(update_sums())];
    stage.add(1, &[1, 2]).await;
    stage.converges().await;
    relay.stop().await;
    stage.add(1, &[4]).await;
    stage.begin().await;
    stage.step("waiting for the relay").await;

    let mut nats = stage.nats.take().unwrap();
    let restarting = tokio::task::spawn_blocking(move || {
        nats.crash().unwrap();
        nats.resume(&|_| {}).unwrap();
        nats
    });
    stage.nats = Some(restarting.await.unwrap());
    let _relay = stage.relay();

    let error = stage.ended().await.error.unwrap();
    assert!(error.contains("start again"), "{error}");
    stage.rebuild().await;
    stage.converges().await;
}

#[tokio::test]
async fn a_consumer_that_the_stream_has_outrun_mends_itself_before_it_goes_on() {
    let stage = Stage::start().await;
    let _others = [stage.relay(), stage.serve(snapshot_added())];
    let consumer = stage.serve(update_sums());
    stage.add(1, &[1]).await;
    stage.converges().await;
    consumer.stop().await;
    for number in 0..30 {
        stage.add(number % 4, &[5]).await;
    }
    while stage.bus.stored("EVENTS").await.unwrap() < 31 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.bus.purge("EVENTS").await.unwrap();
    stage.add(9, &[100]).await;

    let consumer = stage.serve(update_sums());

    let deadline = Instant::now() + Duration::from_secs(20);
    while stage.projected().await != stage.known().await {
        assert!(Instant::now() < deadline, "{:?} of {:?}", stage.projected().await, stage.known().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.add(9, &[200]).await;
    stage.converges().await;
    // It knows where it is now: starting again is no reason to rebuild again.
    let rebuilt = replay::progress(&stage.bus, "update-sums").await.unwrap().started_at;
    consumer.stop().await;
    let consumer = stage.serve(update_sums());
    stage.add(9, &[300]).await;
    stage.converges().await;
    assert_eq!(replay::progress(&stage.bus, "update-sums").await.unwrap().started_at, rebuilt);
    consumer.stop().await;
}
