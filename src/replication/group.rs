//! One shard's raft group on this node: it tells the shard's actor about leadership and commits its
//! batches.
//!
//! A shard serves only in a term of its own leadership, and only after an entry of that very term
//! is applied: everything older is settled by then.

mod candidacy;
mod reshape;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::{BasicNode, Config, Raft, ReadPolicy, ServerState, SnapshotPolicy};
use phalanx_actors::names::ShardId;
use phalanx_actors::ports::{Batch, BoxFuture, ProposedCallback, Replicator};
use phalanx_actors::shard::ShardHandle;
use tokio::time::Instant;

use self::candidacy::Candidacy;
use super::log_store::ShardLog;
use super::network::Network;
use super::promises::Promises;
use super::responder::ProposalResponder;
use super::state_machine::ShardIndex;
use super::types::{CommandBatch, Committed, NodeId, TypeConfig};
use super::wire;
use crate::cluster::metrics;
use crate::cluster::peers::Peers;
use crate::failpoints::crash_point;
use crate::journal::Journal;

/// How long an answer of a follower may take, in leases. A disk that stalls is no reason to send
/// everything again; a connection that is dead is found by its keepalive.
const APPEND_PATIENCE: u32 = 5;

type ShardRaft = Raft<TypeConfig, ShardIndex>;

