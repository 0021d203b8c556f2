//! How a raft group stands, in words that know no raft library, and handing its leadership over.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use phalanx_actors::shard::ShardHandle;

use super::super::types::{RaftLogId, RaftStoredMembership};
use super::Group;
use crate::cluster::NodeId;
use crate::cluster::leaders::{Known, Leaders};
use crate::cluster::status::{FollowerView, LogEnd, ShardView};

impl Group {
    /// Tells the board who leads, whenever that changes, until the group is shut down.
    pub async fn report(self: Arc<Self>, leaders: Arc<Leaders>) {
        let mut metrics = self.raft.server_metrics();
        loop {
            {
                let now = metrics.borrow_watched();
                let known = Known {
                    term: now.vote.leader_id.term,
                    leader: now.current_leader,
                };
                // Before the group is initialized nobody votes in it, and a node that has no copy any
                // more hears of no changes.
                // Whoever leads has a copy, whatever somebody who was behind said.
                if self.is_in(&now.membership_config) || now.state == ServerState::Leader {
                    self.retire(None);
                    let voters: Vec<NodeId> = now.membership_config.voter_ids().collect();
                    leaders.set_voters(self.shard, &voters);
                    leaders.report(self.shard, known);
                }
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// How the group stands.
    #[must_use]
    pub fn view(&self, handle: &ShardHandle) -> ShardView {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let last = now.last_log_index;
        let followers = now.replication.iter().flatten();
        let followers = followers
            .filter(|(node, _)| **node != self.options.node_id)
            .map(|(node, matched)| {
                let matched_index = matched.map(|log_id| log_id.index());
                let has = matched_index.map_or(0, |index| index + 1);
                FollowerView {
                    node: *node,
                    matched_index,
                    lag: last.map_or(0, |last| last + 1).saturating_sub(has),
                }
            })
            .collect();
        let membership = now.membership_config.membership();
        let becoming = match membership.get_joint_config().as_slice() {
            [] | [_] => Vec::new(),
            [.., last] => last.iter().copied().collect(),
        };
        let applied = now.last_applied >= *now.membership_config.log_id();
        ShardView {
            shard: self.shard,
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            changing: !becoming.is_empty() || !applied,
            becoming,
            leader: now.current_leader,
            term: now.current_term,
            last_log_index: last,
            applied_index: now.last_applied.map(|log_id| log_id.index()),
            followers,
            serving: handle.serving().is_some(),
            refusal: handle.refusal(),
        }
    }

    /// Whether this node has a copy that somebody may send entries to.
    #[must_use]
    pub fn has_copy(&self) -> bool {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        self.is_in(&now.membership_config)
    }

    /// Whether this node counts in a membership, and that membership is not one of the past.
    fn is_in(&self, stored: &RaftStoredMembership) -> bool {
        let counts = stored.membership().get_node(&self.options.node_id);
        counts.is_some() && !self.candidacy.is_over(*stored.log_id())
    }

    /// For how long no majority has answered this leader; `None` when it does not lead or is the
    /// only voter.
    #[must_use]
    pub fn quorum_silence(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        if now.state != ServerState::Leader || now.membership_config.voter_ids().count() < 2 {
            return None;
        }
        // A leader that nobody has answered yet has just been elected, by answers.
        now.last_quorum_acked.map(|at| (*at).elapsed())
    }

    /// Asks the group to hand its leadership to a voter.
    ///
    /// # Errors
    /// When the group has stopped.
    pub async fn hand_over(&self, to: NodeId) -> Result<(), String> {
        let handed = self.raft.trigger().transfer_leader(to).await;
        handed.map_err(|error| error.to_string())
    }

    /// Stands for no election while its copy is none any more, as its leader says. A node that was
    /// away when its copy moved would ask for votes for ever; nobody sends it the news. `without` is
    /// the end of the leader's log when it said so: what it said may be older than the copy. It ends
    /// with `None`, and as well when the log brings a membership that counts this node.
    pub fn retire(&self, without: Option<LogEnd>) {
        let news = match without {
            Some(end) => {
                let metrics = self.raft.server_metrics();
                let now = metrics.borrow_watched();
                let membership = *now.membership_config.log_id();
                let is_newer = membership.is_some_and(|at| end_at(at) > end);
                // Whoever says that a leader does not count is behind, or the leader finds out by
                // itself.
                let holds = now.state != ServerState::Leader && !is_newer;
                holds && self.candidacy.retire(&self.raft, membership)
            }
            None => self.candidacy.unretire(&self.raft),
        };
        if news {
            let retired = without.is_some();
            tracing::info!(shard = self.shard, retired, "whether this node has a copy");
        }
    }

    /// Stands for no election from now on, or does again.
    pub fn stand_aside(&self, aside: bool) {
        self.candidacy.stand_aside(&self.raft, aside);
    }
}

fn end_at(log_id: RaftLogId) -> LogEnd {
    LogEnd {
        term: **log_id.committed_leader_id(),
        index: log_id.index(),
    }
}
