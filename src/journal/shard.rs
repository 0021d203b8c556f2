//! What the journal keeps in memory per shard: the bounds of its log, its newest entries, and how
//! far it is indexed.
//!
//! Owns: the order of the log; an append that leaves a gap or overlaps is refused here. Invariant:
//! an entry that is not on disk yet, or not applied yet, is in the cache, so a reader that finds
//! nothing there may go to the disk.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use phalanx_actors::names::ShardId;
use phalanx_actors::ports::JournalError;
use tokio::sync::watch;

use super::queue::Life;
use super::types::{Applied, LogBounds, LogEntry, LogPayload, StorageFailure};

/// An entry with what its header says beyond it.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) entry: LogEntry,
    /// Position number of the last event up to and including this entry.
    pub(crate) last_position: u64,
}

/// One shard.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) id: ShardId,
    pub(crate) log: Mutex<LogState>,
    /// Position number of the last indexed event. Whoever waits for it is woken as well when the shard is
    /// refused or begins anew.
    pub(crate) indexed: watch::Sender<u64>,
    /// Position number of the last event that is known to be committed. It runs ahead of `indexed`
    /// and never backwards, but to 0 when the shard begins anew.
    pub(crate) committed: watch::Sender<u64>,
    /// Counts how often everything of the shard was thrown away.
    lives: AtomicU64,
    /// Why the shard must not be served.
    refused: RwLock<Option<JournalError>>,
}

impl Shard {
    pub(crate) fn new(id: ShardId, log: LogState, indexed: u64) -> Self {
        Self {
            id,
            log: Mutex::new(log),
            indexed: watch::Sender::new(indexed),
            committed: watch::Sender::new(indexed),
            lives: AtomicU64::new(0),
            refused: RwLock::new(None),
        }
    }

    /// Refuses the shard from now on, and hands the reason back. The first reason stays.
    pub(crate) fn refuse(&self, reason: JournalError) -> JournalError {
        let mut refused = self.refused.write();
        let first = refused.is_none();
        if first {
            *refused = Some(reason.clone());
        }
        drop(refused);
        if first {
            tracing::error!(shard = self.id, error = %reason, "the shard is not served any more");
            self.indexed.send_modify(|_| {});
        }
        reason
    }

    /// Begins anew after everything of the shard was thrown away: nothing is stored but the vote.
    pub(crate) fn begin_anew(&self, blank: LogState) {
        let mut log = self.log.lock();
        let truncations = log.truncations + 1;
        *log = blank;
        log.truncations = truncations;
        self.lives.fetch_add(1, Ordering::AcqRel);
        self.indexed.send_replace(0);
        self.committed.send_replace(0);
        *self.refused.write() = None;
    }

    /// Its rows of now.
    pub(crate) fn life(&self) -> Life {
        Life {
            shard: self.id,
            number: self.lives.load(Ordering::Acquire),
        }
    }

    /// Whether the rows of a life are still its rows, and may be served.
    pub(crate) fn goes_on(&self, life: Life) -> Result<(), JournalError> {
        self.health()?;
        if self.life() == life {
            return Ok(());
        }
        Err(JournalError::Corrupt {
            shard: self.id,
            what: "the copy".to_owned(),
            reason: "it was thrown away".to_owned(),
        })
    }

    pub(crate) fn health(&self) -> Result<(), JournalError> {
        self.refused.read().clone().map_or(Ok(()), Err)
    }

    /// The same for the write side.
    pub(crate) fn writable(&self) -> Result<(), StorageFailure> {
        let refused = |reason: &JournalError| StorageFailure::Refused {
            shard: self.id,
            reason: reason.to_string(),
        };
        self.refused
            .read()
            .as_ref()
            .map(refused)
            .map_or(Ok(()), Err)
    }

    pub(crate) fn corrupt(&self, what: impl Into<String>, reason: impl ToString) -> JournalError {
        self.refuse(JournalError::Corrupt {
            shard: self.id,
            what: what.into(),
            reason: reason.to_string(),
        })
    }
}

/// The end of a log.
#[derive(Debug, Clone)]
pub(crate) struct LogEnd {
    pub(crate) index: u64,
    pub(crate) meta: Bytes,
    pub(crate) last_position: u64,
}

/// The log as callers see it, queued writes included.
#[derive(Debug, Default)]
pub(crate) struct LogState {
    pub(crate) first_index: Option<u64>,
    pub(crate) end: Option<LogEnd>,
    pub(crate) applied: Option<Applied>,
    pub(crate) vote: Option<Bytes>,
    pub(crate) purged: Option<Bytes>,
    /// Number of the last vote.
    pub(crate) votes: u64,
    /// Counts truncations: news about what is on disk from before one is stale.
    pub(crate) truncations: u64,
    /// Entries below this index are on disk.
    pub(crate) written_end: u64,
    cache: VecDeque<Placed>,
    cache_bytes: usize,
}

