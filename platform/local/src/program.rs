//! Programs that end by themselves: how one is run to its end, and given up on.

use std::io::{ErrorKind, Read};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::child::TICK;
use crate::user::Account;

/// A command without the caller's Postgres settings, in plain English, from a folder that every user can be in.
pub(crate) fn command(program: &std::path::Path, account: Option<&Account>) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").current_dir("/");
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    if let Some(account) = account {
        account.applied_to(&mut command);
    }
    command
}

/// What `--version` prints. A program that hangs counts as broken.
pub(crate) fn version_text(mut command: Command) -> Result<String> {
    const PATIENCE: Duration = Duration::from_secs(10);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = start(&mut command).context("cannot be run")?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < deadline => thread::sleep(TICK),
            None => {
                child.kill()?;
                child.wait()?;
                bail!("did not answer --version");
            }
        }
    };
    ensure!(status.success(), "--version ended with {status}");
    // One read is enough for a line, and cannot wait for whoever else may hold the pipe.
    let mut line = [0; 512];
    let length = child.stdout.map_or(Ok(0), |mut stdout| stdout.read(&mut line))?;
    Ok(String::from_utf8_lossy(line.get(..length).unwrap_or_default()).into_owned())
}

/// Starts a program that may have been unpacked a moment ago: a child that another thread is starting can still hold the file
/// open for writing, and the kernel refuses to run it until then.
fn start(command: &mut Command) -> std::io::Result<Child> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::sleep(TICK),
            outcome => return outcome,
        }
    }
    command.spawn()
}
