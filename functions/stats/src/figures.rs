//! Users' figures as they are read.

use std::collections::HashMap;

use contracts::{Amount, Timestamp, UserId, stats::UserStats};
use platform::Result;
use sqlx::PgConnection;
use uuid::Uuid;

/// The figures of those of these users who have done something.
pub(crate) async fn of(connection: &mut PgConnection, users: &[Uuid]) -> Result<HashMap<UserId, UserStats>> {
    let rows = sqlx::query!(
        r#"
        select user_id as "user_id: UserId", total_bids, items_won, items_sold,
            last_bid_at as "last_bid_at: Timestamp", updated_at as "updated_at: Timestamp",
            round(total_amount, greatest(scale(trim_scale(total_amount)), 2))::text as "total_amount!",
            round(total_spent, greatest(scale(trim_scale(total_spent)), 2))::text as "total_spent!"
        from user_figures where user_id = any($1)
        "#,
        users,
    )
    .fetch_all(connection)
    .await?;
    let read = rows.into_iter().map(|row| {
        let figures = UserStats {
            user_id: row.user_id,
            total_bids: row.total_bids,
            total_amount: amount(&row.total_amount)?,
            items_won: row.items_won,
            total_spent: amount(&row.total_spent)?,
            items_sold: row.items_sold,
            last_bid_at: row.last_bid_at,
            updated_at: Some(row.updated_at),
        };
        Ok((row.user_id, figures))
    });
    read.collect()
}

/// The figures of somebody who has done nothing.
pub(crate) fn none(user_id: UserId) -> Result<UserStats> {
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
