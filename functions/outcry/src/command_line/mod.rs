//! What the command line does with a platform that runs.

pub(crate) mod admin;
pub(crate) mod bench;
pub(crate) mod call;
pub(crate) mod dlq;
pub(crate) mod emit;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod verify;

use std::{io::Write, time::Duration};

use anyhow::{bail, ensure};
use platform::{Answer, Bus, Config, Env, Sent, permissions::OPERATOR};

/// How long a function may take to say that it is there.
const THERE_WITHIN: Duration = Duration::from_secs(1);

/// For people, so on standard output; log lines go to standard error.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A connection, as the operator, to the platform that runs here, or that NATS_URL names; not there is said at once.
pub(crate) async fn join() -> anyhow::Result<(Env, Bus)> {
    let env = Env::load_joined()?;
    let config: Config = env.read()?;
    let bus = Bus::connect(&config, OPERATOR).await?;
    ensure!(
        bus.is_up(Duration::from_secs(2)).await,
        "nothing answers at {}: is a platform running here (`cargo run --release`), or does NATS_URL name another?",
        config.nats_address()
    );
    Ok((env, bus))
}

/// Whether a function is there. To be asked when it did not answer as it should.
pub(crate) async fn is_running(bus: &Bus, function: &str) -> bool {
    bus.is_serving(function, THERE_WITHIN).await
}

/// The answer to a command, if it was decided in time.
pub(crate) fn decided(sent: Sent) -> anyhow::Result<Answer> {
    match sent {
        Sent::Answered(answer) => Ok(answer),
        Sent::Pending(id) => bail!("not decided within the deadline; it is in the stream under the id {id}"),
        Sent::TimedOut => bail!("not decided within the deadline; it may have been done, or not"),
        Sent::Unavailable(why) => bail!("not stored: {why}"),
    }
}

/// JSON as people read it; other text as it is.
pub(crate) fn pretty(body: &[u8]) -> String {
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => format!("{value:#}"),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    }
}
