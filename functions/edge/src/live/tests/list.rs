//! The same promises for several items over one stream.

use std::collections::{BTreeSet, HashMap};

use super::*;
use crate::live::list::Position;

/// What is told of one item: its kind, which item, its version.
type Event = (String, ItemId, i64);

struct ListClient {
    body: BodyDataStream,
    text: String,
    last: String,
    beats: usize,
}

impl ListClient {
    fn of(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        Self {
            body: response.into_body().into_data_stream(),
            text: String::new(),
            last: String::new(),
            beats: 0,
        }
    }

    async fn open(live: &Live, items: &[ItemId], seen: Option<&str>) -> Self {
        Self::of(watch_all(live, items, seen).await.unwrap())
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
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
                        self.last = id.strip_prefix("id: ").unwrap().to_owned();
                        let item = data["item_id"].as_str().or(data["id"].as_str()).unwrap();
                        let version = data["item"]["version"].as_i64().or(data["version"].as_i64());
                        let event = event.strip_prefix("event: ").unwrap().to_owned();
                        Some((event, ItemId(item.parse().unwrap()), version.unwrap()))
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

    /// So many events, by item, each as its kind and version.
    async fn take(&mut self, count: usize) -> HashMap<ItemId, Vec<(String, i64)>> {
        let mut seen = HashMap::<_, Vec<_>>::new();
        for _ in 0..count {
            let (event, item, version) = self.next().await.unwrap();
            seen.entry(item).or_default().push((event, version));
        }
        seen
    }
}

async fn watch_all(live: &Live, items: &[ItemId], seen: Option<&str>) -> Result<Response, Problem> {
    live.watch_all(items.iter().copied().collect(), seen, None, &Trace::start()).await
}

fn all_bids(
    items: &[ItemId],
    versions: std::ops::RangeInclusive<i64>,
) -> HashMap<ItemId, Vec<(String, i64)>> {
    items.iter().map(|item| (*item, bids(versions.clone()))).collect()
}

fn all_snapshots(items: &[ItemId], version: i64) -> HashMap<ItemId, Vec<(String, i64)>> {
    items.iter().map(|item| (*item, vec![snapshot(version)])).collect()
}

#[tokio::test]
async fn of_each_item_each_change_is_sent_once_and_in_order() {
    let (world, items) = (world().await, [offer(), offer(), offer()]);
    let live = live(&world);
    let mut client = ListClient::open(&live, &items, None).await;
    assert_eq!(client.take(3).await, all_snapshots(&items, 1));

    for item in items {
        bid(&world, item).await;
    }
    for item in items {
        // The third is lost, the fourth tells of the gap.
        silent_bid(item);
        bid(&world, item).await;
        tell(&world, item, &placed(item, 2)).await;
    }

    assert_eq!(client.take(9).await, all_bids(&items, 2..=4));
}

#[tokio::test]
async fn who_comes_back_to_another_edge_goes_on_with_each_item_where_it_was() {
    let (world, items) = (world().await, [offer(), offer(), offer(), offer()]);
    let (mut last, mut seen) = (None::<String>, HashMap::<ItemId, Vec<i64>>::new());
    // Cut off after one event more each time; some bids are lost while nobody watches, some while somebody does.
    for round in 1..=20 {
        // Another edge knows nothing of what the one before had heard.
        let live = live(&world);
        let mut client = ListClient::open(&live, &items, last.as_deref()).await;
        silent_bid(items[round % 4]);
        bid(&world, items[round % 4]).await;
        bid(&world, items[(round + 1) % 4]).await;
        for _ in 0..1 + round % 3 {
            let (_, item, version) = client.next().await.unwrap();
            seen.entry(item).or_default().push(version);
        }
        last = Some(client.last.clone());
    }
    let live = live(&world);
    let mut client = ListClient::open(&live, &items, last.as_deref()).await;
    let count = |item: ItemId| shelved(item, |shelved| i64::try_from(shelved.changes.len()).unwrap() + 1);
    while items.iter().any(|item| seen.get(item).and_then(|seen| seen.last()) != Some(&count(*item))) {
        let (_, item, version) = client.next().await.unwrap();
        seen.entry(item).or_default().push(version);
    }

    for item in items {
        let seen = &seen[&item];
        // From the version of its snapshot on: no gap, nothing twice.
        let expected: Vec<i64> = (seen[0]..=count(item)).collect();
        assert_eq!(*seen, expected);
    }
}

#[tokio::test]
async fn an_id_of_another_list_or_of_nobody_says_nothing() {
    let (world, items) = (world().await, [offer(), offer()]);
    let live = live(&world);
    let mut client = ListClient::open(&live, &items, None).await;
    client.take(2).await;
    let last = client.last.clone();

    let mut other = ListClient::open(&live, &items[..1], Some(&last)).await;
    assert_eq!(other.take(1).await, all_snapshots(&items[..1], 1));
    for strange in ["", "7", "AAAA", "%", &last[..last.len() - 2], &format!("{last}AA")] {
        let mut client = ListClient::open(&live, &items, Some(strange)).await;
        assert_eq!(client.take(2).await, all_snapshots(&items, 1), "{strange}");
    }
    // The order in which they are named does not matter.
    let reversed = [items[1], items[0]];
    let mut client = ListClient::open(&live, &reversed, Some(&last)).await;
    for item in items {
        bid(&world, item).await;
    }
    assert_eq!(client.take(2).await, all_bids(&items, 2..=2));
}

#[tokio::test]
async fn items_that_do_not_exist_are_left_out_and_a_list_of_nothing_is_refused() {
    let (world, item) = (world().await, offer());
    let unknown = ItemId::new();
    let uri = format!("/api/v1/items/events?ids={unknown},{item}");
    let mut client = ListClient::of(open(&world, "GET", &uri, &[]).await);
    assert_eq!(client.next().await, Some(("snapshot".into(), item, 1)));
    bid(&world, item).await;
    assert_eq!(client.next().await, Some(("bid".into(), item, 2)));
    // It says where it was with what is not there, too.
    let mut back = ListClient::of(open(&world, "GET", &uri, &[("last-event-id", &client.last)]).await);
    bid(&world, item).await;
    assert_eq!(back.next().await, Some(("bid".into(), item, 3)));

    let answer = get(&world.router, &format!("/api/v1/items/events?ids={unknown}"), &[]).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::NOT_FOUND, "NOT_FOUND"));
    let many: Vec<String> = (0..101).map(|_| ItemId::new().to_string()).collect();
    for ids in ["", "?ids=", "?ids=,", "?ids=7", "?other=1", &format!("?ids={}", many.join(","))] {
        let answer = get(&world.router, &format!("/api/v1/items/events{ids}"), &[]).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::BAD_REQUEST, "INVALID_INPUT"), "{ids}");
    }
}

