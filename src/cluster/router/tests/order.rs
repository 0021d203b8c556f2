//! No attempt at a command takes effect behind the answer to a later one.

use std::task::Poll;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_command_takes_effect_in_its_own_term_or_never() {
    let cell = Cell::new().await;
    cell.elect(1, 3).await;
    let request = support::with_key("late", support::add(1));
    let ask = |term, hops| {
        let heading = Heading {
            stream: tally(),
            term,
            hops,
            time_left: WITHIN,
        };
        wire::question(&heading, Question::Command(&request)).unwrap()
    };
    for (node, term) in [(1, 1), (1, 2), (1, 4), (2, 1), (2, 4)] {
        let answer = cell.router(node).receive(3, ask(term, 1)).await.unwrap();
        let (_, said) = wire::read_said(&tally(), &answer).unwrap();
        let Said::NotHere { leader, .. } = said else {
            panic!("{node} {term}: {said:?}");
        };
        assert_eq!(leader.unwrap().term, 3);
    }
    assert_eq!(cell.journal.last_position(), 0);
    let answer = cell.router(1).receive(3, ask(3, 0)).await.unwrap();
    let (by, said) = wire::read_said(&tally(), &answer).unwrap();
    assert!(matches!(said, Said::Answer(Answer::Accepted(_))) && by == 1);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_not_the_last_word_while_an_attempt_before_may_follow() {
    let cell = Cell::new().await;
    // The first attempt goes through node 3, on whose line it may wait for long.
    cell.net(2).cut.lock().push(1);
    cell.expect(2, &[Fate::Lost]);
    let router = cell.router(2);
    let ask = move || {
        let router = router.clone();
        tokio::spawn(async move { router.command(&tally(), &support::take(5), WITHIN).await })
    };
    let sent = ask();
    support::eventually(|| !cell.net(2).calls.lock().is_empty()).await;
    cell.net(2).cut.lock().clear();
    let unknown = failure(sent.await.unwrap());
    assert_eq!(unknown.kind, FailureKind::OutcomeUnknown);
    assert_eq!(cell.net(2).calls.lock()[..2], [3, 1]);

    // Nothing of an older term follows.
    cell.net(2).calls.lock().clear();
    cell.net(2).cut.lock().push(1);
    cell.expect(2, &[Fate::Lost]);
    let sent = ask();
    support::eventually(|| !cell.net(2).calls.lock().is_empty()).await;
    cell.elect(3, 2).await;
    assert!(matches!(sent.await.unwrap(), Answer::Rejected { .. }));

    // Nor does what was lost on the line that the next attempt takes.
    cell.expect(2, &[Fate::Lost]);
    assert!(matches!(ask().await.unwrap(), Answer::Rejected { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_waited_for_its_shard_does_not_follow_its_own_rejection() {
    let cell = Cell::leaderless().await;
    // Node 1 leads and does not serve yet.
    cell.announce(Some(1), 1);
    let first = Cell::at(&cell.worlds, 1);
    let leader = cell.router(1);
    let heading = Heading {
        stream: tally(),
        term: 1,
        hops: 0,
        time_left: WITHIN,
    };
    let take = support::with_key("k", support::take(5));
    let ask = || {
        leader.receive(
            2,
            wire::question(&heading, Question::Command(&take)).unwrap(),
        )
    };
    let said =
        |answer: Result<Bytes, String>| wire::read_said(&tally(), &answer.unwrap()).unwrap().1;

    let mut early = Box::pin(ask());
    let waits =
        std::future::poll_fn(|context| Poll::Ready(early.as_mut().poll(context).is_pending()));
    assert!(waits.await);
    assert_eq!(first.model.in_flight(), 1);
    first.lead(1).await;
    // The second attempt at it comes in while the first still waits, and is decided.
    let second = said(ask().await);
    assert!(
        matches!(second, Said::Answer(Answer::Rejected { .. })),
        "{second:?}"
    );
    accepted(cell.send(1, support::add(5)).await);
    let early = said(early.await);
    assert!(matches!(early, Said::NotHere { .. }), "{early:?}");
    assert_eq!(cell.total().await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_waited_for_its_shard_is_sent_once_more() {
    let cell = Cell::leaderless().await;
    let wait_and_serve = async |term| {
        cell.announce(Some(1), term);
        let first = Cell::at(&cell.worlds, 1);
        support::eventually(|| first.model.in_flight() == 1).await;
        first.lead(term).await;
    };
    let router = cell.router(2);
    let sent = {
        let router = router.clone();
        let request = support::add(3);
        tokio::spawn(async move { router.command(&tally(), &request, WITHIN).await })
    };
    wait_and_serve(1).await;
    let reply = accepted(sent.await.unwrap());
    assert_eq!((reply.sequence_number, reply.replayed), (1, false));
    assert_eq!(*cell.net(2).calls.lock(), [1, 1]);

    // What stores nothing is answered as soon as the shard is served.
    Cell::at(&cell.worlds, 1).step_down().await;
    cell.announce(None, 2);
    cell.net(2).calls.lock().clear();
    let sent = tokio::spawn(async move { router.read(&tally(), WITHIN).await });
    wait_and_serve(2).await;
    assert!(matches!(sent.await.unwrap().0, Answer::State(_)));
    assert_eq!(*cell.net(2).calls.lock(), [1]);
}
