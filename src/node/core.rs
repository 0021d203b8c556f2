//! The part of a node that has no sockets and no files of its own: shards, raft groups, routing and
//! housekeeping over a journal, a clock and a way to the peers.
//!
//! The node puts RocksDB and the transport under it and HTTP on top; the simulation puts a simulated
//! disk, clock and network under the very same parts. It refuses to know which of the two it is.

use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::admission::{Admission, AdmissionLimits};
use phalanx_actors::incarnation::{ResidencyLimits, Services};
use phalanx_actors::ports::{Clock, Replicator};
use phalanx_actors::sequencer::SequencerLimits;
use phalanx_actors::shard::ShardHandle;
use phalanx_actors::types::TypeRegistry;
use phalanx_actors::{CommandModel, passivation};
use tokio::task::JoinHandle;

use super::NodeError;
use super::copies::NodeCopies;
use super::members;
use super::repair::Repair;
use super::routing::Routing;
use super::starter::GroupStarter;
use crate::cluster::feed::{ClusterFeed, Copies};
use crate::cluster::members::Members;
use crate::cluster::peers::Peers;
use crate::cluster::queries::{Queries, QueryLimits, Roles};
use crate::cluster::roles::Role;
use crate::cluster::roster::Roster;
use crate::cluster::router::{Receiver, Router};
use crate::cluster::steward::Steward;
use crate::cluster::streams::ClusterStreams;
use crate::cluster::transport;
use crate::journal::Journal;
use crate::replication::heartbeat;
use crate::replication::seat::Seat;
use crate::replication::service::RaftCalls;
use crate::settings::Settings;

/// What a core stands on.
#[derive(Debug)]
pub struct Ground {
    /// The aggregate types that it serves.
    pub types: TypeRegistry,
    /// Where it stores.
    pub journal: Journal,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The way to the other members.
    pub peers: Arc<dyn Peers>,
    /// What it knows of the members.
    pub roster: Arc<Roster>,
    /// Makes generated idempotency keys unlike those of any other node or start.
    pub key_seed: u64,
}

/// See the file's description.
#[derive(Debug)]
pub struct Core {
    /// The aggregates that this node leads.
    pub model: CommandModel,
    /// The way to all aggregates of the cluster.
    pub router: Router,
    /// Members, shards, and who leads them.
    pub steward: Arc<Steward>,
    /// The committed events of all shards, once [`ClusterFeed::run`] runs.
    pub feed: ClusterFeed,
    /// The records of any aggregate, from whoever has a copy.
    pub streams: ClusterStreams,
    /// The way to the read models of other members, and theirs to this node's.
    pub queries: Queries,
    /// The shards of this node.
    pub shards: Vec<ShardHandle>,
    /// The raft groups of this node; they come and go.
    pub groups: Arc<RaftCalls>,
    /// Tasks that run until they are aborted.
    pub background: Vec<JoinHandle<()>>,
}

