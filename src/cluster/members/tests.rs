//! The rules of membership, and the stored bytes of its events.

use phalanx_actors::codec;
use phalanx_actors::testkit::{Given, given};

use super::*;

fn founder(id: NodeId) -> Founder {
    Founder {
        id,
        address: format!("host-{id}:1"),
    }
}

/// Three founders.
fn three() -> Given<Members> {
    let nodes = (1..=3).map(founder).collect();
    given([MembersEvent::ClusterFounded { nodes }])
}

fn add(id: NodeId, address: &str) -> MembersCommand {
    let address = address.to_owned();
    MembersCommand::AddNode { id, address }
}

fn added(id: NodeId, address: &str) -> MembersEvent {
    let address = address.to_owned();
    MembersEvent::NodeAdded { id, address }
}

fn announce(id: NodeId, incarnation: &str) -> MembersCommand {
    MembersCommand::Announce {
        id,
        address: format!("host-{id}:1"),
        zone: "a".to_owned(),
        incarnation: incarnation.to_owned(),
        roles: BTreeSet::new(),
    }
}

fn does(id: NodeId, roles: &[Role]) -> MembersCommand {
    let MembersCommand::Announce {
        address,
        zone,
        incarnation,
        ..
    } = announce(id, "i")
    else {
        panic!("it announces");
    };
    let roles = roles.iter().copied().collect();
    MembersCommand::Announce {
        id,
        address,
        zone,
        incarnation,
        roles,
    }
}

#[test]
fn a_member_without_the_role_holds_no_copies_and_does_not_stay_alone() {
    let asks = [Role::Query, Role::Gateway];
    let given = three()
        .when(add(4, "host-4:1"))
        .then([added(4, "host-4:1")]);
    assert!(!given.state().holds_copies(4), "it has not said anything");
    let given = given.when(does(4, &asks)).then([
        MembersEvent::NodeAnnounced {
            id: 4,
            address: "host-4:1".to_owned(),
            zone: "a".to_owned(),
            incarnation: "i".to_owned(),
        },
        MembersEvent::NodeRolesChanged {
            id: 4,
            roles: asks.into(),
        },
    ]);
    assert!(!given.state().holds_copies(4) && given.state().holds_copies(3));
    let mut given = given.when(does(4, &asks)).then([]);
    for id in [1, 2] {
        given = given
            .when(MembersCommand::RemoveNode { id })
            .then([MembersEvent::NodeLeaving { id }]);
    }
    let given = given
        .when(MembersCommand::RemoveNode { id: 3 })
        .then_rejected(MembersRejection::LastMember { id: 3 });
    // With all roles again, as when it does not say.
    let given = given
        .when(does(4, &[]))
        .then([MembersEvent::NodeRolesChanged {
            id: 4,
            roles: roles::all(),
        }])
        .when(MembersCommand::RemoveNode { id: 3 })
        .then([MembersEvent::NodeLeaving { id: 3 }]);
    assert!(given.state().holds_copies(4) && given.state().roles.is_empty());
}

#[test]
fn who_does_everything_says_nothing_that_an_older_release_does_not_know() {
    let said = serde_json::to_string(&announce(4, "i")).unwrap();
    assert!(!said.contains("roles"), "{said}");
}

#[test]
fn a_cluster_is_founded_once() {
    let nodes = vec![founder(1)];
    let found = MembersCommand::Found {
        nodes: nodes.clone(),
    };
    given::<Members>([])
        .when(add(2, "b:1"))
        .then_rejected(MembersRejection::NotFounded {})
        .when(found.clone())
        .then([MembersEvent::ClusterFounded { nodes }])
        .when(found)
        .then([]);
}

#[test]
fn a_node_joins_and_being_told_twice_changes_nothing() {
    let given = three()
        .when(add(4, "d:1"))
        .then([added(4, "d:1")])
        .when(add(4, "d:1"))
        .then([]);
    assert_eq!(given.state().standing(4), Some(Standing::Joining));
    let given = given
        .when(MembersCommand::ConfirmJoined { id: 4 })
        .then([MembersEvent::NodeJoined { id: 4 }])
        .when(MembersCommand::ConfirmJoined { id: 4 })
        .then([]);
    assert_eq!(given.state().standing(4), Some(Standing::Member));
}

