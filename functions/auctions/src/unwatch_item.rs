//! `unwatch-item`: take an item from the caller's watchlist.

use contracts::auctions::UnwatchItem;
use platform::{Cx, Function, Result};

/// Commands of [`UnwatchItem`].
pub fn function() -> Function {
    Function::command(unwatch_item)
}

async fn unwatch_item(cx: &mut Cx, UnwatchItem { item_id }: UnwatchItem) -> Result<()> {
    let caller = cx.caller()?;
    sqlx::query!("delete from watches where user_id = $1 and item_id = $2", caller.id.0, item_id.0)
        .execute(cx.tx().await?)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use contracts::{
        UserId,
        auctions::{ListWatchlist, WatchItem},
    };
    use testing::Harness;
    use uuid::Uuid;

    use super::*;
    use crate::{list_watchlist, store::testing::lamp, watch_item};

    const ANN: UserId = UserId(Uuid::from_u128(2));
    const BOB: UserId = UserId(Uuid::from_u128(3));

    #[tokio::test]
    async fn everybody_takes_from_their_own_list_and_what_is_not_there_is_no_matter() {
        let app = Harness::start(crate::database()).await;
        let item_id = lamp(&app).offer().await.id;
        for who in [ANN, BOB] {
            app.as_user(who).call(&watch_item::function(), &WatchItem { item_id }).await.unwrap();
        }

        for _ in 0..2 {
            app.as_user(ANN).call(&function(), &UnwatchItem { item_id }).await.unwrap();
        }

        let total = async |who| {
            let list = app.as_user(who).ask(&list_watchlist::function(), &ListWatchlist::default()).await;
            list.unwrap().page_info.total
        };
        assert_eq!((total(ANN).await, total(BOB).await), (0, 1));
    }
}
