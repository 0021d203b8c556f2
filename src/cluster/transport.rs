//! Calls from node to node.
//!
//! Owns one connection per peer and lane, and what is on its way there. It refuses to queue without
//! bound, to retry, and to carry a message of a node that did not pass the handshake. Invariant: an
//! error says whether the peer may have acted: [`CallError::NotSent`] and [`CallError::Refused`]
//! mean that it certainly did not, or said so; [`CallError::Unknown`] means that nobody knows.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::RwLock;
use phalanx_actors::ports::BoxFuture;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::NodeId;
pub use super::calls::{Calls, Outgoing, Pending};
use super::frame::HEADER_LEN;
pub use super::frame::{Frame, Tag};
use super::handshake::{Identity, Introduction, spoken};
use super::lanes::{LaneLink, LaneState};
use super::pins::Pins;
use super::roster::Contacts;
use super::server::{Lines, Server, Told};
use super::tls::Security;

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
    /// Ask a shard's leader to give it other voters.
    Reshape = 8,
    /// Which copies a node has, and how far they are; waits for news.
    Copies = 9,
    /// Read a shard's committed records from any copy.
    Records = 10,
    /// Answer a client's request about read models.
    Query = 11,
    /// Read an aggregate's records from any copy.
    Stream = 12,
    /// Ask a node to lead again after a drain.
    Undrain = 13,
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
    /// The kind with this number.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        let kinds = [
            Self::Command,
            Self::Read,
            Self::History,
            Self::Past,
            Self::Status,
            Self::Transfer,
            Self::Drain,
            Self::Reshape,
            Self::Copies,
            Self::Records,
            Self::Query,
            Self::Stream,
            Self::Undrain,
            Self::Vote,
            Self::PreVote,
            Self::Append,
            Self::TakeOver,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether all that it does between two waits is brief, and nothing is left half done if its
    /// connection ends: it need not run on its own.
    #[must_use]
    pub fn is_brief(self) -> bool {
        matches!(
            self,
            Self::Command | Self::Read | Self::Vote | Self::PreVote | Self::Append
        )
    }

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

/// Why a process keeps silent for the moment.
pub(crate) const TWIN_WAITS: &str =
    "a member says that another process of this node is connected to it, so this one waits";

/// The one method that nodes offer to each other.
pub(crate) const PATH: &str = "/phalanx.Node/Exchange";

/// Bounds on connections and calls.
#[derive(Debug, Clone, Copy)]
pub struct TransportOptions {
    /// For a connection and its handshake.
    pub connect_timeout: Duration,
    /// The longest pause between two attempts.
    pub reconnect_max: Duration,
    /// Between two signs of life on a connection.
    pub keepalive_interval: Duration,
    /// Silence after one of them that ends the connection.
    pub keepalive_timeout: Duration,
    /// Calls to one peer on one lane that wait for an answer.
    pub calls_in_flight: usize,
    /// The largest message that is sent or taken.
    pub max_message_bytes: usize,
}

/// Who this node is, towards its peers.
#[derive(Debug, Clone)]
pub struct TransportIdentity {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: String,
    /// The cluster's shards.
    pub shards: u32,
    /// Of its data directory.
    pub incarnation: Uuid,
    /// Of this process: a number that no other has, and not 0.
    pub process: u64,
    /// Where the incarnations of peers are noted.
    pub data_dir: PathBuf,
    /// The other members as they are known at the start.
    pub contacts: Contacts,
    /// What it shows them, and asks of them, before the first word.
    pub security: Security,
}

/// The way to the other nodes. Cheap to clone; the last clone closes the connections.
#[derive(Debug, Clone)]
pub struct Transport(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: Arc<Identity>,
    options: TransportOptions,
    links: RwLock<BTreeMap<NodeId, Links>>,
}

/// The lanes to one peer.
#[derive(Debug)]
struct Links {
    lanes: [Arc<LaneLink>; 3],
    tasks: Vec<AbortHandle>,
}

impl Drop for Links {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        for lane in &self.lanes {
            lane.end();
        }
    }
}

impl Links {
    fn lane(&self, lane: Lane) -> &LaneLink {
        let [raft, command, bulk] = &self.lanes;
        match lane {
            Lane::Raft => raft,
            Lane::Command => command,
            Lane::Bulk => bulk,
        }
    }
}

impl Transport {
    /// Begins to connect to every peer. Needs a runtime.
    ///
    /// # Errors
    /// When the note of the peers' incarnations cannot be read.
    pub fn start(who: TransportIdentity, options: TransportOptions) -> io::Result<Self> {
        let (protocol_min, protocol_max) = spoken();
        let me = Introduction {
            node: who.node,
            cluster: who.cluster,
            shards: who.shards,
            incarnation: who.incarnation.into_bytes(),
            protocol_min,
            protocol_max,
        };
        let pins = Pins::open(&who.data_dir)?;
        let identity = Identity::new(me, who.process, who.security, pins);
        let transport = Self(Arc::new(Inner {
            identity: Arc::new(identity),
            options,
            links: RwLock::default(),
        }));
        transport.follow(&who.contacts);
        Ok(transport)
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.0.identity.me.node
    }

    /// The other nodes, in ascending order.
    #[must_use]
    pub fn peers(&self) -> Vec<NodeId> {
        self.0.links.read().keys().copied().collect()
    }

