//! HTTP/2 with prior knowledge, frame by frame: it keeps the limits of HTTP/1.1.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::node::{BODY_MS, HEADER_MS, IDLE_MS, Listener, eventually, fresh_id, impatient};
use phalanx::http::HttpLimits;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

struct Connection {
    socket: TcpStream,
    /// What has arrived of each stream's answer; they may come in any order.
    answers: BTreeMap<u32, Answer>,
}

#[derive(Default)]
struct Answer {
    /// The first byte of the header block.
    status: u8,
    body: Vec<u8>,
    complete: bool,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Fields as literals without indexing (RFC 7541, section 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).unwrap();
            assert!(length < 127);
            bytes.push(length);
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

fn request_block<'a>(method: &'a str, path: &'a str) -> Vec<u8> {
    block(&[
        (":method", method),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", path),
    ])
}

impl Connection {
    fn open(listener: &Listener) -> Self {
        Self::to(listener.address)
    }

    fn to(address: SocketAddr) -> Self {
        let mut socket = TcpStream::connect(address).unwrap();
        let limit = Some(Duration::from_secs(20));
        socket.set_read_timeout(limit).unwrap();
        socket.write_all(PREFACE).unwrap();
        socket.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
        Self::over(socket)
    }

    fn over(socket: TcpStream) -> Self {
        Self {
            socket,
            answers: BTreeMap::new(),
        }
    }

    fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.socket
            .write_all(&frame(kind, flags, stream, payload))
            .unwrap();
    }

    /// The next frame; `None` when the server closes. Pings are answered.
    fn read(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        self.socket.read_exact(&mut header).ok()?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.socket.read_exact(&mut payload).ok()?;
        if header[3] == PING && header[4] & ACK == 0 {
            // The server may be gone already, which the next read tells.
            self.socket.write_all(&frame(PING, ACK, 0, &payload)).ok();
        }
        Some(Frame {
            kind: header[3],
            flags: header[4],
            stream: u32::from_be_bytes([header[5], header[6], header[7], header[8]]),
            payload,
        })
    }

    /// The first byte of an answer's header block, and its body.
    fn answer(&mut self, stream: u32) -> (u8, Vec<u8>) {
        while !self.answers.get(&stream).is_some_and(|a| a.complete) {
            let frame = self.read().unwrap();
            let answer = self.answers.entry(frame.stream).or_default();
            match frame.kind {
                HEADERS => answer.status = frame.payload[0],
                DATA => answer.body.extend_from_slice(&frame.payload),
                _ => continue,
            }
            answer.complete |= frame.flags & END_STREAM != 0;
            if !answer.complete {
                self.credit(&frame);
            }
        }
        let answer = self.answers.remove(&stream).unwrap();
        (answer.status, answer.body)
    }

    /// Reads until the server closes, and says after how long.
    fn closed_after(&mut self, started: Instant) -> Duration {
        while self.read().is_some() {}
        started.elapsed()
    }
}

/// `:status 200` in the static table.
const STATUS_200: u8 = 0x88;
/// `:status 400` in the static table.
const STATUS_400: u8 = 0x8c;

fn strict() -> Listener {
    Listener::start(strict_limits())
}

fn strict_limits() -> HttpLimits {
    HttpLimits {
        // An answer may take its time, so a silent client is given twice that.
        request_timeout_ms: IDLE_MS / 2,
        ..impatient()
    }
}

/// The limit and what a busy machine may add; the time is taken from a moment before the limit counts.
fn assert_about(took: Duration, millis: u64) {
    let limit = Duration::from_millis(millis);
    assert!(
        took >= limit.mul_f64(0.9) && took < limit + Duration::from_secs(10),
        "{took:?}"
    );
}

#[test]
fn requests_are_answered_side_by_side() {
    let listener = Listener::start(HttpLimits::default());
    let mut connection = Connection::open(&listener);
    let path = format!("/v1/aggregates/probe/{}/commands/Count", fresh_id("h2"));
    for stream in [1, 3, 5] {
        connection.write(HEADERS, END_HEADERS, stream, &request_block("POST", &path));
        connection.write(DATA, END_STREAM, stream, br#"{"times":0}"#);
    }
    for stream in [1, 3, 5] {
        let (status, body) = connection.answer(stream);
        assert_eq!(status, STATUS_200);
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["aggregate_type"], "probe");
    }
    connection.write(
        HEADERS,
        END_HEADERS | END_STREAM,
        7,
        &block(&[(":method", "GET"), (":scheme", "http"), (":path", "/livez")]),
    );
    let (status, body) = connection.answer(7);
    assert_eq!(status, STATUS_400, "{}", String::from_utf8_lossy(&body));
}

