//! Bounds: who is let go, what is never dropped, and permits that come back.

mod support;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use phalanx_actors::passivation;
use phalanx_actors::ports::Proposed;
use phalanx_actors::request::{Answer, FailureKind};
use support::*;

fn bounded(max_resident: usize) -> Options {
    let mut options = Options::default();
    options.residency.max_resident = max_resident;
    options
}

/// Whether a command to the aggregate needs no journal.
async fn in_memory(world: &World, id: &str) -> bool {
    let before = world.journal.reads.load(Ordering::Relaxed);
    world.total(id).await;
    world.journal.reads.load(Ordering::Relaxed) == before
}

#[tokio::test]
async fn idle_aggregates_go_and_used_ones_stay() {
    let mut options = bounded(100);
    options.residency.idle_ns = 1_000;
    let world = World::new(options).await;
    for id in ["old", "new", "busy"] {
        accepted(world.ask(id, add(1)).await);
    }
    world.replicator.hold();
    let waiting = world.send("busy", add(1));
    settle().await;
    world.clock.set_monotonic_ns(1_500);
    let used = world.ask("new", take(9)).await;
    assert!(matches!(used, Answer::Rejected { .. }));
    let task = world.start_passivation();
    eventually(|| world.services.resident() == 2).await;
    task.abort();
    assert!(in_memory(&world, "new").await);
    assert!(!in_memory(&world, "old").await);
    world.replicator.let_go();
    assert_eq!(accepted(soon(waiting).await).sequence_number, 2);
}

#[tokio::test]
async fn idle_aggregates_of_every_shard_go_though_a_look_takes_only_some_shards() {
    const IDLE_NS: u64 = 24_000_000_000;
    let mut shards = Vec::new();
    for _ in 0..3 {
        let mut options = bounded(100);
        options.residency.idle_ns = IDLE_NS;
        let world = World::new(options).await;
        accepted(world.ask("old", add(1)).await);
        shards.push(world);
    }
    let [first, ..] = &shards[..] else {
        panic!("there are three");
    };
    first.clock.set_monotonic_ns(2 * IDLE_NS);
    let handles = shards.iter().map(|world| world.shard.clone()).collect();
    let task = tokio::spawn(passivation::run(Arc::clone(&first.services), handles));
    // One shard a second: three within an eighth of the idle time.
    eventually(|| shards.iter().all(|world| world.services.resident() == 0)).await;
    task.abort();
}

#[tokio::test]
async fn the_least_recently_used_make_room_and_work_in_flight_stays() {
    const MAX: usize = 64;
    let world = World::new(bounded(MAX)).await;
    for id in 0..MAX as u64 {
        world.clock.set_monotonic_ns(id + 1);
        accepted(world.ask(&id.to_string(), add(1)).await);
    }
    world.replicator.hold();
    // The oldest ones are in use for long.
    let mut busy = Vec::new();
    for id in 0..10 {
        world.clock.set_monotonic_ns(id + 1);
        busy.push(world.send(&id.to_string(), add(1)));
        settle().await;
    }
    world.clock.set_monotonic_ns(1_000);
    let task = world.start_passivation();
    let more = world.send("one-more", add(1));
    // Over by one; a share of the bound goes with it.
    let left = MAX + 1 - (1 + MAX / 32);
    eventually(|| world.services.resident() == left).await;
    task.abort();
    world.replicator.let_go();
    accepted(soon(more).await);
    for task in busy {
        accepted(soon(task).await);
    }
    for id in 10..13 {
        assert!(!in_memory(&world, &id.to_string()).await, "{id}");
    }
    for id in (0..10).chain(13..MAX) {
        assert!(in_memory(&world, &id.to_string()).await, "{id}");
    }
}

#[tokio::test]
async fn nothing_is_lost_when_memory_is_far_too_small() {
    let world = World::new(bounded(8)).await;
    let task = world.start_passivation();
    for round in 1..=5 {
        let tasks: Vec<_> = (0..100)
            .map(|id| world.send(&id.to_string(), add(1)))
            .collect();
        for task in tasks {
            assert_eq!(accepted(soon(task).await).sequence_number, round);
        }
    }
    eventually(|| world.services.resident() <= 8).await;
    for id in 0..100 {
        assert_eq!(world.total(&id.to_string()).await, 5);
    }
    task.abort();
    assert_eq!(world.model.in_flight(), 0);
}

