//! The load generator behind `phalanx bench URL`.
//!
//! It owns one thing: measuring a server that speaks the command contract, with as little of the
//! machine's time as possible, because it usually shares the cores with the server. It refuses to
//! be a general HTTP client (plain `http://`, HTTP/1.1 keep-alive, replies with a length) and it
//! knows nothing about the node's inside, so that any server with the same URLs can be measured
//! beside it.
//!
//! Invariant: every request that was begun in the measured window ends up in exactly one place of
//! the report: a success, a refusal or a connection error. Nothing is dropped for being slow, and
//! the servers have seen exactly the requests that the report counts as sent, those apart that were
//! being written when their connection broke.

mod args;
mod builtin;
mod choice;
mod client;
mod connection;
mod pacer;
mod plan;
mod progress;
mod report;
mod response;
mod route;
mod run;
mod setup;
mod stats;
mod table;
mod target;
mod template;
mod workload;

#[cfg(test)]
mod tests;

use std::process::ExitCode;

pub use args::{Args, Distribution, KeyMode, Mode, Route};
pub use report::Report;
pub use run::{BenchError, measure};

/// Measures a server and prints what came out of it.
///
/// The exit code is 0 when every answer was an expected one, 1 when something unexpected happened
/// (it is named on standard error) and 2 when the arguments make no sense.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    let json = args.json;
    let plan = match plan::Plan::new(args) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("phalanx bench: {error}");
            return ExitCode::from(2);
        }
    };
    let report = match run::measure_plan(plan) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("phalanx bench: {error}");
            return ExitCode::from(1);
        }
    };
    if let Err(error) = table::print(&report, json) {
        eprintln!("phalanx bench: failed to write the report: {error}");
        return ExitCode::from(1);
    }
    if report.unexpected.is_empty() {
        return ExitCode::SUCCESS;
    }
    for line in &report.unexpected {
        eprintln!("phalanx bench: unexpected: {line}");
    }
    ExitCode::from(1)
}
