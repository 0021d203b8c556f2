//! Puts a node together from settings and aggregate types.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::admission::{Admission, AdmissionLimits};
use phalanx_actors::incarnation::{ResidencyLimits, Services};
use phalanx_actors::ports::{Clock, Replicator, SystemClock};
use phalanx_actors::sequencer::SequencerLimits;
use phalanx_actors::shard::ShardHandle;
use phalanx_actors::types::{RegistrationError, TypeRegistry};
use phalanx_actors::{Aggregate, CommandModel, passivation};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::members::{self, Members};
use super::routing::Routing;
use super::{Node, NodeError, shutdown};
use crate::cluster::NodeId;
use crate::cluster::router::Receiver;
use crate::domain::{Account, Order, Prescription, WorkshopDay};
use crate::http::{self, HttpApp, HttpLimits};
use crate::journal::{Identity, Journal, JournalOptions, Storage};
use crate::replication::group::{Group, GroupOptions};
use crate::replication::heartbeat;
use crate::replication::refused::Refused;
use crate::settings::{ReadMode, Settings};
use crate::telemetry::metrics;

/// Collects what a node is made of.
#[derive(Debug, Default)]
pub struct NodeBuilder {
    types: TypeRegistry,
    refused: Option<RegistrationError>,
}

impl NodeBuilder {
    /// Adds an aggregate type.
    #[must_use]
    pub fn aggregate<A: Aggregate>(mut self) -> Self {
        // The type's counters bind to whatever recorder there is now. A failure is reported when the
        // node starts.
        let _reported_later = metrics::install();
        if let Err(error) = self.types.register::<A>() {
            self.refused.get_or_insert(error);
        }
        self
    }

    /// Adds the sample aggregates of the stock node.
    #[must_use]
    pub fn samples(self) -> Self {
        self.aggregate::<Account>()
            .aggregate::<Order>()
            .aggregate::<Prescription>()
            .aggregate::<WorkshopDay>()
    }

    /// Runs the node until SIGTERM or SIGINT. This is a program's last call: it starts the runtime,
    /// logs what goes wrong and gives the exit code.
    #[must_use]
    pub fn run(self, settings: Settings) -> ExitCode {
        let outcome = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(NodeError::Runtime)
            .and_then(|runtime| runtime.block_on(self.run_until_stopped(settings)));
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "the node stops");
                ExitCode::FAILURE
            }
        }
    }

    async fn run_until_stopped(self, settings: Settings) -> Result<(), NodeError> {
        let node = Box::pin(self.start(settings)).await?;
        let signal = shutdown::requested().await.map_err(NodeError::Runtime)?;
        tracing::info!(signal, "asked to stop");
        tokio::select! {
            stopped = node.shutdown() => stopped,
            // Asked twice: somebody does not want to wait.
            _ = shutdown::requested() => {
                tracing::warn!("asked again; stopping at once");
                Ok(())
            }
        }
    }

    /// Starts the node and returns once it listens. Shards get their leaders soon after; `/readyz`
    /// tells when all have.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn start(self, settings: Settings) -> Result<Node, NodeError> {
        if let Some(error) = self.refused {
            return Err(error.into());
        }
        if self.types.iter().next().is_none() {
            return Err(NodeError::NoTypes);
        }
        let prometheus = metrics::install().map_err(NodeError::Metrics)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let journal = open_journal(&settings, Arc::clone(&clock)).await?;
        let listener = listen(settings.http.listen).map_err(|source| NodeError::Listen {
            address: settings.http.listen,
            source,
        })?;
        let http_address = listener.local_addr().map_err(NodeError::Runtime)?;
        let services = Arc::new(Services::new(
            Arc::new(journal.clone()),
            clock,
            residency_limits(&settings),
            Admission::new(admission_limits(&settings)),
        ));
        let members = members::connect(&settings, &journal)?;
        let started = start_shards(&settings, &journal, &services, &members).await?;
        let model = CommandModel::new(
            settings.node.id,
            self.types,
            started.shards.clone(),
            Arc::clone(&services),
            rand::random(),
        );
        let routing = Routing::start(
            &settings,
            &journal,
            model.clone(),
            &started.shards,
            &started.groups,
            &members,
        );
        let mut background = started.background;
        let balance_interval = Duration::from_millis(settings.cluster.balance_interval_ms);
        if !balance_interval.is_zero() && routing.router.has_peers() {
            let steward = Arc::clone(&routing.steward);
            background.push(tokio::spawn(steward.balance(balance_interval)));
        }
        background.push(tokio::spawn(heartbeat::beat(
            started.groups.clone(),
            Duration::from_millis(settings.raft.heartbeat_interval_ms),
        )));
        background.extend(members.listen(Receiver::new(
            routing.router.clone(),
            Arc::clone(&routing.steward),
        )));
        background.push(tokio::spawn(passivation::run(
            services,
            started.shards.clone(),
        )));
        background.push(tokio::spawn(metrics::upkeep(prometheus.clone())));
        background.push(tokio::spawn(watch_health(
            journal.clone(),
            started.shards.clone(),
        )));
        let (stop_http, mut stopping) = watch::channel(false);
        background.extend(routing.background);
        let app = HttpApp::new(
            routing.router.clone(),
            Arc::clone(&routing.steward),
            prometheus,
        );
        let http = tokio::spawn(http::serve(
            listener,
            app,
            HttpLimits::from(&settings.http),
            async move {
                // An error means that the node is gone, which is a reason to stop as well.
                let _stopped = stopping.wait_for(|stop| *stop).await;
            },
        ));
        tracing::info!(
            node = settings.node.id,
            shards = settings.cluster.shards,
            data_dir = %settings.node.data_dir.display(),
            "listening on http://{http_address}, its documentation is at http://{http_address}/docs"
        );
        Ok(Node {
            model,
            router: routing.router,
            steward: routing.steward,
            http_address,
            stop_http,
            http,
            background,
            shards: started.shards,
            groups: started.groups,
            journal,
            grace: Duration::from_millis(settings.node.shutdown_grace_ms),
            linger: Duration::from_millis(settings.http.shutdown_linger_ms),
        })
    }
}

