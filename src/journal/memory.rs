//! A disk in memory that forgets, on a simulated crash, what was not synced.
//!
//! Owns: the difference between what a reader sees and what would survive. Refuses: writes through
//! a journal that was opened before the last crash. Invariant: `durable` only ever takes whole
//! batches, in order.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use phalanx_actors::names::ShardId;
use tokio::sync::Notify;

use super::disk::{Batch, Change, Disk, DiskError, Durability, Row, Scan, Table, Visit};
use super::mark::SLOTS;
use super::rows::{self, LogKey};

/// A simulated disk. Clones share it; it outlives the journals opened on it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    shared: Arc<Shared>,
}

/// How much of what was not synced survives a crash, in whole writes from the oldest on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survivors {
    /// Of log and votes: writes whose fsync had not returned.
    pub unsynced_writes: usize,
    /// Of index rows and snapshots, which never wait for an fsync.
    pub lazy_writes: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
    /// There is work on a stepped disk.
    queued: Notify,
}

type Key = (Table, Vec<u8>);
type Rows = BTreeMap<Key, Bytes>;

/// A change with its own bytes.
#[derive(Debug, Clone)]
enum OwnedChange {
    Put(Key, Bytes),
    Delete(Key),
    DeleteRange(Range<Key>),
}

#[derive(Debug, Default)]
struct State {
    format: Option<Vec<u8>>,
    durable: Rows,
    visible: Rows,
    unsynced: Vec<Vec<OwnedChange>>,
    lazy: Vec<Vec<OwnedChange>>,
    marks: [Vec<u8>; SLOTS],
    durable_marks: [Vec<u8>; SLOTS],
    /// Counts crashes; handles from before one are dead.
    epoch: u64,
    in_use: bool,
    syncs_held: bool,
    failing: bool,
    free_bytes: Option<u64>,
    inline: bool,
    stepped: bool,
    /// The power goes in the next sync.
    dies_in_sync: Option<Survivors>,
    syncs: u64,
    /// Values of which a bit was flipped, as that left them.
    flipped: Rows,
}

impl State {
    fn crash(&mut self, survivors: Survivors) {
        let unsynced = std::mem::take(&mut self.unsynced);
        for batch in unsynced.into_iter().take(survivors.unsynced_writes) {
            self.make_durable(batch);
        }
        let lazy = std::mem::take(&mut self.lazy);
        for batch in lazy.into_iter().take(survivors.lazy_writes) {
            apply(&mut self.durable, batch);
        }
        self.visible = self.durable.clone();
        self.marks = self.durable_marks.clone();
        self.epoch += 1;
        self.in_use = false;
        self.syncs_held = false;
        self.failing = false;
        self.dies_in_sync = None;
    }

    fn flush(&mut self) {
        for batch in std::mem::take(&mut self.lazy) {
            apply(&mut self.durable, batch);
        }
    }

    /// Whether a value with a flipped bit is still stored, or would be again after a crash.
    fn holds_flipped(&self, key: &Key) -> bool {
        let flipped = self.flipped.get(key);
        let holds = |rows: &Rows| flipped.is_some() && rows.get(key) == flipped;
        holds(&self.visible) || holds(&self.durable)
    }

    /// Puts a logged batch on disk. What it removes does not come back with a lazy one from before it.
    fn make_durable(&mut self, batch: Vec<OwnedChange>) {
        for change in &batch {
            if let OwnedChange::DeleteRange(range) = change {
                let stays = |change: &OwnedChange| match change {
                    OwnedChange::Put(key, _) | OwnedChange::Delete(key) => !range.contains(key),
                    OwnedChange::DeleteRange(_) => true,
                };
                for lazy in &mut self.lazy {
                    lazy.retain(stays);
                }
            }
        }
        apply(&mut self.durable, batch);
    }
}

#[derive(Debug, thiserror::Error)]
enum MemoryError {
    #[error("the simulated disk fails")]
    Failing,
}

impl MemoryDisk {
    /// A disk whose journals write on the caller's thread, so that a run is deterministic.
    #[must_use]
    pub fn inline() -> Self {
        let disk = Self::default();
        disk.shared.state.lock().inline = true;
        disk
    }

    /// As [`MemoryDisk::inline`], but work waits until somebody calls
    /// [`Journal::step`](super::Journal::step): time passes between a write and its fsync.
    #[must_use]
    pub fn stepped() -> Self {
        let disk = Self::inline();
        disk.shared.state.lock().stepped = true;
        disk
    }

    /// Waits until there is work on a stepped disk. For one waiter.
    pub async fn queued(&self) {
        self.shared.queued.notified().await;
    }

    /// Crashes in the midst of the next fsync, when what it covers is written and not yet safe.
    pub fn crash_in_sync(&self, survivors: Survivors) {
        self.shared.state.lock().dies_in_sync = Some(survivors);
    }

