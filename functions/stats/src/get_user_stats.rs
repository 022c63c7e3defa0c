//! `get-user-stats`: show a user's figures; zeros for one who has done nothing yet.

use contracts::stats::{GetUserStats, UserStats};
use platform::{Cx, Function, Result};

use crate::figures;

/// Queries of [`GetUserStats`].
pub fn function() -> Function {
    Function::query(get_user_stats)
}

async fn get_user_stats(cx: &mut Cx, query: GetUserStats) -> Result<UserStats> {
    let user_id = match query.user_id {
        Some(user) => user,
        None => cx.caller()?.id,
    };
    let known = figures::of(cx.tx().await?, &[user_id.0]).await?.remove(&user_id);
    known.map_or_else(|| figures::none(user_id), Ok)
}

#[cfg(test)]
mod tests {
    use contracts::UserId;
    use testing::Harness;
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn a_user_without_bids_has_zeros_and_a_stranger_has_none_of_their_own() {
        let app = Harness::start(crate::database()).await;
        let ann = UserId(Uuid::from_u128(2));

        let own = app.as_user(ann).ask(&function(), &GetUserStats { user_id: None }).await.unwrap();
        let nobody = app.ask(&function(), &GetUserStats { user_id: None }).await;

        assert_eq!((own.user_id, own.total_bids, own.total_amount.to_string()), (ann, 0, "0.00".into()));
        assert!(matches!(nobody, Err(platform::Error::Refused(refused)) if refused.status == 401));
    }
}
