//! `revoke-admin`: take the role of an administrator from somebody, at once: their sessions end.
//!
//! No route leads here: who may say it is who may write commands, the operator. Emits [`UserUpdated`], and
//! [`SessionEnded`] for each session. Refuses with [`AccountRefused::NoUser`] and [`AccountRefused::LastAdmin`].

use contracts::identity::{RevokeAdmin, SessionEnded, User, UserUpdated};
use platform::{Cx, Function, Result, Role};

use crate::{
    account::{AccountRefused, Name},
    change, store,
};

/// Commands of [`RevokeAdmin`].
pub fn function() -> Function {
    Function::command(revoke_admin).emits::<UserUpdated>().emits::<SessionEnded>()
}

async fn revoke_admin(cx: &mut Cx, RevokeAdmin { email }: RevokeAdmin) -> Result<User> {
    let found = store::account(cx.tx().await?, Name::Email(&email)).await?.ok_or(AccountRefused::NoUser)?;
    let admin = change::lock_replaceable(cx, found.user.id).await?;
    let user = User { role: Role::User, ..admin.clone() };
    change::keep(cx, &admin, user).await
}

#[cfg(test)]
mod tests {
    use contracts::identity::GrantAdmin;

    use super::*;
    use crate::{
        fixtures::{admin, app, jane, john, person},
        grant_admin,
    };

    #[tokio::test]
    async fn it_is_taken_at_once_and_not_from_the_last() {
        let app = app().await;
        let (root, john) = (admin(&app).await, person(&app, john()).await);
        person(&app, jane()).await;
        let revoke = |user: &User| RevokeAdmin { email: user.email.clone() };

        let last = app.answer(&function(), &revoke(&root)).await;
        assert_eq!(last.status, 409, "{last:?}");
        app.call(&grant_admin::function(), &GrantAdmin { email: john.email.clone() }).await.unwrap();
        let user = app.call(&function(), &revoke(&root)).await.unwrap();

        assert_eq!((user.id, user.role, user.version), (root.id, Role::User, 3));
        let told = app.emitted::<SessionEnded>().await;
        assert_eq!((told.len(), told[0].user_id), (1, root.id));
        // Who has no such role loses nothing.
        assert_eq!(app.call(&function(), &revoke(&user)).await.unwrap(), user);
        assert_eq!(app.answer(&function(), &revoke(&john)).await.status, 409);
    }
}
