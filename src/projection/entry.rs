//! One registered projection: the build that answers, the one that will, and whether it is paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use phalanx_actors::names::Position;
use phalanx_actors::projection::ProjectionDefinition;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::build::Build;
use super::gather::Gatherer;

/// A build that is being filled to take the place of the one that answers.
#[derive(Debug, Clone)]
pub(super) struct Rebuild {
    pub(super) build: Arc<Build>,
    pub(super) since: Instant,
    /// The sum of its offsets then.
    pub(super) from: u64,
    /// What puts it in its place, if this node does.
    pub(super) task: Option<AbortHandle>,
}

/// Why a view answers nothing for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Withheld {
    /// Its file is being checked for damage.
    Checked,
    /// Its file was damaged, and the new rows have not caught up.
    Rebuilt,
}

impl Withheld {
    /// For whoever asks.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Checked => "the read models are being checked for damage",
            Self::Rebuilt => "the read models were damaged and are being built again",
        }
    }
}

/// See the file's description.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) definition: Arc<ProjectionDefinition>,
    live: watch::Sender<Arc<Build>>,
    withheld: watch::Sender<Option<Withheld>>,
    pub(super) rebuild: Mutex<Option<Rebuild>>,
    pub(super) paused: watch::Sender<bool>,
    /// Events per second lately, as the bits of a float.
    pub(super) rate: AtomicU64,
    /// Who waits for a row of it.
    pub(super) rows: Gatherer,
}

impl Entry {
    pub(super) fn new(
        definition: Arc<ProjectionDefinition>,
        live: Arc<Build>,
        paused: bool,
    ) -> Self {
        Self {
            definition,
            live: watch::Sender::new(live),
            withheld: watch::Sender::new(None),
            rebuild: Mutex::new(None),
            paused: watch::Sender::new(paused),
            rate: AtomicU64::new(0),
            rows: Gatherer::default(),
        }
    }

    /// Why it answers nothing, if so.
    pub(super) fn withheld(&self) -> Option<Withheld> {
        *self.withheld.borrow()
    }

    pub(super) fn withhold(&self, why: Withheld) {
        self.withheld.send_replace(Some(why));
    }

    /// Waits until it is not withheld.
    pub(super) async fn released(&self) {
        let mut withheld = self.withheld.subscribe();
        // The sender lives as long as `self`: waiting cannot fail.
        let _released = withheld.wait_for(Option::is_none).await;
    }

    /// Lets it answer with this build, unless there is another one by now.
    pub(super) fn release(&self, build: &Arc<Build>) -> bool {
        self.withheld.send_if_modified(|withheld| {
            Arc::ptr_eq(&self.live.borrow(), build) && withheld.take().is_some()
        })
    }

    /// The build that answers.
    pub(super) fn live(&self) -> Arc<Build> {
        Arc::clone(&self.live.borrow())
    }

    /// The build that answers, and the one that will.
    pub(super) fn builds(&self) -> Vec<Arc<Build>> {
        let rebuild = self.rebuild.lock();
        let next = rebuild.as_ref().map(|rebuild| Arc::clone(&rebuild.build));
        std::iter::once(self.live()).chain(next).collect()
    }

    /// Hears of each build that takes the place of the one that answers.
    pub(super) fn swaps(&self) -> watch::Receiver<Arc<Build>> {
        self.live.subscribe()
    }

    /// Events that were handled since the node started, those of a rebuild included. After a swap it
    /// begins with those of the new build.
    pub(super) fn handled(&self) -> u64 {
        let rebuild = self.rebuild.lock().clone();
        let rebuilt = rebuild.map_or(0, |rebuild| rebuild.build.handled.load(Ordering::Relaxed));
        self.live().handled.load(Ordering::Relaxed) + rebuilt
    }

    /// Lets another build answer from now on.
    pub(super) fn swap(&self, new: Arc<Build>) {
        self.show(new);
        *self.rebuild.lock() = None;
    }

    /// The same, whatever is being built beside it.
    pub(super) fn show(&self, live: Arc<Build>) {
        self.live.send_replace(live);
    }

    /// Whether the build that answers has taken in a position.
    pub(super) fn has_reached(&self, position: Position) -> bool {
        let live = self.live();
        let progress = live.progress(position.shard);
        progress.is_some_and(|progress| progress.reached() >= position.number)
    }

    /// Waits until the build that answers has taken in a position, also when another one takes its
    /// place meanwhile.
    pub(super) async fn wait(&self, position: Position) {
        let mut changes = self.live.subscribe();
        loop {
            let live = Arc::clone(&changes.borrow_and_update());
            let Some(progress) = live.progress(position.shard) else {
                return std::future::pending().await;
            };
            tokio::select! {
                () = progress.wait(position.number) => return,
                // The sender lives as long as `self`.
                _changed = changes.changed() => {}
            }
        }
    }
}
