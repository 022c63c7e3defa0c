//! Whether the platform kept what it had promised, seen through its public API: every accepted bid is
//! listed once as it was answered, prices rise, and everybody's figures equal the recount.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use contracts::{
    BidId, Currency, UserId,
    auctions::{Bid, Item},
};

/// An accepted bid, as it was answered or as it is listed. Amounts are in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) id: BidId,
    pub(crate) bidder: UserId,
    pub(crate) minor: i64,
    pub(crate) seq: i64,
    /// Made by the platform on the leader's behalf: nobody asked for it.
    pub(crate) automatic: bool,
}

impl Kept {
    pub(crate) fn of(bid: &Bid, currency: Currency) -> anyhow::Result<Self> {
        let minor = bid.amount.in_currency(currency)?.minor;
        Ok(Self { id: bid.id, bidder: bid.bidder_id, minor, seq: bid.seq, automatic: bid.automatic })
    }

    pub(crate) fn all<'a>(
        bids: impl IntoIterator<Item = &'a Bid>,
        currency: Currency,
    ) -> anyhow::Result<Vec<Self>> {
        bids.into_iter().map(|bid| Self::of(bid, currency)).collect()
    }
}

/// What an item says of its bids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) price: i64,
    pub(crate) bids: i64,
    pub(crate) leader: Option<UserId>,
}

impl Shown {
    pub(crate) fn of(item: &Item) -> anyhow::Result<Self> {
        let price = item.current_price.in_currency(item.currency)?.minor;
        Ok(Self { price, bids: item.bid_count, leader: item.leader_id })
    }
}

/// How many bids of somebody were accepted, and their sum.
pub(crate) type Figures = BTreeMap<UserId, (i64, i64)>;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Accepted, and not listed.
    Lost(BidId),
    /// Listed more than once.
    Doubled(BidId),
    /// Listed otherwise than it was answered.
    Differs(BidId),
    /// Two requests were told that this is their bid.
    Shared(BidId),
    /// Listed, and nobody was told that it was accepted.
    Unasked(BidId),
    /// Its number is not its place in the list.
    Misplaced(BidId),
    /// Not higher than the one before. An automatic bid may be as high: of equal maxima the earlier leads.
    NotRising(BidId),
    /// The item does not say what its last bid says.
    Wrong { said: Shown, should: Shown },
    /// Somebody's figures do not equal the recount.
    Figures { user: UserId, said: (i64, i64), should: (i64, i64) },
    /// An answer that does not fit to its request.
    Misanswered(String),
    /// Nothing definite was heard of it in the end.
    Undecided(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(bid) => write!(f, "bid {bid} was accepted and is not listed"),
            Self::Doubled(bid) => write!(f, "bid {bid} is listed more than once"),
            Self::Differs(bid) => write!(f, "bid {bid} is listed otherwise than it was answered"),
            Self::Shared(bid) => write!(f, "bid {bid} was the answer to two requests"),
            Self::Unasked(bid) => write!(f, "bid {bid} is listed and nobody was told that it was accepted"),
            Self::Misplaced(bid) => write!(f, "bid {bid} has a number that is not its place in the list"),
            Self::NotRising(bid) => write!(f, "bid {bid} is not higher than the one before"),
            Self::Wrong { said, should } => write!(f, "an item says {said:?} instead of {should:?}"),
            Self::Figures { user, said, should } => {
                write!(f, "user {user} has bids and their sum {said:?} instead of {should:?}")
            }
            Self::Misanswered(what) => write!(f, "an answer does not fit to its request: {what}"),
            Self::Undecided(what) => write!(f, "a bid stayed undecided: {what}"),
        }
    }
}

