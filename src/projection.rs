//! The read side: read models in SQLite, filled from the journal's committed events.
//!
//! ```text
//! journal --feed--> projector (one per build and shard) --batch--> writer --transaction--> SQLite
//!                        ^                                           |                       |
//!                        '------------- stored, next ----------------'        views <--------'
//! ```
//! Owns: which projections there are on this node, how they are started and stopped. Refuses: to know
//! aggregates' actors, or how a command is decided. Invariant: rows and offset change together, so the
//! rows are what folding the events up to the offset gives.
//!
//! Where to look: `projector` from the journal to a batch, `writer` from a batch to rows, `views`
//! queries, `operate` rebuilds and dead letters, `store` what is in the file.

mod build;
mod entry;
mod error;
mod json;
mod lag;
mod metrics;
mod operate;
mod projector;
mod retry;
mod selection;
mod sql;
mod status;
mod store;
mod supervisor;
#[cfg(test)]
mod tests;
mod views;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use phalanx_actors::ports::{Clock, Feed, Journal};
use phalanx_actors::projection::ProjectionRegistry;
use ractor::Actor;
use sqlx::sqlite::SqlitePoolOptions;
use tokio::task::JoinHandle;

pub use self::error::{OperationError, StartError, StoreError, ViewError};
pub use self::lag::Lag;
pub use self::operate::DeadLetter;
pub use self::retry::Retried;
pub use self::status::{Activity, ProjectionStatus, RebuildStatus, ShardStatus};
pub use self::views::{FoundRow, Freshness, Page, Pairs, Views};

use self::build::Build;
use self::entry::Entry;
use self::projector::ProjectorContext;
use self::store::{BuildState, Store, connect_options, is_damage};
use self::supervisor::Supervisor;
use self::views::Shared;
use self::writer::{Control, Writer, WriterHandle, WriterOptions};

/// How often the gauges are set.
const GAUGES: Duration = Duration::from_secs(1);

/// How long a query waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(2);

/// How the read side works.
#[derive(Debug, Clone)]
pub struct ProjectionOptions {
    /// The file with the read models; made when it does not exist.
    pub path: PathBuf,
    /// Names the journal: read models of another one are thrown away.
    pub journal: String,
    /// Number of shards.
    pub shards: u32,
    /// How many shards this node has no copy of at the moment.
    pub missing_shards: Arc<AtomicUsize>,
    /// Bytes of events that a projector takes in at once.
    pub batch_bytes: usize,
    /// The least time between two commits while nobody waits for a view.
    pub commit_interval: Duration,
    /// Rows of each projection that are kept in memory.
    pub cache_rows: usize,
    /// Connections for queries.
    pub read_connections: u32,
}

