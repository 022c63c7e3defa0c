//! `delete-user`: delete an account, the caller's own or any for an administrator.
//!
//! Its row stays under a pseudonym, because what it did names its id; its user name and e-mail are free again, and its
//! sessions end. Emits [`UserDeleted`], and [`SessionEnded`] for each session. Refuses as in
//! [`AccountRefused`](crate::account::AccountRefused).

use contracts::identity::{DeleteUser, SessionEnded, UserDeleted};
use platform::{Cx, Function, Result, Timestamp, UserId};

use crate::{
    account, challenge, change,
    session::{self, Ended},
    store,
};

/// Commands of [`DeleteUser`].
pub fn function() -> Function {
    Function::command(delete_user).emits::<UserDeleted>().emits::<SessionEnded>()
}

async fn delete_user(cx: &mut Cx, DeleteUser { user_id }: DeleteUser) -> Result<()> {
    account::may_act_for(cx.caller()?, user_id)?;
    let now = cx.now();
    forget(cx, user_id).await?;
    let before = change::lock_replaceable(cx, user_id).await?;
    let mut user = account::pseudonymous(before);
    user.version += 1;
    user.updated_at = now;
    store::save(cx.tx().await?, &user).await?;
    // No password has this hash, and nobody finds the account by its words.
    sqlx::query!(
        "update users set deleted_at = $2, password_hash = '', two_factor_enabled = false, words = '' where id = $1",
        user_id.0,
        now as Timestamp,
    )
    .execute(cx.tx().await?)
    .await?;
    cx.emit(&UserDeleted {
        user_id,
        username: user.username,
        name: user.name,
        version: user.version,
        deleted_at: now,
    })?;
    session::end(cx, Ended::AllOf(user_id)).await
}

