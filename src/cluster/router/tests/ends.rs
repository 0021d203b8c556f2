//! Nodes that shut down, and what becomes of the requests that they have.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_node_that_shuts_down_takes_nothing_for_others() {
    let cell = Cell::new().await;
    Cell::at(&cell.worlds, 2).model.stop_admitting();
    let told = failure(cell.send(2, support::add(1)).await);
    assert_eq!(told.kind, FailureKind::ShuttingDown);
    // Its peers look for another leader instead.
    let cell = Cell::new().await;
    Cell::at(&cell.worlds, 1).model.stop_admitting();
    let router = cell.router(2);
    let request = support::add(1);
    let sent = tokio::spawn(async move { router.command(&tally(), &request, WITHIN).await });
    support::eventually(|| !cell.net(2).calls.lock().is_empty()).await;
    cell.elect(3, 2).await;
    assert_eq!(accepted(sent.await.unwrap()).sequence_number, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ends_waits_for_nobody() {
    let cell = Cell::new().await;
    cell.expect(2, &[Fate::Hangs, Fate::Hangs, Fate::Hangs]);
    let (router, request) = (cell.router(2), support::add(1));
    let (asked, stream) = (router.clone(), tally());
    let sent = tokio::spawn(async move { asked.command(&stream, &request, WITHIN).await });
    let (asked, stream) = (router.clone(), tally());
    let read = tokio::spawn(async move { asked.read(&stream, WITHIN).await.0 });
    support::eventually(|| cell.net(2).calls.lock().len() == 2).await;
    let began = Instant::now();
    router.end();
    // It may have arrived.
    assert_eq!(
        failure(sent.await.unwrap()).kind,
        FailureKind::OutcomeUnknown
    );
    assert_eq!(failure(read.await.unwrap()).kind, FailureKind::ShuttingDown);
    // Nothing is begun any more.
    let refused = failure(cell.send(2, support::add(1)).await);
    assert_eq!(refused.kind, FailureKind::ShuttingDown);
    assert_eq!(cell.net(2).calls.lock().len(), 2);
    assert!(began.elapsed() < WITHIN);
    // What had begun here is not known to have come to nothing.
    let cell = Cell::new().await;
    let world = Cell::at(&cell.worlds, 1);
    world.replicator.hold();
    let (asked, request) = (cell.router(1), support::add(1));
    let sent = tokio::spawn(async move { asked.command(&tally(), &request, WITHIN).await });
    support::eventually(|| !world.replicator.pending().is_empty()).await;
    cell.router(1).end();
    world.step_down().await;
    assert_eq!(
        failure(sent.await.unwrap()).kind,
        FailureKind::OutcomeUnknown
    );
}
