//! What is said about figures.

use garde::Validate;
use platform::{Message, Query, Timestamp, UserId};
use serde::{Deserialize, Serialize};

use crate::{Amount, page};

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

/// Who has most of something? The first come first; equals share a rank and stand in the order of their ids.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct GetLeaderboard {
    /// Of what.
    #[serde(default)]
    #[garde(skip)]
    pub by: Measure,
    /// How many (20; 1 to 100).
    #[serde(default = "page::default_limit", deserialize_with = "page::limit")]
    #[garde(range(min = 1, max = page::MOST))]
    pub limit: u32,
}

impl Message for GetLeaderboard {
    const DOMAIN: &'static str = "stats";
    const FUNCTION: &'static str = "get-leaderboard";
    type Reply = Leaderboard;
}

impl Query for GetLeaderboard {}

/// What users can be compared by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// How many bids of theirs were accepted.
    #[default]
    TotalBids,
    /// The sum of those bids.
    TotalAmount,
    /// How many items they won.
    ItemsWon,
    /// The sum of what they won for.
    TotalSpent,
    /// How many items of theirs were sold.
    ItemsSold,
}

impl Measure {
    /// The word in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TotalBids => "total_bids",
            Self::TotalAmount => "total_amount",
            Self::ItemsWon => "items_won",
            Self::TotalSpent => "total_spent",
            Self::ItemsSold => "items_sold",
        }
    }
}

/// The answer to [`GetLeaderboard`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leaderboard {
    /// What they are compared by.
    pub by: Measure,
    /// The first first. Who has none of it is not there.
    pub data: Vec<Leader>,
}

/// Somebody who has much of something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leader {
    /// From 1; one more than there are users who have more.
    pub rank: u64,
    /// All their figures.
    #[serde(flatten)]
    pub figures: UserStats,
}

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
