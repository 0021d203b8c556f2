//! Reading one aggregate: its stream, its idempotency keys, its snapshot.
//!
//! Owns: finding a stream's records without touching those of other streams. Refuses: a stream with
//! a hole. Invariant: records come out with sequence numbers that follow each other, and each is
//! the one that the index says.

use std::ops::ControlFlow;

use bytes::Bytes;
use jiff::Timestamp;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::JournalError;
use phalanx_actors::record::Record;

use super::disk::{Scan, Table};
use super::rows::{self, DedupRow, LogKey, StreamRow};
use super::shard::Shard;
use super::shared::Shared;

/// Records fetched at once: enough to spread the cost of a call, few enough to stay in the caches.
const FETCH: usize = 512;

/// A stream row with the sequence number from its key.
#[derive(Debug, Clone, Copy)]
struct Located {
    sequence: u64,
    row: StreamRow,
}

impl Located {
    fn parse(key: &[u8], value: &[u8]) -> Result<Self, String> {
        let sequence = rows::parse_stream_sequence(key).ok_or("the key is too short")?;
        let row = StreamRow::open(value).map_err(|error| error.to_string())?;
        Ok(Self { sequence, row })
    }

    fn next_sequence(&self) -> u64 {
        self.sequence
            .saturating_add(u64::from(self.row.event_count))
    }
}

impl Shared {
    /// See [`phalanx_actors::ports::Journal::read_stream`].
    pub(crate) fn read_stream(
        &self,
        shard: ShardId,
        stream: &StreamName,
        from_sequence: u64,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        let shard = self.readable(shard)?;
        let located = self.locate(shard, stream, from_sequence.max(1), limit)?;
        let mut records = Vec::with_capacity(located.len());
        for chunk in located.chunks(FETCH) {
            self.fetch(shard, stream, chunk, &mut records)?;
        }
        Ok(records)
    }

