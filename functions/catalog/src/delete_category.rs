//! `delete-category`: remove a category in which nothing is.
//!
//! Emits [`CategoryDeleted`]. Refuses whoever neither made it nor is an administrator, and a category with parts, products or
//! items. Of items the listing tells, which follows by a moment: one that is offered in that very moment keeps the id of a
//! category that is gone.

use contracts::catalog::{CategoryDeleted, DeleteCategory};
use platform::{Cx, Function, Result, error::OnConstraint};

use crate::{goods::GoodsRefused, store};

/// Commands of [`DeleteCategory`].
pub fn function() -> Function {
    Function::command(delete_category).emits::<CategoryDeleted>()
}

async fn delete_category(cx: &mut Cx, command: DeleteCategory) -> Result<()> {
    let (caller, now, id) = (cx.caller()?, cx.now(), command.category_id);
    let tx = cx.tx().await?;
    let mut category = store::lock_category(tx, id, caller, command.if_match).await?;
    let has_items =
        sqlx::query_scalar!(r#"select exists (select from items where category_id = $1) as "found!""#, id)
            .fetch_one(&mut *tx)
            .await?;
    if has_items {
        return Err(GoodsRefused::HasItems.into());
    }
    let removed = sqlx::query!("delete from categories where id = $1", id).execute(tx).await;
    // Asked of the constraints, so that what comes at the same time is seen as well.
    if let Err(error) = removed {
        return match error.as_database_error().and_then(|error| error.constraint()) {
            Some("category_parent") => Err(GoodsRefused::HasParts.into()),
            _ => Err(error).refuse_on("product_category", GoodsRefused::HasProducts),
        };
    }
    category.version += 1;
    cx.emit(&CategoryDeleted(store::category_state(&category, now)))
}

#[cfg(test)]
mod tests {
    use contracts::{
        auctions::ItemState,
        catalog::{CreateCategory, GetCategory, UpdateCategory},
    };
    use testing::{Harness, code};

    use super::*;
    use crate::{
        create_category, create_product,
        fixtures::{ANN, BOB, category, fryer, lamp, named, offer},
        get_category,
    };

    fn gone(category_id: i64) -> DeleteCategory {
        DeleteCategory { category_id, ..DeleteCategory::default() }
    }

    #[tokio::test]
    async fn an_empty_category_goes_and_its_id_does_not_come_back() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let (first, second) = (category(&app, "First").await, category(&app, "Second").await);

        app.call(&function(), &gone(second.id)).await.unwrap();
        app.as_admin(BOB).call(&function(), &gone(first.id)).await.unwrap();

        assert!(app.ask(&get_category::function(), &GetCategory { category_id: second.id }).await.is_err());
        assert_eq!(app.answer(&function(), &gone(second.id)).await.status, 404);
        let again = category(&app, "Second").await;
        assert!(again.id > second.id);
        let told = app.emitted::<CategoryDeleted>().await;
        assert_eq!((told.len(), told[0].0.category_id, told[0].0.version), (2, second.id, 2));
    }

    #[tokio::test]
    async fn a_category_that_is_not_empty_says_why_it_stays() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let mut made = Vec::new();
        for name in ["parts", "products", "items", "mine", "changed"] {
            made.push(category(&app, name).await.id);
        }
        let part = CreateCategory { parent_id: Some(made[0]), ..named("Part") };
        app.call(&create_category::function(), &part).await.unwrap();
        let product = fryer(serde_json::json!({ "category_id": made[1] }));
        app.call(&create_product::function(), &product).await.unwrap();
        offer(&app, &[ItemState { category_id: Some(made[2]), ..lamp(1) }]).await;

        for (id, why) in made.iter().zip(["the category has parts", "the category has products", "has items"])
        {
            let refused = app.answer(&function(), &gone(*id)).await;
            assert_eq!((refused.status, code(&refused).as_str()), (409, "CONFLICT"));
            assert!(String::from_utf8_lossy(&refused.body).contains(why), "{refused:?}");
        }
        assert_eq!(app.as_user(BOB).answer(&function(), &gone(made[3])).await.status, 403);
        let stale = DeleteCategory { if_match: Some(7), ..gone(made[4]) };
        assert_eq!(app.answer(&function(), &stale).await.status, 412);
        assert!(app.emitted::<CategoryDeleted>().await.is_empty());
    }

    /// Either the product is there, and so is its category, or neither.
    #[tokio::test]
    async fn a_product_that_comes_while_its_category_goes_is_not_left_without_it() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        for round in 0..10 {
            let id = category(&app, &format!("C{round}")).await.id;
            let into = category(&app, &format!("D{round}")).await.id;
            let (remove, make, below) =
                (function(), create_product::function(), crate::update_category::function());
            let product = fryer(serde_json::json!({ "category_id": id }));
            let part = UpdateCategory { category_id: into, parent_id: Some(Some(id)), ..Default::default() };
            let command = gone(id);

            let (removed, made, moved) = futures_util::join!(
                app.answer(&remove, &command),
                app.answer(&make, &product),
                app.answer(&below, &part)
            );

            let kept = [&made, &moved].map(|answer| answer.status);
            let good = if removed.status == 200 { kept == [400, 400] } else { kept.contains(&200) };
            assert!(good, "round {round}: {removed:?} {made:?} {moved:?}");
        }
    }
}
