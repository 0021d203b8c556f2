//! `If-Match` and `If-None-Match` on commands.

use serde_json::json;

use crate::cases::{Fixture, assert_problem, case, run};
use crate::support::client;
use crate::support::http::Request;

fn deposit_if(header: &str, value: &str) -> Request {
    client::deposit("p-1", 1).header(header, value)
}

#[test]
fn a_command_with_a_precondition_runs_only_when_it_holds() {
    let fixture = Fixture::new();
    let open_if = |id: &str, header: &str, value: &str| client::open(id).header(header, value);
    run(
        &fixture.node,
        &[
            case(
                "create if absent",
                open_if("p-1", "If-None-Match", "*"),
                201,
                "",
            ),
            case("at 1", deposit_if("If-Match", "\"1\""), 200, ""),
            case(
                "at 1 again",
                deposit_if("If-Match", "\"1\""),
                412,
                "sequence-mismatch",
            ),
            case("at 2", deposit_if("If-Match", "\"2\""), 200, ""),
            case(
                "at a later one",
                deposit_if("If-Match", "\"9\""),
                412,
                "sequence-mismatch",
            ),
            case(
                "if absent, but it exists",
                deposit_if("If-None-Match", "*"),
                412,
                "sequence-mismatch",
            ),
            case("if it exists", deposit_if("If-Match", "*"), 200, ""),
            case(
                "if a missing one exists",
                open_if("p-2", "If-Match", "*"),
                412,
                "sequence-mismatch",
            ),
            case(
                "a missing one at 1",
                open_if("p-2", "If-Match", "\"1\""),
                412,
                "sequence-mismatch",
            ),
            case(
                "no entity tag",
                deposit_if("If-Match", "3"),
                400,
                "invalid-header",
            ),
        ],
    );
    let entries = client::history(&mut fixture.node.client(), "p-1").expect("a history");
    assert_eq!(entries.len(), 4);
}

#[test]
fn a_mismatch_tells_the_current_sequence_number() {
    let fixture = Fixture::new();
    client::expect_success(&mut fixture.node.client(), &client::open("p-1"));
    client::expect_success(&mut fixture.node.client(), &client::deposit("p-1", 1));
    let refused = fixture.send(&deposit_if("If-Match", "\"7\""));
    assert_problem(&refused, 412, "sequence-mismatch");
    assert_eq!(refused.json()["current_sequence_number"], json!(2));
    assert_eq!(refused.json()["outcome"], json!("not_applied"));
}

#[test]
fn of_many_commands_at_the_same_sequence_number_one_runs() {
    let fixture = Fixture::new();
    client::expect_success(&mut fixture.node.client(), &client::open("p-1"));
    for sequence in 1..=10 {
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    let tag = format!("\"{sequence}\"");
                    let fixture = &fixture;
                    scope.spawn(move || fixture.send(&deposit_if("If-Match", &tag)).status)
                })
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().expect("a client finishes"))
                .collect()
        });
        let ran = statuses.iter().filter(|status| **status == 200).count();
        let refused = statuses.iter().filter(|status| **status == 412).count();
        assert_eq!((ran, refused), (1, 7), "{statuses:?}");
    }
}
