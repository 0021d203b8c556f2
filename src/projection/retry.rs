//! Another attempt at what was set aside.
//!
//! A letter names the first event of an aggregate that could not be handled; those behind it are in
//! the journal. An attempt handles them in order, up to the offset of the build, so that afterwards
//! the aggregate goes on with everybody else. Invariant: the rows of an aggregate change in the order
//! of its events, however often it is attempted.

use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::names::StreamName;
use phalanx_actors::projection::DecodedEvent;
use serde::Serialize;

use super::build::Build;
use super::error::{OperationError, StoreError};
use super::letters::Letter;
use super::writer::Writer;

/// Records that are handled in one transaction, at most.
const RECORDS: usize = 512;

/// How long the index of this node's copy may take to reach the build.
const INDEXED: Duration = Duration::from_secs(2);

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

    /// Handles some of the events in one transaction.
    async fn step(&mut self, build: &Build, attempt: &mut Attempt) -> Result<Step, StoreError> {
        let shard = attempt.letter.shard;
        let space = self.spaces.get(&build.id);
        let until = space.and_then(|space| space.offset(shard)).unwrap_or(0);
        let indexed = self.journal.wait_indexed(shard, until);
        if tokio::time::timeout(INDEXED, indexed).await.is_err() {
            // An attempt reads the aggregate's stream, and only a copy of the shard has that.
            let reason = format!(
                "this node has no copy of shard {shard} that reaches position {until}; nothing was \
                 changed"
            );
            return Ok(Step::Refused(reason));
        }
        let records =
            self.journal
                .read_stream(shard, &attempt.stream, attempt.sequence, RECORDS)?;
        let mut events: Vec<DecodedEvent> = Vec::new();
        for record in records
            .iter()
            .filter(|record| record.first_position <= until)
        {
            if let Some(definition) = &build.definition {
                definition.decode(shard, record, attempt.sequence, &mut events);
            }
        }
        let taken = records
            .iter()
            .take_while(|record| record.first_position <= until);
        let behind = taken
            .last()
            .map(|last| last.first_sequence + u64::from(last.event_count));
        let complete = records.len() < RECORDS
            || records
                .last()
                .is_some_and(|last| last.first_position > until);

        self.store.begin().await?;
        let Some(space) = self.spaces.get_mut(&build.id) else {
            return Err(StoreError::Stopping);
        };
        let parked = space.parked.remove(&attempt.stream).unwrap_or(0);
        let refused = space.run(&mut self.store, &events).await?;
        let done = refused.as_ref().map_or(events.len(), |(at, _)| *at);
        let step = match refused {
            None if complete => {
                self.store.delete_letter(attempt.letter.id).await?;
                Step::Resolved
            }
            None => {
                attempt.sequence = behind.unwrap_or(attempt.sequence);
                attempt.letter.sequence_number = attempt.sequence;
                let sum = attempt.letter.sum();
                space.parked.insert(attempt.stream.clone(), sum);
                self.store.put_letter(build.id, &attempt.letter).await?;
                Step::More
            }
            Some((at, reason)) => {
                let mut sum = parked;
                if let Some(event) = events.get(at) {
                    let attempts = attempt.letter.attempts.saturating_add(1);
                    let parked_us = attempt.letter.parked_us;
                    let letter = Letter::new(event, reason.clone(), attempts, parked_us);
                    self.store.put_letter(build.id, &letter).await?;
                    sum = letter.sum();
                }
                space.parked.insert(attempt.stream.clone(), sum);
                Step::Refused(reason)
            }
        };
        if let Some(space) = self.spaces.get_mut(&build.id) {
            space.flush(&mut self.store).await?;
        }
        self.seal(std::iter::once(build.id)).await?;
        self.store.commit().await?;
        attempt.handled += done as u64;
        if done > 0 {
            build.changes.start_over();
        }
        if let Some(space) = self.spaces.get_mut(&build.id) {
            space.workspace.stored();
            let parked = space.parked.len() as u64;
            build
                .letters
                .store(parked, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(step)
    }
}
