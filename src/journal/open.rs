//! Opening: takes the directory, opens the disk, and checks per shard that what was acknowledged is
//! still there.
//!
//! Owns: the checks. Refuses: a shard whose log or votes end before the high-water mark, whose tail
//! is damaged, or whose index does not fit its log. Invariant: a refused shard keeps its mark, so it
//! stays refused after a restart.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use phalanx_actors::names::ShardId;
use phalanx_actors::ports::{Clock, JournalError};
use uuid::Uuid;

use super::directory::{Directory, Format};
use super::disk::{Disk, DiskError, Scan, Table};
use super::entries::Damage;
use super::index;
use super::log_read::{ReadError, read_rows};
use super::mark::{self, Marks, ShardMark};
use super::memory::MemoryDisk;
use super::queue::Queue;
use super::rocks::RocksDisk;
use super::rows::{self, AppliedRow, StreamRow, VoteRow};
use super::shard::{LogEnd, LogState, Placed, Shard};
use super::shared::Shared;
use super::types::{Applied, AppliedRecord, JournalOptions, LogPayload, OpenError};
use super::writer::Writer;

/// Entries at the end of each log that are read back when a journal is opened.
const VERIFIED_TAIL: u64 = 16;
/// Runs at the end of each log whose index rows are looked up then.
const VERIFIED_RUNS: usize = 64;

/// What an opened disk comes with.
pub(crate) struct Opened {
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) marks: Marks,
    pub(crate) incarnation: Uuid,
    /// Dropped last: it holds the lock.
    pub(crate) directory: Option<Directory>,
}

/// Opens a data directory with RocksDB in it.
pub(crate) fn open_rocks(
    options: &JournalOptions,
    clock: &Arc<dyn Clock>,
) -> Result<Opened, OpenError> {
    let directory = Directory::open(&options.data_dir, &options.identity)?;
    let mark = directory.mark_file()?;
    let disk = RocksDisk::open(options, directory.database(), mark, clock)?;
    Ok(Opened {
        disk: Box::new(disk),
        marks: directory.marks.clone(),
        incarnation: directory.format.incarnation(),
        directory: Some(directory),
    })
}

/// Opens a simulated disk.
pub(crate) fn open_memory(
    options: &JournalOptions,
    disk: &MemoryDisk,
) -> Result<Opened, OpenError> {
    let data_dir = &options.data_dir;
    let handle = disk.attach().ok_or_else(|| OpenError::Locked {
        data_dir: data_dir.clone(),
        lock: data_dir.join("memory"),
        holder: String::new(),
    })?;
    let damaged = |error: phalanx_actors::codec::CodecError| OpenError::Damaged {
        file: data_dir.join("memory"),
        shards: format!("0 to {}", options.identity.shards.saturating_sub(1)),
        reason: error.to_string(),
    };
    let make = || Format::new(&options.identity, Uuid::new_v4()).seal();
    let format = disk.format(make).and_then(|bytes| Format::open(&bytes));
    let format = format.map_err(damaged)?;
    format.check(&options.identity, data_dir)?;
    let [a, b] = disk.marks();
    let marks = if a.is_empty() && b.is_empty() {
        Marks::new(options.identity.shards)
    } else {
        mark::load([&a, &b], options.identity.shards).map_err(damaged)?
    };
    Ok(Opened {
        disk: Box::new(handle),
        marks,
        incarnation: format.incarnation(),
        directory: None,
    })
}

/// Reads every shard's state and puts the parts together.
pub(crate) fn build(options: &JournalOptions, opened: Opened, clock: Arc<dyn Clock>) -> Shared {
    let disk = opened.disk;
    let ids = 0..options.identity.shards;
    let shards = ids.zip(&opened.marks.shards);
    let shards: Vec<Shard> = shards
        .map(|(id, mark)| load_shard(&*disk, id, *mark))
        .collect();
    let mut marks = opened.marks;
    marks.catch_up(&shards);
    let retention_us = i64::try_from(options.idempotency_retention.as_micros()).unwrap_or(i64::MAX);
    Shared {
        writer: Writer::new(marks, options.reserve_free_bytes),
        inline: disk.writes_inline(),
        disk,
        clock,
        shards,
        queue: Queue::default(),
        full: AtomicBool::new(false),
        fatal: options.fatal.clone(),
        log_cache_bytes: options.log_cache_bytes_per_shard,
        retention_us,
    }
}

