//! What the black-box tests share: a real node process, a client with full control over its bytes,
//! clients that keep books of what they were promised, and the audit of those books.
//!
//! Refuses to know the product's own crates: everything here goes over a real socket to the real
//! binary. Invariant: no process, mount or loop device outlives the value that stands for it.

pub(crate) mod audit;
pub(crate) mod authority;
pub(crate) mod books;
pub(crate) mod client;
pub(crate) mod fault;
pub(crate) mod http;
pub(crate) mod node;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod scratch_disk;
pub(crate) mod sse;
pub(crate) mod wait;

use std::io::Write as _;
use std::path::Path;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Prints a line that is seen even when the test runner captures the output of passing tests.
pub(crate) fn report(line: &str) {
    let mut stderr = std::io::stderr().lock();
    // A closed standard error is no reason to fail a test.
    drop(writeln!(stderr, "{line}"));
}

/// Prints one figure in a form that a summary can collect.
pub(crate) fn measured(what: &str, value: impl std::fmt::Display) {
    report(&format!("MEASURED: {what}: {value}"));
}

/// Says that a test did not run, and why. One line a test, so that a summary can count the lines.
pub(crate) fn skipped(test: &str, why: &str) {
    report(&format!("SKIPPED: {test}: {why}"));
}

/// Whether this process may mount file systems.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A number from the environment, for longer runs by hand.
pub(crate) fn number_from_env(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}")),
        Err(_) => default,
    }
}

/// A random generator whose seed is printed; `PHALANX_SEED` repeats a run.
pub(crate) fn seeded(test: &str) -> StdRng {
    let fresh = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |since| u64::from(since.subsec_nanos()) ^ since.as_secs());
    let seed = number_from_env("PHALANX_SEED", fresh);
    report(&format!("SEED: {test}: PHALANX_SEED={seed}"));
    StdRng::seed_from_u64(seed)
}

/// An empty directory on the disk of the build, removed when the value is dropped.
pub(crate) fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("phalanx-")
        .tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR")))
        .expect("a temporary directory can be made")
}
