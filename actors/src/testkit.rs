//! Given/when/then tests for aggregates, for projections (see [`projecting`]), and for changed
//! histories (see [`what_if()`]).
//!
//! The kit runs the same pure functions as the runtime. Besides the comparison that the test asks
//! for, each `when` checks what the runtime relies on: that events and state survive their stored
//! form, that folding the stored events gives the live state, and that derived facts stay as they
//! are where they were derived.

mod projection;
mod what_if;

use std::fmt::Debug;

use jiff::Timestamp;

use crate::aggregate::{Aggregate, Context};
use crate::codec;

pub use self::projection::{Projecting, projecting};
pub use self::what_if::{WhatIf, what_if};

/// Starts a test with the events that happened before.
#[must_use]
pub fn given<A: Aggregate>(history: impl IntoIterator<Item = A::Event>) -> Given<A> {
    let mut given = Given {
        state: A::State::default(),
        sequence_number: 0,
        aggregate_id: "test-1".to_owned(),
        now: Timestamp::UNIX_EPOCH,
        principal: None,
        occurred_at: None,
    };
    for event in history {
        given.fold(&event);
    }
    given
}

/// The situation before the command.
#[derive(Debug, Clone)]
pub struct Given<A: Aggregate> {
    state: A::State,
    sequence_number: u64,
    aggregate_id: String,
    now: Timestamp,
    principal: Option<String>,
    occurred_at: Option<Timestamp>,
}

impl<A: Aggregate> Given<A> {
    /// Sets the id that `decide` sees.
    #[must_use]
    pub fn id(mut self, aggregate_id: &str) -> Self {
        aggregate_id.clone_into(&mut self.aggregate_id);
        self
    }

    /// Sets the time that `decide` sees.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        self.now = now;
        self
    }

    /// Sets who sends the next commands, as `decide` sees it.
    #[must_use]
    pub fn by(mut self, principal: &str) -> Self {
        self.principal = Some(principal.to_owned());
        self
    }

    /// Sets when it happened that the next commands tell of, as `decide` sees it.
    #[must_use]
    pub fn occurred_at(mut self, time: Timestamp) -> Self {
        self.occurred_at = Some(time);
        self
    }

    /// The state after the history.
    pub fn state(&self) -> &A::State {
        &self.state
    }

    /// Decides one command and folds what it produced.
    #[must_use]
    pub fn when(mut self, command: A::Command) -> Outcome<A> {
        let context = Context {
            aggregate_id: &self.aggregate_id,
            sequence_number: self.sequence_number,
            now: self.now,
            principal: self.principal.as_deref(),
            occurred_at: self.occurred_at,
        };
        let result = A::decide(&self.state, command, &context);
        if let Ok(events) = &result {
            for event in events {
                assert_eq!(
                    &A::reconsider(&self.state, event),
                    event,
                    "reconsidering an event where it was recorded must not change it"
                );
                self.fold(event);
            }
        }
        Outcome {
            after: self,
            result,
        }
    }

    #[expect(
        clippy::panic,
        reason = "a test kit reports a broken domain by panicking"
    )]
    fn fold(&mut self, event: &A::Event) {
        let stored = codec::to_bytes(event).unwrap_or_else(|e| panic!("{event:?}: {e}"));
        let read: A::Event =
            codec::from_bytes(&stored).unwrap_or_else(|e| panic!("{event:?}: {e}"));
        assert_eq!(&read, event, "the stored form of an event must be faithful");
        A::evolve(&mut self.state, &read);
        self.sequence_number += 1;
        let stored = codec::to_bytes(&self.state).unwrap_or_else(|e| panic!("state: {e}"));
        let read: A::State = codec::from_bytes(&stored).unwrap_or_else(|e| panic!("state: {e}"));
        assert_eq!(
            serde_json::to_value(&read).ok(),
            serde_json::to_value(&self.state).ok(),
            "the stored form of a state must be faithful"
        );
    }
}

/// What the command led to.
#[derive(Debug)]
pub struct Outcome<A: Aggregate> {
    after: Given<A>,
    result: Result<Vec<A::Event>, A::Rejection>,
}

impl<A: Aggregate> Outcome<A> {
    /// Asserts that exactly these events happened.
    ///
    /// # Panics
    /// When something else happened.
    #[track_caller]
    pub fn then(self, events: impl AsRef<[A::Event]> + Debug) -> Given<A> {
        assert_eq!(self.result.as_deref(), Ok(events.as_ref()));
        self.after
    }

    /// Asserts that the command was refused for this reason.
    ///
    /// # Panics
    /// When it was accepted or refused for another reason.
    #[track_caller]
    pub fn then_rejected(self, rejection: A::Rejection) -> Given<A> {
        assert_eq!(self.result.as_deref(), Err(&rejection));
        self.after
    }
}
