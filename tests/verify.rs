//! The replay gate, `phalanx verify`: journals of real nodes, of the first release, and folds that are
//! broken on purpose. Nothing in a data directory may change.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

#[path = "verify/first_release.rs"]
mod first_release;
#[path = "verify/folds.rs"]
mod folds;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use phalanx::domain::{Account, Order, Prescription, WorkshopDay};
use phalanx::node::{Node, NodeBuilder};
use phalanx::verify::{Progress, Report, VerifyOptions, verify};
use phalanx_actors::Aggregate;
use serde_json::Value;

use first_release::first_release;
use folds::{Broken, Forgetful, Generous};
use support::client::{deposit, expect_success, open};
use support::http::{Http, Request};
use support::node::{BINARY, NodeSetup};
use support::{measured, number_from_env, temp_dir};

/// Every file below a directory with its bytes and the time of its last change.
fn image(directory: &Path) -> BTreeMap<String, (Vec<u8>, std::time::SystemTime)> {
    let mut image = BTreeMap::new();
    let mut rest = vec![directory.to_owned()];
    while let Some(next) = rest.pop() {
        for entry in std::fs::read_dir(&next).expect("the directory can be listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                rest.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).expect("the file can be read");
            let changed = path.metadata().and_then(|m| m.modified()).expect("a time");
            image.insert(path.display().to_string(), (bytes, changed));
        }
    }
    image
}

fn run_verify(data_dir: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command
        .arg("verify")
        .arg("--data-dir")
        .arg(data_dir)
        .args(more);
    command.output().expect("the binary can be started")
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    })
}

