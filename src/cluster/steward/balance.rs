//! Keeps leaders spread: a node that leads too many shards hands some to one that leads few.
//!
//! Each node looks after itself only. It refuses to move anything for a difference of one, so that
//! a leader that a person has moved stays, and to trust a node that has just come back. Invariant:
//! every move makes the loads of two nodes more alike, so moving ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::names::ShardId;

use super::Steward;
use super::moves::{MOVES_AT_ONCE, Need};
use crate::cluster::NodeId;

/// A node with this many more leaders than another one gives it some.
const IMBALANCE: usize = 2;

/// The next leader to move away from `me`, and where to: to the node among `candidates` that leads
/// least, a shard that it votes in, the lowest number first. `led` says how many each node leads,
/// `mine` which shards this node leads, with their voters.
#[must_use]
fn next_move(
    me: NodeId,
    led: &BTreeMap<NodeId, usize>,
    mine: &BTreeMap<ShardId, Vec<NodeId>>,
    candidates: &BTreeSet<NodeId>,
) -> Option<(ShardId, NodeId)> {
    let count = |node: &NodeId| led.get(node).copied().unwrap_or_default();
    let moves = mine.iter().flat_map(|(shard, voters)| {
        let others = voters.iter().filter(|voter| candidates.contains(voter));
        others.map(move |to| (*shard, *to))
    });
    let (shard, to) = moves
        .filter(|(_, to)| *to != me)
        .min_by_key(|(shard, to)| (count(to), *to, *shard))?;
    (mine.len() >= count(&to) + IMBALANCE).then_some((shard, to))
}

impl Steward {
    /// Looks every `interval` whether this node leads too many shards, until it is dropped.
    pub async fn balance(self: Arc<Self>, interval: Duration) {
        let mut rounds = tokio::time::interval(interval);
        // Whoever was connected a round ago as well is back for good.
        let mut settled = BTreeSet::new();
        loop {
            rounds.tick().await;
            let connected: BTreeSet<NodeId> = self
                .peers
                .peers()
                .into_iter()
                .filter(|peer| self.peers.is_connected(*peer))
                .collect();
            let candidates: BTreeSet<NodeId> = connected.intersection(&settled).copied().collect();
            settled = connected;
            if !self.is_draining() {
                self.move_some(candidates).await;
            }
        }
    }

    async fn move_some(&self, mut candidates: BTreeSet<NodeId>) {
        let me = self.membership.me;
        for _ in 0..MOVES_AT_ONCE {
            let members = self.membership.roster.members().into_iter();
            let led: BTreeMap<NodeId, usize> = members
                .map(|(node, _)| node)
                .map(|node| (node, self.leaders.led_by(node).len()))
                .collect();
            let mine: BTreeMap<ShardId, Vec<NodeId>> = self
                .leaders
                .led_by(me)
                .into_iter()
                .map(|shard| (shard, self.leaders.voters(shard).to_vec()))
                .collect();
            let Some((shard, to)) = next_move(me, &led, &mine, &candidates) else {
                return;
            };
            let Some(from) = self.leaders.known(shard).led() else {
                return;
            };
            match self.move_away(from, shard, to, Need::None).await {
                Ok(moved) => {
                    tracing::info!(shard, from = me, to = moved.to, "spread the leaders");
                }
                Err(error) => {
                    // It lags, or drains, or is gone: another look in the next round.
                    tracing::debug!(shard, to, %error, "a leader was not moved");
                    candidates.remove(&to);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(leaders: &[NodeId], nodes: u64) -> BTreeMap<NodeId, usize> {
        (1..=nodes)
            .map(|node| (node, leaders.iter().filter(|l| **l == node).count()))
            .collect()
    }

    fn step(leaders: &[NodeId], nodes: u64, me: NodeId) -> Option<(ShardId, NodeId)> {
        let all: Vec<NodeId> = (1..=nodes).collect();
        let mine = (0..)
            .zip(leaders)
            .filter(|(_, leader)| **leader == me)
            .map(|(shard, _)| (shard, all.clone()))
            .collect();
        let candidates = all.iter().copied().filter(|node| *node != me).collect();
        next_move(me, &counts(leaders, nodes), &mine, &candidates)
    }

    proptest! {
        #[test]
        fn moving_ends_with_loads_that_differ_by_at_most_one(
            mut leaders in prop::collection::vec(1_u64..=5, 1..64),
        ) {
            let mut moves = 0;
            while let Some((me, (shard, to))) =
                (1..=5).find_map(|me| step(&leaders, 5, me).map(|found| (me, found)))
            {
                prop_assert_eq!(leaders[shard as usize], me);
                leaders[shard as usize] = to;
                moves += 1;
                prop_assert!(moves <= 64, "no end");
            }
            let counts = counts(&leaders, 5);
            let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
            prop_assert!(most - least <= 1, "{counts:?}");
        }
    }

    #[test]
    fn nobody_moves_to_strangers_or_for_a_difference_of_one() {
        let mine = BTreeMap::from([(0, vec![1, 2]), (1, vec![1, 3])]);
        let led = BTreeMap::from([(1, 2), (2, 1), (3, 0)]);
        let next = |candidates: &[NodeId]| {
            next_move(1, &led, &mine, &candidates.iter().copied().collect())
        };
        assert_eq!(next(&[2, 3]), Some((1, 3)));
        assert_eq!(next(&[2]), None);
        assert_eq!(next(&[]), None);
    }
}
