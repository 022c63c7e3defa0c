//! `update-product`: change a product.
//!
//! Emits [`ProductUpdated`]. Refuses whoever neither made it nor is an administrator, and what `create-product` refuses.

use contracts::{
    Amount,
    catalog::{Product, ProductUpdated, UpdateProduct},
};
use platform::{Cx, Function, Result};

use crate::{goods, store, words};

/// Commands of [`UpdateProduct`].
pub fn function() -> Function {
    Function::command(update_product).emits::<ProductUpdated>()
}

async fn update_product(cx: &mut Cx, change: UpdateProduct) -> Result<Product> {
    let (caller, now, id) = (cx.caller()?, cx.now(), change.product_id);
    let tx = cx.tx().await?;
    let before = store::lock_product(tx, id, caller, change.if_match).await?;
    let currency = change.currency.unwrap_or(before.currency);
    let discount = change.discount.unwrap_or(before.discount);
    let price: Amount = change.price.unwrap_or(before.price);
    let price = goods::price(price, currency, discount)?;
    let name = change.name.as_deref().map_or(before.name.as_str(), str::trim);
    let shop = change.store.as_deref().map_or(before.store.as_str(), str::trim);
    let description = change.description.as_deref().unwrap_or(&before.description);
    sqlx::query!(
        r#"
        update products set name = $2, sku = $3, description = $4, currency = $5, price = $6, discount = $7, store = $8,
            plain_store = $9, image_urls = $10, category_id = $11, stock = $12, version = version + 1, updated_at = $13,
            words = setweight(to_tsvector('simple', $14), 'A') || setweight(to_tsvector('simple', $15), 'B')
        where id = $1
        "#,
        id.0,
        name,
        change.sku.unwrap_or(before.sku),
        description,
        currency.code(),
        price.minor,
        i16::from(discount),
        shop,
        words::plain(shop),
        &change.image_urls.unwrap_or(before.image_urls),
        change.category_id.unwrap_or(before.category_id),
        change.stock.unwrap_or(before.stock),
        now,
        words::plain(name),
        words::plain(description),
    )
    .execute(&mut *tx)
    .await
    .map_err(store::refusal)?;
    let product = store::product(tx, id.0).await?;
    cx.emit(&ProductUpdated(store::product_state(&product, now)))?;
    Ok(product)
}

#[cfg(test)]
mod tests {
    use contracts::{
        ProductId,
        catalog::{GetProduct, ListProducts},
    };
    use serde_json::{Value, json};
    use testing::{Harness, code};

    use super::*;
    use crate::{
        fixtures::{ANN, BOB, category, product},
        get_product, list_products,
    };

    fn change(product_id: ProductId, changes: Value) -> UpdateProduct {
        let mut body = changes;
        body["product_id"] = json!(product_id);
        serde_json::from_value(body).unwrap()
    }

    #[tokio::test]
    async fn what_is_said_changes_and_the_rest_stays() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let kitchen = category(&app, "Kitchen").await.id;
        let made = product(&app, json!({ "sku": "a", "category_id": kitchen, "stock": 5 })).await;
        let update = async |app: &Harness, changes: Value| {
            app.call(&function(), &change(made.id, changes)).await.unwrap()
        };

        let nothing = update(&app, json!({})).await;
        assert_eq!(nothing, Product { version: 2, updated_at: nothing.updated_at, ..made.clone() });
        let cheap = update(&app.as_admin(BOB), json!({ "discount": 50, "price": "9.99" })).await;
        assert_eq!((cheap.final_price.to_string(), cheap.owner_id, cheap.stock), ("5.00".into(), ANN, 5));
        let none =
            update(&app, json!({ "sku": null, "category_id": null, "image_urls": ["https://a.b/c"] })).await;
        assert_eq!((none.sku, none.category_id, none.image_urls.len()), (None, None, 1));
        let other =
            update(&app, json!({ "name": " Pan ", "store": "Other", "stock": 0, "description": "Iron" }))
                .await;
        assert_eq!((other.name.as_str(), other.store.as_str(), other.stock), ("Pan", "Other", 0));
        assert_eq!((other.version, other.price.to_string().as_str()), (5, "9.99"));
        for (query, count) in
            [(json!({ "q": "iron pan", "store": "other" }), 1), (json!({ "q": "fryer" }), 0)]
        {
            let query: ListProducts = serde_json::from_value(query).unwrap();
            assert_eq!(app.ask(&list_products::function(), &query).await.unwrap().data.len(), count);
        }
        let announced = app.emitted::<ProductUpdated>().await;
        assert_eq!(announced.iter().map(|told| told.0.version).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert_eq!(announced[3].0, store::product_state(&other, other.updated_at));
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_and_changes_nothing() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let made = product(&app, json!({ "price": "9.99" })).await;
        product(&app, json!({ "sku": "taken" })).await;
        let to = |changes| change(made.id, changes);

        for (who, change, status, expected) in [
            (&app, to(json!({ "sku": "taken" })), 409, "ALREADY_EXISTS"),
            (&app, to(json!({ "category_id": 7 })), 400, "INVALID_INPUT"),
            (&app, to(json!({ "price": "0.001" })), 400, "INVALID_INPUT"),
            // The price that stays has cents.
            (&app, to(json!({ "currency": "JPY" })), 400, "INVALID_INPUT"),
            (&app, to(json!({ "discount": 71 })), 400, "INVALID_INPUT"),
            (&app, to(json!({ "stock": -1 })), 400, "INVALID_INPUT"),
            (&app, to(json!({ "if_match": 2, "stock": 1 })), 412, "PRECONDITION_FAILED"),
            (&app, change(ProductId::new(), json!({ "stock": 1 })), 404, "NOT_FOUND"),
            (&app.as_user(BOB), to(json!({ "stock": 1 })), 403, "FORBIDDEN"),
        ] {
            let refused = who.answer(&function(), &change).await;
            assert_eq!((refused.status, code(&refused).as_str()), (status, expected), "{change:?}");
        }
        let shown = GetProduct { product_id: made.id.to_string() };
        assert_eq!(app.ask(&get_product::function(), &shown).await.unwrap(), made);
        assert!(app.emitted::<ProductUpdated>().await.is_empty());
    }

    #[tokio::test]
    async fn of_two_who_have_seen_the_same_version_one_changes_it() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let made = product(&app, json!({})).await;
        let (function, first, second) = (
            function(),
            change(made.id, json!({ "if_match": 1, "stock": 1 })),
            change(made.id, json!({ "if_match": 1, "stock": 2 })),
        );

        let (one, other) = futures_util::join!(app.answer(&function, &first), app.answer(&function, &second));

        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412]);
    }
}
