//! What happens when parts and services are killed, stopped or lose their data in the middle of load: nothing that
//! was accepted is lost or doubled, and everything goes on by itself.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use outcry::launch::Platform;
use platform::Timestamp;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Seen, Visitor, bids_of, path_of,
    split::{alone, signal, start_split},
    story,
};

/// How many bid at once.
const BIDDERS: usize = 12;
/// How long after the last fault a caller may have to wait for a definite answer.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// How long after the last answer everything that follows from it may take.
const CONVERGED_WITHIN: Duration = Duration::from_secs(30);

/// How many seconds an item that stays open would last.
const OPEN: f64 = 3600.0;

/// What was answered, once it was answered for good.
struct Told {
    item: usize,
    bidder: usize,
    /// In major units.
    amount: u64,
    /// The bid as it was accepted, or the refusal's code.
    answer: Result<Value, String>,
}

/// Bidders who bid all the time on items that end while it goes on, and on one that does not.
pub(crate) struct Market {
    pub(crate) seller: Visitor,
    pub(crate) bidders: Vec<Visitor>,
    items: Vec<Value>,
    told: Arc<Mutex<Vec<Told>>>,
    stop: CancellationToken,
    busy: TaskTracker,
}

impl Market {
    /// Items that end after so many seconds, one that stays open, and bidders who begin at once.
    pub(crate) async fn open(platform: &Platform, ends: &[f64]) -> Self {
        let seller = Visitor::new(&platform.url, "ann").await;
        let mut items = Vec::new();
        for seconds in ends.iter().chain([&OPEN]) {
            items.push(seller.offer(*seconds, json!({ "start_price": "1.00" })).await);
        }
        let bidders = Visitor::several(&platform.url, BIDDERS as u64).await;
        let market = Self {
            seller,
            bidders,
            items,
            told: Arc::default(),
            stop: CancellationToken::new(),
            busy: TaskTracker::new(),
        };
        let next: Arc<Vec<AtomicU64>> = Arc::new(market.items.iter().map(|_| AtomicU64::new(1)).collect());
        for (number, bidder) in market.bidders.iter().cloned().enumerate() {
            let (items, told, stop) = (market.items.clone(), Arc::clone(&market.told), market.stop.clone());
            let next = Arc::clone(&next);
            market.busy.spawn(async move {
                for round in 0.. {
                    if stop.is_cancelled() {
                        break;
                    }
                    let item = (round + number) % items.len();
                    let amount = next[item].fetch_add(1, Ordering::Relaxed);
                    let answer = bid(&bidder, &items[item], amount, &format!("{number}-{round}")).await;
                    told.lock().unwrap().push(Told { item, bidder: number, amount, answer });
                }
            });
        }
        market
    }