impl Core {
    /// Starts every shard. Needs a runtime; leaders are found later.
    ///
    /// # Errors
    /// When a shard's actor cannot be started.
    pub async fn start(settings: &Settings, mut ground: Ground) -> Result<Self, NodeError> {
        let services = Arc::new(Services::new(
            Arc::new(ground.journal.clone()),
            Arc::clone(&ground.clock),
            residency_limits(settings),
            Admission::new(admission_limits(settings)),
        ));
        let mut types = std::mem::take(&mut ground.types);
        types.register_hidden::<Members>()?;
        let starter = GroupStarter::new(settings, &ground.journal, &ground.peers);
        let started = Box::pin(start_shards(settings, &ground, &services, &starter)).await?;
        let model = CommandModel::new(
            settings.node.id,
            types,
            started.shards.clone(),
            Arc::clone(&services),
            ground.key_seed,
        );
        let peers = Arc::clone(&ground.peers);
        let routing = Routing::start(
            settings,
            &ground.journal,
            model.clone(),
            &started.shards,
            &started.groups,
            ground.peers,
            ground.roster,
        );
        let copies = NodeCopies::new(Arc::clone(&routing.steward), ground.journal.clone());
        let copies: Arc<dyn Copies> = Arc::new(copies);
        let feed = ClusterFeed::new(
            settings.cluster.shards,
            Arc::new(ground.journal.clone()),
            Arc::clone(&copies),
            Arc::clone(&peers),
        );
        let streams =
            ClusterStreams::new(Arc::new(ground.journal.clone()), copies, Arc::clone(&peers));
        let queries = Queries::new(
            settings.node.id,
            peers,
            Arc::clone(&routing.steward) as Arc<dyn Roles>,
            query_limits(settings),
        );
        let mut background = started.background;
        if routing.router.has_peers() {
            background.extend(keep_house(settings, &routing));
            let repair = Repair::new(
                ground.journal.clone(),
                starter,
                Arc::clone(&started.groups),
                started.shards.clone(),
                Arc::clone(&routing.steward),
                Arc::clone(&routing.leaders),
            );
            background.push(tokio::spawn(repair.run()));
        }
        background.push(tokio::spawn(heartbeat::beat(
            Arc::clone(&started.groups),
            Duration::from_millis(settings.raft.heartbeat_interval_ms),
        )));
        background.push(tokio::spawn(passivation::run(
            Arc::clone(&services),
            started.shards.clone(),
        )));
        background.push(tokio::spawn(watch_health(
            ground.journal,
            services,
            started.shards.clone(),
            Arc::clone(&started.groups),
        )));
        background.extend(routing.background);
        Ok(Self {
            model,
            router: routing.router,
            steward: routing.steward,
            feed,
            streams,
            queries,
            shards: started.shards,
            groups: started.groups,
            background,
        })
    }

    /// Who answers the calls of other members.
    #[must_use]
    pub fn services(&self) -> transport::Services {
        transport::Services {
            raft: Arc::clone(&self.groups) as Arc<dyn transport::Service>,
            command: Arc::new(Receiver::new(
                self.router.clone(),
                Arc::clone(&self.steward),
                self.feed.clone(),
                self.streams.clone(),
                self.queries.clone(),
            )),
        }
    }
}

/// What a member does for the others, until the tasks are aborted.
fn keep_house(settings: &Settings, routing: &Routing) -> Vec<JoinHandle<()>> {
    let steward = || Arc::clone(&routing.steward);
    let follow = steward().follow(routing.router.clone(), MEMBERS_ROUND);
    // As long as the others take for an election among themselves: a lease, and the wait of the
    // slowest.
    let patience = Duration::from_millis(settings.raft.election_timeout_max_ms) * 2;
    let mut tasks = vec![
        tokio::spawn(follow),
        tokio::spawn(steward().make_room(SPACE_ROUND)),
        tokio::spawn(steward().stand_by(patience)),
    ];
    let balance_interval = Duration::from_millis(settings.cluster.balance_interval_ms);
    if !balance_interval.is_zero() {
        tasks.push(tokio::spawn(steward().balance(balance_interval)));
    }
    tasks
}

fn query_limits(settings: &Settings) -> QueryLimits {
    QueryLimits {
        // The other half of the calls is for whoever else takes the same lane.
        at_once: settings.transport.max_calls_in_flight / 2,
        // The rest is for what surrounds a message.
        answer_bytes: settings.transport.max_message_bytes.saturating_sub(1024),
    }
}

/// Every shard of this node.
#[derive(Default)]
struct Started {
    shards: Vec<ShardHandle>,
    groups: Arc<RaftCalls>,
    background: Vec<JoinHandle<()>>,
}

/// How often a node looks who the members are.
const MEMBERS_ROUND: Duration = Duration::from_secs(1);
/// How often a node looks whether it has space for what it leads.
const SPACE_ROUND: Duration = Duration::from_millis(500);

