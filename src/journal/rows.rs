//! The stored form of every row: keys and values of the four tables.
//!
//! Owns: how a key is ordered and what a value holds. Refuses: to guess; a value that does not check
//! out is an error. Invariant: these bytes never change; a new form gets a new schema version.
//!
//! ```text
//! table     key                                               value
//! log       shard u32, index u64, slot u32 (all BE)           slot 0: entry header, then a run
//!                                                             slot n: a run whose first record is n
//! index     shard u32 BE, 0                                   Applied: how far this table goes
//! index     shard u32 BE, type 0 id 0, 1, sequence u64 BE     Stream: where the run lies
//! index     shard u32 BE, type 0 id 0, 2, key hash u128 BE    Dedup: where the record lies, expiry
//! snapshot  shard u32 BE, type 0 id                           Snapshot: opaque
//! meta      "vote", shard u32 BE                              Vote: its number, opaque
//! meta      "purg", shard u32 BE                              Entry: opaque
//! ```
//! A record's bytes are stored exactly as its actor sealed them; those of a run (see `run`) stand one
//! after the other, each saying its own length. The entry header stands before the first run in one
//! row, so that an entry of one command costs one row. The two index rows of a command are close in
//! order, so that inserting the second one costs little.

use bytes::Bytes;
use phalanx_actors::codec::{self, CodecError, HEADER_LEN, ValueType};
use phalanx_actors::names::{ShardId, StreamName};

/// Version of everything in this file.
const SCHEMA: u16 = 1;

const KIND_APPLIED: u8 = 0;
const KIND_STREAM: u8 = 1;
const KIND_DEDUP: u8 = 2;

/// Bytes before the stream name in a key of the index table.
const INDEX_HEAD: usize = 4;

/// The key of a log row.
pub(crate) type LogKey = [u8; 16];

/// Key of slot `slot` of entry `index`.
pub(crate) fn log_key(shard: ShardId, index: u64, slot: u32) -> LogKey {
    let packed = (u128::from(shard) << 96) | (u128::from(index) << 32) | u128::from(slot);
    packed.to_be_bytes()
}

/// Reads a log key.
pub(crate) fn parse_log_key(key: &[u8]) -> Option<(ShardId, u64, u32)> {
    let packed = u128::from_be_bytes(key.try_into().ok()?);
    // Each part is cut to its own width on purpose.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each shift leaves the part alone"
    )]
    Some(((packed >> 96) as u32, (packed >> 32) as u64, packed as u32))
}

/// Where a shard's rows of the index begin.
pub(crate) fn shard_start(shard: ShardId) -> [u8; INDEX_HEAD] {
    shard.to_be_bytes()
}

/// Where the rows of a shard lie in a table whose keys begin with the shard: `from <= key < to`.
pub(crate) fn shard_range(shard: ShardId) -> ([u8; INDEX_HEAD], [u8; INDEX_HEAD]) {
    (shard_start(shard), shard_start(shard.saturating_add(1)))
}

/// Behind all rows of a stream, before those of the next one.
pub(crate) fn behind_stream(shard: ShardId, stream: &StreamName) -> Vec<u8> {
    let mut key = Vec::new();
    index_prefix(&mut key, shard, u8::MAX, stream);
    key
}

/// The stream that a row of the index belongs to.
pub(crate) fn parse_stream_name(key: &[u8]) -> Option<StreamName> {
    let end = stream_prefix_len(key)?;
    let name = key.get(INDEX_HEAD..end.checked_sub(1)?)?;
    StreamName::from_stored(std::str::from_utf8(name).ok()?)
}

/// Key of a shard's applied mark.
pub(crate) fn applied_key(shard: ShardId) -> [u8; INDEX_HEAD + 1] {
    let [a, b, c, d] = shard.to_be_bytes();
    [a, b, c, d, KIND_APPLIED]
}

/// Writes the common front of a stream's rows.
fn index_prefix(out: &mut Vec<u8>, shard: ShardId, kind: u8, stream: &StreamName) {
    out.clear();
    out.extend_from_slice(&shard.to_be_bytes());
    out.extend_from_slice(stream.as_str().as_bytes());
    out.extend_from_slice(&[0, kind]);
}

/// Key of the stream row of the record that begins at `first_sequence`.
pub(crate) fn stream_key(out: &mut Vec<u8>, shard: ShardId, stream: &StreamName, sequence: u64) {
    index_prefix(out, shard, KIND_STREAM, stream);
    out.extend_from_slice(&sequence.to_be_bytes());
}

/// The sequence number in a stream row's key.
pub(crate) fn parse_stream_sequence(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|tail| u64::from_be_bytes(*tail))
}

/// Key of the row of an idempotency key.
pub(crate) fn dedup_key(out: &mut Vec<u8>, shard: ShardId, stream: &StreamName, key_hash: u128) {
    index_prefix(out, shard, KIND_DEDUP, stream);
    out.extend_from_slice(&key_hash.to_be_bytes());
}

