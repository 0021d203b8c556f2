//! The core of Phalanx: aggregates, the actors that hold them, the sequencer that keeps replies
//! until their events are committed, and the ports to the outside.
//!
//! This crate knows no HTTP, no database, no network and no consensus library: what it needs from
//! them it names as a port, and the compiler keeps the direction.

pub mod activations;
mod actor;
pub mod admission;
pub mod aggregate;
pub mod codec;
mod compare;
pub mod evolution;
pub mod fold;
pub mod history;
pub mod incarnation;
pub mod json_patch;
pub mod metrics;
pub mod model;
pub mod names;
pub mod passivation;
pub mod ports;
pub mod projection;
pub mod record;
pub mod request;
pub mod sequencer;
pub mod shard;
pub mod state_hash;
pub mod testkit;
mod turns;
pub mod types;
pub mod variant;
pub mod verify;

pub use aggregate::{Aggregate, Context, Justification};
pub use model::CommandModel;
