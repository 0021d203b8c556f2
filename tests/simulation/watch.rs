//! Looks at each node at the moment at which it begins to serve a shard.
//!
//! No client can see these rules by itself: other parts of the code hide it for a while when one of
//! them is broken. Invariants: whoever serves has applied all commands in its log and an entry of its
//! own term; one life of one node serves in a term, and no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use phalanx::cluster::NodeId;
use phalanx::journal::{Journal, LogPayload};
use phalanx::node::core::Core;
use phalanx_actors::names::ShardId;
use phalanx_actors::shard::ShardHandle;
use tokio::task::JoinHandle;

use crate::chance::Trace;

/// Who served which shard in which term.
#[derive(Debug)]
pub(crate) struct Terms {
    trace: Arc<Trace>,
    lives: AtomicU64,
    served: Mutex<BTreeMap<(ShardId, u64), Served>>,
}

/// A node and its life.
type Served = (NodeId, u64);

impl Terms {
    pub(crate) fn new(trace: Arc<Trace>) -> Arc<Self> {
        Arc::new(Self {
            trace,
            lives: AtomicU64::new(0),
            served: Mutex::default(),
        })
    }

    /// Watches a life of a node. The tasks are to be aborted when it ends.
    pub(crate) fn watch(
        self: &Arc<Self>,
        node: NodeId,
        core: &Core,
        journal: &Journal,
    ) -> Vec<JoinHandle<()>> {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        let watch = |shard: &ShardHandle| {
            let (terms, shard) = (Arc::clone(self), shard.clone());
            let (steward, journal) = (Arc::clone(&core.steward), journal.clone());
            tokio::spawn(async move {
                let mut term = 0;
                loop {
                    shard.began(term + 1).await;
                    let Some(serving) = shard.serving() else {
                        continue;
                    };
                    term = serving.term();
                    let view = steward.node_view();
                    let view = view.shards.iter().find(|at| at.shard == shard.shard());
                    let applied = view.and_then(|view| view.applied_index);
                    terms.serves((node, life), shard.shard(), term);
                    terms.has_applied(node, shard.shard(), applied, &journal);
                }
            })
        };
        core.shards.iter().map(watch).collect()
    }

    fn serves(&self, who: Served, shard: ShardId, term: u64) {
        self.trace.note(&format!(
            "node {} serves shard {shard} in term {term}",
            who.0
        ));
        let before = self.served.lock().insert((shard, term), who);
        if let Some(before) = before.filter(|before| *before != who) {
            self.trace.violated(format!(
                "shard {shard}: node {} and node {} (lives {} and {}) serve in term {term}",
                before.0, who.0, before.1, who.1
            ));
        }
    }

    /// Changes of the voters may be on their way at any time; a leader's first entry is empty.
    fn has_applied(&self, node: NodeId, shard: ShardId, applied: Option<u64>, journal: &Journal) {
        let from = applied.map_or(0, |index| index + 1);
        let Ok(page) = journal.read_log(shard, from..u64::MAX, 1 << 20) else {
            // It comes upon damage and will not serve for long.
            assert!(journal.is_damaged(shard));
            return;
        };
        let open = page.into_iter().find(|entry| match &entry.payload {
            LogPayload::Records(_) => true,
            LogPayload::Other(change) => change.is_empty(),
        });
        if let Some(entry) = open {
            self.trace.violated(format!(
                "node {node} serves shard {shard} with {applied:?} applied, before entry {}",
                entry.index
            ));
        }
    }
}
