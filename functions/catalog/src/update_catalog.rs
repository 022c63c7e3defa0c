//! `update-catalog`: keep the listing in step with what happens.
//!
//! Reacts to the `item.*` events, which carry the whole item but its price, and to [`BidPlaced`],
//! which carries the whole price. The newer version of each wins, so neither order nor repetition
//! matters: also a bid may come before its item. Of an item that is gone a row stays that is not listed: what came
//! before its end may be heard after it.

use std::collections::{BTreeMap, btree_map::Entry};

use contracts::{
    Amount, ItemId,
    auctions::{
        BidPlaced, ItemClosed, ItemCreated, ItemDeleted, ItemExtended, ItemState, ItemStatus, ItemUpdated,
        SnapshotItems,
    },
};
use platform::{Cx, Function, Received, Result, Timestamp};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    DOMAIN,
    words::{self, RUNNING},
};

platform::hears! {
    /// What the listing is made of.
    pub enum Heard {
        /// There is a new item.
        ItemCreated(ItemCreated),
        /// What is said of it was changed.
        ItemUpdated(ItemUpdated),
        /// Its end has moved.
        ItemExtended(ItemExtended),
        /// It has ended.
        ItemClosed(ItemClosed),
        /// It is gone.
        ItemDeleted(ItemDeleted),
        /// It has a new price.
        BidPlaced(BidPlaced),
    }
}

/// A consumer of [`Heard`].
pub fn function() -> Function {
    Function::events(DOMAIN, "update-catalog", update_catalog)
        .rebuilt_from::<SnapshotItems>(&["items", "prices"])
}

async fn update_catalog(cx: &mut Cx, events: Vec<Received<Heard>>) -> Result<()> {
    // In the order of the items, so that two batches cannot wait for each other.
    let mut items: BTreeMap<ItemId, Known> = BTreeMap::new();
    let mut bids: BTreeMap<ItemId, BidPlaced> = BTreeMap::new();
    for event in events {
        match event.message {
            Heard::ItemCreated(ItemCreated(item))
            | Heard::ItemUpdated(ItemUpdated(item))
            | Heard::ItemExtended(ItemExtended(item))
            | Heard::ItemClosed(ItemClosed(item)) => {
                keep_newest(&mut items, item.item_id, Known { item, gone: false }, Known::item_version);
            }
            Heard::ItemDeleted(ItemDeleted(item)) => {
                keep_newest(&mut items, item.item_id, Known { item, gone: true }, Known::item_version);
            }
            Heard::BidPlaced(bid) => keep_newest(&mut bids, bid.item_id, bid, |bid| bid.seq),
        }
    }
    // Without a bid an item stands at its start price.
    let unpriced: Vec<Uuid> = items.keys().filter(|id| !bids.contains_key(id)).map(|id| id.0).collect();
    let offered: Vec<Uuid> = items.keys().map(|id| id.0).collect();
    if !items.is_empty() {
        write_items(cx.tx().await?, items).await?;
    }
    write_prices(cx.tx().await?, bids, &unpriced).await?;
    if !offered.is_empty() {
        write_facts(cx.tx().await?, &offered).await?;
    }
    Ok(())
}

/// What is known of an item.
struct Known {
    item: ItemState,
    gone: bool,
}

impl Known {
    fn item_version(&self) -> i64 {
        self.item.item_version
    }
}

fn keep_newest<T>(newest: &mut BTreeMap<ItemId, T>, id: ItemId, state: T, version: fn(&T) -> i64) {
    match newest.entry(id) {
        Entry::Vacant(place) => {
            place.insert(state);
        }
        Entry::Occupied(mut known) if version(known.get()) < version(&state) => {
            known.insert(state);
        }
        Entry::Occupied(_) => {}
    }
}

