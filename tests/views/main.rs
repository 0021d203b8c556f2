//! Read models of real nodes: exactly once through kills, never older than a token, on every node of
//! a cluster.
//!
//! `PHALANX_KILLS` (default 30) and `PHALANX_TOKENS` (default 3000) make longer runs by hand;
//! `PHALANX_SEED` repeats the choices of a run.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
#[path = "../support/mod.rs"]
mod support;

mod everywhere;
mod guard;
mod kills;
mod postgres;
mod reading;
mod roles;
mod tokens;
