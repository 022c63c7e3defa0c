//! The SQL that several functions share: an item, read as the rules see it and as people see it.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use contracts::{
    Amount, BidId, Currency, ItemId, Money, Page, Timestamp, UserId,
    auctions::{IncrementPolicy, Item, ItemChange, ItemState},
    page::{PageInfo, PageQuery},
};
use platform::{Caller, Cx, Refused, Result};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    auction::{Auction, Leading, NoItem, Outcome},
    increments::Increments,
};

/// What the rules need of an item's row.
pub(crate) struct RuleRow {
    id: Uuid,
    seller_id: Uuid,
    currency: String,
    start_price: i64,
    bid_increment: i64,
    increment_policy: String,
    reserve_price: Option<i64>,
    buy_now_price: Option<i64>,
    extension_window_seconds: i32,
    extension_seconds: i32,
    outcome: Option<String>,
    starts_at: Timestamp,
    ends_at: Timestamp,
    planned_end: Timestamp,
    price: Option<i64>,
    leader_id: Option<Uuid>,
    leader_maximum: Option<i64>,
    leading_bid_id: Option<Uuid>,
    bid_count: i64,
    revision: i64,
}

impl RuleRow {
    pub(crate) fn into_auction(self) -> Result<Auction> {
        let currency: Currency = self.currency.parse().map_err(anyhow_of)?;
        let money = |minor| Money::new(minor, currency);
        let seconds = |seconds: i32| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let leading = match (self.leading_bid_id, self.leader_id, self.price) {
            (Some(bid), Some(bidder), Some(price)) => {
                let maximum = money(self.leader_maximum.unwrap_or(price));
                Some(Leading { bid: BidId(bid), bidder: UserId(bidder), price: money(price), maximum })
            }
            _ => None,
        };
        Ok(Auction {
            id: ItemId(self.id),
            seller: UserId(self.seller_id),
            currency,
            start_price: money(self.start_price),
            increments: increments(&self.increment_policy, money(self.bid_increment)),
            reserve: self.reserve_price.map(money),
            buy_now: self.buy_now_price.map(money),
            window: seconds(self.extension_window_seconds),
            extension: seconds(self.extension_seconds),
            outcome: self.outcome.as_deref().and_then(Outcome::parse),
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            planned_end: self.planned_end,
            leading,
            bid_count: self.bid_count,
            revision: self.revision,
        })
    }
}

/// How a price climbs, read from a row.
pub(crate) fn increments(policy: &str, flat: Money) -> Increments {
    Increments { policy: IncrementPolicy::parse(policy).unwrap_or_default(), flat }
}

/// Locks items in the order of their ids, so that two batches with the same items cannot wait for
/// each other, and reads them as the rules see them.
pub(crate) async fn lock_auctions(tx: &mut PgConnection, ids: &[Uuid]) -> Result<HashMap<ItemId, Auction>> {
    let rows = sqlx::query_as!(
        RuleRow,
        r#"
        select id, seller_id, currency, start_price, bid_increment, increment_policy, reserve_price, buy_now_price,
            extension_window_seconds, extension_seconds, outcome, starts_at, ends_at, planned_end,
            price, leader_id, leader_maximum, leading_bid_id, bid_count, revision
        from items where id = any($1) order by id for update
        "#,
        ids,
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            let auction = row.into_auction()?;
            Ok((auction.id, auction))
        })
        .collect()
}

