//! One key, one batch of events: in flight, committed, after passivation, after a restart.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use phalanx_actors::request::{Accepted, Answer, CommandRequest, FailureKind, Precondition};
use support::*;

/// Everything that a transport renders.
fn bytes(accepted: &Accepted) -> String {
    let events: Vec<_> = accepted
        .events
        .iter()
        .map(|e| {
            (
                e.event_type.clone(),
                e.sequence_number,
                e.data.as_ref().map(|d| d.get()),
            )
        })
        .collect();
    let Accepted {
        stream,
        sequence_number,
        position,
        created,
        ..
    } = accepted;
    format!("{stream} {sequence_number} {position} {created} {events:?}")
}

fn verbose(key: &str, amount: i64) -> CommandRequest {
    CommandRequest {
        representation: true,
        ..with_key(key, add(amount))
    }
}

#[tokio::test]
async fn a_retry_in_flight_joins_and_another_body_is_refused() {
    let world = World::new(Options::default()).await;
    world.replicator.hold();
    let first = world.send("a", with_key("k", add(1)));
    let joined = world.send("a", with_key("k", add(1)));
    let other = world.send("a", with_key("k", add(2)));
    let named = world.send("a", with_key("k", take(1)));
    let elsewhere = world.send("b", with_key("k", add(2)));
    settle().await;
    for waiting in [&first, &joined, &other, &named, &elsewhere] {
        assert!(!waiting.is_finished());
    }
    world.replicator.let_go();
    let (first, joined) = (accepted(soon(first).await), accepted(soon(joined).await));
    assert!(!first.replayed && joined.replayed);
    assert_eq!(bytes(&first), bytes(&joined));
    assert!(matches!(soon(other).await, Answer::KeyReused));
    assert!(matches!(soon(named).await, Answer::KeyReused));
    assert!(!accepted(soon(elsewhere).await).replayed);
    assert_eq!(world.journal.log().len(), 2);
}

#[tokio::test]
async fn the_stored_reply_is_the_same_from_memory_from_the_index_and_after_a_restart() {
    let world = World::new(Options::default()).await;
    world.journal.hold_index.store(true, Ordering::Release);
    let first = accepted(world.ask("a", verbose("k", 3)).await);
    assert!(first.created && !first.replayed);
    accepted(world.ask("a", add(4)).await);
    let from_memory = accepted(world.ask("a", verbose("k", 3)).await);
    // The retry need not repeat what it prefers.
    let plain = accepted(world.ask("a", with_key("k", add(3))).await);
    world.journal.index_all();
    let from_index = accepted(world.ask("a", verbose("k", 3)).await);
    world.lead(2).await;
    let next_term = accepted(world.ask("a", verbose("k", 3)).await);
    let again = World::on(Arc::clone(&world.journal), Options::default()).await;
    let restarted = accepted(again.ask("a", verbose("k", 3)).await);
    for replay in [from_memory, plain, from_index, next_term, restarted] {
        assert!(replay.replayed);
        assert_eq!(bytes(&replay), bytes(&first));
    }
    let reused = again.ask("a", verbose("k", 4)).await;
    assert!(matches!(reused, Answer::KeyReused));
    assert_eq!(again.total("a").await, 7);
}

