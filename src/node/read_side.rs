//! Puts the read side of a node together, if it has one.

use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::ports::Clock;
use phalanx_actors::projection::ProjectionRegistry;

use super::{NodeError, members};
use crate::journal::Journal;
use crate::projection::{ProjectionGround, ProjectionOptions, Projections};
use crate::settings::Settings;

/// The file with the read models, in the data directory.
const FILE: &str = "views.sqlite";

/// Starts to fill what is registered; `None` when there is nothing or it is turned off.
pub(super) async fn start(
    settings: &Settings,
    registry: &ProjectionRegistry,
    journal: &Journal,
    clock: Arc<dyn Clock>,
) -> Result<Option<Projections>, NodeError> {
    if registry.is_empty() || !settings.projections.enabled {
        return Ok(None);
    }
    let placed = members::placement(settings);
    let elsewhere = |replicas: &&Vec<_>| !replicas.contains(&settings.node.id);
    let missing_shards = placed.iter().filter(elsewhere).count();
    if missing_shards > 0 {
        tracing::warn!(
            missing_shards,
            "this node keeps no copy of some shards, so its views do not answer"
        );
    }
    let options = ProjectionOptions {
        path: settings.node.data_dir.join(FILE),
        journal: journal.incarnation().to_string(),
        shards: settings.cluster.shards,
        missing_shards,
        batch_bytes: settings.projections.batch_bytes,
        commit_interval: Duration::from_millis(settings.projections.commit_interval_ms),
        cache_rows: settings.projections.cache_rows,
        read_connections: settings.projections.read_connections,
    };
    let ground = ProjectionGround {
        feed: Arc::new(journal.clone()),
        journal: Arc::new(journal.clone()),
        clock,
    };
    Ok(Some(Projections::start(registry, options, ground).await?))
}
