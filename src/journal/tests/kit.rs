//! Builds records, opens journals on either disk and crashes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::{Journal as _, SystemClock};
use phalanx_actors::record::{Draft, Record, RecordHead, RecordView};
use tempfile::TempDir;

use super::super::{
    Applied, AppliedRecord, Done, FatalHook, Identity, Journal, JournalOptions, LogEntry,
    LogPayload, MemoryDisk, OpenError, Storage, StorageFailure, Survivors,
};

pub(crate) const SHARDS: u32 = 3;

pub(crate) fn options(dir: &Path) -> JournalOptions {
    JournalOptions {
        reserve_free_bytes: 0,
        write_buffer_bytes: 1 << 20,
        index_write_buffer_bytes: 1 << 20,
        block_cache_bytes: 4 << 20,
        log_cache_bytes_per_shard: 4 << 10,
        max_open_files: 64,
        fatal: FatalHook::new(|failure| panic!("{failure}")),
        ..JournalOptions::new(
            dir.to_owned(),
            Identity {
                cluster_name: "test".to_owned(),
                node_id: 1,
                shards: SHARDS,
            },
        )
    }
}

/// A disk to open journals on, one after the other.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    memory: Option<MemoryDisk>,
}

impl Bench {
    pub(crate) fn rocks() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            memory: None,
        }
    }

    pub(crate) fn memory(disk: MemoryDisk) -> Self {
        Self {
            memory: Some(disk),
            ..Self::rocks()
        }
    }

    /// One of each kind.
    pub(crate) fn all() -> [Self; 3] {
        [
            Self::rocks(),
            Self::memory(MemoryDisk::default()),
            Self::memory(MemoryDisk::inline()),
        ]
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn open(&self) -> Journal {
        self.try_open(&options(&self.path())).unwrap()
    }

    pub(crate) fn try_open(&self, options: &JournalOptions) -> Result<Journal, OpenError> {
        let storage = self
            .memory
            .clone()
            .map_or(Storage::RocksDb, Storage::Memory);
        Journal::open(options, storage, Arc::new(SystemClock::default()))
    }

    /// Ends a journal as `kill -9` does: what the process did not hand over is gone.
    pub(crate) fn crash(&self, journal: Journal) {
        match &self.memory {
            Some(disk) => {
                disk.crash(Survivors::default());
                drop(journal);
            }
            None => {
                let image = self.dir.path().join("image");
                copy_dir(&self.path(), &image);
                journal.shutdown();
                drop(journal);
                std::fs::remove_dir_all(self.path()).unwrap();
                std::fs::rename(&image, self.path()).unwrap();
            }
        }
    }

    pub(crate) fn reopen(&self, journal: Journal) -> Journal {
        journal.shutdown();
        drop(journal);
        self.open()
    }
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(crate) fn stream(id: &str) -> StreamName {
    StreamName::new("account", id).unwrap()
}

/// A record of `events` events; `position` is the number of the first.
pub(crate) fn record(id: &str, sequence: u64, events: u32, position: u64) -> Record {
    keyed(
        id,
        sequence,
        events,
        position,
        &format!("key-{position}"),
        0,
    )
}

/// A record of one event with so many bytes.
pub(crate) fn large(id: &str, sequence: u64, position: u64, bytes: usize) -> Record {
    let small = record(id, sequence, 1, position);
    let view = RecordView::open(&small.bytes).unwrap();
    let draft = Draft::new(&view.head, 1, &["x".repeat(bytes)]).unwrap();
    Record::from_stored(draft.finish(position)).unwrap()
}

pub(crate) fn keyed(
    id: &str,
    sequence: u64,
    events: u32,
    position: u64,
    key: &str,
    flags: u8,
) -> Record {
    let head = RecordHead {
        stream: stream(id).as_str().to_owned().leak(),
        first_sequence: sequence,
        event_count: events,
        time_us: 1_000_000,
        command: "Deposit",
        key,
        fingerprint: [3; 16],
        flags,
        traceparent: "",
    };
    let payload: Vec<String> = (0..events)
        .map(|n| format!("event {n} {}", "x".repeat(90)))
        .collect();
    Record::from_stored(Draft::new(&head, 1, &payload).unwrap().finish(position)).unwrap()
}

pub(crate) fn meta(index: u64) -> Bytes {
    Bytes::from(format!("log id {index}"))
}

pub(crate) fn entry(index: u64, records: Vec<Record>) -> LogEntry {
    LogEntry {
        index,
        meta: meta(index),
        payload: LogPayload::Records(records.into()),
    }
}

pub(crate) fn blank(index: u64) -> LogEntry {
    LogEntry {
        index,
        meta: meta(index),
        payload: LogPayload::Other(Bytes::from_static(b"blank")),
    }
}

/// Entries 0 to `count - 1`: a blank one, then one record of one event each, of `streams` streams.
pub(crate) fn history(count: u64, streams: u64) -> Vec<LogEntry> {
    let command = |index: u64| {
        let n = index - 1;
        let id = format!("a-{}", n % streams);
        entry(index, vec![record(&id, n / streams + 1, 1, index)])
    };
    std::iter::once(blank(0))
        .chain((1..count).map(command))
        .collect()
}

/// Runs a write and waits for its end.
pub(crate) fn wait(write: impl FnOnce(Done)) -> Result<(), StorageFailure> {
    let (sender, receiver) = mpsc::channel();
    write(Box::new(move |result| sender.send(result).unwrap()));
    receiver
        .recv_timeout(Duration::from_secs(20))
        .expect("an answer")
}

pub(crate) fn append(journal: &Journal, shard: ShardId, entries: Vec<LogEntry>) {
    wait(|done| journal.append(shard, entries, done)).unwrap();
}

/// Appends and applies, and waits until the rows are visible.
pub(crate) fn commit(journal: &Journal, shard: ShardId, entries: Vec<LogEntry>) {
    append(journal, shard, entries.clone());
    apply(journal, shard, &entries);
}

pub(crate) fn apply(journal: &Journal, shard: ShardId, entries: &[LogEntry]) {
    let (records, last) = applied(entries);
    let position = records.last().map_or(0, |applied| {
        applied.record.first_position + u64::from(applied.record.event_count) - 1
    });
    journal.apply(shard, records, last);
    block_on(journal.wait_indexed(shard, position)).unwrap();
}

pub(crate) fn applied(entries: &[LogEntry]) -> (Vec<AppliedRecord>, Applied) {
    let mut records = Vec::new();
    for entry in entries {
        if let LogPayload::Records(list) = &entry.payload {
            records.extend((0..).zip(list.iter()).map(|(slot, record)| AppliedRecord {
                index: entry.index,
                slot,
                record: record.clone(),
            }));
        }
    }
    let index = entries.last().unwrap().index;
    let state = Bytes::from(format!("applied {index}"));
    (records, Applied { index, state })
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let limited = async { tokio::time::timeout(Duration::from_secs(20), future).await };
    runtime.unwrap().block_on(limited).expect("in time")
}

pub(crate) fn read_all(journal: &Journal, shard: ShardId) -> Vec<LogEntry> {
    journal.read_log(shard, 0..u64::MAX, usize::MAX).unwrap()
}

/// A hook that notes the failures, for options.
pub(crate) fn noting_hook() -> (FatalHook, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    let hook = FatalHook::new(move |failure| notes.lock().push(failure.to_string()));
    (hook, seen)
}
