//! Moving copies until they are where the members say.
//!
//! Done by the node that leads the shard in which the members are written down; everybody else lets
//! it pass. Refuses to remember anything but which steps were refused: each round asks all nodes how it
//! is, plans, and lets the leaders of the shards concerned take a step. Invariants: two conductors, as
//! there may be for a moment, do no harm, for each step is decided by the leader of its shard from its
//! own membership; a step that is refused time and again is tried behind all others, so that it holds
//! up none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use phalanx_actors::names::ShardId;

use super::Steward;
use super::moves::Need;
use crate::cluster::NodeId;
use crate::cluster::members::{MemberState, Members, MembersCommand, Standing};
use crate::cluster::placement::{Copies, MOVES_AT_ONCE, Member, Move, next_moves};
use crate::cluster::roster::Heard;
use crate::cluster::router::Router;
use crate::cluster::status::{NodeView, Reshaped, ShardView};
use crate::cluster::transport::CallKind;
use crate::cluster::wire;

/// How long the leader of a shard may take for a step.
const RESHAPE_WAIT: Duration = Duration::from_secs(12);

/// How members and copies stand.
pub(super) struct Survey {
    pub(super) members: Vec<Member>,
    pub(super) copies: Vec<Copies>,
    /// Every shard has a leader that could be asked, so nothing in `copies` is hearsay.
    pub(super) complete: bool,
    /// The members as they were known then.
    pub(super) heard: Option<Arc<Heard>>,
}

/// What a round of [`Steward::conduct`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// Somebody else conducts.
    NotMine,
    /// All is as it should be.
    Settled,
    /// Something was changed.
    Progress,
    /// Something is to be changed, but cannot be now.
    Stuck,
}

/// The shards whose steps were refused, and when: the number of the refusal, from 1.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    newest: u64,
    refused: BTreeMap<ShardId, u64>,
}

impl Refusals {
    fn count(&self) -> usize {
        self.refused.len()
    }

    /// The steps to take of those that are planned: first those that were not refused, then those whose
    /// refusal is longest ago.
    fn choose(&mut self, mut planned: Vec<Move>) -> Vec<Move> {
        let is_planned = |shard| planned.iter().any(|step| step.shard == shard);
        self.refused.retain(|shard, _| is_planned(*shard));
        planned.sort_by_key(|step| self.refused.get(&step.shard).copied());
        planned.truncate(MOVES_AT_ONCE);
        planned
    }

    /// What became of a step.
    fn note(&mut self, shard: ShardId, refused: bool) {
        if refused {
            self.newest += 1;
            self.refused.insert(shard, self.newest);
        } else {
            self.refused.remove(&shard);
        }
    }
}

impl Steward {
    /// Takes the next steps, if this node conducts.
    pub(super) async fn conduct(&self, router: &Router) -> Round {
        let Some(stream) = Members::stream() else {
            return Round::NotMine;
        };
        let me = self.membership.me;
        if !self.leaders.is_leader(stream.shard(router.shards()), me) {
            return Round::NotMine;
        }
        let views = self.views().await;
        let survey = self.survey(&views);
        let factor = self.membership.replication_factor;
        // More than are taken, so that enough are left without those that were refused.
        let most = MOVES_AT_ONCE + self.refusals.lock().count();
        let planned = next_moves(&survey.members, &survey.copies, factor, most);
        let moves = self.refusals.lock().choose(planned);
        let planned = !moves.is_empty();
        let steps = join_all(moves.into_iter().map(|step| self.take_step(step))).await;
        let mut progress = steps.into_iter().any(|moved| moved);
        let waiting = self.confirm(router, &survey, planned, &mut progress).await;
        // A damaged copy may be blank the next time.
        let damaged = survey.copies.iter().any(|found| !found.damaged.is_empty());
        match (progress, planned || waiting || damaged || !survey.complete) {
            (true, _) => Round::Progress,
            (false, true) => Round::Stuck,
            (false, false) => Round::Settled,
        }
    }

    /// Says which members have arrived or gone. Whether any is still on its way.
    async fn confirm(
        &self,
        router: &Router,
        survey: &Survey,
        planned: bool,
        progress: &mut bool,
    ) -> bool {
        let (commands, mut waiting) = survey.confirmations(planned);
        for command in commands {
            match self.command(router, &command).await {
                Ok(()) => *progress = true,
                Err(error) => {
                    waiting = true;
                    tracing::warn!(?command, %error, "a change of the members is not confirmed");
                }
            }
        }
        waiting
    }

    /// Whether the step changed anything.
    async fn take_step(&self, step: Move) -> bool {
        let Move { shard, voters } = step;
        let Some(led) = self.leaders.known(shard).led() else {
            return false;
        };
        let outcome = if led.node == self.membership.me {
            self.reshape_here(shard, voters.clone()).await
        } else {
            let request = wire::housekeeping(&(shard, &voters)).unwrap_or_default();
            let asked = self.ask(led.node, CallKind::Reshape, request, RESHAPE_WAIT);
            asked.await.unwrap_or_else(|error| Err(error.to_string()))
        };
        self.refusals.lock().note(shard, outcome.is_err());
        match outcome {
            Ok(Reshaped::Done) => {
                tracing::info!(shard, ?voters, "moved a copy");
                true
            }
            Ok(Reshaped::HandOver { .. }) => true,
            Ok(Reshaped::Unfinished { reason }) => {
                tracing::info!(shard, ?voters, %reason, "a copy is on its way");
                false
            }
            Err(reason) => {
                tracing::warn!(shard, ?voters, %reason, "a copy was not moved");
                false
            }
        }
    }

