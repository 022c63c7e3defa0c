//! `get-me`: show the caller's own account.

use contracts::identity::{GetMe, User};
use platform::{Cx, Function, Refused, Result};

use crate::{account::Name, store};

/// Queries of [`GetMe`].
pub fn function() -> Function {
    Function::query(get_me)
}

async fn get_me(cx: &mut Cx, _: GetMe) -> Result<User> {
    let caller = cx.caller()?;
    // A token outlives its account by minutes. It says who somebody was: that opens nothing.
    let found = store::find(cx.tx().await?, Name::Id(caller.id)).await?;
    let (user, _) = found.ok_or_else(Refused::unauthenticated)?;
    Ok(user)
}

#[cfg(test)]
mod tests {
    use platform::{Error, UserId};
    use uuid::Uuid;

    use super::*;
    use crate::{
        fixtures::{app, john},
        register,
    };

    #[tokio::test]
    async fn everybody_sees_their_own_account() {
        let app = app().await;
        let john = app.call(&register::function(), &john()).await.unwrap().user;

        let seen = app.as_user(john.id).ask(&function(), &GetMe {}).await.unwrap();

        assert_eq!(seen, john);
    }

    #[tokio::test]
    async fn who_has_no_account_any_more_is_nobody() {
        let app = app().await;
        let john = app.call(&register::function(), &john()).await.unwrap().user;
        sqlx::query!("delete from users where id = $1", john.id.0).execute(app.pool()).await.unwrap();
        let stranger = UserId(Uuid::now_v7());

        for app in [app.as_user(john.id), app.as_user(stranger), (*app).clone()] {
            let refused = app.ask(&function(), &GetMe {}).await;

            assert!(matches!(refused, Err(Error::Refused(refused)) if refused.status == 401));
        }
    }
}
