//! The journal: every shard's log, votes, stream index, idempotency keys and snapshots, on one disk.
//!
//! Owns: all that a node stores of its shards. Refuses: to lose or to invent; what cannot be read
//! back as it was written is an error that names the shard, never a guess, and a disk that fails
//! ends the process. It knows nothing of raft: votes, log ids and membership pass through opaque.
//!
//! Invariants: writes of a shard reach the disk in the order of calls; "done" is said after the
//! fsync that covers the write; one fsync covers everything that waited, whatever its shard.
//!
//! ```text
//! caller --> shard (memory: newest entries) --> queue --> writer --> disk port --> RocksDB
//!   ^                                                      |  batches, one fsync, then `done`
//!   '-------------------- done ----------------------------'  later index rows without one
//! ```
//! Where to look: `types` what goes in and out, `rows` the stored bytes, `writer` the order of
//! things on disk, `open` what is checked at a start, `rocks_options` how RocksDB is set up.

mod directory;
mod disk;
mod entries;
mod feed;
mod index;
mod log_read;
mod mark;
mod memory;
mod open;
mod overlay;
mod port;
mod queue;
mod read_only;
mod rocks;
mod rocks_options;
mod rows;
mod run;
mod shard;
mod shared;
mod space;
mod stream_read;
#[cfg(test)]
mod tests;
mod types;
mod wal;
mod writer;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use phalanx_actors::names::ShardId;
use phalanx_actors::ports::{Clock, JournalError};
use uuid::Uuid;

pub use self::memory::{MemoryDisk, Survivors};
pub use self::types::{
    Applied, AppliedRecord, Done, EXIT_STORAGE_FAILED, FatalHook, Identity, JournalOptions,
    LogBounds, LogEntry, LogPayload, OpenError, StorageFailure,
};

use self::directory::Directory;
use self::disk::DiskError;
use self::log_read::read_rows;
use self::queue::{IndexWork, LogWork, LogWorkKind};
use self::shard::{LogEnd, Shard};
use self::shared::{NoSuchShard, Shared};
use self::writer::Writer;

/// What a journal lies on.
#[derive(Debug, Clone)]
pub enum Storage {
    /// The data directory of the options.
    RocksDb,
    /// A simulated disk.
    Memory(MemoryDisk),
}

/// A node's journal. Clones share it; the last one to go stops the writer.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    // Fields drop in this order: the threads are joined, then the disk closes, then the lock goes.
    threads: Mutex<Vec<JoinHandle<()>>>,
    shared: Arc<Shared>,
    incarnation: Uuid,
    _directory: Option<Directory>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Journal").field(&self.0.shared).finish()
    }
}

impl Journal {
    /// Opens or formats a journal, checks every shard's end, and starts the writer.
    ///
    /// # Errors
    /// [`OpenError`] when nothing can be served. A shard that alone is damaged is refused instead:
    /// see [`Journal::shard_health`].
    pub fn open(
        options: &JournalOptions,
        storage: Storage,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let mut opened = match storage {
            Storage::RocksDb => open::open_rocks(options, &clock)?,
            Storage::Memory(disk) => open::open_memory(options, &disk)?,
        };
        let incarnation = opened.incarnation;
        let directory = opened.directory.take();
        let shared = Arc::new(open::build(options, opened, clock));
        let mut threads = Vec::new();
        if !shared.inline {
            type Work = fn(&Writer, &Shared);
            for (name, work) in [
                ("writer", Writer::run as Work),
                ("stand-in", Writer::stand_in as Work),
            ] {
                let of_thread = Arc::clone(&shared);
                let builder = std::thread::Builder::new().name(format!("journal-{name}"));
                match builder.spawn(move || work(&of_thread.writer, &of_thread)) {
                    Ok(thread) => threads.push(thread),
                    Err(error) => {
                        shared.queue.close();
                        return Err(OpenError::Io {
                            path: options.data_dir.clone(),
                            source: Arc::new(error),
                        });
                    }
                }
            }
        }
        Ok(Self(Arc::new(Inner {
            threads: Mutex::new(threads),
            shared,
            incarnation,
            _directory: directory,
        })))
    }

    /// Made up when the directory was formatted: tells a wiped directory from the one before.
    #[must_use]
    pub fn incarnation(&self) -> Uuid {
        self.0.incarnation
    }

    /// Whether a shard may be served.
    ///
    /// # Errors
    /// Why not. It stays so until the journal is opened again, or everything of the shard is
    /// [thrown away](Self::discard).
    pub fn shard_health(&self, shard: ShardId) -> Result<(), JournalError> {
        self.0.shared.readable(shard).map(|_| ())
    }

    /// Appends entries behind the last one. They are readable through [`Journal::read_log`] when
    /// this returns, and on disk when `done` says so.
    pub fn append(&self, shard: ShardId, entries: Vec<LogEntry>, done: Done) {
        self.log_work(shard, done, |state, log| {
            Ok(LogWorkKind::Append(log.append(state.id, entries)?))
        });
    }

