//! A nats-server of our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::Report;
use crate::child::{Child, Farewell, Log, TICK};
use crate::docker::{self, Container, Volume};
use crate::find::{self, Found, Kept, Services, Source};
use crate::folder::{self, Hold, beside};
use crate::leftover;
use crate::pins::Image;
use crate::port::{self, Attempt};
use crate::server::Server;
use crate::throwaway;
use crate::wire;

const FAREWELL: Farewell = &[(Signal::INT, Duration::from_secs(10))];
const PATIENCE: Duration = Duration::from_secs(30);

/// A running nats-server on 127.0.0.1. Dropping it stops it.
pub struct Nats {
    server: Option<Server>,
    port: u16,
    monitoring_port: u16,
    setup: Setup,
    // Last, in this order: the folder is given up, and removed, when the server is gone.
    _hold: Hold,
    _home: Option<TempDir>,
}

/// All that is needed to start the server, once or again.
struct Setup {
    source: Source,
    /// Of a server that runs in a container.
    volume: Option<Volume>,
    config: PathBuf,
    data: PathBuf,
    log: PathBuf,
}

impl Nats {
    /// Starts a server with the settings in `config_file`, on free ports, with its JetStream store in `data`. Addresses,
    /// ports and the store's folder in the file are overruled; JetStream itself is the file's to enable.
    ///
    /// Fails when another process has a server over `data`.
    pub fn start(config_file: &Path, data: &Path, report: Report) -> Result<Nats> {
        Self::start_from(Services::from_env()?, config_file, data, report)
    }

    /// Starts an empty server for a test. It and its store are gone after the drop.
    pub fn throwaway(config_file: &Path, report: Report) -> Result<Nats> {
        let home = throwaway::home()?;
        let mut nats = Self::start(config_file, &home.path().join("nats"), report)?;
        nats._home = Some(home);
        Ok(nats)
    }

    /// [`start`](Self::start) with the choice that `OUTCRY_SERVICES` makes otherwise.
    pub fn start_from(services: Services, config_file: &Path, data: &Path, report: Report) -> Result<Nats> {
        let config = config_file.canonicalize().with_context(|| format!("find {}", config_file.display()))?;
        let data = folder::settle(data)?;
        let hold = Hold::take(&data)?;
        let mut volume = Volume::of(&data)?;
        let source = find::nats(services, kept(&data, volume.is_some()), report)?;
        let log = beside(&data, ".log");
        Log::rotate(&log)?;
        leftover::stop(&beside(&data, ".pid"), "nats-server", &data, report)?;

        if volume.is_none() && matches!(source, Source::Image(_)) {
            volume = Some(Volume::make(&data, String::new())?);
        }
        let setup = Setup { source, volume, config, data, log };
        let ports = || Ok((port::free()?, port::free()?));
        let (ports, server) = port::on_a_free_port(ports, |ports| {
            Ok(match setup.launch(ports, report)? {
                Attempt::Ready(server) => Attempt::Ready((ports, server)),
                Attempt::PortTaken => Attempt::PortTaken,
            })
        })?;
        let (port, monitoring_port) = ports;
        Ok(Nats { server: Some(server), port, monitoring_port, setup, _hold: hold, _home: None })
    }

    /// Where clients connect: `nats://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where the server tells about itself: `http://127.0.0.1:<port>`.
    pub fn monitoring_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitoring_port)
    }

    /// The clients' port on 127.0.0.1. It stays the same over [`halt`](Self::halt) and [`resume`](Self::resume).
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the program came from.
    pub fn found(&self) -> Found {
        self.setup.source.found()
    }

    /// Its version, such as `2.15`.
    pub fn version(&self) -> String {
        self.setup.source.version().map(|version| version.to_string()).unwrap_or_default()
    }

    /// Where the store is, unless it is in a Docker volume.
    pub fn data(&self) -> &Path {
        &self.setup.data
    }

    /// Where the server writes its log.
    pub fn log(&self) -> &Path {
        &self.setup.log
    }

    /// The server's process, while it is not halted; one in a container has none here.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().and_then(Server::pid)
    }

    /// How the server ended, if it ended without being asked to.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.server.as_mut().map_or(Ok(None), Server::ended)
    }

    /// Stops the server in order and keeps its place: [`resume`](Self::resume) brings it back at the same URL.
    pub fn halt(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), |mut server| server.stop())
    }

    /// Ends the server with SIGKILL, as a crash would, and keeps its place.
    pub fn crash(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), |mut server| server.kill())
    }

    /// Starts the server again where it was, if it is not running.
    pub fn resume(&mut self, report: Report) -> Result<()> {
        if self.server.is_some() && self.ended()?.is_none() {
            return Ok(());
        }
        self.server = None;
        leftover::stop(&self.setup.pid_file(), "nats-server", &self.setup.data, report)?;
        match self.setup.launch((self.port, self.monitoring_port), report)? {
            Attempt::Ready(server) => self.server = Some(server),
            Attempt::PortTaken => bail!("a port of nats-server was taken while it was halted"),
        }
        Ok(())
    }

    /// Has the server read its configuration file again, and returns when it goes by it. An error when it refuses what
    /// is written there: then it goes on as before.
    pub fn reload(&mut self) -> Result<()> {
        let Some(server) = &mut self.server else { return Ok(()) };
        let pid = server.pid().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        let pid = pid.context(
            "a nats-server in a container reads its configuration at its start only: start the platform anew",
        )?;
        let before = server.log().text().len();
        kill_process(pid, Signal::HUP).context("tell nats-server to read its configuration again")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = server.log().text();
            let said = text.get(before..).unwrap_or_default();
            if said.contains("Reloaded server configuration") {
                return Ok(());
            }
            if let Some(why) = said.lines().find(|line| line.contains("Failed to reload")) {
                bail!("nats-server refuses its new configuration and goes on with the old one: {why}");
            }
            ensure!(
                Instant::now() < deadline,
                "nats-server does not read its configuration; {}",
                server.log().tail()
            );
            thread::sleep(TICK);
        }
    }

    /// What a parent that is killed leaves where the kernel does not help: a server, and no lock.
    #[cfg(test)]
    pub(crate) fn abandon(mut self) -> Server {
        self.server.take().unwrap()
    }

    /// Stops the server and says when it could not be done in order.
    pub fn stop(mut self) -> Result<()> {
        self.halt()
    }

    /// Removes `data` with its logs; nothing there is fine. Fails while a server is running over it.
    pub fn wipe(data: &Path) -> Result<()> {
        let data = folder::settle(data)?;
        let _hold = Hold::take(&data)?;
        leftover::stop(&beside(&data, ".pid"), "nats-server", &data, &|_| {})?;
        Volume::wipe(&data)?;
        folder::wipe(&data, &[".log", ".log.old", ".pid"])
    }
}

