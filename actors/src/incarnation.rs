//! One term of one shard on its leader: the sequencer and the aggregates in memory.
//!
//! Everything speculative lives and dies with an incarnation. It refuses to outlive its term: when
//! it is retired, its actors stop, what waited is answered, and the next one starts from the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use ractor::{ActorCell, ActorRuntime, MessagingErr};
use tokio::sync::Notify;

use crate::activations::Activations;
use crate::actor::{AggregateActor, AggregateArguments, AggregateMessage};
use crate::admission::{Admission, Exhausted, Occupancy};
use crate::aggregate::Aggregate;
use crate::metrics::{CommandMetrics, ResidencyMetrics, SequencerMetrics};
use crate::names::{ShardId, StreamName};
use crate::ports::{Clock, Journal};
use crate::request::{Failure, FailureKind};
use crate::sequencer::{Reply, Sequencer};
use crate::turns::Turns;

/// What callers hear when they come too late.
const RETIRED: &str = "the shard is changing its leader; nothing was stored";

/// Bounds on what lives in memory.
#[derive(Debug, Clone, Copy)]
pub struct ResidencyLimits {
    /// Aggregates in memory on this node.
    pub max_resident: usize,
    /// Passivate what was not used for this long, in nanoseconds.
    pub idle_ns: u64,
    /// Events between snapshots of a live aggregate.
    pub snapshot_every_events: u64,
    /// The shortest tail for which passivation writes a snapshot, in events.
    pub snapshot_on_passivation_events: u64,
    /// Aggregates that may load at the same time.
    pub max_concurrent_activations: usize,
}

/// What every actor of a node shares.
#[derive(Debug)]
pub struct Services {
    /// Committed streams.
    pub journal: Arc<dyn Journal>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Bounds.
    pub limits: ResidencyLimits,
    /// Permits.
    pub admission: Arc<Admission>,
    /// Slots for loading.
    pub activations: Activations,
    /// Counters of residents.
    pub metrics: ResidencyMetrics,
    /// Counters of sequencers.
    pub sequencer_metrics: Arc<SequencerMetrics>,
    resident: AtomicUsize,
    /// Wakes the passivation when there are too many residents.
    pub(crate) crowded: Notify,
    /// Wakes those who wait for room.
    pub(crate) room: Notify,
    /// Their order.
    pub(crate) turns: Arc<Turns>,
}

impl Services {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        journal: Arc<dyn Journal>,
        clock: Arc<dyn Clock>,
        limits: ResidencyLimits,
        admission: Admission,
    ) -> Self {
        Self {
            journal,
            clock,
            admission: Arc::new(admission),
            activations: Activations::new(limits.max_concurrent_activations),
            limits,
            metrics: ResidencyMetrics::default(),
            sequencer_metrics: Arc::default(),
            resident: AtomicUsize::new(0),
            crowded: Notify::new(),
            room: Notify::new(),
            turns: Arc::default(),
        }
    }

    /// Aggregates in memory.
    pub fn resident(&self) -> usize {
        self.resident.load(Ordering::Acquire)
    }

    /// The count beyond which nothing is loaded until passivation has caught up: a little more
    /// than the bound that passivation works towards.
    pub fn hard_bound(&self) -> usize {
        self.limits.max_resident + self.limits.max_resident / 16 + 1
    }

    fn arrived(&self) {
        let resident = self.resident.fetch_add(1, Ordering::AcqRel) + 1;
        self.metrics.resident.increment(1);
        if resident > self.limits.max_resident {
            self.crowded.notify_one();
        }
    }

    pub(crate) fn left(&self, count: usize) {
        self.resident.fetch_sub(count, Ordering::AcqRel);
        self.metrics.resident.decrement(count as f64);
        // One at a time: together they would not fit in.
        self.room.notify_one();
    }
}

/// An aggregate in memory.
#[derive(Debug)]
pub(crate) struct Resident {
    cell: ActorCell,
    pub(crate) occupancy: Arc<Occupancy>,
    /// Sends [`AggregateMessage::Passivate`] in the actor's own message type.
    passivate: fn(&ActorCell),
}

/// See the file's description.
pub struct Incarnation {
    shard: ShardId,
    sequencer: Arc<Sequencer>,
    services: Arc<Services>,
    supervisor: ActorCell,
    pub(crate) registry: DashMap<StreamName, Resident>,
}

impl std::fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incarnation")
            .field("sequencer", &self.sequencer)
            .field("resident", &self.registry.len())
            .finish_non_exhaustive()
    }
}

