//! Chapter "Who and when": what a proxy says of the caller, and what a client says of the time.

use serde_json::Value;

use crate::cases::Fixture;
use crate::support::client;
use crate::support::http::{Request, Response};
use crate::support::node::{BINARY, NodeSetup};
use crate::support::sse::Stream;

const HEADER: &str = "X-Forwarded-User";
const WHEN: &str = "Phalanx-Occurred-At";

fn behind_a_proxy(setup: NodeSetup) -> NodeSetup {
    setup
        .set("HTTP__PRINCIPAL_HEADER", HEADER)
        .set("LOG__LEVEL", "trace")
}

fn history(fixture: &Fixture, id: &str) -> Vec<Value> {
    let page = fixture.send(&Request::get(&format!(
        "/v1/aggregates/account/{id}/events"
    )));
    assert_eq!(page.status, 200, "{}", page.text());
    page.json().as_array().expect("an array").clone()
}

fn paid(id: &str) -> Request {
    client::deposit(id, 5)
        .key("five")
        .header(HEADER, "ada@example.org")
        .header(WHEN, "2026-02-03T10:00:00.25+01:00")
}

fn assert_told(event: &Value) {
    assert_eq!(event["authid"], "ada@example.org", "{event}");
    assert_eq!(event["authtype"], "unknown", "{event}");
    assert_eq!(event["occurredat"], "2026-02-03T09:00:00.25Z", "{event}");
}

fn assert_untold(event: &Value) {
    for attribute in ["authid", "authtype", "occurredat"] {
        assert!(event.get(attribute).is_none(), "{event}");
    }
}

#[test]
fn who_and_when_it_happened_are_stored_and_shown_also_after_a_restart() {
    let mut fixture = Fixture::with(behind_a_proxy);
    let mut http = fixture.node.client();
    client::expect_success(&mut http, &client::open("o-1"));
    let first = client::expect_success(&mut http, &paid("o-1"));
    let check = |fixture: &Fixture| {
        let events = history(fixture, "o-1");
        assert_eq!(events.len(), 2);
        assert_untold(&events[0]);
        assert_told(&events[1]);
        let mut stream = Stream::open(fixture.node.address, "/v1/events?after=start", None);
        let all = stream.events(2);
        assert!(all.contains(&events[1]), "{all:?}");
    };
    check(&fixture);
    // It happened long ago, and was decided now: that is what `as_of` goes by.
    let past = Request::get("/v1/aggregates/account/o-1?as_of=2026-02-04T00:00:00Z");
    assert_eq!(fixture.send(&past).code(), "aggregate-not-found");
    for restart in [false, true] {
        if restart {
            fixture.kill_and_restart();
            check(&fixture);
        }
        // The same key with another caller and another time is the same command.
        let again = paid("o-1")
            .without(HEADER)
            .header(HEADER, "bob")
            .without(WHEN);
        let again = fixture.send(&again);
        assert_eq!(
            (again.status, again.body.clone()),
            (200, first.body.clone())
        );
        assert_eq!(again.header("Idempotent-Replay"), Some("true"));
        check(&fixture);
    }
    let log = fixture.node.log();
    assert!(!log.contains("ada@example"), "{log}");
    let shown = std::process::Command::new(BINARY)
        .args(["entity", "history", "account/o-1", "--url"])
        .arg(format!("http://{}", fixture.setup.address))
        .output()
        .expect("the binary starts");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("HAPPENED") && shown.contains("ada@example.org"),
        "{shown}"
    );
}

#[test]
fn an_aggregate_that_left_memory_keeps_who_and_when() {
    let fixture = Fixture::with(|setup| {
        behind_a_proxy(setup)
            .set("ACTORS__IDLE_TIMEOUT_S", 1)
            .set("ACTORS__SNAPSHOT_ON_PASSIVATION_EVENTS", 1)
    });
    let mut http = fixture.node.client();
    client::expect_success(&mut http, &client::open("o-2"));
    let first = client::expect_success(&mut http, &paid("o-2"));
    crate::support::wait::until(
        "the aggregate leaves memory",
        std::time::Duration::from_secs(60),
        || (fixture.node.metric("phalanx_passivations_total")? >= 1.0).then_some(()),
    );
    let again = client::expect_success(&mut http, &paid("o-2"));
    assert_eq!(again.body, first.body);
    assert_told(&history(&fixture, "o-2")[1]);
}

