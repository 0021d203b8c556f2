//! What must hold after a run, read off the logs of all nodes and off what clients heard.
//!
//! The logs give one history per aggregate, so linearizability is simple: each answer shows a
//! version of its aggregate, and an answer that was complete before another request began must not
//! show a later version than that one's answer.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use phalanx::cluster::members::Members;
use phalanx::journal::{Journal, LogEntry, LogPayload};
use phalanx_actors::Aggregate as _;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::{Journal as _, JournalError};
use phalanx_actors::record::{Record, hash_key};
use phalanx_actors::request::Precondition;

use crate::chance::Trace;
use crate::clients::{Operation, Outcome, Wish};
use crate::model;

/// An aggregate after its first `n` events, for each `n`.
#[derive(Debug, Default)]
struct Versions {
    /// By version: whether it is open, and the balance.
    states: Vec<(bool, i64)>,
    /// The key's hash, the version after its command and the position.
    by_key: BTreeMap<u128, (u64, u64)>,
}

/// All that a node has stored of a shard, as far as it is applied.
pub(crate) struct Copy {
    pub(crate) log: Vec<LogEntry>,
    /// What the index knows of the log: the records of each aggregate, and those of all keys.
    streams: BTreeMap<StreamName, Vec<Record>>,
    keys: Vec<Option<Record>>,
}

impl Copy {
    /// Reads all of it, so that damage is found.
    pub(crate) fn read(journal: &Journal, shard: ShardId) -> Result<Self, JournalError> {
        let mut copy = Self {
            log: read_log(journal, shard)?,
            streams: BTreeMap::new(),
            keys: Vec::new(),
        };
        for record in records(&copy.log) {
            let at = Timestamp::from_microsecond(record.time_us).unwrap();
            let found = journal.find_key(shard, &record.stream, record.key_hash, at)?;
            copy.keys.push(found);
            if !copy.streams.contains_key(&record.stream) {
                let read = read_stream(journal, shard, &record.stream)?;
                copy.streams.insert(record.stream.clone(), read);
            }
        }
        Ok(copy)
    }

    /// Whether the index knows of everything in the log, and of nothing else.
    fn is_indexed(&self) -> bool {
        let mut streams: BTreeMap<StreamName, Vec<Record>> = BTreeMap::new();
        for record in records(&self.log) {
            let stream = streams.entry(record.stream.clone()).or_default();
            stream.push(record.clone());
        }
        let keys = self.keys.iter().map(Option::as_ref);
        streams == self.streams && keys.eq(records(&self.log).map(Some))
    }
}

fn records(log: &[LogEntry]) -> impl Iterator<Item = &Record> {
    let records = log.iter().filter_map(|entry| match &entry.payload {
        LogPayload::Records(records) => Some(records.iter()),
        LogPayload::Other(_) => None,
    });
    records.flatten()
}

fn read_log(journal: &Journal, shard: ShardId) -> Result<Vec<LogEntry>, JournalError> {
    let applied = journal.applied(shard)?.map_or(0, |a| a.index + 1);
    let mut entries = Vec::new();
    loop {
        let from = entries.last().map_or(0, |e: &LogEntry| e.index + 1);
        let page = journal.read_log(shard, from..applied, 1 << 20)?;
        if page.is_empty() {
            return Ok(entries);
        }
        entries.extend(page);
    }
}

fn read_stream(
    journal: &Journal,
    shard: ShardId,
    stream: &StreamName,
) -> Result<Vec<Record>, JournalError> {
    let mut records: Vec<Record> = Vec::new();
    loop {
        let next = |last: &Record| last.first_sequence + u64::from(last.event_count);
        let page = journal.read_stream(shard, stream, records.last().map_or(1, next), 1_000)?;
        if page.is_empty() {
            return Ok(records);
        }
        records.extend(page);
    }
}

/// All nodes have applied the same, the same is in their logs, and their index knows of it.
pub(crate) fn copies_agree(trace: &Trace, shard: ShardId, copies: &[(u64, Copy)]) {
    for (node, _) in copies.iter().filter(|(_, copy)| !copy.is_indexed()) {
        trace.violated(format!(
            "node {node}, shard {shard}: the index does not fit the log"
        ));
    }
    let Some(((first, Copy { log, .. }), others)) = copies.split_first() else {
        return;
    };
    for (node, Copy { log: other, .. }) in others {
        if log != other {
            let at = log.iter().zip(other).position(|(a, b)| a != b);
            trace.violated(format!(
                "shard {shard}: the logs of node {first} ({} entries) and node {node} ({}) differ \
                 at {at:?}",
                log.len(),
                other.len()
            ));
        }
    }
}

