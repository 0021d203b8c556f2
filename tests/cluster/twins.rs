//! Two processes of one node, on copies of one data directory.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use rustix::process::Signal;

use super::fixture::{Cluster, SOON};
use super::support::client;
use super::support::http::Request;
use super::support::node::{Node, NodeSetup};
use super::support::{ports, temp_dir, wait};

const WORDS: &str = "another process of node 3 is connected to";

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("the data can be listed") {
        let entry = entry.expect("the data can be listed");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a file can be copied");
        }
    }
}

/// A cluster whose third member was stopped, copied and started again, and how to start the copy.
fn copied(directory: &Path) -> (Cluster, NodeSetup, Vec<(String, String)>) {
    let mut cluster = Cluster::new(directory);
    cluster.start_ready();
    let accounts = cluster.open_accounts(8);
    cluster.kill(3);
    let members: Vec<(u64, SocketAddr)> = (1..)
        .zip(&cluster.setups)
        .map(|(id, setup)| match id {
            3 => (id, ports::free_address()),
            _ => (id, setup.cluster_address),
        })
        .collect();
    let twin = NodeSetup::member(&directory.join("twin"), 3, &members);
    copy(&cluster.setups[2].data_dir, &twin.data_dir);
    cluster.start(3);
    cluster.wait_ready(3);
    (cluster, twin, accounts)
}

/// Until it ends, it refuses whoever asks.
fn serves_nobody(node: &mut Node) {
    wait::until("it refuses, or has ended", SOON, || {
        if node.status().is_some() {
            return Some(());
        }
        let ready = node.client().try_send(&Request::get("/readyz")).ok()?;
        assert_eq!(ready.status, 503, "{}", ready.text());
        let answer = node.client().try_send(&client::open("refused")).ok()?;
        assert_eq!(answer.status, 503, "{}", answer.text());
        Some(())
    });
}

/// Waits until a process ends because another one of its node is connected.
fn ends(node: &mut Node) {
    let status = node.wait_end(SOON);
    let log = node.log();
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{log}");
    assert!(log.contains("the node stops"), "{log}");
    assert!(log.contains(WORDS), "{log}");
}

#[test]
fn a_copy_of_a_running_node_is_let_in_nowhere_and_ends() {
    let directory = temp_dir();
    let (mut cluster, twin, accounts) = copied(directory.path());
    let mut twin = twin.spawn();
    serves_nobody(&mut twin);
    let mut http = cluster.anywhere();
    for (id, _) in &accounts {
        client::store(&mut http, &client::deposit(id, 5).key("meanwhile"));
    }
    ends(&mut twin);
    for node in [1, 2] {
        cluster.wait_log(node, WORDS);
    }
    for node in 1..=3 {
        cluster.wait_ready(node);
    }
    assert!(!cluster.node(3).log().contains(WORDS));
    assert_eq!(cluster.nodes[2].as_mut().and_then(Node::status), None);
}

#[test]
fn whoever_comes_back_and_finds_its_place_taken_by_a_copy_ends() {
    let directory = temp_dir();
    let (mut cluster, twin, accounts) = copied(directory.path());
    cluster.node(3).freeze();
    for node in [1, 2] {
        wait::until("its connections have ended", SOON, || {
            let view = cluster.ask(node, &Request::get("/v1/cluster")).json();
            (view["members"][2]["state"] != "connected").then_some(())
        });
    }
    let mut twin = twin.spawn();
    twin.wait_ready(SOON)
        .unwrap_or_else(|why| panic!("{why:?}\n{}", twin.log()));
    cluster.node(3).signal(Signal::CONT);
    ends(cluster.nodes[2].as_mut().expect("it was started"));
    let mut http = cluster.anywhere();
    for (id, _) in &accounts {
        client::store(&mut http, &client::deposit(id, 5).key("after"));
    }
    assert_eq!(twin.status(), None, "{}", twin.log());
}
