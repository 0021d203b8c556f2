//! A fourth node joins three.

use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng as _;
use serde_json::json;

use crate::fixture::{Cluster, SOON};
use crate::load::{Load, assert_unharmed, audit, summary};
use crate::support::http::{Http, Request};
use crate::support::node::NodeSetup;
use crate::support::{client, measured, ports, seeded, temp_dir, wait};
use crate::{
    ACCOUNTS, CLIENTS, SHARDS, accounts, assert_spread, cli, finish, members, newcomer, three,
};

#[test]
fn a_fourth_node_joins_under_load_and_takes_its_share() {
    let directory = temp_dir();
    let mut cluster = three(directory.path());
    let accounts = accounts(&cluster);
    let load = Load::start(CLIENTS, &cluster.addresses(), &accounts);
    let (id, address) = newcomer(&mut cluster, directory.path());
    cluster.wait_log(id, "waits to be added to the cluster");
    let why = cluster.ask(id, &Request::get("/readyz?verbose"));
    assert_eq!(why.status, 503);
    assert!(
        why.text().contains("phalanx cluster join --id 4"),
        "{}",
        why.text()
    );
    wait::let_pass(Duration::from_millis(500));
    let (id_text, address_text) = (id.to_string(), address.to_string());
    let join = ["join", "--id", &id_text, "--address", &address_text];
    let told = finish(&cluster, cli(&cluster, 2, &join));
    assert!(told.contains("node 4 has joined the cluster"), "{told}");
    assert!(
        told.contains("to be moved in the cluster"),
        "no progress: {told}"
    );
    for node in 1..=4 {
        assert_spread(&cluster, node, &[1, 2, 3, 4], 3);
        wait::until("every node knows the members", SOON, || {
            (members(&cluster, node).len() == 4).then_some(())
        });
    }
    cluster.wait_ready(id);
    wait::let_pass(Duration::from_millis(500));
    let deposits = load.stop_after(200);
    measured("join under load", summary(&deposits));
    assert_unharmed(&deposits, 200);
    // The new node serves like any other, also after a restart without anybody's help.
    audit(Http::new(cluster.address(id)), &deposits);
    cluster.kill(id);
    cluster.start(id);
    cluster.wait_ready(id);
    audit(Http::new(cluster.address(id)), &deposits);
    // Asked once more, nothing happens.
    let told = finish(&cluster, cli(&cluster, 1, &join));
    assert!(told.contains("node 4 has joined the cluster"), "{told}");
    assert_spread(&cluster, 1, &[1, 2, 3, 4], 3);
}