/// Removes what opens the account beside its password. Before the account is locked, as whoever uses it locks both.
async fn forget(cx: &mut Cx, user: UserId) -> Result<()> {
    challenge::end_all_of(cx, user).await?;
    sqlx::query!(
        "with factors as (delete from second_factors where user_id = $1),
             codes as (delete from recovery_codes where user_id = $1)
         delete from password_resets where user_id = $1",
        user.0,
    )
    .execute(cx.tx().await?)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use contracts::identity::{GetMe, GetUser, ListUsers, Login, Profile, Refresh, UpdateUser, User};
    use platform::Answer;
    use serde_json::json;
    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::{
        fixtures::{App, PASSWORD, admin, app, jane, john, login, person},
        get_me, get_user, grant_admin, list_users, refresh, register, update_user,
    };

    async fn delete(app: &App, who: &User) -> Answer {
        app.as_user(who.id).answer(&function(), &DeleteUser { user_id: who.id }).await
    }

    #[tokio::test]
    async fn what_names_somebody_goes_and_the_id_stays() {
        let app = app().await;
        let session = app.call(&register::function(), &john()).await.unwrap();
        let (john, jane, admin) = (session.user, person(&app, jane()).await, admin(&app).await);

        assert_eq!(delete(&app, &john).await.status, 200);

        let row = AssertSqlSafe(format!("select users::text from users where id = '{}'", john.id));
        let row = sqlx::query_scalar::<_, String>(row).fetch_one(app.pool()).await.unwrap().to_lowercase();
        for name in ["john", "doe", "argon2"] {
            assert!(!row.contains(name), "{row}");
        }
        let seen =
            app.as_user(jane.id).ask(&get_user::function(), &GetUser { user_id: john.id }).await.unwrap();
        let Profile::Public(seen) = seen else { panic!("{seen:?}") };
        let pseudonym = format!("deleted~{}", john.id);
        assert_eq!(
            (seen.id, seen.username.as_str(), seen.name.as_str()),
            (john.id, pseudonym.as_str(), "Deleted user")
        );
        let told = app.emitted::<UserDeleted>().await;
        assert_eq!(
            (told.len(), told[0].user_id, told[0].username.as_str(), told[0].version),
            (1, john.id, pseudonym.as_str(), 2)
        );
        for q in [None, Some("john".into()), Some("deleted".into())] {
            let query = ListUsers { q, ..Default::default() };
            let listed = app.as_admin(admin.id).ask(&list_users::function(), &query).await.unwrap().data;
            let is_john = |profile: &Profile| matches!(profile, Profile::Whole(user) if user.id == john.id);
            assert!(!listed.iter().any(is_john), "{listed:?}");
        }
    }

    #[tokio::test]
    async fn who_is_deleted_is_out_and_is_answered_like_a_stranger() {
        let app = app().await;
        let session = app.call(&register::function(), &john()).await.unwrap();
        let john = session.user;

        delete(&app, &john).await;

        let told = app.emitted::<SessionEnded>().await;
        assert_eq!((told.len(), told[0].user_id), (1, john.id));
        let refreshed =
            app.answer(&refresh::function(), &Refresh { refresh_token: session.refresh_token }).await;
        let by = |name: &str| Login { username_or_email: Some(name.into()), ..login(PASSWORD) };
        let stranger = app.answer(&crate::login::function(), &by("nobody")).await;
        assert_eq!((refreshed.status, stranger.status), (401, 401));
        for name in ["john".to_owned(), john.email.clone(), format!("deleted~{}", john.id)] {
            let refused = app.answer(&crate::login::function(), &by(&name)).await;
            assert_eq!(refused.body, stranger.body, "{name}");
        }
        let me = app.as_user(john.id).ask(&get_me::function(), &GetMe {}).await;
        assert!(matches!(me, Err(platform::Error::Refused(refused)) if refused.status == 401));
        let update: UpdateUser =
            serde_json::from_value(json!({ "user_id": john.id, "username": "back" })).unwrap();
        assert_eq!(app.as_user(john.id).answer(&update_user::function(), &update).await.status, 404);
        assert_eq!(delete(&app, &john).await.status, 404);
    }

    #[tokio::test]
    async fn name_and_e_mail_are_free_again_and_nobody_is_in_the_way() {
        let app = app().await;
        for _ in 0..3 {
            let john = person(&app, john()).await;
            assert_eq!(delete(&app, &john).await.status, 200);
        }

        let rows =
            sqlx::query_scalar!(r#"select count(*) as "count!" from users"#).fetch_one(app.pool()).await;
        assert_eq!(rows.unwrap(), 3);
    }

    #[tokio::test]
    async fn others_may_not_and_administrators_may() {
        let app = app().await;
        let (john, jane, admin) = (person(&app, john()).await, person(&app, jane()).await, admin(&app).await);
        let delete = DeleteUser { user_id: john.id };

        let others = app.as_user(jane.id).answer(&function(), &delete).await;
        let nobody = app.answer(&function(), &delete).await;
        assert_eq!((others.status, nobody.status), (403, 401));
        assert!(app.emitted::<UserDeleted>().await.is_empty());

        assert_eq!(app.as_admin(admin.id).answer(&function(), &delete).await.status, 200);
        assert_eq!(app.as_admin(admin.id).answer(&function(), &delete).await.status, 404);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_the_last_two_administrators_one_stays() {
        for _ in 0..5 {
            let app = app().await;
            let (one, two) = (admin(&app).await, person(&app, jane()).await);
            let email = two.email.clone();
            app.call(&grant_admin::function(), &contracts::identity::GrantAdmin { email }).await.unwrap();

            let (first, second) = tokio::join!(delete(&app, &one), delete(&app, &two));

            let mut statuses = [first.status, second.status];
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 409], "{first:?} {second:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_gets_in_while_the_account_goes() {
        for _ in 0..5 {
            let app = app().await;
            let john = person(&app, john()).await;
            let by_name = Login { username: Some("john".into()), ..login(PASSWORD) };
            let login = crate::login::function();

            let (a, b, c, _) = tokio::join!(
                app.answer(&login, &by_name),
                app.answer(&login, &by_name),
                app.answer(&login, &by_name),
                delete(&app, &john),
            );

            assert!([a, b, c].iter().all(|answer| [200, 401].contains(&answer.status)));
            let open =
                sqlx::query_scalar!(r#"select count(*) as "count!" from sessions where revoked_at is null"#);
            assert_eq!(open.fetch_one(app.pool()).await.unwrap(), 0);
        }
    }

    /// The same race, where it is decided: the account was looked up, and is gone before the session is opened.
    #[tokio::test]
    async fn who_was_found_and_is_gone_meanwhile_is_refused() {
        let app = app().await;
        let john = person(&app, john()).await;
        let mut deleting = app.pool().begin().await.unwrap();
        crate::store::lock(&mut deleting, john.id).await.unwrap();
        let by_name = Login { username: Some("john".into()), ..login(PASSWORD) };
        let login = crate::login::function();
        let gone = async {
            // Until the login has found the account and waits for it.
            let waits = "select exists (select from pg_locks where not granted and database is not distinct from
                (select oid from pg_database where datname = current_database()) or not granted and database is null)";
            while !sqlx::query_scalar::<_, bool>(waits).fetch_one(app.pool()).await.unwrap() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            let gone = sqlx::query!("update users set deleted_at = now() where id = $1", john.id.0);
            gone.execute(&mut *deleting).await.unwrap();
            deleting.commit().await.unwrap();
        };

        let (answer, ()) = tokio::join!(app.answer(&login, &by_name), gone);

        assert_eq!(answer.status, 401, "{answer:?}");
        let sessions =
            sqlx::query_scalar!(r#"select count(*) as "count!" from sessions"#).fetch_one(app.pool()).await;
        assert_eq!(sessions.unwrap(), 1, "only that of the registration");
    }

    #[tokio::test]
    async fn what_never_was_is_not_there() {
        let app = app().await;
        let admin = admin(&app).await;

        let stranger = DeleteUser { user_id: UserId(uuid::Uuid::from_u128(1)) };

        assert_eq!(app.as_admin(admin.id).answer(&function(), &stranger).await.status, 404);
    }
}