    /// Takes a step of a shard that this node leads.
    pub(super) async fn reshape_here(
        &self,
        shard: ShardId,
        voters: BTreeSet<NodeId>,
    ) -> Result<Reshaped, String> {
        let me = self.membership.me;
        let peers = self.peers.peers().into_iter();
        let reachable = peers.filter(|peer| self.peers.is_connected(*peer));
        let reachable: BTreeSet<NodeId> = reachable.chain([me]).collect();
        let outcome = self.groups.reshape(shard, voters, reachable).await?;
        let Reshaped::HandOver { to } = &outcome else {
            return Ok(outcome);
        };
        let led = self.leaders.known(shard).led();
        let led = led.filter(|led| led.node == me);
        let led = led.ok_or("this node does not lead the shard")?;
        let views = self.views().await;
        let to = self.best_of(to, shard, &views, &BTreeMap::new(), Need::Certain);
        let to = to.ok_or("nobody who stays has caught up and can take over")?;
        let moved = self.move_away(led, shard, to, Need::Certain).await;
        moved.map(|_| outcome).map_err(|error| error.to_string())
    }

    /// How members and copies stand, by what their leaders say.
    pub(super) fn survey(&self, views: &[NodeView]) -> Survey {
        let heard = self.membership.roster.heard();
        let member = |(id, _): (NodeId, String)| {
            let view = views.iter().find(|view| view.node == id);
            let noted = heard
                .as_ref()
                .and_then(|heard| heard.members.nodes.get(&id));
            Member {
                id,
                zone: noted.map(|noted| noted.zone.clone()).unwrap_or_default(),
                stays: noted.is_none_or(|noted| noted.standing != Standing::Leaving)
                    && heard.as_ref().is_none_or(|h| h.members.holds_copies(id)),
                reachable: view.is_some(),
                roomy: view.is_some_and(|view| !view.full),
            }
        };
        let members = self.membership.roster.members().into_iter().map(member);
        let mut complete = true;
        let copies = self.groups.shards().into_iter().map(|own| {
            let leads = leader_view(views, own.shard);
            complete &= leads.is_some_and(|view| !view.changing);
            Copies {
                damaged: damaged(views, own.shard),
                ..copies(leads.unwrap_or(&own))
            }
        });
        let copies = copies.collect();
        Survey {
            members: members.collect(),
            copies,
            complete,
            heard,
        }
    }
}

impl Survey {
    /// Which members have arrived or gone, and whether any is still on its way. It goes by who was a
    /// member when the copies were looked at: a node that was told to leave since then may have been
    /// given a copy in the meantime.
    pub(super) fn confirmations(&self, planned: bool) -> (Vec<MembersCommand>, bool) {
        let holds = |id: NodeId| {
            let mut copies = self.copies.iter();
            copies.any(|found| found.voters.contains(&id) || found.learners.contains(&id))
        };
        let reachable = |id: NodeId| self.members.iter().any(|m| m.id == id && m.reachable);
        // Until it has said what it does, nobody knows what its share is.
        let announced = |member: &MemberState| !member.incarnation.is_empty();
        let mut waiting = false;
        let mut commands = Vec::new();
        let nodes = self.heard.iter().flat_map(|heard| &heard.members.nodes);
        for (id, member) in nodes {
            let id = *id;
            match member.standing {
                Standing::Joining
                    if self.complete && !planned && reachable(id) && announced(member) =>
                {
                    commands.push(MembersCommand::ConfirmJoined { id });
                }
                Standing::Leaving if self.complete && !holds(id) => {
                    commands.push(MembersCommand::ConfirmRemoved { id });
                }
                Standing::Joining | Standing::Leaving => waiting = true,
                Standing::Member | Standing::Removed => {}
            }
        }
        (commands, waiting)
    }
}

/// A shard as its leader sees it.
pub(super) fn leader_view(views: &[NodeView], shard: ShardId) -> Option<&ShardView> {
    let leads = views.iter().filter_map(|view| {
        let at = view.shards.iter().find(|found| found.shard == shard)?;
        (at.leader == Some(view.node) && at.serving).then_some(at)
    });
    leads.max_by_key(|at| at.term)
}

/// The nodes that refuse a shard: their copies neither vote nor confirm, whatever is wrong with them.
fn damaged(views: &[NodeView], shard: ShardId) -> BTreeSet<NodeId> {
    let refuses = |view: &&NodeView| {
        let mut shards = view.shards.iter();
        shards.any(|found| found.shard == shard && found.refusal.is_some())
    };
    views.iter().filter(refuses).map(|view| view.node).collect()
}

fn copies(view: &ShardView) -> Copies {
    let voters = if view.becoming.is_empty() {
        &view.voters
    } else {
        &view.becoming
    };
    Copies {
        voters: voters.iter().copied().collect(),
        learners: view.learners.iter().copied().collect(),
        changing: view.changing,
        damaged: BTreeSet::new(),
    }
}
