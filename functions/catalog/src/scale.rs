//! The listing among many items: which indexes serve it, and how long it takes among a million.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    time::{Duration, Instant},
};

use contracts::{
    auctions::ItemStatus,
    catalog::{ItemSort, ListItems},
    page::PageQuery,
};
use platform::UserId;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use testing::Harness;
use uuid::Uuid;

use crate::{
    fixtures::{amount, minutes, noon},
    list_items::{Filter, function},
};

const SORTS: [ItemSort; 5] =
    [ItemSort::EndingSoon, ItemSort::Newest, ItemSort::PriceAsc, ItemSort::PriceDesc, ItemSort::MostBids];
/// The first are in many names, the last in few.
const NOUNS: [&str; 20] = [
    "lamp",
    "chair",
    "table",
    "clock",
    "watch",
    "book",
    "coin",
    "stamp",
    "vase",
    "ring",
    "guitar",
    "camera",
    "bicycle",
    "carpet",
    "mirror",
    "piano",
    "sextant",
    "orrery",
    "theremin",
    "astrolabe",
];
const CATEGORIES: i64 = 200;

/// A market as it might be: words, categories and sellers of which few are frequent and many are rare; a third runs,
/// a twentieth has not begun, the rest has ended. Half have no bid.
async fn fill(app: &Harness, items: u32) {
    let nouns = NOUNS.join(" ");
    let fill = format!(
        "set synchronous_commit = off; set maintenance_work_mem = '256MB'; select setseed(0.5);
        create temporary table definition as select indexdef from pg_indexes
            where schemaname = 'public' and tablename in ('items', 'prices') and indexname not like '%_pkey';
        drop index item_newest, item_ending, item_running, item_category, item_seller, item_words, price_amount,
            price_bids;
        insert into items (id, item_version, seller_id, name, description, category_id, image_urls, currency, start_price,
            bid_increment, outcome, starts_at, ends_at, extension_window_seconds, extension_seconds, created_at, words)
        select id, 1, seller, name, description, category, '[]', 'USD', 10, 1, outcome,
            case when outcome is null and chance < 0.15 then now + length * interval '1 hour' else created_at end,
            case when outcome is null then now + length * interval '1 day' else created_at + length * interval '1 day' end,
            0, 0, created_at,
            setweight(to_tsvector('simple', name), 'A') || setweight(to_tsvector('simple', description), 'B')
                || array_to_tsvector(array_remove(array['C' || category, 'S' || seller, coalesce(upper(outcome), 'RUNNING')], null))
        from (
            select gen_random_uuid() as id, n, now, chance, length,
                ('{{00000000-0000-0000-0001-' || lpad((1 + floor(20000 * seller ^ 3))::text, 12, '0') || '}}')::uuid as seller,
                case when category > 0.02 then 1 + floor({CATEGORIES} * category ^ 3)::bigint end as category,
                colour[1 + floor(12 * random())] || ' ' || noun[1 + floor(20 * word ^ 3)] || ' ' || n as name,
                'A ' || made[1 + floor(10 * random() ^ 2)] || ' ' || noun[1 + floor(20 * word ^ 3)] || ' from '
                    || place[1 + floor(10 * random() ^ 2)] || ', in ' || state[1 + floor(6 * random())]
                    || ' condition, bought about ' || 1700 + floor(300 * random()) || ' and kept in a dry room' as description,
                case when chance > 0.75 then 'sold' when chance > 0.45 then 'unsold' when chance > 0.4 then 'cancelled'
                    end as outcome,
                now - (n::float8 / {items}) * interval '60 days' as created_at
            from (
                select n, random() as seller, random() as category, random() as word, random() as chance,
                    1 + 20 * random() as length, timestamptz '2026-12-01T12:00:00Z' as now
                from generate_series(1, {items}) as n
            ) as drawn,
            (select string_to_array('{nouns}', ' ') as noun,
                string_to_array('red blue green black white brown golden silver old new small large', ' ') as colour,
                string_to_array('wooden brass oak glass leather paper porcelain silk bronze ivory', ' ') as made,
                string_to_array('Warsaw Berlin Paris London Prague Rome Vienna Madrid Lisbon Riga', ' ') as place,
                string_to_array('good fair mint poor excellent unknown', ' ') as state) as vocabulary
        ) as drawn;
        insert into prices (item_id, seq, leader_id, price, min_next_bid, reserve_met, placed_at, outcome, starts_at, ends_at,
            category_id, seller_id)
        select id, seq, case when seq > 0 then id end, price, price + 1, seq > 3, case when seq > 0 then now() end, outcome,
            starts_at, ends_at, category_id, seller_id
        from (select items.*, greatest(0, floor(200 * (2 * random() - 1) ^ 5))::bigint as seq,
            round((10 + 5000 * random() ^ 4)::numeric, 2) as price from items) as drawn;
        do $$ declare made record; begin
            for made in select indexdef from definition loop execute made.indexdef; end loop;
        end $$;"
    );
    let fill: &'static str = fill.leak();
    testing::as_administrator(app.pool(), fill).await;
    loop {
        for vacuum in ["vacuum analyze items", "vacuum analyze prices"] {
            testing::as_administrator(app.pool(), vacuum).await;
        }
        // Whoever looks meanwhile, as Postgres itself does from time to time, keeps rows from being known as visible to
        // all, and so an index from being read without them.
        let visible =
            "select bool_and(relallvisible >= relpages) from pg_class where relname in ('items', 'prices')";
        if sqlx::query_scalar(visible).fetch_one(app.pool()).await.unwrap() {
            return;
        }
    }
}