/// Every shard of this node.
#[derive(Default)]
struct Started {
    shards: Vec<ShardHandle>,
    groups: Vec<Arc<Group>>,
    background: Vec<JoinHandle<()>>,
}

async fn start_shards(
    settings: &Settings,
    journal: &Journal,
    services: &Arc<Services>,
    members: &Members,
) -> Result<Started, NodeError> {
    let mut started = Started::default();
    let placed = members::placement(settings);
    let limits = SequencerLimits {
        batch_commands: settings.raft.max_batch_commands,
        batch_bytes: settings.raft.max_batch_bytes,
        proposals_in_flight: settings.raft.proposals_in_flight,
    };
    for (shard, replicas) in (0..).zip(placed) {
        let here = replicas.contains(&settings.node.id);
        let group = if here {
            Some(start_group(settings, journal, members, shard, &replicas).await)
        } else {
            None
        };
        let replicator: Arc<dyn Replicator> = match &group {
            Some(Ok(group)) => Arc::clone(group) as Arc<dyn Replicator>,
            Some(Err(_)) | None => Arc::new(Refused),
        };
        let handle = ShardHandle::start(shard, Arc::clone(services), replicator, limits)
            .await
            .map_err(|error| NodeError::Shard {
                shard,
                reason: error.to_string(),
            })?;
        match group {
            Some(Ok(group)) => {
                members.raft.add(Arc::clone(&group));
                let watch = Arc::clone(&group).watch(handle.clone());
                started.background.push(tokio::spawn(watch));
                started.groups.push(group);
            }
            Some(Err(reason)) => {
                tracing::error!(shard, %reason, "the shard is refused");
                handle.refuse(reason);
            }
            // Others keep this shard.
            None => {}
        }
        started.shards.push(handle);
    }
    Ok(started)
}

/// Starts a shard's raft group unless its storage is damaged.
async fn start_group(
    settings: &Settings,
    journal: &Journal,
    members: &Members,
    shard: u32,
    replicas: &[NodeId],
) -> Result<Arc<Group>, String> {
    journal
        .shard_health(shard)
        .map_err(|error| error.to_string())?;
    let options = GroupOptions {
        node_id: settings.node.id,
        voters: members::addresses(settings)
            .into_iter()
            .filter(|(id, _)| replicas.contains(id))
            .collect(),
        preferred: replicas.first().copied().unwrap_or(settings.node.id),
        cluster_name: settings.cluster.name.clone(),
        election_timeout_min_ms: settings.raft.election_timeout_min_ms,
        election_timeout_max_ms: settings.raft.election_timeout_max_ms,
        read_policy: match settings.cluster.reads {
            ReadMode::Lease => openraft::ReadPolicy::LeaseRead,
            ReadMode::ReadIndex => openraft::ReadPolicy::ReadIndex,
        },
        bootstrap: settings.cluster.bootstrap,
    };
    Group::start(shard, journal.clone(), members.transport.clone(), options)
        .await
        .map_err(|error| error.to_string())
}

/// How often damage that a read came upon is looked for.
const HEALTH_ROUND: Duration = Duration::from_secs(1);

/// Refuses shards whose storage turns out to be damaged while the node runs, so that `/readyz` says
/// so and nothing more is stored there.
async fn watch_health(journal: Journal, shards: Vec<ShardHandle>) {
    let mut rounds = tokio::time::interval(HEALTH_ROUND);
    loop {
        rounds.tick().await;
        for handle in &shards {
            if handle.refusal().is_some() {
                continue;
            }
            if let Err(error) = journal.shard_health(handle.shard()) {
                tracing::error!(shard = handle.shard(), %error, "the shard is refused");
                handle.refuse(error.to_string());
            }
        }
    }
}

/// Connections that the system may hold until they are accepted. A shorter line drops the first
/// packet of a burst, which then comes again a second later; the system caps it
/// (`net.core.somaxconn`).
const LISTEN_BACKLOG: u32 = 4096;

pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restart need not wait for the connections of the process before it to be forgotten.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

async fn open_journal(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Journal, NodeError> {
    let identity = Identity {
        cluster_name: settings.cluster.name.clone(),
        node_id: settings.node.id,
        shards: settings.cluster.shards,
    };
    let journal = &settings.journal;
    let options = JournalOptions {
        reserve_free_bytes: journal.reserve_free_bytes,
        write_buffer_bytes: journal.write_buffer_bytes,
        index_write_buffer_bytes: journal.index_write_buffer_bytes,
        block_cache_bytes: journal.block_cache_bytes,
        log_cache_bytes_per_shard: journal.log_cache_bytes_per_shard,
        idempotency_retention: Duration::from_secs(journal.idempotency_retention_s),
        max_open_files: journal.max_open_files,
        ..JournalOptions::new(settings.node.data_dir.clone(), identity)
    };
    let opened =
        tokio::task::spawn_blocking(move || Journal::open(&options, Storage::RocksDb, clock)).await;
    match opened {
        Ok(result) => Ok(result?),
        Err(error) => Err(NodeError::Runtime(std::io::Error::other(error))),
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
