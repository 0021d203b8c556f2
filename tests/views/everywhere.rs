//! A cluster: every node has the views, a token of one node holds at another, also while leaders
//! move.

use std::net::SocketAddr;
use std::time::Duration;

use super::reading::{check_accounts, histories};
use super::support::client;
use super::support::http::{Http, Request};
use super::support::node::{Node, NodeSetup};
use super::support::{ports, temp_dir, wait};

const SOON: Duration = Duration::from_secs(30);

/// Sends a command to any node until it is stored; gives its position.
fn store(http: &mut Http, request: &Request) -> String {
    wait::until("a command is stored", SOON, || {
        let response = http.try_send(request).ok()?;
        match response.status {
            200 | 201 => Some(response.header("Phalanx-Position")?.to_owned()),
            503 | 504 => None,
            status => panic!("{request:?}: {status} {}", response.text()),
        }
    })
}

#[test]
fn every_node_answers_alike_and_a_position_holds_at_all_of_them() {
    let directory = temp_dir();
    let members: Vec<(u64, SocketAddr)> = (1..=3).map(|id| (id, ports::free_address())).collect();
    let setup = |id: u64| NodeSetup::member(directory.path(), id, &members);
    let setups = [setup(1), setup(2), setup(3)];
    let mut nodes: Vec<Node> = setups.iter().map(NodeSetup::spawn).collect();
    let addresses: Vec<SocketAddr> = setups.iter().map(|setup| setup.address).collect();
    let mut anywhere = Http::anywhere(&addresses).patient_for(Duration::from_secs(5));
    let accounts: Vec<String> = (0..12).map(|n| format!("e-{n}")).collect();
    for id in &accounts {
        store(&mut anywhere, &client::open(id));
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
        let position = store(&mut anywhere, &client::deposit(id, 1).key(&key));
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
