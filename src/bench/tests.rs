//! Whole runs against small servers that misbehave on purpose.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use phalanx_actors::names::StreamName;

use super::{Args, Report, measure};

/// Where nobody listens: no other test can be given this port.
const NOBODY: ([u8; 4], u16) = ([127, 0, 0, 1], 1);

/// How a server answers its n-th request; `None` closes the connection without an answer.
type Answer = Arc<dyn Fn(u64, &str) -> Option<String> + Send + Sync>;

fn reply(status: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
}

/// A server with a thread per connection; counts requests that begin with `POST` or `GET`.
fn serve(
    answer: impl Fn(u64, &str) -> Option<String> + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicU64>) {
    let answer: Answer = Arc::new(answer);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (answer, counter) = (Arc::clone(&answer), Arc::clone(&counter));
            std::thread::spawn(move || converse(stream.unwrap(), &answer, &counter));
        }
    });
    (address, seen)
}

/// The generator sends each request with one write, so one read gives one request.
fn converse(mut stream: TcpStream, answer: &Answer, seen: &AtomicU64) {
    let mut buffer = [0; 4_096];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            return;
        }
        let request = String::from_utf8_lossy(&buffer[..count]).into_owned();
        assert!(request.starts_with("POST /v1/") || request.starts_with("GET /v1/"));
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
        if request.contains("Connection: close") {
            return;
        }
    }
}

fn run(address: SocketAddr, extra: &[&str]) -> Report {
    run_with(&[address], &[&["--warmup", "0"], extra].concat())
}

