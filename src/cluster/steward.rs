//! The cluster's housekeeping on one node: how it sees members and shards, and moving leaders.
//!
//! It owns the node's resolve to take no more leaderships (draining). It refuses to touch data or
//! membership. Invariant: a leader is moved only to a connected voter that is not draining and has
//! nearly all of the log, so a move never waits for somebody to catch up.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use phalanx_actors::names::ShardId;
use phalanx_actors::ports::BoxFuture;
use tokio::time::Instant;

use super::NodeId;
use super::leaders::Leaders;
use super::peers::Peers;
use super::status::{
    ClusterView, Drained, Kept, MemberRole, MemberState, MemberView, MoveError, Moved, NodeView,
    ShardView,
};
use super::transport::{CallKind, Lane, PeerState};
use super::wire::{self, Led};

/// How long a peer may take to say how it is.
const STATUS_WAIT: Duration = Duration::from_millis(500);
/// How long a new leader may take to be known.
const MOVE_WAIT: Duration = Duration::from_secs(2);
/// How long a whole drain may take.
const DRAIN_WAIT: Duration = Duration::from_secs(8);
/// Leaders that move at the same time.
const MOVES_AT_ONCE: usize = 3;
/// The most entries that a new leader may lack when it is told to take over.
const MOST_LAG: u64 = 256;

/// The raft groups of this node.
pub trait Groups: Debug + Send + Sync + 'static {
    /// Every shard as this node sees it.
    fn shards(&self) -> Vec<ShardView>;

    /// Asks the group of a shard that this node leads to hand it to a voter.
    ///
    /// # Errors
    /// When the group does not run.
    fn hand_over(&self, shard: ShardId, to: NodeId) -> BoxFuture<'_, Result<(), String>>;

    /// Stands for no election from now on.
    fn stand_aside(&self);
}

/// Who the members are.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The cluster's name.
    pub name: String,
    /// This node.
    pub me: NodeId,
    /// Made when this node's data directory was formatted.
    pub incarnation: String,
    /// Every member with its address, this one included, by id.
    pub members: Vec<(NodeId, String)>,
}

