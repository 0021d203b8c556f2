//! Leading nothing: why this node hands over what it leads, and when it leads all the same.
//!
//! Owns the reasons, which come and go independently of one another, and the way back from a drain
//! that somebody asked for. Refuses to let a shard stand still for the sake of an empty node: where
//! nobody else can lead, this node does, and hands over once somebody can. Invariant: it stands aside
//! in a shard only while there is a reason, and only while some node leads the shard or may still
//! come to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use phalanx_actors::names::ShardId;
use tokio::time::{Instant, MissedTickBehavior};

use super::Steward;
use super::conduct::leader_view;
use super::moves::{HandedOver, MOVE_WAIT, Need};
use crate::cluster::NodeId;
use crate::cluster::handshake::PROTOCOL_WITH_UNDRAIN;
use crate::cluster::status::{Drained, Kept, MoveError, StaysDrained, Undrained};
use crate::cluster::transport::CallKind;

/// How often a node that drains looks whether some shard needs it.
const ROUND: Duration = Duration::from_millis(200);
/// How often it tries to hand over what it leads all the same.
const AGAIN: Duration = Duration::from_secs(1);
/// How long handing over everything may take.
pub(super) const DRAIN_WAIT: Duration = Duration::from_secs(8);

/// Why this node takes no leaderships.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reasons {
    /// Somebody asked for it.
    asked: bool,
    /// It is on its way out of the cluster.
    leaving: bool,
    /// Its process is about to end.
    stopping: bool,
}

impl Reasons {
    pub(super) fn any(self) -> bool {
        self.asked || self.leaving || self.stopping
    }
}

/// The shards that nobody was seen to lead, since when.
#[derive(Debug, Default)]
pub(super) struct Leaderless(BTreeMap<ShardId, Instant>);

impl Leaderless {
    fn note(&mut self, shard: ShardId, is_led: bool, now: Instant) {
        if is_led {
            self.0.remove(&shard);
        } else {
            self.0.entry(shard).or_insert(now);
        }
    }

    fn lasts(&self, shard: ShardId, patience: Duration, now: Instant) -> bool {
        let since = self.0.get(&shard);
        since.is_some_and(|since| now - *since >= patience)
    }
}

/// Why a node was not brought back.
#[derive(Debug, thiserror::Error)]
pub enum UndrainError {
    /// It cannot be asked, or is none.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// It has another reason to lead nothing.
    #[error(transparent)]
    StaysDrained(#[from] StaysDrained),
    /// Its release does not know the question.
    #[error(
        "node {node} runs an older release, which leads nothing until it is restarted; restart it"
    )]
    Older {
        /// The node.
        node: NodeId,
    },
}

impl Steward {
    /// Hands over everything that a member leads, and lets it take nothing new until it is brought
    /// back or restarted.
    ///
    /// # Errors
    /// See [`MoveError`]; what could not be handed over is in the answer.
    pub async fn drain(&self, node: NodeId) -> Result<Drained, MoveError> {
        if node == self.membership.me {
            return Ok(self.drain_this().await);
        }
        self.known(node)?;
        let asked = self.ask(node, CallKind::Drain, Bytes::new(), DRAIN_WAIT);
        let drained: Drained = asked.await?;
        drained.moved.iter().for_each(|moved| self.note(moved));
        Ok(drained)
    }

    /// Lets a member that was drained lead again. Whoever leads more than others gives it its share
    /// in a while.
    ///
    /// # Errors
    /// See [`UndrainError`].
    pub async fn undrain(&self, node: NodeId) -> Result<Undrained, UndrainError> {
        if node == self.membership.me {
            return Ok(self.undrain_this()?);
        }
        self.known(node)?;
        if self.peers.is_connected(node) && self.peers.protocol(node) < PROTOCOL_WITH_UNDRAIN {
            return Err(UndrainError::Older { node });
        }
        let asked = self.ask(node, CallKind::Undrain, Bytes::new(), MOVE_WAIT);
        let undrained: Result<Undrained, StaysDrained> = asked.await?;
        Ok(undrained?)
    }

    /// Lets this node lead again.
    pub(super) fn undrain_this(&self) -> Result<Undrained, StaysDrained> {
        let mut reasons = self.away.lock();
        let node = self.membership.me;
        if reasons.leaving {
            return Err(StaysDrained::Leaving { node });
        }
        if reasons.stopping {
            return Err(StaysDrained::Stopping { node });
        }
        let was_draining = std::mem::take(&mut reasons.asked);
        // Also where it was not: saying so twice must help where once did not.
        self.every_shard()
            .for_each(|shard| self.groups.stand_aside(shard, false));
        drop(reasons);
        if was_draining {
            tracing::info!("drains no more: takes leaderships again");
        }
        Ok(Undrained {
            node,
            draining: false,
            was_draining,
        })
    }