/// Reads one shard; when something is wrong, the shard is there but refused.
fn load_shard(disk: &dyn Disk, id: ShardId, mark: ShardMark) -> Shard {
    match check_shard(disk, id, mark) {
        Ok((log, position)) => Shard::new(id, log, position),
        Err(error) => {
            let shard = Shard::new(id, LogState::default(), 0);
            match error {
                ReadError::Disk(DiskError::Io(source)) => {
                    shard.refuse(JournalError::Io(source));
                }
                error => {
                    error.report(&shard);
                }
            }
            shard
        }
    }
}

/// Reads and checks one shard; gives its log and the position that it is indexed to.
pub(crate) fn check_shard(
    disk: &dyn Disk,
    id: ShardId,
    mark: ShardMark,
) -> Result<(LogState, u64), ReadError> {
    if mark.is_given_up() {
        let reason = "it was being thrown away when the process ended";
        return Err(damage("the damaged copy", reason));
    }
    let vote = read_vote(disk, id)?;
    let votes = vote.as_ref().map_or(0, |row| row.number);
    if votes < mark.votes {
        let reason = format!(
            "vote {votes} is the last one, but {} was synced",
            mark.votes
        );
        return Err(damage("the write-ahead log (votes)", reason));
    }
    let last_index = last_index(disk, id)?;
    let end = last_index.map_or(0, |index| index + 1);
    if end < mark.end {
        let found = last_index.map_or_else(|| "is empty".to_owned(), |i| format!("ends at {i}"));
        let reason = format!("the log {found}, but entry {} was synced", mark.end - 1);
        return Err(damage("the write-ahead log", reason));
    }
    let first_index = first_index(disk, id)?;
    if mark.first > 0 && first_index.map(|index| index + 1) != Some(mark.first) {
        let reason = format!(
            "the log begins at {first_index:?}, not at {}",
            mark.first - 1
        );
        return Err(damage("the log", reason));
    }
    let first = first_index.unwrap_or(end);
    // The read begins one entry early where it can, so that the first one's positions are checked.
    let tail_from = end.saturating_sub(VERIFIED_TAIL).max(first);
    let tail = read_rows(disk, id, tail_from..end, usize::MAX)?;
    let applied = read_applied(disk, id)?;
    let position = applied.as_ref().map_or(0, |row| row.position);
    if let Some(applied) = &applied {
        check_applied(disk, id, first..end, applied, &tail)?;
    }
    let mut log = LogState::default();
    log.first_index = first_index;
    log.end = tail.last().map(|last| LogEnd {
        index: last.entry.index,
        meta: last.entry.meta.clone(),
        last_position: last.last_position,
    });
    log.applied = applied.map(|row| Applied {
        index: row.index,
        state: row.state,
    });
    log.purged = read_purged(disk, id)?;
    log.vote = vote.map(|row| row.vote);
    log.votes = votes;
    log.written_end = end;
    Ok((log, position))
}

pub(crate) fn damage(what: impl Into<String>, reason: impl ToString) -> ReadError {
    ReadError::Damage(Damage::new(what, reason))
}

pub(crate) fn read_vote(disk: &dyn Disk, id: ShardId) -> Result<Option<VoteRow>, ReadError> {
    let row = disk
        .get(Table::Meta, &rows::vote_key(id))
        .map_err(ReadError::Disk)?;
    let row = row.map(|row| VoteRow::open(&row)).transpose();
    row.map_err(|error| damage("the vote", error))
}

fn read_purged(disk: &dyn Disk, id: ShardId) -> Result<Option<Bytes>, ReadError> {
    let row = disk
        .get(Table::Meta, &rows::purged_key(id))
        .map_err(ReadError::Disk)?;
    let row = row.map(|row| rows::open_purged(&row)).transpose();
    row.map_err(|error| damage("the purged mark", error))
}

