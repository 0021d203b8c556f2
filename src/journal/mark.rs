//! The high-water mark: how far each shard's log and votes are known to be on disk, kept outside
//! the write-ahead log so that a log which lost its end is noticed.
//!
//! Owns: the form of the mark and which of its two slots counts. Refuses: to run ahead of an fsync.
//! Invariant: what the file says was on disk before it was said; after a truncation both slots are
//! lowered and synced before a row is removed. It may lag, which only makes the check weaker. A damaged
//! shard that is thrown away is marked as given up before its rows go, and as empty after they went.
//!
//! Two slots are written in turn, so that a torn write leaves the other one.

use phalanx_actors::codec::{self, CodecError, HEADER_LEN, ValueType};

use super::shard::Shard;

/// The file's name in the data directory.
pub(crate) const FILE_NAME: &str = "mark";
/// Slots begin at multiples of this: writing one never touches a page of the other.
const ALIGNMENT: usize = 4096;
/// Number of slots.
pub(crate) const SLOTS: usize = 2;
const SCHEMA: u16 = 1;

/// What is known of one shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ShardMark {
    /// Index of the first log entry plus one; 0 when the log is empty.
    pub(crate) first: u64,
    /// Index of the last log entry plus one; 0 when the log is empty.
    pub(crate) end: u64,
    /// Number of the last vote; 0 when there is none.
    pub(crate) votes: u64,
}

impl ShardMark {
    /// Of a shard that is being thrown away. No log reaches so far, so it stays refused until that is
    /// done, whatever a crash leaves of it.
    const GIVEN_UP: u64 = u64::MAX;

    /// Gives the shard up; its votes go on being counted.
    pub(crate) fn give_up(&mut self) {
        self.end = Self::GIVEN_UP;
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.end == Self::GIVEN_UP
    }
}

/// The marks of all shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Grows with every write.
    pub(crate) generation: u64,
    /// One per shard.
    pub(crate) shards: Vec<ShardMark>,
}

impl Marks {
    /// Of a directory without anything in it.
    pub(crate) fn new(shards: u32) -> Self {
        let shards = usize::try_from(shards).unwrap_or(0);
        Self {
            generation: 0,
            shards: vec![ShardMark::default(); shards],
        }
    }

    /// Takes note of what was found on disk beyond the mark, which may have lagged behind when the
    /// power failed. A refused shard shows an empty log, so its mark stays.
    pub(crate) fn catch_up(&mut self, shards: &[Shard]) {
        for (mark, shard) in self.shards.iter_mut().zip(shards) {
            let log = shard.log.lock();
            if let (0, Some(first)) = (mark.first, log.first_index) {
                mark.first = first + 1;
            }
            mark.end = mark.end.max(log.written_end);
            mark.votes = mark.votes.max(log.votes);
        }
    }

    /// The slot that the next write goes to.
    pub(crate) fn slot(&self) -> usize {
        usize::from(!self.generation.is_multiple_of(2))
    }

