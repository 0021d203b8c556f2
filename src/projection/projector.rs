//! The projector: an actor that carries one shard's committed events into one build.
//!
//! It pulls a bounded batch from the journal, decodes what the projection wants, hands it to the
//! writer, and goes on when that is stored; so there is never more than one batch of it in memory.
//! When nothing is left it sleeps until more is committed. When little was there it lets a moment pass
//! as well, unless a query waits: many small batches cost far more than few larger ones, above all in
//! projections that want none of what is written.
//!
//! Owns: its place in the shard. Refuses: to guess after a failure. It ends with the error, and its
//! supervisor starts it again from the stored offset. Invariant: one batch at a time, in order.

use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::names::ShardId;
use phalanx_actors::ports::{Feed, FeedCursor, Journal};
use phalanx_actors::projection::DecodedEvent;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::build::{Build, Progress};
use super::standing::Standing;
use super::writer::{Batch, WriterHandle};

/// Events that are not wanted may go by until the offset is stored. They are read again after a crash;
/// when the node is stopped, the writer stores it at last.
const UNSTORED: u64 = 2_000;

/// How often a full disk is looked at.
const FULL_POLL: Duration = Duration::from_secs(1);

/// What a projector hears.
#[derive(Debug)]
pub(super) enum ProjectorMessage {
    /// There may be something to do.
    Wake,
}

/// What all projectors of a node share.
#[derive(Debug, Clone)]
pub(super) struct ProjectorContext {
    pub(super) feed: Arc<dyn Feed>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) writer: WriterHandle,
    pub(super) batch_bytes: usize,
    pub(super) standing: Standing,
    /// Whether the rows lie on a server, which other nodes read as well.
    pub(super) is_shared: bool,
    /// The least time between two batches that are not full while nobody waits for the view.
    pub(super) interval: Duration,
}

/// What a projector starts with.
#[derive(Debug)]
pub(super) struct ProjectorStart {
    pub(super) context: ProjectorContext,
    pub(super) build: Arc<Build>,
    pub(super) shard: ShardId,
    /// The stored offset.
    pub(super) offset: u64,
    pub(super) paused: watch::Receiver<bool>,
}

#[derive(Debug)]
pub(super) struct Projector;

#[derive(Debug)]
pub(super) struct ProjectorState {
    start: ProjectorStart,
    cursor: FeedCursor,
    stored: u64,
    /// When the last batch was pulled.
    pulled: Instant,
    waker: Option<JoinHandle<()>>,
}

impl Actor for Projector {
    type Msg = ProjectorMessage;
    type State = ProjectorState;
    type Arguments = ProjectorStart;

    async fn pre_start(
        &self,
        myself: ActorRef<ProjectorMessage>,
        start: ProjectorStart,
    ) -> Result<ProjectorState, ActorProcessingErr> {
        let offset = start.offset;
        myself.send_message(ProjectorMessage::Wake)?;
        Ok(ProjectorState {
            cursor: FeedCursor::after(start.shard, offset),
            stored: offset,
            pulled: Instant::now(),
            start,
            waker: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ProjectorMessage>,
        _wake: ProjectorMessage,
        state: &mut ProjectorState,
    ) -> Result<(), ActorProcessingErr> {
        let done = Box::pin(state.advance()).await;
        match done.inspect_err(|reason| state.failed(reason)) {
            Ok(Pulled::More) => myself.send_message(ProjectorMessage::Wake)?,
            Ok(Pulled::Nothing) => state.sleep(myself, None),
            Ok(Pulled::DiskFull) => state.sleep(myself, Some(FULL_POLL)),
            Err(reason) => return Err(reason.into()),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<ProjectorMessage>,
        state: &mut ProjectorState,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(waker) = state.waker.take() {
            waker.abort();
        }
        Ok(())
    }
}

/// What one pull came to.
enum Pulled {
    /// A full batch: there is more.
    More,
    /// Nothing is left, or next to nothing.
    Nothing,
    /// What is left of the disk belongs to the journal.
    DiskFull,
}

impl ProjectorState {
    fn progress(&self) -> Result<&Progress, String> {
        let ProjectorStart { build, shard, .. } = &self.start;
        let progress = build.progress(*shard);
        progress.ok_or_else(|| format!("there is no shard {shard}"))
    }

    fn failed(&self, reason: &str) {
        if let Ok(progress) = self.progress() {
            progress.set_failure(Some(reason.to_owned()));
        }
    }

    /// Takes in one batch.
    async fn advance(&mut self) -> Result<Pulled, String> {
        if *self.start.paused.borrow() {
            return Ok(Pulled::Nothing);
        }
        let ProjectorStart { context, build, .. } = &self.start;
        if !context.is_shared && context.journal.is_full() {
            return Ok(Pulled::DiskFull);
        }
        self.pulled = Instant::now();
        let read = context
            .feed
            .read_committed(&mut self.cursor, context.batch_bytes);
        let records = read.map_err(|error| error.to_string())?;
        let Some(first) = records.first() else {
            self.progress()?.set_oldest_us(0);
            return Ok(Pulled::Nothing);
        };
        self.progress()?.set_oldest_us(first.time_us);
        let mut events: Vec<DecodedEvent> = Vec::new();
        if let Some(definition) = &build.definition {
            for record in &records {
                definition.decode(self.start.shard, record, 1, &mut events);
            }
        }
        let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
        drop(records);
        let to = self.cursor.position();
        // Other nodes see nothing but what is stored.
        let unstored = if context.is_shared { 0 } else { UNSTORED };
        if events.is_empty() && to - self.stored < unstored {
            self.progress()?.advance(to);
        } else {
            self.store(to, events).await?;
        }
        let progress = self.progress()?;
        progress.set_failure(None);
        let ProjectorStart { context, shard, .. } = &self.start;
        if context.feed.committed_position(*shard) <= to {
            progress.set_oldest_us(0);
        }
        // A batch ends with whole entries, so a full one may be somewhat short of the bound.
        let is_full = bytes >= context.batch_bytes / 2;
        Ok(if is_full {
            Pulled::More
        } else {
            Pulled::Nothing
        })
    }

    async fn store(&mut self, to: u64, events: Vec<DecodedEvent>) -> Result<(), String> {
        let (reply, stored) = oneshot::channel();
        let batch = Batch {
            build: Arc::clone(&self.start.build),
            shard: self.start.shard,
            from: self.stored,
            to,
            events,
            reply,
        };
        self.start.context.writer.store(batch, stored).await?;
        self.stored = to;
        Ok(())
    }

    /// Has the actor woken when there is more to do.
    fn sleep(&mut self, myself: ActorRef<ProjectorMessage>, poll: Option<Duration>) {
        let feed = Arc::clone(&self.start.context.feed);
        let build = Arc::clone(&self.start.build);
        let due = self.pulled + self.start.context.interval;
        let mut paused = self.start.paused.clone();
        let (shard, position) = (self.start.shard, self.cursor.position());
        let waker = tokio::spawn(async move {
            if let Some(poll) = poll {
                tokio::time::sleep(poll).await;
            }
            feed.wait_committed(shard, position).await;
            if let Some(progress) = build.progress(shard) {
                progress.pause(due).await;
            }
            // Without a sender nobody pauses any more.
            let _gone = paused.wait_for(|paused| !paused).await;
            // An actor that has stopped needs no waking.
            let _stopped = myself.send_message(ProjectorMessage::Wake);
        });
        if let Some(before) = self.waker.replace(waker) {
            before.abort();
        }
    }
}
