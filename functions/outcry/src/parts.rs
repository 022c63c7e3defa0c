//! The parts of a running platform: each in this process, or, since it was deployed, in one of its own.
//!
//! A part that fails is started again. One that is deployed is replaced without a gap: the new process serves
//! before the old one is told to finish what it has in work.

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use local::Process;
use platform::{Bus, Env};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// How long a part that failed waits before it is started again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a new process may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a process may take to finish what it has in work.
const DRAIN: Duration = Duration::from_secs(35);
/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Below the data folder: copies of what was deployed, so that a later build changes nothing that runs.
const DEPLOYED: &str = "deployed";

/// The parts of a running platform.
pub(crate) struct Parts {
    bus: Bus,
    env: Env,
    data: PathBuf,
    stop: CancellationToken,
    tasks: TaskTracker,
    running: Mutex<BTreeMap<String, Part>>,
    /// One deployment at a time.
    deploying: tokio::sync::Mutex<()>,
}

struct Part {
    stop: CancellationToken,
    done: JoinHandle<()>,
    /// Its process, when it has one of its own.
    pid: Option<u32>,
}

impl Parts {
    pub(crate) fn new(bus: Bus, env: Env, data: &Path, stop: CancellationToken) -> Self {
        // What was deployed to an earlier run is older than this program.
        let _ = std::fs::remove_dir_all(data.join(DEPLOYED));
        Self {
            bus,
            env,
            data: data.to_owned(),
            stop,
            tasks: TaskTracker::new(),
            running: Mutex::default(),
            deploying: tokio::sync::Mutex::default(),
        }
    }

    /// Runs a part in this process. When it fails or panics it is started again.
    pub(crate) fn spawn<F>(
        &self,
        name: impl Into<String>,
        start: impl Fn(CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (name, stop) = (name.into(), self.stop.child_token());
        let (part, token) = (name.clone(), stop.clone());
        let done = self.tasks.spawn(async move {
            while !token.is_cancelled() {
                let error = match tokio::spawn(start(token.clone())).await {
                    Ok(Ok(())) if token.is_cancelled() => return,
                    Ok(Ok(())) => "it ended".to_owned(),
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(error) => error.to_string(),
                };
                tracing::error!(part, error, "stopped, starting it again");
                tokio::time::sleep(AGAIN).await;
            }
        });
        self.running().insert(name, Part { stop, done, pid: None });
    }

    /// Replaces a part by this program, or adds it. The old one goes on until the new one serves, and for
    /// good when that does not.
    pub(crate) async fn deploy(&self, name: &str, program: &Path) -> anyhow::Result<String> {
        let _deploying = self.deploying.lock().await;
        ensure!(name != "edge", "the edge cannot be deployed alone yet: restart the platform");
        let (started, instance) = (Instant::now(), Uuid::new_v4().simple().to_string());
        let program = self.keep(name, program, &instance)?;
        let mut process = self.start(name, &program, &instance)?;
        if let Err(error) = self.ready(name, &mut process, &instance).await {
            let _ = std::fs::remove_file(&program);
            return Err(error.context(format!("{name} was not deployed, what ran before goes on")));
        }
        let (pid, ready) = (process.pid(), started.elapsed());
        let stop = self.stop.child_token();
        let done = self.tasks.spawn(watch(
            name.to_owned(),
            program.clone(),
            process,
            self.env.clone(),
            stop.clone(),
        ));
        let old = self.running().insert(name.to_owned(), Part { stop, done, pid: Some(pid) });
        let replaced = match old {
            None => "it is new here".to_owned(),
            Some(old) => {
                old.stop.cancel();
                let drained = old.done.await;
                drained.context("the old one did not end in order")?;
                let place =
                    old.pid.map_or("the platform's process".to_owned(), |pid| format!("process {pid}"));
                format!("the one in {place} has finished")
            }
        };
        Ok(format!(
            "{name} serves in process {pid} after {ready:.1?}; {replaced}, {:.1?} in all",
            started.elapsed()
        ))
    }

    /// Copies a program to where nobody changes it.
    fn keep(&self, name: &str, program: &Path, instance: &str) -> anyhow::Result<PathBuf> {
        let folder = self.data.join(DEPLOYED);
        let kept = folder.join(format!("{name}-{instance}"));
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::copy(program, &kept))
            .with_context(|| format!("copy {} to {}", program.display(), folder.display()))?;
        Ok(kept)
    }

    fn start(&self, name: &str, program: &Path, instance: &str) -> anyhow::Result<Process> {
        start(name, program, instance, &self.env)
    }

    async fn ready(&self, name: &str, process: &mut Process, instance: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while !self.bus.is_instance_serving(name, instance, Duration::from_millis(200)).await {
            if let Some(status) = process.ended()? {
                bail!("it ended with {status}; the log lines above say why");
            }
            ensure!(Instant::now() < deadline, "it did not serve within {READY_WITHIN:?}");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The name of each part, and its process when it has one of its own.
    pub(crate) fn list(&self) -> Vec<(String, Option<u32>)> {
        self.running().iter().map(|(name, part)| (name.clone(), part.pid)).collect()
    }

    /// Returns when every part has ended; they are told by the token.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Part>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(name: &str, program: &Path, instance: &str, env: &Env) -> anyhow::Result<Process> {
    let mut command = Command::new(program);
    command.envs(env.iter()).env("OUTCRY_INSTANCE", instance);
    Process::start(command).with_context(|| format!("start {name}"))
}

/// Looks after a process: started again when it ends, asked to finish when its time has come.
async fn watch(name: String, program: PathBuf, mut process: Process, env: Env, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Ok(Some(status)) = process.ended() else { continue };
        tracing::error!(part = name, %status, "ended, starting it again");
        if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
            break;
        }
        match start(&name, &program, &Uuid::new_v4().simple().to_string(), &env) {
            Ok(again) => process = again,
            Err(error) => tracing::error!(part = name, error = format!("{error:#}"), "cannot be started"),
        }
    }
    process.terminate();
    let deadline = Instant::now() + DRAIN;
    while matches!(process.ended(), Ok(None)) {
        if Instant::now() > deadline {
            tracing::error!(part = name, "did not finish in time and is killed");
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let _ = std::fs::remove_file(program);
}
