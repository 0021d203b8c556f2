//! Section `[actors]`: how many aggregates stay in memory and how much work is admitted.
//!
//! Invariant after validation: the limits of admission nest (aggregate within shard within node),
//! so that none of them is without effect.

use serde::{Deserialize, Serialize};

/// Aggregates in memory and the admission of commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActorSettings {
    /// Aggregates that stay in memory; beyond it the least recently used idle one leaves.
    ///
    /// Default 100000, range 1 to 100000000. Larger answers more aggregates without a replay;
    /// smaller saves memory.
    pub max_resident: usize,
    /// Time without a message after which an aggregate leaves memory, in seconds; it leaves at most an
    /// eighth of it later.
    ///
    /// Default 120, range 1 to 86400. Larger saves replays; smaller frees memory sooner.
    pub idle_timeout_s: u64,
    /// Events between two snapshots of an aggregate.
    ///
    /// Default 256, range 1 to 1000000. Larger writes less; smaller makes activation replay fewer
    /// events.
    pub snapshot_every_events: u64,
    /// Events since the last snapshot from which an aggregate that leaves memory writes another.
    ///
    /// Default 16, range 1 to 1000000. Larger writes less; smaller makes the next activation replay
    /// fewer events. Below some ten events a replay is as quick as a snapshot.
    pub snapshot_on_passivation_events: u64,
    /// Aggregates that may be loaded from disk at the same time.
    ///
    /// Default 64, range 1 to 65536, at most `max_resident`. Larger fills the memory faster after a
    /// start; smaller leaves the disk to commands.
    pub max_concurrent_activations: usize,
    /// Commands and reads that the node has admitted and not yet answered; further ones get 503.
    ///
    /// Default 8192, range 1 to 10000000. Larger absorbs higher peaks; smaller keeps the waiting
    /// time short.
    pub max_in_flight: usize,
    /// Bytes of the bodies of admitted requests; further ones get 503.
    ///
    /// Default 134217728 (128 MiB), range 1024 to 1099511627776, at least `http.max_body_bytes`.
    /// Larger absorbs higher peaks; smaller bounds the memory of a crowd.
    pub max_in_flight_bytes: usize,
    /// The same as `max_in_flight`, for one shard.
    ///
    /// Default 4096, range 1 to 10000000, at most `max_in_flight`. Larger lets one busy shard use
    /// more of the node; smaller protects the other shards from it.
    pub max_in_flight_per_shard: usize,
    /// The same as `max_in_flight`, for one aggregate.
    ///
    /// Default 1024, range 1 to 10000000, at most `max_in_flight_per_shard`. Larger lets one hot
    /// aggregate use more of its shard; smaller protects its neighbours.
    pub max_in_flight_per_aggregate: usize,
}

impl Default for ActorSettings {
    fn default() -> Self {
        Self {
            max_resident: 100_000,
            idle_timeout_s: 120,
            snapshot_every_events: 256,
            snapshot_on_passivation_events: 16,
            max_concurrent_activations: 64,
            max_in_flight: 8192,
            max_in_flight_bytes: 128 * 1024 * 1024,
            max_in_flight_per_shard: 4096,
            max_in_flight_per_aggregate: 1024,
        }
    }
}
