//! The place of a shard's raft group, as the shard's actor sees it.
//!
//! A group may end while the node runs, when its storage is damaged, and another one may begin later.
//! Owns nothing: it looks the group up each time. Invariant: without a group nothing is proposed and
//! no read is answered.

use std::sync::Arc;

use phalanx_actors::names::ShardId;
use phalanx_actors::ports::{Batch, BoxFuture, Proposed, ProposedCallback, Replicator};

use super::service::RaftCalls;

/// See the file's description.
#[derive(Debug, Clone)]
pub struct Seat {
    groups: Arc<RaftCalls>,
    shard: ShardId,
}

impl Seat {
    /// The place of a shard's group among those of this node.
    #[must_use]
    pub fn new(groups: Arc<RaftCalls>, shard: ShardId) -> Self {
        Self { groups, shard }
    }
}

impl Replicator for Seat {
    fn propose(&self, term: u64, batch: Batch, done: ProposedCallback) -> BoxFuture<'_, ()> {
        let Some(group) = self.groups.get(self.shard) else {
            done(Proposed::NotProposed);
            return Box::pin(std::future::ready(()));
        };
        Box::pin(async move { group.propose(term, batch, done).await })
    }

    fn confirm_leadership(&self, term: u64) -> BoxFuture<'_, bool> {
        let Some(group) = self.groups.get(self.shard) else {
            return Box::pin(std::future::ready(false));
        };
        Box::pin(async move { group.confirm_leadership(term).await })
    }
}