    /// Where a peer is looked for.
    #[must_use]
    pub fn address_of(&self, peer: NodeId) -> Option<String> {
        self.0.identity.members.read().get(&peer).cloned()
    }

    /// The incarnation that a peer is known by; `None` before the first contact.
    #[must_use]
    pub fn incarnation_of(&self, peer: NodeId) -> Option<Uuid> {
        self.0.identity.pins.of(peer)
    }

    /// Connects to these peers and accepts them, and nobody else, from now on.
    pub fn follow(&self, contacts: &Contacts) {
        (*self.0.identity.removed.write()).clone_from(&contacts.removed);
        for peer in self.peers() {
            if !contacts.peers.contains_key(&peer) {
                tracing::info!(peer, "it is no member any more");
                self.remove_peer(peer);
            }
        }
        for (peer, contact) in &contacts.peers {
            if let Some(incarnation) = contact.incarnation {
                self.0.identity.note_founded();
                self.0.identity.pins.learn(*peer, incarnation);
            }
            self.add_peer(*peer, contact.address.clone());
        }
    }

    /// Whether a member has said that this node was removed from the cluster.
    #[must_use]
    pub fn is_cast_out(&self) -> bool {
        self.0.identity.is_cast_out()
    }

    /// Returns when members have said, for longer than it can be a mistake, that another process of this
    /// node is connected to them: this one must end. Safe to cancel.
    pub async fn displaced(&self) {
        let options = &self.0.options;
        // What a process that is gone leaves behind has ended after one of these at the latest.
        let patience = 4 * (options.keepalive_interval + options.keepalive_timeout);
        self.0.identity.twins.displaced(patience).await;
    }

    /// The version of the protocol in which a peer is spoken to, and answered; `None` before the
    /// first contact.
    #[must_use]
    pub fn protocol_of(&self, peer: NodeId) -> Option<u32> {
        self.0.identity.spoken.read().get(&peer).copied()
    }

    /// Accepts a new member, or follows one to a new address.
    pub fn add_peer(&self, peer: NodeId, address: String) {
        if peer == self.me() {
            return;
        }
        let before = self.0.identity.members.write().insert(peer, address);
        let mut links = self.0.links.write();
        if links.contains_key(&peer) && before.is_some() {
            // The next attempt goes to the new address.
            return;
        }
        let lanes = [Lane::Raft, Lane::Command, Lane::Bulk].map(|lane| {
            let told = self.0.identity.twins.lane();
            Arc::new(LaneLink::new(peer, lane, told))
        });
        let tasks = lanes
            .iter()
            .map(|link| {
                let identity = Arc::clone(&self.0.identity);
                let run = Arc::clone(link).run(identity, self.0.options);
                tokio::spawn(run).abort_handle()
            })
            .collect();
        links.insert(peer, Links { lanes, tasks });
    }

    /// Forgets a member: its connections end and it is refused from now on.
    pub fn remove_peer(&self, peer: NodeId) {
        self.0.identity.members.write().remove(&peer);
        self.0.links.write().remove(&peer);
    }

    /// How a peer is reached at the moment; `None` for a node that is no peer.
    #[must_use]
    pub fn peer_state(&self, peer: NodeId) -> Option<PeerState> {
        let links = self.0.links.read();
        let links = links.get(&peer)?;
        let mut state = PeerState::Connected;
        for lane in [Lane::Raft, Lane::Command] {
            match links.lane(lane).state() {
                LaneState::Open(_) => {}
                LaneState::Refused(reason) => return Some(PeerState::Refused(reason)),
                LaneState::Down { since, reason } => {
                    state = PeerState::Unreachable { since, reason };
                }
            }
        }
        Some(state)
    }

    /// Begins a call. Calls that are begun one after another on one lane reach the peer's service
    /// in that order, unless the connection is lost in between.
    ///
    /// # Errors
    /// [`CallError::NotSent`].
    pub fn begin(
        &self,
        to: NodeId,
        lane: Lane,
        kind: CallKind,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Pending, CallError> {
        let not_sent = |reason: String| CallError::NotSent { to, reason };
        let most = self.0.options.max_message_bytes - HEADER_LEN;
        if request.len() > most {
            return Err(not_sent(format!(
                "the message has {} bytes; transport.max_message_bytes allows {most}",
                request.len()
            )));
        }
        if self.0.identity.twins.is_told() {
            return Err(not_sent(TWIN_WAITS.to_owned()));
        }
        let calls = {
            let links = self.0.links.read();
            let Some(links) = links.get(&to) else {
                return Err(not_sent("it is no member".to_owned()));
            };
            match links.lane(lane).state() {
                LaneState::Open(calls) => calls,
                LaneState::Refused(reason) | LaneState::Down { reason, .. } => {
                    return Err(not_sent(reason));
                }
            }
        };
        calls.begin(kind, request, timeout)
    }

    /// Asks a peer. Safe to cancel: an answer that comes later is dropped.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        to: NodeId,
        lane: Lane,
        kind: CallKind,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        self.begin(to, lane, kind, request, timeout)?.answer().await
    }

    /// Answers the calls of peers until it is dropped.
    pub async fn serve(self, listener: TcpListener, services: Services) {
        let server = Server {
            identity: Arc::clone(&self.0.identity),
            options: self.0.options,
            services,
            told: Told::default(),
            lines: Lines::default(),
            strangers: Arc::default(),
        };
        server.run(listener).await;
    }
}

#[cfg(test)]
mod tests;
