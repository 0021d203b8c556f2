//! The form of every stored value: `magic, format, type, schema version, length, crc32c`, payload.
//!
//! This is the only file that names bincode. Client input never passes through it. A value that
//! fails any check is reported, never guessed at.
//!
//! ```text
//! 0      1       2     3               5         9         13
//! | 0xPX | format| type| schema version| length  | crc32c  | payload ...
//! | u8   | u8    | u8  | u16 LE        | u32 LE  | u32 LE  |
//! ```
//! The checksum covers the first nine bytes and the payload.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// First byte of every stored value.
const MAGIC: u8 = 0xA7;
/// The envelope's own version.
const FORMAT: u8 = 1;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 13;

/// What a stored value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ValueType {
    /// One command's events and metadata.
    Record = 1,
    /// A snapshot of one aggregate.
    Snapshot = 2,
    /// A raft log entry without commands.
    Entry = 3,
    /// A raft vote.
    Vote = 4,
    /// The applied state of a shard.
    Applied = 5,
    /// A row of the idempotency index.
    Dedup = 6,
    /// The description of the data directory.
    Format = 7,
    /// A stream index row.
    Stream = 8,
    /// How far each shard's log is known to be on disk.
    Mark = 9,
    /// The incarnations of other nodes.
    Peers = 10,
    /// Who belongs to the cluster, as a node last heard.
    Members = 11,
    /// A request that one node hands to another. From 64 on, values travel and are never stored.
    Question = 64,
    /// The answer to a [`ValueType::Question`].
    Said = 65,
    /// How a node sees the cluster, or what it is asked to change there.
    Housekeeping = 66,
    /// Committed records for another node.
    Records = 67,
}

/// Why stored bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Fewer bytes than the envelope needs.
    #[error("the value is cut short: {len} bytes")]
    Short {
        /// Bytes found.
        len: usize,
    },
    /// The envelope is not one of ours, or of a newer release.
    #[error("unknown envelope (magic {magic:#04x}, format {format})")]
    Envelope {
        /// The first byte.
        magic: u8,
        /// The second byte.
        format: u8,
    },
    /// A value of another type stands here.
    #[error("expected a {expected:?}, found type {found}")]
    Type {
        /// What the reader wanted.
        expected: ValueType,
        /// What it found.
        found: u8,
    },
    /// The checksum or the length does not fit the bytes.
    #[error("checksum mismatch: stored {stored:#010x}, computed {computed:#010x}")]
    Checksum {
        /// In the envelope.
        stored: u32,
        /// Over the bytes.
        computed: u32,
    },
    /// An event is of a version that this code does not know.
    #[error(
        "`{event}` is stored in version {found}, and this build knows versions 1 to {known}: \
         a newer build wrote it"
    )]
    SchemaVersion {
        /// The event type.
        event: &'static str,
        /// As stored.
        found: u16,
        /// The newest of this code.
        known: u16,
    },
    /// An event is of a type that this code does not know.
    #[error(
        "it is of event type number {tag}, and this build knows the {known} types from number 0 on: \
         a newer build wrote it"
    )]
    EventType {
        /// Its place among the event types, from 0.
        tag: u32,
        /// How many this code knows.
        known: usize,
    },
    /// The bytes are intact but not of the expected shape.
    #[error("failed to decode: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    /// The value cannot be stored.
    #[error("failed to encode: {0}")]
    Encode(#[from] bincode::error::EncodeError),
}

/// Stored little-endian with variable-length integers: bincode's standard configuration.
const CONFIG: bincode::config::Configuration = bincode::config::standard();

/// Serializes without an envelope; for payloads inside one.
///
/// # Errors
/// When the type cannot be represented.
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    Ok(bincode::serde::encode_to_vec(value, CONFIG)?)
}

/// Reads what [`to_bytes`] wrote.
///
/// # Errors
/// When the bytes are of another shape or longer than the value.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, CONFIG)?;
    if used == bytes.len() {
        Ok(value)
    } else {
        Err(CodecError::Decode(bincode::error::DecodeError::Other(
            "bytes left over after the value",
        )))
    }
}

