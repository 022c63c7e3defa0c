//! The market as its file describes it, and what people offer for its items. Pure.

use contracts::{Amount, Money, Timestamp, auctions::IncrementPolicy};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{MINUTE, Shelves, known};

static MARKET: &str = include_str!("market.json");

/// How many different people bid on one item at most.
const CIRCLE: usize = 6;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Market {
    pub(super) people: Vec<Person>,
    pub(super) categories: Vec<Shelf>,
    pub(super) products: Vec<Ware>,
    pub(super) items: Vec<Offer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Person {
    pub(super) username: String,
    pub(super) first_name: String,
    pub(super) last_name: String,
}

/// A category as the market describes it. Its id is good within the market: the platform gives it another one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shelf {
    pub(super) id: i64,
    /// Of one that stands before it.
    #[serde(default)]
    pub(super) parent_id: Option<i64>,
    pub(super) name: String,
    pub(super) description: String,
}

/// A product as the market describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ware {
    pub(super) owner: String,
    pub(super) sku: String,
    pub(super) name: String,
    description: String,
    price: String,
    discount: u8,
    store: String,
    category_id: i64,
    stock: i64,
}

/// An item as the market describes it, and what becomes of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Offer {
    pub(super) seller: String,
    pub(super) name: String,
    pub(super) description: String,
    category_id: i64,
    currency: String,
    start_price: Amount,
    #[serde(default)]
    reserve_price: Option<Amount>,
    #[serde(default)]
    buy_now_price: Option<Amount>,
    #[serde(default)]
    increment_policy: IncrementPolicy,
    #[serde(default)]
    soft_close_seconds: u32,
    /// As long as the soft close when missing.
    #[serde(default)]
    extension_seconds: Option<u32>,
    #[serde(default)]
    starts_in_minutes: f64,
    ends_in_minutes: f64,
    /// How many bids it gets.
    #[serde(default)]
    bids: usize,
    /// What the last of them offers.
    #[serde(default)]
    price: Option<Amount>,
    /// How far the first bidder lets the platform go.
    #[serde(default)]
    pub(super) maximum: Option<Amount>,
    /// Who takes it for its `buy_now_price`.
    #[serde(default)]
    pub(super) bought_by: Option<String>,
    /// Why its seller takes it back.
    #[serde(default)]
    pub(super) cancelled: Option<String>,
    /// What its seller says of it later, behind the description.
    #[serde(default)]
    pub(super) addition: Option<String>,
    /// That it is offered again when it was not sold.
    #[serde(default)]
    pub(super) again: Option<Again>,
    /// Who keeps it in their watchlists.
    #[serde(default)]
    pub(super) watchers: Vec<String>,
}

/// The second time that an item is offered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Again {
    ends_in_minutes: f64,
    #[serde(default)]
    bids: usize,
    #[serde(default)]
    price: Option<Amount>,
}

/// How many bids are made on an item, and what the last of them offers.
#[derive(Clone, Copy)]
pub(super) struct Course {
    pub(super) bids: usize,
    price: Option<Amount>,
}

impl Market {
    /// As it is written.
    pub(super) fn read() -> serde_json::Result<Self> {
        serde_json::from_str(MARKET)
    }
}

impl Course {
    /// What bid number `number`, from 0, offers on an item that starts at `start`: the price climbs to the last bid's
    /// in smaller and smaller steps, in round figures on the way, and never below `least`.
    pub(super) fn offer(&self, number: usize, start: Money, least: Money) -> Money {
        let price = self.price.and_then(|price| price.in_currency(start.currency).ok()).unwrap_or(start);
        let last = i128::try_from(self.bids).unwrap_or(i128::MAX) - 1;
        let number = i128::try_from(number).unwrap_or(i128::MAX).min(last);
        let minor = if number == last {
            price.minor
        } else {
            let climbed =
                i128::from(price.minor - start.minor) * number * (2 * last - number) / (last * last);
            round_down(start.minor + i64::try_from(climbed).unwrap_or_default())
        };
        Money::new(minor.max(least.minor), start.currency)
    }
}

/// To the half of the second digit: 87.31 is 87.00, 265.00 is 265.00, 31240 is 31000.
fn round_down(minor: i64) -> i64 {
    let step = 10_i64.pow(minor.max(1).ilog10().saturating_sub(1)) / 2;
    minor - minor % step.max(1)
}

impl Again {
    pub(super) fn course(&self) -> Course {
        Course { bids: self.bids, price: self.price }
    }

