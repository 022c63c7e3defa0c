//! `get-product`: show a product as it is now, by its id or by its sku.

use contracts::catalog::{GetProduct, Product};
use platform::{Cx, Function, Result};
use uuid::Uuid;

use crate::{goods::GoodsRefused, store};

/// Queries of [`GetProduct`].
pub fn function() -> Function {
    Function::query(get_product)
}

async fn get_product(cx: &mut Cx, GetProduct { product_id }: GetProduct) -> Result<Product> {
    let tx = cx.tx().await?;
    let id = match product_id.parse::<Uuid>() {
        Ok(id) => id,
        // Not in any text that Postgres keeps.
        Err(_) if product_id.contains('\0') => return Err(GoodsRefused::NoProduct.into()),
        Err(_) => {
            let found = sqlx::query_scalar!("select id from products where sku = $1", product_id);
            found.fetch_optional(&mut *tx).await?.ok_or(GoodsRefused::NoProduct)?
        }
    };
    store::product(tx, id).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use testing::Harness;

    use super::*;
    use crate::fixtures::{ANN, product};

    #[tokio::test]
    async fn a_product_is_found_by_its_id_and_by_its_sku() {
        let app = Harness::start(crate::database()).await;
        let made = product(&app.as_user(ANN), json!({ "sku": "prod-1" })).await;
        product(&app.as_user(ANN), json!({})).await;
        let show = async |id: &str| app.ask(&function(), &GetProduct { product_id: id.into() }).await;

        assert_eq!(show(&made.id.to_string()).await.unwrap(), made);
        assert_eq!(show("prod-1").await.unwrap(), made);
        for unknown in ["prod-2", "PROD-1", "", "\0", &Uuid::nil().to_string()] {
            let refused = show(unknown).await.unwrap_err();
            assert!(matches!(refused, platform::Error::Refused(refused) if refused.code == "NOT_FOUND"));
        }
    }
}
