//! The writer: the one task that changes read models.
//!
//! It takes what all projectors have brought, runs the handlers over it, and stores rows and offsets
//! of all of them in one transaction, so that many share one commit. Between two commits it waits a
//! moment for more to come together, unless somebody waits for a view.
//!
//! Owns: what is known of each build (`space`). Refuses: work that does not begin where the stored
//! offset is, so that nothing is taken in twice. Invariant: after a failed transaction nothing that is
//! in memory is trusted; it is read again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use phalanx_actors::names::ShardId;
use phalanx_actors::ports::{Clock, Streams};
use phalanx_actors::projection::{DecodedEvent, ProjectionDefinition};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::build::{Build, BuildId, Waiting};
use super::error::{OperationError, StoreError};
use super::letters::Letter;
use super::metrics::WriterMetrics;
use super::plan::{Planned, plan};
use super::retry::Retried;
use super::seal;
use super::server::{Pen, ShardEnd};
use super::space::Space;
use super::store::{BuildState, OffsetMove, Store};
use crate::failpoints::crash_point;

/// Pieces of work that share a transaction, at most.
const MAX_GROUP: usize = 256;

/// Events of one shard for one build.
pub(crate) struct Batch {
    pub(crate) build: Arc<Build>,
    pub(crate) shard: ShardId,
    /// The stored offset that it begins at, or before which there is nothing that is wanted.
    pub(crate) from: u64,
    /// The offset that it leads to.
    pub(crate) to: u64,
    pub(crate) events: Vec<DecodedEvent>,
    pub(crate) reply: oneshot::Sender<Result<(), String>>,
}

/// What else the writer does, each in a transaction of its own.
pub(crate) enum Control {
    Create {
        definition: Arc<ProjectionDefinition>,
        reply: oneshot::Sender<Result<Build, StoreError>>,
    },
    /// Puts a build in the place of another unless it is behind it; says whether it did.
    Swap {
        new: Arc<Build>,
        old: Arc<Build>,
        reply: oneshot::Sender<Result<bool, StoreError>>,
    },
    Drop {
        build: Arc<Build>,
    },
    /// How far each shard of a build is, as it is stored.
    Offsets {
        build: Arc<Build>,
        reply: oneshot::Sender<Result<Vec<u64>, StoreError>>,
    },
    Pause {
        name: &'static str,
        paused: bool,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Retry {
        build: Arc<Build>,
        letter: i64,
        skip: bool,
        reply: oneshot::Sender<Result<Retried, OperationError>>,
    },
    /// Throws the file away and begins a new one, in which nothing has been taken in.
    StartOver {
        definitions: Vec<Arc<ProjectionDefinition>>,
        reply: oneshot::Sender<Result<Vec<Planned>, StoreError>>,
    },
    /// Reaches for the pen of a database that nodes share; with it comes what is to be filled.
    TakePen {
        ends: Vec<ShardEnd>,
        definitions: Vec<Arc<ProjectionDefinition>>,
        patient: bool,
        reply: oneshot::Sender<Result<(Pen, Vec<Planned>), StoreError>>,
    },
    /// Lays it down.
    LayPenDown {
        reply: oneshot::Sender<()>,
    },
    /// Asks whoever has it to lay it down.
    WishForPen {
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Looks whether the connection is good, and notes how histories begin.
    Ping {
        ends: Vec<ShardEnd>,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// The last of all: `builds` will not be filled any further.
    Close {
        builds: Vec<Arc<Build>>,
        reply: oneshot::Sender<()>,
    },
}

/// A piece of work.
pub(crate) enum Work {
    Batch(Batch),
    Control(Control),
}

/// The way to the writer. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct WriterHandle {
    sender: mpsc::Sender<Work>,
    /// How many queries wait for a view.
    waiting: watch::Sender<usize>,
}

impl WriterHandle {
    /// Hands over a batch and waits until it is stored.
    pub(crate) async fn store(
        &self,
        batch: Batch,
        stored: oneshot::Receiver<Result<(), String>>,
    ) -> Result<(), String> {
        let stopping = || StoreError::Stopping.to_string();
        let sent = self.sender.send(Work::Batch(batch)).await;
        sent.map_err(|_| stopping())?;
        stored.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Hands over something else and waits for the answer; `None` when the writer is gone.
    pub(crate) async fn ask<T>(
        &self,
        control: impl FnOnce(oneshot::Sender<T>) -> Control,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.sender.send(Work::Control(control(reply))).await.ok()?;
        answer.await.ok()
    }

    /// Has a build removed some time.
    pub(crate) async fn drop_build(&self, build: Arc<Build>) {
        // A writer that is gone leaves it to the next start.
        let _gone = self
            .sender
            .send(Work::Control(Control::Drop { build }))
            .await;
    }

    /// Returns when somebody waits for a view.
    pub(crate) async fn hurried(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as `self`: waiting cannot fail.
        let _waits = waiting.wait_for(|waiting| *waiting > 0).await;
    }

    /// Has commits follow each other without a pause for as long as the guard lives.
    pub(crate) fn hurry(&self) -> Waiting<'_> {
        Waiting::new(&self.waiting)
    }
}

/// How the writer works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriterOptions {
    /// The least time between two commits while nobody waits.
    pub(crate) interval: Duration,
    /// Rows of each build that are kept in memory.
    pub(crate) cache_rows: usize,
}

/// See the file's description.
pub(crate) struct Writer {
    pub(super) store: Store,
    pub(super) spaces: HashMap<BuildId, Space>,
    receiver: mpsc::Receiver<Work>,
    waiting: watch::Receiver<usize>,
    options: WriterOptions,
    pub(super) streams: Arc<dyn Streams>,
    pub(super) clock: Arc<dyn Clock>,
    metrics: WriterMetrics,
}

impl Writer {
    pub(crate) fn new(
        store: Store,
        options: WriterOptions,
        streams: Arc<dyn Streams>,
        clock: Arc<dyn Clock>,
    ) -> (Self, WriterHandle) {
        let (sender, receiver) = mpsc::channel(MAX_GROUP);
        let (handle_waiting, waiting) = watch::channel(0);
        let handle = WriterHandle {
            sender,
            waiting: handle_waiting,
        };
        let writer = Self {
            store,
            spaces: HashMap::new(),
            receiver,
            waiting,
            options,
            streams,
            clock,
            metrics: WriterMetrics::default(),
        };
        (writer, handle)
    }

