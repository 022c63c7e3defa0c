//! `verify-2fa`: take the authenticator that is being enrolled, because it shows the right code.
//!
//! Emits [`TwoFactorEnabled`]. Refuses with [`AccountRefused::WrongCode`](crate::account::AccountRefused::WrongCode) and
//! [`AccountRefused::NoEnrolment`](crate::account::AccountRefused::NoEnrolment).

use contracts::identity::{RecoveryCodes, TwoFactorEnabled, Verify2fa};
use platform::{Cx, Function, Refused, Result};

use crate::{account::Name, second_factor::SecondFactor, seed::SeedKey, store};

/// Commands of [`Verify2fa`].
pub fn function() -> Function {
    Function::command(verify_2fa).needs::<SeedKey>(SeedKey::load).emits::<TwoFactorEnabled>()
}

async fn verify_2fa(cx: &mut Cx, Verify2fa { code }: Verify2fa) -> Result<RecoveryCodes> {
    let (caller, now) = (cx.caller()?, cx.now());
    let found = store::find(cx.tx().await?, Name::Id(caller.id)).await?;
    let (user, _) = found.ok_or_else(Refused::unauthenticated)?;
    let factor = SecondFactor::lock(cx, user.id).await?;
    factor.finish(cx, &code).await?;
    cx.emit(&TwoFactorEnabled { user_id: user.id, enabled_at: now })?;
    factor.renew_codes(cx).await
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use contracts::identity::{Enable2fa, LoginAnswer, Secret};
    use platform::Answer;

    use super::*;
    use crate::{
        enable_2fa,
        fixtures::{Enrolled, PASSWORD, enrolled},
    };

    async fn show(john: &Enrolled, seconds: u64, code: Secret) -> Answer {
        john.at(seconds).answer(&function(), &Verify2fa { code }).await
    }

    /// John begins to enrol another authenticator, and has that one then.
    async fn begin_anew(john: &mut Enrolled) {
        let asked = Enable2fa { password: Some(Secret(PASSWORD.into())), code: Some(john.codes[9].clone()) };
        let told = john.at(60).call(&enable_2fa::function(), &asked).await.unwrap();
        john.authenticator = totp_rs::Totp::from_url(&told.otpauth_url.0).unwrap();
    }

    #[tokio::test]
    async fn a_right_code_turns_it_on_and_gives_ten_codes_to_recover_with() {
        let john = enrolled().await;

        assert!(john.user().await.two_factor_enabled);
        assert!(matches!(john.log_in(30).await, LoginAnswer::Challenge(_)));
        let codes: HashSet<&str> = john.codes.iter().map(|code| code.0.as_str()).collect();
        assert_eq!(codes.len(), 10);
        assert!(codes.iter().all(|code| code.len() == 24), "{codes:?}");
        let told = john.app.emitted::<TwoFactorEnabled>().await;
        assert_eq!((told.len(), told[0].user_id), (1, john.session.user.id));
        // It was used to show that it works.
        assert_eq!(john.enter(0, &john.code(0)).await.status, 401);
        assert_eq!(john.enter(30, &john.code(30)).await.status, 200);
    }

    #[tokio::test]
    async fn a_wrong_code_changes_nothing_and_nor_does_a_right_one_that_comes_late() {
        let mut john = enrolled().await;
        begin_anew(&mut john).await;

        assert_eq!(show(&john, 60, john.wrong_code(60)).await.status, 403);
        assert_eq!(show(&john, 60, john.codes[0].clone()).await.status, 403, "a recovery code shows nothing");
        assert_eq!(show(&john, 60 + 900, john.code(60 + 900)).await.status, 409);
        assert_eq!(john.app.emitted::<TwoFactorEnabled>().await.len(), 1);
        assert_eq!(show(&john, 60 + 899, john.code(60 + 899)).await.status, 200);
        assert_eq!(show(&john, 60 + 899, john.code(60 + 899)).await.status, 409, "nothing waits any more");
        assert_eq!(john.app.emitted::<TwoFactorEnabled>().await.len(), 2);
        // The codes of the one before are void.
        assert_eq!(john.enter(1_000, &john.codes[1]).await.status, 401);
    }

    #[tokio::test]
    async fn twenty_wrong_codes_are_enough_for_an_hour() {
        let mut john = enrolled().await;
        begin_anew(&mut john).await;
        for _ in 0..20 {
            assert_eq!(show(&john, 90, john.wrong_code(90)).await.status, 403);
        }

        assert_eq!(show(&john, 90, john.code(90)).await.status, 403);
    }
}
