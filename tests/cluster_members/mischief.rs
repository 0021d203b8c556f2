//! Everything at once: nodes die, stand still, are restarted, drained, added and removed, and leaders are
//! moved, in no order, while tellers write through whichever node they come upon.
//!
//! Owns what is done and what is still to be mended. Refuses to have more than one node out of service
//! for itself, so that the cluster has a majority and tellers get on; now and then all die together.
//! Invariant: a process is ended for good only once its node is no member any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::{Cluster, SOON};
use crate::support::audit::audit_by;
use crate::support::books::Tellers;
use crate::support::http::{Http, Request};
use crate::support::node::Node;
use crate::support::{measured, number_from_env, ports, seeded, temp_dir, wait};
use crate::{CHANGE, SHARDS, everything, newcomer_setup, start_newcomer, three};

const TELLERS: i64 = 6;
const ACCOUNTS: usize = 16;
/// Between two requests of a teller: the nodes need some of the processors themselves.
const PACE: Duration = Duration::from_millis(2);
/// With fewer answers to tellers between two harms, they meet a cluster that does nothing.
const LEAST_BETWEEN: u64 = 10;
const FEWEST_MEMBERS: usize = 3;
const MOST_MEMBERS: usize = 5;

/// What can be done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    Kill,
    KillAll,
    Freeze,
    Restart,
    Drain,
    Move,
    Join,
    Leave,
}

/// Each with how often it is chosen.
const HARMS: [(Harm, u32); 8] = [
    (Harm::Kill, 6),
    (Harm::KillAll, 1),
    (Harm::Freeze, 5),
    (Harm::Restart, 3),
    (Harm::Drain, 3),
    (Harm::Move, 4),
    (Harm::Join, 3),
    (Harm::Leave, 3),
];

/// Nodes with their harms.
struct Site {
    cluster: Cluster,
    directory: TempDir,
    /// Where clients find each node, also those that are still to come.
    doors: Vec<SocketAddr>,
    members: BTreeSet<u64>,
    /// The node that was asked to leave.
    leaving: Option<u64>,
    dead: Option<u64>,
    frozen: Option<u64>,
    drained: BTreeSet<u64>,
    done: BTreeMap<Harm, u32>,
}

impl Site {
    /// Three members, with doors for so many that may join.
    fn start(newcomers: usize) -> Self {
        let directory = temp_dir();
        let cluster = three(directory.path());
        let later = (0..newcomers).map(|_| ports::free_address());
        let doors = cluster.addresses().into_iter().chain(later).collect();
        Self {
            cluster,
            directory,
            doors,
            members: BTreeSet::from([1, 2, 3]),
            leaving: None,
            dead: None,
            frozen: None,
            drained: BTreeSet::new(),
            done: BTreeMap::new(),
        }
    }

    /// A member that runs.
    fn any(&self, rng: &mut StdRng) -> u64 {
        let running = self.members.iter().filter(|id| self.runs(**id));
        let running: Vec<u64> = running.copied().collect();
        *running.choose(rng).expect("at most one is out of service")
    }

    fn runs(&self, node: u64) -> bool {
        self.dead != Some(node) && self.frozen != Some(node)
    }

    fn process(&mut self, node: u64) -> &mut Option<Node> {
        let at = usize::try_from(node - 1).expect("fits");
        &mut self.cluster.nodes[at]
    }

    /// What one of the running members answers, when it answers at all.
    fn ask(&self, rng: &mut StdRng, request: &Request) -> Option<(u16, Value)> {
        let mut http = Http::new(self.cluster.address(self.any(rng)));
        let answer = http.try_send(request).ok()?;
        Some((answer.status, answer.json()))
    }

    /// Does a harm if it can be done now.
    fn harm(&mut self, harm: Harm, rng: &mut StdRng) {
        let node = self.any(rng);
        let whole = self.dead.is_none() && self.frozen.is_none();
        let done = match harm {
            Harm::Kill if whole => {
                self.cluster.kill(node);
                self.dead = Some(node);
                true
            }
            Harm::KillAll if whole => {
                let all = self.members.clone();
                all.iter().for_each(|node| self.cluster.kill(*node));
                all.iter().for_each(|node| self.cluster.start(*node));
                true
            }
            Harm::Freeze if whole => {
                self.cluster.node(node).freeze();
                self.frozen = Some(node);
                true
            }
            Harm::Restart if whole => {
                let mut stopped = self.process(node).take().expect("it runs");
                stopped.terminate();
                let ended = stopped.wait_end(SOON).and_then(|status| status.code());
                // With 1 if it could not hand over in time what it leads.
                let orderly = matches!(ended, Some(0 | 1));
                assert!(orderly, "after SIGTERM: {ended:?}\n{}", stopped.log());
                self.cluster.start(node);
                true
            }
            Harm::Drain => {
                let drain = Request::post(&format!("/v1/nodes/{node}/drain"), "");
                self.drained.insert(node);
                self.ask(rng, &drain).is_some()
            }
            Harm::Move => {
                let members: Vec<u64> = self.members.iter().copied().collect();
                let to = *members.choose(rng).expect("there are members");
                let shard = rng.random_range(0..SHARDS);
                let body = json!({"to": to}).to_string();
                let transfer = Request::post(&format!("/v1/shards/{shard}/transfer"), body);
                matches!(self.ask(rng, &transfer), Some((200, _)))
            }
            Harm::Join if self.members.len() < MOST_MEMBERS => self.join(rng),
            Harm::Leave if self.leaving.is_none() && self.members.len() > FEWEST_MEMBERS => {
                let leave = Request::new("DELETE", &format!("/v1/nodes/{node}"));
                let asked = matches!(self.ask(rng, &leave), Some((200 | 202, _)));
                self.leaving = asked.then_some(node);
                asked
            }
            Harm::Kill
            | Harm::KillAll
            | Harm::Freeze
            | Harm::Restart
            | Harm::Join
            | Harm::Leave => false,
        };
        *self.done.entry(harm).or_default() += u32::from(done);
    }