    /// Cuts the power: what was not synced is gone but for the survivors, and the journal that
    /// used the disk fails all its writes. The disk may be opened again.
    pub fn crash(&self, survivors: Survivors) {
        let mut state = self.shared.state.lock();
        state.crash(survivors);
        self.shared.released.notify_all();
    }

    /// Holds back every fsync until [`MemoryDisk::release_syncs`] or a crash.
    pub fn hold_syncs(&self) {
        self.shared.state.lock().syncs_held = true;
    }

    /// Lets fsyncs finish again.
    pub fn release_syncs(&self) {
        self.shared.state.lock().syncs_held = false;
        self.shared.released.notify_all();
    }

    /// Makes every batch fail from now on, until a crash.
    pub fn fail_writes(&self) {
        self.shared.state.lock().failing = true;
    }

    /// Sets the free space; without it there is no end to it.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.shared.state.lock().free_bytes = Some(bytes);
    }

    /// Number of fsyncs of the log so far.
    #[must_use]
    pub fn sync_count(&self) -> u64 {
        self.shared.state.lock().syncs
    }

    /// Number of log writes whose fsync has not returned.
    #[must_use]
    pub fn unsynced_count(&self) -> usize {
        self.shared.state.lock().unsynced.len()
    }

    /// Flips a bit of a value on disk, in any table and row of a shard, behind everybody's back; says
    /// where. Which table, row and bit is for `below` to choose: it gives a number below its argument.
    /// What was put off goes to the disk before.
    pub fn flip_bit(
        &self,
        shard: ShardId,
        below: &mut dyn FnMut(usize) -> usize,
    ) -> Option<String> {
        let mut state = self.shared.state.lock();
        state.flush();
        let table = *Table::ALL.get(below(Table::ALL.len()))?;
        let whole = |(key, value): &(&Key, &Bytes)| {
            let is_there = state.visible.get(*key) == Some(*value) && !value.is_empty();
            key.0 == table && is_of(shard, key) && is_there && !state.holds_flipped(key)
        };
        let rows: Vec<_> = state.durable.iter().filter(whole).collect();
        let (key, value) = *rows.get(below(rows.len().max(1)))?;
        let (key, mut value) = (key.clone(), value.to_vec());
        let bit = below(value.len() * 8);
        *value.get_mut(bit / 8)? ^= 1 << (bit % 8);
        let said = format!("bit {bit} of {} row {:02x?}", table.name(), key.1);
        let value = Bytes::from(value);
        state.durable.insert(key.clone(), value.clone());
        state.visible.insert(key.clone(), value.clone());
        state.flipped.insert(key, value);
        Some(said)
    }

    /// Whether a flipped bit is left in a shard. One in a snapshot does not count: it is a cache.
    #[must_use]
    pub fn has_flipped_bits(&self, shard: ShardId) -> bool {
        let state = self.shared.state.lock();
        let counts = |key: &&Key| key.0 != Table::Snapshot && is_of(shard, key);
        let mut flipped = state.flipped.keys().filter(counts);
        flipped.any(|key| state.holds_flipped(key))
    }

    /// Removes a log row behind everybody's back.
    #[cfg(test)]
    pub(crate) fn lose_log_row(&self, key: &[u8]) {
        let mut state = self.shared.state.lock();
        let key = (Table::Log, key.to_vec());
        state.durable.remove(&key).expect("the row exists");
        state.visible.remove(&key);
    }

    /// Takes the disk for one journal; `None` while another one has it.
    pub(crate) fn attach(&self) -> Option<MemoryHandle> {
        let mut state = self.shared.state.lock();
        if std::mem::replace(&mut state.in_use, true) {
            return None;
        }
        Some(MemoryHandle {
            shared: Arc::clone(&self.shared),
            epoch: state.epoch,
            inline: state.inline,
            stepped: state.stepped,
        })
    }

    /// The format file, made by `make` when there is none.
    pub(crate) fn format<E>(
        &self,
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let mut state = self.shared.state.lock();
        if let Some(format) = &state.format {
            return Ok(format.clone());
        }
        let format = make()?;
        state.format = Some(format.clone());
        Ok(format)
    }

    /// Both mark slots; empty where never written.
    pub(crate) fn marks(&self) -> [Vec<u8>; SLOTS] {
        self.shared.state.lock().marks.clone()
    }
}

/// The disk as one journal uses it.
#[derive(Debug)]
pub(crate) struct MemoryHandle {
    shared: Arc<Shared>,
    epoch: u64,
    inline: bool,
    stepped: bool,
}

impl Drop for MemoryHandle {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if state.epoch == self.epoch {
            state.in_use = false;
        }
    }
}

