//! What it costs to carry events into a view: from a journal in memory through projector and writer
//! into a SQLite file, with its commits.
//!
//! `cargo bench --bench views`. "fill" begins with an empty file. "follow" begins where 10,000 accounts
//! have rows, and each transaction changes about five hundred of them, as under a steady load.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use phalanx::domain::views::{AccountTotals, Accounts};
use phalanx::domain::{Account, AccountEvent};
use phalanx::journal::{
    Applied, AppliedRecord, Identity, Journal, JournalOptions, LogEntry, LogPayload, MemoryDisk,
    Storage,
};
use phalanx::projection::{
    Freshness, ProjectionGround, ProjectionOptions, Projections, StoreAddress,
};
use phalanx_actors::Aggregate as _;
use phalanx_actors::evolution::schema_of;
use phalanx_actors::names::{Position, ShardId, StreamName};
use phalanx_actors::ports::{BoxFuture, Streams, SystemClock};
use phalanx_actors::projection::{Projection, ProjectionRegistry};
use phalanx_actors::record::{Behind, Draft, Record, RecordHead};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Nothing is set aside here, so nobody reads single streams.
#[derive(Debug)]
struct NoStreams;

impl Streams for NoStreams {
    fn read(
        &self,
        _: ShardId,
        _: &StreamName,
        _: u64,
        _: u64,
    ) -> BoxFuture<'_, Result<Vec<Record>, String>> {
        Box::pin(std::future::ready(Err("no stream is kept".to_owned())))
    }
}

const SHARDS: u32 = 8;
const ACCOUNTS: u64 = 10_000;
const DEPOSITS: u64 = 100_000;
/// With eight shards this makes transactions of about five hundred events.
const BATCH_BYTES: usize = 12 << 10;

struct World {
    directory: TempDir,
    journal: Journal,
    ends: Vec<(u64, u64)>,
    sequences: HashMap<u64, u64>,
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let identity = Identity {
            cluster_name: "bench".to_owned(),
            node_id: 1,
            shards: SHARDS,
        };
        let options = JournalOptions::new(directory.path().join("data"), identity);
        let storage = Storage::Memory(MemoryDisk::inline());
        let clock = Arc::new(SystemClock::default());
        Self {
            journal: Journal::open(&options, storage, clock).unwrap(),
            directory,
            ends: vec![(0, 0); SHARDS as usize],
            sequences: HashMap::new(),
        }
    }

    fn commit(&mut self, account: u64, event: AccountEvent) {
        let stream = StreamName::new(Account::TYPE, &format!("account-{account}")).unwrap();
        let shard = stream.shard(SHARDS);
        let (index, position) = &mut self.ends[shard as usize];
        let sequence = self.sequences.entry(account).or_insert(0);
        let head = RecordHead {
            stream: stream.as_str(),
            first_sequence: *sequence + 1,
            event_count: 1,
            time_us: 1_800_000_000_000_000,
            command: "Deposit",
            key: &format!("{shard}-{index}"),
            fingerprint: [0; 16],
            flags: 0,
            traceparent: "",
        };
        let draft =
            Draft::of::<Account>(&head, schema_of::<Account>(), &[event], Behind::default())
                .unwrap();
        let record = Record::from_stored(draft.finish(*position + 1)).unwrap();
        *sequence += 1;
        *position += 1;
        let entry = LogEntry {
            index: *index,
            meta: Bytes::new(),
            payload: LogPayload::Records(vec![record.clone()].into()),
        };
        self.journal
            .append(shard, vec![entry], Box::new(|done| done.unwrap()));
        let applied = AppliedRecord {
            index: *index,
            slot: 0,
            record,
        };
        let mark = Applied {
            index: *index,
            state: Bytes::new(),
        };
        self.journal.apply(shard, vec![applied], mark);
        *index += 1;
    }

    fn open_all(&mut self) {
        for account in 0..ACCOUNTS {
            let opened = AccountEvent::AccountOpened {
                owner: format!("owner {}", account % 500),
                currency: "EUR".to_owned(),
            };
            self.commit(account, opened);
        }
    }

    fn deposit(&mut self, count: u64, rng: &mut StdRng) {
        for _ in 0..count {
            let deposited = AccountEvent::MoneyDeposited {
                amount_cents: rng.random_range(1..10_000),
                reference: None,
            };
            self.commit(rng.random_range(0..ACCOUNTS), deposited);
        }
    }

    fn options(&self) -> ProjectionOptions {
        ProjectionOptions {
            address: StoreAddress::Sqlite,
            cluster: "bench".to_owned(),
            node: "1".to_owned(),
            follow_interval: Duration::from_millis(5),
            path: self.directory.path().join("views.sqlite"),
            journal: "journal".to_owned(),
            shards: SHARDS,
            missing_shards: Arc::default(),
            batch_bytes: BATCH_BYTES,
            commit_interval: Duration::ZERO,
            cache_rows: 50_000,
            read_connections: 2,
            check_at_start: false,
            check_interval: Duration::ZERO,
        }
    }

    async fn start<P: Projection>(&self) -> Projections {
        let mut registry = ProjectionRegistry::default();
        registry.register::<P>().unwrap();
        let ground = ProjectionGround {
            feed: Arc::new(self.journal.clone()),
            journal: Arc::new(self.journal.clone()),
            streams: Arc::new(NoStreams),
            clock: Arc::new(SystemClock::default()),
        };
        let started = Projections::start(&registry, self.options(), ground).await;
        started.unwrap()
    }

    /// Waits until a view shows all that is committed.
    async fn reach(&self, projections: &Projections, view: &str) {
        let ends = (0..).zip(&self.ends);
        let fresh = Freshness {
            after: ends
                .map(|(shard, (_, number)): (ShardId, _)| Position {
                    shard,
                    number: *number,
                })
                .collect(),
            wait: Duration::from_secs(600),
        };
        let views = projections.views();
        views.list(view, &[], &fresh).await.unwrap();
    }
}

/// How long a view takes from where its file is to the end of the journal.
fn carry<P: Projection>(runtime: &Runtime, world: &World) -> Duration {
    runtime.block_on(async {
        let started = Instant::now();
        let projections = world.start::<P>().await;
        world.reach(&projections, P::NAME).await;
        let took = started.elapsed();
        projections.stop().await;
        took
    })
}

fn forget(world: &World) {
    for end in ["", "-wal", "-shm"] {
        let name = format!("views.sqlite{end}");
        // What is not there need not go.
        let _absent = std::fs::remove_file(world.directory.path().join(name));
    }
}

fn one<P: Projection>(criterion: &mut Criterion, runtime: &Runtime) {
    let mut rng = StdRng::seed_from_u64(1);
    let mut world = World::new();
    let mut group = criterion.benchmark_group("views");
    group.sample_size(10);
    world.open_all();
    group.throughput(Throughput::Elements(ACCOUNTS));
    group.bench_function(BenchmarkId::new("fill", P::NAME), |bencher| {
        bencher.iter_custom(|rounds| {
            let round = |_| {
                forget(&world);
                carry::<P>(runtime, &world)
            };
            (0..rounds).map(round).sum()
        });
    });
    group.throughput(Throughput::Elements(DEPOSITS));
    group.bench_function(BenchmarkId::new("follow", P::NAME), |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                world.deposit(DEPOSITS, &mut rng);
                took += carry::<P>(runtime, &world);
            }
            took
        });
    });
    group.finish();
}

fn views(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    one::<Accounts>(criterion, &runtime);
    one::<AccountTotals>(criterion, &runtime);
}

criterion_group!(benches, views);
criterion_main!(benches);
