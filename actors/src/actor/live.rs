//! A loaded aggregate: its state, and how commands and reads meet it.
//!
//! Everything here is synchronous but the loading. An `Err` from a method is the reason for a
//! quarantine: the state cannot be relied on any more.

use std::sync::Arc;

use jiff::Timestamp;

use super::keys::{Keys, PendingKey};
use super::message::{CommandMessage, Key};
use super::quarantined;
use crate::aggregate::{Aggregate, Context};
use crate::evolution::{self, EventSchema};
use crate::fold::{self, Bound, Folded, LoadError};
use crate::incarnation::Incarnation;
use crate::metrics::CommandMetrics;
use crate::names::{Position, StreamName};
use crate::record::{
    Behind, Circumstances, Draft, FLAG_CIRCUMSTANCES, FLAG_CREATED, FLAG_GENERATED_KEY,
    FLAG_REPRESENTATION, FLAG_STATE_HASH, RecordHead,
};
use crate::request::{
    Accepted, Answer, EventView, Failure, FailureKind, Origin, Precondition, StateView,
};
use crate::sequencer::{NewRecord, Reply};
use crate::state_hash::Hasher;
use crate::variant;

/// A serving aggregate.
pub(crate) struct Live<A: Aggregate> {
    folded: Folded<A>,
    schema: &'static EventSchema<A::Event>,
    hasher: Hasher,
    /// Ticket of the newest record in the state; 0 when all of it was loaded.
    ticket: u64,
    /// Sequence number of the newest snapshot.
    snapshot_sequence: u64,
    /// The commands that it has answered.
    pub(crate) keys: Keys,
}

/// What a decision led to.
enum Plan {
    /// Nothing is stored.
    Answer(Answer),
    /// There is something to be stored, and no room for it.
    NoRoom(FailureKind, &'static str),
    /// The events are folded; their record is to be appended.
    Store(NewRecord, Accepted),
}

/// A command but for its content.
struct Request<'a> {
    name: &'a str,
    key: &'a Key,
    fingerprint: [u8; 16],
    representation: bool,
    dry_run: bool,
    traceparent: &'a str,
    circumstances: Circumstances<'a>,
}

impl<A: Aggregate> Live<A> {
    /// Loads the newest snapshot and the events after it.
    pub(crate) async fn load(
        stream: &StreamName,
        incarnation: &Arc<Incarnation>,
    ) -> Result<Self, Failure> {
        let services = incarnation.services();
        let asked_ns = services.clock.monotonic_ns();
        // Everything that anybody was told about this stream must be visible. Nothing new is told of it
        // before it is loaded, so the place among those who load is taken afterwards.
        services
            .journal
            .wait_indexed(
                incarnation.shard(),
                incarnation.sequencer().released_position(),
            )
            .await
            .map_err(|error| LoadError::from(error).into_failure(stream))?;
        let _slot = services.activations.slot().await;
        let (folded, snapshot_sequence) = fold::load::<A>(
            &*services.journal,
            incarnation.shard(),
            stream,
            Bound::NEWEST,
        )
        .await
        .map_err(|error| error.into_failure(stream))?;
        let waited_ns = services.clock.monotonic_ns().saturating_sub(asked_ns);
        services.activations.loaded(waited_ns as f64 / 1e9);
        Ok(Self {
            keys: Keys::of_stream(folded.sequence > 0),
            folded,
            schema: evolution::schema_of::<A>(),
            hasher: Hasher::default(),
            ticket: 0,
            snapshot_sequence,
        })
    }

    /// Answers the state, once it is committed and this node is known to lead.
    pub(crate) fn read(
        &mut self,
        stream: &StreamName,
        incarnation: &Incarnation,
        reply: Reply,
    ) -> Result<(), String> {
        let answer = if self.folded.sequence == 0 {
            Answer::NotFound
        } else {
            let state = match fold::to_json(&self.folded.state) {
                Ok(state) => state,
                Err(reason) => {
                    reply.fail(quarantined(&reason));
                    return Err(reason);
                }
            };
            Answer::State(StateView {
                stream: stream.clone(),
                sequence_number: self.folded.sequence,
                position: self.position(incarnation),
                state,
                term: incarnation.term(),
            })
        };
        incarnation
            .sequencer()
            .read_after(self.ticket, answer, reply);
        Ok(())
    }

