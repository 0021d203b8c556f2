//! A node with damaged copies repairs itself: three real processes, clients at work, and bits that flip
//! in the files of one of them, before it starts or while it runs. It says what is damaged, is given new
//! copies by the others, and is as good as before, without a hand being laid on it. Nothing that was
//! acknowledged is lost, no byte is told that was never written, and its read models go on where they were.
//!
//! And the ways in which that could go wrong: the node dies in the midst of it, at each step; and it must
//! not throw anything away while the others are no majority.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

#[expect(dead_code, reason = "the tests of replication use the rest")]
#[path = "cluster/fixture.rs"]
mod fixture;

#[path = "cluster/copies.rs"]
mod copies;

#[path = "views/reading.rs"]
mod reading;

#[path = "cluster_repairs/blobs.rs"]
mod blobs;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blobs::{Row, damage};
use fixture::Cluster;
use rand::rngs::StdRng;
use serde_json::Value;
use support::audit::audit_by;
use support::books::Tellers;
use support::client;
use support::http::{Http, Request};
use support::node::was_killed;
use support::{measured, seeded, temp_dir, wait};

const SHARDS: usize = 4;
const ACCOUNTS: usize = 12;
const TELLERS: i64 = 3;
/// The promise is 60 s; a machine that runs other tests beside gets some more.
const REPAIRED_WITHIN: Duration = Duration::from_secs(120);
/// The node whose files are damaged.
const ILL: u64 = 3;
/// An account that no teller uses, with old events.
const QUIET: &str = "quiet-account";

/// A cluster under load.
struct Site {
    cluster: Cluster,
    accounts: Arc<[String]>,
    tellers: Tellers,
}

impl Site {
    /// With some events in every shard, old ones and new ones.
    fn start(directory: &Path, rng: &mut StdRng) -> Self {
        let cluster = Cluster::start_all(directory);
        for node in 1..=3 {
            cluster.wait_ready(node);
        }
        let mut http = cluster.anywhere();
        client::store(&mut http, &client::open(QUIET));
        for amount in 1..=5 {
            client::store(&mut http, &client::deposit(QUIET, amount));
        }
        let opened = cluster.open_accounts(ACCOUNTS);
        let accounts: Arc<[String]> = opened.into_iter().map(|(id, _)| id).collect();
        let pace = Duration::from_millis(4);
        let addresses = cluster.addresses();
        let mut tellers =
            Tellers::start_on_damaged_files(TELLERS, &addresses, &accounts, pace, rng);
        tellers.progress(400);
        Self {
            cluster,
            accounts,
            tellers,
        }
    }

    /// Stops the node in the orderly way, which puts all that it has into files.
    fn stop_ill(&mut self) {
        let mut node = self.cluster.nodes[2].take().expect("the node runs");
        node.stop();
    }

    /// Waits until the node counts in every shard again and has served its part of the log, for so many
    /// repairs.
    fn wait_repaired(&mut self, repairs: u32, since: Instant) {
        let mut last = String::new();
        let repaired = wait::poll(REPAIRED_WITHIN, || {
            let seen = self.cluster.shards(1)?;
            let mut http = Http::new(self.cluster.address(ILL));
            let ready = http.try_send(&Request::get("/readyz")).ok()?.status == 200;
            let node = self.cluster.node(ILL);
            let done = node.metric("phalanx_replica_repairs_total").unwrap_or(0.0);
            last = format!("ready: {ready}, {done} repairs, {seen:?}");
            let whole = |shard: &Value| shard["voters"] == serde_json::json!([1, 2, 3]);
            (ready && done >= f64::from(repairs) && seen.iter().all(whole)).then_some(())
        });
        assert!(repaired.is_some(), "{last}\n{}", self.cluster.logs());
        measured(
            "a replica was repaired within",
            format!("{:?}", since.elapsed()),
        );
    }

    /// Everything that was promised is there, on each of the nodes.
    fn audit(mut self) {
        self.tellers.progress(200);
        let books = self.tellers.stop();
        let checked = audit_by(self.cluster.anywhere(), &self.accounts, &books);
        assert!(checked.promises > 400, "too little happened: {checked:?}");
        self.cluster.wait_same_logs();
        let quiet = [QUIET.to_owned()];
        let told = self.accounts.iter().chain(&quiet);
        self.cluster.assert_copies_agree(SHARDS, told);
        // Read models of the node went on where they were.
        let all: Vec<String> = self.accounts.iter().chain(&quiet).cloned().collect();
        let histories = reading::histories(&mut self.cluster.anywhere(), &all);
        let mut http = Http::new(self.cluster.address(ILL));
        reading::check_accounts(&mut http, &histories);
        let log = self.cluster.node(ILL).log();
        assert!(!log.contains("building them again"), "{log}");
        assert_eq!(client::balances(&histories[QUIET]).last(), Some(&15));
    }
}

/// The shard of the quiet account, and which of its rows lie in these files.
fn quiet_rows(rows: &[Row]) -> (u32, Vec<Row>) {
    let found: Vec<Row> = rows
        .iter()
        .filter(|row| row.mentions(QUIET))
        .cloned()
        .collect();
    let first = found.first().expect("the quiet account has rows");
    (first.shard, found)
}

/// The newest row of a shard: damage to it is found at the start.
fn newest(rows: &[Row], shard: u32) -> Row {
    let of_shard = rows.iter().filter(|row| row.shard == shard);
    let newest = of_shard.max_by_key(|row| (row.index, row.slot));
    newest.expect("the shard has rows").clone()
}

