//! Moving leaders, with groups and peers that do as the test says.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use phalanx_actors::names::Position;
use phalanx_actors::request::{Accepted, Answer, FailureKind};
use tokio::time::Instant;

use super::*;
use crate::cluster::handshake::PROTOCOL_MAX;
use crate::cluster::leaders::Known;
use crate::cluster::members::{MemberState as MemberNote, MembersCommand, MembersState};
use crate::cluster::peers::answering::Answering;
use crate::cluster::roster::{Contacts, Heard};
use crate::cluster::router::tests::support::{Options, World};
use crate::cluster::router::{Router, RouterLimits};
use crate::cluster::status::{FollowerView, Moved};
use crate::cluster::transport::CallError;
use crate::cluster::wire::Said;

/// The other nodes, 2 and 3.
#[derive(Debug)]
struct Others {
    draining: Vec<NodeId>,
    away: Vec<NodeId>,
    away_for: Duration,
    full: Vec<NodeId>,
    /// Of a release before this one.
    older: Vec<NodeId>,
}

/// The other nodes, and which shards they lead.
#[derive(Debug)]
struct There {
    others: Others,
    leaders: Arc<Leaders>,
    /// A shard whose copy on this node says so while the others are asked: its voters.
    meanwhile: Mutex<Option<(ShardId, Vec<NodeId>)>>,
    /// Whom the transport was told to know, each time.
    told: Mutex<Vec<Vec<NodeId>>>,
    /// It takes its time the next time, and whoever can goes ahead.
    slow: AtomicBool,
    /// How often they were asked how they are.
    asked: AtomicUsize,
    /// Whether they were told of damage on that occasion.
    told_of_damage: AtomicBool,
}

impl Answering for There {
    fn members(&self) -> Vec<NodeId> {
        vec![2, 3]
    }

    fn is_away(&self, peer: NodeId) -> bool {
        self.others.away.contains(&peer)
    }

    fn away_for(&self, _peer: NodeId) -> Duration {
        self.others.away_for
    }

    fn speaks(&self, peer: NodeId) -> u32 {
        PROTOCOL_MAX - u32::from(self.others.older.contains(&peer))
    }

    fn is_told(&self, contacts: &Contacts) {
        if self.slow.swap(false, Ordering::AcqRel) {
            let began = std::time::Instant::now();
            while self.told.lock().is_empty() && began.elapsed() < Duration::from_millis(300) {
                std::thread::yield_now();
            }
        }
        self.told
            .lock()
            .push(contacts.peers.keys().copied().collect());
    }

    fn answer(
        &self,
        to: NodeId,
        _lane: Lane,
        kind: CallKind,
        request: Bytes,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        assert_eq!(kind, CallKind::Status);
        self.asked.fetch_add(1, Ordering::AcqRel);
        let damage = request == wire::WITH_DAMAGE;
        self.told_of_damage.fetch_or(damage, Ordering::AcqRel);
        let led = self.leaders.led_by(to).into_iter();
        let view = NodeView {
            node: to,
            incarnation: format!("incarnation {to}"),
            draining: self.others.draining.contains(&to),
            shards: led.map(|shard| view(&self.leaders, shard, to)).collect(),
            full: self.others.full.contains(&to),
        };
        if let Some((shard, voters)) = self.meanwhile.lock().take() {
            self.leaders.set_voters(shard, &voters);
        }
        let protocol = self.protocol(to);
        Box::pin(async move { Ok(wire::node_view(&view, protocol).unwrap()) })
    }
}

/// How a node sees a shard.
fn view(leaders: &Leaders, shard: ShardId, node: NodeId) -> ShardView {
    let known = leaders.known(shard);
    ShardView {
        shard,
        voters: leaders.voters(shard).to_vec(),
        learners: Vec::new(),
        becoming: Vec::new(),
        changing: false,
        leader: known.leader,
        term: known.term,
        last_log_index: Some(1000),
        applied_index: Some(1000),
        followers: Vec::new(),
        serving: known.leader == Some(node),
        refusal: None,
    }
}

