//! What leaves the sequencer, when, and what callers hear when a shard ends.

mod support;

use std::sync::atomic::Ordering;

use phalanx_actors::history::At;
use phalanx_actors::ports::Proposed;
use phalanx_actors::request::{Answer, FailureKind};
use support::*;

#[tokio::test]
async fn replies_wait_for_their_commit_and_leave_in_order() {
    let world = World::new(Options::default()).await;
    world.replicator.hold();
    let mut replies = Vec::new();
    for amount in 1..=6 {
        replies.push(world.send("a", add(amount)));
        settle().await;
    }
    assert!(replies.iter().all(|reply| !reply.is_finished()));
    // No more than two proposals are in flight; the others wait and travel together.
    assert_eq!(world.replicator.pending(), [1, 1]);
    let mut released = 0;
    while world.replicator.commit_next() {
        settle().await;
        let done = replies.iter().filter(|r| r.is_finished()).count();
        assert!(done > released);
        assert!(replies[..done].iter().all(|reply| reply.is_finished()));
        assert_eq!(done, world.journal.log().len());
        released = done;
    }
    for (sequence, reply) in (1..).zip(replies) {
        let accepted = accepted(soon(reply).await);
        assert_eq!(accepted.sequence_number, sequence);
        assert_eq!(accepted.position.number, sequence);
    }
}

#[tokio::test]
async fn a_second_proposal_leaves_once_it_is_as_full_as_the_one_on_its_way() {
    let world = World::new(Options::default()).await;
    world.replicator.hold();
    let mut replies = vec![world.send("a", add(1))];
    settle().await;
    replies.push(world.send("a", add(2)));
    settle().await;
    for amount in 3..=5 {
        replies.push(world.send("a", add(amount)));
    }
    settle().await;
    assert_eq!(world.replicator.pending(), [1, 1]);
    // The three that waited leave together, and then nothing until three more wait.
    assert!(world.replicator.commit_next());
    settle().await;
    assert_eq!(world.replicator.pending(), [1, 3]);
    assert!(world.replicator.commit_next());
    for amount in 6..=7 {
        replies.push(world.send("a", add(amount)));
        settle().await;
        assert_eq!(world.replicator.pending(), [3]);
    }
    replies.push(world.send("a", add(8)));
    settle().await;
    assert_eq!(world.replicator.pending(), [3, 3]);
    // What is too little to follow leaves when nothing is on its way any more.
    replies.push(world.send("a", add(9)));
    while world.replicator.commit_next() {
        settle().await;
    }
    for (sequence, reply) in (1..).zip(replies) {
        assert_eq!(accepted(soon(reply).await).sequence_number, sequence);
    }
}

#[tokio::test]
async fn answers_that_depend_on_uncommitted_events_wait_and_others_do_not() {
    let world = World::new(Options::default()).await;
    accepted(world.ask("calm", add(5)).await);
    world.replicator.hold();
    let first = world.send("hot", add(1));
    let rejected = world.send("hot", take(2));
    let nothing = world.send("hot", command("Nothing", "{}"));
    let dry = world.send("hot", support::dry_run(add(1)));
    let read = world.send_read("hot");
    settle().await;
    for waiting in [&first, &rejected, &nothing, &dry, &read] {
        assert!(!waiting.is_finished());
    }
    assert_eq!(world.total("calm").await, 5);
    let answer = world.ask("calm", take(9)).await;
    assert!(matches!(answer, Answer::Rejected { code, .. } if code == "not-enough"));
    world.replicator.let_go();
    assert!(matches!(soon(rejected).await, Answer::Rejected { .. }));
    assert_eq!(accepted(soon(nothing).await).sequence_number, 1);
    assert!(matches!(soon(read).await, Answer::State(view) if view.sequence_number == 1));
    accepted(soon(first).await);
    accepted(soon(dry).await);
}

