//! What nodes ask one another about committed events: who has copies, and the records behind a
//! position.
//!
//! ```text
//! envelope (codec) | newest position u64 LE | length u32 LE, sealed record | ...
//! ```

use bytes::{Buf, Bytes};
use phalanx_actors::codec::{HEADER_LEN, ValueType};
use phalanx_actors::names::ShardId;
use phalanx_actors::record::Record;
use serde::{Deserialize, Serialize};

use super::{WireError, open, seal};

/// Asks which shards have a copy on a node, and waits until that is something new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiesQuestion {
    /// The shards that matter, each with the newest position that the node is known to have
    /// committed; nothing where it is known to have no copy.
    pub wanted: Vec<(ShardId, Option<u64>)>,
    /// For how long there may be nothing new.
    pub wait_ms: u32,
}

/// The copies among what was asked for, each with the newest position that is committed there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiesAnswer {
    /// By shard, in the order of the question.
    pub copies: Vec<(ShardId, u64)>,
}

/// Asks for the records behind a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsQuestion {
    /// The shard.
    pub shard: ShardId,
    /// Number of the last position that is known already.
    pub after: u64,
    /// What the records may weigh; a single larger one travels alone.
    pub max_bytes: u32,
}

/// The version of the protocol between nodes with which the records of one aggregate can be asked for.
/// It is one that was never released without.
pub const STREAMS_SINCE: u32 = 2;

/// Asks for the records of one aggregate; the answer is a [`RecordsAnswer`], whose `committed` says how
/// far the index is that they were found with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamQuestion {
    /// The shard.
    pub shard: ShardId,
    /// As it is stored: the type, a NUL, the id.
    pub stream: String,
    /// The first event that is wanted.
    pub from_sequence: u64,
    /// How far the index must be.
    pub until: u64,
}

/// Records of a shard, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordsAnswer {
    /// The newest position that is committed where they come from.
    pub committed: u64,
    /// The first may begin before the position that was asked for.
    pub records: Vec<Record>,
}

/// Writes records.
///
/// # Errors
/// When they are longer than a message can be.
pub fn records(answer: &RecordsAnswer) -> Result<Bytes, WireError> {
    let bytes: usize = answer.records.iter().map(|r| 4 + r.bytes.len()).sum();
    seal(ValueType::Records, 64 + bytes, |out| {
        out.extend_from_slice(&answer.committed.to_le_bytes());
        for record in &answer.records {
            let length = u32::try_from(record.bytes.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&record.bytes);
        }
        Ok(())
    })
}

/// Reads records; they share the memory of the message.
///
/// # Errors
/// See [`WireError`].
pub fn read_records(message: &Bytes) -> Result<RecordsAnswer, WireError> {
    let payload = open(ValueType::Records, message)?;
    let mut rest = message.slice(HEADER_LEN..HEADER_LEN + payload.len());
    let short = WireError::Impossible {
        what: "length of records",
    };
    if rest.len() < 8 {
        return Err(short);
    }
    let committed = rest.get_u64_le();
    let mut records = Vec::new();
    while rest.has_remaining() {
        if rest.len() < 4 {
            return Err(short);
        }
        let length = usize::try_from(rest.get_u32_le()).unwrap_or(usize::MAX);
        if length > rest.len() {
            return Err(short);
        }
        records.push(Record::from_stored(rest.split_to(length))?);
    }
    Ok(RecordsAnswer { committed, records })
}

#[cfg(test)]
mod tests {
    use super::super::golden::Golden;
    use super::super::{housekeeping, read_housekeeping};
    use super::*;

    #[test]
    fn streams_of_version_2() {
        let mut golden = Golden::version(2);
        let question = StreamQuestion {
            shard: 6,
            stream: "account\0a-1".to_owned(),
            from_sequence: 7,
            until: 70_000,
        };
        let stored = golden.check("stream.ask", &housekeeping(&question).unwrap());
        assert_eq!(
            read_housekeeping::<StreamQuestion>(&stored).unwrap(),
            question
        );
        golden.end();
    }
}
