//! What the nodes of a cluster say to one another, and how.
//!
//! Owns the connections between nodes: who may connect (`handshake`, `pins`), how one is kept
//! (`lanes`), what travels on it and in which order (`calls`, `frame`), how it is answered
//! (`server`), who the members are (`members`, `roster`), and where each shard's copies live
//! (`placement`). Refuses to know what is in a message: raft and the router register a [`transport::Service`] each.
//!
//! Invariant: no message of a node whose cluster, id, incarnation, shard count or protocol version
//! does not fit reaches a service.

mod beside;
mod calls;
pub mod feed;
mod frame;
pub mod handshake;
mod lanes;
pub mod leaders;
pub mod members;
pub mod metrics;
pub mod peers;
mod pins;
pub mod placement;
pub mod queries;
pub mod roles;
pub mod roster;
pub mod router;
mod server;
pub mod status;
pub mod steward;
mod strangers;
pub mod streams;
pub mod tls;
pub mod transport;
mod twins;
pub mod wire;

/// A node's id, from 1. An id belongs to one data directory and is never used again.
pub type NodeId = u64;
