//! `enable-2fa`: begin to enrol an authenticator.
//!
//! Whoever has just logged in and has no second factor may; everybody else shows the password, and with a second factor a
//! code as well. Refuses with [`AccountRefused::NotProven`].

use std::time::Duration;

use contracts::identity::{Enable2fa, Enrolment, RecoveryCodeUsed};
use platform::{Cx, Function, Refused, Result};

use crate::{
    account::{AccountRefused, Name},
    second_factor::SecondFactor,
    seed::SeedKey,
    session,
    store::{self, CallersPassword},
    totp,
};

/// A login that is younger needs no password.
const FRESH: Duration = Duration::from_secs(300);

/// Commands of [`Enable2fa`].
pub fn function() -> Function {
    Function::command(enable_2fa).needs::<SeedKey>(SeedKey::load).emits::<RecoveryCodeUsed>()
}

async fn enable_2fa(cx: &mut Cx, Enable2fa { password, code }: Enable2fa) -> Result<Enrolment> {
    let caller = cx.caller()?;
    let (user, is_right) = match password {
        Some(password) => {
            let CallersPassword { user, is_right, .. } = store::check_password(cx, password).await?;
            (user, Some(is_right))
        }
        None => {
            let found = store::find(cx.tx().await?, Name::Id(caller.id)).await?;
            (found.ok_or_else(Refused::unauthenticated)?.0, None)
        }
    };
    let factor = SecondFactor::lock(cx, user.id).await?;
    let is_proven = match (is_right, factor.is_on()) {
        (Some(true), false) => !factor.is_worn_out(cx.now()),
        (Some(true), true) => match &code {
            Some(code) => factor.accept(cx, code).await?,
            None => false,
        },
        (Some(false), _) => {
            factor.count_wrong(cx).await?;
            false
        }
        (None, false) => session::is_younger(cx, FRESH).await?,
        (None, true) => false,
    };
    if !is_proven {
        return Err(Refused::from(AccountRefused::NotProven).keeping().into());
    }
    let seed: [u8; totp::SEED] = rand::random();
    factor.begin(cx, &seed).await?;
    Ok(totp::enrolment(&seed, &user.email)?)
}

#[cfg(test)]
mod tests {
    use contracts::identity::{Register, Secret, Session, Verify2fa};
    use platform::Timestamp;
    use testing::Harness;
    use totp_rs::Totp;
    use uuid::Uuid;

    use super::*;
    use crate::{
        fixtures::{App, PASSWORD, app, enrolled, john, step_now},
        register, verify_2fa,
    };

    /// John has just registered, which is a login.
    async fn registered() -> (App, Session, Timestamp) {
        let (app, now) = (app().await, step_now());
        let session = app.at(now).call(&register::function(), &john()).await.unwrap();
        (app, session, now)
    }

    async fn sid(app: &Harness, session: &Session) -> Uuid {
        let found = sqlx::query_scalar!("select id from sessions where user_id = $1", session.user.id.0);
        found.fetch_one(app.pool()).await.unwrap()
    }

    fn proof(password: Option<&str>, code: Option<&Secret>) -> Enable2fa {
        Enable2fa { password: password.map(|password| Secret(password.into())), code: code.cloned() }
    }

    async fn status(app: &Harness, asked: &Enable2fa) -> u16 {
        app.answer(&function(), asked).await.status
    }

    #[tokio::test]
    async fn whoever_has_just_logged_in_needs_no_password_and_everybody_else_does() {
        let (app, session, now) = registered().await;
        let jane = Register { email: "jane@test.com".into(), username: Some("jane".into()), ..john() };
        let jane = app.at(now).call(&register::function(), &jane).await.unwrap();
        let (own, other) = (sid(&app, &session).await, sid(&app, &jane).await);
        let john = |seconds| app.at(now + Duration::from_secs(seconds)).as_user(session.user.id);
        let nothing = proof(None, None);

        assert_eq!(status(&john(299).in_session(own), &nothing).await, 200);
        assert_eq!(status(&john(300).in_session(own), &nothing).await, 403, "too old");
        assert_eq!(status(&john(0), &nothing).await, 403, "no session");
        assert_eq!(status(&john(0).in_session(other), &nothing).await, 403, "of somebody else");
        assert_eq!(status(&john(0).in_session(own), &proof(Some("secret124"), None)).await, 403, "wrong");
        assert_eq!(status(&john(9_000), &proof(Some(PASSWORD), None)).await, 200);
        assert_eq!(status(&app.at(now), &nothing).await, 401);
    }

    #[tokio::test]
    async fn who_has_a_second_factor_shows_password_and_code_to_have_another_one() {
        let john = enrolled().await;
        let sid = sid(&john.app, &john.session).await;
        let (good, wrong) = (john.code(60), john.wrong_code(60));
        let asking = || john.at(60).in_session(sid);

        for (password, code) in [
            (None, None),
            (Some(PASSWORD), None),
            (None, Some(&good)),
            (Some(PASSWORD), Some(&wrong)),
            (Some("secret124"), Some(&good)),
        ] {
            assert_eq!(status(&asking(), &proof(password, code)).await, 403, "{password:?} {code:?}");
        }
        let begun = asking().call(&function(), &proof(Some(PASSWORD), Some(&good))).await.unwrap();

        // Until the other one has shown that it works, the first one counts.
        assert_eq!(john.enter(90, &john.code(90)).await.status, 200);
        let other = Totp::from_url(&begun.otpauth_url.0).unwrap();
        let now = john.at(120).delivery("", &Default::default()).stamp;
        let code = Secret(other.generate(now.unix_seconds().unsigned_abs()).to_string());
        assert_eq!(john.enter(120, &code).await.status, 401);
        john.at(120).call(&verify_2fa::function(), &Verify2fa { code }).await.unwrap();
        assert_eq!(john.enter(150, &john.code(150)).await.status, 401);
    }

    #[tokio::test]
    async fn beginning_anew_replaces_what_was_begun_and_no_seed_is_stored_in_clear() {
        let (app, session, now) = registered().await;
        let john = app.at(now).as_user(session.user.id);
        let begin = async || john.call(&function(), &proof(Some(PASSWORD), None)).await.unwrap();
        let (first, second) = (begin().await, begin().await);
        let show = |told: &Enrolment| {
            let authenticator = Totp::from_url(&told.otpauth_url.0).unwrap();
            let code = authenticator.generate(now.unix_seconds().unsigned_abs()).to_string();
            Verify2fa { code: Secret(code) }
        };

        let stored = sqlx::query_scalar!(r#"select pending as "pending!" from second_factors"#);
        let stored = stored.fetch_one(app.pool()).await.unwrap();
        let seed = data_encoding::BASE32_NOPAD.decode(second.secret.0.as_bytes()).unwrap();
        assert_eq!((seed.len(), stored.len()), (totp::SEED, 24 + totp::SEED + 16));
        assert!(!stored.windows(seed.len()).any(|part| part == seed));
        assert_eq!(john.answer(&verify_2fa::function(), &show(&first)).await.status, 403);
        john.call(&verify_2fa::function(), &show(&second)).await.unwrap();
    }
}
