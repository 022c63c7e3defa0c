//! `outcry seed`: a market to look around in, made through the public API by the same functions as everything.
//!
//! Repeatable: people who are there log in, categories are known by their names and products by their skus, and an item
//! that its seller offers already gets only what it lacks of its history. So a second run adds nothing, and a run that was
//! broken off is completed; what ended in between stays as it ended.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::Duration,
};

use anyhow::Context;
use contracts::{
    ItemId, UserId,
    auctions::Item,
    catalog::{Category, Product},
    identity::Session,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::visitor::{Api, expect};
use history::History;
use market::{Market, Offer, Person, Shelf, Ware};

mod history;
mod market;

/// Everybody's password.
pub const PASSWORD: &str = "secret123";

/// How much is done at once.
const AT_ONCE: usize = 8;
const MINUTE: Duration = Duration::from_secs(60);

/// What was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// People who can log in now.
    pub people: usize,
    /// Categories that were made by this run.
    pub categories: usize,
    /// Products that were put up for sale by this run.
    pub products: usize,
    /// Items that were offered by this run, for the first time or again.
    pub items: usize,
    /// Of them those that were offered again.
    pub relisted: usize,
    /// Bids on them that were accepted, with those that the platform made for somebody.
    pub bids: usize,
    /// Items that were bought at once.
    pub bought: usize,
    /// Items that were taken back.
    pub cancelled: usize,
    /// Descriptions that were gone on with.
    pub updated: usize,
    /// Items that were put into watchlists, for each list.
    pub watched: usize,
    /// Items whose end this run saw, with a winner.
    pub sold: usize,
    /// The same without one.
    pub unsold: usize,
}

impl Made {
    fn add(&mut self, more: &Self) {
        self.people += more.people;
        self.categories += more.categories;
        self.products += more.products;
        self.items += more.items;
        self.relisted += more.relisted;
        self.bids += more.bids;
        self.bought += more.bought;
        self.cancelled += more.cancelled;
        self.updated += more.updated;
        self.watched += more.watched;
        self.sold += more.sold;
        self.unsold += more.unsold;
    }
}

/// What there is none of is not told.
impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = [
            (self.categories, "categories made"),
            (self.products, "products put up for sale"),
            (self.items, "items offered"),
            (self.relisted, "of them offered again"),
            (self.bids, "bids accepted"),
            (self.bought, "items bought at once"),
            (self.cancelled, "items taken back"),
            (self.updated, "descriptions gone on with"),
            (self.watched, "items put into watchlists"),
            (self.sold, "items sold meanwhile"),
            (self.unsold, "items not sold meanwhile"),
        ];
        let told: Vec<String> = told
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let told = if told.is_empty() { "everything was there already".to_owned() } else { told.join(", ") };
        write!(f, "{} people; {told}", self.people)
    }
}

/// The platform's ids of the market's categories.
type Shelves = HashMap<i64, i64>;

fn known(shelves: &Shelves, id: i64) -> anyhow::Result<i64> {
    shelves.get(&id).copied().with_context(|| format!("{id} is no category of this market"))
}

/// Fills the platform at this address. It ends when everything has ended that ends within a minute.
pub async fn run(url: &str) -> anyhow::Result<Made> {
    let market = Market::read().context("read the market")?;
    let mut hall = Hall::enter(Api::at(url)?, market.people).await?;
    let mut made = Made { people: hall.sessions.len(), ..Made::default() };
    made.categories = hall.set_up(&market.categories).await?;
    let wares = stream::iter(&market.products).map(|ware| hall.put_up(ware)).buffer_unordered(AT_ONCE);
    made.products = wares.try_fold(0, async |sum, is_new| Ok(sum + usize::from(is_new))).await?;
    hall.look_around().await?;

    // What ends while the rest is made comes first.
    let (brief, long): (Vec<Offer>, Vec<Offer>) = market.items.into_iter().partition(Offer::ends_meanwhile);
    let offers = brief.iter().chain(&long);
    let told: Vec<History> =
        stream::iter(offers).map(|offer| hall.tell(offer)).buffer_unordered(AT_ONCE).try_collect().await?;
    let ended: Vec<Made> = stream::iter(told.iter())
        .map(|history| hall.see_out(history))
        .buffer_unordered(brief.len().max(1))
        .try_collect()
        .await?;
    told.iter().map(|history| &history.made).chain(&ended).for_each(|more| made.add(more));
    Ok(made)
}

