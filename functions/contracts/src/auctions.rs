//! What is said about items and bids.

use garde::Validate;
use platform::{Command, Event, Message, Query, Refused, Timestamp, UserId, replay::SnapshotPage};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Amount, BidId, Currency, ItemId, Page, page::PageQuery};

mod bidding;
mod life;
mod mine;
mod participation;

pub use bidding::{BuyNow, IncrementPolicy};
pub use life::{CancelItem, CloseItem, DeleteItem, ItemDeleted, ItemUpdated, RelistItem, UpdateItem};
pub use mine::{ListMyItems, ListWatchlist, UnwatchItem, WatchItem};
pub use participation::{ListMyBids, MyBid, Standing};

/// Offer something for sale.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct CreateItem {
    /// What it is.
    #[garde(length(chars, max = 200), custom(not_blank))]
    pub name: String,
    /// More about it.
    #[serde(default)]
    #[garde(length(chars, max = 10_000))]
    pub description: String,
    /// What it is sold in.
    #[serde(default, alias = "currencyCode")]
    #[garde(skip)]
    pub currency: Currency,
    /// The lowest first bid.
    #[serde(alias = "startPrice")]
    #[garde(custom(positive))]
    pub start_price: Amount,
    /// By how much a bid must top the one before; the currency's smallest step when missing.
    #[serde(default, alias = "bidIncrement")]
    #[garde(inner(custom(positive)))]
    pub bid_increment: Option<Amount>,
    /// Whether that step is the same at every price, or which table it is read from.
    #[serde(default, alias = "incrementPolicy")]
    #[garde(skip)]
    pub increment_policy: IncrementPolicy,
    /// Below this the item is not sold. Known to the seller only.
    #[serde(default, alias = "reservePrice")]
    #[garde(inner(custom(positive)))]
    pub reserve_price: Option<Amount>,
    /// For this it is sold at once, while nobody else would win it.
    #[serde(default, alias = "buyNowPrice", alias = "buyoutPrice")]
    #[garde(inner(custom(positive)))]
    pub buy_now_price: Option<Amount>,
    /// A category of the catalogue.
    #[serde(default, alias = "categoryId", alias = "categoryIds", deserialize_with = "first_category")]
    #[garde(inner(range(min = 1)))]
    pub category_id: Option<i64>,
    /// Pictures, at most ten.
    #[serde(default, alias = "imageUrls")]
    #[garde(length(max = 10), inner(custom(image_url)))]
    pub image_urls: Vec<String>,
    /// When bidding begins; at once when missing.
    #[serde(default, alias = "startsAt", alias = "startDate")]
    #[garde(skip)]
    pub starts_at: Option<Timestamp>,
    /// When the hammer falls.
    #[serde(alias = "endsAt", alias = "endDate")]
    #[garde(skip)]
    pub ends_at: Timestamp,
    /// A bid this close to the end moves the end; 0 for never. When missing, what the platform is set to.
    #[serde(default, alias = "extensionWindowSeconds")]
    #[garde(inner(range(max = 3600)))]
    pub extension_window_seconds: Option<u32>,
    /// How long after such a bid the end comes; the window when missing.
    #[serde(default, alias = "extensionSeconds")]
    #[garde(inner(range(min = 1, max = 3600)))]
    pub extension_seconds: Option<u32>,
}

impl Message for CreateItem {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "create-item";
    type Reply = Item;
}

impl Command for CreateItem {}

/// Show an item as it is now.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct GetItem {
    /// Which.
    #[garde(skip)]
    pub item_id: ItemId,
}

impl Message for GetItem {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "get-item";
    type Reply = Item;
}

impl Query for GetItem {}

/// Offer an amount for an item.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct PlaceBid {
    /// Which item.
    #[garde(skip)]
    pub item_id: ItemId,
    /// How much is offered openly, in the item's currency.
    #[garde(custom(positive))]
    pub amount: Amount,
    /// How far the platform may go on the bidder's behalf. Nobody else learns it while it leads.
    #[serde(default, alias = "maxAmount", skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(not_below(&self.amount))))]
    pub max_amount: Option<Amount>,
    /// Whose bid it is, where callers say so as in seed 002: their own. Refused when it names somebody else.
    #[serde(default, alias = "userId", skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub user_id: Option<String>,
}

