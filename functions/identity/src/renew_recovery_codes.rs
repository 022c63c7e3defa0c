//! `renew-recovery-codes`: give ten new recovery codes in place of all that there are.
//!
//! Refuses with [`AccountRefused::NotProven`](crate::account::AccountRefused::NotProven) and
//! [`AccountRefused::NoSecondFactor`](crate::account::AccountRefused::NoSecondFactor).

use contracts::identity::{RecoveryCodeUsed, RecoveryCodes, RenewRecoveryCodes};
use platform::{Cx, Function, Result};

use crate::{second_factor, seed::SeedKey};

/// Commands of [`RenewRecoveryCodes`].
pub fn function() -> Function {
    Function::command(renew_recovery_codes).needs::<SeedKey>(SeedKey::load).emits::<RecoveryCodeUsed>()
}

async fn renew_recovery_codes(
    cx: &mut Cx,
    RenewRecoveryCodes { password, code }: RenewRecoveryCodes,
) -> Result<RecoveryCodes> {
    let (_, factor) = second_factor::prove(cx, password, &code).await?;
    factor.renew_codes(cx).await
}

#[cfg(test)]
mod tests {
    use contracts::identity::Secret;
    use platform::Answer;

    use super::*;
    use crate::fixtures::{Enrolled, PASSWORD, enrolled};

    async fn renew(john: &Enrolled, seconds: u64, password: &str, code: &Secret) -> Answer {
        let asked = RenewRecoveryCodes { password: Secret(password.into()), code: code.clone() };
        john.at(seconds).answer(&function(), &asked).await
    }

    #[tokio::test]
    async fn new_codes_are_good_and_the_old_ones_void() {
        let john = enrolled().await;

        let new: RecoveryCodes = renew(&john, 30, PASSWORD, &john.code(30)).await.parse().unwrap();

        assert_eq!(new.recovery_codes.len(), 10);
        assert_eq!(john.enter(60, &john.codes[0]).await.status, 401);
        assert_eq!(john.enter(60, &new.recovery_codes[0]).await.status, 200);
        // With the last of them there are new ones.
        assert_eq!(renew(&john, 60, PASSWORD, &new.recovery_codes[9]).await.status, 200);
        assert_eq!(john.enter(60, &new.recovery_codes[1]).await.status, 401);
    }

    #[tokio::test]
    async fn password_and_code_are_needed() {
        let john = enrolled().await;

        for (password, code) in [(PASSWORD, john.wrong_code(30)), ("secret124", john.code(30))] {
            assert_eq!(renew(&john, 30, password, &code).await.status, 403);
        }
        assert_eq!(john.enter(30, &john.codes[0]).await.status, 200, "the old ones are good");
    }
}
