//! Domain code that panics or events that do not fit: one aggregate suffers, nobody else.

mod support;

use std::sync::atomic::Ordering;

use phalanx_actors::model::At;
use phalanx_actors::request::{Answer, FailureKind};
use support::*;

/// Silences the panics that these tests are about.
fn quietly() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or_default();
        if !text.contains("does not want to") {
            eprintln!("{info}");
        }
    }));
}

/// An idle time that has passed as soon as the clock is moved.
fn forgetful() -> Options {
    let mut options = Options::default();
    options.residency.idle_ns = 1;
    options
}

async fn passivate_all(world: &World) {
    world.passivate_idle().await;
    assert_eq!(world.services.resident(), 0);
}

#[tokio::test]
async fn a_panic_anywhere_in_domain_code_quarantines_one_aggregate() {
    quietly();
    for name in [
        "PanicInDecide",
        "PanicInEvolve",
        "PanicInEvent",
        "PanicInRejection",
    ] {
        let world = World::new(forgetful()).await;
        accepted(world.ask("good", add(1)).await);
        accepted(world.ask("bad", add(1)).await);
        let stored = world.journal.log().len();
        let serving = world.shard.serving().unwrap();
        let mut broken = command(name, "{}");
        broken.representation = true;
        let answer = failed(world.ask("bad", broken).await);
        assert_eq!(answer, FailureKind::Quarantined, "{name}");
        for request in [add(1), take(1)] {
            let answer = failed(world.ask("bad", request).await);
            assert_eq!(answer, FailureKind::Quarantined, "{name}");
        }
        let read = failed(soon(world.send_read("bad")).await);
        assert_eq!(read, FailureKind::Quarantined, "{name}");
        assert_eq!(world.total("good").await, 1);
        assert_eq!(world.journal.log().len(), stored, "{name} stored something");
        let now = world.shard.serving().unwrap();
        assert!(std::sync::Arc::ptr_eq(&serving, &now), "{name}");
        // A later activation tries again.
        passivate_all(&world).await;
        assert_eq!(world.total("bad").await, 1);
        assert_eq!(world.model.in_flight(), 0);
    }
}

#[tokio::test]
async fn commands_before_a_panic_are_still_answered() {
    quietly();
    let world = World::new(Options::default()).await;
    world.replicator.hold();
    let before = world.send("a", add(1));
    let broken = world.send("a", command("PanicInEvolve", "{}"));
    let after = world.send("a", add(1));
    assert_eq!(failed(soon(broken).await), FailureKind::Quarantined);
    assert_eq!(failed(soon(after).await), FailureKind::Quarantined);
    assert!(!before.is_finished());
    world.replicator.let_go();
    assert_eq!(accepted(soon(before).await).sequence_number, 1);
}

/// What was stored stays stored: whoever retries it must not be told that nothing was applied.
#[tokio::test]
async fn a_retry_of_what_was_stored_gets_its_reply_in_quarantine() {
    quietly();
    let world = World::new(Options::default()).await;
    world.replicator.hold();
    let first = world.send("a", with_key("k", add(1)));
    let broken = world.send("a", command("PanicInDecide", "{}"));
    assert_eq!(failed(soon(broken).await), FailureKind::Quarantined);
    let again = world.send("a", with_key("k", add(1)));
    settle().await;
    assert!(!again.is_finished(), "nothing is committed yet");
    world.replicator.let_go();
    assert!(!accepted(soon(first).await).replayed);
    let again = accepted(soon(again).await);
    assert_eq!((again.replayed, again.sequence_number), (true, 1));
    // Once the journal shows the key as well.
    world.journal.index_all();
    assert!(accepted(world.ask("a", with_key("k", add(1))).await).replayed);
    let other = world.ask("a", with_key("k", add(2))).await;
    assert!(matches!(other, Answer::KeyReused), "{other:?}");
    let new = world.ask("a", with_key("new", add(1))).await;
    assert_eq!(failed(new), FailureKind::Quarantined);
}

#[tokio::test]
async fn a_retry_gets_its_reply_though_the_stream_cannot_be_loaded() {
    let world = World::new(forgetful()).await;
    accepted(world.ask("a", with_key("k", add(1))).await);
    for _ in 0..2 {
        accepted(world.ask("a", add(1)).await);
    }
    passivate_all(&world).await;
    world.journal.remove(1);
    let new = world.ask("a", add(1)).await;
    assert_eq!(failed(new), FailureKind::Quarantined);
    assert!(accepted(world.ask("a", with_key("k", add(1))).await).replayed);
}

#[tokio::test]
async fn a_state_that_cannot_be_written_is_not_read_and_not_snapshotted() {
    quietly();
    let mut options = forgetful();
    options.residency.snapshot_on_passivation_events = 1;
    let world = World::new(options).await;
    accepted(world.ask("a", command("MakeStateExplosive", "{}")).await);
    passivate_all(&world).await;
    assert!(world.journal.snapshot(&stream("a")).is_none());
    // Commands need no JSON of the state.
    accepted(world.ask("a", add(1)).await);
    let read = failed(soon(world.send_read("a")).await);
    assert_eq!(read, FailureKind::Quarantined);
    assert!(world.shard.serving().is_some());
}

#[tokio::test]
async fn a_gap_in_a_stream_is_reported_and_not_stepped_over() {
    let world = World::new(forgetful()).await;
    for _ in 0..3 {
        accepted(world.ask("a", add(1)).await);
    }
    accepted(world.ask("b", add(1)).await);
    passivate_all(&world).await;
    world.journal.remove(1);
    match world.ask("a", add(1)).await {
        Answer::Failed(failure) => {
            assert_eq!(failure.kind, FailureKind::Quarantined);
            assert!(failure.detail.contains("event 2 is missing"), "{failure}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.total("b").await, 1);
    let past = world.model.state_at(&stream("a"), At::Sequence(3)).await;
    assert_eq!(past.unwrap_err().kind, FailureKind::Quarantined);
}

#[tokio::test]
async fn activation_happens_once_however_many_ask() {
    let mut options = forgetful();
    options.residency.max_concurrent_activations = 2;
    let world = World::new(options).await;
    for id in 0..20 {
        accepted(world.ask(&id.to_string(), add(1)).await);
    }
    passivate_all(&world).await;
    // Nothing can be loaded as long as the index is behind what was answered.
    world.journal.hold_index.store(true, Ordering::Release);
    accepted(world.ask("new", add(1)).await);
    let before = world.journal.reads.load(Ordering::Relaxed);
    let tasks: Vec<_> = (0..200)
        .map(|n| world.send(&(n % 20).to_string(), add(1)))
        .collect();
    eventually(|| world.model.in_flight() == 200).await;
    settle().await;
    // Who waits for the index keeps nobody of another shard from loading.
    assert_eq!(world.services.activations.free(), 2);
    assert!(tasks.iter().all(|task| !task.is_finished()));
    assert_eq!(world.journal.reads.load(Ordering::Relaxed), before);
    world.journal.hold_index.store(false, Ordering::Release);
    world.journal.index_all();
    for task in tasks {
        accepted(soon(task).await);
    }
    assert_eq!(world.journal.reads.load(Ordering::Relaxed) - before, 20);
    assert_eq!(world.services.activations.free(), 2);
    assert!((1..=2).contains(&world.services.activations.most()));
    for id in 0..20 {
        assert_eq!(world.total(&id.to_string()).await, 11);
    }
}
