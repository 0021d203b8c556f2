//! What a node sees of read models that another one fills: how far they are, and which builds answer.
//!
//! Owns: the one look at the database, and showing it to queries. Invariant: how far a build is said
//! to be was committed before the rows of any answer that relies on it were read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use phalanx_actors::names::ShardId;
use phalanx_actors::ports::FeedCursor;
use phalanx_actors::projection::{ColumnType, ProjectionDefinition, Value};
use sqlx::postgres::PgConnection;

use super::build::{Build, BuildId};
use super::database::Connection;
use super::error::StoreError;
use super::fields::Fields;
use super::server::{ShardEnd, another_history, first_of, foreign};
use super::store::{BuildState, StoredBuild, list};
use super::views::Shared;

/// What was seen at one moment.
#[derive(Debug)]
pub(super) struct Seen {
    builds: Vec<StoredBuild>,
    offsets: BTreeMap<(BuildId, ShardId), u64>,
    letters: Vec<(BuildId, u64)>,
    pub(super) paused: Vec<String>,
    pub(super) writer: Option<String>,
    pub(super) wish: Option<String>,
    owner: Option<String>,
    /// How the history of each shard begins.
    firsts: BTreeMap<String, String>,
}

/// Looks at the database.
pub(super) async fn look(connection: &mut PgConnection) -> Result<Seen, StoreError> {
    // The builds come first: a build that is not among them yet is seen the next time, and the
    // offsets of one that is gone by then are missing.
    let builds = list(Connection::Postgres(connection)).await?;
    let mut seen = Seen {
        builds,
        offsets: BTreeMap::new(),
        letters: Vec::new(),
        paused: Vec::new(),
        writer: None,
        wish: None,
        owner: None,
        firsts: BTreeMap::new(),
    };
    let text = "SELECT 'offset', build, position, shard::text FROM phalanx_offsets \
         UNION ALL SELECT 'letters', build, count(*), '' FROM phalanx_dead_letters GROUP BY build \
         UNION ALL SELECT 'paused', 0, 0, projection FROM phalanx_paused \
         UNION ALL SELECT key, 0, 0, value FROM phalanx_store";
    let types = [
        ColumnType::Text,
        ColumnType::Integer,
        ColumnType::Integer,
        ColumnType::Text,
    ];
    let mut connection = Connection::Postgres(connection);
    let rows: Vec<Vec<Value>> = connection.rows(text, &[], &types).await?;
    for row in rows {
        let mut fields = Fields::of(row);
        let what = fields.text()?;
        let (build, number, text) = (fields.integer()?, fields.number()?, fields.text()?);
        match &*what {
            "offset" => {
                let shard = text.parse().unwrap_or(ShardId::MAX);
                seen.offsets.insert((build, shard), number);
            }
            "letters" => seen.letters.push((build, number)),
            "paused" => seen.paused.push(text),
            "writer" => seen.writer = Some(text),
            "wish" => seen.wish = Some(text),
            "owner" => seen.owner = Some(text),
            _ => {
                seen.firsts.insert(what, text);
            }
        }
    }
    Ok(seen)
}

impl Seen {
    /// An error when it is not of this cluster and this history: then nothing of it is shown.
    pub(super) fn check(&self, owner: &str, ends: &[ShardEnd]) -> Result<(), StoreError> {
        if let Some(found) = self.owner.as_ref().filter(|found| *found != owner) {
            return Err(foreign(found, owner));
        }
        for end in ends {
            let noted = self.firsts.get(&first_of(end.shard));
            if let (Some(noted), Some(first)) = (noted, &end.first)
                && noted != first
            {
                return Err(another_history(end.shard));
            }
        }
        Ok(())
    }

    fn find(
        &self,
        definition: &Arc<ProjectionDefinition>,
        state: BuildState,
    ) -> Option<&StoredBuild> {
        self.builds
            .iter()
            .rev()
            .find(|build| build.name == definition.name && build.state == state)
    }

    fn offsets_of(&self, build: BuildId) -> Vec<u64> {
        let of_build = self.offsets.range((build, 0)..=(build, ShardId::MAX));
        of_build.map(|(_, position)| *position).collect()
    }

    fn load(&self, stored: &StoredBuild, definition: &Arc<ProjectionDefinition>) -> Build {
        let copy = StoredBuild {
            id: stored.id,
            name: stored.name.clone(),
            version: stored.version,
            state: stored.state,
            tables: stored.tables.clone(),
        };
        // Changes are told by the node that fills it, and not by this one.
        Build::stored(copy, definition, self.offsets_of(stored.id), 0)
    }

    /// The build of this definition that is being filled.
    pub(super) fn building(
        &self,
        definition: &Arc<ProjectionDefinition>,
        shards: u32,
    ) -> Option<Build> {
        let stored = self.find(definition, BuildState::Building)?;
        let build = self.load(stored, definition);
        let whole = build.shards.len() == shards as usize;
        (whole && build.definition.is_some()).then_some(build)
    }

    /// Lets queries see it.
    pub(super) fn show(&self, shared: &Shared) {
        for entry in shared.entries.values() {
            let definition = &entry.definition;
            let paused = self.paused.iter().any(|name| name == definition.name);
            if *entry.paused.borrow() != paused {
                entry.paused.send_replace(paused);
            }
            let next = self.building(definition, shared.shards).map(Arc::new);
            Shared::note_rebuild(entry, next);
            let Some(stored) = self.find(definition, BuildState::Live) else {
                continue;
            };
            let offsets = self.offsets_of(stored.id);
            if offsets.len() != shared.shards as usize {
                continue;
            }
            let mut live = entry.live();
            let went_back = || {
                let reached = live.shards.iter().map(super::build::Progress::reached);
                offsets
                    .iter()
                    .zip(reached)
                    .any(|(now, before)| *now < before)
            };
            if live.id != stored.id || went_back() {
                live = Arc::new(self.load(stored, definition));
                entry.show(Arc::clone(&live));
            }
            for ((shard, progress), position) in live.by_shard().zip(&offsets) {
                progress.set_failure(None);
                let committed = shared.feed.committed_position(shard);
                if committed > *position {
                    // Somebody has to say since when the next event waits.
                    let mut cursor = FeedCursor::after(shard, *position);
                    let next = shared.feed.read_committed(&mut cursor, 1);
                    let next = next.ok().and_then(|next| Some(next.first()?.time_us));
                    progress.set_oldest_us(next.unwrap_or(0));
                } else {
                    progress.set_oldest_us(0);
                }
                progress.advance(*position);
            }
            let letters = self.letters.iter().find(|(build, _)| *build == live.id);
            let letters = letters.map_or(0, |(_, letters)| *letters);
            live.letters.store(letters, Ordering::Relaxed);
        }
    }
}
