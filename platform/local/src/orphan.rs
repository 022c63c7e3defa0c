//! Children that never outlive this process, however it ends.

use std::process::{Child, Command};
use std::sync::{LazyLock, mpsc};
use std::thread;

use anyhow::{Context, Result, anyhow};

type Job = Box<dyn FnOnce() + Send>;

/// On Linux the kernel's signal comes when the *thread* that spawned ends, not the process. So every child is spawned by
/// one thread that lives as long as the process.
static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (jobs, inbox) = mpsc::channel::<Job>();
    thread::spawn(move || inbox.into_iter().for_each(|job| job()));
    jobs
});

/// Starts `command` so that it is interrupted (SIGINT) when this process is gone, even by SIGKILL.
pub(crate) fn spawn(command: Command) -> Result<Leashed> {
    let program = command.get_program().to_owned();
    #[cfg(target_os = "linux")]
    let command = die_with_parent(command);
    let (done, outcome) = mpsc::channel();
    SPAWNER
        .send(Box::new(move || {
            // A receiver that is gone has nobody left to tell.
            let _ = done.send(Leashed::new(command));
        }))
        .map_err(|_| anyhow!("the thread that starts programs is gone"))?;
    outcome
        .recv()
        .context("the thread that starts programs is gone")?
        .with_context(|| format!("start {}", program.display()))
}

/// A child, and where the kernel has no parent-death signal, the process that watches for us.
pub(crate) struct Leashed {
    pub(crate) child: Child,
    #[cfg(not(target_os = "linux"))]
    _watch: Watch,
}

impl Leashed {
    fn new(mut command: Command) -> std::io::Result<Leashed> {
        let child = command.spawn()?;
        #[cfg(not(target_os = "linux"))]
        let (child, watch) = Watch::or_kill(child)?;
        Ok(Leashed {
            child,
            #[cfg(not(target_os = "linux"))]
            _watch: watch,
        })
    }
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the parent-death signal can only be asked for between fork and exec")]
fn die_with_parent(mut command: Command) -> Command {
    use std::os::unix::process::CommandExt;

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

    let parent = Some(getpid());
    // SAFETY: between fork and exec only async-signal-safe calls are sound. The closure makes two bare system calls
    // (prctl, getppid) and turns an errno into an `io::Error`; it neither allocates nor locks.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::INT))?;
            // The parent may have died before the call above, and then nobody will signal us.
            if getppid() != parent {
                return Err(Errno::SRCH.into());
            }
            Ok(())
        });
    }
    command
}

/// A shell that reads from a pipe we never write to: when we are gone the pipe ends and it interrupts the child.
#[cfg(any(test, not(target_os = "linux")))]
pub(crate) struct Watch(Child);

#[cfg(any(test, not(target_os = "linux")))]
impl Watch {
    /// A child that cannot be watched is not kept.
    #[cfg(not(target_os = "linux"))]
    fn or_kill(mut child: Child) -> std::io::Result<(Child, Watch)> {
        match Watch::over(child.id()) {
            Ok(watch) => Ok((child, watch)),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    pub(crate) fn over(pid: u32) -> std::io::Result<Watch> {
        use std::os::unix::process::CommandExt;
        use std::process::Stdio;

        Command::new("/bin/sh")
            .args(["-c", r#"read -r _; kill -INT "$0" 2>/dev/null"#])
            .arg(pid.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C at the terminal must not take the watch away.
            .process_group(0)
            .spawn()
            .map(Watch)
    }
}

#[cfg(any(test, not(target_os = "linux")))]
impl Drop for Watch {
    fn drop(&mut self) {
        // Killed before its pipe closes, else it would signal a process id that may have a new owner by now. Both calls fail
        // only when it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests;
