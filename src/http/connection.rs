//! One connection from its first byte to its last.
//!
//! It owns the socket and finds out which version of HTTP is spoken. Time limits are the guards';
//! what a request means is the service's.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::frames::{FrameGuard, PREFACE};
use super::guard::{ConnectionState, Guard};
use super::service::{Outgoing, Site};

/// Requests of one HTTP/2 connection that may be in progress at the same time.
const MAX_STREAMS: u32 = 64;

/// Bytes that the library may hold of one HTTP/1.1 connection beside the head.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// Serves requests until the connection ends, or until `shutdown` is ready and the requests in
/// progress are answered.
pub(crate) async fn serve_connection(
    mut socket: TcpStream,
    site: &Site,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let mut received = BytesMut::new();
    let app = &site.app;
    let is_http2 = app.limits.allow_http2 && {
        let limit = app.limits.guard().header_timeout;
        tokio::select! {
            known = starts_http2(&mut socket, &mut received, limit) => match known {
                Some(is_http2) => is_http2,
                None => return,
            },
            () = &mut shutdown => return,
        }
    };
    let state = Arc::new(ConnectionState::default());
    let service = service(site.clone(), state.clone());
    if is_http2 {
        let guard = FrameGuard::new(socket, received, app.limits.frames());
        let max_header_bytes = u32::try_from(app.limits.max_header_bytes).unwrap_or(u32::MAX);
        let connection = http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(max_header_bytes)
            .serve_connection(TokioIo::new(guard), service);
        drive(connection, shutdown).await;
    } else {
        let guard = Guard::new(socket, received, app.limits.guard(), state);
        let connection = http1::Builder::new()
            // A client may close its sending side and still wait for the answer.
            .half_close(true)
            // Heads arrive complete and within the limit, the guard sees to that.
            .header_read_timeout(None)
            .max_buf_size(READ_BUFFER_BYTES + app.limits.max_header_bytes)
            .serve_connection(TokioIo::new(guard), service);
        drive(connection, shutdown).await;
    }
}

fn service(
    site: Site,
    state: Arc<ConnectionState>,
) -> impl Service<
    Request<Incoming>,
    Response = Outgoing,
    Error = Infallible,
    Future = impl Future<Output = Result<Outgoing, Infallible>> + Send + 'static,
> {
    service_fn(move |request| {
        let (site, state) = (site.clone(), state.clone());
        async move { Ok(site.handle(&state, request).await) }
    })
}

/// Reads until it is clear whether the client begins with HTTP/2's preface; `None` when it goes
/// away or takes too long.
async fn starts_http2(
    socket: &mut TcpStream,
    received: &mut BytesMut,
    limit: Duration,
) -> Option<bool> {
    let read = async {
        loop {
            if socket.read_buf(received).await.unwrap_or(0) == 0 {
                return None;
            }
            let known = received.len().min(PREFACE.len());
            if received.get(..known) != PREFACE.get(..known) {
                return Some(false);
            }
            if known == PREFACE.len() {
                return Some(true);
            }
        }
    };
    tokio::time::timeout(limit, read).await.ok().flatten()
}

/// Runs a connection to its end.
async fn drive<C>(connection: C, mut shutdown: Pin<&mut impl Future<Output = ()>>)
where
    C: GracefulConnection<Error = hyper::Error>,
{
    let mut connection = pin!(connection);
    let mut told = false;
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(ended);
        }
        if !told && shutdown.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
            return connection.as_mut().poll(cx);
        }
        Poll::Pending
    })
    .await;
    if let Err(error) = ended {
        // The client went away or broke the protocol: its affair, and the log is not its diary.
        tracing::debug!(%error, "a connection ended early");
    }
}