    /// Saves a vote.
    pub fn save_vote(&self, shard: ShardId, vote: Bytes, done: Done) {
        self.log_work(shard, done, |_, log| {
            log.votes += 1;
            log.vote = Some(vote.clone());
            Ok(LogWorkKind::Vote(log.votes, vote))
        });
    }

    /// Saves what raft calls purged. Nothing is removed: the log is the event log.
    pub fn save_purged(&self, shard: ShardId, purged: Bytes, done: Done) {
        self.log_work(shard, done, |_, log| {
            log.purged = Some(purged.clone());
            Ok(LogWorkKind::Purged(purged))
        });
    }

    /// Removes the entries behind `last_kept`, or all of them.
    pub fn truncate_after(&self, shard: ShardId, last_kept: Option<u64>, done: Done) {
        let shared = &self.0.shared;
        self.log_work(shard, done, |state, log| {
            let until = log.end.as_ref().map_or(0, |end| end.index + 1);
            let first = log.first_index.unwrap_or(until);
            let kept_end = last_kept.map_or(first, |kept| kept + 1);
            let applied_end = log.applied.as_ref().map_or(0, |applied| applied.index + 1);
            if kept_end < applied_end || kept_end < first {
                return Err(StorageFailure::OutOfOrder {
                    shard: state.id,
                    what: "end of a truncation",
                    expected: applied_end.max(first),
                    got: kept_end,
                });
            }
            let kept = match kept_end.checked_sub(1) {
                _ if kept_end >= until => log.end.clone(),
                Some(kept) if kept >= first => Some(end_at(shared, state, log, kept)?),
                _ => None,
            };
            log.truncate(kept.clone());
            Ok(LogWorkKind::Truncate {
                from: kept_end.min(until),
                until,
                kept,
            })
        });
    }

    /// Queues log work in the order in which the shard's state changed.
    fn log_work(
        &self,
        shard: ShardId,
        done: Done,
        change: impl FnOnce(&Shard, &mut shard::LogState) -> Result<LogWorkKind, StorageFailure>,
    ) {
        let shared = &self.0.shared;
        let Some(state) = shared.shard(shard) else {
            let source = NoSuchShard {
                shard,
                shards: shared.shards.len(),
            };
            return done(Err(StorageFailure::Refused {
                shard,
                reason: source.to_string(),
            }));
        };
        if let Err(refused) = state.writable() {
            return done(Err(refused));
        }
        let mut log = state.log.lock();
        let queued = match change(state, &mut log) {
            Ok(kind) => shared.queue.push_log(LogWork {
                shard,
                truncations: log.truncations,
                kind,
                done,
            }),
            Err(failure) => {
                drop(log);
                return done(Err(failure));
            }
        };
        drop(log);
        if let Err(work) = queued {
            (work.done)(Err(StorageFailure::Closed));
        }
        shared.drain_inline();
    }

    /// Whether stored bytes of a shard are damaged.
    #[must_use]
    pub fn is_damaged(&self, shard: ShardId) -> bool {
        let health = self.shard_health(shard);
        matches!(health, Err(JournalError::Corrupt { .. }))
    }

    /// The last vote of a damaged shard, as far as it can be read: for [`Journal::discard`].
    #[must_use]
    pub fn vote_of_damaged(&self, shard: ShardId) -> Option<Bytes> {
        let shared = &self.0.shared;
        let state = shared.shard(shard)?;
        let known = state.log.lock().vote.clone();
        known.or_else(|| {
            let stored = open::read_vote(&*shared.disk, shard).ok().flatten();
            stored.map(|row| row.vote)
        })
    }

    /// Throws everything of a damaged shard away but for this vote; when `done` says so, the shard is
    /// blank and may be written again. Whoever asks for it knows that nothing in it is counted on any
    /// more. A crash meanwhile leaves the shard damaged.
    ///
    /// `done` fails, and the shard stays refused, when it is not damaged, or when its damage keeps the
    /// disk from showing that nothing is left.
    pub fn discard(&self, shard: ShardId, vote: Bytes, done: Done) {
        let shared = &self.0.shared;
        if !self.is_damaged(shard) {
            return done(Err(StorageFailure::Refused {
                shard,
                reason: "what is not damaged is not thrown away".to_owned(),
            }));
        }
        let queued = shared.queue.push_log(LogWork {
            shard,
            truncations: 0,
            kind: LogWorkKind::Discard(vote),
            done,
        });
        if let Err(work) = queued {
            (work.done)(Err(StorageFailure::Closed));
        }
        shared.drain_inline();
    }