/// What the read side stands on.
#[derive(Debug, Clone)]
pub struct ProjectionGround {
    /// Committed events in order.
    pub feed: Arc<dyn Feed>,
    /// Streams, for what was set aside.
    pub journal: Arc<dyn Journal>,
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
        let open_error = |source| StartError::Open {
            path: options.path.display().to_string(),
            source,
        };
        let opened = match open(registry, &options).await {
            // What the file says of itself cannot be read: it is built again.
            Err(error) if is_damage(&error) => {
                tracing::error!(%error, "the read models cannot be read; building them again");
                store::remove(&options.path)
                    .map_err(|error| open_error(StoreError::Sql(sqlx::Error::Io(error))))?;
                open(registry, &options).await
            }
            opened => opened,
        };
        let (store, (entries, raised)) = opened.map_err(open_error)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(options.read_connections)
            .acquire_timeout(ACQUIRE)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(connect_options(&options.path).pragma("query_only", "ON"));
        let (writer, handle) = Writer::new(
            store,
            WriterOptions {
                interval: options.commit_interval,
                cache_rows: options.cache_rows,
            },
            Arc::clone(&ground.journal),
            Arc::clone(&ground.clock),
        );
        let mut tasks = vec![tokio::spawn(writer.run())];
        let context = ProjectorContext {
            feed: Arc::clone(&ground.feed),
            journal: ground.journal,
            writer: handle.clone(),
            batch_bytes: options.batch_bytes,
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
            missing: options.missing_shards,
            shards: options.shards,
            supervisor,
        }));
        let shared = &views.0;
        for entry in shared.entries.values() {
            let live = entry.live();
            if live.definition.is_some() {
                shared.fill(entry, &live);
            }
        }
        for build in raised {
            if let Some(entry) = shared.entries.get(&*build.name) {
                shared.raise(entry, build);
            }
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
        let supervisor = &self.views.0.supervisor;
        // Children of an actor stop with it; an error means that it has ended already.
        let _ended = supervisor
            .stop_and_wait(None, Some(Duration::from_secs(5)))
            .await;
        if self
            .writer
            .ask(|reply| Control::Close { reply })
            .await
            .is_none()
        {
            tracing::warn!("the writer of read models was gone before it was closed");
        }
        self.views.0.readers.close().await;
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The projections by name, and the builds that are to be filled beside those that answer.
type Plan = (BTreeMap<&'static str, Arc<Entry>>, Vec<Arc<Build>>);

/// Opens the store and decides what to fill.
async fn open(
    registry: &ProjectionRegistry,
    options: &ProjectionOptions,
) -> Result<(Store, Plan), StoreError> {
    let mut store = Store::open(&options.path, &options.journal, options.shards).await?;
    match plan(&mut store, registry).await {
        Ok(planned) => Ok((store, planned)),
        Err(error) => {
            store.close().await;
            Err(error)
        }
    }
}

/// Decides which builds answer and which are to be filled beside them.
async fn plan(store: &mut Store, registry: &ProjectionRegistry) -> Result<Plan, StoreError> {
    let mut stored = store.builds().await?;
    let paused = store.paused().await?;
    let mut entries = BTreeMap::new();
    let mut raised = Vec::new();
    let mut obsolete: Vec<_> = extract(&mut stored, |b| b.state == BuildState::Dropped);
    for definition in registry.iter() {
        let mut own = extract(&mut stored, |build| build.name == definition.name);
        let live = own
            .iter()
            .rposition(|build| build.state == BuildState::Live);
        let live = match live.map(|at| own.remove(at)) {
            Some(build) => store.load(build, definition).await?,
            None => store.create(definition, BuildState::Live).await?,
        };
        let outdated = live.definition.is_none();
        let mut next = None;
        for build in own {
            let fits = build.version == definition.version && build.tables == definition.tables;
            if build.state == BuildState::Building && fits && next.is_none() {
                next = Some(store.load(build, definition).await?);
            } else {
                obsolete.push(build);
            }
        }
        if outdated && next.is_none() {
            next = Some(store.create(definition, BuildState::Building).await?);
        }
        let live = Arc::new(live);
        live.letters.store(
            store.letters(live.id).await?.len() as u64,
            Ordering::Relaxed,
        );
        let paused = paused.iter().any(|name| name == definition.name);
        let entry = Entry::new(Arc::clone(definition), live, paused);
        entries.insert(definition.name, Arc::new(entry));
        raised.extend(next.map(Arc::new));
    }
    for build in obsolete {
        store.begin().await?;
        store.drop_build(build.id, &build.tables).await?;
        store.commit().await?;
    }
    Ok((entries, raised))
}

/// Takes the items out that are wanted.
fn extract<T>(items: &mut Vec<T>, wanted: impl Fn(&T) -> bool) -> Vec<T> {
    let (taken, kept) = std::mem::take(items)
        .into_iter()
        .partition(|item| wanted(item));
    *items = kept;
    taken
}

/// Sets the gauges until the task is aborted.
async fn gauges(views: Views) {
    let mut rounds = tokio::time::interval(GAUGES);
    loop {
        rounds.tick().await;
        for status in views.statuses() {
            let rebuilt = status.rebuild.map(|rebuild| rebuild.percent / 100.0);
            metrics::show(status.name, status.lag, status.dead_letters, rebuilt);
        }
    }
}
