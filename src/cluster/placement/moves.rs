//! From where the copies are to where they should be, a few steps at a time.
//!
//! Looks at members and copies only, not at how they came about: whoever takes over in the midst of
//! a move finds it in the copies (a learner) and goes on. Refuses a step after which fewer than a
//! majority of a shard's voters could be reached with whole copies, and to count on a damaged copy: it
//! goes before anything else is done about its shard, and none is built in its place while it is
//! there. Invariants: a step adds at most one copy of a
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
    /// Whose copies are damaged. They neither vote nor confirm, so their shard loses nothing with them.
    pub damaged: BTreeSet<NodeId>,
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
                damaged: std::mem::take(&mut shard.damaged),
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
    /// Whose copies are damaged, by shard.
    damaged: Vec<&'a BTreeSet<NodeId>>,
    /// Already part of this plan.
    taken: BTreeSet<usize>,
    loads: BTreeMap<NodeId, usize>,
}

/// A shard as a step finds it.
#[derive(Debug, Clone, Copy)]
struct Found<'a> {
    voters: &'a BTreeSet<NodeId>,
    /// Who learns already, if only they may get a vote.
    learners: Option<&'a BTreeSet<NodeId>>,
    damaged: &'a BTreeSet<NodeId>,
}

impl<'a> Plan<'a> {
    fn new(members: &'a [Member], copies: &'a [Copies], factor: usize) -> Self {
        let staying = members.iter().filter(|member| member.stays);
        let loads = staying.clone().map(|member| (member.id, 0)).collect();
        let zones: BTreeSet<&str> = staying.clone().map(|m| m.zone.as_str()).collect();
        let mut plan = Self {
            members: members.iter().map(|member| (member.id, member)).collect(),
            zones: zones.len() > 1 && !zones.contains(""),
            wanted: factor.min(staying.count()),
            voters: copies.iter().map(|found| found.voters.clone()).collect(),
            damaged: copies.iter().map(|found| &found.damaged).collect(),
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

    /// Whether a majority of these voters can be reached and have whole copies.
    fn is_safe(&self, voters: &BTreeSet<NodeId>, damaged: &BTreeSet<NodeId>) -> bool {
        let counts = |voter: &&NodeId| self.is_reachable(**voter) && !damaged.contains(voter);
        voters.iter().filter(counts).count() * 2 > voters.len()
    }

    /// Who could get a copy beside these voters, in a shard that was found so.
    fn candidates<'b>(
        &'b self,
        voters: &'b BTreeSet<NodeId>,
        found: Found<'b>,
    ) -> impl Iterator<Item = NodeId> + 'b {
        let fit = move |node: &NodeId| {
            !voters.contains(node)
                && !found.damaged.contains(node)
                && self.is_reachable(*node)
                && self.members.get(node).is_some_and(|m| m.roomy)
                && found
                    .learners
                    .is_none_or(|learners| learners.contains(node))
        };
        self.loads.keys().copied().filter(fit)
    }

    /// The voters with the best further one: in the emptiest zone, with the least load.
    fn with_one_more(
        &self,
        voters: &BTreeSet<NodeId>,
        found: Found<'_>,
    ) -> Option<BTreeSet<NodeId>> {
        let added = self.candidates(voters, found).map(|node| {
            let mut with = voters.clone();
            with.insert(node);
            (self.crowding(&with), self.load(node), node, with)
        });
        added
            .min_by_key(|(crowding, load, node, _)| (*crowding, *load, *node))
            .map(|(_, _, _, with)| with)
    }

    /// The voters without the one that is needed least.
    fn with_one_less(&self, found: Found<'_>) -> Option<BTreeSet<NodeId>> {
        let left = found.voters.iter().map(|node| {
            let mut without = found.voters.clone();
            without.remove(node);
            let load = usize::MAX - self.load(*node);
            (
                (self.is_reachable(*node), self.crowding(&without), load),
                without,
            )
        });
        left.filter(|(_, without)| self.is_safe(without, found.damaged))
            .min_by_key(|(key, _)| *key)
            .map(|(_, without)| without)
    }