async fn start_shards(
    settings: &Settings,
    ground: &Ground,
    services: &Arc<Services>,
    starter: &GroupStarter,
) -> Result<Started, NodeError> {
    let mut started = Started::default();
    let holds_copies = settings.node.has(Role::Command);
    if !holds_copies {
        check_without_copies(settings, ground)?;
    }
    let placed = members::founding_placement(settings, &ground.roster);
    let limits = SequencerLimits {
        batch_commands: settings.raft.max_batch_commands,
        batch_bytes: settings.raft.max_batch_bytes,
        proposals_in_flight: settings.raft.proposals_in_flight,
    };
    for (shard, replicas) in (0..).zip(placed) {
        // Also where it has no copy: one may be built here.
        let group = if holds_copies {
            Some(starter.start(shard, &replicas).await)
        } else {
            None
        };
        let seat = Seat::new(Arc::clone(&started.groups), shard);
        let replicator: Arc<dyn Replicator> = Arc::new(seat);
        let handle = ShardHandle::start(shard, Arc::clone(services), replicator, limits)
            .await
            .map_err(|error| NodeError::Shard {
                shard,
                reason: error.to_string(),
            })?;
        match group {
            Some(Ok(group)) => {
                started.groups.add(Arc::clone(&group));
                started
                    .background
                    .push(tokio::spawn(group.watch(handle.clone())));
            }
            Some(Err(reason)) => {
                tracing::error!(shard, %reason, "the shard is refused");
                handle.refuse(reason);
            }
            None => {}
        }
        started.shards.push(handle);
    }
    Ok(started)
}

/// A node that has confirmed entries must not fall silent because of an edited file: the copies that
/// are counted on would be fewer than anybody knows.
fn check_without_copies(settings: &Settings, ground: &Ground) -> Result<(), NodeError> {
    let refused = |what: String| Err(NodeError::HoldsCopies { what });
    if ground.roster.founders().contains(&settings.node.id) {
        return refused("this node founded the cluster".to_owned());
    }
    for shard in 0..settings.cluster.shards {
        // What cannot be read may have been a copy.
        if !matches!(ground.journal.log_bounds(shard), Ok(None)) {
            return refused(format!("its data directory holds entries of shard {shard}"));
        }
    }
    Ok(())
}

/// How often damage that a read came upon is looked for.
const HEALTH_ROUND: Duration = Duration::from_millis(200);

/// Refuses shards whose storage turns out to be damaged while the node runs, so that `/readyz` says
/// so and nothing more is stored there, and ends their groups, so that another node leads them. Tells
/// what is in flight besides.
async fn watch_health(
    journal: Journal,
    services: Arc<Services>,
    shards: Vec<ShardHandle>,
    groups: Arc<RaftCalls>,
) {
    let mut rounds = tokio::time::interval(HEALTH_ROUND);
    loop {
        rounds.tick().await;
        let in_flight = services.admission.in_flight();
        services.metrics.in_flight.set(in_flight as f64);
        for handle in &shards {
            let Err(error) = journal.shard_health(handle.shard()) else {
                continue;
            };
            if handle.refusal().is_none() {
                tracing::error!(shard = handle.shard(), %error, "the shard is refused");
                handle.refuse(error.to_string());
            }
            // Who is not among the groups any more has ended.
            if let Some(group) = groups.get(handle.shard()) {
                group.shutdown().await;
                groups.remove(handle.shard());
            }
        }
    }
}

fn residency_limits(settings: &Settings) -> ResidencyLimits {
    let actors = &settings.actors;
    ResidencyLimits {
        max_resident: actors.max_resident,
        idle_ns: actors.idle_timeout_s.saturating_mul(1_000_000_000),
        snapshot_every_events: actors.snapshot_every_events,
        snapshot_on_passivation_events: actors.snapshot_on_passivation_events,
        max_concurrent_activations: actors.max_concurrent_activations,
    }
}

fn admission_limits(settings: &Settings) -> AdmissionLimits {
    let actors = &settings.actors;
    AdmissionLimits {
        node_requests: actors.max_in_flight,
        node_bytes: actors.max_in_flight_bytes,
        shard_requests: actors.max_in_flight_per_shard,
        aggregate_requests: actors.max_in_flight_per_aggregate,
    }
}
