//! One measurement: the load generator as a child process, its report as a sample.

use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::contestant::Contestant;
use super::running::Running;
use super::{Args, CompareError};

/// What is asked of a contestant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Workload {
    /// As in the table.
    pub(super) name: &'static str,
    clients: usize,
    reads: bool,
    /// Which of Phalanx's nodes get the requests; the drivers of others know their leader.
    route: &'static str,
}

/// What everyone is asked. The first one prepares the accounts for the others.
pub(super) const WORKLOADS: [Workload; 3] = [WRITES, ONE_CLIENT, READS];

const WRITES: Workload = Workload {
    name: "64 clients, writes",
    clients: 64,
    reads: false,
    route: "leader",
};
const ONE_CLIENT: Workload = Workload {
    name: "1 client, writes",
    clients: 1,
    reads: false,
    route: "leader",
};
const READS: Workload = Workload {
    name: "64 clients, reads",
    clients: 64,
    reads: true,
    route: "leader",
};

/// What three nodes of Phalanx are asked as well: the same by way of other nodes. The first of each
/// pair is what it is compared with.
pub(super) const DETOURS: [(Workload, Workload); 4] = [
    (
        WRITES,
        Workload {
            name: "64 clients, writes to any node",
            route: "any",
            ..WRITES
        },
    ),
    (
        WRITES,
        Workload {
            name: "64 clients, writes to a wrong node",
            route: "other",
            ..WRITES
        },
    ),
    (
        READS,
        Workload {
            name: "64 clients, reads from any node",
            route: "any",
            ..READS
        },
    ),
    (
        READS,
        Workload {
            name: "64 clients, reads from a wrong node",
            route: "other",
            ..READS
        },
    ),
];

/// Everything that a contestant is asked, in this order.
pub(super) fn workloads(contestant: Contestant) -> Vec<Workload> {
    let mut all = WORKLOADS.to_vec();
    if contestant == Contestant::Phalanx3 {
        all.extend(DETOURS.map(|(_, detour)| detour));
    }
    all
}

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
    let mut command = generator(args, running, workload)?;
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

/// Redis and etcd do not speak this HTTP, so they have drivers of their own with the same options.
fn generator(args: &Args, running: &Running, workload: &Workload) -> Result<Command, CompareError> {
    let driver = |name: &str, option: &str| {
        let program = std::env::current_exe().map_err(CompareError::system("find this program"))?;
        let addresses: Vec<String> = running.addresses.iter().map(|a| a.to_string()).collect();
        let mut command = Command::new(program);
        command.args([name, option, &addresses.join(",")]);
        Ok(command)
    };
    match running.contestant {
        Contestant::Redis => return driver("redis-bench", "--address"),
        Contestant::Etcd3 => return driver("etcd-bench", "--addresses"),
        _ => {}
    }
    let mut command = Command::new(&args.phalanx);
    command.arg("bench");
    for address in &running.addresses {
        command.arg(format!("http://{address}"));
    }
    command.args(["--json", "--quiet"]);
    // The peers know accounts alone and store 100 bytes for each event, whatever it is.
    match running.contestant {
        Contestant::Phalanx3 => command.args(ORDERS).args(["--route", workload.route]),
        Contestant::Phalanx => command.args(ORDERS),
        _ => &mut command,
    };
    Ok(command)
}

/// Events as long as the references' records.
const ORDERS: [&str; 4] = ["--type", "order", "--event-bytes", "100"];
