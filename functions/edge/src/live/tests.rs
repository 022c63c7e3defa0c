//! The promises of the live view, over a real NATS that tells too little, too late or twice.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{body::BodyDataStream, http::StatusCode};
use contracts::auctions::{BidPlaced, Item};
use futures_util::future::join_all;
use platform::{Cx, Event, Function};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use uuid::Uuid;

use super::*;
use crate::tests::{World, get, until};

mod list;

// --- an authority that remembers, and a bus that may forget ---------------------------------------

/// The items of these tests, with what happened to each.
static SHELF: LazyLock<Mutex<BTreeMap<ItemId, Shelved>>> = LazyLock::new(Mutex::default);
/// The most streams at once.
const STREAMS: usize = 1000;
/// The most changes of one answer.
const PAGE: usize = 4;

#[derive(Default)]
struct Shelved {
    changes: Vec<ItemChange>,
    /// The first version that can be told change by change.
    kept_from: i64,
    asked: usize,
    /// How often the item itself was asked for.
    shown: usize,
    is_away: bool,
}

fn shelved<T>(item: ItemId, look: impl FnOnce(&mut Shelved) -> T) -> T {
    look(SHELF.lock().unwrap().get_mut(&item).unwrap())
}

fn offer() -> ItemId {
    let item = ItemId::new();
    SHELF.lock().unwrap().insert(item, Shelved::default());
    item
}

fn not_found() -> platform::Refused {
    platform::Refused::new(platform::Kind::NotFound, "NOT_FOUND", "there is no such item")
}

async fn get_item(cx: &mut Cx, asked: GetItem) -> platform::Result<Item> {
    let mut shelf = SHELF.lock().unwrap();
    let shelved = shelf.get_mut(&asked.item_id).ok_or_else(not_found)?;
    shelved.shown += 1;
    let version = i64::try_from(shelved.changes.len()).unwrap() + 1;
    let name = if cx.caller().is_ok() { "the seller's" } else { "anybody's" };
    Ok(Item { name: name.into(), ..crate::tests::lamp(asked.item_id, version) })
}

async fn list_changes(_: &mut Cx, asked: ListChanges) -> platform::Result<Changes> {
    let mut shelf = SHELF.lock().unwrap();
    let shelved = shelf.get_mut(&asked.item_id).ok_or_else(not_found)?;
    shelved.asked += 1;
    if shelved.is_away {
        return Err(anyhow::anyhow!("away").into());
    }
    let all = &shelved.changes;
    let known = usize::try_from(asked.after - 1).unwrap_or(usize::MAX);
    if known > all.len() || asked.after < shelved.kept_from {
        return Ok(Changes { changes: Vec::new(), has_more: false, complete: false });
    }
    let changes: Vec<_> = all[known..].iter().take(PAGE).cloned().collect();
    Ok(Changes { has_more: known + PAGE < all.len(), changes, complete: true })
}

async fn world() -> World {
    World::start(vec![Function::query(get_item), Function::query(list_changes)]).await
}

fn live(world: &World) -> Live {
    Live::new(world.bus.clone(), world.stop.clone(), STREAMS)
}

fn placed(item: ItemId, version: i64) -> String {
    let (id, time) = (Uuid::now_v7(), "2026-12-01T00:00:00Z");
    json!({
        "bid_id": id, "item_id": item, "seller_id": id, "bidder_id": id, "outbid_id": null, "amount": "12.00",
        "currency": "USD", "seq": version - 1, "version": version, "ends_at": time, "placed_at": time,
        "current_price": "12.00", "min_next_bid": "13.00", "reserve_met": true,
    })
    .to_string()
}

/// A bid that the bus does not tell.
fn silent_bid(item: ItemId) -> String {
    let version = shelved(item, |shelved| i64::try_from(shelved.changes.len()).unwrap() + 2);
    let event = placed(item, version);
    let change = ItemChange::from_event(BidPlaced::NAME, &event).unwrap();
    shelved(item, |shelved| shelved.changes.push(change));
    event
}

