//! How prices climb, and buying at once.

use garde::Validate;
use platform::{Command, Message};
use serde::{Deserialize, Serialize};

use super::Bid;
use crate::ItemId;

/// By how much a bid must top the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IncrementPolicy {
    /// By the item's own increment, whatever the price.
    #[default]
    Flat,
    /// By the table of Trade Me, which grows with the price.
    TradeMe,
    /// By the table of eBay, which grows with the price.
    Ebay,
}

impl IncrementPolicy {
    /// The word in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::TradeMe => "trademe",
            Self::Ebay => "ebay",
        }
    }

    /// Reads the word in a table.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Flat, Self::TradeMe, Self::Ebay].into_iter().find(|policy| policy.as_str() == word)
    }
}

/// Take an item for its `buy_now_price`, at once.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct BuyNow {
    /// Which item.
    #[garde(skip)]
    pub item_id: ItemId,
}

impl Message for BuyNow {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "buy-now";
    type Reply = Bid;
}

impl Command for BuyNow {
    fn key(&self) -> String {
        self.item_id.to_string()
    }
}
