//! Servers in containers of this machine's Docker daemon: the way for a machine that has nothing else.
//!
//! A container is removed when its value is dropped. A process that is killed removes nothing: so every container says in a
//! label which lock file its owner holds, and whoever starts the next one first removes those whose lock nobody holds.
//! Data is in a volume, because on many machines a container cannot write to a folder as its user could. The note
//! `<folder>.volume` names it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use sha2::{Digest, Sha256};
use testcontainers::bollard::{
    self, Docker,
    models::{HostConfig, PortBinding, VolumeCreateRequest},
    query_parameters::{
        KillContainerOptions, ListContainersOptionsBuilder, ListVolumesOptionsBuilder,
        RemoveContainerOptionsBuilder, RemoveVolumeOptionsBuilder,
    },
};
use testcontainers::core::{IntoContainerPort, Mount, client::docker_client_instance, logs::LogFrame};
use testcontainers::runners::SyncRunner;
use testcontainers::{GenericImage, ImageExt};

use crate::Report;
use crate::child::Log;
use crate::folder::{self, beside};
use crate::pins::Image;
use crate::port::Attempt;
use crate::throwaway;

/// The lock file of the process that a container or a volume belongs to.
const LOCK: &str = "outcry.lock";
/// The machine on which that file is: a daemon may serve several.
const MACHINE: &str = "outcry.machine";
/// A volume for a test: it may go when the lock file is gone.
const THROWAWAY: &str = "outcry.throwaway";
/// How long a server may take to end in order.
const FAREWELL_SECONDS: i32 = 10;
/// How often a server in a container is looked at while it starts; that takes a second.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// What is beside a folder whose data is in a volume.
pub(crate) const NOTE: &str = ".volume";

/// Fails when no daemon answers, and says so.
pub(crate) fn available() -> Result<()> {
    ask(async |docker| docker.ping().await.map(drop)).context("no Docker daemon answers")
}

/// What is needed to run a server in a container.
pub(crate) struct Request<'a> {
    pub(crate) image: &'static Image,
    /// The volume, and where it is seen.
    pub(crate) volume: (&'a Volume, &'static str),
    /// Ports of 127.0.0.1, and those of the container they lead to.
    pub(crate) ports: &'a [(u16, u16)],
    pub(crate) command: Vec<String>,
    pub(crate) environment: &'a [(&'static str, &'a str)],
    /// A file, and where it is seen.
    pub(crate) file: Option<(&'a Path, &'static str)>,
    /// Where its output goes.
    pub(crate) log: &'a Path,
}

/// A running container. Dropping it ends and removes it.
pub(crate) struct Container {
    // Nothing only while it is being dropped.
    container: Option<testcontainers::Container<GenericImage>>,
    log: Log,
}

impl Container {
    /// Starts it, with its image pulled if it is not there yet.
    pub(crate) fn start(request: Request, report: Report) -> Result<Attempt<Container>> {
        let Request { image, volume: (volume, inside), ports, command, environment, file, log } = request;
        volume.sweep()?;
        let name = image.to_string();
        if ask(async |docker| docker.inspect_image(&name).await).is_err() {
            report(&format!("{}: pulling {image} with Docker", image.name));
        }
        let (log, sink) = Log::begin(log)?;
        let bindings: HashMap<String, Option<Vec<PortBinding>>> = ports
            .iter()
            .map(|(outside, inside)| (format!("{inside}/tcp"), Some(vec![local(*outside)])))
            .collect();
        let mut container = GenericImage::new(image.name, image.tag)
            .with_cmd(command)
            .with_mount(Mount::volume_mount(&volume.name, inside))
            .with_labels(volume.labels())
            // Of this machine only: by itself Docker opens a port to everybody.
            .with_host_config_modifier(move |host: &mut HostConfig| {
                host.port_bindings = Some(bindings.clone());
            })
            .with_log_consumer(move |frame: &LogFrame| {
                let _ = (&sink).write_all(frame.bytes());
            });
        for (_, inside) in ports {
            // Of no effect on what is published, but it keeps the other ports of the image closed.
            container = container.with_mapped_port(0, inside.tcp());
        }
        for (name, value) in environment {
            container = container.with_env_var(*name, *value);
        }
        if let Some((file, inside)) = file {
            let content = fs::read(file).with_context(|| format!("read {}", file.display()))?;
            container = container.with_copy_to(inside, content);
        }
        match apart(|| container.start()) {
            Ok(container) => Ok(Attempt::Ready(Container { container: Some(container), log })),
            Err(error) => {
                let text = format!("{:#}", anyhow!(error));
                if ["already allocated", "already in use"].iter().any(|words| text.contains(words)) {
                    return Ok(Attempt::PortTaken);
                }
                Err(anyhow!("start {image} with Docker: {text}"))
            }
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&self) -> Result<Option<ExitStatus>> {
        let Some(container) = &self.container else { return Ok(None) };
        let code = apart(|| container.exit_code())?;
        // As a process that exits says it.
        Ok(code.map(|code| ExitStatus::from_raw(i32::try_from(code).unwrap_or(1) << 8)))
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Asks it to end, waits, and removes it.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(container) = self.container.take() else { return Ok(()) };
        apart(|| {
            let stopped = container.stop_with_timeout(Some(FAREWELL_SECONDS));
            container.rm()?;
            stopped
        })
        .context("stop a container")
    }

    /// Ends it as a crash would, and removes it.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let Some(container) = self.container.take() else { return Ok(()) };
        // It may have ended by itself: then there is nothing to kill.
        let _ = ask(async |docker| docker.kill_container(container.id(), None::<KillContainerOptions>).await);
        apart(|| container.rm()).context("remove a container")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What cannot be removed now is removed by whoever comes next.
        let _ = self.stop();
    }
}

