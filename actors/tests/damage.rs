//! A shard whose storage turns out to be damaged: whoever waits is told to come back, and nobody holds
//! on to a permit.

mod support;

use std::sync::atomic::Ordering;

use phalanx_actors::model::At;
use phalanx_actors::ports::Proposed;
use phalanx_actors::request::{Answer, Failure, FailureKind};
use support::*;

/// A refusal that may pass.
fn assert_passing(answer: &Answer) {
    let passing = |failure: &Failure| {
        failure.kind == FailureKind::NotReady
            && failure.retry_after.is_some()
            && failure.detail.contains("is damaged")
    };
    let passes = matches!(answer, Answer::Failed(failure) if passing(failure));
    assert!(passes, "{answer:?}");
}

/// A shard with two events of one aggregate, the second of which the index does not show.
async fn half_indexed() -> World {
    let world = World::new(Options::default()).await;
    accepted(world.ask("known", add(1)).await);
    world.journal.hold_index.store(true, Ordering::Release);
    accepted(world.ask("known", add(1)).await);
    world
}

#[tokio::test]
async fn who_waits_for_an_index_that_gets_nowhere_is_answered() {
    let world = half_indexed().await;
    let (command, read) = (world.send("a", add(1)), world.send_read("b"));
    let model = world.model.clone();
    let past = tokio::spawn(async move { model.state_at(&stream("c"), At::Sequence(1)).await });
    settle().await;
    assert_eq!(world.model.in_flight(), 3);
    world.journal.damage();
    assert_passing(&soon(command).await);
    assert_passing(&soon(read).await);
    assert_passing(&Answer::Failed(soon(past).await.unwrap_err()));
    assert_eq!(world.model.in_flight(), 0);
    assert_eq!(world.services.activations.free(), 8);
    assert_eq!(world.journal.last_position(), 2, "nothing was stored");
}

#[tokio::test]
async fn damage_that_a_request_comes_upon_is_no_fault_of_the_request() {
    let world = World::new(Options::default()).await;
    accepted(world.ask("old", with_key("k", add(1))).await);
    world.step_down().await;
    world.lead(2).await;
    accepted(world.ask("live", add(1)).await);
    accepted(world.ask("old", add(1)).await);
    world.journal.damage();
    for (id, request) in [("cold", add(1)), ("old", with_key("k", add(1)))] {
        assert_passing(&world.ask(id, request).await);
    }
    let past = world.model.history(&stream("old"), 1, 10, 1 << 20).await;
    assert_passing(&Answer::Failed(past.unwrap_err()));
    // What may have been proposed stays unknown, whatever was found meanwhile.
    world.replicator.hold();
    let sent = world.send("live", add(1));
    eventually(|| !world.replicator.pending().is_empty()).await;
    let _batch = world.replicator.fail_next(Proposed::Unknown);
    assert_eq!(failed(soon(sent).await), FailureKind::OutcomeUnknown);
}

#[tokio::test]
async fn a_past_is_not_told_from_what_came_in_place_of_the_copy_that_was_asked() {
    let world = half_indexed().await;
    let model = world.model.clone();
    let page = tokio::spawn(async move { model.history(&stream("known"), 1, 9, 1 << 20).await });
    let model = world.model.clone();
    let past = tokio::spawn(async move { model.state_at(&stream("known"), At::Sequence(2)).await });
    settle().await;
    world.step_down().await;
    world.journal.index_all();
    let refused = soon(page).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::NoLeader);
    let refused = soon(past).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::NoLeader);
}
