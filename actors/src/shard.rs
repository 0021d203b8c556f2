//! The shard actor: it supervises the aggregates of one shard and starts and ends incarnations.
//!
//! Whoever replicates the shard tells it about leadership. It trusts a `Lead` to mean that an entry
//! of that very term is applied here, so that nothing older can still surface.

use std::sync::Arc;

use parking_lot::RwLock;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::admission::Gauge;
use crate::incarnation::{Incarnation, Services};
use crate::names::ShardId;
use crate::ports::Replicator;
use crate::sequencer::{Sequencer, SequencerLimits};

/// What a shard actor hears.
#[derive(Debug)]
pub enum ShardMessage {
    /// This node leads in `term`, and everything up to `last_position` is applied.
    Lead {
        /// The leader's term.
        term: u64,
        /// Position number of the last event in the log.
        last_position: u64,
    },
    /// As `Lead`, in the term that the last incarnation abandoned: nothing of it can surface any
    /// more.
    LeadAgain {
        /// The leader's term.
        term: u64,
        /// Position number of the last event in the log.
        last_position: u64,
    },
    /// This node does not lead any more.
    StepDown,
    /// The incarnation of `term` closed itself after a failed proposal.
    Closed {
        /// Its term.
        term: u64,
    },
}

/// The way to one shard. Cheap to clone; hides the mailbox.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    shared: Arc<Shared>,
    actor: ActorRef<ShardMessage>,
}

#[derive(Debug)]
struct Shared {
    shard: ShardId,
    load: Arc<Gauge>,
    serving: RwLock<Option<Arc<Incarnation>>>,
    refusal: RwLock<Option<String>>,
    abandoned: Notify,
    /// Wakes those who wait for an incarnation.
    began: Notify,
}

impl ShardHandle {
    /// Starts the actor of a shard that nobody leads yet.
    ///
    /// # Errors
    /// When the actor cannot be started.
    pub async fn start(
        shard: ShardId,
        services: Arc<Services>,
        replicator: Arc<dyn Replicator>,
        limits: SequencerLimits,
    ) -> Result<Self, ractor::SpawnErr> {
        let shared = Arc::new(Shared {
            shard,
            load: Arc::default(),
            serving: RwLock::new(None),
            refusal: RwLock::new(None),
            abandoned: Notify::new(),
            began: Notify::new(),
        });
        let state = ShardState {
            shared: Arc::clone(&shared),
            services,
            replicator,
            limits,
            led: 0,
            proposals: None,
        };
        let (actor, _join) = Actor::spawn(None, ShardActor, state).await?;
        Ok(Self { shared, actor })
    }

    /// The shard's number.
    pub fn shard(&self) -> ShardId {
        self.shared.shard
    }

    /// Says that this node leads; see [`ShardMessage::Lead`].
    pub fn lead(&self, term: u64, last_position: u64) {
        self.cast(ShardMessage::Lead {
            term,
            last_position,
        });
    }

    /// Says that this node still leads in the term of the incarnation that was
    /// [abandoned](Self::abandoned), and that everything which that incarnation proposed is applied
    /// or can never be.
    pub fn lead_again(&self, term: u64, last_position: u64) {
        self.cast(ShardMessage::LeadAgain {
            term,
            last_position,
        });
    }

    /// Says that this node does not lead any more. New requests are refused from now on.
    pub fn step_down(&self) {
        self.cast(ShardMessage::StepDown);
    }

    /// Refuses to serve, with a reason for operators: damaged storage.
    pub fn refuse(&self, reason: String) {
        *self.shared.refusal.write() = Some(reason);
        self.step_down();
    }

    /// Refuses no more: what was damaged is gone, and the shard may be led here again.
    pub fn accept(&self) {
        *self.shared.refusal.write() = None;
    }

    /// Why this node refuses to serve the shard, if it does.
    pub fn refusal(&self) -> Option<String> {
        self.shared.refusal.read().clone()
    }

    /// The incarnation that serves now.
    pub fn serving(&self) -> Option<Arc<Incarnation>> {
        self.shared.serving.read().clone()
    }

    /// Waits until an incarnation serves in this term or a later one.
    pub async fn began(&self, term: u64) {
        loop {
            let began = self.shared.began.notified();
            if self.serving().is_some_and(|serving| serving.term() >= term) {
                return;
            }
            began.await;
        }
    }