/// How a group is run.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// This node.
    pub node_id: NodeId,
    /// The voters of an empty group.
    pub voters: BTreeSet<NodeId>,
    /// Which of them should lead when it can.
    pub preferred: NodeId,
    /// Names the cluster in openraft's logs.
    pub cluster_name: String,
    /// Silence after which the quickest follower stands for election.
    pub election_timeout_min_ms: u64,
    /// Silence after which the slowest does.
    pub election_timeout_max_ms: u64,
    /// How reads make sure of leadership.
    pub read_policy: ReadPolicy,
    /// Whether an empty log may be initialized. Only founders with a copy of the shard may; any other
    /// node waits for a leader to send it something.
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
    /// What the followers have promised this node.
    promises: Arc<Promises>,
    /// Until when this node keeps the promises of the process before it; see [`Group::vote`].
    promised_until: Instant,
    /// Whether it stands for elections.
    candidacy: Candidacy,
    /// Held while the voters are being changed.
    reshaping: tokio::sync::Mutex<()>,
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
        peers: Arc<dyn Peers>,
        options: GroupOptions,
    ) -> Result<Arc<Self>, GroupError> {
        let failed = |reason: String| GroupError::Raft { shard, reason };
        let config = config(shard, &options)
            .validate()
            .map_err(|error| failed(error.to_string()))?;
        let log = ShardLog::new(journal.clone(), shard);
        let index = ShardIndex::open(journal.clone(), shard)
            .map_err(|source| GroupError::Storage { shard, source })?;
        let lease = Duration::from_millis(options.election_timeout_max_ms);
        let promises = Arc::<Promises>::default();
        let network = Network::new(shard, peers, Arc::clone(&promises), lease * APPEND_PATIENCE);
        let raft = ShardRaft::new(options.node_id, Arc::new(config), network, log, index)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let initialized = raft
            .is_initialized()
            .await
            .map_err(|error| failed(error.to_string()))?;
        let now = Instant::now();
        let group = Arc::new(Self {
            shard,
            options,
            raft,
            journal,
            promises,
            promised_until: if initialized { now + lease } else { now },
            candidacy: Candidacy::new(),
            reshaping: tokio::sync::Mutex::default(),
        });
        group.begin(initialized, lease).await?;
        Ok(group)
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Sees to it that there will be an election.
    async fn begin(self: &Arc<Self>, initialized: bool, lease: Duration) -> Result<(), GroupError> {
        let failed = |reason: String| GroupError::Raft {
            shard: self.shard,
            reason,
        };
        if !initialized {
            if self.options.bootstrap {
                if self.options.preferred == self.options.node_id {
                    self.initialize().await?;
                } else {
                    tokio::spawn(Arc::clone(self).initialize_later(lease * 2));
                }
            }
            self.candidacy.promises_are_over(&self.raft);
            return Ok(());
        }
        let me = self.options.node_id;
        let voters: BTreeSet<NodeId> = self.raft.voter_ids().collect();
        if voters == BTreeSet::from([me]) {
            // The only voter has made no promise to anybody and need not wait for silence.
            self.candidacy.promises_are_over(&self.raft);
            self.raft
                .trigger()
                .elect(false)
                .await
                .map_err(|error| failed(error.to_string()))?;
            return Ok(());
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep_until(this.promised_until).await;
            this.candidacy.promises_are_over(&this.raft);
        });
        Ok(())
    }

    /// Founds the group. Every voter does so with the same voters, which makes it safe; whoever
    /// comes second finds a log or a vote, and that is as good.
    async fn initialize(&self) -> Result<(), GroupError> {
        // Without addresses: members may know each other under different ones, and what they found
        // the group with must be the same to the byte. The transport knows the addresses.
        let members: BTreeMap<NodeId, BasicNode> = self
            .options
            .voters
            .iter()
            .map(|id| (*id, BasicNode::default()))
            .collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(GroupError::Raft {
                shard: self.shard,
                reason: error.to_string(),
            }),
        }
    }

    /// Leaves the preferred leader the first move, so that leaders are spread from the start.
    async fn initialize_later(self: Arc<Self>, grace: Duration) {
        tokio::time::sleep(grace).await;
        if let Err(error) = self.initialize().await {
            tracing::error!(shard = self.shard, %error, "failed to found the group");
        }
    }

    /// Tells the shard about leadership until the group is shut down.
    pub async fn watch(self: Arc<Self>, shard: ShardHandle) {
        let mut metrics = self.raft.server_metrics();
        let mut served = None;
        loop {
            let (leading, term) = {
                let now = metrics.borrow_watched();
                let leading = now.state == ServerState::Leader;
                (leading, now.vote.leader_id.term)
            };
            if !leading {
                served = None;
                shard.step_down();
            } else if served != Some(term) && self.serve(&shard, term).await {
                served = Some(term);
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

    /// Starts to serve once everything is applied that was in the log when this node became leader
    /// of `term`, an entry of that very term included; `false` when it cannot.
    async fn serve(&self, shard: &ShardHandle, term: u64) -> bool {
        let Some(last_position) = self.settled(shard, term).await else {
            return false;
        };
        tracing::info!(shard = self.shard, term, last_position, "leads the shard");
        metrics::elections_won().increment(1);
        shard.lead(term, last_position);
        true
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
        if let Some(last_position) = self.settled(shard, term).await {
            shard.lead_again(term, last_position);
        }
    }

    /// Waits until the whole log, as it is now, is applied, and gives the last position in it.
    /// `None` when this node does not lead in `term` any more, or cannot serve.
    async fn settled(&self, shard: &ShardHandle, term: u64) -> Option<u64> {
        // Goes the way of the proposals, so it sees all of them. A leader's own first entry is in
        // its log by the time that it is seen to lead.
        let log_end = self
            .raft
            .with_raft_state(|state| state.log_ids.last().copied())
            .await;
        let log_end = match log_end {
            Ok(log_end) => log_end?,
            Err(error) => {
                tracing::error!(shard = self.shard, %error, "the raft group stopped");
                return None;
            }
        };
        if **log_end.committed_leader_id() != term {
            // Whoever leads now is told in the usual way.
            return None;
        }
        let applied = self
            .raft
            .wait(None)
            .metrics(
                |m| {
                    m.current_term != term
                        || m.state != ServerState::Leader
                        || m.last_applied >= Some(log_end)
                },
                "what is in the log is applied",
            )
            .await;
        match applied {
            Ok(m) if m.current_term == term && m.state == ServerState::Leader => {
                match self.journal.last_position(self.shard) {
                    Ok(last_position) => Some(last_position),
                    Err(error) => {
                        shard.refuse(error.to_string());
                        None
                    }
                }
            }
            Ok(_) => None,
            Err(error) => {
                tracing::error!(shard = self.shard, term, %error, "the raft group stopped");
                None
            }
        }
    }

    /// Tells the followers that this node still leads, if it does.
    pub(crate) async fn heartbeat(&self) {
        let leads = {
            let metrics = self.raft.server_metrics();
            let now = metrics.borrow_watched();
            now.state == ServerState::Leader
        };
        if leads && let Err(error) = self.raft.trigger().heartbeat().await {
            tracing::debug!(shard = self.shard, %error, "no heartbeat: the raft group stopped");
        }
    }

    /// Takes entries or a heartbeat from a leader. Its first step hands them to the group.
    pub(crate) async fn append(&self, request: Bytes) -> Result<Bytes, String> {
        let request = wire::append_from_bytes(request).map_err(text)?;
        let answer = self.raft.append_entries(request).await.map_err(text)?;
        wire::append_answer_to_bytes(&answer).map_err(text)
    }

    /// Votes, but not while the process before this one may have promised a leader not to. That
    /// promise, the lease by which a leader answers reads, is not on disk; openraft forgets it.
    pub(crate) async fn vote(&self, request: &[u8]) -> Result<Bytes, String> {
        let request = wire::vote_ask_from_bytes(request).map_err(text)?;
        // A leader that hands over has given its lease up.
        if !request.leadership_transfer {
            self.keep_promises()?;
        }
        let answer = self.raft.vote(request).await.map_err(text)?;
        wire::vote_answer_to_bytes(&answer).map_err(text)
    }

    /// Says whether it would vote.
    pub(crate) async fn pre_vote(&self, request: &[u8]) -> Result<Bytes, String> {
        let request = wire::vote_ask_from_bytes(request).map_err(text)?;
        self.keep_promises()?;
        let answer = self.raft.pre_vote(request).await.map_err(text)?;
        wire::vote_answer_to_bytes(&answer).map_err(text)
    }

    fn keep_promises(&self) -> Result<(), String> {
        if Instant::now() < self.promised_until {
            return Err(format!(
                "shard {}: this node started a moment ago and keeps what it promised the leader \
                 before",
                self.shard
            ));
        }
        Ok(())
    }

    /// Whether the followers' promises show that nobody else can have led before this call, which
    /// belongs to a check that `began` then. openraft has found so too, but counts answers for
    /// requests that they do not answer; see [`Promises`]. It alone knows whether a promise was given
    /// back, for a leader that hands over.
    fn is_promised(&self, term: u64, began: Instant) -> bool {
        let since = match self.options.read_policy {
            ReadPolicy::ReadIndex => Some(began),
            ReadPolicy::LeaseRead => {
                let lease = Duration::from_millis(self.options.election_timeout_max_ms);
                Instant::now().checked_sub(lease)
            }
        };
        let metrics = self.raft.server_metrics();
        let voters = metrics.borrow_watched();
        let voters = voters.membership_config.membership().get_joint_config();
        self.promises
            .hold(term, self.options.node_id, voters, since)
    }

    /// Stands for election because the leader wants it to.
    pub(crate) async fn take_over(&self, request: &[u8]) -> Result<Bytes, String> {
        let request = wire::take_over_from_bytes(request).map_err(text)?;
        let answer = self.raft.handle_transfer_leader(request).await;
        let refusal = answer.map_err(text)?.err().map(text);
        wire::take_over_answer_to_bytes(refusal).map_err(text)
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
        let (batch, entered) = CommandBatch::proposed(batch.records);
        let responder = ProposalResponder::new(done, Arc::clone(&entered));
        let request = self
            .raft
            .write(batch)
            .with_leader(Committed::from(term))
            .responder(responder);
        Box::pin(async move {
            crash_point!("replication::before_propose");
            if let Err(error) = request.await {
                // The responder is dropped and reports an unknown outcome.
                tracing::error!(shard = self.shard, %error, "the raft group stopped");
                return;
            }
            entered.wait().await;
        })
    }

    fn confirm_leadership(&self, term: u64) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let began = Instant::now();
            let gate = self
                .raft
                .get_read_linearizer(self.options.read_policy.clone());
            match gate.await {
                Ok(linearizer) => {
                    let led = **linearizer.read_log_id().committed_leader_id();
                    led == term && self.is_promised(term, began)
                }
                Err(error) => {
                    tracing::debug!(shard = self.shard, %error, "not allowed to answer reads");
                    false
                }
            }
        })
    }
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

fn config(shard: ShardId, options: &GroupOptions) -> Config {
    Config {
        cluster_name: format!("{}/{shard}", options.cluster_name),
        // Heartbeats are sent by `heartbeat::beat`. openraft looks at its clocks 64 times in 13 of
        // these intervals; more often than needed for elections would only wake up the processor.
        enable_heartbeat: false,
        heartbeat_interval: options.election_timeout_min_ms.saturating_sub(1).max(1),
        election_timeout_min: options.election_timeout_min_ms,
        election_timeout_max: options.election_timeout_max_ms,
        // The log is the event log and stays whole.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // A restart begins a new term, so that a term belongs to one life of one process.
        enable_leader_restore: Some(false),
        // A node that was cut off asks whether it would win before it disturbs anybody.
        enable_pre_vote: Some(true),
        // Until the promises of the process before have run out; see `Group::begin`.
        enable_elect: false,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests;
