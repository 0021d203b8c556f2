//! The HTTP contract, checked against a real node over real sockets: statuses, headers, bodies, and
//! what must not happen.
//!
//! Each module owns one chapter of the contract. A table of cases runs to its end and reports every
//! case that failed, not only the first.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
#[path = "../support/mod.rs"]
mod support;

mod cases;
mod changes;
mod commands;
mod description;
mod directory;
mod edges;
mod entity;
mod errors;
mod events;
mod garbage;
mod history;
mod history_page;
mod idempotency;
mod ids;
mod log;
mod origin;
mod overload;
mod preconditions;
mod projections_cli;
mod readme_tour;
mod reads;
mod rejections;
mod schemas;
mod shutdown;
mod views;
mod watch;
mod what_if;
