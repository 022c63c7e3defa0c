//! The rules of categories and products. Pure: no database, no clock, no bus.

use contracts::{Amount, Currency, Money, UserId};
use platform::{Caller, Kind, Refusal, Refused};

/// What a price becomes when `discount` percent are taken off: to the nearest minor unit, and half of one is rounded up. None
/// when nothing is left.
pub(crate) fn final_price(price: Money, discount: u8) -> Option<Money> {
    let left = i128::from(price.minor) * (100 - i128::from(discount.min(100)));
    let minor = i64::try_from((left + 50).div_euclid(100)).ok()?;
    (minor > 0).then_some(Money { minor, ..price })
}

/// A price as it was said, in its currency, when something is left of it after the discount.
pub(crate) fn price(amount: Amount, currency: Currency, discount: u8) -> Result<Money, Refused> {
    let price =
        amount.in_currency(currency).map_err(|error| Refused::invalid_member("price", error.to_string()))?;
    match final_price(price, discount) {
        Some(_) => Ok(price),
        None => Err(Refused::invalid_member("discount", "leaves nothing of the price")),
    }
}

/// Whoever made something may change it, and so may an administrator.
pub(crate) fn may_change(caller: Caller, owner: UserId) -> Result<(), GoodsRefused> {
    if caller.is_owner_or_admin(owner) { Ok(()) } else { Err(GoodsRefused::NotYours) }
}

/// A member that names a category which is not there.
pub(crate) fn unknown_category(member: &str) -> Refused {
    Refused::invalid_member(member, "there is no such category")
}

/// Why a category or a product is not made, changed or removed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GoodsRefused {
    /// No category of this id.
    #[error("there is no such category")]
    NoCategory,
    /// No product of this id or sku.
    #[error("there is no such product")]
    NoProduct,
    /// Neither its owner nor an administrator.
    #[error("only its owner or an administrator may do this")]
    NotYours,
    /// Names are unique.
    #[error("there is a category of this name")]
    NameTaken,
    /// So are the names that shops give.
    #[error("there is a product with this sku")]
    SkuTaken,
    /// A category within itself.
    #[error("a category cannot be a part of itself or of one of its parts")]
    Cycle,
    /// To be moved or removed first.
    #[error("the category has parts: move or delete these categories first")]
    HasParts,
    /// To be moved or removed first.
    #[error("the category has products: move or delete them first")]
    HasProducts,
    /// They stay, also those that are sold.
    #[error("the category has items")]
    HasItems,
}

impl Refusal for GoodsRefused {
    fn kind(&self) -> Kind {
        match self {
            Self::NoCategory | Self::NoProduct => Kind::NotFound,
            Self::NotYours => Kind::Forbidden,
            Self::NameTaken
            | Self::SkuTaken
            | Self::Cycle
            | Self::HasParts
            | Self::HasProducts
            | Self::HasItems => Kind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NoCategory | Self::NoProduct => "NOT_FOUND",
            Self::NotYours => "FORBIDDEN",
            Self::NameTaken | Self::SkuTaken => "ALREADY_EXISTS",
            Self::Cycle | Self::HasParts | Self::HasProducts | Self::HasItems => "CONFLICT",
        }
    }
}

#[cfg(test)]
mod tests {
    use platform::Role;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn dollars(minor: i64) -> Money {
        Money::new(minor, Currency::USD)
    }

    #[test]
    fn a_discount_is_taken_off_and_half_a_minor_unit_is_rounded_up() {
        for (price, discount, left) in [
            (100_000, 10, 90_000),
            (99_999, 0, 99_999),
            (99_999, 10, 89_999), // 89,999.1
            (1_005, 10, 905),     // 904.5
            (1_001, 50, 501),     // 500.5
            (333, 33, 223),       // 223.11
            (1, 50, 1),           // 0.5
            (2, 70, 1),           // 0.6
            (i64::MAX, 0, i64::MAX),
            (i64::MAX, 70, 2_767_011_611_056_432_742), // .1
        ] {
            assert_eq!(final_price(dollars(price), discount), Some(dollars(left)), "{price} - {discount} %");
        }
        assert_eq!(final_price(dollars(1), 51), None);
    }

    #[test]
    fn a_price_is_one_of_its_currency_of_which_something_is_left() {
        let price = |amount: &str, currency: &str, discount| {
            let price = price(amount.parse().unwrap(), currency.parse().unwrap(), discount);
            price.map(|price| price.minor).map_err(|refused| refused.details.unwrap())
        };

        assert_eq!(price("999.99", "USD", 70), Ok(99_999));
        assert_eq!(price("0.01", "USD", 50), Ok(1));
        assert_eq!(price("0.01", "USD", 51).unwrap_err(), "discount: leaves nothing of the price");
        assert!(price("1.5", "JPY", 0).unwrap_err().starts_with("price: the amount has more decimals"));
    }

    #[test]
    fn its_owner_and_administrators_may_change_it() {
        let (ann, bob) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let who = |id, role| Caller { id, role, session: None };

        assert_eq!(may_change(who(ann, Role::User), ann), Ok(()));
        assert_eq!(may_change(who(bob, Role::Admin), ann), Ok(()));
        assert_eq!(may_change(who(bob, Role::User), ann), Err(GoodsRefused::NotYours));
    }

    proptest! {
        /// Never further from the exact price than half a minor unit, and never above the price.
        #[test]
        fn a_final_price_is_the_nearest_one(minor in 1..=i64::MAX, discount in 0..=70_u8) {
            let exact = i128::from(minor) * i128::from(100 - discount);
            match final_price(dollars(minor), discount) {
                Some(left) => {
                    let error = i128::from(left.minor) * 100 - exact;
                    prop_assert!(error > -50 && error <= 50, "{error}");
                    prop_assert!(left.minor <= minor);
                }
                None => prop_assert!(exact < 50),
            }
        }
    }
}
