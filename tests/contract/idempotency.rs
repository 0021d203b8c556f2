//! Idempotency keys: one key, one batch of events, one reply.

use std::sync::Barrier;
use std::time::Duration;

use serde_json::json;

use crate::cases::{Fixture, assert_problem, case, run};
use crate::support::audit::assert_same_reply;
use crate::support::client;
use crate::support::http::{Http, Request, Response};
use crate::support::wait;

fn deposit(amount_cents: i64, key: &str) -> Request {
    client::deposit("i-1", amount_cents).key(key)
}

fn opened() -> Fixture {
    let fixture = Fixture::new();
    client::expect_success(&mut fixture.node.client(), &client::open("i-1"));
    fixture
}

fn assert_replay(first: &Response, again: &Response) {
    assert_same_reply(first, again);
    assert_eq!(again.header("Idempotent-Replay"), Some("true"));
}

fn events_of(fixture: &Fixture) -> usize {
    client::history(&mut fixture.node.client(), "i-1")
        .expect("a history")
        .len()
}

#[test]
fn the_same_key_command_and_body_get_the_stored_reply_byte_for_byte() {
    let fixture = Fixture::new();
    let created = fixture.send(&client::open("i-1"));
    assert_eq!(created.status, 201);
    let first = fixture.send(&deposit(5, "k"));
    let plain = fixture.send(&deposit(6, "represented").header("Prefer", "return=representation"));
    client::expect_success(&mut fixture.node.client(), &deposit(7, "later"));
    assert_replay(&created, &fixture.send(&client::open("i-1")));
    assert_replay(&first, &fixture.send(&deposit(5, "k")));
    let again = deposit(6, "represented").header("Prefer", "return=representation");
    assert_replay(&plain, &fixture.send(&again));
    assert_eq!(events_of(&fixture), 4);
}

