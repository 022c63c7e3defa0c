//! `create-category`: make a category, alone or as a part of another one.
//!
//! Emits [`CategoryCreated`]. Refuses a name that is taken in whatever case, and a parent that is not there.

use contracts::catalog::{Category, CategoryCreated, CreateCategory};
use platform::{Cx, Function, Result};

use crate::{store, words};

/// Commands of [`CreateCategory`].
pub fn function() -> Function {
    Function::command(create_category).emits::<CategoryCreated>()
}

async fn create_category(cx: &mut Cx, new: CreateCategory) -> Result<Category> {
    let (owner, now) = (cx.caller()?, cx.now());
    let name = new.name.trim();
    let id = sqlx::query_scalar!(
        r#"
        insert into categories (owner_id, name, plain_name, description, parent_id, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $6) returning id
        "#,
        owner.id.0,
        name,
        words::plain(name),
        new.description,
        new.parent_id,
        now,
    )
    .fetch_one(cx.tx().await?)
    .await
    .map_err(store::refusal)?;
    let category = store::category(cx.tx().await?, id).await?;
    cx.emit(&CategoryCreated(store::category_state(&category, now)))?;
    Ok(category)
}

#[cfg(test)]
mod tests {
    use testing::{Harness, code};

    use super::*;
    use crate::fixtures::{ANN, category, named};

    #[tokio::test]
    async fn a_new_category_is_there_and_announced() {
        let app = Harness::start(crate::database()).await.as_user(ANN);

        let devices = app.call(&function(), &named(" Devices ")).await.unwrap();
        let new = CreateCategory { parent_id: Some(devices.id), ..named("Kitchen") };
        let kitchen = app.call(&function(), &new).await.unwrap();

        assert_eq!((devices.id, devices.name.as_str(), devices.owner_id), (1, "Devices", ANN));
        assert_eq!((devices.version, devices.product_count, devices.parent_id), (1, 0, None));
        assert_eq!((kitchen.id, kitchen.parent_id), (2, Some(1)));
        let announced = app.emitted::<CategoryCreated>().await;
        assert_eq!(announced.len(), 2);
        assert_eq!((announced[1].0.category_id, announced[1].0.parent_id), (2, Some(1)));
        assert_eq!(announced[1].0.occurred_at, kitchen.created_at);
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_and_leaves_nothing() {
        let nobody = Harness::start(crate::database()).await;
        let app = nobody.as_user(ANN);
        category(&app, "ŁÓŻKA").await;

        for (new, status, expected) in [
            (named("łóżka "), 409, "ALREADY_EXISTS"),
            (named("\t"), 400, "INVALID_INPUT"),
            (CreateCategory { parent_id: Some(9), ..named("A") }, 400, "INVALID_INPUT"),
            (CreateCategory { parent_id: Some(i64::MIN), ..named("A") }, 400, "INVALID_INPUT"),
        ] {
            let refused = app.answer(&function(), &new).await;
            assert_eq!((refused.status, code(&refused).as_str()), (status, expected), "{new:?}");
        }
        let unknown = CreateCategory { parent_id: Some(9), ..named("A") };
        let said = app.answer(&function(), &unknown).await;
        assert!(String::from_utf8_lossy(&said.body).contains("parent_id: there is no such category"));
        assert_eq!(nobody.answer(&function(), &named("B")).await.status, 401);
        assert_eq!(app.emitted::<CategoryCreated>().await.len(), 1);
    }

    #[tokio::test]
    async fn of_many_who_take_a_name_at_once_one_gets_it() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let names = ["Lamps", "LAMPS", "lamps", "lAMPS", "Lamps", "LaMpS"];

        let function = function();
        let takes = names.map(|name| {
            let (app, function) = (app.clone(), function.clone());
            async move { app.answer(&function, &named(name)).await }
        });
        let answers = futures_util::future::join_all(takes).await;

        let won = answers.iter().filter(|answer| answer.status == 200).count();
        let lost = answers.iter().filter(|answer| code(answer) == "ALREADY_EXISTS").count();
        assert_eq!((won, lost), (1, names.len() - 1), "{answers:?}");
    }
}
