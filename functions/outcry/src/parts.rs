//! The parts of a running platform: each in this process, or in one or more of its own.
//!
//! A part that fails is started again. One that is deployed is replaced without a gap: the new process serves
//! before the old one is told to finish what it has in work.

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::launcher::{BackOff, Child, Launcher, Program, Status};

/// Below the data folder: copies of what was deployed.
const DEPLOYED: &str = "deployed";

/// The parts of a running platform.
pub(crate) struct Parts {
    launcher: Launcher,
    /// Where copies of deployed programs are.
    deployed: PathBuf,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// The replicas of each part.
    running: Mutex<BTreeMap<String, Vec<Replica>>>,
    /// One deployment at a time.
    deploying: tokio::sync::Mutex<()>,
}

struct Replica {
    status: Arc<Status>,
    stop: CancellationToken,
    done: JoinHandle<()>,
}

impl Parts {
    pub(crate) fn new(launcher: Launcher, data: &Path, stop: CancellationToken) -> Self {
        let deployed = data.join(DEPLOYED);
        // What was deployed to an earlier run is older than this program.
        let _ = std::fs::remove_dir_all(&deployed);
        Self {
            launcher,
            deployed,
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
        let (name, stop, status) = (name.into(), self.stop.child_token(), Status::begun(None));
        let (part, token, life) = (name.clone(), stop.clone(), Arc::clone(&status));
        let done = self.tasks.spawn(async move {
            let mut back_off = BackOff::new();
            while !token.is_cancelled() {
                let error = match tokio::spawn(start(token.clone())).await {
                    Ok(Ok(())) if token.is_cancelled() => return,
                    Ok(Ok(())) => "it ended".to_owned(),
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(error) => error.to_string(),
                };
                let wait = back_off.after(life.ran());
                tracing::error!(part, error, again_in = ?wait, "stopped");
                token.run_until_cancelled(tokio::time::sleep(wait)).await;
                life.again(None);
            }
        });
        self.running().entry(name).or_default().push(Replica { status, stop, done });
    }

    /// Runs replicas of a part in processes of their own. Does not wait until they serve.
    pub(crate) fn start(&self, name: &str, program: &Program, replicas: usize) -> anyhow::Result<()> {
        for index in 0..replicas {
            let label = label(name, index, replicas);
            let child = self.launcher.start(name, &label, program)?;
            let replica = self.keep(name, label, program, child);
            self.running().entry(name.to_owned()).or_default().push(replica);
        }
        Ok(())
    }

    /// Replaces every replica of a part by this program, one after the other, or adds the part. The old one goes on
    /// until the new one serves, and for good when that does not.
    pub(crate) async fn deploy(&self, name: &str, program: &Path) -> anyhow::Result<String> {
        let _deploying = self.deploying.lock().await;
        let program = Program::copied(program, &self.deployed, name)?;
        let replicas = self.running().get(name).map_or(1, Vec::len).max(1);
        let mut told = Vec::new();
        for index in 0..replicas {
            let context = || match index {
                0 => format!("{name} was not deployed, what ran before goes on"),
                _ => format!("{index} of {replicas} replicas of {name} were replaced, the others go on"),
            };
            told.push(self.replace(name, index, replicas, &program).await.with_context(context)?);
        }
        Ok(told.join("\n"))
    }

    /// Replaces one replica, or adds the first.
    async fn replace(
        &self,
        name: &str,
        index: usize,
        replicas: usize,
        program: &Program,
    ) -> anyhow::Result<String> {
        let (started, label) = (Instant::now(), label(name, index, replicas));
        let mut child = self.launcher.start(name, &label, program)?;
        self.launcher.ready(name, &mut child).await?;
        let (pid, ready) = (child.pid(), started.elapsed());
        let new = self.keep(name, label, program, child);
        let old = {
            let mut running = self.running();
            let replicas = running.entry(name.to_owned()).or_default();
            replicas.push(new);
            (replicas.len() > index + 1).then(|| replicas.swap_remove(index))
        };
        let replaced = match old {
            None => "it is new here".to_owned(),
            Some(old) => {
                let place = old
                    .status
                    .pid()
                    .map_or("the platform's process".to_owned(), |pid| format!("process {pid}"));
                old.stop.cancel();
                old.done.await.context("the old one did not end in order")?;
                format!("the one in {place} has finished")
            }
        };
        Ok(format!(
            "{name} serves in process {pid} after {ready:.1?}; {replaced}, {:.1?} in all",
            started.elapsed()
        ))
    }

    fn keep(&self, name: &str, label: String, program: &Program, child: Child) -> Replica {
        let (status, stop) = (Status::begun(Some(child.pid())), self.stop.child_token());
        let done = self.tasks.spawn(self.launcher.clone().look_after(
            (name.to_owned(), label),
            program.clone(),
            child,
            Arc::clone(&status),
            stop.clone(),
        ));
        Replica { status, stop, done }
    }

    /// A line for each replica of each part.
    pub(crate) fn list(&self) -> Vec<String> {
        let running = self.running();
        let lines = running.iter().flat_map(|(name, replicas)| {
            let labels = (0..replicas.len()).map(|index| label(name, index, replicas.len()));
            labels.zip(replicas).map(|(label, replica)| format!("{label:<20} {}", replica.status))
        });
        lines.collect()
    }

    /// The processes of a part.
    pub(crate) fn pids(&self, name: &str) -> Vec<u32> {
        pids(self.running().get(name).into_iter().flatten())
    }

    /// The processes of all parts.
    pub(crate) fn all_pids(&self) -> Vec<u32> {
        pids(self.running().values().flatten())
    }

    /// Lets a part finish what it has in work and end, for good.
    pub(crate) async fn stop(&self, name: &str) {
        let replicas = self.running().remove(name).unwrap_or_default();
        replicas.iter().for_each(|replica| replica.stop.cancel());
        for replica in replicas {
            let _ = replica.done.await;
        }
    }

    /// Returns when every part has ended; they are told by the token.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<Replica>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pids<'a>(replicas: impl Iterator<Item = &'a Replica>) -> Vec<u32> {
    replicas.filter_map(|replica| replica.status.pid()).collect()
}

/// What people call a replica.
fn label(name: &str, index: usize, replicas: usize) -> String {
    if replicas == 1 { name.to_owned() } else { format!("{name}#{}", index + 1) }
}
