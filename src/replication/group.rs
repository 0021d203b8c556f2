//! One shard's raft group on this node: it tells the shard's actor about leadership and commits its
//! batches.
//!
//! A shard serves only in a term of its own leadership, and only after an entry of that very term
//! is applied: everything older is settled by then.

mod status;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{BasicNode, Config, Raft, ReadPolicy, ServerState, SnapshotPolicy};
use phalanx_actors::names::ShardId;
use phalanx_actors::ports::{Batch, BoxFuture, ProposedCallback, Replicator};
use phalanx_actors::shard::ShardHandle;

use super::log_store::ShardLog;
use super::network::Alone;
use super::responder::ProposalResponder;
use super::state_machine::ShardIndex;
use super::types::{CommandBatch, Committed, NodeId, TypeConfig};
use crate::failpoints::crash_point;
use crate::journal::Journal;

type ShardRaft = Raft<TypeConfig, ShardIndex>;

/// How a group is run.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// This node.
    pub node_id: NodeId,
    /// Where other nodes reach it.
    pub address: String,
    /// Names the cluster in openraft's logs.
    pub cluster_name: String,
    /// Between heartbeats of a leader.
    pub heartbeat_interval_ms: u64,
    /// Silence after which the quickest follower stands for election.
    pub election_timeout_min_ms: u64,
    /// Silence after which the slowest does.
    pub election_timeout_max_ms: u64,
    /// How reads make sure of leadership.
    pub read_policy: ReadPolicy,
    /// Whether an empty log may be initialized.
    pub bootstrap: bool,
}

/// Why a group could not be started.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The storage refused.
    #[error("shard {shard}: {source}")]
    Storage {
        /// The shard.
        shard: ShardId,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// Raft refused.
    #[error("shard {shard}: {reason}")]
    Raft {
        /// The shard.
        shard: ShardId,
        /// What it said.
        reason: String,
    },
}

