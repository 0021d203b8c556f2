//! A leader that is stopped past its lease and continued must not answer from its old state.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;

use super::fixture::Cluster;
use super::support::client;
use super::support::http::{Connection, Http};
use super::support::{measured, temp_dir, wait};

const ROUNDS: u64 = 3;
/// And at most so many, until somebody was answered.
const MOST_ROUNDS: u64 = 20;
/// Reads that wait in the stopped leader's sockets, so that it answers them the moment it runs.
const READERS: usize = 8;

#[test]
fn a_leader_that_slept_past_its_lease_gives_no_stale_answer() {
    let directory = temp_dir();
    let cluster = Cluster::start_all(directory.path());
    let mut accounts = cluster.open_accounts(8);
    let (mut refused, mut fresh, mut rounds) = (0, 0, 0);
    for round in 0..MOST_ROUNDS {
        // On a busy machine it may refuse all of them: its connections to the others are gone as well.
        if round >= ROUNDS && fresh > 0 {
            break;
        }
        rounds += 1;
        let (id, position) = &mut accounts[0];
        let leader = cluster
            .served_by(&mut cluster.anywhere(), id, position)
            .node;
        let address = cluster.address(leader);
        let (read, overdraw) = (client::fresh_after(id, position), client::overdraw(id));
        let mut readers: Vec<Connection> = (0..READERS).map(|_| open(address)).collect();
        cluster.node(leader).freeze();
        let others: Vec<SocketAddr> = (1..=3)
            .filter(|node| *node != leader)
            .map(|node| cluster.address(node))
            .collect();
        let mut http = Http::anywhere(&others).patient_for(Duration::from_secs(2));
        let deposit = client::deposit(id, 100).key(&format!("while-{round}"));
        *position = client::store(&mut http, &deposit);
        // Only now: what was asked before the deposit was acknowledged may be answered without it.
        for (number, reader) in readers.iter_mut().enumerate() {
            let request = if number % 2 == 0 { &read } else { &overdraw };
            reader
                .write(&request.to_bytes(address))
                .expect("the kernel takes the request of a stopped process");
        }
        let newest = u64::from(round as u32) + 2;
        cluster.node(leader).signal(Signal::CONT);
        for reader in &mut readers {
            let Ok(answer) = reader.read_response(false) else {
                refused += 1;
                continue;
            };
            match answer.status {
                200 => {
                    let seen = answer.json()["sequence_number"].as_u64();
                    assert_eq!(seen, Some(newest), "a stale read: {}", answer.text());
                    fresh += 1;
                }
                422 => {
                    let balance = answer.json()["balance_cents"].as_i64();
                    let expected = i64::try_from(100 * (round + 1)).expect("fits");
                    assert_eq!(
                        balance,
                        Some(expected),
                        "a stale rejection: {}",
                        answer.text()
                    );
                    fresh += 1;
                }
                503 | 504 => refused += 1,
                status => panic!("{status}: {}", answer.text()),
            }
        }
        // It comes back as a follower, and the next round finds three nodes.
        wait::let_pass(Duration::from_millis(1_500));
    }
    measured(
        "leaders stopped past their lease",
        format!("{rounds}; answers right away: {refused} refused, {fresh} fresh, 0 stale"),
    );
    assert!(fresh > 0, "nobody was answered, so nothing was tried");
}

fn open(address: SocketAddr) -> Connection {
    let connection = Connection::open(address).expect("the leader listens");
    connection
        .set_read_timeout(Duration::from_secs(10))
        .expect("a socket takes a timeout");
    connection
}
