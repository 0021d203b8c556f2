//! What was seen, while it is being seen.
//!
//! It owns the histograms and counts of one thread and adds threads together. It refuses to
//! interpret: rates, corrections and verdicts are the report's. Recording allocates only when a
//! status or a code is seen for the first time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::response::json_text;
use super::run::BenchError;
use super::workload::Kind;

/// Latencies are kept from 1 ns to 1 hour with three significant digits.
const LARGEST_NS: u64 = 3_600_000_000_000;
/// Distinct error codes that are told apart; a broken server must not fill our memory.
const MAX_CODES: usize = 64;

/// Counts that the progress line shows while threads run.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Aggregates that are prepared.
    pub(super) prepared: AtomicU64,
    /// Successful commands, warm-up included.
    pub(super) commands: AtomicU64,
    /// Successful reads, warm-up included.
    pub(super) reads: AtomicU64,
    /// Everything else that came back or broke, warm-up included.
    pub(super) others: AtomicU64,
}

impl Live {
    /// Counts a success.
    pub(super) fn count(&self, kind: Kind) {
        let counter = match kind {
            Kind::Command => &self.commands,
            Kind::Read => &self.reads,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what is no success.
    pub(super) fn count_other(&self) {
        self.others.fetch_add(1, Ordering::Relaxed);
    }

    /// All requests that ended so far.
    pub(super) fn total(&self) -> u64 {
        [&self.commands, &self.reads, &self.others]
            .iter()
            .map(|counter| counter.load(Ordering::Relaxed))
            .sum()
    }
}

/// What one thread saw in the measured window.
#[derive(Debug)]
pub(super) struct Stats {
    /// Latencies of successful commands, in nanoseconds.
    pub(super) commands: Histogram<u64>,
    /// Latencies of successful reads.
    pub(super) reads: Histogram<u64>,
    /// Latencies of every other reply.
    pub(super) refusals: Histogram<u64>,
    /// Open loop: how long after its intended start a request was sent.
    pub(super) lateness: Histogram<u64>,
    /// Replies by status.
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Domain refusals (422 `command-rejected`) by rejection: answers, not errors.
    pub(super) rejections: BTreeMap<String, u64>,
    /// Every other reply by status and code.
    pub(super) errors: BTreeMap<(u16, String), u64>,
    /// Requests without a reply, by what went wrong.
    pub(super) broken: BTreeMap<&'static str, u64>,
    /// Requests that were sent, by target.
    pub(super) sent: Vec<u64>,
    /// Requests that were not sent for want of a connection; they are in `broken` as well.
    pub(super) not_sent: u64,
    /// Requests that were sent in the warm-up; nothing else here counts them.
    pub(super) sent_in_warmup: u64,
    /// When the last reply came.
    pub(super) last_reply: Option<Instant>,
}

impl Stats {
    /// Nothing seen yet, of so many targets.
    pub(super) fn new(targets: usize) -> Result<Self, BenchError> {
        let histogram = || {
            Histogram::new_with_bounds(1, LARGEST_NS, 3)
                .map_err(|error| BenchError::Histogram(error.to_string()))
        };
        Ok(Self {
            commands: histogram()?,
            reads: histogram()?,
            refusals: histogram()?,
            lateness: histogram()?,
            statuses: BTreeMap::new(),
            rejections: BTreeMap::new(),
            errors: BTreeMap::new(),
            broken: BTreeMap::new(),
            sent: vec![0; targets],
            not_sent: 0,
            sent_in_warmup: 0,
            last_reply: None,
        })
    }

    /// Records a reply.
    pub(super) fn reply(
        &mut self,
        kind: Kind,
        status: u16,
        body: &[u8],
        latency: Duration,
        now: Instant,
    ) {
        self.last_reply = Some(now);
        *self.statuses.entry(status).or_default() += 1;
        let nanoseconds = saturating_ns(latency);
        if is_success(status) {
            match kind {
                Kind::Command => self.commands.saturating_record(nanoseconds),
                Kind::Read => self.reads.saturating_record(nanoseconds),
            }
            return;
        }
        self.refusals.saturating_record(nanoseconds);
        let code = json_text(body, "code").unwrap_or("no-code");
        if status == 422 && code == "command-rejected" {
            let rejection = json_text(body, "rejection").unwrap_or("unnamed").to_owned();
            count_bounded(&mut self.rejections, rejection, || "others".to_owned());
        } else {
            let others = || (status, "others".to_owned());
            count_bounded(&mut self.errors, (status, code.to_owned()), others);
        }
    }

    /// Records how late a request of a schedule was sent.
    pub(super) fn late(&mut self, by: Duration) {
        self.lateness.saturating_record(saturating_ns(by));
    }

    /// Records that a request is sent.
    pub(super) fn sent(&mut self, target: usize, measured: bool) {
        if !measured {
            self.sent_in_warmup += 1;
        } else if let Some(count) = self.sent.get_mut(target) {
            *count += 1;
        }
    }

    /// Records a request that was sent and got no reply.
    pub(super) fn broke(&mut self, name: &'static str, now: Instant) {
        self.last_reply = Some(now);
        *self.broken.entry(name).or_default() += 1;
    }

    /// Records a request that could not be sent.
    pub(super) fn did_not_connect(&mut self, name: &'static str, now: Instant) {
        self.broke(name, now);
        self.not_sent += 1;
    }

    /// Records that those which were sent and neither answered nor broken are given up.
    pub(super) fn give_up(&mut self, now: Instant) {
        let open = self.all_sent() - self.answered() - self.unanswered();
        if open > 0 {
            self.last_reply = Some(now);
            *self.broken.entry("deadline").or_default() += open;
        }
    }

    /// All requests that were sent.
    pub(super) fn all_sent(&self) -> u64 {
        self.sent.iter().sum()
    }

    /// Those of them with a reply of whatever kind.
    pub(super) fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Those of them that are known to get none.
    pub(super) fn unanswered(&self) -> u64 {
        self.broken.values().sum::<u64>() - self.not_sent
    }

    /// Adds what another thread saw.
    pub(super) fn merge(&mut self, other: Self) -> Result<(), BenchError> {
        let failed = |error: hdrhistogram::AdditionError| BenchError::Histogram(error.to_string());
        self.commands.add(&other.commands).map_err(failed)?;
        self.reads.add(&other.reads).map_err(failed)?;
        self.refusals.add(&other.refusals).map_err(failed)?;
        self.lateness.add(&other.lateness).map_err(failed)?;
        add_counts(&mut self.statuses, other.statuses);
        add_counts(&mut self.rejections, other.rejections);
        add_counts(&mut self.errors, other.errors);
        add_counts(&mut self.broken, other.broken);
        for (count, more) in self.sent.iter_mut().zip(other.sent) {
            *count += more;
        }
        self.not_sent += other.not_sent;
        self.sent_in_warmup += other.sent_in_warmup;
        self.last_reply = self.last_reply.max(other.last_reply);
        Ok(())
    }
}

/// 2xx, and "not modified" for conditional reads.
pub(super) fn is_success(status: u16) -> bool {
    (200..300).contains(&status) || status == 304
}

fn saturating_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn count_bounded<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K, others: impl FnOnce() -> K) {
    let key = if counts.len() >= MAX_CODES && !counts.contains_key(&key) {
        others()
    } else {
        key
    };
    *counts.entry(key).or_default() += 1;
}

fn add_counts<K: Ord>(into: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(key).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reply_has_one_place() {
        let mut stats = Stats::new(2).unwrap();
        let now = Instant::now();
        let rejected = br#"{"code":"command-rejected","rejection":"insufficient-funds"}"#;
        let reused = br#"{"code":"idempotency-key-reused"}"#;
        let ms = Duration::from_millis(1);
        stats.reply(Kind::Command, 201, b"", ms, now);
        stats.reply(Kind::Read, 200, b"", ms, now);
        stats.reply(Kind::Command, 422, rejected, ms, now);
        stats.reply(Kind::Command, 422, reused, ms, now);
        stats.reply(Kind::Read, 503, b"<html>", ms, now);
        let mut all = Stats::new(2).unwrap();
        all.merge(stats).unwrap();
        assert_eq!(
            (all.commands.len(), all.reads.len(), all.refusals.len()),
            (1, 1, 3)
        );
        assert_eq!(all.rejections.get("insufficient-funds"), Some(&1));
        let errors: Vec<_> = all
            .errors
            .keys()
            .map(|(status, code)| (*status, code.as_str()))
            .collect();
        assert_eq!(errors, [(422, "idempotency-key-reused"), (503, "no-code")]);
        assert_eq!(all.last_reply, Some(now));
    }

    #[test]
    fn what_is_sent_is_answered_broken_or_given_up() {
        let now = Instant::now();
        let mut stats = Stats::new(2).unwrap();
        stats.sent(0, false);
        for target in [0, 0, 1, 1, 1] {
            stats.sent(target, true);
        }
        stats.reply(Kind::Command, 503, b"", Duration::ZERO, now);
        stats.broke("timeout", now);
        stats.did_not_connect("connect-failed", now);
        stats.give_up(now);
        let mut all = Stats::new(2).unwrap();
        all.merge(stats).unwrap();
        assert_eq!(all.sent, [2, 3]);
        assert_eq!((all.answered(), all.unanswered()), (1, 4));
        assert_eq!((all.not_sent, all.sent_in_warmup), (1, 1));
        assert_eq!(all.broken.get("deadline"), Some(&3));
    }

    #[test]
    fn codes_are_bounded() {
        let mut stats = Stats::new(2).unwrap();
        for number in 0..1_000 {
            let body = format!(r#"{{"code":"c{number}"}}"#);
            stats.reply(
                Kind::Read,
                500,
                body.as_bytes(),
                Duration::ZERO,
                Instant::now(),
            );
        }
        assert_eq!(stats.errors.len(), MAX_CODES + 1);
        assert_eq!(stats.errors.values().sum::<u64>(), 1_000);
    }
}
