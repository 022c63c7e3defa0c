//! Events that the tests of several functions start from.

use contracts::{
    BidId, Currency, ItemId, Timestamp, UserId,
    auctions::{BidPlaced, BidWon},
};
use uuid::Uuid;

/// Who sells in tests.
pub(crate) const SELLER: UserId = UserId(Uuid::from_u128(1));

/// A bid that was accepted, with the id of its event.
pub(crate) fn placed(bidder_id: UserId, amount: &str) -> (Uuid, BidPlaced) {
    let amount = amount.parse().unwrap();
    let bid = BidPlaced {
        bid_id: BidId::new(),
        item_id: ItemId::new(),
        seller_id: SELLER,
        bidder_id,
        outbid_id: None,
        automatic: false,
        amount,
        currency: Currency::USD,
        seq: 1,
        version: 2,
        ends_at: None,
        placed_at: Timestamp::now(),
        current_price: amount,
        min_next_bid: amount,
        reserve_met: true,
    };
    (Uuid::now_v7(), bid)
}

/// A sale, with the id of its event.
pub(crate) fn won(winner_id: UserId, amount: &str) -> (Uuid, BidWon) {
    let bid = BidWon {
        item_id: ItemId::new(),
        item_name: "Lamp".into(),
        bid_id: BidId::new(),
        winner_id,
        seller_id: SELLER,
        amount: amount.parse().unwrap(),
        currency: Currency::USD,
        seq: 1,
        closed_at: Timestamp::now(),
    };
    (Uuid::now_v7(), bid)
}