#[tokio::test]
async fn a_dry_run_waits_for_the_commands_before_it_and_stores_nothing() {
    let world = World::new(Options::default()).await;
    world.replicator.hold();
    let first = world.send("a", add(5));
    // Without the first there would be nothing to take, and without its commit nothing to tell.
    let dry = world.send("a", support::dry_run(take(5)));
    let refused = world.send("a", support::dry_run(take(6)));
    settle().await;
    assert!(!dry.is_finished() && !refused.is_finished());
    assert!(world.replicator.commit_next());
    let told = accepted(soon(dry).await);
    assert_eq!((told.sequence_number, told.position.number), (2, 1));
    assert!(matches!(soon(refused).await, Answer::Rejected { .. }));
    assert_eq!(accepted(soon(first).await).sequence_number, 1);
    assert_eq!(world.journal.log().len(), 1);

    // When that commit fails, the answer goes with it; and nothing of a dry run is ever in doubt.
    let second = world.send("a", add(10));
    let dry = world.send("a", support::dry_run(take(12)));
    settle().await;
    assert!(!dry.is_finished());
    let _batch = world.replicator.fail_next(Proposed::Unknown);
    assert_eq!(failed(soon(second).await), FailureKind::OutcomeUnknown);
    assert_eq!(failed(soon(dry).await), FailureKind::NoLeader);
    assert_eq!(world.journal.log().len(), 1);
}

#[tokio::test]
async fn a_clock_that_steps_back_never_puts_events_out_of_order() {
    let world = World::new(Options::default()).await;
    let time = |us: i64| jiff::Timestamp::from_microsecond(us).unwrap();
    for (term, us) in [
        (1, 5_000_000),
        (1, 2_000_000),
        (2, 1_000_000),
        (2, 7_000_000),
    ] {
        if term == 2 && world.shard.serving().is_some_and(|i| i.term() == 1) {
            // Another leader, whose clock is behind.
            world.step_down().await;
            world.lead(2).await;
        }
        world.clock.set_wall_us(us);
        accepted(world.ask("a", add(1)).await);
    }
    let history = world
        .model
        .history(&stream("a"), 1, 10, 1 << 20)
        .await
        .unwrap();
    let times: Vec<i64> = history
        .events
        .iter()
        .map(|e| e.time.as_microsecond())
        .collect();
    assert_eq!(times, [5_000_000, 5_000_000, 5_000_000, 7_000_000]);
    for (us, sequence) in [
        (4_999_999, None),
        (5_000_000, Some(3)),
        (6_999_999, Some(3)),
        (7_000_000, Some(4)),
    ] {
        let at = At::Time(time(us));
        let found = world.model.state_at(&stream("a"), at).await.unwrap();
        assert_eq!(found.map(|view| view.sequence_number), sequence, "{us}");
    }
}

#[tokio::test]
async fn what_was_at_a_time_is_told_for_good() {
    let world = World::new(Options::default()).await;
    world.clock.set_wall_us(1_000_000);
    accepted(world.ask("a", add(1)).await);
    world.replicator.hold();
    world.clock.set_wall_us(2_000_000);
    let second = world.send("a", add(10));
    settle().await;
    // By now both are decided, and the second one is on its way to the disk.
    world.clock.set_wall_us(4_000_000);
    let state_at = |us: i64| {
        let at = At::Time(jiff::Timestamp::from_microsecond(us).unwrap());
        let (model, stream) = (world.model.clone(), stream("a"));
        tokio::spawn(async move { model.state_at(&stream, at).await })
    };
    let asked = state_at(3_000_000);
    settle().await;
    assert!(!asked.is_finished());
    // Numbers are not moved by what comes later: nothing to wait for.
    let first = world.model.state_at(&stream("a"), At::Sequence(1)).await;
    assert_eq!(first.unwrap().unwrap().sequence_number, 1);
    world.replicator.let_go();
    accepted(soon(second).await);
    for told in [soon(asked).await, soon(state_at(3_000_000)).await] {
        assert_eq!(told.unwrap().unwrap().sequence_number, 2);
    }
    let before = soon(state_at(1_999_999)).await;
    assert_eq!(before.unwrap().unwrap().sequence_number, 1);

    // If it comes to nothing, so does the answer.
    world.replicator.hold();
    let third = world.send("a", add(100));
    settle().await;
    let asked = state_at(9_000_000);
    settle().await;
    let _batch = world.replicator.fail_next(Proposed::Unknown);
    assert_eq!(failed(soon(third).await), FailureKind::OutcomeUnknown);
    assert_eq!(soon(asked).await.unwrap_err().kind, FailureKind::NoLeader);
}

