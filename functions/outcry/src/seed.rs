//! `outcry seed`: a small market to look around in, made through the public API by the same functions as everything.
//!
//! Repeatable: people who are there log in, and an item whose seller already offers one of its name is left alone. So a
//! second run adds nothing, and a run that was broken off is completed.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, bail};
use contracts::{
    Money, Timestamp,
    auctions::{Bid, Item},
    identity::Session,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::visitor::{Api, expect};

/// Everybody's password.
pub const PASSWORD: &str = "secret123";

/// How much is done at once.
const AT_ONCE: usize = 8;
const MINUTE: Duration = Duration::from_secs(60);

static MARKET: &str = include_str!("seed/market.json");

/// What was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// People who can log in now.
    pub people: usize,
    /// Items that were offered by this run.
    pub items: usize,
    /// Bids on them that were accepted.
    pub bids: usize,
}

#[derive(Deserialize)]
struct Market {
    people: Vec<Person>,
    items: Vec<Offer>,
}

#[derive(Deserialize)]
struct Person {
    username: String,
    first_name: String,
    last_name: String,
}

/// An item as the market describes it.
#[derive(Deserialize)]
struct Offer {
    seller: String,
    name: String,
    description: String,
    category_id: i64,
    currency: String,
    start_price: String,
    #[serde(default)]
    reserve_price: Option<String>,
    #[serde(default)]
    buy_now_price: Option<String>,
    #[serde(default)]
    soft_close_seconds: u32,
    #[serde(default)]
    starts_in_minutes: u32,
    ends_in_minutes: u32,
    /// How many bids it gets.
    bids: usize,
}

/// Fills the platform at this address.
pub async fn run(url: &str) -> anyhow::Result<Made> {
    let api = Api::at(url)?;
    let market: Market = serde_json::from_str(MARKET).context("read the market")?;
    let sessions: HashMap<String, Session> = stream::iter(&market.people)
        .map(async |person| Ok::<_, anyhow::Error>((person.username.clone(), enter(&api, person).await?)))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let offered = offered(&api, &sessions).await?;
    let fresh =
        market.items.iter().filter(|offer| !offered.contains(&(offer.seller.as_str(), offer.name.clone())));
    let bids: Vec<usize> = stream::iter(fresh)
        .map(async |offer| sell(&api, offer, &market.people, &sessions).await)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(Made { people: sessions.len(), items: bids.len(), bids: bids.into_iter().sum() })
}

/// A session of this person, who may have been here before.
async fn enter(api: &Api, person: &Person) -> anyhow::Result<Session> {
    let Person { username, first_name, last_name } = person;
    let email = format!("{username}@test.com");
    let body = json!({
        "username": username, "email": email, "first_name": first_name, "last_name": last_name, "password": PASSWORD,
    });
    let (status, answer) = api.call(Method::POST, "/identity/register", None, None, Some(body)).await?;
    if status != StatusCode::CONFLICT {
        return expect(StatusCode::CREATED, "/identity/register", (status, answer));
    }
    let body = json!({ "email": email, "password": PASSWORD });
    let answer = api.call(Method::POST, "/identity/login", None, None, Some(body)).await?;
    expect(StatusCode::OK, "/identity/login", answer)
        .with_context(|| format!("{username} is taken, and not by a person of this market"))
}

/// Who offers what already.
async fn offered<'a>(
    api: &Api,
    sessions: &'a HashMap<String, Session>,
) -> anyhow::Result<Vec<(&'a str, String)>> {
    let mut offered = Vec::new();
    for (seller, session) in sessions {
        let items: Vec<Item> = api.all(&format!("/api/v1/items?seller_id={}&", session.user.id)).await?;
        offered.extend(items.into_iter().map(|item| (seller.as_str(), item.name)));
    }
    Ok(offered)
}

/// Offers an item and bids on it; returns how many bids were accepted.
async fn sell(
    api: &Api,
    offer: &Offer,
    people: &[Person],
    sessions: &HashMap<String, Session>,
) -> anyhow::Result<usize> {
    let session = |name: &str| sessions.get(name).with_context(|| format!("{name} is nobody of this market"));
    let item = api.offer(session(&offer.seller)?, offer.body()).await?;
    let bidders: Vec<&str> =
        people.iter().map(|person| person.username.as_str()).filter(|name| *name != offer.seller).collect();
    let mut least = item.min_next_bid.in_currency(item.currency)?;
    for number in 0..offer.bids {
        // Different people on different items, and raises that are no round steps.
        let place = (offer.name.len() + number * 5) % bidders.len();
        let bidder = bidders.get(place).context("nobody is there to bid")?;
        let raise = least.minor / 100 * (3 + (number as i64 * 7 + offer.name.len() as i64) % 9);
        let amount = Money::new(least.minor + raise, item.currency);
        let key = format!("seed-{}-{number}", item.id);
        let answer = api.bid(session(bidder)?, item.id, &amount.to_string(), &key).await?;
        let bid: Bid = expect(StatusCode::CREATED, "a bid", answer)?;
        let Some(after) = bid.item else { bail!("a bid was answered without its item") };
        least = after.min_next_bid.in_currency(item.currency)?;
    }
    Ok(offer.bids)
}

impl Offer {
    fn body(&self) -> Value {
        let now = Timestamp::now();
        let slug = self.name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let mut body = json!({
            "name": self.name,
            "description": self.description,
            "category_id": self.category_id,
            "currency": self.currency,
            "start_price": self.start_price,
            "reserve_price": self.reserve_price,
            "buy_now_price": self.buy_now_price,
            "extension_window_seconds": self.soft_close_seconds,
            "image_urls": [format!("https://images.example.com/{slug}.jpg")],
            "ends_at": now + MINUTE * self.ends_in_minutes,
        });
        if self.starts_in_minutes > 0 {
            body["starts_at"] = json!(now + MINUTE * self.starts_in_minutes);
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_market_is_of_one_piece() {
        let market: Market = serde_json::from_str(MARKET).unwrap();

        for offer in &market.items {
            assert!(market.people.iter().any(|person| person.username == offer.seller), "{}", offer.name);
            assert!(offer.starts_in_minutes < offer.ends_in_minutes, "{}", offer.name);
            assert!(offer.starts_in_minutes == 0 || offer.bids == 0, "{} has not begun", offer.name);
            let item: contracts::auctions::CreateItem = serde_json::from_value(offer.body()).unwrap();
            platform::Message::check(&item).unwrap();
            let same = market
                .items
                .iter()
                .filter(|other| (&other.seller, &other.name) == (&offer.seller, &offer.name));
            assert_eq!(same.count(), 1, "{}", offer.name);
        }
    }
}
