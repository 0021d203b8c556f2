//! The raft groups of this node: who looks for one finds it here, and other nodes' calls as well.
//!
//! Owns the table of groups, which come and go while the node runs: a damaged copy ends with its group,
//! and a new one begins with another. Refuses votes for one lease after a start: whoever ran
//! before may have promised not to elect another leader, and a promise is not on disk. Invariant:
//! appends reach a group in the order in which they arrive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::RwLock;
use phalanx_actors::names::ShardId;
use phalanx_actors::ports::BoxFuture;

use super::group::Group;
use super::wire;
use crate::cluster::NodeId;
use crate::cluster::transport::{CallKind, Service};

/// See the file's description.
#[derive(Debug, Default)]
pub struct RaftCalls {
    groups: RwLock<BTreeMap<ShardId, Arc<Group>>>,
}

impl RaftCalls {
    /// Answers for a group from now on.
    pub fn add(&self, group: Arc<Group>) {
        self.groups.write().insert(group.shard(), group);
    }

    /// Answers for no group of the shard any more. It should have ended before.
    pub fn remove(&self, shard: ShardId) {
        self.groups.write().remove(&shard);
    }

    /// The group of a shard.
    #[must_use]
    pub fn get(&self, shard: ShardId) -> Option<Arc<Group>> {
        self.groups.read().get(&shard).cloned()
    }

    /// All groups of now, in the order of their shards.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Group>> {
        self.groups.read().values().cloned().collect()
    }

    fn start(&self, kind: CallKind, mut request: Bytes) -> Answer {
        let shard = match wire::take_shard(&mut request) {
            Ok(shard) => shard,
            Err(error) => return refused(error.to_string()),
        };
        let Some(group) = self.get(shard) else {
            return refused(format!("this node has no replica of shard {shard}"));
        };
        match kind {
            CallKind::Append => Box::pin(async move { group.append(request).await }),
            CallKind::Vote => Box::pin(async move { group.vote(&request).await }),
            CallKind::PreVote => Box::pin(async move { group.pre_vote(&request).await }),
            CallKind::TakeOver => Box::pin(async move { group.take_over(&request).await }),
            other => refused(format!("raft does not answer {other:?}")),
        }
    }
}

type Answer = BoxFuture<'static, Result<Bytes, String>>;

fn refused(reason: String) -> Answer {
    Box::pin(std::future::ready(Err(reason)))
}

impl Service for RaftCalls {
    fn handle(&self, _from: NodeId, kind: CallKind, request: Bytes) -> Answer {
        let mut answer = self.start(kind, request);
        // The first step hands the message to the group; doing it here keeps the order. It must not
        // be put off because the task that reads the connection has used up its turn.
        let mut first = tokio::task::unconstrained(answer.as_mut());
        let step = std::pin::Pin::new(&mut first).poll(&mut Context::from_waker(Waker::noop()));
        match step {
            Poll::Ready(done) => Box::pin(std::future::ready(done)),
            Poll::Pending => answer,
        }
    }
}
