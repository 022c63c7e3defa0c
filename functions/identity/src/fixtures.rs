//! What the tests of several functions start from.

use std::ops::Deref;

use contracts::identity::{Login, Register, Secret};
use platform::Env;
use tempfile::TempDir;
use testing::Harness;

use crate::keys::Keys;

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