/// Compares what an item shows and lists, the first bid first, with what was answered. `start` is its price
/// without a bid.
pub(crate) fn item(start: i64, shown: Shown, listed: &[Kept], answered: &[Kept]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut by_id: HashMap<BidId, &Kept> = HashMap::with_capacity(listed.len());
    let mut price = None;
    for (place, bid) in (1_i64..).zip(listed) {
        if by_id.insert(bid.id, bid).is_some() {
            faults.push(Fault::Doubled(bid.id));
        }
        if bid.seq != place {
            faults.push(Fault::Misplaced(bid.id));
        }
        if price.is_some_and(|price| bid.minor < price || bid.minor == price && !bid.automatic) {
            faults.push(Fault::NotRising(bid.id));
        }
        price = price.max(Some(bid.minor));
    }
    let mut told = HashSet::with_capacity(answered.len());
    for bid in answered {
        if !told.insert(bid.id) {
            faults.push(Fault::Shared(bid.id));
        }
        match by_id.get(&bid.id) {
            None => faults.push(Fault::Lost(bid.id)),
            Some(listed) if *listed != bid => faults.push(Fault::Differs(bid.id)),
            Some(_) => {}
        }
    }
    let unasked = listed.iter().filter(|bid| !bid.automatic && !told.contains(&bid.id));
    faults.extend(unasked.map(|bid| Fault::Unasked(bid.id)));
    let should = Shown {
        price: price.unwrap_or(start),
        bids: i64::try_from(listed.len()).unwrap_or(i64::MAX),
        leader: listed.last().map(|bid| bid.bidder),
    };
    if shown != should {
        faults.push(Fault::Wrong { said: shown, should });
    }
    faults
}

/// Everybody's figures, recounted.
pub(crate) fn recount<'a>(bids: impl Iterator<Item = &'a Kept>) -> Figures {
    let mut figures = Figures::new();
    for bid in bids {
        let (count, sum) = figures.entry(bid.bidder).or_default();
        *count += 1;
        *sum += bid.minor;
    }
    figures
}

