//! The raft groups of a node, as the cluster's housekeeping and the router's board see them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::names::ShardId;
use phalanx_actors::ports::BoxFuture;
use phalanx_actors::shard::ShardHandle;

use crate::cluster::NodeId;
use crate::cluster::leaders::Leaders;
use crate::cluster::metrics;
use crate::cluster::status::{LogEnd, Reshaped, ShardView};
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
        loop {
            rounds.tick().await;
            let mut led = 0;
            let mut lags: Vec<(NodeId, u64)> = Vec::new();
            for handle in &*self.shards {
                let Some(group) = self.groups.get(handle.shard()) else {
                    self.leaders.set_cut_off(handle.shard(), false);
                    continue;
                };
                let lasting = group.quorum_silence();
                self.leaders
                    .set_cut_off(handle.shard(), lasting.is_some_and(|s| s > silence));
                led += usize::from(handle.serving().is_some());
                for follower in group.view(handle).followers {
                    match lags.iter_mut().find(|(node, _)| *node == follower.node) {
                        Some((_, lag)) => *lag = follower.lag.max(*lag),
                        None => lags.push((follower.node, follower.lag)),
                    }
                }
            }
            metrics::set_shards_led(led);
            for (peer, lag) in lags {
                metrics::set_lag(peer, lag);
            }
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