impl PlaceBid {
    /// An offer of so much and no more.
    pub fn open(item_id: ItemId, amount: Amount) -> Self {
        Self { item_id, amount, max_amount: None, user_id: None }
    }
}

impl Message for PlaceBid {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "place-bid";
    type Reply = Bid;
}

impl Command for PlaceBid {
    fn key(&self) -> String {
        self.item_id.to_string()
    }
}

/// List the accepted bids of an item, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct ListBids {
    /// Which item.
    #[garde(skip)]
    pub item_id: ItemId,
    /// Which part of the list.
    #[serde(flatten)]
    #[garde(skip)]
    pub page: PageQuery,
}

impl Message for ListBids {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "list-bids";
    type Reply = Page<Bid>;

    /// Under the names that callers use: they see no `page` around its members.
    fn check(&self) -> Result<(), Refused> {
        platform::wire::check(&self.page)
    }
}

impl Query for ListBids {}

/// List what happened to an item after a version of it, in order.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct ListChanges {
    /// Which item.
    #[garde(skip)]
    pub item_id: ItemId,
    /// The version that is known already.
    #[garde(skip)]
    pub after: i64,
}

impl Message for ListChanges {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "list-changes";
    type Reply = Changes;
}

impl Query for ListChanges {}

/// Tell every item as it is now, page by page: for projections that are made anew.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct SnapshotItems {
    /// Where the page before ended.
    #[serde(default)]
    #[garde(skip)]
    pub after: Option<String>,
}

impl Message for SnapshotItems {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "snapshot-items";
    type Reply = SnapshotPage;
}

impl Query for SnapshotItems {}

/// Tell every accepted bid and every sale, page by page: for projections that are made anew.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct SnapshotBids {
    /// Where the page before ended.
    #[serde(default)]
    #[garde(skip)]
    pub after: Option<String>,
}

impl Message for SnapshotBids {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "snapshot-bids";
    type Reply = SnapshotPage;
}

impl Query for SnapshotBids {}

/// Where an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemStatus {
    /// Bidding has not begun.
    Scheduled,
    /// Bids are taken.
    Open,
    /// It has a winner.
    Sold,
    /// It ended without one.
    Unsold,
    /// Taken back.
    Cancelled,
}

impl ItemStatus {
    /// The word in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Open => "open",
            Self::Sold => "sold",
            Self::Unsold => "unsold",
            Self::Cancelled => "cancelled",
        }
    }
}

/// An item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Which.
    pub id: ItemId,
    /// Who sells it.
    pub seller_id: UserId,
    /// What it is.
    pub name: String,
    /// More about it.
    pub description: String,
    /// A category of the catalogue.
    pub category_id: Option<i64>,
    /// Pictures.
    pub image_urls: Vec<String>,
    /// Of all amounts here.
    pub currency: Currency,
    /// The lowest first bid.
    pub start_price: Amount,
    /// By how much a bid must top the one before, at this price.
    pub bid_increment: Amount,
    /// What that step depends on.
    #[serde(default)]
    pub increment_policy: IncrementPolicy,
    /// Whether the price is high enough to sell. Until then the item can be bought for `buy_now_price`.
    pub reserve_met: bool,
    /// Shown to the seller only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve_price: Option<Amount>,
    /// For this it is sold at once.
    pub buy_now_price: Option<Amount>,
    /// The highest bid; the start price before the first.
    pub current_price: Amount,
    /// The lowest bid that would be accepted now.
    pub min_next_bid: Amount,
    /// How many bids were accepted.
    pub bid_count: i64,
    /// Whose bid is the highest.
    pub leader_id: Option<UserId>,
    /// Where it stands.
    pub status: ItemStatus,
    /// When bidding begins.
    pub starts_at: Timestamp,
    /// When the hammer falls.
    pub ends_at: Timestamp,
    /// A bid this close to the end moves the end.
    pub extension_window_seconds: u32,
    /// How long after such a bid the end comes.
    pub extension_seconds: u32,
    /// Who won it.
    pub winner_id: Option<UserId>,
    /// For how much.
    pub final_price: Option<Amount>,
    /// When the hammer fell.
    pub closed_at: Option<Timestamp>,
    /// Why it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// The item as which it was offered again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relisted_as: Option<ItemId>,
    /// Grows with every change.
    pub version: i64,
    /// When it was offered.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
}