/// Positions and sequence numbers have no gaps, and no key has two batches. What clients heard fits.
pub(crate) fn history_fits(
    trace: &Trace,
    logs: &BTreeMap<ShardId, Vec<LogEntry>>,
    book: &[Operation],
) {
    let mut wishes: BTreeMap<(StreamName, u128), Wish> = BTreeMap::new();
    for operation in book {
        wishes.insert(
            (operation.stream.clone(), hash_key(&operation.key)),
            operation.wish,
        );
    }
    let mut streams: BTreeMap<StreamName, Versions> = BTreeMap::new();
    for (shard, log) in logs {
        let mut next_position = 1;
        for entry in log {
            let LogPayload::Records(records) = &entry.payload else {
                continue;
            };
            for record in records.iter() {
                if record.first_position != next_position {
                    trace.violated(format!(
                        "shard {shard}, entry {}: position {} where {next_position} is due",
                        entry.index, record.first_position
                    ));
                }
                next_position = record.first_position + u64::from(record.event_count);
                if record.stream.aggregate_type() == Members::TYPE {
                    // No client's business: who the members are.
                    continue;
                }
                fold(trace, &mut streams, record, &wishes);
            }
        }
    }
    let mut by_stream: BTreeMap<&StreamName, Vec<&Operation>> = BTreeMap::new();
    for operation in book {
        by_stream
            .entry(&operation.stream)
            .or_default()
            .push(operation);
    }
    for (stream, operations) in by_stream {
        let mut versions = streams.remove(stream).unwrap_or_default();
        if versions.states.is_empty() {
            versions.states.push((false, 0));
        }
        linear(trace, stream, &versions, &operations);
        model::agrees(trace, stream, &operations);
    }
}

fn fold(
    trace: &Trace,
    streams: &mut BTreeMap<StreamName, Versions>,
    record: &Record,
    wishes: &BTreeMap<(StreamName, u128), Wish>,
) {
    let versions = streams.entry(record.stream.clone()).or_default();
    if versions.states.is_empty() {
        versions.states.push((false, 0));
    }
    let due = versions.states.len() as u64;
    let stream = record.stream.id().to_owned();
    if record.first_sequence != due || record.event_count != 1 {
        trace.violated(format!(
            "{stream}: {} events from {} on where {due} is due",
            record.event_count, record.first_sequence
        ));
    }
    let (open, balance) = versions.states.last().copied().unwrap();
    let wish = wishes.get(&(record.stream.clone(), record.key_hash));
    let next = match wish {
        Some(Wish::Open) if !open => (true, 0),
        Some(Wish::Deposit(cents)) if open => (true, balance + cents),
        Some(Wish::Withdraw(cents)) if open && balance >= *cents => (true, balance - cents),
        other => {
            trace.violated(format!(
                "{stream}: event {due} comes from {other:?} with open {open}, balance {balance}"
            ));
            (open, balance)
        }
    };
    versions.states.push(next);
    let placed = (record.first_sequence, record.first_position);
    if let Some(before) = versions.by_key.insert(record.key_hash, placed) {
        trace.violated(format!(
            "{stream}: one key has two batches, at {before:?} and {placed:?}"
        ));
    }
}

