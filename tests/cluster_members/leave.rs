//! A member leaves, alive or dead.

use std::time::Duration;

use serde_json::json;

use crate::fixture::{Cluster, SOON};
use crate::load::{Load, assert_unharmed, audit, summary};
use crate::support::http::{Http, Request};
use crate::support::{measured, temp_dir, wait};
use crate::{CLIENTS, accounts, assert_spread, cli, finish, members, newcomer, shards, three};

/// For a while without an election, which a busy machine does not have at any time.
const CALM_WITHIN: Duration = Duration::from_secs(180);

fn join(cluster: &Cluster, at: u64, id: u64, address: std::net::SocketAddr) {
    let (id, address) = (id.to_string(), address.to_string());
    let arguments = ["join", "--id", &id, "--address", &address];
    finish(cluster, cli(cluster, at, &arguments));
}

fn leave(cluster: &Cluster, at: u64, id: u64) {
    let told = finish(
        cluster,
        cli(cluster, at, &["leave", "--id", &id.to_string()]),
    );
    let expected = format!("node {id} has left the cluster");
    assert!(told.contains(&expected), "{told}");
}

/// The terms of all shards as a node sees them.
fn terms(cluster: &Cluster, at: u64) -> Vec<u64> {
    let shards = shards(cluster, at).expect("the node answers");
    let term = |shard: &serde_json::Value| shard["term"].as_u64().expect("a number");
    shards.iter().map(term).collect()
}

#[test]
fn a_member_leaves_under_load_its_copies_are_rebuilt_and_it_disturbs_nobody() {
    let directory = temp_dir();
    let mut cluster = three(directory.path());
    let accounts = accounts(&cluster);
    let (id, address) = newcomer(&mut cluster, directory.path());
    join(&cluster, 1, id, address);
    assert_spread(&cluster, 1, &[1, 2, 3, 4], 3);
    cluster.wait_ready(id);
    // Nobody sends to the node that leaves: in the end it answers no more.
    let others = [2_u64, 3, 4].map(|node| cluster.address(node));
    let load = Load::start(CLIENTS, &others, &accounts);
    wait::let_pass(Duration::from_millis(500));
    // Asked at the very node that is to leave.
    let told = finish(
        &cluster,
        cli(&cluster, 1, &["leave", "--id", "1", "--no-wait"]),
    );
    assert!(told.contains("noted"), "{told}");
    leave(&cluster, 2, 1);
    for node in 2..=4 {
        assert_spread(&cluster, node, &[2, 3, 4], 3);
        wait::until("every node knows the members", SOON, || {
            let left = members(&cluster, node);
            (left.len() == 3 && !left.contains_key(&1)).then_some(())
        });
    }
    cluster.wait_log(1, "was removed from the cluster");
    let why = wait::until("the node says what it is", SOON, || {
        let answer = cluster.ask(1, &Request::get("/readyz?verbose")).text();
        answer.contains("no member any more").then_some(answer)
    });
    assert!(why.contains("stop it"), "{why}");
    // Leaders are still being spread for a while, which makes new terms as well; a node that disturbed
    // elections would not stop.
    wait::until(
        "three seconds pass without an election",
        CALM_WITHIN,
        || {
            let before = terms(&cluster, 2);
            wait::let_pass(Duration::from_secs(3));
            (before == terms(&cluster, 2)).then_some(())
        },
    );
    let deposits = load.stop_after(200);
    measured("leave under load", summary(&deposits));
    assert_unharmed(&deposits, 200);
    audit(Http::anywhere(&others), &deposits);
    // Its id is used up.
    let body = json!({"id": 1, "address": "127.0.0.1:9"}).to_string();
    let mut second = Http::new(cluster.address(2));
    let again = second.send_until_answered(&Request::post("/v1/nodes", body));
    assert_eq!(
        (again.status, &again.json()["rejection"]),
        (409, &json!("id-used"))
    );
    let gone = second.send_until_answered(&Request::new("DELETE", "/v1/nodes/1"));
    assert_eq!(
        (gone.status, &gone.json()["standing"]),
        (200, &json!("removed"))
    );
}

#[test]
fn a_dead_node_is_replaced_by_a_new_one_that_joined_before() {
    let directory = temp_dir();
    let mut cluster = three(directory.path());
    let accounts = accounts(&cluster);
    let living = [1_u64, 2].map(|node| cluster.address(node));
    let load = Load::start(CLIENTS, &living, &accounts);
    wait::let_pass(Duration::from_millis(500));
    cluster.kill(3);
    let (id, address) = newcomer(&mut cluster, directory.path());
    join(&cluster, 1, id, address);
    leave(&cluster, 2, 3);
    for node in [1, 2, 4] {
        assert_spread(&cluster, node, &[1, 2, 4], 3);
    }
    let deposits = load.stop_after(100);
    measured("replacement of a dead node", summary(&deposits));
    assert_unharmed(&deposits, 100);
    audit(Http::new(cluster.address(id)), &deposits);
    // The dead one comes back and is told.
    cluster.start(3);
    cluster.wait_log(3, "was removed from the cluster");
    // Leaders are still being spread for a while, which makes new terms as well; a node that stood
    // for election would not stop.
    wait::until("two seconds pass without an election", CALM_WITHIN, || {
        let before = terms(&cluster, 1);
        wait::let_pass(Duration::from_secs(2));
        (before == terms(&cluster, 1)).then_some(())
    });
    // With the new one, another node may die.
    cluster.wait_ready(id);
    cluster.kill(1);
    audit(
        Http::anywhere(&[cluster.address(2), cluster.address(4)]),
        &deposits,
    );
}

#[test]
fn a_dead_node_leaves_first_and_its_successor_joins_afterwards() {
    let directory = temp_dir();
    let mut cluster = three(directory.path());
    let accounts = accounts(&cluster);
    let living = [1_u64, 2].map(|node| cluster.address(node));
    let load = Load::start(CLIENTS, &living, &accounts);
    wait::let_pass(Duration::from_millis(500));
    cluster.kill(3);
    leave(&cluster, 1, 3);
    assert_spread(&cluster, 1, &[1, 2], 2);
    let (id, address) = newcomer(&mut cluster, directory.path());
    join(&cluster, 2, id, address);
    assert_spread(&cluster, id, &[1, 2, 4], 3);
    let deposits = load.stop_after(100);
    measured("a successor of a dead node", summary(&deposits));
    assert_unharmed(&deposits, 100);
    audit(Http::new(cluster.address(id)), &deposits);
}
