//! The recorder behind every metric of the process.
//!
//! It is global to the process, so several nodes in one process (a test) share it.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Histograms keep their samples until they are folded into buckets; this is how often.
const UPKEEP: Duration = Duration::from_secs(1);

/// Upper bounds of durations, in seconds.
const SECONDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// Upper bounds of counts.
const COUNTS: [f64; 11] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
];

static HANDLE: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();

/// Installs the recorder, once.
///
/// # Errors
/// When another recorder is installed already or a bound is refused.
pub fn install() -> Result<PrometheusHandle, String> {
    HANDLE.get_or_init(build).clone()
}

fn build() -> Result<PrometheusHandle, String> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(
                Matcher::Full(phalanx_actors::metrics::BATCH_COMMANDS.to_owned()),
                &COUNTS,
            )
        })
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| error.to_string())
}

/// Folds samples until the task is aborted.
pub async fn upkeep(handle: PrometheusHandle) {
    let mut rounds = tokio::time::interval(UPKEEP);
    loop {
        rounds.tick().await;
        handle.run_upkeep();
    }
}
