//! What one command left behind: its events with their metadata, as they are stored.
//!
//! A record is sealed once, by the aggregate's actor; the log, the replicas and every replay see
//! the same bytes. Its position is patched in by the sequencer, which hands positions out in order.
//!
//! ```text
//! | envelope (13) | first position u64 LE | head (bincode) | length, event (bincode) | ...
//!                                                  ... | length, circumstances (bincode) | state hash |
//! ```
//! The envelope's schema version is that of all events, if they are of the same: one event seldom comes
//! with others. If not, it is [`MIXED`], and each event begins with its own (u16 LE, counted in the
//! length). The circumstances are there if [`FLAG_CIRCUMSTANCES`] is set, the hash of the state that the
//! events led to if [`FLAG_STATE_HASH`] is. Both stand where a reader that knows nothing of them finds
//! everything else all the same.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::codec::{self, CodecError, HEADER_LEN, ValueType};
use crate::evolution::EventSchema;
use crate::names::StreamName;
use crate::state_hash::StateHash;

/// Set when the command created the aggregate; its reply was 201.
pub const FLAG_CREATED: u8 = 1;
/// Set when the reply carried the events' data (`Prefer: return=representation`).
pub const FLAG_REPRESENTATION: u8 = 2;
/// Set when the entry node made up the idempotency key.
pub const FLAG_GENERATED_KEY: u8 = 4;
/// Set when a [`StateHash`] stands behind the events.
pub const FLAG_STATE_HASH: u8 = 8;
/// Set when [`Circumstances`] stand behind the events.
pub const FLAG_CIRCUMSTANCES: u8 = 16;

/// In place of a schema version: each event says its own.
pub const MIXED: u16 = u16::MAX;

/// The metadata of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordHead<'a> {
    /// `type NUL id`; see [`StreamName`].
    #[serde(borrow)]
    pub stream: &'a str,
    /// Sequence number of the first event.
    pub first_sequence: u64,
    /// Number of events, at least 1.
    pub event_count: u32,
    /// When it was decided: microseconds since the Unix epoch.
    pub time_us: i64,
    /// The command's name.
    pub command: &'a str,
    /// The idempotency key.
    pub key: &'a str,
    /// xxh3-128 (LE) of command name and body: tells a retry from a reused key.
    pub fingerprint: [u8; 16],
    /// `FLAG_*` bits.
    pub flags: u8,
    /// W3C `traceparent` of the request, empty when there was none.
    pub traceparent: &'a str,
}

/// Who sent a command, and when that happened in the world of which it tells; most commands come
/// without either. A later release may put more behind these fields: readers pass over what they do not
/// know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circumstances<'a> {
    /// Who sent the command; empty when that is not known.
    pub principal: &'a str,
    /// When it happened, in microseconds since the Unix epoch, where the client said so.
    pub occurred_at_us: Option<i64>,
}

impl Circumstances<'_> {
    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// When it happened, where the client said so.
    #[must_use]
    pub fn occurred_at(&self) -> Option<Timestamp> {
        let read = Timestamp::from_microsecond;
        self.occurred_at_us.and_then(|us| read(us).ok())
    }
}

/// What stands behind the events of a record, each if the head's flags say so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Behind<'a> {
    /// Under which circumstances they happened.
    pub circumstances: Circumstances<'a>,
    /// The state that they led to.
    pub state: Option<StateHash>,
}

/// A sealed record together with what the index needs of it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose events these are.
    pub stream: StreamName,
    /// Sequence number of the first event.
    pub first_sequence: u64,
    /// Number of events.
    pub event_count: u32,
    /// Position number of the first event within the shard.
    pub first_position: u64,
    /// When it was decided: microseconds since the Unix epoch.
    pub time_us: i64,
    /// xxh3-128 of the idempotency key.
    pub key_hash: u128,
    /// `FLAG_*` bits.
    pub flags: u8,
    /// The sealed bytes.
    pub bytes: Bytes,
}

