//! Who offers how much on what.

use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// The first offer on an item, in cents: its start price.
pub(crate) const FIRST: i64 = 100;

/// Offers on items chosen at random; those on one item rise cent by cent, so that what is refused was
/// overtaken on its way. The same choice each time, so that measurements can be compared.
#[derive(Debug)]
pub(crate) struct Offers {
    next: Vec<i64>,
    random: SmallRng,
}

impl Offers {
    pub(crate) fn on(items: usize) -> Self {
        Self { next: vec![FIRST; items], random: SmallRng::seed_from_u64(1) }
    }

    /// The place of an item, and how much is offered.
    pub(crate) fn next(&mut self) -> (usize, i64) {
        let item = self.random.random_range(0..self.next.len());
        let amount = self.next[item];
        self.next[item] += 1;
        (item, amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_on_an_item_rise_and_every_item_gets_some() {
        let (mut offers, mut last) = (Offers::on(10), [FIRST - 1; 10]);
        for _ in 0..1_000 {
            let (item, amount) = offers.next();
            assert_eq!(amount, last[item] + 1);
            last[item] = amount;
        }
        assert!(last.iter().all(|last| *last > FIRST + 50), "{last:?}");
    }
}
