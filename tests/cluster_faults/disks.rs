//! One node with a disk that is slow or full.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::net::NODES;
use super::sentries::{Said, Seen};
use super::site::{Load, Moment, SHARDS, Site, assert_short, assert_within, spread};
use crate::support::fault::run;
use crate::support::http::{Http, Request};
use crate::support::scratch_disk::{LoopDisk, MemoryDisk};
use crate::support::{measured, skipped, temp_dir, wait};

/// The node whose disk it is.
const ILL: u64 = 2;
const MIB: u64 = 1024 * 1024;
const LOOP_BYTES: u64 = 1024 * MIB;
const DISK_BYTES: u64 = 192 * MIB;
const RESERVE_BYTES: u64 = 16 * MIB;
/// Writes per second of a disk that is slow; a sync needs two, so it takes near half a second.
const SLOW_WRITES: u32 = 5;
const LASTS: Duration = Duration::from_secs(4);
const PROGRESS_WITHIN: Duration = Duration::from_secs(6);
/// What raft goes on with once the disk is full to the last byte is what RocksDB has taken before.
/// A busy machine takes its time to use that up.
const ENDS_WITHIN: Duration = Duration::from_secs(180);
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// What comes about by itself, as long as a busy machine may take.
const IN_THE_END: Duration = Duration::from_secs(60);

/// Slows the writes of some processes to one device, by the first version of control groups.
#[derive(Debug)]
struct Brake {
    group: PathBuf,
    device: String,
}

impl Brake {
    const ROOT: &str = "/sys/fs/cgroup/blkio";

    fn create(device: &str) -> Result<Self, String> {
        let text = |error: std::io::Error| format!("control groups cannot slow a disk: {error}");
        let root = Path::new(Self::ROOT);
        if !root.join("cgroup.procs").exists() {
            return Err(format!("{} is not mounted", Self::ROOT));
        }
        let name = device.trim_start_matches("/dev/");
        let number = fs::read_to_string(format!("/sys/block/{name}/dev")).map_err(text)?;
        let group = root.join(format!("phx-{}", std::process::id()));
        fs::create_dir_all(&group).map_err(text)?;
        let brake = Self {
            group,
            device: number.trim().to_owned(),
        };
        brake.writes_per_second(0).map_err(text)?;
        Ok(brake)
    }

    /// 0 takes the limit away.
    fn writes_per_second(&self, count: u32) -> std::io::Result<()> {
        let file = self.group.join("blkio.throttle.write_iops_device");
        fs::write(file, format!("{} {count}", self.device))
    }

    /// What moves a process into the group and becomes it.
    fn wrapper(&self) -> [String; 4] {
        let enter = format!(
            "echo $$ > {}/cgroup.procs && exec \"$@\"",
            self.group.display()
        );
        ["sh".to_owned(), "-c".to_owned(), enter, "sh".to_owned()]
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        drop(self.writes_per_second(0));
        // Its processes may take a moment to be gone.
        wait::poll(Duration::from_secs(30), || fs::remove_dir(&self.group).ok());
    }
}

/// Makes the disk slow for a while, and holds what it costs against the time before.
fn slow_down(what: &str, site: &mut Site, load: &mut Load, brake: &Brake) {
    let all: Vec<usize> = (0..SHARDS).collect();
    let before = Instant::now();
    wait::let_pass(Duration::from_secs(1));
    let slowed = || brake.writes_per_second(SLOW_WRITES);
    let mut moments = vec![Moment::of(|| slowed().expect("the limit can be set"))];
    for _ in 0..4 {
        wait::let_pass(LASTS / 4);
        moments.push(Moment::now());
    }
    let outages: Vec<_> = moments
        .iter()
        .flat_map(|moment| site.outages(load, &all, &NODES, *moment))
        .collect();
    brake
        .writes_per_second(0)
        .expect("the limit can be taken away");
    let writes = |from: Instant, to: Instant| {
        let seen = load.sentries.since(from);
        let done = seen
            .iter()
            .filter(|s| s.began < to && s.is_write() && s.is_done());
        let mut times: Vec<Duration> = done.map(Seen::took).collect();
        times.sort_unstable();
        spread(&times)
    };
    let first = moments[0].done;
    measured(
        &format!("{what}, writes"),
        format!(
            "before {}; meanwhile {}",
            writes(before, first),
            writes(first, Instant::now())
        ),
    );
    assert_within(what, &outages, PROGRESS_WITHIN);
    load.check();
    site.mend();
}

