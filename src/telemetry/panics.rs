//! Panics as lines of the log.
//!
//! The hook of the standard library writes several lines of plain text, which whoever reads a log of
//! JSON objects cannot read. Invariant: a panic is one line, in the form of all others.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

/// From now on, panics of this process are logged.
pub(super) fn log() {
    std::panic::set_hook(Box::new(tell));
}

fn tell(info: &PanicHookInfo<'_>) {
    let reason = info.payload_as_str().unwrap_or("not a text");
    let place = info.location().map(ToString::to_string);
    let place = place.as_deref().unwrap_or("unknown");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    // Made only where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(reason, place, thread, %backtrace, "panicked");
    } else {
        tracing::error!(reason, place, thread, "panicked");
    }
}
