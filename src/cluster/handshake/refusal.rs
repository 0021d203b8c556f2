//! Why two nodes do not talk to one another, in words for people and in numbers for programs.
//!
//! Refuses to repeat what both know. Invariant: the words name what differs and what to do; a number never
//! changes its meaning, for other releases go by it.

use uuid::Uuid;

use crate::cluster::NodeId;
use crate::cluster::tls::lacks;

/// Why there is no connection. Told to the other side as text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Bytes that are no introduction.
    #[error("the other side does not speak the protocol of Phalanx nodes: {0}")]
    Unreadable(String),
    /// The versions do not overlap.
    #[error(
        "node {node} speaks versions {theirs_min} to {theirs_max} of the protocol between nodes, \
         and node {me} versions {ours_min} to {ours_max}; \
         upgrade over a release that speaks both"
    )]
    Protocol {
        /// The other node.
        node: NodeId,
        /// This node.
        me: NodeId,
        /// The other node's oldest.
        theirs_min: u32,
        /// The other node's newest.
        theirs_max: u32,
        /// This node's oldest.
        ours_min: u32,
        /// This node's newest.
        ours_max: u32,
    },
    /// The other side chose a version that it should not have.
    #[error(
        "node {node} chose version {chosen} of the protocol between nodes, where the newest that \
         both speak is {newest}; one of the two releases is defective"
    )]
    Chosen {
        /// The other node.
        node: NodeId,
        /// What it chose.
        chosen: u32,
        /// What it had to choose.
        newest: u32,
    },
    /// Another cluster.
    #[error(
        "node {node} belongs to the cluster {theirs:?}, and node {me} to {ours:?}; \
         cluster.name must be the same, or the address of a peer is wrong"
    )]
    Cluster {
        /// The other node.
        node: NodeId,
        /// This node.
        me: NodeId,
        /// Its cluster.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// Another number of shards.
    #[error(
        "node {node} has {theirs} shards, and node {me} has {ours}; \
         cluster.shards must be the same on every node"
    )]
    Shards {
        /// The other node.
        node: NodeId,
        /// This node.
        me: NodeId,
        /// Its number.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// Its certificate is another node's.
    #[error("the certificate of node {node} {}", lacks(expected, carried))]
    Certificate {
        /// The other node, as it says.
        node: NodeId,
        /// The DNS name that would prove it.
        expected: String,
        /// Those that its certificate carries.
        carried: Vec<String>,
    },
    /// The address leads to somebody else.
    #[error(
        "the caller wanted node {wanted} and reached node {me}; \
         correct the address of node {wanted} in [[cluster.peers]]"
    )]
    Misdirected {
        /// Whom the caller wanted.
        wanted: NodeId,
        /// Whom it reached.
        me: NodeId,
    },
    /// It was a member once.
    #[error(
        "node {node} was removed from the cluster and is no member any more, says node {me}; stop \
         it. Its data is of no use to the cluster. A new node may take its place under a new \
         node.id and with an empty data directory"
    )]
    Removed {
        /// The other node.
        node: NodeId,
        /// This node.
        me: NodeId,
    },
    /// Nobody knows this node.
    #[error(
        "node {node} is no member that node {me} knows; \
         let it join (phalanx cluster join), or, before the cluster is founded, name it in \
         [[cluster.peers]] there"
    )]
    Stranger {
        /// The other node.
        node: NodeId,
        /// This node.
        me: NodeId,
    },
    /// A known id on another disk.
    #[error(
        "node {node} came with incarnation {found}, but node {me} knows it as {known}: its data \
         directory was emptied or replaced, and what it once confirmed is gone, so it must not \
         vote under its old id. Give it a new node.id and let it join as a new member, or put its \
         old data directory back"
    )]
    Incarnation {
        /// The other node.
        node: NodeId,
        /// This node.
        me: NodeId,
        /// What it came with.
        found: Uuid,
        /// What it is known by.
        known: Uuid,
    },
    /// This node has been told that its own disk was emptied.
    #[error(
        "the data directory of node {me} was emptied or replaced, says a member that knows it from \
         before, so node {me} founds no cluster with node {node}: the one that it belonged to may be \
         alive. Give it a new node.id and let it join as a new member, or put its old data directory \
         back. If a new cluster is to begin, empty the directories of all nodes"
    )]
    Emptied {
        /// The other node.
        node: NodeId,
        /// This node.
        me: NodeId,
    },
    /// Another process of it is connected.
    #[error(
        "another process of node {node} is connected to node {me}. A node that was restarted is let in \
         when the connections of the process before have ended; otherwise two processes run on copies of \
         one data directory, and only the one that has been running all along may go on: stop the other, \
         and do not start it again"
    )]
    Twin {
        /// The other node.
        node: NodeId,
        /// This node.
        me: NodeId,
    },
    /// Its incarnation could not be noted down.
    #[error("failed to note the incarnation of node {node}: {reason}")]
    Pin {
        /// The other node.
        node: NodeId,
        /// Why.
        reason: String,
    },
}

impl Refusal {
    /// The id of a frame that carries it: 0, unless a program has to know which one it is.
    pub(crate) fn code(&self) -> u64 {
        match self {
            Self::Removed { .. } => REMOVED,
            Self::Incarnation { .. } => EMPTIED,
            Self::Twin { .. } => TWIN,
            _ => 0,
        }
    }
}

/// The code of [`Refusal::Removed`].
pub(super) const REMOVED: u64 = 1;
/// The code of [`Refusal::Incarnation`].
pub(super) const EMPTIED: u64 = 2;
/// The code of [`Refusal::Twin`].
pub(crate) const TWIN: u64 = 3;
