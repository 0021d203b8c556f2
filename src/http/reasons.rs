//! The justifications of fresh reads: which are declared, how often each may be used.
//!
//! Limits are per node. `after-write` has none: a client that has just changed an aggregate may
//! always see the result.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use metrics::Counter;
use phalanx_actors::Justification;
use phalanx_actors::types::{TypeDescription, TypeRegistry};
use serde_json::{Value, json};

use super::code::Code;
use super::metrics::fresh_reads;
use super::problem::Problem;

/// The reason of a read that names the position of a reply.
pub(crate) const AFTER_WRITE: &str = "after-write";

/// The reasons of every type.
#[derive(Debug)]
pub(crate) struct Reasons(Vec<TypeReasons>);

/// The reasons of one type.
#[derive(Debug)]
pub(crate) struct TypeReasons {
    aggregate_type: &'static str,
    after_write: Counter,
    declared: Vec<Reason>,
    /// As problems list them.
    listed: Value,
    views: Value,
}

#[derive(Debug)]
struct Reason {
    declared: Justification,
    used: Counter,
    bucket: Bucket,
}

impl Reasons {
    /// Takes the declared justifications of all types.
    pub(crate) fn new(types: &TypeRegistry) -> Self {
        Self(types.iter().map(TypeReasons::new).collect())
    }

    /// The reasons of a type.
    pub(crate) fn of(&self, aggregate_type: &str) -> Option<&TypeReasons> {
        self.0.iter().find(|t| t.aggregate_type == aggregate_type)
    }
}

impl TypeReasons {
    fn new(description: &TypeDescription) -> Self {
        let reason = |declared: &Justification| Reason {
            declared: *declared,
            used: fresh_reads(description.name, declared.name),
            bucket: Bucket::default(),
        };
        Self {
            aggregate_type: description.name,
            after_write: fresh_reads(description.name, AFTER_WRITE),
            declared: description.justifications.iter().map(reason).collect(),
            listed: json!(description.justifications),
            views: json!(description.views),
        }
    }

    /// Counts a read that follows a write.
    pub(crate) fn admit_after_write(&self) {
        self.after_write.increment(1);
    }

    /// Admits a read for a reason, or says why not.
    ///
    /// # Errors
    /// 428 without a name, 403 for an unknown one, 429 over its rate or when it is turned off.
    pub(crate) fn admit(&self, name: Option<&str>) -> Result<(), Problem> {
        let Some(name) = name else {
            return Err(self.list(Problem::new(
                Code::JustificationRequired,
                "send `after=` with the position of a command reply, or name a declared reason in \
                 Phalanx-Justification, or query a read model",
            )));
        };
        let reason = self.declared.iter().find(|r| r.declared.name == name);
        let Some(reason) = reason else {
            return Err(self.list(Problem::new(
                Code::JustificationUnknown,
                format!("{} declares no such justification", self.aggregate_type),
            )));
        };
        let rate = reason.declared.rate_limit_per_second;
        if rate == 0 {
            let detail = format!("the justification `{}` is turned off", reason.declared.name);
            return Err(Problem::new(Code::RateLimited, detail)
                .retryable(false)
                .retry_after(Some(Duration::from_secs(60))));
        }
        reason.bucket.take(rate, now_ns()).map_err(|wait| {
            let detail = format!(
                "the justification `{}` allows {rate} reads per second on this node",
                reason.declared.name
            );
            Problem::new(Code::RateLimited, detail).retry_after(Some(wait))
        })?;
        reason.used.increment(1);
        Ok(())
    }

    fn list(&self, problem: Problem) -> Problem {
        problem
            .with("justifications", self.listed.clone())
            .with("views", self.views.clone())
    }
}

/// Nanoseconds since the first call.
fn now_ns() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A token bucket that holds one second's worth, as one number: the moment at which it would be
/// full again (the "generic cell rate algorithm").
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

const SECOND_NS: u64 = 1_000_000_000;

impl Bucket {
    /// Takes a token, or says how long until there is one. `rate` is at least 1.
    fn take(&self, rate: u32, now_ns: u64) -> Result<(), Duration> {
        let token = (SECOND_NS / u64::from(rate.max(1))).max(1);
        let mut wait = 0;
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                let next = full_at.max(now_ns).saturating_add(token);
                wait = next.saturating_sub(now_ns.saturating_add(SECOND_NS));
                (wait == 0).then_some(next)
            });
        taken.map(drop).map_err(|_| Duration::from_nanos(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_and_refills() {
        let bucket = Bucket::default();
        let start = 5 * SECOND_NS;
        for _ in 0..10 {
            assert_eq!(bucket.take(10, start), Ok(()));
        }
        let wait = bucket.take(10, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        assert_eq!(bucket.take(10, start + SECOND_NS / 10), Ok(()));
        assert!(bucket.take(10, start + SECOND_NS / 10).is_err());
    }

    #[test]
    fn over_many_seconds_the_rate_holds() {
        let bucket = Bucket::default();
        let mut admitted = 0;
        for step in 0..10_000_u64 {
            admitted += u64::from(bucket.take(50, step * SECOND_NS / 1000).is_ok());
        }
        // One bucket of 50 at the start, then 50 a second for ten seconds.
        assert!((540..=551).contains(&admitted), "{admitted}");
    }
}
