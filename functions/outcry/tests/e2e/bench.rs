//! Measurements, and what they find out about every bid.

use std::time::Duration;

use outcry::bench::{self, Plan, Scenario, Show};
use platform::{Env, Trace};
use serde_json::{Value, json};

use crate::{Alone, SHARED, Visitor, nats_of, split::alone, start, story};

fn plan(scenarios: &[Scenario], url: Option<&str>) -> Plan {
    Plan {
        url: url.map(str::to_owned),
        scenarios: scenarios.to_vec(),
        items: vec![10],
        bidders: 3,
        connections: 4,
        rate: None,
        rounds: 1,
        seconds: 1,
        warm_up: 0,
        program: env!("CARGO_BIN_EXE_outcry").into(),
    }
}

const UNSEEN: Show = Show { step: |_| {}, beat: |_| {} };

#[test]
fn a_bench_of_a_platform_that_runs_finds_every_accepted_bid_again() {
    story(async {
        let plan = plan(&[Scenario::Bids], Some(&SHARED));

        let report = bench::run(&Env::default(), &plan, UNSEEN).await.unwrap();

        assert!(report.passed(), "{}", report.table());
        let row = &report.scenarios[0];
        let audit = row.audit.as_ref().unwrap();
        assert!(row.accepted > 10 && audit.bids as u64 >= row.accepted, "{}", report.table());
        assert!(row.p50_ms > 0.0 && row.p50_ms <= row.p99_ms && row.p99_ms <= row.max_ms);
        assert!(row.errors.is_empty() && row.pending == 0, "{}", report.table());
    });
}

#[test]
fn a_bench_of_the_hammer_looks_at_every_item_that_ended() {
    story(async {
        let plan = plan(&[Scenario::Bids], Some(&SHARED));

        let hammered = bench::hammer(&Env::default(), &plan, 60, UNSEEN).await.unwrap();

        assert!(hammered.passed(), "{hammered}");
        assert!(hammered.late_max_ms > 0.0 && hammered.within_two_seconds >= 60, "{hammered}");
        assert!(hammered.before.accepted > 0 && hammered.meanwhile.accepted > 0, "{hammered}");
        assert!(!hammered.decided_meanwhile.is_empty(), "{hammered}");
    });
}

#[test]
fn a_bench_of_watchers_finds_that_all_of_them_heard() {
    story(async {
        let plan = plan(&[Scenario::Bids], Some(&SHARED));

        let watched = bench::watchers(&Env::default(), &plan, 30, UNSEEN).await.unwrap();

        assert!(watched.passed(), "{watched}");
        assert_eq!(watched.ways.len(), 3);
        assert!(watched.ways.iter().all(|way| way.p50_ms > 0.0 && way.p99_ms <= way.max_ms), "{watched}");
    });
}

#[test]
fn a_bench_of_looks_finds_nothing_older_than_what_was_answered() {
    story(async {
        let _alone = alone().await;
        // So few bids that also on a slow machine most looks come between two of them.
        let plan = Plan { items: vec![1, 5], rate: Some(10.0), ..plan(&[Scenario::Bids], None) };

        let looked = bench::looks(&Env::default(), &plan, UNSEEN).await.unwrap();

        assert!(looked.passed(), "{looked}");
        assert_eq!(looked.things.len(), 3);
        for thing in &looked.things {
            assert!(thing.kept.bids > 0 && thing.asked.bids > 0, "{looked}");
            assert!(thing.kept.from_memory > 0.5 && thing.asked.from_memory == 0.0, "{looked}");
        }
    });
}

#[test]
fn a_bench_with_a_rate_sends_that_many_and_no_more() {
    story(async {
        let plan = Plan { rate: Some(40.0), seconds: 2, ..plan(&[Scenario::Bids], Some(&SHARED)) };

        let report = bench::run(&Env::default(), &plan, UNSEEN).await.unwrap();

        assert!(report.passed(), "{}", report.table());
        let row = &report.scenarios[0];
        let refused: u64 = row.refused.values().sum();
        // The last ones may be answered after the end, and on a busy machine some are not sent.
        let sent = row.accepted + refused + row.unsent;
        assert!((60..=80).contains(&sent), "{}", report.table());
    });
}

