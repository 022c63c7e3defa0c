//! `list-items`: find items, in the order and the pieces that the caller wants.

use contracts::{
    Amount, ItemId, Timestamp, UserId,
    auctions::{IncrementPolicy, Item, ItemStatus},
    catalog::{ItemSort, ListItems, Listing},
    cursor,
    page::PageInfo,
};
use platform::{Cx, Function, Refused, Result};
use serde::de::DeserializeOwned;
use sqlx::{
    AssertSqlSafe, Execute, PgConnection, Postgres,
    postgres::{PgArguments, PgRow},
    query::Map,
    types::Json,
};
use uuid::Uuid;

use crate::{
    facets,
    words::{self, RUNNING},
};

/// So many are collected, counted and sorted. Among more a page is found by walking through all items in the order that
/// is wanted; where few match, that would be a walk to the end. An exact number of many is worth less than it costs.
pub(crate) const MOST_COUNTED: i64 = 1_000;
/// Words that the index tells of more items than these are common: to look at each would take too long.
const MOST_TOLD: f64 = 4_000.0;

/// How much may be done to find items.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// So many items are looked at, one by one, to see whether they have common words.
    read: i64,
    /// What it may cost to come to these, as the planner counts. Where few of them are kept, fewer are looked at.
    cost: f64,
}

/// For a page and its total: 20,000 entries of an index or more.
const FOR_PAGE: Effort = Effort { read: 2_000, cost: 300.0 };
/// For each facet beside them.
pub(crate) const FOR_FACET: Effort = Effort { read: 1_000, cost: 100.0 };
/// So many are looked at whatever it costs: what is said to be among many should be among some.
const LEAST_READ: i64 = 100;

/// Queries of [`ListItems`].
pub fn function() -> Function {
    Function::query(list_items)
}

