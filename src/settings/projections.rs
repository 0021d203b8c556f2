//! Section `[projections]`: the read models of this node.
//!
//! Refuses a switch that would let rows and offsets move apart: they share each transaction.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where read models are kept. The text may hold a password, so nothing shows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreText(pub String);

impl fmt::Debug for StoreText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::projection::StoreAddress::shown(&self.0))
    }
}

/// The read models of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectionSettings {
    /// Whether this node fills read models and answers queries of them.
    ///
    /// Default true. False costs nothing and answers views with 404.
    pub enabled: bool,
    /// Where read models are kept: `sqlite` for a file in the data directory, or the URL of a PostgreSQL
    /// database, `postgres://user:password@host:port/database`, which the nodes of a cluster share.
    ///
    /// Default `sqlite`. In PostgreSQL one node at a time fills them and the others read; the tables
    /// are in the schema `phalanx`.
    pub store: StoreText,
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
    /// How often a node asks the PostgreSQL database how far the read models are, in milliseconds,
    /// while another node fills them and a query waits here. Otherwise it asks twice a second.
    ///
    /// Default 10, range 1 to 10000. Larger spares the database; smaller ends such waits sooner.
    pub follow_interval_ms: u64,
    /// Longest time for which a query may wait for a view to catch up, in milliseconds; never longer
    /// than `http.request_timeout_ms`.
    ///
    /// Default 10000, range 0 to 600000. Larger hides longer lags; smaller tells clients sooner.
    pub max_wait_ms: u64,
    /// Whether the SQLite file is checked for damage when the node starts, before its views answer.
    ///
    /// Default true. A million rows take a few seconds, during which views answer 503 `not-ready`;
    /// commands go on. False lets views answer at once, and damage is found when a row is read.
    pub check_at_start: bool,
    /// How often the SQLite file is checked for damage while the node runs, in seconds; 0 for never.
    ///
    /// Default 3600, range 0 to 31536000. Larger costs less; smaller finds sooner that a row is missing
    /// from lists. A million rows take a few seconds of one core. Views go on to answer.
    pub check_interval_s: u64,
}

impl Default for ProjectionSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            store: StoreText("sqlite".to_owned()),
            batch_bytes: 256 * 1024,
            commit_interval_ms: 15,
            cache_rows: 50_000,
            read_connections: 4,
            follow_interval_ms: 10,
            max_wait_ms: 10_000,
            check_at_start: true,
            check_interval_s: 3600,
        }
    }
}