    /// Works until it is told to close or nobody can reach it any more.
    pub(crate) async fn run(mut self) {
        let mut last: Option<Instant> = None;
        while let Some(work) = self.receiver.recv().await {
            let mut batches = Vec::new();
            let mut control = None;
            match work {
                Work::Batch(batch) => {
                    self.gather(last).await;
                    batches.push(batch);
                }
                Work::Control(work) => control = Some(work),
            }
            while control.is_none() && batches.len() < MAX_GROUP {
                match self.receiver.try_recv() {
                    Ok(Work::Batch(batch)) => batches.push(batch),
                    Ok(Work::Control(work)) => control = Some(work),
                    Err(_) => break,
                }
            }
            if !batches.is_empty() {
                last = Some(Instant::now());
                self.commit(batches).await;
            }
            match control {
                Some(Control::Close { builds, reply }) => {
                    self.note_passed(builds).await;
                    self.store.close().await;
                    let _nobody_waits = reply.send(());
                    return;
                }
                Some(control) => Box::pin(self.control(control)).await,
                None => {}
            }
        }
    }

    /// Stores how far builds have come past events that they do not want, so that the next start
    /// need not read those again.
    async fn note_passed(&mut self, builds: Vec<Arc<Build>>) {
        // In a database that nodes share, no offset is ever behind.
        if self.store.is_shared() {
            return;
        }
        let mut batches = Vec::new();
        for build in builds {
            if build.is_unknown() || self.ready(&build).await.is_err() {
                // Then the next start reads them, which costs time and nothing else.
                continue;
            }
            let Some(space) = self.spaces.get(&build.id) else {
                continue;
            };
            for (shard, progress) in build.by_shard() {
                let (from, to) = (space.offset(shard), progress.reached());
                let Some(from) = from.filter(|from| *from < to) else {
                    continue;
                };
                let (reply, _nobody_waits) = oneshot::channel();
                batches.push(Batch {
                    build: Arc::clone(&build),
                    shard,
                    from,
                    to,
                    events: Vec::new(),
                    reply,
                });
            }
        }
        if !batches.is_empty() {
            self.commit(batches).await;
        }
    }

    /// Waits until the next commit is due, or somebody waits for a view.
    async fn gather(&mut self, last: Option<Instant>) {
        let Some(last) = last else {
            return;
        };
        let due = last + self.options.interval;
        // Whichever it is that ends it: the time, somebody who waits, or the end of all handles.
        let _due = tokio::time::timeout_at(due, self.waiting.wait_for(|n| *n > 0)).await;
    }

