//! The power of three nodes fails at the same moment, so that no copy anywhere keeps what was not
//! synced, while tellers write through all of them and retry with the same keys.
//!
//! Owns the cluster, its disks and the cuts. Refuses a run in which too little was acknowledged
//! between two cuts, or in which the disks kept what nobody had synced. Invariant: the nodes are gone
//! before their disks are.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng as _;
use tempfile::TempDir;

use crate::fixture::Cluster;
use crate::support::audit::audit_by;
use crate::support::books::Tellers;
use crate::support::fault::cut_power;
use crate::support::node::NodeSetup;
use crate::support::scratch_disk::LoopDisk;
use crate::support::{measured, number_from_env, seeded, skipped, temp_dir, wait};

const TEST: &str = "power cuts of a whole cluster";
const SHARDS: usize = 4;
const TELLERS: i64 = 8;
const ACCOUNTS: usize = 16;
/// Between two requests of a teller.
const PACE: Duration = Duration::from_millis(2);
/// With fewer answers to tellers since the start before it, a cut meets a cluster that does nothing.
const LEAST_COMMANDS_PER_CUT: u64 = 100;
/// After each cut of this number the power fails once more while the nodes start.
const TWICE_EVERY: u64 = 3;
/// For an election and what is left of the leases before, with room for a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Three members, each on a disk of its own. Fields are dropped in this order.
struct Site {
    cluster: Cluster,
    disks: Vec<LoopDisk>,
    _directory: TempDir,
    cuts: usize,
    /// How often a disk forgot what was not synced.
    forgot: usize,
}

impl Site {
    /// Members that are not started yet, or why there can be none.
    fn create() -> Result<Self, String> {
        let directory = temp_dir();
        let mut cluster = Cluster::new(directory.path());
        let mut disks = Vec::new();
        for (id, setup) in (1..).zip(&mut cluster.setups) {
            let disk = crate::disk(&directory.path().join(format!("node-{id}")))?;
            *setup = crate::on(&disk, setup.clone()).set("CLUSTER__SHARDS", SHARDS);
            disks.push(disk);
        }
        Ok(Self {
            cluster,
            disks,
            _directory: directory,
            cuts: 0,
            forgot: 0,
        })
    }

    fn spawn(&mut self) {
        let nodes = self.cluster.setups.iter().map(NodeSetup::spawn);
        self.cluster.nodes = nodes.map(Some).collect();
    }

    /// Waits until every node is ready.
    fn wait_ready(&mut self) {
        for at in 0..self.cluster.nodes.len() {
            let node = self.cluster.nodes[at].as_mut().expect("it was started");
            if let Err(why) = node.wait_ready(READY_WITHIN) {
                let logs = self.cluster.logs();
                panic!("after {} cuts, node {}: {why:?}\n{logs}", self.cuts, at + 1);
            }
        }
    }

    /// Cuts the power of all, and gives it back when no process is left.
    fn cut(&mut self, tellers: &Tellers) {
        self.cuts += 1;
        // Written just before: a disk on which this is found afterwards lost nothing.
        let unsynced = format!("unsynced-{}", self.cuts);
        let paths: Vec<_> = self.disks.iter().map(LoopDisk::path).collect();
        for path in &paths {
            fs::write(path.join(&unsynced), "nobody syncs this").expect("a disk takes a file");
        }
        tellers.switch_power();
        cut_power(&paths).expect("the power can be cut");
        for node in &mut self.cluster.nodes {
            node.take().expect("it was started").kill();
        }
        for disk in &mut self.disks {
            disk.unmount().expect("nobody uses the disk any more");
            disk.mount().expect("the disk comes back");
            // What the name points to is lost even if the name itself was synced with something else.
            let kept = fs::read(disk.path().join(&unsynced)).unwrap_or_default();
            self.forgot += usize::from(kept.is_empty());
        }
        tellers.switch_power();
    }
}

#[test]
fn after_a_power_cut_of_all_nodes_everything_acknowledged_is_there_once() {
    let mut site = match Site::create() {
        Ok(site) => site,
        Err(why) => return skipped(TEST, &why),
    };
    let cuts = number_from_env("PHALANX_CLUSTER_CUTS", 8);
    let mut rng = seeded(TEST);
    let began = Instant::now();
    site.spawn();
    site.wait_ready();
    let opened = site.cluster.open_accounts(ACCOUNTS);
    let accounts: Arc<[String]> = opened.into_iter().map(|(id, _)| id).collect();
    let addresses = site.cluster.addresses();
    let mut tellers = Tellers::start_everywhere(TELLERS, &addresses, &accounts, PACE, &mut rng);
    for cut in 1..=cuts {
        tellers.progress(LEAST_COMMANDS_PER_CUT);
        wait::let_pass(Duration::from_millis(rng.random_range(0..400)));
        tellers.check();
        site.cut(&tellers);
        site.spawn();
        if cut % TWICE_EVERY == 0 {
            wait::let_pass(Duration::from_millis(rng.random_range(0..1_500)));
            site.cut(&tellers);
            site.spawn();
        }
        site.wait_ready();
    }
    tellers.progress(LEAST_COMMANDS_PER_CUT);
    let books = tellers.stop();
    site.cluster.wait_same_logs();
    let checked = audit_by(site.cluster.anywhere(), &accounts, &books);
    site.cluster.assert_copies_agree(SHARDS, accounts.iter());
    let (all, forgot, lasted) = (site.cuts, site.forgot, began.elapsed());
    measured(TEST, format!("{all} in {lasted:.0?}, {checked:?}"));
    measured("disks that forgot what was not synced", forgot);
    let disks = all * site.disks.len();
    assert!(
        forgot * 2 > disks,
        "the power was not really cut: {forgot} of {disks} disks lost something"
    );
    // What was answered to a teller may have been a rejection as well.
    let least = usize::try_from(cuts * LEAST_COMMANDS_PER_CUT / 2).expect("fits");
    assert!(
        checked.promises >= least && checked.replays > 0,
        "too little happened: {checked:?}"
    );
}