/// An accepted bid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bid {
    /// Which.
    pub id: BidId,
    /// On what.
    pub item_id: ItemId,
    /// By whom.
    pub bidder_id: UserId,
    /// How much.
    pub amount: Amount,
    /// The how-many-eth accepted bid of the item, from 1.
    pub seq: i64,
    /// The stream's stamp: when the bid counts as placed.
    pub placed_at: Timestamp,
    /// Whether it is the highest; in an answer, when it was decided.
    pub leading: bool,
    /// The platform made it on behalf of who led, up to their maximum.
    #[serde(default)]
    pub automatic: bool,
    /// How far the platform goes on; in the answer to its bidder only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_amount: Option<Amount>,
    /// The item right after this bid; in the answer to it only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemPrice>,
}

/// What a bid changes about its item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemPrice {
    /// The highest bid.
    pub current_price: Amount,
    /// The lowest bid that would be accepted next.
    pub min_next_bid: Amount,
    /// How many bids were accepted.
    pub bid_count: i64,
    /// When the hammer falls.
    pub ends_at: Timestamp,
    /// The item's version.
    pub version: i64,
}

/// The whole state of an item apart from its price, as the `item.*` events carry it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemState {
    /// Which.
    pub item_id: ItemId,
    /// Grows with every `item.*` event of the item: the newer state wins.
    pub item_version: i64,
    /// The item's version right after this change; bids count too, so each change has its own.
    #[serde(default)]
    pub version: i64,
    /// Who sells it.
    pub seller_id: UserId,
    /// What it is.
    pub name: String,
    /// More about it.
    pub description: String,
    /// A category of the catalogue.
    pub category_id: Option<i64>,
    /// Pictures.
    pub image_urls: Vec<String>,
    /// Of all amounts.
    pub currency: Currency,
    /// The lowest first bid.
    pub start_price: Amount,
    /// By how much a bid must top the one before, at the price of this moment.
    pub bid_increment: Amount,
    /// What that step depends on.
    #[serde(default)]
    pub increment_policy: IncrementPolicy,
    /// For this it is sold at once.
    pub buy_now_price: Option<Amount>,
    /// Where it stands.
    pub status: ItemStatus,
    /// When bidding begins.
    pub starts_at: Timestamp,
    /// When the hammer falls.
    pub ends_at: Timestamp,
    /// A bid this close to the end moves the end.
    #[serde(default)]
    pub extension_window_seconds: u32,
    /// How long after such a bid the end comes.
    #[serde(default)]
    pub extension_seconds: u32,
    /// Who won it.
    pub winner_id: Option<UserId>,
    /// For how much.
    pub final_price: Option<Amount>,
    /// When the hammer fell.
    pub closed_at: Option<Timestamp>,
    /// Who took it back, deleted it or let the hammer fall before its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<UserId>,
    /// Why it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// When it was offered.
    pub created_at: Timestamp,
}

/// Something is for sale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemCreated(pub ItemState);

/// A late bid moved the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemExtended(pub ItemState);

/// It has ended: the hammer fell, or it was taken back, which its status says. Every item that was not deleted has
/// exactly one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemClosed(pub ItemState);

impl Event for ItemCreated {
    const NAME: &'static str = "item.created.v1";

    fn key(&self) -> Uuid {
        self.0.item_id.0
    }

    fn ordinal(&self) -> i64 {
        self.0.item_version
    }
}

impl Event for ItemExtended {
    const NAME: &'static str = "item.extended.v1";

    fn key(&self) -> Uuid {
        self.0.item_id.0
    }

    fn ordinal(&self) -> i64 {
        self.0.item_version
    }
}

impl Event for ItemClosed {
    const NAME: &'static str = "item.closed.v1";

    fn key(&self) -> Uuid {
        self.0.item_id.0
    }

    fn ordinal(&self) -> i64 {
        self.0.item_version
    }
}

