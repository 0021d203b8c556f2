//! `phalanx entity`: the real binary against a real node; what it prints, and its exit codes.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::cases::Fixture;
use crate::support::client;
use crate::support::http::Request;
use crate::support::node::BINARY;
use crate::support::ports;

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let mut http = fixture.node.client();
    client::expect_success(&mut http, &client::open("e-1"));
    for amount in 1..=4 {
        client::expect_success(&mut http, &client::deposit("e-1", amount));
    }
    fixture
}

fn entity(fixture: &Fixture, words: &[&str]) -> Output {
    let address = fixture.setup.address;
    Command::new(BINARY)
        .arg("entity")
        .args(words)
        .args(["--url", &format!("http://{address}")])
        .output()
        .expect("the binary starts")
}

/// What is printed on success.
fn printed(fixture: &Fixture, words: &[&str]) -> String {
    let output = entity(fixture, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What is said on standard error, with this exit code.
fn said(fixture: &Fixture, words: &[&str], code: i32) -> String {
    let output = entity(fixture, words);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn an_aggregate_is_shown_in_tables() {
    let fixture = fixture();
    let state = printed(
        &fixture,
        &["get", "account/e-1", "--justification", "operator"],
    );
    assert!(
        state.starts_with("account/e-1 at sequence number 5, "),
        "{state}"
    );
    assert!(state.contains("\nbalance_cents  10\n"), "{state}");
    let past = printed(&fixture, &["at", "account/e-1", "--sequence", "3"]);
    assert!(past.contains("\nbalance_cents  3\n"), "{past}");
    let later = ["at", "account/e-1", "--time", "2999-01-01T00:00:00+02:00"];
    assert!(printed(&fixture, &later).contains("\nbalance_cents  10\n"));
    let history = printed(&fixture, &["history", "account/e-1", "--limit", "2"]);
    let lines: Vec<&str> = history.lines().collect();
    assert!(lines[0].starts_with("SEQUENCE  TIME"), "{history}");
    assert!(
        lines[2].ends_with("MoneyDeposited  {\"amount_cents\":1}"),
        "{history}"
    );
    assert!(history.ends_with("--from 3\n"), "{history}");
    let diff = printed(
        &fixture,
        &["diff", "account/e-1", "--from", "2", "--to", "5"],
    );
    assert!(
        diff.contains("\n/balance_cents  1     10    +9\n"),
        "{diff}"
    );
    assert!(diff.ends_with("5         MoneyDeposited\n"), "{diff}");
    let two = [
        "what-if",
        "account/e-1",
        "--insert",
        "0",
        "MoneyDeposited",
        "{\"amount_cents\":7}",
        "--insert",
        "5",
        "MoneyWithdrawn",
        "{\"amount_cents\":2}",
    ];
    let what_if = printed(&fixture, &two);
    assert!(
        what_if.ends_with("/balance_cents  10      15            +5\n"),
        "{what_if}"
    );
    let none = printed(
        &fixture,
        &["diff", "account/e-1", "--from", "2", "--to", "2"],
    );
    assert_eq!(none, "the states are the same\n");
}

#[test]
fn a_page_that_its_bytes_end_says_so_too() {
    let fixture = Fixture::with(|setup| setup.set("HTTP__MAX_HISTORY_BYTES", 1024));
    let mut http = fixture.node.client();
    client::expect_success(&mut http, &client::open("e-1"));
    for amount in 1..=40 {
        client::expect_success(&mut http, &client::deposit("e-1", amount));
    }
    let mut from = 1;
    let mut seen = 0;
    let mut pages = 0;
    loop {
        let words = ["history", "account/e-1", "--from", &from.to_string()];
        let page = printed(&fixture, &words);
        let shown = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
        seen += page.lines().filter(shown).count();
        pages += 1;
        let Some((_, next)) = page.split_once("there is more: --from ") else {
            break;
        };
        from = next.trim().parse().expect("a number");
    }
    assert!(seen == 41 && pages > 2, "{seen} events on {pages} pages");
}

#[test]
fn json_is_what_the_node_answers() {
    let fixture = fixture();
    let target = "/v1/aggregates/account/e-1";
    for (words, path) in [
        (
            vec!["at", "account/e-1", "--sequence", "3"],
            "?at_sequence=3",
        ),
        (
            vec!["history", "account/e-1"],
            "/events?from_sequence=1&limit=100",
        ),
        (
            vec!["diff", "account/e-1", "--from", "1", "--to", "4"],
            "/diff?from=1&to=4",
        ),
    ] {
        let printed = printed(&fixture, &[&words[..], &["--json"]].concat());
        let answered = fixture.send(&Request::get(&format!("{target}{path}")));
        // Byte for byte: reading and writing again would change numbers and the order of fields.
        assert_eq!(printed, answered.text() + "\n", "{words:?}");
    }
    let question = json!({"insert": [{"after_sequence": 1, "type": "MoneyDeposited",
        "data": {"amount_cents": 5}}]});
    let address = fixture.setup.address;
    let mut child = Command::new(BINARY)
        .args(["entity", "what-if", "account/e-1", "--file", "-", "--json"])
        .args(["--url", &format!("http://{address}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin
        .write_all(question.to_string().as_bytes())
        .expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["hypothetical"]["balance_cents"], 15);
}

#[test]
fn what_cannot_be_answered_says_what_to_do() {
    let fixture = fixture();
    let missing = said(&fixture, &["get", "account/e-1"], 2);
    assert!(missing.contains("justification-required"), "{missing}");
    assert!(missing.contains("--justification NAME"), "{missing}");
    for name in ["fraud-check", "teller-screen", "operator"] {
        assert!(missing.contains(&format!("\n  {name}")), "{missing}");
    }
    let unknown = ["get", "account/e-1", "--justification", "curiosity"];
    let unknown = said(&fixture, &unknown, 2);
    assert!(unknown.contains("teller-screen"), "{unknown}");
    let beyond = said(&fixture, &["at", "account/e-1", "--sequence", "6"], 3);
    assert!(beyond.contains("up to 5"), "{beyond}");
    said(&fixture, &["history", "account/nobody"], 3);
    said(&fixture, &["history", "nothing/e-1"], 3);
    said(&fixture, &["at", "account/e-1", "--sequence", "0"], 2);
    said(&fixture, &["at", "account/e-1"], 2);
    said(&fixture, &["history", "account"], 2);
    said(
        &fixture,
        &["diff", "account/e-1", "--from", "3", "--to", "2"],
        2,
    );
    let event = ["what-if", "account/e-1", "--insert", "1", "Deposit", "{}"];
    let event = said(&fixture, &event, 2);
    assert!(
        event.contains("at /insert/0/type of the question"),
        "{event}"
    );
    assert!(event.contains("MoneyDeposited"), "{event}");

    let nobody = Command::new(BINARY)
        .args(["entity", "history", "account/e-1", "--url"])
        .arg(format!("http://{}", ports::free_address()))
        .output()
        .expect("the binary starts");
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    let text = String::from_utf8_lossy(&nobody.stderr);
    assert!(text.contains("--url"), "{text}");
}
