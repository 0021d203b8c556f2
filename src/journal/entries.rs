//! Log entries to rows and back.
//!
//! Owns: the check that an entry is complete. Refuses: to give a part of one. Invariant: entries
//! come out in order without a gap, each with all its records at the positions its header says.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use phalanx_actors::codec::CodecError;
use phalanx_actors::names::ShardId;
use phalanx_actors::record::Record;

use super::disk::{Batch, Table};
use super::rows::{self, EntryHeader};
use super::run::leading_run;
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
    let mut front: &[u8] = &header;
    let mut rest = records;
    let mut slot = 0_u32;
    loop {
        let (run, behind) = rest
            .split_at_checked(leading_run(rest))
            .unwrap_or((rest, &[]));
        let bytes = run.iter().map(|record| &record.bytes[..]);
        let key = rows::log_key(shard, entry.index, slot);
        batch.put(Table::Log, &key, std::iter::once(front).chain(bytes));
        if behind.is_empty() {
            return Ok(());
        }
        slot += u32::try_from(run.len()).map_err(too_many)?;
        rest = behind;
        front = &[];
    }
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
        let (header, mut records, run) = match self.open.take() {
            None if index == self.next_index && slot == 0 => {
                let opened = rows::open_header(&bytes);
                let (header, run) = opened.map_err(|error| Damage::at(index, slot, error))?;
                (header, Vec::new(), run)
            }
            Some((header, records))
                if index == self.next_index && usize::try_from(slot) == Ok(records.len()) =>
            {
                (header, records, bytes)
            }
            _ => {
                let reason = format!("rows are missing before {index}.{slot}");
                return Err(Damage::at(self.next_index, 0, reason));
            }
        };
        open_run(index, slot, run, &mut records)?;
        self.bytes += value.len();
        let expected = usize::try_from(header.records).unwrap_or(usize::MAX);
        match records.len().cmp(&expected) {
            Ordering::Greater => return Err(Damage::at(index, slot, "records left over")),
            Ordering::Less => {
                self.open = Some((header, records));
                return Ok(ControlFlow::Continue(()));
            }
            Ordering::Equal => self.complete(&header, records)?,
        }
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

/// Reads the records of a run.
fn open_run(
    index: u64,
    slot: u32,
    mut run: Bytes,
    records: &mut Vec<Record>,
) -> Result<(), Damage> {
    let damage = |error| Damage::at(index, slot, error);
    while !run.is_empty() {
        let (sealed, rest) = rows::split_sealed(&run).map_err(damage)?;
        records.push(Record::from_stored(sealed).map_err(damage)?);
        run = rest;
    }
    Ok(())
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
