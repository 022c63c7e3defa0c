//! `disable-2fa`: ask for no second factor any more.
//!
//! Emits [`TwoFactorDisabled`]. Refuses with [`AccountRefused::NotProven`](crate::account::AccountRefused::NotProven) and
//! [`AccountRefused::NoSecondFactor`](crate::account::AccountRefused::NoSecondFactor).

use contracts::identity::{Disable2fa, RecoveryCodeUsed, TwoFactorDisabled};
use platform::{Cx, Function, Result};

use crate::{challenge, second_factor, seed::SeedKey};

/// Commands of [`Disable2fa`].
pub fn function() -> Function {
    Function::command(disable_2fa)
        .needs::<SeedKey>(SeedKey::load)
        .emits::<TwoFactorDisabled>()
        .emits::<RecoveryCodeUsed>()
}

async fn disable_2fa(cx: &mut Cx, Disable2fa { password, code }: Disable2fa) -> Result<()> {
    let (user, factor) = second_factor::prove(cx, password, &code).await?;
    factor.forget(cx).await?;
    challenge::end_all_of(cx, user.id).await?;
    cx.emit(&TwoFactorDisabled { user_id: user.id, disabled_at: cx.now() })
}

#[cfg(test)]
mod tests {
    use contracts::identity::{LoginAnswer, Secret};
    use platform::Answer;

    use super::*;
    use crate::fixtures::{Enrolled, PASSWORD, enrolled};

    async fn disable(john: &Enrolled, seconds: u64, password: &str, code: &Secret) -> Answer {
        let asked = Disable2fa { password: Secret(password.into()), code: code.clone() };
        john.at(seconds).answer(&function(), &asked).await
    }

    #[tokio::test]
    async fn password_and_code_are_needed_and_then_a_password_is_enough() {
        let john = enrolled().await;
        let open = john.challenge(30).await;

        let wrong_code = disable(&john, 30, PASSWORD, &john.wrong_code(30)).await;
        let wrong_password = disable(&john, 30, "secret124", &john.code(30)).await;
        assert_eq!((wrong_code.status, wrong_password.status), (403, 403));
        assert_eq!(wrong_code.body, wrong_password.body, "nobody learns which");
        assert!(john.user().await.two_factor_enabled);
        assert_eq!(disable(&john, 30, PASSWORD, &john.code(30)).await.status, 200);

        assert!(!john.user().await.two_factor_enabled);
        assert!(matches!(john.log_in(60).await, LoginAnswer::Session(_)));
        for code in [&john.code(60), &john.codes[0]] {
            assert_eq!(john.answer(60, &open, code).await.status, 401);
        }
        assert_eq!(disable(&john, 60, PASSWORD, &john.code(60)).await.status, 409);
        let told = john.app.emitted::<TwoFactorDisabled>().await;
        assert_eq!((told.len(), told[0].user_id), (1, john.session.user.id));
    }

    #[tokio::test]
    async fn who_lost_the_authenticator_comes_out_with_a_recovery_code() {
        let john = enrolled().await;

        assert_eq!(disable(&john, 30, PASSWORD, &john.codes[3]).await.status, 200);

        assert!(!john.user().await.two_factor_enabled);
    }

    #[tokio::test]
    async fn wrong_passwords_count_as_wrong_codes_do() {
        let john = enrolled().await;
        for _ in 0..20 {
            assert_eq!(disable(&john, 30, "secret124", &john.code(30)).await.status, 403);
        }

        assert_eq!(disable(&john, 30, PASSWORD, &john.code(30)).await.status, 403);
        assert!(john.user().await.two_factor_enabled);
    }
}
