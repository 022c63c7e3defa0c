//! `get-user-stats`: show a user's figures; zeros for one who has done nothing yet.

use contracts::{
    Amount, UserId,
    stats::{GetUserStats, UserStats},
};
use platform::{Cx, Function, Result};

/// Queries of [`GetUserStats`].
pub fn function() -> Function {
    Function::query(get_user_stats)
}

async fn get_user_stats(cx: &mut Cx, query: GetUserStats) -> Result<UserStats> {
    let user_id = match query.user_id {
        Some(user) => user,
        None => cx.caller()?.id,
    };
    let row = sqlx::query!(
        r#"
        select total_bids, items_won, items_sold, last_bid_at, updated_at,
            round(total_amount, greatest(scale(trim_scale(total_amount)), 2))::text as "total_amount!",
            round(total_spent, greatest(scale(trim_scale(total_spent)), 2))::text as "total_spent!"
        from user_figures where user_id = $1
        "#,
        user_id.0,
    )
    .fetch_optional(cx.tx().await?)
    .await?;
    let Some(row) = row else { return nothing_yet(user_id) };
    Ok(UserStats {
        user_id,
        total_bids: row.total_bids,
        total_amount: amount(&row.total_amount)?,
        items_won: row.items_won,
        total_spent: amount(&row.total_spent)?,
        items_sold: row.items_sold,
        last_bid_at: row.last_bid_at,
        updated_at: Some(row.updated_at),
    })
}

fn nothing_yet(user_id: UserId) -> Result<UserStats> {
    Ok(UserStats {
        user_id,
        total_bids: 0,
        total_amount: amount("0.00")?,
        items_won: 0,
        total_spent: amount("0.00")?,
        items_sold: 0,
        last_bid_at: None,
        updated_at: None,
    })
}

fn amount(text: &str) -> Result<Amount> {
    Ok(text.parse().map_err(anyhow::Error::new)?)
}

#[cfg(test)]
mod tests {
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