fn local(port: u16) -> PortBinding {
    PortBinding { host_ip: Some("127.0.0.1".into()), host_port: Some(port.to_string()) }
}

/// Where the data of a folder is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    name: String,
    /// What the server asks for, when it asks.
    pub(crate) password: String,
    data: PathBuf,
}

impl Volume {
    /// The volume that the note beside `data` names, if there is one.
    pub(crate) fn of(data: &Path) -> Result<Option<Volume>> {
        let note = beside(data, NOTE);
        let text = match fs::read_to_string(&note) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", note.display())),
        };
        let mut lines = text.lines().map(str::to_owned);
        let (Some(name), Some(password)) = (lines.next(), lines.next()) else {
            return Err(anyhow!("{} names no volume: begin again with empty data: --fresh", note.display()));
        };
        Ok(Some(Volume { name, password, data: data.to_owned() }))
    }

    /// The volume of `data`, which begins empty. Call it while holding `data`.
    pub(crate) fn make(data: &Path, password: String) -> Result<Volume> {
        let digest = Sha256::digest([machine().as_bytes(), data.as_os_str().as_encoded_bytes()].concat());
        let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let name = format!("outcry-{short}");
        let volume = Volume { name, password, data: data.to_owned() };
        volume.sweep()?;
        // One without a note is left from a folder that was removed by hand.
        remove_volume(&volume.name)?;
        let labels = Some(volume.labels().into_iter().collect());
        let wanted = VolumeCreateRequest { name: Some(volume.name.clone()), labels, ..Default::default() };
        ask(async |docker| docker.create_volume(wanted).await).context("make a volume")?;
        let note = beside(data, NOTE);
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&note)
            .and_then(|mut file| writeln!(file, "{}\n{}", volume.name, volume.password))
            .with_context(|| format!("write {}", note.display()))?;
        Ok(volume)
    }

    /// Removes the volume with its note.
    pub(crate) fn remove(&self) -> Result<()> {
        self.sweep()?;
        remove_volume(&self.name)?;
        folder::remove(&beside(&self.data, NOTE))
    }

    /// Removes the volume of `data`, if there is one. Call it while holding `data`.
    pub(crate) fn wipe(data: &Path) -> Result<()> {
        match Volume::of(data)? {
            Some(volume) => volume.remove(),
            None => Ok(()),
        }
    }

    fn labels(&self) -> Vec<(String, String)> {
        let mut labels = vec![
            (LOCK.to_owned(), beside(&self.data, ".lock").display().to_string()),
            (MACHINE.to_owned(), machine()),
        ];
        if throwaway::is_in(&self.data) {
            labels.push((THROWAWAY.to_owned(), "true".to_owned()));
        }
        labels
    }

    /// Removes what processes of this machine have left: containers of which nobody holds the lock, and those of our own
    /// lock, for we hold it; then the volumes of tests whose folders are gone.
    fn sweep(&self) -> Result<()> {
        let own = beside(&self.data, ".lock").display().to_string();
        let ours = HashMap::from([("label".to_owned(), vec![format!("{MACHINE}={}", machine())])]);
        let is_left = |labels: &HashMap<String, String>| {
            labels.get(LOCK).is_some_and(|lock| *lock == own || is_free(Path::new(lock)))
        };
        let swept = ask(async |docker| {
            let every = ListContainersOptionsBuilder::new().all(true).filters(&ours).build();
            for container in docker.list_containers(Some(every)).await? {
                let labels = container.labels.unwrap_or_default();
                if let Some(id) = container.id.filter(|_| is_left(&labels)) {
                    let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
                    // Another process may be as quick.
                    let _ = docker.remove_container(&id, Some(force)).await;
                }
            }
            let every = ListVolumesOptionsBuilder::new().filters(&ours).build();
            for volume in docker.list_volumes(Some(every)).await?.volumes.unwrap_or_default() {
                let is_gone = volume.labels.get(LOCK).is_some_and(|lock| !Path::new(lock).exists());
                if is_gone && volume.labels.contains_key(THROWAWAY) {
                    let force = RemoveVolumeOptionsBuilder::new().force(true).build();
                    let _ = docker.remove_volume(&volume.name, Some(force)).await;
                }
            }
            Ok(())
        });
        swept.context("look for containers of earlier runs")
    }
}

/// The volume of a server for one test goes with the value.
impl Drop for Volume {
    fn drop(&mut self) {
        if throwaway::is_owned(&self.data) {
            // Whoever comes next removes what stays.
            let _ = self.remove();
        }
    }
}

fn remove_volume(name: &str) -> Result<()> {
    let force = RemoveVolumeOptionsBuilder::new().force(true).build();
    ask(async |docker| docker.remove_volume(name, Some(force)).await)
        .with_context(|| format!("remove the Docker volume {name}"))
}

/// Whether nobody holds the lock; nobody holds one that is gone.
fn is_free(lock: &Path) -> bool {
    match File::open(lock) {
        Ok(file) => file.try_lock().is_ok(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Asks the daemon.
fn ask<T: Send>(question: impl AsyncFnOnce(Docker) -> Result<T, bollard::errors::Error> + Send) -> Result<T> {
    apart(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { Ok(question(docker_client_instance().await?).await?) })
    })
}

/// Does it in a thread of its own: a caller may be in the middle of asynchronous work, where nothing may wait for other
/// asynchronous work.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests;