#[test]
fn a_key_with_another_body_or_command_is_refused_and_changes_nothing() {
    let fixture = opened();
    let first = fixture.send(&deposit(5, "k"));
    assert_problem(
        &fixture.send(&deposit(6, "k")),
        422,
        "idempotency-key-reused",
    );
    let other = Request::command("account", "i-1", "ReceivePremium", r#"{"amount_cents":5}"#);
    assert_problem(
        &fixture.send(&other.key("k")),
        422,
        "idempotency-key-reused",
    );
    assert_replay(&first, &fixture.send(&deposit(5, "k")));
    assert_eq!(events_of(&fixture), 2);
}

#[test]
fn a_key_belongs_to_its_aggregate() {
    let fixture = opened();
    client::expect_success(&mut fixture.node.client(), &client::open("i-2"));
    client::expect_success(&mut fixture.node.client(), &deposit(5, "k"));
    let other = fixture.send(&client::deposit("i-2", 6).key("k"));
    assert_eq!(other.status, 200, "{}", other.text());
    assert_eq!(other.header("Idempotent-Replay"), None);
}

#[test]
fn after_a_rejection_a_retry_decides_again() {
    let fixture = opened();
    let withdraw = Request::command("account", "i-1", "Withdraw", r#"{"amount_cents":5}"#);
    let withdraw = withdraw.key("w");
    assert_problem(&fixture.send(&withdraw), 422, "command-rejected");
    client::expect_success(&mut fixture.node.client(), &deposit(5, "d"));
    let now = fixture.send(&withdraw);
    assert_eq!(now.status, 200, "{}", now.text());
    assert_replay(&now, &fixture.send(&withdraw));
}

#[test]
fn a_stored_reply_survives_a_restart_and_a_kill() {
    let mut fixture = opened();
    let first = fixture.send(&deposit(5, "k"));
    let plain = deposit(6, "r").header("Prefer", "return=representation");
    let represented = fixture.send(&plain);
    fixture.kill_and_restart();
    assert_replay(&first, &fixture.send(&deposit(5, "k")));
    assert_replay(&represented, &fixture.send(&plain));
    fixture.stop_and_restart();
    assert_replay(&first, &fixture.send(&deposit(5, "k")));
    assert_problem(
        &fixture.send(&deposit(6, "k")),
        422,
        "idempotency-key-reused",
    );
    assert_eq!(events_of(&fixture), 3);
}

#[test]
fn a_stored_reply_survives_the_aggregate_leaving_memory() {
    let fixture = Fixture::with(|setup| setup.set("ACTORS__IDLE_TIMEOUT_S", 1));
    client::expect_success(&mut fixture.node.client(), &client::open("i-1"));
    let first = fixture.send(&deposit(5, "k"));
    wait::until("the account leaves memory", Duration::from_secs(60), || {
        let resident = fixture.node.metric("phalanx_actors_resident")?;
        (resident == 0.0).then_some(())
    });
    assert_replay(&first, &fixture.send(&deposit(5, "k")));
    assert_problem(
        &fixture.send(&deposit(6, "k")),
        422,
        "idempotency-key-reused",
    );
    assert_eq!(events_of(&fixture), 2);
}

#[test]
fn a_key_is_free_again_after_its_retention() {
    let fixture = Fixture::with(|setup| {
        setup
            .set("JOURNAL__IDEMPOTENCY_RETENTION_S", 1)
            .set("ACTORS__IDLE_TIMEOUT_S", 1)
    });
    client::expect_success(&mut fixture.node.client(), &client::open("i-1"));
    client::expect_success(&mut fixture.node.client(), &deposit(5, "k"));
    wait::until("the key runs again", Duration::from_secs(60), || {
        let reply = fixture.send(&deposit(5, "k"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.header("Idempotent-Replay").is_none().then_some(())
    });
    assert_eq!(events_of(&fixture), 3);
}

#[test]
fn concurrent_requests_with_one_key_store_one_event_and_get_one_reply() {
    const CLIENTS: usize = 24;
    let fixture = opened();
    for round in 1..=10 {
        let together = Barrier::new(CLIENTS);
        let request = deposit(round, &format!("round-{round}"));
        let replies: Vec<Response> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut http = Http::new(fixture.node.address);
                        http.get("/livez");
                        together.wait();
                        http.send(&request)
                    })
                })
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().expect("a client finishes"))
                .collect()
        });
        for reply in &replies {
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_same_reply(&replies[0], reply);
        }
        let expected = json!(round + 1);
        assert_eq!(replies[0].json()["sequence_number"], expected);
    }
    assert_eq!(events_of(&fixture), 11);
}

#[test]
fn only_keys_of_1_to_255_visible_ascii_characters_are_taken() {
    let fixture = opened();
    let (longest, too_long) = ("k".repeat(255), "k".repeat(256));
    let refused = |key: &str| {
        let what = format!("key {key:?}");
        case(what, deposit(1, key), 400, "invalid-header")
    };
    run(
        &fixture.node,
        &[
            case("255 characters", deposit(1, &longest), 200, ""),
            case("all kinds", deposit(1, "!~{}[]\"'/\\:;,"), 200, ""),
            refused(&too_long),
            refused(""),
            refused("a b"),
            refused("a\tb"),
            refused("caf\u{e9}"),
        ],
    );
}

#[test]
fn a_retry_with_its_precondition_gets_the_stored_reply_although_the_aggregate_moved_on() {
    let fixture = opened();
    let request = deposit(5, "k").header("If-Match", "\"1\"");
    let first = fixture.send(&request);
    assert_eq!(first.status, 200, "{}", first.text());
    client::expect_success(&mut fixture.node.client(), &deposit(6, "other"));
    assert_replay(&first, &fixture.send(&request));
    let create = client::open("i-3").header("If-None-Match", "*");
    let created = fixture.send(&create);
    assert_eq!(created.status, 201, "{}", created.text());
    assert_replay(&created, &fixture.send(&create));
}
