//! Stands where a shard's raft group would be when its storage is damaged: nothing is proposed and
//! no read is answered.

use phalanx_actors::ports::{Batch, BoxFuture, Proposed, ProposedCallback, Replicator};

/// See the file's description.
#[derive(Debug, Clone, Copy)]
pub struct Refused;

impl Replicator for Refused {
    fn propose(&self, _term: u64, _batch: Batch, done: ProposedCallback) -> BoxFuture<'_, ()> {
        done(Proposed::NotProposed);
        Box::pin(std::future::ready(()))
    }

    fn confirm_leadership(&self, _term: u64) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }
}
