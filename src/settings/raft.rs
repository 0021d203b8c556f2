//! Section `[raft]`: the timing of elections and the size of a batch on its way to disk and
//! members.
//!
//! Invariant after validation: two heartbeats fit into the shortest election timeout, so that one
//! lost message does not start an election.

use serde::{Deserialize, Serialize};

/// The timing and the batching of replication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftSettings {
    /// Time between two heartbeats of a leader, in milliseconds.
    ///
    /// Default 100, range 5 to 10000. Larger saves messages; smaller notices a dead leader sooner.
    pub heartbeat_interval_ms: u64,
    /// Shortest silence of a leader after which a follower stands for election, in milliseconds.
    ///
    /// Default 400, range 20 to 60000, more than two heartbeats. Larger tolerates pauses and slow
    /// networks; smaller replaces a dead leader sooner.
    pub election_timeout_min_ms: u64,
    /// Longest silence of a leader after which a follower stands for election, in milliseconds.
    ///
    /// Default 600, range 20 to 120000, more than `election_timeout_min_ms`. A wider gap makes ties
    /// rarer; a narrower one bounds the time without a leader better.
    pub election_timeout_max_ms: u64,
    /// Most commands in one log entry.
    ///
    /// Default 1024, range 1 to 65536. Larger pays one disk write for more commands; smaller bounds
    /// the wait of the first command for the last.
    pub max_batch_commands: usize,
    /// Size at which a log entry is closed, in bytes; a single larger command travels alone.
    ///
    /// Default 1048576 (1 MiB), range 4096 to 67108864. Larger pays one disk write for more;
    /// smaller keeps messages and memory small.
    pub max_batch_bytes: usize,
    /// Log entries of one shard that may be on their way at the same time.
    ///
    /// Default 2, range 1 to 64. Larger hides the time of disk and network; smaller makes fuller
    /// batches and fewer writes.
    pub proposals_in_flight: usize,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 100,
            election_timeout_min_ms: 400,
            election_timeout_max_ms: 600,
            max_batch_commands: 1024,
            max_batch_bytes: 1024 * 1024,
            proposals_in_flight: 2,
        }
    }
}