/// How Postgres answers the listing's own statement that contains `part`, with these values: on the connection on which
/// it ran, because others do not know it.
async fn plan(app: &Harness, part: &str, values: &str) -> Value {
    let mut others = Vec::new();
    let (mut connection, name) = loop {
        let mut connection = app.pool().acquire().await.unwrap();
        let name: Option<String> = sqlx::query_scalar(
            "select name from pg_prepared_statements where position($1 in statement) > 0
                and position('pg_prepared_statements' in statement) = 0 and statement not like 'explain%'",
        )
        .bind(part)
        .fetch_optional(&mut *connection)
        .await
        .unwrap();
        if let Some(name) = name {
            break (connection, name);
        }
        others.push(connection);
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let explain = AssertSqlSafe(format!("explain (analyze, format json) execute {name}({values})"));
    let plan: Value = sqlx::query_scalar(explain).fetch_one(&mut *connection).await.unwrap();
    plan[0]["Plan"].clone()
}

/// The indexes that are read, and how many rows are in all, with those that are thrown away.
fn reads(plan: &Value) -> (Vec<String>, f64) {
    let number = |name: &str| plan[name].as_f64().unwrap_or_default();
    let (mut indexes, mut rows) = (Vec::new(), 0.0);
    if plan["Node Type"].as_str().unwrap().contains("Scan") {
        rows += number("Actual Loops")
            * (number("Actual Rows")
                + number("Rows Removed by Filter")
                + number("Rows Removed by Index Recheck"));
    }
    indexes.extend(plan["Index Name"].as_str().map(str::to_owned));
    for part in plan["Plans"].as_array().into_iter().flatten() {
        let (more, read) = reads(part);
        indexes.extend(more);
        rows += read;
    }
    (indexes, rows)
}

#[tokio::test]
async fn an_index_serves_each_order_and_reads_no_more_than_a_page() {
    let app = Harness::start(crate::database()).await;
    fill(&app, 20_000).await;
    for (sort, part, index) in [
        (ItemSort::EndingSoon, "then ends_at else", "item_running"),
        (ItemSort::Newest, "then created_at else", "item_newest"),
        (ItemSort::PriceAsc, "else price + 0 end, fact_id", "price_amount"),
        (ItemSort::PriceDesc, "else price + 0 end desc, fact_id desc", "price_amount"),
        (ItemSort::MostBids, "then seq else", "price_bids"),
    ] {
        let query = ListItems { sort, ..ListItems::default() };
        let page = app.at(noon()).ask(&function(), &query).await.unwrap();
        assert_eq!(page.data.len(), 20, "{sort:?}");
        let filter = values(&Filter::of(&query, noon()));

        let plan = plan(&app, part, &format!("{filter}, null, null, 21, 0, null")).await;

        // The page behind one whose last item has no bid, as half of all have, of few that are known.
        if sort == ItemSort::MostBids {
            let known: Vec<String> = page.data.iter().map(|item| item.id.to_string()).collect();
            let values = format!("0, '{}', 21, 0, '{{{}}}'", Uuid::max(), known.join(","));
            let few = self::plan(&app, part, &format!("{filter}, {values}")).await;
            let (_, rows) = reads(&few);
            assert!(rows <= 100.0, "reads {rows} rows: {few:#}");
        }
        let (indexes, rows) = reads(&plan);
        assert!(indexes.iter().any(|used| used == index), "{sort:?}: {indexes:?}");
        // Of the index what is on the page and the one behind it, and then the rows of both tables.
        assert!(rows <= 63.0, "{sort:?} reads {rows} rows: {plan:#}");
        assert!(plan.to_string().contains("Index Only Scan"), "{sort:?}: {plan:#}");
    }
}

/// The first values of each statement.
fn values(filter: &Filter) -> String {
    let text = |text: Option<String>| {
        text.map_or("null".to_owned(), |text| format!("'{}'", text.replace('\'', "''")))
    };
    [
        text(filter.q.clone()),
        text(filter.category_id.map(|id| id.to_string())),
        text(filter.seller_id.map(|id| id.to_string())),
        text(filter.outcome.map(str::to_owned)),
        text(filter.min_price.clone()),
        text(filter.max_price.clone()),
        text(filter.ending_before.map(|end| end.to_string())),
        format!("'{}'", filter.now),
        text(filter.begun.map(|begun| begun.to_string())),
        format!("'{}'", filter.facts.replace('\'', "''")),
        text(filter.ending_after.map(|end| end.to_string())),
    ]
    .join(", ")
}

#[tokio::test]
async fn an_index_serves_each_filter() {
    let app = Harness::start(crate::database()).await;
    fill(&app, 20_000).await;
    let (by_item, by_price) =
        ("from (select id from items fact", "from (select item_id as id from prices fact");
    let seller = format!("00000000-0000-0000-0001-{:012}", 1);
    let soon = noon() + minutes(60);
    for (query, part, index) in [
        (json!({ "category_id": 3 }), by_item, "item_category"),
        (json!({ "category_id": 3, "status": "sold", "ending_before": soon }), by_item, "item_category"),
        (json!({ "seller_id": seller }), by_item, "item_seller"),
        (json!({ "seller_id": seller, "category_id": 1, "status": "open" }), by_item, "item_seller"),
        (json!({ "ending_before": noon() - minutes(60 * 24 * 55) }), by_item, "item_ending"),
        (json!({ "sort": "ending_soon" }), by_item, "item_running"),
        (json!({ "q": "astrolabe brass" }), by_item, "item_words"),
        (
            json!({ "q": "lamp", "category_id": 3, "status": "sold", "seller_id": seller }),
            by_item,
            "item_words",
        ),
        (json!({ "min_price": 500, "max_price": 550 }), by_price, "price_amount"),
        (json!({ "max_price": 80, "status": "cancelled", "ending_before": soon }), by_price, "price_amount"),
        (json!({ "min_price": 900, "category_id": 1, "status": "open" }), by_price, "price_amount"),
        (json!({ "min_price": 900, "max_price": 910, "seller_id": seller }), by_price, "price_amount"),
    ] {
        let query: ListItems = serde_json::from_value(query).unwrap();
        app.at(noon()).ask(&function(), &query).await.unwrap();

        let values = format!("{}, 1000", values(&Filter::of(&query, noon()).by_words()));
        let plan = plan(&app, part, &values).await;

        let (indexes, _) = reads(&plan);
        assert_eq!(indexes, [index], "{query:?}: {plan:#}");
        // What is not found by words is judged in the index.
        let only = query.q.is_some() || plan.to_string().contains("Index Only Scan");
        assert!(only, "{query:?}: {plan:#}");
    }
}

/// What a plain statement finds: the first of a page, and how many there are.
async fn plainly(app: &Harness, query: &ListItems) -> (Vec<Uuid>, i64) {
    let mut kept = "outcome is distinct from 'deleted'".to_owned();
    let mut and = |clause: String| kept.extend([" and ", &clause]);
    if let Some(words) = &query.q {
        and(format!("words @@ websearch_to_tsquery('simple', '{words}')"));
    }
    if let Some(id) = query.category_id {
        and(format!("category_id = {id}"));
    }
    if let Some(id) = query.seller_id {
        and(format!("seller_id = '{id}'"));
    }
    let now = noon();
    match query.status {
        None if query.sort == ItemSort::EndingSoon => and(format!("outcome is null and ends_at > '{now}'")),
        None => {}
        Some(ItemStatus::Scheduled) => and(format!("outcome is null and starts_at > '{now}'")),
        Some(ItemStatus::Open) => and(format!("outcome is null and starts_at <= '{now}'")),
        Some(status) => and(format!("outcome = '{}'", status.as_str())),
    }
    if let Some(price) = query.min_price {
        and(format!("price >= {price}"));
    }
    if let Some(price) = query.max_price {
        and(format!("price <= {price}"));
    }
    if let Some(end) = query.ending_before {
        and(format!("ends_at < '{end}'"));
    }
    let order = match query.sort {
        ItemSort::EndingSoon => "ends_at, id",
        ItemSort::Newest => "created_at desc, id desc",
        ItemSort::PriceAsc => "price, id",
        ItemSort::PriceDesc => "price desc, id desc",
        ItemSort::MostBids => "seq desc, id desc",
    };
    let plain = AssertSqlSafe(format!(
        "with kept as materialized (
            select items.*, price, seq from items join (select item_id, price, seq from prices) as prices on item_id = id
            where {kept}
        )
        select array(select id from kept order by {order} limit 20), (select count(*) from kept)"
    ));
    sqlx::query_as(plain).fetch_one(app.pool()).await.unwrap()
}

