//! `outcry seed`: a small market to look around in, made through the public API by the same functions as everything.
//!
//! Repeatable: people who are there log in, categories are known by their names and products by their skus, and an item
//! that its seller offers already gets only the bids that it lacks. So a second run adds nothing, and a run that was
//! broken off is completed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use contracts::{
    Money, Timestamp,
    auctions::{Bid, Item, ItemStatus},
    catalog::{Category, Product},
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
/// How long the listing may take to know an item.
const LISTED_WITHIN: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

static MARKET: &str = include_str!("seed/market.json");

/// What was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// People who can log in now.
    pub people: usize,
    /// Categories that were made by this run.
    pub categories: usize,
    /// Products that were put up for sale by this run.
    pub products: usize,
    /// Items that were offered by this run.
    pub items: usize,
    /// Bids on them that were accepted.
    pub bids: usize,
}

#[derive(Deserialize)]
struct Market {
    people: Vec<Person>,
    categories: Vec<Shelf>,
    products: Vec<Ware>,
    items: Vec<Offer>,
}

#[derive(Deserialize)]
struct Person {
    username: String,
    first_name: String,
    last_name: String,
}

/// A category as the market describes it. Its id is good within the market: the platform gives it another one.
#[derive(Deserialize)]
struct Shelf {
    id: i64,
    /// Of one that stands before it.
    #[serde(default)]
    parent_id: Option<i64>,
    name: String,
    description: String,
}

/// A product as the market describes it.
#[derive(Deserialize)]
struct Ware {
    owner: String,
    sku: String,
    name: String,
    description: String,
    price: String,
    discount: u8,
    store: String,
    category_id: i64,
    stock: i64,
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
    starts_in_minutes: f64,
    ends_in_minutes: f64,
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
    let (shelves, categories) = set_up(&api, &market, &sessions).await?;
    let products: Vec<bool> = stream::iter(&market.products)
        .map(async |ware| put_up(&api, ware, &shelves, &sessions).await)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let made: Vec<Made> = stream::iter(&market.items)
        .map(async |offer| sell(&api, offer, &market.people, &sessions, &shelves).await)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(Made {
        people: sessions.len(),
        categories,
        products: products.into_iter().filter(|is_new| *is_new).count(),
        items: made.iter().map(|made| made.items).sum(),
        bids: made.iter().map(|made| made.bids).sum(),
    })
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
    api.login(&email, PASSWORD)
        .await
        .with_context(|| format!("{username} is taken, and not by a person of this market"))
}

/// The platform's ids of the market's categories.
type Shelves = HashMap<i64, i64>;

/// Sees to it that the categories are there, and says how many are new. One after the other: parts come after the whole.
async fn set_up(
    api: &Api,
    market: &Market,
    sessions: &HashMap<String, Session>,
) -> anyhow::Result<(Shelves, usize)> {
    let path = "/api/v1/categories";
    let owner = market.people.first().and_then(|person| sessions.get(&person.username));
    let owner = owner.context("nobody is there to make categories")?;
    let there: Vec<Category> = api.all(&format!("{path}?")).await?;
    let (mut shelves, mut made) = (Shelves::new(), 0);
    for shelf in &market.categories {
        let is_it = |category: &&Category| category.name.to_lowercase() == shelf.name.to_lowercase();
        let id = match there.iter().find(is_it) {
            Some(category) => category.id,
            None => {
                let parent_id = shelf.parent_id.map(|id| known(&shelves, id)).transpose()?;
                let body =
                    json!({ "name": shelf.name, "description": shelf.description, "parent_id": parent_id });
                let answer = api.call(Method::POST, path, Some(owner), None, Some(body)).await?;
                made += 1;
                expect::<Category>(StatusCode::CREATED, path, answer)?.id
            }
        };
        shelves.insert(shelf.id, id);
    }
    Ok((shelves, made))
}

fn known(shelves: &Shelves, id: i64) -> anyhow::Result<i64> {
    shelves.get(&id).copied().with_context(|| format!("{id} is no category of this market"))
}

/// Sees to it that a product is for sale, and says whether it was not before.
async fn put_up(
    api: &Api,
    ware: &Ware,
    shelves: &Shelves,
    sessions: &HashMap<String, Session>,
) -> anyhow::Result<bool> {
    let (path, owner) = ("/api/v1/products", session(sessions, &ware.owner)?);
    let shown = api.call(Method::GET, &format!("{path}/{}", ware.sku), None, None, None).await?;
    if shown.0 == StatusCode::OK {
        return Ok(false);
    }
    let answer = api.call(Method::POST, path, Some(owner), None, Some(ware.body(shelves)?)).await?;
    expect::<Product>(StatusCode::CREATED, path, answer)?;
    Ok(true)
}

fn session<'a>(sessions: &'a HashMap<String, Session>, name: &str) -> anyhow::Result<&'a Session> {
    sessions.get(name).with_context(|| format!("{name} is nobody of this market"))
}

