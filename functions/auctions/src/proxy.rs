//! Who leads at which price, when bidders may say how far they go. Pure.
//!
//! Source: `auction-rules` 4.3. There is one kind of bid: an amount that is offered openly, and a maximum up to which
//! the platform goes on. A plain bid is one whose maximum is its amount, so both meet on every item.
//!
//! Why an offer can make two bids: the leader's answer is a bid of its own, of which everybody is told like of any
//! other. So each accepted bid leads when it is made, the price is that of the newest, and whoever counts
//! bids or follows the price needs to know nothing of maxima.

use contracts::{Money, UserId};

use crate::{auction::Leading, increments::Increments};

/// What the item says of prices.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The lowest first bid.
    pub start: Money,
    /// Below this it is not sold.
    pub reserve: Option<Money>,
    /// How the price climbs.
    pub increments: Increments,
}

/// What somebody offers, in the item's currency.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// By whom.
    pub bidder: UserId,
    /// What is offered openly.
    pub amount: Money,
    /// How far the platform may go on; never below the amount.
    pub maximum: Option<Money>,
}

/// What an offer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Its bidder leads.
    Leads {
        /// The new price.
        price: Money,
        /// How far the bidder goes, from now on in secret.
        maximum: Money,
    },
    /// The leader goes further than before. The price stays, and nobody else sees a change.
    Raises {
        /// How far now.
        maximum: Money,
    },
    /// The leader goes at least as far as the offer, and had it first.
    Outbid {
        /// The offer, as far as it went.
        amount: Money,
        /// The leader's answer: the new price.
        answer: Money,
    },
}

/// Why an offer does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEffect {
    /// It does not reach the lowest acceptable bid.
    TooLow,
    /// Who leads already said as much.
    NotFurther,
}

impl Terms {
    /// The lowest offer that does something, by whoever does not lead.
    pub fn minimum(&self, leading: Option<&Leading>) -> Money {
        leading.map_or(self.start, |leading| self.increments.above(leading.price))
    }

    /// What an offer does to an item on which `leading` is the highest bid.
    pub fn decide(&self, leading: Option<&Leading>, offer: Offer) -> Result<Effect, NoEffect> {
        let maximum = offer.maximum.unwrap_or(offer.amount);
        let own = leading.filter(|leading| leading.bidder == offer.bidder);
        if let (Some(leading), Some(maximum)) = (own, offer.maximum) {
            return self.raise(leading, maximum);
        }
        // The second is for a price above which nothing can be counted.
        if maximum.minor < self.minimum(leading).minor
            || leading.is_some_and(|leading| maximum.minor <= leading.price.minor)
        {
            return Err(NoEffect::TooLow);
        }
        // The first to reach the reserve reaches it at once: nobody else can sell below it.
        let floor =
            highest(offer.amount, self.reserve.map_or(self.start, |reserve| lowest(maximum, reserve)));
        let floor = highest(floor, self.start);
        let Some(leading) = leading else {
            return Ok(Effect::Leads { price: floor, maximum });
        };
        if own.is_some() {
            // An open bid above the own one: it is not answered, and takes back no maximum.
            return Ok(Effect::Leads { price: offer.amount, maximum: highest(maximum, leading.maximum) });
        }
        if maximum.minor > leading.maximum.minor {
            let price = highest(floor, lowest(maximum, self.increments.above(leading.maximum)));
            return Ok(Effect::Leads { price, maximum });
        }
        let answer = lowest(leading.maximum, self.increments.above(maximum));
        Ok(Effect::Outbid { amount: maximum, answer })
    }

    /// Who leads names a new maximum. The amount has no say: nobody outbids themselves.
    fn raise(&self, leading: &Leading, maximum: Money) -> Result<Effect, NoEffect> {
        if maximum.minor <= leading.maximum.minor {
            return Err(NoEffect::NotFurther);
        }
        let price = self.reserve.map_or(leading.price, |reserve| lowest(maximum, reserve));
        if price.minor > leading.price.minor {
            return Ok(Effect::Leads { price, maximum });
        }
        Ok(Effect::Raises { maximum })
    }
}

