//! `outcry grant-admin` and `outcry revoke-admin`: who is an administrator, as the operator says.

use contracts::identity::{GrantAdmin, RevokeAdmin, User};
use platform::{Command, Request, Sender, Trace};

use super::{decided, join, say};

/// Makes whoever registered with this e-mail an administrator.
pub(crate) async fn grant(email: String) -> anyhow::Result<()> {
    let user = send(&GrantAdmin { email }).await?;
    say(&format!("{} ({}) is an administrator, from their next token on: log in again", user.email, user.id));
    Ok(())
}

/// Takes that role from whoever registered with this e-mail.
pub(crate) async fn revoke(email: String) -> anyhow::Result<()> {
    let user = send(&RevokeAdmin { email }).await?;
    say(&format!("{} ({}) is no administrator any more; their sessions have ended", user.email, user.id));
    Ok(())
}

async fn send<C: Command<Reply = User>>(command: &C) -> anyhow::Result<User> {
    let (_, bus) = join().await?;
    let sender = Sender::start(bus.clone()).await?;
    let request = Request { caller: None, trace: Trace::start(), idempotency_key: None };
    let sent = sender.send(command, &request).await?;
    bus.close().await;
    Ok(decided(sent)?.parse()?)
}
