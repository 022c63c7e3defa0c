//! `challenge-2fa`: open the session that a login asked a second factor for.
//!
//! Emits [`RecoveryCodeUsed`] when it was one of those. Refuses with [`AccountRefused::ChallengeFailed`], whatever is wrong.

use contracts::identity::{Challenge2fa, RecoveryCodeUsed, Session};
use platform::{Cx, Function, Refused, Result};

use crate::{
    account::{AccountRefused, Name},
    challenge,
    keys::Keys,
    second_factor::SecondFactor,
    seed::SeedKey,
    session::{self, Proof},
    store,
};

/// Commands of [`Challenge2fa`].
pub fn function() -> Function {
    Function::command(challenge_2fa)
        .needs::<Keys>(Keys::load)
        .needs::<SeedKey>(SeedKey::load)
        .emits::<RecoveryCodeUsed>()
}

async fn challenge_2fa(cx: &mut Cx, Challenge2fa { challenge, code }: Challenge2fa) -> Result<Session> {
    let tried = challenge::take_try(cx, &challenge).await?;
    let (id, user) = tried.ok_or(AccountRefused::ChallengeFailed)?;
    let factor = SecondFactor::lock(cx, user).await?;
    if !factor.accept(cx, &code).await? {
        return Err(Refused::from(AccountRefused::ChallengeFailed).keeping().into());
    }
    challenge::end(cx, id).await?;
    let found = store::find(cx.tx().await?, Name::Id(user)).await?;
    let (user, _) = found.ok_or(AccountRefused::ChallengeFailed)?;
    session::open(cx, user, Proof::TwoFactors).await
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use contracts::identity::{Claims, LoginAnswer, Refresh, Secret};
    use futures_util::future::join_all;
    use platform::Answer;
    use serde_json::Value;
    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::{
        fixtures::{Enrolled, enrolled},
        refresh,
    };

    /// How many of these opened a session; the others are refused alike.
    fn opened(answers: &[Answer]) -> usize {
        let (good, bad): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert!(bad.iter().all(|answer| answer.status == 401 && answer.body == bad[0].body), "{bad:?}");
        good.len()
    }

    /// Twenty logins, each with a challenge of its own, that come with the same code at the same time.
    async fn twenty_at_once(john: &Enrolled, seconds: u64, code: &Secret) -> Vec<Answer> {
        let challenges = join_all((0..20).map(|_| john.challenge(seconds))).await;
        join_all(challenges.iter().map(|challenge| john.answer(seconds, challenge, code))).await
    }

    fn claims(token: &Secret) -> Claims {
        let body = token.0.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_login_gives_a_challenge_and_nothing_that_opens_anything() {
        let john = enrolled().await;

        let told = john.log_in(30).await;

        let members: Value = serde_json::to_value(&told).unwrap();
        let members: Vec<_> = members.as_object().unwrap().keys().collect();
        assert_eq!(members, ["challenge", "expires_in"]);
        let sessions = sqlx::query_scalar!(r#"select count(*) as "count!" from sessions"#);
        assert_eq!(sessions.fetch_one(john.app.pool()).await.unwrap(), 1, "that of the registration");
    }

    #[tokio::test]
    async fn a_session_says_for_as_long_as_it_lasts_that_it_was_opened_with_two_factors() {
        let john = enrolled().await;

        let session: Session = john.enter(30, &john.code(30)).await.parse().unwrap();

        assert_eq!(session.user, john.user().await);
        let refresh = Refresh { refresh_token: session.refresh_token.clone() };
        let next = john.at(60).call(&refresh::function(), &refresh).await.unwrap();
        assert_eq!(claims(&session.token).amr, ["pwd", "otp"]);
        assert_eq!(claims(&next.token).amr, ["pwd", "otp"]);
        assert_eq!(claims(&john.session.token).amr, ["pwd"]);
    }

    #[tokio::test]
    async fn a_code_of_the_authenticator_is_good_once() {
        let john = enrolled().await;

        assert_eq!(opened(&[john.enter(30, &john.code(30)).await, john.enter(31, &john.code(30)).await]), 1);
        assert_eq!(opened(&twenty_at_once(&john, 60, &john.code(60)).await), 1);
        // One that was seen while it was not used: the one after it was.
        assert_eq!(opened(&[john.enter(90, &john.code(60)).await]), 0);
    }

    #[tokio::test]
    async fn a_code_is_good_in_its_step_and_in_the_next() {
        let john = enrolled().await;

        assert_eq!(opened(&[john.enter(149, &john.code(60)).await]), 0, "two steps old");
        assert_eq!(opened(&[john.enter(119, &john.code(120)).await]), 0, "of the next step");
        assert_eq!(opened(&[john.enter(119, &john.code(60)).await]), 1, "of the step before");
    }

    #[tokio::test]
    async fn five_wrong_codes_end_a_challenge_and_a_new_login_begins_another() {
        let john = enrolled().await;
        let challenge = john.challenge(30).await;
        let (right, wrong) = (john.code(30), john.wrong_code(30));

        for _ in 0..5 {
            assert_eq!(opened(&[john.answer(30, &challenge, &wrong).await]), 0);
        }

        assert_eq!(opened(&[john.answer(30, &challenge, &right).await]), 0);
        assert_eq!(opened(&[john.enter(30, &right).await]), 1);
    }

    #[tokio::test]
    async fn four_wrong_codes_do_not_end_it_and_a_right_one_does() {
        let john = enrolled().await;
        let challenge = john.challenge(30).await;
        for _ in 0..4 {
            john.answer(30, &challenge, &john.wrong_code(30)).await;
        }

        assert_eq!(opened(&[john.answer(30, &challenge, &john.code(30)).await]), 1);
        assert_eq!(opened(&[john.answer(60, &challenge, &john.code(60)).await]), 0, "good once");
    }

    #[tokio::test]
    async fn twenty_wrong_codes_an_hour_are_enough_for_an_account() {
        let john = enrolled().await;
        for _ in 0..20 {
            assert_eq!(john.enter(30, &john.wrong_code(30)).await.status, 401);
        }

        assert_eq!(opened(&[john.enter(3_600, &john.code(3_600)).await]), 0);
        assert_eq!(opened(&[john.enter(3_600, &john.codes[0]).await]), 0);
        assert_eq!(opened(&[john.enter(3_630, &john.code(3_630)).await]), 1, "the hour is over");
    }

    #[tokio::test]
    async fn a_recovery_code_is_good_once_and_its_owner_is_told() {
        let john = enrolled().await;
        let typed = Secret(john.codes[0].0.to_lowercase());

        assert_eq!(opened(&[john.enter(30, &john.codes[0]).await, john.enter(30, &typed).await]), 1);
        assert_eq!(opened(&twenty_at_once(&john, 30, &john.codes[1]).await), 1);

        let left: Vec<i64> =
            john.app.emitted::<RecoveryCodeUsed>().await.iter().map(|used| used.left).collect();
        assert_eq!(left, [9, 8]);
    }

    #[tokio::test]
    async fn the_database_holds_no_code_no_seed_and_no_challenge() {
        let john = enrolled().await;
        let challenge = john.challenge(30).await;
        john.answer(30, &challenge, &john.codes[0]).await;

        let mut dump = String::new();
        for table in
            ["users", "second_factors", "recovery_codes", "challenges", "sessions", "platform.outbox"]
        {
            let rows =
                AssertSqlSafe(format!("select coalesce(string_agg(t::text, e'\\n'), '') from {table} t"));
            dump += &sqlx::query_scalar::<_, String>(rows).fetch_one(john.app.pool()).await.unwrap();
        }

        assert!(dump.contains("john@test.com") && dump.contains("recovery-code.used"));
        for code in &john.codes {
            assert!(!dump.contains(&code.0));
        }
        assert!(!dump.contains(challenge.0.rsplit_once('.').unwrap().1));
        let url = john.authenticator.to_url().unwrap();
        let seed = url.split_once("secret=").unwrap().1.split('&').next().unwrap();
        let seed = data_encoding::BASE32_NOPAD.decode(seed.as_bytes()).unwrap();
        assert!(!dump.contains(&data_encoding::HEXLOWER.encode(&seed)));
    }

    #[tokio::test]
    async fn what_is_no_challenge_or_ends_opens_nothing() {
        let john = enrolled().await;
        let LoginAnswer::Challenge(told) = john.log_in(30).await else { panic!("no challenge") };
        assert_eq!(told.expires_in, 300);
        let challenge = told.challenge;
        let (said, signed) = challenge.0.rsplit_once('.').unwrap();
        let first = if signed.starts_with('A') { 'B' } else { 'A' };
        let forged = Secret(format!("{said}.{first}{}", &signed[1..]));
        let changed = {
            let parts: Vec<&str> = challenge.0.split('.').collect();
            let mut claims: Value =
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
            claims["sub"] = uuid::Uuid::nil().to_string().into();
            Secret(format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2]))
        };

        for other in
            [&john.session.token, &john.session.refresh_token, &forged, &changed, &Secret(String::new())]
        {
            assert_eq!(opened(&[john.answer(30, other, &john.code(30)).await]), 0, "{}", other.0);
        }
        assert_eq!(opened(&[john.answer(330, &challenge, &john.code(330)).await]), 0, "too late");
        assert_eq!(opened(&[john.answer(329, &challenge, &john.code(329)).await]), 1);
    }
}
