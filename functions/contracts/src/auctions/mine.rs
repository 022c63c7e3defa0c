//! What somebody offers and watches.

use garde::Validate;
use platform::{Command, Message, Query, Refused};
use serde::{Deserialize, Serialize};

use super::{Item, ItemStatus};
use crate::{ItemId, Page, page::PageQuery};

/// Keep an item in the caller's watchlist; also one that is there already.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct WatchItem {
    /// Which.
    #[garde(skip)]
    pub item_id: ItemId,
}

impl Message for WatchItem {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "watch-item";
    type Reply = ();
}

impl Command for WatchItem {}

/// Take an item from the caller's watchlist; also one that is not there.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct UnwatchItem {
    /// Which.
    #[garde(skip)]
    pub item_id: ItemId,
}

impl Message for UnwatchItem {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "unwatch-item";
    type Reply = ();
}

impl Command for UnwatchItem {}

/// List the items that the caller watches, as they are now, the one that was added last first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct ListWatchlist {
    /// Which part of the list.
    #[serde(flatten)]
    #[garde(skip)]
    pub page: PageQuery,
}

impl Message for ListWatchlist {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "list-watchlist";
    type Reply = Page<Item>;

    /// Under the names that callers use: they see no `page` around its members.
    fn check(&self) -> Result<(), Refused> {
        platform::wire::check(&self.page)
    }
}

impl Query for ListWatchlist {}

/// List the items that the caller offers, as they are now, the newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct ListMyItems {
    /// That stand so.
    #[serde(default)]
    #[garde(skip)]
    pub status: Option<ItemStatus>,
    /// Which part of the list.
    #[serde(flatten)]
    #[garde(skip)]
    pub page: PageQuery,
}

impl Message for ListMyItems {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "list-my-items";
    type Reply = Page<Item>;

    /// Under the names that callers use: they see no `page` around its members.
    fn check(&self) -> Result<(), Refused> {
        platform::wire::check(&self.page)
    }
}

impl Query for ListMyItems {}
