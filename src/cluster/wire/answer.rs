//! The bytes of an answer.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use phalanx_actors::codec::{self, ValueType};
use phalanx_actors::history::{Compared, HistoryPage, RecordedEvent};
use phalanx_actors::names::{Position, StreamName};
use phalanx_actors::request::{Accepted, Answer, EventView, Failure, FailureKind, StateView};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{CIRCUMSTANCES_SINCE, Led, Said, WireError, open, seal};
use crate::cluster::NodeId;

#[derive(Debug, Serialize, Deserialize)]
struct Message<'a> {
    node: NodeId,
    #[serde(borrow)]
    what: What<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
enum What<'a> {
    Accepted {
        sequence_number: u64,
        shard: u32,
        position: u64,
        created: bool,
        replayed: bool,
        #[serde(borrow)]
        events: Vec<Event<'a>>,
    },
    Rejected {
        code: &'a str,
        detail: &'a str,
        /// A JSON object.
        fields: std::borrow::Cow<'a, str>,
    },
    SequenceMismatch(u64),
    State {
        sequence_number: u64,
        shard: u32,
        position: u64,
        term: u64,
        /// JSON.
        state: &'a str,
    },
    NotFound,
    KeyReused,
    Failed {
        kind: u8,
        detail: &'a str,
        retry_after_ms: Option<u64>,
        pointer: Option<&'a str>,
    },
    History {
        #[serde(borrow)]
        events: Vec<Recorded<'a>>,
        next_sequence: Option<u64>,
    },
    NotHere {
        /// Node and term.
        leader: Option<(NodeId, u64)>,
        reason: &'a str,
    },
    Compared {
        before: State<'a>,
        after: State<'a>,
        #[serde(borrow)]
        events: Vec<Event<'a>>,
    },
    /// A history with what commands said besides.
    HistoryWith {
        #[serde(borrow)]
        events: Vec<RecordedWith<'a>>,
        next_sequence: Option<u64>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordedWith<'a> {
    #[serde(borrow)]
    event: Recorded<'a>,
    command: &'a str,
    /// Empty when it is not known.
    principal: &'a str,
    occurred_at_us: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct State<'a> {
    sequence_number: u64,
    shard: u32,
    position: u64,
    term: u64,
    /// JSON.
    state: &'a str,
}

#[derive(Debug, Serialize, Deserialize)]
struct Event<'a> {
    event_type: &'a str,
    sequence_number: u64,
    /// JSON.
    data: Option<&'a str>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Recorded<'a> {
    event_type: &'a str,
    sequence_number: u64,
    shard: u32,
    position: u64,
    time_us: i64,
    schema_version: u16,
    /// JSON.
    data: &'a str,
    causation_id: &'a str,
    correlation_id: &'a str,
    traceparent: &'a str,
}

/// The numbers of the kinds of failure are part of the protocol.
const KINDS: [(FailureKind, u8); 12] = [
    (FailureKind::MalformedBody, 1),
    (FailureKind::UnknownAggregateType, 2),
    (FailureKind::UnknownCommand, 3),
    (FailureKind::Overloaded, 4),
    (FailureKind::NoLeader, 5),
    (FailureKind::ShuttingDown, 6),
    (FailureKind::NotReady, 7),
    (FailureKind::OutcomeUnknown, 8),
    (FailureKind::StorageFull, 9),
    (FailureKind::Quarantined, 10),
    (FailureKind::Internal, 11),
    (FailureKind::Hypothesis, 12),
];

pub(super) fn encode(node: NodeId, said: &Said, protocol: u32) -> Result<Bytes, WireError> {
    let (what, capacity) = match said {
        Said::Answer(answer) => of_answer(answer)?,
        Said::History(page) => {
            let bytes: usize = page.events.iter().map(weight).sum();
            (of_history(page, protocol), bytes)
        }
        Said::Compared(compared) => {
            let Compared {
                before,
                after,
                events,
            } = compared;
            let bytes = before.state.get().len() + after.state.get().len() + 48 * events.len();
            let what = What::Compared {
                before: state(before),
                after: state(after),
                events: events.iter().map(of_event).collect(),
            };
            (what, 128 + bytes)
        }
        Said::NotHere { leader, reason } => {
            let leader = leader.map(|led| (led.node, led.term));
            (What::NotHere { leader, reason }, 64)
        }
    };
    let message = Message { node, what };
    seal(ValueType::Said, 128 + capacity, |out| {
        codec::append(out, &message)
    })
}

/// Bytes that an event takes in a page of history, about.
pub(super) fn weight(event: &RecordedEvent) -> usize {
    event.data.get().len()
        + event.command.len()
        + event.causation_id.len()
        + event.correlation_id.len()
        + event.traceparent.len()
        + event.principal.len()
        + event.event_type.len()
        + 64
}

