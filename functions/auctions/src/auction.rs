//! The rules of an auction. Pure: no database, no clock, no bus.
//!
//! Source: `auction-rules` 4.2 (acceptance, in this order), 4.4 (soft close) and the close of the
//! design: the stream's stamp decides whether a bid is in time, the lock decides the order.

use std::time::Duration;

use contracts::{
    Amount, BidId, Currency, ItemId, Money, Timestamp, UserId, auctions::ItemStatus, money::MoneyError,
};
use platform::{Kind, Refusal, error::Field};
use serde_json::{Map, Value};

use crate::{
    increments::Increments,
    proxy::{Effect, NoEffect, Offer, Terms},
};

/// How far late bids can move the end in all.
pub const LONGEST_EXTENSION: Duration = Duration::from_secs(30 * 60);

/// What the rules need to know of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct Auction {
    /// Which item.
    pub id: ItemId,
    /// Who sells it.
    pub seller: UserId,
    /// Of all amounts.
    pub currency: Currency,
    /// The lowest first bid.
    pub start_price: Money,
    /// By how much a bid must top the one before.
    pub increments: Increments,
    /// Below this it is not sold.
    pub reserve: Option<Money>,
    /// For this it is sold at once, while nobody else would win it.
    pub buy_now: Option<Money>,
    /// A bid this close to the end moves the end; zero for never.
    pub window: Duration,
    /// How long after such a bid the end comes.
    pub extension: Duration,
    /// Set once the hammer has fallen.
    pub outcome: Option<Outcome>,
    /// When bidding begins.
    pub starts_at: Timestamp,
    /// When the hammer falls.
    pub ends_at: Timestamp,
    /// Where the end stood before any extension.
    pub planned_end: Timestamp,
    /// The highest bid.
    pub leading: Option<Leading>,
    /// How many bids were accepted.
    pub bid_count: i64,
    /// Grows with every change but a bid.
    pub revision: i64,
}

/// The highest bid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leading {
    /// Which bid.
    pub bid: BidId,
    /// Whose.
    pub bidder: UserId,
    /// How much.
    pub price: Money,
    /// How far the bidder goes: not below the price, and nobody else's business.
    pub maximum: Money,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The leader won.
    Sold,
    /// No bid, or none that met the reserve.
    Unsold,
    /// Taken back.
    Cancelled,
}

impl Outcome {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sold => "sold",
            Self::Unsold => "unsold",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads the word in the database.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Sold, Self::Unsold, Self::Cancelled].into_iter().find(|outcome| outcome.as_str() == word)
    }
}

/// What an accepted offer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The bid it made; none when the leader only goes further than before, of which nobody else is told.
    pub placed: Option<Placed>,
    /// The leader's automatic answer, by which the bid was outbid at once.
    pub answer: Option<Placed>,
    /// The end moved.
    pub extended: bool,
}

/// One more bid. It leads when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Which.
    pub bid: BidId,
    /// By whom.
    pub bidder: UserId,
    /// The price that it made.
    pub price: Money,
    /// The how-many-eth accepted bid of the item, from 1.
    pub seq: i64,
    /// The item's version right after it, before what it may have caused.
    pub version: i64,
    /// Who led until then.
    pub outbid: Option<UserId>,
}

impl Auction {
    /// Decides on an offer, and does what it does. `new_id` names the bids that it makes.
    pub fn bid(
        &mut self,
        mut new_id: impl FnMut() -> BidId,
        bidder: UserId,
        (amount, max_amount): (Amount, Option<Amount>),
        placed_at: Timestamp,
    ) -> Result<Accepted, BidRefused> {
        self.takes_bids_of(bidder, placed_at)?;
        let amount = amount.in_currency(self.currency).map_err(BidRefused::Amount)?;
        let maximum = max_amount.map(|maximum| maximum.in_currency(self.currency)).transpose();
        let offer = Offer { bidder, amount, maximum: maximum.map_err(BidRefused::Maximum)? };
        let effect = self.terms().decide(self.leading.as_ref(), offer).map_err(|none| match none {
            NoEffect::TooLow => BidRefused::TooLow { minimum: self.minimum_bid() },
            NoEffect::NotFurther => BidRefused::NotFurther { minimum: self.minimum_bid() },
        })?;
        let (placed, answer) = match (effect, self.leading) {
            (Effect::Leads { price, maximum }, _) => {
                (Some(self.place(new_id(), bidder, price, maximum)), None)
            }
            (Effect::Raises { maximum }, leading) => {
                self.leading = leading.map(|leading| Leading { maximum, ..leading });
                (None, None)
            }
            (Effect::Outbid { amount, answer }, leading) => {
                let placed = self.place(new_id(), bidder, amount, amount);
                let champion = leading.map(|leading| (leading.bidder, leading.maximum));
                let answer = champion.map(|(bidder, maximum)| self.place(new_id(), bidder, answer, maximum));
                (Some(placed), answer)
            }
        };
        // What nobody sees moves no end: there is nothing that others would need time to answer.
        let extended = placed.is_some() && self.extend(placed_at);
        Ok(Accepted { placed, answer, extended })
    }

