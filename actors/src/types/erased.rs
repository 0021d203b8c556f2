//! The typed side of a registered type, behind one object-safe face.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{TypeDescription, VariantDescription};
use crate::actor::{AggregateMessage, CommandMessage, Key};
use crate::aggregate::Aggregate;
use crate::compare;
use crate::evolution;
use crate::fold::{self, Bound, LoadError};
use crate::history::{At, Compared, Comparison, RecordedEvent};
use crate::incarnation::Incarnation;
use crate::metrics::CommandMetrics;
use crate::names::{Position, ShardId, StreamName};
use crate::ports::{BoxFuture, Journal, JournalError};
use crate::record::RecordView;
use crate::request::{Answer, CommandRequest, Failure, FailureKind, StateView};
use crate::sequencer::Reply;
use crate::variant;
use crate::verify::{self, StreamCheck};

/// What the model asks of a type that it does not know statically.
pub(crate) trait ErasedType: std::fmt::Debug + Send + Sync {
    /// Parses a command and sends it to its aggregate.
    fn command(
        &self,
        incarnation: &Arc<Incarnation>,
        stream: &StreamName,
        request: CommandRequest,
        key: Key,
        reply: Reply,
    );

    /// Asks the aggregate for its state.
    fn read(&self, incarnation: &Arc<Incarnation>, stream: &StreamName, reply: Reply);

    /// The events of a stored record, from sequence number `from` on.
    fn events(
        &self,
        shard: ShardId,
        record: &crate::record::Record,
        from: u64,
    ) -> Result<Vec<RecordedEvent>, String>;

    /// The state as it was.
    fn state_at<'a>(
        &'a self,
        journal: &'a dyn Journal,
        shard: ShardId,
        stream: &'a StreamName,
        at: At,
    ) -> BoxFuture<'a, Result<Option<StateView>, LoadError>>;

    /// Whether the stream is understood as it was when it was stored.
    fn verify(
        &self,
        journal: &dyn Journal,
        shard: ShardId,
        stream: &StreamName,
    ) -> Result<StreamCheck, JournalError>;

    /// The version in which events of this type are stored now.
    fn event_version(&self, event: &str) -> u16;

    /// Two states of the past or of a hypothetical history.
    fn compare<'a>(
        &'a self,
        journal: &'a dyn Journal,
        shard: ShardId,
        stream: &'a StreamName,
        comparison: &'a Comparison,
    ) -> BoxFuture<'a, Result<Option<Compared>, Failure>>;
}

#[derive(Debug)]
pub(crate) struct Typed<A> {
    commands: Vec<String>,
    events: Vec<String>,
    metrics: Arc<CommandMetrics>,
    _type: std::marker::PhantomData<fn() -> A>,
}

impl<A: Aggregate> Typed<A> {
    pub(crate) fn new(description: &TypeDescription) -> Self {
        let names = |variants: &[VariantDescription]| {
            variants
                .iter()
                .map(|variant| variant.name.clone())
                .collect()
        };
        Self {
            commands: names(&description.commands),
            events: names(&description.events),
            metrics: Arc::new(CommandMetrics::new(A::TYPE)),
            _type: std::marker::PhantomData,
        }
    }

    fn parse(&self, name: &str, body: &[u8]) -> Result<A::Command, Failure> {
        if !self.commands.iter().any(|known| known == name) {
            let detail = format!(
                "`{}` has no command `{name}`; it has {}",
                A::TYPE,
                self.commands.join(", ")
            );
            return Err(Failure::new(FailureKind::UnknownCommand, detail));
        }
        fold::guarded(|| Ok(variant::parse_variant(name, body)))
            .map_err(|reason| Failure::new(FailureKind::Internal, reason))?
            .map_err(|mismatch| Failure {
                pointer: Some(mismatch.pointer),
                ..Failure::new(FailureKind::MalformedBody, mismatch.detail)
            })
    }
}

impl<A: Aggregate> ErasedType for Typed<A> {
    fn command(
        &self,
        incarnation: &Arc<Incarnation>,
        stream: &StreamName,
        request: CommandRequest,
        key: Key,
        reply: Reply,
    ) {
        let command = match self.parse(&request.command, &request.body) {
            Ok(command) => command,
            Err(failure) => return reply.fail(failure),
        };
        let fingerprint = fingerprint(&request.command, &request.body);
        incarnation.deliver::<A>(stream, &self.metrics, reply, |reply| {
            AggregateMessage::Command(Box::new(CommandMessage {
                command,
                name: request.command,
                key,
                fingerprint,
                precondition: request.precondition,
                representation: request.representation,
                dry_run: request.dry_run,
                traceparent: request.traceparent,
                origin: request.origin,
                reply,
            }))
        });
    }