/// Groups of which this node, 1, leads all at first.
#[derive(Debug)]
struct Led {
    leaders: Arc<Leaders>,
    lags: Vec<(NodeId, u64)>,
    /// Who is elected when a group is handed over; the one that it is handed to by default.
    elected: Option<NodeId>,
    aside: Mutex<BTreeSet<ShardId>>,
    retired: Mutex<Vec<(ShardId, Option<LogEnd>)>>,
    full: AtomicBool,
    /// Whether shard 3 is refused here.
    refused: AtomicBool,
    /// Whether node 4 learns all shards.
    learns: AtomicBool,
    handed: Mutex<Vec<(ShardId, NodeId)>>,
    /// What the next change of voters comes to.
    reshaped: Mutex<Option<Reshaped>>,
}

impl Groups for Led {
    fn shards(&self) -> Vec<ShardView> {
        let view = |shard| {
            let follower = |(node, lag): &(NodeId, u64)| FollowerView {
                node: *node,
                matched_index: Some(1000 - lag),
                lag: *lag,
            };
            let refused = shard == 3 && self.refused.load(Ordering::Acquire);
            ShardView {
                followers: self.lags.iter().map(follower).collect(),
                learners: self
                    .learns
                    .load(Ordering::Acquire)
                    .then_some(4)
                    .into_iter()
                    .collect(),
                refusal: refused.then(|| "damaged".to_owned()),
                ..view(&self.leaders, shard, 1)
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
        let reshaped = self.reshaped.lock().take();
        let reshaped = reshaped.ok_or_else(|| "not in this test".to_owned());
        Box::pin(std::future::ready(reshaped))
    }

    fn retire(&self, shard: ShardId, without: Option<LogEnd>) {
        self.retired.lock().push((shard, without));
    }

    fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    fn stand_aside(&self, shard: ShardId, aside: bool) {
        let mut all = self.aside.lock();
        if aside {
            all.insert(shard);
        } else {
            all.remove(&shard);
        }
    }
}

struct House {
    steward: Steward,
    groups: Arc<Led>,
    there: Arc<There>,
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
        aside: Mutex::default(),
        retired: Mutex::default(),
        full: AtomicBool::new(false),
        refused: AtomicBool::new(false),
        learns: AtomicBool::new(false),
        handed: Mutex::default(),
        reshaped: Mutex::default(),
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
    let here = Arc::clone(&groups) as Arc<dyn Groups>;
    let there = Arc::new(There {
        others,
        leaders: Arc::clone(&leaders),
        meanwhile: Mutex::default(),
        told: Mutex::default(),
        slow: AtomicBool::new(false),
        asked: AtomicUsize::new(0),
        told_of_damage: AtomicBool::new(false),
    });
    let peers = Arc::clone(&there) as Arc<dyn Peers>;
    House {
        steward: Steward::new(membership, peers, leaders, here),
        groups,
        there,
    }
}

const ALL_THERE: Others = Others {
    draining: Vec::new(),
    away: Vec::new(),
    away_for: Duration::ZERO,
    full: Vec::new(),
    older: Vec::new(),
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

/// The members, the fourth with this standing, at this sequence number.
fn with_fourth(sequence: u64, fourth: Standing) -> Heard {
    let member = |id: NodeId| {
        let member = MemberNote {
            address: format!("host-{id}:1"),
            zone: "default".to_owned(),
            incarnation: format!("incarnation {id}"),
            standing: if id == 4 { fourth } else { Standing::Member },
        };
        (id, member)
    };
    let members = MembersState {
        nodes: (1..=4).map(member).collect(),
        ..MembersState::default()
    };
    Heard { sequence, members }
}

#[test]
fn the_transport_goes_by_the_newest_members_also_when_two_hear_at_once() {
    let house = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    let mut without = with_fourth(9, Standing::Leaving);
    without.members.nodes.remove(&4);
    house.there.slow.store(true, Ordering::Release);
    std::thread::scope(|scope| {
        scope.spawn(|| house.steward.hear(with_fourth(8, Standing::Leaving)));
        while house.steward.membership.roster.heard().is_none() {
            std::thread::yield_now();
        }
        house.steward.hear(without);
    });
    assert_eq!(*house.there.told.lock(), [vec![2, 3, 4], vec![2, 3]]);
}

#[tokio::test]
async fn nobody_is_removed_by_a_look_from_before_it_was_told_to_leave() {
    let house = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    house.steward.hear(with_fourth(8, Standing::Joining));
    let views = house.steward.views().await;
    let survey = house.steward.survey(&views);
    // The copies that it is given now are not in the survey.
    house.steward.hear(with_fourth(9, Standing::Leaving));
    assert_eq!(survey.confirmations(true), (Vec::new(), true));
    let survey = house.steward.survey(&house.steward.views().await);
    let removed = MembersCommand::ConfirmRemoved { id: 4 };
    assert_eq!(survey.confirmations(false), (vec![removed], false));
}

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

mod drains;

/// Takes commands of the members, which nobody can read afterwards.
#[derive(Debug)]
struct Taker;

impl Answering for Taker {
    fn members(&self) -> Vec<NodeId> {
        vec![2]
    }

    fn answer(
        &self,
        to: NodeId,
        _lane: Lane,
        kind: CallKind,
        request: Bytes,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let (heading, _) = wire::read_question(&request).unwrap();
        let said = if kind == CallKind::Command {
            Said::Answer(Answer::Accepted(Accepted {
                stream: heading.stream,
                sequence_number: 2,
                position: Position {
                    shard: 0,
                    number: 2,
                },
                created: false,
                replayed: false,
                events: Arc::new([]),
            }))
        } else {
            Said::failed(FailureKind::NoLeader, "an election")
        };
        let answer = wire::said(to, &said, PROTOCOL_MAX).unwrap();
        Box::pin(std::future::ready(Ok(answer)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_noted_is_never_said_to_have_come_to_nothing() {
    let world = World::new(Options::default()).await;
    world.step_down().await;
    let leaders = Arc::new(Leaders::new(vec![vec![2]]));
    let leader = Some(2);
    leaders.report(0, Known { term: 1, leader });
    let limits = RouterLimits {
        leader_wait: Duration::from_millis(200),
        isolated_wait: Duration::from_millis(40),
        answer_bytes: 1 << 20,
        lapse: Duration::from_secs(1),
    };
    let router = Router::new(world.model.clone(), Arc::new(Taker), leaders, limits);
    let house = house(ALL_THERE, &[], None);
    let address = "host-4:1".to_owned();
    let changed = house.steward.add_node(&router, 4, address).await;
    assert!(
        matches!(changed, Err(ChangeError::Unseen(_))),
        "{changed:?}"
    );
}

/// Cannot be asked anything.
#[derive(Debug)]
struct Nobody;

impl Answering for Nobody {
    fn members(&self) -> Vec<NodeId> {
        vec![2]
    }

    fn is_away(&self, _peer: NodeId) -> bool {
        true
    }

    fn answer(
        &self,
        to: NodeId,
        _lane: Lane,
        _kind: CallKind,
        _request: Bytes,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let reason = "away".to_owned();
        Box::pin(std::future::ready(Err(CallError::NotSent { to, reason })))
    }
}

/// A conductor that finds all as it should be looks again in a while, or once it hears of damage.
#[tokio::test(start_paused = true)]
async fn a_conductor_looks_when_somebody_says_that_a_copy_is_damaged() {
    let world = World::new(Options::default()).await;
    world.step_down().await;
    let limits = RouterLimits {
        leader_wait: Duration::from_millis(200),
        isolated_wait: Duration::from_millis(40),
        answer_bytes: 1 << 20,
        lapse: Duration::from_secs(1),
    };
    let leaders = Arc::new(Leaders::new(vec![vec![2]]));
    let router = Router::new(world.model.clone(), Arc::new(Nobody), leaders, limits);
    let house = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    house.steward.hear(with_fourth(8, Standing::Member));
    let steward = Arc::new(house.steward);
    let following = tokio::spawn(Arc::clone(&steward).follow(router, Duration::from_secs(1)));
    let asked_within = |seconds| {
        let there = Arc::clone(&house.there);
        async move {
            let before = there.asked.load(Ordering::Acquire);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            there.asked.load(Ordering::Acquire) - before
        }
    };
    assert_eq!(asked_within(3).await, 2, "one look");
    for (request, expected) in [(Bytes::new(), 0), (wire::WITH_DAMAGE, 2)] {
        let told = steward.receive(2, CallKind::Status, &request).await;
        assert!(told.is_ok());
        assert_eq!(asked_within(3).await, expected, "{request:?}");
    }
    following.abort();
}

#[tokio::test]
async fn who_has_damaged_copies_says_so_when_it_asks() {
    let house = house(ALL_THERE, &[], None);
    house.steward.views().await;
    assert!(!house.there.told_of_damage.load(Ordering::Acquire));
    house.groups.refused.store(true, Ordering::Release);
    house.steward.views().await;
    assert!(house.there.told_of_damage.load(Ordering::Acquire));
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