    /// Waits until an incarnation ended by itself, not because this node stepped down. It proposes
    /// nothing more by then, but what it proposed may still be on its way: the shard needs a new
    /// term to serve again, or [`Self::lead_again`] once all of that is settled.
    pub async fn abandoned(&self) {
        self.shared.abandoned.notified().await;
    }

    /// Requests in flight on this shard.
    pub(crate) fn load(&self) -> &Arc<Gauge> {
        &self.shared.load
    }

    /// Stops the actor and everything that it supervises.
    pub fn stop(&self) {
        self.actor.stop(None);
    }

    fn cast(&self, message: ShardMessage) {
        // Only a stopped shard refuses messages, and it has nothing left to do.
        let _stopped = self.actor.send_message(message);
    }
}

#[derive(Debug)]
struct ShardActor;

#[derive(Debug)]
struct ShardState {
    shared: Arc<Shared>,
    services: Arc<Services>,
    replicator: Arc<dyn Replicator>,
    limits: SequencerLimits,
    /// The newest term in which an incarnation was started: another one in the same term could not
    /// know what the first one left behind.
    led: u64,
    /// The task that proposes for the newest incarnation.
    proposals: Option<JoinHandle<()>>,
}

impl Actor for ShardActor {
    type Msg = ShardMessage;
    type State = ShardState;
    type Arguments = ShardState;

    async fn pre_start(
        &self,
        _myself: ActorRef<ShardMessage>,
        state: ShardState,
    ) -> Result<ShardState, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<ShardMessage>,
        message: ShardMessage,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ShardMessage::Lead {
                term,
                last_position,
            } => {
                if term > state.led {
                    state.lead(&myself, term, last_position);
                }
            }
            ShardMessage::LeadAgain {
                term,
                last_position,
            } => {
                if term == state.led && state.serving_term().is_none() {
                    state.lead(&myself, term, last_position);
                }
            }
            ShardMessage::StepDown => state.retire(),
            ShardMessage::Closed { term } => {
                if state.serving_term() == Some(term) {
                    state.abandon().await;
                }
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<ShardMessage>,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        state.retire();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<ShardMessage>,
        event: SupervisionEvent,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            // The domain's panics never get here, so this is a bug of ours. What the actor had
            // decided is unaccounted for: start the shard again from its log.
            tracing::error!(shard = state.shared.shard, %error, "an aggregate's actor failed");
            state.abandon().await;
        }
        Ok(())
    }
}

impl ShardState {
    fn serving_term(&self) -> Option<u64> {
        self.shared.serving.read().as_ref().map(|i| i.term())
    }

    fn lead(&mut self, myself: &ActorRef<ShardMessage>, term: u64, last_position: u64) {
        if self.shared.refusal.read().is_some() {
            return;
        }
        self.retire();
        self.led = term;
        let sequencer = Sequencer::new(
            self.shared.shard,
            term,
            last_position,
            self.limits,
            Arc::clone(&self.replicator),
            Arc::clone(&self.services.journal),
            Arc::clone(&self.services.sequencer_metrics),
        );
        self.proposals = Some(tokio::spawn(Arc::clone(&sequencer).run_proposals()));
        tokio::spawn(Arc::clone(&sequencer).run_gate());
        let (watched, actor) = (Arc::clone(&sequencer), myself.clone());
        tokio::spawn(async move {
            watched.closed().await;
            let _stopped = actor.send_message(ShardMessage::Closed { term });
        });
        let incarnation = Incarnation::new(
            self.shared.shard,
            sequencer,
            Arc::clone(&self.services),
            myself.get_cell(),
        );
        *self.shared.serving.write() = Some(incarnation);
        self.shared.began.notify_waiters();
        tracing::debug!(shard = self.shared.shard, term, last_position, "serving");
    }

    /// Ends the incarnation and says so once it cannot propose any more.
    async fn abandon(&mut self) {
        if self.serving_term().is_none() {
            // Whoever ended it knows.
            return;
        }
        self.retire();
        if let Some(proposals) = self.proposals.take() {
            // It ends because its sequencer is closed; should it have panicked, it ended as well.
            let _ended = proposals.await;
        }
        self.shared.abandoned.notify_one();
    }

    fn retire(&mut self) {
        let Some(incarnation) = self.shared.serving.write().take() else {
            return;
        };
        tracing::debug!(
            shard = self.shared.shard,
            term = incarnation.term(),
            "retired"
        );
        incarnation.retire();
    }
}
