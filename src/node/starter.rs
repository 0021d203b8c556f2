//! Starts raft groups, at a node's start and later in place of one that ended.
//!
//! Refuses storage that is damaged. Invariant: only a founder's empty log founds a group; whoever is
//! given no replicas waits for the shard's leader.

use std::collections::BTreeSet;
use std::sync::Arc;

use phalanx_actors::names::ShardId;

use crate::cluster::NodeId;
use crate::cluster::peers::Peers;
use crate::journal::Journal;
use crate::replication::group::{Group, GroupOptions};
use crate::settings::{ReadMode, Settings};

/// See the file's description.
#[derive(Debug, Clone)]
pub(super) struct GroupStarter {
    /// Of a group that this node did not found.
    options: GroupOptions,
    journal: Journal,
    peers: Arc<dyn Peers>,
}

impl GroupStarter {
    pub(super) fn new(settings: &Settings, journal: &Journal, peers: &Arc<dyn Peers>) -> Self {
        let options = GroupOptions {
            node_id: settings.node.id,
            voters: BTreeSet::new(),
            preferred: settings.node.id,
            cluster_name: settings.cluster.name.clone(),
            election_timeout_min_ms: settings.raft.election_timeout_min_ms,
            election_timeout_max_ms: settings.raft.election_timeout_max_ms,
            read_policy: match settings.cluster.reads {
                ReadMode::Lease => openraft::ReadPolicy::LeaseRead,
                ReadMode::ReadIndex => openraft::ReadPolicy::ReadIndex,
            },
            bootstrap: false,
        };
        Self {
            options,
            journal: journal.clone(),
            peers: Arc::clone(peers),
        }
    }

    /// Starts a shard's group unless its storage is damaged. `replicas` are those that found it, if
    /// nobody has yet.
    ///
    /// # Errors
    /// Why the shard is refused.
    pub(super) async fn start(
        &self,
        shard: ShardId,
        replicas: &[NodeId],
    ) -> Result<Arc<Group>, String> {
        let health = self.journal.shard_health(shard);
        health.map_err(|error| error.to_string())?;
        let me = self.options.node_id;
        let options = GroupOptions {
            voters: replicas.iter().copied().collect(),
            preferred: replicas.first().copied().unwrap_or(me),
            bootstrap: replicas.contains(&me),
            ..self.options.clone()
        };
        let (journal, peers) = (self.journal.clone(), Arc::clone(&self.peers));
        let started = Group::start(shard, journal, peers, options).await;
        started.map_err(|error| error.to_string())
    }
}
