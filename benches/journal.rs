//! What the journal costs: appending with one fsync per batch, activating one aggregate among many,
//! and replaying a long stream.
//!
//! `cargo bench --bench journal`. Appending measures the disk as much as the code.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use phalanx::journal::{
    Applied, AppliedRecord, Identity, Journal, JournalOptions, LogEntry, LogPayload, Storage,
};
use phalanx_actors::names::StreamName;
use phalanx_actors::ports::{Journal as _, SystemClock};
use phalanx_actors::record::{Draft, Record, RecordHead, hash_key};
use tempfile::TempDir;

/// Commands per raft entry.
const BATCH: u64 = 64;
/// Events of the long stream.
const LONG: u64 = 1_000_000;
/// Aggregates of the activation benchmark, with three events each.
const AGGREGATES: u64 = 100_000;
/// Records per call while replaying.
const PAGE: usize = 1024;

fn open(dir: &Path) -> Journal {
    let identity = Identity {
        cluster_name: "bench".to_owned(),
        node_id: 1,
        shards: 4,
    };
    let options = JournalOptions::new(dir.join("data"), identity);
    Journal::open(&options, Storage::RocksDb, Arc::new(SystemClock::default())).unwrap()
}

fn record(stream: &StreamName, sequence: u64, position: u64) -> Record {
    let key = format!("key-{position}");
    let head = RecordHead {
        stream: stream.as_str(),
        first_sequence: sequence,
        event_count: 1,
        time_us: 1_800_000_000_000_000,
        command: "Deposit",
        key: &key,
        fingerprint: [1; 16],
        flags: 0,
        traceparent: "",
    };
    let bytes = Draft::new(&head, 1, &["x".repeat(100)])
        .unwrap()
        .finish(position);
    Record {
        stream: stream.clone(),
        first_sequence: sequence,
        event_count: 1,
        first_position: position,
        time_us: head.time_us,
        key_hash: hash_key(&key),
        flags: 0,
        bytes,
    }
}

fn entry(index: u64, records: Vec<Record>) -> LogEntry {
    LogEntry {
        index,
        meta: Bytes::from_static(b"0123456789abcdef"),
        payload: LogPayload::Records(records.into()),
    }
}

/// Appends and waits for the fsync.
fn append(journal: &Journal, entries: Vec<LogEntry>) {
    let (sender, receiver) = mpsc::channel();
    journal.append(
        0,
        entries,
        Box::new(move |result| sender.send(result).unwrap()),
    );
    receiver.recv().unwrap().unwrap();
}

fn apply(journal: &Journal, entry: &LogEntry) {
    let LogPayload::Records(records) = &entry.payload else {
        return;
    };
    let place = |(slot, record): (u32, &Record)| AppliedRecord {
        index: entry.index,
        slot,
        record: record.clone(),
    };
    let applied = Applied {
        index: entry.index,
        state: Bytes::from_static(b"0123456789abcdef0123456789abcdef"),
    };
    journal.apply(0, (0..).zip(records.iter()).map(place).collect(), applied);
}

/// Stores `events` events, spread over streams by `stream`, and waits until they are indexed.
fn fill(journal: &Journal, events: u64, stream: impl Fn(u64) -> (StreamName, u64)) {
    const PER_ENTRY: u64 = 500;
    for (index, first) in (1..).zip((1..=events).step_by(500)) {
        let last = (first + PER_ENTRY - 1).min(events);
        let command = |position| {
            let (stream, sequence) = stream(position - 1);
            record(&stream, sequence, position)
        };
        let entry = entry(index, (first..=last).map(command).collect());
        append(journal, vec![entry.clone()]);
        apply(journal, &entry);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let indexed = runtime.block_on(journal.wait_indexed(0, events));
    indexed.expect("it is indexed");
}

fn appending(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for batch in [1, BATCH] {
        let dir = TempDir::new().unwrap();
        let journal = open(dir.path());
        let streams: Vec<_> = (0..1000_u64).map(name).collect();
        let mut index = 0;
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("{batch} commands per fsync"), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    index += 1;
                    let first = (index - 1) * batch + 1;
                    let command = |position: u64| {
                        let stream = &streams[usize::try_from(position).unwrap() % streams.len()];
                        record(stream, position, position)
                    };
                    let entry = entry(index, (first..first + batch).map(command).collect());
                    let start = Instant::now();
                    append(&journal, vec![entry.clone()]);
                    spent += start.elapsed();
                    apply(&journal, &entry);
                }
                spent
            });
        });
    }
    group.finish();
}

fn name(number: u64) -> StreamName {
    StreamName::new("account", &format!("a-{number}")).unwrap()
}

fn reading(criterion: &mut Criterion) {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path());
    fill(&journal, AGGREGATES * 3, |n| {
        (name(n % AGGREGATES), n / AGGREGATES + 1)
    });
    journal.shutdown();
    drop(journal);
    let journal = open(dir.path());
    let mut group = criterion.benchmark_group("activate");
    let mut next = 0;
    group.bench_function("three events, no snapshot", |bencher| {
        bencher.iter(|| {
            next = (next + 7919) % AGGREGATES;
            let records = journal.read_stream(0, &name(next), 1, 256).unwrap();
            assert_eq!(records.len(), 3);
        });
    });
    group.bench_function("an aggregate that does not exist", |bencher| {
        bencher.iter(|| {
            next += 1;
            let stream = StreamName::new("account", &format!("none-{next}")).unwrap();
            assert!(journal.read_stream(0, &stream, 1, 256).unwrap().is_empty());
        });
    });
    group.bench_function("a key that is not known", |bencher| {
        let now = jiff::Timestamp::now();
        bencher.iter(|| {
            next += 1;
            let hash = u128::from(next) << 64;
            assert!(
                journal
                    .find_key(0, &name(next % AGGREGATES), hash, now)
                    .unwrap()
                    .is_none()
            );
        });
    });
    group.finish();
}

fn replaying(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(10);
    group.throughput(Throughput::Elements(LONG));
    for neighbours in [1, 8] {
        let dir = TempDir::new().unwrap();
        let journal = open(dir.path());
        let long = name(0);
        // The first stream has every event, or every eighth one.
        let events = LONG;
        fill(&journal, events, |n| {
            (name(n % neighbours), n / neighbours + 1)
        });
        journal.shutdown();
        drop(journal);
        let journal = open(dir.path());
        let own = events / neighbours;
        group.throughput(Throughput::Elements(own));
        group.bench_function(
            format!("{own} events, 1 in {neighbours} of the log"),
            |bencher| {
                bencher.iter(|| {
                    let mut next = 1;
                    while next <= own {
                        let records = journal.read_stream(0, &long, next, PAGE).unwrap();
                        next += u64::try_from(records.len()).unwrap();
                        black_box(records);
                    }
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, appending, reading, replaying);
criterion_main!(benches);
