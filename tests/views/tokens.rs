//! A client that writes, then asks a view with the position that it got, never sees an older row.

use std::time::{Duration, Instant};

use super::support::client;
use super::support::http::Request;
use super::support::node::NodeSetup;
use super::support::{measured, number_from_env, temp_dir, wait};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn with_the_position_of_a_write_no_answer_is_older_than_it() {
    let directory = temp_dir();
    let node = NodeSetup::new(directory.path()).start();
    let writes = number_from_env("PHALANX_TOKENS", 3_000);
    let clients: Vec<_> = (0..4)
        .map(|client_number| {
            let address = node.address;
            let writes = writes / 4;
            std::thread::spawn(move || {
                let mut http = super::support::http::Http::new(address);
                let id = format!("t-{client_number}");
                client::expect_success(&mut http, &client::open(&id));
                let mut waits: Vec<Duration> = Vec::new();
                for n in 1..=writes {
                    let stored = client::expect_success(&mut http, &client::deposit(&id, 1));
                    let position = stored.header("Phalanx-Position").expect("a position");
                    let target = if n % 2 == 0 {
                        format!("/v1/views/accounts/{id}?after={position}&wait=9s")
                    } else {
                        format!("/v1/views/accounts?id={id}&after={position}&wait=9s")
                    };
                    let began = Instant::now();
                    // A machine may stand still for longer than a query waits.
                    let answer = wait::until("the view answers", SOON, || {
                        let answer = http.send_until_answered(&Request::get(&target));
                        (answer.code() != "view-behind").then_some(answer)
                    });
                    waits.push(began.elapsed());
                    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
                    let json = answer.json();
                    let row = json["rows"].get(0).unwrap_or(&json);
                    assert_eq!(row["balance_cents"], n, "{target}: an older row: {json}");
                }
                waits
            })
        })
        .collect();
    let mut waits: Vec<Duration> = clients
        .into_iter()
        .flat_map(|client| client.join().expect("no panic"))
        .collect();
    waits.sort_unstable();
    let at = |part: usize| waits[waits.len() * part / 100];
    measured(
        "a view with the position of a write",
        format!("{} reads, p50 {:?}, p99 {:?}", waits.len(), at(50), at(99)),
    );
    assert!(waits.len() >= 100, "too little happened");
}
