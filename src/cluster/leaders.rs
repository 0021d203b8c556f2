//! What this node knows of each shard's leader.
//!
//! The raft groups of this node report here, and so do the answers of other nodes. It refuses to go
//! back: news of an older term are no news. Invariant: a leader that is named was one in the term
//! beside it; whether it still is, only that node's raft group knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use phalanx_actors::names::ShardId;
use tokio::sync::watch;

use super::NodeId;
use super::wire::Led;

/// What is known of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// The newest term that was heard of.
    pub term: u64,
    /// Who leads in it.
    pub leader: Option<NodeId>,
}

impl Known {
    /// The leader with its term.
    #[must_use]
    pub fn led(self) -> Option<Led> {
        let term = self.term;
        self.leader.map(|node| Led { node, term })
    }
}

/// See the file's description.
#[derive(Debug)]
pub struct Leaders {
    shards: Vec<Slot>,
    changes: metrics::Counter,
}

#[derive(Debug)]
struct Slot {
    known: watch::Sender<Known>,
    /// The leader once more, for a look without a lock; 0 for none.
    leader: AtomicU64,
    /// The newest term of which this node's own raft group has named the leader.
    own: AtomicU64,
    voters: RwLock<Arc<[NodeId]>>,
    /// This node leads, but no majority answers it.
    cut_off: AtomicBool,
}

impl Leaders {
    /// Nobody leads yet; the voters are these, by shard.
    #[must_use]
    pub fn new(voters: Vec<Vec<NodeId>>) -> Self {
        let slot = |voters: Vec<NodeId>| Slot {
            known: watch::Sender::new(Known::default()),
            leader: AtomicU64::new(0),
            own: AtomicU64::new(0),
            voters: RwLock::new(voters.into()),
            cut_off: AtomicBool::new(false),
        };
        Self {
            shards: voters.into_iter().map(slot).collect(),
            changes: super::metrics::leader_changes(),
        }
    }

    fn slot(&self, shard: ShardId) -> Option<&Slot> {
        self.shards.get(usize::try_from(shard).ok()?)
    }

    /// What is known now.
    #[must_use]
    pub fn known(&self, shard: ShardId) -> Known {
        self.slot(shard)
            .map(|slot| *slot.known.borrow())
            .unwrap_or_default()
    }

    /// Whether `node` is the leader as far as is known. Cheap.
    #[must_use]
    pub fn is_leader(&self, shard: ShardId, node: NodeId) -> bool {
        self.slot(shard)
            .is_some_and(|slot| slot.leader.load(Ordering::Acquire) == node)
    }

    /// Tells of every change from now on.
    #[must_use]
    pub fn watch(&self, shard: ShardId) -> Option<watch::Receiver<Known>> {
        self.slot(shard).map(|slot| slot.known.subscribe())
    }

    /// What this node's own raft group says. It may also say that a leader is none any more.
    pub fn report(&self, shard: ShardId, known: Known) {
        if let Some(slot) = self.slot(shard)
            && known.leader.is_some()
        {
            slot.own.fetch_max(known.term, Ordering::Relaxed);
        }
        self.update(
            shard,
            |old| {
                if known.term >= old.term { known } else { old }
            },
        );
    }

    /// What another node says. Whether that was news.
    pub fn hear(&self, shard: ShardId, led: Led) -> bool {
        self.update(shard, |old| {
            let news = led.term > old.term || led.term == old.term && old.leader.is_none();
            if news {
                Known {
                    term: led.term,
                    leader: Some(led.node),
                }
            } else {
                old
            }
        })
    }

    /// Whether only other nodes have named the leader, as where this node's group is not told of
    /// anything any more.
    #[must_use]
    pub fn is_hearsay(&self, shard: ShardId) -> bool {
        self.slot(shard).is_some_and(|slot| {
            let known = *slot.known.borrow();
            known.leader.is_some() && slot.own.load(Ordering::Relaxed) < known.term
        })
    }

    fn update(&self, shard: ShardId, change: impl FnOnce(Known) -> Known) -> bool {
        let Some(slot) = self.slot(shard) else {
            return false;
        };
        slot.known.send_if_modified(|known| {
            let new = change(*known);
            if new == *known {
                return false;
            }
            if new.leader.is_some() {
                self.changes.increment(1);
            }
            *known = new;
            slot.leader
                .store(new.leader.unwrap_or_default(), Ordering::Release);
            true
        })
    }

