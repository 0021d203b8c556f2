//! A thousand clients that send half a header, nothing at all, or a body that never comes: the
//! others are served as before, and the slow ones lose their connections.
//!
//! The ratio of the others' latencies with and without the slow ones is printed; what is asserted
//! is service, not speed, as a shared machine has its own moods.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::client;
use support::http::{Connection, Http, command_target};
use support::node::NodeSetup;
use support::{measured, temp_dir, wait};

const SLOW: usize = 1_000;
const NORMAL: usize = 4;
const REQUESTS_EACH: usize = 800;
const HEADER_TIMEOUT_MS: u64 = 5_000;
const BODY_TIMEOUT_MS: u64 = 5_000;
/// An alarm for a stall, far above any jitter.
const STALL: Duration = Duration::from_secs(2);

/// Opens a connection that stops in the middle of its request.
fn slow_connection(address: SocketAddr, n: usize) -> Connection {
    let mut connection = Connection::open(address).expect("a slow client is let in");
    let target = command_target("account", "slow", "OpenAccount");
    let half_header = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Le");
    let slow_body = format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{\"owner\":"
    );
    let bytes = match n % 3 {
        0 => half_header,
        1 => slow_body,
        _ => String::new(),
    };
    connection.write(bytes.as_bytes()).expect("a few bytes fit");
    connection
}

/// Latencies of normal clients, sorted; every request is answered rightly.
fn serve_normal_clients(address: SocketAddr) -> Vec<Duration> {
    let mut all: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..NORMAL)
            .map(|number| scope.spawn(move || deposits(address, number)))
            .collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("a normal client finishes"))
            .collect()
    });
    all.sort_unstable();
    all
}

fn deposits(address: SocketAddr, number: usize) -> Vec<Duration> {
    let mut http = Http::new(address);
    let id = format!("normal-{number}");
    let opened = http.send(&client::open(&id));
    assert!(matches!(opened.status, 200 | 201), "{}", opened.text());
    (0..REQUESTS_EACH)
        .map(|_| {
            let started = Instant::now();
            client::expect_success(&mut http, &client::deposit(&id, 1));
            started.elapsed()
        })
        .collect()
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
fn a_thousand_slow_clients_do_not_keep_others_from_being_served_and_are_thrown_out() {
    let directory = temp_dir();
    let node = NodeSetup::new(directory.path())
        .set("HTTP__HEADER_TIMEOUT_MS", HEADER_TIMEOUT_MS)
        .set("HTTP__BODY_TIMEOUT_MS", BODY_TIMEOUT_MS)
        .start();
    serve_normal_clients(node.address);
    let alone = serve_normal_clients(node.address);
    let opened = Instant::now();
    let mut slow: Vec<Connection> = (0..SLOW)
        .map(|n| slow_connection(node.address, n))
        .collect();
    let crowded = serve_normal_clients(node.address);
    measured(
        "slow clients were still connected after the measurement began",
        format!("{:?} of {HEADER_TIMEOUT_MS} ms", opened.elapsed()),
    );
    for percent in [50, 99] {
        let (before, with) = (percentile(&alone, percent), percentile(&crowded, percent));
        let ratio = with.as_secs_f64() / before.as_secs_f64();
        measured(
            &format!("p{percent} with {SLOW} slow clients"),
            format!("{with:?} against {before:?} alone, ratio {ratio:.2}"),
        );
    }
    let longest = percentile(&crowded, 100);
    assert!(longest < STALL, "a normal client waited {longest:?}");

    let patience = Duration::from_millis(2 * (HEADER_TIMEOUT_MS + BODY_TIMEOUT_MS));
    let deadline = Instant::now() + patience;
    for (n, connection) in slow.iter_mut().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        connection
            .set_read_timeout(left.max(Duration::from_millis(1)))
            .expect("a timeout can be set");
        let farewell = connection.read_to_end();
        let closed = match &farewell {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        };
        assert!(closed, "slow client {n} is still connected: {farewell:?}");
    }
    let nothing_happened = wait::poll(Duration::from_secs(5), || {
        let response = node.send(&client::fresh("slow"));
        (response.status == 404).then_some(())
    });
    assert!(nothing_happened.is_some(), "half a request has no effect");
    client::expect_success(&mut node.client(), &client::open("slow"));
}
