//! Tokio for openraft, with clocks of all groups that strike together.
//!
//! Each group looks at its clock about twelve times a second, at a moment of its own. With many groups
//! nearly each look would wake up a processor for itself. Here moments to wait for are put off to the
//! next line of a grid that all groups of the process share, so that one wake-up serves many groups.
//! Refuses to change anything else: every other part is the stock runtime's.
//!
//! Invariant: a wait ends not before its moment, and at most [`GRID`] after it.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::impls::TokioRuntime;
use openraft::rt::{AsyncRuntime, Instant as _};

type Instant = <TokioRuntime as AsyncRuntime>::Instant;

/// The distance of two lines. With the default settings openraft looks every 81 ms, and an election
/// that is a fiftieth of a second late is within its random part.
const GRID: Duration = Duration::from_millis(20);

/// The first line.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// See the file's description.
#[derive(Debug)]
pub struct GridRuntime(TokioRuntime);

/// The first line of the grid that is not before `moment`.
fn line_behind(origin: Instant, moment: Instant) -> Instant {
    // A moment before the origin has passed.
    let since = moment.saturating_duration_since(origin);
    let beyond = Duration::from_nanos((since.as_nanos() % GRID.as_nanos()) as u64);
    if beyond.is_zero() {
        return moment;
    }
    moment + (GRID - beyond)
}

impl AsyncRuntime for GridRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(line_behind(*ORIGIN, deadline))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_on_a_line_that_is_not_before_its_moment() {
        let origin = Instant::now();
        for micros in [0, 1, 999, 19_999, 20_000, 20_001, 81_000, 99_999, 1_000_003] {
            let moment = origin + Duration::from_micros(micros);
            let line = line_behind(origin, moment);
            let since = line.saturating_duration_since(origin);
            assert!(line >= moment && line < moment + GRID, "{micros}");
            assert_eq!(since.as_micros() % GRID.as_micros(), 0, "{micros}");
        }
    }

    #[test]
    fn a_moment_long_ago_is_not_waited_for() {
        let moment = Instant::now();
        let origin = moment + Duration::from_secs(5);
        assert_eq!(line_behind(origin, moment), moment);
    }
}
