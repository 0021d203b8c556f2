//! Reading the past: a stream's events and its state as it was.
//!
//! Nothing here touches an actor; it sees committed events only.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::value::RawValue;

use crate::names::Position;

/// A moment in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// After this many events.
    Sequence(u64),
    /// After every event that was decided at this time or before.
    Time(Timestamp),
}

/// A stored event.
#[derive(Debug, Clone)]
pub struct RecordedEvent {
    /// Its name.
    pub event_type: Cow<'static, str>,
    /// Its place in the stream.
    pub sequence_number: u64,
    /// Its place in the shard.
    pub position: Position,
    /// When it was decided.
    pub time: Timestamp,
    /// The schema version it was stored with.
    pub schema_version: u16,
    /// Its fields as JSON.
    pub data: Box<RawValue>,
    /// The idempotency key of the command that caused it.
    pub causation_id: String,
    /// The trace it belongs to; the causation id where there was no trace.
    pub correlation_id: String,
    /// W3C `traceparent` of the command; empty when there was none.
    pub traceparent: String,
}

/// A part of a stream.
#[derive(Debug, Clone, Default)]
pub struct HistoryPage {
    /// Its events in order.
    pub events: Vec<RecordedEvent>,
    /// Where the next page begins; `None` at the end of the stream.
    pub next_sequence: Option<u64>,
}
