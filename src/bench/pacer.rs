//! The schedule of an open loop.
//!
//! It owns when each request should begin: the n-th at `start + n / rate`, whether or not a client
//! is free. It refuses to slow down for a slow server. A thread of its own keeps the time, because
//! the runtime's timers tick in milliseconds, which is longer than the latencies to be measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The shortest sleep: what the kernel's timer slack gives anyway.
const QUANTUM: Duration = Duration::from_micros(50);

/// The requests that may begin.
#[derive(Debug)]
pub(super) struct Schedule {
    start: Instant,
    end: Instant,
    rate_per_second: f64,
    released: AtomicU64,
    taken: AtomicU64,
    permits: Semaphore,
}

impl Schedule {
    /// A schedule from `start` to `end`.
    pub(super) fn new(start: Instant, end: Instant, rate_per_second: f64) -> Arc<Self> {
        Arc::new(Self {
            start,
            end,
            rate_per_second,
            released: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            permits: Semaphore::new(0),
        })
    }

    /// Waits for the next request and returns its intended start; `None` when the time is up.
    pub(super) async fn next(&self) -> Option<Instant> {
        self.permits.acquire().await.ok()?.forget();
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        Some(self.intended(number))
    }

    /// Requests whose time came but which no client was free to send.
    pub(super) fn unsent(&self) -> u64 {
        let released = self.released.load(Ordering::Acquire);
        released.saturating_sub(self.taken.load(Ordering::Acquire))
    }

    /// Releases requests as their time comes; returns at the end. Blocks its thread.
    pub(super) fn keep_time(&self) {
        loop {
            let now = Instant::now();
            let due = self.due(now.min(self.end));
            let released = self.released.load(Ordering::Relaxed);
            let count = due.saturating_sub(released);
            self.released.store(due.max(released), Ordering::Release);
            let permits = usize::try_from(count).unwrap_or(usize::MAX);
            self.permits
                .add_permits(permits.min(Semaphore::MAX_PERMITS / 2));
            if now >= self.end {
                self.permits.close();
                return;
            }
            let wake = self.intended(due).min(self.end).max(now + QUANTUM);
            std::thread::sleep(wake - now);
        }
    }

    /// How many requests should have begun before `now`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a product of non-negative numbers; the cast saturates"
    )]
    fn due(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_secs_f64();
        (elapsed * self.rate_per_second).ceil() as u64
    }

    #[expect(clippy::cast_precision_loss, reason = "2^53 requests take years")]
    fn intended(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.rate_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_released_once_and_none_early() {
        let start = Instant::now();
        let schedule = Schedule::new(start, start + Duration::from_millis(100), 20_000.0);
        let keeper = Arc::clone(&schedule);
        let thread = std::thread::spawn(move || keeper.keep_time());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let intended: Vec<Instant> = runtime.block_on(async {
            let mut all = Vec::new();
            while let Some(at) = schedule.next().await {
                assert!(at <= Instant::now(), "released before its time");
                all.push(at);
            }
            all
        });
        thread.join().unwrap();
        assert_eq!(intended.len() as u64 + schedule.unsent(), 2_000);
        assert!(intended.is_sorted());
    }

    #[test]
    fn what_nobody_took_is_counted() {
        let start = Instant::now();
        let schedule = Schedule::new(start, start + Duration::from_millis(10), 1_000.0);
        schedule.keep_time();
        assert_eq!(schedule.unsent(), 10);
    }
}
