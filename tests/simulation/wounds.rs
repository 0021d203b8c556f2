//! Copies of which rows were damaged, and what becomes of them.
//!
//! Owns what is known of that, over all lives of all nodes. Invariants: a copy is refused only where
//! bits were flipped, and is served again only when none of them is left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use phalanx::cluster::NodeId;
use phalanx::cluster::status::ShardView;
use phalanx::journal::{Journal, MemoryDisk};
use phalanx::node::core::Core;
use phalanx_actors::names::ShardId;
use tokio::task::JoinHandle;

use crate::chance::Trace;

/// How often each copy is looked at. A refusal lasts for longer.
const LOOK: Duration = Duration::from_millis(10);

/// Where a damaged copy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody has read what is damaged.
    Hidden,
    /// The node refuses the shard.
    Refused,
    /// It was thrown away, and does not vote.
    Blank,
}

/// How many copies were refused, and how many of them voted again.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) refusals: u32,
    pub(crate) repairs: u32,
}

/// See the file's description.
#[derive(Debug)]
pub(crate) struct Wounds {
    trace: Arc<Trace>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    copies: BTreeMap<(NodeId, ShardId), Stage>,
    tally: Tally,
}

impl Wounds {
    pub(crate) fn new(trace: Arc<Trace>) -> Arc<Self> {
        Arc::new(Self {
            trace,
            state: Mutex::default(),
        })
    }

    /// Bits of a copy were flipped.
    pub(crate) fn inflict(&self, node: NodeId, shard: ShardId) {
        let copies = &mut self.state.lock().copies;
        copies.entry((node, shard)).or_insert(Stage::Hidden);
    }

    /// Whether a node has a copy that holds damage.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        let copies = &self.state.lock().copies;
        let mut own = copies.iter().filter(|((of, _), _)| *of == node);
        own.any(|(_, stage)| *stage != Stage::Blank)
    }

    /// Waits until a copy is thrown away.
    pub(crate) async fn when_blank(&self, node: NodeId, shard: ShardId) {
        while self.state.lock().copies.get(&(node, shard)) != Some(&Stage::Blank) {
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.state.lock().tally
    }

    /// Watches a life of a node. The task is to be aborted when it ends.
    pub(crate) fn watch(
        self: &Arc<Self>,
        core: &Core,
        journal: &Journal,
        disk: &MemoryDisk,
    ) -> JoinHandle<()> {
        let (wounds, journal, disk) = (Arc::clone(self), journal.clone(), disk.clone());
        let steward = Arc::clone(&core.steward);
        tokio::spawn(async move {
            loop {
                let view = steward.node_view();
                for shard in &view.shards {
                    wounds.look(view.node, shard, &journal, &disk);
                }
                tokio::time::sleep(LOOK).await;
            }
        })
    }

    fn look(&self, node: NodeId, view: &ShardView, journal: &Journal, disk: &MemoryDisk) {
        let shard = view.shard;
        let refused = journal.shard_health(shard);
        let is_whole = !disk.has_flipped_bits(shard);
        // Without a copy it goes by hearsay.
        let votes = view.last_log_index.is_some() && view.voters.contains(&node);
        let mut state = self.state.lock();
        let State { copies, tally } = &mut *state;
        let stage = copies.get(&(node, shard)).copied();
        let next = match (stage, refused) {
            (None, Ok(())) => None,
            (None, Err(reason)) => {
                self.trace.violated(format!(
                    "node {node} refuses shard {shard}, which nobody damaged: {reason}"
                ));
                None
            }
            (Some(_), Err(_)) => Some(Stage::Refused),
            (Some(Stage::Refused), Ok(())) => Some(Stage::Blank),
            // What was damaged was written anew.
            (Some(Stage::Hidden), Ok(())) if is_whole => None,
            (Some(Stage::Blank), Ok(())) if is_whole && votes => {
                tally.repairs += 1;
                None
            }
            (stage, Ok(())) => stage,
        };
        if next == stage {
            return;
        }
        tally.refusals += u32::from(next == Some(Stage::Refused));
        self.trace.note(&format!(
            "node {node}, shard {shard}: damaged copy {stage:?} -> {next:?}"
        ));
        match next {
            Some(next) => copies.insert((node, shard), next),
            None => copies.remove(&(node, shard)),
        };
    }
}
