//! How the command line talks to a platform that runs: over a socket in its data folder, which only its owner can
//! reach. What starts programs must not be asked over the bus.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};
use tokio_util::sync::CancellationToken;

use crate::{parts::Parts, services::Services};

/// How many bytes the path of a socket may have: 107 on Linux, 103 on macOS.
const LONGEST: usize = 103;
/// How long to wait when no connection can be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// Below the data folder.
const SOCKET: &str = "control.sock";

const USERS_KNOWN: &str = "the users of the bus are known";
const NOT_OURS: &str = "nats-server was given by NATS_URL: who looks after it gives it nats/accounts.conf";

/// What may be asked of a platform.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Which parts run, and where.
    Parts,
    /// Have the nats-server go by this configuration, which knows users that are new.
    Users(String),
    /// Replace a part by this program.
    Deploy {
        /// The part's one word.
        name: String,
        /// Its binary.
        program: PathBuf,
    },
}

/// One line for people, or what went wrong.
type Told = Result<String, String>;

/// Answers until the platform stops. Where the folder's path is too long for a socket, there is none, and a warning.
pub(crate) fn serve(
    data: &Path,
    parts: Arc<Parts>,
    services: Services,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (path, data) = (data.join(SOCKET), data.to_owned());
    if path.as_os_str().len() > LONGEST {
        tracing::warn!(folder = %data.display(), "the path is too long for a socket: no `deploy` and no `ps` here");
        return Ok(());
    }
    // Left by a platform that was killed: the lock on the data says that nobody else is here.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("keep {} to its owner", path.display()))?;
    tokio::spawn(async move {
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            };
            let (parts, services, data) = (Arc::clone(&parts), services.clone(), data.clone());
            tokio::spawn(async move {
                if let Err(error) = answer(stream, &parts, services, data).await {
                    tracing::debug!(error = format!("{error:#}"), "control connection");
                }
            });
        }
        let _ = std::fs::remove_file(path);
    });
    Ok(())
}

async fn answer(stream: UnixStream, parts: &Parts, services: Services, data: PathBuf) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let told: Told = match serde_json::from_str(&line)? {
        Ask::Parts => Ok(parts.list().join("\n")),
        Ask::Users(config) => {
            // Waits for the server.
            let changed = tokio::task::spawn_blocking(move || services.change_nats(&data, &config)).await?;
            changed
                .map(|ours| if ours { USERS_KNOWN } else { NOT_OURS }.to_owned())
                .map_err(|error| format!("{error:#}"))
        }
        Ask::Deploy { name, program } => {
            parts.deploy(&name, &program).await.map_err(|error| format!("{error:#}"))
        }
    };
    stream.write_all(serde_json::to_string(&told)?.as_bytes()).await?;
    Ok(())
}

/// Asks the platform whose data is in this folder.
pub async fn ask(data: &Path, ask: &Ask) -> anyhow::Result<String> {
    let path = data.join(SOCKET);
    let stream = UnixStream::connect(&path).await.with_context(|| {
        format!("no platform runs on {}: start it with `cargo run --release`", data.display())
    })?;
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("{}\n", serde_json::to_string(ask)?).as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    match serde_json::from_str::<Told>(&line).context("the platform ended before it answered")? {
        Ok(told) => Ok(told),
        Err(why) => bail!(why),
    }
}
