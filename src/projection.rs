//! The read side: read models in SQL, filled from the journal's committed events.
//!
//! ```text
//! journal --feed--> projector (one per build and shard) --batch--> writer --transaction--> tables
//!                        ^                                           |                       |
//!                        '------------- stored, next ----------------'        views <--------'
//! ```
//! Owns: which projections there are on this node, how they are started and stopped. Refuses: to know
//! aggregates' actors, or how a command is decided. Invariant: rows and offset change together, so the
//! rows are what folding the events up to the offset gives.
//!
//! Where to look: `projector` from the journal to a batch, `writer` from a batch to rows, `views`
//! queries, `operate` rebuilds and dead letters, `store` what is stored besides rows. The tables lie in
//! a SQLite file of the node (`file`) or in a PostgreSQL database that nodes share (`server`, and
//! `keeper` for who writes); `database` is what the two have in common.

mod address;
mod build;
mod changes;
mod check;
mod database;
mod entry;
mod error;
mod fields;
mod file;
mod follow;
mod follower;
mod gather;
mod indexes;
mod json;
mod keeper;
mod lag;
mod letters;
mod metrics;
mod operate;
mod patrol;
mod plan;
mod postgres;
mod projector;
mod retry;
mod seal;
mod selection;
mod server;
mod space;
mod sql;
mod standing;
mod status;
mod store;
mod sums;
mod supervisor;
#[cfg(test)]
mod tests;
mod update;
mod views;
mod warden;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use phalanx_actors::ports::{Clock, Feed, Journal, Streams};
use phalanx_actors::projection::ProjectionRegistry;
use ractor::Actor;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::SqlitePoolOptions;
use tokio::task::JoinHandle;

pub use self::address::StoreAddress;
pub use self::changes::RowChanges;
pub use self::error::{OperationError, StartError, StoreError, ViewError};
pub use self::follower::{ChangeId, Follower, Reset, Told};
pub use self::lag::Lag;
pub use self::operate::DeadLetter;
pub use self::retry::Retried;
pub use self::standing::{Part, Stand};
pub use self::status::{Activity, ProjectionStatus, RebuildStatus, ShardStatus};
pub use self::views::{FoundRow, Freshness, Page, Pairs, Views};

use self::build::Build;
use self::database::Readers;
use self::entry::Entry;
use self::file::{connect_options, is_damage};
use self::keeper::{Keeper, Wanted};
use self::plan::{Planned, plan};
use self::projector::ProjectorContext;
use self::server::Server;
use self::standing::Standing;
use self::store::{Place, Store};
use self::supervisor::Supervisor;
use self::views::Shared;
use self::warden::{Alarm, Warden};
use self::writer::{Control, Writer, WriterHandle, WriterOptions};

/// How often the gauges are set.
const GAUGES: Duration = Duration::from_secs(1);

/// How long a query waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(2);

/// How the read side works.
#[derive(Debug, Clone)]
pub struct ProjectionOptions {
    /// Where the read models are kept.
    pub address: StoreAddress,
    /// The file with the read models, if they are in one; made when it does not exist.
    pub path: PathBuf,
    /// Names the journal: read models of another one in a file are thrown away.
    pub journal: String,
    /// Names the cluster, in a database that its nodes share.
    pub cluster: String,
    /// Names this node there.
    pub node: String,
    /// How often such a database is asked how far it is, while a query waits for that.
    pub follow_interval: Duration,
    /// Number of shards.
    pub shards: u32,
    /// How many shards' events can be had from nowhere at the moment.
    pub missing_shards: Arc<AtomicUsize>,
    /// Bytes of events that a projector takes in at once.
    pub batch_bytes: usize,
    /// The least time between two commits while nobody waits for a view.
    pub commit_interval: Duration,
    /// Rows of each projection that are kept in memory.
    pub cache_rows: usize,
    /// Connections for queries.
    pub read_connections: u32,
    /// Whether a file is checked for damage when it is opened, before its views answer.
    pub check_at_start: bool,
    /// How often it is checked while it is used; zero for never.
    pub check_interval: Duration,
}

/// A connection to a server that was used so recently is taken as it is.
const TRUSTED: Duration = Duration::from_millis(500);

