//! The users of the bus: a platform does all that it does with the rights that its parts have.

use std::{path::Path, time::Duration};

use outcry::{
    control::{self, Ask},
    demo::{self, Size},
};
use platform::{Bus, Config};
use serde_json::json;

use crate::{Visitor, nats_of, outcry, path_of, split::alone, split::start_split, start, story};

/// What nats-server refused to anybody, as its log tells.
fn refused(data: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(data.join("nats.log")).unwrap();
    assert!(log.contains("Server is ready"), "{log}");
    log.lines()
        .filter(|line| line.contains("Violation") || line.contains("uthorization"))
        .map(str::to_owned)
        .collect()
}

/// An auction, what was given up and is driven again, a projection that is made anew, a look at all that is counted.
async fn live_through(platform: &outcry::launch::Platform, data: &Path) {
    let outcry = async |arguments: &[&str]| outcry(data, arguments).await;
    demo::run(&platform.url, Size { bidders: 4, items: 3, seconds: 3 }, &|_: &str| {}).await.unwrap();
    for function in ["update-stats", "update-catalog", "count-products"] {
        let (good, told) = outcry(&["replay", function]).await;
        assert!(good, "{told}");
    }
    let bus = testing::connect(&nats_of(platform)).await;
    bus.publish_event("events.bid.placed.v1.x", "no event").await.unwrap();
    let mut letters = String::new();
    for _ in 0..100 {
        (_, letters) = outcry(&["dlq", "list"]).await;
        if letters.lines().count() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(letters.lines().count(), 3, "both who hear it give it up: {letters}");
    let (_, told) = outcry(&["dlq", "redrive", "--all"]).await;
    assert!(told.contains("0 settled, 2 failed"), "{told}");
    let visitor = Visitor::new(&platform.url, "zoe").await;
    let metrics =
        visitor.http.get(format!("{}/metrics", platform.url)).send().await.unwrap().text().await.unwrap();
    for told in ["fn=\"place-bid\"", "dlq_messages", "outbox_unpublished"] {
        assert!(metrics.contains(told), "{told}");
    }
    let category = visitor.post("/api/v1/categories", json!({ "name": "Devices" })).await.body;
    let product =
        json!({ "name": "AirFryer", "price": 1000, "store": "ABC TECH", "category_id": category["id"] });
    assert_eq!(visitor.post("/api/v1/products", product).await.status, 201);
    let counted = format!("/api/v1/categories/{}", category["id"]);
    visitor.get_until(&counted, |category| category["product_count"] == 1).await;
    let item = visitor.offer(60.0, json!({})).await;
    let (good, told) = outcry(&["call", "get-item", &json!({ "item_id": item["id"] }).to_string()]).await;
    assert!(good, "{told}");
    assert_eq!(visitor.get(&path_of(&item)).await.status, 200);
    assert_eq!(refused(data), [""; 0]);
}

#[test]
fn split_into_processes_no_part_is_refused_anything() {
    story(async {
        let _alone = alone().await;
        let data = local::temp_dir().unwrap();
        let platform = start_split(data.path(), true, &[]).await;

        live_through(&platform, data.path()).await;

        // The log would tell.
        let config: Config = platform.env.read().unwrap();
        let forger = Bus::connect(&config, "place-bid").await.unwrap();
        forger.publish_event("events.bid.placed.v1.x", "{}").await.unwrap_err();
        let refused = refused(data.path());
        assert!(refused.iter().any(|line| line.contains("events.bid.placed.v1.x")), "{refused:?}");
        platform.stop().await;
    });
}

#[test]
fn in_one_process_no_part_is_refused_anything() {
    story(async {
        let (platform, data) = start(Vec::new()).await;
        live_through(&platform, data.path()).await;
        platform.stop().await;
    });
}

#[test]
fn users_that_are_new_come_in_while_the_platform_runs() {
    story(async {
        let (platform, data) = start(Vec::new()).await;
        let new = "nats://new-part:of-this-test@";
        let as_new = || {
            let url = platform.env.get("NATS_URL").unwrap().replace("nats://", new);
            async move { testing::connect(&url).await.is_up(Duration::from_secs(3)).await }
        };
        let known = std::fs::read_to_string(data.path().join("nats-server.conf")).unwrap();
        let with = |user: &str| known.replacen("users: [", &format!("users: [{user}"), 1);
        assert!(!as_new().await);

        let more = with(r#"{ user: "new-part", password: "of-this-test" }"#);
        control::ask(data.path(), &Ask::Users(more)).await.unwrap();

        assert!(as_new().await);
        let broken = control::ask(data.path(), &Ask::Users(with("{ user: $NOBODY }"))).await.unwrap_err();
        assert!(broken.to_string().contains("goes on with the old one"), "{broken}");
        assert!(as_new().await);
        let ann = Visitor::new(&platform.url, "ann").await;
        let item = ann.offer(60.0, json!({})).await;
        assert_eq!(ann.get(&path_of(&item)).await.status, 200, "who was there goes on");
        platform.stop().await;
    });
}

#[test]
fn production_does_not_start_with_a_secret_that_somebody_might_guess() {
    let data = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outcry"));
        command.args(arguments).env("OUTCRY_DATA", data.path()).env("OUTCRY_ENV", "production");
        let output = command.envs(variables.iter().copied()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let edge = &["run", "edge"][..];
    let url = "postgres://stats:change-me-in-production@127.0.0.1:1/stats";
    for (arguments, variable, says) in [
        (edge, ("EDGE_KEY", "your-secret-key"), "EDGE_KEY has fewer than 32 characters"),
        (edge, ("NATS_PASSWORD", "change-me-in-production"), "NATS_PASSWORD looks like an example"),
        (edge, ("NATS_URL", "nats://127.0.0.1:1"), "NATS_PASSWORD is not set"),
        (
            &["run", "update-stats"],
            ("STATS_DATABASE_URL", url),
            "the password in STATS_DATABASE_URL looks like",
        ),
        (&["up"], ("METRICS_TOKEN", "token"), "METRICS_TOKEN has fewer than 32 characters"),
    ] {
        let (good, told) = run(arguments, &[variable]);
        assert!(!good && told.contains(says), "{variable:?}: {told}");
        assert!(!told.contains("change-me-in-production"), "{told}");
    }
}