fn highest(one: Money, other: Money) -> Money {
    if other.minor > one.minor { other } else { one }
}

fn lowest(one: Money, other: Money) -> Money {
    if other.minor < one.minor { other } else { one }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::{Amount, BidId, Currency, ItemId, Timestamp, auctions::IncrementPolicy};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::auction::{Accepted, Auction, BidRefused, Placed};

    const ANN: u128 = 2;
    const BOB: u128 = 3;
    const CID: u128 = 4;

    fn usd(minor: i64) -> Money {
        Money::new(minor, Currency::USD)
    }

    fn now() -> Timestamp {
        Timestamp::parse("2026-11-21T00:00:00Z").unwrap()
    }

    fn auction(start: i64, reserve: Option<i64>, policy: IncrementPolicy, flat: i64) -> Auction {
        Auction {
            id: ItemId(Uuid::from_u128(9)),
            seller: UserId(Uuid::from_u128(1)),
            currency: Currency::USD,
            start_price: usd(start),
            increments: Increments { policy, flat: usd(flat) },
            reserve: reserve.map(usd),
            buy_now: None,
            window: Duration::from_secs(60),
            extension: Duration::from_secs(60),
            outcome: None,
            starts_at: now(),
            ends_at: now() + Duration::from_secs(30),
            planned_end: now() + Duration::from_secs(30),
            leading: None,
            bid_count: 0,
            revision: 1,
        }
    }

    fn offer(
        auction: &mut Auction,
        by: u128,
        amount: i64,
        maximum: Option<i64>,
    ) -> Result<Accepted, BidRefused> {
        let amounts = (Amount::from(usd(amount)), maximum.map(|maximum| Amount::from(usd(maximum))));
        auction.bid(BidId::new, UserId(Uuid::from_u128(by)), amounts, now())
    }

    /// The bids that an offer made: whose, and at which price.
    fn made(accepted: Accepted) -> Vec<(u128, i64)> {
        let bids = [accepted.placed, accepted.answer].into_iter().flatten();
        bids.map(|placed| (placed.bidder.0.as_u128(), placed.price.minor)).collect()
    }

    /// As dollars of the known oracle: a reserve of 2000, steps of 50.
    fn oracle() -> Auction {
        auction(100, Some(2000), IncrementPolicy::Flat, 50)
    }

    /// An oracle in which Ann goes to 3000, and Bob's 2500 made her pay 2550.
    fn outbid_once() -> Auction {
        let mut auction = oracle();
        assert_eq!(made(offer(&mut auction, ANN, 100, Some(2500)).unwrap()), [(ANN, 2000)]);
        assert_eq!(made(offer(&mut auction, ANN, 100, Some(3000)).unwrap()), [], "only further than before");
        assert_eq!((auction.current_price(), auction.version()), (usd(2000), 3));
        let outbid = offer(&mut auction, BOB, 2050, Some(2500)).unwrap();
        assert_eq!(made(outbid), [(BOB, 2500), (ANN, 2550)]);
        auction
    }

    #[test]
    fn the_known_oracle_holds() {
        for (by, maximum, expected) in [
            // An equal maximum leaves the earlier bidder in the lead.
            (BOB, 3000, vec![(BOB, 3000), (ANN, 3000)]),
            (BOB, 4000, vec![(BOB, 3050)]),
            (BOB, 3020, vec![(BOB, 3020)]),
            // The lowest that is taken.
            (BOB, 2600, vec![(BOB, 2600), (ANN, 2650)]),
        ] {
            let mut auction = outbid_once();
            assert_eq!(made(offer(&mut auction, by, 2600, Some(maximum)).unwrap()), expected, "{maximum}");
            assert_eq!(auction.current_price().minor, expected.last().unwrap().1);
            assert_eq!(auction.leading.unwrap().bidder.0.as_u128(), expected.last().unwrap().0);
        }
        let minimum = usd(2600);
        let mut auction = outbid_once();
        let before = auction.clone();
        assert_eq!(offer(&mut auction, BOB, 2570, Some(2570)), Err(BidRefused::TooLow { minimum }));
        for lower in [2540, 2999, 3000] {
            let refused = offer(&mut auction, ANN, 100, Some(lower));
            assert_eq!(refused, Err(BidRefused::NotFurther { minimum }), "{lower}");
        }
        assert_eq!(auction, before);
        assert_eq!(platform::Refusal::code(&BidRefused::NotFurther { minimum }), "BID_TOO_LOW");
    }

    #[test]
    fn plain_bids_and_maxima_meet_on_one_item() {
        let mut auction = auction(1000, None, IncrementPolicy::Flat, 50);
        for (by, amount, maximum, expected) in [
            (ANN, 1200, None, Ok(vec![(ANN, 1200)])),
            // A maximum begins no lower than what is offered openly.
            (BOB, 1400, Some(3000), Ok(vec![(BOB, 1400)])),
            // A plain bid below the maximum is taken, and answered.
            (ANN, 1500, None, Ok(vec![(ANN, 1500), (BOB, 1550)])),
            (ANN, 1599, None, Err(1600)),
            // The leader raises openly: the maximum stays, and answers for as far as it goes.
            (BOB, 2000, None, Ok(vec![(BOB, 2000)])),
            (BOB, 2049, None, Err(2050)),
            (CID, 2980, None, Ok(vec![(CID, 2980), (BOB, 3000)])),
            (CID, 3050, None, Ok(vec![(CID, 3050)])),
            (ANN, 3100, Some(5000), Ok(vec![(ANN, 3100)])),
        ] {
            let done = offer(&mut auction, by, amount, maximum);
            let expected = expected.map_err(|minimum| BidRefused::TooLow { minimum: usd(minimum) });
            assert_eq!(done.map(made), expected, "{by} {amount} {maximum:?}");
        }
    }

    #[test]
    fn whoever_goes_as_far_as_the_reserve_reaches_it_at_once() {
        let mut auction = oracle();
        assert_eq!(
            made(offer(&mut auction, ANN, 100, Some(1000)).unwrap()),
            [(ANN, 1000)],
            "the whole of it"
        );
        assert_eq!(made(offer(&mut auction, BOB, 100, Some(1900)).unwrap()), [(BOB, 1900)]);
        assert!(!auction.reserve_met());
        assert_eq!(
            made(offer(&mut auction, BOB, 100, Some(2300)).unwrap()),
            [(BOB, 2000)],
            "by going further"
        );
        assert!(auction.reserve_met());

        let mut auction = oracle();
        assert_eq!(made(offer(&mut auction, ANN, 500, None).unwrap()), [(ANN, 500)]);
        assert_eq!(made(offer(&mut auction, BOB, 550, Some(2500)).unwrap()), [(BOB, 2000)]);
    }

    #[test]
    fn steps_of_a_table_are_those_of_the_maximum_that_is_topped() {
        let mut auction = auction(100, None, IncrementPolicy::Ebay, 1);
        offer(&mut auction, ANN, 100, Some(9_990)).unwrap();
        // Above 99.90 the step is 1.00, above 100.00 it is 2.50.
        assert_eq!(made(offer(&mut auction, BOB, 500, Some(20_000)).unwrap()), [(BOB, 10_090)]);
        assert_eq!(auction.minimum_bid(), usd(10_340));
        assert_eq!(
            made(offer(&mut auction, CID, 10_340, Some(15_000)).unwrap()),
            [(CID, 15_000), (BOB, 15_250)]
        );
    }

    #[test]
    fn only_what_others_see_moves_the_end() {
        let mut auction = auction(100, None, IncrementPolicy::Flat, 1);
        let end = auction.ends_at;
        assert!(offer(&mut auction, ANN, 100, Some(200)).unwrap().extended);
        assert!(auction.ends_at > end);
        let before = auction.clone();
        auction.ends_at = end;
        let raised = offer(&mut auction, ANN, 100, Some(300)).unwrap();
        assert_eq!((raised.placed, raised.answer, raised.extended), (None, None, false));
        assert_eq!((auction.ends_at, auction.version()), (end, before.version()));
        // The bid, the answer and the end that moved: a version each.
        let outbid = offer(&mut auction, BOB, 150, None).unwrap();
        let versions = [outbid.placed, outbid.answer].map(|bid: Option<Placed>| bid.unwrap().version);
        assert_eq!((versions, auction.version(), outbid.extended), ([4, 5], 6, true));
    }

    /// Knows every offer that was ever taken and nothing else, and finds prices by trying one after the other.
    #[derive(Default)]
    struct Naive {
        taken: Vec<(u128, i64)>,
        price: Option<i64>,
    }

    impl Naive {
        /// Who goes furthest; of equals, who came first.
        fn leader(&self) -> Option<(u128, i64)> {
            let furthest = self.taken.iter().map(|(_, maximum)| *maximum).max()?;
            self.taken.iter().copied().find(|(_, maximum)| *maximum == furthest)
        }

        fn offer(&mut self, terms: &Terms, by: u128, amount: i64, maximum: Option<i64>) -> bool {
            let above = |price: i64| terms.increments.above(usd(price)).minor;
            let goes = maximum.unwrap_or(amount);
            let before = self.leader();
            let leads = before.is_some_and(|(leader, _)| leader == by);
            let least = if leads && maximum.is_some() {
                before.unwrap().1 + 1
            } else {
                self.price.map_or(terms.start.minor, above)
            };
            if goes < least {
                return false;
            }
            self.taken.push((by, goes));
            let (leader, furthest) = self.leader().unwrap();
            let rival = self.taken.iter().filter(|(who, _)| *who != leader).map(|(_, goes)| *goes).max();
            let open = if leads && maximum.is_some() || leader != by { 0 } else { amount };
            let price = (self.price.unwrap_or(terms.start.minor)..=furthest).find(|price| {
                let sells = terms.reserve.is_none_or(|reserve| *price >= reserve.minor.min(furthest));
                let topped = leads || rival.is_none_or(|rival| *price >= above(rival).min(furthest));
                *price >= open && sells && topped
            });
            self.price = Some(price.unwrap());
            true
        }
    }

    proptest! {
        /// Whatever is offered by whomever, plainly or with a maximum: the naive model takes the same offers, and has
        /// the same leader at the same price. What is told of it rises, and each bid and version has its own number.
        #[test]
        fn a_naive_model_says_the_same(
            offers in prop::collection::vec((2_u128..6, 1_i64..400, prop::option::of(0_i64..300)), 0..60),
            start in 1_i64..100,
            reserve in prop::option::of(1_i64..300),
            policy in prop::sample::select(vec![IncrementPolicy::Flat, IncrementPolicy::TradeMe, IncrementPolicy::Ebay]),
            flat in 1_i64..40,
        ) {
            let mut auction = Auction {
                window: Duration::ZERO,
                ..auction(start, reserve.map(|above| start + above), policy, flat)
            };
            let terms = Terms {
                start: auction.start_price,
                reserve: auction.reserve,
                increments: auction.increments,
            };
            let mut naive = Naive::default();
            let mut last = 0;
            for (by, amount, further) in offers {
                let maximum = further.map(|further| amount + further);
                let (count, version) = (auction.bid_count, auction.version());
                let done = offer(&mut auction, by, amount, maximum);
                prop_assert_eq!(done.is_ok(), naive.offer(&terms, by, amount, maximum), "{} {} {:?}", by, amount, maximum);
                let bids = done.map(|done| [done.placed, done.answer]).unwrap_or_default();
                let mut made = 0;
                for (automatic, bid) in [false, true].into_iter().zip(bids) {
                    let Some(bid) = bid else { continue };
                    made += 1;
                    prop_assert_eq!((bid.seq, bid.version), (count + made, version + made));
                    prop_assert!(bid.price.minor > last || (automatic && bid.price.minor == last));
                    last = bid.price.minor;
                }
                prop_assert_eq!(auction.bid_count, count + made);
                prop_assert_eq!(auction.current_price().minor, naive.price.unwrap_or(start));
                let leading = auction.leading.map(|leading| (leading.bidder.0.as_u128(), leading.maximum.minor));
                prop_assert_eq!(leading, naive.leader());
            }
        }
    }
}
