//! Phalanx: an actor-based, clustered, in-memory command model with an HTTP interface.
//!
//! This crate is the node: settings, command line, log and everything with I/O. The rules of
//! aggregates live in `phalanx-actors`, which does none.

pub mod bench;
pub mod cli;
pub mod cluster;
pub mod domain;
mod failpoints;
pub mod http;
pub mod journal;
pub mod node;
pub mod projection;
pub mod replication;
pub mod settings;
pub mod telemetry;
pub mod verify;

#[cfg(test)]
#[path = "../tests/support/ports.rs"]
mod test_ports;

/// The program in this page must compile.
#[cfg(doctest)]
#[doc = include_str!("../docs/YOUR_OWN_AGGREGATE.md")]
mod your_own_aggregate {}

/// So must this one.
#[cfg(doctest)]
#[doc = include_str!("../docs/EVOLUTION.md")]
mod evolution {}
