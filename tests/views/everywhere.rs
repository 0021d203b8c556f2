//! A cluster: every node has the views, a token of one node holds at another, also while leaders
//! move.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::reading::{check_accounts, histories};
use super::support::client;
use super::support::http::{Http, Request};
use super::support::node::{Node, NodeSetup};
use super::support::sse::Stream;
use super::support::{ports, temp_dir, wait};

const SOON: Duration = Duration::from_secs(60);

/// Three members that are being started.
fn three(directory: &Path) -> ([NodeSetup; 3], Vec<Node>) {
    let members: Vec<(u64, SocketAddr)> = (1..=3).map(|id| (id, ports::free_address())).collect();
    let setups = [1, 2, 3].map(|id| NodeSetup::member(directory, id, &members));
    let nodes = setups.iter().map(NodeSetup::spawn).collect();
    (setups, nodes)
}

#[test]
fn every_node_answers_alike_and_a_position_holds_at_all_of_them() {
    let directory = temp_dir();
    let (setups, mut nodes) = three(directory.path());
    let addresses: Vec<SocketAddr> = setups.iter().map(|setup| setup.address).collect();
    let mut anywhere = Http::anywhere(&addresses).patient_for(Duration::from_secs(5));
    let accounts: Vec<String> = (0..12).map(|n| format!("e-{n}")).collect();
    for id in &accounts {
        client::store(&mut anywhere, &client::open(id));
    }
    // A token from whichever node stored it, read at each of them in turns, while one dies.
    let mut balance = 0;
    for round in 0..90 {
        if round == 40 {
            nodes[2].kill();
        }
        if round == 60 {
            nodes[2] = setups[2].spawn();
        }
        let id = &accounts[round % accounts.len()];
        let key = format!("round {round}").replace(' ', "-");
        let position = client::store(&mut anywhere, &client::deposit(id, 1).key(&key));
        balance += 1;
        let alive = if (40..70).contains(&round) { 2 } else { 3 };
        let mut http = Http::new(addresses[round % alive]);
        let target = format!("/v1/views/accounts/{id}?after={position}&wait=9s");
        let row = wait::until("the view answers", SOON, || {
            let answer = http.try_send(&Request::get(&target)).ok()?;
            match answer.status {
                200 => Some(answer.json()),
                503 | 504 => None,
                status => panic!("{target}: {status} {}", answer.text()),
            }
        });
        let expected = round / accounts.len() + 1;
        assert_eq!(row["balance_cents"], expected, "{target}");
    }
    let expected = histories(&mut anywhere, &accounts);
    for address in &addresses {
        assert_eq!(check_accounts(&mut Http::new(*address), &expected), balance);
    }
}

/// A stream that has been opened at this node, as soon as it can be.
fn opened(address: SocketAddr, target: &str, last_id: Option<&str>) -> Stream {
    wait::until("a stream opens", SOON, || {
        let stream = Stream::try_open(address, target, last_id).ok()?;
        stream.head.starts_with("http/1.1 200").then_some(stream)
    })
}

/// The numbers of the events behind `seen` until `last`, at this node, over as many streams as it
/// takes.
fn watched(address: SocketAddr, target: &str, mut seen: u64, last: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    while seen < last {
        let mut stream = opened(address, target, Some(&seen.to_string()));
        while seen < last {
            let Some(message) = stream.try_message() else {
                break;
            };
            if message.data.is_empty() {
                continue;
            }
            assert_eq!(message.kind, "change", "{}", message.data);
            for event in message.json()["events"].as_array().expect("events") {
                numbers.push(event["sequence_number"].as_u64().expect("a number"));
            }
            seen = stream.last_id.parse().expect("a number");
        }
    }
    numbers
}

#[test]
fn a_watch_at_any_node_misses_and_repeats_nothing_while_leaders_die() {
    let directory = temp_dir();
    let (setups, mut nodes) = three(directory.path());
    let addresses: Vec<SocketAddr> = setups.iter().map(|setup| setup.address).collect();
    let mut anywhere = Http::anywhere(&addresses).patient_for(Duration::from_secs(5));
    client::store(&mut anywhere, &client::open("w-1"));
    let target = format!("{}/watch", client::account_target("w-1"));
    let deposits = 90;
    // One watcher at each of two nodes; the third dies, whatever it leads, and then the second.
    let (first, second) = std::thread::scope(|scope| {
        let [first, second] = [addresses[0], addresses[1]].map(|address| {
            let target = &target;
            scope.spawn(move || watched(address, target, 1, deposits + 1))
        });
        for round in 0..deposits {
            match round {
                20 => drop(nodes[2].kill()),
                40 => nodes[2] = setups[2].spawn(),
                50 => nodes[2].wait_ready(SOON).expect("it comes back"),
                60 => drop(nodes[1].kill()),
                75 => nodes[1] = setups[1].spawn(),
                _ => {}
            }
            let key = format!("round-{round}");
            client::store(&mut anywhere, &client::deposit("w-1", 1).key(&key));
        }
        let no_panic = "no panic";
        (
            first.join().expect(no_panic),
            second.join().expect(no_panic),
        )
    });
    let expected: Vec<u64> = (2..=deposits + 1).collect();
    assert_eq!(first, expected);
    assert_eq!(second, expected);
}
