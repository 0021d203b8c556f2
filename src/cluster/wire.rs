//! The form in which nodes hand requests to one another, and the answers.
//!
//! It owns the bytes and nothing else: who is asked, and what an answer means, is the router's. It
//! refuses messages that are too long, damaged, or of another version, and names the reason.
//! Invariant: what was encoded decodes to the same value; strings and bodies are taken from the
//! message in place, so a length that lies cannot make a reader allocate.
//!
//! ```text
//! envelope (codec) | question: stream, term, hops, time left, what | body of the command
//! envelope (codec) | said: who answered, what
//! ```

mod answer;
mod feed;
mod queries;
mod question;
mod status;

use std::time::Duration;

use bytes::Bytes;
use phalanx_actors::codec::{self, CodecError, ValueType};
use phalanx_actors::history::{At, Compared, Comparison, HistoryPage, RecordedEvent};
use phalanx_actors::names::StreamName;
use phalanx_actors::request::{Answer, CommandRequest, Failure, FailureKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::feed::{
    CopiesAnswer, CopiesQuestion, RecordsAnswer, RecordsQuestion, STREAMS_SINCE, StreamQuestion,
    read_records, records,
};
pub use self::queries::{
    Header, QUERIES_SINCE, QueryAnswer, QueryQuestion, query_answer, read_query_answer,
};
pub use self::status::{WITH_DAMAGE, node_view, read_node_view};
use super::NodeId;
use super::transport::{CallKind, Lane};

/// The version of these messages. A change of a struct below is a new version; a further kind of
/// question or answer is none, as long as only those are asked who know it
/// ([`Question::known_since`]).
pub const VERSION: u16 = 1;

/// The version of the protocol between nodes with which two states can be asked for.
const COMPARISONS_SINCE: u32 = 2;

/// The version with which commands may say who sent them and when it happened, and histories show it,
/// and the names of commands.
pub const CIRCUMSTANCES_SINCE: u32 = 2;

/// The longest message: the largest body that the settings admit, and room for the rest.
pub const MAX_BYTES: usize = 65 * 1024 * 1024;

/// Size at which a page of history is cut; a single larger event travels alone.
pub const PAGE_BYTES: usize = 1024 * 1024;

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Longer than any message can be.
    #[error("a message of {len} bytes; the longest has {MAX_BYTES}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// Of another version.
    #[error("a message of version {found}; this node speaks version {VERSION}")]
    Version {
        /// In the message.
        found: u16,
    },
    /// Damaged, or of another shape.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The parts are intact but say something that cannot be.
    #[error("a message with an impossible {what}")]
    Impossible {
        /// Which part.
        what: &'static str,
    },
}

/// What a node is asked about a stream.
#[derive(Debug, Clone, Copy)]
pub enum Question<'a> {
    /// Decide a command.
    Command(&'a CommandRequest),
    /// Read the state from memory.
    Read,
    /// Read events.
    History {
        /// The first one wanted.
        from_sequence: u64,
        /// The most of them.
        limit: usize,
    },
    /// Read the state as it was.
    Past(At),
    /// Put two states side by side.
    Compare(&'a Comparison),
}

impl Question<'_> {
    /// The oldest version of the protocol between nodes that knows the question.
    #[must_use]
    pub fn known_since(self) -> u32 {
        match self {
            // An older node would store the events without what their command said besides.
            Self::Command(request) if request.origin.is_some() => CIRCUMSTANCES_SINCE,
            Self::Command(_) | Self::Read | Self::History { .. } | Self::Past(_) => 1,
            Self::Compare(_) => COMPARISONS_SINCE,
        }
    }

    /// What the transport calls it.
    #[must_use]
    pub fn kind(self) -> CallKind {
        match self {
            Self::Command(_) => CallKind::Command,
            Self::Read => CallKind::Read,
            Self::History { .. } => CallKind::History,
            Self::Past(_) | Self::Compare(_) => CallKind::Past,
        }
    }

    /// Which connection it takes.
    #[must_use]
    pub fn lane(self) -> Lane {
        match self {
            Self::Command(_) | Self::Read | Self::Past(_) => Lane::Command,
            Self::History { .. } | Self::Compare(_) => Lane::Bulk,
        }
    }

    /// Whether the answer may tell of something that was stored by asking.
    #[must_use]
    pub fn stores(self) -> bool {
        matches!(self, Self::Command(request) if !request.dry_run)
    }

    /// Bytes that it counts for while it is in flight.
    #[must_use]
    pub fn weight(self) -> usize {
        match self {
            Self::Command(request) => phalanx_actors::model::weight(request),
            Self::Read | Self::History { .. } | Self::Past(_) => 256,
            Self::Compare(comparison) => phalanx_actors::model::comparison_weight(comparison),
        }
    }
}

