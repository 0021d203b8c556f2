//! What the log store needs of a disk: atomic batches over four ordered tables, a small mark file,
//! and the free space. Two implementations stand behind it: RocksDB and a simulated disk.
//!
//! Invariant: a batch written with [`Durability::Logged`] survives any crash once a later `sync_log`
//! returned; a [`Durability::Lazy`] one may be lost, but only together with all later lazy ones of its
//! table.

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::rows::LogKey;

/// A table. Tables are independent of each other but for batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    /// Log entries.
    Log,
    /// Stream rows, idempotency keys and applied marks.
    Index,
    /// Snapshots of aggregates.
    Snapshot,
    /// Votes.
    Meta,
}

impl Table {
    pub(crate) const ALL: [Self; 4] = [Self::Log, Self::Index, Self::Snapshot, Self::Meta];

    /// The name under which it is stored.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Index => "index",
            Self::Snapshot => "snapshot",
            Self::Meta => "meta",
        }
    }
}

/// How a write reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// With the next [`Disk::sync_log`]. For `Log` and `Meta`.
    Logged,
    /// On disk some time later. For `Index` and `Snapshot`, which can be derived again.
    Lazy,
}

/// Why a disk could not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum DiskError {
    /// A check of the disk's own failed. The text names the file where that is known.
    #[error("{0}")]
    Corrupt(String),
    /// The operating system refused.
    #[error("{0}")]
    Io(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// There is no space for files other than the log's. The write was not begun.
    #[error("{0}")]
    NoSpace(String),
    /// The simulated machine is gone, and with it everybody who could be told.
    #[error("the simulated machine crashed")]
    Crashed,
}

impl DiskError {
    pub(crate) fn io(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Io(Arc::new(error))
    }

    pub(crate) fn into_source(self) -> Arc<dyn std::error::Error + Send + Sync> {
        match self {
            Self::Corrupt(_) | Self::NoSpace(_) | Self::Crashed => Arc::new(self),
            Self::Io(source) => source,
        }
    }
}

/// One change of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    /// Sets a row.
    Put(Table, &'a [u8], &'a [u8]),
    /// Removes a row.
    Delete(Table, &'a [u8]),
    /// Removes the rows of a range, without reading them: `from <= key < to`.
    DeleteRange(Table, &'a [u8], &'a [u8]),
}

/// Changes that take effect together, in one flat buffer that is used again.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    data: Vec<u8>,
    changes: Vec<Extent>,
}

/// Where a change lies in the buffer: the key from the last change's end, the value behind it.
#[derive(Debug, Clone, Copy)]
struct Extent {
    table: Table,
    key_start: usize,
    key_end: usize,
    rest: Rest,
}

/// What lies behind a change's key.
#[derive(Debug, Clone, Copy)]
enum Rest {
    /// Nothing: the row is removed.
    Nothing,
    /// The value, up to here.
    Value(usize),
    /// The end of a range that is removed, up to here.
    RangeEnd(usize),
}

impl Batch {
    /// Sets a row to the concatenation of `parts`.
    pub(crate) fn put<'a>(
        &mut self,
        table: Table,
        key: &[u8],
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) {
        let key_start = self.data.len();
        self.data.extend_from_slice(key);
        let key_end = self.data.len();
        for part in parts {
            self.data.extend_from_slice(part);
        }
        self.changes.push(Extent {
            table,
            key_start,
            key_end,
            rest: Rest::Value(self.data.len()),
        });
    }

    /// Removes a row.
    pub(crate) fn delete(&mut self, table: Table, key: &[u8]) {
        let key_start = self.data.len();
        self.data.extend_from_slice(key);
        self.changes.push(Extent {
            table,
            key_start,
            key_end: self.data.len(),
            rest: Rest::Nothing,
        });
    }

    /// Removes the rows of a range: `from <= key < to`.
    pub(crate) fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) {
        let key_start = self.data.len();
        self.data.extend_from_slice(from);
        let key_end = self.data.len();
        self.data.extend_from_slice(to);
        self.changes.push(Extent {
            table,
            key_start,
            key_end,
            rest: Rest::RangeEnd(self.data.len()),
        });
    }

    /// The changes, in order.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        self.changes.iter().map(move |extent| {
            let key = self.data.get(extent.key_start..extent.key_end);
            let key = key.unwrap_or_default();
            let upto = |end| self.data.get(extent.key_end..end).unwrap_or_default();
            match extent.rest {
                Rest::Nothing => Change::Delete(extent.table, key),
                Rest::Value(end) => Change::Put(extent.table, key, upto(end)),
                Rest::RangeEnd(end) => Change::DeleteRange(extent.table, key, upto(end)),
            }
        })
    }

    /// Sorts by key, table by table. Rows that lie close to each other are quicker to put in one
    /// after the other. Changes of the same row keep their order.
    pub(crate) fn sort(&mut self) {
        let data = &self.data;
        self.changes.sort_by(|a, b| {
            let key = |extent: &Extent| data.get(extent.key_start..extent.key_end);
            (a.table, key(a)).cmp(&(b.table, key(b)))
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Number of changes.
    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Bytes of keys and values.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Forgets the changes; keeps a buffer of reasonable size.
    pub(crate) fn clear(&mut self) {
        /// One large batch must not pin its memory for ever.
        const KEEP_BYTES: usize = 4 << 20;
        self.data.clear();
        self.changes.clear();
        self.data.shrink_to(KEEP_BYTES);
    }
}

/// A row that was read.
pub(crate) type Row = (Vec<u8>, Bytes);

/// Called with key and value of each row of a scan.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Which rows a scan covers: `from <= key < to`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scan<'a> {
    pub(crate) table: Table,
    pub(crate) from: &'a [u8],
    pub(crate) to: &'a [u8],
    /// Both ends lie within one stream's rows, which lets filters answer for tables without any.
    pub(crate) within_stream: bool,
}

/// See the module.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Makes a batch take effect for readers.
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), DiskError>;

    /// Puts every logged batch on disk whose `write` returned before this call. Further batches may
    /// be written meanwhile.
    fn sync_log(&self) -> Result<(), DiskError>;

    /// Reads one row.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, DiskError>;

    /// Reads log rows; `keys` are in order.
    fn get_log_rows(&self, keys: &[LogKey]) -> Result<Vec<Option<Bytes>>, DiskError>;

    /// Visits rows in order until told to stop.
    fn scan(&self, scan: Scan<'_>, visit: Visit<'_>) -> Result<(), DiskError>;

    /// The last row of a range.
    fn last(&self, scan: Scan<'_>) -> Result<Option<Row>, DiskError>;

    /// Replaces one of the two mark slots; not synced.
    fn write_mark(&self, slot: usize, bytes: &[u8]) -> Result<(), DiskError>;

    /// Puts the marks on disk.
    fn sync_mark(&self) -> Result<(), DiskError>;

    /// Free bytes.
    fn free_bytes(&self) -> Result<u64, DiskError>;

    /// Puts everything on disk, lazy batches included.
    fn flush(&self) -> Result<(), DiskError>;

    /// Whether an inline writer must not work yet: somebody else says when.
    fn puts_off(&self) -> bool {
        false
    }

    /// Whether writes are done on the caller's thread, for simulations.
    fn writes_inline(&self) -> bool {
        false
    }
}