#[tokio::test]
async fn a_leader_that_was_deposed_unnoticed_does_not_tell_what_was_at_a_time() {
    let world = World::new(Options::default()).await;
    accepted(world.ask("a", add(1)).await);
    world.replicator.close_gate(true);
    // Another leader may have stored something by then.
    let now = At::Time(jiff::Timestamp::MAX);
    let told = world.model.state_at(&stream("a"), now).await;
    assert_eq!(told.unwrap_err().kind, FailureKind::NoLeader);
}

#[tokio::test]
async fn a_failed_proposal_leaves_proposed_commands_unknown_and_queued_ones_undone() {
    for outcome in [Proposed::Unknown, Proposed::NotProposed] {
        let world = World::new(Options::default()).await;
        world.replicator.hold();
        let mut replies = Vec::new();
        for _ in 0..3 {
            replies.push(world.send("a", add(1)));
            settle().await;
        }
        let read = world.send_read("a");
        settle().await;
        let _batch = world.replicator.fail_next(outcome);
        let kinds = [
            failed(soon(replies.remove(0)).await),
            failed(soon(replies.remove(0)).await),
            failed(soon(replies.remove(0)).await),
        ];
        let first = match outcome {
            Proposed::NotProposed => FailureKind::NoLeader,
            _ => FailureKind::OutcomeUnknown,
        };
        // The second was proposed as well, and nobody said anything of it.
        let expected = [first, FailureKind::OutcomeUnknown, FailureKind::NoLeader];
        assert_eq!(kinds, expected);
        assert_eq!(failed(soon(read).await), FailureKind::NoLeader);
        eventually(|| world.shard.serving().is_none()).await;
        assert_eq!(
            failed(world.ask("a", add(1)).await),
            FailureKind::NoLeader,
            "closed"
        );
        tokio::time::timeout(std::time::Duration::from_secs(60), world.shard.abandoned())
            .await
            .unwrap();
        eventually(|| world.model.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn whoever_joined_an_uncertain_command_is_not_told_that_it_did_not_happen() {
    let world = World::new(Options::default()).await;
    world.replicator.hold();
    let first = world.send("a", with_key("k", add(1)));
    settle().await;
    let joined = world.send("a", with_key("k", add(1)));
    settle().await;
    let batch = world.replicator.fail_next(Proposed::Unknown);
    assert_eq!(failed(soon(first).await), FailureKind::OutcomeUnknown);
    assert_eq!(failed(soon(joined).await), FailureKind::OutcomeUnknown);
    // It did happen: the next incarnation knows the key.
    world.journal.commit(&batch.records);
    eventually(|| world.shard.serving().is_none()).await;
    world.replicator.let_go();
    world.lead(2).await;
    let replay = accepted(world.ask("a", with_key("k", add(1))).await);
    assert!(replay.replayed);
    assert_eq!(world.total("a").await, 1);
}

#[tokio::test]
async fn a_commit_that_jumps_the_line_closes_the_shard() {
    let world = World::new(Options::default()).await;
    world.replicator.hold();
    let first = world.send("a", add(1));
    settle().await;
    let second = world.send("a", add(1));
    settle().await;
    world.replicator.commit_last();
    assert_eq!(failed(soon(first).await), FailureKind::OutcomeUnknown);
    assert_eq!(failed(soon(second).await), FailureKind::OutcomeUnknown);
}

#[tokio::test]
async fn reads_need_the_gate_and_share_one_check() {
    let world = World::new(Options::default()).await;
    accepted(world.ask("a", add(1)).await);
    world.replicator.close_gate(true);
    assert_eq!(
        failed(soon(world.send_read("a")).await),
        FailureKind::NoLeader
    );
    world.replicator.close_gate(false);
    world.replicator.hold();
    let write = world.send("a", add(1));
    let reads: Vec<_> = (0..50).map(|_| world.send_read("a")).collect();
    settle().await;
    let before = world.replicator.gate_checks.load(Ordering::Relaxed);
    world.replicator.let_go();
    for read in reads {
        assert!(matches!(soon(read).await, Answer::State(view) if view.sequence_number == 2));
    }
    accepted(soon(write).await);
    let checks = world.replicator.gate_checks.load(Ordering::Relaxed) - before;
    assert_eq!(checks, 1);
}

#[tokio::test]
async fn a_leader_that_was_deposed_unnoticed_gives_no_answer_from_state() {
    let world = World::new(Options::default()).await;
    accepted(world.ask("a", with_key("k", add(1))).await);
    world.replicator.close_gate(true);
    for derived in [
        take(2),
        command("Nothing", "{}"),
        support::dry_run(add(1)),
        with_key("k", add(2)),
    ] {
        let kind = failed(soon(world.send("a", derived)).await);
        assert_eq!(kind, FailureKind::NoLeader);
    }
    // A stored reply is the same whoever leads now.
    assert!(accepted(world.ask("a", with_key("k", add(1))).await).replayed);
    // Nor does its full disk say anything: whoever leads now may have stored the command.
    world.journal.full.store(true, Ordering::Release);
    let kind = failed(soon(world.send("a", with_key("l", add(1)))).await);
    assert_eq!(kind, FailureKind::NoLeader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_one_aggregate_get_each_number_once() {
    let world = World::new(Options::default()).await;
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let model = world.model.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                for _ in 0..20 {
                    let answer = model.command(stream("hot"), add(1)).await;
                    seen.push(accepted(answer).sequence_number);
                }
                seen
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(soon(task).await);
    }
    all.sort_unstable();
    assert_eq!(all, (1..=64 * 20).collect::<Vec<u64>>());
    assert_eq!(world.total("hot").await, 64 * 20);
}

#[tokio::test]
async fn a_term_is_served_once() {
    let world = World::new(Options::default()).await;
    world.replicator.hold();
    let lost = world.send("a", add(1));
    settle().await;
    let _batch = world.replicator.fail_next(Proposed::Unknown);
    assert_eq!(failed(soon(lost).await), FailureKind::OutcomeUnknown);
    eventually(|| world.shard.serving().is_none()).await;
    // What term 1 proposed may still be on its way into the log.
    world.shard.lead(1, world.journal.last_position());
    settle().await;
    assert!(world.shard.serving().is_none());
    world.lead(2).await;
    world.shard.lead(1, 0);
    settle().await;
    assert_eq!(world.shard.serving().unwrap().term(), 2);
}

#[tokio::test]
async fn an_abandoned_term_is_served_again_once_all_of_it_is_settled() {
    let world = World::new(Options::default()).await;
    world.replicator.hold();
    let lost = world.send("a", with_key("k", add(1)));
    settle().await;
    let batch = world.replicator.fail_next(Proposed::Unknown);
    assert_eq!(failed(soon(lost).await), FailureKind::OutcomeUnknown);
    tokio::time::timeout(std::time::Duration::from_secs(60), world.shard.abandoned())
        .await
        .unwrap();
    world.journal.commit(&batch.records);
    world.replicator.let_go();
    world.shard.lead_again(1, world.journal.last_position());
    eventually(|| world.shard.serving().is_some()).await;
    assert!(accepted(world.ask("a", with_key("k", add(1))).await).replayed);
    // While one serves, there is nothing to be taken up again.
    let serving = world.shard.serving().unwrap();
    world.shard.lead_again(1, 0);
    settle().await;
    assert!(std::sync::Arc::ptr_eq(
        &serving,
        &world.shard.serving().unwrap()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_behind_by_incarnations_that_end_under_load() {
    let world = World::new(Options::default()).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..8_u64)
        .map(|client| {
            let (model, stop) = (world.model.clone(), std::sync::Arc::clone(&stop));
            tokio::spawn(async move {
                let mut number = 0_u64;
                while !stop.load(Ordering::Acquire) {
                    number += 1;
                    let id = format!("{}", (client * 7919 + number) % 97);
                    let _any = model.command(stream(&id), add(1)).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for term in 2..200 {
        world.replicator.set_term(term);
        world.shard.lead(term, world.journal.last_position());
        tokio::task::yield_now().await;
        if term % 3 == 0 {
            world.shard.step_down();
        }
        tokio::time::sleep(std::time::Duration::from_micros(300)).await;
    }
    stop.store(true, Ordering::Release);
    for client in clients {
        soon(client).await;
    }
    world.step_down().await;
    eventually(|| world.services.resident() == 0 && world.model.in_flight() == 0).await;
}
