//! Whole runs against small servers that misbehave on purpose.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;

use super::{Args, Report, measure};

/// How a server answers its n-th request; `None` closes the connection without an answer.
type Answer = fn(u64, &str) -> Option<String>;

fn reply(status: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
}

/// A server with a thread per connection; counts requests that begin with `POST` or `GET`.
fn serve(answer: Answer) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let counter = Arc::clone(&counter);
            std::thread::spawn(move || converse(stream.unwrap(), answer, &counter));
        }
    });
    (address, seen)
}

/// The generator sends each request with one write, so one read gives one request.
fn converse(mut stream: TcpStream, answer: Answer, seen: &AtomicU64) {
    let mut buffer = [0; 4_096];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            return;
        }
        let request = String::from_utf8_lossy(&buffer[..count]).into_owned();
        assert!(request.starts_with("POST /v1/aggregates/") || request.starts_with("GET /v1/"));
        let number = seen.fetch_add(1, Ordering::Relaxed);
        let Some(text) = answer(number, &request) else {
            return;
        };
        // In two parts, so that a reply does not always arrive whole.
        let (head, tail) = text.split_at(text.len() / 2);
        if stream.write_all(head.as_bytes()).is_err() || stream.write_all(tail.as_bytes()).is_err()
        {
            return;
        }
    }
}

fn run(address: SocketAddr, extra: &[&str]) -> Report {
    let url = format!("http://{address}");
    let fixed = [
        "bench",
        &url,
        "--clients",
        "2",
        "--aggregates",
        "20",
        "--warmup",
        "0",
        "--duration",
        "300ms",
        "--quiet",
    ];
    let patience = ["--timeout", "500ms"];
    let patience = if extra.contains(&patience[0]) {
        &[]
    } else {
        &patience[..]
    };
    let arguments = fixed.iter().chain(patience).chain(extra);
    measure(Args::try_parse_from(arguments).unwrap()).unwrap()
}

fn replies(report: &Report) -> u64 {
    report.statuses.values().sum()
}

#[test]
fn every_request_of_the_server_is_in_the_report_once() {
    let (address, seen) = serve(|_, _| reply("200 OK", "{}"));
    let report = run(address, &["--reads", "0.5"]);
    let setup = 20 * 2;
    assert_eq!(replies(&report) + setup, seen.load(Ordering::Relaxed));
    assert_eq!(report.commands.count + report.reads.count, replies(&report));
    assert!(report.commands.count > 0 && report.reads.count > 0);
    assert_eq!(report.unexpected, Vec::<String>::new());
}

#[test]
fn accounts_that_are_open_are_not_funded_again() {
    let (address, seen) = serve(|_, request| {
        let open = request.contains("/OpenAccount ");
        let refused = r#"{"code":"command-rejected","rejection":"account-already-open"}"#;
        if open {
            reply("422 Unprocessable Content", refused)
        } else {
            reply("200 OK", "{}")
        }
    });
    let report = run(address, &[]);
    assert_eq!(replies(&report) + 20, seen.load(Ordering::Relaxed));
    assert!(report.rejections.is_empty());
}

#[test]
fn refusals_are_timed_named_and_unexpected() {
    let (address, _) = serve(|number, _| match number % 2 {
        0 => reply("503 Service Unavailable", r#"{"code":"overloaded"}"#),
        _ => reply("200 OK", "{}"),
    });
    let report = run(address, &["--skip-setup"]);
    let refused = report
        .errors
        .get("503 overloaded")
        .copied()
        .unwrap_or_default();
    assert!(refused > 0);
    assert_eq!(report.refusals.count, refused);
    assert_eq!(report.unexpected.len(), 1);
    let allowed = run(address, &["--skip-setup", "--allow-status", "503"]);
    assert_eq!(allowed.unexpected, Vec::<String>::new());
}

#[test]
fn broken_connections_are_counted_and_replaced() {
    let (address, _) = serve(|number, _| {
        if number % 10 == 9 {
            None
        } else {
            reply("200 OK", "{}")
        }
    });
    let report = run(address, &["--skip-setup"]);
    let broken: u64 = report.connection_errors.values().sum();
    assert!(broken > 0, "{report:?}");
    assert!(report.commands.count > broken * 5, "{report:?}");
    assert!(!report.unexpected.is_empty());
}

#[test]
fn a_server_that_never_answers_ends_in_timeouts() {
    let (address, _) = serve(|_, _| {
        std::thread::sleep(Duration::from_secs(60));
        None
    });
    let report = run(address, &["--skip-setup", "--timeout", "100ms"]);
    assert!(
        report.connection_errors.contains_key("timeout"),
        "{report:?}"
    );
    assert!(
        report
            .unexpected
            .iter()
            .any(|line| line == "no request succeeded")
    );
}

#[test]
fn bodies_larger_than_the_buffer_are_read_to_their_end() {
    let (address, _) = serve(|_, _| reply("200 OK", &"x".repeat(100_000)));
    let report = run(address, &["--skip-setup", "--reads", "1"]);
    assert!(report.reads.count > 2, "{report:?}");
    assert_eq!(report.unexpected, Vec::<String>::new());
}

#[test]
fn an_open_loop_keeps_its_rate_and_counts_waiting() {
    let (address, _) = serve(|number, _| {
        if number == 50 {
            std::thread::sleep(Duration::from_millis(100));
        }
        reply("200 OK", "{}")
    });
    let one_client = [
        "--skip-setup",
        "--mode",
        "open",
        "--rate",
        "1000",
        "--clients",
        "1",
    ];
    let url = format!("http://{address}");
    let fixed = [
        "bench",
        &url,
        "--warmup",
        "0",
        "--duration",
        "500ms",
        "--quiet",
    ];
    let report = measure(Args::try_parse_from(fixed.iter().chain(&one_client)).unwrap()).unwrap();
    let schedule = report.schedule.unwrap();
    assert_eq!(report.commands.count + schedule.unsent, 500);
    // One request stalls for 100 ms; those scheduled behind it waited as well, 50 ms on average.
    assert!(report.commands.latency.p90_us > 10_000.0, "{report:?}");
    assert!(report.commands.latency.max_us >= 100_000.0, "{report:?}");
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{gone}");
    let args = [
        "bench",
        &url,
        "--timeout",
        "100ms",
        "--quiet",
        "--aggregates",
        "1",
    ];
    let error = measure(Args::try_parse_from(args).unwrap()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("failed to prepare aggregate number 0"),
        "{error}"
    );
}
