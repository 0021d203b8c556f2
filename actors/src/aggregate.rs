//! The aggregate as a pure state machine.
//!
//! This file owns the contract between a domain and the runtime. It refuses I/O: `decide` and
//! `evolve` are synchronous, see the time only through [`Context`], and must give the same answer
//! for the same arguments. The runtime relies on that when it replays a stream.

use std::error::Error;
use std::fmt::Debug;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::evolution::Upcasters;

/// A consistency boundary: one stream of events, one state, one rule book.
///
/// Commands, events and rejections are enums. The runtime takes their names from serde's variant
/// names, so `#[serde(rename_all = "kebab-case")]` on the rejection gives codes such as
/// `insufficient-funds`, and a command variant `OpenAccount { .. }` answers to
/// `POST .../commands/OpenAccount`. Give each command and event variant named fields (or none:
/// `Pay {}`), and put `#[serde(deny_unknown_fields)]` on the command enum so that a misspelt field
/// is an error.
///
/// Events and states are stored with bincode. Attributes that need a self-describing format
/// (`flatten`, `untagged`, `tag`, `skip_serializing_if`) must not be used on them.
pub trait Aggregate: Debug + Send + Sync + Sized + 'static {
    /// The name in URLs and in the journal, in `snake_case`. Never change it after a release.
    const TYPE: &'static str;

    /// One sentence for the type's description page.
    const DESCRIPTION: &'static str;

    /// The version of [`Self::State`]'s shape. Raise it when the shape changes: snapshots of other
    /// versions are dropped and the stream is replayed.
    const STATE_SCHEMA_VERSION: u16 = 1;

    /// What the aggregate remembers. `Default` is the state before the first event.
    type State: Clone + Debug + Default + DeserializeOwned + JsonSchema + Send + Serialize + Sync;

    /// What a client may ask for. Imperative names: `OpenAccount`.
    type Command: Debug + DeserializeOwned + JsonSchema + Send;

    /// What happened. Past tense: `AccountOpened`.
    type Event: Clone + Debug + DeserializeOwned + JsonSchema + PartialEq + Send + Serialize + Sync;

    /// Why the domain refuses a command. Displayed to the client as the problem's `detail`.
    type Rejection: Error + JsonSchema + PartialEq + Send + Serialize;

    /// Decides what happens when `command` meets `state`. No events means that nothing needs to
    /// change.
    ///
    /// # Errors
    /// A rejection is the domain's "no". It is an answer, not a failure.
    fn decide(
        state: &Self::State,
        command: Self::Command,
        context: &Context<'_>,
    ) -> Result<Vec<Self::Event>, Self::Rejection>;

    /// Folds one event into the state. It must accept every event that `decide` ever produced.
    fn evolve(state: &mut Self::State, event: &Self::Event);

    /// How events that earlier releases stored become events of today: one chain for each event type
    /// whose fields changed since its first release. An event type without one is in version 1.
    fn upcasters() -> Upcasters<Self::Event> {
        Upcasters::default()
    }

    /// The event as it would have been recorded, had the aggregate been in this state then: facts that
    /// were derived from the state, such as an amount of interest, are derived again.
    ///
    /// Asked along a hypothetical history only; recorded events never change. The state is that before
    /// the event, which may be one that `decide` would never have led to. Given the state that the
    /// event was recorded at, this must give the event back unchanged.
    #[must_use]
    fn reconsider(_state: &Self::State, event: &Self::Event) -> Self::Event {
        event.clone()
    }

    /// The reasons for which clients may read this aggregate's state from the command model.
    fn justifications() -> Vec<Justification> {
        Vec::new()
    }

    /// The read models that serve this type; named to clients who ask for a fresh read without a
    /// reason.
    fn views() -> Vec<&'static str> {
        Vec::new()
    }
}

/// What `decide` may know besides the state.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The aggregate's id, as in the URL.
    pub aggregate_id: &'a str,
    /// The number of events so far; 0 means that the aggregate does not exist yet.
    pub sequence_number: u64,
    /// When the command is decided. It never runs backwards within one aggregate.
    pub now: Timestamp,
    /// Who sent the command, where the node knows. It is stored with the events; a decision may depend
    /// on it, the state sees it only if an event carries it.
    pub principal: Option<&'a str>,
    /// When it happened in the world, where the client said so. It may be any time, also one after
    /// `now`: whether that makes sense is for the domain to say.
    pub occurred_at: Option<Timestamp>,
}

/// A declared reason for a fresh read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Justification {
    /// The value of the `Phalanx-Justification` header.
    pub name: &'static str,
    /// For which situation it is meant.
    pub description: &'static str,
    /// Reads per second and node that may use it; 0 turns it off.
    pub rate_limit_per_second: u32,
}
