//! When there is no room or everything is slow: callers are told at once and in plain words, and it goes on by itself.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use platform::Trace;
use serde_json::{Value, json};

use crate::{Alone, Seen, Visitor, bids_of, nats_of, path_of, split::alone, start, start_in, story};

/// Longer than this nobody waits who is told that there is no room.
const AT_ONCE: Duration = Duration::from_secs(2);

/// 503 as the contract has it: with the second at which to come again.
fn assert_unavailable(seen: &Seen) {
    assert_eq!((seen.status, seen.code()), (503, "UNAVAILABLE"), "{}", seen.body);
    assert!(seen.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
}

#[test]
fn commands_that_find_no_room_are_refused_at_once_and_the_others_are_decided() {
    story(async {
        let (platform, _data) = start(vec!["place-bid".into()]).await;
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(120.0, json!({ "start_price": "1.00" })).await;
        let bob = Visitor::new(&platform.url, "bob").await;
        let bus = testing::connect(&nats_of(&platform)).await;
        let api = async |verb: &str, body: Value| -> Value {
            let asked =
                bus.request(format!("$JS.API.STREAM.{verb}.COMMANDS"), &body, None, &Trace::start()).await;
            serde_json::from_slice(&asked.unwrap().body).unwrap()
        };
        let mut small = api("INFO", json!({})).await["config"].clone();
        small["max_msgs"] = json!(10);
        assert!(api("UPDATE", small).await["error"].is_null());

        let bids = join_all((1..=16).map(|number| {
            let (bob, item) = (bob.clone(), item.clone());
            async move {
                let asked = Instant::now();
                (bob.bid(&item, json!(number)).await, asked.elapsed())
            }
        }));
        let bids = bids.await;

        let (stored, refused): (Vec<_>, Vec<_>) = bids.into_iter().partition(|(seen, _)| seen.status == 202);
        assert_eq!((stored.len(), refused.len()), (10, 6));
        for (seen, took) in &refused {
            assert_unavailable(seen);
            assert!(*took < AT_ONCE, "{took:?}");
        }
        let _place_bid = Alone::run("place-bid", &platform.env);
        for (seen, _) in &stored {
            let location = seen.headers["location"].to_str().unwrap();
            bob.get_until(location, |outcome| outcome["status"] != "pending").await;
        }
        assert_eq!(bob.bid(&item, json!(100)).await.status, 201, "there is room again");
        platform.stop().await;
    });
}

/// Somebody holds a table: every connection of the pool waits, then every lane, then there is no room.
#[test]
fn while_a_table_is_locked_readers_are_told_to_come_again() {
    story(async {
        let (platform, _data) = start(Vec::new()).await;
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(120.0, json!({})).await;
        let options = platform::database::options(&platform.env, "auctions").unwrap();
        let pool = platform::database::pool(&platform.env.read().unwrap(), options, "a test");
        let mut lock = pool.begin().await.unwrap();
        sqlx::query("lock table items in access exclusive mode").execute(&mut *lock).await.unwrap();

        let asked = join_all((0..400).map(|_| {
            let (ann, path) = (ann.clone(), path_of(&item));
            async move {
                let asked = Instant::now();
                (ann.get(&path).await, asked.elapsed())
            }
        }));
        let asked = asked.await;

        let mut at_once = 0;
        for (seen, took) in &asked {
            assert_unavailable(seen);
            assert!(*took < Duration::from_secs(8), "{took:?}");
            at_once += usize::from(*took < AT_ONCE);
        }
        assert!(at_once > 0, "the lanes are full and it is said at once");
        lock.rollback().await.unwrap();
        assert_eq!(ann.get_until(&path_of(&item), |item| item["id"].is_string()).await["id"], item["id"]);
        platform.stop().await;
    });
}

/// Eight seconds in which Postgres does not die and does not answer either.
#[test]
fn while_postgres_stands_still_bids_are_kept_and_readers_are_told_so() {
    story(async {
        let _alone = alone().await;
        let data = local::temp_dir().unwrap();
        let platform = start_in(data.path(), Vec::new(), false).await;
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(120.0, json!({ "start_price": "1.00" })).await;
        let bob = Visitor::new(&platform.url, "bob").await;
        let postgres = platform.service_pids().1.unwrap();
        signal_all(postgres, "-STOP");
        let stopped = Instant::now();

        let path = path_of(&item);
        let (told, read) = tokio::join!(bob.bid(&item, json!(1)), bob.get(&path));
        assert_eq!(told.status, 202, "{}", told.body);
        assert_unavailable(&read);
        tokio::time::sleep_until((stopped + Duration::from_secs(8)).into()).await;
        signal_all(postgres, "-CONT");

        let location = told.headers["location"].to_str().unwrap();
        let outcome = bob.get_until(location, |outcome| outcome["status"] == "succeeded").await;
        assert_eq!(outcome["result"]["amount"], "1.00");
        bob.get_until(&format!("{}?limit=5", bids_of(&item)), |page| page["page_info"]["total"] == 1).await;
        platform.stop().await;
    });
}

/// Signals Postgres and all its processes. One of them may just have ended.
fn signal_all(postmaster: u32, signal: &str) {
    let parent = postmaster.to_string();
    for program in [["kill", signal, &parent].as_slice(), &["pkill", signal, "-P", &parent]] {
        std::process::Command::new(program[0]).args(&program[1..]).status().unwrap();
    }
}