/// Writes where the bidding on items stands, and their ends, in one statement. What only the leader knows leaves
/// no trace that others see.
pub(crate) async fn write_bidding(
    tx: &mut PgConnection,
    auctions: &HashMap<ItemId, Auction>,
    changed: &BTreeSet<ItemId>,
) -> Result<()> {
    let mut columns =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for auction in changed.iter().filter_map(|id| auctions.get(id)) {
        let Some(leading) = auction.leading else { continue };
        columns.0.push(auction.id.0);
        columns.1.push(leading.price.minor);
        columns.2.push(leading.bidder.0);
        columns.3.push(leading.maximum.minor);
        columns.4.push(leading.bid.0);
        columns.5.push(auction.bid_count);
        columns.6.push(auction.ends_at);
        columns.7.push(auction.revision);
    }
    if columns.0.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"
        update items set price = bid.price, leader_id = bid.leader_id, leader_maximum = bid.leader_maximum,
            leading_bid_id = bid.bid_id, bid_count = bid.bid_count, ends_at = bid.ends_at, revision = bid.revision,
            updated_at = case when items.bid_count = bid.bid_count then items.updated_at else now() end
        from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[], $5::uuid[], $6::bigint[], $7::timestamptz[],
            $8::bigint[])
            as bid (item_id, price, leader_id, leader_maximum, bid_id, bid_count, ends_at, revision)
        where items.id = bid.item_id
        "#,
        &columns.0,
        &columns.1,
        &columns.2,
        &columns.3,
        &columns.4,
        &columns.5,
        &columns.6 as &[Timestamp],
        &columns.7,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// What people see of an item beside what the rules need.
#[derive(Clone)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) category_id: Option<i64>,
    pub(crate) image_urls: Vec<String>,
    pub(crate) closed_at: Option<Timestamp>,
    pub(crate) ended_by: Option<UserId>,
    pub(crate) end_reason: Option<String>,
    pub(crate) relisted_as: Option<ItemId>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

/// An item, whole.
#[derive(Clone)]
pub(crate) struct Whole {
    pub(crate) auction: Auction,
    pub(crate) description: Description,
}

/// Items, whole, from a statement over `items` that takes their ids.
macro_rules! whole {
    ($connection:expr, $ids:ident, $statement:literal) => {
        sqlx::query!($statement, $ids)
            .fetch_all($connection)
            .await?
            .into_iter()
            .map(|row| {
                let rules = RuleRow {
                    id: row.id,
                    seller_id: row.seller_id,
                    currency: row.currency,
                    start_price: row.start_price,
                    bid_increment: row.bid_increment,
                    increment_policy: row.increment_policy,
                    reserve_price: row.reserve_price,
                    buy_now_price: row.buy_now_price,
                    extension_window_seconds: row.extension_window_seconds,
                    extension_seconds: row.extension_seconds,
                    outcome: row.outcome,
                    starts_at: row.starts_at,
                    ends_at: row.ends_at,
                    planned_end: row.planned_end,
                    price: row.price,
                    leader_id: row.leader_id,
                    leader_maximum: row.leader_maximum,
                    leading_bid_id: row.leading_bid_id,
                    bid_count: row.bid_count,
                    revision: row.revision,
                };
                let description = Description {
                    name: row.name,
                    description: row.description,
                    category_id: row.category_id,
                    image_urls: row.image_urls,
                    closed_at: row.closed_at,
                    ended_by: row.ended_by.map(UserId),
                    end_reason: row.end_reason,
                    relisted_as: row.relisted_as.map(ItemId),
                    created_at: row.created_at,
                    updated_at: row.updated_at,
                };
                Ok(Whole { auction: rules.into_auction()?, description })
            })
            .collect()
    };
}

