//! What callers of the journal hand in and get back: options, log entries, and the two error types
//! of its write side. Holds no logic beyond small constructors.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use phalanx_actors::names::ShardId;
use phalanx_actors::record::Record;

/// Whose data a directory holds. Fixed when the directory is formatted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `cluster.name`.
    pub cluster_name: String,
    /// `node.id`.
    pub node_id: u64,
    /// `cluster.shards`: number of shards, at least 1.
    pub shards: u32,
}

/// How a journal is opened.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    /// The directory; made when it does not exist. Must lie on a local file system.
    pub data_dir: PathBuf,
    /// What the directory must belong to.
    pub identity: Identity,
    /// Free bytes below which [`is_full`](crate::journal::Journal::is_full) turns true; 0 turns the
    /// check off. At least three write buffers are sensible.
    pub reserve_free_bytes: u64,
    /// Bytes of log that are held in memory before they move from the write-ahead log to a table.
    /// Larger: fewer, larger files. Smaller: a faster start after a crash.
    pub write_buffer_bytes: usize,
    /// The same for index rows, which are derived again from the log after a crash. Larger: less
    /// rewriting. Smaller: less to derive again.
    pub index_write_buffer_bytes: usize,
    /// Bytes for blocks, filters and indexes that were read.
    pub block_cache_bytes: usize,
    /// Bytes of newest log entries kept in memory per shard. Entries that are not written or not
    /// applied yet stay in memory beyond that.
    pub log_cache_bytes_per_shard: usize,
    /// How long an idempotency key is remembered, from the time of its command.
    pub idempotency_retention: Duration,
    /// File descriptors for tables; at least 64.
    pub max_open_files: i32,
    /// Called when a write, an fsync or a raft group's read of its log failed.
    pub fatal: FatalHook,
}

impl JournalOptions {
    /// Options with the defaults for everything but the place and the owner.
    #[must_use]
    pub fn new(data_dir: PathBuf, identity: Identity) -> Self {
        Self {
            data_dir,
            identity,
            reserve_free_bytes: 512 << 20,
            write_buffer_bytes: 64 << 20,
            index_write_buffer_bytes: 16 << 20,
            block_cache_bytes: 128 << 20,
            log_cache_bytes_per_shard: 1 << 20,
            idempotency_retention: Duration::from_secs(24 * 3600),
            max_open_files: 512,
            fatal: FatalHook::default(),
        }
    }
}

/// What happens after a failed write, or a failed read of a raft group's log. By default the process logs
/// why and exits with code 70, since nobody can know what is on disk, or the group has ended. If a hook
/// returns after a failed write, the journal takes no more of them.
#[derive(Clone)]
pub struct FatalHook(Arc<dyn Fn(&StorageFailure) + Send + Sync>);

impl FatalHook {
    /// Wraps a function that is called at most once per journal for a write.
    pub fn new(hook: impl Fn(&StorageFailure) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(crate) fn call(&self, failure: &StorageFailure) {
        (self.0)(failure);
    }
}

/// The exit code of a process whose disk failed: `EX_SOFTWARE` of sysexits.
pub const EXIT_STORAGE_FAILED: i32 = 70;

impl Default for FatalHook {
    fn default() -> Self {
        Self::new(|failure| {
            if matches!(failure, StorageFailure::Unreadable { .. }) {
                tracing::error!(error = %failure, "the journal cannot be read; the node stops");
            } else {
                tracing::error!(error = %failure, "the journal cannot be written; the node stops");
            }
            std::process::exit(EXIT_STORAGE_FAILED);
        })
    }
}

impl fmt::Debug for FatalHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FatalHook")
    }
}

/// One raft log entry as the journal stores it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the shard's log.
    pub index: u64,
    /// The raft log id, opaque here and sealed by the caller.
    pub meta: Bytes,
    /// What it carries.
    pub payload: LogPayload,
}

/// What a log entry carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPayload {
    /// Commands' records in the order of their positions; not empty.
    Records(Arc<[Record]>),
    /// Anything else, opaque here.
    Other(Bytes),
}

