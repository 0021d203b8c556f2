//! Requests that are none, or that two servers could read differently: refused, without effect, and
//! without harm to the next client.

use std::io;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::cases::Fixture;
use crate::support::client;
use crate::support::http::{Connection, Request};
use crate::support::seeded;

const PATIENCE: Duration = Duration::from_secs(20);
const DEPOSIT: &str = "POST /v1/aggregates/account/g-1/commands/Deposit HTTP/1.1\r\n";
const JSON: &str = "Content-Type: application/json\r\n";
const FIVE: &str = r#"{"amount_cents":5}"#;

/// Sends bytes and gives everything that comes back until the node closes the connection; `None`
/// when it does not close in time.
fn exchange(fixture: &Fixture, bytes: &[u8]) -> Option<String> {
    let mut connection = Connection::open(fixture.node.address).expect("the node listens");
    connection
        .set_read_timeout(PATIENCE)
        .expect("a timeout can be set");
    // The node may refuse and close before all is written.
    drop(connection.write(bytes));
    match connection.read_to_end() {
        Ok(answer) => Some(String::from_utf8_lossy(&answer).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Some(String::new()),
        Err(_) => None,
    }
}

fn opened() -> Fixture {
    let fixture = Fixture::with(|setup| setup.set("HTTP__HEADER_TIMEOUT_MS", 2_000));
    client::expect_success(&mut fixture.node.client(), &client::open("g-1"));
    fixture
}

fn assert_nothing_happened(fixture: &Fixture) {
    let entries = client::history(&mut fixture.node.client(), "g-1").expect("a history");
    assert_eq!(
        entries.len(),
        1,
        "a refused request took effect: {entries:?}"
    );
}

#[test]
fn requests_that_two_servers_could_read_differently_are_refused_and_end_the_connection() {
    let fixture = opened();
    let length = format!("Content-Length: {}\r\n", FIVE.len());
    let chunked = format!("12\r\n{FIVE}\r\n0\r\n\r\n");
    let host = "Host: x\r\n";
    let encoding = "Transfer-Encoding: chunked\r\n";
    let cases = [
        (
            "length and encoding",
            format!("{DEPOSIT}{host}{JSON}{length}{encoding}\r\n{chunked}"),
        ),
        (
            "encoding and length",
            format!("{DEPOSIT}{host}{JSON}{encoding}{length}\r\n{chunked}"),
        ),
        (
            "two lengths",
            format!("{DEPOSIT}{host}{JSON}{length}Content-Length: 3\r\n\r\n{FIVE}"),
        ),
        (
            "a list of lengths",
            format!("{DEPOSIT}{host}{JSON}Content-Length: 18, 3\r\n\r\n{FIVE}"),
        ),
        (
            "a signed length",
            format!("{DEPOSIT}{host}{JSON}Content-Length: +18\r\n\r\n{FIVE}"),
        ),
        (
            "a negative length",
            format!("{DEPOSIT}{host}{JSON}Content-Length: -18\r\n\r\n{FIVE}"),
        ),
        (
            "a huge length",
            format!("{DEPOSIT}{host}{JSON}Content-Length: 99999999999999999999\r\n\r\n{FIVE}"),
        ),
        (
            "an unknown encoding",
            format!("{DEPOSIT}{host}{JSON}Transfer-Encoding: zip\r\n\r\n{chunked}"),
        ),
        ("no host", format!("{DEPOSIT}{JSON}{length}\r\n{FIVE}")),
        (
            "two hosts",
            format!("{DEPOSIT}{host}Host: y\r\n{JSON}{length}\r\n{FIVE}"),
        ),
        (
            "a folded header",
            format!("{DEPOSIT}{host}{JSON}X-A: b\r\n c\r\n{length}\r\n{FIVE}"),
        ),
        (
            "a space before the colon",
            format!("{DEPOSIT}{host}{JSON}Content-Length : 18\r\n\r\n{FIVE}"),
        ),
        (
            "a NUL in a header",
            format!("{DEPOSIT}{host}{JSON}X-A: b\0c\r\n{length}\r\n{FIVE}"),
        ),
        (
            "a broken chunk size",
            format!("{DEPOSIT}{host}{JSON}{encoding}\r\nzz\r\n{FIVE}\r\n0\r\n\r\n"),
        ),
        (
            "bare line feeds",
            format!("{DEPOSIT}{host}{JSON}{length}\r\n{FIVE}").replace("\r\n", "\n"),
        ),
        (
            "a bare line feed in the header",
            format!("{DEPOSIT}Host: x\n{JSON}{length}\r\n{FIVE}"),
        ),
        (
            "a version that is none",
            format!("{DEPOSIT}{host}{JSON}{length}\r\n{FIVE}").replace("HTTP/1.1", "HTTP/9.9"),
        ),
        ("no version", "GET /livez\r\n\r\n".to_owned()),
        (
            "a space in the target",
            "GET /livez /x HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        ),
    ];
    let mut failures = Vec::new();
    for (what, request) in cases {
        // A second request rides behind: it must not be taken for one.
        let smuggled = format!("{request}{DEPOSIT}{host}{JSON}{length}\r\n{FIVE}");
        match exchange(&fixture, smuggled.as_bytes()) {
            None => failures.push(format!("{what}: the connection stays open")),
            Some(answer) => {
                let served = answer.contains("HTTP/1.1 2");
                let refused = answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5");
                if served || !(refused || answer.is_empty()) {
                    failures.push(format!("{what}: {answer}"));
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert_nothing_happened(&fixture);
}

#[test]
fn random_bytes_and_damaged_requests_harm_nobody() {
    let fixture = opened();
    let mut rng = seeded("garbage requests");
    let whole = format!(
        "{DEPOSIT}Host: x\r\n{JSON}Content-Length: {}\r\nConnection: close\r\n\r\n{FIVE}",
        FIVE.len()
    );
    for _ in 0..150 {
        let bytes = random_bytes(&mut rng);
        drop(send_and_hang_up(&fixture, &bytes));
        let at = rng.random_range(0..whole.len());
        drop(send_and_hang_up(&fixture, &whole.as_bytes()[..at]));
    }
    assert_eq!(fixture.send(&Request::get("/livez")).status, 200);
    assert_nothing_happened(&fixture);
    let log = fixture.node.log();
    assert!(!log.contains("panicked"), "{log}");
}

fn random_bytes(rng: &mut StdRng) -> Vec<u8> {
    let count = rng.random_range(1..600);
    (0..count).map(|_| rng.random()).collect()
}

fn send_and_hang_up(fixture: &Fixture, bytes: &[u8]) -> io::Result<()> {
    let mut connection = Connection::open(fixture.node.address)?;
    connection.write(bytes)?;
    connection.finish_writing()?;
    connection.read_to_end().map(drop)
}

#[test]
fn requests_on_one_connection_are_answered_in_their_order() {
    let fixture = opened();
    let mut connection = Connection::open(fixture.node.address).expect("the node listens");
    let deposit = format!(
        "{DEPOSIT}Host: x\r\n{JSON}Content-Length: {}\r\n\r\n{FIVE}",
        FIVE.len()
    );
    let health = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let pipeline = format!("{deposit}{health}{deposit}");
    connection
        .write(pipeline.as_bytes())
        .expect("the node reads");
    let mut next = || connection.read_response(false).expect("an answer");
    assert_eq!(next().json()["sequence_number"], 2);
    assert_eq!(next().status, 200);
    assert_eq!(next().json()["sequence_number"], 3);
    let more = connection
        .send(&client::deposit("g-1", 1))
        .expect("the connection stays");
    assert_eq!(more.json()["sequence_number"], 4);
}

#[test]
fn a_client_that_says_nothing_or_stops_halfway_loses_its_connection() {
    let fixture = Fixture::with(|setup| {
        setup
            .set("HTTP__HEADER_TIMEOUT_MS", 1_000)
            .set("HTTP__BODY_TIMEOUT_MS", 1_000)
            .set("HTTP__IDLE_TIMEOUT_MS", 1_200)
    });
    client::expect_success(&mut fixture.node.client(), &client::open("g-1"));
    let half_body = format!("{DEPOSIT}Host: x\r\n{JSON}Content-Length: 18\r\n\r\n{{");
    for (what, bytes) in [
        ("nothing", ""),
        ("half a request line", "GET /liv"),
        ("half a header", "GET /livez HTTP/1.1\r\nHost: x\r\nX-"),
        ("half a body", half_body.as_str()),
        (
            "a request, then silence",
            "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        ),
    ] {
        assert!(
            exchange(&fixture, bytes.as_bytes()).is_some(),
            "{what}: still connected"
        );
    }
    assert_nothing_happened(&fixture);
}
