//! What a client may ask of the command model, and what it may hear.
//!
//! Transport is somebody else's: these types know no HTTP, but each failure has one [`FailureKind`]
//! that a transport maps to exactly one status.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::value::RawValue;

use crate::names::{Position, StreamName};

/// A command on its way to its aggregate. A copy shares the body.
#[derive(Debug, Clone)]
pub struct CommandRequest {
    /// The command's name, as in the URL.
    pub command: String,
    /// Its fields: a JSON object.
    pub body: Bytes,
    /// The idempotency key, the client's or one that the router made up; `None` lets the command
    /// model make one up, which nobody can retry with.
    pub idempotency_key: Option<String>,
    /// Nobody can have used this key before, so it need not be looked up in the journal. Only
    /// whoever made it up may say so, and only for its first attempt.
    pub key_is_new: bool,
    /// What must hold for the command to run.
    pub precondition: Precondition,
    /// Whether the reply carries the events' data.
    pub representation: bool,
    /// Decide and answer, store nothing.
    pub dry_run: bool,
    /// W3C `traceparent`, checked by the transport.
    pub traceparent: Option<Box<str>>,
    /// Who sent it and when it happened, where that was said.
    pub origin: Option<Box<Origin>>,
}

/// Where a command comes from. Stored with its events; no part of what tells a retry from another
/// command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Who sent it, as the transport was told by whoever authenticated them; never empty.
    pub principal: Option<String>,
    /// When it happened in the world, in whole microseconds, where the client said so. Stored beside
    /// the time of the decision, which alone says what came before what.
    pub occurred_at: Option<Timestamp>,
}

impl Origin {
    /// What was said, if anything was.
    #[must_use]
    pub fn said(principal: Option<String>, occurred_at: Option<Timestamp>) -> Option<Box<Self>> {
        let any = principal.is_some() || occurred_at.is_some();
        any.then(|| {
            Box::new(Self {
                principal,
                occurred_at,
            })
        })
    }
}

/// A condition on the aggregate's sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precondition {
    /// None.
    #[default]
    Any,
    /// `If-Match: "n"`.
    AtSequence(u64),
    /// `If-Match: *`: it exists.
    Exists,
    /// `If-None-Match: *`: it does not exist yet.
    Absent,
    /// `If-Match` with an entity tag that no aggregate can have.
    Never,
}

/// The reply to a command that was decided.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Whose.
    pub stream: StreamName,
    /// The aggregate's sequence number after the command.
    pub sequence_number: u64,
    /// The position after the command.
    pub position: Position,
    /// Whether this command created the aggregate.
    pub created: bool,
    /// Whether this is the stored reply of an earlier attempt.
    pub replayed: bool,
    /// The events, in order.
    pub events: Arc<[EventView]>,
}

/// One event as clients see it.
#[derive(Debug, Clone)]
pub struct EventView {
    /// The event's name.
    pub event_type: Cow<'static, str>,
    /// Its place in the stream.
    pub sequence_number: u64,
    /// Its fields as JSON; `None` where the client did not ask for them.
    pub data: Option<Box<RawValue>>,
}

/// The state of an aggregate, read from memory.
#[derive(Debug, Clone)]
pub struct StateView {
    /// Whose.
    pub stream: StreamName,
    /// Number of events folded.
    pub sequence_number: u64,
    /// Position of the last event folded.
    pub position: Position,
    /// The state as JSON.
    pub state: Box<RawValue>,
    /// The leader's term in which it was read.
    pub term: u64,
}

/// An answer that depends on the aggregate's state.
#[derive(Debug)]
pub enum Answer {
    /// Events are stored, or none were needed.
    Accepted(Accepted),
    /// The domain said no.
    Rejected {
        /// The rejection's code.
        code: String,
        /// What the domain says of it.
        detail: String,
        /// The rejection's fields.
        fields: serde_json::Map<String, serde_json::Value>,
    },
    /// The precondition does not hold.
    SequenceMismatch {
        /// The aggregate's sequence number.
        current_sequence_number: u64,
    },
    /// The state.
    State(StateView),
    /// No event has happened to this aggregate yet.
    NotFound,
    /// The idempotency key belongs to another command.
    KeyReused,
    /// No answer could be had.
    Failed(Failure),
}

/// Why no answer could be had.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    /// What the caller may do about it.
    pub kind: FailureKind,
    /// For the client.
    pub detail: String,
    /// When to try again, for kinds that may be retried.
    pub retry_after: Option<Duration>,
    /// Where the body is wrong (a JSON pointer), for [`FailureKind::MalformedBody`] and, where one
    /// event is to blame, [`FailureKind::Hypothesis`].
    pub pointer: Option<String>,
}

/// One kind per thing that a caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The body does not fit the command: 400 `malformed-body`.
    MalformedBody,
    /// No such type: 404 `unknown-aggregate-type`.
    UnknownAggregateType,
    /// The type has no such command: 404 `unknown-command`.
    UnknownCommand,
    /// No permit is free: 503 `overloaded`.
    Overloaded,
    /// Nobody leads the shard: 503 `no-leader`.
    NoLeader,
    /// The node is going down: 503 `shutting-down`.
    ShuttingDown,
    /// The node is not up yet, or refuses this shard: 503 `not-ready`.
    NotReady,
    /// The events may or may not be stored: 504 `outcome-unknown`.
    OutcomeUnknown,
    /// The disk is full: 507 `storage-full`.
    StorageFull,
    /// Deciding or folding this aggregate panicked: 500 `aggregate-quarantined`.
    Quarantined,
    /// Events that did not happen cannot be folded into the history: 422 `what-if-failed`.
    Hypothesis,
    /// Anything else that is our fault: 500 `internal`.
    Internal,
}

impl Failure {
    /// A failure of this kind. Kinds that are worth a retry get a `retry_after` of one second.
    #[must_use]
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        let retry_after = matches!(
            kind,
            FailureKind::Overloaded
                | FailureKind::NoLeader
                | FailureKind::ShuttingDown
                | FailureKind::NotReady
        )
        .then_some(Duration::from_secs(1));
        Self {
            kind,
            detail: detail.into(),
            retry_after,
            pointer: None,
        }
    }
}
