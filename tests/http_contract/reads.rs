//! Fresh reads, their reasons, and reads of the past.

use std::time::Instant;

use crate::node::{connect, fresh_id};
use serde_json::json;

fn counted(times: u64) -> (crate::client::Client, String, String) {
    let mut client = connect();
    let path = format!("/v1/aggregates/probe/{}", fresh_id("read"));
    let body = format!("{{\"times\":{times}}}");
    let reply = client.post(&format!("{path}/commands/Count"), &body);
    assert_eq!(reply.status, 201);
    let position = reply.header("phalanx-position").unwrap().to_owned();
    (client, path, position)
}

#[test]
fn a_reader_after_a_write_sees_the_state() {
    let (mut client, path, position) = counted(3);
    let reply = client.get(&format!("{path}?after={position}"));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("etag"), Some("\"3\""));
    let json = reply.json();
    assert_eq!(json["aggregate_type"], "probe");
    assert_eq!(json["sequence_number"], 3);
    assert_eq!(json["position"], position);
    assert_eq!(json["state"], json!({"count": 3}));
    assert_eq!(json["served_by"]["node"], 1);
    assert!(json["served_by"]["term"].as_u64().unwrap() >= 1);
    let shard: u64 = position.split(':').next().unwrap().parse().unwrap();
    assert_eq!(json["served_by"]["shard"], shard);
    let encoded = position.replace(':', "%3A");
    assert_eq!(client.get(&format!("{path}?after={encoded}")).status, 200);
}

#[test]
fn a_read_without_a_reason_learns_which_there_are() {
    let (mut client, path, _) = counted(1);
    let problem = client.get(&path).problem(428, "justification-required");
    assert_eq!(problem["justifications"][0]["name"], "often");
    assert_eq!(problem["justifications"][0]["description"], "For a test.");
    assert_eq!(problem["justifications"][1]["rate_limit_per_second"], 1);
    assert_eq!(problem["views"], json!(["probes"]));
    let unknown = client.get_with(&path, "phalanx-justification: curiosity\r\n");
    let problem = unknown.problem(403, "justification-unknown");
    assert_eq!(problem["justifications"][0]["name"], "often");
    let off = client.get_with(&path, "phalanx-justification: off\r\n");
    assert!(
        off.problem(429, "rate-limited")["detail"]
            .as_str()
            .unwrap()
            .contains("turned off")
    );
    let twice = "phalanx-justification: often\r\nphalanx-justification: often\r\n";
    client.get_with(&path, twice).problem(400, "invalid-header");
    assert_eq!(
        client
            .get_with(&path, "phalanx-justification: often\r\n")
            .status,
        200
    );
    client
        .get("/v1/aggregates/nothing/a")
        .problem(404, "unknown-aggregate-type");
    client
        .get("/v1/aggregates/nothing/a%2Fb")
        .problem(404, "unknown-aggregate-type");
}

#[test]
fn a_reason_has_a_rate() {
    let (mut client, path, _) = counted(1);
    let mut rare = || client.get_with(&path, "phalanx-justification: rare\r\n");
    // One a second, and one that nobody used before; on a machine that stands still there are more.
    let began = Instant::now();
    let mut allowed = 0;
    let over = loop {
        let reply = rare();
        match reply.status {
            200 => allowed += 1,
            _ => break reply,
        }
        let most = 1 + began.elapsed().as_secs() + 1;
        assert!(allowed <= most && most < 60, "{allowed} of {most}");
    };
    assert!(allowed >= 1);
    assert_eq!(over.problem(429, "rate-limited")["retryable"], true);
}