/// A bid was accepted: the bid, and the whole price of the item after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BidPlaced {
    /// Which bid.
    pub bid_id: BidId,
    /// On what.
    pub item_id: ItemId,
    /// Who sells it.
    pub seller_id: UserId,
    /// By whom.
    pub bidder_id: UserId,
    /// Who led until then.
    pub outbid_id: Option<UserId>,
    /// The platform made it on behalf of who led before the last bid.
    #[serde(default)]
    pub automatic: bool,
    /// How much.
    pub amount: Amount,
    /// Of all amounts.
    pub currency: Currency,
    /// The how-many-eth accepted bid of the item, from 1; also the version of its price.
    pub seq: i64,
    /// The item's version right after this bid and before what the bid may have caused.
    #[serde(default)]
    pub version: i64,
    /// When the hammer falls now: a late bid moves it.
    #[serde(default)]
    pub ends_at: Option<Timestamp>,
    /// The stream's stamp of the bid.
    pub placed_at: Timestamp,
    /// The highest bid.
    pub current_price: Amount,
    /// The lowest bid that would be accepted next.
    pub min_next_bid: Amount,
    /// Whether the price is high enough to sell.
    pub reserve_met: bool,
}

impl Event for BidPlaced {
    const NAME: &'static str = "bid.placed.v1";

    fn key(&self) -> Uuid {
        self.item_id.0
    }

    fn ordinal(&self) -> i64 {
        self.seq
    }
}

impl BidPlaced {
    /// The bid as everybody is told of it; none when the event is too old to say what was after it.
    pub fn bid(self) -> Option<Bid> {
        let item = ItemPrice {
            current_price: self.current_price,
            min_next_bid: self.min_next_bid,
            bid_count: self.seq,
            ends_at: self.ends_at?,
            version: self.version,
        };
        Some(Bid {
            id: self.bid_id,
            item_id: self.item_id,
            bidder_id: self.bidder_id,
            amount: self.amount,
            seq: self.seq,
            placed_at: self.placed_at,
            leading: true,
            automatic: self.automatic,
            max_amount: None,
            item: Some(item),
        })
    }
}

/// A bid won its item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BidWon {
    /// What was won.
    pub item_id: ItemId,
    /// What it is.
    pub item_name: String,
    /// The bid that won.
    pub bid_id: BidId,
    /// By whom.
    pub winner_id: UserId,
    /// From whom.
    pub seller_id: UserId,
    /// For how much.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
    /// The bid's place among the accepted ones.
    pub seq: i64,
    /// When the hammer fell.
    pub closed_at: Timestamp,
}

impl Event for BidWon {
    const NAME: &'static str = "bid.won.v1";

    fn key(&self) -> Uuid {
        self.item_id.0
    }

    fn ordinal(&self) -> i64 {
        self.seq
    }
}

/// What happened to an item after a version of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// In the order of their versions, each one above the one before.
    pub changes: Vec<ItemChange>,
    /// Whether there are changes after these.
    pub has_more: bool,
    /// False when it cannot be told change by change, because the version is not one of the item's or is
    /// older than what is kept: then the item itself has to be read.
    pub complete: bool,
}

/// One change of an item. Its JSON is the same whether it was heard as an event or read from the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", content = "change", rename_all = "lowercase")]
pub enum ItemChange {
    /// A bid was accepted. Its `item` is what was right after it.
    Bid(Bid),
    /// The bid before it moved the end.
    Extended(ItemCourse),
    /// What is said of it was changed: all of it as it is now.
    Updated(Box<ItemState>),
    /// The hammer fell.
    Closed(ItemCourse),
    /// It was taken back.
    Cancelled(ItemCourse),
    /// It is gone, and so is its log: the last that is heard of it.
    Deleted(ItemCourse),
}

/// Where an item stands, apart from its price.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemCourse {
    /// Which item.
    pub item_id: ItemId,
    /// Where it stands.
    pub status: ItemStatus,
    /// When the hammer falls.
    pub ends_at: Timestamp,
    /// Who won it.
    pub winner_id: Option<UserId>,
    /// For how much.
    pub final_price: Option<Amount>,
    /// When the hammer fell.
    pub closed_at: Option<Timestamp>,
    /// Why it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// The item's version.
    pub version: i64,
}

