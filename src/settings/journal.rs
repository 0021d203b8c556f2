//! Section `[journal]`: the room on disk and in memory that the journal uses.
//!
//! Refuses a switch that would weaken durability: a reply always follows the sync of its events.

use serde::{Deserialize, Serialize};

/// The files on disk and the memory they use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalSettings {
    /// Free space on the file system below which commands are refused with 507, in bytes.
    ///
    /// Default 268435456 (256 MiB), range 0 to 1099511627776. Larger leaves more room for
    /// compaction and for repair; smaller uses the disk further, 0 until it is full.
    pub reserve_free_bytes: u64,
    /// Memory for log entries before they go to a table file, in bytes.
    ///
    /// Default 67108864 (64 MiB), range 1048576 to 4294967296. Larger makes fewer and larger files;
    /// smaller makes the opening after a crash faster.
    pub write_buffer_bytes: usize,
    /// The same for the index of streams, the replies kept for retries and other small records, in
    /// bytes.
    ///
    /// Default 16777216 (16 MiB), range 1048576 to 4294967296. Larger compacts less often; smaller
    /// saves memory.
    pub index_write_buffer_bytes: usize,
    /// Memory for blocks read from table files, in bytes.
    ///
    /// Default 268435456 (256 MiB), range 1048576 to 1099511627776. Larger makes activation and
    /// history read the disk less; smaller leaves memory to aggregates.
    pub block_cache_bytes: usize,
    /// Memory of one shard for its newest log entries, in bytes.
    ///
    /// Default 4194304 (4 MiB), range 65536 to 1073741824. Larger lets a follower lag further
    /// before its leader reads the disk for it; smaller saves memory, times the number of shards.
    pub log_cache_bytes_per_shard: usize,
    /// How long a reply is kept for retries with the same idempotency key, in seconds.
    ///
    /// Default 86400 (24 hours), range 1 to 2592000. Larger makes later retries safe; smaller saves
    /// disk.
    pub idempotency_retention_s: u64,
    /// Table files that are open at the same time; -1 keeps all of them open.
    ///
    /// Default 512, range -1 to 1000000 without 0 to 15. Larger saves opening files again; smaller
    /// saves file handles.
    pub max_open_files: i32,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self {
            reserve_free_bytes: 256 * 1024 * 1024,
            write_buffer_bytes: 64 * 1024 * 1024,
            index_write_buffer_bytes: 16 * 1024 * 1024,
            block_cache_bytes: 256 * 1024 * 1024,
            log_cache_bytes_per_shard: 4 * 1024 * 1024,
            idempotency_retention_s: 86_400,
            max_open_files: 512,
        }
    }
}
