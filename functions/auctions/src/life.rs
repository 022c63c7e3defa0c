//! How items change apart from bids: what the functions of their life share.

use contracts::{
    ItemId, Timestamp,
    auctions::{ItemChange, ItemStatus, ItemUpdated},
};
use platform::{Caller, Cx, Kind, Refusal, Result};
use serde_json::{Map, Value};

use crate::{
    auction::NoItem,
    listing::Listing,
    store::{self, Whole},
};

/// Why an item does not change.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum LifeRefused {
    /// It is somebody else's.
    #[error("only its seller and administrators may do this to an item")]
    NotYours,
    /// It is somebody else's, whoever asks.
    #[error("only its seller may offer an item again")]
    NotSeller,
    /// Not even the seller.
    #[error("only administrators may let the hammer fall before its time")]
    OnlyAdmins,
    /// People have bid on it.
    #[error("the item has bids: it can be neither deleted nor taken back by its seller")]
    HasBids,
    /// People have bid on what was said.
    #[error(
        "the item has bids: only image_urls may change now, and description if the new text begins with the old one"
    )]
    Frozen,
    /// The hammer has fallen, or its time is over, or it was taken back.
    #[error("the auction is closed")]
    Ended,
    /// There is nothing that the hammer could fall on.
    #[error("bidding begins at {starts_at}: until then an item is cancelled, not closed")]
    NotStarted {
        /// When it does.
        starts_at: Timestamp,
    },
    /// It runs, or it is sold.
    #[error("the item is {}: what is offered again was not sold, or was cancelled", .0.as_str())]
    NotOver(ItemStatus),
    /// Once is enough.
    #[error("the item was offered again already, as {0}")]
    OfferedAgain(ItemId),
}

impl Refusal for LifeRefused {
    fn kind(&self) -> Kind {
        match self {
            Self::NotYours | Self::NotSeller | Self::OnlyAdmins => Kind::Forbidden,
            Self::HasBids
            | Self::Frozen
            | Self::Ended
            | Self::NotStarted { .. }
            | Self::NotOver(_)
            | Self::OfferedAgain(_) => Kind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotYours | Self::NotSeller | Self::OnlyAdmins => "FORBIDDEN",
            Self::HasBids | Self::Frozen => "ITEM_HAS_BIDS",
            Self::Ended => "AUCTION_CLOSED",
            Self::NotStarted { .. } => "AUCTION_NOT_STARTED",
            Self::NotOver(_) => "INVALID_TRANSITION",
            Self::OfferedAgain(_) => "ALREADY_EXISTS",
        }
    }

    fn extras(&self) -> Map<String, Value> {
        match self {
            Self::NotOver(_) => Map::from_iter([(
                "allowed".to_owned(),
                [ItemStatus::Unsold, ItemStatus::Cancelled].map(ItemStatus::as_str).to_vec().into(),
            )]),
            Self::OfferedAgain(item) => Map::from_iter([("relisted_as".to_owned(), item.to_string().into())]),
            _ => Map::new(),
        }
    }
}

/// Reads an item and locks it: bids, changes and the hammer come one after the other.
pub(crate) async fn lock(cx: &mut Cx, item_id: ItemId) -> Result<Whole> {
    sqlx::query_scalar!("select id from items where id = $1 for update", item_id.0)
        .fetch_optional(cx.tx().await?)
        .await?
        .ok_or(NoItem)?;
    store::load_one(cx.tx().await?, item_id).await
}

/// Refuses everybody but the seller and administrators.
pub(crate) fn may_change(caller: Caller, item: &Whole) -> Result<(), LifeRefused> {
    if caller.is_owner_or_admin(item.auction.seller) { Ok(()) } else { Err(LifeRefused::NotYours) }
}

/// Refuses an item that has ended, by the hammer or by the clock.
pub(crate) fn still_runs(item: &Whole, now: Timestamp) -> Result<(), LifeRefused> {
    let runs = item.auction.outcome.is_none() && now < item.auction.ends_at;
    if runs { Ok(()) } else { Err(LifeRefused::Ended) }
}

/// Notes and tells that what is said of an item was changed, in the version that it has now.
pub(crate) async fn tell_update(cx: &mut Cx, item: &Whole, now: Timestamp) -> Result<()> {
    let state = item.state(now);
    store::log_changes(cx.tx().await?, std::slice::from_ref(&state), ItemChange::updated).await?;
    cx.emit(&ItemUpdated(state))
}

impl Whole {
    /// What its seller says of it.
    pub(crate) fn listing(&self) -> Listing {
        let (auction, description) = (&self.auction, &self.description);
        Listing {
            name: description.name.clone(),
            description: description.description.clone(),
            category_id: description.category_id,
            image_urls: description.image_urls.clone(),
            currency: auction.currency,
            start: auction.start_price,
            increments: auction.increments,
            reserve: auction.reserve,
            buy_now: auction.buy_now,
            window: store::whole_seconds(auction.window),
            extension: store::whole_seconds(auction.extension),
            starts_at: auction.starts_at,
            ends_at: auction.ends_at,
        }
    }
}
