//! Heads and bodies that a careless or hostile client sends.

use crate::client::{Client, request};
use crate::node::{Listener, connect, eventually, fresh_id};
use phalanx::http::HttpLimits;

/// Sends bytes; the reply must be a problem that closes the connection.
fn refused(bytes: &str, status: u16, code: &str) {
    let mut client = connect();
    client.write(bytes.as_bytes());
    let reply = client.try_read(false);
    let reply = reply.unwrap_or_else(|| panic!("no reply to {bytes:?}"));
    reply.problem(status, code);
    assert_eq!(reply.header("connection"), Some("close"), "{bytes:?}");
    client.assert_closed();
}

#[test]
fn ambiguous_heads_are_refused_and_the_connection_closed() {
    for bytes in [
        "GET /livez HTTP/1.1\r\n\r\n",
        "GET /livez HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET /livez HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n",
        "GET /livez HTTP/1.1\r\nhost: a/b\r\n\r\n",
        "GET /livez HTTP/1.1\nhost: a\n\n",
        "GET /livez HTTP/1.1\r\nhost: a\n\r\n",
        "POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /livez HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        "POST /livez HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
        "POST /livez HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n",
        "POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy",
        "POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx",
        "POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 1,1\r\n\r\nx",
        "POST /livez HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /livez HTTP/1.1\r\nhost: a\r\n folded: x\r\n\r\n",
        "GET /livez HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET /livez HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n",
        "GET /livez HTTP/3.0\r\nhost: a\r\n\r\n",
        "GET  /livez HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /\u{1}livez HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /caf\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /livez#top HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET livez HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET ?verbose HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET http:///livez HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET http:// HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET ftp://a/livez HTTP/1.1\r\nhost: a\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n",
        "\u{16}\u{3}\u{1}\n",
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        refused(bytes, 400, "malformed-request");
    }
}