    /// Indexes committed records and moves the applied mark with them. Needs no fsync: after a
    /// crash the mark is where its rows are, and what follows must be applied again.
    pub fn apply(&self, shard: ShardId, records: Vec<AppliedRecord>, applied: Applied) {
        let shared = &self.0.shared;
        let Some(state) = shared.shard(shard) else {
            return;
        };
        let mut log = state.log.lock();
        if state.health().is_err() {
            // Whoever applies may not have heard of the damage.
            return;
        }
        log.applied = Some(applied.clone());
        state.committed_by(&records);
        let work = IndexWork::Apply(state.life(), records, applied);
        shared.queue.push_index(work);
        drop(log);
        shared.drain_inline();
    }

    /// The last vote saved.
    ///
    /// # Errors
    /// When the shard is refused.
    pub fn read_vote(&self, shard: ShardId) -> Result<Option<Bytes>, JournalError> {
        Ok(self.0.shared.readable(shard)?.log.lock().vote.clone())
    }

    /// What raft calls purged.
    ///
    /// # Errors
    /// When the shard is refused.
    pub fn read_purged(&self, shard: ShardId) -> Result<Option<Bytes>, JournalError> {
        Ok(self.0.shared.readable(shard)?.log.lock().purged.clone())
    }

    /// Where the log begins and ends; `None` when it is empty.
    ///
    /// # Errors
    /// When the shard is refused.
    pub fn log_bounds(&self, shard: ShardId) -> Result<Option<LogBounds>, JournalError> {
        Ok(self.0.shared.readable(shard)?.log.lock().bounds())
    }

    /// The entries of `range` that exist, in order: at least one if there is one, and no more once
    /// they weigh `max_bytes`.
    ///
    /// # Errors
    /// When stored bytes are damaged, which refuses the shard, or the disk refused.
    pub fn read_log(
        &self,
        shard: ShardId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, JournalError> {
        self.0.shared.read_log(shard, range, max_bytes)
    }

    /// A raft group cannot go on without what it failed to read. Damage is none of this: the shard is
    /// refused, and its group ended in order.
    pub(crate) fn group_failed(&self, shard: ShardId, error: &JournalError) {
        let JournalError::Io(source) = error else {
            return;
        };
        if matches!(source.downcast_ref(), Some(DiskError::Crashed)) {
            return;
        }
        self.0.shared.fatal.call(&StorageFailure::Unreadable {
            what: format!("the log of shard {shard}"),
            source: Arc::clone(source),
        });
    }

    /// How far the shard is applied.
    ///
    /// # Errors
    /// When the shard is refused.
    pub fn applied(&self, shard: ShardId) -> Result<Option<Applied>, JournalError> {
        Ok(self.0.shared.readable(shard)?.log.lock().applied.clone())
    }

    /// Position number of the last event in the log; 0 when there is none.
    ///
    /// # Errors
    /// When the shard is refused.
    pub fn last_position(&self, shard: ShardId) -> Result<u64, JournalError> {
        Ok(self.0.shared.readable(shard)?.log.lock().last_position())
    }

    /// Whether free space is under the reserve: commands must be refused until it is back.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.shared.is_full()
    }

    /// Looks whether there is space, as the writer does by itself where it is a thread.
    pub fn look_for_space(&self) {
        self.0.shared.writer.look_for_space(&self.0.shared);
    }

    /// Does what is queued on a [stepped](MemoryDisk::stepped) disk.
    pub fn step(&self) {
        if self.0.shared.inline {
            self.0.shared.drain();
        }
    }

    /// Does what is queued, puts everything on disk and stops the writer. Later writes are answered
    /// with [`StorageFailure::Closed`]; reads go on.
    pub fn shutdown(&self) {
        self.0.stop();
    }
}

/// The end of the log at an entry.
fn end_at(
    shared: &Shared,
    state: &Shard,
    log: &shard::LogState,
    index: u64,
) -> Result<LogEnd, StorageFailure> {
    if let Some(end) = log.cached_end(index) {
        return Ok(end);
    }
    let refused = |reason: String| StorageFailure::Refused {
        shard: state.id,
        reason,
    };
    let read = read_rows(&*shared.disk, state.id, index..index + 1, 1);
    let read = read.map_err(|error| refused(error.report(state).to_string()))?;
    let placed = read.into_iter().next();
    let placed = placed.ok_or_else(|| refused(format!("log entry {index} is missing")))?;
    Ok(LogEnd {
        index,
        meta: placed.entry.meta,
        last_position: placed.last_position,
    })
}

impl Inner {
    fn stop(&self) {
        self.shared.queue.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        if threads.is_empty() && !self.shared.inline {
            // Stopped already.
            return;
        }
        for thread in threads {
            // A callback may hold the last clone; the writer cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("the journal's writer panicked");
            }
        }
        if self.shared.inline {
            self.shared.drain();
        }
        self.shared.writer.finish(&self.shared);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}