    async fn commit(&mut self, batches: Vec<Batch>) {
        let started = Instant::now();
        match self.try_commit(&batches).await {
            Ok(()) => {
                self.metrics.committed(started.elapsed());
                for batch in batches {
                    let build = &batch.build;
                    if let Some(progress) = build.progress(batch.shard) {
                        progress.advance(batch.to);
                    }
                    let events = batch.events.len() as u64;
                    build.handled.fetch_add(events, Ordering::Relaxed);
                    self.metrics.handled(&build.name, events);
                    // A projector that is gone will begin where the offset is.
                    let _gone = batch.reply.send(Ok(()));
                }
            }
            Err(error) => {
                self.give_up(batches.iter().map(|batch| batch.build.id))
                    .await;
                self.store.failed(&error);
                for batch in batches {
                    let _gone = batch.reply.send(Err(error.to_string()));
                }
            }
        }
    }

    /// Ends a failed transaction: what is in memory of these builds is forgotten.
    pub(super) async fn give_up(&mut self, builds: impl Iterator<Item = BuildId>) {
        self.store.roll_back().await;
        for build in builds {
            self.spaces.remove(&build);
        }
    }

    /// What is known of a build, read from the store if it is not in memory.
    pub(super) async fn ready(&mut self, build: &Build) -> Result<(), StoreError> {
        if !self.spaces.contains_key(&build.id) {
            let space = Space::load(&mut self.store, build, self.options.cache_rows).await?;
            self.spaces.insert(build.id, space);
        }
        Ok(())
    }

