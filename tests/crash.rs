//! Kill -9, at random moments and at each named step of the write path, while tellers pay money in
//! and retry every command with its key until it is answered: nothing acknowledged is lost and
//! nothing happens twice.
//!
//! `PHALANX_KILLS=2000 cargo test --release --features failpoints --test crash -- --nocapture`
//! makes a longer run by hand (default 300, half of them at random moments and half at failpoints);
//! `PHALANX_SEED` repeats the choices of a run. Without the feature `failpoints` all kills are
//! random ones.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;

use support::audit::{Checked, audit};
use support::books::{Tellers, open_accounts};
use support::node::{Node, NodeSetup, was_killed};
use support::{measured, number_from_env, seeded, skipped, temp_dir, wait};

/// The named steps of the write path: the process kills itself there.
const FAILPOINTS: [&str; 11] = [
    "replication::before_propose",
    "journal::before_write",
    "journal::after_write_before_sync",
    "journal::after_write_before_callback",
    "journal::before_index",
    "journal::after_index",
    "replication::after_commit",
    "replication::before_apply",
    "http::before_reply",
    "projection::before_commit",
    "projection::after_commit",
];

const TELLERS: i64 = 8;
const ACCOUNTS: usize = 16;
/// With fewer acknowledged commands per kill, the kills met a node that did nothing.
const LEAST_COMMANDS_PER_KILL: usize = 10;
/// What is waited for before most kills.
const COMMANDS_BEFORE_A_KILL: u64 = 20;
/// Tellers pass each step again and again, so a node that does not get there hangs.
const GETS_THERE_WITHIN: Duration = Duration::from_secs(30);

fn kills() -> u64 {
    number_from_env("PHALANX_KILLS", 300)
}

/// Small limits, so that aggregates leave memory, snapshots are taken and tables are written
/// within a short run.
fn busy_node(directory: &Path) -> NodeSetup {
    NodeSetup::new(directory)
        .set("ACTORS__SNAPSHOT_EVERY_EVENTS", 16)
        .set("ACTORS__MAX_RESIDENT", 8)
        .set("ACTORS__MAX_CONCURRENT_ACTIVATIONS", 8)
        .set("JOURNAL__WRITE_BUFFER_BYTES", 1024 * 1024)
        .set("JOURNAL__INDEX_WRITE_BUFFER_BYTES", 1024 * 1024)
}

/// Runs tellers through this many rounds, each of which ends with the death of the node; then lets
/// every command be answered, kills once more and audits.
fn survive(
    name: &str,
    rounds: u64,
    mut round: impl FnMut(&NodeSetup, &mut StdRng, &mut Tellers),
) -> Checked {
    let mut rng = seeded(name);
    let directory = temp_dir();
    let setup = busy_node(directory.path());
    let mut node = setup.start();
    let accounts = open_accounts(node.address, ACCOUNTS);
    let mut tellers = Tellers::start(TELLERS, node.address, &accounts, &mut rng);
    tellers.progress(COMMANDS_BEFORE_A_KILL);
    node.kill();
    for _ in 0..rounds {
        round(&setup, &mut rng, &mut tellers);
        tellers.check();
    }
    let mut node = setup.start();
    tellers.progress(COMMANDS_BEFORE_A_KILL);
    let books = tellers.stop();
    node.kill();
    let node = setup.start();
    let checked = audit(node.address, &accounts, &books);
    measured(name, format!("{rounds} kills, {checked:?}"));
    let least = usize::try_from(rounds).expect("fits") * LEAST_COMMANDS_PER_KILL;
    assert!(
        checked.promises >= least,
        "too little happened: {checked:?}"
    );
    checked
}

#[test]
fn killed_at_random_moments_nothing_acknowledged_is_lost_and_nothing_happens_twice() {
    let rounds = if cfg!(feature = "failpoints") {
        kills().div_ceil(2)
    } else {
        kills()
    };
    let checked = survive("random kills", rounds, |setup, rng, tellers| {
        let mut node = setup.spawn();
        // Sometimes before it is ready, mostly in the middle of work.
        if rng.random_range(0..4) > 0 {
            tellers.progress(COMMANDS_BEFORE_A_KILL);
        }
        wait::let_pass(Duration::from_millis(rng.random_range(0..250)));
        let status = node.kill();
        assert!(
            was_killed(status),
            "ended by itself: {status}\n{}",
            node.log()
        );
    });
    assert!(
        checked.replays > 0,
        "some first attempt must have lost its answer: {checked:?}"
    );
}

#[test]
fn killed_at_each_step_of_the_write_path_nothing_acknowledged_is_lost_and_nothing_happens_twice() {
    if cfg!(not(feature = "failpoints")) {
        skipped(
            "kills at failpoints",
            "built without the feature `failpoints`",
        );
        return;
    }
    let mut fired: BTreeMap<&str, u64> = FAILPOINTS.map(|name| (name, 0)).into();
    let mut turn = 0;
    survive("kills at failpoints", kills() / 2, |setup, rng, _| {
        let name = FAILPOINTS[turn % FAILPOINTS.len()];
        turn += 1;
        if dies_at(setup, name, rng) {
            *fired.entry(name).or_default() += 1;
        }
    });
    measured("failpoints that killed the node", format!("{fired:?}"));
    for (name, count) in fired {
        assert!(count > 0, "the failpoint {name} never killed the node");
    }
}

/// Starts a node that kills itself at the failpoint; says whether it did. One that does not get there
/// is killed from outside.
fn dies_at(setup: &NodeSetup, failpoint: &str, rng: &mut StdRng) -> bool {
    let passes = match rng.random_range(0..5) {
        0 => rng.random_range(0..20),
        // Read models are committed less often.
        _ if failpoint.starts_with("projection") => rng.random_range(0..50),
        _ => rng.random_range(0..150),
    };
    let action = format!("{failpoint}={passes}*off->return");
    let mut node: Node = setup.clone().variable("FAILPOINTS", &action).spawn();
    match node.wait_end(GETS_THERE_WITHIN) {
        Some(status) => {
            assert!(
                was_killed(status),
                "{action}: ended by itself: {status}\n{}",
                node.log()
            );
            true
        }
        None => {
            node.kill();
            false
        }
    }
}

#[test]
fn every_crash_point_of_the_sources_is_visited_here() {
    let mut found = Vec::new();
    let mut waiting = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).expect("the sources can be read") {
            let path = entry.expect("the sources can be read").path();
            if path.is_dir() {
                waiting.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let calls = text.split("crash_point!(\"").skip(1);
                found.extend(calls.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }
    found.sort_unstable();
    // A repair needs other members.
    let repairs = include_str!("cluster_repairs.rs");
    found.retain(|point| {
        !point.starts_with("journal::discard_") || !repairs.contains(&format!("\"{point}\""))
    });
    let mut visited = FAILPOINTS.map(str::to_owned);
    visited.sort_unstable();
    assert_eq!(found, visited);
}
