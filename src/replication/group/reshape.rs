//! Changing the voters of a group, by its leader.
//!
//! Each call goes on from what the group's membership says, so whoever calls next finishes what was
//! begun. Refuses to give a vote to a node that has not caught up, and to end with voters of which
//! fewer than a majority have. Invariants: from one set of voters to another leads a joint
//! membership only; a voter that goes stays a learner until it has heard that it is none, so that
//! it stands for no election afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{BasicNode, ChangeMembers, ServerState};

use super::{Group, text};
use crate::cluster::NodeId;
use crate::cluster::status::Reshaped;
use crate::cluster::steward::MOST_LAG;
use crate::failpoints::crash_point;

/// Changes of the membership in one call; the longest way takes six.
const MOST_CHANGES: usize = 8;
/// How long one call waits for a learner to catch up.
const CATCH_UP_WAIT: Duration = Duration::from_secs(3);
/// How long a voter that goes may take to hear of it.
const FAREWELL_WAIT: Duration = Duration::from_millis(500);
/// How long a change may take to be committed, applied and seen.
const CHANGE_WAIT: Duration = Duration::from_secs(3);

/// The membership as it is now, and how far everybody is.
struct Shape {
    configs: Vec<BTreeSet<NodeId>>,
    learners: BTreeSet<NodeId>,
    /// The log index of the membership.
    since: u64,
    last: u64,
    matched: Vec<(NodeId, u64)>,
}

impl Shape {
    /// Entries that a node lacks.
    fn lag(&self, node: NodeId) -> u64 {
        self.last.saturating_sub(self.has(node))
    }

    /// Entries that a node is known to have.
    fn has(&self, node: NodeId) -> u64 {
        let found = self.matched.iter().find(|(id, _)| *id == node);
        found.map_or(0, |(_, matched)| *matched)
    }
}

impl Group {
    /// Goes on towards these voters, and no learners. `reachable` says who can be expected to
    /// answer.
    ///
    /// # Errors
    /// When this node does not lead or raft refuses for now.
    pub async fn reshape(
        &self,
        goal: &BTreeSet<NodeId>,
        reachable: &BTreeSet<NodeId>,
    ) -> Result<Reshaped, String> {
        let Ok(_alone) = self.reshaping.try_lock() else {
            return Ok(unfinished("a change of its voters is under way"));
        };
        for _ in 0..MOST_CHANGES {
            if let Some(done) = self.next_change(goal, reachable).await? {
                return Ok(done);
            }
        }
        Ok(unfinished("there is more to change"))
    }

    /// Makes the next change; `None` when it is made and another may follow.
    async fn next_change(
        &self,
        goal: &BTreeSet<NodeId>,
        reachable: &BTreeSet<NodeId>,
    ) -> Result<Option<Reshaped>, String> {
        let me = self.options.node_id;
        let shape = self.shape()?;
        let Some(voters) = shape.configs.last() else {
            return Err("the group is not initialized".to_owned());
        };
        if shape.configs.len() > 1 {
            // A leader before this one died half-way.
            self.change(ChangeMembers::ReplaceAllVoters(voters.clone()))
                .await?;
            return Ok(None);
        }
        let new: BTreeSet<NodeId> = goal.difference(voters).copied().collect();
        let unknown = new.difference(&shape.learners).copied();
        // Without addresses; see `initialize`.
        let unknown: Vec<(NodeId, BasicNode)> =
            unknown.map(|id| (id, BasicNode::default())).collect();
        if !unknown.is_empty() {
            self.change(ChangeMembers::AddNodes(unknown.into_iter().collect()))
                .await?;
            crash_point!("replication::after_add_learner");
            return Ok(None);
        }
        if goal == voters {
            return self.say_farewell(&shape, reachable).await;
        }
        if let Some(waiting) = self.wait_until_caught_up(&new).await? {
            return Ok(Some(waiting));
        }
        let shape = self.shape()?;
        let ready =
            |node: &NodeId| *node == me || reachable.contains(node) && shape.lag(*node) <= MOST_LAG;
        if goal.iter().filter(|node| ready(node)).count() * 2 <= goal.len() {
            return Err(format!(
                "no majority of {goal:?} is connected and has caught up"
            ));
        }
        if goal.contains(&me) {
            self.change(ChangeMembers::ReplaceAllVoters(goal.clone()))
                .await?;
            crash_point!("replication::after_change_voters");
            return Ok(None);
        }
        let to: Vec<NodeId> = goal.intersection(voters).copied().collect();
        if to.is_empty() {
            // Nobody could take over yet.
            let both = voters.union(goal).copied().collect();
            self.change(ChangeMembers::ReplaceAllVoters(both)).await?;
            return Ok(None);
        }
        let to = to.into_iter().filter(ready).collect();
        Ok(Some(Reshaped::HandOver { to }))
    }

