//! Moving leaders: one shard to a chosen voter, or all of a node's to whoever is fit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use phalanx_actors::names::ShardId;

use super::Steward;
use crate::cluster::NodeId;
use crate::cluster::members::Standing;
use crate::cluster::status::{Kept, MoveError, Moved, NodeView, ShardView};
use crate::cluster::transport::{CallError, CallKind, Lane, PeerState};
use crate::cluster::wire::{self, Led};

/// How long a new leader may take to be known.
pub(super) const MOVE_WAIT: Duration = Duration::from_secs(2);
/// Leaders that move at the same time.
pub(super) const MOVES_AT_ONCE: usize = 3;
/// How long a connection may take to be made again. Who is out of reach for longer is not waited for.
const BLIP: Duration = Duration::from_secs(1);
/// The most entries that a new leader may lack when it is told to take over.
pub(crate) const MOST_LAG: u64 = 256;

/// How much it matters that a shard goes, and with it who is given it if nobody better is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// It may as well stay: nobody who should not be given a shard gets it.
    None,
    /// This node should not lead it: a node without space gets it, too.
    Wanted,
    /// This node cannot lead it for long, as it or its copy goes: so does one that is drained. It leads
    /// what nobody else can, until somebody can.
    Certain,
}

/// What became of everything that a node led.
#[derive(Debug, Default)]
pub(super) struct HandedOver {
    pub(super) moved: Vec<Moved>,
    pub(super) kept: Vec<Kept>,
    /// Those of the kept that nobody else comes to lead by waiting.
    pub(super) hopeless: BTreeSet<ShardId>,
}

impl Steward {
    /// Hands a shard to another voter, wherever it is led.
    ///
    /// # Errors
    /// See [`MoveError`].
    pub async fn transfer(&self, shard: ShardId, to: NodeId) -> Result<Moved, MoveError> {
        let shards = self.every_shard().end;
        if shard >= shards {
            return Err(MoveError::NoShard { shard, shards });
        }
        self.known(to)?;
        let known = self.leaders.known(shard);
        let Some(led) = known.led() else {
            return Err(MoveError::NoLeader { shard });
        };
        if led.node == self.membership.me {
            return as_asked(self.move_away(led, shard, to, Need::None).await?, to);
        }
        let request = wire::housekeeping(&(shard, to)).unwrap_or_default();
        let asked = self.ask(led.node, CallKind::Transfer, request, MOVE_WAIT * 2);
        let moved: Result<Moved, MoveError> = asked.await?;
        if let Ok(moved) = &moved {
            self.note(moved);
        }
        moved
    }

    /// Whether a node is a member, as far as this node has heard.
    pub(super) fn known(&self, node: NodeId) -> Result<(), MoveError> {
        let is_member = self.member_ids().contains(&node);
        is_member.then_some(()).ok_or(MoveError::NoMember { node })
    }

    /// The members that this node knows of, itself included.
    #[must_use]
    pub fn member_ids(&self) -> Vec<NodeId> {
        let members = self.membership.roster.members().into_iter();
        members.map(|(id, _)| id).collect()
    }

    /// Whoever asked here for a move finds its outcome here, though this node's raft group may hear
    /// of it later.
    pub(super) fn note(&self, moved: &Moved) {
        let (node, term) = (moved.to, moved.term);
        self.leaders.hear(moved.shard, Led { node, term });
    }

