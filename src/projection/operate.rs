//! Operating projections: pausing, rebuilding, dealing with what was set aside.
//!
//! With a file for each node, all of it concerns this node alone. In a database that nodes share it
//! concerns all of them: pauses and rebuilds are noted there, and whoever writes acts upon them.

use std::sync::Arc;

use jiff::Timestamp;
use phalanx_actors::names::Position;
use serde::Serialize;
use tokio::time::Instant;

use super::build::{Build, BuildId};
use super::entry::{Entry, Rebuild};
use super::error::{OperationError, StoreError};
use super::letters::{self, Letter};
use super::plan::Planned;
use super::retry::Retried;
use super::standing::Part;
use super::status::sum;
use super::supervisor::SupervisorMessage;
use super::views::{Shared, Views};
use super::writer::Control;

/// How long nodes that share a database may go on asking a build that answers no more.
const OTHERS: std::time::Duration = std::time::Duration::from_secs(5);

/// An event that was set aside, and with it all later ones of its aggregate.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// The type of the aggregate.
    pub aggregate_type: String,
    /// The id of the aggregate.
    pub aggregate_id: String,
    /// The event's place in its stream.
    pub sequence_number: u64,
    /// Its place in the shard.
    pub position: String,
    /// Its name; nothing when it could not be read.
    pub event_type: Option<String>,
    /// When it was decided.
    pub time: Timestamp,
    /// Why it was set aside.
    pub reason: String,
    /// How often it was attempted.
    pub attempts: u32,
    /// When the first event of this aggregate was set aside.
    pub parked_at: Timestamp,
}

impl From<Letter> for DeadLetter {
    fn from(letter: Letter) -> Self {
        let time = |us| Timestamp::from_microsecond(us).unwrap_or_default();
        let name = letter.stream_name();
        let name = name.as_ref();
        let position = Position {
            shard: letter.shard,
            number: letter.position,
        };
        Self {
            id: letter.id,
            aggregate_type: name.map_or("", |name| name.aggregate_type()).to_owned(),
            aggregate_id: name.map_or("", |name| name.id()).to_owned(),
            sequence_number: letter.sequence_number,
            position: position.to_string(),
            event_type: letter.event_type,
            time: time(letter.time_us),
            reason: letter.reason,
            attempts: letter.attempts,
            parked_at: time(letter.parked_us),
        }
    }
}

impl Views {
    fn operated(&self, name: &str) -> Result<&Arc<Entry>, OperationError> {
        self.0.entries.get(name).ok_or(OperationError::Unknown)
    }

    /// Stops or goes on taking events in. It stays so over restarts.
    ///
    /// # Errors
    /// See [`OperationError`].
    pub async fn set_paused(&self, name: &str, paused: bool) -> Result<(), OperationError> {
        let entry = self.operated(name)?;
        let name = entry.definition.name;
        let stored = self.0.writer.ask(|reply| Control::Pause {
            name,
            paused,
            reply,
        });
        let stored = stored.await.unwrap_or(Err(StoreError::Stopping));
        stored.map_err(|error| self.operation_error(error))?;
        entry.paused.send_replace(paused);
        Ok(())
    }

    /// Builds the read model again beside the one that answers, and swaps them when it has caught up.
    /// Returns when it has begun.
    ///
    /// # Errors
    /// See [`OperationError`].
    pub async fn rebuild(&self, name: &str) -> Result<(), OperationError> {
        let entry = self.operated(name)?;
        if entry.rebuild.lock().is_some() {
            return Err(OperationError::Rebuilding);
        }
        let definition = Arc::clone(&entry.definition);
        let made = self
            .0
            .writer
            .ask(|reply| Control::Create { definition, reply });
        let made = made.await.unwrap_or(Err(StoreError::Stopping));
        let build = Arc::new(made.map_err(|error| self.operation_error(error))?);
        if !self.0.standing.is(Part::Writing) {
            // Whoever writes finds it in the database.
            Shared::note_rebuild(entry, Some(build));
            return Ok(());
        }
        if !self.0.raise(entry, Arc::clone(&build)) {
            // Somebody was quicker.
            self.0.writer.drop_build(build).await;
            return Err(OperationError::Rebuilding);
        }
        Ok(())
    }

    /// Dead letters of the build that answers, with numbers beyond `after`.
    ///
    /// # Errors
    /// See [`OperationError`].
    pub async fn dead_letters(
        &self,
        name: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, OperationError> {
        let entry = self.operated(name)?;
        let build = entry.live();
        let letters = async {
            let mut reader = self.0.readers.acquire().await?;
            letters::list(reader.connection(), build.id, after, limit).await
        };
        let letters = letters.await.map_err(|error| self.operation_error(error))?;
        Ok(letters.into_iter().map(DeadLetter::from).collect())
    }

    /// Attempts a dead letter and what waits behind it; with `skip`, without the event that failed.
    ///
    /// # Errors
    /// See [`OperationError`].
    pub async fn retry(&self, name: &str, id: i64, skip: bool) -> Result<Retried, OperationError> {
        let entry = self.operated(name)?;
        self.0.begin_to_write().await?;
        let build = entry.live();
        let tried = self.0.writer.ask(|reply| Control::Retry {
            build,
            letter: id,
            skip,
            reply,
        });
        tried
            .await
            .unwrap_or(Err(OperationError::Store(StoreError::Stopping)))
            .map_err(|error| match error {
                OperationError::Store(error) => self.operation_error(error),
                error => error,
            })
    }

    /// What a failed operation means to whoever asked for it.
    fn operation_error(&self, error: StoreError) -> OperationError {
        if self.is_shared() {
            return OperationError::Away {
                reason: error.to_string(),
            };
        }
        OperationError::Store(error)
    }
}

impl Shared {
    /// Has all builds filled that are to answer now or next.
    pub(super) fn fill_all(self: &Arc<Self>, planned: Vec<Planned>) {
        for planned in planned {
            if let Some(entry) = self.entries.get(planned.definition.name) {
                self.fill(entry, &planned.live);
                if let Some(next) = planned.next {
                    self.raise(entry, next);
                }
            }
        }
    }

