//! `phalanx bench` over a cluster: requests go where `--route` says, counted at the nodes.

use std::process::Command;

use serde_json::Value;

use crate::fixture::Cluster;
use crate::ready_cluster;
use crate::support::node::BINARY;
use crate::support::temp_dir;

/// A busy machine may elect a new leader in the middle of a run, before it, so that a node leads nothing, or
/// lose a connection between nodes; such a run says so and is repeated.
const ATTEMPTS: usize = 30;

#[test]
fn the_load_generator_sends_to_leaders_or_past_them() {
    let directory = temp_dir();
    let cluster = ready_cluster(directory.path());
    filled(&cluster);
    let direct = measured(&cluster, "leader");
    assert_eq!(direct.forwarded, 0);
    let detour = measured(&cluster, "other");
    assert_eq!(detour.forwarded, detour.sent);
}

/// Opens what is asked for.
fn filled(cluster: &Cluster) {
    let mut last = Value::Null;
    let filled = (0..ATTEMPTS).any(|_| {
        last = bench(cluster, &["--duration", "100ms"]);
        last["unexpected"] == serde_json::json!([])
    });
    assert!(filled, "{last}");
}

struct Run {
    sent: u64,
    /// Requests that one node handed to another meanwhile.
    forwarded: u64,
}

/// One run during which no leader moved.
fn measured(cluster: &Cluster, route: &str) -> Run {
    let mut last = Value::Null;
    for _ in 0..ATTEMPTS {
        let before = forwards(cluster);
        let extra = ["--skip-setup", "--duration", "300ms", "--reads", "0.5"];
        let report = bench(cluster, &[&["--route", route], &extra[..]].concat());
        let nodes = report["nodes"].as_array().expect("nodes are listed");
        let all_asked = nodes.iter().all(|node| node["sent"] != 0);
        let calm = report["leaders_moved"] == 0 && report["unexpected"] == serde_json::json!([]);
        if !(calm && all_asked) {
            last = report;
            continue;
        }
        let requests = &report["requests"];
        let count = |name: &str| requests[name].as_u64().expect("a count");
        assert!(count("sent") > 0);
        assert_eq!(count("sent"), count("answered"));
        return Run {
            sent: count("sent") + count("sent_in_warmup"),
            forwarded: forwards(cluster) - before,
        };
    }
    panic!("none of {ATTEMPTS} runs was left alone: {last}");
}

/// Requests that nodes handed to one another so far, whatever came of it.
fn forwards(cluster: &Cluster) -> u64 {
    let all = (1..=3).filter_map(|node| cluster.node(node).metric("phalanx_forwards_total"));
    all.sum::<f64>() as u64
}

fn bench(cluster: &Cluster, extra: &[&str]) -> Value {
    let urls = cluster.addresses();
    let urls = urls.iter().map(|address| format!("http://{address}"));
    let output = Command::new(BINARY)
        .arg("bench")
        .args(urls)
        .args(["--clients", "6", "--aggregates", "60", "--json", "--quiet"])
        .args(["--warmup", "100ms"])
        .args(extra)
        .output()
        .expect("the binary can be started");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}
