//! The actor that holds one aggregate.
//!
//! It owns the live state of one stream and handles its messages one at a time. Its state may be
//! ahead of the log (*speculative*), so it never answers by itself: every answer goes through the
//! shard's sequencer with the ticket of the last record that the state contains.
//!
//! A panic in the domain's code quarantines this aggregate and nothing else. The actor lives on and
//! says so until it is passivated; a later activation tries again. What was stored before is still
//! true then: a retry of such a command gets its reply.

mod keys;
mod live;
mod message;

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use self::keys::Keys;
pub(crate) use self::live::Live;
pub(crate) use self::message::{AggregateMessage, CommandMessage, Key};
use crate::aggregate::Aggregate;
use crate::incarnation::Incarnation;
use crate::metrics::CommandMetrics;
use crate::names::StreamName;
use crate::request::{Failure, FailureKind};

/// The behaviour; the data lives in [`AggregateState`].
#[derive(Debug)]
pub(crate) struct AggregateActor<A>(std::marker::PhantomData<fn() -> A>);

impl<A> AggregateActor<A> {
    pub(crate) fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

/// What an actor is started with.
pub(crate) struct AggregateArguments {
    pub(crate) stream: StreamName,
    pub(crate) incarnation: Arc<Incarnation>,
    pub(crate) metrics: Arc<CommandMetrics>,
}

/// What an actor holds.
pub(crate) struct AggregateState<A: Aggregate> {
    pub(crate) stream: StreamName,
    pub(crate) incarnation: Arc<Incarnation>,
    pub(crate) metrics: Arc<CommandMetrics>,
    pub(crate) phase: Phase<A>,
}

/// How far an actor is.
pub(crate) enum Phase<A: Aggregate> {
    /// Nothing is loaded yet; the first message does it.
    Cold,
    /// Serving.
    Live(Box<Live<A>>),
    /// Its code or its stream failed; the text says how. What was answered before stays true.
    Quarantined(String, Keys),
}

impl<A: Aggregate> Actor for AggregateActor<A> {
    type Msg = AggregateMessage<A>;
    type State = AggregateState<A>;
    type Arguments = AggregateArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(AggregateState {
            stream: arguments.stream,
            incarnation: arguments.incarnation,
            metrics: arguments.metrics,
            phase: Phase::Cold,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if matches!(message, AggregateMessage::Passivate) {
            state.passivate();
            myself.stop(None);
            return Ok(());
        }
        if matches!(state.phase, Phase::Cold)
            && let Err(failure) = Box::pin(state.activate()).await
        {
            // Not loaded, for a reason that may pass: the next message tries again.
            message.fail(failure);
            return Ok(());
        }
        state.handle(message);
        Ok(())
    }
}

impl<A: Aggregate> AggregateState<A> {
    async fn activate(&mut self) -> Result<(), Failure> {
        match Live::load(&self.stream, &self.incarnation).await {
            Ok(live) => self.phase = Phase::Live(Box::new(live)),
            Err(failure) if failure.kind == FailureKind::Quarantined => {
                self.quarantine(failure.detail);
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    fn handle(&mut self, message: AggregateMessage<A>) {
        let live = match &mut self.phase {
            Phase::Live(live) => live,
            Phase::Quarantined(reason, keys) => {
                let message = match message {
                    AggregateMessage::Command(command) => keys
                        .answer_again(&self.stream, &self.incarnation, &self.metrics, command)
                        .map(AggregateMessage::Command),
                    AggregateMessage::Read(_) | AggregateMessage::Passivate => Some(message),
                };
                if let Some(message) = message {
                    message.fail(quarantined(reason));
                }
                return;
            }
            Phase::Cold => {
                return message.fail(Failure::new(FailureKind::Internal, "not activated"));
            }
        };
        let result = match message {
            AggregateMessage::Command(command) => {
                live.command(&self.stream, &self.incarnation, &self.metrics, command)
            }
            AggregateMessage::Read(reply) => live.read(&self.stream, &self.incarnation, reply),
            AggregateMessage::Passivate => Ok(()),
        };
        if let Err(reason) = result {
            self.quarantine(reason);
        }
    }

    fn quarantine(&mut self, reason: String) {
        tracing::error!(stream = %self.stream, %reason, "aggregate quarantined");
        self.incarnation.services().metrics.quarantines.increment(1);
        let keys = match std::mem::replace(&mut self.phase, Phase::Cold) {
            Phase::Live(live) => live.keys,
            Phase::Cold | Phase::Quarantined(..) => Keys::of_stream(true),
        };
        self.phase = Phase::Quarantined(reason, keys);
    }

    fn passivate(&mut self) {
        if let Phase::Live(live) = &mut self.phase {
            live.snapshot_on_passivation(&self.stream, &self.incarnation);
        }
    }
}

pub(crate) fn quarantined(reason: &str) -> Failure {
    Failure::new(
        FailureKind::Quarantined,
        format!("this aggregate is quarantined: {reason}"),
    )
}
