//! Calls from node to node.
//!
//! Owns one connection per peer and lane, and what is on its way there. It refuses to queue without
//! bound, to retry, and to carry a message of a node that did not pass the handshake. Invariant: an
//! error says whether the peer may have acted: [`CallError::NotSent`] and [`CallError::Refused`]
//! mean that it certainly did not, or said so; [`CallError::Unknown`] means that nobody knows.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use phalanx_actors::ports::BoxFuture;
use tokio::net::TcpListener;

use super::NodeId;

/// Which connection a call takes, so that large messages never delay small ones that others wait
/// for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Votes, heartbeats and new log entries.
    Raft = 1,
    /// Commands and reads on their way to a leader, and the cluster's housekeeping.
    Command = 2,
    /// Whatever is large and in no hurry: catching up, histories.
    Bulk = 3,
}

/// What a call asks for. The numbers are part of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CallKind {
    /// Run a command on a shard's leader.
    Command = 1,
    /// Answer a fresh read on a shard's leader.
    Read = 2,
    /// Read a stream's events.
    History = 3,
    /// Read a state of the past.
    Past = 4,
    /// How a node sees the cluster.
    Status = 5,
    /// Ask a shard's leader to hand it to another node.
    Transfer = 6,
    /// Ask a node to hand all that it leads to others.
    Drain = 7,
    /// Raft: a vote.
    Vote = 32,
    /// Raft: whether a vote would be given.
    PreVote = 33,
    /// Raft: log entries, or a heartbeat.
    Append = 34,
    /// Raft: stand for election now.
    TakeOver = 35,
}

impl CallKind {
    /// Whether raft answers it, and not the router.
    #[must_use]
    pub fn is_raft(self) -> bool {
        self as u8 >= Self::Vote as u8
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It certainly never reached the peer's service: no connection, or no room in the queue.
    #[error("not sent to node {to}: {reason}")]
    NotSent {
        /// The peer.
        to: NodeId,
        /// Why.
        reason: String,
    },
    /// It was on its way when the time was up or the connection broke.
    #[error("no answer from node {to}: {reason}")]
    Unknown {
        /// The peer.
        to: NodeId,
        /// What happened.
        reason: String,
    },
    /// The peer's service answered with an error.
    #[error("{0}")]
    Refused(String),
}

/// How a peer is reached at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerState {
    /// The handshake has succeeded on the lanes for raft and commands.
    Connected,
    /// One of the two refuses the other; the reason tells what to do.
    Refused(String),
    /// No connection.
    Unreachable {
        /// Since when.
        since: Instant,
        /// The last failure.
        reason: String,
    },
}

/// Answers the calls of peers.
pub trait Service: fmt::Debug + Send + Sync + 'static {
    /// Answers one call. It is called in the order in which the calls of one lane arrive, and must
    /// not block; the futures run side by side.
    fn handle(
        &self,
        from: NodeId,
        kind: CallKind,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// Who answers what.
#[derive(Debug, Clone)]
pub struct Services {
    /// Calls for which [`CallKind::is_raft`] holds.
    pub raft: Arc<dyn Service>,
    /// All others.
    pub command: Arc<dyn Service>,
}

/// The way to the other nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Transport {
    me: NodeId,
}

impl Transport {
    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// The other nodes, in ascending order.
    #[must_use]
    pub fn peers(&self) -> Vec<NodeId> {
        Vec::new()
    }

    /// How a peer is reached at the moment; `None` for a node that is no peer.
    #[must_use]
    pub fn peer_state(&self, _peer: NodeId) -> Option<PeerState> {
        None
    }

    /// Asks a peer. Safe to cancel: an answer that comes later is dropped.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        to: NodeId,
        _lane: Lane,
        _kind: CallKind,
        _request: Bytes,
        _timeout: Duration,
    ) -> Result<Bytes, CallError> {
        Err(CallError::NotSent {
            to,
            reason: "there is no connection".to_owned(),
        })
    }

    /// Answers the calls of peers until the transport is shut down.
    pub async fn serve(self, _listener: TcpListener, _services: Services) {}
}
