//! What the drivers of peers without HTTP share: when to measure, what was seen, what is reported.
//!
//! The report has the fields of `phalanx bench --json` that the comparison reads. It refuses to
//! know any protocol.

use std::time::Duration;

use hdrhistogram::{AdditionError, CreationError, Histogram};
use serde::Serialize;
use tokio::time::Instant;

/// The share of commands that take from an account, as in the load generator.
const WITHDRAWALS: f64 = 0.25;
/// What a withdrawal takes.
pub(crate) const TAKEN_CENTS: i64 = 123;
/// What a deposit adds.
pub(crate) const ADDED_CENTS: i64 = 345;

/// When to measure and when to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) from: Instant,
    pub(crate) end: Instant,
}

impl Window {
    /// Begins to measure after `warmup` seconds, for `duration` seconds.
    pub(crate) fn new(warmup: f64, duration: f64) -> Self {
        let from = Instant::now() + Duration::from_secs_f64(warmup);
        let end = from + Duration::from_secs_f64(duration);
        Self { from, end }
    }
}

/// What a client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// A fresh read of this account.
    Read(u64),
    /// A command that changes this account's balance by so many cents.
    Change(u64, i64),
}

/// The random choices of one client.
#[derive(Debug)]
pub(crate) struct Choices {
    aggregates: u64,
    reads: f64,
    random: u64,
}

impl Choices {
    /// The choices of the client with this number.
    pub(crate) fn new(aggregates: u64, reads: f64, client: u64) -> Self {
        Self {
            aggregates,
            reads,
            random: client,
        }
    }

    /// What to do next.
    pub(crate) fn next(&mut self) -> Next {
        let account = self.bits() % self.aggregates;
        let is_read = self.share() < self.reads;
        let is_withdrawal = self.share() < WITHDRAWALS;
        if is_read {
            Next::Read(account)
        } else if is_withdrawal {
            Next::Change(account, -TAKEN_CENTS)
        } else {
            Next::Change(account, ADDED_CENTS)
        }
    }

    /// SplitMix64, as in the load generator.
    fn bits(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The event that a change leads to.
pub(crate) fn event_type(delta_cents: i64) -> &'static str {
    if delta_cents < 0 {
        "MoneyWithdrawn"
    } else {
        "MoneyDeposited"
    }
}

/// What a client saw in the window.
#[derive(Debug)]
pub(crate) struct Seen {
    commands: Histogram<u64>,
    reads: Histogram<u64>,
    errors: u64,
}

impl Seen {
    /// Nothing yet.
    pub(crate) fn new() -> Result<Self, CreationError> {
        let histogram = || Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Ok(Self {
            commands: histogram()?,
            reads: histogram()?,
            errors: 0,
        })
    }

    /// Counts an answer.
    pub(crate) fn answer(&mut self, next: Next, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        match next {
            Next::Read(_) => self.reads.saturating_record(nanoseconds),
            Next::Change(..) => self.commands.saturating_record(nanoseconds),
        }
    }

    /// Counts an answer that is an error.
    pub(crate) fn error(&mut self) {
        self.errors += 1;
    }

    /// Adds what another client saw.
    pub(crate) fn merge(&mut self, other: Self) -> Result<(), AdditionError> {
        self.errors += other.errors;
        self.commands.add(other.commands)?;
        self.reads.add(other.reads)
    }
}

/// The part of the generator's report that the comparison reads.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    commands: Part,
    reads: Part,
    unexpected: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Part {
    count: u64,
    per_second: f64,
    latency: Latency,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50_us: f64,
    p99_us: f64,
}

impl Report {
    /// Sums up `seconds` of measurement.
    pub(crate) fn new(all: &Seen, seconds: f64) -> Self {
        let mut unexpected = Vec::new();
        if all.errors > 0 {
            unexpected.push(format!("{} requests were answered by an error", all.errors));
        }
        if all.commands.is_empty() && all.reads.is_empty() {
            unexpected.push("no request succeeded".to_owned());
        }
        Self {
            commands: part(&all.commands, seconds),
            reads: part(&all.reads, seconds),
            unexpected,
        }
    }

    /// Adds a reason not to trust the figures.
    pub(crate) fn but(&mut self, reason: String) {
        self.unexpected.push(reason);
    }

    /// Prints it as JSON.
    pub(crate) fn print(&self) -> Result<(), Box<dyn std::error::Error>> {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, self)?;
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures of a report")]
fn part(histogram: &Histogram<u64>, seconds: f64) -> Part {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
    Part {
        count: histogram.len(),
        per_second: histogram.len() as f64 / seconds,
        latency: Latency {
            p50_us: at(0.5),
            p99_us: at(0.99),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_keep_their_shares() {
        let mut choices = Choices::new(50, 0.5, 3);
        let all: Vec<Next> = (0..20_000).map(|_| choices.next()).collect();
        let reads = all.iter().filter(|next| matches!(next, Next::Read(_)));
        assert!((9_500..10_500).contains(&reads.count()));
        let taken = |next: &&Next| matches!(next, Next::Change(_, ..0));
        assert!((2_200..2_800).contains(&all.iter().filter(taken).count()));
        let in_range = |next: &Next| match next {
            Next::Read(account) | Next::Change(account, _) => *account < 50,
        };
        assert!(all.iter().all(in_range));
    }

    #[test]
    fn a_report_is_silent_only_about_success() {
        let mut seen = Seen::new().unwrap();
        assert_eq!(Report::new(&seen, 1.0).unexpected, ["no request succeeded"]);
        seen.answer(Next::Read(1), Duration::from_micros(5));
        let report = Report::new(&seen, 2.0);
        assert_eq!((report.reads.count, report.commands.count), (1, 0));
        assert!(report.unexpected.is_empty() && (report.reads.per_second - 0.5).abs() < 1e-9);
        seen.error();
        assert_eq!(Report::new(&seen, 1.0).unexpected.len(), 1);
    }
}