#[tokio::test]
async fn no_room_is_answered_and_gives_the_permit_back() {
    let world = World::new(bounded(1)).await;
    let task = world.start_passivation();
    world.replicator.hold();
    let first = world.send("0", add(1));
    settle().await;
    let second = world.send("1", add(1));
    settle().await;
    let third = world.ask("2", add(1)).await;
    assert_eq!(failed(third), FailureKind::Overloaded);
    assert_eq!(world.model.in_flight(), 2);
    world.replicator.let_go();
    accepted(soon(first).await);
    accepted(soon(second).await);
    accepted(world.ask("2", add(1)).await);
    task.abort();
}

#[tokio::test]
async fn whoever_waited_for_room_comes_before_whoever_asks_later() {
    let world = World::new(bounded(1)).await;
    accepted(world.ask("idle", add(1)).await);
    world.replicator.hold();
    let busy = world.send("busy", add(1));
    settle().await;
    let mut tasks: Vec<_> = (0..3).map(|_| world.send("x", add(1))).collect();
    settle().await;
    assert_eq!(world.services.resident(), 2);
    let loads = world.journal.reads.load(Ordering::Relaxed);
    // Now there is room for one, who brings `x` into memory.
    let passivation = world.start_passivation();
    eventually(|| world.journal.reads.load(Ordering::Relaxed) > loads).await;
    tasks.push(world.send("x", add(1)));
    settle().await;
    world.replicator.let_go();
    accepted(soon(busy).await);
    for (task, sequence) in tasks.into_iter().zip(1..) {
        assert_eq!(accepted(soon(task).await).sequence_number, sequence);
    }
    passivation.abort();
}

#[tokio::test]
async fn whoever_waits_for_room_is_not_passed_by_when_there_is_some() {
    let world = World::new(bounded(1)).await;
    accepted(world.ask("idle", add(1)).await);
    world.replicator.hold();
    let busy = world.send("busy", add(1));
    settle().await;
    // Nobody but this test moves the first one on.
    let mut first = Box::pin(world.model.command(stream("x"), add(1)));
    let waits = poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending()));
    assert!(waits.await);
    world.replicator.let_go();
    accepted(soon(busy).await);
    let passivation = world.start_passivation();
    eventually(|| world.services.resident() < 2).await;
    passivation.abort();
    let second = world.send("x", add(1));
    settle().await;
    assert!(!second.is_finished());
    assert_eq!(accepted(first.await).sequence_number, 1);
    assert_eq!(accepted(soon(second).await).sequence_number, 2);
}

#[tokio::test]
async fn permits_come_back_on_every_path() {
    let mut options = Options::default();
    options.admission.aggregate_requests = 3;
    options.admission.shard_requests = 5;
    let world = World::new(options).await;
    for round in 0..20 {
        accepted(world.ask("a", add(1)).await);
        assert_eq!(
            failed(world.ask("a", command("Fly", "{}")).await),
            FailureKind::UnknownCommand
        );
        assert_eq!(
            failed(world.ask("a", command("Add", "[]")).await),
            FailureKind::MalformedBody
        );
        world.ask("a", take(1_000)).await;
        world.total("a").await;
        world.replicator.hold();
        let waiting: Vec<_> = (0..3).map(|_| world.send("a", add(1))).collect();
        settle().await;
        assert_eq!(
            failed(world.ask("a", add(1)).await),
            FailureKind::Overloaded
        );
        let others: Vec<_> = (0..2).map(|_| world.send("b", add(1))).collect();
        settle().await;
        assert_eq!(
            failed(world.ask("c", add(1)).await),
            FailureKind::Overloaded
        );
        match round % 3 {
            0 => world.replicator.let_go(),
            1 => {
                // Whoever asked goes away; the work goes on.
                for task in waiting.iter().chain(&others) {
                    task.abort();
                }
                settle().await;
                assert_eq!(world.model.in_flight(), 5);
                world.replicator.let_go();
            }
            _ => {
                let _batch = world.replicator.fail_next(Proposed::Unknown);
                let _lost = world.replicator.abandon();
                eventually(|| world.shard.serving().is_none()).await;
                world.replicator.let_go();
                let term = world.replicator.term() + 1;
                world.lead(term).await;
            }
        }
        eventually(|| world.model.in_flight() == 0).await;
    }
    world.model.stop_admitting();
    assert_eq!(
        failed(world.ask("a", add(1)).await),
        FailureKind::ShuttingDown
    );
}
