//! The writer: takes what is queued, writes it as one batch, and syncs while the next batch is being
//! written.
//!
//! The first thread *writes* what is queued, as one batch, into the write-ahead log and the tables,
//! then *syncs* it, which is where it waits for the disk, moves the high-water mark and reports back.
//! What comes meanwhile is the next batch. When a sync takes long, the second thread stands in and
//! writes on; whoever syncs goes on until nothing that was written is left. Were both at work all the
//! time, batches would be smaller and each command would cost a tenth more.
//!
//! Owns: the order of things on disk, and the high-water mark. Refuses: to go on after a failed
//! write. Invariant: `done` is called after the fsync that covers the work and in the order of the
//! queue, index rows are written after the log entries they point to were synced (only committed
//! records are indexed), and the mark never runs ahead of either. Lock order: the role of writing,
//! then the list of what is written, then the mark.

mod discard;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use phalanx_actors::names::ShardId;

use crate::failpoints::crash_point;

use super::disk::{Batch, DiskError, Durability, Scan, Table};
use super::entries;
use super::index;
use super::mark::{self, Marks, ShardMark};
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

/// A sync that takes longer does not keep others from writing.
const LONG_SYNC: Duration = Duration::from_millis(1);
/// How long after a sync the second thread watches for the next one without being woken.
const WATCH: Duration = Duration::from_millis(20);

/// Work on its way to the disk.
struct Pending {
    shard: usize,
    truncations: u64,
    /// The end of what is on disk then; `None` for a vote.
    end: Option<u64>,
    first: Option<u64>,
    vote: Option<u64>,
    done: Done,
}

/// What the role of writing works on.
struct Writing {
    taken: Taken,
    batch: Batch,
    /// Whose changes are in the batch.
    pending: Vec<Pending>,
    space: Space,
    wrote_log: bool,
}

/// What is written and not yet synced, and whether somebody is at it.
#[derive(Default)]
struct Written {
    pending: Vec<Pending>,
    /// Since when somebody syncs.
    syncing: Option<Instant>,
    /// The second thread sleeps until a sync begins.
    asleep: bool,
    /// The first thread has ended.
    ended: bool,
}

/// The mark and when it was last put on disk.
struct Mark {
    marks: Marks,
    synced_ns: u64,
}

/// See the module.
pub(crate) struct Writer {
    writing: Mutex<Writing>,
    written: Mutex<Written>,
    /// Nobody syncs any more.
    idle: Condvar,
    /// For the second thread: somebody began to sync while it was asleep, or all is over.
    watched: Condvar,
    mark: Mutex<Mark>,
    /// Whether the mark changed since it was last put on disk.
    mark_dirty: AtomicBool,
    failed: AtomicBool,
}

