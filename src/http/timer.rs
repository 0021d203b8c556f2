//! A timer that is cheap to move, for time limits that hardly ever run out.
//!
//! Registering with the runtime's timer wheel takes a lock. Each request of a connection sets new
//! limits, and nearly all of them are met; so one registration is kept per connection, left alone
//! while a limit moves into the future, and set anew when it fires too early.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// One registration with the timer wheel.
#[derive(Debug, Default)]
pub(crate) struct LazyTimer(Option<Pin<Box<Sleep>>>);

/// The time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

impl LazyTimer {
    /// Ready once `deadline` has passed.
    pub(crate) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }

    /// Waits for `work`, but not longer than `limit` from the moment it first has to wait.
    ///
    /// # Errors
    /// [`Elapsed`]; `work` is dropped then.
    pub(crate) async fn within<F: Future>(
        &mut self,
        limit: Duration,
        work: F,
    ) -> Result<F::Output, Elapsed> {
        let mut work = pin!(work);
        let mut deadline = None;
        poll_fn(|cx| {
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + limit);
            self.poll(deadline, cx).map(|()| Err(Elapsed))
        })
        .await
    }
}

/// Notices writes that get nowhere: a client that does not read what it asked for.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    since: Option<Instant>,
    timer: LazyTimer,
}

impl Stall {
    /// Passes the outcome of a write on, or an error once writes have been stuck for `limit`.
    pub(crate) fn watch<T>(
        &mut self,
        limit: Duration,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.since = None;
            return written;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        ready!(self.timer.poll(since + limit, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(test);
    }

    #[test]
    fn a_limit_runs_out_no_earlier_than_it_should() {
        run(async {
            let mut timer = LazyTimer::default();
            for millis in [20, 5, 30] {
                let limit = Duration::from_millis(millis);
                let started = Instant::now();
                assert_eq!(timer.within(limit, pending::<()>()).await, Err(Elapsed));
                assert!(started.elapsed() >= limit);
            }
        });
    }

    #[test]
    fn finished_work_wins() {
        run(async {
            let mut timer = LazyTimer::default();
            assert_eq!(timer.within(Duration::ZERO, async { 7 }).await, Ok(7));
        });
    }
}
