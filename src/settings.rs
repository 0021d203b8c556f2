//! The settings of one node: what can be set, its defaults, and where each value came from.
//!
//! Owns the types of every section, their embedded defaults, the reading of a TOML file and of the
//! environment, and the rules that a set of values must keep. It refuses to start anything, to
//! touch the data directory or to open a socket. Invariant: a [`Settings`] that [`Settings::load`]
//! returned keeps every rule of [`Settings::validate`], so no other part of the node checks a range
//! again.

mod actors;
mod check;
mod cluster;
mod environment;
mod error;
mod file;
mod http;
mod journal;
mod load;
mod log;
mod node;
mod origin;
mod projections;
mod raft;
mod rules;
mod schema;
mod transport;
mod tree;

use serde::{Deserialize, Serialize};

pub use self::actors::ActorSettings;
pub use self::cluster::{ClusterSettings, Peer, ReadMode};
pub use self::error::{Problem, ProblemKind, SettingsError};
pub use self::http::HttpSettings;
pub use self::journal::JournalSettings;
pub use self::load::{Entry, LoadedSettings};
pub use self::log::{LogFormat, LogSettings};
pub use self::node::NodeSettings;
pub use self::origin::Origin;
pub use self::projections::{ProjectionSettings, StoreText};
pub use self::raft::RaftSettings;
pub(crate) use self::rules::is_host_port;
pub use self::transport::{TlsSettings, TransportSettings};

/// Everything that can be set on one node, one field per section of the file.
///
/// `Settings::default()` is the embedded set of defaults; `config/node.toml` says the same with an
/// explanation per key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `[node]`: who this node is and where its data lies.
    pub node: NodeSettings,
    /// `[http]`: the interface for clients and its limits.
    pub http: HttpSettings,
    /// `[cluster]`: the other members and how the data is divided.
    pub cluster: ClusterSettings,
    /// `[transport]`: the connections between members.
    pub transport: TransportSettings,
    /// `[raft]`: the timing and the batching of replication.
    pub raft: RaftSettings,
    /// `[journal]`: the files on disk and the memory they use.
    pub journal: JournalSettings,
    /// `[actors]`: aggregates in memory and the admission of commands.
    pub actors: ActorSettings,
    /// `[projections]`: the read models of this node.
    pub projections: ProjectionSettings,
    /// `[log]`: what is logged and in which form.
    pub log: LogSettings,
}

#[cfg(test)]
mod tests;
