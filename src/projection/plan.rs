//! What a node that fills read models has to do: which builds answer, and which are to be filled
//! beside them. Obsolete builds are removed on the way.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use phalanx_actors::projection::ProjectionDefinition;

use super::build::Build;
use super::error::StoreError;
use super::store::{BuildState, Store};

/// What there is of one projection.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) definition: Arc<ProjectionDefinition>,
    /// The build that answers.
    pub(crate) live: Arc<Build>,
    /// The build that is to take its place.
    pub(crate) next: Option<Arc<Build>>,
    pub(crate) paused: bool,
}

/// Decides which builds answer and which are to be filled beside them.
pub(crate) async fn plan<'d>(
    store: &mut Store,
    definitions: impl IntoIterator<Item = &'d Arc<ProjectionDefinition>>,
) -> Result<Vec<Planned>, StoreError> {
    let mut stored = store.builds().await?;
    for build in &mut stored {
        if !store.is_whole(build).await? {
            tracing::warn!(
                projection = build.name,
                "tables of a read model are gone; building it again"
            );
            build.state = BuildState::Dropped;
        }
    }
    let paused = store.paused().await?;
    let mut planned = Vec::new();
    let mut obsolete: Vec<_> = extract(&mut stored, |b| b.state == BuildState::Dropped);
    for definition in definitions {
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
        let letters = store.letters(live.id).await?.len() as u64;
        live.letters.store(letters, Ordering::Relaxed);
        planned.push(Planned {
            definition: Arc::clone(definition),
            live: Arc::new(live),
            next: next.map(Arc::new),
            paused: paused.iter().any(|name| name == definition.name),
        });
    }
    for build in obsolete {
        store.begin().await?;
        store.drop_build(build.id, &build.tables).await?;
        store.commit().await?;
    }
    Ok(planned)
}

/// Takes the items out that are wanted.
fn extract<T>(items: &mut Vec<T>, wanted: impl Fn(&T) -> bool) -> Vec<T> {
    let (taken, kept) = std::mem::take(items)
        .into_iter()
        .partition(|item| wanted(item));
    *items = kept;
    taken
}