#[tokio::test]
async fn many_retries_at_once_store_one_batch() {
    let world = World::new(Options::default()).await;
    let tasks: Vec<_> = (0..100)
        .map(|n| world.send("a", with_key("k", add(n % 2))))
        .collect();
    let mut fresh = 0;
    for task in tasks {
        match soon(task).await {
            Answer::Accepted(accepted) => fresh += u32::from(!accepted.replayed),
            Answer::KeyReused => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((fresh, world.journal.log().len()), (1, 1));
}

#[tokio::test]
async fn only_replies_with_events_are_kept() {
    let world = World::new(Options::default()).await;
    let refused = world.ask("a", with_key("k", take(1))).await;
    assert!(matches!(refused, Answer::Rejected { .. }));
    accepted(world.ask("a", add(1)).await);
    assert!(!accepted(world.ask("a", with_key("k", take(1))).await).replayed);
    let nothing = with_key("n", command("Nothing", "{}"));
    assert!(!accepted(world.ask("a", nothing).await).replayed);
    let nothing = with_key("n", command("Nothing", "{}"));
    assert!(!accepted(world.ask("a", nothing).await).replayed);
    // A replay needs no precondition: it was checked when the command ran.
    let mut once = with_key("c", add(1));
    once.precondition = Precondition::AtSequence(2);
    accepted(world.ask("a", once).await);
    let mut once = with_key("c", add(1));
    once.precondition = Precondition::AtSequence(2);
    assert!(accepted(world.ask("a", once).await).replayed);
}

#[tokio::test]
async fn a_key_is_forgotten_when_its_time_is_up() {
    let world = World::new(Options::default()).await;
    accepted(world.ask("a", with_key("k", add(1))).await);
    world.clock.set_wall_us(999_999);
    assert!(accepted(world.ask("a", with_key("k", add(1))).await).replayed);
    world.clock.set_wall_us(1_000_000);
    let answer = accepted(world.ask("a", with_key("k", add(5))).await);
    assert!(!answer.replayed);
    assert!(accepted(world.ask("a", with_key("k", add(5))).await).replayed);
    assert_eq!(world.total("a").await, 6);
}

#[tokio::test]
async fn a_dry_run_stores_nothing_and_leaves_its_key_alone() {
    let world = World::new(Options::default()).await;
    let mut dry = dry_run(with_key("k", add(7)));
    dry.representation = true;
    let answer = accepted(world.ask("a", dry).await);
    assert_eq!((answer.sequence_number, answer.created), (1, false));
    assert_eq!(answer.events.len(), 1);
    assert!(world.journal.log().is_empty());
    assert!(matches!(soon(world.send_read("a")).await, Answer::NotFound));
    assert!(!accepted(world.ask("a", with_key("k", add(1))).await).replayed);
    let refused = world.ask("a", dry_run(take(2))).await;
    assert!(matches!(refused, Answer::Rejected { .. }));
    let dry = accepted(world.ask("a", dry_run(with_key("k", add(9)))).await);
    assert!(!dry.replayed);
    assert_eq!((world.total("a").await, world.journal.log().len()), (1, 1));
}

#[tokio::test]
async fn preconditions_hold_against_what_came_before() {
    let world = World::new(Options::default()).await;
    let with = |precondition| CommandRequest {
        precondition,
        ..add(1)
    };
    let mismatch = |answer| match answer {
        Answer::SequenceMismatch {
            current_sequence_number,
        } => current_sequence_number,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        mismatch(world.ask("a", with(Precondition::Exists)).await),
        0
    );
    assert_eq!(
        mismatch(world.ask("a", with(Precondition::AtSequence(1))).await),
        0
    );
    world.replicator.hold();
    let first = world.send("a", with(Precondition::Absent));
    let second = world.send("a", with(Precondition::Absent));
    let third = world.send("a", with(Precondition::AtSequence(1)));
    settle().await;
    assert!(
        !second.is_finished(),
        "it would tell of an uncommitted event"
    );
    world.replicator.let_go();
    accepted(soon(first).await);
    assert_eq!(mismatch(soon(second).await), 1);
    assert_eq!(accepted(soon(third).await).sequence_number, 2);
    accepted(world.ask("a", with(Precondition::Exists)).await);
    assert_eq!(mismatch(world.ask("a", with(Precondition::Never)).await), 3);
}

#[tokio::test]
async fn a_full_disk_refuses_what_would_be_stored_and_nothing_else() {
    refuses_what_would_be_stored_and_nothing_else(
        |journal| &journal.full,
        FailureKind::StorageFull,
    )
    .await;
}

#[tokio::test]
async fn a_disk_that_is_behind_refuses_what_would_be_stored_and_nothing_else() {
    refuses_what_would_be_stored_and_nothing_else(
        |journal| &journal.behind,
        FailureKind::Overloaded,
    )
    .await;
}

async fn refuses_what_would_be_stored_and_nothing_else(
    state: impl Fn(&MemoryJournal) -> &AtomicBool,
    kind: FailureKind,
) {
    let world = World::new(Options::default()).await;
    accepted(world.ask("a", with_key("k", add(1))).await);
    state(&world.journal).store(true, Ordering::Release);
    let answer = failed(world.ask("a", with_key("l", add(1))).await);
    assert_eq!(answer, kind);
    assert!(matches!(
        world.ask("a", take(9)).await,
        Answer::Rejected { .. }
    ));
    assert!(accepted(world.ask("a", with_key("k", add(1))).await).replayed);
    accepted(world.ask("a", dry_run(add(1))).await);
    accepted(world.ask("a", command("Nothing", "{}")).await);
    assert_eq!(world.total("a").await, 1);
    state(&world.journal).store(false, Ordering::Release);
    let answer = accepted(world.ask("a", with_key("l", add(1))).await);
    assert_eq!((answer.sequence_number, answer.replayed), (2, false));
    assert_eq!(world.model.in_flight(), 0);
}

#[tokio::test]
async fn time_never_runs_backwards_within_an_aggregate() {
    let world = World::new(Options::default()).await;
    world.clock.set_wall_us(5_000);
    accepted(world.ask("a", add(1)).await);
    world.clock.set_wall_us(1_000);
    accepted(world.ask("a", add(1)).await);
    world.lead(2).await;
    accepted(world.ask("a", add(1)).await);
    let times: Vec<i64> = world.journal.log().iter().map(|r| r.time_us).collect();
    assert_eq!(times, [5_000; 3]);
}