/// Reads items, whole; unknown ids are left out.
pub(crate) async fn load(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Whole>> {
    whole!(connection, ids, "select * from items where id = any($1) order by id")
}

/// Locks those of the items that have not ended and that nobody else holds, and reads them, whole.
pub(crate) async fn lock_free(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Whole>> {
    whole!(
        connection,
        ids,
        "select * from items where id = any($1) and outcome is null order by id for update skip locked"
    )
}

/// The item with this id. Refused when there is none.
pub(crate) async fn load_one(connection: &mut PgConnection, id: ItemId) -> Result<Whole> {
    Ok(load(connection, &[id.0]).await?.pop().ok_or(NoItem)?)
}

/// A member of a list of items, and its place in the list.
pub(crate) struct Listed {
    pub(crate) place: Uuid,
    pub(crate) item_id: Uuid,
}

/// The place behind which a page begins, in a list whose places sort from the last to the first.
pub(crate) fn after(page: &PageQuery) -> Result<Uuid, Refused> {
    let Some(cursor) = &page.cursor else { return Ok(Uuid::max()) };
    cursor.parse().map_err(|_| Refused::unknown_place("cursor"))
}

/// How many are passed over: a cursor says all.
pub(crate) fn offset(page: &PageQuery) -> i64 {
    if page.cursor.is_some() { 0 } else { page.offset.into() }
}

/// A page of items as they are now, from its members and one more if there is one.
pub(crate) async fn page(
    cx: &mut Cx,
    mut rows: Vec<Listed>,
    page: &PageQuery,
    total: i64,
) -> Result<Page<Item>> {
    let (viewer, now) = (cx.caller().ok(), cx.now());
    let page_info = cut(&mut rows, page, total, |row| row.place);
    let ids: Vec<Uuid> = rows.iter().map(|row| row.item_id).collect();
    let found = load(cx.tx().await?, &ids).await?;
    let mut items: HashMap<Uuid, Item> =
        found.into_iter().map(|item| (item.auction.id.0, item.item(viewer, now))).collect();
    Ok(Page { data: ids.iter().filter_map(|id| items.remove(id)).collect(), page_info })
}

/// Cuts rows to a page: one more than its limit says that there is a next one.
pub(crate) fn cut<T>(
    rows: &mut Vec<T>,
    page: &PageQuery,
    total: i64,
    place: impl Fn(&T) -> Uuid,
) -> PageInfo {
    let has_more = rows.len() > usize::try_from(page.limit).unwrap_or(usize::MAX);
    if has_more {
        rows.pop();
    }
    PageInfo {
        total: u64::try_from(total).unwrap_or_default(),
        total_is_capped: false,
        limit: page.limit,
        offset: page.offset,
        has_more,
        next_cursor: rows.last().filter(|_| has_more).map(|row| place(row).to_string()),
    }
}

/// Writes changes that are no bids to the logs of their items. A bid is its own row of the log.
pub(crate) async fn log_changes(
    tx: &mut PgConnection,
    states: &[ItemState],
    change: fn(&ItemState) -> ItemChange,
) -> Result<()> {
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for state in states {
        let change = change(state);
        columns.0.push(state.item_id.0);
        columns.1.push(state.version);
        columns.2.push(state.item_version);
        columns.3.push(change.name().to_owned());
        columns.4.push(change.data()?);
    }
    sqlx::query!(
        r#"
        insert into item_changes (item_id, version, revision, event, change)
        select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::text[])
        "#,
        &columns.0,
        &columns.1,
        &columns.2,
        &columns.3,
        &columns.4,
    )
    .execute(tx)
    .await?;
    Ok(())
}

impl Whole {
    /// As an event carries it.
    pub(crate) fn state(&self, now: Timestamp) -> ItemState {
        let (auction, description) = (&self.auction, &self.description);
        let won = auction.leading.filter(|_| auction.outcome == Some(Outcome::Sold));
        ItemState {
            item_id: auction.id,
            item_version: auction.revision,
            version: auction.version(),
            seller_id: auction.seller,
            name: description.name.clone(),
            description: description.description.clone(),
            category_id: description.category_id,
            image_urls: description.image_urls.clone(),
            currency: auction.currency,
            start_price: auction.start_price.into(),
            bid_increment: auction.increments.at(auction.current_price()).into(),
            increment_policy: auction.increments.policy,
            buy_now_price: auction.buy_now.map(Amount::from),
            status: auction.status(now),
            starts_at: auction.starts_at,
            ends_at: auction.ends_at,
            extension_window_seconds: whole_seconds(auction.window),
            extension_seconds: whole_seconds(auction.extension),
            winner_id: won.map(|leading| leading.bidder),
            final_price: won.map(|leading| leading.price.into()),
            closed_at: description.closed_at,
            ended_by: description.ended_by,
            end_reason: description.end_reason.clone(),
            created_at: description.created_at,
        }
    }

    /// As a visitor sees it: the reserve is shown to the seller and to administrators only.
    pub(crate) fn item(self, viewer: Option<Caller>, now: Timestamp) -> Item {
        let auction = &self.auction;
        let insider = viewer.is_some_and(|viewer| viewer.is_owner_or_admin(auction.seller));
        let won = auction.leading.filter(|_| auction.outcome == Some(Outcome::Sold));
        Item {
            id: auction.id,
            seller_id: auction.seller,
            currency: auction.currency,
            start_price: auction.start_price.into(),
            bid_increment: auction.increments.at(auction.current_price()).into(),
            increment_policy: auction.increments.policy,
            reserve_met: auction.reserve_met(),
            reserve_price: auction.reserve.filter(|_| insider).map(Amount::from),
            buy_now_price: auction.buy_now.map(Amount::from),
            current_price: auction.current_price().into(),
            min_next_bid: auction.minimum_bid().into(),
            bid_count: auction.bid_count,
            leader_id: auction.leading.map(|leading| leading.bidder),
            status: auction.status(now),
            starts_at: auction.starts_at,
            ends_at: auction.ends_at,
            extension_window_seconds: whole_seconds(auction.window),
            extension_seconds: whole_seconds(auction.extension),
            winner_id: won.map(|leading| leading.bidder),
            final_price: won.map(|leading| leading.price.into()),
            version: auction.version(),
            name: self.description.name,
            description: self.description.description,
            category_id: self.description.category_id,
            image_urls: self.description.image_urls,
            closed_at: self.description.closed_at,
            end_reason: self.description.end_reason,
            relisted_as: self.description.relisted_as,
            created_at: self.description.created_at,
            updated_at: self.description.updated_at,
        }
    }
}

pub(crate) fn whole_seconds(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX)
}