/// A bid that is told.
async fn bid(world: &World, item: ItemId) {
    tell(world, item, &silent_bid(item)).await;
}

/// As the stream repeats an event to those who listen.
async fn tell(world: &World, item: ItemId, event: &str) {
    let address = world.nats.url().trim_start_matches("nats://").to_owned();
    let mut stream = BufReader::new(tokio::net::TcpStream::connect(address).await.unwrap());
    let body = format!(r#"{{"payload":{event}}}"#);
    let subject = format!("live.{}.{item}", BidPlaced::NAME);
    let said = format!("CONNECT {{}}\r\nPUB {subject} {}\r\n{body}\r\nPING\r\n", body.len());
    stream.write_all(said.as_bytes()).await.unwrap();
    let mut line = String::new();
    while !line.starts_with("PONG") {
        line.clear();
        assert!(stream.read_line(&mut line).await.unwrap() > 0);
    }
}

// --- what a client sees ---------------------------------------------------------------------------

struct Client {
    body: BodyDataStream,
    text: String,
    /// Of the last item that was told whole.
    name: String,
    /// How often it was told that the stream is alive.
    beats: usize,
}

impl Client {
    fn of(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        Self {
            body: response.into_body().into_data_stream(),
            text: String::new(),
            name: String::new(),
            beats: 0,
        }
    }

    async fn open(live: &Live, item: ItemId, seen: Option<i64>) -> Self {
        Self::of(live.watch(item, seen, None, &Trace::start()).await.unwrap())
    }

    /// The kind and the id of the next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(String, i64)> {
        loop {
            while let Some((frame, rest)) = self.text.split_once("\n\n") {
                let lines: Vec<&str> = frame.lines().collect();
                let read = match lines.as_slice() {
                    ["retry: 1000"] => None,
                    [": alive"] => {
                        self.beats += 1;
                        None
                    }
                    [id, event, data] => {
                        let data: serde_json::Value =
                            serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
                        let id: i64 = id.strip_prefix("id: ").unwrap().parse().unwrap();
                        let version = data["item"]["version"].as_i64().or(data["version"].as_i64());
                        assert_eq!(version, Some(id));
                        if let Some(name) = data["name"].as_str() {
                            self.name = name.to_owned();
                        }
                        Some((event.strip_prefix("event: ").unwrap().to_owned(), id))
                    }
                    other => panic!("{other:?}"),
                };
                self.text = rest.to_owned();
                if read.is_some() {
                    return read;
                }
            }
            let more = tokio::time::timeout(Duration::from_secs(5), self.body.next()).await;
            let more = more.expect("an event within 5 seconds")?.unwrap();
            self.text.push_str(std::str::from_utf8(&more).unwrap());
        }
    }

    /// The name of the item in the snapshot that comes first, whatever ids the stream has.
    async fn shown(&mut self) -> String {
        while !self.text.contains("\"name\":") {
            let more = tokio::time::timeout(Duration::from_secs(5), self.body.next()).await;
            self.text.push_str(std::str::from_utf8(&more.unwrap().unwrap().unwrap()).unwrap());
        }
        let data = self.text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let item: serde_json::Value = serde_json::from_str(data).unwrap();
        item["name"].as_str().unwrap().to_owned()
    }

    async fn take(&mut self, count: usize) -> Vec<(String, i64)> {
        let mut seen = Vec::new();
        while seen.len() < count {
            seen.push(self.next().await.unwrap());
        }
        seen
    }
}

fn snapshot(version: i64) -> (String, i64) {
    ("snapshot".to_owned(), version)
}

fn bids(versions: impl IntoIterator<Item = i64>) -> Vec<(String, i64)> {
    versions.into_iter().map(|version| ("bid".to_owned(), version)).collect()
}

fn asked(item: ItemId) -> usize {
    shelved(item, |shelved| shelved.asked)
}

