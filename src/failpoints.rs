//! Named crash points in the write path, for the fault tests: at each of them the process can be
//! made to die as by `kill -9`.
//!
//! Which point fires, and at which visit, comes from the variable `FAILPOINTS`, as in
//! `journal::before_write=37*off->return`. The action `return` kills; the other actions of the crate
//! `fail` (`sleep`, `pause`, `delay`) work as they say. Without the feature `failpoints` nothing of
//! this is compiled in, and a node for which some are set refuses to start. Invariant: a crash point
//! changes nothing but when the process ends. (Points that make something else happen, such as a failed
//! read, are not set by this macro.)

use std::ffi::OsStr;

/// Marks a step at which the process can be made to die.
macro_rules! crash_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| $crate::failpoints::die())
    };
}

pub(crate) use crash_point;

/// Names the crash points that are to fire in this process.
const VARIABLE: &str = "FAILPOINTS";

/// The crash points are armed while this lives.
#[derive(Debug)]
#[must_use]
pub(crate) struct Armed {
    #[cfg(feature = "failpoints")]
    _scenario: fail::FailScenario<'static>,
}

/// Crash points are set, and this build has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the variable {VARIABLE} is set, and this build has no crash points; build it with `--features \
     phalanx/failpoints`, or take the variable away (`phalanx --version` says which build it is)"
)]
pub(crate) struct NotCompiledIn;

/// Reads the variable.
///
/// # Errors
/// When it is set and this build has no crash points: whoever set it would wait for them in vain.
pub(crate) fn arm() -> Result<Armed, NotCompiledIn> {
    may_fire(
        std::env::var_os(VARIABLE).as_deref(),
        cfg!(feature = "failpoints"),
    )?;
    Ok(Armed {
        #[cfg(feature = "failpoints")]
        _scenario: fail::FailScenario::setup(),
    })
}

fn may_fire(set: Option<&OsStr>, compiled_in: bool) -> Result<(), NotCompiledIn> {
    match set {
        Some(set) if !set.is_empty() && !compiled_in => Err(NotCompiledIn),
        _ => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_and_not_there_is_refused() {
        let set = |text: &'static str| Some(OsStr::new(text));
        let some = "journal::before_write=return";
        assert_eq!(may_fire(set(some), false), Err(NotCompiledIn));
        assert_eq!(may_fire(set(some), true), Ok(()));
        assert_eq!(may_fire(set(""), false), Ok(()));
        assert_eq!(may_fire(None, false), Ok(()));
        assert!(NotCompiledIn.to_string().contains(VARIABLE));
    }
}
