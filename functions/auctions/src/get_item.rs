//! `get-item`: show an item as it is now.

use contracts::auctions::{GetItem, Item};
use platform::{Cx, Function, Result};

use crate::{auction::NoItem, store};

/// Queries of [`GetItem`].
pub fn function() -> Function {
    Function::query(get_item)
}

async fn get_item(cx: &mut Cx, query: GetItem) -> Result<Item> {
    // Everybody may look; the seller also sees the reserve.
    let viewer = cx.caller().ok();
    let item = store::load(cx.tx().await?, &[query.item_id.0]).await?.pop().ok_or(NoItem)?;
    Ok(item.item(viewer, cx.now()))
}

#[cfg(test)]
mod tests {
    use contracts::{ItemId, UserId};
    use testing::Harness;
    use uuid::Uuid;

    use super::*;
    use crate::store::testing::lamp;

    #[tokio::test]
    async fn only_the_seller_sees_the_reserve() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).reserve("50").offer().await;
        let query = GetItem { item_id: item.id };

        let shown = app.ask(&function(), &query).await.unwrap();
        let to_seller = app.as_user(item.seller_id).ask(&function(), &query).await.unwrap();
        let to_other = app.as_user(UserId(Uuid::from_u128(99))).ask(&function(), &query).await.unwrap();

        assert_eq!((shown.reserve_price, to_other.reserve_price), (None, None));
        assert_eq!(to_seller.reserve_price.unwrap().to_string(), "50.00");
        assert!(!shown.reserve_met);
    }

    #[tokio::test]
    async fn an_unknown_item_is_not_found() {
        let app = Harness::start(crate::database()).await;

        let refused = app.ask(&function(), &GetItem { item_id: ItemId::new() }).await.unwrap_err();

        assert!(matches!(refused, platform::Error::Refused(refused) if refused.code == "NOT_FOUND"));
    }
}