    /// Lets go whoever has no vote, once it knows that it has none.
    async fn say_farewell(
        &self,
        shape: &Shape,
        reachable: &BTreeSet<NodeId>,
    ) -> Result<Option<Reshaped>, String> {
        if shape.learners.is_empty() {
            return Ok(Some(Reshaped::Done));
        }
        let since = shape.since;
        let wait = self.raft.wait(Some(FAREWELL_WAIT));
        let told = wait.metrics(
            |m| {
                shape.learners.iter().all(|node| {
                    let matched = m.replication.iter().flatten().find(|(id, _)| *id == node);
                    let index = matched.and_then(|(_, matched)| matched.map(|id| id.index()));
                    !reachable.contains(node) || index >= Some(since)
                })
            },
            "those who go have heard of it",
        );
        if told.await.is_err() {
            // It lacks a lot, or is dead and nobody knows yet. It may stand for elections that the
            // others refuse, as they hear from a leader.
            tracing::debug!(
                shard = self.shard,
                "a voter goes without having heard of it"
            );
        }
        self.change(ChangeMembers::RemoveNodes(shape.learners.clone()))
            .await?;
        Ok(None)
    }

    async fn wait_until_caught_up(
        &self,
        nodes: &BTreeSet<NodeId>,
    ) -> Result<Option<Reshaped>, String> {
        let wait = self.raft.wait(Some(CATCH_UP_WAIT));
        let all = wait.metrics(
            |m| {
                let last = m.last_log_index.map_or(0, |last| last + 1);
                let lag = |node: &NodeId| {
                    let matched = m.replication.iter().flatten().find(|(id, _)| *id == node);
                    let has = matched.and_then(|(_, matched)| matched.map(|id| id.index() + 1));
                    last.saturating_sub(has.unwrap_or(0))
                };
                m.state != ServerState::Leader || nodes.iter().all(|node| lag(node) <= MOST_LAG)
            },
            "the learners have caught up",
        );
        if all.await.is_ok() {
            return Ok(None);
        }
        let shape = self.shape()?;
        let behind = nodes.iter().map(|node| (shape.lag(*node), *node)).max();
        Ok(behind.map(|(lag, node)| Reshaped::Unfinished {
            reason: format!("node {node} lacks {lag} of {} log entries", shape.last),
        }))
    }

    fn shape(&self) -> Result<Shape, String> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        if now.state != ServerState::Leader {
            return Err("this node does not lead the shard".to_owned());
        }
        let membership = now.membership_config.membership();
        let matched = now.replication.iter().flatten().map(|(node, matched)| {
            let has = matched.map_or(0, |log_id| log_id.index() + 1);
            (*node, has)
        });
        Ok(Shape {
            configs: membership.get_joint_config().clone(),
            learners: membership.learner_ids().collect(),
            since: now.membership_config.log_id().map_or(0, |id| id.index()),
            last: now.last_log_index.map_or(0, |last| last + 1),
            matched: matched.collect(),
        })
    }

    /// Makes a change and waits until this node sees it.
    async fn change(&self, change: ChangeMembers<NodeId, BasicNode>) -> Result<(), String> {
        tracing::info!(shard = self.shard, %change, "changes the membership");
        let changed = self.raft.change_membership(change, true);
        let changed = tokio::time::timeout(CHANGE_WAIT, changed).await;
        let response = changed
            .map_err(|_| "the change is not committed yet".to_owned())?
            .map_err(text)?;
        let log_id = Some(response.log_id);
        self.raft
            .wait(Some(CHANGE_WAIT))
            .metrics(
                |m| *m.membership_config.log_id() >= log_id,
                "the change is seen",
            )
            .await
            .map_err(text)?;
        Ok(())
    }
}

fn unfinished(reason: &str) -> Reshaped {
    Reshaped::Unfinished {
        reason: reason.to_owned(),
    }
}
