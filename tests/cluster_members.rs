//! Members come, go and are replaced while clients pay money in: real processes, asked over HTTP and
//! by the command line.
//!
//! After each change every acknowledged deposit is there exactly once, every shard has its copies on
//! members only, and the loads of the members differ by at most one.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

#[expect(dead_code, reason = "the tests of replication use the rest")]
#[path = "cluster/fixture.rs"]
mod fixture;

#[expect(dead_code, reason = "the tests of routing use the rest")]
#[path = "cluster_routing/load.rs"]
mod load;

#[path = "cluster_members/join.rs"]
mod join;

#[path = "cluster_members/leave.rs"]
mod leave;

#[path = "cluster_members/mischief.rs"]
mod mischief;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use fixture::Cluster;
use support::http::{Http, Request};
use support::node::{BINARY, NodeSetup};
use support::{ports, wait};

/// For a change of the members, with room for a busy machine.
const CHANGE: Duration = Duration::from_secs(90);
const SHARDS: usize = 8;
const CLIENTS: i64 = 4;
const ACCOUNTS: usize = 12;

/// Three nodes that say they are ready.
fn three(directory: &Path) -> Cluster {
    let mut cluster = Cluster::new(directory);
    cluster.set_up(|setup| load::patient(setup).set("CLUSTER__SHARDS", SHARDS));
    cluster.start_ready();
    cluster
}

/// One more node that knows two members and waits; gives its id and its address for members.
fn newcomer(cluster: &mut Cluster, directory: &Path) -> (u64, SocketAddr) {
    let (id, setup) = newcomer_setup(cluster, directory, &[1, 2]);
    let address = setup.cluster_address;
    start_newcomer(cluster, id, setup);
    (id, address)
}

/// How one more node is set up that knows these members; gives its id as well.
fn newcomer_setup(cluster: &Cluster, directory: &Path, known: &[u64]) -> (u64, NodeSetup) {
    let id = u64::try_from(cluster.setups.len()).expect("fits") + 1;
    let known = known.iter().map(|node| {
        let at = usize::try_from(node - 1).expect("fits");
        (*node, cluster.setups[at].cluster_address)
    });
    let itself = (id, ports::free_address());
    let members: Vec<(u64, SocketAddr)> = known.chain([itself]).collect();
    let setup = load::patient(NodeSetup::member(directory, id, &members))
        .set("CLUSTER__SHARDS", SHARDS)
        .set("CLUSTER__BOOTSTRAP", false);
    (id, setup)
}

fn start_newcomer(cluster: &mut Cluster, id: u64, setup: NodeSetup) {
    cluster.setups.push(setup);
    cluster.nodes.push(None);
    cluster.start(id);
}

/// Accounts to pay into.
fn accounts(cluster: &Cluster) -> Vec<String> {
    let opened = cluster.open_accounts(ACCOUNTS);
    opened.into_iter().map(|(id, _)| id).collect()
}

/// A run of `phalanx cluster ...` against a node.
fn cli(cluster: &Cluster, at: u64, arguments: &[&str]) -> Child {
    Command::new(BINARY)
        .arg("cluster")
        .args(arguments)
        .arg("--url")
        .arg(format!("http://{}", cluster.address(at)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be started")
}

/// Waits until such a run ends well, and gives what it printed.
fn finish(cluster: &Cluster, mut child: Child) -> String {
    let ended = wait::poll(CHANGE, || {
        child.try_wait().expect("a child can be waited for")
    });
    if ended.is_none() {
        child.kill().expect("a child can be killed");
    }
    let output = child.wait_with_output().expect("its output can be read");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let ended_well = ended.is_some_and(|status| status.success());
    assert!(ended_well, "{ended:?}: {text}\n{}", everything(cluster));
    text
}

/// How every node sees the cluster, and what it logged, for the person who reads a failure.
fn everything(cluster: &Cluster) -> String {
    let mut text = String::new();
    for (setup, node) in cluster.setups.iter().zip(&cluster.nodes) {
        let Some(node) = node else {
            continue;
        };
        let mut http = Http::new(setup.address);
        for path in ["/v1/cluster", "/v1/shards"] {
            if let Ok(answer) = http.try_send(&Request::get(path)) {
                text += &answer.text();
                text.push('\n');
            }
        }
        let log = node.log();
        let lines: Vec<&str> = log.lines().rev().take(60).collect();
        for line in lines.iter().rev() {
            text += line;
            text.push('\n');
        }
    }
    text
}

fn shards(cluster: &Cluster, node: u64) -> Option<Vec<Value>> {
    let mut http = Http::new(cluster.address(node));
    let answer = http.try_send(&Request::get("/v1/shards")).ok()?;
    answer.json()["shards"].as_array().cloned()
}

/// The members as a node sees them, with their roles.
fn members(cluster: &Cluster, node: u64) -> BTreeMap<u64, String> {
    let view = Http::new(cluster.address(node)).get("/v1/cluster").json();
    let members = view["members"].as_array().expect("members are listed");
    let member = |member: &Value| {
        let id = member["id"].as_u64().expect("a number");
        (id, member["role"].as_str().expect("a role").to_owned())
    };
    members.iter().map(member).collect()
}

/// Waits until a node sees every shard with `copies` copies on these members, nothing under way, and
/// loads that differ by at most one.
fn assert_spread(cluster: &Cluster, at: u64, among: &[u64], copies: usize) {
    let look = || -> Result<(), String> {
        let shards = shards(cluster, at).ok_or("no answer")?;
        let mut loads: BTreeMap<u64, usize> = among.iter().map(|id| (*id, 0)).collect();
        for shard in &shards {
            let ids = |field: &str| -> BTreeSet<u64> {
                let list = shard[field].as_array().into_iter().flatten();
                list.filter_map(Value::as_u64).collect()
            };
            let voters = ids("voters");
            if voters.len() != copies || !ids("learners").is_empty() || shard["changing"] == true {
                return Err(shard.to_string());
            }
            for voter in voters {
                *loads.get_mut(&voter).ok_or_else(|| shard.to_string())? += 1;
            }
        }
        let (most, least) = (loads.values().max(), loads.values().min());
        if most > least.map(|least| least + 1).as_ref() {
            return Err(format!("{loads:?}"));
        }
        Ok(())
    };
    let mut last = String::new();
    let spread = wait::poll(CHANGE, || look().map_err(|reason| last = reason).ok());
    assert!(spread.is_some(), "{last}\n{}", everything(cluster));
}