    /// A step that a shard needs whatever the others look like.
    fn needed(&self, found: Found<'_>) -> Option<BTreeSet<NodeId>> {
        let voters = found.voters;
        if voters.is_empty() {
            return None;
        }
        if let Some(ill) = voters.intersection(found.damaged).next() {
            return self.without_damaged(found, *ill);
        }
        let gone = voters.iter().filter(|voter| !self.stays(**voter));
        let next = if let Some(gone) = gone.min_by_key(|node| (self.is_reachable(**node), **node)) {
            let mut rest = voters.clone();
            rest.remove(gone);
            if rest.len() >= self.wanted {
                Some(rest)
            } else {
                self.with_one_more(&rest, found)
            }
        } else if voters.len() < self.wanted {
            self.with_one_more(voters, found)
        } else if voters.len() > self.wanted {
            self.with_one_less(found)
        } else {
            None
        };
        next.filter(|next| self.is_safe(next, found.damaged))
    }

    /// The voters without one whose copy is damaged. It takes a majority of those before as well, and
    /// the last copy is never given up.
    fn without_damaged(&self, found: Found<'_>, ill: NodeId) -> Option<BTreeSet<NodeId>> {
        let mut rest = found.voters.clone();
        rest.remove(&ill);
        let safe = |voters| self.is_safe(voters, found.damaged);
        (safe(found.voters) && safe(&rest)).then_some(rest)
    }

    /// Exchanges of one voter that are worth it, with how much: zones first, then loads.
    fn exchanges<'b>(
        &'b self,
        found: Found<'b>,
    ) -> impl Iterator<Item = ((usize, usize, bool), BTreeSet<NodeId>)> + 'b {
        let voters = found.voters;
        let now = self.crowding(voters);
        let whole = voters.is_disjoint(found.damaged);
        voters.iter().filter(move |_| whole).flat_map(move |from| {
            self.candidates(voters, found).filter_map(move |to| {
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
                (worth && self.is_safe(&next, found.damaged)).then_some((key, next))
            })
        })
    }

    /// How a shard goes on in which somebody learns already.
    fn continued(&self, shard: usize, learners: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let Some(found) = self.found(shard, Some(learners)) else {
            return BTreeSet::new();
        };
        self.needed(found)
            .or_else(|| {
                let best = self.exchanges(found).max_by_key(|(key, _)| *key);
                best.map(|(_, next)| next)
            })
            .unwrap_or_else(|| found.voters.clone())
    }

    fn found<'b>(
        &'b self,
        shard: usize,
        learners: Option<&'b BTreeSet<NodeId>>,
    ) -> Option<Found<'b>> {
        Some(Found {
            voters: self.voters.get(shard)?,
            learners,
            damaged: self.damaged.get(shard)?,
        })
    }

    /// The best step for a shard that is not part of the plan yet.
    fn best(&self) -> Option<(usize, BTreeSet<NodeId>)> {
        let free = || {
            let shards = (0..self.voters.len()).filter(move |shard| !self.taken.contains(shard));
            shards.filter_map(move |shard| Some((shard, self.found(shard, None)?)))
        };
        let needed = free().find_map(|(shard, found)| Some((shard, self.needed(found)?)));
        if needed.is_some() {
            return needed;
        }
        // Without all loads being known, evening them out might do harm.
        if self.voters.iter().any(BTreeSet::is_empty) {
            return None;
        }
        let exchanges = free().flat_map(|(shard, found)| {
            let exchanges = self.exchanges(found);
            exchanges.map(move |(key, next)| ((key, std::cmp::Reverse(shard)), next))
        });
        let best = exchanges.max_by_key(|(key, _)| *key);
        best.map(|((_, std::cmp::Reverse(shard)), next)| (shard, next))
    }
}

#[cfg(test)]
mod tests;
