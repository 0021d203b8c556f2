//! Finding the leader, and leaving one for the next.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_left_for_the_next_one() {
    let cell = Cell::new().await;
    cell.expect(2, &[Fate::Hangs]);
    let router = cell.router(2);
    let sent = tokio::spawn(async move {
        let request = support::add(7);
        router.command(&tally(), &request, WITHIN).await
    });
    support::eventually(|| cell.net(2).calls.lock().len() == 1).await;
    // An election alone is no reason to give the old leader up.
    cell.announce(None, 2);
    tokio::task::yield_now().await;
    assert!(!sent.is_finished());
    cell.elect(3, 2).await;
    let reply = accepted(sent.await.unwrap());
    assert_eq!((reply.sequence_number, reply.replayed), (1, false));
    assert_eq!(cell.total().await, 7);
    assert_eq!(cell.net(2).calls.lock()[..2], [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_key_made_up_here_survives_the_leader_that_stored_it() {
    let cell = Cell::new().await;
    // Stored by the first leader, which never gets to answer.
    cell.expect(2, &[Fate::AnswerLost, Fate::Hangs]);
    let router = cell.router(2);
    let sent = tokio::spawn(async move {
        let request = support::add(7);
        router.command(&tally(), &request, WITHIN).await
    });
    support::eventually(|| cell.net(2).calls.lock().len() == 2).await;
    assert_eq!(cell.journal.last_position(), 1);
    cell.elect(3, 2).await;
    let reply = accepted(sent.await.unwrap());
    assert_eq!((reply.sequence_number, reply.replayed), (1, false));
    assert_eq!(cell.total().await, 7);
}

#[tokio::test(start_paused = true)]
async fn the_leaders_own_client_is_answered_by_the_next_leader() {
    let cell = Cell::new().await;
    let first = Cell::at(&cell.worlds, 1);
    first.replicator.hold();
    let router = cell.router(1);
    let sent = tokio::spawn(async move {
        let request = support::add(9);
        router.command(&tally(), &request, WITHIN).await
    });
    support::eventually(|| first.replicator.pending() == [1]).await;
    // The proposal reached the others before its leader was deposed.
    let batch = first.replicator.fail_next(Proposed::Unknown);
    cell.journal.commit(&batch.records);
    cell.elect(2, 2).await;
    let reply = accepted(sent.await.unwrap());
    assert_eq!((reply.sequence_number, reply.replayed), (1, false));
    assert_eq!(cell.total().await, 9);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_reach_the_leader_goes_through_another_one() {
    let cell = Cell::new().await;
    cell.net(2).cut.lock().push(1);
    assert_eq!(
        accepted(cell.send(2, support::add(4)).await).sequence_number,
        1
    );
    assert_eq!(*cell.net(2).calls.lock(), [3]);
    assert_eq!(*cell.net(3).calls.lock(), [1]);
    assert_eq!(cell.total().await, 4);
    // Whoever hands on cannot reach the leader either: it says so and does not ask further.
    cell.net(3).cut.lock().push(1);
    cell.expect(3, &[Fate::Stays, Fate::Stays]);
    let heading = Heading {
        stream: tally(),
        term: 1,
        hops: 0,
        time_left: WITHIN,
    };
    let question = wire::question(&heading, Question::Read).unwrap();
    let before = cell.net(3).calls.lock().len();
    let answer = cell.router(3).receive(2, question).await.unwrap();
    let (_, said) = wire::read_said(&tally(), &answer).unwrap();
    assert!(matches!(said, Said::NotHere { .. }));
    assert_eq!(cell.net(3).calls.lock().len(), before);
}

#[tokio::test(start_paused = true)]
async fn old_news_of_the_leader_are_corrected_by_the_answer() {
    let cell = Cell::new().await;
    Cell::at(&cell.worlds, 1).step_down().await;
    Cell::at(&cell.worlds, 3).lead(2).await;
    let new = Known {
        term: 2,
        leader: Some(3),
    };
    cell.boards[0].report(0, new);
    cell.boards[2].report(0, new);
    // Node 2 has not heard of the election.
    let reply = accepted(cell.send(2, support::add(1)).await);
    assert_eq!(reply.sequence_number, 1);
    assert_eq!(*cell.net(2).calls.lock(), [1, 3]);
    assert_eq!(cell.boards[1].known(0), new);
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_request_waits_and_is_then_told_so() {
    let cell = Cell::leaderless().await;
    let started = Instant::now();
    let told = failure(cell.send(2, support::add(1)).await);
    assert_eq!(told.kind, FailureKind::NoLeader);
    assert!(told.retry_after.is_some());
    assert!((LIMITS.leader_wait..WITHIN).contains(&started.elapsed()));
    // One that comes in time is used at once.
    let router = cell.router(2);
    let request = support::add(1);
    let sent = tokio::spawn(async move { router.command(&tally(), &request, WITHIN).await });
    tokio::task::yield_now().await;
    cell.elect(1, 1).await;
    assert_eq!(accepted(sent.await.unwrap()).sequence_number, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_majority_does_not_keep_its_clients_waiting() {
    let cell = Cell::new().await;
    cell.net(2).cut.lock().extend([1, 3]);
    let started = Instant::now();
    let (told, _) = cell.router(2).read(&tally(), WITHIN).await;
    assert_eq!(failure(told).kind, FailureKind::NoLeader);
    let told = failure(cell.send(2, support::add(1)).await);
    assert_eq!(told.kind, FailureKind::NoLeader);
    assert!(started.elapsed() < LIMITS.leader_wait);
    // Nor does a leader that no majority answers.
    cell.boards[0].set_cut_off(0, true);
    let told = failure(cell.send(1, support::add(1)).await);
    assert_eq!(told.kind, FailureKind::NoLeader);
    assert_eq!(cell.journal.last_position(), 0);
    cell.boards[0].set_cut_off(0, false);
    assert_eq!(
        accepted(cell.send(1, support::add(1)).await).sequence_number,
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_comes_upon_damage_is_left_for_the_next_one() {
    for node in 1..=2 {
        let cell = Cell::new().await;
        accepted(cell.send(1, support::add(1)).await);
        cell.journal.damage();
        let sent = |id: &str| {
            let (router, stream) = (cell.router(node), support::stream(id));
            tokio::spawn(async move { router.command(&stream, &support::add(1), WITHIN).await })
        };
        let asked = |id: &str| {
            let (router, stream) = (cell.router(node), support::stream(id));
            tokio::spawn(async move { router.read(&stream, WITHIN).await.0 })
        };
        let (command, read) = (sent("t-2"), asked("t-2"));
        support::settle().await;
        assert!(!command.is_finished() && !read.is_finished());
        cell.elect(3, 2).await;
        cell.journal.mend();
        assert_eq!(accepted(command.await.unwrap()).sequence_number, 1);
        assert!(!matches!(read.await.unwrap(), Answer::Failed(_)));
        // Nobody leads in its place: that is said in time, and nothing is in doubt.
        cell.journal.damage();
        let (command, read) = (sent("t-3"), asked("t-3"));
        support::settle().await;
        Cell::at(&cell.worlds, 3).shard.refuse("damaged".to_owned());
        cell.announce(None, 3);
        for told in [command.await.unwrap(), read.await.unwrap()] {
            let told = failure(told);
            assert!(
                matches!(told.kind, FailureKind::NotReady | FailureKind::NoLeader),
                "{told}"
            );
            assert!(told.retry_after.is_some());
        }
        assert_eq!(cell.journal.last_position(), 2);
    }
}
