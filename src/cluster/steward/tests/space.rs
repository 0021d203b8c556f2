//! Leaders on nodes whose disk has no space.

use super::*;

#[tokio::test]
async fn a_node_without_space_hands_over_to_those_with_space_only() {
    let others = Others {
        full: vec![2],
        ..ALL_THERE
    };
    let house = house(others, &[(2, 0), (3, 0)], None);
    house.steward.hand_over_for_space().await;
    assert!(house.groups.handed.lock().is_empty(), "there is space");
    let refused = house.steward.transfer(0, 2).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .ends_with("has no space for commands on its disk")
    );
    house.groups.full.store(true, Ordering::Release);
    house.steward.hand_over_for_space().await;
    assert_eq!(house.groups.leaders.led_by(3), [0, 1, 2, 3]);
    let view = house.steward.cluster().await;
    let full: Vec<bool> = view.members.iter().map(|m| m.disk_full).collect();
    assert_eq!(full, [true, true, false]);
    // It leads where it is needed, and it does not take a leave for that.
    assert!(house.groups.aside.lock().is_empty());
    assert!(view.members.iter().all(|m| m.role == MemberRole::Serving));
}

#[tokio::test]
async fn without_any_space_shards_stay_until_their_leader_has_to_go() {
    let others = Others {
        full: vec![2, 3],
        ..ALL_THERE
    };
    let house = house(others, &[(2, 0), (3, 0)], None);
    house.groups.full.store(true, Ordering::Release);
    house.steward.hand_over_for_space().await;
    assert!(house.groups.handed.lock().is_empty());
    let drained = house.steward.drain_this().await;
    assert_eq!((drained.moved.len(), drained.kept.len()), (4, 0));
}