async fn write_items(tx: &mut PgConnection, items: BTreeMap<ItemId, Known>) -> Result<()> {
    let mut rows = ItemRows::default();
    for item in items.into_values() {
        rows.push(item)?;
    }
    sqlx::query!(
        r#"
        insert into items (id, item_version, seller_id, name, description, category_id, image_urls, currency,
            start_price, bid_increment, buy_now_price, outcome, starts_at, ends_at, extension_window_seconds,
            extension_seconds, winner_id, final_price, closed_at, created_at, words, increment_policy)
        select id, item_version, seller_id, name, description, category_id, image_urls::jsonb, currency,
            start_price::numeric, bid_increment::numeric, buy_now_price::numeric, outcome, starts_at, ends_at,
            extension_window_seconds, extension_seconds, winner_id, final_price::numeric, closed_at, created_at,
            setweight(to_tsvector('simple', plain_name), 'A') || setweight(to_tsvector('simple', plain_description), 'B')
                || facts::tsvector,
            increment_policy
        from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::text[],
            $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[],
            $15::integer[], $16::integer[], $17::uuid[], $18::text[], $19::timestamptz[], $20::timestamptz[],
            $21::text[], $22::text[], $23::text[], $24::text[])
            as item (id, item_version, seller_id, name, description, category_id, image_urls, currency,
                start_price, bid_increment, buy_now_price, outcome, starts_at, ends_at, extension_window_seconds,
                extension_seconds, winner_id, final_price, closed_at, created_at, plain_name, plain_description,
                increment_policy, facts)
        order by id
        on conflict (id) do update set
            item_version = excluded.item_version, seller_id = excluded.seller_id, name = excluded.name,
            description = excluded.description, category_id = excluded.category_id,
            image_urls = excluded.image_urls, currency = excluded.currency, start_price = excluded.start_price,
            bid_increment = excluded.bid_increment, buy_now_price = excluded.buy_now_price,
            outcome = excluded.outcome, starts_at = excluded.starts_at, ends_at = excluded.ends_at,
            extension_window_seconds = excluded.extension_window_seconds,
            extension_seconds = excluded.extension_seconds, winner_id = excluded.winner_id,
            final_price = excluded.final_price, closed_at = excluded.closed_at, created_at = excluded.created_at,
            words = excluded.words, increment_policy = excluded.increment_policy
        where items.item_version < excluded.item_version
        "#,
        &rows.ids,
        &rows.versions,
        &rows.sellers,
        &rows.names,
        &rows.descriptions,
        &rows.categories as &[Option<i64>],
        &rows.image_urls,
        &rows.currencies,
        &rows.start_prices,
        &rows.increments,
        &rows.buy_now_prices as &[Option<String>],
        &rows.outcomes as &[Option<String>],
        &rows.starts as &[Timestamp],
        &rows.ends as &[Timestamp],
        &rows.windows,
        &rows.extensions,
        &rows.winners as &[Option<Uuid>],
        &rows.final_prices as &[Option<String>],
        &rows.closed as &[Option<Timestamp>],
        &rows.created as &[Timestamp],
        &rows.plain_names,
        &rows.plain_descriptions,
        &rows.policies,
        &rows.facts,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Rows of `items`, column by column. Amounts are decimal text, a list of pictures is JSON.
#[derive(Default)]
struct ItemRows {
    ids: Vec<Uuid>,
    versions: Vec<i64>,
    sellers: Vec<Uuid>,
    names: Vec<String>,
    descriptions: Vec<String>,
    categories: Vec<Option<i64>>,
    image_urls: Vec<String>,
    currencies: Vec<String>,
    start_prices: Vec<String>,
    increments: Vec<String>,
    buy_now_prices: Vec<Option<String>>,
    outcomes: Vec<Option<String>>,
    starts: Vec<Timestamp>,
    ends: Vec<Timestamp>,
    windows: Vec<i32>,
    extensions: Vec<i32>,
    winners: Vec<Option<Uuid>>,
    final_prices: Vec<Option<String>>,
    closed: Vec<Option<Timestamp>>,
    created: Vec<Timestamp>,
    plain_names: Vec<String>,
    plain_descriptions: Vec<String>,
    policies: Vec<String>,
    facts: Vec<String>,
}

impl ItemRows {
    fn push(&mut self, Known { mut item, gone }: Known) -> Result<()> {
        if gone {
            // Nothing that somebody wrote stays.
            (item.name, item.description, item.image_urls) = Default::default();
        }
        let text = |amount: Amount| amount.to_string();
        let whole = |seconds: u32| i32::try_from(seconds).unwrap_or(i32::MAX);
        self.ids.push(item.item_id.0);
        self.versions.push(item.item_version);
        self.sellers.push(item.seller_id.0);
        self.plain_names.push(words::plain(&item.name));
        self.plain_descriptions.push(words::plain(&item.description));
        self.names.push(item.name);
        self.descriptions.push(item.description);
        self.categories.push(item.category_id);
        self.image_urls.push(serde_json::to_string(&item.image_urls)?);
        self.currencies.push(item.currency.code().to_owned());
        self.start_prices.push(text(item.start_price));
        self.policies.push(item.increment_policy.as_str().to_owned());
        self.increments.push(text(item.bid_increment));
        self.buy_now_prices.push(item.buy_now_price.map(text));
        let outcome = if gone { Some("deleted") } else { outcome(item.status) };
        // By nothing at all what is gone is found.
        let facts = if gone {
            Vec::new()
        } else {
            words::facts(item.category_id, Some(item.seller_id.0), outcome.or(Some(RUNNING)))
        };
        self.facts.push(facts.join(" "));
        self.outcomes.push(outcome.map(str::to_owned));
        self.starts.push(item.starts_at);
        self.ends.push(item.ends_at);
        self.windows.push(whole(item.extension_window_seconds));
        self.extensions.push(whole(item.extension_seconds));
        self.winners.push(item.winner_id.map(|winner| winner.0));
        self.final_prices.push(item.final_price.map(text));
        self.closed.push(item.closed_at);
        self.created.push(item.created_at);
        Ok(())
    }
}

/// How it ended. Of an item that runs the event says only what was true when it was emitted.
fn outcome(status: ItemStatus) -> Option<&'static str> {
    match status {
        ItemStatus::Scheduled | ItemStatus::Open => None,
        ItemStatus::Sold | ItemStatus::Unsold | ItemStatus::Cancelled => Some(status.as_str()),
    }
}

