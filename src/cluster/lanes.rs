//! One lane to one peer: it keeps a connection open, and tells how that goes.
//!
//! Owns the attempts, their pace, and the handshake from the caller's side. Refuses to queue calls
//! while there is no connection. Invariant: a peer that is back is tried again within
//! [`TransportOptions::reconnect_max`] and an attempt's own timeout.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tonic::Streaming;
use tonic::codec::EncodeBody;
use tonic::metadata::GRPC_CONTENT_TYPE;

use super::NodeId;
use super::beside::Beside;
use super::calls::{Calls, Outgoing, text};
use super::frame::{Frame, FrameDecoder, FrameEncoder, Tag};
use super::handshake::{Identity, TWIN};
use super::tls::{Proof, SecurityError};
use super::transport::{Lane, PATH, TransportOptions};
use super::twins::{Attendance, Telling};

type Body = UnsyncBoxBody<bytes::Bytes, tonic::Status>;

/// Of a connection that carries entries; a whole catch-up message fits in.
pub(crate) const WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// The largest piece that HTTP/2 cuts messages into.
pub(crate) const PIECE_BYTES: u32 = 256 * 1024;
/// Between attempts at a peer that refused: only a person can change that.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// How a lane stands.
#[derive(Debug, Clone)]
pub(crate) enum LaneState {
    Open(Arc<Calls>),
    Refused(String),
    Down { since: Instant, reason: String },
}

/// Why an attempt or a connection ended.
#[derive(Debug, thiserror::Error)]
enum LaneError {
    #[error("{0}")]
    Refused(String),
    /// Refused because another process of this node is connected, which may have ended by the next time.
    #[error("{0}")]
    Twin(String),
    #[error("{0}")]
    Broken(String),
}

impl LaneError {
    /// Of a refusal by the other side.
    fn refused(frame: &Frame) -> Self {
        let reason = text(&frame.payload);
        if frame.id == TWIN {
            Self::Twin(reason)
        } else {
            Self::Refused(reason)
        }
    }
}

fn broken(what: &str) -> impl FnOnce(&dyn std::error::Error) -> LaneError + '_ {
    move |error| {
        // The cause says more than the wrapper.
        let mut cause = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        LaneError::Broken(format!("{what}: {cause}"))
    }
}

/// See the file's description.
#[derive(Debug)]
pub(crate) struct LaneLink {
    pub(crate) to: NodeId,
    pub(crate) lane: Lane,
    state: Mutex<LaneState>,
    told: Telling,
}

impl LaneLink {
    pub(crate) fn new(to: NodeId, lane: Lane, told: Telling) -> Self {
        let state = LaneState::Down {
            since: Instant::now(),
            reason: "no connection has been made yet".to_owned(),
        };
        Self {
            to,
            lane,
            state: Mutex::new(state),
            told,
        }
    }

    pub(crate) fn state(&self) -> LaneState {
        self.state.lock().clone()
    }

    /// Ends what is on its way: the peer is no member any more.
    pub(crate) fn end(&self) {
        let reason = "it is no member any more";
        let mut state = self.state.lock();
        if let LaneState::Open(calls) = &*state {
            calls.end(reason);
        }
        *state = LaneState::Refused(reason.to_owned());
    }