#[test]
fn leaders_that_die_in_the_midst_of_a_join_hold_it_up_and_lose_nothing() {
    let mut rng = seeded("kills in a join");
    let directory = temp_dir();
    let mut cluster = three(directory.path());
    let accounts = accounts(&cluster);
    let (id, address) = newcomer(&mut cluster, directory.path());
    let everybody = cluster.addresses();
    let load = Load::start(CLIENTS, &everybody, &accounts);
    let (id_text, address_text) = (id.to_string(), address.to_string());
    let join = ["join", "--id", &id_text, "--address", &address_text];
    let asked = cli(&cluster, 1, &join);
    wait::until("the node is being added", SOON, || {
        members(&cluster, 2).contains_key(&id).then_some(())
    });
    let mut kills = 0;
    for victim in [1_u64, 2, 3] {
        wait::let_pass(Duration::from_millis(rng.random_range(0..400)));
        cluster.kill(victim);
        kills += 1;
        wait::let_pass(Duration::from_millis(rng.random_range(100..1500)));
        cluster.start(victim);
        cluster.wait_ready(victim);
        // So that the next one leaves a majority of every shard.
        wait::let_pass(Duration::from_millis(1500));
    }
    let told = finish(&cluster, asked);
    assert!(told.contains("node 4 has joined the cluster"), "{told}");
    for node in 1..=4 {
        assert_spread(&cluster, node, &[1, 2, 3, 4], 3);
    }
    let deposits = load.stop_after(200);
    measured(
        "join with kill -9",
        format!("{kills} kills, {}", summary(&deposits)),
    );
    let done = deposits.iter().filter(|deposit| deposit.outcome.is_ok());
    assert!(
        done.count() > 100,
        "too little happened: {}",
        deposits.len()
    );
    audit(cluster.anywhere(), &deposits);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let directory = temp_dir();
    let cluster = three(directory.path());
    let taken = cluster.setups[0].cluster_address.to_string();
    let mut http = Http::new(cluster.address(2));
    let mut ask = |method: &str, target: &str, body: serde_json::Value| {
        let request = Request::new(method, target);
        let request = if body.is_null() {
            request
        } else {
            Request::post(target, body.to_string())
        };
        // The founders are written down a moment after the start.
        wait::until("the members are written down", SOON, || {
            let answer = http.try_send(&request).ok()?;
            (answer.status != 503).then_some(answer)
        })
    };
    let answer = ask(
        "POST",
        "/v1/nodes",
        json!({"id": 3, "address": "127.0.0.1:9"}),
    );
    assert_eq!(
        (answer.status, answer.code()),
        (409, "membership-refused".to_owned())
    );
    assert_eq!(answer.json()["rejection"], "id-taken");
    let answer = ask("POST", "/v1/nodes", json!({"id": 4, "address": taken}));
    assert_eq!(
        (answer.status, &answer.json()["rejection"]),
        (409, &json!("address-taken"))
    );
    for body in [
        json!({"id": 4}),
        json!({"id": 0, "address": "a:1"}),
        json!({"id": 4, "address": "nowhere"}),
        json!({"id": 4, "address": "a:1", "zone": "b"}),
    ] {
        let answer = ask("POST", "/v1/nodes", body);
        assert_eq!(
            (answer.status, answer.code()),
            (400, "malformed-body".to_owned())
        );
    }
    let answer = ask("DELETE", "/v1/nodes/9", serde_json::Value::Null);
    assert_eq!(
        (answer.status, answer.code()),
        (404, "unknown-node".to_owned())
    );
    let answer = ask("DELETE", "/v1/nodes/x", serde_json::Value::Null);
    assert_eq!(
        (answer.status, answer.code()),
        (404, "unknown-node".to_owned())
    );
    // A member under its own address is what was asked for.
    let own = cluster.setups[2].cluster_address.to_string();
    let answer = ask("POST", "/v1/nodes", json!({"id": 3, "address": own}));
    assert_eq!(
        (answer.status, &answer.json()["standing"]),
        (200, &json!("member"))
    );
    // The truth is an aggregate, but nobody's business.
    let types = http.get("/v1/types").text();
    assert!(!types.contains("_members"), "{types}");
    for target in [
        "/v1/aggregates/_members/cluster?at_sequence=1",
        "/v1/aggregates/_members/cluster/events",
        "/v1/types/_members",
    ] {
        let answer = http.get(target);
        assert_eq!(
            (answer.status, answer.code()),
            (404, "unknown-aggregate-type".to_owned())
        );
    }
    let target = "/v1/aggregates/_members/cluster/commands/RemoveNode";
    let answer = http.send(&Request::post(target, json!({"id": 1}).to_string()));
    assert_eq!(
        (answer.status, answer.code()),
        (404, "unknown-aggregate-type".to_owned())
    );
    assert_eq!(accounts(&cluster).len(), ACCOUNTS);
}

#[test]
fn a_cluster_of_one_says_what_it_needs_to_grow_and_then_grows() {
    let directory = temp_dir();
    let (first, second) = (ports::free_address(), ports::free_address());
    let setup = |id, members: &[(u64, SocketAddr)]| {
        NodeSetup::member(directory.path(), id, members).set("CLUSTER__SHARDS", SHARDS)
    };
    let both = [(1, first), (2, second)];
    let mut cluster = Cluster {
        setups: vec![
            setup(1, &[(1, first)]),
            setup(2, &both).set("CLUSTER__BOOTSTRAP", false),
        ],
        nodes: vec![None, None],
    };
    cluster.start(1);
    cluster.wait_ready(1);
    let accounts = accounts(&cluster);
    cluster.start(2);
    cluster.wait_log(2, "waits to be added to the cluster");

    let address = second.to_string();
    let join = ["join", "--id", "2", "--address", &address];
    let mut asked = cli(&cluster, 1, &join);
    let ended = wait::until("the command ends", SOON, || {
        asked.try_wait().expect("a child can be waited for")
    });
    let output = asked.wait_with_output().expect("its output can be read");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!ended.success(), "{told}");
    let advice = "started without [[cluster.peers]] and does not listen for members; name the new \
                  node there, restart this one, and ask again";
    assert!(told.contains(advice), "{told}");
    let mut http = Http::new(cluster.address(1));
    let body = json!({"id": 2, "address": address}).to_string();
    let answer = http.send_until_answered(&Request::post("/v1/nodes", body));
    assert_eq!(
        (answer.status, answer.code()),
        (409, "membership-refused".to_owned())
    );
    assert_eq!(answer.json()["rejection"], "cluster-of-one");
    let answer = http.send_until_answered(&Request::new("DELETE", "/v1/nodes/2"));
    assert_eq!(
        (answer.status, answer.code()),
        (404, "unknown-node".to_owned())
    );

    // As it was told to.
    cluster.kill(1);
    cluster.setups[0] = setup(1, &both);
    cluster.start(1);
    cluster.wait_ready(1);
    let told = finish(&cluster, cli(&cluster, 1, &join));
    assert!(told.contains("node 2 has joined the cluster"), "{told}");
    cluster.wait_ready(2);
    for node in [1, 2] {
        assert_spread(&cluster, node, &[1, 2], 2);
        for id in &accounts {
            let deposit = client::deposit(id, 5).key(&format!("at-{node}"));
            client::store(&mut Http::new(cluster.address(node)), &deposit);
        }
    }
}
