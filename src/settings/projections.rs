//! Section `[projections]`: the read models of this node.
//!
//! Refuses a switch that would let rows and offsets move apart: they share each transaction.

use serde::{Deserialize, Serialize};

/// The read models of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectionSettings {
    /// Whether this node fills read models and answers queries of them.
    ///
    /// Default true. False costs nothing and answers views with 404.
    pub enabled: bool,
    /// Events that a projector takes in at once, in bytes of the journal.
    ///
    /// Default 262144 (256 KiB), range 4096 to 16777216. Larger catches up faster; smaller needs less
    /// memory, times projections and shards.
    pub batch_bytes: usize,
    /// The least time between two commits of read models while no query waits for one, in
    /// milliseconds.
    ///
    /// Default 20, range 0 to 10000. Larger leaves more of the machine to commands; smaller makes
    /// views follow sooner.
    pub commit_interval_ms: u64,
    /// Rows of each projection that are kept in memory to be changed.
    ///
    /// Default 50000, range 1 to 100000000. Larger reads fewer rows before they are changed; smaller
    /// saves memory.
    pub cache_rows: usize,
    /// Connections that answer queries of views at the same time; further ones wait up to 2 s.
    ///
    /// Default 4, range 1 to 1024. Larger answers more slow queries at once; smaller saves threads
    /// and memory.
    pub read_connections: u32,
    /// Longest time for which a query may wait for a view to catch up, in milliseconds; never longer
    /// than `http.request_timeout_ms`.
    ///
    /// Default 10000, range 0 to 600000. Larger hides longer lags; smaller tells clients sooner.
    pub max_wait_ms: u64,
}

impl Default for ProjectionSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            batch_bytes: 256 * 1024,
            commit_interval_ms: 20,
            cache_rows: 50_000,
            read_connections: 4,
            max_wait_ms: 10_000,
        }
    }
}
