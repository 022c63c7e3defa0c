//! `update-user`: change an account, the caller's own or any for an administrator.
//!
//! A new e-mail holds at once. An account that is deactivated is out: its sessions end and nobody logs in to it.
//! Emits [`UserUpdated`], and [`SessionEnded`] for each session that ends. Refuses as in [`AccountRefused`].

use contracts::identity::{SessionEnded, UpdateUser, User, UserUpdated};
use platform::{Cx, Function, Result, Role};

use crate::{
    account::{self, AccountRefused},
    change, store,
};

/// Commands of [`UpdateUser`].
pub fn function() -> Function {
    Function::command(update_user).emits::<UserUpdated>().emits::<SessionEnded>()
}

async fn update_user(cx: &mut Cx, update: UpdateUser) -> Result<User> {
    let caller = cx.caller()?;
    account::may_act_for(caller, update.user_id)?;
    let before = if update.is_active == Some(false) && caller.role == Role::Admin {
        change::lock_replaceable(cx, update.user_id).await?
    } else {
        store::lock(cx.tx().await?, update.user_id).await?.ok_or(AccountRefused::NoUser)?
    };
    let after = account::changed(&before, update);
    if after.is_active != before.is_active && caller.role != Role::Admin {
        return Err(AccountRefused::OnlyAdmins.into());
    }
    change::keep(cx, &before, after).await
}

#[cfg(test)]
mod tests {
    use contracts::identity::{GetUser, ListUsers, Login, Profile, Register};
    use platform::{Error, Refused, UserId};
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::{
        fixtures::{App, PASSWORD, admin, app, jane, john, login, person},
        get_user, list_users,
    };

    fn change(user: &User, members: Value) -> UpdateUser {
        let mut update = json!({ "user_id": user.id });
        update.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        serde_json::from_value(update).unwrap()
    }

    async fn own(app: &App, user: &User, members: Value) -> Result<User> {
        app.as_user(user.id).call(&function(), &change(user, members)).await
    }

    fn refusal(answer: Result<User>) -> Refused {
        match answer {
            Err(Error::Refused(refused)) => refused,
            other => panic!("not refused: {other:?}"),
        }
    }

    async fn log_in(app: &App, name: &str) -> Option<User> {
        let login = Login { username_or_email: Some(name.into()), ..login(PASSWORD) };
        app.call(&crate::login::function(), &login).await.ok()?.session().map(|session| session.user)
    }

    #[tokio::test]
    async fn what_is_given_changes_and_the_rest_stays() {
        let app = app().await;
        let john = person(&app, john()).await;

        let changed =
            own(&app, &john, json!({ "last_name": "Smith", "email": "js@test.com" })).await.unwrap();
        let same = own(&app, &john, json!({ "last_name": "Smith" })).await.unwrap();

        let expected = User {
            email: "js@test.com".into(),
            name: "John Smith".into(),
            last_name: "Smith".into(),
            version: 2,
            updated_at: changed.updated_at,
            ..john.clone()
        };
        assert_eq!(changed, expected);
        assert!(changed.updated_at > john.updated_at);
        assert_eq!(same, changed);
        assert_eq!(log_in(&app, "js@test.com").await, Some(changed.clone()));
        assert_eq!(log_in(&app, "john@test.com").await, None);
        let told = app.emitted::<UserUpdated>().await;
        assert_eq!(told.len(), 1, "what stayed as it was is not told");
        assert_eq!((told[0].user_id, told[0].version, told[0].email.as_str()), (john.id, 2, "js@test.com"));
        assert!(app.emitted::<SessionEnded>().await.is_empty());
        let by_name = ListUsers { q: Some("smith".into()), ..Default::default() };
        let found = app.as_user(john.id).ask(&list_users::function(), &by_name).await;
        assert_eq!(found.unwrap().data, [Profile::Whole(changed)]);
    }

