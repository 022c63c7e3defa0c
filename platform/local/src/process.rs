//! A program of ours that runs beside this one and ends with it.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::Result;
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
