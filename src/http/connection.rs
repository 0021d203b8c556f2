//! One connection from its first byte to its last.
//!
//! It owns the socket. Time limits are the guard's; what a request means is the service's.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::app::App;
use super::guard::{ConnectionState, Guard};
use super::service::handle;

/// Serves requests until the connection ends, or until `shutdown` is ready and the request in
/// progress is answered.
pub(crate) async fn serve_connection(
    socket: TcpStream,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
) {
    let state = Arc::new(ConnectionState::default());
    let guard = Guard::new(socket, BytesMut::new(), app.limits.guard(), state.clone());
    let service = service_fn(move |request| {
        let (app, state) = (app.clone(), state.clone());
        async move { Ok::<_, Infallible>(handle(&app, &state, request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            // A client may close its sending side and still wait for the answer.
            .half_close(true)
            // Heads arrive complete, the guard sees to that.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(guard), service)
    );
    let mut shutdown = pin!(shutdown);
    let mut told = false;
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(ended);
        }
        if !told && shutdown.as_mut().poll(cx).is_ready() {
            told = true;
            Pin::as_mut(&mut connection).graceful_shutdown();
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
