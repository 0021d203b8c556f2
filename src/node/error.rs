//! Why a node could not start or stop well.

use std::net::SocketAddr;

use phalanx_actors::projection::ProjectionError;
use phalanx_actors::types::RegistrationError;

use crate::cluster::NodeId;
use crate::cluster::tls::TlsError;
use crate::journal::OpenError;
use crate::projection::StartError;

/// See the file's description.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An aggregate type cannot be served.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// A projection cannot be run.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// The read side could not be started.
    #[error(transparent)]
    ReadSide(#[from] StartError),
    /// There is nothing to serve.
    #[error("no aggregate types are registered; call NodeBuilder::aggregate")]
    NoTypes,
    /// The address for other members is taken or not ours.
    #[error("failed to listen for members on cluster.listen = {address}: {source}")]
    ListenForMembers {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The incarnations of other members, noted in the data directory, cannot be read.
    #[error("failed to read which members are known: {0}")]
    KnownMembers(#[source] std::io::Error),
    /// The certificates for other members cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The data directory cannot be used.
    #[error("failed to open the data directory: {0}")]
    Journal(#[from] OpenError),
    /// The address for HTTP is taken or not ours.
    #[error("failed to listen on http.listen = {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The runtime could not be started.
    #[error("failed to start the runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// The metrics could not be set up.
    #[error("failed to set up metrics: {0}")]
    Metrics(String),
    /// A shard's actor could not be started.
    #[error("failed to start the actor of shard {shard}: {reason}")]
    Shard {
        /// The shard.
        shard: u32,
        /// Why.
        reason: String,
    },
    /// Two processes run on copies of one data directory.
    #[error(
        "another process of node {node} is connected to members of the cluster, and goes on: two processes \
         have been started on copies of one data directory. Do not start this one again; to have another \
         member, give it a new node.id and an empty data directory, and let it join"
    )]
    Displaced {
        /// This node.
        node: NodeId,
    },
    /// What is stored needs a role that the settings take away.
    #[error(
        "node.roles lacks `command`, but {what}; let the node leave the cluster first (phalanx \
         cluster leave) and start a new one under a new node.id, or give it the role back"
    )]
    HoldsCopies {
        /// What was found.
        what: String,
    },
    /// The grace period was too short.
    #[error("{count} requests were still in flight after node.shutdown_grace_ms")]
    Unfinished {
        /// How many.
        count: usize,
    },
}
