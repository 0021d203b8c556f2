//! The data directory belongs to one node of one cluster, and to one process at a time.

use std::process::{Output, Stdio};

use crate::cases::Fixture;
use crate::support::client;
use crate::support::node::NodeSetup;
use crate::support::ports;

/// Runs a node that is expected to refuse to start; gives everything it wrote.
///
/// # Panics
/// When it ends with code 0.
fn refused_output(setup: &NodeSetup) -> String {
    let mut setup = setup.clone();
    setup.address = ports::free_address();
    let output: Output = setup
        .command()
        .env(
            "PHALANX__CLUSTER__LISTEN",
            ports::free_address().to_string(),
        )
        .stdin(Stdio::null())
        .output()
        .expect("the binary can be started");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| code != 0),
        "{:?}: {text}",
        output.status
    );
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[test]
fn a_second_process_on_the_same_directory_is_refused_and_the_first_serves_on() {
    let mut fixture = Fixture::new();
    client::expect_success(&mut fixture.node.client(), &client::open("d-1"));
    let output = refused_output(&fixture.setup);
    let directory = fixture.setup.data_dir.to_string_lossy().into_owned();
    assert!(
        output.contains(&directory),
        "it names the directory: {output}"
    );
    client::expect_success(&mut fixture.node.client(), &client::deposit("d-1", 1));
    fixture.kill_and_restart();
    let entries = client::history(&mut fixture.node.client(), "d-1").expect("a history");
    assert_eq!(entries.len(), 2);
}

#[test]
fn a_directory_of_another_cluster_node_or_shard_count_is_refused_and_the_key_is_named() {
    let mut fixture = Fixture::new();
    client::expect_success(&mut fixture.node.client(), &client::open("d-1"));
    fixture.node.stop();
    for (variable, value, key) in [
        ("CLUSTER__NAME", "another", "cluster.name"),
        ("NODE__ID", "2", "node.id"),
        ("CLUSTER__SHARDS", "5", "cluster.shards"),
    ] {
        let output = refused_output(&fixture.setup.clone().set(variable, value));
        assert!(output.contains(key), "{key} is not named: {output}");
    }
    fixture.node = fixture.setup.start();
    let entries = client::history(&mut fixture.node.client(), "d-1").expect("a history");
    assert_eq!(entries.len(), 1, "the refusals changed nothing");
}

#[test]
fn an_address_that_is_taken_is_refused_with_a_message() {
    let fixture = Fixture::new();
    let taken = fixture.node.address.to_string();
    let directory = crate::support::temp_dir();
    let setup = NodeSetup::new(directory.path());
    let output = setup
        .command()
        .env("PHALANX__HTTP__LISTEN", &taken)
        .stdin(Stdio::null())
        .output()
        .expect("the binary can be started");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains(&taken), "it names the address: {text}");
}
