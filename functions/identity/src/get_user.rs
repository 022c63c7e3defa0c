//! `get-user`: show an account, to its owner and administrators whole, to others what is public of it.
//!
//! One that was deleted is shown under its pseudonym: what it did names its id. Refuses with [`AccountRefused::NoUser`].

use contracts::identity::{GetUser, Profile};
use platform::{Cx, Function, Result};

use crate::{
    account::{self, AccountRefused, Name},
    store,
};

/// Queries of [`GetUser`].
pub fn function() -> Function {
    Function::query(get_user)
}

async fn get_user(cx: &mut Cx, GetUser { user_id }: GetUser) -> Result<Profile> {
    let caller = cx.caller()?;
    let found = store::account(cx.tx().await?, Name::Id(user_id)).await?;
    let account = found.ok_or(AccountRefused::NoUser)?;
    Ok(account::seen_by(caller, account.user))
}

#[cfg(test)]
mod tests {
    use contracts::identity::PublicUser;
    use platform::{Error, UserId};
    use uuid::Uuid;

    use super::*;
    use crate::fixtures::{admin, app, jane, john, person};

    #[tokio::test]
    async fn owner_and_administrators_see_all_and_others_what_is_public() {
        let app = app().await;
        let (john, jane, admin) = (person(&app, john()).await, person(&app, jane()).await, admin(&app).await);
        let query = GetUser { user_id: john.id };

        let own = app.as_user(john.id).ask(&function(), &query).await.unwrap();
        let others = app.as_user(jane.id).ask(&function(), &query).await.unwrap();
        let admins = app.as_admin(admin.id).ask(&function(), &query).await.unwrap();

        assert_eq!(own, Profile::Whole(john.clone()));
        assert_eq!(admins, own);
        let public = PublicUser {
            id: john.id,
            username: "john".into(),
            name: "John Doe".into(),
            created_at: john.created_at,
        };
        assert_eq!(others, Profile::Public(public));
        let json = serde_json::json!(others);
        let members: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["created_at", "id", "name", "username"]);
    }

    #[tokio::test]
    async fn nobody_is_answered_and_strangers_are_not_there() {
        let app = app().await;
        let john = person(&app, john()).await;
        let status = |answer| match answer {
            Err(Error::Refused(refused)) => refused.status,
            other => panic!("not refused: {other:?}"),
        };

        let nobody = app.ask(&function(), &GetUser { user_id: john.id }).await;
        let stranger =
            app.as_user(john.id).ask(&function(), &GetUser { user_id: UserId(Uuid::from_u128(1)) }).await;

        assert_eq!((status(nobody), status(stranger)), (401, 404));
    }
}