/// What HTTP/1.1 refuses as ambiguous is refused here: a gateway in front would pass it on as it likes.
#[test]
fn a_request_has_one_authority() {
    let listener = Listener::start(HttpLimits::default());
    let mut connection = Connection::open(&listener);
    let ask = |authority: Option<&str>, hosts: &[&str]| {
        let mut fields = block(&[(":method", "GET"), (":scheme", "http"), (":path", "/livez")]);
        fields.extend(authority.map_or_else(Vec::new, |a| block(&[(":authority", a)])));
        for host in hosts {
            fields.extend(block(&[("host", host)]));
        }
        fields
    };
    for (stream, (authority, hosts, expected)) in (1..).step_by(2).zip([
        (None, &["test"][..], STATUS_200),
        (Some("test:80"), &["TEST:80"], STATUS_200),
        (Some("test"), &["test", "test"], STATUS_400),
        (None, &["test", "test"], STATUS_400),
        (Some("test"), &["other"], STATUS_400),
        (Some("user@test"), &[], STATUS_400),
        (None, &["test:http"], STATUS_400),
    ]) {
        let fields = ask(authority, hosts);
        connection.write(HEADERS, END_HEADERS | END_STREAM, stream, &fields);
        let (status, body) = connection.answer(stream);
        let body = String::from_utf8_lossy(&body);
        assert_eq!(status, expected, "{authority:?} {hosts:?}: {body}");
    }
}

#[test]
fn what_is_begun_must_go_on() {
    let listener = strict();
    // Nothing after the preface, and nothing but pings.
    let started = Instant::now();
    assert_about(Connection::open(&listener).closed_after(started), HEADER_MS);
    let started = Instant::now();
    let mut pinging = Connection::open(&listener);
    while started.elapsed() < Duration::from_secs(30) {
        let ping = frame(PING, 0, 0, &[0; 8]);
        if pinging.socket.write_all(&ping).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_about(started.elapsed(), HEADER_MS);
    // A header block that does not end.
    let mut connection = Connection::open(&listener);
    let request = request_block("GET", "/livez");
    connection.write(HEADERS, END_HEADERS | END_STREAM, 1, &request);
    assert_eq!(connection.answer(1).0, STATUS_200);
    let started = Instant::now();
    connection.write(HEADERS, END_STREAM, 3, &request);
    connection.write(CONTINUATION, 0, 3, &block(&[("x", "y")]));
    assert_about(connection.closed_after(started), HEADER_MS);
    // Half a preface.
    let started = Instant::now();
    let mut half = Connection::over(TcpStream::connect(listener.address).unwrap());
    half.socket.write_all(&PREFACE[..10]).unwrap();
    assert_about(half.closed_after(started), HEADER_MS);
}

#[test]
fn a_slow_body_and_an_idle_connection_end() {
    let listener = strict();
    let mut connection = Connection::open(&listener);
    let path = format!("/v1/aggregates/probe/{}/commands/Count", fresh_id("h2"));
    let started = Instant::now();
    connection.write(HEADERS, END_HEADERS, 1, &request_block("POST", &path));
    connection.write(DATA, 0, 1, b"{\"ti");
    let (_, body) = connection.answer(1);
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["code"], "request-timeout");
    assert_about(started.elapsed(), BODY_MS);
    let idle = connection.closed_after(started);
    assert_about(idle, IDLE_MS);
}

#[test]
fn large_bodies_are_refused_and_winding_down_says_goodbye() {
    let mut listener = Listener::start(HttpLimits::default());
    let mut connection = Connection::open(&listener);
    let path = "/v1/aggregates/probe/large/commands/Count";
    let mut fields = request_block("POST", path);
    fields.extend(block(&[("content-length", "1048577")]));
    connection.write(HEADERS, END_HEADERS, 1, &fields);
    let (_, body) = connection.answer(1);
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["code"], "content-too-large");
    // Who has its answer may send the rest: a stream that is reset makes some clients drop the answer.
    connection.write(DATA, 0, 1, &[b' '; 16_000]);
    connection.write(PING, 0, 0, &[7; 8]);
    let came = |connection: &mut Connection| connection.read().unwrap();
    loop {
        let frame = came(&mut connection);
        assert_ne!((frame.kind, frame.stream), (RST_STREAM, 1));
        if frame.kind == PING && frame.flags & ACK != 0 {
            break;
        }
    }
    listener.stop();
    let mut said_goodbye = false;
    while let Some(frame) = connection.read() {
        said_goodbye |= frame.kind == GOAWAY;
    }
    assert!(said_goodbye);
    listener.wait();
}

