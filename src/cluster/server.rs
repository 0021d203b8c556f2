//! Answers the connections of peers.
//!
//! Owns the accepting side: handshake, bounded calls per connection, deadlines. Refuses everything
//! before a successful handshake: a session is its connection's one stream, so a call without one
//! cannot be expressed. Invariants:
//!
//! - The calls of one connection reach their service in the order in which they were begun, and those
//!   of a peer's newer connection of the same lane after them: an older one is not listened to any more.
//!   A service is polled once before the next call, so its order can be the order of arrival.
//! - A connection is one task: it reads, begins calls, waits for them and writes their answers. Calls
//!   that may take long between two waits run on their own (`CallKind::is_brief`).
//! - A connection without a peer is closed soon, and occupies little until then (`strangers.rs`).

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use phalanx_actors::ports::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::codec::EncodeBody;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::{Status, Streaming};

use super::NodeId;
use super::beside::Beside;
use super::calls::text;
use super::frame::{Frame, FrameDecoder, FrameEncoder, Tag};
use super::handshake::{Caller, Identity, Refusal};
use super::lanes::{PIECE_BYTES, WINDOW_BYTES};
use super::strangers::{Eviction, Guarded, Place, Strangers};
use super::tls::{Proof, SecurityError, Socket, refused_from};
use super::transport::{CallKind, PATH, Services, TWIN_WAITS, TransportOptions};

type Body = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, Status>;

/// How long a refusal that was logged is not logged again.
const TOLD_FOR: Duration = Duration::from_secs(60);
/// Different refusals that are logged within that time.
const MOST_TOLD: usize = 64;
/// What is logged when strangers come faster than they are seen off.
const CROWD: &str = "connections that no member has opened are closed early, so many are they: \
     only members should reach cluster.listen";
/// Characters of a refusal that are logged: whoever is not a peer may have written most of it.
const MOST_SAID: usize = 1000;

/// What every connection shares.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) identity: Arc<Identity>,
    pub(crate) options: TransportOptions,
    pub(crate) services: Services,
    pub(crate) told: Told,
    pub(crate) lines: Lines,
    pub(crate) strangers: Arc<Strangers>,
}

/// How many connections each peer has opened for each lane; the last one counts.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<HashMap<(NodeId, u8), Newest>>);

type Newest = Arc<Mutex<u64>>;

/// One connection among those of its peer and lane.
struct Line {
    newest: Newest,
    number: u64,
}

impl Lines {
    fn open(&self, from: NodeId, lane: u8) -> Line {
        let newest = Arc::clone(self.0.lock().entry((from, lane)).or_default());
        let number = {
            let mut newest = newest.lock();
            *newest += 1;
            *newest
        };
        Line { newest, number }
    }
}

impl Line {
    /// Does something unless the peer has a newer connection, which waits meanwhile.
    fn if_newest<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        let newest = self.newest.lock();
        (*newest == self.number).then(act)
    }
}

/// Which refusals were logged lately: a peer that is refused comes again every second.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<HashMap<String, Instant>>);

impl Told {
    /// Whether this is worth a line.
    fn is_news(&self, text: &str) -> bool {
        let mut told = self.0.lock();
        told.retain(|_, at| at.elapsed() < TOLD_FOR);
        if told.contains_key(text) || told.len() >= MOST_TOLD {
            return false;
        }
        told.insert(text.to_owned(), Instant::now());
        true
    }
}

/// The beginning of a text that another one has written, in one line.
fn brief(text: &str) -> String {
    let line = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MOST_SAID).map(line).collect()
}

