//! The supervisor of all projectors of a node.
//!
//! It starts one actor for each build and shard, and starts it again when it fails: from the stored
//! offset, after a pause that doubles with each failure in a row. Refuses: to give up, since what
//! failed (a full disk, a damaged shard) may be mended while the node runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::names::ShardId;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{oneshot, watch};

use super::build::{Build, BuildId};
use super::projector::{Projector, ProjectorContext, ProjectorMessage, ProjectorStart};
use super::standing::Part;
use super::writer::Control;

/// The pause after the first failure, and the longest one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What the supervisor hears.
#[derive(Debug)]
pub(super) enum SupervisorMessage {
    /// Fill a build.
    Fill {
        build: Arc<Build>,
        paused: watch::Receiver<bool>,
    },
    /// Start the projector of a shard again.
    Again { job: Job, failures: u32 },
    /// Fill a build no more; the reply says that no projector of it runs.
    Leave {
        build: BuildId,
        reply: oneshot::Sender<()>,
    },
    /// Fill nothing any more; the reply says that no projector runs.
    LeaveAll { reply: oneshot::Sender<()> },
}

/// What a projector is for.
#[derive(Debug, Clone)]
pub(super) struct Job {
    build: Arc<Build>,
    shard: ShardId,
    paused: watch::Receiver<bool>,
}

#[derive(Debug)]
pub(super) struct Supervisor;

#[derive(Debug)]
struct Running {
    job: Job,
    actor: ActorRef<ProjectorMessage>,
    failures: u32,
    /// How far it was when it started: what it managed since ends a row of failures.
    started_at: u64,
}

#[derive(Debug)]
pub(super) struct SupervisorState {
    context: ProjectorContext,
    running: HashMap<ActorId, Running>,
    /// Builds that are filled. One that was left and loaded again is another one.
    filled: Vec<Arc<Build>>,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = ProjectorContext;

    async fn pre_start(
        &self,
        _myself: ActorRef<SupervisorMessage>,
        context: ProjectorContext,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        Ok(SupervisorState {
            context,
            running: HashMap::new(),
            filled: Vec::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Fill { build, paused } => {
                state.filled.push(Arc::clone(&build));
                for (shard, _) in build.by_shard() {
                    let job = Job {
                        build: Arc::clone(&build),
                        shard,
                        paused: paused.clone(),
                    };
                    myself.send_message(SupervisorMessage::Again { job, failures: 0 })?;
                }
            }
            SupervisorMessage::Again { job, failures } => {
                if !state.fills(&job.build) {
                    return Ok(());
                }
                let offsets = state.offsets(&job.build).await;
                let at = usize::try_from(job.shard).unwrap_or(usize::MAX);
                match offsets.get(at).copied() {
                    Some(offset) => state.start(&myself, job, offset, failures).await?,
                    // The store cannot be read now.
                    None => {
                        let (_, pause) = BACKOFF;
                        let failures = failures + 1;
                        myself
                            .send_after(pause, move || SupervisorMessage::Again { job, failures });
                    }
                }
            }
            SupervisorMessage::Leave { build, reply } => {
                state.leave(build).await;
                // Whoever asked may be gone.
                let _gone = reply.send(());
            }
            SupervisorMessage::LeaveAll { reply } => {
                for build in std::mem::take(&mut state.filled) {
                    state.leave(build.id).await;
                }
                let _gone = reply.send(());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(cell, error) = event
            && let Some(ended) = state.running.remove(&cell.get_id())
        {
            let job = ended.job;
            if !state.context.standing.is(Part::Writing) {
                // Another one writes, or nobody can. Whoever begins to write fills everything anew.
                tracing::debug!(projection = job.build.name, shard = job.shard, %error, "ended");
                return Ok(());
            }
            let reached = job
                .build
                .progress(job.shard)
                .map(super::build::Progress::reached);
            let moved = reached.is_some_and(|reached| reached > ended.started_at);
            let failures = if moved { 1 } else { ended.failures + 1 };
            let (first, longest) = BACKOFF;
            let pause = first.saturating_mul(1 << failures.min(10).saturating_sub(1));
            let pause = pause.min(longest);
            tracing::warn!(
                projection = job.build.name, shard = job.shard, %error, failures,
                pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                "a projector failed and is started again"
            );
            if let Some(progress) = job.build.progress(job.shard) {
                progress.set_failure(Some(error.to_string()));
            }
            myself.send_after(pause, move || SupervisorMessage::Again { job, failures });
        }
        Ok(())
    }
}

impl SupervisorState {
    fn fills(&self, build: &Arc<Build>) -> bool {
        self.filled.iter().any(|filled| Arc::ptr_eq(filled, build))
    }

    /// The stored offsets of a build; empty when the writer is gone.
    async fn offsets(&self, build: &Arc<Build>) -> Vec<u64> {
        let asked = self.context.writer.ask(|reply| Control::Offsets {
            build: Arc::clone(build),
            reply,
        });
        match asked.await {
            Some(Ok(offsets)) => offsets,
            Some(Err(error)) => {
                if self.context.standing.is(Part::Writing) {
                    tracing::error!(%error, "the offsets of a read model cannot be read");
                }
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    async fn start(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        job: Job,
        offset: u64,
        failures: u32,
    ) -> Result<(), ActorProcessingErr> {
        let start = ProjectorStart {
            context: self.context.clone(),
            build: Arc::clone(&job.build),
            shard: job.shard,
            offset,
            paused: job.paused.clone(),
        };
        let (actor, _joined) =
            Actor::spawn_linked(None, Projector, start, myself.get_cell()).await?;
        let reached = job
            .build
            .progress(job.shard)
            .map(super::build::Progress::reached);
        let running = Running {
            job,
            actor: actor.clone(),
            failures,
            started_at: reached.unwrap_or(0),
        };
        self.running.insert(actor.get_id(), running);
        Ok(())
    }

    /// Stops the projectors of a build and waits until they have.
    async fn leave(&mut self, build: BuildId) {
        self.filled.retain(|filled| filled.id != build);
        let of_build = |running: &Running| running.job.build.id == build;
        let ids: Vec<ActorId> = self
            .running
            .iter()
            .filter(|(_, running)| of_build(running))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if let Some(running) = self.running.remove(&id) {
                // It finishes the batch that it is at. An error means that it has ended already.
                let _ended = running.actor.stop_and_wait(None, None).await;
            }
        }
    }
}