/// The library behind the guard would refuse some targets by itself, and without a word.
#[test]
fn no_target_is_refused_without_a_problem() {
    for byte in b'!'..=b'~' {
        let byte = char::from(byte);
        for target in [
            format!("/v1/types/a{byte}b"),
            format!("/livez?a{byte}b"),
            format!("http://a/livez?a{byte}b"),
            format!("http://a{byte}b/livez"),
            format!("{byte}"),
            format!("{byte}livez"),
        ] {
            let mut client = connect();
            client.write(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
            let reply = client.read();
            let said = reply.header("content-type");
            assert!(
                reply.status == 200 || said == Some("application/problem+json"),
                "{target}: {} {said:?}",
                reply.status
            );
        }
    }
    let options = connect().request("OPTIONS", "*", "", "");
    assert_eq!(options.status, 204);
    assert!(options.header("allow").unwrap().contains("POST"));
}

#[test]
fn a_refusal_names_the_path_and_waits_for_its_turn() {
    let mut client = connect();
    let good = request("GET", "/livez", "", "");
    let bad = "GET /v1/types?x=1 HTTP/1.1\r\n\r\n";
    client.write(format!("{good}{good}{bad}{good}").as_bytes());
    assert_eq!(client.read().status, 200);
    assert_eq!(client.read().status, 200);
    let problem = client.read().problem(400, "malformed-request");
    assert_eq!(problem["instance"], "/v1/types");
    client.assert_closed();
}

#[test]
fn a_smuggled_request_is_never_answered() {
    let id = fresh_id("smuggle");
    let open = request(
        "POST",
        &format!("/v1/aggregates/account/{id}/commands/OpenAccount"),
        "",
        r#"{"owner":"eve","currency":"EUR"}"#,
    );
    let bytes = format!(
        "POST /v1/types HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{open}"
    );
    refused(&bytes, 400, "malformed-request");
    let events = connect().get(&format!("/v1/aggregates/account/{id}/events"));
    events.problem(404, "aggregate-not-found");
}

#[test]
fn large_heads_are_refused() {
    let long = "x".repeat(9_000);
    refused(
        &format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"),
        414,
        "uri-too-long",
    );
    refused(&format!("GET /?{long}"), 414, "uri-too-long");
    let fields = format!("x: {}\r\n", "y".repeat(1_000)).repeat(40);
    let code = "request-header-fields-too-large";
    refused(
        &format!("GET /livez HTTP/1.1\r\nhost: a\r\n{fields}\r\n"),
        431,
        code,
    );
    refused(
        &format!(
            "GET /livez HTTP/1.1\r\nhost: a\r\nx: {}",
            "y".repeat(33_000)
        ),
        431,
        code,
    );
    let many = "x: y\r\n".repeat(101);
    refused(
        &format!("GET /livez HTTP/1.1\r\nhost: a\r\n{many}\r\n"),
        431,
        code,
    );
    let mut client = connect();
    let allowed = "x: y\r\n".repeat(98) + &format!("z: {}\r\n", "y".repeat(20_000));
    assert_eq!(client.get_with("/livez", &allowed).status, 200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut client = connect();
    let path = format!("/v1/aggregates/probe/{}/commands/Count", fresh_id("pipe"));
    let one = request("POST", &path, "", r#"{"times":1}"#);
    let chunked = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n6\r\n{{\"time\r\n5;x=y\r\ns\":1}}\r\n0\r\nt: u\r\n\r\n"
    );
    let both = format!("{one}{chunked}").repeat(20);
    client.write(both.as_bytes());
    for number in 1..=40 {
        let reply = client.read();
        assert_eq!(reply.json()["sequence_number"], number, "{}", reply.text());
    }
}

#[test]
fn requests_may_arrive_in_any_pieces() {
    let mut client = connect();
    let path = format!("/v1/aggregates/probe/{}/commands/Count", fresh_id("pieces"));
    let one = request("POST", &path, "", r#"{"times":1}"#);
    let twice = format!("{one}{one}");
    for piece in twice.as_bytes().chunks(7) {
        client.write(piece);
        std::thread::sleep(std::time::Duration::from_micros(300));
    }
    assert_eq!(client.read().json()["sequence_number"], 1);
    assert_eq!(client.read().json()["sequence_number"], 2);
}

#[test]
fn bad_chunks_end_the_connection() {
    for chunks in [
        "x\r\n",
        "2\r\nabc\r\n0\r\n\r\n",
        "2\nab\n0\n\n",
        "fffffffffffffffff\r\n",
    ] {
        let mut client = connect();
        let path = "/v1/aggregates/probe/bad-chunks/commands/Count";
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        client.write(format!("{head}{chunks}").as_bytes());
        let answer = client.read();
        assert_eq!(answer.header("connection"), Some("close"), "{chunks:?}");
        answer.problem(400, "malformed-request");
        client.assert_closed();
    }
}

#[test]
fn a_client_may_stop_sending_and_still_hear_the_answer() {
    let mut client = connect();
    client.write(request("GET", "/livez", "", "").as_bytes());
    client.finish_writing();
    assert_eq!(client.read().status, 200);
    client.assert_closed();
}

#[test]
fn http_1_0_and_close_are_honoured() {
    let mut client = connect();
    client.write(b"GET /livez HTTP/1.0\r\n\r\n");
    assert_eq!(client.read().status, 200);
    client.assert_closed();
    let mut client = connect();
    assert_eq!(
        client.get_with("/livez", "connection: close\r\n").status,
        200
    );
    client.assert_closed();
    let mut client = connect();
    let asked = "POST /v1/aggregates/probe/continue/commands/Count HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 11\r\n\r\n";
    client.write(asked.as_bytes());
    assert_eq!(client.read().status, 100);
    client.write(br#"{"times":0}"#);
    assert_eq!(client.read().status, 200);
}

#[test]
fn connections_over_the_limit_hear_so_at_once() {
    let listener = Listener::start(HttpLimits {
        max_connections: 2,
        ..HttpLimits::default()
    });
    let mut first = listener.connect();
    let mut second = listener.connect();
    assert_eq!(first.get("/livez").status, 200);
    assert_eq!(second.get("/livez").status, 200);
    let mut third = listener.connect();
    third.write(request("GET", "/livez", "", "").as_bytes());
    let reply = third.read();
    reply.problem(503, "overloaded");
    assert_eq!(reply.header("connection"), Some("close"));
    third.assert_closed();
    drop(first);
    eventually("there is room again", || {
        let mut next = listener.connect();
        next.write(request("GET", "/livez", "", "").as_bytes());
        next.try_read(false)
            .is_some_and(|reply| reply.status == 200)
    });
    let mut crowd: Vec<Client> = (0..300).map(|_| listener.connect()).collect();
    assert_eq!(second.get("/livez").status, 200);
    crowd.clear();
}
