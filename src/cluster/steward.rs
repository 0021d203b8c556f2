//! The cluster's housekeeping on one node: how it sees members and shards, moving leaders, and
//! moving copies.
//!
//! It owns what the parts below share. It refuses to touch data, and to remember how far a change of
//! the members is: it looks. Invariant: a leader is moved only to a connected voter that has nearly all
//! of the log, so a move never waits for somebody to catch up, and to one that is draining only if the
//! leader or its copy goes and nobody else is left.
//!
//! `moves`, `drain`, `balance` and `space` move leaders; `follow` learns who the members are, `conduct` moves
//! copies accordingly, `change` is asked to add and remove members, `release` says when a damaged copy may go.

mod balance;
mod change;
mod conduct;
mod drain;
mod follow;
mod moves;
mod release;
mod space;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use phalanx_actors::names::ShardId;
use phalanx_actors::ports::BoxFuture;

pub use self::change::ChangeError;
pub use self::drain::UndrainError;
pub(crate) use self::moves::MOST_LAG;
use self::moves::{Need, as_asked};
use super::NodeId;
use super::feed::Copy;
use super::leaders::Leaders;
use super::members::Standing;
use super::peers::Peers;
use super::placement::pending;
use super::queries::Roles;
use super::roles::{self, Role};
use super::roster::Roster;
use super::status::{
    ClusterView, LogEnd, MemberRole, MemberState, MemberView, MoveError, NodeView, Reshaped,
    ShardView,
};
use super::transport::{CallKind, Lane, PeerState};
use super::wire;

/// How long a peer may take to say how it is.
const STATUS_WAIT: Duration = Duration::from_millis(500);

/// The raft groups of this node.
pub trait Groups: Debug + Send + Sync + 'static {
    /// Every shard as this node sees it.
    fn shards(&self) -> Vec<ShardView>;

    /// Asks the group of a shard that this node leads to hand it to a voter.
    ///
    /// # Errors
    /// When the group does not run.
    fn hand_over(&self, shard: ShardId, to: NodeId) -> BoxFuture<'_, Result<(), String>>;

    /// Whether this node's disk has no space for commands.
    fn is_full(&self) -> bool;

    /// Stands for no election in a shard from now on, or does again.
    fn stand_aside(&self, shard: ShardId, aside: bool);

    /// Stands for no election in a shard whose leader, with a log up to `without`, does not count this
    /// node; `None` takes that back.
    fn retire(&self, shard: ShardId, without: Option<LogEnd>);

    /// Goes on towards these voters of a shard that this node leads; `reachable` says who can be
    /// expected to answer.
    ///
    /// # Errors
    /// When this node does not lead it, or raft refuses for now.
    fn reshape(
        &self,
        shard: ShardId,
        voters: BTreeSet<NodeId>,
        reachable: BTreeSet<NodeId>,
    ) -> BoxFuture<'_, Result<Reshaped, String>>;
}

/// Who this node is, and how it learns who the members are.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The cluster's name.
    pub name: String,
    /// This node.
    pub me: NodeId,
    /// Made when this node's data directory was formatted.
    pub incarnation: String,
    /// The failure zone of this node.
    pub zone: String,
    /// What this node does.
    pub roles: BTreeSet<Role>,
    /// Copies of each shard that are wanted.
    pub replication_factor: usize,
    /// What this node knows of the members.
    pub roster: Arc<Roster>,
}

/// See the file's description.
#[derive(Debug)]
pub struct Steward {
    membership: Membership,
    peers: Arc<dyn Peers>,
    leaders: Arc<Leaders>,
    groups: Arc<dyn Groups>,
    /// Why this node leads nothing, if there is a reason. Held while the groups are told.
    away: Mutex<drain::Reasons>,
    /// Held while everything is handed over, once.
    handing: tokio::sync::Mutex<()>,
    /// Shards in which this node stands for no election; see [`Groups::retire`].
    retired: Mutex<BTreeSet<ShardId>>,
    /// Which steps of moving copies were refused.
    refusals: Mutex<conduct::Refusals>,
    /// Held from taking news of the members until the transport goes by them.
    hearing: Mutex<()>,
    /// Wakes [`Steward::follow`]: there may be news.
    nudge: tokio::sync::Notify,
    /// Somebody has said so since the last look of [`Steward::follow`]: copies are to be moved.
    heard_of_damage: AtomicBool,
}

