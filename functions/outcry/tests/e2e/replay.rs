//! Projections that are made anew while people bid and look.

use std::{collections::HashMap, time::Duration};

use outcry::launch::Platform;
use platform::{Bus, Env};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Alone, Visitor, killed::Market, nats_of, outcry, start, story};

/// A connection to a domain's database, as its function has it.
async fn database(env: &Env, domain: &str) -> PgConnection {
    let options = platform::database::options(env, domain).unwrap();
    PgConnection::connect_with(&options).await.unwrap()
}

async fn bus(platform: &Platform) -> Bus {
    testing::connect(&nats_of(platform)).await
}

/// Looks at figures and at the listing all the time: neither ever goes back, or is half there.
async fn watch(market: &Market, stop: CancellationToken) -> usize {
    let (seller, bidders) = (market.seller.clone(), market.bidders.clone());
    let mut seen: HashMap<String, i64> = HashMap::new();
    let mut looks = 0;
    while !stop.is_cancelled() {
        let listed = seller.get(&format!("/api/v1/items?seller_id={}", seller.id)).await;
        assert_eq!(listed.body["page_info"]["total"], 3, "{}", listed.body);
        for item in listed.body["data"].as_array().unwrap() {
            let bids = item["bid_count"].as_i64().unwrap();
            let before = seen.insert(item["id"].to_string(), bids).unwrap_or(0);
            assert!(bids >= before, "{before} bids, then {bids}");
        }
        for bidder in &bidders {
            let figures = bidder.get(&format!("/api/v1/users/{}/stats", bidder.id)).await.body;
            let bids = figures["total_bids"].as_i64().unwrap();
            let before = seen.insert(bidder.id.clone(), bids).unwrap_or(0);
            assert!(bids >= before, "{before} bids, then {bids}");
        }
        looks += 1;
    }
    looks
}

#[test]
fn projections_are_made_anew_under_load_and_nobody_sees_it() {
    story(async {
        let (platform, data) = start(Vec::new()).await;
        let outcry = async |arguments: &[&str]| outcry(data.path(), arguments).await;
        let market = Market::open(&platform, &[8.0, 16.0]).await;
        market.goes_on("the start").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stop = CancellationToken::new();

        let replays = async {
            for round in 0..4 {
                for consumer in ["update-stats", "update-catalog"] {
                    let (good, said) = outcry(&["replay", consumer]).await;
                    assert!(good, "round {round}: {said}");
                    assert!(said.contains(&format!("rebuilt {consumer} in ")), "{said}");
                }
            }
            stop.cancel();
        };
        let (looks, ()) = tokio::join!(watch(&market, stop.clone()), replays);
        assert!(looks > 3, "{looks}");

        // Two at once of one database are one too many.
        let both = tokio::join!(outcry(&["replay", "update-stats"]), outcry(&["replay", "update-stats"]));
        assert!(both.0.0 || both.1.0, "{both:?}");
        market.goes_on("projections were made anew").await;
        market.audit(100).await;
        platform.stop().await;
    });
}