/// Starts a value: an envelope without checksum, and the payload that `write` appends. The payload
/// may still be patched before [`finish`].
///
/// # Errors
/// Whatever `write` fails with, and values of over 4 GiB.
pub fn draft(
    value_type: ValueType,
    schema_version: u16,
    capacity: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(HEADER_LEN + capacity);
    out.extend_from_slice(&[MAGIC, FORMAT, value_type as u8]);
    out.extend_from_slice(&schema_version.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    write(&mut out)?;
    let length = u32::try_from(out.len() - HEADER_LEN).map_err(|_| {
        CodecError::Encode(bincode::error::EncodeError::Other("a value of over 4 GiB"))
    })?;
    if let Some(slot) = out.get_mut(5..9) {
        slot.copy_from_slice(&length.to_le_bytes());
    }
    Ok(out)
}

/// Writes the checksum of a draft: it is sealed now.
pub fn finish(draft: &mut [u8]) {
    let crc = checksum(draft);
    if let Some(slot) = draft.get_mut(9..HEADER_LEN) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Serializes a value into a sealed envelope.
///
/// # Errors
/// When the type cannot be represented.
pub fn seal<T: Serialize + ?Sized>(
    value_type: ValueType,
    schema_version: u16,
    value: &T,
) -> Result<Vec<u8>, CodecError> {
    let mut out = draft(value_type, schema_version, 64, |out| append(out, value))?;
    finish(&mut out);
    Ok(out)
}

/// Appends a value to a payload under construction.
///
/// # Errors
/// When the type cannot be represented.
pub fn append<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), CodecError> {
    bincode::serde::encode_into_std_write(value, out, CONFIG)?;
    Ok(())
}

/// Appends `front` and a value behind their length (u32 LE), so that a reader can step over them.
///
/// # Errors
/// When the type cannot be represented.
pub fn append_sized_behind<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    front: &[u8],
    value: &T,
) -> Result<(), CodecError> {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(front);
    append(out, value)?;
    let length = u32::try_from(out.len() - at - 4).map_err(|_| {
        CodecError::Encode(bincode::error::EncodeError::Other("a value of over 4 GiB"))
    })?;
    if let Some(slot) = out.get_mut(at..at + 4) {
        slot.copy_from_slice(&length.to_le_bytes());
    }
    Ok(())
}

/// Reads what [`append_sized_behind`] wrote; gives the value's bytes and the rest.
///
/// # Errors
/// When the bytes are cut short.
pub fn take_sized(bytes: &[u8]) -> Result<(&[u8], &[u8]), CodecError> {
    let short = || CodecError::Short { len: bytes.len() };
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| short())?;
    rest.split_at_checked(length).ok_or_else(short)
}

/// Reads one value that borrows from the front of a payload; gives the rest.
///
/// # Errors
/// When the bytes are of another shape.
pub fn take_borrowed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), CodecError> {
    let (value, used) = bincode::serde::borrow_decode_from_slice(bytes, CONFIG)?;
    Ok((value, bytes.get(used..).unwrap_or_default()))
}

/// Checks an envelope and gives its schema version and payload.
///
/// # Errors
/// When a check fails; see [`CodecError`].
pub fn open(expected: ValueType, bytes: &[u8]) -> Result<(u16, &[u8]), CodecError> {
    let short = CodecError::Short { len: bytes.len() };
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(short);
    };
    let [magic, format, found, v0, v1, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    if magic != MAGIC || format != FORMAT {
        return Err(CodecError::Envelope { magic, format });
    }
    let stored = u32::from_le_bytes([c0, c1, c2, c3]);
    let computed = checksum(bytes);
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if stored != computed || usize::try_from(length).ok() != Some(payload.len()) {
        return Err(CodecError::Checksum { stored, computed });
    }
    if found != expected as u8 {
        return Err(CodecError::Type { expected, found });
    }
    Ok((u16::from_le_bytes([v0, v1]), payload))
}

/// Opens an envelope and deserializes its payload, whatever its schema version.
///
/// # Errors
/// When a check fails or the payload is of another shape.
pub fn unseal<T: DeserializeOwned>(expected: ValueType, bytes: &[u8]) -> Result<T, CodecError> {
    let (_, payload) = open(expected, bytes)?;
    from_bytes(payload)
}

/// Over everything but the checksum's own four bytes.
fn checksum(bytes: &[u8]) -> u32 {
    let head = bytes.get(..9).unwrap_or_default();
    let payload = bytes.get(HEADER_LEN..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(head), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens() {
        let bytes = seal(ValueType::Vote, 7, &("x", 300_u64)).unwrap();
        let (version, payload) = open(ValueType::Vote, &bytes).unwrap();
        assert_eq!(version, 7);
        assert_eq!(
            from_bytes::<(String, u64)>(payload).unwrap(),
            ("x".to_owned(), 300)
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = seal(ValueType::Record, 1, "some payload").unwrap();
        for byte in 0..bytes.len() {
            for bit in 0..8 {
                let mut broken = bytes.clone();
                broken[byte] ^= 1 << bit;
                assert!(open(ValueType::Record, &broken).is_err(), "{byte}.{bit}");
            }
            assert!(open(ValueType::Record, &bytes[..byte]).is_err());
        }
    }
}