/// See the file's description.
pub struct Group {
    shard: ShardId,
    options: GroupOptions,
    raft: ShardRaft,
    journal: Journal,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

impl Group {
    /// Starts the group from what the journal holds.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn start(
        shard: ShardId,
        journal: Journal,
        options: GroupOptions,
    ) -> Result<Arc<Self>, GroupError> {
        let failed = |reason: String| GroupError::Raft { shard, reason };
        let config = config(shard, &options)
            .validate()
            .map_err(|error| failed(error.to_string()))?;
        let log = ShardLog::new(journal.clone(), shard);
        let index = ShardIndex::open(journal.clone(), shard)
            .map_err(|source| GroupError::Storage { shard, source })?;
        let raft = ShardRaft::new(options.node_id, Arc::new(config), Alone::new(), log, index)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let group = Arc::new(Self {
            shard,
            options,
            raft,
            journal,
        });
        group.bootstrap().await?;
        Ok(group)
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    async fn bootstrap(&self) -> Result<(), GroupError> {
        let failed = |reason: String| GroupError::Raft {
            shard: self.shard,
            reason,
        };
        let initialized = self
            .raft
            .is_initialized()
            .await
            .map_err(|error| failed(error.to_string()))?;
        if !initialized && self.options.bootstrap {
            let node = BasicNode::new(self.options.address.clone());
            let members = BTreeMap::from([(self.options.node_id, node)]);
            self.raft
                .initialize(members)
                .await
                .map_err(|error| failed(error.to_string()))?;
        } else if initialized {
            // The only voter need not wait for anybody's silence.
            self.raft
                .trigger()
                .elect(false)
                .await
                .map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    /// Tells the shard about leadership until the group is shut down.
    pub async fn watch(self: Arc<Self>, shard: ShardHandle) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let (leading, term) = {
                let now = metrics.borrow_watched();
                let leading = now.state == ServerState::Leader;
                (leading, now.vote.leader_id.term)
            };
            if leading {
                self.take_over(&shard, term).await;
            } else {
                shard.step_down();
            }
            tokio::select! {
                changed = metrics.changed() => {
                    if changed.is_err() {
                        shard.step_down();
                        return;
                    }
                }
                () = shard.abandoned() => self.resume(&shard).await,
            }
        }
    }

    /// Starts to serve once an entry of this term is applied.
    async fn take_over(&self, shard: &ShardHandle, term: u64) {
        let applied = self
            .raft
            .wait(None)
            .metrics(
                |m| {
                    m.current_term > term
                        || m.last_applied
                            .is_some_and(|id| **id.committed_leader_id() == term)
                },
                "an entry of this term is applied",
            )
            .await;
        match applied {
            Ok(m) if m.current_term == term && m.state == ServerState::Leader => {
                match self.journal.last_position(self.shard) {
                    Ok(last_position) => shard.lead(term, last_position),
                    Err(error) => shard.refuse(error.to_string()),
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(shard = self.shard, term, %error, "a new leader cannot apply");
            }
        }
    }

    /// Serves again in the same term after an incarnation ended by itself: openraft starts no
    /// election while this node leads. What the incarnation proposed is in the log by now or was
    /// refused; once all of it is applied, nothing older can surface.
    async fn resume(&self, shard: &ShardHandle) {
        let term = {
            let metrics = self.raft.server_metrics();
            let now = metrics.borrow_watched();
            if now.state != ServerState::Leader {
                // Whoever leads next is told in the usual way.
                return;
            }
            now.vote.leader_id.term
        };
        // Goes the way of the proposals, so it sees all of them.
        let log_end = self
            .raft
            .with_raft_state(|state| state.log_ids.last().map(|log_id| log_id.index()))
            .await;
        let log_end = match log_end {
            Ok(log_end) => log_end,
            Err(error) => {
                tracing::error!(shard = self.shard, %error, "the raft group stopped");
                return;
            }
        };
        let settled = self
            .raft
            .wait(None)
            .metrics(
                |m| {
                    m.current_term != term
                        || m.state != ServerState::Leader
                        || m.last_applied.map(|id| id.index()) >= log_end
                },
                "what was proposed is applied",
            )
            .await;
        match settled {
            Ok(m) if m.current_term == term && m.state == ServerState::Leader => {
                match self.journal.last_position(self.shard) {
                    Ok(last_position) => shard.lead_again(term, last_position),
                    Err(error) => shard.refuse(error.to_string()),
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(shard = self.shard, term, %error, "the raft group stopped");
            }
        }
    }

    /// Stops the group.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(shard = self.shard, %error, "the raft group did not stop cleanly");
        }
    }
}

impl Replicator for Group {
    fn propose(&self, term: u64, batch: Batch, done: ProposedCallback) -> BoxFuture<'_, ()> {
        let responder = ProposalResponder::new(done);
        let request = self
            .raft
            .write(CommandBatch(batch.records))
            .with_leader(Committed::from(term))
            .responder(responder);
        Box::pin(async move {
            crash_point!("replication::before_propose");
            if let Err(error) = request.await {
                // The responder is dropped and reports an unknown outcome.
                tracing::error!(shard = self.shard, %error, "the raft group stopped");
            }
        })
    }

    fn confirm_leadership(&self, term: u64) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let gate = self
                .raft
                .get_read_linearizer(self.options.read_policy.clone());
            match gate.await {
                Ok(linearizer) => **linearizer.read_log_id().committed_leader_id() == term,
                Err(error) => {
                    tracing::debug!(shard = self.shard, %error, "not allowed to answer reads");
                    false
                }
            }
        })
    }
}

fn config(shard: ShardId, options: &GroupOptions) -> Config {
    Config {
        cluster_name: format!("{}/{shard}", options.cluster_name),
        heartbeat_interval: options.heartbeat_interval_ms,
        election_timeout_min: options.election_timeout_min_ms,
        election_timeout_max: options.election_timeout_max_ms,
        // The log is the event log and stays whole.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    }
}