impl Server {
    /// Takes connections until it is dropped.
    pub(crate) async fn run(self, listener: TcpListener) {
        let this = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((socket, address)) => {
                        let room = this.strangers.room().await;
                        let (place, eviction, evicted) = this.strangers.enter(room);
                        if evicted && this.told.is_news(CROWD) {
                            tracing::warn!("{CROWD}");
                        }
                        let this = Arc::clone(&this);
                        connections.spawn(this.connection(socket, address, place, eviction));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a peer's connection could not be accepted");
                        // For instance no file descriptors: others need a moment to close some.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(
        self: Arc<Self>,
        socket: TcpStream,
        address: SocketAddr,
        place: Arc<Place>,
        eviction: Eviction,
    ) {
        tokio::select! {
            () = self.secure(socket, address, &place) => {}
            Ok(()) = eviction => tracing::debug!(%address, "made room for a newer stranger"),
        }
        place.leave();
    }

    async fn secure(self: Arc<Self>, socket: TcpStream, address: SocketAddr, place: &Arc<Place>) {
        let secured = tokio::time::timeout(self.options.connect_timeout, async {
            socket.set_nodelay(true)?;
            self.identity.security.accept(socket).await
        });
        match secured.await {
            Ok(Ok(socket)) => self.serve(socket, place).await,
            Ok(Err(SecurityError::Refused(clause))) => {
                let refusal = refused_from(address, &clause);
                if self.told.is_news(&refusal) {
                    tracing::error!(%refusal, "no connection with a peer is allowed");
                }
            }
            Ok(Err(SecurityError::Broken(error))) => {
                tracing::debug!(%error, "a peer's connection ended early");
            }
            Err(_) => tracing::debug!(%address, "a peer's connection says nothing"),
        }
    }

    async fn serve(self: Arc<Self>, socket: Socket, place: &Arc<Place>) {
        let proof = socket.proof();
        let options = &self.options;
        let (beside, crew) = Beside::new();
        let builder = {
            let mut builder = http2::Builder::new(beside);
            builder
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .max_frame_size(PIECE_BYTES)
                .max_send_buf_size(WINDOW_BYTES as usize)
                .max_concurrent_streams(1)
                .keep_alive_interval(options.keepalive_interval)
                .keep_alive_timeout(options.keepalive_timeout);
            builder
        };
        let this = Arc::clone(&self);
        let opened = Arc::clone(place);
        let service = service_fn(move |request| {
            let (this, proof) = (Arc::clone(&this), proof.clone());
            let place = Arc::clone(&opened);
            async move { Ok::<_, Infallible>(this.open(request, proof, place)) }
        });
        // Half a greeting, or a connection on which nobody asks for anything, would stay for ever.
        let strange = async {
            tokio::time::sleep(options.connect_timeout * 2).await;
            if place.is_known() {
                std::future::pending::<()>().await;
            }
        };
        let served = async {
            tokio::select! {
                ended = builder.serve_connection(TokioIo::new(socket), service) => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a peer's connection ended early");
                    }
                }
                () = strange => tracing::debug!("closed a connection that is no peer's"),
            }
        };
        crew.follow(served).await;
    }

    /// Starts the exchange of a connection.
    fn open(
        self: Arc<Self>,
        request: Request<Incoming>,
        proof: Proof,
        place: Arc<Place>,
    ) -> Response<Body> {
        if request.uri().path() != PATH {
            let mut response = Response::new(Empty::new().map_err(|no| match no {}).boxed_unsync());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
        let limit = Some(self.options.max_message_bytes);
        let body = Guarded::new(request.into_body(), Arc::clone(&place));
        let frames = Streaming::new_request(FrameDecoder, body, None, limit);
        let (out, mut queue) = mpsc::channel(self.options.calls_in_flight + 2);
        // Goes on whenever its answers are asked for: both in the connection's task.
        let mut exchange = Box::pin(self.exchange(frames, proof, out, place).fuse());
        let answers = futures_util::stream::poll_fn(move |context| {
            let _goes_on = exchange.as_mut().poll(context);
            queue.poll_recv(context).map(|frame| frame.map(Ok))
        });
        let body = EncodeBody::new_server(FrameEncoder, answers, None, Default::default(), limit);
        let mut response = Response::new(body.boxed_unsync());
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        response
    }

    async fn exchange(
        self: Arc<Self>,
        mut frames: Streaming<Frame>,
        proof: Proof,
        out: mpsc::Sender<Frame>,
        place: Arc<Place>,
    ) {
        let first = tokio::time::timeout(self.options.connect_timeout, frames.message()).await;
        let received = match first {
            Ok(Ok(Some(hello))) => match hello.tag {
                Tag::Hello => self.identity.receive(&hello.payload, hello.id, &proof),
                Tag::Refusal => return self.refused_by(&hello.payload),
                _ => self.identity.receive(&[], 0, &proof),
            },
            Ok(Err(status)) => Err(Refusal::Unreadable(status.message().to_owned())),
            // It ended, or says nothing.
            Ok(Ok(None)) | Err(_) => return,
        };
        let Caller {
            hello,
            welcome,
            attendance: _attendance,
        } = match received {
            Ok(caller) => caller,
            Err(refusal) => {
                let text = brief(&refusal.to_string());
                if self.told.is_news(&text) {
                    tracing::error!(refusal = %text, "refused the connection of a peer");
                }
                let frame = Frame::plain(Tag::Refusal, refusal.code(), text);
                let _gone = out.send(frame).await;
                return;
            }
        };
        place.welcome();
        let (from, lane) = (hello.from.node, hello.lane);
        let welcome = match phalanx_actors::codec::to_bytes(&welcome) {
            Ok(welcome) => Frame::plain(Tag::Welcome, self.identity.twins.me(), welcome),
            Err(error) => {
                tracing::error!(%error, "failed to welcome a peer");
                return;
            }
        };
        if out.send(welcome).await.is_err() {
            return;
        }
        tracing::debug!(peer = from, lane, "a peer connected");
        let line = self.lines.open(from, lane);
        let mut calls = FuturesUnordered::new();
        loop {
            let message = tokio::select! {
                biased;
                Some(answer) = calls.next() => {
                    // Nothing else meanwhile: a peer that does not read its answers must not pile
                    // them up here.
                    let Some(answer) = answer else { continue };
                    if out.send(answer).await.is_err() {
                        return;
                    }
                    continue;
                }
                message = frames.message() => message,
            };
            match message {
                Ok(Some(frame)) if frame.tag == Tag::Request => {
                    if let Err(refusal) = self.identity.admits(from) {
                        tracing::info!(%refusal, "closed the connection of a peer");
                        let text = refusal.to_string();
                        let frame = Frame::plain(Tag::Refusal, refusal.code(), text);
                        let _gone = out.send(frame).await;
                        return;
                    }
                    match self.call(from, &line, frame, calls.len()).await {
                        Call::Said(answer) => {
                            if out.send(answer).await.is_err() {
                                return;
                            }
                        }
                        Call::Begun(call) => calls.push(call),
                        Call::Late => {
                            tracing::debug!(peer = from, lane, "a peer has a newer connection");
                            return;
                        }
                    }
                }
                Ok(Some(frame)) if frame.tag == Tag::Refusal => {
                    self.identity.refused(frame.id);
                    return self.refused_by(&frame.payload);
                }
                Ok(Some(_)) | Ok(None) => return,
                Err(status) => {
                    tracing::debug!(peer = from, reason = status.message(), "a peer is gone");
                    return;
                }
            }
        }
    }

    fn refused_by(&self, reason: &[u8]) {
        let reason = brief(&text(reason));
        if self.told.is_news(&reason) {
            tracing::error!(%reason, "a peer refuses this node");
        }
    }

    /// Hands a call to its service, while so many others of the connection are in flight.
    async fn call(&self, from: NodeId, line: &Line, frame: Frame, in_flight: usize) -> Call {
        let id = frame.id;
        let busy = |reason: String| Call::Said(Frame::plain(Tag::Busy, id, reason));
        let Some(kind) = CallKind::from_byte(frame.kind) else {
            return busy(format!(
                "this release does not know calls of kind {}",
                frame.kind
            ));
        };
        if self.identity.twins.is_told() {
            return busy(TWIN_WAITS.to_owned());
        }
        if in_flight >= self.options.calls_in_flight {
            return busy("too many calls are in flight".to_owned());
        }
        let service = if kind.is_raft() {
            &self.services.raft
        } else {
            &self.services.command
        };
        // Begun here, in the order of arrival; the rest goes on beside others.
        let mut payload = Some(frame.payload);
        let begun = poll_fn(|context| {
            let begun = line.if_newest(|| {
                let mut answer = service.handle(from, kind, payload.take().unwrap_or_default());
                let said = answer.as_mut().poll(context);
                (answer, said)
            });
            Poll::Ready(begun)
        });
        let Some((answer, said)) = begun.await else {
            return Call::Late;
        };
        if let Poll::Ready(said) = said {
            return Call::Said(answered(id, said));
        }
        let timeout = Duration::from_millis(u64::from(frame.timeout_ms));
        let answer = async move {
            let answer = tokio::time::timeout(timeout, answer).await;
            // Otherwise nobody waits any more.
            answer.ok().map(|said| answered(id, said))
        };
        Call::Begun(if kind.is_brief() {
            Box::pin(answer)
        } else {
            let answer = tokio::spawn(answer);
            Box::pin(async move { answer.await.unwrap_or_default() })
        })
    }
}

/// What became of a request to call a service.
enum Call {
    /// There is an answer at once.
    Said(Frame),
    /// It goes on; without an answer in the end if nobody waits for it any more.
    Begun(BoxFuture<'static, Option<Frame>>),
    /// The peer has a newer connection: the call was not looked at.
    Late,
}

fn answered(id: u64, said: Result<Bytes, String>) -> Frame {
    match said {
        Ok(payload) => Frame::plain(Tag::Answer, id, payload),
        Err(reason) => Frame::plain(Tag::Failure, id, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_say_is_logged_shortly_in_one_line_and_not_again() {
        let said = brief(&"a\nb\u{1b}".repeat(MOST_SAID));
        assert_eq!(said.chars().count(), MOST_SAID);
        assert!(!said.chars().any(char::is_control));
        let told = Told::default();
        assert!(told.is_news("x") && !told.is_news("x"));
        let news = (0..10 * MOST_TOLD).filter(|n| told.is_news(&n.to_string()));
        assert_eq!(news.count(), MOST_TOLD - 1);
    }
}
