//! `phalanx projections` against a real node: what it prints, what it says to do next, and how it ends.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::cases::Fixture;
use crate::support::{client, wait};

fn phalanx(url: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phalanx"));
    command
        .arg("projections")
        .args(arguments)
        .args(["--url", url]);
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let code = status.code().expect("an exit code");
    (code, text(stdout), text(stderr))
}

#[test]
fn projections_are_listed_paused_and_rebuilt_from_the_command_line() {
    let fixture = Fixture::new();
    let url = format!("http://{}", fixture.node.address);
    let http = &mut fixture.node.client();
    for n in 0..50 {
        client::expect_success(http, &client::open(&format!("p-{n}")));
    }
    let (code, list, _) = phalanx(&url, &["list"]);
    assert_eq!(code, 0);
    assert!(list.starts_with("PROJECTION"), "{list}");
    let listed = |line: &str| {
        let mut cells = line.split_whitespace();
        cells
            .by_ref()
            .take(3)
            .eq(["account_totals", "1", "running"])
    };
    assert!(list.lines().any(listed), "{list}");
    let (_, all, _) = phalanx(&url, &["list", "--json"]);
    let all: Value = serde_json::from_str(&all).expect("JSON");
    assert_eq!(all["projections"].as_array().map(Vec::len), Some(5));

    let paused = phalanx(&url, &["pause", "orders"]);
    assert_eq!(paused, (0, "orders is paused\n".to_owned(), String::new()));
    let resumed = phalanx(&url, &["resume", "orders"]);
    assert_eq!(resumed.1, "orders is running\n");

    let (code, said, progress) = phalanx(&url, &["rebuild", "accounts", "--wait"]);
    assert_eq!(code, 0, "{progress}");
    assert!(said.starts_with("accounts is rebuilt, after "), "{said}");
    // Without a terminal there are lines, if it took any time at all.
    assert!(
        !progress.contains('\r') && !progress.contains('#'),
        "{progress}"
    );
    let (_, status, _) = phalanx(&url, &["rebuild", "accounts", "--json"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["name"], "accounts");

    // One that cannot get on: the second is refused and says how to go on.
    phalanx(&url, &["pause", "prescriptions"]);
    client::expect_success(
        http,
        &crate::support::http::Request::command("prescription", "rx-1", "DraftPrescription", DRAFT),
    );
    assert_eq!(phalanx(&url, &["rebuild", "prescriptions"]).0, 0);
    let (code, _, error) = phalanx(&url, &["rebuild", "prescriptions"]);
    assert_eq!(code, 1);
    assert!(error.contains("rebuild NAME --wait"), "{error}");
    let (_, list, _) = phalanx(&url, &["list"]);
    assert!(list.contains(" %, "), "{list}");
    for metric in [
        "rebuild_events_per_second",
        "rebuild_seconds_left",
        "events_per_second",
    ] {
        let name = format!("phalanx_projection_{metric}");
        wait::until(&name, Duration::from_secs(60), || {
            fixture.node.metric(&name)
        });
    }
    phalanx(&url, &["resume", "prescriptions"]);
    wait::until("the rebuild ends", Duration::from_secs(60), || {
        let (_, list, _) = phalanx(&url, &["list"]);
        (!list.contains(" %, ")).then_some(())
    });
}

const DRAFT: &str = r#"{"patient":"p","prescriber":"d","medication":"m","dosage":"daily","quantity":1,"refills_allowed":0}"#;

#[test]
fn dead_letters_are_shown_and_resolved_from_the_command_line() {
    let fixture = Fixture::new();
    let url = format!("http://{}", fixture.node.address);
    let http = &mut fixture.node.client();
    for id in ["p-1", "p-2"] {
        client::expect_success(http, &client::open(id));
    }
    client::expect_success(http, &client::deposit("p-1", i64::MAX));
    client::expect_success(http, &client::deposit("p-2", 7));
    let (id, shown) = wait::until("a dead letter", Duration::from_secs(60), || {
        let (_, letters, _) = phalanx(&url, &["dead-letters", "account_totals", "--json"]);
        let letters: Value = serde_json::from_str(&letters).expect("JSON");
        let id = letters["dead_letters"][0]["id"].as_i64()?.to_string();
        Some((id, phalanx(&url, &["dead-letters", "account_totals"]).1))
    });
    assert!(
        shown.contains("MoneyDeposited") && shown.contains("64 bits"),
        "{shown}"
    );
    let (code, out, error) = phalanx(&url, &["retry", "account_totals", &id]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        error.contains(&format!("skip account_totals {id} --url {url}")),
        "{error}"
    );
    let (code, out, error) = phalanx(&url, &["skip", "account_totals", &id]);
    assert_eq!(code, 0, "{error}");
    assert!(out.ends_with("goes on with the others\n"), "{out}");
    let (_, none, _) = phalanx(&url, &["dead-letters", "account_totals"]);
    assert_eq!(none, "account_totals has set nothing aside\n");
}

#[test]
fn what_goes_wrong_says_what_to_do_and_has_an_exit_code() {
    let mut fixture = Fixture::new();
    let url = format!("http://{}", fixture.node.address);
    let (code, out, error) = phalanx(&url, &["pause", "nothing"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        error.contains(&format!("phalanx projections list --url {url}")),
        "{error}"
    );
    let (code, _, error) = phalanx(&url, &["retry", "accounts", "7"]);
    assert_eq!(code, 1);
    assert!(error.contains("no dead letter"), "{error}");
    assert_eq!(phalanx(&url, &["retry", "accounts", "x"]).0, 2);
    assert_eq!(phalanx(&url, &["rebuild"]).0, 2);
    assert_eq!(phalanx("ftp://x", &["list"]).0, 1);
    fixture.node.stop();
    let (code, _, error) = phalanx(&url, &["list"]);
    assert_eq!(code, 1);
    assert!(error.contains("failed to ask"), "{error}");
}
