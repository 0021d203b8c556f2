//! From where the copies are to where they should be, a few steps at a time.
//!
//! Looks at members and copies only, not at how they came about: whoever takes over in the midst of
//! a move finds it in the copies (a learner) and goes on. Refuses a step after which fewer than a
//! majority of a shard's voters could be reached. Invariants: a step adds at most one copy of a
//! shard and takes at most one away; each step lowers the number of copies that are in the wrong
//! place, or else the crowding of zones, or else the imbalance of loads, and never raises one that
//! comes before it. So steps come to an end.

use std::collections::{BTreeMap, BTreeSet};

use phalanx_actors::names::ShardId;

use crate::cluster::NodeId;

/// Shards whose copies change at the same time.
pub const MOVES_AT_ONCE: usize = 3;
/// Steps that are counted when somebody asks how many are left.
const MOST_COUNTED: usize = 500;

/// A node that may hold copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub id: NodeId,
    /// Its failure zone; empty while it is not known.
    pub zone: String,
    /// Whether it is to keep copies; not while it leaves.
    pub stays: bool,
    /// Whether it can be reached, so that a copy can be built there now.
    pub reachable: bool,
    /// Whether its disk has space for another copy.
    pub roomy: bool,
}

/// The copies of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copies {
    /// Who votes; during a change, who will.
    pub voters: BTreeSet<NodeId>,
    /// Who gets the log without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Whether the voters are being exchanged.
    pub changing: bool,
}

/// What the voters of a shard should be next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The shard.
    pub shard: ShardId,
    /// Its voters afterwards; who is learner only is none any more.
    pub voters: BTreeSet<NodeId>,
}

/// The next steps, at most `most` with those that are under way. `copies` are in the order of the
/// shards; a shard of which nothing is known has no voters and is left alone.
#[must_use]
pub fn next_moves(members: &[Member], copies: &[Copies], factor: usize, most: usize) -> Vec<Move> {
    let mut plan = Plan::new(members, copies, factor);
    let mut moves = Vec::new();
    for (shard, found) in copies.iter().enumerate() {
        if moves.len() >= most || found.learners.is_empty() && !found.changing {
            continue;
        }
        // A learner that is not wanted any more goes with a step that changes no voter.
        let voters = plan.continued(shard, &found.learners);
        moves.extend(plan.take(shard, voters));
    }
    while moves.len() < most {
        let Some((shard, voters)) = plan.best() else {
            break;
        };
        moves.extend(plan.take(shard, voters));
    }
    moves
}

/// How many steps are left, up to some hundreds.
#[must_use]
pub fn pending(members: &[Member], copies: &[Copies], factor: usize) -> usize {
    let mut copies = copies.to_vec();
    let mut steps = 0;
    while steps < MOST_COUNTED {
        let moves = next_moves(members, &copies, factor, copies.len());
        if moves.is_empty() {
            break;
        }
        steps += moves.len();
        apply(&mut copies, moves);
    }
    steps
}

fn apply(copies: &mut [Copies], moves: Vec<Move>) {
    for step in moves {
        let at = usize::try_from(step.shard).unwrap_or(usize::MAX);
        if let Some(shard) = copies.get_mut(at) {
            *shard = Copies {
                voters: step.voters,
                ..Copies::default()
            };
        }
    }
}

/// Voters as they will be when all steps so far are done.
struct Plan<'a> {
    members: BTreeMap<NodeId, &'a Member>,
    /// There are several zones, and it is known who is in which.
    zones: bool,
    wanted: usize,
    voters: Vec<BTreeSet<NodeId>>,
    /// Already part of this plan.
    taken: BTreeSet<usize>,
    loads: BTreeMap<NodeId, usize>,
}

impl<'a> Plan<'a> {
    fn new(members: &'a [Member], copies: &[Copies], factor: usize) -> Self {
        let staying = members.iter().filter(|member| member.stays);
        let loads = staying.clone().map(|member| (member.id, 0)).collect();
        let zones: BTreeSet<&str> = staying.clone().map(|m| m.zone.as_str()).collect();
        let mut plan = Self {
            members: members.iter().map(|member| (member.id, member)).collect(),
            zones: zones.len() > 1 && !zones.contains(""),
            wanted: factor.min(staying.count()),
            voters: copies.iter().map(|found| found.voters.clone()).collect(),
            taken: BTreeSet::new(),
            loads,
        };
        for voters in copies.iter().map(|found| &found.voters) {
            plan.count(voters, 1);
        }
        plan
    }

    fn count(&mut self, voters: &BTreeSet<NodeId>, by: isize) {
        for voter in voters {
            if let Some(load) = self.loads.get_mut(voter) {
                *load = load.saturating_add_signed(by);
            }
        }
    }

    /// Makes a step part of the plan.
    fn take(&mut self, shard: usize, voters: BTreeSet<NodeId>) -> Option<Move> {
        self.taken.insert(shard);
        let before = std::mem::replace(self.voters.get_mut(shard)?, voters.clone());
        self.count(&before, -1);
        self.count(&voters, 1);
        let shard = ShardId::try_from(shard).ok()?;
        Some(Move { shard, voters })
    }

    fn load(&self, node: NodeId) -> usize {
        self.loads.get(&node).copied().unwrap_or_default()
    }

    fn stays(&self, node: NodeId) -> bool {
        self.members.get(&node).is_some_and(|member| member.stays)
    }

    fn is_reachable(&self, node: NodeId) -> bool {
        let member = self.members.get(&node);
        member.is_some_and(|member| member.reachable)
    }