#[test]
fn a_large_head_is_refused_with_a_problem() {
    let listener = Listener::start(HttpLimits {
        max_header_bytes: 8192,
        ..HttpLimits::default()
    });
    let mut connection = Connection::open(&listener);
    let mut fields = request_block("GET", "/livez");
    for _ in 0..70 {
        fields.extend(block(&[("x", &"y".repeat(120))]));
    }
    connection.write(HEADERS, END_HEADERS | END_STREAM, 1, &fields);
    let (_, body) = connection.answer(1);
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["code"], "request-header-fields-too-large");
}

/// The path of an aggregate with 150 events.
fn with_long_history(listener: &Listener) -> String {
    let path = format!("/v1/aggregates/probe/{}", fresh_id("untaken"));
    let many = listener
        .connect()
        .post(&format!("{path}/commands/Count"), r#"{"times":150}"#);
    assert_eq!(many.status, 201);
    path
}

/// An answer that the client does not take is held for it, so all of them together are bounded.
#[test]
fn answers_that_nobody_takes_share_a_bounded_memory() {
    let listener = Listener::start(HttpLimits {
        max_buffered_bytes: 100_000,
        ..HttpLimits::default()
    });
    let path = with_long_history(&listener);
    let read = request_block("GET", &format!("{path}/events?limit=150"));
    let mut connection = Connection::open(&listener);
    // SETTINGS_INITIAL_WINDOW_SIZE 0: answers may have heads and no bodies.
    connection.write(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut statuses = Vec::new();
    for stream in [1, 3, 5, 7] {
        connection.write(HEADERS, END_HEADERS | END_STREAM, stream, &read);
        let head = loop {
            let frame = connection.read().unwrap();
            if frame.kind == HEADERS && frame.stream == stream {
                break frame.payload;
            }
        };
        statuses.push(head[0] == STATUS_200);
    }
    assert_eq!(statuses, [true, false, false, false]);
    // Others are served, also with what is large but alone in its kind.
    assert_eq!(listener.connect().get("/livez").status, 200);
    drop(connection);
    eventually("there is room again", || {
        listener
            .connect()
            .get(&format!("{path}/events?limit=150"))
            .status
            == 200
    });
}

/// Nor can a client hold it for ever by saying something now and then.
#[test]
fn who_takes_nothing_of_a_large_answer_is_cut_off() {
    let listener = Listener::start(HttpLimits {
        max_buffered_bytes: 100_000,
        ..strict_limits()
    });
    let path = with_long_history(&listener);
    let read = request_block("GET", &format!("{path}/events?limit=150"));
    // Who takes it gets all of it.
    let mut connection = Connection::open(&listener);
    connection.write(HEADERS, END_HEADERS | END_STREAM, 1, &read);
    let (_, taken) = connection.answer(1);
    let events: serde_json::Value = serde_json::from_slice(&taken).unwrap();
    assert_eq!(events.as_array().unwrap().len(), 150);
    let started = Instant::now();
    let mut connection = Connection::open(&listener);
    connection.write(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    connection.write(HEADERS, END_HEADERS | END_STREAM, 1, &read);
    let mut talking = connection.socket.try_clone().unwrap();
    let talk = std::thread::spawn(move || {
        let credit = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes());
        while talking.write_all(&credit).is_ok() && started.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(BODY_MS / 10));
        }
    });
    assert_about(connection.closed_after(started), BODY_MS);
    talk.join().unwrap();
    let again = listener.connect().get(&format!("{path}/events?limit=150"));
    assert_eq!(again.status, 200, "{}", again.text());
}

impl Connection {
    /// Reads until the body of a stream that goes on has a whole message that says this; gives all of
    /// it so far. A frame may end anywhere in a message.
    fn until(&mut self, stream: u32, text: &str) -> String {
        loop {
            let body = &self.answers.entry(stream).or_default().body;
            let body = String::from_utf8_lossy(body).into_owned();
            let said = body.find(text);
            if said.is_some_and(|at| body[at..].contains("\n\n")) {
                return body;
            }
            let frame = self.read().unwrap();
            let answer = self.answers.entry(frame.stream).or_default();
            match frame.kind {
                HEADERS => answer.status = frame.payload[0],
                DATA => answer.body.extend_from_slice(&frame.payload),
                _ => {}
            }
            self.credit(&frame);
        }
    }

