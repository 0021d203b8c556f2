//! Every metric of the core, by name, with handles that are looked up once.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Commands by type and outcome (`accepted`, `rejected`, `replayed`).
pub const COMMANDS_TOTAL: &str = "phalanx_commands_total";
/// Aggregates in memory.
pub const AGGREGATES_RESIDENT: &str = "phalanx_actors_resident";
/// Aggregates loaded from the journal.
pub const ACTIVATIONS_TOTAL: &str = "phalanx_activations_total";
/// Aggregates that are being loaded.
pub const ACTIVATIONS_LOADING: &str = "phalanx_activations_loading";
/// The most that were ever being loaded at once.
pub const ACTIVATIONS_LOADING_MOST: &str = "phalanx_activations_loading_most";
/// From the first request for an aggregate that is not in memory until it is.
pub const ACTIVATION_SECONDS: &str = "phalanx_activation_duration_seconds";
/// Aggregates dropped from memory.
pub const PASSIVATIONS_TOTAL: &str = "phalanx_passivations_total";
/// Aggregates whose code panicked or whose stream cannot be folded.
pub const QUARANTINES_TOTAL: &str = "phalanx_quarantines_total";
/// Requests refused for want of a permit.
pub const OVERLOADED_TOTAL: &str = "phalanx_overloaded_total";
/// Commands per log entry.
pub const BATCH_COMMANDS: &str = "phalanx_batch_commands";
/// From proposal to commit.
pub const COMMIT_SECONDS: &str = "phalanx_commit_duration_seconds";
/// Answers from state that one check of leadership let pass.
pub const GATE_ANSWERS: &str = "phalanx_read_gate_answers";
/// From the beginning of such a check to its end.
pub const GATE_SECONDS: &str = "phalanx_read_gate_duration_seconds";
/// Answers that were held back because this node does not lead any more.
pub const GATE_REFUSED_TOTAL: &str = "phalanx_read_gate_refused_total";
/// Requests that are admitted and not yet answered.
pub const IN_FLIGHT: &str = "phalanx_requests_in_flight";

/// Handles of the sequencers of one node.
#[derive(Debug)]
pub struct SequencerMetrics {
    /// See [`BATCH_COMMANDS`].
    pub batch_commands: Histogram,
    /// See [`COMMIT_SECONDS`].
    pub commit_seconds: Histogram,
    /// See [`GATE_ANSWERS`].
    pub gate_answers: Histogram,
    /// See [`GATE_SECONDS`].
    pub gate_seconds: Histogram,
    /// See [`GATE_REFUSED_TOTAL`].
    pub gate_refused: Counter,
}

impl Default for SequencerMetrics {
    fn default() -> Self {
        describe_histogram!(BATCH_COMMANDS, "Commands per log entry");
        describe_histogram!(COMMIT_SECONDS, "Seconds from proposal to commit");
        describe_histogram!(
            GATE_ANSWERS,
            "Answers that one check of leadership let pass"
        );
        describe_histogram!(GATE_SECONDS, "Seconds of a check of leadership");
        describe_counter!(GATE_REFUSED_TOTAL, "Answers that a former leader held back");
        Self {
            batch_commands: histogram!(BATCH_COMMANDS),
            commit_seconds: histogram!(COMMIT_SECONDS),
            gate_answers: histogram!(GATE_ANSWERS),
            gate_seconds: histogram!(GATE_SECONDS),
            gate_refused: counter!(GATE_REFUSED_TOTAL),
        }
    }
}

/// Handles of the residents of one node.
#[derive(Debug)]
pub struct ResidencyMetrics {
    /// See [`AGGREGATES_RESIDENT`].
    pub resident: Gauge,
    /// See [`PASSIVATIONS_TOTAL`].
    pub passivations: Counter,
    /// See [`QUARANTINES_TOTAL`].
    pub quarantines: Counter,
    /// See [`OVERLOADED_TOTAL`].
    pub overloaded: Counter,
    /// See [`IN_FLIGHT`].
    pub in_flight: Gauge,
}

impl Default for ResidencyMetrics {
    fn default() -> Self {
        describe_gauge!(AGGREGATES_RESIDENT, "Aggregates in memory");
        describe_counter!(PASSIVATIONS_TOTAL, "Aggregates dropped from memory");
        describe_counter!(QUARANTINES_TOTAL, "Aggregates whose code or stream failed");
        describe_counter!(OVERLOADED_TOTAL, "Requests refused for want of a permit");
        describe_gauge!(IN_FLIGHT, "Requests that are admitted and not yet answered");
        Self {
            resident: gauge!(AGGREGATES_RESIDENT),
            passivations: counter!(PASSIVATIONS_TOTAL),
            quarantines: counter!(QUARANTINES_TOTAL),
            overloaded: counter!(OVERLOADED_TOTAL),
            in_flight: gauge!(IN_FLIGHT),
        }
    }
}

/// Handles for the loading of aggregates.
#[derive(Debug)]
pub struct ActivationMetrics {
    /// See [`ACTIVATIONS_TOTAL`].
    pub total: Counter,
    /// See [`ACTIVATIONS_LOADING`].
    pub loading: Gauge,
    /// See [`ACTIVATIONS_LOADING_MOST`].
    pub most: Gauge,
    /// See [`ACTIVATION_SECONDS`].
    pub seconds: Histogram,
}

impl Default for ActivationMetrics {
    fn default() -> Self {
        describe_counter!(ACTIVATIONS_TOTAL, "Aggregates loaded from the journal");
        describe_gauge!(ACTIVATIONS_LOADING, "Aggregates that are being loaded");
        describe_gauge!(
            ACTIVATIONS_LOADING_MOST,
            "The most aggregates that were being loaded at once since the start"
        );
        describe_histogram!(
            ACTIVATION_SECONDS,
            "Seconds from the first request for an aggregate until it is in memory"
        );
        Self {
            total: counter!(ACTIVATIONS_TOTAL),
            loading: gauge!(ACTIVATIONS_LOADING),
            most: gauge!(ACTIVATIONS_LOADING_MOST),
            seconds: histogram!(ACTIVATION_SECONDS),
        }
    }
}

/// Handles of one aggregate type.
#[derive(Debug)]
pub struct CommandMetrics {
    /// Commands that stored events or needed none.
    pub accepted: Counter,
    /// Commands that the domain refused.
    pub rejected: Counter,
    /// Retries that got the stored reply.
    pub replayed: Counter,
}

impl CommandMetrics {
    /// Handles labelled with the type.
    #[must_use]
    pub fn new(aggregate_type: &'static str) -> Self {
        describe_counter!(COMMANDS_TOTAL, "Commands by aggregate type and outcome");
        let outcome = |outcome: &'static str| counter!(COMMANDS_TOTAL, "aggregate_type" => aggregate_type, "outcome" => outcome);
        Self {
            accepted: outcome("accepted"),
            rejected: outcome("rejected"),
            replayed: outcome("replayed"),
        }
    }
}