    /// How unevenly voters lie in zones: 0 is best.
    fn crowding(&self, voters: &BTreeSet<NodeId>) -> usize {
        if !self.zones {
            return 0;
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for member in voters.iter().filter_map(|voter| self.members.get(voter)) {
            *counts.entry(&member.zone).or_default() += 1;
        }
        counts.values().map(|count| count * (count - 1)).sum()
    }

    /// Whether a step leaves the shard with a majority that can be reached.
    fn is_safe(&self, voters: &BTreeSet<NodeId>) -> bool {
        let reached = voters.iter().filter(|voter| self.is_reachable(**voter));
        reached.count() * 2 > voters.len()
    }

    /// Who could get a copy beside these voters.
    fn candidates<'b>(
        &'b self,
        voters: &'b BTreeSet<NodeId>,
        learners: Option<&'b BTreeSet<NodeId>>,
    ) -> impl Iterator<Item = NodeId> + 'b {
        let fit = move |node: &NodeId| {
            !voters.contains(node)
                && self.is_reachable(*node)
                && self.members.get(node).is_some_and(|m| m.roomy)
                && learners.is_none_or(|learners| learners.contains(node))
        };
        self.loads.keys().copied().filter(fit)
    }

    /// The voters with the best further one: in the emptiest zone, with the least load.
    fn with_one_more(
        &self,
        voters: &BTreeSet<NodeId>,
        learners: Option<&BTreeSet<NodeId>>,
    ) -> Option<BTreeSet<NodeId>> {
        let added = self.candidates(voters, learners).map(|node| {
            let mut with = voters.clone();
            with.insert(node);
            (self.crowding(&with), self.load(node), node, with)
        });
        added
            .min_by_key(|(crowding, load, node, _)| (*crowding, *load, *node))
            .map(|(_, _, _, with)| with)
    }

    /// The voters without the one that is needed least.
    fn with_one_less(&self, voters: &BTreeSet<NodeId>) -> Option<BTreeSet<NodeId>> {
        let left = voters.iter().map(|node| {
            let mut without = voters.clone();
            without.remove(node);
            let load = usize::MAX - self.load(*node);
            (
                (self.is_reachable(*node), self.crowding(&without), load),
                without,
            )
        });
        left.filter(|(_, without)| self.is_safe(without))
            .min_by_key(|(key, _)| *key)
            .map(|(_, without)| without)
    }

    /// A step that a shard needs whatever the others look like.
    fn needed(
        &self,
        voters: &BTreeSet<NodeId>,
        learners: Option<&BTreeSet<NodeId>>,
    ) -> Option<BTreeSet<NodeId>> {
        if voters.is_empty() {
            return None;
        }
        let gone = voters.iter().filter(|voter| !self.stays(**voter));
        let next = if let Some(gone) = gone.min_by_key(|node| (self.is_reachable(**node), **node)) {
            let mut rest = voters.clone();
            rest.remove(gone);
            if rest.len() >= self.wanted {
                Some(rest)
            } else {
                self.with_one_more(&rest, learners)
            }
        } else if voters.len() < self.wanted {
            self.with_one_more(voters, learners)
        } else if voters.len() > self.wanted {
            self.with_one_less(voters)
        } else {
            None
        };
        next.filter(|next| self.is_safe(next))
    }

    /// Exchanges of one voter that are worth it, with how much: zones first, then loads.
    fn exchanges<'b>(
        &'b self,
        voters: &'b BTreeSet<NodeId>,
        learners: Option<&'b BTreeSet<NodeId>>,
    ) -> impl Iterator<Item = ((usize, usize, bool), BTreeSet<NodeId>)> + 'b {
        let now = self.crowding(voters);
        voters.iter().flat_map(move |from| {
            self.candidates(voters, learners).filter_map(move |to| {
                let (heavy, light) = (self.load(*from), self.load(to));
                if !self.zones && heavy < light + 2 {
                    return None;
                }
                let mut next = voters.clone();
                next.remove(from);
                next.insert(to);
                let crowding = self.crowding(&next);
                let worth = crowding < now || crowding == now && heavy >= light + 2;
                let relief = (heavy + voters.len()).saturating_sub(light);
                let key = (
                    now.saturating_sub(crowding),
                    relief,
                    !self.is_reachable(*from),
                );
                (worth && self.is_safe(&next)).then_some((key, next))
            })
        })
    }

    /// How a shard goes on in which somebody learns already.
    fn continued(&self, shard: usize, learners: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let Some(voters) = self.voters.get(shard) else {
            return BTreeSet::new();
        };
        let learners = Some(learners);
        self.needed(voters, learners)
            .or_else(|| {
                let best = self.exchanges(voters, learners).max_by_key(|(key, _)| *key);
                best.map(|(_, next)| next)
            })
            .unwrap_or_else(|| voters.clone())
    }

    /// The best step for a shard that is not part of the plan yet.
    fn best(&self) -> Option<(usize, BTreeSet<NodeId>)> {
        let free = || {
            let shards = self.voters.iter().enumerate();
            shards.filter(|(shard, _)| !self.taken.contains(shard))
        };
        let needed = free().find_map(|(shard, voters)| Some((shard, self.needed(voters, None)?)));
        if needed.is_some() {
            return needed;
        }
        // Without all loads being known, evening them out might do harm.
        if self.voters.iter().any(BTreeSet::is_empty) {
            return None;
        }
        let exchanges = free().flat_map(|(shard, voters)| {
            let found = self.exchanges(voters, None);
            found.map(move |(key, next)| ((key, std::cmp::Reverse(shard)), next))
        });
        let best = exchanges.max_by_key(|(key, _)| *key);
        best.map(|((_, std::cmp::Reverse(shard)), next)| (shard, next))
    }
}

#[cfg(test)]
mod tests;
