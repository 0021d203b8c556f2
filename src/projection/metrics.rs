//! Every metric of the read side, by name. Labels are names of projections, never ids.

use std::time::Duration;

use metrics::{Histogram, counter, describe_counter, describe_gauge, describe_histogram};
use metrics::{gauge, histogram};

use super::standing::Part;
use super::status::ProjectionStatus;

/// Committed events that a view does not show yet.
const LAG_EVENTS: &str = "phalanx_projection_lag_events";
/// For how long the oldest of them has been waiting.
const LAG_SECONDS: &str = "phalanx_projection_lag_seconds";
/// Events that were handled.
const EVENTS_TOTAL: &str = "phalanx_projection_events_total";
/// The same, each second.
const EVENTS_PER_SECOND: &str = "phalanx_projection_events_per_second";
/// Aggregates of which something was set aside.
const DEAD_LETTERS: &str = "phalanx_projection_dead_letters";
/// How much of a rebuild is done, from 0 to 1.
const REBUILD_RATIO: &str = "phalanx_projection_rebuild_ratio";
/// Events that a rebuild reads each second, on average.
const REBUILD_RATE: &str = "phalanx_projection_rebuild_events_per_second";
/// Seconds that a rebuild will take at that rate.
const REBUILD_SECONDS: &str = "phalanx_projection_rebuild_seconds_left";
/// Whether the store of read models can be read.
const STORE_UP: &str = "phalanx_projection_store_up";
/// Whether this node fills the read models.
const STORE_WRITING: &str = "phalanx_projection_store_writing";
/// Seconds of one transaction of the writer.
const COMMIT_SECONDS: &str = "phalanx_projection_commit_duration_seconds";

/// How often a file of read models was found damaged.
const DAMAGE_TOTAL: &str = "phalanx_projection_damage_total";

/// How often a file of read models was checked while it was used.
const CHECKS_TOTAL: &str = "phalanx_projection_checks_total";

/// What the writer counts.
#[derive(Debug)]
pub(crate) struct WriterMetrics {
    commit_seconds: Histogram,
}

impl Default for WriterMetrics {
    fn default() -> Self {
        describe_gauge!(LAG_EVENTS, "Committed events that a view does not show yet");
        describe_gauge!(LAG_SECONDS, "Seconds that the oldest of them has waited");
        describe_counter!(EVENTS_TOTAL, "Events that a projection handled");
        describe_gauge!(DEAD_LETTERS, "Aggregates of which something was set aside");
        describe_gauge!(EVENTS_PER_SECOND, "Events handled each second lately");
        describe_gauge!(REBUILD_RATE, "Events that a rebuild reads each second");
        describe_gauge!(REBUILD_SECONDS, "Seconds that a rebuild will take yet");
        describe_gauge!(REBUILD_RATIO, "How much of a rebuild is done, from 0 to 1");
        describe_gauge!(STORE_UP, "Whether the store of read models can be read");
        describe_gauge!(STORE_WRITING, "Whether this node fills the read models");
        describe_counter!(DAMAGE_TOTAL, "Times that read models were found damaged");
        describe_counter!(CHECKS_TOTAL, "Checks of read models, by what came of them");
        describe_histogram!(COMMIT_SECONDS, "Seconds of one transaction of read models");
        Self {
            commit_seconds: histogram!(COMMIT_SECONDS),
        }
    }
}

impl WriterMetrics {
    pub(crate) fn committed(&self, took: Duration) {
        self.commit_seconds.record(took.as_secs_f64());
    }

    pub(crate) fn handled(&self, projection: &str, events: u64) {
        counter!(EVENTS_TOTAL, "projection" => projection.to_owned()).increment(events);
    }
}

/// Counts a file that is damaged.
pub(super) fn damaged() {
    counter!(DAMAGE_TOTAL).increment(1);
}

/// Counts a check by what came of it.
pub(super) fn checked(result: &'static str) {
    counter!(CHECKS_TOTAL, "result" => result).increment(1);
}

/// Sets the gauges of the store.
pub(crate) fn show_store(part: Part) {
    let up = !matches!(part, Part::Away | Part::Starting);
    gauge!(STORE_UP).set(f64::from(u8::from(up)));
    gauge!(STORE_WRITING).set(f64::from(u8::from(part == Part::Writing)));
}

/// Sets the gauges of one projection.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float, and nobody minds the last digits"
)]
pub(crate) fn show(status: &ProjectionStatus) {
    let set = |gauge: &'static str, value: f64| {
        gauge!(gauge, "projection" => status.name).set(value);
    };
    set(LAG_EVENTS, status.lag.events as f64);
    set(LAG_SECONDS, status.lag.seconds);
    set(EVENTS_PER_SECOND, status.events_per_second);
    set(DEAD_LETTERS, status.dead_letters as f64);
    let rebuild = status.rebuild.as_ref();
    set(REBUILD_RATIO, rebuild.map_or(1.0, |r| r.percent / 100.0));
    set(REBUILD_RATE, rebuild.map_or(0.0, |r| r.events_per_second));
    let left = rebuild.map(|rebuild| rebuild.seconds_left.unwrap_or(f64::INFINITY));
    set(REBUILD_SECONDS, left.unwrap_or(0.0));
}