impl Setup {
    fn pid_file(&self) -> PathBuf {
        beside(&self.data, ".pid")
    }

    fn launch(&self, ports: (u16, u16), report: Report) -> Result<Attempt<Server>> {
        // At every start: a store that was wiped meanwhile is an empty one.
        fs::create_dir_all(&self.data).with_context(|| format!("make {}", self.data.display()))?;
        match (&self.source, &self.volume) {
            (Source::Program(program), _) => self.run(&program.path, ports),
            (Source::Image(image), Some(volume)) => self.contain(image, volume, ports, report),
            (Source::Image(_), None) => bail!("a container has no volume"),
        }
    }

    fn contain(
        &self,
        image: &'static Image,
        volume: &Volume,
        (port, monitoring_port): (u16, u16),
        report: Report,
    ) -> Result<Attempt<Server>> {
        const CONFIG: &str = "/etc/nats/outcry.conf";
        let request = docker::Request {
            image,
            volume: (volume, "/data"),
            ports: &[(port, 4222), (monitoring_port, 8222)],
            command: ["-c", CONFIG, "-a", "0.0.0.0", "-p", "4222", "-m", "8222", "-sd", "/data"]
                .map(str::to_owned)
                .into(),
            environment: &[],
            file: Some((&self.config, CONFIG)),
            log: &self.log,
        };
        let Attempt::Ready(container) = Container::start(request, report)? else {
            return Ok(Attempt::PortTaken);
        };
        let mut server = Server::Container(Box::new(container));
        let deadline = Instant::now() + PATIENCE;
        // Docker itself accepts connections before the server does; a greeting can only be the server's.
        while !wire::nats_greets(port).unwrap_or(false) {
            if let Some(status) = server.ended()? {
                bail!("nats-server ended with {status} while it started; {}", server.log().tail());
            }
            ensure!(Instant::now() < deadline, "nats-server does not answer; {}", server.log().tail());
            thread::sleep(docker::LOOK);
        }
        Ok(Attempt::Ready(server))
    }

    fn run(&self, program: &Path, (port, monitoring_port): (u16, u16)) -> Result<Attempt<Server>> {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(&self.config)
            .args(["-a", "127.0.0.1", "-p"])
            .arg(port.to_string())
            .arg("-m")
            .arg(monitoring_port.to_string())
            .arg("-sd")
            .arg(&self.data)
            .arg("-P")
            .arg(self.pid_file())
            .arg("--ports_file_dir")
            .arg(&self.data);
        clear_ports_files(&self.data)?;
        let mut server = Child::spawn(command, &self.log, FAREWELL)?;
        // The server writes it when it listens; the name has its process id, so nobody else's can be meant.
        let listens = self.data.join(format!("nats-server_{}.ports", server.pid()));
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = server.ended()? {
                if server.log().says_port_taken() {
                    return Ok(Attempt::PortTaken);
                }
                bail!("nats-server ended with {status} while it started; {}", server.log().tail());
            }
            if listens.exists() && wire::nats_greets(port).unwrap_or(false) {
                return Ok(Attempt::Ready(Server::Process(server)));
            }
            ensure!(Instant::now() < deadline, "nats-server does not answer; {}", server.log().tail());
            thread::sleep(TICK);
        }
    }
}

/// Where an earlier run put the store. The folder is made for a server in a container too, but stays empty.
fn kept(data: &Path, in_volume: bool) -> Kept {
    let has_files = fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some());
    match (in_volume, has_files) {
        (true, _) => Kept::InVolume,
        (false, true) => Kept::InFolder,
        (false, false) => Kept::Nowhere,
    }
}

/// A server that was killed leaves its ports file, and process ids come again.
fn clear_ports_files(data: &Path) -> Result<()> {
    for entry in fs::read_dir(data)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ports") {
            folder::remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
