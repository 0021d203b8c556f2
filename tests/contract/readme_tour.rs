//! The tour of `README.md`: its commands, run in their order against a fresh node, do what it says.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cases::Fixture;
use crate::history_page::has_curl_with_json;
use crate::support::skipped;

const PAGE: &str = include_str!("../../README.md");

/// A view shows a write after this long at the latest, also on a busy machine.
const LAG: Duration = Duration::from_secs(60);

/// What each command prints, in the order of the tour.
const SHOWN: [&str; 13] = [
    r#""events":[{"type":"AccountOpened","sequence_number":1}]"#,
    r#""events":[{"type":"MoneyDeposited","sequence_number":2}]"#,
    "idempotent-replay: true",
    r#""rejection":"insufficient-funds""#,
    r#""balance_cents":15000"#,
    r#""position":"6:2""#,
    r#"{"rows":[{"id":"a-1""#,
    r#""sequence_number":2"#,
    r#""id":"account/a-1/2""#,
    "event: state",
    "event: reset",
    r#"[{"specversion":"1.0""#,
    r#""balance_cents":0"#,
];

fn section(heading: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(heading).expect("the heading");
    rest.split("\n## ").next().expect("a section")
}

fn block<'a>(text: &'a str, language: &str) -> &'a str {
    let (_, rest) = text
        .split_once(&format!("```{language}\n"))
        .expect("a block");
    rest.split("\n```").next().expect("its end")
}

/// What a command prints. A stream ends when its time is up.
fn run(script: &str) -> String {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .output()
        .expect("bash starts");
    let out_of_time = script.contains("--max-time") && output.status.code() == Some(28);
    assert!(
        output.status.success() || out_of_time,
        "{script}\n{output:?}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_tour_does_what_it_says() {
    if !has_curl_with_json() {
        skipped("the tour", "no curl of 7.82 or newer");
        return;
    }
    // As many shards as `config/node.toml` says: positions are as the page shows them.
    let fixture = Fixture::with(|setup| setup.set("CLUSTER__SHARDS", 8));
    let address = fixture.setup.address.to_string();
    let tour = section("## A tour");
    let script = block(tour, "sh").replace("127.0.0.1:8080", &address);
    let (base, commands) = script.split_once('\n').expect("a variable comes first");
    let commands = commands.lines().filter(|line| line.starts_with("curl "));
    let commands: Vec<&str> = commands.collect();
    assert_eq!(commands.len(), SHOWN.len());
    let mut deposited = Value::Null;
    for (command, expected) in commands.into_iter().zip(SHOWN) {
        let script = format!(
            "{base}\n{}",
            command.replace("curl -N", "curl --max-time 2 -N")
        );
        let mut shown = run(&script);
        if command.contains("/v1/views/") || command.contains("curl -N") {
            // A view is a moment behind, and a stream is read for so long only.
            let deadline = Instant::now() + LAG;
            while !shown.contains(expected) && Instant::now() < deadline {
                shown = run(&script);
            }
        }
        assert!(shown.contains(expected), "{command}\n{shown}");
        if expected == SHOWN[1] {
            deposited = serde_json::from_str(&shown).expect("JSON");
        }
    }
    let expected: Value = serde_json::from_str(block(tour, "json")).expect("JSON");
    assert_eq!(deposited, expected);
}