#[test]
fn a_dry_run_stores_neither() {
    let fixture = Fixture::with(behind_a_proxy);
    let mut http = fixture.node.client();
    client::expect_success(&mut http, &client::open("o-3"));
    let dry = Request::post(
        "/v1/aggregates/account/o-3/commands/Deposit?dry_run=true",
        r#"{"amount_cents":5}"#,
    );
    let dry = dry
        .header(HEADER, "ada")
        .header(WHEN, "2026-02-03T10:00:00Z");
    assert_eq!(fixture.send(&dry).status, 200);
    assert_eq!(history(&fixture, "o-3").len(), 1);
}

#[test]
fn values_that_cannot_be_are_refused_by_name() {
    let fixture = Fixture::with(behind_a_proxy);
    let deposit = || client::deposit("o-4", 5);
    let long = "a".repeat(256);
    let refused = |what: &str, request: Request, header: &str| {
        let reply = fixture.send(&request);
        assert_eq!(reply.status, 400, "{what}: {}", reply.text());
        assert_eq!(reply.code(), "invalid-header", "{what}");
        assert_eq!(reply.json()["header"], header, "{what}");
        assert!(!reply.text().contains("eve"), "no value is repeated");
    };
    let who = HEADER.to_ascii_lowercase();
    refused("too long", deposit().header(HEADER, &long), &who);
    let twice = deposit().header(HEADER, "eve").header(HEADER, "ada");
    refused("twice", twice, &who);
    for bad in [
        "eve",
        "2026-02-03",
        "0001-01-01T00:00:00Z",
        "2200-01-01T00:00:00Z",
    ] {
        refused(bad, deposit().header(WHEN, bad), WHEN);
    }
    let time = "2026-02-03T10:00:00Z";
    refused(
        "twice",
        deposit().header(WHEN, time).header(WHEN, time),
        WHEN,
    );
    // The account does not exist: none of this came that far.
    let good = deposit().header(HEADER, "").header(WHEN, time);
    assert_eq!(fixture.send(&good).json()["rejection"], "account-not-open");
}

#[test]
fn a_node_that_is_told_no_header_believes_none() {
    let fixture = Fixture::new();
    let mut http = fixture.node.client();
    client::expect_success(&mut http, &client::open("o-5").header(HEADER, "ada"));
    assert_untold(&history(&fixture, "o-5")[0]);
    let document = fixture.send(&Request::get("/openapi.json")).text();
    assert!(document.contains(WHEN) && !document.contains("x-forwarded-user"));
}

fn is_refused(reply: &Response) {
    assert_eq!(reply.status, 401, "{}", reply.text());
    assert_eq!(reply.code(), "unauthenticated");
    assert!(reply.header("WWW-Authenticate").is_some());
    assert_eq!(reply.json()["outcome"], "not_applied");
    assert_eq!(reply.json()["retryable"], false);
}

#[test]
fn where_callers_must_be_named_nothing_of_aggregates_is_done_or_shown_without() {
    let fixture = Fixture::with(|setup| behind_a_proxy(setup).set("HTTP__REQUIRE_PRINCIPAL", true));
    let named = |request: Request| request.header(HEADER, "ada");
    let place = "/v1/aggregates/account/o-6";
    let stored = fixture.send(&named(client::open("o-6")));
    assert_eq!(stored.status, 201, "{}", stored.text());
    let position = stored.header("Phalanx-Position").expect("a position");
    let what_if =
        r#"{"insert":[{"after_sequence":1,"type":"MoneyDeposited","data":{"amount_cents":5}}]}"#;
    for request in [
        client::deposit("o-6", 5),
        Request::get(&format!("{place}?after={position}")),
        Request::get(&format!("{place}?at_sequence=1")),
        Request::get(&format!("{place}/events")),
        Request::get(&format!("{place}/diff?from=1&to=1")),
        Request::post(&format!("{place}/what-if"), what_if),
        Request::get(&format!("/v1/views/accounts?after={position}&wait=9s")),
        Request::get(&format!("/v1/views/accounts/o-6?after={position}&wait=9s")),
    ] {
        is_refused(&fixture.send(&request));
        is_refused(&fixture.send(&request.clone().header(HEADER, "")));
        let answered = fixture.send(&named(request));
        assert_eq!(answered.status, 200, "{}", answered.text());
    }
    for stream in [
        format!("{place}/watch"),
        "/v1/events".to_owned(),
        "/v1/views/accounts/changes".to_owned(),
    ] {
        is_refused(&fixture.send(&Request::get(&stream)));
    }
    // What describes or operates the node is no secret of an aggregate.
    for path in [
        "/v1/types",
        "/v1/cluster",
        "/v1/shards",
        "/v1/projections",
        "/readyz",
        "/metrics",
    ] {
        assert_eq!(fixture.send(&Request::get(path)).status, 200, "{path}");
    }
}
