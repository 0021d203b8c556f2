//! When a node counts as ready, by who leads and whom it reaches.

use super::*;

/// Why the one shard is not ready at a node.
fn fault(cell: &Cell, node: NodeId) -> Option<String> {
    let checks = cell.router(node).readiness();
    let found = checks.into_iter().find(|(name, _)| name == "shard 0");
    found.unwrap().1.err()
}

/// Lets time pass, in which each node looks as it does by itself.
async fn pass(cell: &Cell, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        for node in 1..=3 {
            fault(cell, node);
        }
        tokio::time::advance(Duration::from_millis(50)).await;
    }
}

const MOMENT: Duration = Duration::from_millis(900);
const LONG: Duration = Duration::from_millis(1_500);

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_known_is_none_for_a_node_that_is_cut_off() {
    let cell = Cell::new().await;
    assert_eq!(fault(&cell, 2), None);
    cell.net(2).cut.lock().extend([1, 3]);
    pass(&cell, MOMENT).await;
    assert_eq!(fault(&cell, 2), None, "it may pass");
    pass(&cell, LONG).await;
    let told = fault(&cell, 2).unwrap();
    assert!(told.contains("reaches only 1 of its 3 voters"), "{told}");
    assert_eq!((fault(&cell, 1), fault(&cell, 3)), (None, None));
    // One of the two is enough.
    cell.net(2).cut.lock().retain(|node| *node == 1);
    assert_eq!(fault(&cell, 2), None);
    pass(&cell, LONG * 10).await;
    assert_eq!(fault(&cell, 2), None, "requests go by way of the other");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_no_majority_answers_is_not_ready() {
    let cell = Cell::new().await;
    assert_eq!(fault(&cell, 1), None);
    cell.boards[0].set_cut_off(0, true);
    pass(&cell, MOMENT).await;
    assert_eq!(fault(&cell, 1), None, "it may pass");
    pass(&cell, LONG).await;
    let told = fault(&cell, 1).unwrap();
    assert!(told.contains("no majority answers"), "{told}");
    cell.boards[0].set_cut_off(0, false);
    assert_eq!(fault(&cell, 1), None);
}

#[tokio::test(start_paused = true)]
async fn an_election_makes_no_node_unready_and_a_lasting_lack_of_a_leader_does() {
    let cell = Cell::leaderless().await;
    assert!(fault(&cell, 2).is_some(), "nobody has ever led");
    cell.elect(1, 1).await;
    assert_eq!(fault(&cell, 2), None);
    cell.announce(None, 2);
    pass(&cell, MOMENT).await;
    assert_eq!(fault(&cell, 2), None);
    cell.elect(3, 2).await;
    pass(&cell, LONG).await;
    assert_eq!(fault(&cell, 2), None);
    cell.announce(None, 3);
    pass(&cell, LONG).await;
    assert_eq!(fault(&cell, 2).as_deref(), Some("no leader known yet"));
}
