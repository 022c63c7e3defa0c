//! Free ports.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result, bail};

/// What came of starting a server on one port.
pub(crate) enum Attempt<T> {
    Ready(T),
    /// Somebody took the port between our look and the server's.
    PortTaken,
}

/// A port of 127.0.0.1 that was free a moment ago.
pub(crate) fn free() -> Result<u16> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port of 127.0.0.1")?;
    Ok(probe.local_addr()?.port())
}

/// Starts something on a free port, and on another when that one was taken meanwhile.
pub(crate) fn on_a_free_port<P, T>(
    mut ports: impl FnMut() -> Result<P>,
    mut start: impl FnMut(P) -> Result<Attempt<T>>,
) -> Result<T> {
    const TRIES: usize = 3;
    for _ in 0..TRIES {
        if let Attempt::Ready(started) = start(ports()?)? {
            return Ok(started);
        }
    }
    bail!("{TRIES} free ports in a row were taken before the server could listen; try again")
}