/// What the read side stands on.
#[derive(Debug, Clone)]
pub struct ProjectionGround {
    /// Committed events in order.
    pub feed: Arc<dyn Feed>,
    /// Whether there is space on the disk.
    pub journal: Arc<dyn Journal>,
    /// Streams, for what was set aside.
    pub streams: Arc<dyn Streams>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// The running read side of a node.
#[derive(Debug)]
pub struct Projections {
    views: Views,
    writer: WriterHandle,
    tasks: Vec<JoinHandle<()>>,
}

impl Projections {
    /// Opens the store and starts to fill what is registered.
    ///
    /// # Errors
    /// When the store cannot be opened or an actor cannot be started.
    pub async fn start(
        registry: &ProjectionRegistry,
        options: ProjectionOptions,
        ground: ProjectionGround,
    ) -> Result<Self, StartError> {
        let was_there = options.path.exists();
        let Opened {
            store,
            readers,
            standing,
            entries,
            planned,
            server,
            alarm,
        } = match &options.address {
            StoreAddress::Sqlite => Box::pin(open_file(registry, &options)).await?,
            StoreAddress::Postgres(server) => open_server(registry, &options, server),
        };
        let wanted = server.as_ref().map(|_| Arc::<Wanted>::default());
        let writing = WriterOptions {
            interval: options.commit_interval,
            cache_rows: options.cache_rows,
        };
        let clock = Arc::clone(&ground.clock);
        let (writer, handle) = Writer::new(store, writing, ground.streams, clock);
        let mut tasks = vec![tokio::spawn(writer.run())];
        let context = ProjectorContext {
            feed: Arc::clone(&ground.feed),
            journal: ground.journal,
            writer: handle.clone(),
            batch_bytes: options.batch_bytes,
            standing: standing.clone(),
            is_shared: server.is_some(),
            interval: options.commit_interval,
        };
        let (supervisor, _joined) = Actor::spawn(None, Supervisor, context)
            .await
            .map_err(|error| StartError::Actor(error.to_string()))?;
        let views = Views(Arc::new(Shared {
            entries,
            feed: ground.feed,
            clock: ground.clock,
            writer: handle.clone(),
            readers,
            standing,
            alarm: alarm.clone(),
            wanted,
            missing: Arc::clone(&options.missing_shards),
            shards: options.shards,
            supervisor,
        }));
        let shared = &views.0;
        // Whoever looks after the store goes first when everything stops.
        if let Some(alarm) = alarm {
            let checks = options.check_at_start && was_there;
            let warden = warden(shared, alarm, &options, checks);
            // Nobody has asked anything yet.
            tasks.insert(0, tokio::spawn(warden.begin()));
        }
        shared.fill_all(planned);
        if let Some(server) = server {
            tasks.insert(0, tokio::spawn(keeper(shared, server, &options).run()));
        }
        tasks.push(tokio::spawn(gauges(views.clone())));
        Ok(Self {
            views,
            writer: handle,
            tasks,
        })
    }