/// Whether a node says that it refuses this shard because it is damaged.
fn refuses(cluster: &Cluster, shard: u32) -> bool {
    let mut http = Http::new(cluster.address(ILL));
    let Ok(answer) = http.try_send(&Request::get("/readyz?verbose")) else {
        return false;
    };
    let named = format!("\"shard {shard}\"");
    answer.status == 503 && answer.text().contains("damaged") && answer.text().contains(&named)
}

#[test]
fn a_copy_that_is_found_damaged_at_the_start_is_built_again() {
    let directory = temp_dir();
    let mut site = Site::start(directory.path(), &mut seeded("repairs at the start"));
    site.stop_ill();
    site.tellers.progress(200);
    let data = site.cluster.setups[2].data_dir.clone();
    let rows = blobs::rows(&data);
    damage(&newest(&rows, 1));
    let since = Instant::now();
    site.cluster.start(ILL);
    site.cluster
        .wait_log(ILL, "the shard is not served any more");
    site.cluster.wait_log(ILL, "the copy is damaged");
    site.wait_repaired(1, since);
    site.cluster.wait_log(ILL, "the copy is whole again");
    site.audit();
}

#[test]
fn copies_of_all_shards_that_are_damaged_at_once_are_built_again() {
    let directory = temp_dir();
    let mut site = Site::start(directory.path(), &mut seeded("repairs of all shards"));
    site.stop_ill();
    site.tellers.progress(200);
    let rows = blobs::rows(&site.cluster.setups[2].data_dir);
    for shard in 0..4 {
        damage(&newest(&rows, shard));
    }
    let since = Instant::now();
    site.cluster.start(ILL);
    site.wait_repaired(4, since);
    site.audit();
}

#[test]
fn a_leader_that_comes_upon_damage_steps_down_and_its_copy_is_built_again() {
    let directory = temp_dir();
    let mut site = Site::start(directory.path(), &mut seeded("repairs of a leader"));
    site.stop_ill();
    site.cluster.start(ILL);
    site.cluster.wait_ready(ILL);
    let rows = blobs::rows(&site.cluster.setups[2].data_dir);
    let (shard, quiet) = quiet_rows(&rows);
    site.cluster
        .transfer(usize::try_from(shard).expect("fits"), ILL);
    // The node runs, leads the shard, and has not looked at these rows for long.
    for row in &quiet {
        damage(row);
    }
    let since = Instant::now();
    let history = format!("{}/events", client::account_target(QUIET));
    let mut http = Http::new(site.cluster.address(ILL));
    wait::until("a leader comes upon the damage", REPAIRED_WITHIN, || {
        let told = http.try_send(&Request::get(&history)).ok()?;
        // The next leader tells it, or it is to be asked for again.
        let text = told.text();
        match told.status {
            200 => assert!(text.contains("AccountOpened"), "{text}"),
            504 => {}
            status => {
                assert_eq!(status, 503, "{text}");
                assert!(told.header("retry-after").is_some(), "{text}");
            }
        }
        let log = site.cluster.node(ILL).log();
        let found = log.contains("the shard is not served any more");
        if !found {
            // Another one leads by now: whoever balances leaders may move one at any time.
            site.cluster
                .try_transfer(usize::try_from(shard).expect("fits"), ILL);
        }
        found.then_some(())
    });
    site.wait_repaired(1, since);
    site.audit();
}

#[test]
fn killed_at_each_step_of_a_repair_it_goes_on_at_the_next_start() {
    let steps = [
        "journal::discard_marked",
        "journal::discard_written",
        "journal::discard_synced",
        "journal::discard_done",
    ];
    if !cfg!(feature = "failpoints") {
        support::skipped(
            "killed at each step of a repair",
            "there are no crash points",
        );
        return;
    }
    let directory = temp_dir();
    let mut site = Site::start(directory.path(), &mut seeded("kills in repairs"));
    for step in steps {
        site.stop_ill();
        let rows = blobs::rows(&site.cluster.setups[2].data_dir);
        damage(&newest(&rows, 2));
        let setup = site.cluster.setups[2].clone();
        let action = format!("{step}=return");
        let mut node = setup.variable("FAILPOINTS", &action).spawn();
        let status = node.wait_end(REPAIRED_WITHIN);
        assert!(
            status.is_some_and(was_killed),
            "{step}: {status:?}\n{}",
            node.log()
        );
        let since = Instant::now();
        site.cluster.start(ILL);
        let blank = step == "journal::discard_done";
        site.wait_repaired(u32::from(!blank), since);
        let log = site.cluster.node(ILL).log();
        assert_eq!(
            log.contains("it was being thrown away"),
            !blank,
            "{step}:\n{log}"
        );
        site.tellers.check();
    }
    site.audit();
}

#[test]
fn nothing_is_thrown_away_while_the_others_are_no_majority() {
    let directory = temp_dir();
    let mut site = Site::start(directory.path(), &mut seeded("no majority for a repair"));
    site.stop_ill();
    site.tellers.progress(100);
    let rows = blobs::rows(&site.cluster.setups[2].data_dir);
    damage(&newest(&rows, 0));
    site.cluster.kill(2);
    site.cluster.start(ILL);
    site.cluster.wait_log(ILL, "the copy is damaged");
    // As long as a repair takes otherwise.
    wait::let_pass(Duration::from_secs(15));
    let refused = wait::poll(fixture::SOON, || refuses(&site.cluster, 0).then_some(()));
    assert!(refused.is_some(), "{}", site.cluster.node(ILL).log());
    let log = site.cluster.node(ILL).log();
    assert!(!log.contains("is thrown away;"), "{log}");
    let since = Instant::now();
    site.cluster.start(2);
    site.wait_repaired(1, since);
    site.audit();
}