/// Writes the price after the newest bid of each item; and of the items that are `unpriced`, which
/// are not among them, the start price while no bid is known. Where it stands already the row is left alone: a conflict
/// locks a row even if it then changes nothing, and a hammer is thousands of such rows.
async fn write_prices(
    tx: &mut PgConnection,
    bids: BTreeMap<ItemId, BidPlaced>,
    unpriced: &[Uuid],
) -> Result<()> {
    let mut rows = PriceRows::default();
    for bid in bids.into_values() {
        rows.ids.push(bid.item_id.0);
        rows.seqs.push(bid.seq);
        rows.leaders.push(bid.bidder_id.0);
        rows.prices.push(bid.current_price.to_string());
        rows.min_next_bids.push(bid.min_next_bid.to_string());
        rows.reserves_met.push(bid.reserve_met);
        rows.placed.push(bid.placed_at);
    }
    sqlx::query!(
        r#"
        insert into prices (item_id, seq, leader_id, price, min_next_bid, reserve_met, placed_at, outcome, starts_at,
            ends_at, category_id, seller_id)
        select item_id, seq, leader_id, price::numeric, min_next_bid::numeric, reserve_met, placed_at, null, null, null,
            null, null
        from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::boolean[], $7::timestamptz[])
            as bid (item_id, seq, leader_id, price, min_next_bid, reserve_met, placed_at)
        union all
        select id, 0, null, start_price, start_price, false, null, outcome, starts_at, ends_at, category_id, seller_id
        from items where id = any($8)
            and not exists (select from prices where item_id = id and (seq > 0 or price = start_price))
        order by item_id
        on conflict (item_id) do update set
            seq = excluded.seq, leader_id = excluded.leader_id, price = excluded.price,
            min_next_bid = excluded.min_next_bid, reserve_met = excluded.reserve_met,
            placed_at = excluded.placed_at
        where prices.seq < excluded.seq
            or (prices.seq, excluded.seq) = (0, 0) and prices.price <> excluded.price
        "#,
        &rows.ids,
        &rows.seqs,
        &rows.leaders,
        &rows.prices,
        &rows.min_next_bids,
        &rows.reserves_met,
        &rows.placed as &[Timestamp],
        unpriced,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Copies what items are filtered by beside their prices, where it is not what stands there. Their own rows were written
/// before, so that they are locked and no batch that writes them at once comes between.
async fn write_facts(tx: &mut PgConnection, offered: &[Uuid]) -> Result<()> {
    sqlx::query!(
        "update prices set outcome = items.outcome, starts_at = items.starts_at, ends_at = items.ends_at,
            category_id = items.category_id, seller_id = items.seller_id
        from items
        where id = any($1) and item_id = id
            and (prices.outcome, prices.starts_at, prices.ends_at, prices.category_id, prices.seller_id)
                is distinct from (items.outcome, items.starts_at, items.ends_at, items.category_id, items.seller_id)",
        offered,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Rows of `prices`, column by column.
#[derive(Default)]
struct PriceRows {
    ids: Vec<Uuid>,
    seqs: Vec<i64>,
    leaders: Vec<Uuid>,
    prices: Vec<String>,
    min_next_bids: Vec<String>,
    reserves_met: Vec<bool>,
    placed: Vec<Timestamp>,
}

#[cfg(test)]
mod tests {
    use contracts::{auctions::Item, catalog::ListItems};
    use platform::{Delivery, Verdict};
    use rand::{RngExt, seq::SliceRandom};
    use testing::Harness;

    use super::*;
    use crate::fixtures::{ANN, amount, bid, find, hear, lamp, minutes, noon, offer, told};

    async fn all(app: &Harness) -> Vec<Item> {
        find(app, &ListItems::default()).await
    }

    /// A lamp that was extended and sold after four bids; one that is open with one bid; one without.
    fn story(app: &Harness) -> Vec<Delivery> {
        let (sold, open, fresh) = (lamp(1), lamp(2), ItemState { name: "Table".into(), ..lamp(3) });
        let longer = ItemState { item_version: 2, ends_at: noon() + minutes(90), ..sold.clone() };
        let closed = ItemState {
            item_version: 3,
            status: ItemStatus::Sold,
            winner_id: Some(ANN),
            final_price: Some(amount("14.00")),
            closed_at: Some(noon() + minutes(91)),
            ..longer.clone()
        };
        let bids = ["11.00", "12.00", "13.00", "14.00"];
        let mut events: Vec<Delivery> =
            (1..).zip(bids).map(|(seq, price)| told(app, &bid(&sold, seq, price))).collect();
        events.extend([&sold, &open, &fresh].map(|item| told(app, &ItemCreated(item.clone()))));
        events.extend([
            told(app, &bid(&open, 1, "20.00")),
            told(app, &ItemExtended(longer)),
            told(app, &ItemClosed(closed)),
        ]);
        events
    }

    #[tokio::test]
    async fn neither_the_order_of_events_nor_their_repetition_matters() {
        let app = Harness::start(crate::database()).await;
        hear(&app, &story(&app)).await;
        let expected = all(&app).await;
        let seen: Vec<_> = expected.iter().map(|item| (item.status, item.bid_count, item.version)).collect();
        assert_eq!(
            seen,
            [(ItemStatus::Open, 0, 1), (ItemStatus::Open, 1, 2), (ItemStatus::Sold, 4, 7)],
            "newest first"
        );

        for round in 0..20 {
            for table in ["items", "prices"] {
                let clear = sqlx::AssertSqlSafe(format!("delete from {table}"));
                sqlx::query(clear).execute(app.pool()).await.unwrap();
            }
            let mut events = [story(&app), story(&app)].concat();
            events.shuffle(&mut rand::rng());
            let mut rest = events.as_slice();
            while !rest.is_empty() {
                let (batch, others) = rest.split_at(rand::rng().random_range(1..=rest.len()));
                hear(&app, batch).await;
                rest = others;
            }

            assert_eq!(all(&app).await, expected, "round {round}");
            assert_facts(&app).await;
        }
    }

    #[tokio::test]
    async fn a_deleted_item_is_not_listed_nor_counted_and_no_older_event_brings_it_back() {
        let app = Harness::start(crate::database()).await;
        let (gone, stays) = (lamp(1), lamp(2));
        let edited = ItemState { item_version: 2, name: "Table".into(), ..gone.clone() };
        let events = || {
            [
                told(&app, &ItemCreated(gone.clone())),
                told(&app, &ItemUpdated(edited.clone())),
                told(&app, &ItemDeleted(ItemState { item_version: 3, ..edited.clone() })),
            ]
        };
        offer(&app, std::slice::from_ref(&stays)).await;
        for round in 0..20 {
            let clear = "delete from items where id <> $1";
            sqlx::query(clear).bind(stays.item_id.0).execute(app.pool()).await.unwrap();
            let mut events = [events(), events()].concat();
            events.shuffle(&mut rand::rng());
            // Whatever comes last, it has been deleted by then.
            let (batch, late) = events.split_at(rand::rng().random_range(1..events.len()));
            hear(&app, batch).await;
            hear(&app, late).await;

            let listed =
                app.at(noon()).ask(&crate::list_items::function(), &ListItems::default()).await.unwrap();
            let ids: Vec<ItemId> = listed.data.iter().map(|item| item.id).collect();
            assert_eq!((ids, listed.page_info.total), (vec![stays.item_id], 1), "round {round}");
            let kept: (String, String) = sqlx::query_as("select name, words::text from items where id = $1")
                .bind(gone.item_id.0)
                .fetch_one(app.pool())
                .await
                .unwrap();
            assert_eq!(kept, (String::new(), String::new()));
        }
    }

    /// Whether what an item is filtered by stands beside its price as it stands with the item.
    async fn assert_facts(app: &Harness) {
        let others: i64 = sqlx::query_scalar(
            "select count(*) from items full join prices on item_id = id
            where (prices.outcome, prices.starts_at, prices.ends_at, prices.category_id, prices.seller_id)
                is distinct from (items.outcome, items.starts_at, items.ends_at, items.category_id, items.seller_id)",
        )
        .fetch_one(app.pool())
        .await
        .unwrap();
        assert_eq!(others, 0);
    }

    #[tokio::test]
    async fn what_an_item_is_filtered_by_follows_it_to_its_price() {
        let app = Harness::start(crate::database()).await;
        let item = ItemState { category_id: Some(7), ..lamp(1) };
        let edited = ItemState { item_version: 2, category_id: None, ..item.clone() };
        let priced = |category_id| ListItems {
            category_id,
            min_price: Some(amount("29.00")),
            max_price: Some(amount("31.00")),
            ..ListItems::default()
        };

        // The bid first: its item is not known, and not found.
        hear(&app, &[told(&app, &bid(&item, 1, "30.00"))]).await;
        assert!(find(&app, &priced(None)).await.is_empty());
        hear(&app, &[told(&app, &ItemCreated(item.clone()))]).await;
        assert_eq!(find(&app, &priced(Some(7))).await.len(), 1);
        assert_facts(&app).await;
        hear(&app, &[told(&app, &ItemUpdated(edited.clone())), told(&app, &bid(&item, 2, "30.50"))]).await;

        assert!(find(&app, &priced(Some(7))).await.is_empty());
        assert_eq!(find(&app, &priced(None)).await.len(), 1);
        assert_facts(&app).await;
        // What comes late changes nothing.
        hear(&app, &[told(&app, &ItemCreated(item))]).await;
        assert_facts(&app).await;
    }

    #[tokio::test]
    async fn an_item_stands_at_its_start_price_until_the_first_bid() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(1);
        offer(&app, std::slice::from_ref(&item)).await;

        let before = all(&app).await.remove(0);
        hear(&app, &[told(&app, &bid(&item, 1, "12.00"))]).await;
        let after = all(&app).await.remove(0);

        assert_eq!((before.current_price, before.min_next_bid), (amount("10.00"), amount("10.00")));
        assert_eq!((before.leader_id, before.reserve_met, before.updated_at), (None, false, noon()));
        assert_eq!((after.current_price, after.min_next_bid), (amount("12.00"), amount("12.001")));
        assert_eq!((after.leader_id, after.bid_count, after.version), (Some(ANN), 1, 2));
        assert!(after.updated_at > before.updated_at);
    }

    #[tokio::test]
    async fn a_start_price_that_changes_before_the_first_bid_is_the_price() {
        let app = Harness::start(crate::database()).await;
        let (first, second) =
            (lamp(1), ItemState { item_version: 2, start_price: amount("25.00"), ..lamp(1) });

        offer(&app, std::slice::from_ref(&first)).await;
        offer(&app, &[second]).await;
        offer(&app, &[first]).await;

        assert_eq!(all(&app).await[0].current_price, amount("25.00"));
    }

    #[tokio::test]
    async fn a_bid_before_its_item_is_not_listed_and_not_lost() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(1);

        hear(&app, &[told(&app, &bid(&item, 3, "30.00"))]).await;
        assert!(all(&app).await.is_empty());
        offer(&app, &[item]).await;

        let listed = all(&app).await;
        assert_eq!((listed.len(), listed[0].bid_count), (1, 3));
        assert_eq!((listed[0].current_price, listed[0].reserve_met), (amount("30.00"), true));
    }

    #[tokio::test]
    async fn a_closed_item_shows_its_winner_and_its_price() {
        let app = Harness::start(crate::database()).await;
        hear(&app, &story(&app)).await;

        let sold = all(&app).await.into_iter().find(|item| item.status == ItemStatus::Sold).unwrap();

        assert_eq!((sold.winner_id, sold.final_price), (Some(ANN), Some(amount("14.00"))));
        assert_eq!((sold.ends_at, sold.closed_at), (noon() + minutes(90), Some(noon() + minutes(91))));
        assert_eq!(Some(sold.updated_at), sold.closed_at);
    }

    #[tokio::test]
    async fn an_item_is_listed_as_it_was_told() {
        let app = Harness::start(crate::database()).await;
        let told = ItemState {
            name: "Łamp \"rare\", {old}".into(),
            description: "a\nb\\c".into(),
            category_id: Some(7),
            image_urls: vec!["https://example.com/a,b?c=\"d\"".into(), "https://example.com/2".into()],
            currency: "JPY".parse().unwrap(),
            start_price: amount("1500"),
            bid_increment: amount("10"),
            buy_now_price: Some(amount("9000")),
            extension_window_seconds: 30,
            extension_seconds: 60,
            ..lamp(1)
        };
        offer(&app, &[told.clone(), ItemState { image_urls: Vec::new(), ..lamp(2) }]).await;

        let item = all(&app).await.into_iter().find(|item| item.id == told.item_id).unwrap();

        assert_eq!(
            (item.name, item.description, item.image_urls),
            (told.name, told.description, told.image_urls)
        );
        assert_eq!((item.category_id, item.currency.code()), (Some(7), "JPY"));
        assert_eq!((item.current_price, item.buy_now_price), (amount("1500"), Some(amount("9000"))));
        assert_eq!((item.bid_increment, item.start_price), (amount("10"), amount("1500")));
        assert_eq!((item.extension_window_seconds, item.extension_seconds), (30, 60));
    }

    #[tokio::test]
    async fn what_cannot_be_stored_is_given_up_alone() {
        let app = Harness::start(crate::database()).await;
        let events = [
            told(&app, &ItemCreated(lamp(1))),
            told(&app, &ItemCreated(ItemState { name: "\0".into(), ..lamp(2) })),
            app.delivery("events.item.created.v1.x", &serde_json::json!({ "payload": { "name": "Lamp" } })),
        ];

        let mut verdicts = Vec::new();
        // As often as the runner would try.
        for _ in 0..20 {
            verdicts = app.host(&function()).execute(&events).await;
        }

        assert_eq!(verdicts[0], Verdict::Done);
        assert!(matches!(verdicts[1], Verdict::Dead(_)), "{:?}", verdicts[1]);
        assert!(matches!(verdicts[2], Verdict::Dead(_)), "{:?}", verdicts[2]);
        assert_eq!(all(&app).await.len(), 1);
    }
}