/// The rows are wrong and the stream has let go of most of what happened: the authority knows.
#[test]
fn a_spoiled_projection_is_made_right_again_while_people_bid() {
    story(async {
        let (platform, data) = start(Vec::new()).await;
        let outcry = async |arguments: &[&str]| outcry(data.path(), arguments).await;
        let market = Market::open(&platform, &[3.0, 12.0]).await;
        Visitor::new(&platform.url, "idle").await;
        tokio::time::sleep(Duration::from_secs(5)).await;

        bus(&platform).await.purge("EVENTS").await.unwrap();
        let mut stats = database(&platform.env, "stats").await;
        let mut catalog = database(&platform.env, "catalog").await;
        for (database, spoil) in [
            (
                &mut stats,
                "update user_figures set total_bids = total_bids + 7, total_amount = 1, items_won = 5;
                insert into user_figures (user_id, total_bids, updated_at) values (gen_random_uuid(), 9, now());
                delete from user_figures where user_id in (select user_id from user_figures limit 3);
                delete from leaders where measure = 'total_bids';
                update leaders set value = value + 1000000;",
            ),
            (
                &mut catalog,
                "update items set name = 'wrong', item_version = item_version + 100, outcome = 'unsold';
                update prices set price = 1, seq = seq + 1000000;",
            ),
        ] {
            // The consumer waits meanwhile, as for a swap: rows are not taken in each other's way.
            let hold = "begin; lock table platform.inbox in share row exclusive mode;";
            let sql = format!("{hold} {spoil} commit");
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(database).await.unwrap();
        }
        for consumer in ["update-stats", "update-catalog"] {
            // One that the purge has outrun may be at it by itself.
            loop {
                let (good, said) = outcry(&["replay", consumer]).await;
                if good {
                    break;
                }
                assert!(said.contains("is being rebuilt already"), "{said}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        let strangers: i64 =
            sqlx::query_scalar("select count(*) from user_figures where total_bids = 9 and total_amount = 0")
                .fetch_one(&mut stats)
                .await
                .unwrap();
        assert_eq!(strangers, 0);
        let misplaced: i64 = sqlx::query_scalar(
            "select count(*) from user_figures full join (select * from leaders where measure = 'total_bids') as leader
             using (user_id) where total_bids is distinct from coalesce(value, 0)",
        )
        .fetch_one(&mut stats)
        .await
        .unwrap();
        assert_eq!(misplaced, 0);
        // Who has done nothing but register has zeros, as before: another authority tells of them.
        let mut identity = database(&platform.env, "identity").await;
        let ids = "select array_agg(user_id order by user_id) from user_figures";
        let figures: Vec<Uuid> = sqlx::query_scalar(ids).fetch_one(&mut stats).await.unwrap();
        let ids = "select array_agg(id order by id) from users";
        let users: Vec<Uuid> = sqlx::query_scalar(ids).fetch_one(&mut identity).await.unwrap();
        assert_eq!(figures, users);
        let wrong: i64 = sqlx::query_scalar("select count(*) from items where name = 'wrong'")
            .fetch_one(&mut catalog)
            .await
            .unwrap();
        assert_eq!(wrong, 0);
        let left: i64 = sqlx::query_scalar("select count(*) from pg_tables where schemaname = 'rebuild'")
            .fetch_one(&mut stats)
            .await
            .unwrap();
        assert_eq!(left, 0, "what was made beside is gone");

        market.goes_on("projections were made right").await;
        market.audit(100).await;
        platform.stop().await;
    });
}

/// Nobody kept the figures while people bid, and the stream has let go of it.
#[test]
fn a_consumer_that_the_stream_has_outrun_makes_its_projection_anew() {
    story(async {
        let (platform, _data) = start(vec!["update-stats".into()]).await;
        let (ann, bob) = (Visitor::new(&platform.url, "ann").await, Visitor::new(&platform.url, "bob").await);
        let item = ann.offer(60.0, json!({ "start_price": "1.00" })).await;
        for amount in 1..=5 {
            assert_eq!(bob.bid(&item, json!(amount)).await.status, 201);
        }
        let bus = bus(&platform).await;
        while bus.stored("EVENTS").await.unwrap() < 8 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bus.purge("EVENTS").await.unwrap();
        assert_eq!(bob.bid(&item, json!(6)).await.status, 201);

        let late = Alone::run("update-stats", &platform.env);

        let figures =
            bob.get_until(&format!("/api/v1/users/{}/stats", bob.id), |stats| stats["total_bids"] != 0).await;
        assert_eq!((&figures["total_bids"], &figures["total_amount"]), (&json!(6), &json!("21.00")));
        assert_eq!(bob.bid(&item, json!(7)).await.status, 201);
        bob.get_until(&format!("/api/v1/users/{}/stats", bob.id), |stats| stats["total_bids"] == 7).await;
        drop(late);
        platform.stop().await;
    });
}

#[test]
fn what_cannot_be_made_anew_is_said() {
    story(async {
        let (platform, data) = start(vec!["update-catalog".into()]).await;
        for (consumer, said) in [
            (
                "place-bid",
                "place-bid keeps no projection; those that do: update-catalog, count-products, update-stats",
            ),
            ("update-catalog", "is update-catalog running?"),
        ] {
            let (good, shown) = outcry(data.path(), &["replay", consumer]).await;
            assert!(!good && shown.contains(said), "{shown}");
        }
        platform.stop().await;
    });
}
