//! What a seller says of an item: prices, times and words, and how they may change. Pure: no database, no clock, no bus.

use std::time::Duration;

use contracts::{
    Amount, Currency, Money, Timestamp,
    auctions::{CreateItem, IncrementPolicy, UpdateItem},
};
use platform::Refused;

use crate::increments::Increments;

/// What is said of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// What it is.
    pub name: String,
    /// More about it.
    pub description: String,
    /// A category of the catalogue.
    pub category_id: Option<i64>,
    /// Pictures.
    pub image_urls: Vec<String>,
    /// Of all prices.
    pub currency: Currency,
    /// The lowest first bid.
    pub start: Money,
    /// How the price climbs.
    pub increments: Increments,
    /// Below this it is not sold.
    pub reserve: Option<Money>,
    /// For this it is sold at once.
    pub buy_now: Option<Money>,
    /// A bid this close to the end moves the end, in seconds; 0 for never.
    pub window: u32,
    /// How long after such a bid the end comes, in seconds.
    pub extension: u32,
    /// When bidding begins.
    pub starts_at: Timestamp,
    /// When the hammer falls.
    pub ends_at: Timestamp,
}

impl Listing {
    /// A new item. `window` is for sellers who do not say.
    pub fn of(new: CreateItem, window: u32, now: Timestamp) -> Result<Self, Refused> {
        let currency = new.currency;
        let optional = |name: &str, amount: Option<Amount>| {
            amount.map(|amount| read(name, amount, currency)).transpose()
        };
        let window = new.extension_window_seconds.unwrap_or(window);
        let start = read("start_price", new.start_price, currency)?;
        let flat = optional("bid_increment", new.bid_increment)?.unwrap_or(currency.minor_unit());
        let listing = Self {
            name: new.name,
            description: new.description,
            category_id: new.category_id,
            image_urls: new.image_urls,
            currency,
            start,
            increments: Increments { policy: new.increment_policy, flat },
            reserve: optional("reserve_price", new.reserve_price)?,
            buy_now: optional("buy_now_price", new.buy_now_price)?,
            window,
            extension: new.extension_seconds.unwrap_or(window),
            starts_at: new.starts_at.unwrap_or(now),
            ends_at: new.ends_at,
        };
        listing.check_prices()?;
        if new.bid_increment.is_some() && new.increment_policy != IncrementPolicy::Flat {
            return Err(step_of_a_table());
        }
        listing.check_times(now)?;
        Ok(listing)
    }

    /// As it would be with other words. `step` is what is shown as its increment: saying it again changes nothing.
    pub fn edited(&self, update: UpdateItem, step: Money) -> Result<Self, Refused> {
        let currency = update.currency.unwrap_or(self.currency);
        // In another currency prices keep their figures.
        let price = |name: &str, said: Option<Amount>, before: Money| {
            read(name, said.unwrap_or(before.into()), currency)
        };
        let optional = |name: &str, said: Option<Option<Amount>>, before: Option<Money>| {
            said.unwrap_or(before.map(Amount::from)).map(|amount| read(name, amount, currency)).transpose()
        };
        let policy = update.increment_policy.unwrap_or(self.increments.policy);
        let other_step = update.bid_increment.filter(|said| said.in_currency(self.currency) != Ok(step));
        if other_step.is_some() && policy != IncrementPolicy::Flat {
            return Err(step_of_a_table());
        }
        let flat = price("bid_increment", other_step, self.increments.flat)?;
        Ok(Self {
            name: update.name.unwrap_or_else(|| self.name.clone()),
            description: update.description.unwrap_or_else(|| self.description.clone()),
            category_id: update.category_id.unwrap_or(self.category_id),
            image_urls: update.image_urls.unwrap_or_else(|| self.image_urls.clone()),
            currency,
            start: price("start_price", update.start_price, self.start)?,
            increments: Increments { policy, flat },
            reserve: optional("reserve_price", update.reserve_price, self.reserve)?,
            buy_now: optional("buy_now_price", update.buy_now_price, self.buy_now)?,
            window: update.extension_window_seconds.unwrap_or(self.window),
            extension: update.extension_seconds.unwrap_or(self.extension),
            starts_at: update.starts_at.unwrap_or(self.starts_at),
            ends_at: update.ends_at.unwrap_or(self.ends_at),
        })
    }

    /// Whether `after` takes nothing back of what people have bid on: the description goes on behind what it said, and
    /// pictures may be others.
    pub fn keeps_its_word(&self, after: &Self) -> bool {
        let frozen = Self {
            description: self.description.clone(),
            image_urls: self.image_urls.clone(),
            ..after.clone()
        };
        *self == frozen && after.description.starts_with(&self.description)
    }

    /// Refuses what may not follow on this, even before the first bid.
    pub fn check_change(&self, after: &Self, now: Timestamp) -> Result<(), Refused> {
        after.check_prices()?;
        if after.extension == 0 && after.window > 0 {
            return Err(Refused::invalid_member(
                "extension_seconds",
                "must be at least 1 when a bid may move the end",
            ));
        }
        if self.starts_at != after.starts_at {
            if self.starts_at <= now {
                return Err(Refused::invalid_member(
                    "starts_at",
                    "cannot be moved any more, bidding has begun",
                ));
            }
            // What was refused as too early stays refused.
            if after.starts_at < now {
                return Err(Refused::invalid_member("starts_at", "must not be in the past"));
            }
        }
        after.check_times(now)
    }

    fn check_prices(&self) -> Result<(), Refused> {
        for (name, price) in [("reserve_price", self.reserve), ("buy_now_price", self.buy_now)] {
            if price.is_some_and(|price| price.minor < self.start.minor) {
                return Err(Refused::invalid_member(name, "must not be below start_price"));
            }
        }
        let reserve = self.reserve.map(|price| price.minor);
        if self.buy_now.is_some_and(|price| Some(price.minor) < reserve) {
            return Err(Refused::invalid_member("buy_now_price", "must not be below reserve_price"));
        }
        Ok(())
    }

    /// Refuses an end that is not after the start and the present.
    pub fn check_times(&self, now: Timestamp) -> Result<(), Refused> {
        if self.ends_at <= now {
            return Err(Refused::invalid_member("ends_at", "must be in the future"));
        }
        if self.ends_at <= self.starts_at {
            return Err(Refused::invalid_member("ends_at", "must be after starts_at"));
        }
        Ok(())
    }

    /// The same at another time, by default as long as `length` and from now on.
    pub fn again(
        self,
        starts_at: Option<Timestamp>,
        ends_at: Option<Timestamp>,
        length: Duration,
        now: Timestamp,
    ) -> Result<Self, Refused> {
        let starts_at = starts_at.unwrap_or(now);
        let listing = Self { starts_at, ends_at: ends_at.unwrap_or(starts_at.max(now) + length), ..self };
        listing.check_times(now)?;
        Ok(listing)
    }
}

fn read(name: &str, amount: Amount, currency: Currency) -> Result<Money, Refused> {
    amount.in_currency(currency).map_err(|error| Refused::invalid_member(name, error.to_string()))
}

fn step_of_a_table() -> Refused {
    Refused::invalid_member("bid_increment", "must be left to the increment_policy unless that is flat")
}
