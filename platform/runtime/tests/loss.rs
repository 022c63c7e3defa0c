//! What a server that was killed may have lost, and how it comes back: on a real nats-server whose real store
//! is wiped, or put back to an earlier copy.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod common;

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, stream::RawMessageErrorKind};
use platform::{Bus, relay};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::common::test_database;

/// A relay between a real outbox and a real stream.
struct Stage {
    nats: Option<local::Nats>,
    bus: Bus,
    jetstream: jetstream::Context,
    pool: PgPool,
    stop: CancellationToken,
    relay: Option<JoinHandle<anyhow::Result<()>>>,
    copies: tempfile::TempDir,
}

impl Stage {
    async fn start() -> Self {
        let pool = testing::database(&test_database()).await;
        let (nats, bus) = testing::bus().await;
        let jetstream = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
        let (stop, copies) = (CancellationToken::new(), local::temp_dir().unwrap());
        let mut stage = Self { nats: Some(nats), bus, jetstream, pool, stop, relay: None, copies };
        stage.relay();
        stage
    }

    fn relay(&mut self) {
        let (pool, bus, stop) = (self.pool.clone(), self.bus.clone(), self.stop.clone());
        self.relay = Some(tokio::spawn(async move { relay::serve("tests", pool, bus, stop).await }));
    }

    async fn end_relay(&mut self) {
        self.stop.cancel();
        self.relay.take().unwrap().await.unwrap().unwrap();
        self.stop = CancellationToken::new();
    }

    async fn say(&self, transactions: i32, events: i32) {
        say(&self.pool, transactions, events).await;
    }

