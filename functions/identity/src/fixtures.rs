//! What the tests of several functions start from.

use std::ops::Deref;

use contracts::identity::{Login, Register, Secret};
use tempfile::TempDir;
use testing::Harness;

/// A platform with a key of its own.
pub(crate) struct App {
    harness: Harness,
    _keys: TempDir,
}

impl Deref for App {
    type Target = Harness;

    fn deref(&self) -> &Harness {
        &self.harness
    }
}

pub(crate) async fn app() -> App {
    let keys = tempfile::tempdir().unwrap();
    let path = keys.path().join("jwt-key.pem");
    let harness =
        Harness::start(crate::database()).await.with_env([("JWT_KEY_FILE", path.to_str().unwrap())]);
    App { harness, _keys: keys }
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
