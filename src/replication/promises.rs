//! What followers have promised this node as the leader of a group: to elect nobody else for one
//! lease from the moment at which they heard from it.
//!
//! Owns, for one term, when the newest request was sent that each follower answered as a follower of
//! that term. openraft keeps such moments too and takes an answer for one to every request that ends
//! at the same log entry, also to those that were sent later or not at all. An answer that was held up
//! while this leader was replaced would so renew its lease, and a read would be answered from the past.
//!
//! Refuses to take an answer for more than the one request that it answers. Invariant: a moment that
//! is kept here lies before the one at which the follower gave its promise.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::types::NodeId;

#[derive(Debug, Default)]
struct Kept {
    term: u64,
    sent: BTreeMap<NodeId, Instant>,
}

/// See the file's description.
#[derive(Debug, Default)]
pub(crate) struct Promises(Mutex<Kept>);

impl Promises {
    /// Notes that `follower` answered, as a follower of this node in `term`, a request that was sent
    /// at this moment or later.
    pub(crate) fn note(&self, term: u64, follower: NodeId, sent: Instant) {
        let mut kept = self.0.lock();
        if term < kept.term {
            return;
        }
        if term > kept.term {
            *kept = Kept {
                term,
                sent: BTreeMap::new(),
            };
        }
        let newest = kept.sent.entry(follower).or_insert(sent);
        *newest = sent.max(*newest);
    }

    /// Whether a majority of each of these sets of voters, `me` counted in, has answered a request of
    /// `term` that was sent at `since` or later.
    pub(crate) fn hold(
        &self,
        term: u64,
        me: NodeId,
        voters: &[BTreeSet<NodeId>],
        since: Option<Instant>,
    ) -> bool {
        let kept = self.0.lock();
        let answered = |node: &&NodeId| {
            // Before the clock's beginning there was nothing.
            let heard = |sent: &Instant| since.is_none_or(|since| *sent >= since);
            **node == me || (kept.term == term && kept.sent.get(node).is_some_and(heard))
        };
        let majority =
            |voters: &BTreeSet<NodeId>| voters.iter().filter(answered).count() * 2 > voters.len();
        !voters.is_empty() && voters.iter().all(majority)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_majority_of_every_set_of_voters_is_needed() {
        let (promises, start) = (Promises::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let hold = |voters: &[&[NodeId]], ms: u64| {
            let voters: Vec<BTreeSet<NodeId>> = voters
                .iter()
                .map(|ids| ids.iter().copied().collect())
                .collect();
            promises.hold(7, 1, &voters, Some(at(ms)))
        };
        assert!(hold(&[&[1]], 0));
        assert!(!hold(&[], 0) && !hold(&[&[1, 2]], 0) && !hold(&[&[1, 2, 3]], 0));
        promises.note(7, 2, at(10));
        assert!(hold(&[&[1, 2, 3]], 10) && !hold(&[&[1, 2, 3]], 11));
        // A leader that has no vote itself.
        assert!(!hold(&[&[2, 3]], 10));
        assert!(!hold(&[&[1, 2, 3], &[1, 4, 5]], 10));
        promises.note(7, 4, at(12));
        assert!(hold(&[&[1, 2, 3], &[1, 4, 5]], 10));
        // An answer that comes late takes nothing back.
        promises.note(7, 2, at(3));
        assert!(hold(&[&[1, 2, 3]], 10));
    }

    #[test]
    fn promises_are_of_one_term() {
        let (promises, now) = (Promises::default(), Instant::now());
        let voters = [BTreeSet::from([1, 2, 3])];
        promises.note(7, 2, now);
        assert!(promises.hold(7, 1, &voters, Some(now)));
        assert!(
            !promises.hold(6, 1, &voters, Some(now)) && !promises.hold(8, 1, &voters, Some(now))
        );
        promises.note(9, 3, now);
        promises.note(7, 2, now);
        assert!(
            promises.hold(9, 1, &voters, Some(now)) && !promises.hold(7, 1, &voters, Some(now))
        );
    }
}
