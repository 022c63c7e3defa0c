//! `count-products`: keep the number of products in each category, and note in the log what came.
//!
//! Reacts to the `product.*` events, each of which says where its product is now. The newest of a product wins, so neither
//! order nor repetition matters.

use std::collections::BTreeMap;

use contracts::{
    ProductId,
    catalog::{ProductCreated, ProductDeleted, ProductState, ProductUpdated, SnapshotProducts},
};
use platform::{Cx, Event, Function, Received, Result};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::DOMAIN;

platform::hears! {
    /// What is counted.
    pub enum Heard {
        /// One more.
        ProductCreated(ProductCreated),
        /// Perhaps elsewhere.
        ProductUpdated(ProductUpdated),
        /// One less.
        ProductDeleted(ProductDeleted),
    }
}

/// A consumer of [`Heard`].
pub fn function() -> Function {
    Function::events(DOMAIN, "count-products", count_products)
        .rebuilt_from::<SnapshotProducts>(&["counted_products", "product_counts"])
}

async fn count_products(cx: &mut Cx, events: Vec<Received<Heard>>) -> Result<()> {
    // In the order of the products, so that two batches cannot wait for each other.
    let mut places: BTreeMap<ProductId, Place> = BTreeMap::new();
    for event in &events {
        let (name, product, is_there) = match &event.message {
            Heard::ProductCreated(ProductCreated(product)) => (ProductCreated::NAME, product, true),
            Heard::ProductUpdated(ProductUpdated(product)) => (ProductUpdated::NAME, product, true),
            Heard::ProductDeleted(ProductDeleted(product)) => (ProductDeleted::NAME, product, false),
        };
        note(name, product)?;
        let place = Place { version: product.version, category_id: product.category_id.filter(|_| is_there) };
        let known = places.entry(product.product_id).or_insert(place);
        if known.version < place.version {
            *known = place;
        }
    }
    let tx = cx.tx().await?;
    let before = lock(tx, &places).await?;
    let mut moved = Moved::default();
    let mut changes: BTreeMap<i64, i64> = BTreeMap::new();
    for (id, place) in places {
        let Some(known) = before.get(&id).filter(|known| known.version < place.version) else { continue };
        if let Some(left) = known.category_id {
            *changes.entry(left).or_default() -= 1;
        }
        if let Some(entered) = place.category_id {
            *changes.entry(entered).or_default() += 1;
        }
        moved.ids.push(id.0);
        moved.versions.push(place.version);
        moved.categories.push(place.category_id);
    }
    write(tx, &moved, &changes).await
}

/// The second seed's "category-service received: {...}".
fn note(event: &'static str, product: &ProductState) -> Result<()> {
    tracing::info!(event, "count-products received: {}", serde_json::to_string(product)?);
    Ok(())
}

/// Where a product is counted.
#[derive(Clone, Copy)]
struct Place {
    version: i64,
    category_id: Option<i64>,
}

/// Rows of `counted_products`, column by column.
#[derive(Default)]
struct Moved {
    ids: Vec<Uuid>,
    versions: Vec<i64>,
    categories: Vec<Option<i64>>,
}

/// Where these products are counted until now. They get rows first: one that another replica is about to write is waited
/// for, and then read as that one left it.
async fn lock(
    tx: &mut PgConnection,
    places: &BTreeMap<ProductId, Place>,
) -> Result<BTreeMap<ProductId, Place>> {
    let ids: Vec<Uuid> = places.keys().map(|id| id.0).collect();
    sqlx::query!(
        r#"
        insert into counted_products (product_id, version) select id, 0 from unnest($1::uuid[]) as told (id) order by id
        on conflict do nothing
        "#,
        &ids,
    )
    .execute(&mut *tx)
    .await?;
    let rows = sqlx::query!(
        r#"
        select product_id, version, category_id from counted_products where product_id = any($1)
        order by product_id for update
        "#,
        &ids,
    )
    .fetch_all(tx)
    .await?;
    let place = |version, category_id| Place { version, category_id };
    Ok(rows.into_iter().map(|row| (ProductId(row.product_id), place(row.version, row.category_id))).collect())
}