impl LogState {
    /// Appends entries if they follow; gives them with their positions.
    pub(crate) fn append(
        &mut self,
        shard: ShardId,
        entries: Vec<LogEntry>,
    ) -> Result<Vec<Placed>, StorageFailure> {
        let mut next_index = self.end.as_ref().map(|end| end.index + 1);
        let mut last_position = self.last_position();
        let mut placed = Vec::with_capacity(entries.len());
        for entry in entries {
            if let Some(expected) = next_index
                && expected != entry.index
            {
                return Err(out_of_order(shard, "log index", expected, entry.index));
            }
            next_index = Some(entry.index + 1);
            last_position = position_after(shard, last_position, &entry)?;
            placed.push(Placed {
                entry,
                last_position,
            });
        }
        let Some(last) = placed.last() else {
            return Ok(placed);
        };
        self.end = Some(LogEnd {
            index: last.entry.index,
            meta: last.entry.meta.clone(),
            last_position,
        });
        let first = placed.first().map(|first| first.entry.index);
        self.first_index = self.first_index.or(first);
        for placed in &placed {
            self.cache_bytes += placed.entry.weight();
            self.cache.push_back(placed.clone());
        }
        Ok(placed)
    }

    /// Drops everything behind `end`.
    pub(crate) fn truncate(&mut self, end: Option<LogEnd>) {
        let kept_end = end.as_ref().map_or(0, |end| end.index + 1);
        while let Some(dropped) = self.cache.pop_back_if(|last| last.entry.index >= kept_end) {
            self.cache_bytes = self.cache_bytes.saturating_sub(dropped.entry.weight());
        }
        if end.is_none() {
            self.first_index = None;
        }
        self.end = end;
        self.written_end = self.written_end.min(kept_end);
        self.truncations += 1;
    }

    /// Notes that entries below `end` are on disk, unless they were truncated meanwhile.
    pub(crate) fn written(&mut self, end: u64, truncations: u64) {
        if truncations == self.truncations {
            self.written_end = self.written_end.max(end);
        }
    }

    /// Bytes of the entries in memory.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// Drops old entries while the cache is larger than `limit` bytes.
    pub(crate) fn evict(&mut self, limit: usize) {
        let applied_end = self.applied.as_ref().map_or(0, |applied| applied.index + 1);
        let safe_end = self.written_end.min(applied_end);
        while self.cache_bytes > limit {
            let old = |first: &mut Placed| first.entry.index < safe_end;
            let Some(dropped) = self.cache.pop_front_if(old) else {
                return;
            };
            self.cache_bytes = self.cache_bytes.saturating_sub(dropped.entry.weight());
        }
    }

    /// The entries of a range that are in memory, and the index from which on they are.
    pub(crate) fn cached(&self, range: &Range<u64>) -> (u64, Vec<LogEntry>) {
        let log_end = self.end.as_ref().map_or(0, |end| end.index + 1);
        let end = range.end.min(log_end);
        let first = self
            .cache
            .front()
            .map_or(log_end, |first| first.entry.index);
        let from = range.start.max(first);
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let take = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
        let entries = self.cache.iter().skip(skip).take(take);
        (
            first.min(end),
            entries.map(|placed| placed.entry.clone()).collect(),
        )
    }

    /// A cached entry's end, for a truncation behind it.
    pub(crate) fn cached_end(&self, index: u64) -> Option<LogEnd> {
        let first = self.cache.front()?.entry.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.cache.get(at).map(|placed| LogEnd {
            index,
            meta: placed.entry.meta.clone(),
            last_position: placed.last_position,
        })
    }

    pub(crate) fn bounds(&self) -> Option<LogBounds> {
        let end = self.end.as_ref()?;
        Some(LogBounds {
            first_index: self.first_index.unwrap_or(end.index),
            last_index: end.index,
            last_meta: end.meta.clone(),
        })
    }

    pub(crate) fn last_position(&self) -> u64 {
        self.end.as_ref().map_or(0, |end| end.last_position)
    }
}

/// The position after an entry, when its records continue at `position`.
fn position_after(
    shard: ShardId,
    mut position: u64,
    entry: &LogEntry,
) -> Result<u64, StorageFailure> {
    let LogPayload::Records(records) = &entry.payload else {
        return Ok(position);
    };
    for record in records.iter() {
        let expected = position + 1;
        if record.first_position != expected {
            let got = record.first_position;
            return Err(out_of_order(shard, "position", expected, got));
        }
        position += u64::from(record.event_count);
    }
    Ok(position)
}

fn out_of_order(shard: ShardId, what: &'static str, expected: u64, got: u64) -> StorageFailure {
    StorageFailure::OutOfOrder {
        shard,
        what,
        expected,
        got,
    }
}
