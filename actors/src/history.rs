//! Reading the past: a stream's events and its state as it was.
//!
//! Nothing here touches an actor; it sees committed events only.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::value::RawValue;

pub use crate::compare::MAX_EVENTS_BETWEEN;
use crate::names::Position;
use crate::request::{EventView, StateView};

/// A moment in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// After this many events.
    Sequence(u64),
    /// After every event that was decided at this time or before.
    Time(Timestamp),
}

/// An event of the past, in its present form. Those that came out of one stored event by a split follow
/// each other, and share its sequence number and position.
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
    /// The schema version of this form.
    pub schema_version: u16,
    /// Its fields as JSON.
    pub data: Box<RawValue>,
    /// The command that caused it; empty when a node of an older release told of it.
    pub command: String,
    /// The idempotency key of that command.
    pub causation_id: String,
    /// The trace it belongs to; the causation id where there was no trace.
    pub correlation_id: String,
    /// W3C `traceparent` of the command; empty when there was none.
    pub traceparent: String,
    /// Who sent the command; empty when that is not known.
    pub principal: String,
    /// When it happened in the world, where the client said so.
    pub occurred_at: Option<Timestamp>,
}

/// A part of a stream.
#[derive(Debug, Clone, Default)]
pub struct HistoryPage {
    /// Its events in order.
    pub events: Vec<RecordedEvent>,
    /// Where the next page begins; `None` at the end of the stream.
    pub next_sequence: Option<u64>,
}

/// For each event, how many before it have the same sequence number: 0 but for the later parts of a
/// stored event that was split. The events must be complete in that respect, as pages are.
pub fn parts(events: &[RecordedEvent]) -> impl Iterator<Item = (usize, &RecordedEvent)> {
    let mut before = None;
    let mut part = 0;
    events.iter().map(move |event| {
        let of_same = before == Some(event.sequence_number);
        part = if of_same { part + 1 } else { 0 };
        before = Some(event.sequence_number);
        (part, event)
    })
}

/// Which two states are to be put side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// After this many events, and after that many.
    Between {
        /// The earlier one.
        from: u64,
        /// The later one.
        to: u64,
    },
    /// As it is, and as it would be with further events: the body of the question, in JSON.
    WhatIf(Bytes),
}

/// Two states of one aggregate.
#[derive(Debug, Clone)]
pub struct Compared {
    /// The earlier one, or the actual one.
    pub before: StateView,
    /// The later one, or the hypothetical one.
    pub after: StateView,
    /// What happened between two moments, without data, as far as [`MAX_EVENTS_BETWEEN`] goes.
    pub events: Vec<EventView>,
}
