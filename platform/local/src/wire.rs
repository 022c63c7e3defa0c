//! The first words of both protocols: just enough to know that a server answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_millis(500);

/// What a Postgres says to somebody who wants to come in.
pub(crate) enum Answer {
    /// It asks for the password: it is open.
    Ready,
    /// It is there, and still starting or recovering.
    Starting,
    /// Nothing, or an error; the text is for the log line of a start that fails.
    No(String),
}

/// Knocks at a Postgres.
pub(crate) fn ask_postgres(port: u16) -> Answer {
    knock(port).unwrap_or_else(|error| Answer::No(error.to_string()))
}

fn knock(port: u16) -> std::io::Result<Answer> {
    let mut stream = connect(port)?;
    let mut hello = Vec::from(196_608_i32.to_be_bytes()); // protocol 3.0
    hello.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
    // The length counts its own four bytes.
    let length = i32::try_from(hello.len() + 4).unwrap_or(i32::MAX);
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&hello)?;

    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    if kind == *b"R" {
        // Hung up on with words unread, a server writes a complaint to its log.
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let rest = u64::from(u32::from_be_bytes(length)).saturating_sub(4);
        std::io::copy(&mut (&stream).take(rest), &mut std::io::sink())?;
        return Ok(Answer::Ready);
    }
    // An error ends the connection, so everything to the end is the error.
    let mut body = Vec::new();
    stream.read_to_end(&mut body)?;
    let text = String::from_utf8_lossy(&body).replace('\0', " ");
    Ok(if text.contains("57P03") { Answer::Starting } else { Answer::No(text) })
}

/// Whether a nats-server greets on `port`.
pub(crate) fn nats_greets(port: u16) -> std::io::Result<bool> {
    let mut greeting = [0; 5];
    connect(port)?.read_exact(&mut greeting)?;
    Ok(greeting == *b"INFO ")
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
