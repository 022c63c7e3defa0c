//! By how much a bid must top the one before: always the same, or by the table of a house.
//!
//! Source: `auction-rules` 4.1. The tables are in major units of whatever currency the item has; a step is at least
//! one minor unit.

use contracts::{Currency, Money, auctions::IncrementPolicy};

/// How the price of an item climbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Increments {
    /// Where the step comes from.
    pub policy: IncrementPolicy,
    /// The step at every price, when it does not come from a table.
    pub flat: Money,
}

/// A table: up to which price, in hundredths, which step. Steps grow with the price, which the rules of
/// maxima rely on.
struct Table {
    rows: &'static [(i64, i64)],
    /// Above the last row.
    last: i64,
    /// Whether a row's step is still that of its bound itself.
    inclusive: bool,
}

const TRADE_ME: Table = Table {
    rows: &[(2_000, 50), (20_000, 100), (100_000, 500), (500_000, 1_000), (2_500_000, 5_000)],
    last: 10_000,
    inclusive: true,
};
const EBAY: Table = Table {
    rows: &[
        (100, 5),
        (500, 25),
        (2_500, 50),
        (10_000, 100),
        (25_000, 250),
        (50_000, 500),
        (100_000, 1_000),
        (250_000, 2_500),
        (500_000, 5_000),
    ],
    last: 10_000,
    inclusive: false,
};

impl Increments {
    /// The step above a price.
    pub fn at(self, price: Money) -> Money {
        match self.policy {
            IncrementPolicy::Flat => self.flat,
            IncrementPolicy::TradeMe => TRADE_ME.at(price),
            IncrementPolicy::Ebay => EBAY.at(price),
        }
    }

    /// The lowest price that tops another; the highest that can be counted when there is none above it.
    pub fn above(self, price: Money) -> Money {
        price.plus(self.at(price)).unwrap_or(Money::new(i64::MAX, price.currency))
    }
}

impl Table {
    fn at(&self, price: Money) -> Money {
        let row = self.rows.iter().find(|(bound, _)| {
            let bound = minor(*bound, price.currency);
            price.minor < bound || (self.inclusive && price.minor == bound)
        });
        let step = row.map_or(self.last, |(_, step)| *step);
        Money::new(minor(step, price.currency).max(1), price.currency)
    }
}

/// Hundredths of a major unit in minor units.
fn minor(hundredths: i64, currency: Currency) -> i64 {
    hundredths * 10_i64.pow(currency.exponent()) / 100
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn next(policy: IncrementPolicy, currency: &str, price: &str) -> String {
        let currency: Currency = currency.parse().unwrap();
        let price = price.parse::<contracts::Amount>().unwrap().in_currency(currency).unwrap();
        Increments { policy, flat: currency.minor_unit() }.above(price).to_string()
    }

    #[test]
    fn each_row_of_the_tables_begins_and_ends_where_the_house_says() {
        for (price, trade_me, ebay) in [
            ("0.01", "0.51", "0.06"),
            ("0.99", "1.49", "1.04"),
            ("1.00", "1.50", "1.25"),
            ("4.99", "5.49", "5.24"),
            ("5.00", "5.50", "5.50"),
            ("20.00", "20.50", "20.50"),
            ("20.01", "21.01", "20.51"),
            ("24.99", "25.99", "25.49"),
            ("25.00", "26.00", "26.00"),
            ("99.99", "100.99", "100.99"),
            ("100.00", "101.00", "102.50"),
            ("200.00", "201.00", "202.50"),
            ("200.01", "205.01", "202.51"),
            ("250.00", "255.00", "255.00"),
            ("500.00", "505.00", "510.00"),
            ("1000.00", "1005.00", "1025.00"),
            ("1000.01", "1010.01", "1025.01"),
            ("2499.99", "2509.99", "2524.99"),
            ("2500.00", "2510.00", "2550.00"),
            ("5000.00", "5010.00", "5100.00"),
            ("5000.01", "5050.01", "5100.01"),
            ("25000.00", "25050.00", "25100.00"),
            ("25000.01", "25100.01", "25100.01"),
        ] {
            assert_eq!(next(IncrementPolicy::TradeMe, "USD", price), trade_me, "trademe {price}");
            assert_eq!(next(IncrementPolicy::Ebay, "USD", price), ebay, "ebay {price}");
            let flat = price.parse::<contracts::Amount>().unwrap().in_currency(Currency::USD).unwrap();
            assert_eq!(
                next(IncrementPolicy::Flat, "USD", price),
                Money::new(flat.minor + 1, flat.currency).to_string()
            );
        }
    }

    #[test]
    fn tables_hold_in_currencies_with_other_minor_units() {
        for (currency, price, expected) in [
            ("JPY", "0", "1"),
            ("JPY", "3", "4"),
            ("JPY", "99", "100"),
            ("JPY", "150", "152"),
            ("KWD", "0.999", "1.049"),
            ("KWD", "100.000", "102.500"),
        ] {
            assert_eq!(next(IncrementPolicy::Ebay, currency, price), expected, "{currency} {price}");
        }
    }

    proptest! {
        /// What the rules of maxima rely on: who offers more needs no less to be topped.
        #[test]
        fn steps_are_above_zero_and_never_shrink(low in 0_i64..4_000_000, more in 0_i64..4_000_000) {
            for currency in ["USD", "JPY", "KWD"].map(|code| code.parse::<Currency>().unwrap()) {
                for policy in [IncrementPolicy::Flat, IncrementPolicy::TradeMe, IncrementPolicy::Ebay] {
                    let increments = Increments { policy, flat: Money::new(7, currency) };
                    let step = |minor| increments.at(Money::new(minor, currency)).minor;
                    prop_assert!(step(low) > 0);
                    prop_assert!(step(low) <= step(low + more));
                }
            }
        }
    }
}
