//! A Postgres of our own.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::Report;
use crate::child::{Child, Farewell, Log, TICK};
use crate::cluster;
use crate::docker::{self, Container, Volume};
use crate::find::{self, Found, Kept, Services, Source};
use crate::folder::{self, Hold, beside};
use crate::leftover::{self, Leftover};
use crate::pins::Image;
use crate::port::{self, Attempt};
use crate::program;
use crate::server::Server;
use crate::throwaway;
use crate::user::Account;
use crate::wire::{self, Answer};

/// SIGINT ends the sessions and stops in order; SIGQUIT is a crash that still takes its children along.
const FAREWELL: Farewell = &[(Signal::INT, Duration::from_secs(10)), (Signal::QUIT, Duration::from_secs(3))];

/// How long a server may be silent. One that says it recovers gets more.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_RECOVERING: Duration = Duration::from_secs(300);
const WORTH_A_WORD: Duration = Duration::from_secs(1);

/// What a crash of the machine may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: a commit is on disk.
    Durable,
    /// Everything: no sync at all, for tests.
    Throwaway,
}

/// A running Postgres on 127.0.0.1, with its superuser `postgres` behind a password. Dropping it stops it.
pub struct Postgres {
    server: Option<Server>,
    port: u16,
    password: String,
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
    data: PathBuf,
    log: PathBuf,
    account: Option<Account>,
    durability: Durability,
}

impl Postgres {
    /// Starts a server over `data` on a free port. The first start makes the data and a password; later ones find both. As
    /// root, a folder that Postgres' user cannot reach is replaced by one in `/var/tmp`, and the report says so.
    ///
    /// Fails when another process has a server over `data`, and when the data is another major version's and that version
    /// cannot be found.
    pub fn start(data: &Path, durability: Durability, report: Report) -> Result<Postgres> {
        Self::start_from(Services::from_env()?, data, durability, report)
    }

    /// Starts an empty server for a test. It and its data are gone after the drop.
    pub fn throwaway(report: Report) -> Result<Postgres> {
        let home = throwaway::home()?;
        let mut postgres = Self::start(&home.path().join("postgres"), Durability::Throwaway, report)?;
        postgres._home = Some(home);
        Ok(postgres)
    }

    /// [`start`](Self::start) with the choice that `OUTCRY_SERVICES` makes otherwise.
    pub fn start_from(
        services: Services,
        data: &Path,
        durability: Durability,
        report: Report,
    ) -> Result<Postgres> {
        let wanted = folder::settle(data)?;
        let account = Account::for_data(&wanted)?;
        let data = folder::reachable(wanted, account.as_ref(), report)?;
        // Again, because the data may be elsewhere and have an owner there.
        let account = Account::for_data(&data)?;
        let hold = Hold::take(&data)?;
        let mut volume = Volume::of(&data)?;
        let made_by = cluster::made_by(&data)?;
        let kept = match (&volume, made_by) {
            (Some(_), _) => Kept::InVolume,
            (None, Some(_)) => Kept::InFolder,
            (None, None) => Kept::Nowhere,
        };
        let source = find::postgres(services, kept, account.as_ref(), made_by, report)?;
        let log = beside(&data, ".log");
        Log::rotate(&log)?;

        match (&source, made_by) {
            (Source::Image(_), _) if volume.is_some() => {}
            (Source::Image(image), _) => {
                report(&format!("postgres: making a new database with Docker: {image}"));
                volume = Some(Volume::make(&data, cluster::random_password()?)?);
            }
            (Source::Program(program), None) => {
                report(&format!("postgres: making a new database in {}", data.display()));
                let programs = program.path.parent().context("a program is in a folder")?;
                cluster::make(&data, programs, account.as_ref(), durability, &log)?;
            }
            (Source::Program(_), Some(_)) => clear_leftover(&data, report)?,
        }
        let password = match &volume {
            Some(volume) => volume.password.clone(),
            None => cluster::password(&data)?,
        };
        let setup = Setup { source, volume, data, log, account, durability };
        let (port, server) = port::on_a_free_port(port::free, |port| {
            Ok(match setup.launch(port, report)? {
                Attempt::Ready(server) => Attempt::Ready((port, server)),
                Attempt::PortTaken => Attempt::PortTaken,
            })
        })?;
        Ok(Postgres { server: Some(server), port, password, setup, _hold: hold, _home: None })
    }

    /// The superuser's URL, `postgres://postgres:<password>@127.0.0.1:<port>/postgres`.
    pub fn url(&self) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/postgres", self.password, self.port)
    }

    /// The port on 127.0.0.1. It stays the same over [`halt`](Self::halt) and [`resume`](Self::resume).
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the program came from.
    pub fn found(&self) -> Found {
        self.setup.source.found()
    }

    /// Its version, such as `18.6`.
    pub fn version(&self) -> String {
        self.setup.source.version().map(|version| version.to_string()).unwrap_or_default()
    }

    /// Where the data really is, unless it is in a Docker volume.
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
        clear_leftover(&self.setup.data, report)?;
        match self.setup.launch(self.port, report)? {
            Attempt::Ready(server) => self.server = Some(server),
            Attempt::PortTaken => bail!("port {} was taken while Postgres was halted", self.port),
        }
        Ok(())
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

    /// Removes `data` with its password and logs; nothing there is fine. Fails while a server is running over it.
    pub fn wipe(data: &Path) -> Result<()> {
        let wanted = folder::settle(data)?;
        for data in [folder::stand_in_if_made(&wanted), Some(wanted)].into_iter().flatten() {
            let _hold = Hold::take(&data)?;
            clear_leftover(&data, &|_| {})?;
            Volume::wipe(&data)?;
            folder::wipe(&data, &[".log", ".log.old", cluster::UNFINISHED])?;
        }
        Ok(())
    }
}