/// A client's day at a node: three accounts, an order, and one account with many events.
fn do_business(http: &mut Http) {
    for id in ["a-1", "a-2", "a-3"] {
        expect_success(http, &open(id));
        for amount in 1..6 {
            expect_success(http, &deposit(id, amount));
        }
    }
    let command = |id: &str, name: &str, body: &str| Request::command("account", id, name, body);
    expect_success(
        http,
        &command("a-2", "ReceivePremium", r#"{"amount_cents":77}"#),
    );
    expect_success(http, &command("a-2", "Withdraw", r#"{"amount_cents":2}"#));
    expect_success(
        http,
        &command("a-3", "Deposit", r#"{"amount_cents":5,"reference":"rent"}"#),
    );
    let order = |name: &str, body: &str| Request::command("order", "o-1", name, body);
    expect_success(http, &order("CreateOrder", r#"{"customer":"ada"}"#));
    expect_success(
        http,
        &order(
            "AddItem",
            r#"{"product":"tea","quantity":2,"unit_price_cents":50}"#,
        ),
    );
}

/// How many events are the runtime's own: the members of the cluster are an aggregate of its. They may
/// be written down at any time.
fn of_runtime(report: &Value) -> u64 {
    let types = report["event_types"].as_array().expect("a list").iter();
    let own = types.filter(|of| of["aggregate_type"] == "_members");
    own.map(|of| of["events"].as_u64().expect("a count")).sum()
}

/// Events of the business above.
const EVENTS: u64 = 3 * 6 + 3 + 2;

fn setup(directory: &Path) -> NodeSetup {
    NodeSetup::new(directory).set("ACTORS__SNAPSHOT_EVERY_EVENTS", 8)
}

#[test]
fn a_journal_is_understood_by_the_build_that_wrote_it_and_not_touched() {
    let directory = temp_dir();
    let setup = setup(directory.path());
    let mut node = setup.start();
    do_business(&mut node.client());
    let busy = run_verify(&setup.data_dir, &[]);
    assert_eq!(busy.status.code(), Some(2), "{busy:?}");
    let words = String::from_utf8_lossy(&busy.stderr);
    assert!(words.contains("in use by another process"), "{words}");
    node.stop();

    let before = image(&setup.data_dir);
    let output = run_verify(&setup.data_dir, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = json(&output);
    assert_eq!(report["ok"], true);
    let of_runtime = of_runtime(&report);
    assert_eq!(report["events"].as_u64(), Some(EVENTS + of_runtime));
    // Every command recorded the state that it led to; the snapshot of `a-2` is one more.
    let compared = report["states_compared"].as_u64().expect("a count");
    assert!(compared > EVENTS + of_runtime, "{report:#}");
    assert_eq!(report["without_recorded_state"], 0);
    let sampled = json(&run_verify(&setup.data_dir, &["--json", "--sample", "2"]));
    assert_eq!(sampled["checked"], 2);
    assert_eq!(sampled["aggregates"], report["aggregates"]);
    let words = run_verify(&setup.data_dir, &[]);
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    assert!(
        words.contains("ok: this build makes the recorded states"),
        "{words}"
    );
    assert_eq!(image(&setup.data_dir), before, "nothing may change");

    // A node goes on as if nothing had been there, and one that was killed leaves a journal as well.
    let mut node = setup.start();
    expect_success(&mut node.client(), &deposit("a-1", 9));
    node.kill();
    let before = image(&setup.data_dir);
    let report = json(&run_verify(&setup.data_dir, &["--json"]));
    assert_eq!(report["ok"], true, "{report:#}");
    let all = report["events"].as_u64().expect("a count");
    let own = all - self::of_runtime(&report);
    assert_eq!(own, EVENTS + 1, "{report:#}");
    assert_eq!(
        image(&setup.data_dir),
        before,
        "nothing may change after a crash either"
    );
    drop(setup.start());
}

/// A node that was killed never had the time to put its index on disk: the log alone has the events.
#[test]
fn a_journal_whose_index_a_crash_took_is_looked_at_as_a_whole() {
    let directory = temp_dir();
    let setup = setup(directory.path());
    let mut node = setup.start();
    do_business(&mut node.client());
    node.kill();
    let before = image(&setup.data_dir);
    let killed = json(&run_verify(&setup.data_dir, &["--json"]));
    let count = |report: &Value, of: &str| report[of].as_u64().expect("a count");
    assert!(count(&killed, "events") >= EVENTS, "{killed:#}");
    assert_eq!(killed["ok"], true, "{killed:#}");
    assert_eq!(image(&setup.data_dir), before, "nothing may change");
    let broken = report(&setup.data_dir, samples_with::<Broken<Generous>>());
    assert_eq!((broken.ok, broken.diverging), (false, 1), "{broken:#?}");
    let sampled = json(&run_verify(&setup.data_dir, &["--json", "--sample", "3"]));
    assert_eq!(count(&sampled, "aggregates"), count(&killed, "aggregates"));
    // A restart indexes on disk what was indexed in memory.
    setup.start().stop();
    let stopped = json(&run_verify(&setup.data_dir, &["--json"]));
    for of in ["aggregates", "events"] {
        assert_eq!(count(&stopped, of), count(&killed, of), "{of}: {stopped:#}");
    }
    assert!(count(&stopped, "states_compared") >= count(&killed, "states_compared"));
}

#[test]
fn a_directory_that_is_none_is_refused_and_not_made() {
    let directory = temp_dir();
    let nowhere = directory.path().join("nowhere");
    for data_dir in [&nowhere, directory.path()] {
        let output = run_verify(data_dir, &[]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    assert!(!nowhere.exists() && image(directory.path()).is_empty());
    assert_eq!(
        run_verify(&nowhere, &["--sample", "0"]).status.code(),
        Some(2)
    );
}

fn samples_with<A: Aggregate>() -> NodeBuilder {
    Node::builder()
        .aggregate::<A>()
        .aggregate::<Order>()
        .aggregate::<Prescription>()
        .aggregate::<WorkshopDay>()
}

fn report(data_dir: &Path, node: NodeBuilder) -> Report {
    let types = node.types_for_reading().expect("the types fit");
    let options = VerifyOptions::default();
    verify(data_dir, &types, options, &Progress::default()).expect("the journal can be read")
}

#[test]
fn a_broken_fold_is_found_with_its_aggregate_its_event_and_the_difference() {
    let directory = temp_dir();
    let setup = setup(directory.path());
    let mut node = setup.start();
    do_business(&mut node.client());
    node.stop();

    assert!(report(&setup.data_dir, samples_with::<Account>()).ok);
    let broken = report(&setup.data_dir, samples_with::<Broken<Generous>>());
    assert!(!broken.ok);
    assert_eq!(
        (broken.diverging, broken.failing, broken.findings.len()),
        (1, 0, 1)
    );
    let finding = &broken.findings[0];
    assert_eq!(finding.aggregate_type, "account");
    assert_eq!(finding.aggregate_id, "a-2");
    let divergence = finding.divergence.as_ref().expect("it diverges");
    // Six events are understood alike; the premium is the seventh.
    assert_eq!(
        (divergence.agrees_up_to, divergence.sequence_number),
        (6, 7)
    );
    assert_eq!(divergence.event_types, ["PremiumReceived"]);
    assert_eq!(divergence.state_before["balance_cents"], 15);
    assert_eq!(divergence.state_after["balance_cents"], 15 + 2 * 77);
    // The snapshot after the eighth event shows in what the states differ.
    assert_eq!(divergence.compared_at, Some(8));
    let [field] = &divergence.difference[..] else {
        panic!("one field differs: {:?}", divergence.difference);
    };
    assert_eq!(field.path, "/balance_cents");
    assert_eq!(field.recorded, Some(Value::from(90)));
    assert_eq!(field.replayed, Some(Value::from(90 + 77)));

    let without_orders = Node::builder().aggregate::<Account>();
    let found = report(&setup.data_dir, without_orders);
    assert!(!found.ok);
    assert_eq!(
        found.unknown_types,
        BTreeMap::from([("order".to_owned(), 1)])
    );
}

#[test]
fn a_journal_of_the_first_release_is_understood() {
    let events = number_from_env("PHALANX_VERIFY_EVENTS", 20_000);
    let accounts = (events / 100).max(1);
    let directory = temp_dir();
    let data_dir = directory.path().join("data");
    first_release(&data_dir, accounts, events);

    let before = image(&data_dir);
    let found = report(&data_dir, Node::builder().samples());
    assert!(found.ok, "{found:#?}");
    assert_eq!((found.aggregates, found.events), (accounts, events));
    let rate = format!("{:.0} events/s, {events} events", found.events_per_second);
    measured("verify of a journal of the first release", rate);
    let deposits = found
        .event_types
        .iter()
        .find(|of| of.event_type == "MoneyDeposited");
    let deposits = deposits.expect("there are deposits");
    assert_eq!((deposits.version, deposits.current_version), (1, 2));
    assert_eq!(deposits.count.events, events - accounts);
    // That release recorded no hashes, and these accounts no snapshots: it says so.
    assert_eq!(found.without_recorded_state, accounts);

    let found = report(&data_dir, samples_with::<Broken<Forgetful>>());
    assert!(!found.ok);
    assert_eq!(found.failing, accounts);
    let reason = found.findings[0].failure.as_deref().unwrap_or_default();
    assert!(reason.starts_with("event 2 cannot be folded"), "{reason}");
    assert!(image(&data_dir) == before, "nothing may change");
}
