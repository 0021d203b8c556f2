//! Nodes that die, and nodes that are left alone.

use std::time::{Duration, Instant};

use crate::fixture::{Cluster, SOON};
use crate::load::{Load, assert_unharmed, assert_went_on, audit, summary};
use crate::support::http::{Connection, Http, Request};
use crate::support::{client, measured, temp_dir, wait};
use crate::{patient_cluster, ready_cluster, shards};

#[test]
fn a_killed_leader_costs_clients_of_other_nodes_time_and_nothing_else() {
    let directory = temp_dir();
    let mut cluster = patient_cluster(directory.path());
    let opened = cluster.open_accounts(12);
    let accounts: Vec<String> = opened.iter().map(|(id, _)| id.clone()).collect();
    let mut all = Vec::new();
    for victim in 1..=3_u64 {
        let others: Vec<_> = (1..=3)
            .filter(|node| *node != victim)
            .map(|node| cluster.address(node))
            .collect();
        // Amounts repeat from round to round, so each round has accounts of its own.
        let mine = &accounts[usize::try_from(victim - 1).expect("fits") * 4..][..4];
        let load = Load::start(6, &others, mine);
        load.progress(50);
        let killed = Instant::now();
        cluster.kill(victim);
        wait::let_pass(Duration::from_millis(2_500));
        load.goes_on();
        let replaced = Instant::now();
        let deposits = load.stop_after(100);
        measured("kill -9 of a leader", summary(&deposits));
        assert_unharmed(&deposits, 100);
        assert_went_on(&deposits, killed, replaced);
        // Whatever the routers retried was for their clients the first attempt.
        let marked = deposits.iter().filter(|d| d.replayed && !d.retried).count();
        assert_eq!(marked, 0);
        assert!(deposits.iter().any(|d| d.keyed) && deposits.iter().any(|d| !d.keyed));
        audit(Http::anywhere(&others), &deposits);
        all.extend(deposits);
        cluster.start(victim);
        cluster.wait_ready(victim);
        // The next victim may go only when this one is back in every group.
        wait::until("the node that came back has caught up", SOON, || {
            let shards = crate::shards(&cluster, victim);
            let lag = |shard: &serde_json::Value| {
                let followers = shard["followers"].as_array()?.clone();
                let mine = followers.iter().find(|f| f["node"] == victim);
                mine.map_or(Some(0), |follower| follower["lag"].as_u64())
            };
            let caught_up = shards.iter().all(|shard| {
                let led = !shard["leader"].is_null();
                led && lag(shard) == Some(0)
            });
            caught_up.then_some(())
        });
        wait::let_pass(Duration::from_millis(700));
    }
    audit(cluster.anywhere(), &all);
}

#[test]
fn a_node_that_is_left_alone_says_so_at_once() {
    let directory = temp_dir();
    let mut cluster = ready_cluster(directory.path());
    let opened = cluster.open_accounts(12);
    cluster.kill(2);
    cluster.kill(3);
    let mut http = Http::new(cluster.address(1));
    // Until the loss is noticed, an answer may be a long time in coming.
    let lonely = wait::poll(SOON, || {
        let request = Request::get("/v1/cluster");
        let view = http.try_send(&request).ok()?.json();
        let members = view["members"].as_array()?.clone();
        let away = members.iter().filter(|m| m["state"] == "unreachable");
        (away.count() == 2).then_some(())
    });
    assert!(lonely.is_some(), "{}", cluster.node(1).log());
    wait::let_pass(Duration::from_secs(1));
    wait::until("nothing is said to be served", SOON, || {
        let served = shards(&cluster, 1).iter().any(|s| s["serving"] == true);
        let metrics = http.get("/metrics").text();
        (!served && metrics.contains("\nphalanx_shards_led 0\n")).then_some(())
    });
    let mut times = Vec::new();
    for (id, position) in &opened {
        for request in [client::deposit(id, 1), client::fresh_after(id, position)] {
            let started = Instant::now();
            let answer = http.send(&request);
            times.push(started.elapsed());
            assert_eq!(answer.code(), "no-leader", "{}", answer.text());
            assert_eq!(answer.status, 503);
            assert!(answer.header("Retry-After").is_some());
            assert_eq!(answer.json()["outcome"], "not_applied");
        }
    }
    times.sort_unstable();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    measured(
        "a lonely node answers within",
        format!("{median:?}, at most {slowest:?}"),
    );
    // The slowest may have met a machine that stood still; it is not kept until a leader comes.
    assert!(median < Duration::from_secs(1), "{times:?}");
    assert!(slowest < Duration::from_secs(8), "{times:?}");
    cluster.start(2);
    cluster.start(3);
    for (id, _) in &opened {
        client::store(&mut http, &client::deposit(id, 2));
    }
}

#[test]
fn a_node_that_cannot_finish_what_it_began_answers_it_and_ends_with_code_0() {
    let directory = temp_dir();
    let mut cluster = Cluster::new(directory.path());
    // What is in flight would wait much longer than the node may take to stop.
    cluster.set_up(|setup| {
        setup
            .set("NODE__SHUTDOWN_GRACE_MS", 8_000)
            .set("HTTP__REQUEST_TIMEOUT_MS", 120_000)
            .set("CLUSTER__LEADER_WAIT_MS", 120_000)
            .set("CLUSTER__ISOLATED_WAIT_MS", 120_000)
    });
    cluster.start_ready();
    let opened = cluster.open_accounts(12);
    cluster.kill(2);
    cluster.kill(3);
    let address = cluster.address(1);
    let clients: Vec<_> = opened
        .iter()
        .map(|(id, position)| {
            let deposit = client::deposit(id, 1).key("k");
            let read = client::fresh_after(id, position);
            [(deposit, true), (read, false)].map(|(request, stores)| {
                let send = move || Connection::open(address)?.send(&request);
                (std::thread::spawn(send), stores)
            })
        })
        .collect();
    // Every request has come: it waits, or it was answered.
    let waiting = wait::poll(SOON, || {
        let asked = clients.iter().flatten();
        let over = asked.filter(|(client, _)| client.is_finished()).count();
        let in_flight = cluster.node(1).metric("phalanx_requests_in_flight")?;
        let all = over as f64 + in_flight >= 2.0 * opened.len() as f64;
        (all && in_flight >= 12.0).then_some(())
    });
    assert!(waiting.is_some(), "{}", cluster.node(1).log());
    let mut node = cluster.nodes[0].take().expect("the node runs");
    node.terminate();
    let status = node.wait_end(SOON);
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}\n{}",
        node.log()
    );
    for (client, stores) in clients.into_iter().flatten() {
        let answer = client.join().expect("the client finishes");
        let answer = answer.expect("each request is answered");
        let told = (answer.status, answer.code());
        // Whether a command is stored depends on whether it had reached the log. A read may have come
        // while the others' promise to a leader still held.
        let (unknown, early) = (told == (504, "outcome-unknown".to_owned()), told.0 == 200);
        let refused = answer.status == 503 && answer.json()["outcome"] == "not_applied";
        let allowed = if stores { unknown } else { early };
        assert!(allowed || refused, "{}", answer.text());
    }
}
