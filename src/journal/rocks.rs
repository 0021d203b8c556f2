//! The disk port over RocksDB.
//!
//! Owns: the database and the mark file. Refuses: to retry anything. Invariant: only `Log` and
//! `Meta` go through the write-ahead log. `Index` and `Snapshot` are derived: after a crash they
//! come back as they were at some earlier write, whole batches at a time, because a batch of one
//! table is never split over two of its buffers and buffers reach the disk in order.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use phalanx_actors::ports::Clock;
use rocksdb::{
    ColumnFamily, DB, DBRawIterator, ErrorKind, FlushOptions, ReadOptions, WriteBatch, WriteOptions,
};

use super::disk::{Batch, Change, Disk, DiskError, Durability, Row, Scan, Table, Visit};
use super::mark;
use super::rocks_options;
use super::rows::LogKey;
use super::types::{JournalOptions, OpenError};
use super::wal;

/// See the module.
pub(crate) struct RocksDisk {
    db: DB,
    dir: PathBuf,
    mark: File,
    logged: WriteOptions,
    lazy: WriteOptions,
}

impl fmt::Debug for RocksDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksDisk")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl RocksDisk {
    /// Opens the database under `dir` and takes over the mark file.
    pub(crate) fn open(
        options: &JournalOptions,
        dir: PathBuf,
        mark: File,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        if let Some(file) = wal::damaged_manifest(&dir) {
            return Err(OpenError::Damaged {
                file,
                shards: format!("0 to {}", options.identity.shards.saturating_sub(1)),
                reason: "a checksum does not fit".to_owned(),
            });
        }
        let tables = rocks_options::tables(options, clock);
        let db = DB::open_cf_descriptors(&rocks_options::database(options), &dir, tables)
            .map_err(|error| open_error(&dir, options.identity.shards, &error))?;
        let mut logged = WriteOptions::default();
        logged.set_sync(false);
        let mut lazy = WriteOptions::default();
        lazy.disable_wal(true);
        Ok(Self {
            db,
            dir,
            mark,
            logged,
            lazy,
        })
    }

    /// Opens the database under `dir` to read it. RocksDB then writes nothing there, not even its own
    /// diagnostics.
    pub(crate) fn open_read_only(
        options: &JournalOptions,
        dir: PathBuf,
        mark: File,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        if let Some(file) = wal::damaged_manifest(&dir) {
            return Err(OpenError::Damaged {
                file,
                shards: format!("0 to {}", options.identity.shards.saturating_sub(1)),
                reason: "a checksum does not fit".to_owned(),
            });
        }
        let mut database = rocks_options::database(options);
        database.create_if_missing(false);
        database.create_missing_column_families(false);
        let tables = rocks_options::tables(options, clock);
        let db = DB::open_cf_descriptors_read_only(&database, &dir, tables, false)
            .map_err(|error| open_error(&dir, options.identity.shards, &error))?;
        Ok(Self {
            db,
            dir,
            mark,
            logged: WriteOptions::default(),
            lazy: WriteOptions::default(),
        })
    }

    fn table(&self, table: Table) -> Result<&ColumnFamily, DiskError> {
        let missing = || DiskError::Corrupt(format!("table {} is missing", table.name()));
        self.db.cf_handle(table.name()).ok_or_else(missing)
    }

    fn iterator(&self, scan: Scan<'_>) -> Result<DBRawIterator<'_>, DiskError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(scan.from);
        options.set_iterate_upper_bound(scan.to);
        if scan.within_stream {
            options.set_prefix_same_as_start(true);
        } else {
            options.set_total_order_seek(true);
        }
        Ok(self
            .db
            .raw_iterator_cf_opt(self.table(scan.table)?, options))
    }
}

