//! What the callers' side and the writer share.
//!
//! Owns: nothing but the parts. Invariant: lock order is a shard's log before the queue.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use phalanx_actors::names::ShardId;
use phalanx_actors::ports::{Clock, JournalError};

use super::disk::{Disk, DiskError};
use super::entries::Damage;
use super::queue::{Queue, Taken};
use super::shard::Shard;
use super::types::FatalHook;
use super::wal;
use super::writer::Writer;

/// See the module.
pub(crate) struct Shared {
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shards: Vec<Shard>,
    pub(crate) queue: Queue,
    pub(crate) full: AtomicBool,
    pub(crate) fatal: FatalHook,
    pub(crate) log_cache_bytes: usize,
    pub(crate) retention_us: i64,
    /// The way to the disk.
    pub(crate) writer: Writer,
    /// Whether callers do the writer's work on their own threads.
    pub(crate) inline: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn shard(&self, shard: ShardId) -> Option<&Shard> {
        self.shards.get(usize::try_from(shard).ok()?)
    }

    /// The shard if it may be read.
    pub(crate) fn readable(&self, shard: ShardId) -> Result<&Shard, JournalError> {
        let found = self.shard(shard).ok_or_else(|| {
            JournalError::Io(Arc::new(NoSuchShard {
                shard,
                shards: self.shards.len(),
            }))
        })?;
        found.health()?;
        Ok(found)
    }

    /// Position number of the last indexed event.
    pub(crate) fn indexed(&self, shard: ShardId) -> Option<u64> {
        Some(*self.shard(shard)?.indexed.borrow())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Does the writer's work until nothing is queued, unless it has threads for that.
    pub(crate) fn drain_inline(&self) {
        if self.inline && !self.disk.puts_off() {
            self.drain();
        }
    }

    /// Does the writer's work on this thread, whoever's turn it is.
    pub(crate) fn drain(&self) {
        let mut taken = Taken::default();
        while self.queue.take_inline(&mut taken) {
            self.writer.cycle(self, &mut taken);
            self.queue.drained_inline();
        }
    }
}

impl Shard {
    /// What a failed read means: damage refuses the shard, anything else does not.
    pub(crate) fn read_failed(&self, what: impl Into<String>, error: DiskError) -> JournalError {
        match error {
            DiskError::Corrupt(reason) => {
                let what = wal::named_file(&reason).unwrap_or_else(|| what.into());
                self.corrupt(what, reason)
            }
            error => JournalError::Io(error.into_source()),
        }
    }

    pub(crate) fn damaged(&self, damage: Damage) -> JournalError {
        self.corrupt(damage.what, damage.reason)
    }
}

/// The caller named a shard that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard} does not exist; there are {shards}")]
pub(crate) struct NoSuchShard {
    pub(crate) shard: ShardId,
    pub(crate) shards: usize,
}
