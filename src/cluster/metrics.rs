//! Every metric of routing and leadership: its name, its labels, its handle.

use metrics::{Counter, Histogram, Unit, counter, histogram};
use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};

use phalanx_actors::record::Record;

use super::NodeId;

/// Requests handed to another node, by `outcome`: `answered`, `not_here` (it does not lead),
/// `not_sent`, `unknown`, `refused`.
pub const FORWARDS: &str = "phalanx_forwards_total";
/// From handing a request to another node to its answer.
pub const FORWARD_DURATION: &str = "phalanx_forward_duration_seconds";
/// Times that a shard's leader became known to be another one.
pub const LEADER_CHANGES: &str = "phalanx_leader_changes_total";
/// Times that this node was elected leader of a shard and began to serve it.
pub const ELECTIONS_WON: &str = "phalanx_elections_won_total";
/// Shards that this node leads.
pub const SHARDS_LED: &str = "phalanx_shards_led";
/// Log entries that the slowest shard's copy on a node lacks, by `peer`; of the shards that this
/// node leads.
pub const REPLICATION_LAG: &str = "phalanx_replication_lag_entries";

/// Damaged copies of this node that were thrown away and built again until they counted.
pub const REPLICA_REPAIRS: &str = "phalanx_replica_repairs_total";

/// Events that came from the copy of another node, for readers on this one.
pub const FEED_EVENTS: &str = "phalanx_feed_remote_events_total";
/// Times that a shard's events were taken from another member than before.
pub const FEED_SWITCHES: &str = "phalanx_feed_switches_total";

/// When the certificate that this node shows other members runs out, in seconds since 1970.
pub const CERTIFICATE_EXPIRY: &str = "phalanx_tls_certificate_expiry_timestamp_seconds";
/// Changes of the certificate files, by `outcome`: `loaded`, `refused`.
pub const CERTIFICATE_LOADS: &str = "phalanx_tls_certificate_loads_total";

/// The handles of the router.
#[derive(Debug)]
pub(crate) struct ForwardMetrics {
    pub(crate) answered: Counter,
    pub(crate) not_here: Counter,
    pub(crate) not_sent: Counter,
    pub(crate) unknown: Counter,
    pub(crate) refused: Counter,
    pub(crate) seconds: Histogram,
}

impl Default for ForwardMetrics {
    fn default() -> Self {
        describe_counter!(FORWARDS, "Requests handed to another node");
        describe_histogram!(
            FORWARD_DURATION,
            Unit::Seconds,
            "From handing a request to another node to its answer"
        );
        let of = |outcome: &'static str| counter!(FORWARDS, "outcome" => outcome);
        Self {
            answered: of("answered"),
            not_here: of("not_here"),
            not_sent: of("not_sent"),
            unknown: of("unknown"),
            refused: of("refused"),
            seconds: histogram!(FORWARD_DURATION),
        }
    }
}

/// See [`LEADER_CHANGES`].
pub(crate) fn leader_changes() -> Counter {
    describe_counter!(LEADER_CHANGES, "Changes of a shard's leader that were seen");
    counter!(LEADER_CHANGES)
}

/// See [`ELECTIONS_WON`].
pub(crate) fn elections_won() -> Counter {
    describe_counter!(
        ELECTIONS_WON,
        "Times that this node became a shard's leader"
    );
    counter!(ELECTIONS_WON)
}

/// Sets [`SHARDS_LED`].
pub(crate) fn set_shards_led(count: usize) {
    describe_gauge!(SHARDS_LED, "Shards that this node leads");
    gauge!(SHARDS_LED).set(count as f64);
}

/// Sets [`REPLICATION_LAG`] of one peer.
pub(crate) fn set_lag(peer: NodeId, entries: u64) {
    describe_gauge!(
        REPLICATION_LAG,
        "Log entries that a node's slowest copy lacks"
    );
    gauge!(REPLICATION_LAG, "peer" => peer.to_string()).set(entries as f64);
}

/// Makes [`REPLICA_REPAIRS`] known before there are any.
pub(crate) fn describe_replica_repairs() {
    describe_counter!(REPLICA_REPAIRS, "Damaged copies that were built again");
    counter!(REPLICA_REPAIRS).increment(0);
}

/// Counts in [`REPLICA_REPAIRS`].
pub(crate) fn replica_repaired() {
    counter!(REPLICA_REPAIRS).increment(1);
}

/// Sets [`CERTIFICATE_EXPIRY`].
pub(crate) fn set_certificate_expiry(not_after: u64) {
    describe_gauge!(
        CERTIFICATE_EXPIRY,
        Unit::Seconds,
        "When this node's certificate runs out, since 1970"
    );
    gauge!(CERTIFICATE_EXPIRY).set(not_after as f64);
}

/// See [`CERTIFICATE_LOADS`].
pub(crate) fn certificate_loads(outcome: &'static str) -> Counter {
    describe_counter!(CERTIFICATE_LOADS, "Changes of the certificate files");
    counter!(CERTIFICATE_LOADS, "outcome" => outcome)
}

/// The handles of the feed.
#[derive(Debug)]
pub(crate) struct FeedMetrics {
    events: Counter,
    switches: Counter,
}

impl Default for FeedMetrics {
    fn default() -> Self {
        describe_counter!(FEED_EVENTS, "Events that came from copies on other nodes");
        describe_counter!(
            FEED_SWITCHES,
            "Times that a shard's events were taken from another node than before"
        );
        Self {
            events: counter!(FEED_EVENTS),
            switches: counter!(FEED_SWITCHES),
        }
    }
}

impl FeedMetrics {
    /// Records have arrived.
    pub(crate) fn fetched(&self, records: &[Record]) {
        let events = records.iter().map(|r| u64::from(r.event_count)).sum();
        self.events.increment(events);
    }

    /// Another member gives a shard's events.
    pub(crate) fn switched(&self) {
        self.switches.increment(1);
    }
}
