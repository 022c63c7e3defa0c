//! `snapshot-products`: tell every product as it is now, for projections that are made anew.
//!
//! As [`ProductCreated`] with the newest state, which says all. Products that are made meanwhile are left to the stream.

use contracts::catalog::{ProductCreated, SnapshotProducts};
use platform::{Cx, Function, Refused, Result, replay::SnapshotPage};
use uuid::Uuid;

use crate::store;

/// Queries of [`SnapshotProducts`].
pub fn function() -> Function {
    Function::query(snapshot_products)
}

async fn snapshot_products(cx: &mut Cx, query: SnapshotProducts) -> Result<SnapshotPage> {
    let after: Uuid = match &query.after {
        Some(after) => after.parse().map_err(|_| Refused::unknown_place("after"))?,
        None => Uuid::nil(),
    };
    let ids = sqlx::query_scalar!("select id from products where id > $1 order by id limit 200", after)
        .fetch_all(cx.tx().await?)
        .await?;
    let mut products = store::products(cx.tx().await?, &ids).await?;
    let mut page = SnapshotPage::default();
    // They come with the newest first.
    while let Some(product) = products.pop() {
        if page.is_full() {
            break;
        }
        page.tell(&ProductCreated(store::product_state(&product, product.updated_at)))?;
        page.after = Some(product.id.to_string());
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use testing::Harness;

    use super::*;
    use crate::fixtures::{ANN, product};

    #[tokio::test]
    async fn every_product_is_told_once_as_it_is_now() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let mut made = Vec::new();
        for _ in 0..201 {
            made.push(product(&app, json!({})).await);
        }
        // So large that a page is full before it has all that are looked at.
        let long = "x".repeat(10_000);
        for _ in 0..60 {
            made.push(product(&app, json!({ "description": long })).await);
        }

        let (mut told, mut after) = (Vec::new(), None);
        loop {
            let page = app.ask(&function(), &SnapshotProducts { after }).await.unwrap();
            for event in page.events {
                assert_eq!(event.event, "product.created.v1");
                let event: ProductCreated = serde_json::from_str(event.payload.get()).unwrap();
                told.push(event.0);
            }
            after = page.after;
            if after.is_none() {
                break;
            }
        }
        let states: Vec<_> =
            made.iter().map(|product| store::product_state(product, product.updated_at)).collect();
        assert_eq!(told.len(), states.len());
        assert!(told == states);
        let wrong = SnapshotProducts { after: Some("x".into()) };
        assert!(app.ask(&function(), &wrong).await.is_err());
    }
}