impl Steward {
    /// A node that drains nothing yet.
    #[must_use]
    pub fn new(
        membership: Membership,
        peers: Arc<dyn Peers>,
        leaders: Arc<Leaders>,
        groups: Arc<dyn Groups>,
    ) -> Self {
        Self {
            membership,
            peers,
            leaders,
            groups,
            away: Mutex::default(),
            handing: tokio::sync::Mutex::default(),
            retired: Mutex::default(),
            refusals: Mutex::default(),
            hearing: Mutex::default(),
            nudge: tokio::sync::Notify::new(),
            heard_of_damage: AtomicBool::new(false),
        }
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.membership.me
    }

    /// What this node says of itself.
    #[must_use]
    pub fn node_view(&self) -> NodeView {
        NodeView {
            node: self.membership.me,
            incarnation: self.membership.incarnation.clone(),
            draining: self.is_draining(),
            shards: self.groups.shards(),
            full: self.groups.is_full(),
        }
    }

    /// What this node has of each shard, as far as it knows; damage is not looked for.
    #[must_use]
    pub fn copies(&self) -> Vec<Copy> {
        let me = self.membership.me;
        let copy = |shard: ShardView| {
            if shard.refusal.is_some() {
                Copy::None
            } else if shard.voters.contains(&me) {
                Copy::Full
            } else if shard.learners.contains(&me) {
                Copy::Building
            } else {
                Copy::None
            }
        };
        self.groups.shards().into_iter().map(copy).collect()
    }

    /// The numbers of all shards.
    fn every_shard(&self) -> Range<ShardId> {
        0..u32::try_from(self.groups.shards().len()).unwrap_or(u32::MAX)
    }

    /// Every member that can be asked, this one included.
    async fn views(&self) -> Vec<NodeView> {
        let mut own = self.groups.shards().into_iter();
        let request = match own.any(|shard| shard.refusal.is_some()) {
            true => wire::WITH_DAMAGE,
            false => Bytes::new(),
        };
        let peers = self.peers.peers().into_iter();
        let asked = peers.map(|peer| self.ask_view(peer, request.clone()));
        let mut views: Vec<NodeView> = join_all(asked).await.into_iter().flatten().collect();
        views.push(self.node_view());
        views
    }

    async fn ask_view(&self, peer: NodeId, request: Bytes) -> Option<NodeView> {
        if !self.peers.is_connected(peer) {
            return None;
        }
        let call = self
            .peers
            .call(peer, Lane::Command, CallKind::Status, request, STATUS_WAIT);
        let answer = call.await.ok()?;
        wire::read_node_view(&answer, self.peers.protocol(peer)).ok()
    }

    /// The members, as this node sees them.
    pub async fn cluster(&self) -> ClusterView {
        let views = self.views().await;
        let own = self.groups.shards();
        let survey = self.survey(&views);
        let factor = self.membership.replication_factor;
        let left = pending(&survey.members, &survey.copies, factor);
        let member = |(id, address): &(NodeId, String)| {
            let view = views.iter().find(|view| view.node == *id);
            let (state, reason) = self.state_of(*id);
            let standing = self.membership.roster.standing(*id);
            let count = |leads: bool| {
                let shards = own.iter().filter(|s| s.voters.contains(id));
                let some = shards.filter(|s| (s.leader == Some(*id)) == leads).count();
                u32::try_from(some).unwrap_or(u32::MAX)
            };
            MemberView {
                id: *id,
                address: address.clone(),
                incarnation: view.map(|view| view.incarnation.clone()),
                state,
                reason,
                role: match (standing, view) {
                    (Some(Standing::Leaving), _) => MemberRole::Leaving,
                    (Some(Standing::Joining), _) => MemberRole::Joining,
                    (_, Some(view)) if view.draining => MemberRole::Draining,
                    (_, Some(_)) => MemberRole::Serving,
                    (_, None) => MemberRole::Unknown,
                },
                roles: self.roles_of(*id).into_iter().collect(),
                leads: count(true),
                follows: count(false),
                disk_full: view.is_some_and(|view| view.full),
            }
        };
        ClusterView {
            name: self.membership.name.clone(),
            node: self.membership.me,
            shards: u32::try_from(own.len()).unwrap_or(u32::MAX),
            pending_moves: u32::try_from(left).unwrap_or(u32::MAX),
            members: self
                .membership
                .roster
                .members()
                .iter()
                .map(member)
                .collect(),
        }
    }

