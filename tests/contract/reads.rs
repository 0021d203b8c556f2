//! Chapter "Fresh reads": the state from memory, and the reason that each read must give.

use serde_json::json;

use crate::cases::{Fixture, assert_problem, case, run};
use crate::support::client;
use crate::support::http::{Connection, Request, Response};

const TARGET: &str = "/v1/aggregates/account/f-1";

fn opened() -> (Fixture, Response) {
    let fixture = Fixture::new();
    let mut http = fixture.node.client();
    client::expect_success(&mut http, &client::open("f-1"));
    let reply = client::expect_success(&mut http, &client::deposit("f-1", 150));
    (fixture, reply)
}

#[test]
fn a_fresh_read_shows_the_state_after_every_answered_command() {
    let (fixture, reply) = opened();
    let position = reply.json()["position"]
        .as_str()
        .expect("a position")
        .to_owned();
    for request in [client::fresh("f-1"), client::fresh_after("f-1", &position)] {
        let read = fixture.send(&request);
        assert_eq!(read.status, 200, "{}", read.text());
        assert_eq!(read.header("ETag"), Some("\"2\""));
        assert_eq!(read.header("Content-Type"), Some("application/json"));
        let body = read.json();
        let state = json!({"owner": "owner of f-1", "currency": "EUR", "balance_cents": 150, "status": "open"});
        assert_eq!(body["state"], state);
        assert_eq!(body["aggregate_type"], json!("account"));
        assert_eq!(body["aggregate_id"], json!("f-1"));
        assert_eq!(body["sequence_number"], json!(2));
        assert_eq!(body["position"], json!(position));
        let shard: u64 = position
            .split(':')
            .next()
            .and_then(|shard| shard.parse().ok())
            .expect("a shard");
        assert_eq!(body["served_by"]["node"], json!(1));
        assert_eq!(body["served_by"]["shard"], json!(shard));
        assert!(
            body["served_by"]["term"]
                .as_u64()
                .is_some_and(|term| term >= 1)
        );
    }
}

#[test]
fn each_read_sees_the_write_that_was_answered_just_before() {
    let (fixture, _) = opened();
    let (mut writer, mut reader) = (fixture.node.client(), fixture.node.client());
    for n in 1..=300 {
        let reply = client::expect_success(&mut writer, &client::deposit("f-1", 1)).json();
        let position = reply["position"].as_str().expect("a position").to_owned();
        let read = client::expect_success(&mut reader, &client::fresh_after("f-1", &position));
        assert_eq!(read.json()["state"]["balance_cents"], json!(150 + n));
    }
}

#[test]
fn a_read_without_a_reason_is_told_which_reasons_and_views_there_are() {
    let (fixture, _) = opened();
    let refused = fixture.send(&Request::get(TARGET));
    assert_problem(&refused, 428, "justification-required");
    let text = refused.text();
    for name in ["fraud-check", "teller-screen", "accounts", "account_totals"] {
        assert!(
            text.contains(&format!("\"{name}\"")),
            "{name} is not listed: {text}"
        );
    }
}

#[test]
fn reasons_and_positions_are_checked() {
    let (fixture, reply) = opened();
    let position = reply.json()["position"]
        .as_str()
        .expect("a position")
        .to_owned();
    let (shard, number) = position.split_once(':').expect("two parts");
    let shard: u64 = shard.parse().expect("a number");
    let after = |position: &str| Request::get(&format!("{TARGET}?after={position}"));
    let because = |name: &str| Request::get(TARGET).header("Phalanx-Justification", name);
    let elsewhere = after(&format!("{}:{number}", (shard + 1) % 4));
    run(
        &fixture.node,
        &[
            case(
                "unknown reason",
                because("curiosity"),
                403,
                "justification-unknown",
            ),
            case(
                "a reason that needs a position",
                because("after-write"),
                403,
                "justification-unknown",
            ),
            case("position of another shard", elsewhere, 400, "invalid-query"),
            case("no such shard", after("4096:1"), 400, "invalid-query"),
            case("no position", after("yesterday"), 400, "invalid-query"),
            case("half a position", after("1:"), 400, "invalid-query"),
            case("empty position", after(""), 400, "invalid-query"),
            case("negative position", after("-1:1"), 400, "invalid-query"),
            case(
                "too large position",
                after("0:99999999999999999999999"),
                400,
                "invalid-query",
            ),
            case(
                "missing aggregate",
                client::fresh("nobody"),
                404,
                "aggregate-not-found",
            ),
            case(
                "unknown type",
                Request::get("/v1/aggregates/spaceship/f-1").header("Phalanx-Justification", "x"),
                404,
                "unknown-aggregate-type",
            ),
        ],
    );
}

#[test]
fn an_unchanged_state_is_not_sent_again() {
    let (fixture, _) = opened();
    let unchanged = fixture.send(&client::fresh("f-1").header("If-None-Match", "\"2\""));
    assert_eq!(unchanged.status, 304, "{}", unchanged.text());
    assert!(unchanged.body.is_empty());
    assert_eq!(unchanged.header("ETag"), Some("\"2\""));
    let changed = fixture.send(&client::fresh("f-1").header("If-None-Match", "\"1\""));
    assert_eq!(changed.status, 200);
}

#[test]
fn a_reason_over_its_rate_is_refused_for_a_while_and_counted() {
    let (fixture, reply) = opened();
    let mut http = fixture.node.client();
    let request = Request::get(TARGET).header("Phalanx-Justification", "teller-screen");
    // 100 a second are allowed. They are asked for in one breath, so that the machine would have to be
    // absurdly slow to answer them all.
    let mut allowed = 0;
    let mut refused = None;
    for _ in 0..20 {
        let mut breath = Connection::open(fixture.node.address).expect("the node listens");
        let all = request.to_bytes(fixture.node.address).repeat(500);
        breath.write(&all).expect("the node reads");
        for _ in 0..500 {
            let response = breath.read_response(false).expect("an answer");
            match response.status {
                200 => allowed += 1,
                _ => refused = refused.or(Some(response)),
            }
        }
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("the rate limit holds");
    assert_problem(&refused, 429, "rate-limited");
    assert!(
        allowed >= 50,
        "a burst of a second's share is allowed, not {allowed}"
    );
    let position = reply.json()["position"]
        .as_str()
        .expect("a position")
        .to_owned();
    let read = http.send(&client::fresh_after("f-1", &position));
    assert_eq!(read.status, 200, "a read after a write is always allowed");

    let metrics = http.get("/metrics").text();
    let counted = metrics.lines().any(|line| {
        line.starts_with("phalanx_fresh_reads_total{")
            && line.contains("aggregate_type=\"account\"")
            && line.contains("justification=\"teller-screen\"")
            && line.rsplit(' ').next().and_then(|n| n.parse().ok()) >= Some(f64::from(allowed))
    });
    assert!(counted, "{metrics}");
    assert!(metrics.contains("justification=\"after-write\""));
    assert!(!metrics.contains("f-1"), "ids are never labels");
}