#[tokio::test]
async fn whatever_is_asked_for_is_what_a_plain_statement_finds() {
    let app = Harness::start(crate::database()).await.at(noon());
    // So many that some words are common.
    fill(&app, 120_000).await;
    let mut rng: StdRng = rand::make_rng();
    let (mut exact, mut capped) = (0, 0);
    for (filters, sort) in (0..128).zip(SORTS.into_iter().cycle()) {
        let query = draw(&mut rng, filters, sort);
        let (ids, count) = plainly(&app, &query).await;

        let page = app.ask(&function(), &query).await.unwrap();

        let found: Vec<Uuid> = page.data.iter().map(|item| item.id.0).collect();
        assert_eq!(found, ids, "{query:?}");
        let total = i64::try_from(page.page_info.total).unwrap();
        if page.page_info.total_is_capped {
            assert!(total <= count.min(1_000), "{query:?}: {total} of {count}");
            capped += 1;
        } else {
            assert_eq!(total, count, "{query:?}");
            exact += 1;
        }
    }
    assert!(exact > 20 && capped > 10, "{exact} exact, {capped} capped");
}

/// A listing that is asked for with these of the filters, its values drawn as visitors would.
fn draw(rng: &mut StdRng, filters: u32, sort: ItemSort) -> ListItems {
    let mut skewed = |count: f64| (count * rng.random::<f64>().powi(3)).floor();
    let (noun, seller, category) = (skewed(20.0), skewed(20_000.0), skewed(200.0));
    let has = |filter: u32| filters & (1 << filter) != 0;
    let least = rng.random_range(1..1_000);
    let statuses = [
        ItemStatus::Scheduled,
        ItemStatus::Open,
        ItemStatus::Sold,
        ItemStatus::Unsold,
        ItemStatus::Cancelled,
    ];
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "drawn so that they fit")]
    let (noun, seller, category) = (noun as usize, seller as u128, category as i64);
    let text = match rng.random_range(0..3) {
        0 => NOUNS[noun].to_owned(),
        1 => format!("{} brass", NOUNS[noun]),
        _ => format!("{} or {}", NOUNS[noun], NOUNS[19 - noun]),
    };
    // As the market writes them: the digits of the number.
    let seller: u128 = u128::from_str_radix(&format!("1{:012}", 1 + seller), 16).unwrap();
    ListItems {
        q: has(0).then_some(text),
        category_id: has(1).then_some(1 + category),
        seller_id: has(2).then_some(UserId(Uuid::from_u128(seller))),
        status: if has(3) { statuses.choose(rng).copied() } else { None },
        min_price: has(4).then(|| amount(&least.to_string())),
        max_price: has(5).then(|| amount(&(least + 50).to_string())),
        ending_before: has(6).then(|| noon() + minutes(60 * 24 * rng.random_range(1..10))),
        sort,
        ..ListItems::default()
    }
}