#[test]
fn positions_and_queries_are_checked() {
    let (mut client, path, position) = counted(1);
    let (shard, number) = position.split_once(':').unwrap();
    let other = (shard.parse::<u32>().unwrap() + 1) % 4;
    for bad in [
        format!("after={other}:{number}"),
        format!("after=99:{number}"),
        "after=".to_owned(),
        "after=1".to_owned(),
        "after=1:2:3".to_owned(),
        "after=-1:2".to_owned(),
        "after=4294967296:1".to_owned(),
        format!("after={position}&after={position}"),
        format!("after={position}&at_sequence=1"),
        "at_sequence=1&as_of=2026-11-21T08:30:00Z".to_owned(),
        "at_sequence=0".to_owned(),
        "at_sequence=-1".to_owned(),
        "at_sequence=x".to_owned(),
        "at_sequence=99999999999999999999".to_owned(),
        "as_of=yesterday".to_owned(),
        "as_of=2026-11-21".to_owned(),
        "as_of=2026-11-21T08:30:00".to_owned(),
        "as_of=2026-13-21T08:30:00Z".to_owned(),
        "since=1".to_owned(),
    ] {
        client
            .get(&format!("{path}?{bad}"))
            .problem(400, "invalid-query");
    }
}

#[test]
fn an_unchanged_state_is_not_sent_again() {
    let (mut client, path, _) = counted(3);
    let mut get = |field: &str| {
        client.get_with(
            &path,
            &format!("phalanx-justification: often\r\n{field}\r\n"),
        )
    };
    for same in ["\"3\"", "*", "\"1\", \"3\"", "W/\"3\""] {
        let reply = get(&format!("if-none-match: {same}"));
        assert_eq!(
            (reply.status, reply.header("etag")),
            (304, Some("\"3\"")),
            "{same}"
        );
        assert_eq!(reply.header("content-type"), None);
    }
    assert_eq!(get("if-none-match: \"2\"").status, 200);
    get("if-none-match: 3").problem(400, "invalid-header");
    assert_eq!(get("if-match: \"3\"").status, 200);
    get("if-match: \"2\"").problem(412, "sequence-mismatch");
}

#[test]
fn an_aggregate_exists_from_its_first_event() {
    let mut client = connect();
    let path = format!("/v1/aggregates/probe/{}", fresh_id("none"));
    let fields = "phalanx-justification: often\r\n";
    client
        .get_with(&path, fields)
        .problem(404, "aggregate-not-found");
    client
        .get(&format!("{path}?at_sequence=1"))
        .problem(404, "aggregate-not-found");
    client
        .get(&format!("{path}?as_of=2026-11-21T08:30:00Z"))
        .problem(404, "aggregate-not-found");
    client
        .get(&format!("{path}/events"))
        .problem(404, "aggregate-not-found");
}

#[test]
fn the_past_needs_no_reason() {
    let (mut client, path, _) = counted(3);
    let before = client.get(&format!("{path}?at_sequence=2"));
    assert_eq!(before.json()["state"], json!({"count": 2}));
    assert_eq!(before.header("etag"), Some("\"2\""));
    let beyond = client.get(&format!("{path}?at_sequence=4"));
    let problem = beyond.problem(404, "sequence-not-reached");
    assert_eq!(problem["current_sequence_number"], 3);
    let later = client.get(&format!("{path}?as_of=2999-01-01T00:00:00+02:00"));
    assert_eq!(later.json()["sequence_number"], 3);
    let earlier = client.get(&format!("{path}?as_of=2001-01-01T00:00:00Z"));
    earlier.problem(404, "aggregate-not-found");
}

#[test]
fn reads_are_counted_by_reason() {
    let (mut client, path, position) = counted(1);
    client.get(&format!("{path}?after={position}"));
    client.get_with(&path, "phalanx-justification: often\r\n");
    let metrics = client.get("/metrics").text();
    for reason in ["after-write", "often"] {
        let series = format!(
            "phalanx_fresh_reads_total{{aggregate_type=\"probe\",justification=\"{reason}\"}}"
        );
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&series))
            .unwrap();
        assert!(line.rsplit(' ').next().unwrap().parse::<u64>().unwrap() >= 1);
    }
    assert!(
        !metrics.contains(path.rsplit('/').next().unwrap()),
        "an id is a label"
    );
}
