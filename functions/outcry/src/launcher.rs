//! Parts in processes of their own: started, looked after, told to finish.

use std::{
    fmt,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use local::Process;
use platform::{Bus, Config, Env};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a new process may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a process may take to finish what it has in work.
const DRAIN: Duration = Duration::from_secs(35);
/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// The first and the longest wait before what ended is started again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// What ran for so long is no longer failing: the next wait is the first one again.
const STEADY: Duration = Duration::from_secs(20);

/// Grows from one failure to the next, so that what cannot start does not keep the machine busy.
pub(crate) struct BackOff(Duration);

impl BackOff {
    pub(crate) fn new() -> Self {
        Self(AGAIN.0)
    }

    /// How long to wait now, after something that ran for `ran` has ended.
    pub(crate) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= STEADY {
            self.0 = AGAIN.0;
        }
        let wait = self.0;
        self.0 = (wait * 2).min(AGAIN.1);
        wait
    }
}

/// What a part's process executes.
#[derive(Clone)]
pub(crate) struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    /// Ours alone, and gone with the last process that may be started from it.
    _copy: Option<Arc<Copy>>,
}

struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Program {
    /// Executes this file.
    pub(crate) fn new(path: PathBuf, arguments: Vec<String>) -> Self {
        Self { path, arguments, _copy: None }
    }

    /// Copies a program into a folder, where no later build changes what runs.
    pub(crate) fn copied(program: &Path, folder: &Path, name: &str) -> anyhow::Result<Self> {
        let copy = folder.join(format!("{name}-{}", Uuid::new_v4().simple()));
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::copy(program, &copy))
            .with_context(|| format!("copy {} to {}", program.display(), folder.display()))?;
        Ok(Self { path: copy.clone(), arguments: Vec::new(), _copy: Some(Arc::new(Copy(copy))) })
    }
}

/// How a part is doing, for whoever lists the parts.
pub(crate) struct Status(Mutex<Life>);

#[derive(Clone, Copy)]
struct Life {
    pid: Option<u32>,
    since: Instant,
    restarts: u64,
}

impl Status {
    /// Of a part that has just begun, in the process `pid` or in ours.
    pub(crate) fn begun(pid: Option<u32>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Life { pid, since: Instant::now(), restarts: 0 })))
    }

    /// Begun once more, after it had ended.
    pub(crate) fn again(&self, pid: Option<u32>) {
        let mut life = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *life = Life { pid, since: Instant::now(), restarts: life.restarts + 1 };
    }

    /// Its process, when it has one of its own.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.life().pid
    }

    /// How long it has run since it began last.
    pub(crate) fn ran(&self) -> Duration {
        self.life().since.elapsed()
    }

    fn life(&self) -> Life {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Life { pid, since, restarts } = self.life();
        let place = pid.map_or("in the platform's process".to_owned(), |pid| format!("process {pid}"));
        write!(f, "{place:<26} up {} s", since.elapsed().as_secs())?;
        match restarts {
            0 => Ok(()),
            1 => f.write_str(", restarted once"),
            _ => write!(f, ", restarted {restarts} times"),
        }
    }
}

/// Starts processes with all that they need to join the platform.
#[derive(Clone)]
pub(crate) struct Launcher {
    bus: Bus,
    env: Env,
    /// Where HTTP comes in. It is ours, and every edge accepts from it, so that connections wait while one
    /// edge takes over from another.
    listener: Option<Arc<TcpListener>>,
}

/// A part's process.
pub(crate) struct Child {
    process: Process,
    instance: String,
}

impl Child {
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Launcher {
    pub(crate) fn new(bus: Bus, env: Env, listener: Option<Arc<TcpListener>>) -> Self {
        Self { bus, env, listener }
    }

    /// Starts one replica of a part; its log lines are printed with `label` in front.
    pub(crate) fn start(&self, name: &str, label: &str, program: &Program) -> anyhow::Result<Child> {
        let instance = Uuid::new_v4().simple().to_string();
        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            .envs(self.env.iter())
            .env("OUTCRY_INSTANCE", &instance)
            // Its own user of the bus, and not the secret from which all follow.
            .env_remove("NATS_SECRET")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some((user, password)) = self.env.read::<Config>()?.login(name) {
            command.env("NATS_USER", user).env("NATS_PASSWORD", password);
        }
        if name == "edge" {
            let listener = self.listener.as_ref().context("this platform has no port for an edge")?;
            local::hand_over(&mut command, listener.try_clone()?)?;
        }
        let mut process = Process::start(command).with_context(|| format!("start {name}"))?;
        let (output, errors) = process.output();
        if let (Some(output), Some(errors)) = (output, errors) {
            tokio::spawn(print(label.to_owned(), tokio::process::ChildStdout::from_std(output)?));
            tokio::spawn(print(label.to_owned(), tokio::process::ChildStderr::from_std(errors)?));
        }
        Ok(Child { process, instance })
    }

    /// Waits until it serves. An error when it does not within 30 seconds, or has ended.
    pub(crate) async fn ready(&self, name: &str, child: &mut Child) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while !self.bus.is_instance_serving(name, &child.instance, Duration::from_millis(200)).await {
            if let Some(status) = child.process.ended()? {
                bail!("it ended with {status}; the log lines above say why");
            }
            ensure!(Instant::now() < deadline, "it did not serve within {READY_WITHIN:?}");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Looks after a process until it is told to finish: when it ends before that, it is started again.
    pub(crate) async fn look_after(
        self,
        (name, label): (String, String),
        program: Program,
        mut child: Child,
        status: Arc<Status>,
        stop: CancellationToken,
    ) {
        let mut back_off = BackOff::new();
        loop {
            if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                break;
            }
            let Ok(Some(ended)) = child.process.ended() else { continue };
            let wait = back_off.after(status.ran());
            tracing::error!(part = label, status = %ended, again_in = ?wait, "ended");
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                break;
            }
            match self.start(&name, &label, &program) {
                Ok(again) => {
                    status.again(Some(again.pid()));
                    child = again;
                }
                Err(error) => {
                    tracing::error!(part = label, error = format!("{error:#}"), "cannot be started")
                }
            }
        }
        finish(&label, &mut child.process).await;
    }
}

/// Lets a process finish what it has in work. It is killed when it takes too long.
async fn finish(label: &str, process: &mut Process) {
    process.terminate();
    let deadline = Instant::now() + DRAIN;
    while matches!(process.ended(), Ok(None)) {
        if Instant::now() > deadline {
            tracing::error!(part = label, "did not finish in time and is killed");
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Prints what a part says, line by line, with its name in front.
async fn print(label: String, output: impl AsyncRead + Unpin) {
    use std::io::Write;
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let _ = writeln!(std::io::stderr(), "{label:<18} | {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_start_is_tried_ever_more_seldom_until_it_has_run_for_a_while() {
        let mut back_off = BackOff::new();
        let mut after = |seconds| back_off.after(Duration::from_secs(seconds)).as_millis();

        assert_eq!([after(0), after(0), after(1), after(0)], [200, 400, 800, 1600]);
        assert_eq!([after(0), after(0), after(0), after(0)], [3200, 6400, 10_000, 10_000]);
        assert_eq!([after(20), after(0)], [200, 400]);
    }
}
