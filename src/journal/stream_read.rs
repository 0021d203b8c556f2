//! Reading one aggregate: its stream, its idempotency keys, its snapshot.
//!
//! Owns: finding a stream's records without touching those of other streams. Refuses: a stream with
//! a hole. Invariant: records come out with sequence numbers that follow each other, and each is
//! the one that the index says; however large they are, a read takes a bounded amount of memory.

use std::ops::ControlFlow;

use bytes::Bytes;
use jiff::Timestamp;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::{JournalError, STREAM_READ_BYTES};
use phalanx_actors::record::{Record, RecordView, hash_key};

use super::disk::{Scan, Table};
use super::entries::Damage;
use super::rows::{self, DedupRow, LogKey, StreamRow};
use super::shard::Shard;
use super::shared::Shared;

/// Rows looked up at once: enough to spread the cost of a call, few enough that large ones do no harm.
const LOOK_UP: usize = 16;
/// Rows that lie side by side from which on stepping through them beats looking each up.
const STEP: usize = 4;

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

    /// Whether no other row lies between the two in the log.
    fn adjoins(&self, next: &Self) -> bool {
        let (row, next) = (self.row, next.row);
        if next.index == row.index {
            next.slot == row.slot.saturating_add(row.records)
        } else {
            row.ends_entry && next.slot == 0 && row.index.checked_add(1) == Some(next.index)
        }
    }

    fn log_key(&self, shard: &Shard) -> LogKey {
        rows::log_key(shard.id, self.row.index, self.row.slot)
    }

    fn log_row(&self) -> String {
        format!("log row {}.{}", self.row.index, self.row.slot)
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
        let mut rest = &located[..];
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        while !rest.is_empty() && bytes < STREAM_READ_BYTES {
            let rows = self.fetch(shard, rest, STREAM_READ_BYTES - bytes)?;
            let (fetched, behind) = rest.split_at(rows.len());
            let begun = records.len();
            for (located, row) in fetched.iter().zip(rows) {
                let run = run_bytes(shard, located, row)?;
                open_run(shard, stream, located, run, &mut records)?;
            }
            // The first run may begin before what is asked for.
            let before = |record: &Record| {
                let next = record.first_sequence + u64::from(record.event_count);
                next <= from_sequence
            };
            let skip = records.iter().take_while(|record| before(record)).count();
            records.drain(..skip);
            let new = records.iter().skip(begun.saturating_sub(skip));
            bytes += new.map(|record| record.bytes.len()).sum::<usize>();
            rest = behind;
        }
        // The last run may go beyond it.
        records.truncate(limit);
        Ok(records)
    }

    /// The stream rows from the one that covers `from` on, with at least `limit` records.
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
        let mut located: Vec<Located> = Vec::new();
        let mut next = start;
        let mut found = 0;
        let mut problem = None;
        let scanned = self.disk.scan(stream_scan(&low, &high), &mut |key, value| {
            if found >= limit {
                return ControlFlow::Break(());
            }
            match Located::parse(key, value) {
                Ok(row) if row.sequence == next && row.row.event_count > 0 => {
                    next = row.next_sequence();
                    // The first run's front may not be asked for: it counts as one record.
                    let counted = if located.is_empty() {
                        1
                    } else {
                        row.row.records
                    };
                    found += usize::try_from(counted).unwrap_or(usize::MAX);
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

    /// Reads the log rows of the first stream rows, at least of one: side by side where they lie so, else
    /// by their keys; and of no more once they weigh `max_bytes`.
    fn fetch(
        &self,
        shard: &Shard,
        located: &[Located],
        max_bytes: usize,
    ) -> Result<Vec<Option<Bytes>>, JournalError> {
        let mut scattered = 0;
        for group in located.chunk_by(Located::adjoins) {
            if group.len() >= STEP {
                if scattered == 0 {
                    return self.step_through(shard, group, max_bytes);
                }
                break;
            }
            scattered += group.len();
            if scattered >= LOOK_UP {
                break;
            }
        }
        let rows = located.iter().take(scattered);
        let keys: Vec<LogKey> = rows.map(|row| row.log_key(shard)).collect();
        let found = self.disk.get_log_rows(&keys);
        found.map_err(|error| shard.read_failed("the log", error))
    }

    /// The log rows of a group that lies side by side; see [`Shared::fetch`].
    fn step_through(
        &self,
        shard: &Shard,
        group: &[Located],
        max_bytes: usize,
    ) -> Result<Vec<Option<Bytes>>, JournalError> {
        let mut fetched = Vec::with_capacity(group.len());
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            return Ok(fetched);
        };
        let end = rows::log_key(shard.id, last.row.index, last.row.slot.saturating_add(1));
        let scan = Scan {
            table: Table::Log,
            from: &first.log_key(shard),
            to: &end,
            within_stream: false,
        };
        let mut expected = group.iter();
        let mut bytes = 0;
        let mut is_cut = false;
        self.disk
            .scan(scan, &mut |found, value| match expected.next() {
                Some(row) if found == row.log_key(shard) => {
                    fetched.push(Some(Bytes::copy_from_slice(value)));
                    bytes += value.len();
                    is_cut = bytes >= max_bytes;
                    match is_cut {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                }
                missing => {
                    fetched.extend(missing.map(|_| None));
                    ControlFlow::Break(())
                }
            })
            .map_err(|error| shard.read_failed("the log", error))?;
        if !is_cut {
            fetched.extend(expected.map(|_| None));
        }
        Ok(fetched)
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
        let record = nth_record(&row, value);
        let record = record.map_err(|damage| shard.damaged(damage))?;
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

/// The run in a log row.
fn run_bytes(shard: &Shard, located: &Located, row: Option<Bytes>) -> Result<Bytes, JournalError> {
    let row = row.ok_or_else(|| shard.corrupt(located.log_row(), "it is missing"))?;
    if located.row.slot > 0 {
        return Ok(row);
    }
    let opened = rows::open_header(&row);
    let (_, run) = opened.map_err(|error| shard.corrupt(located.log_row(), error))?;
    Ok(run)
}

/// Reads a run's records, which must be those that the stream row says.
fn open_run(
    shard: &Shard,
    stream: &StreamName,
    located: &Located,
    mut run: Bytes,
    records: &mut Vec<Record>,
) -> Result<(), JournalError> {
    let damaged = |error| shard.corrupt(located.log_row(), error);
    let mut sequence = located.sequence;
    let mut position = located.row.first_position;
    for _ in 0..located.row.records {
        let (sealed, rest) = rows::split_sealed(&run).map_err(damaged)?;
        let view = RecordView::open(&sealed).map_err(damaged)?;
        let head = &view.head;
        let matches = head.first_sequence == sequence
            && view.first_position == position
            && head.event_count > 0
            && head.stream == stream.as_str();
        if !matches {
            let reason = format!("it is not event {sequence} of {stream}");
            return Err(shard.corrupt(located.log_row(), reason));
        }
        let record = Record {
            stream: stream.clone(),
            first_sequence: sequence,
            event_count: head.event_count,
            first_position: position,
            time_us: head.time_us,
            key_hash: hash_key(head.key),
            flags: head.flags,
            bytes: sealed.clone(),
        };
        sequence += u64::from(record.event_count);
        position += u64::from(record.event_count);
        records.push(record);
        run = rest;
    }
    if run.is_empty() && sequence == located.next_sequence() {
        Ok(())
    } else {
        Err(shard.corrupt(located.log_row(), "it does not end where its index says"))
    }
}

/// The record that the row of an idempotency key names.
fn nth_record(row: &DedupRow, value: Option<Bytes>) -> Result<Record, Damage> {
    let damage = |reason: String| Damage::at(row.index, row.slot, reason);
    let mut run = value.ok_or_else(|| damage("it is missing".to_owned()))?;
    if row.slot == 0 {
        let opened = rows::open_header(&run);
        run = opened.map_err(|error| damage(error.to_string()))?.1;
    }
    for _ in 0..row.nth {
        let split = rows::split_sealed(&run);
        run = split.map_err(|error| damage(error.to_string()))?.1;
    }
    let split = rows::split_sealed(&run).and_then(|(sealed, _)| Record::from_stored(sealed));
    split.map_err(|error| damage(error.to_string()))
}
