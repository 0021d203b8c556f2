//! What came out of a run, in the shape that `--json` prints.
//!
//! It owns rates, percentiles, the correction for coordinated omission and the verdict. It refuses
//! to hide anything: what is not a success is named and counted. Field names are for machines and
//! stay; units are their last word.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::args::{Args, Mode, Route};
use super::client::Window;
use super::plan::Plan;
use super::stats::Stats;

/// What a run leaves behind.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) stats: Stats,
    pub(super) window: Window,
    /// Requests of the schedule that were never sent.
    pub(super) unsent: u64,
    /// All requests that ended, warm-up included.
    pub(super) requests: u64,
    /// Shards with another leader at the end, where requests were sent by leader.
    pub(super) leaders_moved: Option<u64>,
    /// The generator's own time on the cores, warm-up included.
    pub(super) cpu_time: Option<Duration>,
}

/// The outcome of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The measured nodes.
    pub nodes: Vec<Node>,
    /// How requests were spread over them: `any`, `leader` or `other`.
    pub route: &'static str,
    /// `leader` and `other`: shards whose leader at the end was not the one at the begin.
    pub leaders_moved: Option<u64>,
    /// The aggregate type that was driven.
    pub aggregate_type: String,
    /// The stored length of each event, its metadata apart, where the workload fixes it.
    pub event_bytes: Option<usize>,
    /// `closed` or `open`.
    pub mode: &'static str,
    /// Connections.
    pub clients: usize,
    /// The scheduled rate of an open loop.
    pub rate_per_second: Option<f64>,
    /// Aggregates that the requests were spread over.
    pub aggregates: u64,
    /// From the begin of the measurement to the last reply.
    pub measured_seconds: f64,
    /// What became of the requests.
    pub requests: Requests,
    /// Successful commands.
    pub commands: Part,
    /// Successful reads.
    pub reads: Part,
    /// Replies that were no success.
    pub refusals: Part,
    /// Replies by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Refusals of the domain by rejection. These are answers, not errors.
    pub rejections: BTreeMap<String, u64>,
    /// Every other reply by `status code`.
    pub errors: BTreeMap<String, u64>,
    /// Requests without a reply, by what went wrong.
    pub connection_errors: BTreeMap<String, u64>,
    /// What the latencies mean.
    pub coordinated_omission: String,
    /// Closed loop: the interval by which the corrected latencies fill gaps.
    pub expected_interval_us: Option<f64>,
    /// Open loop: how late requests were sent, and how many never.
    pub schedule: Option<Schedule>,
    /// What the generator itself used.
    pub generator: Generator,
    /// What should not have happened; empty means success.
    pub unexpected: Vec<String>,
}

/// A measured node.
#[derive(Debug, Clone, Serialize)]
pub struct Node {
    /// Where it listens.
    pub url: String,
    /// Requests of the measured window that were sent to it.
    pub sent: u64,
}

/// What became of the requests of the measured window: each is answered, unanswered or not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Sent to a node: `answered` and `unanswered` together.
    pub sent: u64,
    /// Replies of whatever status.
    pub answered: u64,
    /// Sent, and no reply came; `connection_errors` says why.
    pub unanswered: u64,
    /// Not sent, because no connection could be made; in `connection_errors` as well.
    pub not_sent: u64,
    /// Sent before the measured window; in no other figure.
    pub sent_in_warmup: u64,
}

/// One kind of request.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// How many.
    pub count: u64,
    /// How many per second.
    pub per_second: f64,
    /// As measured.
    pub latency: Latency,
    /// Closed loop only: with the requests that a stalled server held back filled in.
    pub latency_corrected: Option<Latency>,
}

/// Percentiles in microseconds; all 0 when nothing was counted.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// The mean.
    pub mean_us: f64,
    /// The median.
    pub p50_us: f64,
    /// 90 of 100 were at most this.
    pub p90_us: f64,
    /// 99 of 100 were at most this.
    pub p99_us: f64,
    /// 999 of 1000 were at most this.
    pub p99_9_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// How well the schedule of an open loop was kept.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Schedule {
    /// Requests whose time came when no client was free, until the end.
    pub unsent: u64,
    /// How long after its intended start a request was sent. Part of the latencies.
    pub lateness: Latency,
}

