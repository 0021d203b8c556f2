//! Where the copies of a shard live: pure functions, so that every node computes the same without
//! asking.
//!
//! [`place`] founds a cluster, [`next_moves`] goes on from what there is. Both refuse to look at the
//! running cluster. Invariant: in the end each shard has exactly the requested number of copies, on
//! different nodes, and the loads of two nodes differ by at most one.

mod moves;

use phalanx_actors::names::ShardId;

pub use self::moves::{Copies, MOVES_AT_ONCE, Member, Move, next_moves, pending};
use super::NodeId;

/// The replicas of every shard, by shard. The first of each is the node that should lead it.
///
/// `members` may come in any order and must not be empty; `factor` beyond their number is cut.
/// Takes the least loaded members for each shard in turn; among equals the one that comes next in a
/// rotation, so that replicas and leaders are both spread.
#[must_use]
pub fn place(shards: u32, members: &[NodeId], factor: usize) -> Vec<Vec<NodeId>> {
    let mut members = members.to_vec();
    members.sort_unstable();
    members.dedup();
    let count = members.len();
    let factor = factor.min(count);
    // (copies, led) by member.
    let mut loads = vec![(0_u32, 0_u32); count];
    (0..shards)
        .map(|shard: ShardId| {
            let turn = usize::try_from(shard).unwrap_or_default();
            let mut order: Vec<usize> = (0..count).map(|i| (i + turn) % count.max(1)).collect();
            // A stable sort keeps the rotation among equals.
            order.sort_by_key(|member| loads.get(*member).map_or(0, |(copies, _)| *copies));
            order.truncate(factor);
            order.sort_by_key(|member| loads.get(*member).map_or(0, |(_, led)| *led));
            for (place, member) in order.iter().enumerate() {
                if let Some((copies, led)) = loads.get_mut(*member) {
                    *copies += 1;
                    *led += u32::from(place == 0);
                }
            }
            order
                .into_iter()
                .filter_map(|member| members.get(member).copied())
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn spread(counts: &BTreeMap<NodeId, u32>, members: &[NodeId]) -> u32 {
        let of = |node: &NodeId| counts.get(node).copied().unwrap_or_default();
        let most = members.iter().map(of).max().unwrap_or_default();
        let least = members.iter().map(of).min().unwrap_or_default();
        most - least
    }

    proptest! {
        #[test]
        fn every_shard_has_its_copies_and_loads_are_even(
            shards in 1_u32..200,
            members in prop::collection::btree_set(1_u64..1000, 1..10),
            factor in 1_usize..10,
        ) {
            let members: Vec<NodeId> = members.into_iter().collect();
            let placed = place(shards, &members, factor);
            prop_assert_eq!(placed.len(), shards as usize);
            let mut copies = BTreeMap::new();
            let mut led = BTreeMap::new();
            for replicas in &placed {
                let distinct: BTreeSet<_> = replicas.iter().collect();
                prop_assert_eq!(distinct.len(), factor.min(members.len()));
                prop_assert_eq!(distinct.len(), replicas.len());
                for node in replicas {
                    prop_assert!(members.contains(node));
                    *copies.entry(*node).or_insert(0) += 1;
                }
                *led.entry(replicas[0]).or_insert(0) += 1;
            }
            prop_assert!(spread(&copies, &members) <= 1, "copies {copies:?}");
            prop_assert!(spread(&led, &members) <= 2, "leaders {led:?}");
        }

        #[test]
        fn the_order_of_members_does_not_matter(
            members in prop::collection::btree_set(1_u64..100, 1..8),
            factor in 1_usize..6,
        ) {
            let forward: Vec<NodeId> = members.iter().copied().collect();
            let backward: Vec<NodeId> = members.iter().rev().copied().collect();
            prop_assert_eq!(place(32, &forward, factor), place(32, &backward, factor));
        }
    }

    #[test]
    fn with_all_members_as_replicas_leaders_take_turns() {
        let leaders: Vec<NodeId> = place(8, &[1, 2, 3], 3)
            .iter()
            .map(|replicas| replicas[0])
            .collect();
        for node in 1..=3 {
            let led = leaders.iter().filter(|leader| **leader == node).count();
            assert!((2..=3).contains(&led), "node {node} leads {led}");
        }
    }
}
