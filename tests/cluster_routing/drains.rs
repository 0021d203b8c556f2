//! Nodes that are drained: what they lead all the same, and how they come back.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixture::{Cluster, SOON};
use crate::support::client;
use crate::support::http::{Http, Request, Response};
use crate::support::node::{BINARY, NodeSetup};
use crate::support::{measured, temp_dir, wait};
use crate::{leaders, shards};

const ACCOUNTS: usize = 12;
/// An election among the others, which comes first, and one more; and what a busy machine takes, which may
/// elect several times.
const STANDS_IN_WITHIN: Duration = Duration::from_secs(30);

/// Three nodes that are ready, and move leaders by themselves only when they must.
fn unbalanced(directory: &Path) -> Cluster {
    let mut cluster = Cluster::new(directory);
    cluster.set_up(|setup| setup.set("CLUSTER__BALANCE_INTERVAL_MS", 0));
    cluster.start_ready();
    cluster
}

fn ask(cluster: &Cluster, at: u64, method: &str, target: &str) -> Response {
    Http::new(cluster.address(at)).send_until_answered(&Request::new(method, target))
}

/// Drains a node until it leads nothing. A copy may lag for a moment and be kept; who drains twice
/// drains the rest.
fn drain(cluster: &Cluster, at: u64, node: u64) {
    wait::until("a node is drained", SOON, || {
        let drained = ask(cluster, at, "POST", &format!("/v1/nodes/{node}/drain"));
        assert_eq!(drained.status, 200, "{}", drained.text());
        (drained.json()["kept"] == json!([])).then_some(())
    });
}

/// Waits until a node sees every shard led by these.
fn wait_led_by(cluster: &Cluster, at: u64, nodes: &[u64]) {
    let expected: BTreeSet<u64> = nodes.iter().copied().collect();
    let mut last = Vec::new();
    let led = wait::poll(SOON, || {
        last = leaders(cluster, at);
        let seen: BTreeSet<u64> = last.iter().copied().collect();
        (!last.is_empty() && seen.is_subset(&expected)).then_some(())
    });
    assert!(led.is_some(), "{last:?}, and not {nodes:?}");
}

/// Pays into every account, at whichever of these nodes; gives the time that it took.
fn pay(cluster: &Cluster, nodes: &[u64], accounts: &[(String, String)], key: &str) -> Duration {
    let addresses: Vec<_> = nodes.iter().map(|node| cluster.address(*node)).collect();
    let mut http = Http::anywhere(&addresses).patient_for(Duration::from_secs(2));
    let began = Instant::now();
    for (id, _) in accounts {
        client::store(&mut http, &client::deposit(id, 5).key(key));
    }
    began.elapsed()
}

/// Waits until a node has heard that another one, or it itself, is in this role.
fn wait_role(cluster: &Cluster, at: u64, node: usize, role: &str) {
    let mut last = Value::Null;
    let heard = wait::poll(SOON, || {
        let view = Http::new(cluster.address(at)).get("/v1/cluster").json();
        last = view["members"][node - 1]["role"].clone();
        (last == role).then_some(())
    });
    assert!(
        heard.is_some(),
        "node {node} at node {at}: {last}, and not {role}"
    );
}

#[test]
fn drained_nodes_lead_when_the_last_that_is_not_drained_dies() {
    let directory = temp_dir();
    let mut cluster = unbalanced(directory.path());
    let accounts = cluster.open_accounts(ACCOUNTS);
    drain(&cluster, 1, 2);
    drain(&cluster, 1, 3);
    wait_led_by(&cluster, 1, &[1]);
    cluster.kill(1);
    let took = pay(&cluster, &[2, 3], &accounts, "without-1");
    measured(
        "all that are left are drained, writable",
        format!("{took:?}"),
    );
    assert!(took < STANDS_IN_WITHIN, "{took:?}");
    // They drain as before, and hand over once somebody can take it.
    wait_role(&cluster, 2, 3, "draining");
    cluster.start(1);
    cluster.wait_ready(1);
    wait_led_by(&cluster, 1, &[1]);
    pay(&cluster, &[1, 2, 3], &accounts, "with-1");
}

