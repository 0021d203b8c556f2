//! Which shards have a copy on this node, for the feed of committed events.
//!
//! Looks at the raft groups and at the health of the storage, at most so often: every reader asks.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use phalanx_actors::names::ShardId;
use tokio::time::Instant;

use crate::cluster::feed::{Copies, Copy};
use crate::cluster::steward::Steward;
use crate::journal::Journal;

/// How old an answer may be.
const FRESH: Duration = Duration::from_millis(100);

/// See the file's description.
#[derive(Debug)]
pub(super) struct NodeCopies {
    steward: Arc<Steward>,
    journal: Journal,
    seen: Mutex<Option<(Instant, Vec<Copy>)>>,
}

impl NodeCopies {
    pub(super) fn new(steward: Arc<Steward>, journal: Journal) -> Self {
        let seen = Mutex::default();
        Self {
            steward,
            journal,
            seen,
        }
    }

    fn look(&self) -> Vec<Copy> {
        let mut copies = self.steward.copies();
        for (shard, copy) in (0..).zip(&mut copies) {
            if self.journal.shard_health(shard).is_err() {
                *copy = Copy::Damaged;
            }
        }
        copies
    }
}

impl Copies for NodeCopies {
    fn copy(&self, shard: ShardId) -> Copy {
        let at = usize::try_from(shard).unwrap_or(usize::MAX);
        let mut seen = self.seen.lock();
        let fresh = seen.as_ref().filter(|(when, _)| when.elapsed() < FRESH);
        if fresh.is_none() {
            *seen = Some((Instant::now(), self.look()));
        }
        let copy = seen.as_ref().and_then(|(_, copies)| copies.get(at));
        copy.copied().unwrap_or(Copy::None)
    }
}
