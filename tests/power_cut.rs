//! The power fails while tellers pay money in, of one node here and of a whole cluster in
//! `power_cut/all_at_once.rs`: the file system keeps what was synced and forgets the rest. Nothing
//! acknowledged is lost, nothing happens twice, and the nodes open by themselves.
//!
//! Needs root, loop devices, `mkfs.ext4` and `perl`; says `SKIPPED` otherwise. `PHALANX_CUTS` changes
//! the number of power cuts of the one node (default 50), `PHALANX_CLUSTER_CUTS` that of the cluster (8).

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

#[expect(dead_code, reason = "other tests of clusters use the rest")]
#[path = "cluster/fixture.rs"]
mod fixture;

#[path = "cluster/copies.rs"]
mod copies;

#[path = "power_cut/all_at_once.rs"]
mod all_at_once;

use std::time::Duration;

use rand::Rng as _;

use support::audit::audit;
use support::books::{Tellers, open_accounts};
use support::fault::{cut_power, is_there};
use support::node::NodeSetup;
use support::scratch_disk::LoopDisk;
use support::{is_root, measured, number_from_env, seeded, skipped, temp_dir, wait};

const TEST: &str = "power cuts";
const DISK_BYTES: u64 = 256 * 1024 * 1024;
const TELLERS: i64 = 8;
const ACCOUNTS: usize = 16;
const LEAST_COMMANDS_PER_CUT: u64 = 20;

/// A disk whose power can be cut, or why there is none.
fn disk(directory: &std::path::Path) -> Result<LoopDisk, String> {
    if !is_root() {
        return Err("only root may mount".to_owned());
    }
    if !is_there("perl") {
        return Err("perl is missing".to_owned());
    }
    LoopDisk::create(directory, DISK_BYTES)
}

/// A node on this disk whose small limits let it take snapshots and write tables within a short run.
fn on(disk: &LoopDisk, setup: NodeSetup) -> NodeSetup {
    setup
        .data_in(&disk.path().join("data"))
        .set("ACTORS__SNAPSHOT_EVERY_EVENTS", 16)
        .set("ACTORS__MAX_RESIDENT", 8)
        .set("ACTORS__MAX_CONCURRENT_ACTIVATIONS", 8)
        .set("JOURNAL__WRITE_BUFFER_BYTES", 1024 * 1024)
        .set("JOURNAL__INDEX_WRITE_BUFFER_BYTES", 1024 * 1024)
        .set("JOURNAL__RESERVE_FREE_BYTES", 8 * 1024 * 1024)
}

#[test]
fn after_a_power_cut_everything_acknowledged_is_there_once() {
    let directory = temp_dir();
    let mut disk = match disk(directory.path()) {
        Ok(disk) => disk,
        Err(why) => return skipped(TEST, &why),
    };
    let cuts = number_from_env("PHALANX_CUTS", 50);
    let mut rng = seeded(TEST);
    let setup = on(&disk, NodeSetup::new(directory.path()));
    let mut node = setup.start();
    let accounts = open_accounts(node.address, ACCOUNTS);
    let mut tellers = Tellers::start_on_failing_disk(TELLERS, node.address, &accounts, &mut rng);
    let mut ended = 0;
    for cut in 1..=cuts {
        tellers.progress(LEAST_COMMANDS_PER_CUT);
        wait::let_pass(Duration::from_millis(rng.random_range(0..400)));
        tellers.check();
        tellers.switch_power();
        cut_power(&[disk.path()]).expect("the power can be cut");
        match node.wait_end(Duration::from_secs(20)) {
            Some(status) => {
                assert!(!status.success(), "cut {cut}: {status}\n{}", node.log());
                ended += 1;
            }
            // It had nothing to write since, or the disk under it hangs.
            None => drop(node.kill()),
        }
        disk.unmount().expect("nobody uses the disk any more");
        disk.mount().expect("the disk comes back");
        tellers.switch_power();
        node = setup.start();
    }
    let books = tellers.stop();
    let checked = audit(node.address, &accounts, &books);
    measured(TEST, format!("{cuts} cuts, {checked:?}"));
    measured(
        "nodes that ended by themselves when their disk failed",
        ended,
    );
    assert!(
        ended * 2 > cuts,
        "a node whose writes fail must end by itself: {ended} of {cuts}"
    );
    let least = usize::try_from(cuts * LEAST_COMMANDS_PER_CUT).expect("fits");
    assert!(
        checked.promises >= least,
        "too little happened: {checked:?}"
    );
    node.kill();
}