    async fn try_commit(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        self.store.may_write()?;
        self.store.begin().await?;
        let mut moves: Vec<OffsetMove> = Vec::new();
        let mut touched: Vec<&Arc<Build>> = Vec::new();
        for batch in batches {
            self.ready(&batch.build).await?;
            self.take_in(batch).await?;
            moves.push(OffsetMove {
                build: batch.build.id,
                shard: batch.shard,
                from: batch.from,
                to: batch.to,
            });
            if !touched.iter().any(|build| build.id == batch.build.id) {
                touched.push(&batch.build);
            }
            // Handlers of other tasks get their turn between two batches.
            tokio::task::yield_now().await;
        }
        for build in &touched {
            if let Some(space) = self.spaces.get_mut(&build.id) {
                space.flush(&mut self.store).await?;
            }
        }
        for moves in moves.chunks(32) {
            self.store.move_offsets(moves).await?;
        }
        self.seal(touched.iter().map(|build| build.id)).await?;
        crash_point!("projection::before_commit");
        self.store.commit().await?;
        crash_point!("projection::after_commit");
        for build in touched {
            if let Some(space) = self.spaces.get_mut(&build.id) {
                let changes = space.workspace.changes();
                build
                    .changes
                    .note(build.id, changes.filter(|c| build.shows(c)), &moves);
                space.workspace.stored();
                let parked = space.parked.len() as u64;
                build.letters.store(parked, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Seals builds in a file, after all else that a transaction does.
    pub(super) async fn seal(
        &mut self,
        builds: impl Iterator<Item = BuildId>,
    ) -> Result<(), StoreError> {
        if self.store.is_shared() {
            return Ok(());
        }
        let sealed = builds.filter_map(|id| Some((id, self.spaces.get(&id)?.sealed())));
        let sealed: Vec<_> = sealed.collect();
        seal::close(&mut self.store.connection()?, &sealed).await
    }

    /// Runs one batch; what is refused is set aside.
    async fn take_in(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let fenced = || StoreError::Fenced {
            shard: batch.shard,
            expected: batch.from,
        };
        let space = self.spaces.get_mut(&batch.build.id).ok_or_else(fenced)?;
        if space.offset(batch.shard) != Some(batch.from) {
            return Err(fenced());
        }
        let mut rest = &batch.events[..];
        while let Some((at, reason)) = space.run(&mut self.store, rest).await? {
            rest = rest.get(at..).unwrap_or_default();
            let Some(event) = rest.first() else {
                break;
            };
            tracing::error!(
                projection = batch.build.name, stream = %event.stream,
                event = event.sequence_number, reason, "set aside"
            );
            let letter = Letter::new(event, reason, 1, self.clock.now().as_microsecond());
            self.store.put_letter(batch.build.id, &letter).await?;
            space.parked.insert(event.stream.clone(), letter.sum());
        }
        let slot = usize::try_from(batch.shard).ok();
        if let Some(offset) = slot.and_then(|slot| space.offsets.get_mut(slot)) {
            *offset = batch.to;
        }
        Ok(())
    }

    async fn control(&mut self, control: Control) {
        // Whoever asked may be gone; what was done stays done.
        match control {
            Control::Create { definition, reply } => {
                let made = self.store.create(&definition, BuildState::Building).await;
                let _gone = reply.send(made);
            }
            Control::Swap { new, old, reply } => {
                let _gone = reply.send(self.swap(&new, &old).await);
            }
            Control::Drop { build } => {
                self.spaces.remove(&build.id);
                if let Err(error) = self.drop_build(&build).await {
                    self.store.roll_back().await;
                    tracing::warn!(%error, "failed to remove an old build; the next start will");
                }
            }
            Control::Offsets { build, reply } => {
                let offsets = self.store.offsets(build.id).await;
                if let Err(error) = &offsets {
                    self.store.report(error);
                }
                let _gone = reply.send(offsets);
            }
            Control::Pause {
                name,
                paused,
                reply,
            } => {
                let _gone = reply.send(self.store.set_paused(name, paused).await);
            }
            Control::Retry {
                build,
                letter,
                skip,
                reply,
            } => {
                let retried = Box::pin(self.retry(&build, letter, skip)).await;
                if let Err(OperationError::Store(error)) = &retried {
                    self.store.report(error);
                }
                let _gone = reply.send(retried);
            }
            Control::StartOver { definitions, reply } => {
                self.spaces.clear();
                let _gone = reply.send(Box::pin(self.start_over(&definitions)).await);
            }
            pen @ (Control::TakePen { .. }
            | Control::LayPenDown { .. }
            | Control::WishForPen { .. }
            | Control::Ping { .. }) => Box::pin(self.pen(pen)).await,
            // The loop sees to it.
            Control::Close { .. } => {}
        }
    }

    /// Begins with a new file.
    async fn start_over(
        &mut self,
        definitions: &[Arc<ProjectionDefinition>],
    ) -> Result<Vec<Planned>, StoreError> {
        self.store.start_over().await?;
        Box::pin(plan(&mut self.store, definitions)).await
    }

    /// What concerns the pen. Rows in memory are good only while it is held.
    async fn pen(&mut self, work: Control) {
        match work {
            Control::TakePen {
                ends,
                definitions,
                patient,
                reply,
            } => {
                self.spaces.clear();
                let taken = take_pen(&mut self.store, &ends, &definitions, patient);
                let taken = Box::pin(taken).await;
                if taken.is_err() {
                    self.store.let_go();
                }
                let _gone = reply.send(taken);
            }
            Control::LayPenDown { reply } => {
                self.spaces.clear();
                self.store.lay_pen_down().await;
                let _gone = reply.send(());
            }
            Control::WishForPen { reply } => {
                let _gone = reply.send(self.store.wish_for_pen().await);
            }
            Control::Ping { ends, reply } => {
                let good = match self.store.ping().await {
                    Ok(()) => self.store.note_firsts(&ends).await,
                    Err(error) => Err(error),
                };
                if good.is_err() {
                    self.spaces.clear();
                    self.store.let_go();
                }
                let _gone = reply.send(good);
            }
            _ => {}
        }
    }

    async fn drop_build(&mut self, build: &Build) -> Result<(), StoreError> {
        self.store.begin().await?;
        self.store.drop_build(build.id, &build.tables).await?;
        self.store.commit().await
    }

    /// A view must not go back: the new build has to be where the old one is, in every shard.
    async fn swap(&mut self, new: &Build, old: &Build) -> Result<bool, StoreError> {
        let behind = |(new, old): (&super::build::Progress, &super::build::Progress)| {
            new.reached() < old.reached()
        };
        if new.shards.iter().zip(&old.shards).any(behind) {
            return Ok(false);
        }
        self.store.begin().await?;
        let swapped = async {
            self.store.swap(new, old).await?;
            self.store.commit().await
        };
        match swapped.await {
            Ok(()) => Ok(true),
            Err(error) => {
                self.store.roll_back().await;
                Err(error)
            }
        }
    }
}

async fn take_pen(
    store: &mut Store,
    ends: &[ShardEnd],
    definitions: &[Arc<ProjectionDefinition>],
    patient: bool,
) -> Result<(Pen, Vec<Planned>), StoreError> {
    let wanted = definitions.iter().map(|definition| &**definition);
    let pen = store.reach_for_pen(ends, wanted, patient).await?;
    let planned = match pen {
        Pen::Held => Box::pin(plan(store, definitions)).await?,
        Pen::Elsewhere | Pen::NotYet(_) => Vec::new(),
    };
    Ok((pen, planned))
}