    /// Sells the item at once, for what its seller asks.
    pub fn buy_now(&mut self, bid: BidId, buyer: UserId, placed_at: Timestamp) -> Result<Placed, BidRefused> {
        self.takes_bids_of(buyer, placed_at)?;
        let price = self.buy_now.ok_or(BidRefused::NoBuyNow)?;
        // Whoever would win now, or bid as much, must not lose to somebody who came later.
        if self.reserve_met() || self.leading.is_some_and(|leading| leading.price.minor >= price.minor) {
            return Err(BidRefused::NoBuyNow);
        }
        let placed = self.place(bid, buyer, price, price);
        self.outcome = Some(Outcome::Sold);
        self.revision += 1;
        Ok(placed)
    }

    fn place(&mut self, bid: BidId, bidder: UserId, price: Money, maximum: Money) -> Placed {
        let outbid = self.leading.map(|leading| leading.bidder);
        self.leading = Some(Leading { bid, bidder, price, maximum });
        self.bid_count += 1;
        Placed { bid, bidder, price, seq: self.bid_count, version: self.version(), outbid }
    }

    fn takes_bids_of(&self, bidder: UserId, placed_at: Timestamp) -> Result<(), BidRefused> {
        if self.outcome.is_some() || placed_at >= self.ends_at {
            return Err(BidRefused::Closed);
        }
        if placed_at < self.starts_at {
            return Err(BidRefused::NotStarted { starts_at: self.starts_at });
        }
        if bidder == self.seller {
            return Err(BidRefused::OwnItem);
        }
        Ok(())
    }

    fn terms(&self) -> Terms {
        Terms { start: self.start_price, reserve: self.reserve, increments: self.increments }
    }

    /// Soft close: whoever bids late leaves the others time to answer.
    fn extend(&mut self, placed_at: Timestamp) -> bool {
        if self.window.is_zero() || self.ends_at.since(placed_at) >= self.window {
            return false;
        }
        let latest = self.planned_end + LONGEST_EXTENSION;
        let end = (placed_at + self.extension).min(latest);
        let moved = end > self.ends_at;
        if moved {
            self.ends_at = end;
            self.revision += 1;
        }
        moved
    }

    /// The start price for the first bid, one increment above the highest afterwards.
    pub fn minimum_bid(&self) -> Money {
        self.terms().minimum(self.leading.as_ref())
    }

    /// The highest bid, or the start price.
    pub fn current_price(&self) -> Money {
        self.leading.map_or(self.start_price, |leading| leading.price)
    }

    /// Whether somebody would win if the hammer fell now.
    pub fn reserve_met(&self) -> bool {
        self.leading.is_some_and(|leading| self.sells_at(leading.price))
    }

    /// Whether a bid at this price is high enough to sell.
    pub fn sells_at(&self, price: Money) -> bool {
        self.reserve.is_none_or(|reserve| price.minor >= reserve.minor)
    }

    /// Lets the hammer fall. The caller has made sure that every bid that counts is decided.
    pub fn close(&mut self) -> Outcome {
        let outcome = if self.reserve_met() { Outcome::Sold } else { Outcome::Unsold };
        self.outcome = Some(outcome);
        self.revision += 1;
        outcome
    }

    /// Takes the item back: whatever was bid is void.
    pub fn cancel(&mut self) {
        self.outcome = Some(Outcome::Cancelled);
        self.revision += 1;
    }

    /// Grows with every change.
    pub fn version(&self) -> i64 {
        self.revision + self.bid_count
    }