/// A question as it was received.
#[derive(Debug, Clone)]
pub enum Asked {
    /// See [`Question::Command`].
    Command(CommandRequest),
    /// See [`Question::Read`].
    Read,
    /// See [`Question::History`].
    History {
        /// The first event wanted.
        from_sequence: u64,
        /// The most of them.
        limit: usize,
    },
    /// See [`Question::Past`].
    Past(At),
    /// See [`Question::Compare`].
    Compare(Comparison),
}

impl Asked {
    /// The same, borrowed.
    #[must_use]
    pub fn question(&self) -> Question<'_> {
        match self {
            Self::Command(request) => Question::Command(request),
            Self::Read => Question::Read,
            Self::History {
                from_sequence,
                limit,
            } => Question::History {
                from_sequence: *from_sequence,
                limit: *limit,
            },
            Self::Past(at) => Question::Past(*at),
            Self::Compare(comparison) => Question::Compare(comparison),
        }
    }
}

/// What surrounds a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// About whom.
    pub stream: StreamName,
    /// The leader's term in which a command may take effect: in another one it is not for us.
    pub term: u64,
    /// How many more nodes may hand it on.
    pub hops: u8,
    /// How long whoever asks will wait.
    pub time_left: Duration,
}

/// Who leads a shard, in which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Led {
    /// The leader.
    pub node: NodeId,
    /// Its term.
    pub term: u64,
}

/// An answer, or why there is none here.
#[derive(Debug)]
pub enum Said {
    /// To a command or a read.
    Answer(Answer),
    /// To a question for the history.
    History(HistoryPage),
    /// To a question for two states.
    Compared(Compared),
    /// The node that was asked does not serve the shard in the term of the question and did nothing.
    NotHere {
        /// Whom it takes for the leader.
        leader: Option<Led>,
        /// Why it does not serve.
        reason: String,
    },
}

impl Said {
    /// No answer could be had.
    #[must_use]
    pub fn failed(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self::Answer(Answer::Failed(Failure::new(kind, detail)))
    }
}

/// Writes a question.
///
/// # Errors
/// When it is longer than a message can be.
pub fn question(heading: &Heading, question: Question<'_>) -> Result<Bytes, WireError> {
    question::encode(heading, question)
}

/// Reads a question. A command's body stays where it is in the message.
///
/// # Errors
/// See [`WireError`].
pub fn read_question(message: &Bytes) -> Result<(Heading, Asked), WireError> {
    question::decode(message)
}

/// Writes what `node` says, for a peer that speaks this version of the protocol between nodes. To one
/// that does not know them, a history comes without who, when it happened and by which command.
///
/// # Errors
/// When it is longer than a message can be.
pub fn said(node: NodeId, said: &Said, protocol: u32) -> Result<Bytes, WireError> {
    answer::encode(node, said, protocol)
}

/// Reads what a node said, about this stream; gives the node as well.
///
/// # Errors
/// See [`WireError`].
pub fn read_said(stream: &StreamName, message: &[u8]) -> Result<(NodeId, Said), WireError> {
    answer::decode(stream, message)
}

/// Bytes that an event takes in a page of history, about.
#[must_use]
pub fn history_weight(event: &RecordedEvent) -> usize {
    answer::weight(event)
}

/// Writes a message of the cluster's housekeeping.
///
/// # Errors
/// When the value cannot be represented.
pub fn housekeeping<T: Serialize>(value: &T) -> Result<Bytes, WireError> {
    Ok(codec::seal(ValueType::Housekeeping, VERSION, value)?.into())
}

/// Reads a message of the cluster's housekeeping.
///
/// # Errors
/// See [`WireError`].
pub fn read_housekeeping<T: DeserializeOwned>(message: &[u8]) -> Result<T, WireError> {
    Ok(codec::from_bytes(open(ValueType::Housekeeping, message)?)?)
}

/// Checks the envelope and gives the payload.
fn open(expected: ValueType, message: &[u8]) -> Result<&[u8], WireError> {
    if message.len() > MAX_BYTES {
        return Err(WireError::TooLong { len: message.len() });
    }
    let (found, payload) = codec::open(expected, message)?;
    if found == VERSION {
        Ok(payload)
    } else {
        Err(WireError::Version { found })
    }
}

/// Seals a payload.
fn seal(
    value_type: ValueType,
    capacity: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
) -> Result<Bytes, WireError> {
    let mut message = codec::draft(value_type, VERSION, capacity, write)?;
    if message.len() > MAX_BYTES {
        return Err(WireError::TooLong { len: message.len() });
    }
    codec::finish(&mut message);
    Ok(message.into())
}

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod tests;