#[test]
fn a_drained_node_with_the_newest_log_leads_until_the_other_has_caught_up() {
    let directory = temp_dir();
    let mut cluster = unbalanced(directory.path());
    let accounts = cluster.open_accounts(ACCOUNTS);
    drain(&cluster, 1, 3);
    wait_led_by(&cluster, 3, &[1, 2]);
    cluster.kill(2);
    // A majority of 1 and 3 has these, and 2 has not.
    pay(&cluster, &[1], &accounts, "without-2");
    wait_led_by(&cluster, 1, &[1]);
    cluster.kill(1);
    cluster.start(2);
    wait::until("node 2 listens", SOON, || {
        Http::new(cluster.address(2))
            .try_send(&Request::get("/livez"))
            .ok()
    });
    let took = pay(&cluster, &[2, 3], &accounts, "without-1");
    measured(
        "only the drained node has the log, writable",
        format!("{took:?}"),
    );
    assert!(took < STANDS_IN_WITHIN, "{took:?}");
    wait_led_by(&cluster, 3, &[2]);
    pay(&cluster, &[2, 3], &accounts, "after");
}

#[test]
fn a_drain_is_taken_back_and_the_node_gets_its_share() {
    let directory = temp_dir();
    let mut cluster = Cluster::new(directory.path());
    cluster.set_up(|setup| setup.set("CLUSTER__BALANCE_INTERVAL_MS", 300));
    cluster.start_ready();
    cluster.open_accounts(ACCOUNTS);
    drain(&cluster, 1, 2);
    wait_led_by(&cluster, 1, &[1, 3]);
    wait_role(&cluster, 1, 2, "draining");
    // Asked at another node, then at the node itself, then of one that does not drain.
    for (at, was_draining) in [(3, true), (2, false)] {
        let back = ask(&cluster, at, "DELETE", "/v1/nodes/2/drain");
        assert_eq!(back.status, 200, "{}", back.text());
        let expected = json!({"node": 2, "draining": false, "was_draining": was_draining});
        assert_eq!(back.json(), expected);
    }
    wait_role(&cluster, 1, 2, "serving");
    wait::until("it leads something again", SOON, || {
        leaders(&cluster, 1).contains(&2).then_some(())
    });
    // The same by the command line.
    // A copy may lag for a moment and be kept; who drains twice drains the rest.
    let mut last = None;
    let drained = wait::poll(SOON, || {
        let drained = last.insert(cli(&cluster, 1, &["drain", "2"]));
        let told = String::from_utf8_lossy(&drained.stdout);
        let right = drained.status.success() && told.starts_with("node 2 is drained");
        right.then(|| told.into_owned())
    });
    let told = drained.unwrap_or_else(|| panic!("{last:?}"));
    assert!(told.contains("phalanx cluster undrain 2"), "{told}");
    wait_role(&cluster, 3, 2, "draining");
    let back = cli(&cluster, 3, &["undrain", "2"]);
    let told = String::from_utf8_lossy(&back.stdout);
    assert!(
        back.status.success() && told.contains("node 2 may lead"),
        "{back:?}"
    );
    let again = cli(&cluster, 3, &["undrain", "2", "--json"]);
    let told: Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(
        told,
        json!({"node": 2, "draining": false, "was_draining": false})
    );
    wait_role(&cluster, 3, 2, "serving");
}