impl Writer {
    pub(crate) fn new(marks: Marks, reserve_bytes: u64) -> Self {
        Self {
            writing: Mutex::new(Writing {
                taken: Taken::default(),
                batch: Batch::default(),
                pending: Vec::new(),
                space: Space::new(reserve_bytes),
                wrote_log: false,
            }),
            written: Mutex::default(),
            idle: Condvar::new(),
            watched: Condvar::new(),
            mark: Mutex::new(Mark {
                marks,
                synced_ns: 0,
            }),
            mark_dirty: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    /// The first thread: works until the queue is closed and empty.
    pub(crate) fn run(&self, shared: &Shared) {
        while self.turn(shared, None) {}
        self.written.lock().ended = true;
        self.watched.notify_one();
    }

    /// The second thread: works while a sync takes long.
    pub(crate) fn stand_in(&self, shared: &Shared) {
        while self.wait_for_long_sync() && self.turn(shared, Some(LONG_SYNC)) {}
    }

    /// `false` when the first thread has ended.
    fn wait_for_long_sync(&self) -> bool {
        let mut written = self.written.lock();
        let mut last_seen = Instant::now();
        while !written.ended {
            let now = Instant::now();
            if let Some(since) = written.syncing {
                let left = LONG_SYNC.saturating_sub(now.duration_since(since));
                if left.is_zero() {
                    return true;
                }
                last_seen = now;
                self.watched.wait_for(&mut written, left);
            } else if now.duration_since(last_seen) < WATCH {
                // Being woken for each sync would cost more than looking now and then.
                self.watched.wait_for(&mut written, LONG_SYNC);
            } else {
                written.asleep = true;
                self.watched.wait(&mut written);
                written.asleep = false;
                last_seen = Instant::now();
            }
        }
        false
    }

    /// Waits for work, at most so long, writes it, and syncs it unless somebody is at that; `false`
    /// when nothing will follow.
    fn turn(&self, shared: &Shared, at_most: Option<Duration>) -> bool {
        let mut writing = self.writing.lock();
        // Whoever had the turn before went to sync and may have left index work behind.
        self.write_index(shared, &mut writing);
        let mut patience = self.patience(shared, &writing);
        patience.nap &= at_most.is_none();
        patience.at_most = at_most.or(patience.at_most);
        let closed = shared.queue.take(&mut writing.taken, patience);
        if closed && writing.taken.is_empty() {
            return false;
        }
        let syncs = self.write_log(shared, &mut writing);
        drop(writing);
        if syncs {
            self.sync(shared);
        }
        self.sync_mark_when_due(shared);
        true
    }

    /// Does what was taken, on the caller's thread.
    pub(crate) fn cycle(&self, shared: &Shared, taken: &mut Taken) {
        let mut writing = self.writing.lock();
        std::mem::swap(&mut writing.taken, taken);
        let syncs = self.write_log(shared, &mut writing);
        drop(writing);
        if syncs {
            self.sync(shared);
        }
        self.write_index(shared, &mut self.writing.lock());
        self.sync_mark_when_due(shared);
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn patience(&self, shared: &Shared, writing: &Writing) -> Patience {
        let poll = shared.is_full().then_some(FULL_POLL);
        let dirty = self.mark_dirty.load(Ordering::Relaxed);
        Patience {
            nap: writing.wrote_log,
            at_most: poll.or(dirty.then_some(MARK_SYNC)),
        }
    }

    /// Looks whether there is space, if it is time to.
    pub(crate) fn look_for_space(&self, shared: &Shared) {
        let now = shared.clock.monotonic_ns();
        let mut writing = self.writing.lock();
        writing.space.check(&*shared.disk, now, &shared.full);
    }

    /// Writes the log work that was taken; `true` when the caller must sync it.
    fn write_log(&self, shared: &Shared, writing: &mut Writing) -> bool {
        let now = shared.clock.monotonic_ns();
        writing.space.check(&*shared.disk, now, &shared.full);
        let mut log = std::mem::take(&mut writing.taken.log);
        writing.wrote_log = !log.is_empty();
        for work in log.drain(..) {
            self.add(shared, writing, work);
        }
        writing.taken.log = log;
        self.write_batch(shared, writing)
    }

    /// Puts a piece of log work into the batch.
    fn add(&self, shared: &Shared, writing: &mut Writing, work: LogWork) {
        if self.has_failed() {
            return (work.done)(Err(StorageFailure::Closed));
        }
        if let LogWorkKind::Discard(vote) = work.kind {
            return self.discard(shared, writing, work.shard, vote, work.done);
        }
        let mut pending = Pending {
            shard: usize::try_from(work.shard).unwrap_or(usize::MAX),
            truncations: work.truncations,
            end: None,
            first: None,
            vote: None,
            done: work.done,
        };
        let batch = &mut writing.batch;
        let added = match work.kind {
            LogWorkKind::Append(entries) => {
                pending.first = entries.first().map(|placed| placed.entry.index);
                pending.end = entries.last().map(|placed| placed.entry.index + 1);
                let mut put = entries.iter();
                put.try_for_each(|placed| entries::put_entry(batch, work.shard, placed))
                    .map_err(DiskError::io)
            }
            LogWorkKind::Vote(number, vote) => {
                pending.vote = Some(number);
                let sealed = VoteRow { number, vote }.seal().map_err(DiskError::io);
                sealed.map(|row| batch.put(Table::Meta, &rows::vote_key(work.shard), [&row[..]]))
            }
            LogWorkKind::Purged(purged) => {
                let sealed = rows::seal_purged(&purged).map_err(DiskError::io);
                sealed.map(|row| batch.put(Table::Meta, &rows::purged_key(work.shard), [&row[..]]))
            }
            LogWorkKind::Truncate { from, until, kept } => {
                pending.end = Some(kept.map_or(0, |kept| kept.index + 1));
                self.truncate(shared, writing, work.shard, from, until)
            }
            LogWorkKind::Discard(_) => Ok(()),
        };
        writing.pending.push(pending);
        match added {
            Ok(()) if self.has_failed() => answer(&mut writing.pending, &StorageFailure::Closed),
            Ok(()) => {}
            Err(error) => self.fail(shared, "the log", error, &mut writing.pending),
        }
    }

    /// Prepares a truncation. What was queued before it goes to disk first, for the rows to remove
    /// are looked up there; and the mark is lowered before they go.
    fn truncate(
        &self,
        shared: &Shared,
        writing: &mut Writing,
        shard: u32,
        from: u64,
        until: u64,
    ) -> Result<(), DiskError> {
        self.settle(shared, writing);
        if self.has_failed() {
            return Ok(());
        }
        self.set_mark(shared, shard, |mark| {
            mark.end = mark.end.min(from);
            if mark.end < mark.first {
                mark.first = 0;
                mark.end = 0;
            }
        })?;
        let batch = &mut writing.batch;
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

    /// Puts on disk what was queued before, and waits until nobody syncs.
    fn settle(&self, shared: &Shared, writing: &mut Writing) {
        if self.write_batch(shared, writing) {
            self.sync(shared);
        }
        let mut written = self.written.lock();
        while written.syncing.is_some() {
            self.idle.wait(&mut written);
        }
    }

    /// Changes the mark of a shard in both slots and syncs them.
    fn set_mark(
        &self,
        shared: &Shared,
        shard: ShardId,
        change: impl FnOnce(&mut ShardMark),
    ) -> Result<(), DiskError> {
        let mut mark = self.mark.lock();
        let at = usize::try_from(shard).unwrap_or(usize::MAX);
        if let Some(mark) = mark.marks.shards.get_mut(at) {
            change(mark);
        }
        for _ in 0..mark::SLOTS {
            self.write_mark(shared, &mut mark.marks)?;
        }
        shared.disk.sync_mark()
    }

    /// Writes the batch and hands it to whoever syncs; `true` when that is the caller.
    fn write_batch(&self, shared: &Shared, writing: &mut Writing) -> bool {
        if self.has_failed() || writing.pending.is_empty() {
            writing.batch.clear();
            return false;
        }
        crash_point!("journal::before_write");
        if !writing.batch.is_empty()
            && let Err(error) = self.write(shared, &writing.batch, Durability::Logged)
        {
            writing.batch.clear();
            self.fail(shared, "the write-ahead log", error, &mut writing.pending);
            return false;
        }
        writing.space.wrote(writing.batch.bytes());
        writing.batch.clear();
        let mut written = self.written.lock();
        written.pending.append(&mut writing.pending);
        if written.syncing.is_some() {
            return false;
        }
        written.syncing = Some(Instant::now());
        if written.asleep {
            self.watched.notify_one();
        }
        true
    }

    /// Syncs until nothing is left to sync. The caller was told to by [`Self::write_batch`].
    fn sync(&self, shared: &Shared) {
        let mut pending = Vec::new();
        loop {
            let mut written = self.written.lock();
            if written.pending.is_empty() {
                written.syncing = None;
                drop(written);
                self.idle.notify_all();
                return;
            }
            written.syncing = Some(Instant::now());
            std::mem::swap(&mut pending, &mut written.pending);
            drop(written);
            self.sync_once(shared, &mut pending);
        }
    }

    /// Syncs what is pending, then tells everybody who waits for it.
    fn sync_once(&self, shared: &Shared, pending: &mut Vec<Pending>) {
        if self.has_failed() {
            return answer(pending, &StorageFailure::Closed);
        }
        crash_point!("journal::after_write_before_sync");
        if let Err(error) = shared.disk.sync_log() {
            return self.fail(shared, "the write-ahead log", error, pending);
        }
        crash_point!("journal::after_write_before_callback");
        for pending in pending.iter() {
            if let (Some(end), Some(shard)) = (pending.end, shared.shards.get(pending.shard)) {
                let mut log = shard.log.lock();
                log.written(end, pending.truncations);
                log.evict(shared.log_cache_bytes);
            }
        }
        let mut mark = self.mark.lock();
        pending.iter().for_each(|pending| mark.marks.note(pending));
        let marked = self.write_mark(shared, &mut mark.marks);
        drop(mark);
        if let Err(error) = marked {
            return self.fail(shared, "the high-water mark", error, pending);
        }
        for pending in pending.drain(..) {
            (pending.done)(Ok(()));
        }
    }

    /// Writes a batch. While the disk has no room for tables, the write is not begun, so it waits; a
    /// write that failed is never done again.
    fn write(
        &self,
        shared: &Shared,
        batch: &Batch,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let mut waited = false;
        loop {
            match shared.disk.write(batch, durability) {
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

    fn write_mark(&self, shared: &Shared, marks: &mut Marks) -> Result<(), DiskError> {
        marks.generation += 1;
        let bytes = marks.seal().map_err(DiskError::io)?;
        shared.disk.write_mark(marks.slot(), &bytes)?;
        self.mark_dirty.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn sync_mark_when_due(&self, shared: &Shared) {
        if self.has_failed() || !self.mark_dirty.load(Ordering::Relaxed) {
            return;
        }
        // Whoever has the mark at hand looks after it as well.
        let Some(mut mark) = self.mark.try_lock() else {
            return;
        };
        let now = shared.clock.monotonic_ns();
        let age = Duration::from_nanos(now.saturating_sub(mark.synced_ns));
        if age < MARK_SYNC {
            return;
        }
        mark.synced_ns = now;
        self.mark_dirty.store(false, Ordering::Relaxed);
        let synced = shared.disk.sync_mark();
        drop(mark);
        if let Err(error) = synced {
            self.fail(shared, "the high-water mark", error, &mut Vec::new());
        }
    }

    fn write_index(&self, shared: &Shared, writing: &mut Writing) {
        let taken = &mut writing.taken;
        if self.has_failed() || taken.index.is_empty() {
            taken.index.clear();
            return;
        }
        crash_point!("journal::before_index");
        let batch = &mut writing.batch;
        let none = &mut Vec::new();
        let indexed = match index::fill(batch, shared, &taken.index) {
            Ok(indexed) => indexed,
            Err(error) => {
                batch.clear();
                return self.fail(shared, "the index", DiskError::io(error), none);
            }
        };
        let written = self.write(shared, batch, Durability::Lazy);
        writing.space.wrote(batch.bytes());
        batch.clear();
        if let Err(error) = written {
            return self.fail(shared, "the index", error, none);
        }
        crash_point!("journal::after_index");
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
    fn fail(&self, shared: &Shared, what: &str, error: DiskError, pending: &mut Vec<Pending>) {
        self.failed.store(true, Ordering::Release);
        shared.queue.close();
        if matches!(error, DiskError::Crashed) {
            return answer(pending, &StorageFailure::Closed);
        }
        let failure = StorageFailure::Disk {
            what: what.to_owned(),
            source: error.into_source(),
        };
        shared.fatal.call(&failure);
        answer(pending, &failure);
    }

    /// Puts everything on disk, for a start without recovery. The threads have ended.
    pub(crate) fn finish(&self, shared: &Shared) {
        if self.has_failed() {
            return;
        }
        let flushed = shared.disk.flush().and_then(|()| shared.disk.sync_mark());
        match flushed {
            Ok(()) => {}
            // Everything acknowledged is in the write-ahead log; the next start reads it from there.
            Err(DiskError::NoSpace(reason)) => {
                tracing::warn!(reason, "no space to flush the tables");
            }
            Err(error) => self.fail(shared, "the tables", error, &mut Vec::new()),
        }
    }
}

fn answer(pending: &mut Vec<Pending>, failure: &StorageFailure) {
    for pending in pending.drain(..) {
        (pending.done)(Err(failure.clone()));
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