    /// Decides a command, stores what happened, and leaves the reply with the sequencer.
    pub(crate) fn command(
        &mut self,
        stream: &StreamName,
        incarnation: &Incarnation,
        metrics: &CommandMetrics,
        message: Box<CommandMessage<A>>,
    ) -> Result<(), String> {
        let again = self
            .keys
            .answer_again(stream, incarnation, metrics, message);
        let Some(message) = again else {
            return Ok(());
        };
        if !holds(message.precondition, self.folded.sequence) {
            let answer = Answer::SequenceMismatch {
                current_sequence_number: self.folded.sequence,
            };
            incarnation
                .sequencer()
                .answer_after(self.ticket, answer, message.reply);
            return Ok(());
        }
        self.decide_and_store(stream, incarnation, metrics, *message)
    }

    fn decide_and_store(
        &mut self,
        stream: &StreamName,
        incarnation: &Incarnation,
        metrics: &CommandMetrics,
        message: CommandMessage<A>,
    ) -> Result<(), String> {
        let CommandMessage {
            command,
            name,
            key,
            fingerprint,
            representation,
            dry_run,
            traceparent,
            origin,
            reply,
            ..
        } = message;
        let request = Request {
            name: &name,
            key: &key,
            fingerprint,
            representation,
            dry_run,
            traceparent: traceparent.as_deref().unwrap_or_default(),
            circumstances: origin.as_deref().map(circumstances).unwrap_or_default(),
        };
        match fold::guarded(|| self.plan(stream, incarnation, metrics, command, &request)) {
            Ok(Plan::Answer(answer)) => {
                incarnation
                    .sequencer()
                    .answer_after(self.ticket, answer, reply);
            }
            Ok(Plan::NoRoom(kind, reason)) => {
                // Whoever leads by now may have stored the command, which this node would not know.
                let refused = Answer::Failed(Failure::new(kind, reason));
                incarnation
                    .sequencer()
                    .answer_after(self.ticket, refused, reply);
            }
            Ok(Plan::Store(record, accepted)) => {
                self.store(incarnation, record, accepted, fingerprint, reply);
            }
            Err(reason) => {
                reply.fail(quarantined(&reason));
                return Err(reason);
            }
        }
        Ok(())
    }

    /// Runs all of the domain's code that a command needs. Events that will be stored are in the
    /// state when it returns; when it fails or panics the state is unusable.
    fn plan(
        &mut self,
        stream: &StreamName,
        incarnation: &Incarnation,
        metrics: &CommandMetrics,
        command: A::Command,
        request: &Request<'_>,
    ) -> Result<Plan, String> {
        let services = incarnation.services();
        let circumstances = request.circumstances;
        let now_us = services
            .clock
            .now()
            .as_microsecond()
            .max(self.folded.last_time_us);
        let context = Context {
            aggregate_id: stream.id(),
            sequence_number: self.folded.sequence,
            now: Timestamp::from_microsecond(now_us).unwrap_or_default(),
            principal: Some(circumstances.principal).filter(|name| !name.is_empty()),
            occurred_at: circumstances.occurred_at(),
        };
        let events = match A::decide(&self.folded.state, command, &context) {
            Ok(events) => events,
            Err(rejection) => {
                metrics.rejected.increment(1);
                return Ok(Plan::Answer(rejected(&rejection)?));
            }
        };
        let store = !events.is_empty() && !request.dry_run;
        if store && services.journal.is_full() {
            let reason = "the disk has less free space than the reserve; nothing was stored";
            return Ok(Plan::NoRoom(FailureKind::StorageFull, reason));
        }
        if store && services.journal.is_behind(incarnation.shard()) {
            let reason = "the disk does not keep up with what is stored; nothing was stored";
            return Ok(Plan::NoRoom(FailureKind::Overloaded, reason));
        }
        metrics.accepted.increment(1);
        let before = self.folded.sequence;
        let accepted = Accepted {
            stream: stream.clone(),
            sequence_number: before + events.len() as u64,
            position: self.position(incarnation),
            created: store && before == 0,
            replayed: false,
            events: event_views::<A>(&events, before + 1, request.representation)?.into(),
        };
        if !store {
            return Ok(Plan::Answer(Answer::Accepted(accepted)));
        }
        let record = self.take_in(&events, now_us, request, &accepted)?;
        Ok(Plan::Store(record, accepted))
    }

