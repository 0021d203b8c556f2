//! Which ids name an aggregate, and which are refused.

use crate::cases::{Fixture, case, run};
use crate::support::client;
use crate::support::http::Request;

fn open(encoded_id: &str) -> Request {
    let body = r#"{"owner":"ada","currency":"EUR"}"#;
    Request::command("account", encoded_id, "OpenAccount", body)
}

#[test]
fn ids_of_the_allowed_letters_are_taken_and_all_others_are_refused() {
    let fixture = Fixture::new();
    let longest = "x".repeat(200);
    let taken = [
        "a",
        "A-z_0.9~:@-",
        "north@2026-11-21",
        "...",
        ".a",
        &longest,
    ];
    let too_long = "x".repeat(201);
    let huge = "x".repeat(4_000);
    let refused = [
        ".",
        "..",
        "%2e",
        "%2E%2e",
        ".%2e",
        "a%20b",
        "a%00b",
        "a%2Fb",
        "%2e%2e%2fetc",
        "a%5Cb",
        "a+b",
        "a!b",
        "caf%C3%A9",
        "cafe%CC%81",
        "%FF",
        "a%0Ab",
        "a%",
        "a%2",
        "a%zz",
        "a,b",
        "a;b",
        "a*b",
        "a'b",
        "(a)",
        "$a",
        "a=b",
        "a%25b",
        &too_long,
        &huge,
    ];
    let mut cases: Vec<_> = taken
        .iter()
        .map(|id| case(format!("id {id}"), open(id), 201, ""))
        .collect();
    for id in refused {
        cases.push(case(
            format!("command to id {id}"),
            open(id),
            400,
            "invalid-id",
        ));
        cases.push(case(
            format!("fresh read of id {id}"),
            client::fresh(id),
            400,
            "invalid-id",
        ));
        let history = Request::get(&format!("/v1/aggregates/account/{id}/events"));
        cases.push(case(
            format!("history of id {id}"),
            history,
            400,
            "invalid-id",
        ));
    }
    run(&fixture.node, &cases);
}

#[test]
fn a_percent_encoded_id_names_the_same_aggregate_as_the_plain_one() {
    let fixture = Fixture::new();
    let first = fixture.send(&open("a%2Db%40c"));
    assert_eq!(first.status, 201, "{}", first.text());
    assert_eq!(first.json()["aggregate_id"], "a-b@c");
    let again = fixture.send(&open("a-b@c"));
    assert_eq!(
        again.json()["rejection"],
        "account-already-open",
        "{}",
        again.text()
    );
}

#[test]
fn ids_that_differ_in_case_name_different_aggregates() {
    let fixture = Fixture::new();
    run(
        &fixture.node,
        &[
            case("lower", open("same"), 201, ""),
            case("upper", open("SAME"), 201, ""),
        ],
    );
}
