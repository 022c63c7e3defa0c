//! Changes of accounts, as several functions make them.

use contracts::identity::{User, UserUpdated};
use platform::{Cx, Result, Role, UserId};

use crate::{
    account::AccountRefused,
    session::{self, Ended},
    store,
};

/// The account, locked, for somebody who may take from it what makes an administrator. Refuses that of the last one.
pub(crate) async fn lock_replaceable(cx: &mut Cx, id: UserId) -> Result<User> {
    let is_another_there = store::lock_beside_admins(cx.tx().await?, id).await?;
    let user = store::lock(cx.tx().await?, id).await?.ok_or(AccountRefused::NoUser)?;
    if user.role == Role::Admin && user.is_active && !is_another_there {
        return Err(AccountRefused::LastAdmin.into());
    }
    Ok(user)
}

/// Writes what the account has become and says so; one that is what it was stays as it is. Whoever may do less than
/// before does so at once: the sessions end, whose tokens say otherwise.
pub(crate) async fn keep(cx: &mut Cx, before: &User, after: User) -> Result<User> {
    if after == *before {
        return Ok(after);
    }
    let now = cx.now();
    let user = User { version: before.version + 1, updated_at: now, ..after };
    store::save(cx.tx().await?, &user).await?;
    cx.emit(&UserUpdated {
        user_id: user.id,
        email: user.email.clone(),
        username: user.username.clone(),
        name: user.name.clone(),
        role: user.role,
        is_active: user.is_active,
        version: user.version,
        updated_at: now,
    })?;
    let is_less =
        before.is_active && !user.is_active || before.role == Role::Admin && user.role != Role::Admin;
    if is_less {
        session::end(cx, Ended::AllOf(user.id)).await?;
    }
    Ok(user)
}
