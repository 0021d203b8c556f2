//! Section `[node]`: the identity of this node and the place of its data.
//!
//! Refuses to create or check the directory; the journal does that when it opens.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cluster::roles::Role;

/// Who this node is and where its data lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    /// Number of this node, unique in its cluster and never reused.
    ///
    /// Default 1, range 1 to 9223372036854775807. Written into the data directory when it is
    /// formatted: a directory of another id is refused.
    pub id: u64,
    /// Directory of the journal and of everything else the node keeps; relative paths start at the
    /// working directory.
    ///
    /// Default `data/node-1`, not empty. Created when it is missing; one process uses it at a time.
    pub data_dir: PathBuf,
    /// Failure zone of this node: a rack, a room, a region.
    ///
    /// Default `default`, 1 to 64 characters of `A-Z a-z 0-9 . _ -`. More zones spread the replicas
    /// of a shard further.
    pub zone: String,
    /// What this node does: `command` may hold copies of shards and lead them, `query` keeps the
    /// read models, `gateway` takes the requests of clients and hands on what another node answers.
    ///
    /// Default all three, at least one. A node without `command` joins a running cluster; it founds
    /// none.
    pub roles: Vec<Role>,
    /// Time after SIGTERM within which the node ends, in milliseconds. Running requests may finish until
    /// a second before its end, or until a quarter of it is left; what is not finished then is answered.
    ///
    /// Default 10000, range 0 to 600000. Larger lets slow requests finish; smaller makes a restart
    /// faster and leaves more clients with an unknown outcome, which they resolve by retrying with
    /// the same key.
    pub shutdown_grace_ms: u64,
}

impl NodeSettings {
    /// Whether this node has a role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            id: 1,
            data_dir: PathBuf::from("data/node-1"),
            zone: "default".to_owned(),
            roles: Role::ALL.to_vec(),
            shutdown_grace_ms: 10_000,
        }
    }
}