    /// Lets the server send as much again as has come.
    fn credit(&mut self, frame: &Frame) {
        let length = u32::try_from(frame.payload.len()).unwrap();
        if frame.kind == DATA && length > 0 {
            self.write(WINDOW_UPDATE, 0, 0, &length.to_be_bytes());
            self.write(WINDOW_UPDATE, 0, frame.stream, &length.to_be_bytes());
        }
    }
}

/// Ids of the last message that is complete.
fn last_id(body: &str) -> String {
    let (complete, _) = body.rsplit_once("\n\n").unwrap();
    let line = complete
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("id: "));
    line.unwrap().to_owned()
}

#[test]
fn event_streams_share_a_connection_with_requests_and_resume() {
    let address = crate::node::address();
    let mut connection = Connection::to(address);
    let get = |path: &str| request_block("GET", path);
    let id = fresh_id("h2-events");
    let path = format!("/v1/aggregates/probe/{id}/commands/Count");
    let stream = "/v1/events?after=now&aggregate_type=probe";
    connection.write(HEADERS, END_HEADERS | END_STREAM, 1, &get(stream));
    connection.until(1, "retry: ");
    assert_eq!(connection.answers[&1].status, STATUS_200);
    // A command beside it, and its events on the stream; many enough to need more than one window.
    connection.write(HEADERS, END_HEADERS, 3, &request_block("POST", &path));
    connection.write(DATA, END_STREAM, 3, br#"{"times":400}"#);
    connection.answer(3);
    let body = connection.until(1, &format!("probe/{id}/400\""));
    for number in 1..=400 {
        let event = format!("\"id\":\"probe/{id}/{number}\"");
        assert_eq!(body.matches(&event).count(), 1, "{number}");
    }
    assert!(body.len() > 2 * 65_535, "{}", body.len());
    // It goes on where it was, on another connection.
    let seen = last_id(&body);
    drop(connection);
    let mut connection = Connection::to(address);
    connection.write(HEADERS, END_HEADERS, 1, &request_block("POST", &path));
    connection.write(DATA, END_STREAM, 1, br#"{"times":2}"#);
    connection.answer(1);
    let mut fields = get("/v1/events?aggregate_type=probe");
    fields.extend(block(&[("last-event-id", &seen)]));
    connection.write(HEADERS, END_HEADERS | END_STREAM, 3, &fields);
    let body = connection.until(3, &format!("probe/{id}/402\""));
    assert!(body.contains(&format!("probe/{id}/401\"")));
    assert!(!body.contains(&format!("probe/{id}/400\"")), "not twice");
    // A stream that is reset gives its place back, and the connection goes on.
    connection.write(RST_STREAM, 0, 3, &8_u32.to_be_bytes());
    connection.write(HEADERS, END_HEADERS | END_STREAM, 5, &get("/livez"));
    assert_eq!(connection.answer(5).0, STATUS_200);
}

/// A client may open a stream, give it no window, and keep the connection busy with pings.
#[test]
fn an_event_stream_that_takes_nothing_ends_with_its_connection() {
    let listener = Listener::with_events(HttpLimits {
        body_timeout_ms: 300,
        idle_timeout_ms: 600,
        ..HttpLimits::default()
    });
    let path = format!(
        "/v1/aggregates/probe/{}/commands/Count",
        fresh_id("h2-stall")
    );
    assert_eq!(
        listener.connect().post(&path, r#"{"times":10}"#).status,
        201
    );
    let mut connection = Connection::open(&listener);
    connection.write(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 20]);
    let started = Instant::now();
    let stream = request_block("GET", "/v1/events?aggregate_type=probe");
    connection.write(HEADERS, END_HEADERS | END_STREAM, 1, &stream);
    while started.elapsed() < Duration::from_secs(30) {
        let ping = frame(PING, 0, 0, &[0; 8]);
        if connection.socket.write_all(&ping).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_about(started.elapsed(), 600);
}

#[test]
fn it_can_be_turned_off() {
    let listener = Listener::start(HttpLimits {
        allow_http2: false,
        ..HttpLimits::default()
    });
    let mut client = listener.connect();
    client.write(PREFACE);
    client.read().problem(400, "malformed-request");
}
