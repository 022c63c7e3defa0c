//! How items change and go before their end.

use garde::Validate;
use platform::{Command, Event, Message, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::{IncrementPolicy, Item, ItemState, first_category, image_url, not_blank, positive};
use crate::{Amount, Currency, ItemId};

/// Change what is said of an item: its seller, or an administrator. What is missing stays as it is, and so does what is said
/// again. After the first bid only pictures may change, and the description may go on behind what it says already.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct UpdateItem {
    /// Which.
    #[garde(skip)]
    pub item_id: ItemId,
    /// The version that the caller has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub if_match: Option<i64>,
    /// What it is.
    #[serde(default)]
    #[garde(length(chars, max = 200), inner(custom(not_blank)))]
    pub name: Option<String>,
    /// More about it.
    #[serde(default)]
    #[garde(length(chars, max = 10_000))]
    pub description: Option<String>,
    /// What it is sold in. Prices that are not said again keep their figures.
    #[serde(default, alias = "currencyCode")]
    #[garde(skip)]
    pub currency: Option<Currency>,
    /// The lowest first bid.
    #[serde(default, alias = "startPrice")]
    #[garde(inner(custom(positive)))]
    pub start_price: Option<Amount>,
    /// By how much a bid must top the one before.
    #[serde(default, alias = "bidIncrement")]
    #[garde(inner(custom(positive)))]
    pub bid_increment: Option<Amount>,
    /// Whether that step is the same at every price, or which table it is read from.
    #[serde(default, alias = "incrementPolicy")]
    #[garde(skip)]
    pub increment_policy: Option<IncrementPolicy>,
    /// Below this the item is not sold; null for none.
    #[serde(
        default,
        alias = "reservePrice",
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[garde(inner(inner(custom(positive))))]
    pub reserve_price: Option<Option<Amount>>,
    /// For this it is sold at once; null for none.
    #[serde(
        default,
        alias = "buyNowPrice",
        alias = "buyoutPrice",
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[garde(inner(inner(custom(positive))))]
    pub buy_now_price: Option<Option<Amount>>,
    /// A category of the catalogue; null for none.
    #[serde(
        default,
        alias = "categoryId",
        alias = "categoryIds",
        deserialize_with = "given_category",
        skip_serializing_if = "Option::is_none"
    )]
    #[garde(inner(inner(range(min = 1))))]
    pub category_id: Option<Option<i64>>,
    /// Pictures, at most ten: all of them.
    #[serde(default, alias = "imageUrls")]
    #[garde(length(max = 10), inner(inner(custom(image_url))))]
    pub image_urls: Option<Vec<String>>,
    /// When bidding begins. It cannot be moved once bidding has begun.
    #[serde(default, alias = "startsAt", alias = "startDate")]
    #[garde(skip)]
    pub starts_at: Option<Timestamp>,
    /// When the hammer falls.
    #[serde(default, alias = "endsAt", alias = "endDate")]
    #[garde(skip)]
    pub ends_at: Option<Timestamp>,
    /// A bid this close to the end moves the end; 0 for never.
    #[serde(default, alias = "extensionWindowSeconds")]
    #[garde(inner(range(max = 3600)))]
    pub extension_window_seconds: Option<u32>,
    /// How long after such a bid the end comes.
    #[serde(default, alias = "extensionSeconds")]
    #[garde(inner(range(max = 3600)))]
    pub extension_seconds: Option<u32>,
}

/// A member that is there, if only to say null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn given_category<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    first_category(deserializer).map(Some)
}

impl Message for UpdateItem {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "update-item";
    type Reply = Item;
}

impl Command for UpdateItem {
    fn key(&self) -> String {
        self.item_id.to_string()
    }
}

/// Remove an item on which nobody has bid: its seller, or an administrator.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct DeleteItem {
    /// Which.
    #[garde(skip)]
    pub item_id: ItemId,
    /// The version that the caller has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub if_match: Option<i64>,
}

impl Message for DeleteItem {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "delete-item";
    type Reply = ();
}

impl Command for DeleteItem {
    fn key(&self) -> String {
        self.item_id.to_string()
    }
}

/// Take an item back before its end: its seller while nobody has bid, an administrator also with bids, which are void then.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct CancelItem {
    /// Which.
    #[garde(skip)]
    pub item_id: ItemId,
    /// Why, for everybody to read. An administrator has to say.
    #[serde(default)]
    #[garde(length(chars, max = 500), inner(custom(not_blank)))]
    pub reason: Option<String>,
}

impl Message for CancelItem {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "cancel-item";
    type Reply = Item;
}

impl Command for CancelItem {
    fn key(&self) -> String {
        self.item_id.to_string()
    }
}

/// Offer an item again that was not sold or was taken back: its seller, once. The answer is the new item.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct RelistItem {
    /// Which.
    #[garde(skip)]
    pub item_id: ItemId,
    /// When bidding begins; at once when missing.
    #[serde(default, alias = "startsAt", alias = "startDate")]
    #[garde(skip)]
    pub starts_at: Option<Timestamp>,
    /// When the hammer falls; after as long as the last time when missing.
    #[serde(default, alias = "endsAt", alias = "endDate")]
    #[garde(skip)]
    pub ends_at: Option<Timestamp>,
}

impl Message for RelistItem {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "relist-item";
    type Reply = Item;
}

impl Command for RelistItem {
    fn key(&self) -> String {
        self.item_id.to_string()
    }
}

/// Let the hammer fall now, before its time: an administrator. Bids stamped before count. When some of them are
/// undecided, the answer is the item with its new end, and the hammer falls when they are decided.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct CloseItem {
    /// Which.
    #[garde(skip)]
    pub item_id: ItemId,
}

impl Message for CloseItem {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "close-item";
    type Reply = Item;
}

impl Command for CloseItem {
    fn key(&self) -> String {
        self.item_id.to_string()
    }
}

/// What is said of an item was changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemUpdated(pub ItemState);

impl Event for ItemUpdated {
    const NAME: &'static str = "item.updated.v1";

    fn key(&self) -> Uuid {
        self.0.item_id.0
    }

    fn ordinal(&self) -> i64 {
        self.0.item_version
    }
}

/// An item is gone: as it was last, with the version that its removal would have made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemDeleted(pub ItemState);

impl Event for ItemDeleted {
    const NAME: &'static str = "item.deleted.v1";

    fn key(&self) -> Uuid {
        self.0.item_id.0
    }

    fn ordinal(&self) -> i64 {
        self.0.item_version
    }
}
