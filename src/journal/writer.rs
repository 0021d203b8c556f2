//! The one writer: takes what is queued, writes it as one batch, syncs it once, and reports back.
//!
//! Owns: the order of things on disk, and the high-water mark. Refuses: to go on after a failed
//! write. Invariant: `done` is called after the fsync that covers the work, index rows are written
//! after the log entries they point to, and the mark never runs ahead of either.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::failpoints::crash_point;

use super::disk::{Batch, DiskError, Durability, Scan, Table};
use super::entries;
use super::index;
use super::mark::{self, Marks};
use super::queue::{LogWork, LogWorkKind, Patience, Taken};
use super::rows::{self, VoteRow};
use super::shared::Shared;
use super::space::Space;
use super::types::{Done, StorageFailure};

/// How often to look at the free space while the disk is full and nobody writes.
const FULL_POLL: Duration = Duration::from_millis(200);
/// How often to try again while there is no space for tables.
const STALL_POLL: Duration = Duration::from_millis(50);
/// How long the mark may lag on disk behind what was written of it.
const MARK_SYNC: Duration = Duration::from_secs(2);

/// Work that is in the batch and waits for the fsync.
struct Pending {
    shard: usize,
    truncations: u64,
    /// The end of what is on disk then; `None` for a vote.
    end: Option<u64>,
    first: Option<u64>,
    vote: Option<u64>,
    done: Done,
}

/// See the module.
pub(crate) struct Writer {
    batch: Batch,
    pending: Vec<Pending>,
    marks: Marks,
    /// When the mark was last put on disk, and whether it changed since.
    mark_synced_ns: u64,
    mark_dirty: bool,
    space: Space,
    wrote_log: bool,
    failed: bool,
}

impl Writer {
    pub(crate) fn new(marks: Marks, reserve_bytes: u64) -> Self {
        Self {
            batch: Batch::default(),
            pending: Vec::new(),
            marks,
            mark_synced_ns: 0,
            mark_dirty: false,
            space: Space::new(reserve_bytes),
            wrote_log: false,
            failed: false,
        }
    }

    /// The writer's thread: works until the queue is closed and empty.
    pub(crate) fn run(mut self, shared: &Arc<Shared>) {
        let mut taken = Taken::default();
        loop {
            let closed = shared.queue.take(&mut taken, self.patience(shared));
            if closed && taken.is_empty() {
                break;
            }
            self.cycle(shared, &mut taken);
        }
        self.finish(shared);
    }

    fn patience(&self, shared: &Shared) -> Patience {
        let poll = shared.is_full().then_some(FULL_POLL);
        let sync = self.mark_dirty.then_some(MARK_SYNC);
        Patience {
            nap: self.wrote_log,
            at_most: poll.or(sync),
        }
    }

    /// Does what was taken.
    pub(crate) fn cycle(&mut self, shared: &Shared, taken: &mut Taken) {
        self.space
            .check(&*shared.disk, shared.clock.monotonic_ns(), &shared.full);
        self.wrote_log = !taken.log.is_empty();
        for work in taken.log.drain(..) {
            self.add(shared, work);
        }
        self.commit(shared);
        self.write_index(shared, taken);
        self.sync_mark_when_due(shared);
    }

    /// Puts a piece of log work into the batch.
    fn add(&mut self, shared: &Shared, work: LogWork) {
        if self.failed {
            (work.done)(Err(StorageFailure::Closed));
            return;
        }
        let mut pending = Pending {
            shard: usize::try_from(work.shard).unwrap_or(usize::MAX),
            truncations: work.truncations,
            end: None,
            first: None,
            vote: None,
            done: work.done,
        };
        let added = match work.kind {
            LogWorkKind::Append(entries) => {
                pending.first = entries.first().map(|placed| placed.entry.index);
                pending.end = entries.last().map(|placed| placed.entry.index + 1);
                let mut put = entries.iter();
                put.try_for_each(|placed| entries::put_entry(&mut self.batch, work.shard, placed))
                    .map_err(DiskError::io)
            }
            LogWorkKind::Vote(number, vote) => {
                pending.vote = Some(number);
                let sealed = VoteRow { number, vote }.seal().map_err(DiskError::io);
                sealed.map(|row| {
                    self.batch
                        .put(Table::Meta, &rows::vote_key(work.shard), [&row[..]])
                })
            }
            LogWorkKind::Purged(purged) => {
                let sealed = rows::seal_purged(&purged).map_err(DiskError::io);
                sealed.map(|row| {
                    self.batch
                        .put(Table::Meta, &rows::purged_key(work.shard), [&row[..]]);
                })
            }
            LogWorkKind::Truncate { from, until, kept } => {
                pending.end = Some(kept.map_or(0, |kept| kept.index + 1));
                self.truncate(shared, work.shard, from, until)
            }
        };
        self.pending.push(pending);
        match added {
            Ok(()) if self.failed => self.answer_pending(&StorageFailure::Closed),
            Ok(()) => {}
            Err(error) => self.fail(shared, "the log", error),
        }
    }

    /// Prepares a truncation. What was queued before it goes to disk first, for the rows to remove
    /// are looked up there; and the mark is lowered before they go.
    fn truncate(
        &mut self,
        shared: &Shared,
        shard: u32,
        from: u64,
        until: u64,
    ) -> Result<(), DiskError> {
        self.commit(shared);
        if self.failed {
            return Ok(());
        }
        let at = usize::try_from(shard).unwrap_or(usize::MAX);
        if let Some(mark) = self.marks.shards.get_mut(at) {
            mark.end = mark.end.min(from);
            if mark.end < mark.first {
                mark.first = 0;
                mark.end = 0;
            }
        }
        for _ in 0..mark::SLOTS {
            self.write_mark(shared)?;
        }
        shared.disk.sync_mark()?;
        let batch = &mut self.batch;
        let scan = Scan {
            table: Table::Log,
            from: &rows::log_key(shard, from, 0),
            to: &rows::log_key(shard, until, 0),
            within_stream: false,
        };
        shared.disk.scan(scan, &mut |key, _| {
            batch.delete(Table::Log, key);
            std::ops::ControlFlow::Continue(())
        })
    }

