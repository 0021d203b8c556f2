//! Clients that take their time, and the end of a listener.

use std::time::{Duration, Instant};

use crate::client::{Client, request};
use crate::node::{
    BODY_MS, HEADER_MS, IDLE_MS, Listener, eventually, fresh_id, impatient, wait_until_it_thinks,
};
use phalanx::http::HttpLimits;

fn strict() -> Listener {
    Listener::start(impatient())
}

/// The limit and what a busy machine may add. `started` lies before whatever the limit counts from.
fn assert_about(started: Instant, millis: u64) {
    let took = started.elapsed();
    let limit = Duration::from_millis(millis);
    assert!(
        took >= limit.mul_f64(0.9) && took < limit + Duration::from_secs(10),
        "{took:?}"
    );
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let listener = strict();
    let started = Instant::now();
    let mut client = listener.connect();
    client.assert_closed();
    assert_about(started, HEADER_MS);
}

#[test]
fn half_a_head_is_answered_408() {
    let listener = strict();
    for head in [
        "G",
        "GET /livez HTTP/1.1\r\n",
        "GET /livez HTTP/1.1\r\nhost: a\r\n",
    ] {
        let started = Instant::now();
        let mut client = listener.connect();
        client.write(head.as_bytes());
        client.read().problem(408, "request-timeout");
        client.assert_closed();
        assert_about(started, HEADER_MS);
    }
}

#[test]
fn dripping_a_head_does_not_extend_its_time() {
    let listener = strict();
    let started = Instant::now();
    let mut client = listener.connect();
    for byte in
        b"GET /livez HTTP/1.1\r\nx-slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    {
        if !client.try_write(&[*byte]) || started.elapsed() > Duration::from_millis(2 * HEADER_MS) {
            break;
        }
        std::thread::sleep(Duration::from_millis(40));
    }
    client.read().problem(408, "request-timeout");
    assert_about(started, HEADER_MS);
}

#[test]
fn a_slow_body_is_answered_408() {
    let listener = Listener::start(HttpLimits {
        body_timeout_ms: BODY_MS,
        ..HttpLimits::default()
    });
    let path = format!("/v1/aggregates/probe/{}/commands/Count", fresh_id("slow"));
    for framing in [
        "content-length: 100\r\n\r\n{\"ti",
        "transfer-encoding: chunked\r\n\r\n4\r\n{\"t",
    ] {
        let started = Instant::now();
        let mut client = listener.connect();
        client.write(format!("POST {path} HTTP/1.1\r\nhost: a\r\n{framing}").as_bytes());
        client.read().problem(408, "request-timeout");
        client.assert_closed();
        assert_about(started, BODY_MS);
    }
}

/// Many clients send a body some time after its head, and the answer is known before.
#[test]
fn an_early_answer_does_not_cost_the_connection() {
    let path = format!("/v1/aggregates/probe/{}/commands", fresh_id("early"));
    let listener = Listener::start(HttpLimits::default());
    let mut client = listener.connect();
    let typed = "content-type: text/plain\r\n";
    for (head, status) in [
        (format!("POST {path}/Nothing HTTP/1.1\r\n"), 404),
        ("POST /livez HTTP/1.1\r\n".to_owned(), 405),
        (format!("POST {path}/Count HTTP/1.1\r\n{typed}"), 415),
    ] {
        for body in ["{\"times\":1}".to_owned(), "x".repeat(100_000)] {
            let length = body.len();
            client.write(format!("{head}host: a\r\ncontent-length: {length}\r\n\r\n").as_bytes());
            std::thread::sleep(Duration::from_millis(20));
            client.write(body.as_bytes());
            let reply = client.read();
            assert_eq!((reply.status, reply.header("connection")), (status, None));
        }
    }
    assert_eq!(client.get("/livez").status, 200);
}