fn of_history(page: &HistoryPage, protocol: u32) -> What<'_> {
    let next_sequence = page.next_sequence;
    if protocol < CIRCUMSTANCES_SINCE {
        return What::History {
            events: page.events.iter().map(recorded).collect(),
            next_sequence,
        };
    }
    What::HistoryWith {
        events: page.events.iter().map(recorded_with).collect(),
        next_sequence,
    }
}

fn of_answer(answer: &Answer) -> Result<(What<'_>, usize), WireError> {
    Ok(match answer {
        Answer::Accepted(accepted) => {
            let data = |event: &EventView| event.data.as_ref().map_or(0, |data| data.get().len());
            let bytes: usize = accepted.events.iter().map(|e| data(e) + 48).sum();
            (of_accepted(accepted), bytes)
        }
        Answer::Rejected {
            code,
            detail,
            fields,
        } => {
            let fields = serde_json::to_string(fields)
                .map_err(|_| WireError::Impossible { what: "rejection" })?;
            let bytes = fields.len() + detail.len();
            let fields = fields.into();
            let what = What::Rejected {
                code,
                detail,
                fields,
            };
            (what, bytes)
        }
        Answer::SequenceMismatch {
            current_sequence_number,
        } => (What::SequenceMismatch(*current_sequence_number), 0),
        Answer::State(view) => {
            let what = What::State {
                sequence_number: view.sequence_number,
                shard: view.position.shard,
                position: view.position.number,
                term: view.term,
                state: view.state.get(),
            };
            (what, view.state.get().len())
        }
        Answer::NotFound => (What::NotFound, 0),
        Answer::KeyReused => (What::KeyReused, 0),
        Answer::Failed(failure) => (of_failure(failure), failure.detail.len()),
    })
}

fn of_accepted(accepted: &Accepted) -> What<'_> {
    What::Accepted {
        sequence_number: accepted.sequence_number,
        shard: accepted.position.shard,
        position: accepted.position.number,
        created: accepted.created,
        replayed: accepted.replayed,
        events: accepted.events.iter().map(of_event).collect(),
    }
}

fn state(view: &StateView) -> State<'_> {
    State {
        sequence_number: view.sequence_number,
        shard: view.position.shard,
        position: view.position.number,
        term: view.term,
        state: view.state.get(),
    }
}

fn of_event(event: &EventView) -> Event<'_> {
    Event {
        event_type: &event.event_type,
        sequence_number: event.sequence_number,
        data: event.data.as_ref().map(|data| data.get()),
    }
}

fn of_failure(failure: &Failure) -> What<'_> {
    let number = KINDS.iter().find(|(kind, _)| *kind == failure.kind);
    What::Failed {
        kind: number.map_or(0, |(_, number)| *number),
        detail: &failure.detail,
        retry_after_ms: failure
            .retry_after
            .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        pointer: failure.pointer.as_deref(),
    }
}

fn recorded(event: &RecordedEvent) -> Recorded<'_> {
    Recorded {
        event_type: &event.event_type,
        sequence_number: event.sequence_number,
        shard: event.position.shard,
        position: event.position.number,
        time_us: event.time.as_microsecond(),
        schema_version: event.schema_version,
        data: event.data.get(),
        causation_id: &event.causation_id,
        correlation_id: &event.correlation_id,
        traceparent: &event.traceparent,
    }
}

fn recorded_with(event: &RecordedEvent) -> RecordedWith<'_> {
    RecordedWith {
        event: recorded(event),
        command: &event.command,
        principal: &event.principal,
        occurred_at_us: event.occurred_at.map(Timestamp::as_microsecond),
    }
}

