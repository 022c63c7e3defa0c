//! What becomes of an item of the market: it is offered, watched, bid on, bought, taken back, ended, offered again.
//!
//! Each step looks first whether it is done, at the item as it is now: that is what makes it repeatable.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use contracts::{
    Amount, ItemId, Timestamp, UserId,
    auctions::{Bid, Item, ItemStatus},
    identity::Session,
};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Hall, Made,
    market::{Again, Course, Offer},
};
use crate::visitor::expect;

/// How long the listing may take to know an item.
const LISTED_WITHIN: Duration = Duration::from_secs(10);
/// How late the hammer may fall on a busy platform.
const FALLEN_WITHIN: Duration = Duration::from_secs(30);
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// An item with what was made of it by this run.
pub(super) struct History<'a> {
    offer: &'a Offer,
    /// As it was before its end.
    item: Item,
    pub(super) made: Made,
}

impl Hall {
    /// Sees to it that an item is offered and has its history, up to its end.
    pub(super) async fn tell<'a>(&self, offer: &'a Offer) -> anyhow::Result<History<'a>> {
        let mut made = Made::default();
        let item = match self.offered_before(offer).await? {
            Some(item) => item,
            None => self.place(offer, &mut made).await?,
        };
        self.watch(offer, item.id, &mut made).await?;
        let item = match (&offer.cancelled, &offer.bought_by) {
            (Some(reason), _) => self.cancel(offer, item, reason, &mut made).await?,
            (None, Some(buyer)) => self.buy(item, buyer, &mut made).await?,
            (None, None) => {
                self.bid(offer, offer.course(), &item, &mut made).await?;
                self.go_on(offer, item, &mut made).await?
            }
        };
        Ok(History { offer, item, made })
    }

    /// Waits for the end of an item that comes soon, and offers again what is to be.
    pub(super) async fn see_out(&self, History { offer, item, .. }: &History<'_>) -> anyhow::Result<Made> {
        let mut made = Made::default();
        let mut ended = item.clone();
        if offer.ends_meanwhile() && item.status == ItemStatus::Open {
            ended = self.fallen(item.id).await?;
            made.sold += usize::from(ended.status == ItemStatus::Sold);
            made.unsold += usize::from(ended.status == ItemStatus::Unsold);
        }
        if let Some(again) = &offer.again
            && let Some(second) = self.relist(offer, ended, again, &mut made).await?
        {
            self.bid(offer, again.course(), &second, &mut made).await?;
        }
        Ok(made)
    }

    /// The item as which one that was not sold is offered again; none for one that was sold.
    async fn relist(
        &self,
        offer: &Offer,
        item: Item,
        again: &Again,
        made: &mut Made,
    ) -> anyhow::Result<Option<Item>> {
        if !matches!(item.status, ItemStatus::Unsold | ItemStatus::Cancelled) {
            return Ok(None);
        }
        if let Some(second) = item.relisted_as {
            return self.api.item(second).await.map(Some);
        }
        let (path, seller) = (format!("/api/v1/items/{}/relist", item.id), self.session(&offer.seller)?);
        let second = self.change(Method::POST, &path, StatusCode::CREATED, seller, again.body()).await?;
        if second.is_some() {
            made.items += 1;
            made.relisted += 1;
        }
        Ok(second)
    }

    /// The item as it is now, if it was listed before this run.
    async fn offered_before(&self, offer: &Offer) -> anyhow::Result<Option<Item>> {
        match first(&self.offered, offer, self.session(&offer.seller)?.user.id) {
            Some(item) => self.api.item(item).await.map(Some),
            None => Ok(None),
        }
    }

    /// Offers an item, unless that has just been done and the listing did not know it yet.
    async fn place(&self, offer: &Offer, made: &mut Made) -> anyhow::Result<Item> {
        let (path, key, seller) =
            ("/api/v1/items", format!("seed-{}", offer.slug()), self.session(&offer.seller)?);
        let body = offer.body(&self.shelves)?;
        let answer = self.api.call(Method::POST, path, Some(seller), Some(&key), Some(body)).await?;
        // The key was used with other times: the item is there and will be listed.
        if answer.0 != StatusCode::UNPROCESSABLE_ENTITY {
            made.items += 1;
            return expect(StatusCode::CREATED, path, answer);
        }
        let deadline = Instant::now() + LISTED_WITHIN;
        loop {
            let listed = self.api.all(&format!("{path}?seller_id={}&", seller.user.id)).await?;
            if let Some(item) = first(&listed, offer, seller.user.id) {
                return self.api.item(item).await;
            }
            ensure!(Instant::now() < deadline, "{} was offered before and is not listed", offer.name);
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn watch(&self, offer: &Offer, item: ItemId, made: &mut Made) -> anyhow::Result<()> {
        let path = format!("/api/v1/items/{item}/watch");
        for watcher in &offer.watchers {
            let watcher = self.session(watcher)?;
            if !self.watched.contains(&(watcher.user.id, item)) {
                let answer = self.api.call(Method::PUT, &path, Some(watcher), None, None).await?;
                expect::<Value>(StatusCode::NO_CONTENT, &path, answer)?;
                made.watched += 1;
            }
        }
        Ok(())
    }

    /// Takes an item back that nobody has bid on.
    async fn cancel(&self, offer: &Offer, item: Item, reason: &str, made: &mut Made) -> anyhow::Result<Item> {
        let runs = matches!(item.status, ItemStatus::Open | ItemStatus::Scheduled);
        if !runs || item.bid_count > 0 {
            return Ok(item);
        }
        let (path, seller) = (format!("/api/v1/items/{}/cancel", item.id), self.session(&offer.seller)?);
        let body = json!({ "reason": reason });
        let Some(item) = self.change(Method::POST, &path, StatusCode::OK, seller, body).await? else {
            return self.api.item(item.id).await;
        };
        made.cancelled += 1;
        Ok(item)
    }

    /// Buys an item that nobody has bid on.
    async fn buy(&self, item: Item, buyer: &str, made: &mut Made) -> anyhow::Result<Item> {
        if item.status != ItemStatus::Open || item.bid_count > 0 {
            return Ok(item);
        }
        let path = format!("/api/v1/items/{}/buy-now", item.id);
        let buyer = self.session(buyer)?;
        let bought: Option<Bid> =
            self.change(Method::POST, &path, StatusCode::CREATED, buyer, json!({})).await?;
        if bought.is_some() {
            made.bought += 1;
            made.bids += 1;
        }
        self.api.item(item.id).await
    }

    /// Makes the bids that an item lacks.
    async fn bid(&self, offer: &Offer, course: Course, item: &Item, made: &mut Made) -> anyhow::Result<()> {
        if item.status != ItemStatus::Open {
            return Ok(());
        }
        let start = item.start_price.in_currency(item.currency)?;
        let mut least = item.min_next_bid.in_currency(item.currency)?;
        let mut leader = item.leader_id.and_then(|leader| self.name_of(leader));
        let mut count = usize::try_from(item.bid_count)?;
        let path = format!("/api/v1/items/{}/bids", item.id);
        // What was begun before is gone on with.
        while count < course.bids {
            let bidder = offer.bidder(&self.people, count, leader).context("nobody is there to bid")?;
            let amount = course.offer(count, start, least);
            let maximum = offer.maximum.filter(|_| count == 0);
            let body = json!({ "amount": Amount::from(amount), "max_amount": maximum });
            let key = format!("seed-{}-{count}", item.id);
            let answer = self
                .api
                .call(Method::POST, &path, Some(self.session(bidder)?), Some(&key), Some(body))
                .await?;
            // It ended while others were busy, or somebody else bids as well: the market is what it is.
            if answer.0 == StatusCode::CONFLICT {
                break;
            }
            let bid: Bid = expect(StatusCode::CREATED, &path, answer)?;
            let Some(after) = bid.item else { bail!("a bid was answered without its item") };
            least = after.min_next_bid.in_currency(item.currency)?;
            if bid.leading {
                leader = Some(bidder);
            }
            // An offer may make two: the leader's maximum answers it.
            let now = usize::try_from(after.bid_count)?;
            made.bids += now.saturating_sub(count);
            ensure!(now > count, "a bid on {} was not counted", offer.name);
            count = now;
        }
        Ok(())
    }

    /// Says of an item what its seller adds to the description.
    async fn go_on(&self, offer: &Offer, item: Item, made: &mut Made) -> anyhow::Result<Item> {
        let runs = matches!(item.status, ItemStatus::Open | ItemStatus::Scheduled);
        if !runs || offer.addition.is_none() || item.description != offer.description {
            return Ok(item);
        }
        let (path, seller) = (format!("/api/v1/items/{}", item.id), self.session(&offer.seller)?);
        let body = json!({ "description": offer.whole_description() });
        let Some(item) = self.change(Method::PUT, &path, StatusCode::OK, seller, body).await? else {
            return self.api.item(item.id).await;
        };
        made.updated += 1;
        Ok(item)
    }

    /// The item when its hammer has fallen, which late bids put off.
    async fn fallen(&self, item: ItemId) -> anyhow::Result<Item> {
        loop {
            let item = self.api.item(item).await?;
            if item.status != ItemStatus::Open {
                return Ok(item);
            }
            let now = Timestamp::now();
            ensure!(now < item.ends_at + FALLEN_WITHIN, "{} should have ended at {}", item.id, item.ends_at);
            tokio::time::sleep(item.ends_at.since(now).max(AGAIN_AFTER)).await;
        }
    }

    fn name_of(&self, user: UserId) -> Option<&str> {
        let mut people = self.sessions.iter();
        people.find(|(_, session)| session.user.id == user).map(|(name, _)| name.as_str())
    }

    /// What was answered to a change of an item; none when the item has changed meanwhile so that it is refused: it ended,
    /// or what a run that was broken off had sent was done after all. The market is what it is.
    async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        status: StatusCode,
        session: &Session,
        body: Value,
    ) -> anyhow::Result<Option<T>> {
        let answer = self.api.call(method, path, Some(session), None, Some(body)).await?;
        if answer.0 == StatusCode::CONFLICT {
            return Ok(None);
        }
        expect(status, path, answer).map(Some)
    }
}

/// The seller's item of this name; the first one, when it was offered again. Ids grow with time.
fn first(items: &[Item], offer: &Offer, seller: UserId) -> Option<ItemId> {
    let same = items.iter().filter(|item| item.seller_id == seller && item.name == offer.name);
    same.map(|item| item.id).min()
}
