//! Two states of one aggregate side by side: at two moments of its history, or of its history as it
//! is and as it would be with further events.
//!
//! It folds from the journal and touches no actor. It stores nothing, and nothing that goes wrong
//! along a hypothetical line says anything about the aggregate: it fails the one request that asked.
//! Invariant: the two lines differ only through what was inserted. Recorded events are derived again
//! ([`Aggregate::reconsider`]) from the first insertion on and not before it.

use std::iter::Peekable;
use std::vec::IntoIter;

use crate::aggregate::Aggregate;
use crate::evolution::Upcast;
use crate::fold::{self, Bound, CHUNK, Folded, LoadError};
use crate::history::Compared;
use crate::names::{Position, ShardId, StreamName};
use crate::ports::{self, Journal};
use crate::record::{Record, RecordView};
use crate::request::{EventView, Failure, FailureKind, StateView};
use crate::variant;

mod request;

pub(crate) use self::request::parse;

/// So many events are named between two moments, and no more but for the parts of one that was split;
/// the history shows all of them.
pub const MAX_EVENTS_BETWEEN: usize = 1000;

/// An event that did not happen.
#[derive(Debug, Clone)]
pub(crate) struct Inserted<E> {
    /// Behind this many recorded events.
    pub(crate) after_sequence: u64,
    pub(crate) event: E,
    /// Its place in the request.
    pub(crate) place: usize,
}

/// A history with insertions, folded beside the recorded one.
#[derive(Debug)]
pub(crate) struct Line<A: Aggregate> {
    pub(crate) state: A::State,
    waiting: Peekable<IntoIter<Inserted<A::Event>>>,
    added: u64,
}

/// Where a hypothetical line breaks, and why.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The inserted event by its place in the request, or the recorded one by its sequence number.
    at: Result<usize, u64>,
    reason: String,
}

impl<A: Aggregate> Line<A> {
    /// A line that leaves the recorded one after `sequence` events in this state, before the first of
    /// the insertions. Those at one place stay in their order.
    pub(crate) fn new(
        state: A::State,
        sequence: u64,
        mut inserted: Vec<Inserted<A::Event>>,
    ) -> Result<Self, Broken> {
        inserted.sort_by_key(|insertion| insertion.after_sequence);
        let mut line = Self {
            state,
            waiting: inserted.into_iter().peekable(),
            added: 0,
        };
        line.insert(sequence)?;
        Ok(line)
    }

    /// Folds what is recorded at a place, derived again, and what was inserted behind it.
    pub(crate) fn step(&mut self, sequence: u64, recorded: &[A::Event]) -> Result<(), Broken> {
        let state = &mut self.state;
        fold::guarded(|| {
            for event in recorded {
                let event = A::reconsider(state, event);
                A::evolve(state, &event);
            }
            Ok(())
        })
        .map_err(|reason| Broken {
            at: Err(sequence),
            reason,
        })?;
        self.insert(sequence)
    }

    fn insert(&mut self, sequence: u64) -> Result<(), Broken> {
        while let Some(insertion) = self.waiting.next_if(|i| i.after_sequence == sequence) {
            let state = &mut self.state;
            fold::guarded(|| {
                A::evolve(state, &insertion.event);
                Ok(())
            })
            .map_err(|reason| Broken {
                at: Ok(insertion.place),
                reason,
            })?;
            self.added += 1;
        }
        Ok(())
    }

    /// An insertion that no recorded event came before.
    pub(crate) fn left_over(&mut self) -> Option<&Inserted<A::Event>> {
        self.waiting.peek()
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        let Broken { at, reason } = broken;
        let detail = match at {
            Ok(_) => format!("the inserted event cannot be folded where it is put: {reason}"),
            Err(sequence) => format!(
                "recorded event {sequence} cannot be folded behind what was inserted: {reason}"
            ),
        };
        let pointer = at.ok().map(|place| format!("/insert/{place}"));
        Self {
            pointer,
            ..Self::new(FailureKind::Hypothesis, detail)
        }
    }
}

/// The state as it is, and as it would be with these events; `None` when nothing has happened to the
/// aggregate.
pub(crate) async fn what_if<A: Aggregate>(
    journal: &dyn Journal,
    shard: ShardId,
    stream: &StreamName,
    inserted: Vec<Inserted<A::Event>>,
) -> Result<Option<Compared>, Failure> {
    let first = inserted.iter().map(|insertion| insertion.after_sequence);
    let bound = Bound {
        sequence: first.min().unwrap_or(u64::MAX),
        ..Bound::NEWEST
    };
    let loaded = fold::load::<A>(journal, shard, stream, bound).await;
    let (mut actual, _) = loaded.map_err(|error| error.into_failure(stream))?;
    let mut line = Line::<A>::new(actual.state.clone(), actual.sequence, inserted)?;
    walk(
        journal,
        shard,
        stream,
        &mut actual,
        u64::MAX,
        |sequence, recorded| line.step(sequence, recorded).map_err(Failure::from),
    )
    .await?;
    if actual.sequence == 0 {
        return Ok(None);
    }
    if let Some(insertion) = line.left_over() {
        return Err(Failure {
            pointer: Some(format!("/insert/{}/after_sequence", insertion.place)),
            ..Failure::new(
                FailureKind::MalformedBody,
                format!(
                    "there is no event {}: the aggregate is at sequence number {}",
                    insertion.after_sequence, actual.sequence
                ),
            )
        });
    }
    let before = view(shard, stream, &actual)?;
    let state = fold::to_json(&line.state).map_err(|reason| {
        let detail = format!("the hypothetical state cannot be shown: {reason}");
        Failure::new(FailureKind::Hypothesis, detail)
    })?;
    let after = StateView {
        sequence_number: actual.sequence + line.added,
        state,
        ..before.clone()
    };
    Ok(Some(Compared {
        before,
        after,
        events: Vec::new(),
    }))
}