/// Whether a key of the index table belongs to an idempotency key.
pub(crate) fn is_dedup_key(key: &[u8]) -> bool {
    stream_prefix_len(key).and_then(|end| key.get(end)) == Some(&KIND_DEDUP)
}

/// Whether a key of the index table belongs to a stream.
pub(crate) fn is_of_stream(key: &[u8]) -> bool {
    stream_prefix_len(key).is_some()
}

/// What the rows of one stream have in common: everything up to the NUL after the id.
pub(crate) fn stream_prefix(key: &[u8]) -> &[u8] {
    let end = stream_prefix_len(key);
    end.and_then(|end| key.get(..end)).unwrap_or(key)
}

fn stream_prefix_len(key: &[u8]) -> Option<usize> {
    let nul_after = |from: usize| {
        let rest = key.get(from..)?;
        let at = rest.iter().position(|byte| *byte == 0)?;
        Some(from + at + 1)
    };
    nul_after(INDEX_HEAD).and_then(nul_after)
}

/// Key of a snapshot.
pub(crate) fn snapshot_key(out: &mut Vec<u8>, shard: ShardId, stream: &StreamName) {
    out.clear();
    out.extend_from_slice(&shard.to_be_bytes());
    out.extend_from_slice(stream.as_str().as_bytes());
}

/// Key of a shard's vote.
pub(crate) fn vote_key(shard: ShardId) -> [u8; 8] {
    let [a, b, c, d] = shard.to_be_bytes();
    [b'v', b'o', b't', b'e', a, b, c, d]
}

/// Key of what a shard's raft group calls purged.
pub(crate) fn purged_key(shard: ShardId) -> [u8; 8] {
    let [a, b, c, d] = shard.to_be_bytes();
    [b'p', b'u', b'r', b'g', a, b, c, d]
}

/// What stands in front of an entry's first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    /// Number of records; 0 when the entry carries something else.
    pub(crate) records: u32,
    /// Position number of the last event up to and including this entry.
    pub(crate) last_position: u64,
    /// The raft log id.
    pub(crate) meta: Bytes,
    /// The payload of an entry without records.
    pub(crate) other: Bytes,
}

/// Seals an entry header: `records u32, last position u64, meta length u32 (LE), meta, other`.
pub(crate) fn seal_header(
    records: u32,
    last_position: u64,
    meta: &[u8],
    other: &[u8],
) -> Result<Vec<u8>, CodecError> {
    let capacity = 16 + meta.len() + other.len();
    let mut out = codec::draft(ValueType::Entry, SCHEMA, capacity, |out| {
        out.extend_from_slice(&records.to_le_bytes());
        out.extend_from_slice(&last_position.to_le_bytes());
        let length = u32::try_from(meta.len()).map_err(|_| CodecError::Short { len: 0 })?;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(meta);
        out.extend_from_slice(other);
        Ok(())
    })?;
    codec::finish(&mut out);
    Ok(out)
}

/// Cuts the first sealed value off a row; gives it and the rest.
pub(crate) fn split_sealed(row: &Bytes) -> Result<(Bytes, Bytes), CodecError> {
    let short = || CodecError::Short { len: row.len() };
    let length = row.get(5..9).and_then(|bytes| bytes.try_into().ok());
    let length = u32::from_le_bytes(length.ok_or_else(short)?);
    let end = usize::try_from(length).ok();
    let end = end.and_then(|length| length.checked_add(HEADER_LEN));
    let end = end.filter(|end| *end <= row.len()).ok_or_else(short)?;
    Ok((row.slice(..end), row.slice(end..)))
}

/// Reads the row of slot 0; gives the header and the bytes of the first run (empty when there is
/// none).
pub(crate) fn open_header(row: &Bytes) -> Result<(EntryHeader, Bytes), CodecError> {
    let short = || CodecError::Short { len: row.len() };
    let (sealed, rest_of_row) = split_sealed(row)?;
    let (_, payload) = codec::open(ValueType::Entry, &sealed)?;
    let (records, rest) = payload.split_first_chunk::<4>().ok_or_else(short)?;
    let (last_position, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (meta, other) = codec::take_sized(rest)?;
    let header = EntryHeader {
        records: u32::from_le_bytes(*records),
        last_position: u64::from_le_bytes(*last_position),
        meta: row.slice_ref(meta),
        other: row.slice_ref(other),
    };
    Ok((header, rest_of_row))
}

/// Where a run of a stream lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamRow {
    pub(crate) index: u64,
    /// Of the run's first record, which is that of its log row.
    pub(crate) slot: u32,
    /// Number of records in the run.
    pub(crate) records: u32,
    /// Number of events in them.
    pub(crate) event_count: u32,
    /// Position number of the run's first event.
    pub(crate) first_position: u64,
    /// Whether the entry ends with this run.
    pub(crate) ends_entry: bool,
}

