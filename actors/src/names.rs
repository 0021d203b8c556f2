//! Names of things: shards, streams and positions.
//!
//! A stream name is checked once, where it enters; everything behind relies on its form.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A shard's number, from 0.
pub type ShardId = u32;

/// The longest aggregate id in bytes.
pub const MAX_ID_BYTES: usize = 200;

/// `type NUL id`: the one form in which a stream is hashed, looked up and stored.
///
/// Neither part can hold a NUL, so the order of bytes groups a type's streams together and no two
/// streams share a prefix up to and including the second separator.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// Joins a type name and an id.
    ///
    /// # Errors
    /// [`InvalidId`] when the id does not match `[A-Za-z0-9._~:@-]{1,200}` or is `.` or `..`.
    pub fn new(aggregate_type: &str, id: &str) -> Result<Self, InvalidId> {
        if !is_valid_id(id) {
            return Err(InvalidId);
        }
        let mut name = String::with_capacity(aggregate_type.len() + 1 + id.len());
        name.push_str(aggregate_type);
        name.push('\0');
        name.push_str(id);
        Ok(Self(name.into()))
    }

    /// Reads a stored name.
    #[must_use]
    pub fn from_stored(name: &str) -> Option<Self> {
        let (_, id) = name.split_once('\0')?;
        is_valid_id(id).then(|| Self(name.into()))
    }

    /// The aggregate's type.
    #[must_use]
    pub fn aggregate_type(&self) -> &str {
        self.0.split_once('\0').map_or("", |(head, _)| head)
    }

    /// The aggregate's id within its type.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0.split_once('\0').map_or("", |(_, id)| id)
    }

    /// `type NUL id`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shard that owns the stream: `xxh3_64(type, 0x00, id) % shards`.
    #[must_use]
    pub fn shard(&self, shards: u32) -> ShardId {
        shard_of(self.0.as_bytes(), shards)
    }
}

/// The shard that owns the stream with these bytes, `type NUL id`. For those who ask about many
/// names and need not check them: [`StreamName::shard`] answers with it.
#[must_use]
pub fn shard_of(name: &[u8], shards: u32) -> ShardId {
    let hash = xxhash_rust::xxh3::xxh3_64(name);
    u32::try_from(hash % u64::from(shards.max(1))).unwrap_or(0)
}

impl std::borrow::Borrow<str> for StreamName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.aggregate_type(), self.id())
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether an id (already percent-decoded) is allowed.
#[must_use]
pub fn is_valid_id(id: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._~:@-".contains(&b);
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(allowed) && !matches!(id, "." | "..")
}

/// The id does not have the allowed form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 1 to 200 characters out of A-Z a-z 0-9 . _ ~ : @ - and neither `.` nor `..`")]
pub struct InvalidId;

/// A place in a shard's committed events: `shard:number`.
///
/// Numbers count the shard's events from 1 without a gap. 0 stands before the first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The shard.
    pub shard: ShardId,
    /// The number of the event within the shard.
    pub number: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.shard, self.number)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let (shard, number) = text.split_once(':').ok_or(InvalidPosition)?;
        if !digits(shard) || !digits(number) {
            return Err(InvalidPosition);
        }
        Ok(Self {
            shard: shard.parse().map_err(|_| InvalidPosition)?,
            number: number.parse().map_err(|_| InvalidPosition)?,
        })
    }
}

/// The text is not a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a position has the form shard:number, as in 12:90817")]
pub struct InvalidPosition;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_the_contract_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "../../etc",
            "a\0b",
            "é",
            "a b",
            "a%20",
        ] {
            assert_eq!(StreamName::new("account", bad), Err(InvalidId), "{bad:?}");
        }
        assert!(StreamName::new("account", &"x".repeat(200)).is_ok());
        assert!(StreamName::new("account", &"x".repeat(201)).is_err());
        let name = StreamName::new("account", "north@2026-11-21").unwrap();
        assert_eq!(
            (name.aggregate_type(), name.id()),
            ("account", "north@2026-11-21")
        );
    }

    #[test]
    fn positions_read_back_and_garbage_is_refused() {
        let position = Position {
            shard: 12,
            number: 90_817,
        };
        assert_eq!("12:90817".parse(), Ok(position));
        assert_eq!(position.to_string(), "12:90817");
        for bad in [
            "",
            ":",
            "1:",
            ":1",
            "a:1",
            "1:+2",
            "-1:2",
            "1:2:3",
            "1:99999999999999999999",
        ] {
            assert_eq!(bad.parse::<Position>(), Err(InvalidPosition), "{bad}");
        }
    }
}