async fn write(tx: &mut PgConnection, moved: &Moved, changes: &BTreeMap<i64, i64>) -> Result<()> {
    sqlx::query!(
        r#"
        update counted_products set version = told.version, category_id = told.category_id
        from unnest($1::uuid[], $2::bigint[], $3::bigint[]) as told (product_id, version, category_id)
        where counted_products.product_id = told.product_id
        "#,
        &moved.ids,
        &moved.versions,
        &moved.categories as &[Option<i64>],
    )
    .execute(&mut *tx)
    .await?;
    let (categories, more): (Vec<i64>, Vec<i64>) =
        changes.iter().filter(|(_, more)| **more != 0).map(|(id, more)| (*id, *more)).unzip();
    sqlx::query!(
        r#"
        insert into product_counts (category_id, products)
        select * from unnest($1::bigint[], $2::bigint[]) as change (category_id, products) order by category_id
        on conflict (category_id) do update set products = product_counts.products + excluded.products
        "#,
        &categories,
        &more,
    )
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use contracts::catalog::{DeleteProduct, GetCategory, UpdateProduct};
    use platform::{Delivery, Verdict};
    use rand::{RngExt, seq::SliceRandom};
    use serde_json::json;
    use testing::Harness;

    use super::*;
    use crate::{
        delete_product,
        fixtures::{ANN, category, product, told},
        get_category, update_product,
    };

    async fn hear(app: &Harness, events: &[Delivery]) {
        let verdicts = app.host(&function()).execute(events).await;
        assert_eq!(verdicts, vec![Verdict::Done; events.len()]);
    }

    async fn counts(app: &Harness, categories: &[i64]) -> Vec<i64> {
        let mut counts = Vec::new();
        for category_id in categories {
            let shown = app.ask(&get_category::function(), &GetCategory { category_id: *category_id }).await;
            counts.push(shown.unwrap().product_count);
        }
        counts
    }

    /// What was said, as the stream delivers it; again each time, with ids of its own.
    async fn said(app: &Harness) -> Vec<Delivery> {
        let mut said: Vec<Delivery> = Vec::new();
        said.extend(app.emitted::<ProductCreated>().await.iter().map(|event| told(app, event)));
        said.extend(app.emitted::<ProductUpdated>().await.iter().map(|event| told(app, event)));
        said.extend(app.emitted::<ProductDeleted>().await.iter().map(|event| told(app, event)));
        said
    }

    #[tokio::test]
    async fn products_that_come_move_and_go_are_counted_whatever_the_order_of_events() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let (first, second) = (category(&app, "First").await.id, category(&app, "Second").await.id);
        let mut made = Vec::new();
        for number in 0..6 {
            let into = [Some(first), Some(second), None][number % 3];
            made.push(product(&app, json!({ "category_id": into })).await.id);
        }
        let moves = [(0, Some(second)), (2, Some(first)), (4, None), (4, Some(first)), (5, Some(second))];
        for (number, into) in moves {
            let change = json!({ "product_id": made[number], "category_id": into });
            let change: UpdateProduct = serde_json::from_value(change).unwrap();
            app.call(&update_product::function(), &change).await.unwrap();
        }
        for number in [3, 5] {
            let gone = DeleteProduct { product_id: made[number], if_match: None };
            app.call(&delete_product::function(), &gone).await.unwrap();
        }
        // 0 and 1 in the second; 2 and 4 in the first; 3 and 5 gone.
        let truth: Vec<i64> = sqlx::query_scalar(
            "select count(products.id) from categories left join products on category_id = categories.id
            group by categories.id order by categories.id",
        )
        .fetch_all(app.pool())
        .await
        .unwrap();
        assert_eq!(truth, [2, 2]);

        for round in 0..20 {
            for table in ["counted_products", "product_counts"] {
                let clear = sqlx::AssertSqlSafe(format!("delete from {table}"));
                sqlx::query(clear).execute(app.pool()).await.unwrap();
            }
            let mut events = [said(&app).await, said(&app).await].concat();
            events.shuffle(&mut rand::rng());
            let mut rest = events.as_slice();
            while !rest.is_empty() {
                let (batch, others) = rest.split_at(rand::rng().random_range(1..=rest.len()));
                hear(&app, batch).await;
                rest = others;
            }

            assert_eq!(counts(&app, &[first, second]).await, truth, "round {round}");
        }
    }

    /// Two replicas that hear of the same products at once: first of their coming and of a move, then of another move and of
    /// their end.
    #[tokio::test]
    async fn replicas_at_once_count_each_product_once() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let (first, second) = (category(&app, "First").await.id, category(&app, "Second").await.id);
        for _ in 0..30 {
            let made = product(&app, json!({ "category_id": first })).await.id;
            for into in [second, first] {
                let change = json!({ "product_id": made, "category_id": into });
                let change: UpdateProduct = serde_json::from_value(change).unwrap();
                app.call(&update_product::function(), &change).await.unwrap();
            }
            let gone = DeleteProduct { product_id: made, if_match: None };
            app.call(&delete_product::function(), &gone).await.unwrap();
        }
        let made = app.emitted::<ProductCreated>().await.into_iter().map(|event| told(&app, &event));
        let moved = app.emitted::<ProductUpdated>().await.into_iter().map(|event| told(&app, &event));
        let gone = app.emitted::<ProductDeleted>().await.into_iter().map(|event| told(&app, &event));
        let (made, moved, gone) =
            (made.collect::<Vec<_>>(), moved.collect::<Vec<_>>(), gone.collect::<Vec<_>>());
        let moved = |which| moved.iter().skip(which).step_by(2).cloned().collect::<Vec<_>>();

        for (one, other, counted) in [(made, moved(0), [0, 30]), (moved(1), gone, [0, 0])] {
            for (one, other) in one.chunks(10).zip(other.chunks(10)) {
                let hosts = (app.host(&function()), app.host(&function()));
                let verdicts = futures_util::join!(hosts.0.execute(one), hosts.1.execute(other));
                assert_eq!(verdicts, (vec![Verdict::Done; 10], vec![Verdict::Done; 10]));
            }
            assert_eq!(counts(&app, &[first, second]).await, counted);
        }
    }

    #[tokio::test]
    async fn what_is_not_an_event_is_given_up_alone() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let into = category(&app, "Devices").await.id;
        product(&app, json!({ "category_id": into })).await;
        let good = said(&app).await.remove(0);
        let bad = app.delivery(&good.subject, &json!({ "payload": { "price": 1 } }));

        let verdicts = app.host(&function()).execute(&[bad, good]).await;

        assert!(matches!(&verdicts[0], Verdict::Dead(why) if why.starts_with("product.created.v1: ")));
        assert_eq!((&verdicts[1], counts(&app, &[into]).await), (&Verdict::Done, vec![1]));
    }
}