/// Sees to it that an item is offered and has its bids.
async fn sell(
    api: &Api,
    offer: &Offer,
    people: &[Person],
    sessions: &HashMap<String, Session>,
    shelves: &Shelves,
) -> anyhow::Result<Made> {
    let seller = session(sessions, &offer.seller)?;
    let (item, is_new) = match find(api, offer, seller).await? {
        Some(item) => (item, false),
        None => place(api, offer, seller, shelves).await?,
    };
    let mut made = Made { items: usize::from(is_new), ..Made::default() };
    if item.status != ItemStatus::Open {
        return Ok(made);
    }
    let bidders: Vec<&str> =
        people.iter().map(|person| person.username.as_str()).filter(|name| *name != offer.seller).collect();
    let mut least = item.min_next_bid.in_currency(item.currency)?;
    // What was begun before is gone on with.
    for number in usize::try_from(item.bid_count)?..offer.bids {
        // Different people on different items, and raises that are no round steps.
        let turn = (offer.name.len() + number * 5) % bidders.len();
        let bidder = bidders.get(turn).context("nobody is there to bid")?;
        let raise = least.minor / 100 * (3 + (number as i64 * 7 + offer.name.len() as i64) % 9);
        let amount = Money::new(least.minor + raise, item.currency);
        let key = format!("seed-{}-{number}", item.id);
        let (status, answer) =
            api.bid(session(sessions, bidder)?, item.id, &amount.to_string(), &key).await?;
        // It ended while others were busy, or somebody else bids as well: the market is what it is.
        if status == StatusCode::CONFLICT {
            break;
        }
        let bid: Bid = expect(StatusCode::CREATED, "a bid", (status, answer))?;
        let Some(after) = bid.item else { bail!("a bid was answered without its item") };
        least = after.min_next_bid.in_currency(item.currency)?;
        made.bids += 1;
    }
    Ok(made)
}

/// The seller's item of this name, if the listing knows it.
async fn find(api: &Api, offer: &Offer, seller: &Session) -> anyhow::Result<Option<Item>> {
    let items: Vec<Item> = api.all(&format!("/api/v1/items?seller_id={}&", seller.user.id)).await?;
    match items.into_iter().find(|item| item.name == offer.name) {
        // As it is now, not as it was listed.
        Some(item) => api.item(item.id).await.map(Some),
        None => Ok(None),
    }
}

/// Offers an item, unless that has just been done and the listing does not know it yet.
async fn place(
    api: &Api,
    offer: &Offer,
    seller: &Session,
    shelves: &Shelves,
) -> anyhow::Result<(Item, bool)> {
    let (path, key) = ("/api/v1/items", format!("seed-{}", offer.slug()));
    let answer = api.call(Method::POST, path, Some(seller), Some(&key), Some(offer.body(shelves)?)).await?;
    // The key was used with other times: the item is there and will be listed.
    if answer.0 != StatusCode::UNPROCESSABLE_ENTITY {
        return Ok((expect(StatusCode::CREATED, path, answer)?, true));
    }
    let deadline = Instant::now() + LISTED_WITHIN;
    loop {
        if let Some(item) = find(api, offer, seller).await? {
            return Ok((item, false));
        }
        ensure!(Instant::now() < deadline, "{} was offered before and is not listed", offer.name);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Offer {
    /// Its name as part of an address or a key.
    fn slug(&self) -> String {
        self.name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
    }

    fn body(&self, shelves: &Shelves) -> anyhow::Result<Value> {
        let now = Timestamp::now();
        let mut body = json!({
            "name": self.name,
            "description": self.description,
            "category_id": known(shelves, self.category_id)?,
            "currency": self.currency,
            "start_price": self.start_price,
            "reserve_price": self.reserve_price,
            "buy_now_price": self.buy_now_price,
            "extension_window_seconds": self.soft_close_seconds,
            "image_urls": [format!("https://images.example.com/{}.jpg", self.slug())],
            "ends_at": now + MINUTE.mul_f64(self.ends_in_minutes),
        });
        if self.starts_in_minutes > 0.0 {
            body["starts_at"] = json!(now + MINUTE.mul_f64(self.starts_in_minutes));
        }
        Ok(body)
    }
}

impl Ware {
    fn body(&self, shelves: &Shelves) -> anyhow::Result<Value> {
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
    use super::*;

    #[test]
    fn the_market_is_of_one_piece() {
        let market: Market = serde_json::from_str(MARKET).unwrap();
        let shelves: Shelves = market.categories.iter().map(|shelf| (shelf.id, shelf.id)).collect();
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
        for ware in &market.products {
            assert!(market.people.iter().any(|person| person.username == ware.owner), "{}", ware.name);
            assert_eq!(
                market.products.iter().filter(|other| other.sku == ware.sku).count(),
                1,
                "{}",
                ware.sku
            );
            let product: contracts::catalog::CreateProduct =
                serde_json::from_value(ware.body(&shelves).unwrap()).unwrap();
            platform::Message::check(&product).unwrap();
        }
        for offer in &market.items {
            assert!(market.people.iter().any(|person| person.username == offer.seller), "{}", offer.name);
            assert!(offer.starts_in_minutes < offer.ends_in_minutes, "{}", offer.name);
            assert!(offer.starts_in_minutes == 0.0 || offer.bids == 0, "{} has not begun", offer.name);
            let item: contracts::auctions::CreateItem =
                serde_json::from_value(offer.body(&shelves).unwrap()).unwrap();
            platform::Message::check(&item).unwrap();
            let same = market
                .items
                .iter()
                .filter(|other| (&other.seller, &other.name) == (&offer.seller, &offer.name));
            assert_eq!(same.count(), 1, "{}", offer.name);
        }
    }
}
