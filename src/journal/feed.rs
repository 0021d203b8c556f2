//! Committed events of a shard in the order of their positions: what projectors and event streams
//! read.
//!
//! Owns: finding the log entry of a position. Refuses: an entry that is not applied, so nobody ever
//! sees an event that may still be cut off, on a leader or on a follower. Invariant: records come
//! out one behind the other without a gap, and a reader that goes on where it stopped reads the log
//! sequentially, without a search.

use phalanx_actors::names::ShardId;
use phalanx_actors::ports::{BoxFuture, Feed, FeedCursor, JournalError};
use phalanx_actors::record::Record;

use super::Journal;
use super::disk::Table;
use super::rows;
use super::shard::Shard;
use super::shared::Shared;
use super::types::{AppliedRecord, LogPayload};

impl Shard {
    /// Notes that these records, and all before them, are committed.
    pub(crate) fn committed_by(&self, records: &[AppliedRecord]) {
        let Some(AppliedRecord { record, .. }) = records.last() else {
            return;
        };
        let last = record.last_position();
        self.committed.send_if_modified(|committed| {
            let grows = last > *committed;
            *committed = last.max(*committed);
            grows
        });
    }
}

impl Feed for Journal {
    fn committed_position(&self, shard: ShardId) -> u64 {
        let shard = self.0.shared.shard(shard);
        shard.map_or(0, |shard| *shard.committed.borrow())
    }

    fn read_committed(
        &self,
        cursor: &mut FeedCursor,
        max_bytes: usize,
    ) -> Result<Vec<Record>, JournalError> {
        self.0.shared.read_committed(cursor, max_bytes)
    }

    fn wait_committed(&self, shard: ShardId, beyond: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some(shard) = self.0.shared.shard(shard) else {
                return std::future::pending().await;
            };
            let mut committed = shard.committed.subscribe();
            // The sender lives as long as `self`: waiting cannot fail.
            let _grown = committed.wait_for(|committed| *committed > beyond).await;
        })
    }
}

impl Shared {
    fn read_committed(
        &self,
        cursor: &mut FeedCursor,
        max_bytes: usize,
    ) -> Result<Vec<Record>, JournalError> {
        let shard = self.readable(cursor.shard())?;
        let (first, applied) = {
            let log = shard.log.lock();
            (log.first_index, log.applied.as_ref().map(|a| a.index))
        };
        let (Some(first), Some(applied)) = (first, applied) else {
            return Ok(Vec::new());
        };
        if cursor.position() >= *shard.committed.borrow() {
            return Ok(Vec::new());
        }
        let mut next = match cursor.next_index() {
            Some(next) => next,
            None => self.find_position(shard, first, applied, cursor.position())?,
        };
        let mut records: Vec<Record> = Vec::new();
        while records.is_empty() && next <= applied {
            let entries = self.read_log(shard.id, next..applied + 1, max_bytes)?;
            let Some(last) = entries.last() else {
                break;
            };
            next = last.index + 1;
            for entry in &entries {
                let LogPayload::Records(of_entry) = &entry.payload else {
                    continue;
                };
                let unread = |record: &&Record| record.last_position() > cursor.position();
                records.extend(of_entry.iter().filter(unread).cloned());
            }
        }
        if let Some(record) = records.first()
            && record.first_position > cursor.position() + 1
        {
            let reason = format!("position {} is missing", cursor.position() + 1);
            return Err(shard.corrupt(format!("the log before entry {next}"), reason));
        }
        let reached = records
            .last()
            .map_or(cursor.position(), Record::last_position);
        cursor.advance(reached, next);
        Ok(records)
    }

    /// The first entry of `first..=applied` that reaches beyond `position`.
    fn find_position(
        &self,
        shard: &Shard,
        first: u64,
        applied: u64,
        position: u64,
    ) -> Result<u64, JournalError> {
        if position == 0 {
            return Ok(first);
        }
        let (mut low, mut high) = (first, applied);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.position_after(shard, middle)? > position {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    /// Position number of the last event up to and including an entry.
    fn position_after(&self, shard: &Shard, index: u64) -> Result<u64, JournalError> {
        if let Some(end) = shard.log.lock().cached_end(index) {
            return Ok(end.last_position);
        }
        let what = || format!("log row {index}.0");
        let row = self
            .disk
            .get(Table::Log, &rows::log_key(shard.id, index, 0));
        let row = row.map_err(|error| shard.read_failed(what(), error))?;
        let row = row.ok_or_else(|| shard.corrupt(what(), "it is missing"))?;
        let opened = rows::open_header(&row).map_err(|error| shard.corrupt(what(), error))?;
        Ok(opened.0.last_position)
    }
}