pub(super) fn decode(stream: &StreamName, message: &[u8]) -> Result<(NodeId, Said), WireError> {
    let payload = open(ValueType::Said, message)?;
    let (message, rest): (Message<'_>, _) = codec::take_borrowed(payload)?;
    if !rest.is_empty() {
        return Err(WireError::Impossible { what: "length" });
    }
    Ok((message.node, to_said(stream, message.what)?))
}

fn to_said(stream: &StreamName, what: What<'_>) -> Result<Said, WireError> {
    let position = |shard, number| Position { shard, number };
    Ok(Said::Answer(match what {
        What::Accepted {
            sequence_number,
            shard,
            position: number,
            created,
            replayed,
            events,
        } => {
            let events: Result<Vec<EventView>, WireError> = events.iter().map(to_event).collect();
            Answer::Accepted(Accepted {
                stream: stream.clone(),
                sequence_number,
                position: position(shard, number),
                created,
                replayed,
                events: events?.into(),
            })
        }
        What::Rejected {
            code,
            detail,
            fields,
        } => Answer::Rejected {
            code: code.to_owned(),
            detail: detail.to_owned(),
            fields: serde_json::from_str(&fields)
                .map_err(|_| WireError::Impossible { what: "rejection" })?,
        },
        What::SequenceMismatch(current_sequence_number) => Answer::SequenceMismatch {
            current_sequence_number,
        },
        What::State {
            sequence_number,
            shard,
            position: number,
            term,
            state,
        } => Answer::State(StateView {
            stream: stream.clone(),
            sequence_number,
            position: position(shard, number),
            state: json(state)?,
            term,
        }),
        What::NotFound => Answer::NotFound,
        What::KeyReused => Answer::KeyReused,
        What::Failed {
            kind,
            detail,
            retry_after_ms,
            pointer,
        } => {
            let known = KINDS.iter().find(|(_, number)| *number == kind);
            let (kind, _) = known.ok_or(WireError::Impossible { what: "failure" })?;
            Answer::Failed(Failure {
                kind: *kind,
                detail: detail.to_owned(),
                retry_after: retry_after_ms.map(Duration::from_millis),
                pointer: pointer.map(str::to_owned),
            })
        }
        What::History {
            events,
            next_sequence,
        } => return history(events.iter().map(to_recorded), next_sequence),
        What::HistoryWith {
            events,
            next_sequence,
        } => return history(events.iter().map(to_recorded_with), next_sequence),
        What::Compared {
            before,
            after,
            events,
        } => {
            let events: Result<Vec<EventView>, WireError> = events.iter().map(to_event).collect();
            return Ok(Said::Compared(Compared {
                before: to_view(stream, &before)?,
                after: to_view(stream, &after)?,
                events: events?,
            }));
        }
        What::NotHere { leader, reason } => {
            return Ok(Said::NotHere {
                leader: leader.map(|(node, term)| Led { node, term }),
                reason: reason.to_owned(),
            });
        }
    }))
}

fn history(
    events: impl Iterator<Item = Result<RecordedEvent, WireError>>,
    next_sequence: Option<u64>,
) -> Result<Said, WireError> {
    let events: Result<Vec<RecordedEvent>, WireError> = events.collect();
    Ok(Said::History(HistoryPage {
        events: events?,
        next_sequence,
    }))
}

fn to_view(stream: &StreamName, view: &State<'_>) -> Result<StateView, WireError> {
    Ok(StateView {
        stream: stream.clone(),
        sequence_number: view.sequence_number,
        position: Position {
            shard: view.shard,
            number: view.position,
        },
        state: json(view.state)?,
        term: view.term,
    })
}

fn to_event(event: &Event<'_>) -> Result<EventView, WireError> {
    Ok(EventView {
        event_type: event.event_type.to_owned().into(),
        sequence_number: event.sequence_number,
        data: event.data.map(json).transpose()?,
    })
}

fn to_recorded(event: &Recorded<'_>) -> Result<RecordedEvent, WireError> {
    Ok(RecordedEvent {
        event_type: event.event_type.to_owned().into(),
        sequence_number: event.sequence_number,
        position: Position {
            shard: event.shard,
            number: event.position,
        },
        time: Timestamp::from_microsecond(event.time_us)
            .map_err(|_| WireError::Impossible { what: "time" })?,
        schema_version: event.schema_version,
        data: json(event.data)?,
        command: String::new(),
        causation_id: event.causation_id.to_owned(),
        correlation_id: event.correlation_id.to_owned(),
        traceparent: event.traceparent.to_owned(),
        principal: String::new(),
        occurred_at: None,
    })
}

fn to_recorded_with(with: &RecordedWith<'_>) -> Result<RecordedEvent, WireError> {
    let time = with.occurred_at_us.map(Timestamp::from_microsecond);
    Ok(RecordedEvent {
        command: with.command.to_owned(),
        principal: with.principal.to_owned(),
        occurred_at: time
            .transpose()
            .map_err(|_| WireError::Impossible { what: "time" })?,
        ..to_recorded(&with.event)?
    })
}

fn json(text: &str) -> Result<Box<RawValue>, WireError> {
    RawValue::from_string(text.to_owned()).map_err(|_| WireError::Impossible { what: "JSON" })
}

/// Which of the forms a message has: its place in the enum, which is stored in one byte.
#[cfg(test)]
pub(super) fn form(message: &[u8]) -> u32 {
    let payload = open(ValueType::Said, message).unwrap();
    let message: Message<'_> = codec::take_borrowed(payload).unwrap().0;
    let written = codec::to_bytes(&message.what).unwrap();
    u32::from(written[0])
}

/// How many forms there are.
#[cfg(test)]
pub(super) fn forms() -> u32 {
    super::golden::forms(|place| codec::take_borrowed::<What<'_>>(place).map(drop))
}
