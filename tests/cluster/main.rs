//! Three real nodes: every shard has a leader, leaders are spread, what was acknowledged is on a
//! majority of disks, and killing, stopping or wiping one node harms nobody who was promised
//! anything; with certificates, without, and with the wrong ones.
//!
//! `PHALANX_CLUSTER_KILLS=100 cargo test --release --features failpoints --test cluster --
//! --nocapture` makes a longer run by hand (default 6 kills).

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
#[path = "../support/mod.rs"]
mod support;

mod failover;
mod fixture;
mod origin;
mod pauses;
mod read_models;
mod refusals;
mod spread;
mod tls;
mod twins;
mod versions;