/// When the body is not worth the wait, the client is told that the connection ends.
#[test]
fn an_early_answer_says_when_it_is_the_last() {
    let listener = Listener::start(HttpLimits::default());
    for fields in [
        "content-length: 1000000\r\n",
        "content-length: 5\r\nexpect: 100-continue\r\n",
        "content-length: 5\r\n",
        "transfer-encoding: chunked\r\n",
    ] {
        let mut client = listener.connect();
        client.write(format!("POST /livez HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes());
        let reply = client.read();
        assert_eq!(reply.status, 405, "{fields}");
        assert_eq!(reply.header("connection"), Some("close"), "{fields}");
        client.assert_closed();
    }
}

#[test]
fn bodies_that_dawdle_share_a_bounded_memory() {
    let listener = Listener::start(HttpLimits {
        max_buffered_bytes: 300_000,
        body_timeout_ms: 5_000,
        ..HttpLimits::default()
    });
    let path = format!("/v1/aggregates/probe/{}/commands/Count", fresh_id("held"));
    let dawdle = |bytes: usize| {
        let mut client = listener.connect();
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n");
        client.write(head.as_bytes());
        client.try_write(&vec![b' '; bytes]);
        client
    };
    let mut both = [dawdle(280_000), dawdle(100_000)];
    // Whoever sends a command in one piece needs none of that memory.
    let small = listener.connect().post(&path, r#"{"times":1}"#);
    assert_eq!(small.status, 201, "{}", small.text());
    // Together they are too much, so one of them is refused and the other one's time runs out.
    let replies = both.each_mut().map(Client::read);
    let refused = replies.iter().find(|reply| reply.status == 503).unwrap();
    refused.problem(503, "overloaded");
    assert!(replies.iter().any(|reply| reply.status == 408));
    eventually("there is room again", || {
        let mut client = listener.connect();
        let large = format!("{}{{\"times\":1}}", " ".repeat(100_000));
        let half = large.len() / 2;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
            large.len()
        );
        client.write(head.as_bytes());
        client.try_write(&large.as_bytes()[..half]);
        client.try_write(&large.as_bytes()[half..]);
        client
            .try_read(false)
            .is_some_and(|reply| reply.status == 200)
    });
}

#[test]
fn a_body_that_breaks_off_stores_nothing() {
    let listener = strict();
    let path = format!("/v1/aggregates/probe/{}", fresh_id("broken"));
    let mut client = listener.connect();
    let head =
        format!("POST {path}/commands/Count HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n");
    client.write(format!("{head}{{\"times\":1}}").as_bytes());
    client.finish_writing();
    client.read().problem(400, "malformed-request");
    let events = listener.connect().get(&format!("{path}/events"));
    events.problem(404, "aggregate-not-found");
}

/// A connection that has had several pauses, together longer than the limit and each far shorter. One that had
/// a longer one, because the machine stood still, counts for nothing.
fn kept_for_longer_than_the_limit(listener: &Listener) -> Client {
    for _ in 0..20 {
        let mut client = listener.connect();
        let kept = (0..4).all(|_| {
            let asked = Instant::now();
            assert_eq!(client.get("/livez").status, 200);
            std::thread::sleep(Duration::from_millis(IDLE_MS / 3));
            asked.elapsed() < Duration::from_millis(IDLE_MS * 2 / 3)
        });
        if kept {
            return client;
        }
    }
    panic!("the machine stands still again and again");
}

#[test]
fn an_idle_connection_is_kept_for_a_while() {
    let listener = strict();
    let mut client = kept_for_longer_than_the_limit(&listener);
    let started = Instant::now();
    assert_eq!(client.get("/livez").status, 200);
    client.assert_closed();
    assert_about(started, IDLE_MS);
}

#[test]
fn a_reader_that_stalls_does_not_stay_for_ever() {
    let listener = strict();
    let client = listener.connect();
    let mut stalled = client;
    // Far more answers than socket buffers hold, and nobody reads them.
    let many = request("GET", "/openapi.json", "", "").repeat(400);
    let started = Instant::now();
    let mut cut = false;
    while started.elapsed() < Duration::from_secs(60) {
        if !stalled.try_write(many.as_bytes()) {
            cut = true;
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(cut);
}

#[test]
fn winding_down_finishes_what_was_begun_and_closes_the_rest() {
    let mut listener = Listener::start(HttpLimits::default());
    let path = format!("/v1/aggregates/probe/{}/commands/Think", fresh_id("wind"));
    let mut busy = listener.connect();
    assert_eq!(busy.get("/livez").status, 200);
    let mut idle = listener.connect();
    assert_eq!(idle.get("/livez").status, 200);
    let mut silent = listener.connect();
    busy.write(request("POST", &path, "", r#"{"millis":400}"#).as_bytes());
    wait_until_it_thinks(400);
    listener.stop();
    idle.assert_closed();
    silent.assert_closed();
    let reply = busy.read();
    assert_eq!(reply.status, 200, "{}", reply.text());
    busy.assert_closed();
    listener.wait();
    assert!(std::net::TcpStream::connect(listener.address).is_err());
}
