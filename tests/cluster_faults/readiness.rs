//! What `/readyz` says while nodes are cut off, die and are restarted: a node that can do nothing says
//! so, and nobody else does, for whoever sends traffic by it would have nowhere to send it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::net::{Harm, NODES};
use super::site::Site;
use crate::fixture::SOON;
use crate::support::http::{Http, Request};
use crate::support::{measured, skipped, wait};

const PACE: Duration = Duration::from_millis(40);
/// Two seconds until a silent connection is given up, two election timeouts on top, and what a busy
/// machine takes.
const SAID_WITHIN: Duration = Duration::from_secs(20);
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// Asks one node again and again.
#[derive(Debug)]
struct Probe {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Vec<(Instant, u16)>>,
}

impl Probe {
    fn start(site: &Site, node: u64) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (told, address) = (Arc::clone(&stop), site.cluster.address(node));
        let asking = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !told.load(Ordering::Acquire) {
                let mut http = Http::new(address).patient_for(Duration::from_secs(3));
                let began = Instant::now();
                let answer = http.try_send(&Request::get("/readyz"));
                seen.push((began, answer.map_or(0, |answer| answer.status)));
                wait::let_pass(PACE);
            }
            seen
        });
        Self { stop, asking }
    }

    /// The statuses since then, without repeats; 0 for no answer.
    fn stop(self, since: Instant) -> Vec<u16> {
        self.stop.store(true, Ordering::Release);
        let seen = self.asking.join().expect("the probe does not panic");
        let counted = seen.into_iter().filter(|(began, _)| *began >= since);
        let mut statuses: Vec<u16> = counted.map(|(_, status)| status).collect();
        assert!(statuses.len() > 10, "it was asked: {statuses:?}");
        statuses.dedup();
        statuses
    }
}

fn readiness(site: &Site, node: u64) -> Option<u16> {
    let mut http = Http::new(site.cluster.address(node)).patient_for(Duration::from_secs(3));
    Some(http.try_send(&Request::get("/readyz")).ok()?.status)
}

/// Waits for a status and gives the time that it took.
fn wait_says(site: &Site, node: u64, status: u16, within: Duration) -> Duration {
    let began = Instant::now();
    let said = wait::poll(within, || {
        (readiness(site, node) == Some(status)).then_some(())
    });
    assert!(
        said.is_some(),
        "node {node} does not say {status}\n{}",
        site.logs()
    );
    began.elapsed()
}

#[test]
fn a_node_that_is_cut_off_is_not_ready_and_the_others_are_all_the_while() {
    let Some(mut site) = Site::start("readiness of a node that is cut off") else {
        return;
    };
    // One that leads finds out by its followers, one that leads nothing by its connections.
    for leads in [true, false] {
        let (busiest, _) = site.busiest();
        let victim = if leads {
            busiest
        } else {
            Site::others(busiest)[0]
        };
        if !leads {
            wait::until("a node is drained", SOON, || {
                let drain = Request::new("POST", &format!("/v1/nodes/{victim}/drain"));
                let mut http = Http::new(site.cluster.address(victim));
                let drained = http.send_until_answered(&drain);
                (drained.json()["kept"] == serde_json::json!([])).then_some(())
            });
        }
        let began = Instant::now();
        let others = Site::others(victim);
        let probes: Vec<(u64, Probe)> = others
            .iter()
            .map(|node| (*node, Probe::start(&site, *node)))
            .collect();
        let own = Probe::start(&site, victim);
        wait::let_pass(Duration::from_millis(500));
        site.net.harm(&Site::ways_of(victim), Harm::Cut);
        let unready = wait_says(&site, victim, 503, SAID_WITHIN);
        wait::let_pass(Duration::from_secs(2));
        site.net.mend();
        let ready = wait_says(&site, victim, 200, BACK_WITHIN);
        wait::let_pass(Duration::from_secs(2));
        let what = if leads { "leads" } else { "follows" };
        measured(
            &format!("a node that {what} is cut off"),
            format!("not ready after {unready:?}, ready {ready:?} after the end"),
        );
        let own = own.stop(began);
        let others = probes.into_iter().map(|(_, probe)| probe.stop(began));
        let others: Vec<Vec<u16>> = others.collect();
        if !site.calm.held(began, Instant::now()) {
            // Leases run out meanwhile and connections are given up, by all of them.
            skipped("readiness, all the while", "the machine stood still");
            continue;
        }
        assert_eq!(own, [200, 503, 200], "the node that was cut off");
        assert_eq!(others, [[200], [200]], "they reach a majority");
    }
}

#[test]
fn the_others_stay_ready_while_one_dies_or_is_restarted() {
    let Some(mut site) = Site::start("readiness of the others") else {
        return;
    };
    for orderly in [false, true] {
        for victim in NODES {
            site.wait_whole();
            let began = Instant::now();
            let probes: Vec<(u64, Probe)> = Site::others(victim)
                .into_iter()
                .map(|node| (node, Probe::start(&site, node)))
                .collect();
            wait::let_pass(Duration::from_millis(300));
            if orderly {
                let at = usize::try_from(victim - 1).expect("fits");
                let mut stopped = site.cluster.nodes[at].take().expect("the node runs");
                stopped.stop();
            } else {
                site.cluster.kill(victim);
                wait::let_pass(Duration::from_secs(2));
            }
            site.cluster.start(victim);
            wait_says(&site, victim, 200, SOON);
            wait::let_pass(Duration::from_millis(500));
            let calm = site.calm.held(began, Instant::now());
            for (node, probe) in probes {
                let said = probe.stop(began);
                if !calm {
                    skipped("readiness of the others", "the machine stood still");
                    continue;
                }
                assert_eq!(
                    said,
                    [200],
                    "node {node}, {victim} orderly: {orderly}\n{}",
                    site.logs()
                );
            }
        }
    }
}