#[tokio::test]
async fn each_change_is_sent_once_and_in_order_however_it_is_heard() {
    let (world, item) = (world().await, offer());
    let live = live(&world);
    let mut client = Client::open(&live, item, None).await;
    assert_eq!(client.next().await, Some(snapshot(1)));

    bid(&world, item).await;
    assert_eq!(client.take(1).await, bids([2]));
    assert_eq!(asked(item), 0, "what is heard in order need not be asked for");
    let (second, third) = (placed(item, 2), silent_bid(item));
    tell(&world, item, &second).await;
    // The third is heard after the fourth, the fifth not at all.
    bid(&world, item).await;
    tell(&world, item, &third).await;
    silent_bid(item);
    bid(&world, item).await;
    for strange in ["{}", "not JSON", &placed(ItemId::new(), 0)] {
        tell(&world, item, strange).await;
    }
    bid(&world, item).await;

    assert_eq!(client.take(5).await, bids(3..=7));
}

#[tokio::test]
async fn who_comes_back_gets_what_was_missed_and_nothing_twice() {
    let (world, item) = (world().await, offer());
    let live = live(&world);
    for _ in 0..10 {
        silent_bid(item);
    }

    for seen in [1, 4, 10, 11] {
        let mut client = Client::open(&live, item, Some(seen)).await;
        bid(&world, item).await;
        let now = shelved(item, |shelved| i64::try_from(shelved.changes.len()).unwrap() + 1);
        let missed = usize::try_from(now - seen).unwrap();
        assert_eq!(client.take(missed).await, bids(seen + 1..=now), "{seen}");
    }
    // A version that is still to come, and one that is no longer told.
    shelved(item, |shelved| shelved.kept_from = 3);
    for seen in [99, 2] {
        let mut client = Client::open(&live, item, Some(seen)).await;
        assert_eq!(client.next().await, Some(snapshot(15)), "{seen}");
    }
    // What is no version.
    let uri = format!("/api/v1/items/{item}/events");
    for seen in ["", "x", "0", "-1", "1e3", "9223372036854775807", "99999999999999999999"] {
        let response = open(&world, "GET", &uri, &[("last-event-id", seen)]).await;
        assert_eq!(Client::of(response).next().await, Some(snapshot(15)), "{seen}");
    }
    let response = open(&world, "GET", &uri, &[("last-event-id", "12")]).await;
    assert_eq!(Client::of(response).take(3).await, bids(13..=15));
}