#[test]
fn refusals_are_told_in_words_with_what_to_do_next() {
    let directory = temp_dir();
    let cluster = unbalanced(directory.path());
    for (arguments, code, words) in [
        (
            &["drain", "9"][..],
            "unknown-node",
            "the members are 1, 2 and 3",
        ),
        (&["undrain", "9"], "unknown-node", "there is no member 9"),
        (
            &["transfer", "0", "--to", "9"],
            "unknown-node",
            "there is no member 9",
        ),
        (
            &["transfer", "99", "--to", "1"],
            "unknown-shard",
            "there are 0 to 3",
        ),
        (
            &["leave", "--id", "9"],
            "unknown-node",
            "the members are 1, 2 and 3",
        ),
        (
            &["join", "--id", "2", "--address", "127.0.0.1:9"],
            "membership-refused",
            "node 2 is a member already",
        ),
        (
            &["join", "--id", "4", "--address", "x"],
            "malformed-body",
            "host:port",
        ),
    ] {
        let refused = cli_until_answered(&cluster, 2, arguments);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {refused:?}");
        assert!(refused.stdout.is_empty(), "{refused:?}");
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(told.contains(words), "{told}");
        assert!(told.contains(code) && told.contains("Next: "), "{told}");
        assert!(!told.contains('{') && !told.contains("trace_id"), "{told}");
        assert!(
            told.lines().count() >= 3,
            "title, detail and advice: {told}"
        );
        // Programs get what the node said.
        let with_json: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let refused = cli_until_answered(&cluster, 2, &with_json);
        assert_eq!(refused.status.code(), Some(1), "{with_json:?}: {refused:?}");
        let problem: Value = serde_json::from_slice(&refused.stdout).expect("JSON");
        assert_eq!(problem["code"], code, "{problem}");
    }
    assert_eq!(shards(&cluster, 1).len(), 4);
}

/// Sends what makes no sense and holds the answer against what it must be.
fn assert_refused(
    node: SocketAddr,
    method: &str,
    target: &str,
    body: Option<&str>,
    expected: (u16, &str),
) {
    let request = match body {
        Some(body) => Request::post(target, body.to_owned()),
        None => Request::new(method, target),
    };
    let answer = Http::new(node).send_until_answered(&request);
    let what = format!("{method} {target} {body:?}: {}", answer.text());
    assert_eq!((answer.status, answer.code().as_str()), expected, "{what}");
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{what}"
    );
    let problem = answer.json();
    for name in ["type", "title", "detail", "instance", "outcome", "trace_id"] {
        let told = problem[name].as_str();
        assert!(
            told.is_some_and(|told| !told.is_empty()),
            "{name} of {what}"
        );
    }
    assert_eq!(problem["outcome"], "not_applied", "{what}");
    let wanted = match expected.1 {
        "unknown-node" => problem["members"].is_array(),
        "unknown-shard" => problem["shards"].is_u64(),
        "malformed-body" => problem["pointer"].is_string(),
        _ => true,
    };
    assert!(wanted, "{what}");
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    const NOBODY: (u16, &str) = (404, "unknown-node");
    const NO_SHARD: (u16, &str) = (404, "unknown-shard");
    const NO_BODY: (u16, &str) = (400, "malformed-body");
    let directory = temp_dir();
    let cluster = unbalanced(directory.path());
    let node = cluster.address(1);
    for id in [
        "9",
        "0",
        "-1",
        "+2",
        "abc",
        "2%20",
        "%FF",
        "18446744073709551616",
        "1.0",
    ] {
        for method in ["POST", "DELETE"] {
            assert_refused(node, method, &format!("/v1/nodes/{id}/drain"), None, NOBODY);
        }
        assert_refused(node, "DELETE", &format!("/v1/nodes/{id}"), None, NOBODY);
    }
    for shard in ["4", "x", "-1", "4294967296"] {
        let target = format!("/v1/shards/{shard}/transfer");
        assert_refused(node, "POST", &target, Some("{\"to\":1}"), NO_SHARD);
    }
    let transfer = "/v1/shards/0/transfer";
    for body in [
        "",
        "{",
        "[]",
        "7",
        "{}",
        "{\"to\":\"2\"}",
        "{\"to\":-1}",
        "{\"to\":1,\"x\":2}",
    ] {
        assert_refused(node, "POST", transfer, Some(body), NO_BODY);
        assert_refused(node, "POST", "/v1/nodes", Some(body), NO_BODY);
    }
    assert_refused(node, "POST", transfer, Some("{\"to\":9}"), NOBODY);
    let unknown = Http::new(node)
        .send(&Request::post(transfer, "{\"to\":9}".to_owned()))
        .json();
    assert_eq!(
        unknown["detail"],
        "there is no member 9; the members are 1, 2 and 3"
    );
    assert_eq!(
        (&unknown["members"], &unknown["pointer"]),
        (&json!([1, 2, 3]), &json!("/to"))
    );
    let drain = "/v1/nodes/2/drain";
    assert_refused(
        node,
        "POST",
        "/v1/nodes/2/drain?x=1",
        None,
        (400, "invalid-query"),
    );
    assert_refused(
        node,
        "DELETE",
        "/v1/nodes/2/drain?x=1",
        None,
        (400, "invalid-query"),
    );
    let wrong = Http::new(node).send(&Request::get(drain));
    assert_eq!(
        (wrong.status, wrong.header("allow")),
        (405, Some("POST, DELETE, OPTIONS"))
    );
    // Nothing of this has drained anybody. Asked by two at once, both are told the same.
    wait_role(&cluster, 3, 2, "serving");
    let both: Vec<Response> = std::thread::scope(|scope| {
        let asked = [1, 3].map(|at| {
            let cluster = &cluster;
            scope.spawn(move || ask(cluster, at, "POST", drain))
        });
        asked.map(|asked| asked.join().expect("it answers")).into()
    });
    for answer in both {
        assert_eq!(
            (answer.status, &answer.json()["draining"]),
            (200, &json!(true))
        );
    }
}

