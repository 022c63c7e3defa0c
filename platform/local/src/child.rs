//! One running server: its process, its log, how it is stopped.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::orphan::{self, Leashed};

/// How often a process is looked at while it starts or stops; both take milliseconds.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// What is sent to a server that should end, and how long each is waited for. SIGKILL comes after the last.
pub(crate) type Farewell = &'static [(Signal, Duration)];

/// A child process. Dropping it ends it, politely first.
pub(crate) struct Child {
    process: Leashed,
    log: Log,
    farewell: Farewell,
}

impl Child {
    /// Starts `command` with its output going to `log`, in a process group of its own: Ctrl-C at the terminal then reaches
    /// only us, and we end the servers in order.
    pub(crate) fn spawn(mut command: Command, log: &Path, farewell: Farewell) -> Result<Child> {
        let (log, file) = Log::begin(log)?;
        command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file).process_group(0);
        Ok(Child { process: orphan::spawn(command)?, log, farewell })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.child.try_wait()?)
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.process.child.wait()?)
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Asks it to end and waits; kills it when it does not.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        for (signal, patience) in self.farewell {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            let pid = Pid::from_child(&self.process.child);
            // It may end between the look and the signal: then the next look sees it.
            let _ = kill_process(pid, *signal);
            if let Some(status) = self.ended_within(*patience)? {
                return Ok(status);
            }
        }
        self.kill()?;
        bail!("process {} did not stop and was killed; {}", self.pid(), self.log.tail())
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<ExitStatus> {
        self.process.child.kill()?;
        self.wait()
    }

    fn ended_within(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        loop {
            let ended = self.ended()?;
            if ended.is_some() || Instant::now() >= deadline {
                return Ok(ended);
            }
            thread::sleep(TICK);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Nobody is left to tell; an end that was not polite is in the server's log.
        let _ = self.stop();
    }
}

/// The part of a log file that one process wrote.
pub(crate) struct Log {
    path: PathBuf,
    from: u64,
}

impl Log {
    /// Opens it for one more server, whose output goes to the file.
    pub(crate) fn begin(path: &Path) -> Result<(Log, File)> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("open the log {}", path.display()))?;
        Ok((Log { path: path.to_owned(), from: file.metadata()?.len() }, file))
    }

    /// Puts the last run's log aside, so that this run's starts empty.
    pub(crate) fn rotate(path: &Path) -> Result<()> {
        if path.exists() {
            let old = crate::folder::beside(path, ".old");
            fs::rename(path, &old).with_context(|| format!("put {} aside", path.display()))?;
        }
        Ok(())
    }

    pub(crate) fn text(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.from))?;
            file.read_to_end(&mut bytes)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("({}: {error})", self.path.display()),
        }
    }

    /// Its last lines and its name, for an error.
    pub(crate) fn tail(&self) -> String {
        const LINES: usize = 12;
        let text = self.text();
        let lines: Vec<_> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
        if last.is_empty() {
            return format!("its log {} is empty", self.path.display());
        }
        format!("last lines of {}:\n{}", self.path.display(), last.join("\n"))
    }

    /// Whether the process says that its port belongs to somebody else.
    pub(crate) fn says_port_taken(&self) -> bool {
        self.text().to_lowercase().contains("address already in use")
    }
}