impl MemoryHandle {
    fn alive(&self, state: &State) -> Result<(), DiskError> {
        if state.epoch == self.epoch {
            Ok(())
        } else {
            Err(DiskError::Crashed)
        }
    }

    /// Reads from what is visible, so that a crashed journal sees nothing new.
    fn read<T>(&self, read: impl FnOnce(&Rows) -> T) -> Result<T, DiskError> {
        let state = self.shared.state.lock();
        self.alive(&state)?;
        Ok(read(&state.visible))
    }
}

fn is_of(shard: ShardId, (table, key): &Key) -> bool {
    match table {
        Table::Log | Table::Index | Table::Snapshot => key.starts_with(&rows::shard_start(shard)),
        Table::Meta => *key == rows::vote_key(shard) || *key == rows::purged_key(shard),
    }
}

fn apply(rows: &mut Rows, changes: Vec<OwnedChange>) {
    for change in changes {
        match change {
            OwnedChange::Put(key, value) => {
                rows.insert(key, value);
            }
            OwnedChange::Delete(key) => {
                rows.remove(&key);
            }
            OwnedChange::DeleteRange(range) => rows.retain(|key, _| !range.contains(key)),
        }
    }
}

fn owned(batch: &Batch) -> Vec<OwnedChange> {
    let own = |change: Change<'_>| match change {
        Change::Put(table, key, value) => {
            OwnedChange::Put((table, key.to_vec()), Bytes::copy_from_slice(value))
        }
        Change::Delete(table, key) => OwnedChange::Delete((table, key.to_vec())),
        Change::DeleteRange(table, from, to) => {
            OwnedChange::DeleteRange((table, from.to_vec())..(table, to.to_vec()))
        }
    };
    batch.changes().map(own).collect()
}

fn bounds(scan: Scan<'_>) -> (Bound<Key>, Bound<Key>) {
    (
        Bound::Included((scan.table, scan.from.to_vec())),
        Bound::Excluded((scan.table, scan.to.to_vec())),
    )
}

impl Disk for MemoryHandle {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), DiskError> {
        let mut state = self.shared.state.lock();
        self.alive(&state)?;
        if state.failing {
            return Err(DiskError::io(MemoryError::Failing));
        }
        let changes = owned(batch);
        apply(&mut state.visible, changes.clone());
        if durability == Durability::Lazy {
            state.lazy.push(changes);
            return Ok(());
        }
        state.unsynced.push(changes);
        Ok(())
    }

    fn sync_log(&self) -> Result<(), DiskError> {
        let mut state = self.shared.state.lock();
        self.alive(&state)?;
        if let Some(survivors) = state.dies_in_sync {
            state.crash(survivors);
            return Err(DiskError::Crashed);
        }
        let covered = state.unsynced.len();
        while state.syncs_held && state.epoch == self.epoch {
            self.shared.released.wait(&mut state);
        }
        self.alive(&state)?;
        let covered: Vec<_> = state.unsynced.drain(..covered).collect();
        for batch in covered {
            state.make_durable(batch);
        }
        state.syncs += 1;
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        self.read(|rows| rows.get(&(table, key.to_vec())).cloned())
    }

    fn get_log_rows(&self, keys: &[LogKey]) -> Result<Vec<Option<Bytes>>, DiskError> {
        let get = |rows: &Rows, key: &LogKey| rows.get(&(Table::Log, key.to_vec())).cloned();
        self.read(|rows| keys.iter().map(|key| get(rows, key)).collect())
    }

    fn scan(&self, scan: Scan<'_>, visit: Visit<'_>) -> Result<(), DiskError> {
        let rows: Vec<_> = self.read(|rows| {
            let range = rows.range(bounds(scan));
            range
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .collect()
        })?;
        for (key, value) in rows {
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, scan: Scan<'_>) -> Result<Option<Row>, DiskError> {
        self.read(|rows| {
            let last = rows.range(bounds(scan)).next_back();
            last.map(|((_, key), value)| (key.clone(), value.clone()))
        })
    }

    fn write_mark(&self, slot: usize, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.shared.state.lock();
        self.alive(&state)?;
        if let Some(mark) = state.marks.get_mut(slot) {
            *mark = bytes.to_vec();
        }
        Ok(())
    }

    fn sync_mark(&self) -> Result<(), DiskError> {
        let mut state = self.shared.state.lock();
        self.alive(&state)?;
        state.durable_marks = state.marks.clone();
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        Ok(self.shared.state.lock().free_bytes.unwrap_or(u64::MAX))
    }

    fn flush(&self) -> Result<(), DiskError> {
        let mut state = self.shared.state.lock();
        self.alive(&state)?;
        state.flush();
        Ok(())
    }

    fn puts_off(&self) -> bool {
        if self.stepped {
            self.shared.queued.notify_one();
        }
        self.stepped
    }

    fn writes_inline(&self) -> bool {
        self.inline
    }
}