    fn read(&self, incarnation: &Arc<Incarnation>, stream: &StreamName, reply: Reply) {
        incarnation.deliver::<A>(stream, &self.metrics, reply, AggregateMessage::Read);
    }

    fn events(
        &self,
        shard: ShardId,
        record: &crate::record::Record,
        from: u64,
    ) -> Result<Vec<RecordedEvent>, String> {
        fold::guarded(|| recorded_events::<A>(shard, record, from))
    }

    fn verify(
        &self,
        journal: &dyn Journal,
        shard: ShardId,
        stream: &StreamName,
    ) -> Result<StreamCheck, JournalError> {
        verify::check::<A>(journal, shard, stream)
    }

    fn event_version(&self, event: &str) -> u16 {
        evolution::schema_of::<A>().version(event)
    }

    fn state_at<'a>(
        &'a self,
        journal: &'a dyn Journal,
        shard: ShardId,
        stream: &'a StreamName,
        at: At,
    ) -> BoxFuture<'a, Result<Option<StateView>, LoadError>> {
        Box::pin(async move {
            let bound = match at {
                At::Sequence(sequence) => Bound {
                    sequence,
                    ..Bound::NEWEST
                },
                At::Time(time) => Bound {
                    time_us: time.as_microsecond(),
                    ..Bound::NEWEST
                },
            };
            let (folded, _) = fold::load::<A>(journal, shard, stream, bound).await?;
            if folded.sequence == 0 {
                return Ok(None);
            }
            let state = fold::to_json(&folded.state).map_err(|reason| LoadError::Fold {
                sequence: folded.sequence,
                reason,
            })?;
            Ok(Some(StateView {
                stream: stream.clone(),
                sequence_number: folded.sequence,
                position: Position {
                    shard,
                    number: folded.position,
                },
                state,
                term: 0,
            }))
        })
    }

    fn compare<'a>(
        &'a self,
        journal: &'a dyn Journal,
        shard: ShardId,
        stream: &'a StreamName,
        comparison: &'a Comparison,
    ) -> BoxFuture<'a, Result<Option<Compared>, Failure>> {
        Box::pin(async move {
            match comparison {
                Comparison::Between { from, to } => {
                    compare::between::<A>(journal, shard, stream, *from, *to).await
                }
                Comparison::WhatIf(body) => {
                    let inserted = compare::parse::<A>(body, &self.events)?;
                    compare::what_if::<A>(journal, shard, stream, inserted).await
                }
            }
        })
    }
}

fn recorded_events<A: Aggregate>(
    shard: ShardId,
    record: &crate::record::Record,
    from: u64,
) -> Result<Vec<RecordedEvent>, String> {
    let view = RecordView::open(&record.bytes).map_err(|e| e.to_string())?;
    let events = fold::decode_events::<A>(&view).map_err(|e| e.to_string())?;
    let circumstances = view.circumstances().map_err(|e| e.to_string())?;
    let schema = evolution::schema_of::<A>();
    let numbered = (record.first_sequence..).zip(record.first_position..);
    numbered
        .zip(&events)
        .filter(|((sequence, _), _)| *sequence >= from)
        .flat_map(|(numbers, upcast)| upcast.events().iter().map(move |event| (numbers, event)))
        .map(|((sequence_number, number), event)| {
            let event_type = variant::variant_name(event).ok_or("an event must be an enum")?;
            let data = variant::variant_fields(event, event_type).map_err(|e| e.to_string())?;
            Ok(RecordedEvent {
                event_type: event_type.into(),
                sequence_number,
                position: Position { shard, number },
                time: Timestamp::from_microsecond(view.head.time_us).unwrap_or_default(),
                schema_version: schema.version(event_type),
                data,
                command: view.head.command.to_owned(),
                causation_id: view.head.key.to_owned(),
                correlation_id: correlation(view.head.traceparent, view.head.key),
                traceparent: view.head.traceparent.to_owned(),
                principal: circumstances.principal.to_owned(),
                occurred_at: circumstances.occurred_at(),
            })
        })
        .collect()
}

/// Tells a retry from another command under the same key.
fn fingerprint(command: &str, body: &[u8]) -> [u8; 16] {
    let seed = xxhash_rust::xxh3::xxh3_64(command.as_bytes());
    xxhash_rust::xxh3::xxh3_128_with_seed(body, seed).to_le_bytes()
}

/// The trace that the command belongs to, or the command itself.
fn correlation(traceparent: &str, key: &str) -> String {
    let trace_id = traceparent.split('-').nth(1);
    trace_id.unwrap_or(key).to_owned()
}

/// Where an answer arrives.
pub(crate) type AnswerReceiver = oneshot::Receiver<Answer>;
