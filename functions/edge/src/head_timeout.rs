//! A limit on how long a request's headers may take that leaves idle connections alone. hyper has one limit for both, and
//! a short one closes idle connections under the hands of callers who are just sending their next request: that request
//! fails, and many callers must not send it again by themselves.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

/// How far the requests of a connection have come, told by who serves them to who reads.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// The headers of a request are complete.
    pub(crate) fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// There is an answer: what is read from here on is the next request.
    pub(crate) fn end(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Even between two requests.
    fn steps(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection whose reads fail when headers take too long: those of the first request from the beginning, those of the
/// others from their first byte.
pub(crate) struct HeadTimeout {
    stream: TcpStream,
    within: Duration,
    progress: Progress,
    /// The progress when the deadline was set.
    seen: u64,
    deadline: Option<Instant>,
    /// Only there when something is waited for, as most headers come in one piece.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl HeadTimeout {
    pub(crate) fn new(stream: TcpStream, within: Duration, progress: Progress) -> Self {
        let deadline = Some(Instant::now() + within);
        Self { stream, within, seen: progress.steps(), progress, deadline, sleep: None }
    }
}

impl AsyncRead for HeadTimeout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let steps = self.progress.steps();
        if steps != self.seen {
            (self.seen, self.deadline, self.sleep) = (steps, None, None);
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let is_serving = steps % 2 == 1;
        if read.is_ready() {
            if self.deadline.is_none() && !is_serving && buffer.filled().len() > before {
                self.deadline = Some(Instant::now() + self.within);
            }
        } else if let Some(deadline) = self.deadline {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if sleep.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for HeadTimeout {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
