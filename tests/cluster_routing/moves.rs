//! Leaders that are moved on purpose, under load.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixture::{Cluster, SOON};
use crate::load::{Load, assert_unharmed, assert_went_on, audit, summary};
use crate::support::http::{Http, Request, Response};
use crate::support::{measured, temp_dir, wait};
use crate::{leaders, patient_cluster, ready_cluster};

const CLIENTS: i64 = 6;
const ACCOUNTS: usize = 12;

fn accounts(cluster: &Cluster) -> Vec<String> {
    let opened = cluster.open_accounts(ACCOUNTS);
    opened.into_iter().map(|(id, _)| id).collect()
}

fn transfer(cluster: &Cluster, at: u64, shard: usize, to: u64) -> Response {
    let target = format!("/v1/shards/{shard}/transfer");
    let mut http = Http::new(cluster.address(at));
    http.send(&Request::post(&target, json!({ "to": to }).to_string()))
}

#[test]
fn shards_move_under_load_and_nobody_notices() {
    let directory = temp_dir();
    let cluster = patient_cluster(directory.path());
    let accounts = accounts(&cluster);
    let load = Load::start(CLIENTS, &cluster.addresses(), &accounts);
    let began = Instant::now();
    for round in 0..12_u64 {
        wait::let_pass(Duration::from_millis(100));
        load.progress(20);
        let shard = usize::try_from(round % 4).expect("fits");
        // Asked at a node that is neither of the two as often as not.
        let at = round % 3 + 1;
        wait::until("a shard is moved", SOON, || {
            let before = leaders(&cluster, at).get(shard).copied()?;
            let to = before % 3 + 1;
            let answer = transfer(&cluster, at, shard, to);
            // A copy may lag for a moment under load, and the node that balances leaders may move one
            // as well.
            if matches!(answer.status, 409 | 503 | 504) {
                return None;
            }
            assert_eq!(answer.status, 200, "{}", answer.text());
            let moved = answer.json();
            assert_eq!(moved["to"], json!(to));
            (moved["from"] == json!(before)).then_some(())
        });
    }
    let moved = Instant::now();
    let deposits = load.stop_after(200);
    measured("12 transfers", summary(&deposits));
    assert_unharmed(&deposits, 200);
    assert_went_on(&deposits, began, moved);
    audit(cluster.anywhere(), &deposits);
}

#[test]
fn transfers_that_make_no_sense_are_refused() {
    let directory = temp_dir();
    let mut cluster = ready_cluster(directory.path());
    let leader = wait::until("every shard has a leader", SOON, || {
        leaders(&cluster, 1).first().copied()
    });
    // Another one may lead by now, and a copy may lag.
    let same = wait::until("a shard is where it shall be", SOON, || {
        let same = transfer(&cluster, leader % 3 + 1, 0, leader);
        (!matches!(same.status, 409 | 503 | 504)).then_some(same)
    });
    assert_eq!((same.status, &same.json()["to"]), (200, &json!(leader)));
    let code = |response: Response| (response.status, response.code());
    assert_eq!(
        code(transfer(&cluster, 2, 0, 9)),
        (404, "unknown-node".to_owned())
    );
    assert_eq!(
        code(transfer(&cluster, 2, 99, 1)),
        (404, "unknown-shard".to_owned())
    );
    let mut http = Http::new(cluster.address(1));
    for (target, body, pointer) in [
        ("/v1/shards/0/transfer", "{\"too\":1}", "/too"),
        ("/v1/shards/0/transfer", "{\"to\":\"2\"}", "/to"),
        ("/v1/shards/0/transfer", "{\"to\":1.5}", "/to"),
        ("/v1/shards/0/transfer", "{}", ""),
        ("/v1/shards/0/transfer", "[1]", ""),
        ("/v1/shards/0/transfer", "{\"to\":1} 2", ""),
        ("/v1/nodes", "{\"id\":4,\"address\":5}", "/address"),
        ("/v1/nodes", "[4,\"127.0.0.1:9\"]", ""),
    ] {
        let refused = http.send(&Request::post(target, body.to_owned()));
        assert_eq!(refused.code(), "malformed-body", "{body}");
        assert_eq!(refused.status, 400, "{body}");
        assert_eq!(refused.json()["pointer"], pointer, "{}", refused.text());
    }
    let nobody = Request::new("POST", "/v1/nodes/9/drain");
    assert_eq!(code(http.send(&nobody)), (404, "unknown-node".to_owned()));
    let other = leader % 3 + 1;
    cluster.kill(other);
    let third = other % 3 + 1;
    let asked = if third == leader { leader } else { third };
    let refused = wait::until("the loss of the node is seen", SOON, || {
        let answer = transfer(&cluster, asked, 0, other);
        (answer.status == 409).then_some(answer)
    });
    assert_eq!(refused.code(), "transfer-refused");
}

