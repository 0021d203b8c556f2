//! What a state looked like to the build that stored an event, in eight bytes.
//!
//! Most records carry the hash of the state that they led to. A later build that folds the same events
//! compares, and finds the first event that it understands otherwise; see `verify`. Owns: the hash and
//! when it is taken. Refuses: to cost more than a bounded number of encoded bytes per command, so
//! records of large states carry one only now and then, and to fail a command.

use serde::Serialize;

use crate::aggregate::Aggregate;
use crate::codec::{self, CodecError};
use crate::fold::guarded;

/// Bytes of state that a record may cost, on average.
const BYTES_PER_RECORD: usize = 256;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHash {
    /// The version of the state's shape. Hashes of different versions do not compare.
    pub state_version: u16,
    /// xxh3-64 of the state's stored form.
    pub hash: u64,
}

impl StateHash {
    /// Bytes that it takes in a record: version, hash (LE).
    pub(crate) const LEN: usize = 10;

    /// Of a state.
    ///
    /// # Errors
    /// When the state cannot be represented.
    pub fn of<A: Aggregate>(state: &A::State) -> Result<Self, CodecError> {
        Ok(Self::of_bytes::<A>(&codec::to_bytes(state)?))
    }

    fn of_bytes<A: Aggregate>(bytes: &[u8]) -> Self {
        Self {
            state_version: A::STATE_SCHEMA_VERSION,
            hash: xxhash_rust::xxh3::xxh3_64(bytes),
        }
    }

    pub(crate) fn append(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.state_version.to_le_bytes());
        out.extend_from_slice(&self.hash.to_le_bytes());
    }

    pub(crate) fn read(bytes: &[u8; Self::LEN]) -> Self {
        let [v0, v1, hash @ ..] = *bytes;
        Self {
            state_version: u16::from_le_bytes([v0, v1]),
            hash: u64::from_le_bytes(hash),
        }
    }
}

/// Takes hashes of one aggregate's states, no more often than it can be afforded.
#[derive(Debug, Default)]
pub(crate) struct Hasher {
    /// Bytes of the last state that was encoded.
    last: usize,
    /// Bytes that may be encoded by now.
    saved: usize,
}

impl Hasher {
    /// The hash of a state that a record led to; `None` when it is not due, or cannot be taken.
    pub(crate) fn next<A: Aggregate>(&mut self, state: &A::State) -> Option<StateHash> {
        self.saved = self.saved.saturating_add(BYTES_PER_RECORD);
        if self.saved < self.last {
            return None;
        }
        self.saved = 0;
        let bytes = guarded(|| encode(state, self.last)).ok()?;
        self.last = bytes.len();
        Some(StateHash::of_bytes::<A>(&bytes))
    }
}

fn encode<S: Serialize>(state: &S, capacity: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(capacity.max(64));
    codec::append(&mut bytes, state).map_err(|error| error.to_string())?;
    Ok(bytes)
}
