//! `find-user`: whose e-mail is that? For operators and the command line.
//!
//! No route leads here: who may ask is who may publish on the bus. Refuses with
//! [`AccountRefused::NoUser`].

use contracts::identity::{FindUser, User};
use platform::{Cx, Function, Result};

use crate::{
    account::{AccountRefused, Name},
    store,
};

/// Queries of [`FindUser`].
pub fn function() -> Function {
    Function::query(find_user)
}

async fn find_user(cx: &mut Cx, query: FindUser) -> Result<User> {
    let found = store::account(cx.tx().await?, Name::Email(&query.email)).await?;
    let account = found.filter(|account| !account.is_deleted).ok_or(AccountRefused::NoUser)?;
    Ok(account.user)
}

#[cfg(test)]
mod tests {
    use platform::Error;

    use super::*;
    use crate::{
        fixtures::{app, john},
        register,
    };

    #[tokio::test]
    async fn a_user_is_found_by_e_mail_in_any_case_and_by_nothing_else() {
        let app = app().await;
        let john = app.call(&register::function(), &john()).await.unwrap().user;
        let find = async |email: &str| app.ask(&function(), &FindUser { email: email.into() }).await;

        assert_eq!(find("John@TEST.com").await.unwrap(), john);
        for email in ["john", "jane@test.com", "", "%", "john@test.com\0"] {
            let refused = find(email).await;

            assert!(
                matches!(refused, Err(Error::Refused(refused)) if refused.code == "NOT_FOUND"),
                "{email:?}"
            );
        }
    }
}
