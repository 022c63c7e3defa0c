//! `update-category`: call a category otherwise, or move it within the tree.
//!
//! Emits [`CategoryUpdated`]. Refuses whoever neither made it nor is an administrator, a name that is taken, a parent that
//! is not there, and a move that would make a circle.

use contracts::catalog::{Category, CategoryUpdated, UpdateCategory};
use platform::{Cx, Function, Result};
use sqlx::PgConnection;

use crate::{goods::GoodsRefused, store, words};

/// The advisory lock of moves within the tree: one after the other, since two that are good alone may make a circle
/// together.
const MOVE: i64 = 0x6f75_7472_6d6f_7665;

/// Commands of [`UpdateCategory`].
pub fn function() -> Function {
    Function::command(update_category).emits::<CategoryUpdated>()
}

async fn update_category(cx: &mut Cx, change: UpdateCategory) -> Result<Category> {
    let (caller, now, id) = (cx.caller()?, cx.now(), change.category_id);
    let tx = cx.tx().await?;
    if change.parent_id.is_some() {
        // Before the row, so that whoever moves never waits for another who does while holding one.
        sqlx::query!("select pg_advisory_xact_lock($1)", MOVE).execute(&mut *tx).await?;
    }
    let before = store::lock_category(tx, id, caller, change.if_match).await?;
    if let Some(Some(parent)) = change.parent_id
        && is_within(tx, parent, id).await?
    {
        return Err(GoodsRefused::Cycle.into());
    }
    let name = change.name.as_deref().map_or(before.name.as_str(), str::trim);
    sqlx::query!(
        r#"
        update categories set name = $2, plain_name = $3, description = $4, parent_id = $5, version = version + 1,
            updated_at = $6
        where id = $1
        "#,
        id,
        name,
        words::plain(name),
        change.description.unwrap_or(before.description),
        change.parent_id.unwrap_or(before.parent_id),
        now,
    )
    .execute(&mut *tx)
    .await
    .map_err(store::refusal)?;
    let category = store::category(tx, id).await?;
    cx.emit(&CategoryUpdated(store::category_state(&category, now)))?;
    Ok(category)
}

/// Whether a category is `whole`, or one of its parts.
async fn is_within(tx: &mut PgConnection, part: i64, whole: i64) -> Result<bool> {
    let found = sqlx::query_scalar!(
        r#"
        with recursive above (id, parent_id) as (
            select id, parent_id from categories where id = $1
            union
            select categories.id, categories.parent_id from categories join above on categories.id = above.parent_id
        )
        select exists (select from above where id = $2) as "found!"
        "#,
        part,
        whole,
    )
    .fetch_one(tx)
    .await?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use contracts::catalog::CreateCategory;
    use testing::{Harness, code};

    use super::*;
    use crate::fixtures::{ANN, BOB, category, named};

    fn moved(category_id: i64, parent_id: Option<i64>) -> UpdateCategory {
        UpdateCategory { category_id, parent_id: Some(parent_id), ..UpdateCategory::default() }
    }

    fn renamed(category_id: i64, name: &str) -> UpdateCategory {
        UpdateCategory { category_id, name: Some(name.into()), ..UpdateCategory::default() }
    }

    #[tokio::test]
    async fn what_is_said_changes_and_the_rest_stays() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let (devices, made) = (category(&app, "Devices").await, category(&app, "Kichen").await);

        let named = app.call(&function(), &renamed(made.id, " KICHEN ")).await.unwrap();
        let placed = app.call(&function(), &moved(made.id, Some(devices.id))).await.unwrap();
        let told = UpdateCategory { description: Some("Ovens".into()), ..moved(made.id, None) };
        let told = app.as_admin(BOB).call(&function(), &told).await.unwrap();

        assert_eq!((named.name.as_str(), named.version, named.parent_id), ("KICHEN", 2, None));
        assert_eq!((placed.name.as_str(), placed.parent_id), ("KICHEN", Some(devices.id)));
        assert_eq!((told.description.as_str(), told.parent_id, told.owner_id), ("Ovens", None, ANN));
        assert!(told.updated_at > told.created_at);
        let announced = app.emitted::<CategoryUpdated>().await;
        assert_eq!(announced.iter().map(|told| told.0.version).collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_and_changes_nothing() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let (top, other) = (category(&app, "Top").await, category(&app, "Other").await);
        let below = CreateCategory { parent_id: Some(top.id), ..named("Below") };
        let below = app.call(&crate::create_category::function(), &below).await.unwrap();
        let stale = UpdateCategory { if_match: Some(2), ..renamed(top.id, "New") };

        for (who, change, status, expected) in [
            (&app, renamed(top.id, "OTHER"), 409, "ALREADY_EXISTS"),
            (&app, renamed(99, "New"), 404, "NOT_FOUND"),
            (&app, moved(top.id, Some(99)), 400, "INVALID_INPUT"),
            (&app, moved(top.id, Some(top.id)), 409, "CONFLICT"),
            (&app, moved(top.id, Some(below.id)), 409, "CONFLICT"),
            (&app, stale, 412, "PRECONDITION_FAILED"),
            (&app.as_user(BOB), renamed(top.id, "New"), 403, "FORBIDDEN"),
            (&app.as_user(BOB), moved(other.id, Some(top.id)), 403, "FORBIDDEN"),
        ] {
            let refused = who.answer(&function(), &change).await;
            assert_eq!((refused.status, code(&refused).as_str()), (status, expected), "{change:?}");
        }
        assert_eq!(store::category(&mut app.pool().acquire().await.unwrap(), top.id).await.unwrap(), top);
        assert!(app.emitted::<CategoryUpdated>().await.is_empty());
        let fresh = UpdateCategory { if_match: Some(1), ..renamed(top.id, "New") };
        assert_eq!(app.call(&function(), &fresh).await.unwrap().version, 2);
    }

    /// Each move is good alone; all together they would make a circle.
    #[tokio::test]
    async fn moves_at_once_make_no_circle() {
        let app = Harness::start(crate::database()).await.as_user(ANN);
        let function = function();
        for round in 0..10 {
            let mut ring = Vec::new();
            for name in ["A", "B", "C"] {
                ring.push(category(&app, &format!("{name}{round}")).await.id);
            }

            let moves = [(0, 1), (1, 2), (2, 0)].map(|(part, whole)| {
                let (app, function, change) =
                    (app.clone(), function.clone(), moved(ring[part], Some(ring[whole])));
                async move { app.answer(&function, &change).await }
            });
            let answers = futures_util::future::join_all(moves).await;

            let done = answers.iter().filter(|answer| answer.status == 200).count();
            let refused = answers.iter().filter(|answer| code(answer) == "CONFLICT").count();
            assert_eq!((done, refused), (2, 1), "round {round}: {answers:?}");
        }
    }
}
