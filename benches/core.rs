//! What a command costs between the door and the disk, and what it costs to bring an aggregate into
//! memory.
//!
//! `cargo bench --bench core`. "decide + sequence" goes through permits, mailbox, decision, encoding
//! and the sequencer; a replicator that commits at once stands where raft and the disk would be, so
//! that nothing else is timed. "activate" runs on a whole node with its journal: each command or read
//! goes to an aggregate that is not in memory.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use jiff::Timestamp;
use phalanx::domain::Account;
use phalanx::node::{Node, NodeBuilder};
use phalanx::settings::Settings;
use phalanx_actors::CommandModel;
use phalanx_actors::admission::{Admission, AdmissionLimits};
use phalanx_actors::incarnation::{ResidencyLimits, Services};
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::{
    Batch, BoxFuture, Journal, JournalError, Proposed, ProposedCallback, Replicator, SystemClock,
};
use phalanx_actors::record::Record;
use phalanx_actors::request::{Answer, CommandRequest, Precondition};
use phalanx_actors::sequencer::SequencerLimits;
use phalanx_actors::shard::ShardHandle;
use phalanx_actors::types::TypeRegistry;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Commands that are in flight together.
const TOGETHER: u64 = 64;
/// Aggregates of the activation benchmark.
const AGGREGATES: u64 = 20_000;

/// Commits whatever it is given, at once.
#[derive(Debug)]
struct AtOnce;

impl Replicator for AtOnce {
    fn propose(&self, _term: u64, _batch: Batch, done: ProposedCallback) -> BoxFuture<'_, ()> {
        done(Proposed::Committed);
        Box::pin(std::future::ready(()))
    }

    fn confirm_leadership(&self, _term: u64) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }
}

/// A journal in which nothing was ever stored and everything is indexed.
#[derive(Debug)]
struct Empty;

impl Journal for Empty {
    fn read_snapshot(&self, _: ShardId, _: &StreamName) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(None)
    }

    fn read_stream(
        &self,
        _: ShardId,
        _: &StreamName,
        _: u64,
        _: usize,
    ) -> Result<Vec<Record>, JournalError> {
        Ok(Vec::new())
    }

    fn find_key(
        &self,
        _: ShardId,
        _: &StreamName,
        _: u128,
        _: Timestamp,
    ) -> Result<Option<Record>, JournalError> {
        Ok(None)
    }

    fn save_snapshot(&self, _: ShardId, _: &StreamName, _: Vec<u8>) {}

    fn indexed_position(&self, _: ShardId) -> u64 {
        u64::MAX
    }

    fn is_full(&self) -> bool {
        false
    }

    fn wait_indexed(&self, _: ShardId, _: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

async fn model_without_disk() -> CommandModel {
    let many = 1 << 20;
    let services = Arc::new(Services::new(
        Arc::new(Empty),
        Arc::new(SystemClock::default()),
        ResidencyLimits {
            max_resident: many,
            idle_ns: u64::MAX,
            snapshot_every_events: 256,
            snapshot_on_passivation_events: 16,
            max_concurrent_activations: 64,
        },
        Admission::new(AdmissionLimits {
            node_requests: many,
            node_bytes: many << 10,
            shard_requests: many,
            aggregate_requests: many,
        }),
    ));
    let limits = SequencerLimits {
        batch_commands: 1024,
        batch_bytes: 1 << 20,
        proposals_in_flight: 2,
    };
    let shard = ShardHandle::start(0, Arc::clone(&services), Arc::new(AtOnce), limits)
        .await
        .unwrap();
    shard.lead(1, 0);
    while shard.serving().is_none() {
        tokio::task::yield_now().await;
    }
    let mut types = TypeRegistry::default();
    types.register::<Account>().unwrap();
    CommandModel::new(1, types, vec![shard], services, 7)
}

fn command(name: &str, body: &'static str) -> CommandRequest {
    CommandRequest {
        command: name.to_owned(),
        body: Bytes::from_static(body.as_bytes()),
        idempotency_key: None,
        key_is_new: false,
        precondition: Precondition::Any,
        representation: false,
        dry_run: false,
        traceparent: None,
        origin: None,
    }
}

fn open() -> CommandRequest {
    command("OpenAccount", r#"{"owner":"ada","currency":"EUR"}"#)
}

fn deposit() -> CommandRequest {
    command("Deposit", r#"{"amount_cents":5}"#)
}

fn account(number: u64) -> StreamName {
    StreamName::new("account", &format!("b-{number}")).unwrap()
}

async fn accepted(model: &CommandModel, number: u64, request: CommandRequest) {
    let answer = model.command(account(number), request).await;
    assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
}

fn deciding(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut group = criterion.benchmark_group("decide + sequence");
    group.throughput(Throughput::Elements(TOGETHER));
    for aggregates in [1, TOGETHER] {
        let model = runtime.block_on(async {
            let model = model_without_disk().await;
            for number in 0..aggregates {
                accepted(&model, number, open()).await;
            }
            model
        });
        group.bench_function(
            format!("{TOGETHER} commands to {aggregates} aggregates"),
            |bencher| {
                bencher.iter(|| {
                    runtime.block_on(join_all(
                        (0..TOGETHER).map(|n| accepted(&model, n % aggregates, deposit())),
                    ))
                });
            },
        );
    }
    group.finish();
}

/// A node that keeps next to nothing in memory.
fn node(runtime: &Runtime, dir: &TempDir) -> Node {
    let mut settings = Settings::default();
    settings.node.data_dir = dir.path().join("data");
    settings.http.listen = "127.0.0.1:0".parse().unwrap();
    settings.actors.max_resident = 64;
    let node = runtime
        .block_on(NodeBuilder::default().samples().start(settings))
        .unwrap();
    runtime.block_on(async {
        while node
            .model()
            .readiness()
            .iter()
            .any(|(_, state)| state.is_err())
        {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    node
}

fn activating(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let dir = TempDir::new().unwrap();
    let node = node(&runtime, &dir);
    let model = node.model().clone();
    runtime.block_on(async {
        for first in (0..AGGREGATES).step_by(64) {
            let of_one = |number| {
                let model = model.clone();
                async move {
                    accepted(&model, number, open()).await;
                    accepted(&model, number, deposit()).await;
                }
            };
            join_all((first..(first + 64).min(AGGREGATES)).map(of_one)).await;
        }
    });
    let mut group = criterion.benchmark_group("activate");
    let mut next = 0;
    group.throughput(Throughput::Elements(TOGETHER));
    group.bench_function(
        format!("{TOGETHER} reads of passive aggregates"),
        |bencher| {
            bencher.iter(|| {
                // Far apart, so that none is still in memory from an earlier round.
                let reads = (0..TOGETHER).map(|_| {
                    next = (next + 7919) % AGGREGATES;
                    model.read(account(next))
                });
                for answer in runtime.block_on(join_all(reads)) {
                    assert!(matches!(answer, Answer::State(_)), "{answer:?}");
                }
            });
        },
    );
    group.finish();
    runtime.block_on(node.shutdown()).unwrap();
}

criterion_group!(benches, deciding, activating);
criterion_main!(benches);