impl Incarnation {
    pub(crate) fn new(
        shard: ShardId,
        sequencer: Arc<Sequencer>,
        services: Arc<Services>,
        supervisor: ActorCell,
    ) -> Arc<Self> {
        Arc::new(Self {
            shard,
            sequencer,
            services,
            supervisor,
            registry: DashMap::with_shard_amount(8),
        })
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The leader's term.
    pub fn term(&self) -> u64 {
        self.sequencer.term()
    }

    pub(crate) fn sequencer(&self) -> &Sequencer {
        &self.sequencer
    }

    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// Whether the stream's actor is in memory.
    pub(crate) fn is_resident(&self, stream: &StreamName) -> bool {
        self.registry.contains_key(stream)
    }

    /// Puts a message into the mailbox of the stream's actor, starting it if need be.
    pub(crate) fn deliver<A: Aggregate>(
        self: &Arc<Self>,
        stream: &StreamName,
        metrics: &Arc<CommandMetrics>,
        mut reply: Reply,
        message: impl FnOnce(Reply) -> AggregateMessage<A>,
    ) {
        let entered = match self.registry.get(stream) {
            Some(resident) => self.enter(&resident, &mut reply),
            None => match self.registry.entry(stream.clone()) {
                Entry::Occupied(entry) => self.enter(entry.get(), &mut reply),
                Entry::Vacant(entry) => match self.start::<A>(stream, metrics) {
                    Ok(resident) => {
                        let entered = self.enter(&resident, &mut reply);
                        // Counted before anybody else can see it and count it out.
                        self.services.arrived();
                        entry.insert(resident);
                        entered
                    }
                    Err(failure) => Err(failure),
                },
            },
        };
        let cell = match entered {
            Ok(cell) => cell,
            Err(failure) => return reply.fail(failure),
        };
        if let Err(MessagingErr::SendErr(message)) = cell.send_message(message(reply)) {
            // The actor stopped with its incarnation between the look-up and now.
            message.fail(Failure::new(FailureKind::NoLeader, RETIRED));
        }
    }

    fn enter(&self, resident: &Resident, reply: &mut Reply) -> Result<ActorCell, Failure> {
        reply
            .permit()
            .enter(&resident.occupancy)
            .map_err(|exhausted| overloaded(&self.services, exhausted))?;
        resident.occupancy.touch(self.services.clock.monotonic_ns());
        Ok(resident.cell.clone())
    }

    /// Call it while the registry entry is locked: [`Incarnation::retire`] closes the sequencer and
    /// then visits every entry, so that nothing can be started behind its back.
    fn start<A: Aggregate>(
        self: &Arc<Self>,
        stream: &StreamName,
        metrics: &Arc<CommandMetrics>,
    ) -> Result<Resident, Failure> {
        if self.sequencer.is_closed() {
            return Err(Failure::new(FailureKind::NoLeader, RETIRED));
        }
        let arguments = AggregateArguments {
            stream: stream.clone(),
            incarnation: Arc::clone(self),
            metrics: Arc::clone(metrics),
        };
        let (actor, _started) = ActorRuntime::spawn_linked_instant(
            None,
            AggregateActor::<A>::new(),
            arguments,
            self.supervisor.clone(),
        )
        .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
        Ok(Resident {
            cell: actor.get_cell(),
            occupancy: Arc::default(),
            passivate: |cell| {
                // An actor that is gone already needs no farewell.
                let _gone = cell.send_message(AggregateMessage::<A>::Passivate);
            },
        })
    }

    /// Lets an aggregate go if nothing is in flight there.
    pub(crate) fn passivate(&self, stream: &StreamName) -> bool {
        let removed = self
            .registry
            .remove_if(stream, |_, resident| resident.occupancy.is_idle());
        match removed {
            Some((_, resident)) => {
                (resident.passivate)(&resident.cell);
                self.services.left(1);
                self.services.metrics.passivations.increment(1);
                true
            }
            None => false,
        }
    }

    /// Answers what waits and stops every actor.
    pub(crate) fn retire(&self) {
        self.sequencer.close();
        let mut count = 0;
        self.registry.retain(|_, resident| {
            resident.cell.stop(None);
            count += 1;
            false
        });
        self.services.left(count);
    }
}

/// The refusal for want of a permit.
pub(crate) fn overloaded(services: &Services, exhausted: Exhausted) -> Failure {
    services.metrics.overloaded.increment(1);
    Failure::new(FailureKind::Overloaded, exhausted.to_string())
}
