//! A steward with groups and peers that do as the test says.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use phalanx_actors::names::Position;
use phalanx_actors::request::{Accepted, Answer, FailureKind};
use tokio::time::Instant;

use super::*;
use crate::cluster::handshake::PROTOCOL_MAX;
use crate::cluster::leaders::Known;
use crate::cluster::members::{MemberState as MemberNote, MembersCommand, MembersState};
use crate::cluster::peers::NoPeers;
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
        if kind != CallKind::Status {
            let reason = "as the test says".to_owned();
            let error = if self.is_away(to) {
                CallError::NotSent { to, reason }
            } else {
                CallError::Unknown { to, reason }
            };
            return Box::pin(std::future::ready(Err(error)));
        }
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
    /// Whether there is no copy of shard 3 here.
    blank: AtomicBool,
    /// Whether node 4 learns all shards.
    learns: AtomicBool,
    handed: Mutex<Vec<(ShardId, NodeId)>>,
    /// What the next change of voters comes to; it is refused without.
    reshaped: Mutex<Option<Reshaped>>,
    /// The shards whose voters were to change, in this order.
    steps: Mutex<Vec<ShardId>>,
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
            let blank = shard == 3 && self.blank.load(Ordering::Acquire);
            ShardView {
                followers: self.lags.iter().map(follower).collect(),
                learners: self
                    .learns
                    .load(Ordering::Acquire)
                    .then_some(4)
                    .into_iter()
                    .collect(),
                refusal: refused.then(|| "damaged".to_owned()),
                last_log_index: (!blank).then_some(1000),
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
        shard: ShardId,
        _voters: BTreeSet<NodeId>,
        _reachable: BTreeSet<NodeId>,
    ) -> BoxFuture<'_, Result<Reshaped, String>> {
        self.steps.lock().push(shard);
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
        blank: AtomicBool::new(false),
        learns: AtomicBool::new(false),
        handed: Mutex::default(),
        reshaped: Mutex::default(),
        steps: Mutex::default(),
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

const LIMITS: RouterLimits = RouterLimits {
    leader_wait: Duration::from_millis(200),
    isolated_wait: Duration::from_millis(40),
    answer_bytes: 1 << 20,
    lapse: Duration::from_secs(1),
};

mod damage;
mod drains;
mod gaps;
mod members;
mod space;
mod steps;
mod transfers;