fn read_applied(disk: &dyn Disk, id: ShardId) -> Result<Option<AppliedRow>, ReadError> {
    let row = disk
        .get(Table::Index, &rows::applied_key(id))
        .map_err(ReadError::Disk)?;
    let row = row.map(|row| AppliedRow::open(&row)).transpose();
    row.map_err(|error| damage("the applied mark", error))
}

fn last_index(disk: &dyn Disk, id: ShardId) -> Result<Option<u64>, ReadError> {
    let (from, to) = (
        rows::log_key(id, 0, 0),
        rows::log_key(id, u64::MAX, u32::MAX),
    );
    let last = disk.last(whole_log(&from, &to)).map_err(ReadError::Disk)?;
    let Some((key, _)) = last else {
        return Ok(None);
    };
    let parsed = rows::parse_log_key(&key);
    let (_, index, _) = parsed.ok_or_else(|| damage("a log key", "wrong length"))?;
    Ok(Some(index))
}

fn first_index(disk: &dyn Disk, id: ShardId) -> Result<Option<u64>, ReadError> {
    let (from, to) = (
        rows::log_key(id, 0, 0),
        rows::log_key(id, u64::MAX, u32::MAX),
    );
    let mut first = None;
    let scanned = disk.scan(whole_log(&from, &to), &mut |key, _| {
        first = rows::parse_log_key(key).map(|(_, index, _)| index);
        std::ops::ControlFlow::Break(())
    });
    scanned.map_err(ReadError::Disk)?;
    Ok(first)
}

fn whole_log<'a>(from: &'a [u8], to: &'a [u8]) -> Scan<'a> {
    Scan {
        table: Table::Log,
        from,
        to,
        within_stream: false,
    }
}

/// The index must lie within the log, agree with it on positions, and hold the tail's rows.
fn check_applied(
    disk: &dyn Disk,
    id: ShardId,
    log: std::ops::Range<u64>,
    applied: &AppliedRow,
    tail: &[Placed],
) -> Result<(), ReadError> {
    if log.is_empty() || !log.contains(&applied.index) {
        let reason = format!(
            "entry {} is applied, but the log holds {log:?}",
            applied.index
        );
        return Err(damage("the log", reason));
    }
    let at = read_rows(disk, id, applied.index..applied.index + 1, 1)?;
    let position = at.first().map_or(0, |placed| placed.last_position);
    if position != applied.position {
        let found = applied.position;
        let reason = format!("position {found} is indexed where the log says {position}");
        return Err(damage("the applied mark", reason));
    }
    let mut records = Vec::new();
    for placed in tail
        .iter()
        .filter(|placed| placed.entry.index <= applied.index)
    {
        if let LogPayload::Records(list) = &placed.entry.payload {
            records.extend((0..).zip(list.iter()).map(|(slot, record)| AppliedRecord {
                index: placed.entry.index,
                slot,
                record: record.clone(),
            }));
        }
    }
    check_indexed(disk, id, &records)
}

/// The last runs must have their stream rows.
fn check_indexed(disk: &dyn Disk, id: ShardId, records: &[AppliedRecord]) -> Result<(), ReadError> {
    let mut key = Vec::new();
    let runs: Vec<_> = index::runs(records).collect();
    for (first, _, expected) in runs.iter().rev().take(VERIFIED_RUNS) {
        let record = &first.record;
        rows::stream_key(&mut key, id, &record.stream, record.first_sequence);
        let row = disk.get(Table::Index, &key).map_err(ReadError::Disk)?;
        let row = row.map(|row| StreamRow::open(&row)).transpose();
        let row = row.map_err(|error| damage("the index", error))?;
        if row != Some(*expected) {
            let reason = format!("event {} is not indexed", record.first_sequence);
            return Err(damage(format!("the index of {}", record.stream), reason));
        }
    }
    Ok(())
}
