//! Who is who: somebody registers, logs in with a password, and gets a session that others can check.
//!
//! What this domain promises:
//!
//! * an e-mail and a user name belong to one account, whatever their case and however many register
//!   at once;
//! * a password is stored as an Argon2id hash and leaves memory in no other form; whoever asks does
//!   not learn whether it was the name or the password that was wrong;
//! * no token is stored: an access token is signed and ends after ten minutes, a refresh token is
//!   computed from its session's row with a key that is not in the database;
//! * a refresh token is good once, and a session that was ended opens nothing a second later;
//! * with a second factor a password alone opens nothing: each code is good once, wrong ones are counted, and what
//!   makes codes is stored sealed, with a key that is not in the database;
//! * an account that was deactivated or deleted opens nothing a second later; a deleted one keeps its id and loses its
//!   names, which are free again;
//! * whoever has the public keys ([`get_jwks`]) can check an access token without asking.
//!
//! The rules are in [`account`] and [`totp`], the keys in [`keys`] and [`seed`], the hashing in [`password`].

use platform::{Function, database::Database};
use sqlx::migrate::Migrator;

pub mod account;
mod challenge;
pub mod challenge_2fa;
mod change;
pub mod change_password;
pub mod delete_user;
pub mod disable_2fa;
pub mod enable_2fa;
pub mod end_session;
pub mod find_user;
#[cfg(test)]
mod fixtures;
pub mod get_jwks;
pub mod get_me;
pub mod get_user;
pub mod grant_admin;
pub mod identity_outcome;
pub mod keys;
pub mod list_ended_sessions;
pub mod list_sessions;
pub mod list_users;
pub mod login;
pub mod logout;
pub mod logout_all;
pub mod password;
pub mod policy;
pub mod refresh;
pub mod register;
pub mod renew_recovery_codes;
pub mod request_password_reset;
pub mod reset_password;
pub mod revoke_admin;
mod second_factor;
pub mod seed;
mod session;
pub mod snapshot_users;
mod store;
pub mod totp;
pub mod update_user;
pub mod verify_2fa;
mod words;

/// The name of the domain, of its database and of its relay.
pub const DOMAIN: &str = "identity";

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/identity");

/// What this crate deploys, in the order a visitor meets it. One binary each.
pub fn functions() -> Vec<Function> {
    vec![
        register::function(),
        login::function(),
        get_me::function(),
        find_user::function(),
        get_jwks::function(),
        refresh::function(),
        logout::function(),
        logout_all::function(),
        list_ended_sessions::function(),
        list_sessions::function(),
        end_session::function(),
        change_password::function(),
        request_password_reset::function(),
        reset_password::function(),
        enable_2fa::function(),
        verify_2fa::function(),
        challenge_2fa::function(),
        disable_2fa::function(),
        renew_recovery_codes::function(),
        list_users::function(),
        get_user::function(),
        update_user::function(),
        delete_user::function(),
        grant_admin::function(),
        revoke_admin::function(),
        snapshot_users::function(),
        identity_outcome::function(),
    ]
}

/// The domain's database.
pub fn database() -> Database {
    Database { domain: DOMAIN, migrations: &MIGRATIONS }
}
