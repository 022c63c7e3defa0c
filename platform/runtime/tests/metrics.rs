//! What is counted is what happened, told once and the same wherever it is told.

mod common;

use std::time::{Duration, Instant};

use garde::Validate;
use platform::{
    Bus, Command, Cx, Env, Event, Function, Kind, Message, Query, Received, Refused, Request, Result, Sender,
    Sent, Timestamp, Trace,
    config::Config,
    metrics::{Counter, Delay, Gatherer},
    provision::Definitions,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use testing::{Harness, exposition::Told};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::common::test_database;

static LAMPS: Counter = Counter { name: "lamps_total", help: "Lamps lit, by colour.", label: "colour" };
static WAIT: Delay = Delay { name: "lamp_wait_seconds", help: "From the wish to the light." };

/// Lights a lamp.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
#[garde(allow_unvalidated)]
struct Light {
    colour: String,
}

impl Message for Light {
    const DOMAIN: &'static str = "tests";
    const FUNCTION: &'static str = "add";
    type Reply = String;
}

impl Command for Light {}

fn light() -> Function {
    async fn light(cx: &mut Cx, lamps: Vec<Received<Light>>) -> Result<Vec<Result<String>>> {
        let mut lit = Vec::new();
        for lamp in &lamps {
            cx.count(&LAMPS, if lamp.message.colour == "dark" { "none" } else { "red" }, 1)?;
            cx.time(&WAIT, lamp.received_at)?;
            lit.push(match lamp.message.colour.as_str() {
                "dark" => Err(no().into()),
                "broken" => Err(anyhow::anyhow!("no bulb").into()),
                colour => Ok(colour.to_owned()),
            });
        }
        Ok(lit)
    }
    Function::batch_command(light).counts(&LAMPS).times(&WAIT).lanes(1, 64)
}

/// Looks at a lamp.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
#[garde(allow_unvalidated)]
struct Look {
    how: String,
}

impl Message for Look {
    const DOMAIN: &'static str = "tests";
    const FUNCTION: &'static str = "look";
    type Reply = String;
}

impl Query for Look {}

fn look() -> Function {
    async fn look(_: &mut Cx, look: Look) -> Result<String> {
        match look.how.as_str() {
            "refused" => Err(no().into()),
            "broken" => Err(anyhow::anyhow!("blind").into()),
            _ => {
                tokio::time::sleep(Duration::from_millis(30)).await;
                Ok("a lamp".into())
            }
        }
    }
    Function::query(look).lanes(1, 1)
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Lit {
    colour: String,
}

impl Event for Lit {
    const NAME: &'static str = "lamp.lit.v1";

    fn key(&self) -> Uuid {
        Uuid::nil()
    }
}

platform::hears! {
    enum Heard {
        Lit(Lit),
    }
}

fn notice() -> Function {
    async fn notice(_: &mut Cx, _: Vec<Received<Heard>>) -> Result<()> {
        Ok(())
    }
    Function::events("tests", "notice", notice)
}

fn no() -> Refused {
    Refused::new(Kind::Conflict, "CONFLICT", "no")
}

async fn serve(function: Function, bus: &Bus) {
    let name = function.spec().name;
    let host = Harness::start(test_database()).await.with_bus(bus.clone()).host(&function);
    tokio::spawn(platform::serve(host, bus.clone(), CancellationToken::new()));
    while !bus.is_serving(name, Duration::from_millis(100)).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn told(bus: &Bus) -> Told {
    Told::read(&bus.metrics().tell())
}

#[tokio::test]
async fn nats_service_stats_and_metrics_say_the_same() {
    let (nats, bus) = testing::bus().await;
    let consumer = json!({
        "name": "add", "durable_name": "add", "filter_subject": "cmd.tests.add.*", "deliver_policy": "all",
        "ack_policy": "explicit", "ack_wait": 5_000_000_000_u64, "max_deliver": -1, "max_ack_pending": 1000,
    });
    let consumers = vec![("COMMANDS".to_owned(), consumer)];
    Definitions { streams: Vec::new(), consumers }.apply(&bus).await.unwrap();
    serve(light(), &bus).await;
    serve(look(), &bus).await;
    let sender = Sender::start(bus.clone()).await.unwrap();
    for colour in ["red", "red", "dark"] {
        let request = Request { caller: None, trace: Trace::start(), idempotency_key: None };
        let sent = sender.send(&Light { colour: colour.into() }, &request).await.unwrap();
        assert!(matches!(sent, Sent::Answered(_)), "{sent:?}");
    }
    for how in ["fine", "refused", "broken", "broken"] {
        bus.ask(&Look { how: how.into() }, None, &Trace::start()).await.unwrap();
    }

    let told = told(&bus);
    for (function, [ok, refused, broken]) in [("add", [2, 1, 0]), ("look", [1, 1, 2])] {
        let (_, stats) =
            testing::request(&nats.url(), &format!("$SRV.STATS.{function}"), &[], json!({})).await;
        let stats = &stats["endpoints"][0];
        let requests = |outcome| told.value("fn_requests_total", &[("fn", function), ("outcome", outcome)]);
        let counts = ["ok", "refused", "broken"].map(requests);
        assert_eq!(counts, [ok, refused, broken].map(f64::from), "{function}");
        assert_eq!(number(&stats["num_requests"]), told.value("fn_requests_total", &[("fn", function)]));
        assert_eq!(
            number(&stats["num_requests"]),
            told.value("fn_duration_seconds_count", &[("fn", function)])
        );
        assert_eq!(number(&stats["num_errors"]), f64::from(broken), "{stats}");
        assert_eq!(number(&stats["data"]["refused"]), f64::from(refused), "{stats}");
        let seconds = told.value("fn_duration_seconds_sum", &[("fn", function)]);
        assert!((number(&stats["processing_time"]) / 1e9 - seconds).abs() < 1e-6, "{seconds} {stats}");
        assert_eq!(told.value("fn_inflight", &[("fn", function)]), 0.0);
    }
    assert_eq!(told.value("lamps_total", &[("colour", "red")]), 2.0);
    assert_eq!(told.value("consumer_redelivered_total", &[("consumer", "add")]), 0.0);
    assert!(told.value("db_pool_max", &[("pool", "tests")]) >= 1.0);
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

#[tokio::test]
async fn who_finds_no_room_is_counted_as_shed() {
    let (_nats, bus) = testing::bus().await;
    serve(look(), &bus).await;

    let (look, trace) = (Look { how: "fine".into() }, Trace::start());
    let asked = (0..5).map(|_| bus.ask(&look, None, &trace));
    let answers = futures_util::future::join_all(asked).await;

    let refused = answers.into_iter().filter(|answer| answer.as_ref().unwrap().status == 503).count();
    let told = told(&bus);
    assert_eq!(told.value("fn_shed_total", &[("fn", "look"), ("reason", "lanes")]), refused as f64);
    assert_eq!(told.value("fn_requests_total", &[("fn", "look"), ("outcome", "broken")]), refused as f64);
    assert_eq!(told.value("fn_duration_seconds_count", &[("fn", "look")]), (5 - refused) as f64);
    assert!((1..5).contains(&refused), "{refused}");
}

#[tokio::test]
async fn what_broke_was_not_counted_and_a_refusal_was() {
    let (_nats, bus) = testing::bus().await;
    let app = Harness::start(test_database()).await.with_bus(bus.clone());
    let host = app.host(&light());
    let deliver = |(place, colour)| platform::Delivery {
        sequence: place,
        ..app.delivery("cmd.tests.add.-", &json!({ "colour": colour }))
    };

    // The batch breaks, and its members run one by one: the good ones are counted once.
    host.execute(&[(1, "red"), (2, "broken"), (3, "dark"), (4, "blue")].map(deliver)).await;

    let told = told(&bus);
    assert_eq!(told.value("lamps_total", &[("colour", "red")]), 2.0);
    assert_eq!(told.find("lamps_total", &[("colour", "none")]), Some(1.0));
    assert_eq!(told.value("lamp_wait_seconds_count", &[]), 3.0);
    let outcome = |outcome| told.value("fn_requests_total", &[("fn", "add"), ("outcome", outcome)]);
    assert_eq!(["ok", "refused", "broken", "later"].map(outcome), [2.0, 1.0, 1.0, 0.0]);
}

#[tokio::test]
async fn a_function_counts_only_what_it_declares() {
    async fn light(cx: &mut Cx, _: Light) -> Result<String> {
        cx.count(&LAMPS, "red", 1)?;
        Ok(String::new())
    }
    let app = Harness::start(test_database()).await;
    let host = app.host(&Function::command(light));

    let verdicts = host.execute(&[app.delivery("cmd.tests.add.-", &json!({ "colour": "red" }))]).await;

    assert!(matches!(verdicts[0], platform::Verdict::Again(_)), "{verdicts:?}");
}

#[tokio::test]
async fn an_event_that_comes_again_is_a_duplicate_and_not_late() {
    let (_nats, bus) = testing::bus().await;
    let app = Harness::start(test_database()).await.with_bus(bus.clone());
    let host = app.host(&notice());
    let event = |id: u128, age: Duration| {
        let happened = Timestamp::now() - age;
        let envelope =
            json!({ "id": Uuid::from_u128(id), "timestamp": happened, "payload": { "colour": "red" } });
        app.delivery("events.lamp.lit.v1.-", &envelope)
    };

    host.execute(&[event(1, Duration::ZERO), event(2, Duration::from_secs(20))]).await;
    host.execute(&[event(1, Duration::ZERO)]).await;

    let told = told(&bus);
    assert_eq!(told.value("inbox_duplicates_total", &[("consumer", "notice")]), 1.0);
    let within = |le| told.value("event_lag_seconds_bucket", &[("consumer", "notice"), ("le", le)]);
    assert_eq!((within("10"), within("30")), (1.0, 2.0));
}

#[tokio::test]
async fn every_process_is_heard_and_nobody_is_waited_for_in_vain() {
    let (mut nats, bus) = testing::bus().await;
    let other = |name: &'static str| {
        let config: Config = Env::of([("NATS_URL", &*nats.url()), ("OUTCRY_INSTANCE", name)]).read().unwrap();
        async move { Bus::connect(&config, name).await.unwrap() }
    };
    let (one, two) = (other("one").await, other("two").await);
    serve(look(), &one).await;
    serve(look(), &two).await;
    bus.ask(&Look { how: "fine".into() }, None, &Trace::start()).await.unwrap();
    bus.metrics().gauge("sse_clients", "Open live views.").set(2.0);
    let gatherer = Gatherer::new(bus.clone());
    let gather = async || {
        // What was gathered just now is told again.
        tokio::time::sleep(Duration::from_millis(510)).await;
        let started = Instant::now();
        (Told::read(&gatherer.gather().await), started.elapsed())
    };

    let (first, _) = gather().await;
    let (second, took) = gather().await;

    assert_eq!(second.value("fn_requests_total", &[("fn", "look")]), 1.0);
    assert_eq!(first.values_of("instance").len(), 3, "{:?}", first.values_of("instance"));
    assert_eq!(second.value("sse_clients", &[]), 2.0);
    assert!(took < Duration::from_millis(450), "all that are known have answered: {took:?}");

    two.close().await;
    let (third, took) = gather().await;
    assert_eq!(third.values_of("instance").len(), 2);
    assert!(took < Duration::from_millis(950), "{took:?}");
    let (_, took) = gather().await;
    assert!(took < Duration::from_millis(450), "who was missing once is not waited for again: {took:?}");

    nats.crash().unwrap();
    let (alone, _) = gather().await;
    assert_eq!(alone.values_of("instance").len(), 1);
    assert_eq!(alone.value("sse_clients", &[]), 2.0);
}