impl Setup {
    /// Starts the server. After a crash the last sessions may need a moment to notice it, and until then their memory keeps a
    /// new server out.
    fn launch(&self, port: u16, report: Report) -> Result<Attempt<Server>> {
        let program = match (&self.source, &self.volume) {
            (Source::Program(program), _) => &program.path,
            (Source::Image(image), Some(volume)) => return self.contain(image, volume, port, report),
            (Source::Image(_), None) => bail!("a container has no volume"),
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.launch_once(program, port, report) {
                Err(error) if is_kept_out(&error) && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(50));
                }
                outcome => return outcome,
            }
        }
    }

    fn contain(
        &self,
        image: &'static Image,
        volume: &Volume,
        port: u16,
        report: Report,
    ) -> Result<Attempt<Server>> {
        let mut command = vec!["postgres".to_owned()];
        for setting in settings(self.durability) {
            command.extend(["-c".to_owned(), setting]);
        }
        let request = docker::Request {
            image,
            volume: (volume, "/var/lib/postgresql/data"),
            ports: &[(port, 5432)],
            command,
            // Read when the database is made, and not again.
            environment: &[
                ("POSTGRES_PASSWORD", &volume.password),
                ("POSTGRES_INITDB_ARGS", "--encoding=UTF8 --locale=C"),
            ],
            file: None,
            log: &self.log,
        };
        let Attempt::Ready(container) = Container::start(request, report)? else {
            return Ok(Attempt::PortTaken);
        };
        let mut server = Server::Container(Box::new(container));
        let deadline = Instant::now() + PATIENCE_RECOVERING;
        // While the image makes the database its server listens on no port.
        while !matches!(wire::ask_postgres(port), Answer::Ready) {
            if let Some(status) = server.ended()? {
                bail!("postgres ended with {status} while it started; {}", server.log().tail());
            }
            ensure!(Instant::now() < deadline, "postgres does not answer; {}", server.log().tail());
            thread::sleep(docker::LOOK);
        }
        Ok(Attempt::Ready(server))
    }

    fn launch_once(&self, program: &Path, port: u16, report: Report) -> Result<Attempt<Server>> {
        let mut command = program::command(program, self.account.as_ref());
        command.arg("-D").arg(&self.data).arg("-p").arg(port.to_string());
        for setting in PLACE.into_iter().map(str::to_owned).chain(settings(self.durability)) {
            command.arg("-c").arg(setting);
        }
        let mut server = Child::spawn(command, &self.log, FAREWELL)?;
        let began = Instant::now();
        let mut deadline = began + PATIENCE;
        let mut reported = false;
        loop {
            if let Some(status) = server.ended()? {
                if server.log().says_port_taken() {
                    return Ok(Attempt::PortTaken);
                }
                bail!("postgres ended with {status} while it started; {}", server.log().tail());
            }
            let answer = wire::ask_postgres(port);
            match &answer {
                // Somebody else may have the port, so our own server must say that it is ready as well.
                Answer::Ready if self.says_ready(server.pid()) => {
                    return Ok(Attempt::Ready(Server::Process(server)));
                }
                Answer::Starting => {
                    deadline = began + PATIENCE_RECOVERING;
                    if !reported && began.elapsed() > WORTH_A_WORD {
                        reported = true;
                        report("postgres: still starting, perhaps recovering from a crash");
                    }
                }
                _ => {}
            }
            if Instant::now() >= deadline {
                let said = if let Answer::No(text) = answer { text } else { String::new() };
                bail!("postgres does not answer ({said}); {}", server.log().tail());
            }
            thread::sleep(TICK);
        }
    }

    /// Line 1 of postmaster.pid is the process, line 8 its state.
    fn says_ready(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        lines.next() == Some(&pid.to_string()) && lines.nth(6) == Some("ready")
    }
}

fn is_kept_out(error: &anyhow::Error) -> bool {
    error.to_string().contains("pre-existing shared memory block")
}

/// Where a server that is a process of this machine listens.
const PLACE: [&str; 2] = ["listen_addresses=127.0.0.1", "unix_socket_directories="];

/// How much memory Postgres keeps its pages in, as its own `shared_buffers`; `docker-compose.yaml` knows it, too.
const MEMORY: &str = "POSTGRES_SHARED_BUFFERS";

fn settings(durability: Durability) -> Vec<String> {
    let (memory, others) = match durability {
        Durability::Durable => ("256MB", &["max_wal_size=2GB"][..]),
        Durability::Throwaway => {
            ("64MB", &["fsync=off", "synchronous_commit=off", "full_page_writes=off"][..])
        }
    };
    let memory = std::env::var(MEMORY).unwrap_or_else(|_| memory.to_owned());
    let common = ["max_connections=300", "timezone=UTC", "log_timezone=UTC", "logging_collector=off"];
    common
        .iter()
        .chain(others)
        .map(|setting| (*setting).to_owned())
        .chain([format!("shared_buffers={memory}")])
        .collect()
}

/// Ends a server left over `data`, and removes a pid file that would keep a new one from starting: Postgres believes it as
/// long as any process has that number.
fn clear_leftover(data: &Path, report: Report) -> Result<()> {
    let pid_file = data.join("postmaster.pid");
    if leftover::stop(&pid_file, "postgres", data, report)? == Leftover::Stranger {
        folder::remove(&pid_file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