    fn state_of(&self, node: NodeId) -> (MemberState, Option<String>) {
        if node == self.membership.me {
            return (MemberState::This, None);
        }
        match self.peers.state(node) {
            Some(PeerState::Connected) => (MemberState::Connected, None),
            Some(PeerState::Refused(reason)) => (MemberState::Refused, Some(reason)),
            Some(PeerState::Unreachable { since, reason }) => {
                let seconds = since.elapsed().as_secs();
                let reason = format!("{reason} (for {seconds} s)");
                (MemberState::Unreachable, Some(reason))
            }
            None => {
                let reason = "this node does not know it".to_owned();
                (MemberState::Unreachable, Some(reason))
            }
        }
    }

    /// The shards as this node sees them; how far the copies are comes from each shard's leader.
    pub async fn shards(&self) -> Vec<ShardView> {
        let views = self.views().await;
        let mut shards = self.groups.shards();
        for shard in &mut shards {
            let Some(leader) = shard.leader.filter(|l| *l != self.membership.me) else {
                continue;
            };
            let view = views.iter().find(|view| view.node == leader);
            let there = view.and_then(|v| v.shards.iter().find(|s| s.shard == shard.shard));
            if let Some(there) = there {
                shard.followers.clone_from(&there.followers);
                if there.term >= shard.term {
                    shard.voters.clone_from(&there.voters);
                    shard.learners.clone_from(&there.learners);
                    shard.becoming.clone_from(&there.becoming);
                    shard.changing = there.changing;
                }
            }
        }
        shards
    }

    /// Answers a peer.
    ///
    /// # Errors
    /// When the request cannot be read.
    pub async fn receive(
        &self,
        from: NodeId,
        kind: CallKind,
        request: &[u8],
    ) -> Result<Bytes, String> {
        let answer = match kind {
            CallKind::Transfer => {
                let (shard, to): (ShardId, NodeId) =
                    wire::read_housekeeping(request).map_err(|error| error.to_string())?;
                let led = self.leaders.known(shard).led();
                let outcome = match led.filter(|led| led.node == self.membership.me) {
                    Some(led) => self
                        .move_away(led, shard, to, Need::None)
                        .await
                        .and_then(|moved| as_asked(moved, to)),
                    None => Err(MoveError::NoLeader { shard }),
                };
                wire::housekeeping(&outcome)
            }
            CallKind::Drain => wire::housekeeping(&self.drain_this().await),
            CallKind::Undrain => wire::housekeeping(&self.undrain_this()),
            CallKind::Reshape => {
                let (shard, voters): (ShardId, BTreeSet<NodeId>) =
                    wire::read_housekeeping(request).map_err(|error| error.to_string())?;
                wire::housekeeping(&self.reshape_here(shard, voters).await)
            }
            _ => {
                if request == wire::WITH_DAMAGE {
                    self.heard_of_damage.store(true, Ordering::Release);
                }
                wire::node_view(&self.node_view(), self.peers.protocol(from))
            }
        };
        answer.map_err(|error| error.to_string())
    }
}

impl Roles for Steward {
    fn roles_of(&self, node: NodeId) -> BTreeSet<Role> {
        if node == self.membership.me {
            return self.membership.roles.clone();
        }
        let heard = self.membership.roster.heard();
        heard.map_or_else(roles::all, |heard| heard.members.roles_of(node))
    }
}

#[cfg(test)]
mod tests;