    pub(super) fn body(&self) -> Value {
        json!({ "ends_at": Timestamp::now() + MINUTE.mul_f64(self.ends_in_minutes) })
    }
}

impl Offer {
    pub(super) fn course(&self) -> Course {
        Course { bids: self.bids, price: self.price }
    }

    /// Its name as part of an address or a key.
    pub(super) fn slug(&self) -> String {
        self.name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
    }

    /// Whether it is over before the rest of the market is made: its end is waited for.
    pub(super) fn ends_meanwhile(&self) -> bool {
        self.ends_in_minutes < 1.0
    }

    /// Who makes bid number `number` while `leader` leads: a few of all people take turns, others on other items.
    pub(super) fn bidder<'a>(
        &self,
        people: &'a [Person],
        number: usize,
        leader: Option<&str>,
    ) -> Option<&'a str> {
        let names = people.iter().map(|person| person.username.as_str());
        let others: Vec<&str> = names.filter(|name| *name != self.seller).collect();
        let first: usize = self.name.bytes().map(usize::from).sum();
        let circle = (2 + first % (CIRCLE - 1)).min(others.len());
        // Nobody tops their own bid.
        (number..number + circle)
            .filter_map(|turn| others.get((first + turn % circle) % others.len()).copied())
            .find(|name| Some(*name) != leader)
    }

    pub(super) fn body(&self, shelves: &Shelves) -> anyhow::Result<Value> {
        let now = Timestamp::now();
        let mut body = json!({
            "name": self.name,
            "description": self.description,
            "category_id": known(shelves, self.category_id)?,
            "currency": self.currency,
            "start_price": self.start_price,
            "reserve_price": self.reserve_price,
            "buy_now_price": self.buy_now_price,
            "increment_policy": self.increment_policy,
            "extension_window_seconds": self.soft_close_seconds,
            "extension_seconds": self.extension_seconds,
            "image_urls": [format!("https://images.example.com/{}.jpg", self.slug())],
            "ends_at": now + MINUTE.mul_f64(self.ends_in_minutes),
        });
        if self.starts_in_minutes > 0.0 {
            body["starts_at"] = json!(now + MINUTE.mul_f64(self.starts_in_minutes));
        }
        Ok(body)
    }

    /// The description with what was said later.
    pub(super) fn whole_description(&self) -> String {
        match &self.addition {
            Some(addition) => format!("{}\n\n{addition}", self.description),
            None => self.description.clone(),
        }
    }
}

