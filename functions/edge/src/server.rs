//! Connections: accepted, limited, and finished in order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, Request, header},
    response::Response,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::util::{MapRequest, MapResponse};

use crate::{
    address::Peer,
    head_timeout::{HeadTimeout, Progress},
};

/// How long a request's headers may take, and how long a connection may wait before its first request.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// How long an idle connection stays. Longer than the clients and proxies that come here keep one for their next request,
/// most of them 60 to 90 s, so that it is they who close it: a request that is sent while we do would fail.
const IDLE: Duration = Duration::from_secs(120);
/// What a connection may hold unread. Headers beyond 16 KiB are refused politely, beyond this by hyper.
const BUFFER: usize = 64 * 1024;
/// How long what is in flight may take to finish.
const DRAIN: Duration = Duration::from_secs(25);
/// How long a connection stays open for a request that may be on its way when we stop. Its answer says that it is the
/// last, so that nobody writes into a connection that we are closing; another edge may listen on the same port by then.
const LINGER: Duration = Duration::from_secs(1);
/// How long to wait when no connection can be accepted, for example because there are no file handles.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Connections that are told at once that there is no room. More are closed without a word.
const REFUSED: usize = 64;
/// How long such a connection may take to ask and to be told.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// Serves so many connections at once until told to stop, then finishes what is in flight. What comes beyond
/// them gets one answer from `full`.
pub(crate) async fn serve(
    router: Router,
    full: Router,
    connections: usize,
    listener: TcpListener,
    stop: CancellationToken,
) {
    // HTTP/1.1 alone: while the version is still open, hyper waits for the first bytes without a limit.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(BUFFER);
    let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
    let (room, refused) = (Arc::new(Semaphore::new(connections)), Arc::new(Semaphore::new(REFUSED)));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let (builder, stop, cut) = (builder.clone(), stop.clone(), cut.clone());
                if let Some(place) = place(&room) {
                    let connection = connection(builder, stream, from, router.clone(), stop);
                    tasks.spawn(async move {
                        cut.run_until_cancelled(connection).await;
                        drop(place);
                    });
                } else if let Some(place) = place(&refused) {
                    let connection = connection(builder, stream, from, full.clone(), stop);
                    tasks.spawn(async move {
                        let _ = tokio::time::timeout(REFUSED_WITHIN, connection).await;
                        drop(place);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "requests were cut off");
        cut.cancel();
    }
}

fn place(room: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(room).try_acquire_owned().ok()
}

/// After this answer the connection is closed.
pub(crate) async fn last(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn connection(
    builder: Builder<TokioExecutor>,
    stream: TcpStream,
    from: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    // Answers are small: waiting to fill a packet would only make them late.
    let _ = stream.set_nodelay(true);
    let (stopping, progress) = (stop.clone(), Progress::default());
    let (begun, answered) = (progress.clone(), progress.clone());
    let router = MapRequest::new(router, move |mut request: Request<_>| {
        begun.begin();
        request.extensions_mut().insert(Peer(from.ip()));
        request
    });
    let service = MapResponse::new(router, move |mut response: Response| {
        answered.end();
        if stopping.is_cancelled() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    });
    let stream = TokioIo::new(HeadTimeout::new(stream, HEADERS_WITHIN, progress));
    let mut connection = std::pin::pin!(builder.serve_connection(stream, TowerToHyperService::new(service)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => match tokio::time::timeout(LINGER, connection.as_mut()).await {
            Ok(ended) => ended,
            Err(_) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        // The caller's doing: hung up, was too slow, or does not speak HTTP.
        tracing::debug!(error, "connection ended");
    }
}