    /// The stream rows from the one that covers `from` on.
    fn locate(
        &self,
        shard: &Shard,
        stream: &StreamName,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Located>, JournalError> {
        let what = || format!("the index of {stream}");
        let (mut low, mut high) = (Vec::new(), Vec::new());
        rows::stream_key(&mut high, shard.id, stream, u64::MAX);
        let mut start = 1;
        if from > 1 {
            rows::stream_key(&mut low, shard.id, stream, 1);
            let mut behind = Vec::new();
            rows::stream_key(&mut behind, shard.id, stream, from.saturating_add(1));
            let scan = stream_scan(&low, &behind);
            let last = self
                .disk
                .last(scan)
                .map_err(|e| shard.read_failed(what(), e))?;
            // Without a row before it, the stream is empty, or it begins behind what is asked for,
            // which the check below reports.
            if let Some((key, value)) = last {
                let row = Located::parse(&key, &value).map_err(|e| shard.corrupt(what(), e))?;
                let covers = row.next_sequence() > from;
                start = if covers {
                    row.sequence
                } else {
                    row.next_sequence()
                };
            }
        }
        rows::stream_key(&mut low, shard.id, stream, start);
        let mut located: Vec<Located> = Vec::with_capacity(limit.min(FETCH));
        let mut next = start;
        let mut problem = None;
        let scanned = self.disk.scan(stream_scan(&low, &high), &mut |key, value| {
            if located.len() >= limit {
                return ControlFlow::Break(());
            }
            match Located::parse(key, value) {
                Ok(row) if row.sequence == next && row.row.event_count > 0 => {
                    next = row.next_sequence();
                    located.push(row);
                    ControlFlow::Continue(())
                }
                Ok(row) => {
                    problem = Some(format!("event {next} is missing, found {}", row.sequence));
                    ControlFlow::Break(())
                }
                Err(error) => {
                    problem = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        scanned.map_err(|error| shard.read_failed(what(), error))?;
        match problem {
            Some(problem) => Err(shard.corrupt(what(), problem)),
            None => Ok(located),
        }
    }

    /// Reads the records of stream rows.
    fn fetch(
        &self,
        shard: &Shard,
        stream: &StreamName,
        located: &[Located],
        records: &mut Vec<Record>,
    ) -> Result<(), JournalError> {
        let key = |row: &Located| rows::log_key(shard.id, row.row.index, row.row.slot);
        let keys: Vec<LogKey> = located.iter().map(key).collect();
        let values = self.disk.get_log_rows(&keys);
        let values = values.map_err(|error| shard.read_failed("the log", error))?;
        for (located, value) in located.iter().zip(values) {
            let record = self.open_row(shard, located.row.index, located.row.slot, value)?;
            let matches = record.first_sequence == located.sequence
                && record.event_count == located.row.event_count
                && record.first_position == located.row.first_position
                && record.stream == *stream;
            if !matches {
                let what = format!("log row {}.{}", located.row.index, located.row.slot);
                return Err(shard.corrupt(
                    what,
                    format!("it is not event {} of {stream}", located.sequence),
                ));
            }
            records.push(record);
        }
        Ok(())
    }

    /// Reads a record out of its log row.
    fn open_row(
        &self,
        shard: &Shard,
        index: u64,
        slot: u32,
        value: Option<Bytes>,
    ) -> Result<Record, JournalError> {
        let what = || format!("log row {index}.{slot}");
        let value = value.ok_or_else(|| shard.corrupt(what(), "it is missing"))?;
        let bytes = if slot == 0 {
            let opened = rows::open_header(&value);
            opened.map_err(|error| shard.corrupt(what(), error))?.1
        } else {
            value
        };
        Record::from_stored(bytes).map_err(|error| shard.corrupt(what(), error))
    }

    /// See [`phalanx_actors::ports::Journal::find_key`].
    pub(crate) fn find_key(
        &self,
        shard: ShardId,
        stream: &StreamName,
        key_hash: u128,
        now: Timestamp,
    ) -> Result<Option<Record>, JournalError> {
        let shard = self.readable(shard)?;
        let what = || format!("an idempotency key of {stream}");
        let mut key = Vec::new();
        rows::dedup_key(&mut key, shard.id, stream, key_hash);
        let value = self.disk.get(Table::Index, &key);
        let Some(value) = value.map_err(|error| shard.read_failed(what(), error))? else {
            return Ok(None);
        };
        let row = DedupRow::open(&value).map_err(|error| shard.corrupt(what(), error))?;
        if row.expires_us <= now.as_microsecond() {
            return Ok(None);
        }
        let key = rows::log_key(shard.id, row.index, row.slot);
        let value = self.disk.get(Table::Log, &key);
        let value = value.map_err(|error| shard.read_failed("the log", error))?;
        let record = self.open_row(shard, row.index, row.slot, value)?;
        if record.key_hash != key_hash || record.stream != *stream {
            return Err(shard.corrupt(what(), "it points to another command"));
        }
        Ok(Some(record))
    }

    /// See [`phalanx_actors::ports::Journal::read_snapshot`].
    pub(crate) fn read_snapshot(
        &self,
        shard: ShardId,
        stream: &StreamName,
    ) -> Result<Option<Vec<u8>>, JournalError> {
        let shard = self.readable(shard)?;
        let mut key = Vec::new();
        rows::snapshot_key(&mut key, shard.id, stream);
        let damage = match self.disk.get(Table::Snapshot, &key) {
            Ok(None) => return Ok(None),
            Ok(Some(value)) => match rows::open_snapshot(&value) {
                Ok(snapshot) => return Ok(Some(snapshot)),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        // A snapshot is a cache: replaying the stream gives the same state.
        tracing::warn!(shard = shard.id, %stream, %damage, "a snapshot is damaged and not used");
        Ok(None)
    }
}

fn stream_scan<'a>(from: &'a [u8], to: &'a [u8]) -> Scan<'a> {
    Scan {
        table: Table::Index,
        from,
        to,
        within_stream: true,
    }
}
