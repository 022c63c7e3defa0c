//! `relist-item`: offer an item again that was not sold or was taken back, with the same words and prices.
//!
//! It is a new item; the old one says which, so that it is offered again once. Emits [`ItemCreated`] for the new one and
//! [`ItemUpdated`] for the old one. Refuses as in [`LifeRefused`].

use contracts::auctions::{Item, ItemCreated, ItemUpdated, RelistItem};
use platform::{Cx, Function, Result};

use crate::{
    auction::Outcome,
    create_item,
    life::{self, LifeRefused},
};

/// Commands of [`RelistItem`].
pub fn function() -> Function {
    Function::command(relist_item).emits::<ItemCreated>().emits::<ItemUpdated>()
}

async fn relist_item(cx: &mut Cx, RelistItem { item_id, starts_at, ends_at }: RelistItem) -> Result<Item> {
    let (caller, now) = (cx.caller()?, cx.now());
    let mut old = life::lock(cx, item_id).await?;
    if caller.id != old.auction.seller {
        return Err(LifeRefused::NotSeller.into());
    }
    if !matches!(old.auction.outcome, Some(Outcome::Unsold | Outcome::Cancelled)) {
        return Err(LifeRefused::NotOver(old.auction.status(now)).into());
    }
    if let Some(again) = old.description.relisted_as {
        return Err(LifeRefused::OfferedAgain(again).into());
    }
    // Without what late bids had added.
    let length = old.auction.planned_end.since(old.auction.starts_at);
    let listing = old.listing().again(starts_at, ends_at, length, now)?;
    let new = create_item::offer(cx, caller.id, &listing, now).await?;
    sqlx::query!(
        "update items set relisted_as = $2, revision = revision + 1, updated_at = $3 where id = $1",
        item_id.0,
        new.auction.id.0,
        now,
    )
    .execute(cx.tx().await?)
    .await?;
    old.auction.revision += 1;
    life::tell_update(cx, &old, now).await?;
    Ok(new.item(Some(caller), now))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::{
        ItemId, Timestamp, UserId,
        auctions::{BuyNow, CancelItem, DeleteItem, GetItem, ItemStatus},
    };
    use platform::Answer;
    use serde_json::{Value, json};
    use testing::{Harness, code};
    use uuid::Uuid;

    use super::*;
    use crate::{
        buy_now, cancel_item, delete_item, get_item,
        store::testing::{SELLER, lamp},
    };

    const ANN: UserId = UserId(Uuid::from_u128(2));
    const ADMIN: UserId = UserId(Uuid::from_u128(3));

    async fn relist(app: &Harness, item_id: ItemId, members: Value) -> Answer {
        let mut body = json!({ "item_id": item_id });
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let command: RelistItem = serde_json::from_value(body).unwrap();
        app.answer(&function(), &command).await
    }

    async fn taken_back(app: &Harness) -> Item {
        let item = lamp(app).reserve("50").buy_now("99").description("Brass").offer().await;
        let cancel = CancelItem { item_id: item.id, reason: None };
        app.as_user(SELLER).call(&cancel_item::function(), &cancel).await.unwrap();
        item
    }

    #[tokio::test]
    async fn the_same_is_offered_again_for_as_long_as_before() {
        let app = Harness::start(crate::database()).await;
        let item = taken_back(&app).await;
        let seller = app.as_user(SELLER);

        let again = relist(&seller, item.id, json!({})).await.parse::<Item>().unwrap();

        assert_ne!(again.id, item.id);
        assert_eq!((again.status, again.version, again.bid_count), (ItemStatus::Open, 1, 0));
        assert_eq!((&again.name, &again.description), (&item.name, &item.description));
        assert_eq!((again.start_price, again.reserve_price), (item.start_price, item.reserve_price));
        assert_eq!((again.buy_now_price, again.end_reason.clone()), (item.buy_now_price, None));
        assert_eq!(again.ends_at.since(again.starts_at), item.ends_at.since(item.starts_at));
        let old = app.ask(&get_item::function(), &GetItem { item_id: item.id }).await.unwrap();
        assert_eq!((old.status, old.relisted_as, old.version), (ItemStatus::Cancelled, Some(again.id), 3));
        assert_eq!(app.emitted::<ItemCreated>().await.len(), 2);
        assert_eq!(app.emitted::<ItemUpdated>().await[0].0.version, 3);
        let twice = relist(&seller, item.id, json!({})).await;
        assert_eq!((twice.status, code(&twice)), (409, "ALREADY_EXISTS".into()));
        // Gone again: then it can be offered once more.
        let delete = DeleteItem { item_id: again.id, if_match: None };
        seller.call(&delete_item::function(), &delete).await.unwrap();
        assert_eq!(code(&relist(&seller, item.id, json!({})).await), "done");
    }

    #[tokio::test]
    async fn the_period_comes_from_the_seller() {
        let app = Harness::start(crate::database()).await;
        let item = taken_back(&app).await;
        let seller = app.as_user(SELLER);
        let (from, to) =
            (Timestamp::now() + Duration::from_secs(100), Timestamp::now() + Duration::from_secs(200));

        assert_eq!(relist(&seller, item.id, json!({ "starts_at": to, "ends_at": from })).await.status, 400);
        let again = relist(&seller, item.id, json!({ "startDate": from, "endDate": to })).await;

        let again = again.parse::<Item>().unwrap();
        assert_eq!((again.status, again.starts_at, again.ends_at), (ItemStatus::Scheduled, from, to));
    }

    #[tokio::test]
    async fn what_runs_or_is_sold_or_is_somebody_elses_is_not_offered_again() {
        let app = Harness::start(crate::database()).await;
        let (open, back) = (lamp(&app).buy_now("99").offer().await, taken_back(&app).await);
        let seller = app.as_user(SELLER);

        assert_eq!(code(&relist(&seller, open.id, json!({})).await), "INVALID_TRANSITION");
        app.as_user(ANN).call(&buy_now::function(), &BuyNow { item_id: open.id }).await.unwrap();
        let sold = relist(&seller, open.id, json!({})).await;
        assert_eq!((sold.status, code(&sold)), (409, "INVALID_TRANSITION".into()));
        for who in [app.as_user(ANN), app.as_admin(ADMIN)] {
            assert_eq!(code(&relist(&who, back.id, json!({})).await), "FORBIDDEN");
        }
        assert_eq!(relist(&app, back.id, json!({})).await.status, 401);
        assert_eq!(code(&relist(&seller, ItemId::new(), json!({})).await), "NOT_FOUND");
    }
}