fn run_with(addresses: &[SocketAddr], extra: &[&str]) -> Report {
    let urls: Vec<String> = addresses.iter().map(|at| format!("http://{at}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    // What is said twice counts as it is said last.
    let fixed = "--clients 2 --aggregates 20 --warmup 0 --duration 500ms --timeout 20s --quiet";
    let fixed: Vec<&str> = fixed.split(' ').collect();
    let arguments = [&["bench"], &urls[..], &fixed, extra].concat();
    measure(Args::try_parse_from(arguments).unwrap()).unwrap()
}

/// Each request that the servers saw is in exactly one place of the report, the preparation apart.
#[track_caller]
fn assert_accounted(report: &Report, seen: u64, setup: u64) {
    let all = report.requests;
    let kinds = report.commands.count + report.reads.count + report.refusals.count;
    let broken: u64 = report.connection_errors.values().sum();
    assert_eq!(all.answered, report.statuses.values().sum::<u64>());
    assert_eq!(all.answered, kinds, "{report:?}");
    assert_eq!(all.unanswered + all.not_sent, broken, "{report:?}");
    assert_eq!(all.sent, all.answered + all.unanswered, "{report:?}");
    let by_node: u64 = report.nodes.iter().map(|node| node.sent).sum();
    assert_eq!(all.sent, by_node, "{report:?}");
    assert_eq!(setup + all.sent_in_warmup + all.sent, seen, "{report:?}");
}

#[test]
fn every_request_of_the_server_is_in_the_report_once() {
    let (address, seen) = serve(|_, _| reply("200 OK", "{}"));
    let report = run(address, &["--reads", "0.5"]);
    let setup = 20 * 2;
    assert_accounted(&report, seen.load(Ordering::Relaxed), setup);
    assert_eq!(report.requests.sent_in_warmup, 0);
    assert!(report.commands.count > 0 && report.reads.count > 0);
    assert_eq!(report.unexpected, Vec::<String>::new());
}

#[test]
fn requests_of_the_warm_up_are_counted_apart() {
    let (address, seen) = serve(|_, _| reply("200 OK", "{}"));
    let report = run_with(&[address], &["--warmup", "500ms", "--skip-setup"]);
    assert_accounted(&report, seen.load(Ordering::Relaxed), 0);
    assert!(report.requests.sent_in_warmup > 0 && report.requests.sent > 0);
}

#[test]
fn the_clients_of_several_nodes_are_spread_over_them() {
    let nodes: Vec<_> = (0..3)
        .map(|_| serve(|_, _| reply("200 OK", "{}")))
        .collect();
    let addresses: Vec<SocketAddr> = nodes.iter().map(|(address, _)| *address).collect();
    let three_clients = ["--skip-setup", "--warmup", "0", "--clients", "3"];
    let report = run_with(&addresses, &three_clients);
    let seen: Vec<u64> = nodes
        .iter()
        .map(|(_, seen)| seen.load(Ordering::Relaxed))
        .collect();
    let sent: Vec<u64> = report.nodes.iter().map(|node| node.sent).collect();
    assert_eq!(sent, seen, "a client keeps to its node");
    assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
    assert_accounted(&report, seen.iter().sum(), 0);
}

/// A node of a cluster of two shards: 0 is led by node 1 and 1 by node 2, until `moves` questions
/// have been asked.
fn member(node: u64, moves: bool) -> (SocketAddr, Arc<AtomicU64>) {
    let asked = AtomicU64::new(0);
    serve(move |_, request| {
        if request.starts_with("GET /v1/cluster ") {
            return reply("200 OK", &format!(r#"{{"node":{node}}}"#));
        }
        if request.starts_with("GET /v1/shards ") {
            let second = asked.fetch_add(1, Ordering::Relaxed) > 0;
            let leader = if moves && second { 1 } else { 2 };
            let shards = format!(
                r#"{{"shards":[{{"shard":1,"leader":{leader}}},{{"shard":0,"leader":1}}]}}"#
            );
            return reply("200 OK", &shards);
        }
        let (_, rest) = request.split_once("/account/").unwrap();
        let id = &rest[.."bench-00000000".len()];
        let shard = StreamName::new("account", id).unwrap().shard(2);
        let status = if u64::from(shard) + 1 == node {
            "200 OK"
        } else {
            "203 Elsewhere"
        };
        reply(status, "{}")
    })
}

#[test]
fn requests_go_to_the_leader_or_past_it_as_the_route_says() {
    for (route, status) in [("leader", 200), ("other", 203)] {
        let nodes = [member(1, false), member(2, false)];
        let addresses = nodes.each_ref().map(|(address, _)| *address);
        let extra = ["--skip-setup", "--warmup", "0", "--route", route];
        let report = run_with(&addresses, &extra);
        let seen = |at: usize| nodes[at].1.load(Ordering::Relaxed);
        // Each says who it is, and the first one twice who leads what.
        assert_accounted(&report, seen(0) + seen(1), 4);
        let statuses: Vec<u16> = report.statuses.keys().copied().collect();
        assert_eq!(statuses, [status], "{route}");
        assert!(report.nodes.iter().all(|node| node.sent > 0), "{report:?}");
        assert_eq!(report.leaders_moved, Some(0));
        assert_eq!(report.unexpected, Vec::<String>::new());
    }
}

#[test]
fn leaders_that_move_during_a_run_are_told() {
    let nodes = [member(1, true), member(2, true)];
    let addresses = nodes.each_ref().map(|(address, _)| *address);
    let report = run_with(&addresses, &["--skip-setup", "--route", "leader"]);
    assert_eq!(report.leaders_moved, Some(1));
    assert!(report.unexpected[0].starts_with("1 shards changed their leader"));
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
    assert_accounted(&report, seen.load(Ordering::Relaxed), 20);
    assert!(report.rejections.is_empty());
}

#[test]
fn refusals_are_timed_named_and_unexpected() {
    let (address, seen) = serve(|number, _| match number % 2 {
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
    assert_accounted(&report, seen.load(Ordering::Relaxed), 0);
    assert_eq!(report.unexpected.len(), 1);
    let allowed = run(address, &["--skip-setup", "--allow-status", "503"]);
    assert_eq!(allowed.unexpected, Vec::<String>::new());
}

#[test]
fn broken_connections_are_counted_and_replaced() {
    let (address, seen) = serve(|number, _| {
        if number % 10 == 9 {
            None
        } else {
            reply("200 OK", "{}")
        }
    });
    let report = run(address, &["--skip-setup"]);
    let seen = seen.load(Ordering::Relaxed);
    assert_accounted(&report, seen, 0);
    assert!(seen >= 10, "{report:?}");
    assert_eq!(report.requests.unanswered, seen / 10, "{report:?}");
    assert!(!report.unexpected.is_empty());
}

#[test]
fn a_server_that_never_answers_ends_in_timeouts() {
    let (address, seen) = serve(|_, _| {
        std::thread::sleep(Duration::from_secs(60));
        None
    });
    let report = run(address, &["--skip-setup", "--timeout", "100ms"]);
    assert!(
        report.connection_errors.contains_key("timeout"),
        "{report:?}"
    );
    // The server's threads may still be on their way to the last requests.
    let deadline = Instant::now() + Duration::from_secs(10);
    while seen.load(Ordering::Relaxed) < report.requests.sent && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_accounted(&report, seen.load(Ordering::Relaxed), 0);
    assert_eq!(report.requests.answered, 0);
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
    let (address, seen) = serve(|number, _| {
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
    assert_accounted(&report, seen.load(Ordering::Relaxed), 0);
    // One request stalls for 100 ms; those scheduled behind it waited as well, 50 ms on average.
    assert!(report.commands.latency.p90_us > 10_000.0, "{report:?}");
    assert!(report.commands.latency.max_us >= 100_000.0, "{report:?}");
}

#[test]
fn what_is_not_sent_is_counted_apart() {
    let report = run(NOBODY.into(), &["--skip-setup"]);
    assert_accounted(&report, 0, 0);
    assert!(report.requests.not_sent > 0, "{report:?}");
    assert_eq!(
        report.connection_errors.get("connect-failed"),
        Some(&report.requests.not_sent)
    );
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let url = format!("http://{}", SocketAddr::from(NOBODY));
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
