//! SIGTERM and SIGINT: stop admitting, finish what was begun, end with code 0.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::cases::Fixture;
use crate::support::audit::audit;
use crate::support::books::{Tellers, open_accounts};
use crate::support::client;
use crate::support::http::Connection;
use crate::support::{seeded, skipped, wait};

const GRACE: Duration = Duration::from_secs(60);

#[test]
fn a_node_that_is_told_to_stop_under_load_ends_with_code_0_and_loses_nothing() {
    let mut fixture = Fixture::new();
    let accounts = open_accounts(fixture.node.address, 8);
    let mut rng = seeded("stops under load");
    let mut tellers = Tellers::start(6, fixture.node.address, &accounts, &mut rng);
    for _ in 0..5 {
        tellers.progress(20);
        fixture.stop_and_restart();
    }
    let books = tellers.stop();
    let checked = audit(fixture.node.address, &accounts, &books);
    assert!(checked.promises > 50, "too little happened: {checked:?}");
}

#[test]
fn a_node_that_is_told_to_stop_while_it_starts_ends_with_code_0() {
    let mut fixture = Fixture::new();
    for signal in [Signal::TERM, Signal::INT] {
        fixture.node.terminate();
        let status = fixture.node.wait_end(GRACE);
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
        let lock = fixture.setup.data_dir.join("lock");
        std::fs::remove_file(&lock).expect("nobody holds the directory");
        fixture.node = fixture.setup.spawn();
        // From here on it opens its journal, which takes longer than the signal.
        wait::poll(GRACE, || lock.exists().then_some(())).expect("it starts");
        fixture.node.signal(signal);
        let status = fixture.node.wait_end(GRACE);
        assert!(
            status.is_some_and(|status| status.success()),
            "{signal:?}: {status:?}\n{}",
            fixture.node.log()
        );
        let log = fixture.node.log();
        assert!(log.contains("asked to stop"), "{log}");
        // What it says last: everything is flushed and closed.
        assert!(log.contains("\"stopped\""), "{log}");
        fixture.node = fixture.setup.start();
    }
}

#[test]
fn idle_connections_do_not_keep_a_node_from_ending() {
    let mut fixture = Fixture::new();
    let mut idle: Vec<Connection> = (0..20)
        .map(|_| Connection::open(fixture.node.address).expect("the node listens"))
        .collect();
    for connection in idle.iter_mut().take(10) {
        connection
            .write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect("the node reads");
        connection.read_response(false).expect("an answer");
    }
    fixture.node.terminate();
    let status = fixture.node.wait_end(GRACE);
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}\n{}",
        fixture.node.log()
    );
}

#[test]
fn a_command_that_was_begun_is_finished_before_the_node_ends() {
    if cfg!(not(feature = "failpoints")) {
        skipped(
            "a command during shutdown",
            "built without the feature `failpoints`",
        );
        return;
    }
    // Each write takes long enough for SIGTERM to arrive in the middle of one.
    let slow = |setup: crate::support::node::NodeSetup| {
        setup.variable("FAILPOINTS", "journal::before_write=sleep(300)")
    };
    let mut fixture = Fixture::with(slow);
    client::expect_success(&mut fixture.node.client(), &client::open("t-1"));
    // An answer may arrive a moment before its request counts as over.
    let over = wait::poll(GRACE, || {
        (fixture.node.metric("phalanx_requests_in_flight") == Some(0.0)).then_some(())
    });
    over.expect("nothing is in flight");
    let address = fixture.node.address;
    let bytes = Arc::new(client::deposit("t-1", 5).key("k"));
    let answered = std::thread::scope(|scope| {
        let request = Arc::clone(&bytes);
        let client = scope.spawn(move || {
            let mut connection = Connection::open(address).expect("the node listens");
            connection.send(&request)
        });
        // One that was over before anybody looked is over before the node is told to stop.
        wait::poll(Duration::from_secs(60), || {
            let begun = fixture.node.metric("phalanx_requests_in_flight") >= Some(1.0);
            (begun || client.is_finished()).then_some(())
        });
        fixture.node.terminate();
        client.join().expect("the client finishes")
    });
    let status = fixture.node.wait_end(GRACE);
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}\n{}",
        fixture.node.log()
    );
    let answer = answered.expect("a command that was begun is answered");
    assert_eq!(answer.status, 200, "{}", answer.text());
    fixture.node = fixture.setup.clone().variable("FAILPOINTS", "").start();
    let again = fixture.node.send(&bytes);
    assert_eq!(again.body, answer.body);
    assert_eq!(again.header("Idempotent-Replay"), Some("true"));
}