/// The generator's own cost.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Generator {
    /// Threads.
    pub threads: usize,
    /// Time on the cores, warm-up included; absent where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// The same per request.
    pub cpu_us_per_request: Option<f64>,
}

impl Report {
    /// Sums up a run.
    pub(super) fn new(plan: &Plan, measured: &Measured) -> Self {
        let args = &plan.args;
        let stats = &measured.stats;
        let last = stats
            .last_reply
            .unwrap_or(measured.window.end)
            .max(measured.window.end);
        let seconds = last
            .duration_since(measured.window.measure_from)
            .as_secs_f64();
        let closed = args.mode == Mode::Closed;
        let interval_ns = closed.then(|| expected_interval_ns(args.clients, stats, seconds));
        let part = |histogram| Part::new(histogram, seconds, interval_ns);
        Self {
            nodes: nodes(args, stats),
            route: match args.route {
                Route::Any => "any",
                Route::Leader => "leader",
                Route::Other => "other",
            },
            leaders_moved: measured.leaders_moved,
            aggregate_type: args.aggregate_type.clone(),
            event_bytes: plan.event_bytes(),
            mode: if closed { "closed" } else { "open" },
            clients: args.clients,
            rate_per_second: args.rate,
            aggregates: args.aggregates,
            measured_seconds: seconds,
            requests: Requests {
                sent: stats.all_sent(),
                answered: stats.answered(),
                unanswered: stats.unanswered(),
                not_sent: stats.not_sent,
                sent_in_warmup: stats.sent_in_warmup,
            },
            commands: part(&stats.commands),
            reads: part(&stats.reads),
            refusals: part(&stats.refusals),
            statuses: stats.statuses.clone(),
            rejections: stats.rejections.clone(),
            errors: named_errors(stats),
            connection_errors: named(&stats.broken),
            coordinated_omission: statement(interval_ns),
            expected_interval_us: interval_ns.map(|interval| ratio(interval, 1_000)),
            schedule: (!closed).then(|| Schedule {
                unsent: measured.unsent,
                lateness: Latency::of(&stats.lateness),
            }),
            generator: Generator::new(args.threads, measured),
            unexpected: unexpected(args, measured),
        }
    }
}

impl Part {
    fn new(histogram: &Histogram<u64>, seconds: f64, interval_ns: Option<u64>) -> Self {
        let corrected = interval_ns.map(|interval| histogram.clone_correct(interval));
        Self {
            count: histogram.len(),
            per_second: ratio(histogram.len(), 1) / seconds,
            latency: Latency::of(histogram),
            latency_corrected: corrected.map(|corrected| Latency::of(&corrected)),
        }
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| ratio(histogram.value_at_quantile(quantile), 1_000);
        Self {
            mean_us: histogram.mean() / 1_000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: ratio(histogram.max(), 1_000),
        }
    }
}

impl Generator {
    fn new(threads: usize, measured: &Measured) -> Self {
        let cpu_seconds = measured.cpu_time.map(|time| time.as_secs_f64());
        let requests = ratio(measured.requests.max(1), 1);
        let cpu_us_per_request = cpu_seconds.map(|seconds| seconds * 1e6 / requests);
        Self {
            threads,
            cpu_seconds,
            cpu_us_per_request,
        }
    }
}

/// How often each client of a closed loop would have sent at the measured rate.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive number of nanoseconds; the cast saturates"
)]
fn expected_interval_ns(clients: usize, stats: &Stats, seconds: f64) -> u64 {
    let replies = stats.commands.len() + stats.reads.len() + stats.refusals.len();
    let per_client = ratio(replies.max(1), clients as u64);
    ((seconds * 1e9 / per_client) as u64).max(1)
}

fn nodes(args: &Args, stats: &Stats) -> Vec<Node> {
    let sent = stats.sent.iter().copied();
    let urls = args.urls.iter().cloned();
    urls.zip(sent)
        .map(|(url, sent)| Node { url, sent })
        .collect()
}