#[test]
fn a_drained_node_leads_nothing_and_still_answers() {
    let directory = temp_dir();
    let mut cluster = patient_cluster(directory.path());
    let accounts = accounts(&cluster);
    let load = Load::start(CLIENTS, &cluster.addresses(), &accounts);
    load.progress(30);
    wait::until("it leads something", SOON, || {
        leaders(&cluster, 1).contains(&2).then_some(())
    });
    let began = Instant::now();
    // Asked at another node. A copy may lag for a moment under load and be kept; who drains twice
    // drains the rest.
    let mut moved = 0;
    wait::until("the node is drained", SOON, || {
        let drain = Request::new("POST", "/v1/nodes/2/drain");
        let drained = Http::new(cluster.address(1)).send_until_answered(&drain);
        assert_eq!(drained.status, 200, "{}", drained.text());
        let told = drained.json();
        assert_eq!(told["draining"], json!(true));
        moved += told["moved"].as_array().map_or(0, Vec::len);
        (told["kept"] == json!([])).then_some(())
    });
    assert!(moved > 0, "it led something");
    wait::until(
        "the node that was asked knows the new leaders",
        SOON,
        || {
            let leaders = leaders(&cluster, 1);
            (!leaders.is_empty() && !leaders.contains(&2)).then_some(())
        },
    );
    let refused = wait::until("an answer that means something", SOON, || {
        let answer = transfer(&cluster, 3, 0, 2);
        (!matches!(answer.status, 503 | 504)).then_some(answer)
    });
    assert_eq!(refused.code(), "transfer-refused", "{}", refused.text());
    wait::until("the third one has heard of it", SOON, || {
        let view = Http::new(cluster.address(3)).get("/v1/cluster").json();
        (view["members"][1]["role"] == "draining").then_some(())
    });
    load.goes_on();
    let drained = Instant::now();
    let deposits = load.stop_after(100);
    measured("drain", summary(&deposits));
    assert_unharmed(&deposits, 100);
    assert_went_on(&deposits, began, drained);
    audit(Http::new(cluster.address(2)), &deposits);
    // A restart takes it back.
    stop(&mut cluster, 2);
    cluster.start(2);
    cluster.wait_ready(2);
    let back = wait::until("the node may lead again", SOON, || {
        let answer = transfer(&cluster, 1, 0, 2);
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(back.json()["to"], 2);
}

fn stop(cluster: &mut Cluster, node: u64) {
    let at = usize::try_from(node - 1).expect("fits");
    let mut stopped = cluster.nodes[at].take().expect("the node runs");
    stopped.stop();
}

#[test]
fn a_rolling_restart_shows_no_client_an_error() {
    let directory = temp_dir();
    let mut cluster = patient_cluster(directory.path());
    let accounts = accounts(&cluster);
    let load = Load::start(CLIENTS, &cluster.addresses(), &accounts);
    let began = Instant::now();
    for node in 1..=3 {
        load.progress(30);
        stop(&mut cluster, node);
        load.progress(30);
        cluster.start(node);
        cluster.wait_ready(node);
    }
    load.goes_on();
    let restarted = Instant::now();
    let deposits = load.stop_after(300);
    measured("rolling restart", summary(&deposits));
    assert_unharmed(&deposits, 300);
    assert_went_on(&deposits, began, restarted);
    audit(cluster.anywhere(), &deposits);
}

/// Says how to make the older build: a node of another release is another program.
#[test]
#[ignore = "needs an older build, which `make upgrade FROM=<commit>` makes"]
fn a_rolling_upgrade_from_an_older_build_shows_no_client_an_error() {
    let older = std::env::var("PHALANX_OLDER").expect("PHALANX_OLDER names an older build");
    let directory = temp_dir();
    let mut cluster = Cluster::new(directory.path());
    let todays = cluster.setups.clone();
    cluster.set_up(|setup| setup.built_as(&older));
    cluster.start_ready();
    let accounts = accounts(&cluster);
    let load = Load::start(CLIENTS, &cluster.addresses(), &accounts);
    let began = Instant::now();
    for (node, today) in (1..=3).zip(todays) {
        wait::let_pass(Duration::from_secs(2));
        stop(&mut cluster, node);
        let at = usize::try_from(node - 1).expect("fits");
        cluster.setups[at] = today;
        cluster.start(node);
        cluster.wait_ready(node);
    }
    wait::let_pass(Duration::from_secs(2));
    let replaced = Instant::now();
    let deposits = load.stop_after(300);
    measured("rolling upgrade", summary(&deposits));
    assert_unharmed(&deposits, 300);
    assert_went_on(&deposits, began, replaced);
    audit(cluster.anywhere(), &deposits);
}
