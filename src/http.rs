//! The HTTP interface of a node.
//!
//! It owns the socket, the rules of HTTP, and the mapping between the command model's words and
//! HTTP's. It refuses to know how commands are decided or where events are stored: all it holds of
//! the node is a [`Router`], a [`Steward`] and its [`Views`]. Invariants: every error is a problem document with exactly one
//! status; nothing waits without a limit; header values and bodies never reach a log.
//!
//! ```text
//! accept -> connection -> guard or frames (time limits) -> service -> command | state | history | ...
//! ```

mod accept;
mod answers;
mod app;
mod body;
mod buffers;
mod callers;
mod changes;
mod chunks;
mod cluster;
mod code;
mod command;
mod compare;
mod conditions;
mod connection;
mod elsewhere;
mod events;
mod frames;
mod framing;
mod guard;
mod headers;
mod health;
mod history;
mod limits;
pub mod metrics;
mod openapi;
mod pages;
mod pieces;
mod problem;
mod projections;
mod public_url;
mod query;
mod reasons;
mod render;
mod response;
mod roles;
mod routes;
mod schema;
mod service;
mod sse;
mod state;
mod time;
mod timer;
mod trace;
mod types;
mod views;
mod watch;

pub use accept::serve;
pub use app::HttpApp;
pub use callers::Callers;
pub(crate) use callers::principal_header;
pub use limits::HttpLimits;
pub use public_url::PublicUrl;

#[cfg(doc)]
use crate::{
    cluster::{router::Router, steward::Steward},
    projection::Views,
};
