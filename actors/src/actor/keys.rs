//! The commands of one aggregate that have been answered before.
//!
//! It owns the keys of the newest commands until the journal shows them, and asks the journal for the
//! others. Invariant: what it answers depends on records alone and never on the state, so a retry is
//! answered also when the state cannot be relied on.

use std::collections::VecDeque;

use super::message::CommandMessage;
use crate::aggregate::Aggregate;
use crate::evolution;
use crate::fold;
use crate::incarnation::Incarnation;
use crate::metrics::CommandMetrics;
use crate::names::{Position, StreamName};
use crate::record::{FLAG_CREATED, FLAG_REPRESENTATION, Record, RecordView};
use crate::request::{Accepted, Answer, EventView, Failure, FailureKind};

/// See the module.
pub(crate) struct Keys {
    /// Keys whose index rows may not be visible yet, oldest first.
    pending: VecDeque<PendingKey>,
    /// Whether the journal may know keys of this stream.
    in_journal: bool,
}

/// A command whose record was handed to the sequencer.
pub(crate) struct PendingKey {
    pub(crate) hash: u128,
    pub(crate) fingerprint: [u8; 16],
    pub(crate) ticket: u64,
    pub(crate) accepted: Accepted,
}

impl Keys {
    /// Those of a stream that was just loaded.
    pub(crate) fn of_stream(in_journal: bool) -> Self {
        Self {
            pending: VecDeque::new(),
            in_journal,
        }
    }

    /// Remembers the key of a command until the journal knows it.
    pub(crate) fn push(&mut self, key: PendingKey) {
        self.pending.push_back(key);
    }

    /// Answers a command that was answered before, or gives it back.
    pub(crate) fn answer_again<A: Aggregate>(
        &mut self,
        stream: &StreamName,
        incarnation: &Incarnation,
        metrics: &CommandMetrics,
        message: Box<CommandMessage<A>>,
    ) -> Option<Box<CommandMessage<A>>> {
        self.forget_indexed(incarnation);
        if message.dry_run {
            return Some(message);
        }
        match self.earlier_reply(stream, incarnation, &message) {
            Ok(None) => return Some(message),
            Ok(Some((ticket, answer))) => {
                metrics.replayed.increment(1);
                incarnation
                    .sequencer()
                    .answer_after(ticket, answer, message.reply);
            }
            Err(failure) => message.reply.fail(failure),
        }
        None
    }

    /// What an earlier command with the same key was answered, and the ticket it depends on.
    fn earlier_reply<A: Aggregate>(
        &self,
        stream: &StreamName,
        incarnation: &Incarnation,
        message: &CommandMessage<A>,
    ) -> Result<Option<(u64, Answer)>, Failure> {
        let key = &message.key;
        if let Some(pending) = self.pending.iter().find(|pending| pending.hash == key.hash) {
            let answer = if pending.fingerprint == message.fingerprint {
                Answer::Accepted(Accepted {
                    replayed: true,
                    ..pending.accepted.clone()
                })
            } else {
                Answer::KeyReused
            };
            return Ok(Some((pending.ticket, answer)));
        }
        if key.is_new || !self.in_journal {
            return Ok(None);
        }
        let services = incarnation.services();
        let found = services
            .journal
            .find_key(incarnation.shard(), stream, key.hash, services.clock.now())
            .map_err(|error| fold::LoadError::from(error).into_failure(stream))?;
        let Some(record) = found else {
            return Ok(None);
        };
        let answer = fold::guarded(|| replay_answer::<A>(stream, incarnation, &record, message))
            .map_err(|reason| Failure::new(FailureKind::Internal, reason))?;
        Ok(answer.map(|answer| (0, answer)))
    }

    /// Drops the keys that the journal knows by now.
    fn forget_indexed(&mut self, incarnation: &Incarnation) {
        let Some(oldest) = self.pending.front() else {
            return;
        };
        let journal = &incarnation.services().journal;
        let indexed = journal.indexed_position(incarnation.shard());
        if oldest.accepted.position.number > indexed {
            return;
        }
        let gone = self
            .pending
            .partition_point(|key| key.accepted.position.number <= indexed);
        self.pending.drain(..gone);
        self.in_journal = true;
    }
}

/// Renders the stored reply of a record; `None` when another key happens to have the same hash.
fn replay_answer<A: Aggregate>(
    stream: &StreamName,
    incarnation: &Incarnation,
    record: &Record,
    message: &CommandMessage<A>,
) -> Result<Option<Answer>, String> {
    let view = RecordView::open(&record.bytes).map_err(|error| error.to_string())?;
    if view.head.key != message.key.text {
        return Ok(None);
    }
    if view.head.fingerprint != message.fingerprint {
        return Ok(Some(Answer::KeyReused));
    }
    let representation = view.head.flags & FLAG_REPRESENTATION != 0;
    Ok(Some(Answer::Accepted(Accepted {
        stream: stream.clone(),
        sequence_number: record.first_sequence + u64::from(record.event_count) - 1,
        position: Position {
            shard: incarnation.shard(),
            number: record.first_position + u64::from(record.event_count) - 1,
        },
        created: view.head.flags & FLAG_CREATED != 0,
        replayed: true,
        events: stored_views::<A>(&view, representation)?.into(),
    })))
}

/// The events of a stored record as the first reply showed them, whatever became of their types since.
fn stored_views<A: Aggregate>(
    view: &RecordView<'_>,
    representation: bool,
) -> Result<Vec<EventView>, String> {
    let schema = evolution::schema_of::<A>();
    (view.head.first_sequence..)
        .zip(view.events())
        .map(|(sequence_number, stored)| {
            let stored = stored.map_err(|error| error.to_string())?;
            let (event_type, data) = if representation {
                let (event_type, data) = schema.as_stored(&stored)?;
                (event_type, Some(data))
            } else {
                let known = schema.identify(&stored);
                (known.ok_or("an event of an unknown type")?.0, None)
            };
            Ok(EventView {
                event_type: event_type.into(),
                sequence_number,
                data,
            })
        })
        .collect()
}
