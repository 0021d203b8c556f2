//! Section `[transport]`: the connections between the members of the cluster.
//!
//! Refuses a switch that would queue without bound or retry what may have been done. Invariant
//! after validation: a message of replication and a forwarded request fit into the largest message.

use serde::{Deserialize, Serialize};

/// The connections between members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransportSettings {
    /// Time for a connection to another member and its handshake, in milliseconds.
    ///
    /// Default 500, range 20 to 60000. Larger suits far networks; smaller tries again sooner.
    pub connect_timeout_ms: u64,
    /// Longest pause between two attempts to reach a member, in milliseconds.
    ///
    /// Default 150, range 5 to 60000. Larger costs less while a member is away; smaller finds it
    /// sooner when it is back.
    pub reconnect_max_ms: u64,
    /// Time between two signs of life on a connection, in milliseconds.
    ///
    /// Default 500, range 50 to 60000. Larger saves messages; smaller notices a cut sooner.
    pub keepalive_interval_ms: u64,
    /// Silence after a sign of life that ends the connection, in milliseconds.
    ///
    /// Default 1500, range 50 to 60000. Larger tolerates pauses; smaller notices a cut sooner.
    pub keepalive_timeout_ms: u64,
    /// Most calls to one member that wait for an answer, for each of the three lanes.
    ///
    /// Default 4096, range 16 to 1000000. Larger admits more forwarded requests; smaller bounds the
    /// memory that a slow member costs.
    pub max_calls_in_flight: usize,
    /// Largest message to or from another member, in bytes.
    ///
    /// Default 16777216 (16 MiB), range 4194304 to 1073741824. Larger admits larger batches and
    /// histories; smaller bounds the memory of a connection.
    pub max_message_bytes: usize,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 500,
            reconnect_max_ms: 150,
            keepalive_interval_ms: 500,
            keepalive_timeout_ms: 1500,
            max_calls_in_flight: 4096,
            max_message_bytes: 16 * 1024 * 1024,
        }
    }
}
