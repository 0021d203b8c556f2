//! The disk reports an error at a sync: the process ends and says why, acknowledges nothing that it
//! could not sync, and has lost nothing after a restart.
//!
//! `strace` makes the n-th `fdatasync` or `fsync` of a thread fail, so this needs root (or the right
//! to trace) and `strace`; says `SKIPPED` otherwise.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::time::Duration;

use rand::Rng as _;

use support::audit::audit;
use support::books::{Tellers, open_accounts};
use support::fault::run;
use support::node::NodeSetup;
use support::{measured, number_from_env, seeded, skipped, temp_dir};

const TEST: &str = "sync errors";
const TELLERS: i64 = 4;
const ACCOUNTS: usize = 8;

/// Whether a process can be traced and its system calls made to fail.
fn tracing_works() -> Result<(), String> {
    let inject = "inject=fdatasync:error=EIO:when=1";
    run("strace", &["-f", "-o", "/dev/null", "-e", inject, "true"]).map(drop)
}

/// A raft group that could not read its log would be gone until the next start, and nothing would tell.
#[test]
fn a_failed_read_of_the_log_ends_the_node_with_a_message_and_loses_nothing_acknowledged() {
    if cfg!(not(feature = "failpoints")) {
        return skipped("read errors", "built without the feature `failpoints`");
    }
    let directory = temp_dir();
    let mut rng = seeded("read errors");
    let setup = NodeSetup::new(directory.path());
    let node = setup.start();
    let accounts = open_accounts(node.address, ACCOUNTS);
    let mut tellers = Tellers::start_on_failing_disk(TELLERS, node.address, &accounts, &mut rng);
    drop(node);
    let fails = "replication::read_log=300*off->1*return->off";
    let mut node = setup.clone().variable("FAILPOINTS", fails).spawn();
    let status = node.wait_end(Duration::from_secs(60));
    let log = node.log();
    assert_eq!(status.and_then(|status| status.code()), Some(70), "{log}");
    let says_why = log.contains("the journal cannot be read") && log.contains("a failpoint");
    assert!(says_why, "{log}");
    let node = setup.start();
    tellers.check();
    let books = tellers.stop();
    let checked = audit(node.address, &accounts, &books);
    assert!(checked.promises > 0, "too little happened: {checked:?}");
}

#[test]
fn a_failed_sync_ends_the_node_with_a_message_and_loses_nothing_acknowledged() {
    if let Err(why) = tracing_works() {
        return skipped(TEST, &why);
    }
    let rounds = number_from_env("PHALANX_SYNC_ERRORS", 10);
    let directory = temp_dir();
    let mut rng = seeded(TEST);
    let setup = NodeSetup::new(directory.path());
    let node = setup.start();
    let accounts = open_accounts(node.address, ACCOUNTS);
    let mut tellers = Tellers::start_on_failing_disk(TELLERS, node.address, &accounts, &mut rng);
    drop(node);
    for _ in 0..rounds {
        let when = rng.random_range(5..150);
        let inject = format!("inject=fdatasync,fsync:error=EIO:when={when}");
        // -D keeps the node itself as the child, so that it is the one that is killed and waited
        // for; the tracer ends with it.
        let traced = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null"];
        let filter = ["-e", "trace=fdatasync,fsync", "-e", &inject];
        let mut node = setup
            .clone()
            .wrapped_by(&[&traced[..], &filter[..]].concat())
            .spawn();
        let status = node.wait_end(Duration::from_secs(60));
        let log = node.log();
        assert!(
            status.is_some_and(|status| status.code().is_some_and(|code| code != 0)),
            "sync {when} failed, but the node did not end with an error: {status:?}\n{log}"
        );
        let says_why = log.contains("os error 5") || log.contains("Input/output error");
        assert!(
            says_why,
            "sync {when} failed, but the log does not say so:\n{log}"
        );
        tellers.check();
    }
    let node = setup.start();
    let books = tellers.stop();
    let checked = audit(node.address, &accounts, &books);
    measured(TEST, format!("{rounds} errors, {checked:?}"));
    assert!(checked.promises > 0, "too little happened: {checked:?}");
}
