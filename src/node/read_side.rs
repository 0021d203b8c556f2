//! Puts the read side of a node together, if it has one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use phalanx_actors::ports::Feed;
use phalanx_actors::projection::{ProjectionDefinition, ProjectionRegistry};

use super::NodeError;
use super::core::Core;
use crate::cluster::roles::Role;
use crate::journal::Journal;
use crate::projection::{
    ProjectionGround, ProjectionOptions, Projections, StartError, StoreAddress,
};
use crate::settings::Settings;

/// The file with the read models, in the data directory.
const FILE: &str = "views.sqlite";

/// How often is looked which shards have a copy here.
const ROUND: Duration = Duration::from_millis(250);

/// The committed events of all shards: of the journal alone where there are no other members.
pub(super) fn feed(core: &Core, journal: &Journal) -> Arc<dyn Feed> {
    if core.router.has_peers() {
        Arc::new(core.feed.clone())
    } else {
        Arc::new(journal.clone())
    }
}

/// Counts the shards whose events can be had from nowhere, until it is dropped: members come and go.
pub(super) async fn watch_copies(feed: Arc<dyn Feed>, missing_shards: Arc<AtomicUsize>) {
    let mut rounds = tokio::time::interval(ROUND);
    let mut told = 0;
    loop {
        rounds.tick().await;
        let missing = feed.unreadable_shards().len();
        missing_shards.store(missing, Ordering::Relaxed);
        if missing != std::mem::replace(&mut told, missing) && missing > 0 {
            tracing::info!(
                missing,
                "no member with a copy of some shards can be reached: views do not answer"
            );
        }
    }
}

/// The read models that this node answers queries of, by itself or by asking a member that has them.
pub(super) fn described(
    settings: &Settings,
    registry: &ProjectionRegistry,
) -> Vec<Arc<ProjectionDefinition>> {
    if settings.node.has(Role::Query) && !settings.projections.enabled {
        return Vec::new();
    }
    registry.iter().cloned().collect()
}

/// Starts to fill what is registered; `None` when there is nothing or it is turned off.
pub(super) async fn start(
    settings: &Settings,
    registry: &ProjectionRegistry,
    journal: &Journal,
    missing_shards: Arc<AtomicUsize>,
    ground: ProjectionGround,
) -> Result<Option<Projections>, NodeError> {
    let wanted = settings.projections.enabled && settings.node.has(Role::Query);
    if registry.is_empty() || !wanted {
        return Ok(None);
    }
    let address = StoreAddress::parse(&settings.projections.store.0);
    let options = ProjectionOptions {
        // Loaded settings have passed this; a program that built its own hears of it here.
        address: address.map_err(|reason| StartError::Address { reason })?,
        cluster: settings.cluster.name.clone(),
        node: settings.node.id.to_string(),
        follow_interval: Duration::from_millis(settings.projections.follow_interval_ms),
        path: settings.node.data_dir.join(FILE),
        journal: journal.incarnation().to_string(),
        shards: settings.cluster.shards,
        missing_shards,
        batch_bytes: settings.projections.batch_bytes,
        commit_interval: Duration::from_millis(settings.projections.commit_interval_ms),
        cache_rows: settings.projections.cache_rows,
        read_connections: settings.projections.read_connections,
        check_at_start: settings.projections.check_at_start,
        check_interval: Duration::from_secs(settings.projections.check_interval_s),
    };
    let started = Box::pin(Projections::start(registry, options, ground)).await?;
    Ok(Some(started))
}
