//! Kill -9 of leaders under load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::fixture::{Cluster, SOON};
use super::support::audit::audit_by;
use super::support::books::Tellers;
use super::support::client;
use super::support::http::Http;
use super::support::{measured, number_from_env, seeded, temp_dir, wait};

const TELLERS: i64 = 8;
const ACCOUNTS: usize = 16;
/// The promise is 2 s, which `tests/cluster_faults` holds against a machine that keeps going; one that runs
/// other tests beside, or stands still for seconds, gets much more.
const WRITABLE_WITHIN: Duration = Duration::from_secs(30);
/// What is waited for before each kill.
const DEPOSITS_BEFORE_A_KILL: u64 = 60;

#[test]
fn killed_leaders_lose_nothing_and_are_replaced_soon() {
    let kills = number_from_env("PHALANX_CLUSTER_KILLS", 6);
    let mut rng = seeded("cluster kills");
    let directory = temp_dir();
    let mut cluster = Cluster::start_all(directory.path());
    let opened = cluster.open_accounts(ACCOUNTS);
    let accounts: Arc<[String]> = opened.iter().map(|(id, _)| id.clone()).collect();
    let mut tellers = Tellers::start_anywhere(TELLERS, &cluster.addresses(), &accounts, &mut rng);
    let mut gaps = Vec::new();
    for kill in 0..kills {
        tellers.progress(DEPOSITS_BEFORE_A_KILL);
        let (id, position) = &opened[rng.random_range(0..ACCOUNTS)];
        let victim = cluster
            .served_by(&mut cluster.anywhere(), id, position)
            .node;
        wait::let_pass(Duration::from_millis(rng.random_range(100..600)));
        cluster.kill(victim);
        gaps.push(writable_after(&cluster, victim, id, kill));
        cluster.start(victim);
        let mut back = cluster.nodes[usize::try_from(victim - 1).expect("fits")]
            .take()
            .expect("it was started");
        caught_up(&cluster, victim, &mut back);
        cluster.nodes[usize::try_from(victim - 1).expect("fits")] = Some(back);
        tellers.check();
    }
    let books = tellers.stop();
    let checked = audit_by(cluster.anywhere(), &accounts, &books);
    gaps.sort_unstable();
    let (least, most) = (gaps[0], gaps[gaps.len() - 1]);
    let median = gaps[gaps.len() / 2];
    measured(
        "cluster kills",
        format!("{kills}, writable after {least:?} / {median:?} / {most:?} (least, median, most)"),
    );
    measured("cluster kills, audit", format!("{checked:?}"));
    assert!(most < WRITABLE_WITHIN, "{gaps:?}");
    assert!(
        checked.promises > 50 * usize::try_from(kills).expect("fits"),
        "too little happened: {checked:?}"
    );
}

/// The time until the other two store a command for a shard whose leader has just been killed.
fn writable_after(cluster: &Cluster, victim: u64, id: &str, kill: u64) -> Duration {
    let died = Instant::now();
    let others: Vec<_> = (1..=3)
        .filter(|node| *node != victim)
        .map(|node| cluster.address(node))
        .collect();
    let mut http = Http::anywhere(&others).patient_for(Duration::from_secs(2));
    // An overdraft is decided and refused, which needs a leader as much, and moves no money.
    let request = client::overdraw(id).key(&format!("probe-{kill}"));
    wait::until("the shard is writable again", SOON, || {
        let response = http.try_send(&request).ok()?;
        (response.status == 422).then_some(())
    });
    died.elapsed()
}

/// Waits until a node that came back hears from the leaders, so that the next kill leaves two.
fn caught_up(cluster: &Cluster, victim: u64, back: &mut super::support::node::Node) {
    wait::until("the node that came back answers", SOON, || {
        assert_eq!(back.status(), None, "it ended:\n{}", back.log());
        let mut http = Http::new(cluster.address(victim));
        http.try_send(&super::support::http::Request::get("/livez"))
            .ok()
    });
    // One lease, for the votes that it owes to the leaders of before, and a moment to catch up.
    wait::let_pass(Duration::from_millis(1_000));
}