    /// How many were accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.told.lock().unwrap().iter().filter(|told| told.answer.is_ok()).count()
    }

    /// Waits until bids are accepted again, which is how long it takes callers to notice that all is well.
    pub(crate) async fn goes_on(&self, what: &str) {
        let (before, since) = (self.accepted(), Instant::now());
        while self.accepted() < before + BIDDERS {
            assert!(since.elapsed() < SETTLED_WITHIN, "no bid is accepted any more after {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the load and looks, through the public API alone, whether every promise was kept.
    pub(crate) async fn audit(self, least: usize) {
        self.stop.cancel();
        self.busy.close();
        self.busy.wait().await;
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        assert!(told.iter().filter(|told| told.answer.is_ok()).count() >= least, "hardly a bid was accepted");
        let deadline = Instant::now() + CONVERGED_WITHIN;

        let mut won: BTreeMap<String, u64> = BTreeMap::new();
        for (number, item) in self.items.iter().enumerate() {
            let told = told.iter().filter(|told| told.item == number);
            if let Some(winner) = self.audit_item(item, told, deadline).await {
                *won.entry(winner).or_default() += 1;
            }
        }
        for (number, bidder) in self.bidders.iter().enumerate() {
            let accepted = told.iter().filter(|told| told.bidder == number && told.answer.is_ok());
            let (bids, amount) = accepted.fold((0, 0), |(bids, sum), told| (bids + 1, sum + told.amount));
            let figures = json!({
                "total_bids": bids,
                "total_amount": format!("{amount}.00"),
                "items_won": won.get(&bidder.id).copied().unwrap_or_default(),
            });
            until(deadline, bidder, &format!("/api/v1/users/{}/stats", bidder.id), |stats| {
                figures.as_object().unwrap().iter().all(|(name, value)| stats[name] == *value)
            })
            .await;
        }
        let sold = self.items.len() - 1;
        until(deadline, &self.seller, &format!("/api/v1/users/{}/stats", self.seller.id), |stats| {
            stats["items_sold"] == sold
        })
        .await;
        // The listing heard of everything too.
        let query = format!("/api/v1/items?seller_id={}&status=sold", self.seller.id);
        until(deadline, &self.seller, &query, |page| page["page_info"]["total"] == sold).await;
    }

    /// Every accepted bid is listed once and no other, in rising order, in time. When the item has ended, the last of
    /// them won, and who that was is returned.
    async fn audit_item(
        &self,
        item: &Value,
        told: impl Iterator<Item = &Told>,
        deadline: Instant,
    ) -> Option<String> {
        let mut listed = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.seller.get(&format!("{}?limit=100{cursor}", bids_of(item))).await.body;
            listed.extend(page["data"].as_array().unwrap().clone());
            match page["page_info"]["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        listed.reverse();
        let mut answered: Vec<&Value> = Vec::new();
        for told in told {
            match &told.answer {
                Ok(bid) => answered.push(bid),
                Err(code) => {
                    let refused = json!(format!("{}.00", told.amount));
                    assert!(
                        listed.iter().all(|bid| bid["amount"] != refused),
                        "refused with {code}, and listed"
                    );
                }
            }
        }
        answered.sort_by_key(|bid| bid["seq"].as_i64());
        let essence =
            |bid: &Value| [&bid["id"], &bid["seq"], &bid["amount"], &bid["bidder_id"]].map(Value::clone);
        assert_eq!(
            listed.iter().map(essence).collect::<Vec<_>>(),
            answered.into_iter().map(essence).collect::<Vec<_>>()
        );
        for (place, bid) in listed.iter().enumerate() {
            assert_eq!(bid["seq"], place + 1);
            assert!(time(&bid["placed_at"]) < time(&item["ends_at"]), "{bid}");
            if let Some(before) = place.checked_sub(1) {
                assert!(amount(&listed[before]) < amount(bid), "{bid}");
            }
        }
        let last = listed.last().unwrap();
        let now = self.seller.get(&path_of(item)).await.body;
        assert_eq!((&now["current_price"], &now["bid_count"]), (&last["amount"], &json!(listed.len())));
        if time(&item["ends_at"]) > Timestamp::now() + CONVERGED_WITHIN {
            assert_eq!(now["status"], "open");
            return None;
        }
        let closed = until(deadline, &self.seller, &path_of(item), |item| item["status"] == "sold").await;
        assert_eq!(closed["winner_id"], last["bidder_id"]);
        assert!(time(&closed["closed_at"]) >= time(&item["ends_at"]));
        Some(last["bidder_id"].as_str().unwrap().to_owned())
    }
}

/// Bids until the answer is definite: the same key makes it one bid, however often it is sent.
async fn bid(bidder: &Visitor, item: &Value, amount: u64, key: &str) -> Result<Value, String> {
    let (path, body) = (bids_of(item), json!({ "amount": format!("{amount}.00") }));
    let since = Instant::now();
    loop {
        match bidder.try_post_with_key(&path, key, body.clone()).await {
            Ok(Seen { status: 201, body, .. }) => return Ok(body),
            Ok(seen @ Seen { status: 409, .. }) => return Err(seen.code().to_owned()),
            // Cut off, told to come again, or told that it will be decided.
            Err(_) | Ok(Seen { status: 202 | 503, .. }) => {}
            Ok(seen) => panic!("a bid was answered with {}: {}", seen.status, seen.body),
        }
        assert!(since.elapsed() < SETTLED_WITHIN, "a bid was never answered for good");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks again until it is as expected, or too late.
async fn until(deadline: Instant, visitor: &Visitor, path: &str, expected: impl Fn(&Value) -> bool) -> Value {
    loop {
        let seen = visitor.get(path).await;
        if seen.status == 200 && expected(&seen.body) {
            return seen.body;
        }
        assert!(
            Instant::now() < deadline,
            "{path} was not as expected in time: {} {}",
            seen.status,
            seen.body
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn time(value: &Value) -> Timestamp {
    serde_json::from_value(value.clone()).unwrap()
}

fn amount(bid: &Value) -> f64 {
    bid["amount"].as_str().unwrap().parse().unwrap()
}

#[test]
fn whatever_is_killed_in_the_middle_of_load_nothing_is_lost_or_doubled() {
    story(async {
        let _alone = alone().await;
        let data = local::temp_dir().unwrap();
        let platform = start_split(data.path(), false, &[]).await;
        let market = Market::open(&platform, &[6.0, 12.0, 18.0, 24.0, 30.0]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;

        let parts =
            ["edge", "place-bid", "auctions-relay", "update-stats", "close-auction", "update-catalog"];
        for part in parts.into_iter().chain(["place-bid", "edge", "maintain"]) {
            signal(platform.pids(part)[0], "-9");
            tokio::time::sleep(Duration::from_millis(700)).await;
            market.goes_on(part).await;
        }
        let (nats, postgres) = platform.service_pids();
        for (service, pid) in [("nats-server", nats), ("Postgres", postgres)] {
            signal(pid.unwrap(), "-9");
            market.goes_on(service).await;
        }
        market.audit(100).await;
        platform.stop().await;
    });
}

/// Seven seconds are more than the stream waits for an acknowledgement, and than a lock or a session is kept for
/// somebody who is silent.
#[test]
fn what_stands_still_for_a_while_and_goes_on_spoils_nothing() {
    story(async {
        let _alone = alone().await;
        let data = local::temp_dir().unwrap();
        let platform = start_split(data.path(), false, &[("place-bid", 2), ("auctions-relay", 2)]).await;
        let market = Market::open(&platform, &[4.0, 9.0]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;

        let parts = ["place-bid", "update-stats", "auctions-relay", "close-auction"];
        let still = parts.map(|part| platform.pids(part)[0]);
        still.iter().for_each(|pid| signal(*pid, "-STOP"));
        tokio::time::sleep(Duration::from_secs(7)).await;
        still.iter().for_each(|pid| signal(*pid, "-CONT"));

        market.goes_on("a stand-still").await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(parts.map(|part| platform.pids(part)[0]), still, "nobody ended");
        market.audit(50).await;
        platform.stop().await;
    });
}

/// What an operator's disk may do: first the store of the stream is an earlier one, then it is empty.
#[test]
fn a_stream_store_that_is_rolled_back_or_wiped_costs_time_only() {
    story(async {
        let _alone = alone().await;
        let data = local::temp_dir().unwrap();
        let platform = start_split(data.path(), false, &[]).await;
        let market = Market::open(&platform, &[15.0, 25.0]).await;
        tokio::time::sleep(Duration::from_secs(2)).await;

        let (store, earlier) = (data.path().join("nats"), data.path().join("nats.earlier"));
        let nats = || platform.service_pids().0.unwrap();
        signal(nats(), "-STOP");
        copy(&store, &earlier);
        signal(nats(), "-CONT");
        tokio::time::sleep(Duration::from_secs(3)).await;
        replace(nats(), &store, Some(&earlier));
        market.goes_on("the store was rolled back").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        replace(nats(), &store, None);
        market.goes_on("the store was wiped").await;

        tokio::time::sleep(Duration::from_secs(2)).await;
        market.audit(100).await;
        platform.stop().await;
    });
}

/// Kills the server and has it find another store, or none.
fn replace(nats: u32, store: &Path, by: Option<&Path>) {
    signal(nats, "-STOP");
    std::fs::rename(store, store.with_extension("gone")).unwrap();
    if let Some(earlier) = by {
        std::fs::rename(earlier, store).unwrap();
    }
    signal(nats, "-9");
    std::fs::remove_dir_all(store.with_extension("gone")).unwrap();
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}