    /// The voters of a shard.
    #[must_use]
    pub fn voters(&self, shard: ShardId) -> Arc<[NodeId]> {
        let none = || Arc::from([]);
        self.slot(shard)
            .map_or_else(none, |slot| Arc::clone(&slot.voters.read()))
    }

    /// Sets the voters of a shard.
    pub fn set_voters(&self, shard: ShardId, voters: &[NodeId]) {
        if let Some(slot) = self.slot(shard)
            && **slot.voters.read() != *voters
        {
            *slot.voters.write() = voters.into();
        }
    }

    /// Whether this node leads the shard without hearing from a majority, so that nothing can be
    /// committed here.
    #[must_use]
    pub fn is_cut_off(&self, shard: ShardId) -> bool {
        self.slot(shard)
            .is_some_and(|slot| slot.cut_off.load(Ordering::Relaxed))
    }

    /// Sets what [`Self::is_cut_off`] says.
    pub fn set_cut_off(&self, shard: ShardId, cut_off: bool) {
        if let Some(slot) = self.slot(shard) {
            slot.cut_off.store(cut_off, Ordering::Relaxed);
        }
    }

    /// The shards that `node` leads as far as is known.
    #[must_use]
    pub fn led_by(&self, node: NodeId) -> Vec<ShardId> {
        let shards = (0..).zip(&self.shards);
        let led = shards.filter(|(_, slot)| slot.leader.load(Ordering::Acquire) == node);
        led.map(|(shard, _)| shard).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(term: u64, leader: Option<NodeId>) -> Known {
        Known { term, leader }
    }

    #[test]
    fn news_of_an_older_term_are_no_news() {
        let leaders = Leaders::new(vec![vec![1, 2, 3]]);
        leaders.report(0, known(4, Some(2)));
        assert!(!leaders.hear(0, Led { node: 3, term: 3 }));
        assert!(!leaders.hear(0, Led { node: 3, term: 4 }));
        assert_eq!(leaders.known(0), known(4, Some(2)));
        assert!(leaders.hear(0, Led { node: 3, term: 5 }));
        leaders.report(0, known(4, None));
        assert_eq!(leaders.known(0), known(5, Some(3)));
        assert!(leaders.is_leader(0, 3) && !leaders.is_leader(0, 2));
        assert_eq!(leaders.led_by(3), [0]);
    }

    #[test]
    fn an_election_makes_the_leader_unknown_until_one_is_heard_of() {
        let leaders = Leaders::new(vec![vec![1, 2, 3]]);
        let mut watch = leaders.watch(0).unwrap();
        leaders.report(0, known(4, Some(2)));
        leaders.report(0, known(5, None));
        assert_eq!(leaders.known(0).led(), None);
        assert!(watch.has_changed().unwrap());
        watch.borrow_and_update();
        assert!(leaders.hear(0, Led { node: 1, term: 5 }));
        assert!(watch.has_changed().unwrap());
        assert_eq!(leaders.known(0).led(), Some(Led { node: 1, term: 5 }));
    }

    #[test]
    fn what_only_others_say_is_hearsay_until_the_own_group_says_it() {
        let leaders = Leaders::new(vec![vec![1, 2, 3]]);
        assert!(!leaders.is_hearsay(0), "nobody is named");
        leaders.report(0, known(4, Some(2)));
        assert!(!leaders.is_hearsay(0));
        leaders.hear(0, Led { node: 3, term: 6 });
        assert!(leaders.is_hearsay(0));
        leaders.report(0, known(6, None));
        leaders.hear(0, Led { node: 3, term: 6 });
        assert!(leaders.is_hearsay(0), "it knows the term, and no leader");
        leaders.report(0, known(6, Some(3)));
        assert!(!leaders.is_hearsay(0));
    }

    #[test]
    fn a_shard_that_does_not_exist_has_no_leader() {
        let leaders = Leaders::new(vec![vec![1]]);
        leaders.report(9, known(1, Some(1)));
        assert_eq!(leaders.known(9), Known::default());
        assert!(leaders.watch(9).is_none());
        assert!(leaders.voters(9).is_empty());
    }
}
