//! `update-item`: change what is said of an item.
//!
//! Before the first bid all of it may change. After it people have bid on what was said: pictures may change, and the
//! description may go on behind its old text. What is said again as it is changes nothing, and nothing is told then.
//! Emits [`ItemUpdated`]. Refuses as in [`LifeRefused`], and an end that is not after the start and the present.

use contracts::{
    auctions::{Item, ItemUpdated, UpdateItem},
    if_match,
};
use platform::{Cx, Function, Result};

use crate::{
    life::{self, LifeRefused},
    listing::Listing,
    store::{self, Whole},
};

/// Commands of [`UpdateItem`].
pub fn function() -> Function {
    Function::command(update_item).emits::<ItemUpdated>()
}

async fn update_item(cx: &mut Cx, update: UpdateItem) -> Result<Item> {
    let (caller, now) = (cx.caller()?, cx.now());
    let item = life::lock(cx, update.item_id).await?;
    life::may_change(caller, &item)?;
    if_match::check(update.if_match, item.auction.version())?;
    life::still_runs(&item, now)?;
    let before = item.listing();
    let after = before.edited(update, item.auction.increments.at(item.auction.current_price()))?;
    if after == before {
        return Ok(item.item(Some(caller), now));
    }
    if item.auction.bid_count > 0 && !before.keeps_its_word(&after) {
        return Err(LifeRefused::Frozen.into());
    }
    before.check_change(&after, now)?;
    let item = write(cx, &item, &after).await?;
    life::tell_update(cx, &item, now).await?;
    Ok(item.item(Some(caller), now))
}