#[test]
fn a_slow_disk_of_one_node_does_not_stop_the_others() {
    let test = "slow disk";
    let directory = temp_dir();
    let made = LoopDisk::create(directory.path(), LOOP_BYTES)
        .and_then(|disk| Brake::create(disk.device()).map(|brake| (disk, brake)));
    let (disk, brake) = match made {
        Ok(made) => made,
        Err(why) => return skipped(test, &why),
    };
    let site = Site::start_with(test, |node, setup| {
        // Who leads is the test's to say.
        let setup = setup.set("CLUSTER__BALANCE_INTERVAL_MS", 0);
        if node != ILL {
            return setup;
        }
        let setup = setup.set("JOURNAL__RESERVE_FREE_BYTES", RESERVE_BYTES);
        setup
            .data_in(&disk.path().join("data"))
            .also_wrapped_by(&brake.wrapper())
    });
    let Some(mut site) = site else {
        return;
    };
    let mut load = site.load();
    for shard in 0..SHARDS {
        site.transfer(shard, if shard % 2 == 0 { 1 } else { 3 });
    }
    slow_down("slow disk of a follower", &mut site, &mut load, &brake);
    for shard in 0..SHARDS {
        site.transfer(shard, ILL);
    }
    slow_down("slow disk of a leader", &mut site, &mut load, &brake);
    site.finish(load);
}

/// The sync of the ill node's writer that fails: long after the start, soon under load.
const FAILING_SYNC: u32 = 500;
const FAILS_WITHIN: Duration = Duration::from_secs(180);

#[test]
fn a_leader_whose_sync_fails_ends_is_replaced_and_rejoins() {
    let test = "sync error of a leader";
    let inject = format!("inject=fdatasync,fsync:error=EIO:when={FAILING_SYNC}");
    let tried = ["-f", "-o", "/dev/null", "-e", &inject, "true"];
    if let Err(why) = run("strace", &tried) {
        return skipped(test, &why);
    }
    // -D keeps the node itself as the child that is waited for.
    let tracer = [
        "strace",
        "-D",
        "-f",
        "--seccomp-bpf",
        "-qqq",
        "-o",
        "/dev/null",
    ];
    let filter = ["-e", "trace=fdatasync,fsync", "-e", &inject];
    let tracer: Vec<String> = tracer
        .iter()
        .chain(&filter)
        .map(|s| (*s).to_owned())
        .collect();
    let healthy = OnceCell::new();
    let site = Site::start_with(test, |node, setup| {
        // Who leads is the test's to say.
        let setup = setup.set("CLUSTER__BALANCE_INTERVAL_MS", 0);
        if node != ILL {
            return setup;
        }
        healthy.get_or_init(|| setup.clone());
        setup.also_wrapped_by(&tracer)
    });
    let Some(mut site) = site else {
        return;
    };
    for shard in 0..SHARDS {
        site.transfer(shard, ILL);
    }
    let mut load = site.load();
    let at = usize::try_from(ILL - 1).expect("fits");
    let mut ill = site.cluster.nodes[at].take().expect("it runs");
    let status = ill.wait_end(FAILS_WITHIN);
    let ended = Moment::now();
    let log = ill.log();
    assert_eq!(status.and_then(|status| status.code()), Some(70), "{log}");
    assert!(log.contains("Input/output error"), "{log}");
    let all: Vec<usize> = (0..SHARDS).collect();
    let outages = site.outages(&load, &all, &Site::others(ILL), ended);
    assert_short(test, &outages);
    load.check();
    site.cluster.setups[at] = healthy.into_inner().expect("it was set up");
    site.cluster.start(ILL);
    site.wait_whole();
    load.check();
    wait::let_pass(Duration::from_millis(500));
    site.finish(load);
}

/// Writes other data onto the disk until no more than this is free.
fn fill(disk: &MemoryDisk, ballast: &Path, leave: u64) {
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(ballast)
        .expect("a file can be made");
    let zeros = vec![0; 64 * 1024];
    while disk.free_bytes() > leave {
        if file.write_all(&zeros).is_err() {
            assert_eq!(leave, 0, "there is room");
            return;
        }
    }
}

/// What the node with the full disk leads, and what the others lead.
const LED: usize = 0;
const REST: [usize; 3] = [1, 2, 3];

fn site_with_small_disk(test: &str, disk: &MemoryDisk) -> Option<Site> {
    let site = Site::start_with(test, |node, setup| {
        // Who leads is the test's to say.
        let setup = setup.set("CLUSTER__BALANCE_INTERVAL_MS", 0);
        if node != ILL {
            return setup;
        }
        setup
            .data_in(&disk.path().join("data"))
            .set("JOURNAL__RESERVE_FREE_BYTES", RESERVE_BYTES)
            .set("JOURNAL__WRITE_BUFFER_BYTES", MIB)
            .set("JOURNAL__INDEX_WRITE_BUFFER_BYTES", MIB)
    })?;
    site.transfer(LED, ILL);
    for shard in REST {
        site.transfer(shard, if shard == 1 { 1 } else { 3 });
    }
    Some(site)
}

