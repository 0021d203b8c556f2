//! Log entries to rows and back.
//!
//! Owns: the check that an entry is complete. Refuses: to give a part of one. Invariant: entries
//! come out in order without a gap, each with all its records at the positions its header says.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use phalanx_actors::codec::CodecError;
use phalanx_actors::names::ShardId;
use phalanx_actors::record::Record;

use super::disk::{Batch, Table};
use super::rows::{self, EntryHeader};
use super::shard::Placed;
use super::types::{LogEntry, LogPayload};

/// What is wrong with stored rows.
#[derive(Debug, Clone)]
pub(crate) struct Damage {
    pub(crate) what: String,
    pub(crate) reason: String,
}

impl Damage {
    pub(crate) fn new(what: impl Into<String>, reason: impl ToString) -> Self {
        Self {
            what: what.into(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn at(index: u64, slot: u32, reason: impl ToString) -> Self {
        Self::new(format!("log row {index}.{slot}"), reason)
    }
}

/// Appends an entry's rows to a batch.
pub(crate) fn put_entry(
    batch: &mut Batch,
    shard: ShardId,
    placed: &Placed,
) -> Result<(), CodecError> {
    let entry = &placed.entry;
    let (records, other): (&[Record], &[u8]) = match &entry.payload {
        LogPayload::Records(records) => (records, &[]),
        LogPayload::Other(bytes) => (&[], bytes),
    };
    let too_many = |_| CodecError::Short { len: records.len() };
    let count = u32::try_from(records.len()).map_err(too_many)?;
    let header = rows::seal_header(count, placed.last_position, &entry.meta, other)?;
    let first = records.first().map_or(&[][..], |record| &record.bytes[..]);
    batch.put(
        Table::Log,
        &rows::log_key(shard, entry.index, 0),
        &[&header, first],
    );
    for (slot, record) in (1..count).zip(records.iter().skip(1)) {
        let key = rows::log_key(shard, entry.index, slot);
        batch.put(Table::Log, &key, &[&record.bytes]);
    }
    Ok(())
}

/// Puts entries together from rows that are fed in order.
#[derive(Debug)]
pub(crate) struct Assembler {
    next_index: u64,
    max_bytes: usize,
    bytes: usize,
    open: Option<(EntryHeader, Vec<Record>)>,
    done: Vec<Placed>,
}

impl Assembler {
    /// Expects `first_index` first; has enough after `max_bytes`, but not before one entry.
    pub(crate) fn new(first_index: u64, max_bytes: usize) -> Self {
        Self {
            next_index: first_index,
            max_bytes,
            bytes: 0,
            open: None,
            done: Vec::new(),
        }
    }

    /// Takes one row; breaks when it has enough.
    pub(crate) fn row(&mut self, key: &[u8], value: &[u8]) -> Result<ControlFlow<()>, Damage> {
        let parsed = rows::parse_log_key(key);
        let (_, index, slot) = parsed.ok_or_else(|| Damage::new("a log key", "wrong length"))?;
        let bytes = Bytes::copy_from_slice(value);
        let (header, mut records) = match self.open.take() {
            None if index == self.next_index && slot == 0 => {
                let opened = rows::open_header(&bytes);
                let (header, first) = opened.map_err(|error| Damage::at(index, slot, error))?;
                let mut records =
                    Vec::with_capacity(usize::try_from(header.records).unwrap_or(0).min(1 << 16));
                match (header.records, first.is_empty()) {
                    (0, true) => {}
                    (0, false) => return Err(Damage::at(index, slot, "bytes left over")),
                    _ => records.push(open_record(index, slot, first)?),
                }
                (header, records)
            }
            Some((header, mut records))
                if index == self.next_index && usize::try_from(slot) == Ok(records.len()) =>
            {
                records.push(open_record(index, slot, bytes)?);
                (header, records)
            }
            _ => {
                return Err(Damage::at(
                    self.next_index,
                    0,
                    format!("rows are missing before {index}.{slot}"),
                ));
            }
        };
        self.bytes += value.len();
        if usize::try_from(header.records) != Ok(records.len()) {
            self.open = Some((header, std::mem::take(&mut records)));
            return Ok(ControlFlow::Continue(()));
        }
        self.complete(&header, records)?;
        Ok(if self.bytes >= self.max_bytes {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }

    fn complete(&mut self, header: &EntryHeader, records: Vec<Record>) -> Result<(), Damage> {
        let index = self.next_index;
        check_positions(index, header, &records)?;
        if let Some(last) = self.done.last() {
            let events: u64 = records.iter().map(|r| u64::from(r.event_count)).sum();
            if header.last_position != last.last_position + events {
                return Err(Damage::at(
                    index,
                    0,
                    "its positions do not follow the entry before it",
                ));
            }
        }
        let payload = if header.records == 0 {
            LogPayload::Other(header.other.clone())
        } else {
            LogPayload::Records(Arc::from(records))
        };
        self.done.push(Placed {
            entry: LogEntry {
                index,
                meta: header.meta.clone(),
                payload,
            },
            last_position: header.last_position,
        });
        self.next_index += 1;
        Ok(())
    }

    /// The complete entries. All of them up to `end` must have come unless it had enough.
    pub(crate) fn finish(self, end: u64) -> Result<Vec<Placed>, Damage> {
        let enough = self.bytes >= self.max_bytes && !self.done.is_empty();
        if self.open.is_some() || (self.next_index < end && !enough) {
            return Err(Damage::at(self.next_index, 0, "rows are missing"));
        }
        Ok(self.done)
    }
}

fn open_record(index: u64, slot: u32, bytes: Bytes) -> Result<Record, Damage> {
    Record::from_stored(bytes).map_err(|error| Damage::at(index, slot, error))
}

/// Positions must run through the records without a gap and end where the header says.
fn check_positions(index: u64, header: &EntryHeader, records: &[Record]) -> Result<(), Damage> {
    let mut next = records.first().map_or(0, |record| record.first_position);
    for (slot, record) in (0..).zip(records) {
        if record.first_position != next || record.event_count == 0 {
            return Err(Damage::at(index, slot, "its position does not follow"));
        }
        next += u64::from(record.event_count);
    }
    if !records.is_empty() && next != header.last_position + 1 {
        return Err(Damage::at(
            index,
            0,
            "its header names another last position",
        ));
    }
    Ok(())
}
