//! Snapshots are a cache: used when they fit, never saved ahead of a commit, never believed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::Ordering;

use phalanx_actors::codec::{self, ValueType};
use phalanx_actors::fold::Folded;
use phalanx_actors::model::At;
use phalanx_actors::ports::Proposed;
use support::*;

fn every(events: u64) -> Options {
    let mut options = Options::default();
    options.residency.snapshot_every_events = events;
    options
}

/// A snapshot that says `total`.
fn lie(sequence: u64, position: u64, total: i64, version: u16) -> Vec<u8> {
    let time_us = 0_i64;
    let content = (sequence, position, time_us, (total, false, 0_i64));
    codec::seal(ValueType::Snapshot, version, &content).unwrap()
}

#[tokio::test]
async fn a_snapshot_is_saved_after_its_commit_and_used() {
    let world = World::new(every(5)).await;
    world.replicator.hold();
    let task = world.send("a", command("AddMany", r#"{"amount":2,"times":5}"#));
    settle().await;
    assert!(world.journal.snapshot(&stream("a")).is_none());
    world.replicator.let_go();
    accepted(soon(task).await);
    let saved = world.journal.snapshot(&stream("a")).unwrap();
    let folded = Folded::<Tally>::from_snapshot(&saved).unwrap();
    assert_eq!((folded.sequence, folded.position), (5, 5));
    assert_eq!(folded.state.total, 10);
    accepted(world.ask("a", add(1)).await);
    // Where a snapshot fits, its state counts: this one differs on purpose.
    world
        .journal
        .put_snapshot(&stream("a"), lie(5, 5, 1_000, 1));
    world.lead(2).await;
    assert_eq!(world.total("a").await, 1_001);
    // The past begins with it as well, unless it is from a later moment.
    let total = async |at| {
        let past = world.model.state_at(&stream("a"), at).await.unwrap();
        let json: serde_json::Value = serde_json::from_str(past.unwrap().state.get()).unwrap();
        json["total"].as_i64().unwrap()
    };
    assert_eq!(total(At::Sequence(6)).await, 1_001);
    assert_eq!(total(At::Sequence(5)).await, 1_000);
    assert_eq!(total(At::Sequence(4)).await, 8);
}

/// Nor does the domain's code, when it panics over one, take the shard along.
#[tokio::test]
async fn a_snapshot_over_which_the_domain_panics_is_not_used() {
    let world = World::new(every(1_000)).await;
    for id in ["a", "b"] {
        accepted(world.ask(id, add(3)).await);
    }
    let snapshot = lie(1, 1, tally::UNREADABLE, 1);
    world.journal.put_snapshot(&stream("a"), snapshot);
    world.lead(2).await;
    let serving = world.shard.serving().unwrap();
    assert_eq!(world.total("a").await, 3);
    assert_eq!(world.total("b").await, 3);
    let now = world.shard.serving().unwrap();
    assert!(std::sync::Arc::ptr_eq(&serving, &now));
}

#[tokio::test]
async fn speculative_state_is_never_saved() {
    let world = World::new(every(1)).await;
    world.replicator.hold();
    let lost = world.send("a", add(1));
    settle().await;
    let _batch = world.replicator.fail_next(Proposed::Unknown);
    failed(soon(lost).await);
    eventually(|| world.shard.serving().is_none()).await;
    assert_eq!(world.journal.snapshots_saved.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn snapshots_that_do_not_fit_are_ignored() {
    let world = World::new(every(1_000)).await;
    accepted(world.ask("other", add(1)).await);
    for _ in 0..3 {
        accepted(
            world
                .ask("a", command("AddMany", r#"{"amount":1,"times":2}"#))
                .await,
        );
    }
    let good = lie(4, 5, 4, 1);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let wrong = [
        ("newer than the stream", lie(9, 10, 99, 1)),
        ("another position", lie(4, 6, 99, 1)),
        ("in the middle of a command", lie(3, 4, 99, 1)),
        ("before the first event", lie(0, 0, 99, 1)),
        ("another schema version", lie(4, 5, 99, 2)),
        ("damaged", flipped),
        ("empty", Vec::new()),
        (
            "another value",
            codec::seal(ValueType::Vote, 1, &7_u8).unwrap(),
        ),
    ];
    for (term, (what, snapshot)) in (2..).zip(wrong) {
        world.journal.put_snapshot(&stream("a"), snapshot);
        world.lead(term).await;
        assert_eq!(world.total("a").await, 6, "{what}");
    }
    world.journal.put_snapshot(&stream("a"), good);
    world.lead(50).await;
    assert_eq!(world.total("a").await, 6);
}

#[tokio::test]
async fn history_and_the_past_end_where_they_should() {
    let world = World::new(every(1_000)).await;
    for step in 1..=5 {
        world.clock.set_wall_us(step * 100);
        accepted(
            world
                .ask("a", command("AddMany", r#"{"amount":1,"times":3}"#))
                .await,
        );
    }
    let name = stream("a");
    let numbers = async |from, limit| {
        let page = world.model.history(&name, from, limit, usize::MAX).await;
        let events = page.unwrap().events;
        events.iter().map(|e| e.sequence_number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(0, 4).await, [1, 2, 3, 4]);
    assert_eq!(numbers(5, 3).await, [5, 6, 7]);
    assert_eq!(numbers(15, 100).await, [15]);
    assert!(numbers(16, 100).await.is_empty());
    assert!(numbers(u64::MAX, 100).await.is_empty());
    assert!(numbers(1, 0).await.is_empty());
    // Pages end at commands once they are large enough, and say where to go on.
    let mut pages = Vec::new();
    let mut next = Some(2);
    while let Some(from) = next {
        let page = world.model.history(&name, from, 100, 1).await.unwrap();
        pages.push(page.events.len());
        next = page.next_sequence;
    }
    assert_eq!(pages, [2, 3, 3, 3, 3]);
    let page = world.model.history(&name, 1, 15, usize::MAX).await.unwrap();
    assert_eq!((page.events.len(), page.next_sequence), (15, None));
    let page = world.model.history(&name, 1, 14, usize::MAX).await.unwrap();
    assert_eq!((page.events.len(), page.next_sequence), (14, Some(15)));
    let at = async |at| {
        let view = world.model.state_at(&name, at).await.unwrap();
        view.map(|view| (view.sequence_number, view.position.number))
    };
    assert_eq!(at(At::Sequence(0)).await, None);
    assert_eq!(at(At::Sequence(5)).await, Some((5, 5)));
    assert_eq!(at(At::Sequence(u64::MAX)).await, Some((15, 15)));
    let time = |us| At::Time(jiff::Timestamp::from_microsecond(us).unwrap());
    assert_eq!(at(time(99)).await, None);
    assert_eq!(at(time(300)).await, Some((9, 9)));
    assert_eq!(at(time(10_000)).await, Some((15, 15)));
}
