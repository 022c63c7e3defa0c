//! A running server, whichever way it runs.

use std::process::ExitStatus;

use anyhow::Result;

use crate::child::{Child, Log};
use crate::docker::Container;

/// A server: a process of ours, or a container of Docker's. Dropping it ends it, politely first.
pub(crate) enum Server {
    Process(Child),
    Container(Box<Container>),
}

impl Server {
    /// Its process; a container's may be on another machine, so it has none.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Process(child) => Some(child.pid()),
            Self::Container(_) => None,
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match self {
            Self::Process(child) => child.ended(),
            Self::Container(container) => container.ended(),
        }
    }

    pub(crate) fn log(&self) -> &Log {
        match self {
            Self::Process(child) => child.log(),
            Self::Container(container) => container.log(),
        }
    }

    /// Asks it to end and waits; kills it when it does not.
    pub(crate) fn stop(&mut self) -> Result<()> {
        match self {
            Self::Process(child) => child.stop().map(drop),
            Self::Container(container) => container.stop(),
        }
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        match self {
            Self::Process(child) => child.kill().map(drop),
            Self::Container(container) => container.kill(),
        }
    }
}
