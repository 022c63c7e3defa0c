//! The platform in many processes: shared work, and parts that are replaced or told to end while it is used.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use outcry::{
    control::{self, Ask},
    demo::{self, Size},
    launch::{Platform, Programs, Split},
};
use platform::Trace;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::{Setting, Visitor, nats_of, path_of, start, story};

/// Held by a story with a platform of twenty processes: two of them at once would only test the machine.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Every part in a process of its own, these in two or more.
pub(crate) async fn start_split(data: &Path, throwaway: bool, replicas: &[(&str, usize)]) -> Platform {
    let split = Split {
        programs: Programs::One(env!("CARGO_BIN_EXE_outcry").into()),
        replicas: replicas.iter().map(|(part, count)| ((*part).to_owned(), *count)).collect(),
    };
    Setting { throwaway, split: Some(split), ..Setting::default() }.start(data).await
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: u32, signal: &str) {
    let sent = std::process::Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "kill {signal} {pid}");
}

/// Visitors of an item who are there all the time.
struct Busy {
    item: Value,
    stop: CancellationToken,
    visitors: Vec<tokio::task::JoinHandle<u64>>,
}

impl Busy {
    /// Each bids and looks in turn, as fast as it is answered. Any answer that is no answer of the contract's rules
    /// fails the story.
    async fn begin(platform: &Platform, item: &Value, visitors: u64) -> Self {
        let stop = CancellationToken::new();
        let bidders = Visitor::several(&platform.url, visitors).await;
        let visit = |(number, bidder): (u64, Visitor)| {
            let (item, stop) = (item.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut bids, mut accepted) = (0_u64, 0_u64);
                while !stop.is_cancelled() {
                    let bid = bidder.bid(&item, json!(bids * visitors + number + 1)).await;
                    assert!(matches!(bid.status, 201 | 409), "{} {}", bid.status, bid.body);
                    accepted += u64::from(bid.status == 201);
                    let seen = bidder.get(&path_of(&item)).await;
                    assert_eq!(seen.status, 200, "{}", seen.body);
                    bids += 1;
                }
                accepted
            })
        };
        let visitors = (0..).zip(bidders).map(visit).collect();
        Self { item: item.clone(), stop, visitors }
    }

    /// Sends them home: what was accepted is what the item says.
    async fn end(self, looking: &Visitor) {
        self.stop.cancel();
        let ended = futures_util::future::join_all(self.visitors).await;
        let accepted: u64 = ended.into_iter().map(Result::unwrap).sum();
        assert!(accepted > 1, "{accepted}");
        assert_eq!(looking.get(&path_of(&self.item)).await.body["bid_count"], json!(accepted));
    }
}

/// A program that is one part of the platform, as `just deploy` would build it.
fn program(folder: &Path, part: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(part);
    let outcry = env!("CARGO_BIN_EXE_outcry");
    std::fs::write(&path, format!("#!/bin/sh\nexec '{outcry}' run {part} 2>/dev/null\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn parts_of_one_process_are_replaced_under_load_and_no_request_fails() {
    story(async {
        let (platform, data) = start(Vec::new()).await;
        let programs = tempfile::tempdir().unwrap();
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(120.0, json!({ "start_price": "1.00" })).await;
        let busy = Busy::begin(&platform, &item, 8).await;

        let deploy = async |name: &str, program: PathBuf| {
            let ask = Ask::Deploy { name: name.to_owned(), program };
            control::ask(data.path(), &ask).await
        };
        for name in ["place-bid", "get-item", "edge", "place-bid", "auctions-relay", "get-item", "edge"] {
            let told = deploy(name, program(programs.path(), name)).await.unwrap();
            assert!(told.contains("serves in process"), "{told}");
        }
        let broken = deploy("place-bid", "/bin/false".into()).await.unwrap_err().to_string();
        assert!(broken.contains("what ran before goes on"), "{broken}");
        let parts = control::ask(data.path(), &Ask::Parts).await.unwrap();
        let bidding = parts.lines().find(|line| line.starts_with("place-bid")).unwrap();
        assert!(bidding.contains("process "), "{parts}");
        tokio::time::sleep(Duration::from_millis(500)).await;

        busy.end(&ann).await;
        platform.stop().await;
    });
}

#[test]
fn split_into_processes_an_auction_is_held_and_the_parts_are_listed() {
    story(async {
        let _alone = alone().await;
        let data = local::temp_dir().unwrap();
        let platform = start_split(data.path(), true, &[("place-bid", 2), ("edge", 2)]).await;

        demo::run(&platform.url, Size { bidders: 6, items: 4, seconds: 4 }, &|_: &str| {}).await.unwrap();

        let parts = control::ask(data.path(), &Ask::Parts).await.unwrap();
        for part in ["place-bid#1", "place-bid#2", "edge#2", "auctions-relay", "maintain", "login"] {
            let line = parts.lines().find(|line| line.starts_with(part)).unwrap();
            assert!(line.contains("process ") && line.contains("up "), "{line}");
        }
        let bus = testing::connect(&nats_of(&platform)).await;
        let mut handled = BTreeMap::new();
        while handled.len() < 2 {
            // Whoever is first answers.
            let asked = bus.request("$SRV.STATS.place-bid".into(), &json!({}), None, &Trace::start()).await;
            let told: Value = serde_json::from_slice(&asked.unwrap().body).unwrap();
            handled.insert(told["id"].to_string(), told["endpoints"][0]["num_requests"].as_u64().unwrap());
        }
        assert!(handled.values().all(|handled| *handled > 0), "the work is shared: {handled:?}");
        platform.stop().await;
    });
}

#[test]
fn parts_are_replaced_and_told_to_end_under_load_and_no_request_fails() {
    story(async {
        let _alone = alone().await;
        let (data, programs) = (local::temp_dir().unwrap(), tempfile::tempdir().unwrap());
        let twice = [("place-bid", 2), ("get-item", 2), ("edge", 2)];
        let platform = start_split(data.path(), true, &twice).await;
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(120.0, json!({ "start_price": "1.00" })).await;
        let busy = Busy::begin(&platform, &item, 24).await;
        tokio::time::sleep(Duration::from_secs(1)).await;

        for (part, _) in twice {
            let told = platform.pids(part)[0];
            signal(told, "-TERM");
            // Until another one has taken its place.
            while platform.pids(part).contains(&told) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        for (part, replicas) in [("edge", 2), ("place-bid", 2), ("get-item", 2), ("auctions-relay", 1)] {
            let ask = Ask::Deploy { name: part.into(), program: program(programs.path(), part) };
            let told = control::ask(data.path(), &ask).await.unwrap();
            assert_eq!(told.lines().filter(|line| line.contains("has finished")).count(), replicas, "{told}");
        }

        tokio::time::sleep(Duration::from_millis(500)).await;
        busy.end(&ann).await;
        platform.stop().await;
    });
}
