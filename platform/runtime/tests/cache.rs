//! What is kept in memory is never older than what was heard, or than what its asker was told: on a real nats-server
//! and a real Postgres.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use garde::Validate;
use platform::{
    Bus, Command, Cx, Error, Event, Function, Kind, Message, Query, Refused, Request, Result, Sender, Sent,
    Trace, Verdict, provision::Definitions, relay,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use testing::{Harness, exposition::Told};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::common::test_database;

/// Adds one.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
#[garde(allow_unvalidated)]
struct Raise {
    key: Uuid,
}

impl Message for Raise {
    const DOMAIN: &'static str = "tests";
    const FUNCTION: &'static str = "raise";
    type Reply = i64;
}

impl Command for Raise {
    fn key(&self) -> String {
        self.key.to_string()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Raised {
    key: Uuid,
}

impl Event for Raised {
    const NAME: &'static str = "sum.raised.v1";

    fn key(&self) -> Uuid {
        self.key
    }
}

fn raise() -> Function {
    async fn raise(cx: &mut Cx, Raise { key }: Raise) -> Result<i64> {
        cx.emit(&Raised { key })?;
        let sql = "insert into sums values ($1, 1, 1) on conflict (key) do update set total = sums.total + 1
            returning total";
        Ok(sqlx::query_scalar(sql).bind(key).fetch_one(cx.tx().await?).await?)
    }
    Function::command(raise).emits::<Raised>()
}

/// Shows a sum.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
#[garde(allow_unvalidated)]
struct Show {
    key: Uuid,
}

impl Message for Show {
    const DOMAIN: &'static str = "tests";
    const FUNCTION: &'static str = "show";
    type Reply = i64;
}

impl Query for Show {}

/// Whoever loads this key has read it, and goes on when told.
const SLOW: Uuid = Uuid::from_u128(7);
static IS_SLOW: AtomicBool = AtomicBool::new(true);
static READ: Notify = Notify::const_new();
static GO_ON: Notify = Notify::const_new();

async fn load(cx: &mut Cx, key: Uuid) -> Result<i64> {
    let total = sqlx::query_scalar("select total from sums where key = $1").bind(key);
    let total = total.fetch_optional(cx.tx().await?).await?;
    if key == SLOW && IS_SLOW.swap(false, Ordering::SeqCst) {
        READ.notify_one();
        GO_ON.notified().await;
    }
    total.ok_or_else(|| Refused::new(Kind::NotFound, "NOT_FOUND", "nothing was added").into())
}

async fn show_it(cx: &mut Cx, Show { key }: Show) -> Result<i64> {
    Ok(*cx.cached(key)?.or_load(load(cx, key)).await?)
}

fn show() -> Function {
    Function::query(show_it).caches()
}

/// A function that keeps what it loads, on a connection of its own.
struct Stage {
    nats: local::Nats,
    app: Harness,
    /// Of whoever asks.
    bus: Bus,
    /// Of the function.
    its_bus: Bus,
}

impl Stage {
    async fn start() -> Self {
        Self::with_entries("100").await
    }

    async fn with_entries(entries: &str) -> Self {
        let (nats, bus) = testing::bus().await;
        let its_bus = testing::connect(&nats.url()).await;
        let app = Harness::start(test_database()).await.with_env([("CACHE_ENTRIES", entries)]);
        serve(app.clone().with_bus(its_bus.clone()), show(), &its_bus).await;
        let stage = Self { nats, app, bus, its_bus };
        if entries != "0" {
            stage.is_sure().await;
        }
        stage
    }

    /// Waits until the function keeps what it loads.
    async fn is_sure(&self) {
        let (key, deadline) = (Uuid::new_v4(), Instant::now() + Duration::from_secs(10));
        self.set(key, 1).await;
        let misses = self.counted("cache_lookups_total", ("result", "miss"));
        while self.counted("cache_lookups_total", ("result", "miss")) == misses {
            assert!(Instant::now() < deadline, "nothing is kept");
            let _ = self.bus.ask(&Show { key }, None, &Trace::start()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Changes a sum and says nothing.
    async fn set(&self, key: Uuid, total: i64) {
        set(self.app.pool(), key, total).await;
    }

    async fn show(&self, key: Uuid) -> i64 {
        show_over(&self.bus, key).await
    }

    /// Adds one, over this connection.
    async fn raise(&self, key: Uuid, bus: &Bus) {
        let app = self.app.clone().with_bus(bus.clone());
        let command = app.delivery(&format!("cmd.tests.raise.{key}"), &json!({ "key": key }));
        let verdicts = app.host(&raise()).execute(&[command]).await;
        assert!(matches!(&verdicts[..], [Verdict::Answered(answer)] if answer.is_accepted()), "{verdicts:?}");
    }

    fn counted(&self, name: &str, label: (&str, &str)) -> f64 {
        Told::read(&self.its_bus.metrics().tell()).value(name, &[("fn", "show"), label])
    }
}

async fn set(pool: &PgPool, key: Uuid, total: i64) {
    let sql = "insert into sums values ($1, 1, $2) on conflict (key) do update set total = excluded.total";
    sqlx::query(sql).bind(key).bind(total).execute(pool).await.unwrap();
}

async fn show_over(bus: &Bus, key: Uuid) -> i64 {
    bus.ask(&Show { key }, None, &Trace::start()).await.unwrap().parse().unwrap()
}

async fn serve(app: Harness, function: Function, bus: &Bus) {
    let (host, name) = (app.host(&function), function.spec().name);
    tokio::spawn(platform::serve(host, bus.clone(), CancellationToken::new()));
    while !bus.is_serving(name, Duration::from_millis(100)).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_is_kept_is_shown_without_a_database() {
    let stage = Stage::start().await;
    let key = Uuid::new_v4();
    stage.set(key, 1).await;
    assert_eq!(stage.show(key).await, 1);

    stage.set(key, 2).await;
    stage.app.pool().close().await;

    assert_eq!(stage.show(key).await, 1);
    assert_eq!(stage.counted("cache_lookups_total", ("result", "hit")), 1.0);
}

#[tokio::test]
async fn what_changed_is_loaded_again_and_nothing_else_is() {
    let stage = Stage::start().await;
    let (key, other) = (Uuid::new_v4(), Uuid::new_v4());
    for key in [key, other] {
        stage.set(key, 1).await;
        assert_eq!(stage.show(key).await, 1);
    }
    stage.set(other, 50).await;

    stage.raise(key, &stage.bus).await;

    assert_eq!((stage.show(key).await, stage.show(other).await), (2, 1));
    assert_eq!(stage.counted("cache_dropped_total", ("reason", "changed")), 1.0);
}

/// Over four connections: whoever is answered asks at once, and nothing else tells the function, no relay runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_was_answered_never_sees_anything_older() {
    let stage = Stage::start().await;
    let consumer = json!({
        "name": "raise", "durable_name": "raise", "filter_subject": "cmd.tests.raise.*", "deliver_policy": "all",
        "ack_policy": "explicit", "ack_wait": 5_000_000_000_u64, "max_deliver": -1, "max_ack_pending": 1000,
    });
    let consumers = vec![("COMMANDS".to_owned(), consumer)];
    Definitions { streams: Vec::new(), consumers }.apply(&stage.bus).await.unwrap();
    let writes = testing::connect(&stage.nats.url()).await;
    serve(stage.app.clone().with_bus(writes.clone()), raise(), &writes).await;
    let edge = testing::connect(&stage.nats.url()).await;
    let sender = Sender::start(edge.clone()).await.unwrap();

    let crowd = (0..4).map(|number| {
        let (stage, sender, edge) = (&stage, &sender, &edge);
        async move {
            // The second of each pair shares its sum with the first.
            let key = Uuid::from_u128(100 + number / 2);
            for _ in 0..150 {
                let request = Request { caller: None, trace: Trace::start(), idempotency_key: None };
                let sent = sender.send(&Raise { key }, &request).await.unwrap();
                let Sent::Answered(answer) = sent else { panic!("{sent:?}") };
                let told: i64 = answer.parse().unwrap();
                let shown = show_over(edge, key).await;
                assert!(shown >= told, "told {told}, shown {shown}");
                stage.show(key).await;
            }
        }
    });
    join_all(crowd).await;

    let [hits, misses] =
        ["hit", "miss"].map(|result| stage.counted("cache_lookups_total", ("result", result)));
    assert!(hits > 100.0 && misses > 100.0, "{hits} hits, {misses} misses");
}

#[tokio::test]
async fn what_was_read_before_a_change_was_heard_is_not_kept() {
    let stage = Stage::start().await;
    stage.set(SLOW, 1).await;
    let bus = stage.bus.clone();
    let slow = tokio::spawn(async move { show_over(&bus, SLOW).await });
    READ.notified().await;

    stage.raise(SLOW, &stage.bus).await;

    assert_eq!(stage.show(SLOW).await, 2, "who asks after the change does not wait for who asked before");
    GO_ON.notify_one();
    assert_eq!(slow.await.unwrap(), 1, "asked before the change");
    assert_eq!(stage.show(SLOW).await, 2);
}

/// Whoever committed it died before saying so.
#[tokio::test]
async fn what_nobody_said_the_relay_says() {
    let stage = Stage::start().await;
    let key = Uuid::new_v4();
    let (pool, bus) = (stage.app.pool().clone(), testing::connect(&stage.nats.url()).await);
    tokio::spawn(async move { relay::serve("tests", pool, bus, CancellationToken::new()).await });
    stage.set(key, 1).await;
    let began = Instant::now();
    assert_eq!(stage.show(key).await, 1);

    let command = stage.app.delivery(&format!("cmd.tests.raise.{key}"), &json!({ "key": key }));
    stage.app.host(&raise()).execute(&[command]).await;

    while stage.show(key).await == 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(4), "forgotten for its age");
}

#[tokio::test]
async fn with_the_connection_everything_is_forgotten_until_changes_are_heard_again() {
    let mut stage = Stage::start().await;
    let key = Uuid::new_v4();
    stage.set(key, 1).await;
    let began = Instant::now();
    assert_eq!(stage.show(key).await, 1);

    stage.nats.crash().unwrap();
    stage.set(key, 2).await;
    stage.nats.resume(&|_| {}).unwrap();

    let deadline = Instant::now() + Duration::from_secs(20);
    while stage.counted("cache_dropped_total", ("reason", "silence")) == 0.0 {
        assert!(Instant::now() < deadline, "nothing was forgotten");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let shown = loop {
        assert!(Instant::now() < deadline, "no answer");
        if let Ok(answer) = stage.bus.ask(&Show { key }, None, &Trace::start()).await {
            break answer.parse::<i64>().unwrap();
        }
    };
    assert_eq!(shown, 2);
    assert!(began.elapsed() < Duration::from_secs(5), "forgotten for its age, after {:?}", began.elapsed());
    stage.is_sure().await;
    assert_eq!(stage.show(key).await, 2);
    stage.raise(key, &stage.bus).await;
    assert_eq!(stage.show(key).await, 3);
}

#[tokio::test]
async fn what_is_not_there_is_not_kept() {
    let stage = Stage::start().await;
    let key = Uuid::new_v4();
    let asked = stage.bus.ask(&Show { key }, None, &Trace::start()).await.unwrap();
    assert_eq!(asked.status, 404);

    stage.set(key, 1).await;

    assert_eq!(stage.show(key).await, 1);
}

#[tokio::test]
async fn of_many_who_ask_for_the_same_one_loads_it() {
    let stage = Stage::start().await;
    let key = Uuid::new_v4();
    stage.set(key, 1).await;
    let misses = stage.counted("cache_lookups_total", ("result", "miss"));

    let shown = join_all((0..50).map(|_| stage.show(key))).await;

    assert_eq!(shown, [1; 50]);
    assert_eq!(stage.counted("cache_lookups_total", ("result", "miss")), misses + 1.0);
    assert_eq!(stage.counted("cache_lookups_total", ("result", "hit")), 49.0);
}

/// How many of these are shown as they were, after all have changed and nobody said so.
async fn kept(stage: &Stage, keys: &[Uuid]) -> usize {
    for key in keys {
        stage.set(*key, 1).await;
        stage.show(*key).await;
    }
    // Room is made in the background.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for key in keys {
        stage.set(*key, 2).await;
    }
    join_all(keys.iter().map(|key| stage.show(*key))).await.into_iter().filter(|shown| *shown == 1).count()
}

#[tokio::test]
async fn no_more_is_kept_than_there_is_room_for() {
    let keys: Vec<Uuid> = (0..60).map(|_| Uuid::new_v4()).collect();

    let ten = kept(&Stage::with_entries("10").await, &keys).await;
    let hundred = kept(&Stage::with_entries("100").await, &keys).await;
    let none = kept(&Stage::with_entries("0").await, &keys).await;

    assert!((1..=10).contains(&ten), "{ten}");
    assert_eq!((hundred, none), (60, 0));
}

/// Its own word does not come back to who has no right to hear what changes.
#[tokio::test]
async fn who_cannot_hear_keeps_nothing() {
    let nats = deaf();
    let bus = testing::connect(&nats.url()).await;
    let app = Harness::start(test_database()).await.with_bus(bus.clone());
    serve(app.clone(), show(), &bus).await;
    let key = Uuid::new_v4();
    set(app.pool(), key, 1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(show_over(&bus, key).await, 1);

    set(app.pool(), key, 2).await;

    assert_eq!(show_over(&bus, key).await, 2);
}

/// A nats-server that lets nobody hear what changes.
fn deaf() -> local::Nats {
    let folder = local::temp_dir().unwrap();
    let settings = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nats/settings.conf");
    let rights = "authorization { default_permissions: { publish: \">\", subscribe: { deny: \"changed.>\" } }
        users: [{ user: test, password: test }] }\nno_auth_user: test\n";
    let file = folder.path().join("deaf.conf");
    std::fs::write(&file, std::fs::read_to_string(settings).unwrap() + rights).unwrap();
    local::Nats::throwaway(&file, &|_| {}).unwrap()
}

/// More than a task may take from its queues in one go.
#[tokio::test]
async fn all_that_has_arrived_is_heard_however_much_it_is() {
    let stage = Stage::start().await;
    let client = async_nats::connect(stage.nats.url()).await.unwrap();
    let key = Uuid::new_v4();
    for total in 1..20 {
        stage.set(key, total).await;
        for _ in 0..3_000 {
            client.publish("changed.tests", Uuid::new_v4().to_string().into()).await.unwrap();
        }
        client.publish("changed.tests", key.to_string().into()).await.unwrap();
        let question = json!({ "key": key }).to_string();
        let shown = client.request("qry.tests.show", question.into()).await.unwrap();
        assert_eq!(shown.payload, total.to_string());
    }
}

#[tokio::test]
async fn a_word_that_cannot_be_read_may_mean_anything() {
    let stage = Stage::start().await;
    let client = async_nats::connect(stage.nats.url()).await.unwrap();
    let key = Uuid::new_v4();
    for (total, said) in [(1, ""), (2, "nonsense"), (3, &format!("{}  {}", Uuid::new_v4(), Uuid::new_v4()))] {
        stage.set(key, total).await;
        client.publish("changed.tests", said.to_owned().into()).await.unwrap();
        let question = json!({ "key": key }).to_string();
        let shown = client.request("qry.tests.show", question.into()).await.unwrap();
        assert_eq!(shown.payload, total.to_string());
    }
}

#[tokio::test]
async fn who_does_not_declare_it_keeps_nothing() {
    let app = Harness::start(test_database()).await;
    let key = Uuid::new_v4();
    set(app.pool(), key, 1).await;

    let broken = app.ask(&Function::query(show_it), &Show { key }).await.unwrap_err();

    assert!(matches!(broken, Error::Broken(_)), "{broken}");
    assert_eq!(app.ask(&show(), &Show { key }).await.unwrap(), 1);
}