    /// Where the item stands at an instant. It is open until the hammer falls, also past its end.
    pub fn status(&self, now: Timestamp) -> ItemStatus {
        match self.outcome {
            Some(Outcome::Sold) => ItemStatus::Sold,
            Some(Outcome::Unsold) => ItemStatus::Unsold,
            Some(Outcome::Cancelled) => ItemStatus::Cancelled,
            None if now < self.starts_at => ItemStatus::Scheduled,
            None => ItemStatus::Open,
        }
    }
}

/// There is no such item.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such item")]
pub struct NoItem;

impl Refusal for NoItem {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }

    fn code(&self) -> &'static str {
        "NOT_FOUND"
    }
}

/// Why an offer is not taken.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum BidRefused {
    /// Bidding has not begun.
    #[error("bidding begins at {starts_at}")]
    NotStarted {
        /// When it does.
        starts_at: Timestamp,
    },
    /// The bid came at the end or after it.
    #[error("the auction is closed")]
    Closed,
    /// By the seller.
    #[error("sellers cannot bid on their own items")]
    OwnItem,
    /// For somebody else than who sends it.
    #[error("user_id names somebody else, and everybody bids for themselves")]
    SomebodyElse,
    /// Not an amount of the item's currency.
    #[error("amount: {0}")]
    Amount(MoneyError),
    /// The maximum is not an amount of the item's currency.
    #[error("max_amount: {0}")]
    Maximum(MoneyError),
    /// Below the minimum.
    #[error("the lowest acceptable bid is {minimum}")]
    TooLow {
        /// The lowest bid that would be accepted.
        minimum: Money,
    },
    /// By the leader, whose own maximum it does not top. That maximum is not repeated here: refusals may be logged.
    #[error("you lead already, and a new maximum must be above your last one")]
    NotFurther {
        /// The lowest bid that would be accepted from others.
        minimum: Money,
    },
    /// It has no such price, or somebody would win it already.
    #[error("the item cannot be bought at once, or not any more")]
    NoBuyNow,
}

impl Refusal for BidRefused {
    fn kind(&self) -> Kind {
        match self {
            Self::OwnItem | Self::SomebodyElse => Kind::Forbidden,
            Self::Amount(_) | Self::Maximum(_) => Kind::Invalid,
            Self::NotStarted { .. }
            | Self::Closed
            | Self::TooLow { .. }
            | Self::NotFurther { .. }
            | Self::NoBuyNow => Kind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotStarted { .. } => "AUCTION_NOT_STARTED",
            Self::Closed => "AUCTION_CLOSED",
            Self::OwnItem => "SELF_BID",
            Self::SomebodyElse => "FORBIDDEN",
            Self::Amount(_) | Self::Maximum(_) => "INVALID_INPUT",
            Self::TooLow { .. } | Self::NotFurther { .. } => "BID_TOO_LOW",
            Self::NoBuyNow => "BUY_NOW_UNAVAILABLE",
        }
    }

    fn extras(&self) -> Map<String, Value> {
        match self {
            Self::TooLow { minimum } | Self::NotFurther { minimum } => {
                Map::from_iter([("min_next_bid".to_owned(), Value::from(minimum.to_string()))])
            }
            Self::NotStarted { starts_at } => {
                Map::from_iter([("starts_at".to_owned(), Value::from(starts_at.to_string()))])
            }
            _ => Map::new(),
        }
    }

