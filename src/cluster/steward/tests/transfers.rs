//! Leaders that go to a chosen voter, and copies that go from their leader.

use super::*;

#[tokio::test]
async fn a_shard_goes_where_it_is_sent() {
    let house = house(ALL_THERE, &[(2, 0), (3, 256)], None);
    let moved = house.steward.transfer(2, 3).await.unwrap();
    let expected = Moved {
        shard: 2,
        from: 1,
        to: 3,
        term: 6,
    };
    assert_eq!(moved, expected);
    // Where it is already, nothing happens.
    assert_eq!(house.steward.transfer(0, 1).await.unwrap().term, 5);
    assert_eq!(*house.groups.handed.lock(), [(2, 3)]);
}

#[tokio::test]
async fn nobody_gets_a_shard_that_could_not_lead_it_now() {
    let others = Others {
        draining: vec![3],
        away: vec![2],
        ..ALL_THERE
    };
    let absent = house(others, &[(2, 0), (3, 0)], None);
    absent.steward.hear(with_fourth(8, Standing::Member));
    let nobody = absent.steward.transfer(0, 9).await.unwrap_err();
    assert_eq!(nobody, MoveError::NoMember { node: 9 });
    for (to, reason) in [
        (2, "node 2 cannot be asked"),
        (3, "node 3 is draining"),
        (4, "node 4 is not one of its voters, which are [1, 2, 3]"),
    ] {
        let refused = absent.steward.transfer(0, to).await.unwrap_err();
        let text = format!("shard 0 stays with node 1: {reason}");
        assert_eq!(refused.to_string(), text);
    }
    let behind = house(ALL_THERE, &[(2, 257), (3, 0)], None);
    let refused = behind.steward.transfer(0, 2).await.unwrap_err();
    assert!(refused.to_string().ends_with("still lacks 257 log entries"));
    let refused = behind.steward.transfer(4, 2).await.unwrap_err();
    assert!(matches!(refused, MoveError::NoShard { shards: 4, .. }));
    assert!(absent.groups.handed.lock().is_empty() && behind.groups.handed.lock().is_empty());
    let quicker = house(ALL_THERE, &[(2, 0), (3, 0)], Some(3));
    let refused = quicker.steward.transfer(0, 2).await.unwrap_err();
    assert!(matches!(refused, MoveError::Elsewhere { leader: 3, .. }));
}

/// A copy that goes from a leader that stays takes the lead along, also to a node that is drained if
/// nobody else is left: the shard could never be without that copy otherwise.
#[tokio::test(start_paused = true)]
async fn a_copy_leaves_its_leader_also_while_others_are_drained() {
    for (draining, leaving, expected) in [
        (vec![2], None, Some(3)),
        (vec![2, 3], None, Some(2)),
        (vec![2, 3], Some(2), Some(3)),
        (vec![3], Some(3), Some(2)),
    ] {
        let others = Others {
            draining,
            ..ALL_THERE
        };
        let house = house(others, &[(2, 0), (3, 0)], None);
        let mut heard = with_fourth(9, Standing::Member);
        if let Some(id) = leaving {
            heard.members.nodes.get_mut(&id).unwrap().standing = Standing::Leaving;
        }
        house.steward.hear(heard);
        *house.groups.reshaped.lock() = Some(Reshaped::HandOver { to: vec![2, 3] });
        let voters = BTreeSet::from([2, 3]);
        house.steward.reshape_here(0, voters).await.unwrap();
        assert_eq!(house.groups.leaders.known(0).leader, expected);
    }
}

#[tokio::test]
async fn it_is_told_whether_a_leader_elsewhere_was_asked_at_all() {
    for (away, told) in [(vec![2], true), (Vec::new(), false)] {
        let others = Others { away, ..ALL_THERE };
        let house = house(others, &[], None);
        let leader = Some(2);
        house.groups.leaders.report(1, Known { term: 6, leader });
        let error = house.steward.transfer(1, 3).await.unwrap_err();
        let certain = matches!(error, MoveError::Unreachable { unasked: true, .. });
        assert_eq!(certain, told, "{error}");
        assert_eq!(error.to_string().contains("nothing was done"), told);
        // Who asks a draining node that cannot be asked hears the same.
        let error = house.steward.drain(2).await.unwrap_err();
        assert_eq!(error.to_string().contains("nothing was done"), told);
    }
}
