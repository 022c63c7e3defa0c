//! Servers that an earlier process left running over a data folder.
//!
//! On Linux the kernel ends them with their parent, so at most one is still on its way out. Elsewhere this is the second net.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::Report;
use crate::child::TICK;

/// What became of the process named by a pid file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// There is none.
    None,
    /// It was running and is ended now.
    Stopped,
    /// The pid belongs to some other program by now.
    Stranger,
}

/// Ends the server that `pid_file` names, if that process is `program` at work over `data`. Call it only while holding
/// `data`: nobody else's server can be meant then.
pub(crate) fn stop(pid_file: &Path, program: &str, data: &Path, report: Report) -> Result<Leftover> {
    let Some(pid) = pid_in(pid_file) else {
        return Ok(Leftover::None);
    };
    let Some(words) = command_line(pid) else {
        return Ok(Leftover::None);
    };
    if !is_at_work(&words, program, data) {
        return Ok(Leftover::Stranger);
    }
    report(&format!("{program}: stopping process {}, left from an earlier run", pid.as_raw_pid()));
    let plan = [(Signal::INT, 10), (Signal::TERM, 5), (Signal::KILL, 5)];
    for (signal, seconds) in plan {
        // It may end by itself meanwhile; the look below is what counts.
        let _ = kill_process(pid, signal);
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < deadline {
            // Looked at anew each time: a pid that is free may get a new owner.
            if !command_line(pid).is_some_and(|words| is_at_work(&words, program, data)) {
                return Ok(Leftover::Stopped);
            }
            thread::sleep(TICK);
        }
    }
    bail!(
        "{program} (process {}) of an earlier run does not stop; end it yourself and try again",
        pid.as_raw_pid()
    )
}

fn pid_in(file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(file).ok()?;
    Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
}

/// Whether these are the words of `program` started over `data`.
fn is_at_work(words: &[String], program: &str, data: &Path) -> bool {
    let runs_it =
        words.first().and_then(|first| Path::new(first).file_name()).is_some_and(|name| name == program);
    runs_it && words.iter().any(|word| Path::new(word) == data)
}

/// The words a process was started with; nothing when it is gone or a zombie.
#[cfg(target_os = "linux")]
fn command_line(pid: Pid) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let words: Vec<_> = text.split_terminator('\0').map(str::to_owned).collect();
    (!words.is_empty()).then_some(words)
}

/// The words a process was started with; nothing when it is gone. A path with a space in it is not recognised, and its
/// server is then left to refuse the start itself.
#[cfg(not(target_os = "linux"))]
fn command_line(pid: Pid) -> Option<Vec<String>> {
    let output = std::process::Command::new("ps")
        .args(["-ww", "-o", "command=", "-p", &pid.as_raw_pid().to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
    (!words.is_empty()).then_some(words)
}
