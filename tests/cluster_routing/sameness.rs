//! Every node gives the same answer about every aggregate.

use serde_json::{Value, json};

use crate::ready_cluster;
use crate::support::audit::assert_same_reply;
use crate::support::client;
use crate::support::http::{Http, Request, Response};
use crate::support::temp_dir;

const ACCOUNTS: usize = 12;
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn ids() -> Vec<String> {
    (0..ACCOUNTS).map(|n| format!("same-{n}")).collect()
}

#[test]
fn every_node_answers_for_every_aggregate_and_says_the_same() {
    let directory = temp_dir();
    let cluster = ready_cluster(directory.path());
    let mut nodes: Vec<Http> = cluster.addresses().into_iter().map(Http::new).collect();
    let mut served_by = std::collections::BTreeSet::new();
    for (n, id) in ids().iter().enumerate() {
        let opened = nodes[n % 3].send_until_answered(&client::open(id));
        assert_eq!(opened.status, 201, "{}", opened.text());
        let place = format!("/v1/aggregates/account/{id}");
        assert_eq!(opened.header("Location"), Some(&*place));
        let deposit = client::deposit(id, 5)
            .key("five")
            .header("Prefer", "return=representation")
            .header("traceparent", TRACE);
        let paid = nodes[(n + 1) % 3].send_until_answered(&deposit);
        assert_eq!((paid.status, paid.header("ETag")), (200, Some("\"2\"")));
        assert_eq!(paid.header("Idempotent-Replay"), None);
        assert_eq!(paid.json()["events"][0]["data"], json!({"amount_cents": 5}));
        let position = paid
            .header("Phalanx-Position")
            .expect("a position")
            .to_owned();

        for node in &mut nodes {
            let again = node.send_until_answered(&deposit);
            assert_same_reply(&paid, &again);
            assert_eq!(again.header("Idempotent-Replay"), Some("true"));
        }
        same(&mut nodes, &client::deposit(id, 6).key("five"), 422);
        let refused = same(&mut nodes, &client::overdraw(id), 422);
        assert_eq!(refused["rejection"], "insufficient-funds");
        assert_eq!(refused["balance_cents"], 5);
        let stale = client::deposit(id, 7).header("If-Match", "\"1\"");
        assert_eq!(same(&mut nodes, &stale, 412)["current_sequence_number"], 2);
        let malformed = Request::command("account", id, "Deposit", "{\"amount_cents\":\"x\"}");
        assert_eq!(
            same(&mut nodes, &malformed, 400)["pointer"],
            "/amount_cents"
        );

        let state = same(&mut nodes, &client::fresh_after(id, &position), 200);
        assert_eq!(state["state"]["balance_cents"], 5);
        served_by.insert(state["served_by"]["node"].as_u64());
        let past = Request::get(&format!("{place}?at_sequence=1"));
        assert_eq!(same(&mut nodes, &past, 200)["state"]["balance_cents"], 0);
        let between = Request::get(&format!("{place}/diff?from=1&to=2"));
        let between = same(&mut nodes, &between, 200);
        assert_eq!(between["difference"][0]["value"], 5);
        let beyond = Request::get(&format!("{place}/diff?from=1&to=3"));
        let beyond = same(&mut nodes, &beyond, 404);
        assert_eq!(beyond["code"], "sequence-not-reached");
        let inserted = json!({"after_sequence": 1, "type": "MoneyDeposited",
            "data": {"amount_cents": 30}});
        let question = json!({ "insert": [inserted] }).to_string();
        let what_if = same(
            &mut nodes,
            &Request::post(&format!("{place}/what-if"), question),
            200,
        );
        assert_eq!(what_if["hypothetical"]["balance_cents"], 35);
        let beyond = json!({"after_sequence": 3, "type": "MoneyDeposited",
            "data": {"amount_cents": 30}});
        let question = json!({ "insert": [beyond] }).to_string();
        let refused = same(
            &mut nodes,
            &Request::post(&format!("{place}/what-if"), question),
            400,
        );
        assert_eq!(refused["pointer"], "/insert/0/after_sequence");
        let history = same(&mut nodes, &Request::get(&format!("{place}/events")), 200);
        assert_eq!(history[1]["traceparent"], TRACE);
        assert_eq!(history[1]["causationid"], "five");
        assert_eq!(history[1]["command"], "Deposit");
        let dry = Request::post(
            &format!("{place}/commands/Deposit?dry_run=true"),
            "{\"amount_cents\":9}",
        );
        assert_eq!(same(&mut nodes, &dry, 200)["sequence_number"], 3);
        let unchanged = client::fresh_after(id, &position).header("If-None-Match", "\"2\"");
        for node in &mut nodes {
            assert_eq!(node.send_until_answered(&unchanged).status, 304);
        }
    }
    same(&mut nodes, &client::fresh("nobody"), 404);
    // Each led something at first, and may have lost it meanwhile on a busy machine; each has forwarded.
    assert!(served_by.len() > 1, "requests are handed on: {served_by:?}");
    for node in 1..=3 {
        let forwards = cluster.node(node).metric("phalanx_forwards_total");
        assert!(forwards.is_some_and(|count| count >= 1.0), "{forwards:?}");
    }
}

/// Sends to every node; the answers agree in everything but what differs from request to request.
///
/// They name who served them, and a leader may move between two of them; it does not do so each time.
fn same(nodes: &mut [Http], request: &Request, status: u16) -> Value {
    let found = (0..10).find_map(|_| try_same(nodes, request, status).ok());
    found.unwrap_or_else(|| {
        try_same(nodes, request, status).unwrap_or_else(|differ| panic!("{request:?}: {differ}"))
    })
}

fn try_same(nodes: &mut [Http], request: &Request, status: u16) -> Result<Value, String> {
    let answers: Vec<Response> = nodes
        .iter_mut()
        .map(|node| node.send_until_answered(request))
        .collect();
    let comparable = |answer: &Response| {
        assert_eq!(answer.status, status, "{request:?}: {}", answer.text());
        let mut body = answer.json();
        if let Some(problem) = body.as_object_mut() {
            problem.remove("trace_id");
        }
        (body, answer.header("ETag").map(str::to_owned))
    };
    let first = comparable(&answers[0]);
    for answer in &answers {
        let other = comparable(answer);
        if other != first {
            return Err(format!("{other:?} and {first:?}"));
        }
    }
    Ok(first.0)
}