    /// Hands over everything that this node leads, because somebody asks for it.
    pub async fn drain_this(&self) -> Drained {
        self.stay_away(|reasons| reasons.asked = true);
        self.hand_over_everything().await
    }

    /// Hands over everything that this node leads, because it is about to stop.
    pub async fn drain_to_stop(&self) -> Drained {
        self.stay_away(|reasons| reasons.stopping = true);
        self.hand_over_everything().await
    }

    /// Hands over what this node leads, for it is to leave.
    pub(super) async fn leave(&self) {
        if self.stay_away(|reasons| reasons.leaving = true) {
            tracing::info!("leaves the cluster: hands over and takes nothing new");
        }
        if !self.leaders.led_by(self.membership.me).is_empty() {
            // What cannot be handed over stays, and is tried again with the next look.
            drop(self.hand_over_everything().await);
        }
    }

    /// Whether this node is about to be gone, and not only drained.
    pub(super) fn is_going(&self) -> bool {
        let reasons = self.away.lock();
        reasons.leaving || reasons.stopping
    }

    /// Whether this node hands over what it leads and takes nothing new.
    pub(super) fn is_draining(&self) -> bool {
        self.away.lock().any()
    }

    /// Takes a reason to lead nothing. Whether there was none before.
    fn stay_away(&self, reason: impl FnOnce(&mut Reasons)) -> bool {
        let mut reasons = self.away.lock();
        let first = !reasons.any();
        reason(&mut reasons);
        // A cluster of one has nobody who could lead instead. What was seen to need this node since
        // the first reason came goes on to be led here.
        if first && !self.peers.peers().is_empty() {
            self.every_shard()
                .for_each(|shard| self.groups.stand_aside(shard, true));
        }
        first
    }

    async fn hand_over_everything(&self) -> Drained {
        let me = self.membership.me;
        if self.peers.peers().is_empty() {
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
            let handed = {
                let _one = self.handing.lock().await;
                self.hand_over_all(Need::Wanted).await
            };
            moved.extend(handed.moved);
            let (kept, led) = (handed.kept, self.leaders.led_by(me));
            let mut left = kept.iter().map(|kept| kept.shard).chain(led);
            let done = left.all(|shard| handed.hopeless.contains(&shard));
            // Somebody may have brought it back meanwhile.
            let draining = self.is_draining();
            if done || !draining || Instant::now() >= deadline {
                tracing::info!(moved = moved.len(), kept = kept.len(), "drained");
                return Drained {
                    node: me,
                    draining,
                    moved,
                    kept,
                };
            }
            // Whatever kept them, a copy that lags or an election, takes a moment to pass.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// While this node drains, sees to it that no shard stands still for that, until it is dropped.
    /// `patience` is how long the others may take to elect somebody.
    pub async fn stand_by(self: Arc<Self>, patience: Duration) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leaderless = Leaderless::default();
        let mut tried: Option<Instant> = None;
        loop {
            rounds.tick().await;
            if !self.is_draining() {
                leaderless = Leaderless::default();
                continue;
            }
            self.help_out(&mut leaderless, patience).await;
            if tried.is_none_or(|at| at.elapsed() >= AGAIN) {
                self.hand_over_again().await;
                tried = Some(Instant::now());
            }
        }
    }

    /// Stands for election where nobody has led for so long, and aside everywhere else. The copies of
    /// the others may be no majority, or not be the newest.
    pub(super) async fn help_out(&self, leaderless: &mut Leaderless, patience: Duration) {
        let views = self.views().await;
        let now = Instant::now();
        let reasons = self.away.lock();
        if !reasons.any() {
            return;
        }
        for shard in self.every_shard() {
            // Without a vote it can be of no help.
            if !self.leaders.voters(shard).contains(&self.membership.me) {
                continue;
            }
            let waited = leaderless.lasts(shard, patience, now);
            leaderless.note(shard, leader_view(&views, shard).is_some(), now);
            let needed = leaderless.lasts(shard, patience, now);
            self.groups.stand_aside(shard, !needed);
            if needed && !waited {
                tracing::warn!(
                    shard,
                    "nobody leads the shard: stands for election though it is draining"
                );
            }
        }
    }

    /// Hands over what it came to lead though it drains, if somebody else can by now.
    async fn hand_over_again(&self) {
        if self.leaders.led_by(self.membership.me).is_empty() {
            return;
        }
        // Whoever hands over already goes on with it.
        let Ok(_one) = self.handing.try_lock() else {
            return;
        };
        let HandedOver { moved, kept, .. } = self.hand_over_all(Need::Wanted).await;
        if !moved.is_empty() {
            let (moved, kept) = (moved.len(), kept.len());
            tracing::info!(moved, kept, "handed over what nobody else could lead");
        }
    }
}