    /// Seals the marks: `generation, (first, end, votes) per shard`, u64 LE each.
    pub(crate) fn seal(&self) -> Result<Vec<u8>, CodecError> {
        let capacity = encoded_len(self.shards.len());
        let mut out = codec::draft(ValueType::Mark, SCHEMA, capacity, |out| {
            out.extend_from_slice(&self.generation.to_le_bytes());
            for shard in &self.shards {
                for number in [shard.first, shard.end, shard.votes] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
            Ok(())
        })?;
        codec::finish(&mut out);
        Ok(out)
    }

    fn open(bytes: &[u8], shards: usize) -> Result<Self, CodecError> {
        let (_, payload) = codec::open(ValueType::Mark, bytes)?;
        let mut numbers = payload
            .as_chunks::<8>()
            .0
            .iter()
            .map(|n| u64::from_le_bytes(*n));
        let mut next = || numbers.next().ok_or(CodecError::Short { len: bytes.len() });
        let generation = next()?;
        let mut marks = Vec::with_capacity(shards);
        for _ in 0..shards {
            marks.push(ShardMark {
                first: next()?,
                end: next()?,
                votes: next()?,
            });
        }
        Ok(Self {
            generation,
            shards: marks,
        })
    }
}

/// Bytes of sealed marks.
fn encoded_len(shards: usize) -> usize {
    HEADER_LEN + 8 + shards * 24
}

/// Where a slot begins, for sealed marks of `len` bytes.
pub(crate) fn slot_offset(slot: usize, len: usize) -> u64 {
    let offset = slot * len.next_multiple_of(ALIGNMENT);
    u64::try_from(offset).unwrap_or(u64::MAX)
}

/// Cuts a mark file into its slots; a missing one is empty.
pub(crate) fn split(file: &[u8], shards: u32) -> [&[u8]; SLOTS] {
    let len = encoded_len(usize::try_from(shards).unwrap_or(0));
    let stride = len.next_multiple_of(ALIGNMENT);
    [0, stride].map(|at| file.get(at..at + len).unwrap_or_default())
}

/// Reads the newest slot that checks out.
///
/// # Errors
/// What is wrong with the slots when none does.
pub(crate) fn load(slots: [&[u8]; SLOTS], shards: u32) -> Result<Marks, CodecError> {
    let shards = usize::try_from(shards).unwrap_or(0);
    match slots.map(|slot| Marks::open(slot, shards)) {
        [Ok(a), Ok(b)] => Ok(if a.generation > b.generation { a } else { b }),
        [Ok(marks), Err(error)] | [Err(error), Ok(marks)] => {
            tracing::warn!(%error, "one slot of the high-water mark is damaged; the other one counts");
            Ok(marks)
        }
        [Err(error), Err(_)] => Err(error),
    }
}

/// The file of an empty directory: both slots, generation 0 and 1.
///
/// # Errors
/// When there are too many shards to encode.
pub(crate) fn initial_file(shards: u32) -> Result<Vec<u8>, CodecError> {
    let mut marks = Marks::new(shards);
    let mut file = marks.seal()?;
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    marks.generation = 1;
    file.extend_from_slice(&marks.seal()?);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::shard::LogState;
    use super::*;

    /// A file whose newest slot is generation 2 (slot 0) with shard 1 at `end`.
    fn file(end: u64) -> Vec<u8> {
        let mut file = initial_file(2).unwrap();
        let mut marks = Marks::new(2);
        marks.generation = 2;
        marks.shards[1].end = end;
        let bytes = marks.seal().unwrap();
        let at = usize::try_from(slot_offset(marks.slot(), bytes.len())).unwrap();
        file[at..at + bytes.len()].copy_from_slice(&bytes);
        file
    }

    #[test]
    fn the_newest_slot_counts() {
        assert_eq!(load(split(&file(7), 2), 2).unwrap().shards[1].end, 7);
    }

    #[test]
    fn a_mark_that_lagged_catches_up_with_the_disk_and_a_refused_shard_keeps_its_own() {
        let mut marks = Marks::new(2);
        marks.shards[1].end = 9;
        let mut log = LogState::default();
        log.first_index = Some(0);
        log.written_end = 7;
        log.votes = 2;
        let found = [Shard::new(0, log, 0), Shard::new(1, LogState::default(), 0)];
        marks.catch_up(&found);
        let caught_up = ShardMark {
            first: 1,
            end: 7,
            votes: 2,
        };
        assert_eq!(marks.shards[0], caught_up);
        assert_eq!(marks.shards[1].end, 9);
    }

    #[test]
    fn a_torn_slot_leaves_the_other_and_two_are_an_error() {
        let mut torn = file(7);
        torn[20] ^= 1;
        assert_eq!(load(split(&torn, 2), 2).unwrap().generation, 1);
        let last = torn.len() - 1;
        torn[last] ^= 1;
        assert!(load(split(&torn, 2), 2).is_err());
        assert!(load(split(&[], 2), 2).is_err());
    }
}