    /// Keeps the lane open until it is dropped.
    pub(crate) async fn run(self: Arc<Self>, identity: Arc<Identity>, options: TransportOptions) {
        let mut failures = 0_u32;
        loop {
            let Some(address) = identity.members.read().get(&self.to).cloned() else {
                self.note(LaneError::Refused("it is no member any more".to_owned()));
                return;
            };
            let began = Instant::now();
            let ended = self.connect(&identity, &address, &options).await;
            if began.elapsed() > options.connect_timeout {
                failures = 0;
            }
            self.told.note(matches!(ended, LaneError::Twin(_)));
            let refused = matches!(ended, LaneError::Refused(_));
            self.note(ended);
            failures = failures.saturating_add(1);
            let pause = if refused {
                REFUSED_PAUSE
            } else {
                backoff(failures, options.reconnect_max)
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Publishes how an attempt ended, and logs what is new about it.
    fn note(&self, ended: LaneError) {
        let (to, lane) = (self.to, self.lane);
        let mut state = self.state.lock();
        *state = match (ended, &*state) {
            (LaneError::Refused(reason), LaneState::Refused(before)) if *before == reason => return,
            (LaneError::Refused(reason), before) => {
                if let LaneState::Open(calls) = before {
                    calls.end(&reason);
                }
                tracing::error!(peer = to, ?lane, %reason, "no connection is allowed");
                LaneState::Refused(reason)
            }
            (
                LaneError::Broken(reason) | LaneError::Twin(reason),
                LaneState::Down { since, .. },
            ) => LaneState::Down {
                since: *since,
                reason,
            },
            (LaneError::Broken(reason) | LaneError::Twin(reason), LaneState::Refused(_)) => {
                LaneState::Down {
                    since: Instant::now(),
                    reason,
                }
            }
            (LaneError::Broken(reason) | LaneError::Twin(reason), LaneState::Open(calls)) => {
                calls.end(&reason);
                tracing::warn!(peer = to, ?lane, %reason, "the connection is lost");
                LaneState::Down {
                    since: Instant::now(),
                    reason,
                }
            }
        };
    }

    /// Makes a connection and serves it to its end.
    async fn connect(
        &self,
        identity: &Identity,
        address: &str,
        options: &TransportOptions,
    ) -> LaneError {
        let dialled = tokio::time::timeout(options.connect_timeout, async {
            let socket = dial(address).await?;
            let security = &identity.security;
            security
                .connect(self.to, &identity.me.cluster, socket)
                .await
        });
        let socket = match dialled.await {
            Ok(Ok(socket)) => socket,
            Ok(Err(SecurityError::Refused(clause))) => return self.refused(&clause),
            Ok(Err(SecurityError::Broken(error))) => return broken("failed to connect")(&error),
            Err(_) => return LaneError::Broken(format!("{address} does not answer")),
        };
        let (proof, refusal) = (socket.proof(), socket.refusal());
        let (beside, crew) = Beside::new();
        let opened = http2::Builder::new(beside)
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(PIECE_BYTES)
            .max_send_buf_size(WINDOW_BYTES as usize)
            .keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(socket))
            .await;
        let (sender, connection) = match opened {
            Ok(opened) => opened,
            Err(error) => return broken("failed to open HTTP/2")(&error),
        };
        let (calls, outgoing) = Calls::new(self.to, options.calls_in_flight);
        let exchange = self.exchange(identity, &proof, sender, &calls, outgoing, options);
        let ended = crew.follow(async {
            tokio::select! {
                biased;
                ended = connection => match ended {
                    Ok(()) => LaneError::Broken("the peer closed the connection".to_owned()),
                    Err(error) => broken("the connection broke")(&error),
                },
                ended = exchange => ended,
            }
        });
        let ended = ended.await;
        let ended = match refusal.get() {
            Some(clause) => self.refused(clause),
            None => ended,
        };
        calls.end(&ended.to_string());
        ended
    }

    /// Either side's refusal of the other's TLS.
    fn refused(&self, clause: &str) -> LaneError {
        LaneError::Refused(format!("node {} {clause}", self.to))
    }

    async fn exchange(
        &self,
        identity: &Identity,
        proof: &Proof,
        mut sender: http2::SendRequest<Body>,
        calls: &Arc<Calls>,
        outgoing: Outgoing,
        options: &TransportOptions,
    ) -> LaneError {
        let hello = match identity.hello(self.to, self.lane as u8) {
            Ok(hello) => hello,
            Err(error) => return broken("failed to introduce this node")(&error),
        };
        let unproven = identity.prove(self.to, proof).err();
        calls.say(match &unproven {
            None => Frame::plain(Tag::Hello, identity.twins.me(), hello),
            // Instead of an introduction: the other side should learn why none comes.
            Some(refusal) => Frame::plain(Tag::Refusal, 0, refusal.to_string()),
        });
        let limit = Some(options.max_message_bytes);
        let body = EncodeBody::new_client(FrameEncoder, outgoing, None, limit).boxed_unsync();
        let welcomed = tokio::time::timeout(options.connect_timeout, async {
            let mut frames = open_stream(&mut sender, body, options).await?;
            if let Some(refusal) = unproven {
                // The end says that it was read.
                let _ended = frames.message().await;
                return Err(LaneError::Refused(refusal.to_string()));
            }
            let attendance = self.welcomed(identity, calls, &mut frames).await?;
            Ok((frames, attendance))
        });
        let (mut frames, _attendance) = match welcomed.await {
            Ok(Ok(frames)) => frames,
            Ok(Err(error)) => return error,
            Err(_) => {
                return LaneError::Broken("the peer does not answer the handshake".to_owned());
            }
        };
        self.told.note(false);
        *self.state.lock() = LaneState::Open(Arc::clone(calls));
        let protocol = identity.spoken.read().get(&self.to).copied();
        tracing::info!(peer = self.to, lane = ?self.lane, protocol, "connected");
        loop {
            match frames.message().await {
                Ok(Some(frame)) if frame.tag == Tag::Refusal => {
                    identity.refused(frame.id);
                    return LaneError::refused(&frame);
                }
                Ok(Some(frame)) => calls.answered(frame),
                Ok(None) => return LaneError::Broken("the peer closed the connection".to_owned()),
                Err(status) => return LaneError::Broken(status.message().to_owned()),
            }
        }
    }

    async fn welcomed(
        &self,
        identity: &Identity,
        calls: &Calls,
        frames: &mut Streaming<Frame>,
    ) -> Result<Attendance, LaneError> {
        let first = frames
            .message()
            .await
            .map_err(|status| LaneError::Broken(status.message().to_owned()))?;
        match first {
            Some(frame) if frame.tag == Tag::Welcome => {
                match identity.reached(self.to, &frame.payload, frame.id) {
                    Ok(attendance) => Ok(attendance),
                    Err(refusal) => {
                        let reason = refusal.to_string();
                        // The other side has welcomed this one and should learn why nothing comes.
                        calls.say(Frame::plain(Tag::Refusal, refusal.code(), reason.clone()));
                        // Its frame leaves with the task that writes; nobody waits for an answer.
                        let _ended = frames.message().await;
                        Err(if refusal.code() == TWIN {
                            // It may be gone by the next time.
                            LaneError::Broken(reason)
                        } else {
                            LaneError::Refused(reason)
                        })
                    }
                }
            }
            Some(frame) if frame.tag == Tag::Refusal => {
                identity.refused(frame.id);
                Err(LaneError::refused(&frame))
            }
            Some(_) => Err(LaneError::Refused(
                "the peer does not speak the protocol of Phalanx nodes".to_owned(),
            )),
            None => Err(LaneError::Broken(
                "the peer closed the connection before the handshake".to_owned(),
            )),
        }
    }
}

/// Opens the one stream of a connection.
async fn open_stream(
    sender: &mut http2::SendRequest<Body>,
    body: Body,
    options: &TransportOptions,
) -> Result<Streaming<Frame>, LaneError> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://phalanx{PATH}"))
        .header(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE)
        .header(http::header::TE, "trailers")
        .body(body)
        .map_err(|error| broken("failed to ask")(&error))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| broken("the connection broke")(&error))?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(LaneError::Refused(format!(
            "the address answers with status {status}; it is not where a Phalanx node listens for \
             members (cluster.listen)"
        )));
    }
    Ok(Streaming::new_response(
        FrameDecoder,
        response.into_body(),
        status,
        None,
        Some(options.max_message_bytes),
    ))
}

/// Resolves an address and connects to the first of its meanings that answers.
async fn dial(address: &str) -> std::io::Result<TcpStream> {
    let mut last = None;
    let found: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
    for address in found {
        match TcpStream::connect(address).await {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::other("the name has no address")))
}

/// The pause after so many failures in a row: growing, bounded, and different on every node.
fn backoff(failures: u32, most: Duration) -> Duration {
    let grown = Duration::from_millis(5) * 2_u32.saturating_pow(failures.min(10));
    grown.min(most).mul_f64(rand::random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_their_bound() {
        let most = Duration::from_millis(150);
        for failures in 0..40 {
            assert!(backoff(failures, most) <= most);
        }
        assert!(backoff(1, most) <= Duration::from_millis(10));
        assert!(backoff(30, most) >= most / 2);
    }
}
