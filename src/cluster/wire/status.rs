//! The bytes in which a node says how it is.
//!
//! Owns one form for each version of the protocol in which they differ. Refuses to guess: who asks and
//! who answers go by the version that they have agreed on. Invariant: a form that was released does
//! not change.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{WireError, housekeeping, read_housekeeping};
use crate::cluster::NodeId;
use crate::cluster::handshake::PROTOCOL_WITH_SPACE;
use crate::cluster::status::{NodeView, ShardView};

/// What a node with damaged copies says when it asks others how they are; the others ask without a word.
/// A peer of an older release does not listen.
pub const WITH_DAMAGE: Bytes = Bytes::from_static(b"damaged");

/// In versions that know nothing of space.
#[derive(Serialize, Deserialize)]
struct WithoutSpace {
    node: NodeId,
    incarnation: String,
    draining: bool,
    shards: Vec<ShardView>,
}

/// Writes how a node is, for a peer that speaks this version.
///
/// # Errors
/// When it cannot be represented.
pub fn node_view(view: &NodeView, protocol: u32) -> Result<Bytes, WireError> {
    if protocol >= PROTOCOL_WITH_SPACE {
        return housekeeping(view);
    }
    housekeeping(&WithoutSpace {
        node: view.node,
        incarnation: view.incarnation.clone(),
        // What such a peer makes of it is the same: it gives the node nothing to lead.
        draining: view.declines().is_some(),
        shards: view.shards.clone(),
    })
}

/// Reads how a peer is that speaks this version.
///
/// # Errors
/// See [`WireError`].
pub fn read_node_view(message: &[u8], protocol: u32) -> Result<NodeView, WireError> {
    if protocol >= PROTOCOL_WITH_SPACE {
        return read_housekeeping(message);
    }
    let view: WithoutSpace = read_housekeeping(message)?;
    Ok(NodeView {
        node: view.node,
        incarnation: view.incarnation,
        draining: view.draining,
        shards: view.shards,
        full: false,
    })
}
