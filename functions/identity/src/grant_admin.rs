//! `grant-admin`: make somebody an administrator, from their next token on.
//!
//! No route leads here: who may say it is who may write commands, the operator. Emits [`UserUpdated`]. Refuses with
//! [`AccountRefused::NoUser`].

use contracts::identity::{GrantAdmin, User, UserUpdated};
use platform::{Cx, Function, Result, Role};

use crate::{
    account::{AccountRefused, Name},
    change, store,
};

/// Commands of [`GrantAdmin`].
pub fn function() -> Function {
    Function::command(grant_admin).emits::<UserUpdated>()
}

async fn grant_admin(cx: &mut Cx, GrantAdmin { email }: GrantAdmin) -> Result<User> {
    let found = store::account(cx.tx().await?, Name::Email(&email)).await?.ok_or(AccountRefused::NoUser)?;
    let user = store::lock(cx.tx().await?, found.user.id).await?.ok_or(AccountRefused::NoUser)?;
    let admin = User { role: Role::Admin, ..user.clone() };
    change::keep(cx, &user, admin).await
}

#[cfg(test)]
mod tests {
    use contracts::identity::{DeleteUser, Login, Refresh};

    use super::*;
    use crate::{
        delete_user,
        fixtures::{PASSWORD, app, john, login, person},
        refresh, register,
    };

    #[tokio::test]
    async fn the_role_counts_from_the_next_token_on() {
        let app = app().await;
        let session = app.call(&register::function(), &john()).await.unwrap();
        let grant = GrantAdmin { email: "JOHN@test.com".into() };

        let admin = app.call(&function(), &grant).await.unwrap();
        let again = app.call(&function(), &grant).await.unwrap();

        assert_eq!((admin.id, admin.role, admin.version), (session.user.id, Role::Admin, 2));
        assert_eq!(again, admin);
        let told = app.emitted::<UserUpdated>().await;
        assert_eq!((told.len(), told[0].role), (1, Role::Admin));
        let refreshed =
            app.call(&refresh::function(), &Refresh { refresh_token: session.refresh_token }).await;
        let by_name = Login { username: Some("john".into()), ..login(PASSWORD) };
        let logged_in = app.call(&crate::login::function(), &by_name).await.unwrap().session();
        for session in [refreshed.unwrap(), logged_in.unwrap()] {
            assert_eq!(session.user.role, Role::Admin);
        }
    }

    #[tokio::test]
    async fn nobody_with_that_e_mail_is_nobody() {
        let app = app().await;
        let john = person(&app, john()).await;
        app.as_user(john.id).call(&delete_user::function(), &DeleteUser { user_id: john.id }).await.unwrap();

        for email in ["john@test.com", "jane@test.com", &format!("deleted~{}", john.id)] {
            assert_eq!(
                app.answer(&function(), &GrantAdmin { email: email.into() }).await.status,
                404,
                "{email}"
            );
        }
    }
}