impl Ware {
    pub(super) fn body(&self, shelves: &Shelves) -> anyhow::Result<Value> {
        Ok(json!({
            "name": self.name,
            "sku": self.sku,
            "description": self.description,
            "price": self.price,
            "discount": self.discount,
            "store": self.store,
            "image_urls": [format!("https://images.example.com/{}.jpg", self.sku)],
            "category_id": known(shelves, self.category_id)?,
            "stock": self.stock,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use contracts::Currency;

    use super::*;

    fn market() -> (Market, Shelves) {
        let market = Market::read().unwrap();
        let shelves = market.categories.iter().map(|shelf| (shelf.id, shelf.id)).collect();
        (market, shelves)
    }

    #[test]
    fn categories_stand_once_and_parts_after_the_whole() {
        let (market, shelves) = market();
        assert_eq!(shelves.len(), market.categories.len());

        for (place, shelf) in market.categories.iter().enumerate() {
            let before = &market.categories[..place];
            assert!(
                shelf.parent_id.is_none_or(|id| before.iter().any(|whole| whole.id == id)),
                "{}",
                shelf.name
            );
            assert!(before.iter().all(|other| other.name.to_lowercase() != shelf.name.to_lowercase()));
        }
    }

    #[test]
    fn everybody_is_known_and_everything_is_taken() {
        let (market, shelves) = market();
        let people: HashSet<&str> = market.people.iter().map(|person| person.username.as_str()).collect();
        assert_eq!(people.len(), market.people.len());

        let mut skus = HashSet::new();
        for ware in &market.products {
            assert!(people.contains(ware.owner.as_str()), "{}", ware.name);
            assert!(skus.insert(&ware.sku), "{}", ware.sku);
            let product: contracts::catalog::CreateProduct =
                serde_json::from_value(ware.body(&shelves).unwrap()).unwrap();
            platform::Message::check(&product).unwrap();
        }
        let (mut names, mut descriptions) = (HashSet::new(), HashSet::new());
        for offer in &market.items {
            let name = &offer.name;
            let named = [&offer.seller].into_iter().chain(&offer.bought_by).chain(&offer.watchers);
            assert!(named.clone().all(|person| people.contains(person.as_str())), "{name}");
            assert!(named.skip(1).all(|person| *person != offer.seller), "{name}");
            assert!(names.insert(name), "{name}");
            assert!(descriptions.insert(&offer.description), "{name}");
            let item: contracts::auctions::CreateItem =
                serde_json::from_value(offer.body(&shelves).unwrap()).unwrap();
            platform::Message::check(&item).unwrap();
        }
        assert!(names.len() >= 200 && people.len() >= 25, "{} {}", names.len(), people.len());
    }

    #[test]
    fn every_history_can_happen() {
        let (market, _) = market();
        for offer in &market.items {
            let (name, bids) = (&offer.name, offer.bids);
            let courses = [offer.course()].into_iter().chain(offer.again.as_ref().map(Again::course));
            for course in courses {
                assert_eq!(course.bids > 0, course.price.is_some(), "{name}");
                assert!(course.price.is_none_or(|price| !offer.start_price.is_above(price)), "{name}");
            }
            assert!(offer.starts_in_minutes < offer.ends_in_minutes, "{name}");
            assert!(offer.starts_in_minutes == 0.0 || bids == 0, "{name} has not begun");
            assert!(offer.bought_by.is_none() || offer.buy_now_price.is_some(), "{name}");
            let at_once = offer.bought_by.is_some() || offer.cancelled.is_some();
            assert!(!at_once || bids == 0 && offer.addition.is_none(), "{name} is over before it is bid on");
            let price = offer.price.unwrap_or(offer.start_price);
            assert!(offer.buy_now_price.is_none_or(|limit| limit.is_above(price)), "{name}");
            assert!(offer.maximum.is_none_or(|maximum| price.is_above(maximum)), "{name}");
            let sold = bids > 0 && offer.reserve_price.is_none_or(|reserve| !reserve.is_above(price));
            assert!(
                offer.again.is_none() || offer.cancelled.is_some() || offer.ends_meanwhile() && !sold,
                "{name} is not free to be offered again"
            );
        }
    }

    #[test]
    fn every_price_climbs_to_what_was_said() {
        let (market, _) = market();
        for offer in &market.items {
            let currency: Currency = offer.currency.parse().unwrap();
            let start = offer.start_price.in_currency(currency).unwrap();
            let mut least = start;
            for number in 0..offer.bids {
                let bid = offer.course().offer(number, start, least);
                assert!(bid.minor >= least.minor, "{}", offer.name);
                least = Money::new(bid.minor + 1, currency);
            }
            if let Some(price) = offer.price {
                let last = offer.course().offer(offer.bids - 1, start, start);
                assert_eq!(Amount::from(last), price.in_currency(currency).unwrap().into(), "{}", offer.name);
                assert_eq!(least.minor - 1, last.minor, "{}", offer.name);
            }
        }
    }

    #[test]
    fn offers_are_round_on_the_way_and_never_too_low() {
        let eur = |minor| Money::new(minor, "EUR".parse().unwrap());
        let course = Course { bids: 5, price: Some("87.31".parse().unwrap()) };
        let offers: Vec<i64> =
            (0..6).map(|number| course.offer(number, eur(4000), eur(4000)).minor).collect();

        assert_eq!(offers, [4000, 6050, 7500, 8400, 8731, 8731]);
        assert_eq!(course.offer(1, eur(4000), eur(7000)), eur(7000));
        let one = Course { bids: 1, price: Some("50".parse().unwrap()) };
        assert_eq!(one.offer(0, eur(4000), eur(4000)), eur(5000));
        assert_eq!([1, 9, 10, 99, 31_240, 26_599].map(round_down), [1, 9, 10, 99, 31_000, 26_500]);
    }

    #[test]
    fn several_people_bid_and_nobody_against_themselves() {
        let (market, _) = market();
        for offer in &market.items {
            let (mut leader, mut bidders) = (None, HashSet::new());
            for number in 0..offer.bids {
                let bidder = offer.bidder(&market.people, number, leader).unwrap();
                assert!(Some(bidder) != leader && bidder != offer.seller, "{}", offer.name);
                leader = Some(bidder);
                bidders.insert(bidder);
            }
            assert!(bidders.len() >= offer.bids.min(2), "{}", offer.name);
        }
    }
}