/// The people of the market on a platform, and what is there already.
struct Hall {
    api: Api,
    people: Vec<Person>,
    /// By the names of users.
    sessions: HashMap<String, Session>,
    shelves: Shelves,
    /// What the people of the market have offered before, as it was listed.
    offered: Vec<Item>,
    /// Who watches what.
    watched: HashSet<(UserId, ItemId)>,
}

impl Hall {
    /// With everybody in it, who may have been here before.
    async fn enter(api: Api, people: Vec<Person>) -> anyhow::Result<Self> {
        let sessions = stream::iter(&people)
            .map(async |person| anyhow::Ok((person.username.clone(), session_of(&api, person).await?)))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(Self {
            api,
            people,
            sessions,
            shelves: Shelves::new(),
            offered: Vec::new(),
            watched: HashSet::new(),
        })
    }

    fn session(&self, name: &str) -> anyhow::Result<&Session> {
        self.sessions.get(name).with_context(|| format!("{name} is nobody of this market"))
    }

    /// Sees to it that the categories are there, and says how many are new. One after the other: parts come after the
    /// whole.
    async fn set_up(&mut self, shelves: &[Shelf]) -> anyhow::Result<usize> {
        let path = "/api/v1/categories";
        let owner = self.people.first().context("nobody is there to make categories")?;
        let owner = self.session(&owner.username)?;
        let there: Vec<Category> = self.api.all(&format!("{path}?")).await?;
        let (mut ids, mut made) = (Shelves::new(), 0);
        for shelf in shelves {
            let is_it = |category: &&Category| category.name.to_lowercase() == shelf.name.to_lowercase();
            let id = match there.iter().find(is_it) {
                Some(category) => category.id,
                None => {
                    let parent_id = shelf.parent_id.map(|id| known(&ids, id)).transpose()?;
                    let body = json!({ "name": shelf.name, "description": shelf.description, "parent_id": parent_id });
                    let answer = self.api.call(Method::POST, path, Some(owner), None, Some(body)).await?;
                    made += 1;
                    expect::<Category>(StatusCode::CREATED, path, answer)?.id
                }
            };
            ids.insert(shelf.id, id);
        }
        self.shelves = ids;
        Ok(made)
    }

    /// Sees to it that a product is for sale, and says whether it was not before.
    async fn put_up(&self, ware: &Ware) -> anyhow::Result<bool> {
        let (path, owner) = ("/api/v1/products", self.session(&ware.owner)?);
        let shown = self.api.call(Method::GET, &format!("{path}/{}", ware.sku), None, None, None).await?;
        if shown.0 == StatusCode::OK {
            return Ok(false);
        }
        let body = ware.body(&self.shelves)?;
        let answer = self.api.call(Method::POST, path, Some(owner), None, Some(body)).await?;
        expect::<Product>(StatusCode::CREATED, path, answer)?;
        Ok(true)
    }

    /// Sees what people have offered and watch already.
    async fn look_around(&mut self) -> anyhow::Result<()> {
        let found: Vec<(UserId, Vec<Item>, Vec<Item>)> = stream::iter(self.sessions.values())
            .map(async |session| {
                let offered = self.api.all(&format!("/api/v1/items?seller_id={}&", session.user.id)).await?;
                let watched = self.api.all_of(Some(session), "/api/v1/users/me/watchlist?").await?;
                anyhow::Ok((session.user.id, offered, watched))
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        for (person, offered, watched) in found {
            self.offered.extend(offered);
            self.watched.extend(watched.into_iter().map(|item| (person, item.id)));
        }
        Ok(())
    }
}

async fn session_of(
    api: &Api,
    Person { username, first_name, last_name }: &Person,
) -> anyhow::Result<Session> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_told_and_nothing_of_what_was_not() {
        let made = Made { people: 25, items: 6, relisted: 1, sold: 2, ..Made::default() };
        let told = "25 people; 6 items offered, 1 of them offered again, 2 items sold meanwhile";
        assert_eq!(made.to_string(), told);
        let nothing = Made { people: 25, ..Made::default() };
        assert_eq!(nothing.to_string(), "25 people; everything was there already");
    }
}