    #[tokio::test]
    async fn others_may_change_nothing_and_administrators_all() {
        let app = app().await;
        let (john, jane, admin) = (person(&app, john()).await, person(&app, jane()).await, admin(&app).await);
        let update = change(&john, json!({ "first_name": "Jack" }));

        let others = app.as_user(jane.id).answer(&function(), &update).await;
        let nobody = app.answer(&function(), &update).await;
        let strangers = change(&User { id: UserId(Uuid::from_u128(1)), ..john.clone() }, json!({}));

        assert_eq!((others.status, nobody.status), (403, 401));
        assert_eq!(app.as_admin(admin.id).answer(&function(), &strangers).await.status, 404);
        let changed = app.as_admin(admin.id).call(&function(), &update).await.unwrap();
        assert_eq!((changed.name.as_str(), changed.role), ("Jack Doe", Role::User));
        assert_eq!(
            app.as_user(john.id).ask(&get_user::function(), &GetUser { user_id: john.id }).await.unwrap(),
            Profile::Whole(changed)
        );
    }

    #[tokio::test]
    async fn names_are_unique_whatever_their_case_and_ones_own_is_not_in_the_way() {
        let app = app().await;
        let (john, _) = (person(&app, john()).await, person(&app, jane()).await);

        for taken in [json!({ "email": "JANE@test.com" }), json!({ "username": "Jane", "first_name": "X" })] {
            let refused = refusal(own(&app, &john, taken).await);
            assert_eq!((refused.status, refused.code.as_ref()), (409, "ALREADY_EXISTS"));
        }

        let changed =
            own(&app, &john, json!({ "username": "JOHN", "email": "John@test.com" })).await.unwrap();
        assert_eq!((changed.username.as_str(), changed.email.as_str()), ("JOHN", "John@test.com"));
        assert_eq!(changed.name, john.name, "a refused change changed nothing");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_two_who_take_a_name_at_once_one_gets_it() {
        for wanted in [json!({ "email": "new@test.com" }), json!({ "username": "new" })] {
            let app = app().await;
            let (john, jane) = (person(&app, john()).await, person(&app, jane()).await);
            let registering = Register {
                email: wanted["email"].as_str().unwrap_or("else@test.com").to_uppercase(),
                username: Some(wanted["username"].as_str().unwrap_or("else").to_uppercase()),
                ..crate::fixtures::john()
            };
            let register = crate::register::function();

            let (one, two, three) = tokio::join!(
                own(&app, &john, wanted.clone()),
                own(&app, &jane, wanted.clone()),
                app.call(&register, &registering),
            );

            let refusals: Vec<_> = [one.err(), two.err(), three.err()].into_iter().flatten().collect();
            assert_eq!(refusals.len(), 2, "{refusals:?}");
            for refused in refusals {
                assert!(
                    matches!(&refused, Error::Refused(refused) if refused.code == "ALREADY_EXISTS"),
                    "{refused:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn only_an_administrator_says_whether_an_account_is_active() {
        let app = app().await;
        let (john, admin) = (person(&app, john()).await, admin(&app).await);

        let refused = refusal(own(&app, &john, json!({ "is_active": false })).await);
        // The whole account, sent back as it came.
        let same = own(&app, &john, json!({ "is_active": true })).await.unwrap();

        assert_eq!((refused.status, refused.code.as_ref()), (403, "FORBIDDEN"));
        assert_eq!(same, john);
        let admins = app.as_admin(admin.id);
        let out = admins.call(&function(), &change(&john, json!({ "is_active": false }))).await.unwrap();
        assert!(!out.is_active);
        assert_eq!(log_in(&app, "john").await, None);
        let told = app.emitted::<SessionEnded>().await;
        assert_eq!((told.len(), told[0].user_id), (1, john.id));
        let in_again = admins.call(&function(), &change(&john, json!({ "is_active": true }))).await.unwrap();
        assert_eq!(log_in(&app, "john").await, Some(in_again));
    }

    #[tokio::test]
    async fn the_last_administrator_stays_active() {
        let app = app().await;
        let admin = admin(&app).await;

        let refused = refusal(
            app.as_admin(admin.id).call(&function(), &change(&admin, json!({ "is_active": false }))).await,
        );

        assert_eq!((refused.status, refused.code.as_ref()), (409, "CONFLICT"));
        assert!(log_in(&app, "root").await.is_some());
    }
}
