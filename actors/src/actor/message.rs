//! What an aggregate's mailbox takes.

use crate::aggregate::Aggregate;
use crate::record::hash_key;
use crate::request::{Failure, Origin, Precondition};
use crate::sequencer::Reply;

/// One message.
pub(crate) enum AggregateMessage<A: Aggregate> {
    /// Decide a command.
    Command(Box<CommandMessage<A>>),
    /// Answer the state.
    Read(Reply),
    /// Nothing is in flight and nothing more will come: save what helps and stop.
    Passivate,
}

/// A parsed command with everything that its decision depends on.
pub(crate) struct CommandMessage<A: Aggregate> {
    pub(crate) command: A::Command,
    pub(crate) name: String,
    pub(crate) key: Key,
    pub(crate) fingerprint: [u8; 16],
    pub(crate) precondition: Precondition,
    pub(crate) representation: bool,
    pub(crate) dry_run: bool,
    pub(crate) traceparent: Option<Box<str>>,
    pub(crate) origin: Option<Box<Origin>>,
    pub(crate) reply: Reply,
}

/// The idempotency key of a command.
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) hash: u128,
    /// Nobody can have used it before: the journal does not know it.
    pub(crate) is_new: bool,
    /// Somebody may retry with it: the journal is to know it afterwards.
    pub(crate) remembered: bool,
}

impl Key {
    pub(crate) fn new(text: String, is_new: bool, remembered: bool) -> Self {
        Self {
            hash: hash_key(&text),
            text,
            is_new,
            remembered,
        }
    }
}

impl<A: Aggregate> AggregateMessage<A> {
    /// Answers whoever waits for this message.
    pub(crate) fn fail(self, failure: Failure) {
        match self {
            Self::Command(command) => command.reply.fail(failure),
            Self::Read(reply) => reply.fail(failure),
            Self::Passivate => {}
        }
    }
}