fn is_full(seen: &Seen) -> bool {
    matches!(&seen.said, Said::Refused { status: 507, .. })
}

/// Whether each node's disk is full, as a node sees it.
fn full_disks(site: &Site, at: u64) -> Option<Vec<bool>> {
    let mut http = Http::new(site.cluster.address(at));
    let view = http.try_send(&Request::get("/v1/cluster")).ok()?.json();
    let members = view["members"].as_array()?.iter();
    members
        .map(|member| member["disk_full"].as_bool())
        .collect()
}

/// The disk is full up to the reserve: what the node led goes to those who have space, and nobody can
/// give it back until there is space again.
fn hands_over_what_it_leads(site: &Site, load: &Load, disk: &MemoryDisk, ballast: &Path) {
    let filled = Moment::of(|| fill(disk, ballast, RESERVE_BYTES / 2));
    wait::until("the full node hands over", IN_THE_END, || {
        (site.leaders()[LED] != ILL).then_some(())
    });
    let handed = Moment {
        began: filled.began,
        done: Instant::now(),
    };
    let elsewhere = site.outages(load, &[LED], &NODES, handed);
    assert_within("a shard that left the full disk", &elsewhere, BACK_WITHIN);
    // The time that the hand-over took is not theirs.
    let full = Moment {
        began: filled.done,
        ..filled
    };
    let rest = site.outages(load, &REST, &NODES, full);
    assert_short("shards led elsewhere, while one disk is full", &rest);
    let back = Request::post(
        &format!("/v1/shards/{LED}/transfer"),
        format!("{{\"to\":{ILL}}}"),
    );
    let refused = Http::new(site.cluster.address(1)).send_until_answered(&back);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("no space"), "{}", refused.text());
    wait::until("a node sees whose disk is full", IN_THE_END, || {
        (full_disks(site, 1)? == [false, true, false]).then_some(())
    });
    wait::let_pass(Duration::from_secs(1));
    for seen in load.sentries.since(filled.done) {
        assert!(!is_full(&seen) || seen.shard == LED, "{seen:?}");
        assert!(!is_full(&seen) || seen.began < handed.done, "{seen:?}");
    }
    fs::remove_file(ballast).expect("the ballast goes");
    let freed = Moment::of(|| site.transfer(LED, ILL));
    let back = site.outages(load, &[LED], &NODES, freed);
    assert_within("a disk that has space again", &back, BACK_WITHIN);
    wait::until("a node sees that no disk is full", IN_THE_END, || {
        (full_disks(site, 1)? == [false; 3]).then_some(())
    });
}

/// Not even raft can write, and the others go on. If it is the log that finds no space, the process
/// ends; if it is a table, as long as the log lives on what was set aside for it, writes wait.
fn goes_without_any_space(site: &mut Site, load: &Load, disk: &MemoryDisk, ballast: &Path) {
    let filled = Instant::now();
    fill(disk, ballast, 0);
    let at = usize::try_from(ILL - 1).expect("fits");
    let mut ill = site.cluster.nodes[at].take().expect("it runs");
    let status = ill.wait_end(ENDS_WITHIN);
    let ended = Moment::now();
    if let Some(status) = status {
        assert_eq!(status.code(), Some(70), "{}", ill.log());
        measured(
            "a node without any space ends after",
            format!("{:?}", ended.done - filled),
        );
    } else {
        let log = ill.log();
        assert!(
            log.contains("no space for tables; writes wait for it"),
            "{log}"
        );
        site.cluster.nodes[at] = Some(ill);
    }
    let taken_over = site.outages(load, &[LED], &Site::others(ILL), ended);
    assert_short("a member without any space", &taken_over);
    fs::remove_file(ballast).expect("the ballast goes");
    if status.is_some() {
        site.cluster.start(ILL);
    }
    site.wait_whole();
}

#[test]
fn what_a_node_with_a_full_disk_leads_goes_to_those_with_space() {
    let test = "full disk of one node";
    let directory = temp_dir();
    let disk = match MemoryDisk::create(directory.path(), DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => return skipped(test, &why),
    };
    let Some(mut site) = site_with_small_disk(test, &disk) else {
        return;
    };
    let mut load = site.load();
    wait::let_pass(Duration::from_secs(1));
    let ballast = disk.path().join("ballast");
    hands_over_what_it_leads(&site, &load, &disk, &ballast);
    load.check();
    goes_without_any_space(&mut site, &load, &disk, &ballast);
    load.check();
    site.finish(load);
}