/// Compares what everybody's figures say with the recount.
pub(crate) fn figures(said: &Figures, recounted: &Figures) -> Vec<Fault> {
    let users: std::collections::BTreeSet<UserId> = said.keys().chain(recounted.keys()).copied().collect();
    let of = |figures: &Figures, user| figures.get(&user).copied().unwrap_or_default();
    let compared = users.into_iter().map(|user| (user, of(said, user), of(recounted, user)));
    compared
        .filter(|(_, said, should)| said != should)
        .map(|(user, said, should)| Fault::Figures { user, said, should })
        .collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const START: i64 = 50;

    /// The second bid is Bob's, the others are Ann's.
    fn bid(number: u8) -> Kept {
        let bidder = UserId(Uuid::from_u128(if number == 2 { 8 } else { 7 }));
        let number = i64::from(number);
        Kept {
            id: BidId(Uuid::from_u128(u128::from(number.unsigned_abs()))),
            bidder,
            minor: 100 + number,
            seq: number,
            automatic: false,
        }
    }

    fn bids() -> Vec<Kept> {
        vec![bid(1), bid(2), bid(3)]
    }

    fn shown() -> Shown {
        Shown { price: 103, bids: 3, leader: Some(bid(3).bidder) }
    }

    #[test]
    fn what_is_right_is_right_in_whatever_order_it_was_answered() {
        let answered = [bid(3), bid(1), bid(2)];

        assert_eq!(item(START, shown(), &bids(), &answered), []);
        assert_eq!(item(START, Shown { price: START, bids: 0, leader: None }, &[], &[]), []);
    }

    #[test]
    fn a_lost_bid_is_found() {
        let (listed, said) = ([bid(1), bid(2)], Shown { price: 102, bids: 2, leader: Some(bid(2).bidder) });

        assert_eq!(item(START, said, &listed, &bids()), [Fault::Lost(bid(3).id)]);
    }

    #[test]
    fn a_bid_lost_in_the_middle_is_found_twice() {
        let faults = item(START, shown(), &[bid(1), bid(3)], &bids());

        assert!(faults.contains(&Fault::Lost(bid(2).id)), "{faults:?}");
        assert!(faults.contains(&Fault::Misplaced(bid(3).id)), "{faults:?}");
    }

    #[test]
    fn a_doubled_bid_is_found() {
        let again = Kept { seq: 4, ..bid(3) };
        let said = Shown { bids: 4, ..shown() };
        let listed = [bid(1), bid(2), bid(3), again];

        let faults = item(START, said, &listed, &bids());

        assert!(faults.contains(&Fault::Doubled(bid(3).id)), "{faults:?}");
        assert!(faults.contains(&Fault::NotRising(bid(3).id)), "{faults:?}");
    }

    #[test]
    fn one_effect_for_two_requests_is_found() {
        assert_eq!(
            item(START, shown(), &bids(), &[bid(1), bid(2), bid(3), bid(3)]),
            [Fault::Shared(bid(3).id)]
        );
    }

    #[test]
    fn a_bid_that_was_refused_and_is_listed_is_found() {
        assert_eq!(item(START, shown(), &bids(), &[bid(1), bid(2)]), [Fault::Unasked(bid(3).id)]);
    }

    #[test]
    fn bids_in_the_wrong_order_are_found() {
        let swapped = [bid(2), bid(1), bid(3)];

        let faults = item(START, shown(), &swapped, &bids());

        assert!(faults.contains(&Fault::NotRising(bid(1).id)), "{faults:?}");
        assert!(faults.contains(&Fault::Misplaced(bid(2).id)), "{faults:?}");
    }

    #[test]
    fn an_automatic_answer_needs_no_request_and_may_be_as_high_as_what_it_answers() {
        let equal = Kept { automatic: true, minor: bid(2).minor, ..bid(3) };
        let said = Shown { price: 102, ..shown() };
        let listed = |last: Kept| [bid(1), bid(2), last];

        assert_eq!(item(START, said, &listed(equal), &[bid(1), bid(2)]), []);
        let lower = Kept { minor: bid(1).minor, ..equal };
        assert_eq!(item(START, said, &listed(lower), &[bid(1), bid(2)]), [Fault::NotRising(bid(3).id)]);
        let asked = Kept { automatic: false, ..equal };
        let faults = item(START, said, &listed(asked), &[bid(1), bid(2)]);
        assert_eq!(faults, [Fault::NotRising(bid(3).id), Fault::Unasked(bid(3).id)]);
    }

    #[test]
    fn a_bid_that_became_another_is_found() {
        for other in [
            Kept { minor: 999, ..bid(3) },
            Kept { bidder: bid(2).bidder, ..bid(3) },
            Kept { seq: 4, ..bid(3) },
        ] {
            let faults = item(START, shown(), &bids(), &[bid(1), bid(2), other]);

            assert_eq!(faults, [Fault::Differs(bid(3).id)]);
        }
    }

    #[test]
    fn an_item_that_says_something_else_is_found() {
        for said in
            [Shown { price: 102, ..shown() }, Shown { bids: 2, ..shown() }, Shown { leader: None, ..shown() }]
        {
            assert_eq!(item(START, said, &bids(), &bids()), [Fault::Wrong { said, should: shown() }]);
        }
    }

    #[test]
    fn figures_that_are_too_low_too_high_or_nobodys_are_found() {
        let right = recount(bids().iter());
        let (ann, bob) = (bid(1).bidder, bid(2).bidder);
        assert_eq!(right, Figures::from([(ann, (2, 204)), (bob, (1, 102))]));
        assert_eq!(figures(&right, &right), []);

        let said = Figures::from([(ann, (3, 307))]);

        let wrong = |user, said, should| Fault::Figures { user, said, should };
        assert_eq!(figures(&said, &right), [wrong(ann, (3, 307), (2, 204)), wrong(bob, (0, 0), (1, 102))]);
    }
}