impl From<&ItemState> for ItemCourse {
    fn from(state: &ItemState) -> Self {
        Self {
            item_id: state.item_id,
            status: state.status,
            ends_at: state.ends_at,
            winner_id: state.winner_id,
            final_price: state.final_price,
            closed_at: state.closed_at,
            end_reason: state.end_reason.clone(),
            version: state.version,
        }
    }
}

impl ItemChange {
    /// The change that an event tells; none when it tells no change, or not which version it made.
    pub fn from_event(name: &str, payload: &str) -> Option<Self> {
        let state = || serde_json::from_str::<ItemState>(payload).ok();
        let change = match name {
            BidPlaced::NAME => Self::Bid(serde_json::from_str::<BidPlaced>(payload).ok()?.bid()?),
            ItemExtended::NAME => Self::extended(&state()?),
            ItemUpdated::NAME => Self::updated(&state()?),
            ItemClosed::NAME => Self::ended(&state()?),
            ItemDeleted::NAME => Self::Deleted(ItemCourse::from(&state()?)),
            _ => return None,
        };
        // Events of the time before versions were dense have none.
        (change.version() > 0).then_some(change)
    }

    /// A bid moved the end.
    pub fn extended(state: &ItemState) -> Self {
        Self::Extended(state.into())
    }

    /// What is said of it was changed.
    pub fn updated(state: &ItemState) -> Self {
        Self::Updated(Box::new(state.clone()))
    }

    /// The end, by its kind.
    pub fn ended(state: &ItemState) -> Self {
        let course = state.into();
        if state.status == ItemStatus::Cancelled { Self::Cancelled(course) } else { Self::Closed(course) }
    }

    /// The item's version right after it.
    pub fn version(&self) -> i64 {
        match self {
            Self::Bid(bid) => bid.item.as_ref().map_or(0, |item| item.version),
            Self::Updated(state) => state.version,
            Self::Extended(course)
            | Self::Closed(course)
            | Self::Cancelled(course)
            | Self::Deleted(course) => course.version,
        }
    }

    /// What kind of change it is, in one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bid(_) => "bid",
            Self::Extended(_) => "extended",
            Self::Updated(_) => "updated",
            Self::Closed(_) => "closed",
            Self::Cancelled(_) => "cancelled",
            Self::Deleted(_) => "deleted",
        }
    }

    /// What changed, as JSON without the word for it.
    pub fn data(&self) -> serde_json::Result<String> {
        match self {
            Self::Bid(bid) => serde_json::to_string(bid),
            Self::Updated(state) => serde_json::to_string(state),
            Self::Extended(course)
            | Self::Closed(course)
            | Self::Cancelled(course)
            | Self::Deleted(course) => serde_json::to_string(course),
        }
    }
}

pub(crate) fn positive(amount: &Amount, (): &()) -> garde::Result {
    if amount.is_positive() { Ok(()) } else { Err(garde::Error::new("must be above 0")) }
}

fn not_below(amount: &Amount) -> impl FnOnce(&Amount, &()) -> garde::Result + '_ {
    move |maximum, ()| {
        if amount.is_above(*maximum) { Err(garde::Error::new("must not be below amount")) } else { Ok(()) }
    }
}

fn not_blank(text: &str, (): &()) -> garde::Result {
    if text.trim().is_empty() { Err(garde::Error::new("must not be blank")) } else { Ok(()) }
}

/// The platform never fetches these addresses; they are shown to others, so only plain web
/// addresses without credentials are taken (security.md 2.2, SSRF).
pub(crate) fn image_url(text: &str, (): &()) -> garde::Result {
    let wrong = || garde::Error::new("expected an http or https address without credentials");
    let url = url::Url::parse(text).map_err(|_| wrong())?;
    let plain = text.len() <= 2048 && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    let web = matches!(url.scheme(), "http" | "https") && url.has_host();
    if plain && web && url.username().is_empty() && url.password().is_none() { Ok(()) } else { Err(wrong()) }
}

