//! Many clients on one aggregate: each command gets its own sequence number, none is skipped, none
//! is given twice.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::sync::Barrier;
use std::time::Instant;

use support::client;
use support::http::Http;
use support::node::NodeSetup;
use support::{measured, temp_dir};

const CLIENTS: i64 = 64;
const COMMANDS_EACH: i64 = 100;

#[test]
fn sixty_four_clients_on_one_account_get_each_sequence_number_once() {
    let directory = temp_dir();
    let node = NodeSetup::new(directory.path()).start();
    client::expect_success(&mut node.client(), &client::open("hot"));
    let together = Barrier::new(usize::try_from(CLIENTS).expect("fits"));
    let started = Instant::now();
    let mut given: Vec<(u64, i64)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (1..=CLIENTS)
            .map(|number| {
                let (together, address) = (&together, node.address);
                scope.spawn(move || pay_in(&mut Http::new(address), number, together))
            })
            .collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client finishes"))
            .collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    given.sort_unstable();
    measured(
        "commands per second on one aggregate",
        format!("{:.0}", given.len() as f64 / seconds),
    );

    let total = u64::try_from(CLIENTS * COMMANDS_EACH).expect("fits");
    let numbers: Vec<u64> = given.iter().map(|(sequence, _)| *sequence).collect();
    let expected: Vec<u64> = (2..=total + 1).collect();
    assert_eq!(numbers, expected, "1 was the opening");
    let entries = client::history(&mut node.client(), "hot").expect("a history");
    let recorded: Vec<(u64, i64)> = entries
        .iter()
        .skip(1)
        .map(|entry| (entry.sequence, entry.amount))
        .collect();
    assert_eq!(recorded, given, "the history is what the clients were told");
}

/// Pays in amounts that no other client uses; gives what each reply said.
fn pay_in(http: &mut Http, number: i64, together: &Barrier) -> Vec<(u64, i64)> {
    together.wait();
    (1..=COMMANDS_EACH)
        .map(|n| {
            let amount = number * 1_000_000 + n;
            let reply = client::expect_success(http, &client::deposit("hot", amount)).json();
            let sequence = reply["sequence_number"]
                .as_u64()
                .expect("a sequence number");
            assert_eq!(
                reply["events"][0]["sequence_number"].as_u64(),
                Some(sequence)
            );
            (sequence, amount)
        })
        .collect()
}
