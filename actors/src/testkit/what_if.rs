//! What-if tests of an aggregate: a history, events that did not happen, and where both lead.

use crate::aggregate::Aggregate;
use crate::compare::{Inserted, Line};
use crate::json_patch::{Operation, diff};
use crate::testkit::given;

/// Folds a history as it is, and once more with events inserted: each pair names an event and after
/// how many recorded ones it would have happened (0 is before all of them). Events at one place stay
/// in their order.
///
/// # Panics
/// When the domain's code does, or an insertion stands beyond the end of the history.
#[must_use]
#[expect(
    clippy::panic,
    reason = "a test kit reports a broken domain by panicking"
)]
pub fn what_if<A: Aggregate>(
    history: impl IntoIterator<Item = A::Event>,
    insert: impl IntoIterator<Item = (u64, A::Event)>,
) -> WhatIf<A> {
    let history: Vec<A::Event> = history.into_iter().collect();
    let inserted = insert.into_iter().enumerate();
    let inserted = inserted.map(|(place, (after_sequence, event))| Inserted {
        after_sequence,
        event,
        place,
    });
    let inserted: Vec<_> = inserted.collect();
    let first = inserted.iter().map(|insertion| insertion.after_sequence);
    let first = first.min().unwrap_or(u64::MAX);
    // As the runtime does it: what was recorded before the first insertion is not derived again.
    let shared = usize::try_from(first)
        .unwrap_or(usize::MAX)
        .min(history.len());
    let before = given::<A>(history[..shared].iter().cloned());
    let fork = u64::try_from(shared).unwrap_or(u64::MAX);
    let mut line = Line::<A>::new(before.state().clone(), fork, inserted)
        .unwrap_or_else(|broken| panic!("{broken:?}"));
    for (sequence, event) in (fork + 1..).zip(&history[shared..]) {
        line.step(sequence, std::slice::from_ref(event))
            .unwrap_or_else(|broken| panic!("{broken:?}"));
    }
    assert!(
        line.left_over().is_none(),
        "the history has {} events: {:?}",
        history.len(),
        line.left_over()
    );
    WhatIf {
        actual: given::<A>(history).state().clone(),
        hypothetical: line.state,
    }
}

/// Where a history leads, and where it would have led.
#[derive(Debug, Clone)]
pub struct WhatIf<A: Aggregate> {
    /// The state after the recorded events.
    pub actual: A::State,
    /// The state after these and the inserted ones.
    pub hypothetical: A::State,
}

impl<A: Aggregate> WhatIf<A> {
    /// The JSON Patch from the one to the other, as a client of the node sees it.
    ///
    /// # Panics
    /// When a state cannot be written as JSON.
    #[must_use]
    #[expect(
        clippy::panic,
        reason = "a test kit reports a broken domain by panicking"
    )]
    pub fn difference(&self) -> Vec<Operation> {
        let json = |state: &A::State| {
            serde_json::to_value(state).unwrap_or_else(|error| panic!("state: {error}"))
        };
        diff(&json(&self.actual), &json(&self.hypothetical))
    }
}