/// One category, or the first of several.
fn first_category<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(Option<i64>),
        More(Vec<i64>),
    }
    OneOrMore::deserialize(deserializer)
        .map(|categories| match categories {
            OneOrMore::One(category) => category,
            OneOrMore::More(categories) => categories.into_iter().next(),
        })
        .map_err(|_| serde::de::Error::custom("expected a category id"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_spellings_of_an_item_are_read() {
        for body in [
            json!({"name": "Lamp", "start_price": 10, "ends_at": "2026-12-01T00:00:00Z", "category_id": 3}),
            json!({"name": "Lamp", "startPrice": "10", "endDate": "2026-12-01T00:00:00Z", "categoryIds": [3, 4]}),
        ] {
            let item: CreateItem = serde_json::from_value(body).unwrap();

            item.check().unwrap();
            assert_eq!(item.category_id, Some(3));
            assert_eq!(item.currency, Currency::USD);
        }
    }

    #[test]
    fn wrong_members_are_all_named() {
        let item: CreateItem = serde_json::from_value(json!({
            "name": " ", "start_price": 0, "ends_at": "2026-12-01T00:00:00Z",
            "image_urls": ["file:///etc/passwd"], "category_id": 0,
        }))
        .unwrap();

        let details = item.check().unwrap_err().details.unwrap();

        for member in [
            "name: must not be blank",
            "start_price: must be above 0",
            "image_urls[0]: ",
            "category_id: lower than 1",
        ] {
            assert!(details.contains(member), "{details}");
        }
    }

    #[test]
    fn an_event_that_does_not_say_which_version_it_made_is_no_change() {
        let id = Uuid::now_v7();
        let placed = |version: i64, ends_at: serde_json::Value| {
            json!({
                "bid_id": id, "item_id": id, "seller_id": id, "bidder_id": id, "outbid_id": null, "amount": "12.00",
                "currency": "USD", "seq": 1, "version": version, "ends_at": ends_at, "placed_at": "2026-12-01T00:00:00Z",
                "current_price": "12.00", "min_next_bid": "13.00", "reserve_met": true,
            })
            .to_string()
        };
        let end = || json!("2026-12-02T00:00:00Z");

        let change = ItemChange::from_event(BidPlaced::NAME, &placed(2, end())).unwrap();
        assert_eq!((change.name(), change.version()), ("bid", 2));
        let back: ItemChange = serde_json::from_str(&serde_json::to_string(&change).unwrap()).unwrap();
        assert_eq!(back, change);

        for (name, payload) in [
            (BidPlaced::NAME, placed(0, end())),
            (BidPlaced::NAME, placed(2, json!(null))),
            (BidPlaced::NAME, "{}".to_owned()),
            (BidWon::NAME, placed(2, end())),
            (ItemCreated::NAME, placed(2, end())),
        ] {
            assert_eq!(ItemChange::from_event(name, &payload), None, "{name} {payload}");
        }
    }

    #[test]
    fn a_bid_must_be_above_zero() {
        for (amount, good) in [("1", true), ("0", false), ("-1", false), ("\"-0.01\"", false)] {
            let body = format!(r#"{{"item_id":"{}","amount":{amount}}}"#, ItemId::new());
            let bid: PlaceBid = serde_json::from_str(&body).unwrap();
            assert_eq!(bid.check().is_ok(), good, "{amount}");
        }
    }

    #[test]
    fn a_maximum_is_not_below_what_is_offered_openly() {
        for (maximum, good) in
            [("12.5", true), ("12.50", true), ("13", true), ("12.49", false), ("-1", false)]
        {
            let body = json!({ "item_id": ItemId::new(), "amount": "12.50", "max_amount": maximum });
            let bid: PlaceBid = serde_json::from_value(body).unwrap();
            assert_eq!(bid.check().is_ok(), good, "{maximum}");
        }
    }

    #[test]
    fn each_policy_has_its_word() {
        for policy in [IncrementPolicy::Flat, IncrementPolicy::TradeMe, IncrementPolicy::Ebay] {
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.as_str());
            assert_eq!(IncrementPolicy::parse(policy.as_str()), Some(policy));
        }
        assert_eq!(IncrementPolicy::parse("steep"), None);
    }
}
