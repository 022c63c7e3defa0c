//! `delete-product`: take a product out of the catalogue.
//!
//! Emits [`ProductDeleted`]. Refuses whoever neither made it nor is an administrator.

use contracts::catalog::{DeleteProduct, ProductDeleted};
use platform::{Cx, Function, Result};

use crate::store;

/// Commands of [`DeleteProduct`].
pub fn function() -> Function {
    Function::command(delete_product).emits::<ProductDeleted>()
}

async fn delete_product(cx: &mut Cx, command: DeleteProduct) -> Result<()> {
    let (caller, now, id) = (cx.caller()?, cx.now(), command.product_id);
    let tx = cx.tx().await?;
    let mut product = store::lock_product(tx, id, caller, command.if_match).await?;
    sqlx::query!("delete from products where id = $1", id.0).execute(tx).await?;
    product.version += 1;
    cx.emit(&ProductDeleted(store::product_state(&product, now)))
}

#[cfg(test)]
mod tests {
    use contracts::{ProductId, catalog::GetProduct};
    use serde_json::json;
    use testing::Harness;

    use super::*;
    use crate::{
        fixtures::{ANN, BOB, product},
        get_product,
    };

    #[tokio::test]
    async fn its_owner_or_an_administrator_takes_it_out_and_its_sku_is_free() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let made = product(&app, json!({ "sku": "a" })).await;
        let gone = |product_id: ProductId| DeleteProduct { product_id, if_match: None };

        assert_eq!(app.as_user(BOB).answer(&function(), &gone(made.id)).await.status, 403);
        let stale = DeleteProduct { if_match: Some(2), ..gone(made.id) };
        assert_eq!(app.answer(&function(), &stale).await.status, 412);
        let fresh = DeleteProduct { if_match: Some(1), ..gone(made.id) };
        app.call(&function(), &fresh).await.unwrap();

        let shown = GetProduct { product_id: made.id.to_string() };
        assert!(app.ask(&get_product::function(), &shown).await.is_err());
        assert_eq!(app.answer(&function(), &gone(made.id)).await.status, 404);
        let again = product(&app, json!({ "sku": "a" })).await;
        app.as_admin(BOB).call(&function(), &gone(again.id)).await.unwrap();
        let told = app.emitted::<ProductDeleted>().await;
        assert_eq!((told.len(), told[0].0.product_id, told[0].0.version), (2, made.id, 2));
    }
}
