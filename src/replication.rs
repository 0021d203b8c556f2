//! Consensus: one raft group per shard.
//!
//! This module alone names openraft. Towards the core it is a
//! [`Replicator`](phalanx_actors::ports::Replicator); towards the disk it uses the journal's log,
//! votes and index.

pub mod fence;
pub mod group;
pub mod heartbeat;
pub mod log_store;
mod network;
mod pipeline;
mod promises;
pub mod responder;
mod runtime;
pub mod seat;
pub mod service;
pub mod state_machine;
pub mod types;
mod wire;
