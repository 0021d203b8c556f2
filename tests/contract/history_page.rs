//! `docs/HISTORY.md`: its commands, run in their order against a node, give what the page shows.

use std::process::Command;

use serde_json::Value;

use crate::cases::Fixture;
use crate::support::node::BINARY;
use crate::support::skipped;

const PAGE: &str = include_str!("../../docs/HISTORY.md");

/// The fenced blocks of the page: language and text.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let fenced = PAGE.split("\n```").skip(1).step_by(2);
    fenced
        .map(|block| block.split_once('\n').expect("a language"))
        .collect()
}

pub(crate) fn has_curl_with_json() -> bool {
    let help = Command::new("curl").args(["--help", "all"]).output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--json"))
}

#[test]
fn the_commands_of_the_page_give_what_it_shows() {
    if !has_curl_with_json() {
        skipped("the page about history", "no curl of 7.82 or newer");
        return;
    }
    let fixture = Fixture::new();
    let address = fixture.setup.address.to_string();
    let directory = std::path::Path::new(BINARY).parent().expect("a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut before = String::new();
    let mut shown = String::new();
    let mut compared = 0;
    for (language, text) in blocks() {
        match language {
            "sh" => {
                // Variables of earlier blocks live on, their output does not.
                let script = text
                    .replace("127.0.0.1:8080", &address)
                    .replace(
                        "phalanx entity what-if",
                        &format!("phalanx entity what-if --url http://{address}"),
                    )
                    .replace(
                        "phalanx entity diff",
                        &format!("phalanx entity diff --url http://{address}"),
                    );
                let output = Command::new("bash")
                    .args(["-euo", "pipefail", "-c", &format!("{before}\n{script}")])
                    .env("PATH", format!("{}:{path}", directory.display()))
                    .output()
                    .expect("bash starts");
                assert!(output.status.success(), "{text}\n{output:?}");
                shown = String::from_utf8(output.stdout).expect("UTF-8");
                let variables = script.lines().filter(|line| line.starts_with("A="));
                before.extend(variables);
            }
            "json" => {
                let expected: Value = serde_json::from_str(text).expect("JSON");
                let found: Value = serde_json::from_str(&shown).expect("JSON");
                assert_eq!(found, expected);
                compared += 1;
            }
            "text" => {
                assert_eq!(shown.trim_end(), text.trim_end());
                compared += 1;
            }
            other => panic!("a block of {other}"),
        }
    }
    assert_eq!(compared, 4);
}