    /// Lets one more node join, if there is a door left for it.
    fn join(&mut self, rng: &mut StdRng) -> bool {
        let Some(door) = self.doors.get(self.cluster.setups.len()) else {
            return false;
        };
        let door = *door;
        let known: Vec<u64> = self.members.iter().copied().collect();
        let (id, mut setup) = newcomer_setup(&self.cluster, self.directory.path(), &known);
        setup.address = door;
        let address = setup.cluster_address;
        start_newcomer(&mut self.cluster, id, setup);
        let body = json!({"id": id, "address": address.to_string()}).to_string();
        let join = Request::post("/v1/nodes", body);
        // Until somebody took note of it: from then on the cluster goes on by itself.
        wait::until("a node is added", CHANGE, || {
            matches!(self.ask(rng, &join), Some((200 | 202, _))).then_some(())
        });
        self.members.insert(id);
        true
    }

    /// Takes back what was done to single nodes.
    fn mend(&mut self, rng: &mut StdRng) {
        if let Some(node) = self.dead.take() {
            self.cluster.start(node);
        }
        if let Some(node) = self.frozen.take() {
            self.cluster.node(node).signal(Signal::CONT);
        }
        let drained = std::mem::take(&mut self.drained);
        for node in drained {
            let undrain = Request::new("DELETE", &format!("/v1/nodes/{node}/drain"));
            // A member that leaves cannot be brought back, and one that is gone is unknown.
            let over = matches!(self.ask(rng, &undrain), Some((200 | 404 | 409, _)));
            if !over {
                self.drained.insert(node);
            }
        }
    }

    /// Ends the process of a member that has left. Whether none is on its way out.
    fn see_off(&mut self, rng: &mut StdRng) -> bool {
        let Some(node) = self.leaving else {
            return true;
        };
        let leave = Request::new("DELETE", &format!("/v1/nodes/{node}"));
        let gone =
            matches!(self.ask(rng, &leave), Some((200, said)) if said["standing"] == "removed");
        if gone {
            self.members.remove(&node);
            self.leaving = None;
            self.dead = self.dead.filter(|dead| *dead != node);
            self.frozen = self.frozen.filter(|frozen| *frozen != node);
            // Also if it stands still.
            if let Some(mut process) = self.process(node).take() {
                process.kill();
            }
        }
        gone
    }

    /// No node ends by itself, whatever is done to others.
    fn assert_alive(&mut self) {
        // Who was killed has no process.
        for process in self.cluster.nodes.iter_mut().flatten() {
            let ended = process.status();
            assert!(ended.is_none(), "{ended:?}\n{}", process.log());
        }
    }

    /// Mends everything, and waits until changes of the members have ended and each member is ready.
    fn wait_whole(&mut self, rng: &mut StdRng) {
        let settled = wait::poll(CHANGE, || {
            self.mend(rng);
            (self.drained.is_empty() && self.see_off(rng)).then_some(())
        });
        assert!(settled.is_some(), "{}", everything(&self.cluster));
        for node in &self.members {
            self.cluster.wait_ready(*node);
        }
    }
}

fn choose(rng: &mut StdRng) -> Harm {
    let chosen = HARMS.choose_weighted(rng, |(_, weight)| *weight);
    chosen.expect("the weights are right").0
}

#[test]
fn whatever_happens_in_whatever_order_every_promise_is_kept() {
    let mut rng = seeded("mischief of every kind");
    let harms = number_from_env("PHALANX_MISCHIEF", 30);
    // Some more than are likely to be needed.
    let newcomers = usize::try_from(harms / 6 + 2).expect("fits");
    let mut site = Site::start(newcomers);
    let opened = site.cluster.open_accounts(ACCOUNTS);
    let accounts: Arc<[String]> = opened.into_iter().map(|(id, _)| id).collect();
    let mut tellers = Tellers::start_everywhere(TELLERS, &site.doors, &accounts, PACE, &mut rng);
    for _ in 0..harms {
        tellers.progress(LEAST_BETWEEN);
        site.harm(choose(&mut rng), &mut rng);
        wait::let_pass(Duration::from_millis(rng.random_range(0..1_500)));
        site.assert_alive();
        site.see_off(&mut rng);
        if rng.random_bool(0.6) {
            site.mend(&mut rng);
        }
    }
    site.wait_whole(&mut rng);
    site.assert_alive();
    tellers.progress(LEAST_BETWEEN);
    let books = tellers.stop();
    let mut checked = None;
    for node in &site.members {
        let http = Http::new(site.cluster.address(*node)).patient_for(Duration::from_secs(60));
        checked = Some(audit_by(http, &accounts, &books));
    }
    measured(
        "mischief of every kind",
        format!(
            "{:?}, members in the end {:?}: {checked:?}",
            site.done, site.members
        ),
    );
    let done: u32 = site.done.values().sum();
    assert!(
        u64::from(done) * 3 >= harms,
        "too little was done: {:?}",
        site.done
    );
}
