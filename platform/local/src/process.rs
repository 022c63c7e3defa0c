//! A program of ours that runs beside this one and ends with it.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt,
    process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
};

use anyhow::Result;
use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process};

use crate::orphan::{self, Leashed};

/// A program that runs beside this one. It is told to end when this process is gone, however that ends, and
/// killed when the value is dropped.
pub struct Process(Leashed);

impl Process {
    /// Starts it, in a process group of its own: Ctrl-C at the terminal reaches only us, and we end it in order.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).process_group(0);
        orphan::spawn(command).map(Self)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.child.id()
    }

    /// What it prints, where its command says that this is piped; once.
    pub fn output(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.0.child.stdout.take(), self.0.child.stderr.take())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.child.try_wait()?)
    }

    /// Asks it to finish what it has in work and end.
    pub fn terminate(&self) {
        // It may have ended already: then there is nobody to ask.
        let _ = kill_process(Pid::from_child(&self.0.child), Signal::TERM);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.child.kill();
        let _ = self.0.child.wait();
    }
}

/// Hands a listener to a program that is about to be started, in the way of systemd's socket activation: as file
/// descriptor 3, with `LISTEN_FDS=1`.
pub fn hand_over(command: &mut Command, listener: TcpListener) -> Result<()> {
    let listener = FdMapping { parent_fd: listener.into(), child_fd: 3 };
    // No `LISTEN_PID`: the process id is not known before the program is started.
    command.fd_mappings(vec![listener])?.env("LISTEN_FDS", "1").env_remove("LISTEN_PID");
    Ok(())
}
