//! A build: one set of tables that is being filled, or was.
//!
//! Owns: how far each shard has been taken in, and who waits for that. Invariant: a position is said
//! to be reached only after the transaction with its rows is committed; it never moves backwards
//! while the process runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use phalanx_actors::names::ShardId;
use phalanx_actors::projection::{Change, ProjectionDefinition, Table};
use tokio::sync::watch;
use tokio::time::Instant;

use super::changes::Changes;
use super::store::StoredBuild;

/// Names a build in the store.
pub(crate) type BuildId = i64;

/// No build has this number.
const UNKNOWN: BuildId = 0;

/// One set of tables. See the file's description.
pub(crate) struct Build {
    pub(crate) id: BuildId,
    /// The projection's name.
    pub(crate) name: String,
    /// The version of the projection that fills it, or did.
    pub(crate) version: u32,
    /// The tables as they were made.
    pub(crate) tables: Vec<Table>,
    /// How to fill it; `None` when it was made by another version, whose code is gone.
    pub(crate) definition: Option<Arc<ProjectionDefinition>>,
    pub(crate) shards: Vec<Progress>,
    /// Which rows have changed lately.
    pub(crate) changes: Arc<Changes>,
    /// Events handled since the process began.
    pub(crate) handled: AtomicU64,
    /// Aggregates of which something was set aside.
    pub(crate) letters: AtomicU64,
}

impl fmt::Debug for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "build {} of {} {}", self.id, self.name, self.version)
    }
}

impl Build {
    /// Whether a change is one that readers of the view can see. The first table is the view.
    pub(crate) fn shows(&self, change: &Change<'_>) -> bool {
        let view = self.tables.first();
        change.table == 0 && view.is_some_and(|table| table.shows(change.columns))
    }

    /// A build as it is stored: with the code to fill it, if this definition has its version. So many
    /// attempts of dead letters have changed its rows.
    pub(crate) fn stored(
        stored: StoredBuild,
        definition: &Arc<ProjectionDefinition>,
        offsets: Vec<u64>,
        attempts: u64,
    ) -> Self {
        let same = stored.version == definition.version && stored.tables == definition.tables;
        Self {
            id: stored.id,
            name: stored.name,
            version: stored.version,
            tables: stored.tables,
            definition: same.then(|| Arc::clone(definition)),
            changes: Arc::new(Changes::new(offsets.clone(), attempts)),
            shards: offsets.into_iter().map(Progress::new).collect(),
            handled: AtomicU64::new(0),
            letters: AtomicU64::new(0),
        }
    }

    /// What stands for the build that answers as long as the store could not be asked which that is.
    pub(crate) fn unknown(definition: &Arc<ProjectionDefinition>, shards: u32) -> Self {
        Self {
            id: UNKNOWN,
            name: definition.name.to_owned(),
            version: definition.version,
            tables: definition.tables.clone(),
            definition: Some(Arc::clone(definition)),
            changes: Arc::new(Changes::new((0..shards).map(|_| 0).collect(), 0)),
            shards: (0..shards).map(|_| Progress::new(0)).collect(),
            handled: AtomicU64::new(0),
            letters: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_unknown(&self) -> bool {
        self.id == UNKNOWN
    }

    /// The name of one of its tables in the store.
    pub(crate) fn stored_as(&self, table: &str) -> String {
        stored_as(self.id, table)
    }

    /// The progress in a shard.
    pub(crate) fn progress(&self, shard: ShardId) -> Option<&Progress> {
        self.shards.get(usize::try_from(shard).ok()?)
    }

    /// The shards with their progress.
    pub(crate) fn by_shard(&self) -> impl Iterator<Item = (ShardId, &Progress)> {
        (0..).zip(&self.shards)
    }
}

/// The name of a build's table in the store.
pub(crate) fn stored_as(build: BuildId, table: &str) -> String {
    format!("b{build}_{table}")
}

/// How far one shard has been taken in.
#[derive(Debug)]
pub(crate) struct Progress {
    reached: watch::Sender<u64>,
    /// How many queries wait for it.
    waiting: watch::Sender<usize>,
    /// When the oldest event that is on its way was decided; 0 when none is.
    oldest_us: AtomicI64,
    failure: Mutex<Option<String>>,
}

impl Progress {
    pub(crate) fn new(reached: u64) -> Self {
        Self {
            reached: watch::Sender::new(reached),
            waiting: watch::Sender::new(0),
            oldest_us: AtomicI64::new(0),
            failure: Mutex::new(None),
        }
    }

    /// Position number of the last event that is in the rows.
    pub(crate) fn reached(&self) -> u64 {
        *self.reached.borrow()
    }

    /// Notes that everything up to `position` is in the rows, and wakes who waits for it.
    pub(crate) fn advance(&self, position: u64) {
        self.reached.send_if_modified(|reached| {
            let grows = position > *reached;
            *reached = position.max(*reached);
            grows
        });
    }

    /// Waits until `position` is in the rows. Costs nothing while it waits.
    pub(crate) async fn wait(&self, position: u64) {
        let _waiting = Waiting::new(&self.waiting);
        let mut reached = self.reached.subscribe();
        // The sender lives as long as `self`: waiting cannot fail.
        let _reached = reached.wait_for(|reached| *reached >= position).await;
    }

    /// Returns at `due`, or as soon as somebody waits.
    pub(crate) async fn pause(&self, due: Instant) {
        let mut waiting = self.waiting.subscribe();
        // Time that is up is what usually ends it; the sender lives as long as `self`.
        let _due = tokio::time::timeout_at(due, waiting.wait_for(|waiting| *waiting > 0)).await;
    }

    pub(crate) fn set_oldest_us(&self, time_us: i64) {
        self.oldest_us.store(time_us, Ordering::Relaxed);
    }

    pub(crate) fn oldest_us(&self) -> Option<i64> {
        Some(self.oldest_us.load(Ordering::Relaxed)).filter(|time_us| *time_us != 0)
    }

    pub(crate) fn set_failure(&self, failure: Option<String>) {
        *self.failure.lock() = failure;
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }
}

/// Counts one that waits, for as long as it lives.
#[derive(Debug)]
pub(super) struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    pub(super) fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|waiting| *waiting += 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}