/// Prints what `cargo test --release -p catalog --lib million -- --ignored --nocapture` finds: takes minutes and 2 GB.
#[tokio::test]
#[ignore = "a measurement: takes minutes and 2 GB of disk"]
async fn every_filter_and_order_among_a_million_items() {
    let app = Harness::start(crate::database()).await.at(noon());
    let begun = Instant::now();
    fill(&app, 1_000_000).await;
    let size: String = sqlx::query_scalar("select pg_size_pretty(pg_database_size(current_database()))")
        .fetch_one(app.pool())
        .await
        .unwrap();
    let mut report = format!("1,000,000 items in {:.0?}, {size}\n", begun.elapsed());
    // The same queries in every run, so that two runs can be compared.
    let mut rng = StdRng::seed_from_u64(7);
    let mut asked: Vec<(Duration, ListItems)> = Vec::new();
    for sort in SORTS {
        for filters in 0..128 {
            for _ in 0..6 {
                let mut query = draw(&mut rng, filters, sort);
                for _ in 0..2 {
                    let begun = Instant::now();
                    let page = app.ask(&function(), &query).await.unwrap();
                    asked.push((begun.elapsed(), query.clone()));
                    let Some(cursor) = page.page_info.next_cursor else { break };
                    query.page = PageQuery { cursor: Some(cursor), ..query.page };
                }
            }
        }
    }
    for filters in 0..128 {
        for _ in 0..3 {
            let query = ListItems { facets: true, ..draw(&mut rng, filters, ItemSort::Newest) };
            let begun = Instant::now();
            app.ask(&function(), &query).await.unwrap();
            asked.push((begun.elapsed(), query));
        }
    }
    let mut kinds: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for (took, query) in &asked {
        for kind in kinds_of(query) {
            kinds.entry(kind).or_default().push(*took);
        }
    }
    for (kind, times) in &mut kinds {
        let _ = writeln!(report, "{kind}: {}", percentiles(times));
    }
    asked.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
    for (took, query) in asked.iter().take(30) {
        let _ = writeln!(report, "{took:.1?} {query:?}");
    }
    writeln!(std::io::stdout(), "{report}").unwrap();
}

/// The groups in which a query is told.
fn kinds_of(query: &ListItems) -> [String; 4] {
    let words = match query.q.as_deref().map(|q| (q.contains(" or "), q.contains(' '))) {
        None => "none",
        Some((true, _)) => "one or the other",
        Some((false, true)) => "one and the other",
        Some((false, false)) => "one",
    };
    let named = [
        (query.q.is_some(), "words"),
        (query.category_id.is_some(), "category"),
        (query.seller_id.is_some(), "seller"),
        (query.status.is_some(), "status"),
        (query.min_price.is_some() || query.max_price.is_some(), "price"),
        (query.ending_before.is_some(), "end"),
    ];
    let filters: Vec<&str> = named.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    let all = if query.facets { "all, with facets" } else { "all" };
    [
        all.to_owned(),
        format!("by order: {:?}{}", query.sort, if query.facets { " with facets" } else { "" }),
        format!("by words: {words}"),
        format!("by filters: {}", filters.join(" ")),
    ]
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "few"
        )]
        let place = ((times.len() - 1) as f64 * share) as usize;
        times[place]
    };
    format!("{} asked, p50 {:.1?}, p99 {:.1?}, longest {:.1?}", times.len(), at(0.5), at(0.99), at(1.0))
}
