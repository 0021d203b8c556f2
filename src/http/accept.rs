//! The accept loop: takes connections up to a limit, refuses the rest at once, and winds down.
//!
//! It never waits for a client. A connection beyond the limit hears 503 instead of hanging.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::app::App;
use super::code::Code;
use super::connection::serve_connection;
use super::elsewhere::SiteDesk;
use super::problem::Problem;
use super::response::render_and_close;
use super::service::Site;
use super::trace::new_trace_id;
use super::{HttpApp, HttpLimits};

/// Refusals that may be in progress at the same time; beyond it connections are just closed.
const MAX_REFUSALS: usize = 64;
/// Time for a refused client to take its answer.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(250);
/// Wait after `accept` failed for want of file handles or memory: trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves HTTP on `listener` until `shutdown` is ready; then takes no more connections, answers one
/// more request of each, closes those that send none for a while, and returns.
///
/// The caller bounds the winding down: dropping the future leaves connections to the runtime.
pub async fn serve(
    listener: TcpListener,
    app: HttpApp,
    limits: HttpLimits,
    shutdown: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(
        limits.max_connections.min(Semaphore::MAX_PERMITS),
    ));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let site = Site::new(Arc::new(App::new(app, limits)));
    let app = &site.app;
    // Other members are answered as long as clients are.
    let _desk = SiteDesk::open(&site);
    let (winding_down, wind_down) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    loop {
        let socket = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            },
        };
        match slots.clone().try_acquire_owned() {
            Ok(slot) => take(socket, slot, &site, wind_down.clone()),
            Err(_) => {
                app.metrics.connections_refused.increment(1);
                refuse(socket, &refusals);
            }
        }
    }
    app.closing.store(true, Ordering::Relaxed);
    app.farewell.send_replace(true);
    drop(listener);
    // Nobody listens when there is no connection.
    winding_down.send(true).ok();
    drop(wind_down);
    winding_down.closed().await;
}

/// Starts a task for a connection.
fn take(
    socket: TcpStream,
    slot: OwnedSemaphorePermit,
    site: &Site,
    mut wind_down: watch::Receiver<bool>,
) {
    let site = site.clone();
    let linger = site.app.limits.shutdown_linger();
    tokio::spawn(async move {
        let open = site.app.metrics.connections.clone();
        open.increment(1.0);
        // Without it, small replies wait for acknowledgements. Failing costs speed only.
        socket.set_nodelay(true).ok();
        let told = async {
            // An error means that the accept loop is gone, which is as good a reason.
            wind_down.wait_for(|down| *down).await.ok();
            // A connection that were closed between two requests would take the next one, which
            // its client may be sending now, along with it. An answer that says it is the last
            // one does not.
            tokio::time::sleep(linger).await;
        };
        serve_connection(socket, &site, told).await;
        open.decrement(1.0);
        drop(slot);
    });
}

/// Answers 503 without reading the request, and closes.
fn refuse(mut socket: TcpStream, refusals: &Arc<Semaphore>) {
    let Ok(slot) = refusals.clone().try_acquire_owned() else {
        return;
    };
    let problem = Problem::new(Code::Overloaded, "the node has no free connection");
    let (head, body) = problem.render("/", &new_trace_id());
    let answer = render_and_close(&head, &body);
    tokio::spawn(async move {
        let farewell = async {
            socket.write_all(&answer).await?;
            socket.shutdown().await?;
            // Closing with unread input would reset the connection under the answer.
            let mut scratch = [0; 1024];
            while socket.read(&mut scratch).await? > 0 {}
            Ok::<(), io::Error>(())
        };
        // The client is refused either way; whether it took the answer is its affair.
        tokio::time::timeout(REFUSAL_TIMEOUT, farewell).await.ok();
        drop(slot);
    });
}

async fn pause_after(error: &io::Error) {
    let of_one_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    );
    if !of_one_connection {
        tracing::warn!(%error, "failed to accept a connection");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
