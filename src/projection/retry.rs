//! Another attempt at what was set aside.
//!
//! A letter names the first event of an aggregate that could not be handled; those behind it are in
//! the journal, here or on another member. An attempt handles them in order, up to the offset of the
//! build, so that afterwards the aggregate goes on with everybody else. Invariant: the rows of an
//! aggregate change in the order of its events, however often it is attempted.

use std::sync::Arc;

use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::projection::DecodedEvent;
use phalanx_actors::record::Record;
use serde::Serialize;

use super::build::Build;
use super::error::{OperationError, StoreError};
use super::letters::Letter;
use super::writer::Writer;

/// Records that are handled in one transaction, at most.
const RECORDS: usize = 512;

/// Bytes of them from which on no more are taken.
const BYTES: usize = 4 << 20;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retried {
    /// Whether the aggregate goes on with everybody else; otherwise the letter is still there.
    pub resolved: bool,
    /// Events that were handled.
    pub handled: u64,
    /// Why the attempt ended, if not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where an attempt stands.
struct Attempt {
    stream: StreamName,
    letter: Letter,
    /// The next event.
    sequence: u64,
    handled: u64,
}

impl Attempt {
    /// The letter of an event that could not be handled this time.
    fn letter_of(&self, event: &DecodedEvent, reason: &str) -> Letter {
        let attempts = self.letter.attempts.saturating_add(1);
        Letter::new(event, reason.to_owned(), attempts, self.letter.parked_us)
    }
}

/// What is handled in one transaction.
struct Gathered {
    records: Vec<Record>,
    /// The sequence number behind them.
    behind: u64,
    /// Whether the build has taken in nothing behind them.
    complete: bool,
}

/// What a step of an attempt came to.
enum Step {
    More,
    Resolved,
    Refused(String),
}

impl Writer {
    /// Attempts a letter; with `skip`, without the event that it names.
    pub(super) async fn retry(
        &mut self,
        build: &Arc<Build>,
        letter: i64,
        skip: bool,
    ) -> Result<Retried, OperationError> {
        self.store.may_write()?;
        if build.definition.is_none() {
            // Its code is gone, and the build with the new one handles the events anyway.
            return Err(OperationError::Rebuilding);
        }
        let letter = self.store.letter(build.id, letter).await?;
        let letter = letter.ok_or(OperationError::NoLetter)?;
        let stream = letter.stream_name().ok_or(OperationError::NoLetter)?;
        self.ready(build).await?;
        let mut attempt = Attempt {
            stream,
            sequence: letter.sequence_number + u64::from(skip),
            letter,
            handled: 0,
        };
        loop {
            let step = match Box::pin(self.step(build, &mut attempt)).await {
                Ok(step) => step,
                Err(error) => {
                    self.give_up(std::iter::once(build.id)).await;
                    return Err(error.into());
                }
            };
            let (resolved, reason) = match step {
                Step::More => continue,
                Step::Resolved => (true, None),
                Step::Refused(reason) => (false, Some(reason)),
            };
            return Ok(Retried {
                resolved,
                handled: attempt.handled,
                reason,
            });
        }
    }

    /// The records that are handled next, from wherever there is a copy of the shard.
    async fn next_records(
        &self,
        shard: ShardId,
        attempt: &Attempt,
        until: u64,
    ) -> Result<Gathered, String> {
        let mut gathered = Gathered {
            records: Vec::new(),
            behind: attempt.sequence,
            complete: false,
        };
        let mut bytes = 0;
        while !gathered.complete && gathered.records.len() < RECORDS && bytes < BYTES {
            let read = self
                .streams
                .read(shard, &attempt.stream, gathered.behind, until);
            let read = read.await?;
            gathered.complete = read.is_empty();
            for record in read {
                let behind = record.first_sequence + u64::from(record.event_count);
                if record.first_position > until || behind <= gathered.behind {
                    gathered.complete = true;
                    break;
                }
                bytes += record.bytes.len();
                gathered.behind = behind;
                gathered.records.push(record);
            }
        }
        Ok(gathered)
    }

    /// Handles some of the events in one transaction.
    async fn step(&mut self, build: &Build, attempt: &mut Attempt) -> Result<Step, StoreError> {
        let shard = attempt.letter.shard;
        let space = self.spaces.get(&build.id);
        let until = space.and_then(|space| space.offset(shard)).unwrap_or(0);
        let gathered = match self.next_records(shard, attempt, until).await {
            Ok(gathered) => gathered,
            Err(reason) => {
                let reason = format!("{reason}; nothing more was changed");
                return Ok(Step::Refused(reason));
            }
        };
        let Gathered {
            records,
            behind,
            complete,
        } = gathered;
        let mut events: Vec<DecodedEvent> = Vec::new();
        for record in &records {
            if let Some(definition) = &build.definition {
                definition.decode(shard, record, attempt.sequence, &mut events);
            }
        }

        self.store.begin().await?;
        let Some(space) = self.spaces.get_mut(&build.id) else {
            return Err(StoreError::Stopping);
        };
        let parked = space.parked.remove(&attempt.stream).unwrap_or(0);
        let refused = space.run(&mut self.store, &events).await?;
        let done = refused.as_ref().map_or(events.len(), |(at, _)| *at);
        // Whether the stream is still set aside, by which letter, and what came of this step.
        let (letter, step) = match refused {
            None if complete => {
                self.store.delete_letter(attempt.letter.id).await?;
                (None, Step::Resolved)
            }
            None => {
                attempt.sequence = behind;
                attempt.letter.sequence_number = behind;
                (Some(attempt.letter.clone()), Step::More)
            }
            Some((at, reason)) => {
                let letter = events
                    .get(at)
                    .map(|event| attempt.letter_of(event, &reason));
                if letter.is_none() {
                    space.parked.insert(attempt.stream.clone(), parked);
                }
                (letter, Step::Refused(reason))
            }
        };
        if let Some(letter) = letter {
            space.parked.insert(attempt.stream.clone(), letter.sum());
            self.store.put_letter(build.id, &letter).await?;
        }
        if let Some(space) = self.spaces.get_mut(&build.id) {
            space.flush(&mut self.store).await?;
        }
        if done > 0 {
            let attempts = build.changes.attempts() + 1;
            self.store.note_attempts(build.id, attempts).await?;
        }
        self.seal(std::iter::once(build.id)).await?;
        self.store.commit().await?;
        attempt.handled += done as u64;
        self.stored_step(build, done);
        Ok(step)
    }

    /// After a step was committed in which so many events were handled.
    fn stored_step(&mut self, build: &Build, done: usize) {
        if done > 0 {
            build.changes.attempted();
        }
        if let Some(space) = self.spaces.get_mut(&build.id) {
            space.workspace.stored();
            let parked = space.parked.len() as u64;
            build
                .letters
                .store(parked, std::sync::atomic::Ordering::Relaxed);
        }
    }
}
