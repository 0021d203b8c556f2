//! Test doubles for the ports, and a one-shard command model around them.
//!
//! The journal lives in memory and may lag with its index; the replicator commits at once, or only
//! what the test lets through. Neither fails by itself.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by several test crates, each of which uses a part of it"
)]

mod doubles;
pub mod tally;

use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::admission::{Admission, AdmissionLimits};
use phalanx_actors::incarnation::{ResidencyLimits, Services};
use phalanx_actors::model::TypeRegistry;
use phalanx_actors::names::StreamName;
use phalanx_actors::passivation;
use phalanx_actors::request::{Accepted, Answer, CommandRequest, FailureKind, Precondition};
use phalanx_actors::sequencer::SequencerLimits;
use phalanx_actors::shard::ShardHandle;
use phalanx_actors::{Aggregate, CommandModel};
use tokio::task::JoinHandle;

pub use self::doubles::{ManualClock, MemoryJournal, ScriptedReplicator};
pub use self::tally::Tally;

pub struct Options {
    pub residency: ResidencyLimits,
    pub admission: AdmissionLimits,
    pub sequencer: SequencerLimits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            residency: ResidencyLimits {
                max_resident: 1000,
                idle_ns: u64::MAX,
                snapshot_every_events: 1000,
                snapshot_on_passivation_events: 1000,
                max_concurrent_activations: 8,
            },
            admission: AdmissionLimits {
                node_requests: 10_000,
                node_bytes: 1 << 24,
                shard_requests: 10_000,
                aggregate_requests: 10_000,
            },
            sequencer: SequencerLimits {
                batch_commands: 4,
                batch_bytes: 1 << 20,
                proposals_in_flight: 2,
            },
        }
    }
}

pub struct World {
    pub journal: Arc<MemoryJournal>,
    pub replicator: Arc<ScriptedReplicator>,
    pub clock: Arc<ManualClock>,
    pub services: Arc<Services>,
    pub shard: ShardHandle,
    pub model: CommandModel,
}

impl World {
    /// A shard that serves in term 1.
    pub async fn new(options: Options) -> Self {
        Self::on(Arc::default(), options).await
    }

    /// The same with what an earlier world left behind.
    pub async fn on(journal: Arc<MemoryJournal>, options: Options) -> Self {
        let world = Self::as_node(1, journal, options).await;
        world.lead(1).await;
        world
    }

    /// A node of its own, which leads nothing yet.
    pub async fn as_node(node: u64, journal: Arc<MemoryJournal>, options: Options) -> Self {
        Self::build_of::<Tally>(node, journal, options).await
    }

    /// A build in which the type of [`stream`] is another one; serves in term 1.
    pub async fn of<A: Aggregate>(journal: Arc<MemoryJournal>) -> Self {
        let world = Self::build_of::<A>(1, journal, Options::default()).await;
        world.lead(1).await;
        world
    }

    async fn build_of<A: Aggregate>(
        node: u64,
        journal: Arc<MemoryJournal>,
        options: Options,
    ) -> Self {
        let clock = Arc::new(ManualClock::default());
        let replicator = Arc::new(ScriptedReplicator::new(Arc::clone(&journal)));
        let services = Arc::new(Services::new(
            Arc::clone(&journal) as _,
            Arc::clone(&clock) as _,
            options.residency,
            Admission::new(options.admission),
        ));
        let shard = ShardHandle::start(
            0,
            Arc::clone(&services),
            Arc::clone(&replicator) as _,
            options.sequencer,
        )
        .await
        .unwrap();
        let mut types = TypeRegistry::default();
        types.register::<A>().unwrap();
        let model = CommandModel::new(
            node,
            types,
            vec![shard.clone()],
            Arc::clone(&services),
            node,
        );
        Self {
            journal,
            replicator,
            clock,
            services,
            shard,
            model,
        }
    }

    /// Starts an incarnation and waits until it serves.
    pub async fn lead(&self, term: u64) {
        self.replicator.set_term(term);
        self.shard.lead(term, self.journal.last_position());
        eventually(|| self.shard.serving().is_some_and(|i| i.term() == term)).await;
    }

    pub async fn step_down(&self) {
        self.shard.step_down();
        eventually(|| self.shard.serving().is_none()).await;
    }

    /// Lets every aggregate go that has nothing in flight. Wants an idle time of 1 ns.
    pub async fn passivate_idle(&self) {
        self.clock.advance_monotonic();
        let task = self.start_passivation();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        task.abort();
    }

    pub fn start_passivation(&self) -> JoinHandle<()> {
        let shards = vec![self.shard.clone()];
        tokio::spawn(passivation::run(Arc::clone(&self.services), shards))
    }

    /// Sends a command; the answer arrives at the handle.
    pub fn send(&self, id: &str, request: CommandRequest) -> JoinHandle<Answer> {
        let (model, stream) = (self.model.clone(), stream(id));
        tokio::spawn(async move { model.command(stream, request).await })
    }

    pub fn send_read(&self, id: &str) -> JoinHandle<Answer> {
        let (model, stream) = (self.model.clone(), stream(id));
        tokio::spawn(async move { model.read(stream).await })
    }

    pub async fn ask(&self, id: &str, request: CommandRequest) -> Answer {
        soon(self.send(id, request)).await
    }

    /// The state's total.
    pub async fn total(&self, id: &str) -> i64 {
        match soon(self.send_read(id)).await {
            Answer::State(view) => {
                let json: serde_json::Value = serde_json::from_str(view.state.get()).unwrap();
                json["total"].as_i64().unwrap()
            }
            other => panic!("{other:?}"),
        }
    }
}

pub fn stream(id: &str) -> StreamName {
    StreamName::new("tally", id).unwrap()
}

/// A command with a body and nothing special.
pub fn command(name: &str, body: &str) -> CommandRequest {
    CommandRequest {
        command: name.to_owned(),
        body: body.to_owned().into(),
        idempotency_key: None,
        key_is_new: false,
        precondition: Precondition::Any,
        representation: false,
        dry_run: false,
        traceparent: None,
        origin: None,
    }
}

pub fn add(amount: i64) -> CommandRequest {
    command("Add", &format!(r#"{{"amount":{amount}}}"#))
}

pub fn take(amount: i64) -> CommandRequest {
    command("Take", &format!(r#"{{"amount":{amount}}}"#))
}

pub fn with_key(key: &str, request: CommandRequest) -> CommandRequest {
    CommandRequest {
        idempotency_key: Some(key.to_owned()),
        ..request
    }
}

pub fn dry_run(request: CommandRequest) -> CommandRequest {
    CommandRequest {
        dry_run: true,
        ..request
    }
}

#[track_caller]
pub fn accepted(answer: Answer) -> Accepted {
    match answer {
        Answer::Accepted(accepted) => accepted,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn failed(answer: Answer) -> FailureKind {
    match answer {
        Answer::Failed(failure) => failure.kind,
        other => panic!("{other:?}"),
    }
}

/// Waits for something that must happen; far longer than it takes.
pub async fn eventually(mut holds: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never happened");
}

pub async fn soon<T>(task: JoinHandle<T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), task)
        .await
        .unwrap()
        .unwrap()
}

/// Lets every other task run until it waits.
pub async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}
