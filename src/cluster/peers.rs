//! The other nodes as raft and the router see them: whom they can ask, and how that goes.
//!
//! The transport is one; tests and the simulation make up others.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use phalanx_actors::ports::BoxFuture;

use super::NodeId;
use super::handshake::PROTOCOL_MAX;
use super::roster::Contacts;
use super::transport::{CallError, CallKind, Lane, PeerState, Pending, Transport};

/// See the file's description.
pub trait Peers: Debug + Send + Sync + 'static {
    /// The other nodes, in ascending order.
    fn peers(&self) -> Vec<NodeId>;

    /// How a peer is reached at the moment; `None` for a node that is no peer.
    fn state(&self, peer: NodeId) -> Option<PeerState>;

    /// The version of the protocol in which messages and answers to a peer are to be encoded. Where
    /// nothing was negotiated, all are of this release.
    fn protocol(&self, _peer: NodeId) -> u32 {
        PROTOCOL_MAX
    }

    /// Begins a call. Calls that are begun one after another on one lane reach the peer's service
    /// in that order, unless the connection is lost in between.
    ///
    /// # Errors
    /// [`CallError::NotSent`].
    fn begin(
        &self,
        to: NodeId,
        lane: Lane,
        kind: CallKind,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Pending, CallError>;

    /// Asks a peer. Safe to cancel: an answer that comes later is dropped.
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        kind: CallKind,
        request: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let begun = self.begin(to, lane, kind, request, timeout);
        Box::pin(async move { begun?.answer().await })
    }

    /// Connects to these peers and accepts them, and nobody else, from now on. Networks that know
    /// all nodes beforehand need not care.
    fn follow(&self, _contacts: &Contacts) {}

    /// Whether a member has said that this node was removed from the cluster.
    fn is_cast_out(&self) -> bool {
        false
    }

    /// Returns when this process must end because another one of its node is connected to others. Safe to
    /// cancel.
    fn displaced(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Whether a peer can be asked now.
    fn is_connected(&self, peer: NodeId) -> bool {
        matches!(self.state(peer), Some(PeerState::Connected))
    }
}

impl Peers for Transport {
    fn peers(&self) -> Vec<NodeId> {
        Self::peers(self)
    }

    fn state(&self, peer: NodeId) -> Option<PeerState> {
        self.peer_state(peer)
    }

    fn protocol(&self, peer: NodeId) -> u32 {
        self.protocol_of(peer).unwrap_or(PROTOCOL_MAX)
    }

    fn begin(
        &self,
        to: NodeId,
        lane: Lane,
        kind: CallKind,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Pending, CallError> {
        Self::begin(self, to, lane, kind, request, timeout)
    }

    fn follow(&self, contacts: &Contacts) {
        Self::follow(self, contacts);
    }

    fn is_cast_out(&self) -> bool {
        Self::is_cast_out(self)
    }

    fn displaced(&self) -> BoxFuture<'_, ()> {
        Box::pin(Self::displaced(self))
    }
}

/// A cluster of one has no other nodes.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn peers(&self) -> Vec<NodeId> {
        Vec::new()
    }

    fn state(&self, _peer: NodeId) -> Option<PeerState> {
        None
    }

    fn begin(
        &self,
        to: NodeId,
        _lane: Lane,
        _kind: CallKind,
        _request: Bytes,
        _timeout: Duration,
    ) -> Result<Pending, CallError> {
        let reason = "this node has no peers".to_owned();
        Err(CallError::NotSent { to, reason })
    }
}

/// Peers of tests: they answer whole calls and begin none.
#[cfg(test)]
pub(crate) mod answering {
    use std::time::Instant;

    use super::*;

    /// What such a peer does.
    pub(crate) trait Answering: Debug + Send + Sync + 'static {
        /// The other nodes, in ascending order.
        fn members(&self) -> Vec<NodeId>;

        /// Whether one of them cannot be reached.
        fn is_away(&self, _peer: NodeId) -> bool {
            false
        }

        /// For how long.
        fn away_for(&self, _peer: NodeId) -> Duration {
            Duration::ZERO
        }

        /// See [`Peers::follow`].
        fn is_told(&self, _contacts: &Contacts) {}

        /// See [`Peers::protocol`].
        fn speaks(&self, _peer: NodeId) -> u32 {
            PROTOCOL_MAX
        }

        /// See [`Peers::call`].
        fn answer(
            &self,
            to: NodeId,
            lane: Lane,
            kind: CallKind,
            request: Bytes,
            timeout: Duration,
        ) -> BoxFuture<'_, Result<Bytes, CallError>>;
    }

    impl<T: Answering> Peers for T {
        fn peers(&self) -> Vec<NodeId> {
            self.members()
        }

        fn state(&self, peer: NodeId) -> Option<PeerState> {
            let known = self.members().contains(&peer);
            known.then(|| match self.is_away(peer) {
                true => PeerState::Unreachable {
                    since: Instant::now() - self.away_for(peer),
                    reason: "away".to_owned(),
                },
                false => PeerState::Connected,
            })
        }

        fn protocol(&self, peer: NodeId) -> u32 {
            self.speaks(peer)
        }

        fn follow(&self, contacts: &Contacts) {
            self.is_told(contacts);
        }

        fn begin(
            &self,
            to: NodeId,
            _lane: Lane,
            _kind: CallKind,
            _request: Bytes,
            _timeout: Duration,
        ) -> Result<Pending, CallError> {
            let reason = "not in this test".to_owned();
            Err(CallError::NotSent { to, reason })
        }

        fn call(
            &self,
            to: NodeId,
            lane: Lane,
            kind: CallKind,
            request: Bytes,
            timeout: Duration,
        ) -> BoxFuture<'_, Result<Bytes, CallError>> {
            self.answer(to, lane, kind, request, timeout)
        }
    }
}
