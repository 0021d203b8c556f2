//! The core of Phalanx: aggregates, the actors that hold them, the sequencer that keeps replies
//! until their events are committed, and the ports to the outside.
//!
//! This crate knows no HTTP, no database, no network and no consensus library: what it needs from
//! them it names as a port, and the compiler keeps the direction.

pub mod aggregate;
pub mod codec;
pub mod names;
pub mod ports;
pub mod record;
pub mod request;
pub mod testkit;

pub use aggregate::{Aggregate, Context, Justification};
