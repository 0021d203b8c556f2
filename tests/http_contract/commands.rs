//! Commands: replies, keys, conditions, preferences, refusals.

use crate::client::Client;
use crate::node::{Listener, connect, fresh_id};
use phalanx::http::HttpLimits;
use serde_json::json;

fn path(id: &str, command: &str) -> String {
    format!("/v1/aggregates/account/{id}/commands/{command}")
}

const OPEN: &str = r#"{"owner":"ada","currency":"EUR"}"#;

fn opened(client: &mut Client, name: &str) -> String {
    let id = fresh_id(name);
    assert_eq!(client.post(&path(&id, "OpenAccount"), OPEN).status, 201);
    id
}

#[test]
fn a_command_is_answered_as_the_contract_says() {
    let mut client = connect();
    let id = fresh_id("reply");
    let created = client.post(&path(&id, "OpenAccount"), OPEN);
    assert_eq!(created.status, 201);
    assert_eq!(created.header("content-type"), Some("application/json"));
    assert_eq!(created.header("etag"), Some("\"1\""));
    let location = format!("/v1/aggregates/account/{id}");
    assert_eq!(created.header("location"), Some(location.as_str()));
    let json = created.json();
    assert_eq!(
        created.header("phalanx-position"),
        json["position"].as_str()
    );
    assert_eq!(created.header("idempotent-replay"), None);
    let position = json["position"].clone();
    assert_eq!(
        json,
        json!({"aggregate_type": "account", "aggregate_id": id, "sequence_number": 1,
            "position": position, "events": [{"type": "AccountOpened", "sequence_number": 1}]})
    );
    let deposit = client.post(&path(&id, "Deposit"), r#"{"amount_cents":150}"#);
    assert_eq!(
        (deposit.status, deposit.header("etag")),
        (200, Some("\"2\""))
    );
    assert_eq!(deposit.header("location"), None);
}

#[test]
fn a_retry_gets_the_stored_reply_byte_for_byte() {
    let mut client = connect();
    let id = fresh_id("retry");
    let key = "idempotency-key: \"k, 1\"\r\n".replace(' ', "");
    let first = client.post_with(&path(&id, "OpenAccount"), &key, OPEN);
    let again = client.post_with(&path(&id, "OpenAccount"), &key, OPEN);
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.body, again.body);
    for name in ["etag", "phalanx-position", "location", "content-type"] {
        assert_eq!(first.header(name), again.header(name), "{name}");
    }
    assert_eq!(again.header("idempotent-replay"), Some("true"));
    let other = client.post_with(&path(&id, "Deposit"), &key, r#"{"amount_cents":1}"#);
    other.problem(422, "idempotency-key-reused");
    let body = r#"{"owner":"eve","currency":"EUR"}"#;
    let other = client.post_with(&path(&id, "OpenAccount"), &key, body);
    other.problem(422, "idempotency-key-reused");
}

#[test]
fn a_representation_carries_data_and_is_kept_for_retries() {
    let mut client = connect();
    let id = opened(&mut client, "prefer");
    let fields = "prefer: return=representation\r\nidempotency-key: k\r\n";
    let first = client.post_with(&path(&id, "Deposit"), fields, r#"{"amount_cents":5}"#);
    assert_eq!(
        first.json()["events"][0]["data"],
        json!({"amount_cents": 5})
    );
    assert_eq!(
        first.header("preference-applied"),
        Some("return=representation")
    );
    let again = client.post_with(
        &path(&id, "Deposit"),
        "idempotency-key: k\r\n",
        r#"{"amount_cents":5}"#,
    );
    assert_eq!(first.body, again.body);
    let minimal = client.post_with(
        &path(&id, "Deposit"),
        "prefer: return=minimal\r\n",
        r#"{"amount_cents":5}"#,
    );
    assert_eq!(minimal.header("preference-applied"), Some("return=minimal"));
    assert!(minimal.json()["events"][0].get("data").is_none());
}

#[test]
fn conditions_guard_a_command() {
    let mut client = connect();
    let id = opened(&mut client, "match");
    let deposit = r#"{"amount_cents":1}"#;
    let mut send = |fields: &str| client.post_with(&path(&id, "Deposit"), fields, deposit);
    assert_eq!(send("if-match: \"1\"\r\n").status, 200);
    let stale = send("if-match: \"1\"\r\n").problem(412, "sequence-mismatch");
    assert_eq!(stale["current_sequence_number"], 2);
    assert_eq!(send("if-match: *\r\n").status, 200);
    assert_eq!(send("if-match: \"1\", \"9\", \"3\"\r\n").status, 200);
    send("if-match: \"1\", \"9\", \"3\"\r\n").problem(412, "sequence-mismatch");
    send("if-match: W/\"4\"\r\n").problem(412, "sequence-mismatch");
    send("if-match: \"04\"\r\n").problem(412, "sequence-mismatch");
    send("if-none-match: *\r\n").problem(412, "sequence-mismatch");
    for bad in [
        "if-match: 4\r\n",
        "if-match: \"4\r\n",
        "if-none-match: \"4\"\r\n",
    ] {
        send(bad).problem(400, "invalid-header");
    }
    assert_eq!(send("if-match: \"4\"\r\n").json()["sequence_number"], 5);
    let new = fresh_id("absent");
    let absent = client.post_with(&path(&new, "OpenAccount"), "if-match: *\r\n", OPEN);
    assert_eq!(
        absent.problem(412, "sequence-mismatch")["current_sequence_number"],
        0
    );
    let created = client.post_with(&path(&new, "OpenAccount"), "if-none-match: *\r\n", OPEN);
    assert_eq!(created.status, 201);
}

#[test]
fn a_dry_run_stores_nothing() {
    let mut client = connect();
    let id = opened(&mut client, "dry");
    let dry = client.post(
        &format!("{}?dry_run=true", path(&id, "Deposit")),
        r#"{"amount_cents":5}"#,
    );
    assert_eq!(dry.status, 200);
    assert_eq!(dry.json()["events"][0]["type"], "MoneyDeposited");
    let wet = client.post(
        &format!("{}?dry_run=false", path(&id, "Deposit")),
        r#"{"amount_cents":5}"#,
    );
    assert_eq!(wet.json()["sequence_number"], 2);
    let refused = client.post(
        &format!("{}?dry_run=true", path(&id, "Withdraw")),
        r#"{"amount_cents":6}"#,
    );
    refused.problem(422, "command-rejected");
}

#[test]
fn a_rejection_carries_the_domains_code_and_fields() {
    let mut client = connect();
    let id = opened(&mut client, "reject");
    let refused = client.post(&path(&id, "Withdraw"), r#"{"amount_cents":6}"#);
    let problem = refused.problem(422, "command-rejected");
    assert_eq!(problem["rejection"], "insufficient-funds");
    assert_eq!(problem["balance_cents"], 0);
    assert_eq!(problem["retryable"], false);
    assert_eq!(problem["instance"], path(&id, "Withdraw"));
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let mut client = connect();
    let id = opened(&mut client, "wrong");
    let unknown = client.post("/v1/aggregates/nothing/a/commands/X", "{}");
    unknown.problem(404, "unknown-aggregate-type");
    client
        .post(&path(&id, "Explode"), "{}")
        .problem(404, "unknown-command");
    client
        .post(&path(&id, "deposit"), "{}")
        .problem(404, "unknown-command");
    for (body, pointer) in [
        (r#"{"amount_cents":"5"}"#, "/amount_cents"),
        (r#"{"amount_cents":1.5}"#, "/amount_cents"),
        ("{", ""),
        ("", ""),
        ("[]", ""),
        ("null", ""),
    ] {
        let problem = client
            .post(&path(&id, "Deposit"), body)
            .problem(400, "malformed-body");
        assert_eq!(problem["pointer"], pointer, "{body}");
    }
    for body in [
        r#"{"amount_cents":1,"x":2}"#,
        "{}",
        r#"{"amount_cents":1}x"#,
    ] {
        client
            .post(&path(&id, "Deposit"), body)
            .problem(400, "malformed-body");
    }
    let query = |q: &str| format!("{}?{q}", path(&id, "Deposit"));
    let unknown = client.post(&query("dryrun=true"), r#"{"amount_cents":1}"#);
    assert_eq!(unknown.problem(400, "invalid-query")["parameter"], "dryrun");
    for bad in [
        "dry_run=1",
        "dry_run",
        "dry_run=true&dry_run=true",
        "%ff=1",
        "after=1:1",
    ] {
        client
            .post(&query(bad), r#"{"amount_cents":1}"#)
            .problem(400, "invalid-query");
    }
}

#[test]
fn ids_are_decoded_once_and_never_escape_their_segment() {
    let mut client = connect();
    let same = opened(&mut client, "id~x");
    let encoded = same.replace('~', "%7E");
    let deposit = client.post(&path(&encoded, "Deposit"), r#"{"amount_cents":1}"#);
    assert_eq!(deposit.json()["aggregate_id"], same.as_str());
    let long = "x".repeat(201);
    let huge = "x".repeat(6_000);
    for bad in [
        "",
        ".",
        "..",
        "%2e%2e",
        "%2E",
        "a%2Fb",
        "..%2F..%2Fetc%2Fpasswd",
        "a%00b",
        "%00",
        "a%ff",
        "caf%C3%A9",
        "cafe%CC%81",
        "a%20b",
        "a%2520b",
        "a+b",
        "a,b",
        "%",
        "%4",
        "a%zz",
        "a;b",
        long.as_str(),
        huge.as_str(),
    ] {
        client
            .post(&path(bad, "Deposit"), r#"{"amount_cents":1}"#)
            .problem(400, "invalid-id");
        client
            .get(&format!("/v1/aggregates/account/{bad}"))
            .problem(400, "invalid-id");
    }
    let good = "x".repeat(200);
    client
        .post(&path(&good, "Deposit"), r#"{"amount_cents":1}"#)
        .problem(422, "command-rejected");
    let at = client.post(
        "/v1/aggregates/workshop_day/north@2026-11-21/commands/CancelMaintenanceJob",
        "{}",
    );
    at.problem(400, "malformed-body");
}

#[test]
fn headers_are_checked() {
    let mut client = connect();
    let id = opened(&mut client, "headers");
    let deposit = r#"{"amount_cents":1}"#;
    let mut send = |fields: &str| client.post_with(&path(&id, "Deposit"), fields, deposit);
    for bad in [
        "idempotency-key: \r\n".to_owned(),
        "idempotency-key: a b\r\n".to_owned(),
        "idempotency-key: \u{e9}\r\n".to_owned(),
        format!("idempotency-key: {}\r\n", "k".repeat(256)),
        "idempotency-key: a\r\nidempotency-key: a\r\n".to_owned(),
    ] {
        let problem = send(&bad).problem(400, "invalid-header");
        assert_eq!(problem["header"], "Idempotency-Key", "{bad}");
    }
    let longest = format!("idempotency-key: {}\r\n", "k".repeat(255));
    assert_eq!(send(&longest).status, 200);
    for good in [
        "application/json; charset=utf-8",
        "application/vnd.x+json",
        "APPLICATION/JSON",
    ] {
        assert_eq!(send(&format!("content-type: {good}\r\n")).status, 200);
    }
    for bad in [
        "text/plain",
        "application/xml",
        "json",
        "multipart/form-data; boundary=x",
    ] {
        let answer = send(&format!("content-type: {bad}\r\n"));
        answer.problem(415, "unsupported-media-type");
        assert_eq!(answer.header("accept"), Some("application/json"));
    }
    let answer = send("content-encoding: gzip\r\n");
    answer.problem(415, "unsupported-media-type");
    assert_eq!(answer.header("accept-encoding"), Some("identity"));
}

#[test]
fn the_trace_is_continued_or_started() {
    let mut client = connect();
    let id = opened(&mut client, "trace");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let mut refused = |parent: &str| {
        let fields = format!("traceparent: {parent}\r\n");
        let reply = client.post_with(&path(&id, "Withdraw"), &fields, r#"{"amount_cents":1}"#);
        reply.problem(422, "command-rejected")["trace_id"].clone()
    };
    assert_eq!(refused(&format!("00-{trace}-b7ad6b7169203331-01")), trace);
    assert_ne!(refused(&format!("00-{trace}-0000000000000000-01")), trace);
    assert_ne!(refused("nonsense"), trace);
}

#[test]
fn bodies_over_the_limit_are_refused_early_or_late() {
    let mut client = connect();
    let id = opened(&mut client, "size");
    let at_limit = format!("{{\"x\":\"{}\"}}", "y".repeat(1024 * 1024 - 8));
    assert_eq!(at_limit.len(), 1024 * 1024);
    client
        .post(&path(&id, "Deposit"), &at_limit)
        .problem(400, "malformed-body");
    // By its announced length, before any of it is sent.
    let announced = format!(
        "POST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 1048577\r\n\r\n",
        path(&id, "Deposit")
    );
    client.write(announced.as_bytes());
    client.read().problem(413, "content-too-large");
    // By what arrives.
    let mut client = connect();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
        path(&id, "Deposit")
    );
    client.write(head.as_bytes());
    let chunk = format!("10000\r\n{}\r\n", "y".repeat(0x10000));
    for _ in 0..17 {
        if !client.try_write(chunk.as_bytes()) {
            break;
        }
    }
    client.read().problem(413, "content-too-large");
    client.assert_closed();
}

#[test]
fn time_running_out_is_an_unknown_outcome() {
    let listener = Listener::start(HttpLimits {
        request_timeout_ms: 300,
        ..HttpLimits::default()
    });
    let mut client = listener.connect();
    // On a busy machine the time may run out before the command has come to its aggregate.
    let mut tries = (0..20).map(|_| {
        let id = fresh_id("think");
        let think = format!("/v1/aggregates/probe/{id}/commands/Think");
        (id, client.post(&think, r#"{"millis":5000}"#))
    });
    let begun = tries.find(|(_, slow)| slow.status != 503);
    let (id, slow) = begun.expect("one of them comes in time");
    let problem = slow.problem(504, "outcome-unknown");
    assert_eq!(problem["retryable"], true);
    // The aggregate is still thinking; a read stores nothing, so its outcome is certain.
    let read = client.get_with(
        &format!("/v1/aggregates/probe/{id}"),
        "phalanx-justification: often\r\n",
    );
    assert_eq!(read.problem(503, "overloaded")["outcome"], "not_applied");
}

#[test]
fn a_panicking_aggregate_is_set_aside_alone() {
    let mut client = connect();
    let id = fresh_id("panic");
    let at = |id: &str, command: &str| format!("/v1/aggregates/probe/{id}/commands/{command}");
    client
        .post(&at(&id, "Panic"), "{}")
        .problem(500, "aggregate-quarantined");
    client
        .post(&at(&id, "Count"), r#"{"times":1}"#)
        .problem(500, "aggregate-quarantined");
    let other = fresh_id("panic");
    assert_eq!(
        client.post(&at(&other, "Count"), r#"{"times":1}"#).status,
        201
    );
    let none = client.post(&at(&other, "Count"), r#"{"times":0}"#);
    assert_eq!(
        (none.status, none.json()["events"].clone()),
        (200, json!([]))
    );
}