#[test]
fn the_only_node_is_asked_to_drain_to_leave_and_to_hand_over() {
    let directory = temp_dir();
    let running = NodeSetup::new(directory.path()).start();
    let mut node = running.client();
    let drained = node.send(&Request::new("POST", "/v1/nodes/1/drain"));
    let told = drained.json();
    assert_eq!(
        (drained.status, &told["moved"]),
        (200, &json!([])),
        "{told}"
    );
    let kept = told["kept"].as_array().expect("a list");
    assert!(
        !kept.is_empty()
            && kept
                .iter()
                .all(|k| k["reason"] == "there is no other member")
    );
    // It leads on.
    assert_eq!(node.send(&client::open("a-1")).status, 201);
    let back = node.send(&Request::new("DELETE", "/v1/nodes/1/drain"));
    assert_eq!(
        (back.status, &back.json()["was_draining"]),
        (200, &json!(true))
    );
    let here = node.send(&Request::post(
        "/v1/shards/0/transfer",
        "{\"to\":1}".to_owned(),
    ));
    assert_eq!((here.status, &here.json()["to"]), (200, &json!(1)));
    let (refused, nobody) = ((409, "membership-refused"), (404, "unknown-node"));
    assert_refused(
        running.address,
        "POST",
        "/v1/shards/0/transfer",
        Some("{\"to\":2}"),
        nobody,
    );
    assert_refused(running.address, "POST", "/v1/nodes/2/drain", None, nobody);
    assert_refused(running.address, "DELETE", "/v1/nodes/2", None, nobody);
    assert_refused(running.address, "DELETE", "/v1/nodes/1", None, refused);
    let last = node.send(&Request::new("DELETE", "/v1/nodes/1")).json();
    assert_eq!(last["rejection"], "last-member");
    let join = "{\"id\":2,\"address\":\"127.0.0.1:9\"}";
    assert_refused(running.address, "POST", "/v1/nodes", Some(join), refused);
}

/// Asks again while there is no leader that could be asked: the founders are written down a moment after
/// the start, and a busy machine may lose a leader.
fn cli_until_answered(cluster: &Cluster, at: u64, arguments: &[&str]) -> Output {
    wait::until("an answer that means something", SOON, || {
        let output = cli(cluster, at, arguments);
        let told = [&*output.stdout, &output.stderr].map(String::from_utf8_lossy);
        let later = ["no-leader", "not-ready", "member-unreachable"];
        let later = later
            .iter()
            .any(|code| told.iter().any(|told| told.contains(code)));
        (!later).then_some(output)
    })
}

fn cli(cluster: &Cluster, at: u64, arguments: &[&str]) -> Output {
    let url = format!("http://{}", cluster.address(at));
    let mut command = Command::new(BINARY);
    command.arg("cluster").args(arguments).args(["--url", &url]);
    command.output().expect("the binary can be started")
}
