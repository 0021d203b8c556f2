//! `phalanx verify`: whether this build may be deployed on a data directory.
//!
//! Owns: the words and the progress line. Exit codes: 0 everything is understood as it was written, 1
//! something is not, 2 it could not be found out. Invariant: the report goes to standard output,
//! progress to a terminal's standard error, and nothing to the directory.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;

use super::output;
use crate::node::NodeBuilder;
use crate::verify::{Finding, Progress, Report, VerifyOptions, verify};

/// How often the progress line is drawn.
const REDRAW: Duration = Duration::from_millis(200);
/// Characters of the bar.
const BAR: u64 = 30;

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 everything is understood as it was written, 1 something is \
                  not, 2 it could not be found out.\nThe directory must not be in use; nothing in \
                  it is changed."
)]
pub(super) struct Arguments {
    /// Data directory of a node that does not run, or a copy of one
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Look at N aggregates only, the same ones each time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,
    /// Threads; one for each core unless given
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self, node: NodeBuilder) -> ExitCode {
        let types = match node.types_for_reading() {
            Ok(types) => types,
            Err(error) => return output::unusable(&error),
        };
        let options = VerifyOptions {
            sample: self
                .sample
                .map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            threads: self.threads,
        };
        let progress = Progress::default();
        let found = std::thread::scope(|scope| {
            if std::io::stderr().is_terminal() {
                scope.spawn(|| draw(&progress));
            }
            let found = verify(&self.data_dir, &types, options, &progress);
            progress.ended.store(true, Ordering::Release);
            found
        });
        let report = match found {
            Ok(report) => report,
            Err(error) => return output::unusable(&error),
        };
        let text = if self.json {
            match serde_json::to_string_pretty(&report) {
                Ok(json) => json + "\n",
                Err(error) => return output::unusable(&error),
            }
        } else {
            as_lines(&report)
        };
        let written = output::result(text.as_bytes());
        if report.ok {
            written
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Keeps one line on the terminal up to date, and removes it at the end.
fn draw(progress: &Progress) {
    let started = Instant::now();
    while !progress.ended.load(Ordering::Acquire) {
        let (done, of) = (
            progress.events.load(Ordering::Relaxed),
            progress.of.load(Ordering::Relaxed),
        );
        let filled = (done.saturating_mul(BAR) / of.max(1)).min(BAR);
        let bar: String = (0..BAR)
            .map(|at| if at < filled { '#' } else { '.' })
            .collect();
        let percent = (done.saturating_mul(100) / of.max(1)).min(100);
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rate = done.saturating_mul(1000) / millis.max(1);
        let line =
            format!("\r[{bar}] {percent:>3} %  {done} of {of} events, {rate} events/s\x1b[K");
        // A terminal that went away is no reason to stop.
        let mut out = std::io::stderr().lock();
        out.write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .ok();
        drop(out);
        std::thread::park_timeout(REDRAW);
    }
    std::io::stderr().lock().write_all(b"\r\x1b[K").ok();
}

fn as_lines(report: &Report) -> String {
    let mut out = String::new();
    lines(report, &mut out).ok();
    out
}

fn lines(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "journal of node {} of cluster {:?}: {} aggregates, {} looked at",
        report.node_id, report.cluster_name, report.aggregates, report.checked
    )?;
    writeln!(
        out,
        "{} events replayed in {:.1} s, {:.0} events/s",
        report.events, report.seconds, report.events_per_second
    )?;
    writeln!(
        out,
        "{} recorded states compared; {} of another schema version; {} aggregates have none to compare",
        report.states_compared, report.states_not_comparable, report.without_recorded_state
    )?;
    for of in &report.event_types {
        let name = format!("{}/{} v{}", of.aggregate_type, of.event_type, of.version);
        write!(out, "  {name:<48} {:>12}", of.count.events)?;
        if of.version < of.current_version {
            write!(out, "  upcast to v{}", of.current_version)?;
        }
        if of.count.split > 0 {
            write!(out, "  split")?;
        }
        if let Some(reason) = of.count.reason {
            write!(out, "  dropped: {reason}")?;
        }
        writeln!(out)?;
    }
    for (name, count) in &report.unknown_types {
        writeln!(
            out,
            "NOT KNOWN: {count} aggregates of type `{name}`, which this build does not register"
        )?;
    }
    for finding in &report.findings {
        describe(finding, out)?;
    }
    let more = (report.diverging + report.failing).saturating_sub(report.findings.len() as u64);
    if more > 0 {
        writeln!(out, "... and {more} more")?;
    }
    if report.ok {
        writeln!(
            out,
            "ok: this build makes the recorded states of these events"
        )
    } else {
        writeln!(
            out,
            "NOT OK: {} aggregates diverge, {} cannot be folded, {} types are not known",
            report.diverging,
            report.failing,
            report.unknown_types.len()
        )
    }
}

fn describe(finding: &Finding, out: &mut String) -> std::fmt::Result {
    let name = format!("{}/{}", finding.aggregate_type, finding.aggregate_id);
    if let Some(reason) = &finding.failure {
        writeln!(out, "FAILS: {name}: {reason}")?;
    }
    let Some(divergence) = &finding.divergence else {
        return Ok(());
    };
    writeln!(
        out,
        "DIVERGES: {name} at event {} ({}); recorded states agree up to event {}",
        divergence.sequence_number,
        divergence.event_types.join(", "),
        divergence.agrees_up_to
    )?;
    for event in &divergence.events {
        writeln!(out, "    event        {event}")?;
    }
    writeln!(out, "    state before {}", divergence.state_before)?;
    writeln!(
        out,
        "    state after  {} (of this build)",
        divergence.state_after
    )?;
    if let Some(at) = divergence.compared_at {
        writeln!(
            out,
            "    in the snapshot at event {at}, recorded -> of this build:"
        )?;
    }
    for field in &divergence.difference {
        let shown = |value: &Option<serde_json::Value>| {
            value
                .as_ref()
                .map_or_else(|| "nothing".to_owned(), ToString::to_string)
        };
        let path = if field.path.is_empty() {
            "(all)"
        } else {
            &field.path
        };
        writeln!(
            out,
            "      {path}: {} -> {}",
            shown(&field.recorded),
            shown(&field.replayed)
        )?;
    }
    Ok(())
}
