//! Runs generated commands against an aggregate, for the property tests of the samples.
//!
//! It owns the bookkeeping that the runtime would do: sequence numbers, folding, and the journal
//! from which the state is replayed. It knows no domain; each property brings its own check.

use std::fmt::Debug;

use jiff::Timestamp;
use phalanx_actors::{Aggregate, Context, codec};
use proptest::prelude::ProptestConfig;

/// The settings of every property here: a failure is printed and leaves no file behind.
pub(super) fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Decides `commands` one after the other and shows each answer to `check`, together with the state
/// before and after it. At the end the stored events are replayed and must give the live state.
///
/// A rejection is an answer like any other: the run goes on, as a client would.
pub(super) fn run<A>(
    commands: impl IntoIterator<Item = A::Command>,
    mut check: impl FnMut(&A::State, &A::Command, &Result<Vec<A::Event>, A::Rejection>, &A::State),
) where
    A: Aggregate,
    A::Command: Clone,
    A::State: PartialEq,
{
    let mut live = A::State::default();
    let mut journal: Vec<Vec<u8>> = Vec::new();
    for command in commands {
        let answer = decide::<A>(&live, &command, journal.len());
        let again = decide::<A>(&live, &command, journal.len());
        assert_eq!(answer, again, "the same question gets the same answer");
        let before = live.clone();
        for event in answer.iter().flatten() {
            A::evolve(&mut live, event);
            journal.push(codec::to_bytes(event).unwrap());
        }
        check(&before, &command, &answer, &live);
    }
    assert_eq!(
        replay::<A>(&journal),
        live,
        "replaying gives the live state"
    );
}

fn decide<A>(
    state: &A::State,
    command: &A::Command,
    events_so_far: usize,
) -> Result<Vec<A::Event>, A::Rejection>
where
    A: Aggregate,
    A::Command: Clone + Debug,
{
    let context = Context {
        aggregate_id: "random-1",
        sequence_number: u64::try_from(events_so_far).unwrap(),
        now: Timestamp::UNIX_EPOCH,
        principal: None,
        occurred_at: None,
    };
    A::decide(state, command.clone(), &context)
}

fn replay<A: Aggregate>(journal: &[Vec<u8>]) -> A::State {
    let mut state = A::State::default();
    for bytes in journal {
        A::evolve(&mut state, &codec::from_bytes(bytes).unwrap());
        let snapshot = codec::to_bytes(&state).unwrap();
        state = codec::from_bytes(&snapshot).unwrap();
    }
    state
}
