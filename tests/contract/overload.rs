//! More requests than a node admits: refused at once and told when to come again, and nothing of
//! what was admitted is lost.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cases::{Fixture, problem_fault};
use crate::support::client;
use crate::support::http::{Connection, Http, Request};
use crate::support::{measured, wait};

const CLIENTS: i64 = 48;
const COMMANDS_EACH: i64 = 25;
/// The aim is 10 ms; this is an alarm for queueing, not a measurement: what waits in a queue waits for
/// the time limit of its request.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);

fn tiny_limits() -> Fixture {
    Fixture::with(|setup| {
        setup
            .set("ACTORS__MAX_IN_FLIGHT", 4)
            .set("ACTORS__MAX_IN_FLIGHT_PER_SHARD", 3)
            .set("ACTORS__MAX_IN_FLIGHT_PER_AGGREGATE", 2)
    })
}

/// What one client met until all its commands were stored.
#[derive(Debug, Default)]
struct Met {
    amounts: Vec<(u64, i64)>,
    refusals: Vec<Duration>,
    faults: Vec<String>,
}

fn insist(http: &mut Http, request: &Request, met: &mut Met) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let started = Instant::now();
        assert!(started < deadline, "{request:?} is refused for ever");
        let response = http.send(request);
        match response.status {
            200 => {
                return response.json()["sequence_number"]
                    .as_u64()
                    .expect("a number");
            }
            503 => {
                met.refusals.push(started.elapsed());
                met.faults.extend(problem_fault(&response, "overloaded"));
                let body = response.json();
                if body["outcome"] != json!("not_applied") || body["retryable"] != json!(true) {
                    met.faults.push(response.text());
                }
            }
            status => panic!("{status} {}", response.text()),
        }
    }
}

#[test]
fn a_crowd_is_refused_at_once_and_whoever_insists_is_served_exactly_once() {
    let fixture = tiny_limits();
    client::expect_success(&mut fixture.node.client(), &client::open("busy"));
    let everybody: Vec<Met> = std::thread::scope(|scope| {
        let clients: Vec<_> = (1..=CLIENTS)
            .map(|number| {
                let address = fixture.node.address;
                scope.spawn(move || {
                    let (mut http, mut met) = (Http::new(address), Met::default());
                    for n in 1..=COMMANDS_EACH {
                        let amount = number * 1_000 + n;
                        let request = client::deposit("busy", amount).key(&amount.to_string());
                        let sequence = insist(&mut http, &request, &mut met);
                        met.amounts.push((sequence, amount));
                    }
                    met
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("a client finishes"))
            .collect()
    });
    let faults: Vec<&String> = everybody.iter().flat_map(|met| &met.faults).collect();
    assert!(faults.is_empty(), "{:?}", faults.first());
    let mut refusals: Vec<Duration> = everybody
        .iter()
        .flat_map(|met| met.refusals.clone())
        .collect();
    refusals.sort_unstable();
    assert!(
        refusals.len() >= 50,
        "only {} refusals: no overload",
        refusals.len()
    );
    let p99 = refusals[refusals.len() * 99 / 100];
    measured(
        "refusals under overload",
        format!("{}, p99 {p99:?}", refusals.len()),
    );
    assert!(p99 < REFUSED_WITHIN, "refusals waited {p99:?}");

    let mut told: Vec<(u64, i64)> = everybody.into_iter().flat_map(|met| met.amounts).collect();
    told.sort_unstable();
    let entries = client::history(&mut fixture.node.client(), "busy").expect("a history");
    let stored: Vec<(u64, i64)> = entries
        .iter()
        .skip(1)
        .map(|e| (e.sequence, e.amount))
        .collect();
    assert_eq!(stored, told);
}

#[test]
fn health_and_metrics_answer_while_commands_are_refused() {
    let fixture = tiny_limits();
    client::expect_success(&mut fixture.node.client(), &client::open("busy"));
    let address = fixture.node.address;
    std::thread::scope(|scope| {
        for number in 1..=16 {
            scope.spawn(move || {
                let (mut http, mut met) = (Http::new(address), Met::default());
                for n in 1..=40 {
                    let request = client::deposit("busy", number * 1_000 + n);
                    insist(&mut http, &request, &mut met);
                }
            });
        }
        let mut http = fixture.node.client();
        for _ in 0..50 {
            assert_eq!(http.get("/livez").status, 200);
            assert_eq!(http.get("/readyz").status, 200);
            assert_eq!(http.get("/metrics").status, 200);
        }
    });
}

/// A node with a common soft limit and a large hard one.
#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_may_be() {
    let limit = ["prlimit", "--nofile=700:5000", "--"];
    let fixture = Fixture::with(|setup| setup.wrapped_by(&limit));
    let limits = format!("/proc/{}/limits", fixture.node.process());
    let limits = std::fs::read_to_string(limits).expect("the limits of a process");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<&str> = files.expect("a limit").split_whitespace().collect();
    assert_eq!(files[3..5], ["5000", "5000"], "{limits}");
}

/// More connections than the process may have files: what the journal needs is not theirs.
#[test]
fn idle_connections_leave_the_files_that_the_journal_needs() {
    let limit = ["prlimit", "--nofile=700:700", "--"];
    let fixture = Fixture::with(|setup| setup.wrapped_by(&limit));
    let log = fixture.node.log();
    assert!(log.contains("http.max_connections"), "{log}");
    let mut http = fixture.node.client();
    client::expect_success(&mut http, &client::open("patient"));
    let open = || Connection::open(fixture.node.address).ok();
    let idle: Vec<Connection> = (0..800).filter_map(|_| open()).collect();
    assert!(idle.len() > 700, "only {} connections", idle.len());
    // Tables are written and read, and the node goes on.
    for amount in 1..=500 {
        client::expect_success(&mut http, &client::deposit("patient", amount));
    }
    let mut late = Connection::open(fixture.node.address).expect("the node listens");
    let refused = late.read_response(false).expect("an answer to nobody");
    assert_eq!(
        (refused.status, refused.code()),
        (503, "overloaded".to_owned())
    );
    drop((idle, late));
    wait::until("a free connection", Duration::from_secs(20), || {
        (Http::new(fixture.node.address).get("/livez").status == 200).then_some(())
    });
}
