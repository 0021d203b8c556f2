//! Any node takes any request: three real processes, clients that know nothing of leaders, and
//! nodes that are killed, drained and restarted under their hands.
//!
//! A client here sends to one node and, if that fails, once more to the next. Nothing that happens
//! to one node at a time may show it an error.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

#[expect(dead_code, reason = "the tests of replication use the rest")]
#[path = "cluster/fixture.rs"]
mod fixture;

#[path = "cluster_routing/load.rs"]
mod load;

#[path = "cluster_routing/drains.rs"]
mod drains;

#[path = "cluster_routing/moves.rs"]
mod moves;

#[path = "cluster_routing/sameness.rs"]
mod sameness;

#[path = "cluster_routing/failures.rs"]
mod failures;

#[path = "cluster_routing/resident.rs"]
mod resident;

#[path = "cluster_routing/tour.rs"]
mod tour;

#[path = "cluster_routing/bench.rs"]
mod bench;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use fixture::{Cluster, SOON};
use support::http::Http;
use support::node::BINARY;
use support::wait;

/// Three nodes that say they are ready, each of which leads something: one that came late gets its
/// share in a while.
fn ready_cluster(directory: &Path) -> Cluster {
    ready(Cluster::new(directory))
}

/// The same, for clients that must not see an error.
fn patient_cluster(directory: &Path) -> Cluster {
    let mut cluster = Cluster::new(directory);
    cluster.set_up(load::patient);
    ready(cluster)
}

fn ready(mut cluster: Cluster) -> Cluster {
    cluster.start_ready();
    wait::until("leaders are spread", SOON, || {
        let seen = [1, 2, 3].map(|node| leaders(&cluster, node));
        let all = (1..=3).all(|node| seen[0].contains(&node));
        (all && seen[0] == seen[1] && seen[0] == seen[2]).then_some(())
    });
    cluster
}

/// The shards as a node sees them.
fn shards(cluster: &Cluster, node: u64) -> Vec<Value> {
    let answer = Http::new(cluster.address(node)).get("/v1/shards");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let shards = answer.json()["shards"].as_array().cloned();
    shards.expect("shards are listed")
}

/// Who leads each shard, as a node sees it; empty while one has no leader.
fn leaders(cluster: &Cluster, node: u64) -> Vec<u64> {
    let shards = shards(cluster, node);
    let leaders: Option<Vec<u64>> = shards.iter().map(|s| s["leader"].as_u64()).collect();
    leaders.unwrap_or_default()
}

/// What is not yet, or not at all, as it must be in what a node says of the cluster.
fn looked_at(cluster: &Cluster, node: u64) -> Result<(), String> {
    let view = Http::new(cluster.address(node)).get("/v1/cluster").json();
    let members = view["members"].as_array().expect("members are listed");
    let as_it_must_be = |member: &Value| {
        let here = member["id"] == node;
        member["state"] == if here { "this" } else { "connected" }
            && member["role"] == "serving"
            && member["incarnation"].is_string()
    };
    let led: u64 = members.iter().filter_map(|m| m["leads"].as_u64()).sum();
    if members.len() != 3 || !members.iter().all(as_it_must_be) || led != 4 {
        return Err(view.to_string());
    }
    for shard in shards(cluster, node) {
        let followers = shard["followers"].as_array().map(Vec::len);
        let right = shard["voters"] == serde_json::json!([1, 2, 3])
            && shard["serving"] == (shard["leader"] == node)
            && shard["refusal"] == Value::Null
            && followers == Some(2);
        if !right {
            return Err(shard.to_string());
        }
    }
    Ok(())
}

#[test]
fn the_cluster_can_be_looked_at_from_every_node() {
    let directory = support::temp_dir();
    let mut cluster = ready_cluster(directory.path());
    for node in 1..=3 {
        let view = Http::new(cluster.address(node)).get("/v1/cluster").json();
        assert_eq!(
            (&view["name"], &view["node"], &view["shards"]),
            (&"phalanx".into(), &node.into(), &4.into())
        );
        // What a node knows of the others it hears from them, and leaders may move meanwhile.
        let mut last = String::new();
        let seen = wait::poll(SOON, || {
            looked_at(&cluster, node).map_err(|what| last = what).ok()
        });
        assert!(seen.is_some(), "node {node}: {last}");
    }
    cluster.kill(3);
    let status = wait::until("the loss of a node is seen", SOON, || {
        let output = Command::new(BINARY)
            .args(["cluster", "status", "--url"])
            .arg(format!("http://{}", cluster.address(1)))
            .output()
            .expect("the binary can be started");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.contains("unreachable").then_some(text)
    });
    assert!(status.contains("NODE  ADDRESS"), "{status}");
    assert!(status.contains("SHARD  LEADER"), "{status}");
}