impl LogEntry {
    /// Bytes of memory that the entry keeps alive, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        /// Of a record beside its bytes: the struct and its stream name.
        const RECORD_OVERHEAD: usize = 160;
        let payload = match &self.payload {
            LogPayload::Records(records) => {
                let bytes = |record: &Record| record.bytes.len() + RECORD_OVERHEAD;
                records.iter().map(bytes).sum()
            }
            LogPayload::Other(bytes) => bytes.len(),
        };
        payload + self.meta.len() + size_of::<Self>()
    }
}

/// A record that is committed, with its place in the log.
#[derive(Debug, Clone)]
pub struct AppliedRecord {
    /// Index of its log entry.
    pub index: u64,
    /// Its place within that entry, from 0.
    pub slot: u32,
    /// The record.
    pub record: Record,
}

/// How far a shard's log is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Index of the last applied entry.
    pub index: u64,
    /// Opaque: raft's last applied log id and membership.
    pub state: Bytes,
}

/// The bounds of a shard's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogBounds {
    /// Index of the first entry.
    pub first_index: u64,
    /// Index of the last entry.
    pub last_index: u64,
    /// The last entry's `meta`.
    pub last_meta: Bytes,
}

/// Told once how a write ended. Runs on the writer's thread and must not block.
pub type Done = Box<dyn FnOnce(Result<(), StorageFailure>) + Send>;

/// Why a write was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageFailure {
    /// The disk failed. Nothing is known about what it holds, so the process must end.
    #[error("failed to write to {what}: {source}")]
    Disk {
        /// The file or table.
        what: String,
        /// What the disk said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The disk failed to give a raft group its log. The group has ended, and nobody can say that it takes
    /// part, so the process must end.
    #[error("failed to read {what}: {source}")]
    Unreadable {
        /// Whose log.
        what: String,
        /// What the disk said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The journal takes no more writes: it was shut down, or it failed before.
    #[error("the journal is closed")]
    Closed,
    /// The shard's stored bytes are damaged.
    #[error("shard {shard} is refused: {reason}")]
    Refused {
        /// The shard.
        shard: ShardId,
        /// What a check found.
        reason: String,
    },
    /// The caller broke the order of the log. Nothing was written.
    #[error("shard {shard}: {what}: expected {expected}, got {got}")]
    OutOfOrder {
        /// The shard.
        shard: ShardId,
        /// Which number.
        what: &'static str,
        /// What had to follow.
        expected: u64,
        /// What came.
        got: u64,
    },
}

/// Why a journal did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another journal of this one) has it.
    #[error("the data directory {} is in use by another process (lock file {}{holder})",
        data_dir.display(), lock.display())]
    Locked {
        /// The directory.
        data_dir: PathBuf,
        /// The lock file.
        lock: PathBuf,
        /// `, process N` when it is known.
        holder: String,
    },
    /// The directory belongs to somebody else.
    #[error("`{key}` is {configured}, but {} was formatted with {stored}", data_dir.display())]
    Mismatch {
        /// The setting's name.
        key: &'static str,
        /// What the directory says.
        stored: String,
        /// What the settings say.
        configured: String,
        /// The directory.
        data_dir: PathBuf,
    },
    /// The directory holds something, but not a journal of ours.
    #[error("{} holds {found} but no format file; it is not formatted again", data_dir.display())]
    Foreign {
        /// The directory.
        data_dir: PathBuf,
        /// One of the things found.
        found: String,
    },
    /// A newer release wrote it.
    #[error("{} has format version {found}; this release reads up to {supported}", file.display())]
    Newer {
        /// The format file.
        file: PathBuf,
        /// The stored version.
        found: u32,
        /// The newest known.
        supported: u32,
    },
    /// A file that every shard needs is damaged: no shard can be served.
    #[error("{} is damaged, which concerns shards {shards}: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Which shards.
        shards: String,
        /// What a check found.
        reason: String,
    },
    /// The disk refused.
    #[error("failed to open {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}
