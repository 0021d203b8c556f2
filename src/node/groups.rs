//! The raft groups of a node, as the cluster's housekeeping and the router's board see them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::names::ShardId;
use phalanx_actors::ports::BoxFuture;
use phalanx_actors::shard::ShardHandle;

use crate::cluster::NodeId;
use crate::cluster::leaders::Leaders;
use crate::cluster::metrics;
use crate::cluster::status::{FollowerView, LogEnd, Reshaped, ShardView};
use crate::cluster::steward::Groups;
use crate::journal::Journal;
use crate::replication::service::RaftCalls;

/// How often the groups are looked at.
const ROUND: Duration = Duration::from_millis(200);

/// Every shard of this node; without a group where its storage is refused, for as long as it is.
#[derive(Debug, Clone)]
pub(super) struct NodeGroups {
    shards: Arc<[ShardHandle]>,
    groups: Arc<RaftCalls>,
    leaders: Arc<Leaders>,
    journal: Journal,
}

impl NodeGroups {
    pub(super) fn new(
        handles: &[ShardHandle],
        groups: Arc<RaftCalls>,
        leaders: Arc<Leaders>,
        journal: Journal,
    ) -> Self {
        Self {
            shards: handles.into(),
            groups,
            leaders,
            journal,
        }
    }

    /// Notes which groups lead in vain, and keeps the gauges, until the task is aborted. A leader
    /// that no majority has answered for `silence` is cut off: whatever it is asked would wait for
    /// ever.
    pub(super) async fn watch(self, silence: Duration) {
        let mut rounds = tokio::time::interval(ROUND);
        let mut lags = Lags::default();
        loop {
            rounds.tick().await;
            let mut led = 0;
            lags.begin();
            for handle in &*self.shards {
                let Some(group) = self.groups.get(handle.shard()) else {
                    self.leaders.set_cut_off(handle.shard(), false);
                    continue;
                };
                let cut_off = group.quorum_silence().is_some_and(|s| s > silence);
                self.leaders.set_cut_off(handle.shard(), cut_off);
                led += usize::from(handle.serving().is_some() && !cut_off);
                lags.add(&group.view(handle).followers);
            }
            metrics::set_shards_led(led);
            for (peer, lag) in &lags.0 {
                metrics::set_lag(*peer, *lag);
            }
        }
    }
}

/// The most entries that a copy on each node lacks; 0 on a node that was heard of and has no copy of
/// what is led here now. Otherwise a gauge would show for ever what was true when the last leader left.
#[derive(Debug, Default)]
struct Lags(BTreeMap<NodeId, u64>);

impl Lags {
    fn begin(&mut self) {
        self.0.values_mut().for_each(|lag| *lag = 0);
    }

    fn add(&mut self, followers: &[FollowerView]) {
        for follower in followers {
            let lag = self.0.entry(follower.node).or_default();
            *lag = follower.lag.max(*lag);
        }
    }
}

impl Groups for NodeGroups {
    fn shards(&self) -> Vec<ShardView> {
        let view = |handle: &ShardHandle| {
            let shard = handle.shard();
            let group = self.groups.get(shard);
            let known = self.leaders.known(shard);
            // Without a copy, a group knows no more than when it had one.
            match group.filter(|group| group.has_copy()) {
                Some(group) => {
                    let mut view = group.view(handle);
                    view.serving &= !self.leaders.is_cut_off(shard);
                    // The news may have come from another node first.
                    if known.term > view.term && known.leader.is_some() {
                        (view.term, view.leader) = (known.term, known.leader);
                    }
                    view
                }
                None => ShardView {
                    shard,
                    voters: self.leaders.voters(shard).to_vec(),
                    learners: Vec::new(),
                    becoming: Vec::new(),
                    changing: false,
                    leader: known.leader,
                    term: known.term,
                    last_log_index: None,
                    applied_index: None,
                    followers: Vec::new(),
                    serving: false,
                    refusal: handle.refusal(),
                },
            }
        };
        self.shards.iter().map(view).collect()
    }

    fn hand_over(&self, shard: ShardId, to: NodeId) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            match self.groups.get(shard) {
                Some(group) => group.hand_over(to).await,
                None => Err("the shard is refused here".to_owned()),
            }
        })
    }

    fn reshape(
        &self,
        shard: ShardId,
        voters: BTreeSet<NodeId>,
        reachable: BTreeSet<NodeId>,
    ) -> BoxFuture<'_, Result<Reshaped, String>> {
        Box::pin(async move {
            match self.groups.get(shard) {
                Some(group) => group.reshape(&voters, &reachable).await,
                None => Err("the shard is refused here".to_owned()),
            }
        })
    }

    fn retire(&self, shard: ShardId, without: Option<LogEnd>) {
        if let Some(group) = self.groups.get(shard) {
            group.retire(without);
        }
    }

    fn is_full(&self) -> bool {
        self.journal.is_full()
    }

    fn stand_aside(&self, shard: ShardId, aside: bool) {
        if let Some(group) = self.groups.get(shard) {
            group.stand_aside(aside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_the_most_of_a_round_and_ends_with_what_is_led() {
        let follower = |node, lag| FollowerView {
            node,
            matched_index: None,
            lag,
        };
        let mut lags = Lags::default();
        lags.begin();
        lags.add(&[follower(2, 7), follower(3, 0)]);
        lags.add(&[follower(2, 4), follower(3, 1)]);
        assert_eq!(lags.0, BTreeMap::from([(2, 7), (3, 1)]));
        lags.begin();
        lags.add(&[follower(3, 5)]);
        assert_eq!(lags.0, BTreeMap::from([(2, 0), (3, 5)]));
    }
}