/// The end from which extensions are counted moves with the end that the seller says.
async fn write(cx: &mut Cx, item: &Whole, after: &Listing) -> Result<Whole> {
    sqlx::query!(
        r#"
        update items set name = $2, description = $3, category_id = $4, image_urls = $5, currency = $6,
            start_price = $7, bid_increment = $8, reserve_price = $9, buy_now_price = $10,
            extension_window_seconds = $11, extension_seconds = $12, starts_at = $13,
            planned_end = case when ends_at = $14 then planned_end else $14 end, ends_at = $14,
            increment_policy = $15, updated_at = $16, revision = revision + 1
        where id = $1
        "#,
        item.auction.id.0,
        after.name,
        after.description,
        after.category_id,
        &after.image_urls,
        after.currency.code(),
        after.start.minor,
        after.increments.flat.minor,
        after.reserve.map(|price| price.minor),
        after.buy_now.map(|price| price.minor),
        i32::try_from(after.window).unwrap_or(i32::MAX),
        i32::try_from(after.extension).unwrap_or(i32::MAX),
        after.starts_at,
        after.ends_at,
        after.increments.policy.as_str(),
        cx.now(),
    )
    .execute(cx.tx().await?)
    .await?;
    store::load_one(cx.tx().await?, item.auction.id).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::{
        ItemId, Timestamp, UserId,
        auctions::{GetItem, ItemChange, ListChanges, PlaceBid},
    };
    use platform::Answer;
    use serde_json::{Value, json};
    use testing::{Harness, code};
    use uuid::Uuid;

    use super::*;
    use crate::{
        close_auction, get_item, list_changes, place_bid,
        store::testing::{SELLER, end_at, lamp},
    };

    const ANN: UserId = UserId(Uuid::from_u128(2));
    const ADMIN: UserId = UserId(Uuid::from_u128(3));

    fn change(item: ItemId, members: Value) -> UpdateItem {
        let mut body = json!({ "item_id": item });
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        serde_json::from_value(body).unwrap()
    }

    async fn edit(app: &Harness, item: ItemId, members: Value) -> Answer {
        app.as_user(SELLER).answer(&function(), &change(item, members)).await
    }

    async fn bid(app: &Harness, item: ItemId, amount: &str) -> Answer {
        let offer = PlaceBid::open(item, amount.parse().unwrap());
        app.as_user(ANN).answer(&place_bid::function(), &offer).await
    }

    #[tokio::test]
    async fn before_the_first_bid_all_of_it_changes_and_the_rest_stays() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).reserve("50").buy_now("99").offer().await;
        let ends_at = Timestamp::now() + Duration::from_secs(7200);

        let members = json!({ "name": "Table", "startPrice": "1500", "currency": "JPY", "bid_increment": 100,
            "reserve_price": null, "buyoutPrice": 9000, "categoryIds": [7], "endDate": ends_at,
            "seller_id": ANN, "status": "sold", "winner_id": ANN, "current_price": 1, "version": 70 });
        let changed = edit(&app, item.id, members).await.parse::<Item>().unwrap();

        assert_eq!((changed.name.as_str(), changed.description.as_str()), ("Table", ""));
        assert_eq!((changed.start_price.to_string(), changed.currency.code()), ("1500".into(), "JPY"));
        assert_eq!((changed.reserve_price, changed.category_id), (None, Some(7)));
        assert_eq!((changed.current_price, changed.min_next_bid), (changed.start_price, changed.start_price));
        assert_eq!(changed.buy_now_price.unwrap().to_string(), "9000");
        assert_eq!((changed.ends_at, changed.version), (ends_at, 2));
        assert_eq!((changed.seller_id, changed.status, changed.winner_id), (SELLER, item.status, None));
        let told = app.emitted::<ItemUpdated>().await;
        assert_eq!((told.len(), told[0].0.version, told[0].0.item_version), (1, 2, 2));
        let log =
            app.ask(&list_changes::function(), &ListChanges { item_id: item.id, after: 1 }).await.unwrap();
        assert_eq!(log.changes, [ItemChange::updated(&told[0].0)]);
        assert_eq!(app.next_due(&close_auction::function()).await.unwrap(), Some(ends_at));
        let shown =
            app.as_user(SELLER).ask(&get_item::function(), &GetItem { item_id: item.id }).await.unwrap();
        assert_eq!(shown, changed);
    }

    #[tokio::test]
    async fn what_is_said_again_changes_nothing_before_and_after_bids() {
        let app = Harness::start(crate::database()).await;
        for policy in ["flat", "trademe"] {
            let item = lamp(&app).policy(policy).reserve("50").extension(30).offer().await;
            for amount in ["60", "70"] {
                let query = GetItem { item_id: item.id };
                let shown = app.as_user(SELLER).ask(&get_item::function(), &query).await.unwrap();
                let again = edit(&app, item.id, json!(shown)).await.parse::<Item>().unwrap();
                assert_eq!(again, shown, "{policy}");
                assert_eq!(code(&bid(&app, item.id, amount).await), "done");
            }
        }
        assert!(app.emitted::<ItemUpdated>().await.is_empty());
    }

    #[tokio::test]
    async fn after_a_bid_the_description_goes_on_and_the_rest_is_frozen() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).description("Brass").buy_now("99").offer().await;
        bid(&app, item.id, "12").await;

        for members in [
            json!({ "name": "Table" }),
            json!({ "start_price": 1 }),
            json!({ "ends_at": Timestamp::now() + Duration::from_secs(600) }),
            json!({ "category_id": 3 }),
            json!({ "buy_now_price": null }),
            json!({ "reserve_price": 11 }),
            json!({ "description": "Bras" }),
            json!({ "description": "brass, rewired" }),
            json!({ "description": "Brass, rewired", "extension_window_seconds": 5 }),
        ] {
            let refused = edit(&app, item.id, members.clone()).await;
            assert_eq!((refused.status, code(&refused)), (409, "ITEM_HAS_BIDS".into()), "{members}");
        }
        let members = json!({ "description": "Brass, rewired", "image_urls": ["https://example.com/1"] });
        let changed = edit(&app, item.id, members).await.parse::<Item>().unwrap();

        assert_eq!(
            (changed.description.as_str(), changed.version, changed.bid_count),
            ("Brass, rewired", 3, 1)
        );
        assert_eq!(changed.image_urls, ["https://example.com/1"]);
        let log =
            app.ask(&list_changes::function(), &ListChanges { item_id: item.id, after: 1 }).await.unwrap();
        assert!(log.complete);
        assert_eq!(log.changes.iter().map(ItemChange::name).collect::<Vec<_>>(), ["bid", "updated"]);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_leaves_nothing() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).reserve("50").buy_now("99").offer().await;
        let past = Timestamp::now() - Duration::from_secs(1);
        for (members, said) in [
            (json!({ "name": " " }), "name: "),
            (json!({ "start_price": 51 }), "reserve_price: must not be below start_price"),
            (json!({ "start_price": "1.005" }), "start_price: "),
            (json!({ "buy_now_price": 49 }), "buy_now_price: must not be below reserve_price"),
            (json!({ "ends_at": past }), "ends_at: must be in the future"),
            (json!({ "starts_at": past }), "starts_at: cannot be moved"),
            (json!({ "bid_increment": 1, "increment_policy": "ebay" }), "bid_increment: must be left to "),
            (json!({ "extension_window_seconds": 3601 }), "extension_window_seconds: "),
            (json!({ "extension_window_seconds": 60 }), "extension_seconds: must be at least 1"),
            (json!({ "image_urls": ["file:///etc/passwd"] }), "image_urls[0]: "),
            (json!({ "image_urls": ["https://a:b@example.com/"] }), "image_urls[0]: "),
            (json!({ "image_urls": ["https://example.com/a b"] }), "image_urls[0]: "),
            (json!({ "image_urls": ["javascript:alert(1)"] }), "image_urls[0]: "),
            (
                json!({ "image_urls": [format!("https://example.com/{}", "a".repeat(2048))] }),
                "image_urls[0]: ",
            ),
        ] {
            let refused = edit(&app, item.id, members).await;
            let body = String::from_utf8_lossy(&refused.body).into_owned();
            assert_eq!(refused.status, 400, "{body}");
            assert!(body.contains(said), "{body}");
        }
        let shown = app.as_user(SELLER).ask(&get_item::function(), &GetItem { item_id: item.id }).await;
        assert_eq!(shown.unwrap(), item);
        assert!(app.emitted::<ItemUpdated>().await.is_empty());
    }

    #[tokio::test]
    async fn a_start_moves_until_bidding_begins_and_never_into_the_past() {
        let app = Harness::start(crate::database()).await;
        let begins = Timestamp::now() + Duration::from_secs(30);
        let item = lamp(&app).starts_at(begins).offer().await;
        let early = Timestamp::now() - Duration::from_secs(5);

        assert_eq!(edit(&app, item.id, json!({ "starts_at": early })).await.status, 400);
        let sooner = Timestamp::now() + Duration::from_secs(10);
        let moved = edit(&app, item.id, json!({ "starts_at": sooner })).await.parse::<Item>().unwrap();

        assert_eq!((moved.starts_at, moved.status), (sooner, contracts::auctions::ItemStatus::Scheduled));
    }

    #[tokio::test]
    async fn only_its_seller_and_administrators_change_an_item_and_only_while_it_runs() {
        let app = Harness::start(crate::database()).await;
        let (item, ended) = (lamp(&app).offer().await, lamp(&app).offer().await);
        let name = change(item.id, json!({ "name": "Table" }));

        assert_eq!(app.answer(&function(), &name).await.status, 401);
        assert_eq!(code(&app.as_user(ANN).answer(&function(), &name).await), "FORBIDDEN");
        assert_eq!(code(&app.as_admin(ADMIN).answer(&function(), &name).await), "done");
        assert_eq!(code(&edit(&app, ItemId::new(), json!({})).await), "NOT_FOUND");
        end_at(&app, ended.id, Timestamp::now() - Duration::from_millis(1)).await;
        assert_eq!(code(&edit(&app, ended.id, json!({ "name": "Table" })).await), "AUCTION_CLOSED");
    }

    #[tokio::test]
    async fn who_has_seen_another_version_changes_nothing() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).offer().await;
        let seen = |version: Option<i64>, name: &str| json!({ "if_match": version, "name": name });

        let first = edit(&app, item.id, seen(Some(1), "Table")).await;
        let second = edit(&app, item.id, seen(Some(1), "Chair")).await;
        let any = edit(&app, item.id, seen(None, "Stool")).await;

        assert_eq!((code(&first), code(&any)), ("done".into(), "done".into()));
        assert_eq!((second.status, code(&second)), (412, "PRECONDITION_FAILED".into()));
    }

    #[tokio::test]
    async fn of_a_change_and_the_first_bid_at_once_one_is_first() {
        let app = Harness::start(crate::database()).await;
        for _ in 0..20 {
            let item = lamp(&app).offer().await;

            let (edited, offered) =
                tokio::join!(edit(&app, item.id, json!({ "start_price": 20 })), bid(&app, item.id, "12"));

            let codes = (code(&edited), code(&offered));
            let shown = app.ask(&get_item::function(), &GetItem { item_id: item.id }).await.unwrap();
            let (start, bids) = (shown.start_price.to_string(), shown.bid_count);
            // Nobody's bid stands below a price that came after it, or at one that was never said.
            match (codes.0.as_str(), codes.1.as_str()) {
                ("done", "BID_TOO_LOW") => assert_eq!((start.as_str(), bids), ("20.00", 0)),
                ("ITEM_HAS_BIDS", "done") => assert_eq!((start.as_str(), bids), ("10.00", 1)),
                other => panic!("{other:?}"),
            }
            let log = app.ask(&list_changes::function(), &ListChanges { item_id: item.id, after: 1 }).await;
            assert_eq!(log.unwrap().changes.len(), 1);
        }
    }
}
