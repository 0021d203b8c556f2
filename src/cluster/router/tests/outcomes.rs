//! Whether a command was stored, and what is said of it.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_and_stored_once() {
    for key in [None, Some("k".to_owned())] {
        let cell = Cell::new().await;
        cell.expect(2, &[Fate::AnswerLost, Fate::Lost, Fate::AnswerLost]);
        let request = CommandRequest {
            idempotency_key: key,
            ..support::add(5)
        };
        let reply = accepted(cell.send(2, request).await);
        // The client has seen no reply before this one.
        assert_eq!((reply.sequence_number, reply.replayed), (1, false));
        assert_eq!(cell.total().await, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clients_own_retry_is_marked_at_every_node() {
    let cell = Cell::new().await;
    let request = support::with_key("k", support::add(5));
    assert!(!accepted(cell.send(3, request.clone()).await).replayed);
    for node in 1..=3 {
        let again = accepted(cell.send(node, request.clone()).await);
        assert_eq!((again.replayed, again.sequence_number), (true, 1));
    }
    let other = support::with_key("k", support::add(6));
    assert!(matches!(cell.send(2, other).await, Answer::KeyReused));
}

/// The node loses attempts of its own, but the reply that it finds was stored before them.
#[tokio::test(start_paused = true)]
async fn a_clients_own_retry_is_marked_although_an_attempt_at_it_is_lost() {
    let cell = Cell::new().await;
    let request = support::with_key("k", support::add(5));
    assert!(!accepted(cell.send(2, request.clone()).await).replayed);
    for fate in [Fate::Lost, Fate::AnswerLost] {
        cell.expect(2, &[fate, fate]);
        let again = accepted(cell.send(2, request.clone()).await);
        assert_eq!((again.replayed, again.sequence_number), (true, 1));
        assert!(cell.net(2).fates.lock().is_empty());
    }
    assert_eq!(cell.total().await, 5);
}

#[tokio::test(start_paused = true)]
async fn what_may_be_stored_is_never_called_not_applied() {
    let cell = Cell::new().await;
    cell.expect(2, &[Fate::AnswerLost]);
    cell.net(2).fates.lock().extend([Fate::Lost; 200]);
    let router = cell.router(2);
    let request = support::add(1);
    let within = Duration::from_millis(400);
    let told = failure(router.command(&tally(), &request, within).await);
    assert_eq!(told.kind, FailureKind::OutcomeUnknown);
    assert_eq!(cell.journal.last_position(), 1);
    // A read or a dry run stores nothing, so their outcome is never in doubt.
    cell.net(2).fates.lock().extend([Fate::Lost; 200]);
    let (told, _) = router.read(&tally(), within).await;
    assert_eq!(failure(told).kind, FailureKind::NoLeader);
    cell.net(2).fates.lock().extend([Fate::Lost; 200]);
    let dry = support::dry_run(support::add(1));
    let told = failure(router.command(&tally(), &dry, within).await);
    assert_eq!(told.kind, FailureKind::NoLeader);
}

/// An attempt at the very end could not be answered in time, and nobody would know what became of it.
#[tokio::test(start_paused = true)]
async fn a_command_that_every_leader_asked_declines_was_not_stored() {
    // The time of a request ends within a pause, or as one ends.
    for millis in [150, 155, 163, 400, 455, 1_000] {
        let cell = Cell::new().await;
        accepted(cell.send(1, support::add(1)).await);
        cell.journal.damage();
        let (stream, request) = (support::stream("t-2"), support::add(1));
        let within = Duration::from_millis(millis);
        let told = failure(cell.router(2).command(&stream, &request, within).await);
        assert_eq!(told.kind, FailureKind::NoLeader, "{millis} ms: {told}");
        assert!(told.retry_after.is_some() && told.detail.ends_with("nothing was stored"));
        assert!(cell.net(2).calls.lock().len() > 1);
    }
}