#[test]
fn a_bench_compares_bids_with_those_of_other_platforms_and_with_echoes() {
    story(async {
        let _alone = alone().await;
        let all = [Scenario::Bids, Scenario::Split, Scenario::OneAtATime, Scenario::Echo];

        let report = bench::run(&Env::default(), &plan(&all, None), UNSEEN).await.unwrap();

        assert!(report.passed(), "{}", report.table());
        let scenarios: Vec<Scenario> = report.scenarios.iter().map(|row| row.scenario).collect();
        assert_eq!(scenarios, all);
        assert!(report.scenarios.iter().all(|row| row.accepted > 0), "{}", report.table());
        let [bids, split, one_at_a_time, echo] = &report.scenarios[..] else { panic!("{}", report.table()) };
        for row in [bids, split] {
            assert!(row.times_baseline.is_some() && row.of_echo.is_some(), "{}", report.table());
        }
        assert_eq!((one_at_a_time.times_baseline, echo.of_echo), (None, None));
        assert!(echo.audit.is_none() && one_at_a_time.audit.is_some());
    });
}

#[test]
fn a_bench_finds_out_what_became_of_bids_that_were_answered_too_late() {
    story(async {
        let (platform, _data) = start(vec!["place-bid".into()]).await;
        let (env, plan) = (Env::default(), plan(&[Scenario::Bids], Some(&platform.url)));
        let bus = testing::connect(&nats_of(&platform)).await;
        let waiting = async || {
            let bids = json!({ "subjects_filter": "cmd.auctions.place-bid.*" });
            let told = bus.request("$JS.API.STREAM.INFO.COMMANDS".into(), &bids, None, &Trace::start()).await;
            let told: Value = serde_json::from_slice(&told.unwrap().body).unwrap();
            let subjects = told["state"]["subjects"].as_object().cloned().unwrap_or_default();
            subjects.values().filter_map(Value::as_u64).sum::<u64>()
        };
        let coming = async {
            while waiting().await < 4 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // Longer than the edge waits.
            tokio::time::sleep(Duration::from_secs(7)).await;
            Alone::run("place-bid", &platform.env)
        };

        let (report, place_bid) = tokio::join!(bench::run(&env, &plan, UNSEEN), coming);

        let report = report.unwrap();
        assert!(report.passed(), "{}", report.table());
        let row = &report.scenarios[0];
        assert_eq!((row.accepted, row.pending), (0, 4), "one of each connection: {}", report.table());
        let audit = row.audit.as_ref().unwrap();
        assert_eq!(audit.found_accepted + audit.found_refused, 4);
        assert_eq!(audit.bids as u64, audit.found_accepted);
        drop(place_bid);
        platform.stop().await;
    });
}

#[test]
fn a_bench_says_so_when_a_bid_is_listed_that_it_knows_nothing_of() {
    story(async {
        let (platform, _data) = start(Vec::new()).await;
        let eve = Visitor::new(&platform.url, "eve").await;
        let plan = Plan { items: vec![1], ..plan(&[Scenario::Bids], Some(&platform.url)) };
        let env = Env::default();
        let meddling = async {
            let items = eve.get_until("/api/v1/items", |items| items["page_info"]["total"] == 1).await;
            eve.bid(&items["data"][0], json!(1_000_000)).await
        };

        let (report, meddled) = tokio::join!(bench::run(&env, &plan, UNSEEN), meddling);

        let report = report.unwrap();
        assert_eq!(meddled.status, 201, "{}", meddled.body);
        assert!(!report.passed(), "{}", report.table());
        let expected = format!("bid {} is listed", meddled.body["id"].as_str().unwrap());
        let faults = &report.scenarios[0].audit.as_ref().unwrap().faults;
        assert!(faults.len() == 1 && faults[0].starts_with(&expected), "{faults:?}");
        platform.stop().await;
    });
}