/// The states after `from` and after `to` events, or the newest where the history ends before; `None`
/// when nothing has happened to the aggregate.
pub(crate) async fn between<A: Aggregate>(
    journal: &dyn Journal,
    shard: ShardId,
    stream: &StreamName,
    from: u64,
    to: u64,
) -> Result<Option<Compared>, Failure> {
    let bound = Bound {
        sequence: from,
        ..Bound::NEWEST
    };
    let loaded = fold::load::<A>(journal, shard, stream, bound).await;
    let (mut folded, _) = loaded.map_err(|error| error.into_failure(stream))?;
    if folded.sequence == 0 {
        return Ok(None);
    }
    let before = view(shard, stream, &folded)?;
    let mut events = Vec::new();
    if folded.sequence == from {
        walk(
            journal,
            shard,
            stream,
            &mut folded,
            to,
            |sequence_number, recorded| {
                if events.len() >= MAX_EVENTS_BETWEEN {
                    return Ok(());
                }
                for event in recorded {
                    let name = variant::variant_name(event);
                    events.push(EventView {
                        event_type: name.unwrap_or_default().into(),
                        sequence_number,
                        data: None,
                    });
                }
                Ok(())
            },
        )
        .await?;
    }
    let after = view(shard, stream, &folded)?;
    Ok(Some(Compared {
        before,
        after,
        events,
    }))
}

/// Folds on from `folded` to `until` events, and shows what is at each place to `see` before: one
/// event, unless upcasters made several of it or none.
async fn walk<A: Aggregate>(
    journal: &dyn Journal,
    shard: ShardId,
    stream: &StreamName,
    folded: &mut Folded<A>,
    until: u64,
    mut see: impl FnMut(u64, &[A::Event]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    while folded.sequence < until {
        let records = journal
            .read_stream(shard, stream, folded.sequence + 1, CHUNK)
            .map_err(|error| LoadError::from(error).into_failure(stream))?;
        for record in &records {
            if folded.sequence >= until {
                return Ok(());
            }
            let events = rest_of(record, folded).map_err(|error| error.into_failure(stream))?;
            for (sequence, recorded) in events {
                if sequence > until {
                    return Ok(());
                }
                let recorded = recorded.events();
                see(sequence, recorded)?;
                fold::guarded(|| {
                    for event in recorded {
                        A::evolve(&mut folded.state, event);
                    }
                    Ok(())
                })
                .map_err(|reason| LoadError::Fold { sequence, reason }.into_failure(stream))?;
                folded.position = record.first_position + (sequence - record.first_sequence);
                folded.sequence = sequence;
                folded.last_time_us = record.time_us;
            }
        }
        if ports::reached_end(&records, CHUNK) {
            return Ok(());
        }
        drop(records);
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// What is recorded at a sequence number.
type Place<A> = (u64, Upcast<<A as Aggregate>::Event>);

/// The events of a record that are not folded yet, with their sequence numbers. The fold may stand
/// within the record.
fn rest_of<A: Aggregate>(record: &Record, folded: &Folded<A>) -> Result<Vec<Place<A>>, LoadError> {
    let broken = |reason: String| LoadError::Fold {
        sequence: record.first_sequence,
        reason,
    };
    let expected = folded.sequence + 1;
    if record.first_sequence > expected {
        return Err(broken(format!("event {expected} is missing")));
    }
    let events = fold::guarded(|| {
        let view = RecordView::open(&record.bytes).map_err(|error| error.to_string())?;
        fold::decode_events::<A>(&view).map_err(|error| error.to_string())
    });
    let numbered = (record.first_sequence..).zip(events.map_err(broken)?);
    Ok(numbered.filter(|(at, _)| *at >= expected).collect())
}

fn view<A: Aggregate>(
    shard: ShardId,
    stream: &StreamName,
    folded: &Folded<A>,
) -> Result<StateView, Failure> {
    let sequence = folded.sequence;
    let state = fold::to_json(&folded.state)
        .map_err(|reason| LoadError::Fold { sequence, reason }.into_failure(stream))?;
    Ok(StateView {
        stream: stream.clone(),
        sequence_number: sequence,
        position: Position {
            shard,
            number: folded.position,
        },
        state,
        term: 0,
    })
}