    /// Has a build filled until it can answer; `false` when there is one already.
    pub(super) fn raise(self: &Arc<Self>, entry: &Arc<Entry>, build: Arc<Build>) -> bool {
        if let Some(other) = Self::reserve(entry, &build) {
            return other == build.id;
        }
        self.lift(entry, build);
        true
    }

    /// Makes a build the one that is to answer next; gives the number of the one that is already.
    pub(super) fn reserve(entry: &Entry, build: &Arc<Build>) -> Option<BuildId> {
        let mut slot = entry.rebuild.lock();
        if let Some(other) = &*slot {
            return Some(other.build.id);
        }
        *slot = Some(Rebuild {
            since: Instant::now(),
            from: sum(build),
            build: Arc::clone(build),
            task: None,
        });
        None
    }

    /// Has a build filled that is to answer next, until it can.
    pub(super) fn lift(self: &Arc<Self>, entry: &Arc<Entry>, build: Arc<Build>) {
        tracing::info!(
            projection = build.name,
            version = build.version,
            "rebuilding"
        );
        self.fill(entry, &build);
        let (shared, entry) = (Arc::downgrade(self), Arc::clone(entry));
        let feed = Arc::clone(&self.feed);
        let (id, slot) = (build.id, Arc::clone(&entry));
        let task = tokio::spawn(async move {
            // First it is let run on its own, up to where the journal was; then it need not go far.
            for _ in 0..3 {
                for (shard, progress) in build.by_shard() {
                    progress.wait(feed.committed_position(shard)).await;
                }
            }
            if let Some(shared) = shared.upgrade() {
                shared.promote(&entry, &build).await;
            }
        });
        if let Some(rebuild) = slot.rebuild.lock().as_mut().filter(|r| r.build.id == id) {
            rebuild.task = Some(task.abort_handle());
        }
    }

    /// Has projectors fill a build, unless its code is gone.
    pub(super) fn fill(&self, entry: &Entry, build: &Arc<Build>) {
        if build.definition.is_none() {
            return;
        }
        let fill = SupervisorMessage::Fill {
            build: Arc::clone(build),
            paused: entry.paused.subscribe(),
        };
        // A supervisor that is gone means that the node stops.
        let _gone = self.supervisor.send_message(fill);
    }

    /// Puts a build that has caught up in the place of the one that answers. The old one stands
    /// still for a moment, so that the new one reaches it.
    async fn promote(self: &Arc<Self>, entry: &Arc<Entry>, new: &Arc<Build>) {
        let old = entry.live();
        let (reply, left) = tokio::sync::oneshot::channel();
        let leave = SupervisorMessage::Leave {
            build: old.id,
            reply,
        };
        let told = self.supervisor.send_message(leave).is_ok();
        if !told || left.await.is_err() {
            return;
        }
        for (new, old) in new.shards.iter().zip(&old.shards) {
            new.wait(old.reached()).await;
        }
        let swapped = self.writer.ask(|reply| Control::Swap {
            new: Arc::clone(new),
            old: Arc::clone(&old),
            reply,
        });
        match swapped.await {
            Some(Ok(true)) => {
                entry.swap(Arc::clone(new));
                tracing::info!(projection = new.name, version = new.version, "rebuilt");
                self.discard(old).await;
            }
            // The node stops.
            None => {}
            // Whoever writes next goes on with it.
            Some(Err(_)) if !self.standing.is(Part::Writing) => {}
            Some(failed) => {
                tracing::error!(
                    projection = new.name,
                    ?failed,
                    "a rebuild failed; it is dropped"
                );
                *entry.rebuild.lock() = None;
                let (reply, left) = tokio::sync::oneshot::channel();
                let leave = SupervisorMessage::Leave {
                    build: new.id,
                    reply,
                };
                if self.supervisor.send_message(leave).is_ok() && left.await.is_ok() {
                    self.writer.drop_build(Arc::clone(new)).await;
                }
                self.fill(entry, &old);
            }
        }
    }

    /// Removes a build once no query uses it any more.
    async fn discard(&self, old: Arc<Build>) {
        if self.wanted.is_some() {
            // Other nodes find out in a moment that another build answers.
            tokio::time::sleep(OTHERS).await;
        }
        let mut rounds = tokio::time::interval(std::time::Duration::from_millis(100));
        while Arc::strong_count(&old) > 1 {
            rounds.tick().await;
        }
        self.writer.drop_build(old).await;
    }
}
