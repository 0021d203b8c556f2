//! Waiting for something to become true, never for luck: poll, with a deadline that fails loudly.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(4);

/// Polls until `check` gives a value; `None` when the time is up first.
pub(crate) fn poll<T>(within: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = check() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Polls until `check` gives a value.
///
/// # Panics
/// When the time is up first.
pub(crate) fn until<T>(what: &str, within: Duration, check: impl FnMut() -> Option<T>) -> T {
    poll(within, check).unwrap_or_else(|| panic!("waited {within:?} in vain for: {what}"))
}

/// Lets time pass where the passing of time is itself the scenario, such as the random moment of a
/// crash.
pub(crate) fn let_pass(time: Duration) {
    std::thread::sleep(time);
}