/// See the file's description.
#[derive(Debug)]
pub struct Steward {
    membership: Membership,
    peers: Arc<dyn Peers>,
    leaders: Arc<Leaders>,
    groups: Arc<dyn Groups>,
    draining: AtomicBool,
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
            draining: AtomicBool::new(false),
        }
    }

    /// What this node says of itself.
    #[must_use]
    pub fn node_view(&self) -> NodeView {
        NodeView {
            node: self.membership.me,
            incarnation: self.membership.incarnation.clone(),
            draining: self.draining.load(Ordering::Acquire),
            shards: self.groups.shards(),
        }
    }

    /// Every member that can be asked, this one included.
    async fn views(&self) -> Vec<NodeView> {
        let asked = self
            .peers
            .peers()
            .into_iter()
            .map(|peer| self.ask_view(peer));
        let mut views: Vec<NodeView> = join_all(asked).await.into_iter().flatten().collect();
        views.push(self.node_view());
        views
    }

    async fn ask_view(&self, peer: NodeId) -> Option<NodeView> {
        if !self.peers.is_connected(peer) {
            return None;
        }
        let call = self.peers.call(
            peer,
            Lane::Command,
            CallKind::Status,
            Bytes::new(),
            STATUS_WAIT,
        );
        wire::read_housekeeping(&call.await.ok()?).ok()
    }

    /// The members, as this node sees them.
    pub async fn cluster(&self) -> ClusterView {
        let views = self.views().await;
        let own = self.groups.shards();
        let member = |(id, address): &(NodeId, String)| {
            let view = views.iter().find(|view| view.node == *id);
            let (state, reason) = self.state_of(*id);
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
                role: match view {
                    Some(view) if view.draining => MemberRole::Draining,
                    Some(_) => MemberRole::Serving,
                    None => MemberRole::Unknown,
                },
                leads: count(true),
                follows: count(false),
            }
        };
        ClusterView {
            name: self.membership.name.clone(),
            node: self.membership.me,
            shards: u32::try_from(own.len()).unwrap_or(u32::MAX),
            members: self.membership.members.iter().map(member).collect(),
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
            }
        }
        shards
    }

    /// Hands a shard to another voter, wherever it is led.
    ///
    /// # Errors
    /// See [`MoveError`].
    pub async fn transfer(&self, shard: ShardId, to: NodeId) -> Result<Moved, MoveError> {
        let shards = u32::try_from(self.groups.shards().len()).unwrap_or(u32::MAX);
        if shard >= shards {
            return Err(MoveError::NoShard { shard, shards });
        }
        let known = self.leaders.known(shard);
        let Some(led) = known.led() else {
            return Err(MoveError::NoLeader { shard });
        };
        if led.node == self.membership.me {
            return self.move_away(led, shard, to).await;
        }
        let request = wire::housekeeping(&(shard, to)).unwrap_or_default();
        self.ask(led.node, CallKind::Transfer, request, MOVE_WAIT * 2)
            .await?
    }

    /// Hands over everything that a member leads, and lets it take nothing new until it is
    /// restarted.
    ///
    /// # Errors
    /// See [`MoveError`]; what could not be handed over is in the answer.
    pub async fn drain(&self, node: NodeId) -> Result<Drained, MoveError> {
        if node == self.membership.me {
            return Ok(self.drain_this().await);
        }
        if !self.membership.members.iter().any(|(id, _)| *id == node) {
            return Err(MoveError::NoMember { node });
        }
        self.ask(node, CallKind::Drain, Bytes::new(), DRAIN_WAIT)
            .await
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        node: NodeId,
        kind: CallKind,
        request: Bytes,
        within: Duration,
    ) -> Result<T, MoveError> {
        let unreachable = |reason: String| MoveError::Unreachable { node, reason };
        let call = self.peers.call(node, Lane::Command, kind, request, within);
        let answer = call.await.map_err(|error| unreachable(error.to_string()))?;
        wire::read_housekeeping(&answer).map_err(|error| unreachable(error.to_string()))
    }

    /// Hands over everything that this node leads.
    pub async fn drain_this(&self) -> Drained {
        let me = self.membership.me;
        self.draining.store(true, Ordering::Release);
        if self.peers.peers().is_empty() {
            // A cluster of one has nobody to hand anything to.
            let kept = |shard| Kept {
                shard,
                reason: "there is no other member".to_owned(),
            };
            let kept = self.leaders.led_by(me).into_iter().map(kept).collect();
            return Drained {
                node: me,
                draining: true,
                moved: Vec::new(),
                kept,
            };
        }
        let deadline = Instant::now() + DRAIN_WAIT - MOVE_WAIT;
        let mut moved = Vec::new();
        loop {
            // Each time: a group that has just started lets itself be elected a moment later.
            self.groups.stand_aside();
            let views = self.views().await;
            let mut moves = FuturesUnordered::new();
            let mut outcomes = Vec::new();
            let mut planned = BTreeMap::new();
            for shard in self.leaders.led_by(me) {
                if moves.len() >= MOVES_AT_ONCE {
                    outcomes.extend(moves.next().await);
                }
                let to = self.best_for(shard, &views, &planned);
                if let Some(to) = to {
                    *planned.entry(to).or_insert(0) += 1;
                }
                moves.push(self.move_somewhere(shard, to));
            }
            outcomes.extend(moves.collect::<Vec<_>>().await);
            let mut kept = Vec::new();
            for outcome in outcomes {
                match outcome {
                    Ok(done) => moved.push(done),
                    Err(reason) => kept.push(reason),
                }
            }
            if kept.is_empty() && self.leaders.led_by(me).is_empty() || Instant::now() >= deadline {
                tracing::info!(moved = moved.len(), kept = kept.len(), "drained");
                return Drained {
                    node: me,
                    draining: true,
                    moved,
                    kept,
                };
            }
            // Whatever kept them, a copy that lags or an election, takes a moment to pass.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The best of a shard's other voters to lead it. `planned` counts what each node is about to get
    /// besides.
    fn best_for(
        &self,
        shard: ShardId,
        views: &[NodeView],
        planned: &BTreeMap<NodeId, usize>,
    ) -> Option<NodeId> {
        let own = self.groups.shards();
        let view = own.iter().find(|view| view.shard == shard);
        let voters = view.map(|view| view.voters.as_slice()).unwrap_or_default();
        let followers = view.map(|v| v.followers.as_slice()).unwrap_or_default();
        let candidates = voters.iter().filter(|voter| {
            let ready = |view: &NodeView| view.node == **voter && !view.draining;
            **voter != self.membership.me && views.iter().any(ready)
        });
        let best = candidates.min_by_key(|voter| {
            let follower = followers.iter().find(|f| f.node == **voter);
            let lag = follower.map_or(u64::MAX, |follower| follower.lag);
            let leads = self.leaders.led_by(**voter).len();
            let more = planned.get(voter).copied().unwrap_or_default();
            // Those that are nearly there are equally good; among them the one with least to do.
            (lag / MOST_LAG, leads + more)
        });
        best.copied()
    }

    /// Hands a shard that this node leads to the voter that was chosen.
    async fn move_somewhere(&self, shard: ShardId, to: Option<NodeId>) -> Result<Moved, Kept> {
        let kept = |reason: &str| Kept {
            shard,
            reason: reason.to_owned(),
        };
        let led = self.leaders.known(shard).led();
        let led = led.ok_or_else(|| kept("it has no leader at the moment"))?;
        let to = to.ok_or_else(|| kept("no other voter can be asked"))?;
        self.move_away(led, shard, to)
            .await
            .map_err(|error| kept(&error.to_string()))
    }

    /// Hands a shard that this node leads to another voter, and waits until that one leads.
    async fn move_away(&self, led: Led, shard: ShardId, to: NodeId) -> Result<Moved, MoveError> {
        let from = led.node;
        let moved = |to, term| Moved {
            shard,
            from,
            to,
            term,
        };
        if to == from {
            return Ok(moved(to, led.term));
        }
        self.may_take(led, shard, to).await?;
        let Some(mut news) = self.leaders.watch(shard) else {
            return Err(MoveError::NoLeader { shard });
        };
        let refused = |reason| MoveError::Refused {
            shard,
            leader: from,
            reason,
        };
        self.groups.hand_over(shard, to).await.map_err(refused)?;
        let newer = news.wait_for(|known| known.term > led.term && known.leader.is_some());
        match tokio::time::timeout(MOVE_WAIT, newer).await {
            Ok(Ok(known)) => match known.leader {
                // Somebody else may have been quicker; the shard has moved all the same.
                Some(to) => Ok(moved(to, known.term)),
                None => Err(MoveError::NoLeader { shard }),
            },
            Ok(Err(_)) | Err(_) => Err(MoveError::TooSlow { shard, to }),
        }
    }

    /// Whether a node may take a shard over now.
    async fn may_take(&self, led: Led, shard: ShardId, to: NodeId) -> Result<(), MoveError> {
        let refused = |reason: String| MoveError::Refused {
            shard,
            leader: led.node,
            reason,
        };
        let shards = self.groups.shards();
        let view = shards.iter().find(|view| view.shard == shard);
        if !view.is_some_and(|view| view.voters.contains(&to)) {
            return Err(refused(format!("node {to} is not one of its voters")));
        }
        match self.ask_view(to).await {
            None => Err(refused(format!("node {to} cannot be asked"))),
            Some(there) if there.draining => Err(refused(format!("node {to} is draining"))),
            Some(_) => {
                let follower = view.and_then(|v| v.followers.iter().find(|f| f.node == to));
                let lag = follower.map_or(u64::MAX, |follower| follower.lag);
                if lag > MOST_LAG {
                    return Err(refused(format!("node {to} still lacks {lag} log entries")));
                }
                Ok(())
            }
        }
    }

    /// Answers a peer.
    ///
    /// # Errors
    /// When the request cannot be read.
    pub async fn receive(&self, kind: CallKind, request: &[u8]) -> Result<Bytes, String> {
        let answer = match kind {
            CallKind::Transfer => {
                let (shard, to): (ShardId, NodeId) =
                    wire::read_housekeeping(request).map_err(|error| error.to_string())?;
                let led = self.leaders.known(shard).led();
                let outcome = match led.filter(|led| led.node == self.membership.me) {
                    Some(led) => self.move_away(led, shard, to).await,
                    None => Err(MoveError::NoLeader { shard }),
                };
                wire::housekeeping(&outcome)
            }
            CallKind::Drain => wire::housekeeping(&self.drain_this().await),
            _ => wire::housekeeping(&self.node_view()),
        };
        answer.map_err(|error| error.to_string())
    }
}
