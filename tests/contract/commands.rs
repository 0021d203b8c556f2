//! Chapter "Commands": what a success says, what is stored and what is not.

use serde_json::{Value, json};

use crate::cases::Fixture;
use crate::support::client;
use crate::support::http::{Request, Response};

fn command(id: &str, command: &str, body: Value) -> Request {
    Request::command("account", id, command, body.to_string())
}

fn open(id: &str) -> Request {
    command(
        id,
        "OpenAccount",
        json!({"owner": "ada", "currency": "EUR"}),
    )
}

fn deposit(id: &str, amount_cents: i64) -> Request {
    command(id, "Deposit", json!({ "amount_cents": amount_cents }))
}

fn assert_reply(reply: &Response, status: u16, sequence: u64, event: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
    let body = reply.json();
    let position = body["position"].as_str().expect("a position").to_owned();
    let expected = json!({
        "aggregate_type": "account",
        "aggregate_id": "c-1",
        "sequence_number": sequence,
        "position": position,
        "events": [{"type": event, "sequence_number": sequence}],
    });
    assert_eq!(body, expected);
    assert_eq!(
        reply.header("ETag"),
        Some(format!("\"{sequence}\"").as_str())
    );
    assert_eq!(reply.header("Phalanx-Position"), Some(position.as_str()));
    assert_eq!(reply.header("Idempotent-Replay"), None);
}

#[test]
fn a_command_that_creates_is_answered_201_and_a_later_one_200() {
    let fixture = Fixture::new();
    assert_reply(&fixture.send(&open("c-1")), 201, 1, "AccountOpened");
    assert_reply(
        &fixture.send(&deposit("c-1", 150)),
        200,
        2,
        "MoneyDeposited",
    );
    assert_reply(
        &fixture.send(&command("c-1", "Withdraw", json!({"amount_cents": 50}))),
        200,
        3,
        "MoneyWithdrawn",
    );
}

#[test]
fn positions_grow_with_each_command_of_an_aggregate() {
    let fixture = Fixture::new();
    let mut http = fixture.node.client();
    client::expect_success(&mut http, &open("c-1"));
    let mut before = None;
    for _ in 0..20 {
        let reply = client::expect_success(&mut http, &deposit("c-1", 1)).json();
        let position = reply["position"].as_str().expect("a position").to_owned();
        let (shard, number) = position.split_once(':').expect("shard and number");
        let place = (
            shard.parse::<u32>().expect("a shard"),
            number.parse::<u64>().expect("a number"),
        );
        if let Some((shard, number)) = before {
            assert_eq!(place.0, shard);
            assert!(place.1 > number, "{position} after {number}");
        }
        before = Some(place);
    }
}

#[test]
fn a_client_that_prefers_it_gets_the_data_of_the_events() {
    let fixture = Fixture::new();
    let reply = fixture.send(&open("c-1").header("Prefer", "return=representation"));
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(
        reply.json()["events"][0]["data"],
        json!({"owner": "ada", "currency": "EUR"})
    );
    let reply = fixture.send(&deposit("c-1", 7).header("Prefer", "return=representation"));
    assert_eq!(
        reply.json()["events"][0]["data"],
        json!({"amount_cents": 7})
    );
    let reply = fixture.send(&deposit("c-1", 7).header("Prefer", "return=minimal"));
    assert_eq!(reply.json()["events"][0].get("data"), None);
}

#[test]
fn a_dry_run_decides_and_stores_nothing() {
    let fixture = Fixture::new();
    let dry = |id: &str, name: &str, body: Value| {
        let target = format!("/v1/aggregates/account/{id}/commands/{name}?dry_run=true");
        fixture.send(&Request::post(&target, body.to_string()))
    };
    let opening = json!({"owner": "ada", "currency": "EUR"});
    let reply = dry("c-2", "OpenAccount", opening);
    assert!(
        matches!(reply.status, 200 | 201),
        "{} {}",
        reply.status,
        reply.text()
    );
    assert_eq!(reply.json()["events"][0]["type"], json!("AccountOpened"));
    let missing = fixture.send(&client::fresh("c-2"));
    assert_eq!(
        (missing.status, missing.code().as_str()),
        (404, "aggregate-not-found")
    );

    client::expect_success(&mut fixture.node.client(), &open("c-1"));
    let reply = dry("c-1", "Deposit", json!({"amount_cents": 5}));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["events"][0]["type"], json!("MoneyDeposited"));
    let reply = dry("c-1", "Withdraw", json!({"amount_cents": 5}));
    assert_eq!(
        reply.code(),
        "command-rejected",
        "the deposit was not stored"
    );
    let entries = client::history(&mut fixture.node.client(), "c-1").expect("a history");
    assert_eq!(entries.len(), 1);
}

#[test]
fn a_dry_run_does_not_use_up_its_idempotency_key() {
    let fixture = Fixture::new();
    client::expect_success(&mut fixture.node.client(), &open("c-1"));
    let target = "/v1/aggregates/account/c-1/commands/Deposit?dry_run=true";
    let dry = fixture.send(&Request::post(target, r#"{"amount_cents":5}"#).key("k"));
    assert_eq!(dry.status, 200, "{}", dry.text());
    let real = fixture
        .send(&Request::command("account", "c-1", "Deposit", r#"{"amount_cents":5}"#).key("k"));
    assert_eq!(real.status, 200, "{}", real.text());
    assert_eq!(real.header("Idempotent-Replay"), None);
    let entries = client::history(&mut fixture.node.client(), "c-1").expect("a history");
    assert_eq!(entries.len(), 2);
}

#[test]
fn commands_without_a_key_run_as_often_as_they_are_sent() {
    let fixture = Fixture::new();
    client::expect_success(&mut fixture.node.client(), &open("c-1"));
    for sequence in 2..5 {
        let reply = fixture.send(&deposit("c-1", 10));
        assert_eq!(reply.json()["sequence_number"], json!(sequence));
    }
}