    pub(super) async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        node: NodeId,
        kind: CallKind,
        request: Bytes,
        within: Duration,
    ) -> Result<T, MoveError> {
        let unreachable = |reason: String, unasked| MoveError::Unreachable {
            node,
            reason,
            unasked,
        };
        let call = self.peers.call(node, Lane::Command, kind, request, within);
        let answer = call.await.map_err(|error| {
            let unasked = matches!(error, CallError::NotSent { .. });
            unreachable(error.to_string(), unasked)
        })?;
        wire::read_housekeeping(&answer).map_err(|error| unreachable(error.to_string(), false))
    }

    /// Hands over everything that this node leads, once.
    pub(super) async fn hand_over_all(&self, need: Need) -> HandedOver {
        let need = match need {
            Need::Wanted if self.is_going() => Need::Certain,
            need => need,
        };
        let views = self.views().await;
        let mut moves = FuturesUnordered::new();
        let mut outcomes = Vec::new();
        let mut planned = BTreeMap::new();
        let mut handed = HandedOver::default();
        for shard in self.leaders.led_by(self.membership.me) {
            if moves.len() >= MOVES_AT_ONCE {
                outcomes.extend(moves.next().await);
            }
            let others = self.other_voters(shard);
            let to = self.best_of(&others, shard, &views, &planned, need);
            match to {
                Some(to) => *planned.entry(to).or_insert(0) += 1,
                None if self.is_hopeless(shard, &others, &views) => {
                    handed.hopeless.insert(shard);
                }
                None => {}
            }
            moves.push(self.move_somewhere(shard, to, need));
        }
        outcomes.extend(moves.collect::<Vec<_>>().await);
        for outcome in outcomes {
            match outcome {
                Ok(done) => handed.moved.push(done),
                Err(reason) => handed.kept.push(reason),
            }
        }
        handed
    }

    fn own_view(&self, shard: ShardId) -> Option<ShardView> {
        let mut own = self.groups.shards().into_iter();
        own.find(|view| view.shard == shard)
    }

    fn other_voters(&self, shard: ShardId) -> Vec<NodeId> {
        let voters = self.own_view(shard).map(|view| view.voters);
        let mut voters = voters.unwrap_or_default();
        voters.retain(|voter| *voter != self.membership.me);
        voters
    }

    /// The best of these voters to lead a shard that this node leads. `planned` counts what each node is
    /// about to get besides.
    pub(super) fn best_of(
        &self,
        voters: &[NodeId],
        shard: ShardId,
        views: &[NodeView],
        planned: &BTreeMap<NodeId, usize>,
        need: Need,
    ) -> Option<NodeId> {
        let own = self.own_view(shard);
        let followers = own.map(|own| own.followers).unwrap_or_default();
        let candidates = voters.iter().filter_map(|voter| {
            let view = views.iter().find(|view| view.node == *voter)?;
            self.takes(view, need).is_ok().then_some((voter, view))
        });
        let best = candidates.min_by_key(|(voter, view)| {
            let follower = followers.iter().find(|f| f.node == **voter);
            let lag = follower.map_or(u64::MAX, |follower| follower.lag);
            let leads = self.leaders.led_by(**voter).len();
            let more = planned.get(voter).copied().unwrap_or_default();
            // Those that are nearly there are equally good; among them the one with least to do.
            (view.draining, view.full, lag / MOST_LAG, leads + more)
        });
        best.map(|(voter, _)| *voter)
    }

    /// Whether a node is given a shard, or why not. It is not given what it would have to give back at
    /// once, as one that goes itself would.
    fn takes(&self, there: &NodeView, need: Need) -> Result<(), &'static str> {
        let Some(reason) = there.declines() else {
            return Ok(());
        };
        let standing = self.membership.roster.standing(there.node);
        let least = if !there.draining {
            Need::Wanted
        } else if standing != Some(Standing::Leaving) {
            Need::Certain
        } else {
            return Err(reason);
        };
        (need >= least).then_some(()).ok_or(reason)
    }

    /// Whether nobody can take a shard by waiting, when nobody can now: its voters stay as they are, and
    /// each of the others has said that it does not or has been out of reach for a while.
    fn is_hopeless(&self, shard: ShardId, others: &[NodeId], views: &[NodeView]) -> bool {
        let settled = |view: ShardView| !view.changing && view.learners.is_empty();
        let answered = |voter: &NodeId| views.iter().any(|view| view.node == *voter);
        let is_lost = |voter: &NodeId| match self.peers.state(*voter) {
            Some(PeerState::Connected) => answered(voter),
            Some(PeerState::Unreachable { since, .. }) => since.elapsed() >= BLIP,
            Some(PeerState::Refused(_)) | None => true,
        };
        self.own_view(shard).is_some_and(settled) && others.iter().all(is_lost)
    }

    /// Hands a shard that this node leads to the voter that was chosen.
    async fn move_somewhere(
        &self,
        shard: ShardId,
        to: Option<NodeId>,
        need: Need,
    ) -> Result<Moved, Kept> {
        let kept = |reason: &str| Kept {
            shard,
            reason: reason.to_owned(),
        };
        let led = self.leaders.known(shard).led();
        let led = led.ok_or_else(|| kept("it has no leader at the moment"))?;
        let to = to.ok_or_else(|| kept("no other voter can be asked and is not draining"))?;
        self.move_away(led, shard, to, need)
            .await
            .map_err(|error| kept(&error.to_string()))
    }

    /// Hands a shard that this node leads to another voter, and waits until that one leads.
    pub(super) async fn move_away(
        &self,
        led: Led,
        shard: ShardId,
        to: NodeId,
        need: Need,
    ) -> Result<Moved, MoveError> {
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
        self.may_take(led, shard, to, need).await?;
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
    async fn may_take(
        &self,
        led: Led,
        shard: ShardId,
        to: NodeId,
        need: Need,
    ) -> Result<(), MoveError> {
        let refused = |reason: String| MoveError::Refused {
            shard,
            leader: led.node,
            reason,
        };
        let view = self.own_view(shard);
        let view = view.as_ref();
        let voters = view.map(|view| view.voters.as_slice()).unwrap_or_default();
        if !voters.contains(&to) {
            let reason = format!("node {to} is not one of its voters, which are {voters:?}");
            return Err(refused(reason));
        }
        let Some(there) = self.ask_view(to, Bytes::new()).await else {
            return Err(refused(format!("node {to} cannot be asked")));
        };
        let takes = self.takes(&there, need);
        takes.map_err(|reason| refused(format!("node {to} {reason}")))?;
        let follower = view.and_then(|v| v.followers.iter().find(|f| f.node == to));
        let lag = follower.map_or(u64::MAX, |follower| follower.lag);
        if lag > MOST_LAG {
            return Err(refused(format!("node {to} still lacks {lag} log entries")));
        }
        Ok(())
    }
}

/// A move that somebody asked for has to end where it was to end.
pub(super) fn as_asked(moved: Moved, to: NodeId) -> Result<Moved, MoveError> {
    if moved.to == to {
        return Ok(moved);
    }
    let (shard, leader) = (moved.shard, moved.to);
    Err(MoveError::Elsewhere { shard, to, leader })
}