async fn open(world: &World, method: &str, uri: &str, headers: &[(&str, &str)]) -> Response {
    use tower::ServiceExt;
    let request = axum::http::Request::builder().method(method).uri(uri);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    world.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn in_the_silence_a_stream_says_that_it_is_alive_and_a_lost_last_word_is_found() {
    let (world, item) = (world().await, offer());
    let live = Live { heartbeat: Duration::from_millis(100), ..live(&world) };
    let mut client = Client::open(&live, item, None).await;
    client.next().await;

    silent_bid(item);

    assert_eq!(client.next().await, Some(("bid".to_owned(), 2)));
    assert!(client.beats >= 2, "{}", client.beats);
}

#[tokio::test]
async fn while_nobody_can_be_asked_a_stream_stays_open_and_misses_nothing() {
    let (world, item) = (world().await, offer());
    let live = live(&world);
    let mut client = Client::open(&live, item, None).await;
    client.next().await;
    shelved(item, |shelved| shelved.is_away = true);

    silent_bid(item);
    bid(&world, item).await;
    let outage = async {
        until(async || asked(item) >= 2).await;
        // Who comes back now is let in, and has to wait like the others.
        let back = Client::open(&live, item, Some(2)).await;
        let strange = Client::open(&live, item, Some(i64::MAX)).await;
        bid(&world, item).await;
        shelved(item, |shelved| shelved.is_away = false);
        (back, strange)
    };
    let (seen, (mut back, mut strange)) = tokio::join!(client.take(3), outage);

    assert_eq!(seen, bids(2..=4));
    assert_eq!(back.take(2).await, bids(3..=4));
    assert_eq!(strange.next().await, Some(snapshot(4)));
}

#[tokio::test]
async fn while_it_waits_for_the_log_a_stream_goes_on() {
    let (world, item) = (world().await, offer());
    let beat = Duration::from_millis(100);
    let live = Live { heartbeat: beat, first_within: Duration::from_millis(300), ..live(&world) };
    let mut client = Client::open(&live, item, None).await;
    client.next().await;

    // All who ask wait in line.
    let line = live.questions.acquire_many(u32::try_from(QUESTIONS).unwrap()).await.unwrap();
    let second = placed(item, 2);
    silent_bid(item);
    bid(&world, item).await;
    let later = async {
        tokio::time::sleep(beat * 5).await;
        tell(&world, item, &second).await;
    };
    let (seen, ()) = tokio::join!(client.take(1), later);

    assert_eq!(seen, bids([2]), "what is heard is sent");
    assert!(client.beats >= 3, "{}", client.beats);
    // Who comes back does not wait for longer than that.
    let mut back =
        tokio::time::timeout(Duration::from_secs(2), Client::open(&live, item, Some(2))).await.unwrap();
    let trace = Trace::start();
    let new = tokio::time::timeout(Duration::from_secs(2), live.watch(item, None, None, &trace));
    assert_eq!(new.await.unwrap().unwrap_err().into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(line);
    assert_eq!(client.take(1).await, bids([3]));
    assert_eq!(back.take(1).await, bids([3]));
}

#[tokio::test]
async fn a_client_that_does_not_read_keeps_nobody_else_waiting() {
    let (world, item) = (world().await, offer());
    let live = Live { questions: Arc::new(Semaphore::new(1)), ..live(&world) };
    let mut idle = Client::open(&live, item, None).await;
    let mut other = Client::open(&live, item, None).await;
    join_all([idle.next(), other.next()]).await;
    let line = live.questions.acquire().await.unwrap();
    silent_bid(item);
    bid(&world, item).await;

    // It asks, and is first in the line. Then it is not polled any more, as when its connection is full.
    assert!(tokio::time::timeout(Duration::from_millis(200), idle.body.next()).await.is_err());
    drop(line);

    assert_eq!(other.take(2).await, bids(2..=3));
    assert_eq!(idle.take(2).await, bids(2..=3));
}

#[tokio::test]
async fn what_cannot_be_told_change_by_change_is_told_whole() {
    let (world, item) = (world().await, offer());
    let live = live(&world);
    let mut client = Client::open(&live, item, None).await;
    client.next().await;

    shelved(item, |shelved| shelved.kept_from = 3);
    silent_bid(item);
    bid(&world, item).await;
    assert_eq!(client.next().await, Some(snapshot(3)));
    bid(&world, item).await;
    assert_eq!(client.take(1).await, bids([4]));
}

#[tokio::test]
async fn what_only_its_owner_may_see_is_not_sent_after_the_token_has_ended() {
    let mut functions = vec![Function::query(get_item), Function::query(list_changes)];
    functions.push(crate::tests::keys());
    let (world, item) = (World::start(functions).await, offer());
    // With the leeway of five seconds it holds for two more.
    let token = crate::tests::token_that_ends_in(-3);
    let uri = format!("/api/v1/items/{item}/events");
    let mut client = Client::of(open(&world, "GET", &uri, &[("authorization", &token)]).await);
    assert_eq!(client.next().await, Some(snapshot(1)));
    assert_eq!(client.name, "the seller's");

    tokio::time::sleep(Duration::from_secs(3)).await;
    shelved(item, |shelved| shelved.kept_from = 3);
    silent_bid(item);
    bid(&world, item).await;

    assert_eq!(client.next().await, Some(snapshot(3)));
    assert_eq!(client.name, "anybody's");
}

#[tokio::test]
async fn an_unknown_item_and_a_function_that_is_away_are_told_before_a_stream_begins() {
    let world = world().await;
    for path in [ItemId::new().to_string(), "7".to_owned(), "%ff".to_owned()] {
        for headers in [&[][..], &[("last-event-id", "3")]] {
            let answer = get(&world.router, &format!("/api/v1/items/{path}/events"), headers).await;
            assert_eq!((answer.status, answer.code()), (StatusCode::NOT_FOUND, "NOT_FOUND"), "{path}");
        }
    }
    let empty = World::start(Vec::new()).await;
    let answer = get(&empty.router, &format!("/api/v1/items/{}/events", ItemId::new()), &[]).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"));
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn the_answer_is_a_stream_and_to_head_only_its_head() {
    let (world, item) = (world().await, offer());
    let uri = format!("/api/v1/items/{item}/events");

    let stream = open(&world, "GET", &uri, &[]).await;
    let head = open(&world, "HEAD", &uri, &[]).await;

    for response in [&stream, &head] {
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header("content-type"), Some("text/event-stream"));
        assert_eq!(header("cache-control"), Some("no-cache"));
        assert_eq!(header("x-accel-buffering"), Some("no"));
    }
    assert!(head.into_body().into_data_stream().next().await.is_none());
    let mut first = stream.into_body().into_data_stream();
    let first = first.next().await.unwrap().unwrap();
    assert!(first.starts_with(b"retry: 1000\n\nid: 1\nevent: snapshot\ndata: {"), "{first:?}");
}

#[tokio::test]
async fn a_client_that_does_not_read_misses_nothing_when_it_reads_again() {
    let (world, item) = (world().await, offer());
    let live = live(&world);
    let mut client = Client::open(&live, item, None).await;
    client.next().await;

    for _ in 0..BEHIND + 50 {
        bid(&world, item).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    let count = BEHIND + 50;
    assert_eq!(client.take(count).await, bids(2..=i64::try_from(count).unwrap() + 1));
    assert!(asked(item) > 0, "more was said than is kept for it");
}

#[tokio::test]
async fn a_crowd_that_missed_the_same_asks_for_it_once() {
    let (world, item) = (world().await, offer());
    let live = live(&world);
    let mut crowd = join_all((0..100).map(|_| Client::open(&live, item, None))).await;
    join_all(crowd.iter_mut().map(Client::next)).await;
    let feeds = lock(&live.feeds).len();
    assert_eq!(feeds, 1, "one subscription for all");

    silent_bid(item);
    bid(&world, item).await;

    let seen = join_all(crowd.iter_mut().map(|client| client.take(2))).await;
    assert!(seen.iter().all(|seen| *seen == bids(2..=3)));
    assert!(asked(item) <= 3, "{}", asked(item));
    drop(crowd);
    assert!(lock(&live.feeds).is_empty());
}

#[tokio::test]
async fn streams_end_at_once_when_the_edge_stops() {
    let (world, item) = (world().await, offer());
    let live = live(&world);
    let mut client = Client::open(&live, item, None).await;
    client.next().await;

    world.stop.cancel();

    assert_eq!(client.next().await, None);
    drop(client);
    assert_eq!(live.room.available_permits(), STREAMS);
}

#[tokio::test]
async fn streams_have_a_bound_of_their_own() {
    let (world, item) = (world().await, offer());
    let live = Live { room: Arc::new(Semaphore::new(1)), ..live(&world) };
    let first = Client::open(&live, item, None).await;

    let refused = live.watch(item, None, None, &Trace::start()).await.unwrap_err();
    assert_eq!(refused.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(first);
    assert!(live.watch(item, None, None, &Trace::start()).await.is_ok());
    // What does not become a stream takes no place.
    assert!(live.watch(ItemId::new(), None, None, &Trace::start()).await.is_err());
    assert!(live.watch(item, None, None, &Trace::start()).await.is_ok());
}