    fn field(&self) -> Option<Field> {
        let (name, error) = match self {
            Self::Amount(error) => ("amount", error),
            Self::Maximum(error) => ("max_amount", error),
            _ => return None,
        };
        Some(Field { name: name.to_owned(), message: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use contracts::auctions::IncrementPolicy;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const SELLER: UserId = UserId(Uuid::from_u128(1));
    const ANN: UserId = UserId(Uuid::from_u128(2));
    const BOB: UserId = UserId(Uuid::from_u128(3));

    fn usd(minor: i64) -> Money {
        Money::new(minor, Currency::USD)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::parse("2026-11-21T00:00:00Z").unwrap() + Duration::from_secs(seconds)
    }

    /// Open from second 10 to second 100, from 1.00 in steps of 0.50.
    fn auction() -> Auction {
        Auction {
            id: ItemId(Uuid::from_u128(9)),
            seller: SELLER,
            currency: Currency::USD,
            start_price: usd(100),
            increments: Increments { policy: IncrementPolicy::Flat, flat: usd(50) },
            reserve: None,
            buy_now: None,
            window: Duration::ZERO,
            extension: Duration::ZERO,
            outcome: None,
            starts_at: at(10),
            ends_at: at(100),
            planned_end: at(100),
            leading: None,
            bid_count: 0,
            revision: 1,
        }
    }

    fn bid(auction: &mut Auction, bidder: UserId, amount: &str, second: u64) -> Result<Accepted, BidRefused> {
        auction.bid(new_id, bidder, (amount.parse().unwrap(), None), at(second))
    }

    fn new_id() -> BidId {
        BidId(Uuid::from_u128(7))
    }

    #[test]
    fn the_rules_are_asked_in_the_order_of_the_contract() {
        let too_low = |minor| BidRefused::TooLow { minimum: usd(minor) };
        let not_started = BidRefused::NotStarted { starts_at: at(10) };
        let decimals = BidRefused::Amount(MoneyError::Decimals(Currency::USD));
        for (bidder, amount, second, expected) in [
            (ANN, "1.00", 10, Ok(())),
            (ANN, "1.00", 99, Ok(())),
            (ANN, "0.99", 50, Err(too_low(100))),
            (ANN, "1.00", 100, Err(BidRefused::Closed)),
            (ANN, "1.00", 9, Err(not_started)),
            (SELLER, "1.00", 50, Err(BidRefused::OwnItem)),
            (SELLER, "0.01", 101, Err(BidRefused::Closed)),
            (SELLER, "1.001", 50, Err(BidRefused::OwnItem)),
            (ANN, "1.001", 50, Err(decimals)),
        ] {
            let result = bid(&mut auction(), bidder, amount, second).map(|_| ());
            assert_eq!(result, expected, "{bidder} {amount} at {second}");
        }
    }

    #[test]
    fn a_bid_must_top_the_highest_by_the_increment() {
        let mut auction = auction();
        bid(&mut auction, ANN, "2", 20).unwrap();

        assert_eq!(bid(&mut auction, BOB, "2.49", 21), Err(BidRefused::TooLow { minimum: usd(250) }));
        let accepted = bid(&mut auction, BOB, "2.50", 22).unwrap();

        let placed =
            Placed { bid: new_id(), bidder: BOB, price: usd(250), seq: 2, version: 3, outbid: Some(ANN) };
        assert_eq!(accepted, Accepted { placed: Some(placed), answer: None, extended: false });
        assert_eq!(auction.version(), 3);
    }

    #[test]
    fn raising_ones_own_lead_is_allowed() {
        let mut auction = auction();
        bid(&mut auction, ANN, "2", 20).unwrap();

        assert!(bid(&mut auction, ANN, "3", 21).is_ok());
    }

    #[test]
    fn a_closed_auction_takes_no_bid_even_in_time() {
        let mut auction = auction();
        auction.close();

        assert_eq!(bid(&mut auction, ANN, "2", 50), Err(BidRefused::Closed));
    }

    #[test]
    fn a_late_bid_moves_the_end_and_never_beyond_the_cap() {
        let mut auction =
            Auction { window: Duration::from_secs(60), extension: Duration::from_secs(3_000), ..auction() };

        assert!(!bid(&mut auction, ANN, "1", 40).unwrap().extended);
        assert!(bid(&mut auction, BOB, "2", 41).unwrap().extended);
        assert_eq!(auction.ends_at, at(100 + 30 * 60));
        assert!(!bid(&mut auction, ANN, "3", 100 + 29 * 60 + 30).unwrap().extended, "at the cap");
    }

    #[test]
    fn the_hammer_sells_only_above_the_reserve() {
        for (reserve, amount, outcome) in [
            (None, Some("1.00"), Outcome::Sold),
            (None, None, Outcome::Unsold),
            (Some(usd(500)), Some("4.99"), Outcome::Unsold),
            (Some(usd(500)), Some("5.00"), Outcome::Sold),
        ] {
            let mut auction = Auction { reserve, ..auction() };
            if let Some(amount) = amount {
                bid(&mut auction, ANN, amount, 20).unwrap();
            }
            assert_eq!(auction.close(), outcome, "{reserve:?} {amount:?}");
        }
    }

    #[test]
    fn a_price_that_cannot_grow_refuses_everything() {
        let mut auction = auction();
        bid(&mut auction, ANN, "92233720368547758.07", 20).unwrap();

        for amount in ["92233720368547758.06", "92233720368547758.07"] {
            let refused = bid(&mut auction, BOB, amount, 21);
            assert!(matches!(refused, Err(BidRefused::TooLow { .. })), "{refused:?}");
        }
    }

    #[test]
    fn an_item_is_bought_at_once_only_while_nobody_would_win_it() {
        for (reserve, bids, expected) in [
            (None, vec![], Ok(1)),
            (None, vec!["1.00"], Err(BidRefused::NoBuyNow)),
            (Some(usd(500)), vec!["4.00"], Ok(2)),
            (Some(usd(500)), vec!["4.00", "5.00"], Err(BidRefused::NoBuyNow)),
        ] {
            let mut auction = Auction { reserve, buy_now: Some(usd(900)), ..auction() };
            for amount in &bids {
                bid(&mut auction, ANN, amount, 20).unwrap();
            }
            let version = auction.version();
            let bought = auction.buy_now(new_id(), BOB, at(30)).map(|placed| placed.seq);
            assert_eq!(bought, expected, "{reserve:?} {bids:?}");
            if bought.is_ok() {
                assert_eq!((auction.outcome, auction.current_price()), (Some(Outcome::Sold), usd(900)));
                assert_eq!(auction.leading.map(|leading| leading.bidder), Some(BOB));
                assert_eq!(auction.version(), version + 2);
            }
        }
        let mut sold = Auction { buy_now: Some(usd(900)), ..auction() };
        for (buyer, second, expected) in [
            (ANN, 9, Some(BidRefused::NotStarted { starts_at: at(10) })),
            (SELLER, 20, Some(BidRefused::OwnItem)),
            (ANN, 100, Some(BidRefused::Closed)),
            (ANN, 20, None),
            (BOB, 21, Some(BidRefused::Closed)),
        ] {
            assert_eq!(sold.buy_now(new_id(), buyer, at(second)).err(), expected, "{buyer} {second}");
        }
        assert_eq!(auction().buy_now(new_id(), ANN, at(20)).err(), Some(BidRefused::NoBuyNow), "no price");
    }

    proptest! {
        /// Whatever is offered by whomever whenever: prices rise by at least the increment, places
        /// are counted without a gap, the seller never leads, nothing counts out of time, and each change
        /// raises the version by one.
        #[test]
        fn accepted_bids_keep_the_invariants(
            offers in prop::collection::vec((1_u128..6, -50_i64..5_000, 0_u64..130), 0..60),
            window in 0_u64..30,
        ) {
            let mut auction = Auction {
                window: Duration::from_secs(window),
                extension: Duration::from_secs(20),
                ..auction()
            };
            let mut accepted = Vec::new();
            for (bidder, minor, second) in offers {
                let (end_before, version_before) = (auction.ends_at, auction.version());
                let amount = Amount::from(usd(minor));
                let bidder_id = UserId(Uuid::from_u128(bidder));
                if let Ok(done) = auction.bid(new_id, bidder_id, (amount, None), at(second)) {
                    prop_assert!(at(second) >= auction.starts_at && at(second) < end_before);
                    prop_assert!(auction.ends_at >= end_before);
                    prop_assert_eq!(done.extended, auction.ends_at != end_before);
                    prop_assert_eq!(auction.version(), version_before + 1 + i64::from(done.extended));
                    prop_assert_eq!(done.answer, None);
                    accepted.push((done.placed.unwrap().seq, minor, bidder));
                }
            }
            for (place, (seq, minor, bidder)) in accepted.iter().enumerate() {
                prop_assert_eq!(*seq, i64::try_from(place).unwrap() + 1);
                prop_assert!(*bidder != 1);
                let least = if place == 0 { 100 } else { accepted[place - 1].1 + 50 };
                prop_assert!(*minor >= least);
            }
            prop_assert_eq!(auction.current_price().minor, accepted.last().map_or(100, |last| last.1));
            let version_before = auction.version();
            prop_assert_eq!(auction.close() == Outcome::Sold, !accepted.is_empty());
            prop_assert_eq!(auction.version(), version_before + 1);
        }
    }
}