    /// Folds what was decided, and writes the record of it.
    fn take_in(
        &mut self,
        events: &[A::Event],
        time_us: i64,
        request: &Request<'_>,
        accepted: &Accepted,
    ) -> Result<NewRecord, String> {
        for event in events {
            A::evolve(&mut self.folded.state, event);
        }
        let state = self.hasher.next::<A>(&self.folded.state);
        let circumstances = request.circumstances;
        let head = RecordHead {
            stream: accepted.stream.as_str(),
            first_sequence: self.folded.sequence + 1,
            event_count: u32::try_from(events.len()).map_err(|_| "too many events")?,
            time_us,
            command: request.name,
            key: &request.key.text,
            fingerprint: request.fingerprint,
            flags: flags(
                accepted.created,
                request.representation,
                !request.key.remembered,
                state.is_some(),
                !circumstances.is_empty(),
            ),
            traceparent: request.traceparent,
        };
        let behind = Behind {
            circumstances,
            state,
        };
        let draft =
            Draft::of::<A>(&head, self.schema, events, behind).map_err(|e| e.to_string())?;
        let record = NewRecord {
            draft,
            stream: accepted.stream.clone(),
            first_sequence: head.first_sequence,
            time_us,
            key_hash: request.key.hash,
            flags: head.flags,
        };
        self.folded.sequence = accepted.sequence_number;
        self.folded.last_time_us = time_us;
        Ok(record)
    }

    fn store(
        &mut self,
        incarnation: &Incarnation,
        record: NewRecord,
        accepted: Accepted,
        fingerprint: [u8; 16],
        reply: Reply,
    ) {
        let hash = record.key_hash;
        let Some((ticket, accepted)) = incarnation.sequencer().append(record, accepted, reply)
        else {
            return;
        };
        self.ticket = ticket.number;
        self.folded.position = ticket.last_position;
        let stream = accepted.stream.clone();
        self.keys.push(PendingKey {
            hash,
            fingerprint,
            ticket: ticket.number,
            accepted,
        });
        let every = incarnation.services().limits.snapshot_every_events;
        if self.folded.sequence - self.snapshot_sequence >= every {
            self.snapshot(&stream, incarnation);
        }
    }

    fn position(&self, incarnation: &Incarnation) -> Position {
        Position {
            shard: incarnation.shard(),
            number: self.folded.position,
        }
    }

    /// Saves a snapshot once the state is committed. A state that cannot be stored is replayed
    /// instead.
    fn snapshot(&mut self, stream: &StreamName, incarnation: &Incarnation) {
        self.snapshot_sequence = self.folded.sequence;
        let written = fold::guarded(|| self.folded.to_snapshot().map_err(|e| e.to_string()));
        match written {
            Ok(bytes) => {
                incarnation
                    .sequencer()
                    .snapshot_after(self.ticket, stream.clone(), bytes);
            }
            Err(error) => tracing::warn!(%stream, %error, "failed to write a snapshot"),
        }
    }

    /// Saves a snapshot unless the stream's tail is so short that replaying it costs no more.
    pub(crate) fn snapshot_on_passivation(
        &mut self,
        stream: &StreamName,
        incarnation: &Incarnation,
    ) {
        let tail = self.folded.sequence - self.snapshot_sequence;
        if tail >= incarnation.services().limits.snapshot_on_passivation_events {
            self.snapshot(stream, incarnation);
        }
    }
}

fn event_views<A: Aggregate>(
    events: &[A::Event],
    first_sequence: u64,
    representation: bool,
) -> Result<Vec<EventView>, String> {
    (first_sequence..)
        .zip(events)
        .map(|(sequence_number, event)| {
            let event_type = variant::variant_name(event).ok_or("an event must be an enum")?;
            let data = if representation {
                let fields = variant::variant_fields(event, event_type);
                Some(fields.map_err(|error| error.to_string())?)
            } else {
                None
            };
            Ok(EventView {
                event_type: event_type.into(),
                sequence_number,
                data,
            })
        })
        .collect()
}

fn rejected<R: std::error::Error + serde::Serialize>(rejection: &R) -> Result<Answer, String> {
    let (code, fields) = variant::code_and_fields(rejection).map_err(|error| error.to_string())?;
    Ok(Answer::Rejected {
        code,
        detail: rejection.to_string(),
        fields,
    })
}

fn circumstances(origin: &Origin) -> Circumstances<'_> {
    Circumstances {
        principal: origin.principal.as_deref().unwrap_or_default(),
        occurred_at_us: origin.occurred_at.map(Timestamp::as_microsecond),
    }
}

fn holds(precondition: Precondition, sequence: u64) -> bool {
    match precondition {
        Precondition::Any => true,
        Precondition::AtSequence(expected) => sequence == expected,
        Precondition::Exists => sequence > 0,
        Precondition::Absent => sequence == 0,
        Precondition::Never => false,
    }
}

fn flags(
    created: bool,
    representation: bool,
    generated: bool,
    hashed: bool,
    circumstances: bool,
) -> u8 {
    let bit = |set: bool, flag: u8| if set { flag } else { 0 };
    bit(created, FLAG_CREATED)
        | bit(representation, FLAG_REPRESENTATION)
        | bit(generated, FLAG_GENERATED_KEY)
        | bit(hashed, FLAG_STATE_HASH)
        | bit(circumstances, FLAG_CIRCUMSTANCES)
}
