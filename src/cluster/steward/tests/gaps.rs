//! What a node learns of shards whose copy it lacks, or may lack.

use super::*;

#[tokio::test]
async fn a_member_that_leaves_learns_that_its_copy_is_back() {
    let house = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    let _drained = house.steward.drain_to_stop().await;
    house.steward.retired.lock().insert(2);
    house.steward.fill_gaps().await;
    assert_eq!(*house.groups.retired.lock(), [(2, None)]);
    assert!(house.steward.retired.lock().is_empty());
}

/// A copy that was taken away while this node did not run believes that it counts, and hears nothing.
#[tokio::test]
async fn a_leader_of_whom_the_own_copy_has_not_heard_is_asked_whether_it_counts_the_copy() {
    let house = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    house.steward.fill_gaps().await;
    assert!(house.groups.retired.lock().is_empty());
    house.groups.leaders.hear(1, wire::Led { node: 2, term: 6 });
    house.steward.fill_gaps().await;
    assert_eq!(*house.groups.retired.lock(), [(1, None)]);
    let leader = Some(2);
    house.groups.leaders.report(1, Known { term: 6, leader });
    house.steward.fill_gaps().await;
    assert_eq!(house.groups.retired.lock().len(), 1, "it has heard");
}

#[tokio::test]
async fn a_copy_that_came_back_while_others_were_asked_is_believed() {
    let house = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    let leaders = &house.groups.leaders;
    let leader = Some(2);
    leaders.report(1, Known { term: 6, leader });
    leaders.set_voters(1, &[2, 3]);
    // Node 2 has answered when the news of the copy arrives.
    *house.there.meanwhile.lock() = Some((1, vec![1, 2, 3]));
    house.steward.fill_gaps().await;
    assert_eq!(*leaders.voters(1), [1, 2, 3]);
    assert!(house.groups.retired.lock().is_empty());
    // One that does not come back is counted out as before.
    leaders.set_voters(1, &[2, 3]);
    house.steward.fill_gaps().await;
    assert_eq!(house.groups.retired.lock().len(), 1);
}

/// The last that its group said may be that this node leads; the copy may be built again elsewhere.
#[tokio::test]
async fn whose_copy_was_thrown_away_asks_who_leads_though_its_group_said_so() {
    let house = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    let asked = || house.there.asked.load(Ordering::Acquire);
    house.steward.fill_gaps().await;
    assert_eq!(asked(), 0, "it has copies of all shards and leads them");
    house.groups.blank.store(true, Ordering::Release);
    house.steward.fill_gaps().await;
    assert_eq!(asked(), 2);
}