#[tokio::test]
async fn a_list_shares_what_others_hear_and_says_once_that_it_is_alive() {
    let (world, items) = (world().await, [offer(), offer(), offer()]);
    let live = Live { heartbeat: Duration::from_millis(300), ..live(&world) };
    let mut single = Client::open(&live, items[0], None).await;
    single.next().await;
    let mut crowd = join_all((0..20).map(|_| ListClient::open(&live, &items, None))).await;
    join_all(crowd.iter_mut().map(|client| client.take(3))).await;
    assert_eq!(lock(&live.feeds).len(), 3);

    let later = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bid(&world, items[0]).await;
    };
    let (seen, ()) = tokio::join!(join_all(crowd.iter_mut().map(ListClient::next)), later);
    assert_eq!(single.take(1).await, bids([2]));
    assert!(seen.iter().all(|seen| *seen == Some(("bid".into(), items[0], 2))));
    for client in &crowd {
        // All three are silent, and it is said once and not three times.
        assert!((2..=4).contains(&client.beats), "{}", client.beats);
    }
    drop((single, crowd));
    assert!(lock(&live.feeds).is_empty());
}

#[tokio::test]
async fn a_crowd_that_comes_at_once_asks_for_an_item_a_few_times() {
    let (world, items) = (world().await, [offer(), offer()]);
    let live = live(&world);
    let before = shelved(items[0], |shelved| shelved.shown);

    let mut crowd = join_all((0..100).map(|_| ListClient::open(&live, &items, None))).await;

    for client in &mut crowd {
        assert_eq!(client.take(2).await, all_snapshots(&items, 1));
    }
    let shown = shelved(items[0], |shelved| shelved.shown) - before;
    assert!(shown <= 10, "{shown}");
}

#[tokio::test]
async fn a_list_takes_one_stream_and_items_of_lists_have_a_bound_of_their_own() {
    let (world, items) = (world().await, [offer(), offer()]);
    let live = Live { listed: Arc::new(Semaphore::new(3)), ..live(&world) };
    let first = ListClient::open(&live, &items, None).await;
    assert_eq!((live.room.available_permits(), live.clients.get()), (STREAMS - 1, 1.0));

    let refused = watch_all(&live, &items, None).await.unwrap_err();
    assert_eq!(refused.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(live.room.available_permits(), STREAMS - 1);
    drop(first);
    assert!(watch_all(&live, &[ItemId::new(), ItemId::new()], None).await.is_err());
    let mut last = ListClient::open(&live, &items, None).await;
    last.take(2).await;
    world.stop.cancel();
    assert_eq!(last.next().await, None);
    drop(last);
    assert_eq!((live.room.available_permits(), live.listed.available_permits()), (STREAMS, 3));
    assert_eq!(live.clients.get(), 0.0);
}

#[tokio::test]
async fn a_token_in_the_query_string_opens_nothing() {
    let mut functions = vec![Function::query(get_item), Function::query(list_changes)];
    functions.push(crate::tests::keys());
    let (world, item) = (World::start(functions).await, offer());
    let token = crate::tests::token_that_ends_in(600);
    let bare = token.strip_prefix("Bearer ").unwrap();

    for name in ["access_token", "token", "authorization"] {
        // Where it is needed it is missing; where it is not, nobody has brought it.
        let answer = get(&world.router, &format!("/api/v1/users/me/watchlist?{name}={bare}"), &[]).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"), "{name}");
        for uri in [format!("/api/v1/items/{item}/events?"), format!("/api/v1/items/events?ids={item}&")] {
            let mut client = Client::of(open(&world, "GET", &format!("{uri}{name}={bare}"), &[]).await);
            assert_eq!(client.shown().await, "anybody's");
            let mut client = Client::of(open(&world, "GET", &uri, &[("authorization", &token)]).await);
            assert_eq!(client.shown().await, "the seller's");
        }
    }
}

#[test]
fn an_id_is_short_and_never_long() {
    let items: BTreeSet<ItemId> = (0..100).map(|_| ItemId::new()).collect();
    for (version, length) in [(9, 144), (10_000, 278), (i64::MAX, 1211)] {
        let mut position = Position::of(&items, None);
        position.versions.fill(version);
        let id = position.id();
        assert_eq!(id.len(), length);
        assert_eq!(Position::of(&items, Some(&id)).versions, position.versions);
    }
}