    /// Waits until the relay has nothing left to publish.
    async fn published(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.count("not published").await > 0 {
            assert!(Instant::now() < deadline, "the outbox is not emptied");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn count(&self, which: &str) -> i64 {
        let sql = format!("select count(*) from platform.outbox where {which}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&self.pool).await.unwrap()
    }

    /// The ids of everything that was said, in order.
    async fn said(&self) -> Vec<Uuid> {
        let sql = "select (event ->> 'id')::uuid from platform.outbox,
            json_array_elements(events::json) with ordinality as said (event, place) order by id, place";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }

    /// The ids that the stream of events holds, by their places.
    async fn held(&self) -> BTreeMap<u64, Uuid> {
        let mut stream = self.jetstream.get_stream("EVENTS").await.unwrap();
        let state = stream.info().await.unwrap().state.clone();
        let mut held = BTreeMap::new();
        for place in state.first_sequence.max(1)..=state.last_sequence {
            match stream.get_raw_message(place).await {
                Ok(message) => {
                    let id = message.headers.get("Nats-Msg-Id").unwrap().as_str().parse().unwrap();
                    held.insert(place, id);
                }
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
                Err(error) => panic!("{place}: {error}"),
            }
        }
        held
    }

    /// Waits until the stream holds these.
    async fn holds(&self, ids: &[Uuid]) -> BTreeMap<u64, Uuid> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let held = self.held().await;
            let known: HashSet<Uuid> = held.values().copied().collect();
            let missing = ids.iter().filter(|id| !known.contains(id)).count();
            if missing == 0 {
                return held;
            }
            assert!(Instant::now() < deadline, "{missing} of {} are lost, {} held", ids.len(), held.len());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Everything that was said is in the stream, once, and every row knows where.
    async fn is_whole(&self) {
        let said = self.said().await;
        self.holds(&said).await;
        self.published().await;
        let held = self.held().await;
        assert_eq!(held.len(), said.len(), "some are there twice");
        let noted: Vec<(i64, Value)> =
            sqlx::query_as("select last_seq, events::json from platform.outbox where published")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        for (place, events) in noted {
            let last = events.as_array().unwrap().last().unwrap()["id"].as_str().unwrap().parse().unwrap();
            assert_eq!(held.get(&u64::try_from(place).unwrap()), Some(&last), "noted at {place}");
        }
    }

    /// Copies the store as it is at this instant.
    fn copy(&self) -> PathBuf {
        let nats = self.nats.as_ref().unwrap();
        let copy = self.copies.path().join(Uuid::now_v7().to_string());
        signal(nats, "STOP");
        run("cp", &["-a", &text(nats.data()), &text(&copy)]);
        signal(nats, "CONT");
        copy
    }

    /// Kills the server and lets it come back with what `change` makes of its store.
    async fn restart_with(&mut self, change: impl FnOnce(&Path) + Send + 'static) {
        let mut nats = self.nats.take().unwrap();
        let restarting = tokio::task::spawn_blocking(move || {
            nats.crash().unwrap();
            change(nats.data());
            nats.resume(&|_| {}).unwrap();
            nats
        });
        self.nats = Some(restarting.await.unwrap());
        // As `maintain` does it on every new connection.
        testing::definitions().apply(&self.bus).await.unwrap();
    }

    async fn roll_back(&mut self, copy: PathBuf) {
        self.restart_with(move |data| {
            std::fs::remove_dir_all(data).unwrap();
            run("cp", &["-a", &text(&copy), &text(data)]);
        })
        .await;
    }

    async fn wipe(&mut self) {
        self.restart_with(|data| std::fs::remove_dir_all(data.join("jetstream")).unwrap()).await;
    }
}

/// Commits transactions that each said some things.
async fn say(pool: &PgPool, transactions: i32, events: i32) {
    let sql = "insert into platform.outbox (events_count, events)
        select $2, (select json_agg(json_build_object('subject', 'events.tally.added.v1.x', 'id', gen_random_uuid(),
            'traceparent', '', 'correlation_id', '', 'service', 'add', 'body', json_build_object('payload', n)))::text
            from generate_series(1, $2) n where row > 0)
        from generate_series(1, $1) row";
    sqlx::query(sql).bind(transactions).bind(events).execute(pool).await.unwrap();
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn run(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}

fn signal(nats: &local::Nats, name: &str) {
    run("kill", &[&format!("-{name}"), &nats.pid().unwrap().to_string()]);
}

#[tokio::test]
async fn a_store_that_was_rolled_back_gets_its_tail_again() {
    let mut stage = Stage::start().await;
    stage.say(40, 3).await;
    stage.published().await;
    let copy = stage.copy();
    stage.say(100, 2).await;
    stage.published().await;

    stage.roll_back(copy).await;

    stage.is_whole().await;
    assert_eq!(stage.count("last_seq <= 120").await, 40, "what was there stays where it was");
}

/// The relay speaks while the server goes down and comes up with less: what it sent into the break must not hide
/// what was lost.
#[tokio::test]
async fn what_is_said_while_the_server_comes_back_hides_no_loss() {
    let mut stage = Stage::start().await;
    stage.say(40, 3).await;
    stage.published().await;
    let copy = stage.copy();
    stage.say(200, 1).await;
    stage.published().await;

    let (pool, saying) = (stage.pool.clone(), CancellationToken::new());
    let stop = saying.clone();
    let speaking = tokio::spawn(async move {
        while !stop.is_cancelled() {
            say(&pool, 5, 2).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    stage.roll_back(copy).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    saying.cancel();
    speaking.await.unwrap();

    stage.is_whole().await;
}

#[tokio::test]
async fn a_store_that_was_wiped_gets_back_all_that_the_outbox_keeps() {
    let mut stage = Stage::start().await;
    stage.say(300, 2).await;
    stage.published().await;

    stage.wipe().await;
    stage.say(10, 1).await;

    stage.is_whole().await;
}

/// Others speak in the same stream, and its beginning is let go of: places say little about a stream that was
/// made again.
#[tokio::test]
async fn a_wiped_store_that_others_have_filled_again_is_found_out() {
    let mut stage = Stage::start().await;
    stage.say(30, 1).await;
    stage.published().await;
    stage.end_relay().await;
    stage.wipe().await;
    for _ in 0..50 {
        stage.bus.publish_event("events.other.done.v1.x", "{}").await.unwrap();
    }
    purge_to(&stage, 45).await;

    stage.relay();

    assert_eq!(stage.holds(&stage.said().await).await.len(), 6 + 30);
}

#[tokio::test]
async fn what_had_its_time_in_the_stream_was_not_lost() {
    let mut stage = Stage::start().await;
    stage.say(50, 1).await;
    stage.published().await;
    purge_to(&stage, 31).await;
    let copy = stage.copy();
    stage.say(20, 1).await;
    stage.published().await;

    stage.roll_back(copy).await;

    let said = stage.said().await;
    let held = stage.holds(&said[30..]).await;
    assert_eq!(held.len(), 40, "published again for nothing");
}

/// A stream whose every message has expired holds nothing, and has lost nothing.
#[tokio::test]
async fn an_empty_stream_that_let_everything_go_has_lost_nothing() {
    let mut stage = Stage::start().await;
    stage.say(50, 1).await;
    stage.published().await;
    stage.bus.purge("EVENTS").await.unwrap();

    stage.restart_with(|_| {}).await;
    stage.say(1, 1).await;
    stage.published().await;

    assert_eq!(stage.bus.stored("EVENTS").await.unwrap(), 1);
}

/// Rows that retention has dropped cannot come back; those that are kept do.
#[tokio::test]
async fn what_the_outbox_still_keeps_comes_back_when_more_was_lost() {
    let mut stage = Stage::start().await;
    stage.say(10, 1).await;
    stage.published().await;
    let copy = stage.copy();
    stage.say(60, 1).await;
    stage.published().await;
    testing::as_administrator(&stage.pool, "delete from platform.outbox where last_seq <= 40").await;

    stage.roll_back(copy).await;

    let held = stage.holds(&stage.said().await).await;
    assert_eq!(held.len(), 10 + 30);
}

#[tokio::test]
async fn a_stream_that_was_made_again_while_the_relay_stays_connected_is_found_out() {
    let stage = Stage::start().await;
    stage.say(50, 1).await;
    stage.published().await;

    stage.jetstream.delete_stream("EVENTS").await.unwrap();
    testing::definitions().apply(&stage.bus).await.unwrap();
    stage.say(1, 1).await;

    stage.is_whole().await;
}

#[tokio::test]
async fn consumers_of_a_stream_that_went_back_get_what_is_stored_anew() {
    for (stream, subject, consumer, filter) in [
        ("EVENTS", "events.bid.placed.v1.x", "update-stats", "events.bid.placed.v1.*"),
        ("COMMANDS", "cmd.auctions.place-bid.x", "place-bid", "cmd.auctions.place-bid.*"),
    ] {
        let mut stage = Stage::start().await;
        let publish = async |stage: &Stage, text: String| {
            stage.jetstream.publish(subject, text.into()).await.unwrap().await.unwrap();
        };
        for number in 0..20 {
            publish(&stage, format!("before-{number}")).await;
        }
        assert_eq!(take(&stage, stream, consumer).await.len(), 20, "{filter}");
        // What was acknowledged is written down by the server within a second or two.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let copy = stage.copy();
        for number in 0..50 {
            publish(&stage, format!("lost-{number}")).await;
        }
        assert_eq!(take(&stage, stream, consumer).await.len(), 50);
        tokio::time::sleep(Duration::from_secs(3)).await;

        // The messages go back and the consumer's own state does not: it is ahead of its stream.
        let (of, its) = (stream.to_owned(), consumer.to_owned());
        stage
            .restart_with(move |data| {
                let inside = |root: &Path| root.join("jetstream/$G/streams").join(&of);
                let (now, then) = (inside(data), inside(&copy));
                std::fs::remove_dir_all(now.join("msgs")).unwrap();
                run("cp", &["-a", &text(&then.join("msgs")), &text(&now.join("msgs"))]);
                assert!(now.join("obs").join(&its).exists());
            })
            .await;
        for number in 0..5 {
            publish(&stage, format!("after-{number}")).await;
        }

        let got = take(&stage, stream, consumer).await;
        let after = got.iter().filter(|text| text.starts_with("after-")).count();
        assert_eq!(after, 5, "{stream}: {got:?}");
    }
}

/// Takes all that a durable consumer delivers.
async fn take(stage: &Stage, stream: &str, consumer: &str) -> Vec<String> {
    use futures_util::StreamExt;
    let stream = stage.jetstream.get_stream(stream).await.unwrap();
    let consumer: jetstream::consumer::PullConsumer = stream.get_consumer(consumer).await.unwrap();
    let mut taken = Vec::new();
    loop {
        let mut batch =
            consumer.fetch().max_messages(200).expires(Duration::from_secs(1)).messages().await.unwrap();
        let before = taken.len();
        while let Some(Ok(message)) = batch.next().await {
            taken.push(String::from_utf8_lossy(&message.payload).into_owned());
            message.ack().await.unwrap();
        }
        if taken.len() == before {
            return taken;
        }
    }
}

/// Lets go of everything before a place.
async fn purge_to(stage: &Stage, place: u64) {
    let purged: Value =
        stage.jetstream.request("STREAM.PURGE.EVENTS", &json!({ "seq": place })).await.unwrap();
    assert_eq!(purged["success"], true, "{purged}");
}
