//! The users of the bus, and the configuration of a nats-server that knows them.

use platform::{
    Function,
    permissions::{self, User},
    provision::Definitions,
};

use crate::NATS;

/// What stands at the head of `nats/accounts.conf`.
const HEAD: &str = "\
# Who may say and hear what: a user for each part, with the rights that follow from what the functions declare.
# Written by `just accounts`; a test says when it is out of date. The passwords are variables, defined in a file that is
# in no repository: `deploy/secrets` makes it for containers, a local platform derives them from a secret in its data.
include \"passwords.conf\"

";

/// Every user that there is.
pub fn users() -> anyhow::Result<Vec<User>> {
    Ok(permissions::users(&crate::functions(), &crate::definitions()?))
}

/// What belongs into `nats/accounts.conf`.
pub fn accounts() -> anyhow::Result<String> {
    Ok(format!("{HEAD}{}", permissions::accounts(&users()?)))
}

/// The configuration of a local platform's nats-server, see [`launch`](crate::launch), with every user.
pub fn local_config(secret: &str) -> anyhow::Result<String> {
    Ok(server_config(&crate::functions(), &crate::definitions()?, secret))
}

/// The configuration of a nats-server as one text, passwords included: for these functions, where all passwords follow
/// from one secret.
pub(crate) fn server_config(functions: &[Function], definitions: &Definitions, secret: &str) -> String {
    let users = permissions::users(functions, definitions);
    let settings = NATS.get_file("settings.conf").and_then(|file| file.contents_utf8()).unwrap_or_default();
    let (passwords, accounts) = (permissions::passwords(&users, secret), permissions::accounts(&users));
    format!("{passwords}\n{settings}\n{accounts}")
}

#[cfg(test)]
mod tests;
