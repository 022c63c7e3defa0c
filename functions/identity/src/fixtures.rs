//! What the tests of several functions start from.

use std::{ops::Deref, time::Duration};

use contracts::identity::{
    Challenge2fa, Enable2fa, GetMe, GrantAdmin, Login, LoginAnswer, Register, Secret, Session, User,
    Verify2fa,
};
use platform::{Answer, Env, Timestamp};
use tempfile::TempDir;
use testing::Harness;
use totp_rs::Totp;

use crate::{challenge_2fa, enable_2fa, get_me, keys::Keys, login, register, verify_2fa};

/// A platform with a key of its own.
pub(crate) struct App {
    harness: Harness,
    keys: TempDir,
}

impl App {
    /// The keys that its functions have.
    pub(crate) fn keys(&self) -> Keys {
        let path = self.keys.path().join(KEY_FILE);
        Keys::load(&Env::of([("JWT_KEY_FILE", path.to_str().unwrap())])).unwrap()
    }
}

const KEY_FILE: &str = "jwt-key.pem";

impl Deref for App {
    type Target = Harness;

    fn deref(&self) -> &Harness {
        &self.harness
    }
}

pub(crate) async fn app() -> App {
    let keys = tempfile::tempdir().unwrap();
    let path = keys.path().join(KEY_FILE);
    let harness =
        Harness::start(crate::database()).await.with_env([("JWT_KEY_FILE", path.to_str().unwrap())]);
    App { harness, keys }
}

pub(crate) const PASSWORD: &str = "secret123";

pub(crate) fn john() -> Register {
    Register {
        email: "john@test.com".into(),
        password: Secret(PASSWORD.into()),
        username: Some("john".into()),
        name: None,
        first_name: Some("John".into()),
        last_name: Some("Doe".into()),
    }
}

/// A login that names nobody yet.
pub(crate) fn login(password: &str) -> Login {
    Login { email: None, username: None, username_or_email: None, password: Secret(password.into()) }
}

pub(crate) fn jane() -> Register {
    Register {
        email: "jane@test.com".into(),
        username: Some("jane".into()),
        first_name: Some("Jane".into()),
        ..john()
    }
}

/// Somebody who has registered.
pub(crate) async fn person(app: &App, who: Register) -> User {
    app.call(&crate::register::function(), &who).await.unwrap().user
}

/// Somebody who was made an administrator.
pub(crate) async fn admin(app: &App) -> User {
    let root = Register { email: "root@test.com".into(), username: Some("root".into()), ..john() };
    let email = person(app, root).await.email;
    app.call(&crate::grant_admin::function(), &GrantAdmin { email }).await.unwrap()
}

/// John, who has an authenticator. Times are seconds after the step began in which he enrolled it.
pub(crate) struct Enrolled {
    pub(crate) app: App,
    pub(crate) session: Session,
    pub(crate) authenticator: Totp,
    pub(crate) codes: Vec<Secret>,
    since: Timestamp,
}

pub(crate) async fn enrolled() -> Enrolled {
    let (app, since) = (app().await, step_now());
    let session = app.at(since).call(&register::function(), &john()).await.unwrap();
    let john = app.at(since).as_user(session.user.id);
    let asked = Enable2fa { password: Some(Secret(PASSWORD.into())), code: None };
    let told = john.call(&enable_2fa::function(), &asked).await.unwrap();
    let authenticator = Totp::from_url(&told.otpauth_url.0).unwrap();
    let code = Secret(authenticator.generate(since.unix_seconds().unsigned_abs()).to_string());
    let told = john.call(&verify_2fa::function(), &Verify2fa { code }).await.unwrap();
    Enrolled { app, session, authenticator, codes: told.recovery_codes, since }
}

/// When a step began, not long ago.
pub(crate) fn step_now() -> Timestamp {
    let seconds = Timestamp::now().unix_seconds() / 30 * 30;
    Timestamp::from_unix_nanos(i128::from(seconds) * 1_000_000_000).unwrap()
}

impl Enrolled {
    /// The platform at this time, as John sees it.
    pub(crate) fn at(&self, seconds: u64) -> Harness {
        self.app.at(self.since + Duration::from_secs(seconds)).as_user(self.session.user.id)
    }

    /// What the authenticator shows then.
    pub(crate) fn code(&self, seconds: u64) -> Secret {
        let at = self.since.unix_seconds().unsigned_abs() + seconds;
        Secret(self.authenticator.generate(at).to_string())
    }

    /// What it surely does not show about then.
    pub(crate) fn wrong_code(&self, seconds: u64) -> Secret {
        let shown = [0, 1, 2].map(|steps| self.code(seconds + 30 - 30 * steps));
        let mut others = (0..4).map(|n| Secret(format!("{n:06}")));
        others.find(|code| !shown.contains(code)).unwrap()
    }

    /// Logs in with the password.
    pub(crate) async fn log_in(&self, seconds: u64) -> LoginAnswer {
        let by_name = Login { username: Some("john".into()), ..login(PASSWORD) };
        self.at(seconds).call(&login::function(), &by_name).await.unwrap()
    }

    /// Logs in with the password, and is asked for more.
    pub(crate) async fn challenge(&self, seconds: u64) -> Secret {
        match self.log_in(seconds).await {
            LoginAnswer::Challenge(challenge) => challenge.challenge,
            LoginAnswer::Session(_) => panic!("a password alone opened a session"),
        }
    }

    /// Answers a challenge.
    pub(crate) async fn answer(&self, seconds: u64, challenge: &Secret, code: &Secret) -> Answer {
        let told = Challenge2fa { challenge: challenge.clone(), code: code.clone() };
        self.at(seconds).answer(&challenge_2fa::function(), &told).await
    }

    /// Logs in with the password and this code.
    pub(crate) async fn enter(&self, seconds: u64, code: &Secret) -> Answer {
        let challenge = self.challenge(seconds).await;
        self.answer(seconds, &challenge, code).await
    }

    pub(crate) async fn user(&self) -> User {
        self.at(0).ask(&get_me::function(), &GetMe {}).await.unwrap()
    }
}
