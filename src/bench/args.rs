//! The command line of the load generator.
//!
//! It owns names, defaults and help. It refuses to judge combinations: that is `plan`'s work.

use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measure a node (or any server with the same URLs) under load.
///
/// What is said twice counts as it is said last.
#[derive(Debug, Clone, Parser)]
#[command(args_override_self = true)]
pub struct Args {
    /// Where the server listens, such as `http://127.0.0.1:8080`; of a cluster, several nodes.
    /// Plain HTTP only.
    #[arg(required = true, value_name = "URL")]
    pub urls: Vec<String>,

    /// Which of the nodes gets a request.
    #[arg(long, value_enum, default_value_t = Route::Any)]
    pub route: Route,

    /// Keep-alive connections, each with one request in flight.
    #[arg(long, default_value_t = 64)]
    pub clients: usize,

    /// Threads of the generator. One is cheapest and usually enough.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,

    /// How long to measure: `10s`, `500ms`, `2m`; a bare number is seconds.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,

    /// How long to run before measuring.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    pub warmup: Duration,

    /// When a request begins: after the client's previous reply, or on a fixed schedule.
    #[arg(long, value_enum, default_value_t = Mode::Closed)]
    pub mode: Mode,

    /// Requests per second over all clients. Needed by, and only for, `--mode open`.
    #[arg(long)]
    pub rate: Option<f64>,

    /// How many aggregates the requests are spread over.
    #[arg(long, default_value_t = 10_000)]
    pub aggregates: u64,

    /// How an aggregate is chosen.
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    pub distribution: Distribution,

    /// The exponent of the Zipf distribution; larger is more skewed.
    #[arg(long, default_value_t = 1.0)]
    pub exponent: f64,

    /// The share of requests that are reads, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    pub reads: f64,

    /// The name sent as `Phalanx-Justification` with each fresh read.
    #[arg(long, default_value = "operator")]
    pub justification: String,

    /// A view whose rows have the ids of the aggregates: reads ask it, not the command model.
    #[arg(long)]
    pub view: Option<String>,

    /// Which aggregate type to drive. `account` and `order` need nothing else; others need
    /// `--command`.
    #[arg(long = "type", default_value = "account")]
    pub aggregate_type: String,

    /// The share of the account's commands that are `Withdraw`; the rest are `Deposit`.
    #[arg(long, default_value_t = 0.25)]
    pub withdrawals: f64,

    /// Drive this command instead of the account's own.
    #[arg(long)]
    pub command: Option<String>,

    /// The body of `--command`. `{amount}` becomes a number from 100 to 999 and `{pad}` as many
    /// characters as `--payload-bytes` says.
    #[arg(long, default_value = "{}")]
    pub body: String,

    /// A command sent once to every aggregate before the measurement (`account`: `OpenAccount`).
    #[arg(long)]
    pub setup_command: Option<String>,

    /// The body of `--setup-command`, with the same placeholders as `--body`.
    #[arg(long, default_value = "{}")]
    pub setup_body: String,

    /// The length of `{pad}`; for `account`, the length of the owner's name, and so of the state.
    #[arg(long, default_value_t = 16)]
    pub payload_bytes: usize,

    /// For `order`: how long each stored event is, its metadata apart. An account's events hold no
    /// text and are what they are. Default 100.
    #[arg(long)]
    pub event_bytes: Option<usize>,

    /// Do not prepare the aggregates: an earlier run with the same prefix did.
    #[arg(long)]
    pub skip_setup: bool,

    /// Whether commands carry an `Idempotency-Key` of ours or leave it to the server.
    #[arg(long, value_enum, default_value_t = KeyMode::None)]
    pub keys: KeyMode,

    /// What every aggregate id begins with. Another prefix gives a run its own aggregates.
    #[arg(long, default_value = "bench-")]
    pub prefix: String,

    /// The seed of every choice that is made during the run.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// After how long a request without a reply is given up and its connection replaced.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,

    /// Statuses beside 2xx that do not make the run fail, such as `503,429` in an overload test.
    #[arg(long, value_delimiter = ',')]
    pub allow_status: Vec<u16>,

    /// Print the report as JSON on standard output.
    #[arg(long)]
    pub json: bool,

    /// Do not write a line of progress each second.
    #[arg(long)]
    pub quiet: bool,
}

/// When a request begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Each client sends its next request when it has the reply to the last one.
    Closed,
    /// Requests begin at `--rate`, whether or not the server keeps up.
    Open,
}

/// Which of several nodes gets a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Route {
    /// Each client keeps to one node, as behind a load balancer; clients are spread evenly.
    Any,
    /// The node that leads the aggregate's shard.
    Leader,
    /// A node that does not lead the aggregate's shard, and so has to hand the request on.
    Other,
}

/// How an aggregate is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Distribution {
    /// Each aggregate equally often.
    Uniform,
    /// The n-th aggregate in proportion to `1 / n^exponent`.
    Zipf,
}

/// Who names a command for retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyMode {
    /// The generator sends a fresh `Idempotency-Key` with each command.
    Client,
    /// No header is sent.
    None,
}

/// Reads `10s`, `500ms`, `2m`, `1.5s` or a bare number of seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, seconds_per_unit) = if let Some(number) = text.strip_suffix("ms") {
        (number, 0.001)
    } else if let Some(number) = text.strip_suffix('s') {
        (number, 1.0)
    } else if let Some(number) = text.strip_suffix('m') {
        (number, 60.0)
    } else {
        (text, 1.0)
    };
    let value: f64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a duration such as 10s or 500ms"))?;
    Duration::try_from_secs_f64(value * seconds_per_unit).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_every_unit() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1.5"), Ok(Duration::from_millis(1500)));
        assert!(parse_duration("-1s").is_err());
        assert!(parse_duration("soon").is_err());
    }

    #[test]
    fn defaults_parse() {
        let args = Args::try_parse_from(["bench", "http://localhost:1"]).unwrap();
        assert_eq!((args.clients, args.aggregates), (64, 10_000));
        assert_eq!((args.mode, args.route), (Mode::Closed, Route::Any));
        assert!(Args::try_parse_from(["bench"]).is_err(), "a URL is needed");
    }

    #[test]
    fn several_nodes_are_taken_in_order() {
        let urls = ["http://localhost:1", "http://localhost:2"];
        let args = Args::try_parse_from([&["bench"], &urls[..]].concat()).unwrap();
        assert_eq!(args.urls, urls);
    }
}
