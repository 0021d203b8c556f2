//! Learning who the members are, and acting upon it.
//!
//! Each node looks every second: it reads the members, connects to them and to nobody else, says
//! what it is like itself, drains when it is to leave, and lets `conduct` move copies. Refuses to
//! wait for what does not answer: the next look comes. Invariant: what a node goes by is what it
//! read last, so that all nodes come to go by the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Steward;
use super::conduct::{Round, leader_view};
use crate::cluster::leaders::Known;
use crate::cluster::members::{Members, MembersCommand, Standing};
use crate::cluster::roles;
use crate::cluster::roster::Heard;
use crate::cluster::router::Router;
use crate::cluster::status::{LogEnd, ShardView};
use crate::cluster::transport::PeerState;
use crate::cluster::wire::Led;

/// The pause between two looks while copies are being moved.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How often a conductor looks at everybody though it has heard of nothing that happened.
const IDLE_ROUND: Duration = Duration::from_secs(10);

impl Steward {
    /// Looks every `interval`, and sooner while there is something to do, until it is dropped.
    pub async fn follow(self: Arc<Self>, router: Router, interval: Duration) {
        let mut settled: Option<(u64, Instant)> = None;
        let mut waiting = false;
        loop {
            self.take_a_look(&router, &mut waiting).await;
            self.fill_gaps().await;
            let sequence = self.membership.roster.heard().map(|heard| heard.sequence);
            let news = self.heard_of_damage.swap(false, Ordering::AcqRel);
            let rest = !news
                && settled
                    .is_some_and(|(at, when)| Some(at) == sequence && when.elapsed() < IDLE_ROUND);
            let mut pause = interval;
            if let Some(sequence) = sequence.filter(|_| !rest) {
                settled = None;
                match self.conduct(&router).await {
                    Round::Settled => settled = Some((sequence, Instant::now())),
                    Round::Progress => pause = BUSY_PAUSE,
                    Round::NotMine | Round::Stuck => {}
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.nudge.notified() => {}
            }
        }
    }

    /// Whether this node belongs to the cluster.
    ///
    /// # Errors
    /// With the reason, and what to do about it, when it does not.
    pub fn belongs(&self) -> Result<(), String> {
        let me = self.membership.me;
        let standing = self.membership.roster.standing(me);
        if self.peers.is_cast_out() || standing == Some(Standing::Removed) {
            return Err(format!(
                "node {me} was removed from the cluster and is no member any more; stop it"
            ));
        }
        if standing.is_none() {
            let address = self.membership.roster.own_address();
            return Err(format!(
                "node {me} waits to be added to the cluster: phalanx cluster join --id {me} \
                 --address {address} --url <http address of a member>"
            ));
        }
        self.is_let_in()
    }

    /// Whether a member lets this node in, or none says that it does not. Whoever looks why a node is
    /// not ready must find more than that it knows no leaders.
    fn is_let_in(&self) -> Result<(), String> {
        let peers = self.peers.peers();
        let mut states = peers.into_iter().map(|peer| self.peers.state(peer));
        let refused = states.try_fold(None, |refused, state| match state {
            Some(PeerState::Connected) => Err(()),
            Some(PeerState::Refused(reason)) => Ok(Some(reason)),
            Some(PeerState::Unreachable { .. }) | None => Ok(refused),
        });
        match refused {
            Ok(Some(reason)) => Err(format!("no connection to any member: {reason}")),
            Ok(None) | Err(()) => Ok(()),
        }
    }

    async fn take_a_look(&self, router: &Router, waiting: &mut bool) {
        let me = self.membership.me;
        match self.look(router).await {
            Ok(Some(_)) => {}
            Ok(None) => self.found(router).await,
            Err(failure) => {
                let reason = failure.detail;
                tracing::debug!(%reason, "who the members are could not be read");
            }
        }
        let standing = self.membership.roster.standing(me);
        match standing {
            Some(Standing::Joining | Standing::Member) => self.announce(router).await,
            Some(Standing::Leaving) => self.leave().await,
            Some(Standing::Removed) => {}
            None if !*waiting => {
                if let Err(reason) = self.belongs() {
                    tracing::info!("{reason}");
                }
            }
            None => {}
        }
        *waiting = standing.is_none();
    }

    /// Writes the founders down, if this node may.
    async fn found(&self, router: &Router) {
        let nodes = self.membership.roster.founding();
        let Some(stream) = Members::stream() else {
            return;
        };
        let mine = self
            .leaders
            .is_leader(stream.shard(router.shards()), self.membership.me);
        if nodes.is_empty() || !mine {
            return;
        }
        match self.command(router, &MembersCommand::Found { nodes }).await {
            Ok(()) => self.nudge.notify_one(),
            Err(error) => tracing::debug!(%error, "the founders could not be noted"),
        }
    }

    /// Goes by these members from now on, if they are news.
    pub(super) fn hear(&self, heard: Heard) {
        // One after another: whoever took the older news must not be the last to say whom to know.
        let _one = self.hearing.lock();
        match self.membership.roster.hear(heard) {
            Ok(false) => {}
            Ok(true) => {
                let members = self.membership.roster.members();
                tracing::info!(?members, "the members of the cluster");
                let left_out = self.membership.roster.left_out();
                if !left_out.is_empty() {
                    tracing::error!(
                        ?left_out,
                        "the cluster was founded without nodes that [[cluster.peers]] names here: the files \
                         of its founders did not name the same ones. Let these join under a new node.id and \
                         with an empty data directory"
                    );
                }
                let removed = self.membership.roster.standing(self.membership.me);
                if removed == Some(Standing::Removed)
                    && let Err(reason) = self.belongs()
                {
                    tracing::error!("{reason}");
                }
                self.peers.follow(&self.membership.roster.contacts());
            }
            Err(error) => tracing::error!(%error, "failed to note the members of the cluster"),
        }
    }

    /// Says what this node is like, where that is not known.
    async fn announce(&self, router: &Router) {
        let id = self.membership.me;
        let Some(heard) = self.membership.roster.heard() else {
            return;
        };
        let Some(noted) = heard.members.nodes.get(&id) else {
            return;
        };
        let address = self.membership.roster.own_address();
        let (zone, incarnation) = (&self.membership.zone, &self.membership.incarnation);
        let roles = &self.membership.roles;
        let same = noted.address == address
            && noted.zone == *zone
            && noted.incarnation == *incarnation
            && heard.members.roles_of(id) == *roles;
        if same {
            return;
        }
        let command = MembersCommand::Announce {
            id,
            address,
            zone: zone.clone(),
            incarnation: incarnation.clone(),
            // Not said where it goes without saying: an older release does not know the word.
            roles: if *roles == roles::all() {
                BTreeSet::new()
            } else {
                roles.clone()
            },
        };
        match self.command(router, &command).await {
            Ok(()) => self.nudge.notify_one(),
            Err(error) => tracing::warn!(%error, "what this node is like could not be noted"),
        }
    }

    fn retire(&self, shard: u32, without: Option<LogEnd>) {
        self.groups.retire(shard, without);
        let mut retired = self.retired.lock();
        if without.is_some() {
            retired.insert(shard);
        } else {
            retired.remove(&shard);
        }
    }

    /// The shards of which no copy here says who leads and who votes.
    fn gaps(&self) -> BTreeSet<u32> {
        let me = self.membership.me;
        // Whose group has ended hears nothing any more, nor does one that is blank since its damaged copy
        // was thrown away. What they said last may be that this node leads.
        let is_deaf = |view: &ShardView| view.refusal.is_some() || view.last_log_index.is_none();
        let is_gap = |view: &ShardView| {
            let shard = view.shard;
            is_deaf(view)
                || !self.leaders.voters(shard).contains(&me)
                || self.leaders.known(shard).leader.is_none()
                // The copy may have gone elsewhere while this node was away.
                || self.leaders.is_hearsay(shard)
                || self.retired.lock().contains(&shard)
        };
        let views = self.groups.shards().into_iter();
        views.filter(is_gap).map(|view| view.shard).collect()
    }

    /// Learns of shards that have no copy here, from those who do: nobody else tells.
    pub(super) async fn fill_gaps(&self) {
        let me = self.membership.me;
        let gaps = self.gaps();
        if gaps.is_empty() {
            return;
        }
        let views = self.views().await;
        // Where the own copy has spoken up meanwhile, it knows better than who was asked before.
        for shard in self.gaps().into_iter().filter(|shard| gaps.contains(shard)) {
            let view = leader_view(&views, shard);
            // Without a leader nobody can say that this node does not count, and its vote may be
            // the one that is needed.
            let without =
                view.filter(|view| !view.voters.contains(&me) && !view.learners.contains(&me));
            self.retire(shard, without.map(ShardView::log_end));
            let Some(view) = view else {
                continue;
            };
            self.leaders.set_voters(shard, &view.voters);
            let known: Known = self.leaders.known(shard);
            if let Some(node) = view.leader.filter(|_| view.term >= known.term) {
                let term = view.term;
                self.leaders.hear(shard, Led { node, term });
            }
        }
    }
}
