//! Whether every shard has a leader that this node knows and that can be alive.
//!
//! Owns the moment from which a shard counts as lost. Refuses to call a node unready for what passes
//! by itself: an election, or a member that restarts, is no reason to send traffic elsewhere, since
//! the others see the same. Invariant: a shard whose state was good within the last `lapse` is ready,
//! and one that never was is not.
//!
//! A board names the last leader that was heard of, also when this node has been cut off since. So the
//! name alone is not enough: among the voters that this node reaches there must be a majority, for only
//! then can one of them lead.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use phalanx_actors::CommandModel;
use phalanx_actors::names::ShardId;
use tokio::time::Instant;

use super::Cluster;
use crate::cluster::NodeId;

/// How often the shards are looked at, whether anybody asks or not.
pub(super) const ROUND: Duration = Duration::from_millis(200);

/// When each shard was good for the last time.
#[derive(Debug)]
pub(super) struct Readiness {
    lapse: Duration,
    good: Mutex<Vec<Option<Instant>>>,
}

/// What is wrong with a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// It passes by itself, or does not; time tells.
    Passing(String),
    /// It is known to last.
    Lasting(String),
}

impl Readiness {
    pub(super) fn new(shards: u32, lapse: Duration) -> Self {
        let shards = usize::try_from(shards).unwrap_or_default();
        Self {
            lapse,
            good: Mutex::new(vec![None; shards]),
        }
    }

    /// Every shard and why it is not ready, as of now.
    pub(super) fn look(
        &self,
        model: &CommandModel,
        cluster: &Cluster,
    ) -> Vec<(ShardId, Result<(), String>)> {
        let sight = Sight::now(model, cluster);
        let now = Instant::now();
        let mut all = self.good.lock();
        let shards = (0..).zip(all.iter_mut());
        let judged = shards.map(|(shard, good)| {
            let judged = match sight.state(shard) {
                Ok(()) => {
                    *good = Some(now);
                    Ok(())
                }
                Err(Fault::Passing(_)) if good.is_some_and(|at| now - at <= self.lapse) => Ok(()),
                Err(Fault::Passing(reason) | Fault::Lasting(reason)) => Err(reason),
            };
            (shard, judged)
        });
        judged.collect()
    }
}

/// Whom this node reaches.
struct Sight<'a> {
    model: &'a CommandModel,
    cluster: &'a Cluster,
    me: NodeId,
    reached: BTreeSet<NodeId>,
}

impl<'a> Sight<'a> {
    fn now(model: &'a CommandModel, cluster: &'a Cluster) -> Self {
        let me = model.node_id();
        let peers = cluster.peers.peers().into_iter();
        let reached = peers.filter(|peer| cluster.peers.is_connected(*peer));
        Self {
            model,
            cluster,
            me,
            reached: reached.chain([me]).collect(),
        }
    }

    fn state(&self, shard: ShardId) -> Result<(), Fault> {
        if let Some(reason) = self.model.refusal(shard) {
            return Err(Fault::Lasting(reason));
        }
        let passing = |reason: String| Err(Fault::Passing(reason));
        let leaders = &self.cluster.leaders;
        let Some(leader) = leaders.known(shard).leader else {
            return passing("no leader known yet".to_owned());
        };
        if leader == self.me {
            if self.model.serving_term(shard).is_none() {
                return passing("no leader yet".to_owned());
            }
            if leaders.is_cut_off(shard) {
                return passing("this node leads it, but no majority answers".to_owned());
            }
        }
        let voters = leaders.voters(shard);
        let reached = voters.iter().filter(|v| self.reached.contains(v)).count();
        // Who votes may not be known yet; then the leader was named by a member that is connected.
        if voters.is_empty() || reached * 2 > voters.len() {
            return Ok(());
        }
        passing(format!(
            "node {leader} led it, but this node reaches only {reached} of its {} voters: it may be \
             led by somebody else by now, or by nobody",
            voters.len()
        ))
    }
}
