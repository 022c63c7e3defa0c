//! `watch-item`: keep an item in the caller's watchlist. Refuses an item that there is not.

use contracts::auctions::WatchItem;
use platform::{Cx, Function, OnConstraint, Result};
use uuid::Uuid;

use crate::auction::NoItem;

/// Commands of [`WatchItem`].
pub fn function() -> Function {
    Function::command(watch_item)
}

async fn watch_item(cx: &mut Cx, WatchItem { item_id }: WatchItem) -> Result<()> {
    let caller = cx.caller()?;
    sqlx::query!(
        "insert into watches (id, user_id, item_id) values ($1, $2, $3) on conflict (user_id, item_id) do nothing",
        Uuid::now_v7(),
        caller.id.0,
        item_id.0,
    )
    .execute(cx.tx().await?)
    .await
    .refuse_on("watches_item_id_fkey", NoItem)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use contracts::{ItemId, UserId};
    use platform::Error;
    use testing::Harness;

    use super::*;

    const ANN: UserId = UserId(Uuid::from_u128(2));

    #[tokio::test]
    async fn what_there_is_can_be_watched_by_who_is_known() {
        let app = Harness::start(crate::database()).await;
        let item = crate::store::testing::lamp(&app).offer().await;
        let status = async |app: &Harness, item_id| match app.call(&function(), &WatchItem { item_id }).await
        {
            Ok(()) => 204,
            Err(Error::Refused(refused)) => refused.status,
            Err(error) => panic!("{error}"),
        };
        let ann = app.as_user(ANN);

        assert_eq!((status(&ann, item.id).await, status(&ann, item.id).await), (204, 204));
        assert_eq!(status(&ann, ItemId::new()).await, 404);
        assert_eq!(status(&app, item.id).await, 401);
        let kept = sqlx::query_scalar!(r#"select count(*) as "count!" from watches"#);
        assert_eq!(kept.fetch_one(app.pool()).await.unwrap(), 1);
    }
}
