//! One measurement: the load generator as a child process, its report as a sample.

use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::contestant::{Contestant, Running};
use super::{Args, CompareError};

/// What is asked of every contestant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Workload {
    /// As in the table.
    pub(super) name: &'static str,
    clients: usize,
    reads: bool,
}

/// The table's columns. The first one prepares the accounts for the others.
pub(super) const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "64 clients, writes",
        clients: 64,
        reads: false,
    },
    Workload {
        name: "1 client, writes",
        clients: 1,
        reads: false,
    },
    Workload {
        name: "64 clients, reads",
        clients: 64,
        reads: true,
    },
];

/// One measurement's outcome.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    pub(super) per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// The part of the generator's report that is read here.
#[derive(Debug, Deserialize)]
struct Report {
    commands: Part,
    reads: Part,
    unexpected: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Part {
    per_second: f64,
    latency: Latency,
}

#[derive(Debug, Deserialize)]
struct Latency {
    p50_us: f64,
    p99_us: f64,
}

impl Sample {
    /// For the progress line.
    pub(super) fn describe(&self) -> String {
        format!(
            "{:>9.0}/s   p50 {:>7.0} us   p99 {:>7.0} us",
            self.per_second, self.p50_us, self.p99_us
        )
    }
}

/// Runs the generator once.
pub(super) async fn measure(
    args: &Args,
    running: &Running,
    workload: &Workload,
    prepare: bool,
) -> Result<Sample, CompareError> {
    let mut command = generator(args, running)?;
    command
        .args(["--clients", &workload.clients.to_string()])
        .args(["--duration", &args.seconds.to_string()])
        .args(["--warmup", &args.warmup_seconds.to_string()])
        .args(["--aggregates", &args.aggregates.to_string()])
        .args(["--reads", if workload.reads { "1" } else { "0" }]);
    if !prepare {
        command.arg("--skip-setup");
    }
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(CompareError::system("run the load generator"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Report = serde_json::from_slice(&output.stdout).map_err(|_| {
        CompareError::Measure(format!("no report, {}: {}", output.status, stderr.trim()))
    })?;
    if !report.unexpected.is_empty() || !output.status.success() {
        return Err(CompareError::Measure(format!(
            "{}: {}",
            output.status,
            report.unexpected.join("; ")
        )));
    }
    let part = if workload.reads {
        report.reads
    } else {
        report.commands
    };
    Ok(Sample {
        per_second: part.per_second,
        p50_us: part.latency.p50_us,
        p99_us: part.latency.p99_us,
    })
}

/// Redis does not speak HTTP, so it has a driver of its own with the same options.
fn generator(args: &Args, running: &Running) -> Result<Command, CompareError> {
    if running.contestant == Contestant::Redis {
        let program = std::env::current_exe().map_err(CompareError::system("find this program"))?;
        let mut command = Command::new(program);
        command.args(["redis-bench", "--address", &running.address.to_string()]);
        return Ok(command);
    }
    let mut command = Command::new(&args.phalanx);
    command.args([
        "bench",
        &format!("http://{}", running.address),
        "--json",
        "--quiet",
    ]);
    Ok(command)
}
