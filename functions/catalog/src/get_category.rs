//! `get-category`: show a category as it is now.

use contracts::catalog::{Category, GetCategory};
use platform::{Cx, Function, Result};

use crate::store;

/// Queries of [`GetCategory`].
pub fn function() -> Function {
    Function::query(get_category)
}

async fn get_category(cx: &mut Cx, query: GetCategory) -> Result<Category> {
    store::category(cx.tx().await?, query.category_id).await
}

#[cfg(test)]
mod tests {
    use testing::Harness;

    use super::*;
    use crate::fixtures::{ANN, category};

    #[tokio::test]
    async fn what_was_made_is_shown_and_what_was_not_is_not_found() {
        let app = Harness::start(crate::database()).await;
        let made = category(&app.as_user(ANN), "Devices").await;

        let shown = app.ask(&function(), &GetCategory { category_id: made.id }).await.unwrap();

        assert_eq!(shown, made);
        for category_id in [0, -1, made.id + 1, i64::MAX] {
            let refused = app.ask(&function(), &GetCategory { category_id }).await.unwrap_err();
            assert!(matches!(refused, platform::Error::Refused(refused) if refused.code == "NOT_FOUND"));
        }
    }
}
