//! What is said about figures.

use garde::Validate;
use platform::{Message, Query, Timestamp, UserId};
use serde::{Deserialize, Serialize};

use crate::Amount;

/// Show a user's figures.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct GetUserStats {
    /// Whose; the caller's own when missing.
    #[serde(default, alias = "userId")]
    #[garde(skip)]
    pub user_id: Option<UserId>,
}

impl Message for GetUserStats {
    const DOMAIN: &'static str = "stats";
    const FUNCTION: &'static str = "get-user-stats";
    type Reply = UserStats;
}

impl Query for GetUserStats {}

/// A user's figures; zeros for one who has done nothing yet.
///
/// Amounts are sums of major units, whatever their currency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserStats {
    /// Whose.
    pub user_id: UserId,
    /// How many bids of theirs were accepted.
    pub total_bids: i64,
    /// The sum of those bids.
    pub total_amount: Amount,
    /// How many items they won.
    pub items_won: i64,
    /// The sum of what they won for.
    pub total_spent: Amount,
    /// How many items of theirs were sold.
    pub items_sold: i64,
    /// When they bid last.
    pub last_bid_at: Option<Timestamp>,
    /// When these figures changed last.
    pub updated_at: Option<Timestamp>,
}
