//! openraft's own storage suite, on RocksDB and on the simulated disk.
//!
//! The suite asks for everything that openraft relies on: order, visibility, votes, truncation,
//! purging, the applied state, snapshots.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use phalanx::journal::{Identity, Journal, JournalOptions, MemoryDisk, Storage};
use phalanx::replication::log_store::ShardLog;
use phalanx::replication::state_machine::ShardIndex;
use phalanx::replication::types::TypeConfig;
use phalanx_actors::ports::SystemClock;
use tempfile::TempDir;

/// Which disk the stores lie on.
#[derive(Clone, Copy)]
enum On {
    RocksDb,
    Memory,
}

impl StoreBuilder<TypeConfig, ShardLog, ShardIndex, TempDir> for On {
    async fn build(&self) -> Result<(TempDir, ShardLog, ShardIndex), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity {
            cluster_name: "suite".to_owned(),
            node_id: 1,
            shards: 2,
        };
        let options = JournalOptions {
            reserve_free_bytes: 0,
            ..JournalOptions::new(directory.path().to_owned(), identity)
        };
        let storage = match self {
            Self::RocksDb => Storage::RocksDb,
            Self::Memory => Storage::Memory(MemoryDisk::inline()),
        };
        let journal = Journal::open(&options, storage, Arc::new(SystemClock::default())).unwrap();
        let index = ShardIndex::open(journal.clone(), 1).unwrap();
        Ok((directory, ShardLog::new(journal, 1), index))
    }
}

fn run(on: On) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Suite::test_all(on)).unwrap();
}

#[test]
fn the_journal_on_rocksdb_passes_the_storage_suite() {
    run(On::RocksDb);
}

#[test]
fn the_journal_on_the_simulated_disk_passes_the_storage_suite() {
    run(On::Memory);
}