impl StreamRow {
    pub(crate) fn seal(&self) -> Result<Vec<u8>, CodecError> {
        let place = (self.index, self.slot, self.records, self.ends_entry);
        let fields = (place, self.event_count, self.first_position);
        codec::seal(ValueType::Stream, SCHEMA, &fields)
    }

    pub(crate) fn open(bytes: &[u8]) -> Result<Self, CodecError> {
        let (place, event_count, first_position) = codec::unseal(ValueType::Stream, bytes)?;
        let (index, slot, records, ends_entry) = place;
        Ok(Self {
            index,
            slot,
            records,
            event_count,
            first_position,
            ends_entry,
        })
    }
}

/// Where the record of an idempotency key lies, and how long the key is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DedupRow {
    pub(crate) index: u64,
    /// Of the log row.
    pub(crate) slot: u32,
    /// Its place within the row's run, from 0.
    pub(crate) nth: u32,
    /// Microseconds since the Unix epoch; the key is forgotten from then on.
    pub(crate) expires_us: i64,
}

impl DedupRow {
    pub(crate) fn seal(&self) -> Result<Vec<u8>, CodecError> {
        let fields = (self.index, self.slot, self.nth, self.expires_us);
        codec::seal(ValueType::Dedup, SCHEMA, &fields)
    }

    pub(crate) fn open(bytes: &[u8]) -> Result<Self, CodecError> {
        let (index, slot, nth, expires_us) = codec::unseal(ValueType::Dedup, bytes)?;
        Ok(Self {
            index,
            slot,
            nth,
            expires_us,
        })
    }
}

/// How far a shard's rows in the index table go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AppliedRow {
    pub(crate) index: u64,
    /// Position number of the last indexed event.
    pub(crate) position: u64,
    pub(crate) state: Bytes,
}

impl AppliedRow {
    pub(crate) fn seal(&self) -> Result<Vec<u8>, CodecError> {
        seal_numbered(
            ValueType::Applied,
            &[self.index, self.position],
            &self.state,
        )
    }

    pub(crate) fn open(bytes: &Bytes) -> Result<Self, CodecError> {
        let ([index, position], state) = open_numbered(ValueType::Applied, bytes)?;
        Ok(Self {
            index,
            position,
            state,
        })
    }
}

/// A vote and its number: each vote that this node ever saved counts one up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VoteRow {
    pub(crate) number: u64,
    pub(crate) vote: Bytes,
}

impl VoteRow {
    pub(crate) fn seal(&self) -> Result<Vec<u8>, CodecError> {
        seal_numbered(ValueType::Vote, &[self.number], &self.vote)
    }

    pub(crate) fn open(bytes: &Bytes) -> Result<Self, CodecError> {
        let ([number], vote) = open_numbered(ValueType::Vote, bytes)?;
        Ok(Self { number, vote })
    }
}

/// Seals what raft calls purged.
pub(crate) fn seal_purged(purged: &[u8]) -> Result<Vec<u8>, CodecError> {
    seal_numbered(ValueType::Entry, &[], purged)
}

/// Reads what raft calls purged.
pub(crate) fn open_purged(bytes: &Bytes) -> Result<Bytes, CodecError> {
    let ([], purged) = open_numbered(ValueType::Entry, bytes)?;
    Ok(purged)
}

/// Seals a snapshot.
pub(crate) fn seal_snapshot(snapshot: &[u8]) -> Result<Vec<u8>, CodecError> {
    seal_numbered(ValueType::Snapshot, &[], snapshot)
}

/// Reads a snapshot.
pub(crate) fn open_snapshot(bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
    let (_, payload) = codec::open(ValueType::Snapshot, bytes)?;
    Ok(payload.to_vec())
}

/// Seals `numbers (u64 LE each), bytes`.
fn seal_numbered(
    value_type: ValueType,
    numbers: &[u64],
    bytes: &[u8],
) -> Result<Vec<u8>, CodecError> {
    let capacity = numbers.len() * 8 + bytes.len();
    let mut out = codec::draft(value_type, SCHEMA, capacity, |out| {
        for number in numbers {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(bytes);
        Ok(())
    })?;
    codec::finish(&mut out);
    Ok(out)
}

/// Reads what [`seal_numbered`] wrote.
fn open_numbered<const N: usize>(
    value_type: ValueType,
    row: &Bytes,
) -> Result<([u64; N], Bytes), CodecError> {
    let (_, mut rest) = codec::open(value_type, row)?;
    let mut numbers = [0; N];
    for number in &mut numbers {
        let short = CodecError::Short { len: row.len() };
        let (head, tail) = rest.split_first_chunk::<8>().ok_or(short)?;
        *number = u64::from_le_bytes(*head);
        rest = tail;
    }
    Ok((numbers, row.slice_ref(rest)))
}
