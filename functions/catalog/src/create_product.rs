//! `create-product`: put a product up for sale, at a price of its own and without an auction.
//!
//! Emits [`ProductCreated`]. Refuses a sku that is taken, a category that is not there, and a price that does not fit its
//! currency or of which the discount leaves nothing.

use contracts::{
    ProductId,
    catalog::{CreateProduct, Product, ProductCreated},
};
use platform::{Cx, Function, Result};

use crate::{goods, store, words};

/// Commands of [`CreateProduct`].
pub fn function() -> Function {
    Function::command(create_product).emits::<ProductCreated>()
}

async fn create_product(cx: &mut Cx, new: CreateProduct) -> Result<Product> {
    let (owner, now) = (cx.caller()?, cx.now());
    let price = goods::price(new.price, new.currency, new.discount)?;
    let (id, name, shop) = (ProductId::new(), new.name.trim(), new.store.trim());
    sqlx::query!(
        r#"
        insert into products (id, owner_id, name, sku, description, currency, price, discount, store, plain_store,
            image_urls, category_id, stock, created_at, updated_at, words)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14,
            setweight(to_tsvector('simple', $15), 'A') || setweight(to_tsvector('simple', $16), 'B'))
        "#,
        id.0,
        owner.id.0,
        name,
        new.sku,
        new.description,
        new.currency.code(),
        price.minor,
        i16::from(new.discount),
        shop,
        words::plain(shop),
        &new.image_urls,
        new.category_id,
        new.stock,
        now,
        words::plain(name),
        words::plain(&new.description),
    )
    .execute(cx.tx().await?)
    .await
    .map_err(store::refusal)?;
    let product = store::product(cx.tx().await?, id.0).await?;
    cx.emit(&ProductCreated(store::product_state(&product, now)))?;
    Ok(product)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use testing::{Harness, code};

    use super::*;
    use crate::fixtures::{ANN, category, fryer};

    #[tokio::test]
    async fn the_seeds_product_is_there_and_announced() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let devices = category(&app, "Devices").await;

        let made = app.call(&function(), &fryer(json!({ "category_id": devices.id }))).await.unwrap();

        assert_eq!(
            (made.price.to_string(), made.final_price.to_string()),
            ("1000.00".into(), "900.00".into())
        );
        assert_eq!((made.owner_id, made.category_id, made.stock), (ANN, Some(devices.id), 0));
        assert_eq!((made.version, made.created_at, made.sku.as_ref()), (1, made.updated_at, None));
        let announced = app.emitted::<ProductCreated>().await;
        assert_eq!(announced.len(), 1);
        assert_eq!(announced[0].0, store::product_state(&made, made.created_at));
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_and_leaves_nothing() {
        let nobody = Harness::start(crate::database()).await;
        let app = nobody.as_user(ANN);
        app.call(&function(), &fryer(json!({ "sku": "fryer" }))).await.unwrap();

        for (changes, status, expected, details) in [
            (json!({ "sku": "fryer" }), 409, "ALREADY_EXISTS", "a product with this sku"),
            (json!({ "category_id": 1 }), 400, "INVALID_INPUT", "category_id: there is no such category"),
            (
                json!({ "price": "1.005" }),
                400,
                "INVALID_INPUT",
                "price: the amount has more decimals than USD",
            ),
            (json!({ "currency": "JPY", "price": "1.5" }), 400, "INVALID_INPUT", "price: "),
            (json!({ "price": 0.01, "discount": 70 }), 400, "INVALID_INPUT", "discount: leaves nothing"),
            (json!({ "price": 0 }), 400, "INVALID_INPUT", "price: must be above 0"),
            (json!({ "discount": 71 }), 400, "INVALID_INPUT", "discount: "),
        ] {
            let refused = app.answer(&function(), &fryer(changes.clone())).await;
            let body = String::from_utf8_lossy(&refused.body).into_owned();
            assert_eq!((refused.status, code(&refused).as_str()), (status, expected), "{changes}: {body}");
            assert!(body.contains(details), "{changes}: {body}");
        }
        assert_eq!(nobody.answer(&function(), &fryer(json!({}))).await.status, 401);
        assert_eq!(app.emitted::<ProductCreated>().await.len(), 1);
    }

    #[tokio::test]
    async fn of_many_who_take_a_sku_at_once_one_gets_it() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let (function, product) = (function(), fryer(json!({ "sku": "prod-1" })));

        let takes = std::iter::repeat_with(|| app.answer(&function, &product)).take(6);
        let answers = futures_util::future::join_all(takes).await;

        let won = answers.iter().filter(|answer| answer.status == 200).count();
        let lost = answers.iter().filter(|answer| code(answer) == "ALREADY_EXISTS").count();
        assert_eq!((won, lost), (1, 5), "{answers:?}");
        // Who has none takes none away.
        for _ in 0..2 {
            app.call(&function, &fryer(json!({}))).await.unwrap();
        }
    }
}
