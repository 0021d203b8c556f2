//! Nodes that must not be let in.

use std::fs;

use super::fixture::{Cluster, SOON};
use super::support::client;
use super::support::http::{Http, Request};
use super::support::{temp_dir, wait};

#[test]
fn a_node_with_an_emptied_disk_is_refused_under_its_old_id_and_told_what_to_do() {
    let directory = temp_dir();
    let mut cluster = Cluster::start_all(directory.path());
    let accounts = cluster.open_accounts(8);
    // The third is known to the others once they have seen who it is.
    cluster.wait_log(3, "connected");
    for node in [1, 2] {
        wait::until("the third is known", SOON, || {
            let view = cluster.ask(node, &Request::get("/v1/cluster")).json();
            let third = &view["members"][2];
            (third["state"] == "connected" && third["incarnation"].is_string()).then_some(())
        });
    }
    cluster.kill(3);
    fs::remove_dir_all(&cluster.setups[2].data_dir).expect("the data can be removed");
    cluster.start(3);
    for node in 1..=3 {
        cluster.wait_log(node, "was emptied or replaced");
        cluster.wait_log(node, "Give it a new node.id");
    }
    // Whoever asks the node itself why it is not ready hears the same.
    wait::until("readiness names the reason", SOON, || {
        let request = Request::get("/readyz?verbose");
        let said = cluster.node(3).client().try_send(&request).ok()?;
        assert_eq!(said.status, 503, "{}", said.text());
        said.text().contains("Give it a new node.id").then_some(())
    });
    // The others go on, and the refused node leads nothing.
    let mut http = cluster.anywhere();
    for (id, _) in &accounts {
        let position = client::store(&mut http, &client::deposit(id, 5).key("after"));
        assert_ne!(cluster.served_by(&mut http, id, &position).node, 3);
    }
}

#[test]
fn a_node_of_another_cluster_or_with_other_shards_is_refused_by_name() {
    for (key, value, words) in [
        ("CLUSTER__NAME", "other", "cluster.name must be the same"),
        ("CLUSTER__SHARDS", "5", "cluster.shards must be the same"),
    ] {
        let directory = temp_dir();
        let mut cluster = Cluster::new(directory.path());
        cluster.setups[2] = cluster.setups[2].clone().set(key, value);
        for node in 1..=3 {
            cluster.start(node);
        }
        for node in 1..=3 {
            cluster.wait_log(node, words);
        }
        // The two that fit serve every shard; the third serves none.
        let mut http = Http::anywhere(&[cluster.address(1), cluster.address(2)]);
        for number in 0..8 {
            let request = client::open(&format!("a-{number}"));
            client::store(&mut http, &request);
            let alone = cluster.ask(3, &request);
            assert_eq!(alone.status, 503, "{}", alone.text());
        }
    }
}