async fn list_items(cx: &mut Cx, query: ListItems) -> Result<Listing> {
    let now = cx.now();
    let filter = Filter::of(&query, now);
    let tx = cx.tx().await?;
    plan_for_values(tx).await?;
    let found = find(tx, &filter, FOR_PAGE).await?;
    let mut rows = rows(tx, &query, &filter, &found).await?;
    let facets = if query.facets { Some(facets::count(tx, &query, &found, now).await?) } else { None };

    let limit = usize::try_from(query.page.limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = match rows.last() {
        Some(last) if has_more => Some(last.place(query.sort)?),
        _ => None,
    };
    let page_info = PageInfo {
        total: u64::try_from(found.ids.len()).unwrap_or_default(),
        total_is_capped: !found.complete,
        limit: query.page.limit,
        offset: query.page.offset,
        has_more,
        next_cursor,
    };
    let data = rows.into_iter().map(|row| row.into_item(now)).collect::<Result<_>>()?;
    Ok(Listing { data, page_info, facets })
}

/// Lets Postgres plan each statement for its values, and expect what reading costs here. It stays set on the connection,
/// where the upserts of `update-catalog` do not mind.
async fn plan_for_values(tx: &mut PgConnection) -> Result<()> {
    // The pool plans a statement once for all values. Here the values decide which index serves: with them the planner
    // drops the filters that are not wanted. What is read is in memory, most of it, wherever it lies. A table is never read
    // to its end; nor is one to bring it together with another. And other queries want the other processors.
    sqlx::raw_sql(
        "set plan_cache_mode = force_custom_plan; set random_page_cost = 0.2; set seq_page_cost = 0.2;
        set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off;
        set max_parallel_workers_per_gather = 0; set jit = off",
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// What is wanted, as the statements take it.
#[derive(Clone)]
pub(crate) struct Filter {
    pub(crate) q: Option<String>,
    /// What the index of words is asked beside words, as a `tsquery`.
    pub(crate) facts: String,
    pub(crate) category_id: Option<i64>,
    pub(crate) seller_id: Option<Uuid>,
    /// How it ended, or [`RUNNING`].
    pub(crate) outcome: Option<&'static str>,
    /// Whether bidding has begun.
    pub(crate) begun: Option<bool>,
    pub(crate) min_price: Option<String>,
    pub(crate) max_price: Option<String>,
    pub(crate) ending_before: Option<Timestamp>,
    pub(crate) ending_after: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

impl Filter {
    pub(crate) fn of(query: &ListItems, now: Timestamp) -> Self {
        let next_to_end = query.sort == ItemSort::EndingSoon && query.status.is_none();
        let (outcome, begun) = match query.status {
            None => (next_to_end.then_some(RUNNING), None),
            Some(ItemStatus::Scheduled) => (Some(RUNNING), Some(false)),
            Some(ItemStatus::Open) => (Some(RUNNING), Some(true)),
            Some(ended) => (Some(ended.as_str()), None),
        };
        Self {
            q: query.q.as_deref().and_then(words::search),
            facts: String::new(),
            category_id: query.category_id,
            seller_id: query.seller_id.map(|seller| seller.0),
            outcome,
            begun,
            min_price: query.min_price.map(|price| price.to_string()),
            max_price: query.max_price.map(|price| price.to_string()),
            ending_before: query.ending_before,
            ending_after: next_to_end.then_some(now),
            now,
        }
    }

    /// The same of items that are found by their words: what the index of words knows is asked of it, and of nothing else.
    pub(crate) fn by_words(&self) -> Self {
        if self.q.is_none() {
            return self.clone();
        }
        let facts = words::facts(self.category_id, self.seller_id, self.outcome).join(" & ");
        Self { facts, category_id: None, seller_id: None, outcome: None, ..self.clone() }
    }

    /// The same, whatever the words.
    fn without_words(&self) -> Self {
        Self { q: None, ..self.clone() }
    }

    fn is_priced(&self) -> bool {
        self.min_price.is_some() || self.max_price.is_some()
    }
}

/// A query that keeps the items that `$filter` lets through. Its own values are `$12` and the following. What is filtered
/// by stands in both tables: `fact` is the one of which the query wants it.
macro_rules! over_items {
    ($query:ident!($($row:ident,)? $head:literal $(+ $more:literal)*, $tail:literal $(+ $end:literal)*), $filter:ident, $($value:expr),+) => {
        sqlx::$query!(
            $($row,)?
            $head
            $(+ $more)*
            + r#" where ($1::text is null or words @@ websearch_to_tsquery('simple', $1))
                and ($10::text = '' or words @@ $10::text::tsquery)
                and ($2::bigint is null or fact.category_id = $2)
                and ($3::uuid is null or fact.seller_id = $3)
                and ($4::text is null
                    or $4 = 'running' and fact.outcome is null
                    or $4 <> 'running' and fact.outcome = $4)
                and ($5::text is null or price >= $5::numeric)
                and ($6::text is null or price <= $6::numeric)
                and ($7::timestamptz is null or fact.ends_at < $7)
                and ($9::boolean is null or (fact.starts_at <= $8) = $9)
                and ($11::timestamptz is null or fact.ends_at > $11)
                and fact.starts_at is not null and fact.outcome is distinct from 'deleted' "#
            + $tail
            $(+ $end)*,
            $filter.q,
            $filter.category_id,
            $filter.seller_id,
            $filter.outcome,
            $filter.min_price,
            $filter.max_price,
            $filter.ending_before,
            $filter.now,
            $filter.begun,
            $filter.facts,
            $filter.ending_after,
            $($value),+
        )
    };
}

/// A page's rows, and one more if there is one: which they are first, from an index alone where it has all that is asked, and
/// then what is told of them. `$12` is the sort key after which it starts, `$13` the id. When the ids are known, in `$16`, the
/// order is one that no index has, and so is the place where it starts: else an index of the order would be walked for them,
/// among a million items for seconds.
macro_rules! page {
    ($query:ident, $filter:ident, $few:ident, $key:ident, $id:ident; $from:literal, $tail:literal, $order:literal) => {
        over_items!(
            query_as!(
                Row,
                r#"select id as "id!", item_version as "item_version!", items.seller_id as "seller_id!", name as "name!",
                    description as "description!", items.category_id, image_urls as "image_urls!: Json<Vec<String>>",
                    currency as "currency!", start_price::text as "start_price!",
                    -- The step at the price of the bid that was heard last.
                    (case when prices.seq > 0 then min_next_bid - prices.price else bid_increment end)::text
                        as "bid_increment!",
                    increment_policy as "increment_policy!", buy_now_price::text, items.outcome,
                    items.starts_at as "starts_at!", items.ends_at as "ends_at!",
                    extension_window_seconds as "extension_window_seconds!", extension_seconds as "extension_seconds!",
                    winner_id, final_price::text, closed_at, items.created_at as "created_at!", prices.seq as "seq!",
                    leader_id, prices.price::text as "price!", min_next_bid::text as "min_next_bid!",
                    reserve_met as "reserve_met!", greatest(items.created_at, placed_at, closed_at) as "updated_at!"
                from (select fact.* from "#
                    + $from,
                " and ($16::uuid[] is null or fact_id = any($16)) "
                    + $tail
                    + " limit $14 offset $15) as page
                join items on items.id = page.fact_id join prices on prices.item_id = page.fact_id "
                    + $order
            ),
            $filter,
            $key,
            $id,
            i64::from($query.page.limit) + 1,
            // A cursor says where to go on: nothing is passed over again.
            if $id.is_some() { 0 } else { i64::from($query.page.offset) },
            $few
        )
    };
}

macro_rules! page_by_item {
    ($($value:ident),+; $tail:literal, $order:literal) => {
        page!(
            $($value),+;
            "(select id as fact_id, created_at, outcome, starts_at, ends_at, category_id, seller_id from items) as fact
                left join (select item_id as price_id, price from prices) as priced on price_id = fact_id
                left join (select id as said_id, words from items) as said on said_id = fact_id",
            $tail,
            $order
        )
    };
}

macro_rules! page_by_price {
    ($($value:ident),+; $tail:literal, $order:literal) => {
        page!(
            $($value),+;
            "(select item_id as fact_id, price, seq, outcome, starts_at, ends_at, category_id, seller_id from prices) as fact
                left join (select id as said_id, words from items) as said on said_id = fact_id",
            $tail,
            $order
        )
    };
}

async fn rows(tx: &mut PgConnection, query: &ListItems, filter: &Filter, found: &Found) -> Result<Vec<Row>> {
    let few = found.few();
    let ways = match (few, &filter.q) {
        // They have the words.
        (Some(_), _) => vec![filter.without_words()],
        (None, Some(_)) => vec![filter.clone(), filter.by_words()],
        (None, None) => vec![filter.clone()],
    };
    // For each order a statement of its own.
    macro_rules! in_order {
        ($page:ident, $after:expr, $tail:literal, $order:literal) => {{
            let (key, id) = $after;
            let page = |filter: &Filter| $page!(query, filter, few, key, id; $tail, $order);
            cheapest(tx, &ways, page).await?.fetch_all(tx).await?
        }};
    }
    let rows = match query.sort {
        ItemSort::Newest => in_order!(
            page_by_item,
            after::<Timestamp>(query)?,
            "and ($12::timestamptz is null or (case when $16 is null then created_at else created_at + interval '0' end, fact_id) < ($12, $13))
            order by case when $16 is null then created_at else created_at + interval '0' end desc, fact_id desc",
            "order by page.created_at desc, page.fact_id desc"
        ),
        ItemSort::EndingSoon => in_order!(
            page_by_item,
            after::<Timestamp>(query)?,
            "and ($12::timestamptz is null or (case when $16 is null then ends_at else ends_at + interval '0' end, fact_id) > ($12, $13))
            order by case when $16 is null then ends_at else ends_at + interval '0' end, fact_id",
            "order by page.ends_at, page.fact_id"
        ),
        ItemSort::PriceAsc => in_order!(
            page_by_price,
            after_price(query)?,
            "and ($12::text is null or (case when $16 is null then price else price + 0 end, fact_id) > ($12::numeric, $13))
            order by case when $16 is null then price else price + 0 end, fact_id",
            "order by page.price, page.fact_id"
        ),
        ItemSort::PriceDesc => in_order!(
            page_by_price,
            after_price(query)?,
            "and ($12::text is null or (case when $16 is null then price else price + 0 end, fact_id) < ($12::numeric, $13))
            order by case when $16 is null then price else price + 0 end desc, fact_id desc",
            "order by page.price desc, page.fact_id desc"
        ),
        ItemSort::MostBids => in_order!(
            page_by_price,
            after::<i64>(query)?,
            "and ($12::bigint is null or (case when $16 is null then seq else seq + 0 end, fact_id) < ($12, $13))
            order by case when $16 is null then seq else seq + 0 end desc, fact_id desc",
            "order by page.seq desc, page.fact_id desc"
        ),
    };
    Ok(rows)
}

/// The sort key and the id after which the page starts.
fn after<K: DeserializeOwned>(query: &ListItems) -> Result<(Option<K>, Option<Uuid>), Refused> {
    let cursor = query.page.cursor.as_deref();
    Ok(cursor.map(|cursor| cursor::decode(query.sort, cursor)).transpose()?.unzip())
}

fn after_price(query: &ListItems) -> Result<(Option<String>, Option<Uuid>), Refused> {
    let (price, id) = after::<Amount>(query)?;
    Ok((price.map(|price| price.to_string()), id))
}

/// What a filter keeps.
pub(crate) struct Found {
    /// The items, as far as they were collected: [`MOST_COUNTED`] at most.
    pub(crate) ids: Vec<Uuid>,
    /// Those are all.
    pub(crate) complete: bool,
}

impl Found {
    /// Which items there are, when it is known.
    fn few(&self) -> Option<&[Uuid]> {
        self.complete.then_some(&self.ids)
    }
}

/// Collects from one table or the other: every item has a row in both, and where nothing is asked of the second, the
/// planner leaves it out.
macro_rules! found {
    ($filter:ident, $most:ident, $from:literal) => {
        over_items!(
            query_as!(
                Found,
                r#"select coalesce((array_agg(id))[:$12::int], '{}') as "ids!", count(*) <= $12 as "complete!" from ("#
                    + $from,
                "limit $12::bigint + 1) as kept"
            ),
            $filter,
            $most
        )
    };
}

macro_rules! found_by_item {
    ($filter:ident, $most:ident) => {
        found!($filter, $most, "select id from items fact left join prices on item_id = id")
    };
}

macro_rules! found_by_price {
    ($filter:ident, $most:ident) => {
        found!($filter, $most, "select item_id as id from prices fact left join items on id = item_id")
    };
}

/// Looks for words, which `$filter` leaves out, in so many of the items that it keeps.
macro_rules! read {
    ($filter:ident, $words:ident, $most:ident, $from:literal, $order:literal) => {
        over_items!(
            query_as!(
                Found,
                "with candidate as materialized (" + $from,
                $order
                    + r#" limit $13)
                -- How many have been read is asked only when there are no more to read.
                select coalesce((array_agg(id))[:$12::int], '{}') as "ids!",
                    case when count(*) <= $12 then (select count(*) from candidate) < $13 else false end as "complete!"
                from (
                    select candidate.id from candidate join items on items.id = candidate.id
                    where words @@ websearch_to_tsquery('simple', $14) limit $12::bigint + 1
                ) as kept"#
            ),
            $filter,
            MOST_COUNTED,
            $most,
            $words
        )
    };
}

macro_rules! read_by_item {
    ($filter:ident, $words:ident, $most:ident) => {
        read!(
            $filter,
            $words,
            $most,
            "select id from items fact left join prices on item_id = id",
            "order by created_at desc, id desc"
        )
    };
}

macro_rules! read_by_price {
    ($filter:ident, $words:ident, $most:ident) => {
        // Without words nothing is asked of items but their version, which all have.
        read!(
            $filter,
            $words,
            $most,
            "select item_id as id from prices fact left join items on id = item_id",
            "order by price, item_id"
        )
    };
}

/// Collects what the filter keeps, with no more work than is said: not all when there are many, or when common words are in
/// too few of the items that were read.
pub(crate) async fn find(tx: &mut PgConnection, filter: &Filter, effort: Effort) -> Result<Found> {
    let by_words = &filter.by_words();
    if let Some(words) = filter.q.as_deref()
        && told(tx, by_words).await? > MOST_TOLD
    {
        return read(tx, words, &filter.without_words(), effort).await;
    }
    let by_item = |most: i64| found_by_item!(by_words, most);
    let by_price = |most: i64| found_by_price!(filter, most);
    collect(tx, filter.is_priced(), (MOST_COUNTED, effort.cost), by_item, by_price).await
}

/// Of how many items the index of words would tell.
async fn told(tx: &mut PgConnection, filter: &Filter) -> Result<f64> {
    let statement = sqlx::query!(
        "select id from items where words @@ websearch_to_tsquery('simple', $1) and ($2 = '' or words @@ $2::text::tsquery)",
        filter.q,
        filter.facts,
    );
    Ok(rows_of(&expected(tx, statement).await?))
}

/// Looks for common words in items that the filter keeps.
async fn read(tx: &mut PgConnection, words: &str, filter: &Filter, effort: Effort) -> Result<Found> {
    let by_item = |most: i64| read_by_item!(filter, words, most);
    let by_price = |most: i64| read_by_price!(filter, words, most);
    collect(tx, filter.is_priced(), (effort.read, effort.cost), by_item, by_price).await
}

/// Takes so many items, or as many as are affordable. No index has both words and prices, so where prices are asked for one
/// table is read first: that with which Postgres itself expects less work.
async fn collect<'q, I, P>(
    tx: &mut PgConnection,
    is_priced: bool,
    (most, read_cost): (i64, f64),
    by_item: impl Fn(i64) -> Map<'q, Postgres, I, PgArguments>,
    by_price: impl Fn(i64) -> Map<'q, Postgres, P, PgArguments>,
) -> Result<Found>
where
    I: FnMut(PgRow) -> sqlx::Result<Found> + Send,
    P: FnMut(PgRow) -> sqlx::Result<Found> + Send,
{
    let plan = expected(tx, by_item(most)).await?;
    if is_priced {
        let other = expected(tx, by_price(most)).await?;
        if cost_of(&other) < cost_of(&plan) {
            return Ok(by_price(affordable(&other, most, read_cost)?).fetch_one(tx).await?);
        }
    }
    Ok(by_item(affordable(&plan, most, read_cost)?).fetch_one(tx).await?)
}

/// How many of `most` items to take with this plan. All of them when no more are expected: a page of few is found by no other
/// way. Of more than that as many as can be come to without too much on the way to them.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "few")]
fn affordable(plan: &serde_json::Value, most: i64, read_cost: f64) -> Result<i64> {
    let all = before_limit(plan).ok_or_else(|| anyhow::anyhow!("a plan without a limit"))?;
    if rows_of(all) <= most as f64 {
        return Ok(most);
    }
    let affordable = rows_of(all) * read_cost / cost_of(all).max(1.0);
    Ok(affordable.clamp(LEAST_READ as f64, most as f64) as i64)
}

/// The part of a plan of which a limit takes the first rows.
fn before_limit(plan: &serde_json::Value) -> Option<&serde_json::Value> {
    if plan["Node Type"] == "Limit" {
        return plan["Plans"].get(0);
    }
    plan["Plans"].as_array()?.iter().find_map(before_limit)
}

/// Of several ways to the same items that which Postgres expects to be the shortest.
async fn cheapest<'f, 'q, Q: Execute<'q, Postgres>>(
    tx: &mut PgConnection,
    ways: &'f [Filter],
    statement: impl Fn(&'f Filter) -> Q,
) -> Result<Q> {
    let (mut best, mut least) = (0, f64::INFINITY);
    for (index, way) in ways.iter().enumerate().filter(|_| ways.len() > 1) {
        let cost = cost(tx, statement(way)).await?;
        if cost < least {
            (best, least) = (index, cost);
        }
    }
    Ok(statement(&ways[best]))
}

async fn cost<'q>(tx: &mut PgConnection, statement: impl Execute<'q, Postgres>) -> Result<f64> {
    Ok(cost_of(&expected(tx, statement).await?))
}

fn cost_of(plan: &serde_json::Value) -> f64 {
    plan["Total Cost"].as_f64().unwrap_or(f64::INFINITY)
}

fn rows_of(plan: &serde_json::Value) -> f64 {
    plan["Plan Rows"].as_f64().unwrap_or_default()
}

/// What the planner expects of a statement, which is not run.
async fn expected<'q>(
    tx: &mut PgConnection,
    mut statement: impl Execute<'q, Postgres>,
) -> Result<serde_json::Value> {
    let values = statement.take_arguments().map_err(sqlx::Error::Encode)?.unwrap_or_default();
    // The text is our own; what comes from outside is in the values.
    let explain = AssertSqlSafe(format!("explain (format json) {}", statement.sql().as_str()));
    let mut plan: Json<serde_json::Value> = sqlx::query_scalar_with(explain, values).fetch_one(tx).await?;
    Ok(plan[0]["Plan"].take())
}

struct Row {
    id: Uuid,
    item_version: i64,
    seller_id: Uuid,
    name: String,
    description: String,
    category_id: Option<i64>,
    image_urls: Json<Vec<String>>,
    currency: String,
    start_price: String,
    bid_increment: String,
    increment_policy: String,
    buy_now_price: Option<String>,
    outcome: Option<String>,
    starts_at: Timestamp,
    ends_at: Timestamp,
    extension_window_seconds: i32,
    extension_seconds: i32,
    winner_id: Option<Uuid>,
    final_price: Option<String>,
    closed_at: Option<Timestamp>,
    created_at: Timestamp,
    seq: i64,
    leader_id: Option<Uuid>,
    price: String,
    min_next_bid: String,
    reserve_met: bool,
    updated_at: Timestamp,
}

impl Row {
    /// Where a page that ends here ends.
    fn place(&self, sort: ItemSort) -> Result<String> {
        Ok(match sort {
            ItemSort::Newest => cursor::encode(sort, &self.created_at, self.id)?,
            ItemSort::EndingSoon => cursor::encode(sort, &self.ends_at, self.id)?,
            ItemSort::PriceAsc | ItemSort::PriceDesc => cursor::encode(sort, &self.price, self.id)?,
            ItemSort::MostBids => cursor::encode(sort, &self.seq, self.id)?,
        })
    }

    /// As a visitor sees it. The reserve is not known here.
    fn into_item(self, now: Timestamp) -> Result<Item> {
        let amount = |text: &str| text.parse::<Amount>().map_err(anyhow::Error::new);
        let optional = |text: Option<String>| text.as_deref().map(amount).transpose();
        let seconds = |seconds: i32| u32::try_from(seconds).unwrap_or_default();
        Ok(Item {
            id: ItemId(self.id),
            seller_id: UserId(self.seller_id),
            status: status_of(self.outcome.as_deref(), self.starts_at <= now),
            name: self.name,
            description: self.description,
            category_id: self.category_id,
            image_urls: self.image_urls.0,
            currency: self.currency.parse().map_err(anyhow::Error::new)?,
            start_price: amount(&self.start_price)?,
            bid_increment: amount(&self.bid_increment)?,
            increment_policy: IncrementPolicy::parse(&self.increment_policy).unwrap_or_default(),
            reserve_met: self.reserve_met,
            reserve_price: None,
            buy_now_price: optional(self.buy_now_price)?,
            current_price: amount(&self.price)?,
            min_next_bid: amount(&self.min_next_bid)?,
            bid_count: self.seq,
            leader_id: self.leader_id.map(UserId),
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            extension_window_seconds: seconds(self.extension_window_seconds),
            extension_seconds: seconds(self.extension_seconds),
            winner_id: self.winner_id.map(UserId),
            final_price: optional(self.final_price)?,
            closed_at: self.closed_at,
            end_reason: None,
            relisted_as: None,
            version: self.item_version + self.seq,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// Where an item stands: until the hammer has fallen the clock says whether bidding has begun.
pub(crate) fn status_of(outcome: Option<&str>, begun: bool) -> ItemStatus {
    match outcome {
        Some("sold") => ItemStatus::Sold,
        Some("unsold") => ItemStatus::Unsold,
        Some(_) => ItemStatus::Cancelled,
        None if begun => ItemStatus::Open,
        None => ItemStatus::Scheduled,
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Ordering, time::Duration};

    use contracts::{
        auctions::{ItemClosed, ItemState},
        catalog::CategoryCount,
        page::PageQuery,
    };
    use serde_json::json;
    use testing::Harness;

    use super::*;
    use crate::fixtures::{ANN, SELLER, amount, bid, find, hear, lamp, minutes, noon, offer, told};

    const SORTS: [ItemSort; 5] =
        [ItemSort::EndingSoon, ItemSort::Newest, ItemSort::PriceAsc, ItemSort::PriceDesc, ItemSort::MostBids];

    fn read(query: serde_json::Value) -> ListItems {
        serde_json::from_value(query).unwrap()
    }

    async fn page(app: &Harness, query: &ListItems) -> Listing {
        app.at(noon()).ask(&function(), query).await.unwrap()
    }

    async fn refusal(app: &Harness, query: &ListItems) -> Refused {
        match app.at(noon()).ask(&function(), query).await {
            Err(platform::Error::Refused(refused)) => refused,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// The numbers of the items that are found, in the order of their ids.
    async fn found(app: &Harness, query: serde_json::Value) -> Vec<u128> {
        let mut found: Vec<u128> =
            find(app, &read(query)).await.iter().map(|item| item.id.0.as_u128()).collect();
        found.sort_unstable();
        found
    }

    fn closed(item: ItemState, status: ItemStatus) -> ItemState {
        ItemState { item_version: 2, status, closed_at: Some(item.ends_at), ..item }
    }

    /// Open items with many ties in every order.
    async fn ties(app: &Harness, count: u32) {
        let items: Vec<ItemState> = (1..=count)
            .map(|n| ItemState {
                created_at: noon() - Duration::from_secs(u64::from(n % 3)),
                ends_at: noon() + minutes(u64::from(60 + n % 4)),
                start_price: amount(&format!("{}.00", 9 + n % 2)),
                ..lamp(u128::from(n))
            })
            .collect();
        offer(app, &items).await;
        let bids = items.iter().step_by(5).map(|item| told(app, &bid(item, 2, "10.00")));
        hear(app, &bids.collect::<Vec<_>>()).await;
    }

    /// All pages, one after the other.
    async fn walk(app: &Harness, sort: ItemSort, limit: u32) -> Vec<Item> {
        let (mut walked, mut cursor) = (Vec::new(), None);
        loop {
            let query = PageQuery { limit, offset: 0, cursor };
            let next = page(app, &ListItems { sort, page: query, ..Default::default() }).await;
            assert_eq!(next.page_info.has_more, next.page_info.next_cursor.is_some());
            walked.extend(next.data);
            cursor = next.page_info.next_cursor;
            if cursor.is_none() {
                return walked;
            }
        }
    }

    /// No item twice, each after those that it must follow.
    fn assert_order(sort: ItemSort, items: &[Item]) {
        for pair in items.windows(2) {
            let (one, two) = (&pair[0], &pair[1]);
            let value = |item: &Item| item.current_price.in_currency(item.currency).unwrap().minor;
            let (order, ids) = match sort {
                ItemSort::EndingSoon => (one.ends_at.cmp(&two.ends_at), one.id.cmp(&two.id)),
                ItemSort::Newest => (two.created_at.cmp(&one.created_at), two.id.cmp(&one.id)),
                ItemSort::PriceAsc => (value(one).cmp(&value(two)), one.id.cmp(&two.id)),
                ItemSort::PriceDesc => (value(two).cmp(&value(one)), two.id.cmp(&one.id)),
                ItemSort::MostBids => (two.bid_count.cmp(&one.bid_count), two.id.cmp(&one.id)),
            };
            assert_eq!(order.then(ids), Ordering::Less, "{sort:?}: {one:?} {two:?}");
        }
    }

    #[tokio::test]
    async fn small_pages_over_ties_are_one_big_page() {
        let app = Harness::start(crate::database()).await;
        ties(&app, 24).await;
        for sort in SORTS {
            let whole = page(&app, &ListItems { sort, ..read(json!({ "limit": 100 })) }).await;
            assert_eq!((whole.page_info.total, whole.data.len()), (24, 24));
            assert_order(sort, &whole.data);
            for limit in [1, 5, 23, 24] {
                assert_eq!(walk(&app, sort, limit).await, whole.data, "{sort:?} by {limit}");
            }
            let skipped =
                page(&app, &ListItems { sort, ..read(json!({ "limit": 100, "offset": 20 })) }).await;
            assert_eq!((skipped.data.as_slice(), skipped.page_info.offset), (&whole.data[20..], 20));
        }
    }

    #[tokio::test]
    async fn pages_among_many_items_are_in_order_and_complete() {
        let app = Harness::start(crate::database()).await;
        let many = u32::try_from(MOST_COUNTED).unwrap() + 25;
        ties(&app, many).await;
        for sort in SORTS {
            let walked = walk(&app, sort, 100).await;

            assert_eq!(walked.len(), many as usize, "{sort:?}");
            assert_order(sort, &walked);
        }
    }

    #[tokio::test]
    async fn statements_are_planned_for_the_values_they_come_with() {
        let app = Harness::start(crate::database()).await;
        for _ in 0..3 {
            page(&app, &ListItems::default()).await;
        }

        // On the connection that was used; others know none of the statements.
        let (mut plans, mut others) = (Vec::new(), Vec::new());
        while plans.is_empty() {
            let mut connection = app.pool().acquire().await.unwrap();
            plans = sqlx::query!(
                r#"select custom_plans as "custom!", generic_plans as "generic!" from pg_prepared_statements
                where statement like '%websearch_to_tsquery%' and statement not like '%pg_prepared_statements%'"#
            )
            .fetch_all(&mut *connection)
            .await
            .unwrap();
            others.push(connection);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }

        for plan in plans {
            assert!(plan.custom > 0 && plan.generic == 0, "{plan:?}");
        }
    }

    #[test]
    fn few_are_collected_whatever_it_costs_and_many_as_far_as_it_goes() {
        for (rows, cost, taken) in [
            (0.0, 0.0, 2_000),
            (1_900.0, 1e6, 2_000),
            (1e6, 1.0, 2_000),
            (100_000.0, 100.0 * FOR_PAGE.cost, 1_000),
            (100_000.0, 1e9, LEAST_READ),
        ] {
            let all = json!({ "Node Type": "Index Only Scan", "Plan Rows": rows, "Total Cost": cost });
            let plan =
                json!({ "Node Type": "Aggregate", "Plans": [{ "Node Type": "Limit", "Plans": [all] }] });
            assert_eq!(affordable(&plan, 2_000, FOR_PAGE.cost).unwrap(), taken, "{rows} {cost}");
        }
    }

    #[tokio::test]
    async fn pages_neither_repeat_nor_skip_an_item_because_others_change() {
        let app = Harness::start(crate::database()).await;
        ties(&app, 24).await;
        let query =
            |cursor| ListItems { page: PageQuery { limit: 10, offset: 0, cursor }, ..read(json!({})) };
        let expected = page(&app, &read(json!({ "limit": 100 }))).await.data;

        let first = page(&app, &query(None)).await;
        // New ones in front, and one of those that were shown goes out of sight.
        offer(&app, &[100, 101].map(|id| ItemState { created_at: noon() + minutes(1), ..lamp(id) })).await;
        let gone = first.data[4].id.0;
        sqlx::query!("delete from items where id = $1", gone).execute(app.pool()).await.unwrap();
        let second = page(&app, &query(first.page_info.next_cursor)).await;
        let third = page(&app, &query(second.page_info.next_cursor)).await;

        assert_eq!([first.data, second.data, third.data].concat(), expected);
    }

    #[tokio::test]
    async fn a_cursor_is_good_for_its_own_order_only() {
        let app = Harness::start(crate::database()).await;
        ties(&app, 24).await;
        for sort in SORTS {
            let one = ListItems { sort, ..read(json!({ "limit": 1 })) };
            let cursor = page(&app, &one).await.page_info.next_cursor.unwrap();
            for other in SORTS {
                let foreign = PageQuery { cursor: Some(cursor.clone()), ..Default::default() };
                let query = ListItems { sort: other, page: foreign, ..Default::default() };
                if other == sort {
                    page(&app, &query).await;
                    continue;
                }
                let refused = refusal(&app, &query).await;
                assert_eq!(
                    (refused.status, refused.code.as_ref()),
                    (400, "INVALID_INPUT"),
                    "{sort:?} {other:?}"
                );
                assert!(refused.details.unwrap().starts_with("cursor: "));
            }
        }
        for cursor in ["", "x", "2", "%27", "💥"] {
            let refused = refusal(&app, &read(json!({ "cursor": cursor }))).await;
            assert!(refused.details.unwrap().starts_with("cursor: "), "{cursor}");
        }
    }

    #[tokio::test]
    async fn each_filter_keeps_what_it_names() {
        let app = Harness::start(crate::database()).await;
        let other = UserId(Uuid::from_u128(9));
        let yen = "JPY".parse().unwrap();
        offer(
            &app,
            &[
                ItemState { category_id: Some(7), ..lamp(1) },
                ItemState { seller_id: other, start_price: amount("10.01"), ..lamp(2) },
                ItemState {
                    currency: yen,
                    start_price: amount("1500"),
                    ends_at: noon() + minutes(90),
                    ..lamp(3)
                },
                ItemState { starts_at: noon() + minutes(5), ..lamp(4) },
                closed(lamp(5), ItemStatus::Sold),
                closed(lamp(6), ItemStatus::Unsold),
                ItemState { ends_at: noon() - minutes(1), category_id: Some(7), ..lamp(7) },
                closed(lamp(8), ItemStatus::Cancelled),
            ],
        )
        .await;
        hear(&app, &[told(&app, &bid(&lamp(7), 3, "99.99"))]).await;

        for (query, expected) in [
            (json!({}), &[1, 2, 3, 4, 5, 6, 7, 8][..]),
            (json!({ "category_id": 7 }), &[1, 7]),
            (json!({ "seller_id": other }), &[2]),
            (json!({ "seller_id": ANN }), &[]),
            (json!({ "status": "scheduled" }), &[4]),
            // Open until the hammer falls, also past its end.
            (json!({ "status": "open" }), &[1, 2, 3, 7]),
            (json!({ "status": "sold" }), &[5]),
            (json!({ "status": "unsold" }), &[6]),
            (json!({ "status": "cancelled" }), &[8]),
            (json!({ "min_price": "10.01" }), &[2, 3, 7]),
            (json!({ "max_price": 10 }), &[1, 4, 5, 6, 8]),
            (json!({ "min_price": "10.001", "max_price": "99.990" }), &[2, 7]),
            (json!({ "ending_before": noon() + minutes(60) }), &[7]),
            (json!({ "ending_before": noon() + minutes(90), "min_price": 0 }), &[1, 2, 4, 5, 6, 7, 8]),
            (json!({ "sort": "ending_soon" }), &[1, 2, 3, 4]),
            (json!({ "sort": "ending_soon", "status": "open" }), &[1, 2, 3, 7]),
            (json!({ "sort": "ending_soon", "status": "sold" }), &[5]),
            // In what has no words nothing is found, whatever else is asked.
            (json!({ "q": "!", "category_id": 7, "status": "open" }), &[]),
            (json!({ "q": "-table", "category_id": 7 }), &[1, 7]),
            (
                json!({ "category_id": 7, "status": "open", "q": "lamp", "seller_id": SELLER, "max_price": 20 }),
                &[1],
            ),
        ] {
            assert_eq!(found(&app, query.clone()).await, expected, "{query}");
            let total = page(&app, &read(query.clone())).await.page_info.total;
            assert_eq!(total, u64::try_from(expected.len()).unwrap(), "{query}");
        }
    }

    #[tokio::test]
    async fn words_are_found_in_names_and_descriptions() {
        let app = Harness::start(crate::database()).await;
        let named = |id, name: &str, description: &str| ItemState {
            name: name.into(),
            description: description.into(),
            ..lamp(id)
        };
        offer(
            &app,
            &[
                named(1, "Brass lamp", "An old light, made of brass"),
                named(2, "Table", "Oak, with a brass lamp on it"),
                named(3, "Łóżko dębowe", "ein Bett aus Eiche"),
            ],
        )
        .await;

        for (q, expected) in [
            ("brass", &[1, 2][..]),
            ("BRASS lamp", &[1, 2]),
            ("\"old light\"", &[1]),
            ("\"light old\"", &[]),
            ("oak or light", &[1, 2]),
            ("brass -table", &[1]),
            ("-brass", &[3]),
            ("łóżko", &[3]),
            ("ŁÓŻKO eiche", &[3]),
            ("bras", &[]),
            // Known to the index, and to no visitor.
            ("RUNNING", &[]),
            ("\"RUNNING\"", &[]),
            ("brass -RUNNING", &[1, 2]),
            ("", &[1, 2, 3]),
            (" \t ", &[1, 2, 3]),
            ("\0", &[1, 2, 3]),
            ("brass\0lamp", &[1, 2]),
        ] {
            assert_eq!(found(&app, json!({ "q": q })).await, expected, "{q:?}");
        }
    }

    #[tokio::test]
    async fn any_text_may_be_searched_for() {
        let app = Harness::start(crate::database()).await;
        offer(&app, &[lamp(1)]).await;
        let (quotes, word, minus, not) =
            ("\"".repeat(200), "x".repeat(200), "-".repeat(200), "- ".repeat(99));
        for q in [
            "'; drop table items; --",
            "\\",
            "a\\'b",
            "lamp:*",
            "lamp & | ! ( ) <->",
            "<-> <2>",
            "!",
            "&",
            ":",
            "()",
            "\"",
            "\"lamp",
            "or",
            "or or",
            "-",
            "- -",
            "%",
            "_",
            "$1",
            "{}",
            "\u{202e}\u{feff}",
            "💡",
            "\r\n\t",
            "\u{1}",
            "http://a.b/c?d=e&f",
            "a@b.c",
            "1e999",
            "-0",
            "NaN",
            "<b>lamp</b>",
            &quotes,
            &word,
            &minus,
            &not,
        ] {
            for sort in SORTS {
                page(&app, &ListItems { sort, ..read(json!({ "q": q })) }).await;
            }
        }

        assert_eq!(found(&app, json!({ "q": "lamp" })).await, [1]);
    }

    #[tokio::test]
    async fn a_scheduled_item_becomes_open_by_the_clock() {
        let app = Harness::start(crate::database()).await;
        let start = noon() + minutes(5);
        offer(&app, &[ItemState { status: ItemStatus::Scheduled, starts_at: start, ..lamp(1) }]).await;
        let open = read(json!({ "status": "open" }));

        let before = app.at(start - Duration::from_micros(1));
        let after = app.at(start);

        assert_eq!(before.ask(&function(), &open).await.unwrap().data, []);
        let shown = before.ask(&function(), &ListItems::default()).await.unwrap().data;
        assert_eq!(shown[0].status, ItemStatus::Scheduled);
        let shown = after.ask(&function(), &open).await.unwrap().data;
        assert_eq!(shown[0].status, ItemStatus::Open);
    }

    #[tokio::test]
    async fn what_ended_is_not_ending_soon() {
        let app = Harness::start(crate::database()).await;
        offer(&app, &[lamp(1), ItemState { ends_at: noon() + minutes(70), ..lamp(2) }]).await;
        let query = read(json!({ "sort": "ending_soon" }));
        let ids = async |app: &Harness| {
            let page = app.ask(&function(), &query).await.unwrap();
            page.data.iter().map(|item| item.id.0.as_u128()).collect::<Vec<_>>()
        };

        assert_eq!(ids(&app.at(noon())).await, [1, 2]);
        assert_eq!(ids(&app.at(noon() + minutes(60))).await, [2]);
        // Closed before its end.
        hear(&app, &[told(&app, &ItemClosed(closed(lamp(1), ItemStatus::Sold)))]).await;
        assert_eq!(ids(&app.at(noon())).await, [2]);
    }

    #[tokio::test]
    async fn a_facet_says_what_the_list_would_find_with_each_choice() {
        let app = Harness::start(crate::database()).await;
        let statuses = [ItemStatus::Sold, ItemStatus::Unsold, ItemStatus::Cancelled, ItemStatus::Sold];
        let items: Vec<ItemState> = (1..=60)
            .map(|n: u32| {
                let item = ItemState {
                    category_id: (!n.is_multiple_of(4)).then_some(i64::from(n % 4)),
                    seller_id: UserId(Uuid::from_u128(u128::from(n % 2) + 1)),
                    start_price: amount(&format!("{}", n % 7 + 1)),
                    starts_at: if n.is_multiple_of(10) { noon() + minutes(5) } else { noon() },
                    ..lamp(u128::from(n))
                };
                match statuses.get(n as usize % 8) {
                    Some(status) => closed(item, *status),
                    None => item,
                }
            })
            .collect();
        offer(&app, &items).await;
        assert_eq!(page(&app, &read(json!({}))).await.facets, None);
        for filter in [
            json!({}),
            json!({ "q": "lamp" }),
            json!({ "category_id": 3 }),
            json!({ "status": "sold" }),
            json!({ "status": "open", "category_id": 2 }),
            json!({ "seller_id": SELLER, "min_price": 2, "max_price": "5" }),
            json!({ "sort": "ending_soon", "status": "sold", "ending_before": noon() + minutes(61) }),
            json!({ "sort": "ending_soon" }),
            json!({ "q": "nothing" }),
        ] {
            let with = |name: &str, value: serde_json::Value| {
                let mut query = filter.clone();
                query[name] = value;
                read(query)
            };
            let total = async |query| page(&app, &query).await.page_info.total;

            let facets = page(&app, &with("facets", json!("true"))).await.facets.unwrap();

            for status in ["scheduled", "open", "sold", "unsold", "cancelled"] {
                let told = facets.status.iter().find(|told| json!(told.status) == status);
                let told = told.map_or(0, |told| told.count);
                assert_eq!(told, total(with("status", json!(status))).await, "{filter} {status}");
            }
            for id in 1..=3 {
                let told = facets.category.iter().find(|told| told.id == id).map_or(0, |told| told.count);
                assert_eq!(told, total(with("category_id", json!(id))).await, "{filter} {id}");
            }
            assert!(
                facets.category.len() <= 3 && facets.category.is_sorted_by(|one, two| one.count >= two.count)
            );
            assert!(!facets.category_is_capped && !facets.status_is_capped);
        }
    }

    #[tokio::test]
    async fn many_are_counted_to_a_thousand() {
        let app = Harness::start(crate::database()).await;
        offer(&app, &[lamp(1), ItemState { category_id: Some(7), ..lamp(2) }]).await;
        let copies = "with copy as (
                insert into items (id, item_version, seller_id, name, description, image_urls, currency, start_price,
                    bid_increment, starts_at, ends_at, extension_window_seconds, extension_seconds, created_at, words)
                select gen_random_uuid(), item_version, seller_id, name, description, image_urls, currency, start_price,
                    bid_increment, starts_at, ends_at, extension_window_seconds, extension_seconds, created_at, words
                from items, generate_series(1, 998) where category_id is null returning id
            )
            insert into prices (item_id, seq, price, min_next_bid, reserve_met, starts_at, ends_at)
            select id, 0, 10, 10, false, now(), now() from copy";
        sqlx::query(copies).execute(app.pool()).await.unwrap();

        let exact = page(&app, &ListItems::default()).await.page_info;
        offer(&app, &[lamp(3)]).await;
        let capped = page(&app, &ListItems::default()).await.page_info;
        let few = page(&app, &read(json!({ "category_id": 7 }))).await.page_info;
        let facets = page(&app, &read(json!({ "facets": true }))).await.facets.unwrap();

        assert_eq!((exact.total, exact.total_is_capped, exact.has_more), (1_000, false, true));
        assert_eq!((capped.total, capped.total_is_capped), (1_000, true));
        assert_eq!((few.total, few.total_is_capped), (1, false));
        // Three without a category and 998 copies of the first: one more than are counted.
        assert_eq!((facets.status_is_capped, facets.category_is_capped), (true, true));
        assert_eq!(facets.category, [CategoryCount { id: 7, count: 1 }]);
        assert_eq!(json!(capped)["total_is_capped"], true);
        assert_eq!(json!(few).get("total_is_capped"), None);
    }
}