fn anyhow_of(error: contracts::money::MoneyError) -> platform::Error {
    platform::Error::Broken(anyhow::Error::new(error).context("currency of an item"))
}

/// Builders for rows, shared by the tests of the domain.
#[cfg(test)]
pub(crate) mod testing {
    use std::time::Duration;

    use ::testing::Harness;
    use contracts::{
        ItemId, Timestamp, UserId,
        auctions::{CreateItem, Item},
    };
    use serde_json::{Value, json};
    use uuid::Uuid;

    /// Who sells in tests.
    pub(crate) const SELLER: UserId = UserId(Uuid::from_u128(1));

    /// A lamp, from 10.00, open for a minute.
    pub(crate) fn lamp(app: &Harness) -> Lamp {
        let ends_at = Timestamp::now() + Duration::from_secs(60);
        Lamp { app: app.clone(), body: json!({ "name": "Lamp", "start_price": "10.00", "ends_at": ends_at }) }
    }

    pub(crate) struct Lamp {
        app: Harness,
        body: Value,
    }

    impl Lamp {
        fn with(mut self, name: &str, value: Value) -> Self {
            self.body[name] = value;
            self
        }

        pub(crate) fn reserve(self, price: &str) -> Self {
            self.with("reserve_price", json!(price))
        }

        pub(crate) fn increment(self, price: &str) -> Self {
            self.with("bid_increment", json!(price))
        }

        pub(crate) fn buy_now(self, price: &str) -> Self {
            self.with("buy_now_price", json!(price))
        }

        pub(crate) fn extension(self, seconds: u32) -> Self {
            self.with("extension_window_seconds", json!(seconds))
        }

        pub(crate) fn policy(self, policy: &str) -> Self {
            self.with("increment_policy", json!(policy))
        }

        pub(crate) fn description(self, text: &str) -> Self {
            self.with("description", json!(text))
        }

        pub(crate) fn starts_at(self, start: Timestamp) -> Self {
            self.with("starts_at", json!(start))
        }

        /// Through the real function, so that rows are what they are in life.
        pub(crate) async fn offer(self) -> Item {
            let new: CreateItem = serde_json::from_value(self.body).unwrap();
            self.app.as_user(SELLER).call(&crate::create_item::function(), &new).await.unwrap()
        }
    }

    /// Moves the end of an item, as if time had passed.
    pub(crate) async fn end_at(app: &Harness, item: ItemId, end: Timestamp) {
        sqlx::query("update items set ends_at = $2, planned_end = $2 where id = $1")
            .bind(item.0)
            .bind(end)
            .execute(app.pool())
            .await
            .unwrap();
    }
}