    /// The way to the views.
    #[must_use]
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// Stops: projectors first, then the writer, with everything stored that was handed to it.
    pub async fn stop(self) {
        // The keeper or the warden: nothing is begun any more.
        if let Some(first) = self.tasks.first() {
            first.abort();
        }
        let supervisor = &self.views.0.supervisor;
        // Children of an actor stop with it; an error means that it has ended already.
        let _ended = supervisor
            .stop_and_wait(None, Some(Duration::from_secs(5)))
            .await;
        let entries = self.views.0.entries.values();
        let builds = entries.flat_map(|entry| entry.builds()).collect();
        let closed = self.writer.ask(|reply| Control::Close { builds, reply });
        if closed.await.is_none() {
            tracing::warn!("the writer of read models was gone before it was closed");
        }
        self.views.0.readers.close().await;
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What the read side begins with.
struct Opened {
    store: Store,
    readers: Readers,
    standing: Standing,
    entries: BTreeMap<&'static str, Arc<Entry>>,
    /// What is to be filled at once.
    planned: Vec<Planned>,
    /// How to reach a database that nodes share.
    server: Option<PgConnectOptions>,
    /// Where damage of a file is reported.
    alarm: Option<Alarm>,
}

/// Opens the file and decides what to fill.
async fn open_file(
    registry: &ProjectionRegistry,
    options: &ProjectionOptions,
) -> Result<Opened, StartError> {
    let open_error = |source| StartError::Open {
        path: options.path.display().to_string(),
        source,
    };
    let opened = match Box::pin(try_file(registry, options)).await {
        // What the file says of itself cannot be read: it is built again.
        Err(error) if is_damage(&error) => {
            tracing::error!(%error, "what is stored of the read models cannot be read");
            file::condemn(&options.path);
            Box::pin(try_file(registry, options)).await
        }
        opened => opened,
    };
    let (store, planned) = opened.map_err(open_error)?;
    let alarm = match &store.place {
        Place::File(place) => Some(place.alarm.clone()),
        Place::Server(_) => None,
    };
    let readers = SqlitePoolOptions::new()
        .max_connections(options.read_connections)
        .acquire_timeout(ACQUIRE)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(connect_options(&options.path).pragma("query_only", "ON"));
    let entry = |planned: &Planned| {
        let definition = Arc::clone(&planned.definition);
        let entry = Entry::new(definition, Arc::clone(&planned.live), planned.paused);
        (planned.definition.name, Arc::new(entry))
    };
    Ok(Opened {
        store,
        readers: Readers::of_file(readers),
        standing: Standing::new(Part::Writing),
        entries: planned.iter().map(entry).collect(),
        planned,
        server: None,
        alarm,
    })
}

async fn try_file(
    registry: &ProjectionRegistry,
    options: &ProjectionOptions,
) -> Result<(Store, Vec<Planned>), StoreError> {
    let mut store = Store::open(&options.path, &options.journal, options.shards).await?;
    match Box::pin(plan(&mut store, registry.iter())).await {
        Ok(planned) => Ok((store, planned)),
        Err(error) => {
            store.close().await;
            Err(error)
        }
    }
}

/// Prepares for a database that may not be there yet: the node does not wait for it.
fn open_server(
    registry: &ProjectionRegistry,
    options: &ProjectionOptions,
    server: &PgConnectOptions,
) -> Opened {
    let standing = Standing::new(Part::Starting);
    let shards = options.shards;
    let entry = |definition: &Arc<_>| {
        let unknown = Arc::new(Build::unknown(definition, shards));
        let entry = Entry::new(Arc::clone(definition), unknown, false);
        (definition.name, Arc::new(entry))
    };
    let reading =
        server::session(server.clone()).options([("default_transaction_read_only", "on")]);
    let readers = PgPoolOptions::new()
        .max_connections(options.read_connections)
        .acquire_timeout(ACQUIRE)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                // One that was not used for a while may have been cut off meanwhile.
                Ok(meta.idle_for < TRUSTED || sqlx::Connection::ping(connection).await.is_ok())
            })
        })
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(reading);
    let (cluster, node) = (&options.cluster, options.node.clone());
    let shared = Server::new(server.clone(), cluster, node, shards, standing.clone());
    Opened {
        store: Store::on_server(shared, shards),
        readers: Readers::Postgres(readers),
        standing,
        entries: registry.iter().map(entry).collect(),
        planned: Vec::new(),
        server: Some(server::session(server.clone())),
        alarm: None,
    }
}

/// Who looks after a database that nodes share.
fn keeper(shared: &Arc<Shared>, server: PgConnectOptions, options: &ProjectionOptions) -> Keeper {
    let (interval, node) = (options.follow_interval, options.node.clone());
    Keeper::new(Arc::clone(shared), server, interval, node, &options.cluster)
}

/// Who looks after a file.
fn warden(shared: &Arc<Shared>, alarm: Alarm, options: &ProjectionOptions, checks: bool) -> Warden {
    Warden {
        shared: Arc::clone(shared),
        alarm,
        path: options.path.clone(),
        checks,
        interval: options.check_interval,
    }
}

/// Sets the gauges until the task is aborted.
async fn gauges(views: Views) {
    let mut rounds = tokio::time::interval(GAUGES);
    let mut last = tokio::time::Instant::now();
    let mut before: BTreeMap<&str, u64> = BTreeMap::new();
    loop {
        rounds.tick().await;
        let seconds = last.elapsed().as_secs_f64().max(0.001);
        last = tokio::time::Instant::now();
        for (name, entry) in &views.0.entries {
            let handled = entry.handled();
            let since = handled.saturating_sub(before.insert(name, handled).unwrap_or(handled));
            #[expect(
                clippy::cast_precision_loss,
                reason = "a rate needs no more than a float holds"
            )]
            let rate = since as f64 / seconds;
            entry.rate.store(rate.to_bits(), Ordering::Relaxed);
        }
        for status in views.statuses() {
            metrics::show(&status);
        }
        metrics::show_store(views.standing().state);
    }
}
