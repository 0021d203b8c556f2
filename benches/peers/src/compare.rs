//! The comparison: every peer and Phalanx in turns, in one run.
//!
//! It owns the order (each round starts with another contestant, so that none always runs first),
//! the processes, and the table. It refuses to compare what it could not measure: a peer that is
//! not installed is named as skipped, one that fails makes the run fail.

mod contestant;
mod measure;
mod process;
mod running;
mod start;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use thiserror::Error;

use contestant::Contestant;
use measure::Sample;

/// Settings of a comparison.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The Phalanx binary; its `bench` is the load generator for everyone.
    #[arg(long)]
    phalanx: PathBuf,
    /// The single node's configuration; its data directory and addresses are overridden.
    #[arg(long, default_value = "config/node.toml")]
    config: PathBuf,
    /// How often everyone is measured; the table shows medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Seconds of warm-up before each measurement.
    #[arg(long, default_value_t = 2)]
    warmup_seconds: u32,
    /// Accounts.
    #[arg(long, default_value_t = 10_000)]
    aggregates: u64,
    /// Measure only these, such as `phalanx,rocksdb-floor` or `phalanx-3,postgres-3,etcd-3`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contestant>,
    /// Where data directories are made. It must be on a real disk and open to other users.
    #[arg(long, default_value = "/var/tmp")]
    scratch_dir: PathBuf,
    /// Where every sample goes as JSON.
    #[arg(long, default_value = "target/compare.json")]
    json: PathBuf,
}

/// Why a contestant could not be measured.
#[derive(Debug, Error)]
pub(crate) enum CompareError {
    /// A file, directory or process could not be used.
    #[error("failed to {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A server ended or did not answer in time.
    #[error("{name} did not start: {reason}; its output ends with:\n{output}")]
    Start {
        name: String,
        reason: String,
        output: String,
    },
    /// The load generator failed or saw something unexpected.
    #[error("the measurement failed: {0}")]
    Measure(String),
}

impl CompareError {
    /// For `map_err`: what was tried.
    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System {
            action: action.into(),
            source,
        }
    }
}

/// All samples: by contestant and workload, in the order of the rounds.
type Samples = BTreeMap<&'static str, BTreeMap<&'static str, Vec<Sample>>>;

/// Runs the comparison and prints the table.
pub(crate) fn run(args: &Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("compare: failed to start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (contestants, skipped) = installed(args);
    let mut samples = Samples::new();
    // One wait for a signal over the whole run: dropping the rounds stops and removes everything.
    let rounds = runtime.block_on(async {
        tokio::select! {
            biased;
            () = interrupted() => None,
            failures = all_rounds(args, &contestants, &mut samples) => Some(failures),
        }
    });
    let Some(failures) = rounds else {
        eprintln!("compare: interrupted, everything is stopped and removed");
        return ExitCode::FAILURE;
    };
    if let Err(error) = table::print(args, &samples, &skipped, &failures) {
        eprintln!("compare: {error}");
        return ExitCode::FAILURE;
    }
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Who takes part, and who is missing and why.
fn installed(args: &Args) -> (Vec<Contestant>, Vec<String>) {
    let mut here = Vec::new();
    let mut skipped = Vec::new();
    let wanted = |one: &Contestant| args.only.is_empty() || args.only.contains(one);
    for contestant in Contestant::ALL.into_iter().filter(wanted) {
        match contestant.missing(args) {
            None => here.push(contestant),
            Some(reason) => {
                eprintln!("compare: SKIPPED {}: {reason}", contestant.name());
                skipped.push(format!("{}: {reason}", contestant.name()));
            }
        }
    }
    (here, skipped)
}

/// Measures everyone in each round; returns what failed.
async fn all_rounds(args: &Args, contestants: &[Contestant], samples: &mut Samples) -> Vec<String> {
    let mut failures = Vec::new();
    for round in 0..args.rounds {
        let first = round % contestants.len().max(1);
        let turn = contestants.iter().cycle().skip(first);
        for &contestant in turn.take(contestants.len()) {
            let name = contestant.name();
            eprintln!("compare: round {} of {}: {name}", round + 1, args.rounds);
            if let Err(error) = one_turn(args, contestant, samples).await {
                eprintln!("compare: FAILED {name}: {error}");
                failures.push(format!("{name}, round {}: {error}", round + 1));
            }
        }
    }
    failures
}

/// Starts one contestant on an empty directory, measures every workload, stops it.
async fn one_turn(
    args: &Args,
    contestant: Contestant,
    samples: &mut Samples,
) -> Result<(), CompareError> {
    let mut running = contestant.start(args).await?;
    running.ready().await?;
    for (number, workload) in measure::workloads(contestant).iter().enumerate() {
        let sample = measure::measure(args, &running, workload, number == 0).await?;
        running.still_whole().await?;
        eprintln!("compare:   {:<36} {}", workload.name, sample.describe());
        let of_contestant = samples.entry(contestant.name()).or_default();
        of_contestant.entry(workload.name).or_default().push(sample);
    }
    Ok(())
}

/// Waits for Ctrl-C, SIGTERM or the end of the terminal. Without signals the run is simply not
/// interruptible.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    );
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