#[test]
fn ids_and_addresses_belong_to_one_node_each() {
    let taken = MembersRejection::IdTaken {
        id: 3,
        address: "host-3:1".to_owned(),
    };
    let there = MembersRejection::AddressTaken {
        id: 3,
        address: "host-3:1".to_owned(),
    };
    three()
        .when(add(3, "other:1"))
        .then_rejected(taken)
        .when(add(4, "host-3:1"))
        .then_rejected(there);
}

#[test]
fn a_node_leaves_and_its_id_is_never_used_again() {
    let given = three()
        .when(MembersCommand::ConfirmRemoved { id: 3 })
        .then_rejected(MembersRejection::NotLeaving { id: 3 })
        .when(MembersCommand::RemoveNode { id: 3 })
        .then([MembersEvent::NodeLeaving { id: 3 }])
        .when(MembersCommand::RemoveNode { id: 3 })
        .then([])
        .when(add(3, "host-3:1"))
        .then_rejected(MembersRejection::IdUsed { id: 3 })
        .when(MembersCommand::ConfirmRemoved { id: 3 })
        .then([MembersEvent::NodeRemoved { id: 3 }])
        .when(MembersCommand::ConfirmRemoved { id: 3 })
        .then([])
        .when(MembersCommand::RemoveNode { id: 3 })
        .then([])
        .when(add(3, "new:1"))
        .then_rejected(MembersRejection::IdUsed { id: 3 })
        .when(MembersCommand::RemoveNode { id: 9 })
        .then_rejected(MembersRejection::NotMember { id: 9 });
    assert_eq!(given.state().standing(3), Some(Standing::Removed));
    assert_eq!(given.state().standing(9), None);
}

#[test]
fn somebody_always_stays() {
    three()
        .when(MembersCommand::RemoveNode { id: 1 })
        .then([MembersEvent::NodeLeaving { id: 1 }])
        .when(MembersCommand::RemoveNode { id: 2 })
        .then([MembersEvent::NodeLeaving { id: 2 }])
        .when(MembersCommand::RemoveNode { id: 3 })
        .then_rejected(MembersRejection::LastMember { id: 3 });
}

#[test]
fn a_member_says_what_it_is_like_and_keeps_its_incarnation() {
    let differs = MembersRejection::IncarnationDiffers {
        id: 2,
        known: "one".to_owned(),
    };
    three()
        .when(announce(2, "one"))
        .then([MembersEvent::NodeAnnounced {
            id: 2,
            address: "host-2:1".to_owned(),
            zone: "a".to_owned(),
            incarnation: "one".to_owned(),
        }])
        .when(announce(2, "one"))
        .then([])
        .when(announce(2, "two"))
        .then_rejected(differs)
        .when(announce(9, "one"))
        .then_rejected(MembersRejection::NotMember { id: 9 });
}

/// Journals keep events for ever: these bytes never change. A new variant goes to the end of the
/// enum and adds a line.
#[test]
fn the_stored_bytes_of_events_are_unchanged() {
    let text = |words: &str| words.to_owned();
    let events = [
        (
            MembersEvent::ClusterFounded {
                nodes: vec![founder(1), founder(300)],
            },
            "00020108686f73742d313a31fb2c010a686f73742d3330303a31",
        ),
        (added(4, "d:1"), "010403643a31"),
        (
            MembersEvent::NodeAnnounced {
                id: 4,
                address: text("d:1"),
                zone: text("rack-2"),
                incarnation: text("6f9d"),
            },
            "020403643a31067261636b2d320436663964",
        ),
        (MembersEvent::NodeJoined { id: 4 }, "0304"),
        (MembersEvent::NodeLeaving { id: 4 }, "0404"),
        (MembersEvent::NodeRemoved { id: 4 }, "0504"),
    ];
    for (event, expected) in events {
        let bytes = codec::to_bytes(&event).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected, "{event:?}");
        assert_eq!(codec::from_bytes::<MembersEvent>(&bytes).unwrap(), event);
    }
}
