//! Every metric of the HTTP layer: its name, its labels, its handle.
//!
//! Handles are looked up once and kept. Labels are routes, statuses, types and declared names,
//! never ids: the number of series is bounded by the program, not by its clients.

use std::sync::OnceLock;
use std::time::Duration;

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, describe_counter, describe_gauge};
use metrics::{Unit, describe_histogram, gauge, histogram};

use super::routes::Route;

/// Requests answered, by `route` and `status`.
pub const REQUESTS: &str = "phalanx_http_requests_total";
/// Time from a complete head to the complete answer, by `route`.
pub const REQUEST_DURATION: &str = "phalanx_http_request_duration_seconds";
/// Open connections.
pub const CONNECTIONS: &str = "phalanx_http_connections";
/// Connections refused because too many were open.
pub const CONNECTIONS_REFUSED: &str = "phalanx_http_connections_refused_total";
/// Events sent on event streams.
pub const STREAMED: &str = "phalanx_event_stream_events_total";
/// Fresh reads, by `aggregate_type` and `justification`.
pub const FRESH_READS: &str = "phalanx_fresh_reads_total";

/// The statuses that this layer sends; a counter of each route for each.
const STATUSES: [u16; 23] = [
    200, 201, 204, 304, 400, 401, 403, 404, 405, 408, 409, 412, 413, 414, 415, 422, 428, 429, 431,
    500, 503, 504, 507,
];

/// The handles.
#[derive(Debug)]
pub(crate) struct HttpMetrics {
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Counter,
    pub(crate) streamed: Counter,
    requests: Vec<[OnceLock<Counter>; STATUSES.len()]>,
    durations: Vec<Histogram>,
}

impl HttpMetrics {
    /// Describes the metrics and takes their handles from the installed recorder.
    pub(crate) fn new() -> Self {
        describe_counter!(REQUESTS, "HTTP requests answered");
        describe_histogram!(
            REQUEST_DURATION,
            Unit::Seconds,
            "Time from a complete request head to the answer"
        );
        describe_gauge!(CONNECTIONS, "Open HTTP connections");
        describe_counter!(
            CONNECTIONS_REFUSED,
            "Connections refused because too many were open"
        );
        describe_counter!(STREAMED, "Events sent on event streams");
        describe_counter!(FRESH_READS, "Reads of the command model");
        let routes = Route::ALL.into_iter();
        Self {
            connections: gauge!(CONNECTIONS),
            connections_refused: counter!(CONNECTIONS_REFUSED),
            streamed: counter!(STREAMED),
            requests: routes
                .clone()
                .map(|_| [const { OnceLock::new() }; STATUSES.len()])
                .collect(),
            durations: routes
                .map(|route| histogram!(REQUEST_DURATION, "route" => route.template()))
                .collect(),
        }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, route: Route, status: StatusCode, took: Duration) {
        let slot = STATUSES.iter().position(|s| *s == status.as_u16());
        let row = self.requests.get(route as usize);
        if let Some(cell) = row.zip(slot).and_then(|(row, at)| row.get(at)) {
            cell.get_or_init(|| requests_counter(route, status))
                .increment(1);
        } else {
            requests_counter(route, status).increment(1);
        }
        if let Some(histogram) = self.durations.get(route as usize) {
            histogram.record(took.as_secs_f64());
        }
    }
}

fn requests_counter(route: Route, status: StatusCode) -> Counter {
    counter!(REQUESTS, "route" => route.template(), "status" => status.as_str().to_owned())
}

/// The counter of fresh reads for one reason.
pub(crate) fn fresh_reads(aggregate_type: &'static str, justification: &'static str) -> Counter {
    counter!(FRESH_READS, "aggregate_type" => aggregate_type, "justification" => justification)
}