fn statement(interval_ns: Option<u64>) -> String {
    match interval_ns {
        Some(interval) => format!(
            "closed loop: `latency` is from send to reply and is not corrected, so requests that a \
             stalled server kept from being sent are missing in it; `latency_corrected` fills them \
             in at the expected interval of {:.1} us per client",
            ratio(interval, 1_000)
        ),
        None => "open loop: `latency` is corrected, it is measured from each request's intended \
                 start on the schedule, so time spent waiting to be sent is included"
            .to_owned(),
    }
}

fn named_errors(stats: &Stats) -> BTreeMap<String, u64> {
    stats
        .errors
        .iter()
        .map(|((status, code), count)| (format!("{status} {code}"), *count))
        .collect()
}

fn named(counts: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    counts
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

fn unexpected(args: &Args, measured: &Measured) -> Vec<String> {
    let stats = &measured.stats;
    let mut lines: Vec<String> = stats
        .errors
        .iter()
        .filter(|((status, _), _)| !args.allow_status.contains(status))
        .map(|((status, code), count)| format!("{count} replies with status {status} ({code})"))
        .collect();
    lines.extend(
        stats
            .broken
            .iter()
            .map(|(name, count)| format!("{count} requests: {name}")),
    );
    if let Some(moved @ 1..) = measured.leaders_moved {
        lines.push(format!(
            "{moved} shards changed their leader during the run, so `--route` did not hold"
        ));
    }
    if stats.commands.is_empty() && stats.reads.is_empty() {
        lines.push("no request succeeded".to_owned());
    }
    lines
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures of a report, not of an account"
)]
fn ratio(value: u64, divisor: u64) -> f64 {
    value as f64 / divisor as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::Kind;
    use clap::Parser;
    use tokio::time::Instant;

    fn report(extra: &[&str], fill: impl FnOnce(&mut Stats, Instant)) -> Report {
        let args = [
            "bench",
            "http://127.0.0.1:1",
            "--clients",
            "1",
            "--duration",
            "1s",
        ];
        let args = Args::try_parse_from(args.iter().chain(extra)).unwrap();
        let measure_from = Instant::now();
        let end = measure_from + Duration::from_secs(1);
        let mut stats = Stats::new(1).unwrap();
        fill(&mut stats, end);
        let window = Window {
            start: measure_from,
            measure_from,
            end,
        };
        let cpu_time = Some(Duration::from_millis(10));
        Report::new(
            &Plan::new(args).unwrap(),
            &Measured {
                stats,
                window,
                unsent: 0,
                requests: 1_000,
                leaders_moved: None,
                cpu_time,
            },
        )
    }

    #[test]
    fn a_stall_shows_in_the_corrected_figures_only() {
        let report = report(&[], |stats, end| {
            for _ in 0..999 {
                stats.reply(Kind::Command, 200, b"", Duration::from_micros(500), end);
            }
            stats.reply(Kind::Command, 200, b"", Duration::from_millis(500), end);
        });
        assert!(report.commands.latency.p99_us < 510.0);
        let corrected = report.commands.latency_corrected.unwrap();
        assert!(corrected.p90_us > 100_000.0, "{corrected:?}");
        assert!((report.commands.per_second - 1_000.0).abs() < 1.0);
        assert_eq!(report.generator.cpu_us_per_request, Some(10.0));
        assert!(report.unexpected.is_empty());
    }

    #[test]
    fn refusals_of_the_domain_are_expected_and_others_are_not() {
        let fill = |stats: &mut Stats, end| {
            let rejected = br#"{"code":"command-rejected","rejection":"insufficient-funds"}"#;
            stats.reply(Kind::Command, 422, rejected, Duration::ZERO, end);
            stats.reply(Kind::Command, 200, b"", Duration::ZERO, end);
            stats.reply(
                Kind::Command,
                503,
                br#"{"code":"overloaded"}"#,
                Duration::ZERO,
                end,
            );
        };
        assert_eq!(
            report(&[], fill).unexpected,
            ["1 replies with status 503 (overloaded)"]
        );
        assert!(
            report(&["--allow-status", "429,503"], fill)
                .unexpected
                .is_empty()
        );
        assert_eq!(report(&[], |_, _| {}).unexpected, ["no request succeeded"]);
    }
}
