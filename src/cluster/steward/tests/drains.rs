//! Leading nothing, leading all the same, and leading again.

use super::super::drain::Leaderless;
use super::*;
use crate::cluster::status::{StaysDrained, Undrained};
use crate::cluster::steward::UndrainError;

const NOW: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_secs(3_600);

/// A node that drains while node 3, which led shard 0, cannot be reached any more.
async fn needed() -> House {
    let others = Others {
        away: vec![3],
        ..ALL_THERE
    };
    let house = house(others, &[(2, 0), (3, 0)], None);
    let leader = Some(3);
    house.groups.leaders.report(0, Known { term: 6, leader });
    house
}

fn aside(house: &House) -> Vec<ShardId> {
    house.groups.aside.lock().iter().copied().collect()
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_hands_over_to_the_drained_if_nobody_else_is_left() {
    let others = |draining: &[NodeId]| Others {
        draining: draining.to_vec(),
        ..ALL_THERE
    };
    let lags = [(2, 0), (3, 0)];
    // As long as there is somebody else, nothing goes to a drained node.
    let house_of_three = house(others(&[2]), &lags, None);
    let drained = house_of_three.steward.drain_to_stop().await;
    assert!(drained.kept.is_empty() && drained.moved.iter().all(|moved| moved.to == 3));
    let all_drained = house(others(&[2, 3]), &lags, None);
    let drained = all_drained.steward.drain_this().await;
    assert_eq!((drained.moved.len(), drained.kept.len()), (0, 4));
    let drained = all_drained.steward.drain_to_stop().await;
    assert_eq!((drained.moved.len(), drained.kept.len()), (4, 0));
    let leaving = house(others(&[2, 3]), &lags, None);
    leaving.steward.leave().await;
    assert!(leaving.steward.leaders.led_by(1).is_empty());
    // One that leaves as well would have to give it back.
    let both = house(others(&[2, 3]), &lags, None);
    let mut heard = with_fourth(9, Standing::Member);
    heard.members.nodes.get_mut(&2).unwrap().standing = Standing::Leaving;
    both.steward.hear(heard);
    let drained = both.steward.drain_to_stop().await;
    assert!(drained.kept.is_empty() && drained.moved.iter().all(|moved| moved.to == 3));
}

#[tokio::test]
async fn a_drained_node_stands_for_election_where_nobody_has_led_for_long() {
    let house = needed().await;
    house.steward.drain_this().await;
    assert_eq!(house.groups.leaders.led_by(2), [1, 2, 3]);
    assert_eq!(aside(&house), [0, 1, 2, 3]);
    let mut leaderless = Leaderless::default();
    // The others come first.
    house.steward.help_out(&mut leaderless, LATER).await;
    assert_eq!(aside(&house), [0, 1, 2, 3]);
    house.steward.help_out(&mut leaderless, NOW).await;
    assert_eq!(aside(&house), [1, 2, 3]);
    // Somebody asks once more for the drain: the shard needs this node all the same.
    house.steward.drain_this().await;
    assert_eq!(aside(&house), [1, 2, 3]);
    // The others have come to it.
    let leader = Some(2);
    house.groups.leaders.report(0, Known { term: 7, leader });
    house.steward.help_out(&mut leaderless, NOW).await;
    assert_eq!(aside(&house), [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_member_that_leaves_stands_for_election_where_nobody_leads() {
    let house = needed().await;
    house.steward.leave().await;
    assert_eq!(house.groups.leaders.led_by(2), [1, 2, 3]);
    let mut leaderless = Leaderless::default();
    house.steward.help_out(&mut leaderless, NOW).await;
    assert_eq!(aside(&house), [1, 2, 3]);
}

#[tokio::test]
async fn what_a_drained_node_came_to_lead_it_hands_over_once_somebody_can() {
    let house = needed().await;
    house.steward.drain_this().await;
    let leader = Some(1);
    house.groups.leaders.report(0, Known { term: 7, leader });
    let steward = Arc::new(house.steward);
    let standing_by = tokio::spawn(Arc::clone(&steward).stand_by(LATER));
    let mut news = house.groups.leaders.watch(0).unwrap();
    let moved = news.wait_for(|known| known.leader == Some(2));
    let moved = tokio::time::timeout(Duration::from_secs(30), moved).await;
    assert_eq!(moved.unwrap().unwrap().term, 8);
    standing_by.abort();
}

#[tokio::test]
async fn a_drain_can_be_taken_back_as_often_as_one_likes() {
    let house = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    house.steward.drain(1).await.unwrap();
    assert_eq!(aside(&house).len(), 4);
    for was_draining in [true, false] {
        let back = house.steward.undrain(1).await.unwrap();
        let expected = Undrained {
            node: 1,
            draining: false,
            was_draining,
        };
        assert_eq!(back, expected);
        assert!(aside(&house).is_empty());
        assert!(!house.steward.node_view().draining);
    }
    // What somebody saw while it drained moves nothing any more.
    let mut leaderless = Leaderless::default();
    house.steward.help_out(&mut leaderless, LATER).await;
    assert!(aside(&house).is_empty());
    let unknown = house.steward.undrain(7).await.unwrap_err();
    assert!(matches!(
        unknown,
        UndrainError::Move(MoveError::NoMember { node: 7 })
    ));
}

#[tokio::test]
async fn who_leaves_or_stops_is_not_brought_back() {
    let leaving = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    leaving.steward.drain_this().await;
    leaving.steward.leave().await;
    let refused = leaving.steward.undrain_this();
    assert_eq!(refused, Err(StaysDrained::Leaving { node: 1 }));
    let stopping = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    stopping.steward.drain_to_stop().await;
    let refused = stopping.steward.undrain_this();
    assert_eq!(refused, Err(StaysDrained::Stopping { node: 1 }));
    assert_eq!(aside(&stopping).len(), 4);
}

#[tokio::test]
async fn a_member_of_an_older_release_is_not_asked_what_it_does_not_know() {
    let others = Others {
        older: vec![2],
        ..ALL_THERE
    };
    let house = house(others, &[(2, 0), (3, 0)], None);
    // The call would fail the test: the others answer nothing but how they are.
    let refused = house.steward.undrain(2).await.unwrap_err();
    assert!(matches!(refused, UndrainError::Older { node: 2 }));
    assert!(refused.to_string().contains("restart it"), "{refused}");
}

#[tokio::test]
async fn a_drain_that_is_taken_back_meanwhile_ends() {
    let others = Others {
        away: vec![2, 3],
        ..ALL_THERE
    };
    let house = house(others, &[(2, 0), (3, 0)], None);
    let began = Instant::now();
    let (drained, back) = tokio::join!(house.steward.drain_this(), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        house.steward.undrain_this()
    });
    assert!(back.unwrap().was_draining);
    // Nobody could be asked, so it would have gone on for seconds.
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(!drained.draining && drained.kept.len() == 4);
    assert!(aside(&house).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_only_where_that_may_help() {
    let others = |away: &[NodeId], away_for, draining: &[NodeId]| Others {
        away: away.to_vec(),
        away_for,
        draining: draining.to_vec(),
        ..ALL_THERE
    };
    let (blip, gone) = (Duration::ZERO, Duration::from_secs(60));
    let (even, behind) = ([(2, 0), (3, 0)], [(2, 1_000), (3, 0)]);
    for (others, lags, waits) in [
        (others(&[], blip, &[2, 3]), even, false),
        (others(&[3], gone, &[2]), even, false),
        (others(&[2, 3], gone, &[]), even, false),
        // A connection that was lost this moment may be back the next.
        (others(&[3], blip, &[2]), even, true),
        // Node 2 may catch up.
        (others(&[3], gone, &[]), behind, true),
    ] {
        let case = format!("{others:?}");
        let house = house(others, &lags, None);
        let began = Instant::now();
        let drained = house.steward.drain_this().await;
        assert_eq!((drained.moved.len(), drained.kept.len()), (0, 4), "{case}");
        let waited = began.elapsed() >= Duration::from_secs(5);
        assert_eq!(waited, waits, "{case}");
        assert!(drained.draining);
    }
    // A voter that is on its way is waited for.
    let house = house(others(&[], blip, &[2, 3]), &even, None);
    house.groups.learns.store(true, Ordering::Release);
    let began = Instant::now();
    house.steward.drain_this().await;
    assert!(began.elapsed() >= Duration::from_secs(5));
}

#[tokio::test]
async fn a_drain_spreads_what_it_hands_over_and_stands_aside() {
    let house = house(ALL_THERE, &[(2, 3), (3, 0)], None);
    let drained = house.steward.drain(1).await.unwrap();
    assert!(drained.draining && drained.kept.is_empty());
    let to = |node| {
        drained
            .moved
            .iter()
            .filter(|moved| moved.to == node)
            .count()
    };
    assert_eq!((to(2), to(3)), (2, 2));
    assert_eq!(house.groups.aside.lock().len(), 4);
    let view = house.steward.cluster().await;
    let roles: Vec<_> = view.members.iter().map(|m| (m.role, m.leads)).collect();
    assert_eq!(
        roles,
        [
            (MemberRole::Draining, 0),
            (MemberRole::Serving, 2),
            (MemberRole::Serving, 2)
        ]
    );
    let unknown = house.steward.drain(7).await.unwrap_err();
    assert_eq!(unknown, MoveError::NoMember { node: 7 });
}

#[tokio::test]
async fn a_drain_passes_by_whoever_is_away_or_far_behind() {
    let others = Others {
        away: vec![3],
        ..ALL_THERE
    };
    let house = house(others, &[(2, 0), (3, 0)], None);
    let drained = house.steward.drain_this().await;
    assert_eq!(drained.moved.len(), 4);
    assert!(drained.moved.iter().all(|moved| moved.to == 2));
    let state = house.steward.cluster().await.members.remove(2);
    assert_eq!(state.state, MemberState::Unreachable);
    assert_eq!((state.role, state.incarnation), (MemberRole::Unknown, None));
}
