//! A line a second on standard error while a run is under way.
//!
//! It owns nothing of the measurement and refuses to touch standard output, which belongs to the
//! report.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::stats::Live;
use super::table::thousands;

const EVERY: Duration = Duration::from_secs(1);

/// Reports the preparation until the sender is dropped.
pub(super) fn show_setup(plan: &Plan, live: &Live, done: &Receiver<()>) {
    while done.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        let prepared = live.prepared.load(Ordering::Relaxed);
        if !plan.args.quiet {
            let all = thousands(plan.args.aggregates);
            eprintln!(
                "[setup] {} of {all} aggregates are ready",
                thousands(prepared)
            );
        }
    }
}

/// Reports rates until the sender is dropped.
pub(super) fn show_run(plan: &Plan, live: &Live, done: &Receiver<()>) {
    let start = Instant::now();
    let mut before = Seen::read(live, start);
    while done.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        let now = Seen::read(live, Instant::now());
        if !plan.args.quiet {
            let elapsed = now.at.duration_since(start);
            // The line is about the second before it.
            let phase = if elapsed < plan.args.warmup + EVERY / 2 {
                "warm-up"
            } else {
                "measure"
            };
            eprintln!(
                "[{phase} {:>3.0} s] {}",
                elapsed.as_secs_f64(),
                now.since(&before)
            );
        }
        before = now;
    }
}

/// The counts at one moment.
struct Seen {
    at: Instant,
    commands: u64,
    reads: u64,
    others: u64,
}

impl Seen {
    fn read(live: &Live, at: Instant) -> Self {
        Self {
            at,
            commands: live.commands.load(Ordering::Relaxed),
            reads: live.reads.load(Ordering::Relaxed),
            others: live.others.load(Ordering::Relaxed),
        }
    }

    /// The rates since an earlier moment, as text.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for the eye"
    )]
    fn since(&self, before: &Self) -> String {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let rate = |now: u64, then: u64| thousands(((now - then) as f64 / seconds) as u64);
        let mut text = format!(
            "{} commands/s, {} reads/s",
            rate(self.commands, before.commands),
            rate(self.reads, before.reads)
        );
        if self.others > before.others {
            text += &format!(", {} refused or failed/s", rate(self.others, before.others));
        }
        text
    }
}