    /// Writes and syncs the batch, then tells everybody who waits for it.
    fn commit(&mut self, shared: &Shared) {
        if self.failed || self.pending.is_empty() {
            self.batch.clear();
            return;
        }
        crash_point!("journal::before_write");
        if !self.batch.is_empty()
            && let Err(error) = self.write(shared, Durability::Synced)
        {
            self.fail(shared, "the write-ahead log", error);
            return;
        }
        crash_point!("journal::after_write_before_callback");
        self.space.wrote(self.batch.bytes());
        self.batch.clear();
        for pending in self.pending.drain(..) {
            self.marks.note(&pending);
            if let (Some(end), Some(shard)) = (pending.end, shared.shards.get(pending.shard)) {
                let mut log = shard.log.lock();
                log.written(end, pending.truncations);
                log.evict(shared.log_cache_bytes);
            }
            (pending.done)(Ok(()));
        }
        if let Err(error) = self.write_mark(shared) {
            self.fail(shared, "the high-water mark", error);
        }
    }

    /// Writes the batch. While the disk has no room for tables, the write is not begun, so it waits;
    /// a write that failed is never done again.
    fn write(&self, shared: &Shared, durability: Durability) -> Result<(), DiskError> {
        let mut waited = false;
        loop {
            match shared.disk.write(&self.batch, durability) {
                Err(DiskError::NoSpace(reason)) if !shared.queue.is_closed() => {
                    shared.full.store(true, Ordering::Relaxed);
                    if !std::mem::replace(&mut waited, true) {
                        tracing::error!(reason, "no space for tables; writes wait for it");
                    }
                    std::thread::sleep(STALL_POLL);
                }
                done => return done,
            }
        }
    }

    fn write_mark(&mut self, shared: &Shared) -> Result<(), DiskError> {
        self.marks.generation += 1;
        let bytes = self.marks.seal().map_err(DiskError::io)?;
        shared.disk.write_mark(self.marks.slot(), &bytes)?;
        self.mark_dirty = true;
        Ok(())
    }

    fn sync_mark_when_due(&mut self, shared: &Shared) {
        let now = shared.clock.monotonic_ns();
        let age = Duration::from_nanos(now.saturating_sub(self.mark_synced_ns));
        if self.failed || !self.mark_dirty || age < MARK_SYNC {
            return;
        }
        self.mark_synced_ns = now;
        self.mark_dirty = false;
        if let Err(error) = shared.disk.sync_mark() {
            self.fail(shared, "the high-water mark", error);
        }
    }

    fn write_index(&mut self, shared: &Shared, taken: &mut Taken) {
        if self.failed || taken.index.is_empty() {
            taken.index.clear();
            return;
        }
        crash_point!("journal::before_index");
        let indexed = match index::fill(&mut self.batch, shared, &taken.index) {
            Ok(indexed) => indexed,
            Err(error) => return self.fail(shared, "the index", DiskError::io(error)),
        };
        if let Err(error) = self.write(shared, Durability::Lazy) {
            return self.fail(shared, "the index", error);
        }
        crash_point!("journal::after_index");
        self.space.wrote(self.batch.bytes());
        self.batch.clear();
        for (shard, position) in indexed {
            let Some(shard) = shared.shard(shard) else {
                continue;
            };
            shard.log.lock().evict(shared.log_cache_bytes);
            shard.indexed.send_replace(position);
        }
        taken.index.clear();
    }

    /// The end: says why, lets the hook end the process, and answers nobody with success.
    fn fail(&mut self, shared: &Shared, what: &str, error: DiskError) {
        self.failed = true;
        self.batch.clear();
        shared.queue.close();
        if matches!(error, DiskError::Crashed) {
            return self.answer_pending(&StorageFailure::Closed);
        }
        let failure = StorageFailure::Disk {
            what: what.to_owned(),
            source: error.into_source(),
        };
        shared.fatal.call(&failure);
        self.answer_pending(&failure);
    }

    fn answer_pending(&mut self, failure: &StorageFailure) {
        for pending in self.pending.drain(..) {
            (pending.done)(Err(failure.clone()));
        }
    }

    /// Puts everything on disk, for a start without recovery.
    pub(crate) fn finish(&mut self, shared: &Shared) {
        if self.failed {
            return;
        }
        let flushed = shared.disk.flush().and_then(|()| shared.disk.sync_mark());
        match flushed {
            Ok(()) => {}
            // Everything acknowledged is in the write-ahead log; the next start reads it from there.
            Err(DiskError::NoSpace(reason)) => {
                tracing::warn!(reason, "no space to flush the tables");
            }
            Err(error) => self.fail(shared, "the tables", error),
        }
    }
}

impl Marks {
    /// Takes note of finished work.
    fn note(&mut self, pending: &Pending) {
        let Some(mark) = self.shards.get_mut(pending.shard) else {
            return;
        };
        if let Some(first) = pending.first
            && mark.first == 0
        {
            mark.first = first + 1;
        }
        if let Some(end) = pending.end {
            mark.end = end;
            if end == 0 {
                mark.first = 0;
            }
        }
        mark.votes = pending.vote.unwrap_or(mark.votes);
    }
}
