//! Reading a shard's log by index: from memory where the entries are new, else from disk.
//!
//! Refuses: to skip. Invariant: the answer begins at the asked index and has no gap, or it is an
//! error.

use std::ops::{ControlFlow, Range};

use phalanx_actors::names::ShardId;
use phalanx_actors::ports::JournalError;

use super::disk::{Disk, DiskError, Scan, Table};
use super::entries::{Assembler, Damage};
use super::rows;
use super::shard::{Placed, Shard};
use super::shared::Shared;
use super::types::LogEntry;

/// What reading rows can fail with.
#[derive(Debug)]
pub(crate) enum ReadError {
    Disk(DiskError),
    Damage(Damage),
}

impl ReadError {
    /// Reports it for a shard.
    pub(crate) fn report(self, shard: &Shard) -> JournalError {
        match self {
            Self::Disk(error) => shard.read_failed("the log", error),
            Self::Damage(damage) => shard.damaged(damage),
        }
    }
}

impl Shared {
    /// Entries of a range that exist, at least one, then until there are `max_bytes`.
    pub(crate) fn read_log(
        &self,
        shard: ShardId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, JournalError> {
        let shard = self.readable(shard)?;
        let (cached_from, cached, first, truncations) = {
            let log = shard.log.lock();
            let (from, cached) = log.cached(&range);
            (from, cached, log.first_index, log.truncations)
        };
        let start = range.start.max(first.unwrap_or(u64::MAX));
        let mut entries = Vec::new();
        let mut bytes = 0;
        if start < cached_from {
            match read_rows(&*self.disk, shard.id, start..cached_from, max_bytes) {
                Ok(read) => entries.extend(read.into_iter().map(|placed| placed.entry)),
                // What is missing may have been truncated since we looked.
                Err(_) if shard.log.lock().truncations != truncations => return Ok(Vec::new()),
                Err(error) => return Err(error.report(shard)),
            }
            bytes = entries.iter().map(LogEntry::weight).sum();
            let read_to = entries.last().map_or(start, |last| last.index + 1);
            if read_to < cached_from {
                return Ok(entries);
            }
        }
        for entry in cached {
            if bytes >= max_bytes && !entries.is_empty() {
                break;
            }
            bytes += entry.weight();
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// Reads entries from disk.
pub(crate) fn read_rows(
    disk: &dyn Disk,
    shard: ShardId,
    range: Range<u64>,
    max_bytes: usize,
) -> Result<Vec<Placed>, ReadError> {
    let mut assembler = Assembler::new(range.start, max_bytes);
    let mut damage = None;
    let scan = Scan {
        table: Table::Log,
        from: &rows::log_key(shard, range.start, 0),
        to: &rows::log_key(shard, range.end, 0),
        within_stream: false,
    };
    let scanned = disk.scan(scan, &mut |key, value| match assembler.row(key, value) {
        Ok(flow) => flow,
        Err(found) => {
            damage = Some(found);
            ControlFlow::Break(())
        }
    });
    scanned.map_err(ReadError::Disk)?;
    match damage {
        Some(damage) => Err(ReadError::Damage(damage)),
        None => assembler.finish(range.end).map_err(ReadError::Damage),
    }
}
