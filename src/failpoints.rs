//! Named crash points in the write path, for the fault tests: at each of them the process can be
//! made to die as by `kill -9`.
//!
//! Which point fires, and at which visit, comes from the variable `FAILPOINTS`, as in
//! `journal::before_write=37*off->return`. The action `return` kills; the other actions of the crate
//! `fail` (`sleep`, `pause`, `delay`) work as they say. Without the feature `failpoints` nothing of
//! this is compiled in. Invariant: a crash point changes nothing but when the process ends.

/// Marks a step at which the process can be made to die.
macro_rules! crash_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| $crate::failpoints::die())
    };
}

pub(crate) use crash_point;

/// The crash points are armed while this lives.
#[derive(Debug)]
#[must_use]
pub struct Armed {
    #[cfg(feature = "failpoints")]
    _scenario: fail::FailScenario<'static>,
}

/// Reads `FAILPOINTS`. Without the feature `failpoints` it does nothing.
pub fn arm() -> Armed {
    Armed {
        #[cfg(feature = "failpoints")]
        _scenario: fail::FailScenario::setup(),
    }
}

/// Ends the process at once: no destructor runs and nothing is flushed.
#[cfg(feature = "failpoints")]
pub(crate) fn die() -> ! {
    use rustix::process::{Signal, getpid, kill_process};
    if let Err(error) = kill_process(getpid(), Signal::KILL) {
        tracing::error!(%error, "failed to kill this process");
    }
    std::process::abort()
}