impl Record {
    /// Position number of the last event within the shard.
    #[must_use]
    pub fn last_position(&self) -> u64 {
        let behind = self
            .first_position
            .saturating_add(u64::from(self.event_count));
        behind.saturating_sub(1)
    }

    /// Reads a stored record.
    ///
    /// # Errors
    /// When the bytes are damaged or of an unknown shape.
    pub fn from_stored(bytes: Bytes) -> Result<Self, CodecError> {
        let view = RecordView::open(&bytes)?;
        let stream = StreamName::from_stored(view.head.stream).ok_or(CodecError::Decode(
            bincode::error::DecodeError::Other("not a stream name"),
        ))?;
        Ok(Self {
            stream,
            first_sequence: view.head.first_sequence,
            event_count: view.head.event_count,
            first_position: view.first_position,
            time_us: view.head.time_us,
            key_hash: hash_key(view.head.key),
            flags: view.head.flags,
            bytes: bytes.clone(),
        })
    }
}

/// xxh3-128 of an idempotency key: how the index names it.
#[must_use]
pub fn hash_key(key: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128(key.as_bytes())
}

/// A record under construction, waiting for its position.
#[derive(Debug)]
pub struct Draft {
    bytes: Vec<u8>,
    /// Number of events.
    pub event_count: u32,
}

impl Draft {
    /// Encodes head and events, each in the version that its type has today, and what stands behind
    /// them, which must be there if the head's flags say so.
    ///
    /// # Errors
    /// When an event cannot be represented.
    pub fn of<A: Aggregate>(
        head: &RecordHead<'_>,
        schema: &EventSchema<A::Event>,
        events: &[A::Event],
        behind: Behind<'_>,
    ) -> Result<Self, CodecError> {
        let mut versions = events.iter().map(|event| schema.version_of(event));
        let first = versions.next().unwrap_or(1);
        if versions.all(|version| version == first) {
            return Self::build(head, first, events, behind, |out, event| {
                codec::append_sized_behind(out, &[], event)
            });
        }
        Self::build(head, MIXED, events, behind, |out, event| {
            let version = schema.version_of(event).to_le_bytes();
            codec::append_sized_behind(out, &version, event)
        })
    }

    /// Encodes head and events, all in the same version; the position is filled in by
    /// [`Draft::finish`].
    ///
    /// # Errors
    /// When an event cannot be represented.
    pub fn new<E: Serialize>(
        head: &RecordHead<'_>,
        event_schema_version: u16,
        events: &[E],
    ) -> Result<Self, CodecError> {
        let behind = Behind::default();
        Self::build(head, event_schema_version, events, behind, |out, event| {
            codec::append_sized_behind(out, &[], event)
        })
    }

    fn build<E>(
        head: &RecordHead<'_>,
        version: u16,
        events: &[E],
        behind: Behind<'_>,
        append: impl Fn(&mut Vec<u8>, &E) -> Result<(), CodecError>,
    ) -> Result<Self, CodecError> {
        let Behind {
            circumstances,
            state,
        } = behind;
        let announced = |flag: u8| head.flags & flag != 0;
        debug_assert_eq!(state.is_some(), announced(FLAG_STATE_HASH));
        debug_assert_eq!(!circumstances.is_empty(), announced(FLAG_CIRCUMSTANCES));
        let bytes = codec::draft(ValueType::Record, version, 256, |out| {
            out.extend_from_slice(&[0; 8]);
            codec::append(out, head)?;
            events.iter().try_for_each(|event| append(out, event))?;
            if !circumstances.is_empty() {
                codec::append_sized_behind(out, &[], &circumstances)?;
            }
            if let Some(state) = state {
                state.append(out);
            }
            Ok(())
        })?;
        Ok(Self {
            bytes,
            event_count: head.event_count,
        })
    }