impl Disk for RocksDisk {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), DiskError> {
        /// Of the encoded change beside key and value.
        const OVERHEAD: usize = 8;
        let tables = [
            self.table(Table::Log)?,
            self.table(Table::Index)?,
            self.table(Table::Snapshot)?,
            self.table(Table::Meta)?,
        ];
        let [log, index, snapshot, meta] = tables;
        let handle = |table: Table| match table {
            Table::Log => log,
            Table::Index => index,
            Table::Snapshot => snapshot,
            Table::Meta => meta,
        };
        let mut out = WriteBatch::with_capacity_bytes(batch.bytes() + batch.len() * OVERHEAD + 16);
        for change in batch.changes() {
            match change {
                Change::Put(table, key, value) => out.put_cf(handle(table), key, value),
                Change::Delete(table, key) => out.delete_cf(handle(table), key),
                Change::DeleteRange(table, from, to) => {
                    out.delete_range_cf(handle(table), from, to);
                }
            }
        }
        let options = match durability {
            Durability::Logged => &self.logged,
            Durability::Lazy => &self.lazy,
        };
        self.db.write_opt(out, options).map_err(disk_error)
    }

    fn sync_log(&self) -> Result<(), DiskError> {
        self.db.flush_wal(true).map_err(disk_error)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        let value = self
            .db
            .get_pinned_cf(self.table(table)?, key)
            .map_err(disk_error)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn get_log_rows(&self, keys: &[LogKey]) -> Result<Vec<Option<Bytes>>, DiskError> {
        let table = self.table(Table::Log)?;
        let values = self.db.batched_multi_get_cf(table, keys, true);
        let copy = |value: Result<Option<rocksdb::DBPinnableSlice<'_>>, _>| {
            let value = value.map_err(disk_error)?;
            Ok(value.map(|value| Bytes::copy_from_slice(&value)))
        };
        values.into_iter().map(copy).collect()
    }

    fn scan(&self, scan: Scan<'_>, visit: Visit<'_>) -> Result<(), DiskError> {
        let mut iterator = self.iterator(scan)?;
        iterator.seek(scan.from);
        while let Some((key, value)) = iterator.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(disk_error)
    }

    fn last(&self, scan: Scan<'_>) -> Result<Option<Row>, DiskError> {
        let mut iterator = self.iterator(scan)?;
        // The bound is exclusive, so the row sought is the first one below it.
        iterator.seek_for_prev(scan.to);
        if let Some((key, value)) = iterator.item() {
            return Ok(Some((key.to_vec(), Bytes::copy_from_slice(value))));
        }
        iterator.status().map_err(disk_error)?;
        Ok(None)
    }

    fn write_mark(&self, slot: usize, bytes: &[u8]) -> Result<(), DiskError> {
        let offset = mark::slot_offset(slot, bytes.len());
        self.mark.write_all_at(bytes, offset).map_err(DiskError::io)
    }

    fn sync_mark(&self) -> Result<(), DiskError> {
        self.mark.sync_data().map_err(DiskError::io)
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(DiskError::io)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        // What is in memory is in the write-ahead log already and is written once more when it
        // moves to a table: that space is spoken for.
        let mut unflushed = 0;
        for table in Table::ALL {
            let size = self
                .db
                .property_int_value_cf(self.table(table)?, "rocksdb.size-all-mem-tables");
            unflushed += size.map_err(disk_error)?.unwrap_or(0);
        }
        Ok(free.saturating_sub(unflushed))
    }

    fn flush(&self) -> Result<(), DiskError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        for table in Table::ALL {
            let table = self.table(table)?;
            self.db.flush_cf_opt(table, &options).map_err(disk_error)?;
        }
        Ok(())
    }
}

fn disk_error(error: rocksdb::Error) -> DiskError {
    match error.kind() {
        ErrorKind::Corruption => DiskError::Corrupt(error.into_string()),
        ErrorKind::IOError if is_background_stall(error.as_ref()) => {
            DiskError::NoSpace(error.into_string())
        }
        _ => DiskError::io(error),
    }
}

/// Whether a write was turned away because a flush or compaction found no space. RocksDB answers
/// with that older error, which names a table, before it touches the write-ahead log, and goes on by
/// itself once there is space. An error of the write-ahead log itself names a log file.
fn is_background_stall(text: &str) -> bool {
    let of_log = |name: String| name.ends_with(".log");
    text.contains("No space left on device") && wal::named_file(text).is_some_and(|n| !of_log(n))
}

/// Names the file that RocksDB could not open.
fn open_error(dir: &Path, shards: u32, error: &rocksdb::Error) -> OpenError {
    let text = error.to_string();
    if !is_damage(error.kind(), &text) {
        return OpenError::Io {
            path: dir.to_owned(),
            source: Arc::new(error.clone()),
        };
    }
    let named = wal::named_file(&text).map(|name| dir.join(name));
    let found = named
        .or_else(|| wal::first_damaged(dir))
        .unwrap_or_else(|| dir.to_owned());
    OpenError::Damaged {
        file: found,
        shards: format!("0 to {}", shards.saturating_sub(1)),
        reason: text,
    }
}

/// Whether an error of opening comes from the files' contents rather than from the system.
fn is_damage(kind: ErrorKind, text: &str) -> bool {
    /// What the system says when a file is merely out of reach.
    const SYSTEM: [&str; 4] = [
        "Permission denied",
        "No space left",
        "Too many open",
        "lock",
    ];
    match kind {
        ErrorKind::Corruption | ErrorKind::InvalidArgument | ErrorKind::NotSupported => true,
        ErrorKind::IOError | ErrorKind::NotFound => !SYSTEM.iter().any(|part| text.contains(part)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_of_another_file_counts_as_a_stall() {
        let error = |file| {
            format!(
                "IO error: No space left on device: While appending to file: /d/db/{file}: No space left on device"
            )
        };
        assert!(is_background_stall(&error("000057.blob")));
        assert!(is_background_stall(&error("MANIFEST-000005")));
        assert!(!is_background_stall(&error("000058.log")));
        assert!(!is_background_stall("IO error: No space left on device"));
        assert!(!is_background_stall(
            "IO error: While fdatasync: /d/db/000057.blob: Input/output error"
        ));
    }
}
