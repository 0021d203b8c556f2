//! Chapter "Errors": each failure has one status and one code, and says what the client may do.

use serde_json::json;

use crate::cases::{Case, Fixture, case, problem_fault, run};
use crate::support::client;
use crate::support::http::{Connection, Request};

fn command(name: &str, body: &str) -> Request {
    Request::command("account", "e-1", name, body)
}

fn malformed() -> Vec<Case> {
    [
        ("no JSON", "Deposit", "{"),
        ("empty body", "Deposit", ""),
        ("an array", "Deposit", "[]"),
        ("a string", "Deposit", "\"amount_cents\""),
        ("null", "CloseAccount", "null"),
        ("a missing field", "OpenAccount", r#"{"owner":"ada"}"#),
        ("a text for a number", "Deposit", r#"{"amount_cents":"5"}"#),
        (
            "a fraction for a number",
            "Deposit",
            r#"{"amount_cents":5.5}"#,
        ),
        (
            "a number beyond 64 bits",
            "Deposit",
            r#"{"amount_cents":9223372036854775808}"#,
        ),
        (
            "an unknown field",
            "Deposit",
            r#"{"amount_cents":5,"amount":5}"#,
        ),
        (
            "a field twice",
            "Deposit",
            r#"{"amount_cents":5,"amount_cents":6}"#,
        ),
        (
            "two documents",
            "Deposit",
            r#"{"amount_cents":5}{"amount_cents":5}"#,
        ),
        ("a comment", "Deposit", r#"{"amount_cents":5}// five"#),
        (
            "an unknown field of none",
            "CloseAccount",
            r#"{"now":true}"#,
        ),
        (
            "a broken surrogate",
            "OpenAccount",
            r#"{"owner":"\ud800","currency":"EUR"}"#,
        ),
        (
            "a rate that is none",
            "CreditInterest",
            r#"{"rate_percent":"one"}"#,
        ),
    ]
    .into_iter()
    .map(|(what, name, body)| case(what, command(name, body), 400, "malformed-body"))
    .collect()
}

#[test]
fn a_body_that_does_not_fit_its_command_is_malformed() {
    let fixture = Fixture::new();
    client::expect_success(&mut fixture.node.client(), &client::open("e-1"));
    let mut cases = malformed();
    let not_utf8 = Request::command(
        "account",
        "e-1",
        "OpenAccount",
        b"{\"owner\":\"\xff\",\"currency\":\"EUR\"}",
    );
    cases.push(case("no UTF-8", not_utf8, 400, "malformed-body"));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    cases.push(case(
        "a deep nest",
        command("Deposit", &deep),
        400,
        "malformed-body",
    ));
    run(&fixture.node, &cases);
    let entries = client::history(&mut fixture.node.client(), "e-1").expect("a history");
    assert_eq!(entries.len(), 1, "nothing happened");
}

#[test]
fn a_malformed_body_is_pointed_at() {
    let fixture = Fixture::new();
    let reply = fixture.send(&command("Deposit", r#"{"amount_cents":"5"}"#));
    let body = reply.json();
    assert_eq!(body["pointer"], json!("/amount_cents"), "{body}");
    assert_eq!(body["retryable"], json!(false));
    assert_eq!(body["outcome"], json!("not_applied"));
}

#[test]
fn what_does_not_exist_is_404_and_says_what() {
    let fixture = Fixture::new();
    let spaceship = Request::command("spaceship", "e-1", "Launch", "{}");
    run(
        &fixture.node,
        &[
            case("unknown type", spaceship, 404, "unknown-aggregate-type"),
            case(
                "unknown command",
                command("Explode", "{}"),
                404,
                "unknown-command",
            ),
            case(
                "command in another case",
                command("deposit", "{}"),
                404,
                "unknown-command",
            ),
            case(
                "history of an unknown type",
                Request::get("/v1/aggregates/spaceship/e-1/events"),
                404,
                "unknown-aggregate-type",
            ),
            case("unknown path", Request::get("/v2/nothing"), 404, "*"),
            case("parent path", Request::get("/v1/../etc/passwd"), 404, "*"),
        ],
    );
}

#[test]
fn methods_and_media_types_are_checked() {
    let fixture = Fixture::new();
    let target = "/v1/aggregates/account/e-1/commands/CloseAccount";
    let typed = |kind: &str| {
        command("CloseAccount", "{}")
            .without("Content-Type")
            .header("Content-Type", kind)
    };
    run(
        &fixture.node,
        &[
            case("GET of a command", Request::get(target), 405, "*"),
            case(
                "DELETE of an aggregate",
                Request::new("DELETE", "/v1/aggregates/account/e-1"),
                405,
                "*",
            ),
            case(
                "PUT of health",
                Request::new("PUT", "/livez").body("x"),
                405,
                "*",
            ),
            case("text", typed("text/plain"), 415, "*"),
            case(
                "a form",
                typed("application/x-www-form-urlencoded"),
                415,
                "*",
            ),
            case(
                "JSON with a charset",
                typed("application/json; charset=utf-8"),
                422,
                "command-rejected",
            ),
        ],
    );
    let refused = fixture.send(&Request::get(target));
    let allowed = refused.header("Allow").unwrap_or_default();
    assert!(
        allowed.split(", ").any(|method| method == "POST"),
        "RFC 9110, 15.5.6: {allowed}"
    );
}

#[test]
fn too_large_requests_are_refused_by_their_part() {
    let fixture = Fixture::new();
    let large = |bytes: usize| format!(r#"{{"owner":"{}","currency":"EUR"}}"#, "x".repeat(bytes));
    let open =
        |id: &str, bytes: usize| Request::command("account", id, "OpenAccount", large(bytes));
    run(
        &fixture.node,
        &[
            case("just below 1 MiB", open("e-1", 1024 * 1024 - 100), 201, ""),
            case("just above 1 MiB", open("e-2", 1024 * 1024), 413, "*"),
            case("far above", open("e-2", 3 * 1024 * 1024), 413, "*"),
        ],
    );
    // Where no body is expected, nothing is done either.
    let drain = |bytes: usize| Request::post("/v1/nodes/1/drain", "x".repeat(bytes));
    run(
        &fixture.node,
        &[case("a drain", drain(1024 * 1024 + 1), 413, "*")],
    );
    let undrained = fixture.send(&Request::new("DELETE", "/v1/nodes/1/drain"));
    assert_eq!(undrained.json()["was_draining"], json!(false));
    let long_target = format!("/v1/aggregates/account/e-1?after={}", "1".repeat(70_000));
    let too_long = send_raw(
        &fixture,
        &format!("GET {long_target} HTTP/1.1\r\nHost: x\r\n\r\n"),
    );
    assert!(
        matches!(too_long, 414 | 431),
        "a target of 70,000 bytes: {too_long}"
    );
    let one = format!(
        "GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    assert_eq!(send_raw(&fixture, &one), 431, "one long header");
    let fields: String = (0..2_000).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let many = format!("GET /livez HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    assert_eq!(send_raw(&fixture, &many), 431, "many headers");
    assert_eq!(fixture.send(&Request::get("/livez")).status, 200);
}

#[test]
fn a_chunked_body_counts_by_what_arrives() {
    let fixture = Fixture::new();
    let head = "POST /v1/aggregates/account/e-1/commands/OpenAccount HTTP/1.1\r\nHost: x\r\n\
                Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let small = r#"{"owner":"ada","currency":"EUR"}"#;
    let (left, right) = small.split_at(9);
    let chunks = format!(
        "{head}9\r\n{left}\r\n{:x}\r\n{right}\r\n0\r\n\r\n",
        right.len()
    );
    assert_eq!(send_raw(&fixture, &chunks), 201);
    let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let endless = format!("{head}{}", piece.repeat(20));
    assert_eq!(send_raw(&fixture, &endless), 413);
}

/// The status of the answer. The node may answer and close before it has read everything.
fn send_raw(fixture: &Fixture, request: &str) -> u16 {
    let mut connection = Connection::open(fixture.node.address).expect("the node listens");
    let written = connection.write(request.as_bytes());
    match connection.read_response(false) {
        Ok(response) => response.status,
        Err(error) => panic!("no answer ({error}) after writing ended with {written:?}"),
    }
}

#[test]
fn every_code_has_its_page() {
    let fixture = Fixture::new();
    let codes = [
        "malformed-body",
        "invalid-id",
        "invalid-header",
        "invalid-query",
        "unauthenticated",
        "forbidden",
        "justification-unknown",
        "unknown-aggregate-type",
        "unknown-command",
        "aggregate-not-found",
        "idempotency-key-in-flight",
        "sequence-mismatch",
        "command-rejected",
        "idempotency-key-reused",
        "justification-required",
        "rate-limited",
        "internal",
        "aggregate-quarantined",
        "overloaded",
        "no-leader",
        "shutting-down",
        "not-ready",
        "outcome-unknown",
        "storage-full",
    ];
    let cases: Vec<Case> = codes
        .iter()
        .map(|code| case(*code, Request::get(&format!("/problems/{code}")), 200, ""))
        .collect();
    run(&fixture.node, &cases);
    let page = fixture.send(&Request::get("/problems/overloaded"));
    assert!(page.text().contains("overloaded"), "{}", page.text());
    assert_eq!(fixture.send(&Request::get("/problems/made-up")).status, 404);
}

#[test]
fn a_problem_carries_the_trace_of_its_request() {
    let fixture = Fixture::new();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let reply = fixture.send(&command("Explode", "{}").header("traceparent", parent));
    assert_eq!(
        problem_fault(&reply, "unknown-command"),
        None,
        "{}",
        reply.text()
    );
    assert_eq!(
        reply.json()["trace_id"],
        json!("0af7651916cd43dd8448eb211c80319c")
    );
    assert_eq!(reply.json()["retryable"], json!(false));
}
