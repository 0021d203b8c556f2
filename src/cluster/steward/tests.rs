//! Moving leaders, with groups and peers that do as the test says.

use std::time::Instant;

use parking_lot::Mutex;

use super::*;
use crate::cluster::leaders::Known;
use crate::cluster::status::{FollowerView, Moved};
use crate::cluster::transport::{CallError, Pending};

/// The other nodes, 2 and 3.
#[derive(Debug)]
struct Others {
    draining: Vec<NodeId>,
    away: Vec<NodeId>,
}

impl Peers for Others {
    fn peers(&self) -> Vec<NodeId> {
        vec![2, 3]
    }

    fn state(&self, peer: NodeId) -> Option<PeerState> {
        Some(if self.away.contains(&peer) {
            PeerState::Unreachable {
                since: Instant::now(),
                reason: "gone".to_owned(),
            }
        } else {
            PeerState::Connected
        })
    }

    fn begin(
        &self,
        to: NodeId,
        _lane: Lane,
        _kind: CallKind,
        _request: Bytes,
        _timeout: Duration,
    ) -> Result<Pending, CallError> {
        // Stewards only ask for whole answers.
        let reason = "not in this test".to_owned();
        Err(CallError::NotSent { to, reason })
    }

    fn call(
        &self,
        to: NodeId,
        _lane: Lane,
        kind: CallKind,
        _request: Bytes,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        assert_eq!(kind, CallKind::Status);
        let view = NodeView {
            node: to,
            incarnation: format!("incarnation {to}"),
            draining: self.draining.contains(&to),
            shards: Vec::new(),
        };
        Box::pin(async move { Ok(wire::housekeeping(&view).unwrap()) })
    }
}

/// Groups of which this node, 1, leads all.
#[derive(Debug)]
struct Led {
    leaders: Arc<Leaders>,
    lags: Vec<(NodeId, u64)>,
    /// Who is elected when a group is handed over; the one that it is handed to by default.
    elected: Option<NodeId>,
    aside: AtomicBool,
    handed: Mutex<Vec<(ShardId, NodeId)>>,
}

impl Groups for Led {
    fn shards(&self) -> Vec<ShardView> {
        let view = |shard| {
            let known = self.leaders.known(shard);
            let follower = |(node, lag): &(NodeId, u64)| FollowerView {
                node: *node,
                matched_index: Some(1000 - lag),
                lag: *lag,
            };
            ShardView {
                shard,
                voters: self.leaders.voters(shard).to_vec(),
                learners: Vec::new(),
                becoming: Vec::new(),
                changing: false,
                leader: known.leader,
                term: known.term,
                last_log_index: Some(1000),
                applied_index: Some(1000),
                followers: self.lags.iter().map(follower).collect(),
                serving: known.leader == Some(1),
                refusal: None,
            }
        };
        (0..4).map(view).collect()
    }

    fn hand_over(&self, shard: ShardId, to: NodeId) -> BoxFuture<'_, Result<(), String>> {
        self.handed.lock().push((shard, to));
        let term = self.leaders.known(shard).term + 1;
        let leader = Some(self.elected.unwrap_or(to));
        self.leaders.report(shard, Known { term, leader });
        Box::pin(std::future::ready(Ok(())))
    }

    fn reshape(
        &self,
        _shard: ShardId,
        _voters: BTreeSet<NodeId>,
        _reachable: BTreeSet<NodeId>,
    ) -> BoxFuture<'_, Result<Reshaped, String>> {
        Box::pin(std::future::ready(Err("not in this test".to_owned())))
    }

    fn retire(&self, _shard: ShardId, _retired: bool) {}

    fn stand_aside(&self) {
        self.aside.store(true, Ordering::Release);
    }
}

struct House {
    steward: Steward,
    groups: Arc<Led>,
}

fn house(others: Others, lags: &[(NodeId, u64)], elected: Option<NodeId>) -> House {
    let leaders = Arc::new(Leaders::new(vec![vec![1, 2, 3]; 4]));
    for shard in 0..4 {
        let leader = Some(1);
        leaders.report(shard, Known { term: 5, leader });
    }
    let groups = Arc::new(Led {
        leaders: Arc::clone(&leaders),
        lags: lags.to_vec(),
        elected,
        aside: AtomicBool::new(false),
        handed: Mutex::default(),
    });
    let members = (1..=3).map(|id| (id, format!("host-{id}:1")));
    let membership = Membership {
        roles: roles::all(),
        name: "phalanx".to_owned(),
        me: 1,
        incarnation: "incarnation 1".to_owned(),
        zone: "default".to_owned(),
        replication_factor: 3,
        roster: Arc::new(Roster::in_memory(1, members.collect(), true)),
    };
    let there = Arc::clone(&groups) as Arc<dyn Groups>;
    House {
        steward: Steward::new(membership, Arc::new(others), leaders, there),
        groups,
    }
}

const ALL_THERE: Others = Others {
    draining: Vec::new(),
    away: Vec::new(),
};

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
    };
    let absent = house(others, &[(2, 0), (3, 0)], None);
    for (to, reason) in [
        (2, "node 2 cannot be asked"),
        (3, "node 3 is draining"),
        (4, "node 4 is not one of its voters"),
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
    assert!(house.groups.aside.load(Ordering::Acquire));
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
        draining: Vec::new(),
        away: vec![3],
    };
    let house = house(others, &[(2, 0), (3, 0)], None);
    let drained = house.steward.drain_this().await;
    assert_eq!(drained.moved.len(), 4);
    assert!(drained.moved.iter().all(|moved| moved.to == 2));
    let state = house.steward.cluster().await.members.remove(2);
    assert_eq!(state.state, MemberState::Unreachable);
    assert_eq!((state.role, state.incarnation), (MemberRole::Unknown, None));
}