/// The versions that an answer can have shown.
fn shown(
    trace: &Trace,
    stream: &str,
    versions: &Versions,
    operation: &Operation,
) -> Option<BTreeSet<u64>> {
    let stored = versions.by_key.get(&hash_key(&operation.key)).copied();
    let wrong = |what: &str| {
        trace.violated(format!(
            "{stream}: {what}; stored at {stored:?}: {operation:?}"
        ));
        None
    };
    let all = || {
        versions
            .states
            .iter()
            .enumerate()
            .map(|(v, s)| (v as u64, *s))
    };
    match (&operation.outcome, operation.wish) {
        (Outcome::Accepted { .. } | Outcome::Unknown, _) => {}
        // An attempt before, of which nobody knew, may come through after the refusal.
        _ if operation.tainted => {}
        _ if stored.is_some() => return wrong("it is stored and the client was told otherwise"),
        _ => {}
    }
    match (&operation.outcome, operation.wish) {
        (Outcome::Unknown, Wish::Read) | (Outcome::NotStored, _) => None,
        (Outcome::Unknown, _) => stored.map(|(sequence, _)| BTreeSet::from([sequence])),
        (
            Outcome::Accepted {
                sequence, position, ..
            },
            _,
        ) => {
            if stored != Some((*sequence, *position)) {
                return wrong("it was acknowledged and is not there as promised");
            }
            if matches!(operation.precondition, Precondition::AtSequence(at) if at + 1 != *sequence)
            {
                return wrong("its precondition did not hold");
            }
            Some(BTreeSet::from([*sequence]))
        }
        (Outcome::State { sequence, balance }, _) => {
            let state = usize::try_from(*sequence)
                .ok()
                .and_then(|v| versions.states.get(v));
            if state != Some(&(true, *balance)) {
                return wrong("a state was shown that never was");
            }
            Some(BTreeSet::from([*sequence]))
        }
        (Outcome::NotFound, _) => Some(BTreeSet::from([0])),
        (Outcome::Mismatch { sequence }, _) => {
            if operation.precondition == Precondition::AtSequence(*sequence) {
                return wrong("its precondition did hold");
            }
            Some(BTreeSet::from([*sequence]))
        }
        (Outcome::Rejected { code, balance }, wish) => {
            let fits = |(open, real): (bool, i64)| match code.as_str() {
                "account-not-open" => !open,
                "account-already-open" => open && wish == Wish::Open,
                "insufficient-funds" => {
                    open && *balance == Some(real)
                        && matches!(wish, Wish::Withdraw(cents) if cents > real)
                }
                _ => false,
            };
            let possible: BTreeSet<u64> = all()
                .filter(|(_, state)| fits(*state))
                .map(|(version, _)| version)
                .collect();
            if possible.is_empty() {
                return wrong("a rejection that no state explains");
            }
            Some(possible)
        }
    }
}

/// Walks through beginnings and ends in their order. At each beginning, the newest version that
/// anybody had been shown by then is the least that this request may be shown; at each end, the
/// versions of commands that had not begun by then are too new.
fn linear(trace: &Trace, stream: &StreamName, versions: &Versions, operations: &[&Operation]) {
    let stream = stream.id();
    let mut moments: BTreeMap<u64, (bool, usize)> = BTreeMap::new();
    for (at, operation) in operations.iter().enumerate() {
        moments.insert(operation.began, (true, at));
        if operation.ended != u64::MAX {
            moments.insert(operation.ended, (false, at));
        }
    }
    let shown: Vec<Option<BTreeSet<u64>>> = operations
        .iter()
        .map(|operation| shown(trace, stream, versions, operation))
        .collect();
    // The oldest version that a command made which began after a moment: walk backwards.
    let mut newest_allowed: BTreeMap<usize, u64> = BTreeMap::new();
    let mut oldest_later = u64::MAX;
    for (begins, at) in moments.values().rev() {
        let made = versions.by_key.get(&hash_key(&operations[*at].key));
        if *begins {
            oldest_later = oldest_later.min(made.map_or(u64::MAX, |(sequence, _)| *sequence));
        } else {
            newest_allowed.insert(*at, oldest_later.saturating_sub(1));
        }
    }
    let mut least = vec![0; operations.len()];
    let mut known = 0;
    for (begins, at) in moments.values() {
        let operation = operations[*at];
        if *begins {
            let made = versions.by_key.get(&hash_key(&operation.key));
            if let Some((sequence, _)) = made
                && *sequence <= known
            {
                trace.violated(format!(
                    "{stream}: it took effect at {sequence} and began when {known} was known: \
                     {operation:?}"
                ));
            }
            least[*at] = known;
            continue;
        }
        let Some(possible) = &shown[*at] else {
            continue;
        };
        let most = newest_allowed.get(at).copied().unwrap_or(u64::MAX);
        let fit = possible.range(least[*at]..).next().copied();
        match fit {
            Some(version) if version <= most => known = known.max(version),
            _ => trace.violated(format!(
                "{stream}: not linearizable: {possible:?} where {} to {most} was possible: \
                 {operation:?}",
                least[*at]
            )),
        }
    }
}
