//! Puts a node together from settings and aggregate types.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use phalanx_actors::Aggregate;
use phalanx_actors::ports::{Clock, SystemClock};
use phalanx_actors::projection::{Projection, ProjectionError, ProjectionRegistry};
use phalanx_actors::types::{RegistrationError, TypeRegistry};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use super::core::{Core, Ground};
use super::members;
use super::shutdown::Signals;
use super::{Node, NodeError, open_files, read_side};
use crate::cluster::members::Members;
use crate::cluster::roles::Role;
use crate::domain::views::{AccountTotals, Accounts, MaintenanceJobs, Orders, Prescriptions};
use crate::domain::{Account, Order, Prescription, WorkshopDay};
use crate::http::{self, Callers, HttpApp, HttpLimits, PublicUrl};
use crate::journal::{Identity, Journal, JournalOptions, Storage};
use crate::projection::ProjectionGround;
use crate::settings::Settings;
use crate::telemetry::metrics;

/// Collects what a node is made of.
#[derive(Debug, Default)]
pub struct NodeBuilder {
    types: TypeRegistry,
    refused: Option<RegistrationError>,
    projections: ProjectionRegistry,
    refused_projection: Option<ProjectionError>,
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

    /// Adds a projection, whose view can then be queried.
    #[must_use]
    pub fn projection<P: Projection>(mut self) -> Self {
        if let Err(error) = self.projections.register::<P>() {
            self.refused_projection.get_or_insert(error);
        }
        self
    }

    /// Adds the sample aggregates of the stock node and the views over them.
    #[must_use]
    pub fn samples(self) -> Self {
        self.aggregate::<Account>()
            .aggregate::<Order>()
            .aggregate::<Prescription>()
            .aggregate::<WorkshopDay>()
            .projection::<Accounts>()
            .projection::<AccountTotals>()
            .projection::<Orders>()
            .projection::<Prescriptions>()
            .projection::<MaintenanceJobs>()
    }

    /// The types of the node, and those of the runtime, for reading a journal without running it.
    ///
    /// # Errors
    /// When one of them was refused.
    pub fn types_for_reading(self) -> Result<TypeRegistry, NodeError> {
        if let Some(error) = self.refused {
            return Err(error.into());
        }
        let mut types = self.types;
        types.register_hidden::<Members>()?;
        Ok(types)
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
        // First of all: what has begun to start may be serving before it is there as a whole.
        let mut signals = Signals::listen().map_err(NodeError::Runtime)?;
        let mut starting = Box::pin(self.start(settings));
        let started = tokio::select! {
            node = &mut starting => Some(node?),
            signal = signals.next() => {
                tracing::info!(signal, "asked to stop while starting, and stops once it has started");
                None
            }
        };
        if let Some(node) = &started {
            tokio::select! {
                signal = signals.next() => tracing::info!(signal, "asked to stop"),
                displaced = node.displaced() => return Err(displaced),
            }
        }
        let stopping = async {
            let node = match started {
                Some(node) => node,
                None => starting.await?,
            };
            node.shutdown().await
        };
        tokio::select! {
            stopped = stopping => stopped,
            // Asked twice: somebody does not want to wait.
            _ = signals.next() => {
                tracing::warn!("asked again; stopping at once");
                Ok(())
            }
        }
    }

    /// Says what does not fit together.
    fn checked(self) -> Result<Self, NodeError> {
        if let Some(error) = self.refused {
            return Err(error.into());
        }
        if let Some(error) = self.refused_projection {
            return Err(error.into());
        }
        self.projections.check(&self.types)?;
        if self.types.iter().next().is_none() {
            return Err(NodeError::NoTypes);
        }
        Ok(self)
    }

    /// Starts the node and returns once it listens. Shards get their leaders soon after; `/readyz`
    /// tells when all have.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn start(self, settings: Settings) -> Result<Node, NodeError> {
        let Self {
            types, projections, ..
        } = self.checked()?;
        let prometheus = metrics::install().map_err(NodeError::Metrics)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let journal = open_journal(&settings, Arc::clone(&clock)).await?;
        let (listener, http_address) = bind(settings.http.listen)?;
        let roster = Arc::new(members::roster(&settings)?);
        let members = members::connect(&settings, &journal, &roster)?;
        let ground = Ground {
            types,
            journal: journal.clone(),
            clock: Arc::clone(&clock),
            peers: members.peers(),
            roster,
            key_seed: rand::random(),
        };
        let peers = Arc::clone(&ground.peers);
        let core = Core::start(&settings, ground).await?;
        let missing_shards = Arc::<AtomicUsize>::default();
        let feed = read_side::feed(&core, &journal);
        let definitions = read_side::described(&settings, &projections);
        let running = {
            let missing = Arc::clone(&missing_shards);
            let ground = ProjectionGround {
                feed: Arc::clone(&feed),
                journal: Arc::new(journal.clone()),
                streams: Arc::new(core.streams.clone()),
                clock,
            };
            read_side::start(&settings, &projections, &journal, missing, ground).await?
        };
        let services = core.services();
        let mut background = core.background;
        background.extend(members.listen(services));
        background.push(tokio::spawn(metrics::upkeep(prometheus.clone())));
        if running.is_some() {
            let watch = read_side::watch_copies(Arc::clone(&feed), missing_shards);
            background.push(tokio::spawn(watch));
        }
        let streams = settings.node.has(Role::Query) || settings.node.has(Role::Gateway);
        if core.router.has_peers() && streams {
            background.push(tokio::spawn(core.feed.clone().run()));
        }
        let (stop_http, stopping) = watch::channel(false);
        let mut app = HttpApp::new(core.router.clone(), Arc::clone(&core.steward), prometheus);
        app.views = running.as_ref().map(|running| running.views().clone());
        app.definitions = definitions;
        app.queries = Some(core.queries.clone());
        app.feed = streams.then_some(feed);
        tell(&mut app, &settings);
        let mut limits = HttpLimits::from(&settings.http);
        limits.max_connections = open_files::connections(&settings);
        let http = tokio::spawn(http::serve(listener, app, limits, stopped(stopping)));
        tracing::info!(
            node = settings.node.id,
            shards = settings.cluster.shards,
            data_dir = %settings.node.data_dir.display(),
            "listening on http://{http_address}, its documentation is at http://{http_address}/docs"
        );
        Ok(Node {
            model: core.model,
            router: core.router,
            steward: core.steward,
            peers,
            http_address,
            stop_http,
            http,
            background,
            shards: core.shards,
            groups: core.groups,
            projections: running,
            journal,
            grace: Duration::from_millis(settings.node.shutdown_grace_ms),
            linger: Duration::from_millis(settings.http.shutdown_linger_ms),
        })
    }
}

/// What the interface needs to know of the settings.
fn tell(app: &mut HttpApp, settings: &Settings) {
    app.roles = settings.node.roles.iter().copied().collect();
    app.callers = Callers::from(&settings.http);
    // Loaded settings have a usable one, or none.
    app.public_url = PublicUrl::parse(&settings.http.public_url).unwrap_or_default();
    app.max_wait = Duration::from_millis(settings.projections.max_wait_ms);
}

/// Where clients connect.
fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), NodeError> {
    let listener = listen(address).map_err(|source| NodeError::Listen { address, source })?;
    let address = listener.local_addr().map_err(NodeError::Runtime)?;
    Ok((listener, address))
}

/// Returns when the interface is to stop.
async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the node is gone, which is a reason to stop as well.
    let _stopped = stopping.wait_for(|stop| *stop).await;
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
