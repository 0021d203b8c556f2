//! What clients are told, wherever they ask.

use super::*;

#[tokio::test(start_paused = true)]
async fn every_node_gives_the_leaders_answer() {
    let cell = Cell::new().await;
    for node in 1..=3 {
        let reply = accepted(cell.send(node, support::add(1)).await);
        assert_eq!(reply.sequence_number, node);
        assert!(!reply.replayed);
    }
    assert_eq!(cell.total().await, 3);
    for node in 1..=3 {
        let router = cell.router(node);
        let page = router.history(&tally(), 1, 100, 1 << 20, WITHIN).await;
        assert_eq!(page.unwrap().events.len(), 3);
        let (view, by) = router
            .state_at(&tally(), At::Sequence(2), WITHIN)
            .await
            .unwrap();
        assert_eq!((view.unwrap().sequence_number, by), (2, 1));
        let none = router
            .state_at(&support::stream("none"), At::Sequence(1), WITHIN)
            .await;
        assert!(none.unwrap().0.is_none());
    }
    for world in &cell.worlds {
        assert_eq!(world.model.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_of_the_domain_and_of_the_leader_are_passed_on() {
    let cell = Cell::new().await;
    let refused = cell.send(2, support::take(1)).await;
    assert!(matches!(refused, Answer::Rejected { .. }), "{refused:?}");
    cell.expect(3, &[Fate::Lost]);
    let refused = cell.send(3, support::take(1)).await;
    assert!(matches!(refused, Answer::Rejected { .. }), "{refused:?}");
    let request = CommandRequest {
        precondition: Precondition::Exists,
        ..support::add(1)
    };
    let refused = cell.send(3, request).await;
    assert!(matches!(refused, Answer::SequenceMismatch { .. }));
    // No room on the way to a connected leader is overload, and is told at once.
    cell.expect(3, &[Fate::Stays]);
    let told = failure(cell.send(3, support::add(1)).await);
    assert_eq!(told.kind, FailureKind::Overloaded);
    let malformed = support::command("Add", "[]");
    let told = failure(cell.send(3, malformed).await);
    assert_eq!(told.kind, FailureKind::MalformedBody);
    assert!(told.pointer.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_long_history_comes_in_pages() {
    let cell = Cell::new().await;
    let many = support::command("AddMany", r#"{"amount":1,"times":20000}"#);
    accepted(cell.send(1, many).await);
    let router = cell.router(2);
    let page = router.history(&tally(), 1, 15_000, 1 << 30, WITHIN).await;
    let HistoryPage {
        events,
        next_sequence,
    } = page.unwrap();
    assert_eq!(next_sequence, Some(15_001));
    assert_eq!(events.len(), 15_000);
    assert!(
        (1..)
            .zip(&events)
            .all(|(n, event)| event.sequence_number == n)
    );
    assert!(cell.net(2).calls.lock().len() > 1);
    // Enough bytes end a page before there are enough events.
    let page = router
        .history(&tally(), 1, 15_000, 1, WITHIN)
        .await
        .unwrap();
    assert!((1..15_000).contains(&page.events.len()));
    let last = page.events.last().unwrap().sequence_number;
    assert_eq!(page.next_sequence, Some(last + 1));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_long_to_travel_goes_without_its_data() {
    let cell = Cell::new().await;
    let many = |times| CommandRequest {
        representation: true,
        ..support::command("AddMany", &format!(r#"{{"amount":1,"times":{times}}}"#))
    };
    let short = accepted(cell.send(2, many(10)).await);
    assert!(short.events.iter().all(|event| event.data.is_some()));
    // About 20 bytes an event with its data, half of that without.
    let long = accepted(cell.send(2, many(120_000)).await);
    assert_eq!(long.events.len(), 120_000);
    assert!(long.events.iter().all(|event| event.data.is_none()));
    let here = accepted(cell.send(1, many(120_000)).await);
    assert!(here.events.iter().all(|event| event.data.is_some()));
}
