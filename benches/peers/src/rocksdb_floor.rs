//! The RocksDB floor: one writer thread, one synced batch for whatever waits, nothing else.
//!
//! It is what Phalanx cannot beat while it stores events in RocksDB: no log of a consensus, no
//! index rows, no retry keys.

use std::io;
use std::path::Path;

use rocksdb::{DB, Options, WriteBatch, WriteOptions};

use crate::group_commit::{Disk, GroupCommit};

/// An open database and the next key.
struct Floor {
    db: DB,
    write: WriteOptions,
    next: u64,
}

/// Opens a database in an empty directory.
pub(crate) fn open(data_dir: &Path) -> Result<GroupCommit, Box<dyn std::error::Error>> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_error_if_exists(true);
    let db = DB::open(&options, data_dir)?;
    let mut write = WriteOptions::default();
    write.set_sync(true);
    Ok(GroupCommit::start(Floor { db, write, next: 0 })?)
}

impl Disk for Floor {
    fn commit(&mut self, records: &[Vec<u8>]) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        for record in records {
            batch.put(self.next.to_be_bytes(), record);
            self.next += 1;
        }
        self.db
            .write_opt(batch, &self.write)
            .map_err(io::Error::other)
    }
}