    /// Bytes that the record will occupy.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never true: there is always an envelope.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Fills in the position and seals.
    #[must_use]
    pub fn finish(mut self, first_position: u64) -> Bytes {
        if let Some(slot) = self.bytes.get_mut(HEADER_LEN..HEADER_LEN + 8) {
            slot.copy_from_slice(&first_position.to_le_bytes());
        }
        codec::finish(&mut self.bytes);
        self.bytes.into()
    }
}

/// An event as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredEvent<'a> {
    /// The version of its type.
    pub version: u16,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// A record being read.
#[derive(Debug)]
pub struct RecordView<'a> {
    /// Schema version of the events, or [`MIXED`].
    pub event_schema_version: u16,
    /// Position number of the first event.
    pub first_position: u64,
    /// The metadata.
    pub head: RecordHead<'a>,
    events: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Checks and reads a sealed record.
    ///
    /// # Errors
    /// When the bytes are damaged or of an unknown shape.
    pub fn open(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let (event_schema_version, payload) = codec::open(ValueType::Record, bytes)?;
        let Some((position, rest)) = payload.split_first_chunk::<8>() else {
            return Err(CodecError::Short { len: payload.len() });
        };
        let (head, events) = codec::take_borrowed::<RecordHead<'a>>(rest)?;
        Ok(Self {
            event_schema_version,
            first_position: u64::from_le_bytes(*position),
            head,
            events,
        })
    }

    /// The hash of the state that the events led to, if it was taken.
    #[must_use]
    pub fn state_hash(&self) -> Option<StateHash> {
        let present = self.head.flags & FLAG_STATE_HASH != 0;
        let last = self.events.last_chunk().filter(|_| present)?;
        Some(StateHash::read(last))
    }

    /// Under which circumstances the events happened.
    ///
    /// # Errors
    /// When they should be there and are of another shape.
    pub fn circumstances(&self) -> Result<Circumstances<'a>, CodecError> {
        if self.head.flags & FLAG_CIRCUMSTANCES == 0 {
            return Ok(Circumstances::default());
        }
        let mut rest = self.events;
        for _ in 0..self.head.event_count {
            (_, rest) = codec::take_sized(rest)?;
        }
        let (section, _) = codec::take_sized(rest)?;
        Ok(codec::take_borrowed(section)?.0)
    }

    /// The encoded events, in order.
    pub fn events(&self) -> impl Iterator<Item = Result<StoredEvent<'a>, CodecError>> {
        let mut rest = self.events;
        let common = self.event_schema_version;
        (0..self.head.event_count).map(move |_| {
            let (bytes, tail) = codec::take_sized(rest)?;
            rest = tail;
            if common != MIXED {
                let version = common;
                return Ok(StoredEvent { version, bytes });
            }
            let short = CodecError::Short { len: bytes.len() };
            let (version, bytes) = bytes.split_first_chunk::<2>().ok_or(short)?;
            let version = u16::from_le_bytes(*version);
            Ok(StoredEvent { version, bytes })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(flags: u8) -> RecordHead<'static> {
        RecordHead {
            stream: "account\0a-1",
            first_sequence: 4,
            event_count: 2,
            time_us: 1_700_000_000_000_005,
            command: "Deposit",
            key: "k",
            fingerprint: [7; 16],
            flags,
            traceparent: "",
        }
    }

    fn sealed(head: &RecordHead<'_>, behind: Behind<'_>) -> Bytes {
        let append = |out: &mut Vec<u8>, event: &&str| codec::append_sized_behind(out, &[], event);
        let draft = Draft::build(head, 3, &["one", "two"], behind, append);
        draft.unwrap().finish(99)
    }

    const ADA: Circumstances<'static> = Circumstances {
        principal: "ada",
        occurred_at_us: Some(1_600_000_000_000_007),
    };
    const STATE: StateHash = StateHash {
        state_version: 2,
        hash: 0x0102_0304_0506_0708,
    };

    #[test]
    fn circumstances_change_no_byte_before_them_but_flag_length_and_checksum() {
        let flags = FLAG_CREATED | FLAG_STATE_HASH;
        let state = Some(STATE);
        let with = Behind {
            circumstances: ADA,
            state,
        };
        let without = Behind {
            circumstances: Circumstances::default(),
            state,
        };
        let with = sealed(&head(flags | FLAG_CIRCUMSTANCES), with);
        let without = sealed(&head(flags), without);
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        assert_eq!(hex(&without), WITHOUT);
        assert_eq!(hex(&with), WITH);
        let view = RecordView::open(&with).unwrap();
        assert_eq!(view.circumstances().unwrap(), ADA);
        assert_eq!(view.state_hash(), state);
        assert_eq!(view.events().filter_map(Result::ok).count(), 2);
        let view = RecordView::open(&without).unwrap();
        assert_eq!(view.circumstances().unwrap(), Circumstances::default());
        assert_eq!(view.state_hash(), state);
    }

    const WITHOUT: &str = "\
         a70101030055000000c56a7a0663000000000000000b6163636f756e7400612d310402fd\
         0a803c3048140c00074465706f736974016b070707070707070707070707070707070900\
         04000000036f6e65040000000374776f02000807060504030201";
    const WITH: &str = "\
         a701010300670000000d31407e63000000000000000b6163636f756e7400612d310402fd\
         0a803c3048140c00074465706f736974016b070707070707070707070707070707071900\
         04000000036f6e65040000000374776f0e0000000361646101fd0e00480f625e0b000200\
         0807060504030201";

    #[test]
    fn what_a_later_release_says_besides_is_passed_over() {
        let head = head(FLAG_CIRCUMSTANCES | FLAG_STATE_HASH);
        let bytes = codec::draft(ValueType::Record, 3, 64, |out| {
            out.extend_from_slice(&[0; 8]);
            codec::append(out, &head)?;
            codec::append_sized_behind(out, &[], "one")?;
            codec::append_sized_behind(out, &[], "two")?;
            codec::append_sized_behind(out, &[], &(ADA, "and more", 7_u64))?;
            STATE.append(out);
            Ok(())
        });
        let mut bytes = bytes.unwrap();
        codec::finish(&mut bytes);
        let view = RecordView::open(&bytes).unwrap();
        assert_eq!(view.circumstances().unwrap(), ADA);
        assert_eq!(view.state_hash(), Some(STATE));
    }

    #[test]
    fn circumstances_that_are_announced_and_missing_are_reported() {
        let bytes = codec::draft(ValueType::Record, 3, 64, |out| {
            out.extend_from_slice(&[0; 8]);
            codec::append(out, &head(FLAG_CIRCUMSTANCES))?;
            codec::append_sized_behind(out, &[], "one")?;
            codec::append_sized_behind(out, &[], "two")
        });
        let mut bytes = bytes.unwrap();
        codec::finish(&mut bytes);
        let view = RecordView::open(&bytes).unwrap();
        assert!(view.circumstances().is_err());
    }

    #[test]
    fn a_record_reads_back() {
        let head = RecordHead {
            stream: "account\0a-1",
            first_sequence: 4,
            event_count: 2,
            time_us: -5,
            command: "Deposit",
            key: "k",
            fingerprint: [7; 16],
            flags: FLAG_CREATED,
            traceparent: "",
        };
        let bytes = Draft::new(&head, 3, &["one", "two"]).unwrap().finish(99);
        let view = RecordView::open(&bytes).unwrap();
        assert_eq!((view.event_schema_version, view.first_position), (3, 99));
        assert_eq!(view.head, head);
        let events: Vec<String> = view
            .events()
            .map(|e| codec::from_bytes(e.unwrap().bytes).unwrap())
            .collect();
        assert_eq!(events, ["one", "two"]);
        let record = Record::from_stored(bytes).unwrap();
        assert_eq!((record.first_sequence, record.first_position), (4, 99));
        assert_eq!(record.stream.id(), "a-1");
    }
}
