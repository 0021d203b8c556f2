//! Chapter "Events as a stream": server-sent events that resume without a gap or a repeat.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cases::{Fixture, case, run};
use crate::support::client;
use crate::support::http::Request;

const PATIENCE: Duration = Duration::from_secs(20);

/// A reader of an event stream, as strict as a browser's.
struct Stream {
    lines: BufReader<TcpStream>,
    head: String,
    /// What came in chunks and is not read yet.
    text: String,
    last_id: String,
}

/// What an empty line ends.
#[derive(Debug, Default)]
struct Message {
    data: String,
    comments: usize,
}

impl Stream {
    fn open(address: SocketAddr, query: &str, last_id: Option<&str>) -> Self {
        let mut socket = TcpStream::connect(address).expect("the node listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let resume = last_id.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!(
            "GET /v1/events{query} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n{resume}\r\n"
        );
        socket.write_all(request.as_bytes()).expect("it is sent");
        let mut lines = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(lines.read_line(&mut head).expect("a head"), 0, "{head}");
        }
        Self {
            lines,
            head: head.to_ascii_lowercase(),
            text: String::new(),
            last_id: last_id.unwrap_or_default().to_owned(),
        }
    }

    /// Reads one more chunk; `false` at the end of the stream.
    fn read_chunk(&mut self) -> bool {
        let mut size = String::new();
        self.lines.read_line(&mut size).expect("a chunk in time");
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            return false;
        }
        let mut chunk = vec![0; size + 2];
        self.lines.read_exact(&mut chunk).expect("a whole chunk");
        chunk.truncate(size);
        self.text
            .push_str(&String::from_utf8(chunk).expect("UTF-8"));
        true
    }

    /// The next message; `None` at the end of the stream.
    fn message(&mut self) -> Option<Message> {
        while !self.text.contains("\n\n") {
            if !self.read_chunk() {
                return None;
            }
        }
        let (block, rest) = self.text.split_once("\n\n").expect("looked for");
        let mut message = Message::default();
        for line in block.lines() {
            match line.split_once(':') {
                Some(("", _)) => message.comments += 1,
                Some(("id", id)) => self.last_id = id.trim_start().to_owned(),
                Some(("data", data)) => message.data.push_str(data.trim_start()),
                Some(("retry", _)) => {}
                other => panic!("{other:?} in {block}"),
            }
        }
        self.text = rest.to_owned();
        Some(message)
    }

    /// The next event.
    fn event(&mut self) -> Value {
        loop {
            let message = self.message().expect("the stream goes on");
            if !message.data.is_empty() {
                return serde_json::from_str(&message.data).expect("JSON");
            }
        }
    }

    fn events(&mut self, count: usize) -> Vec<Value> {
        (0..count).map(|_| self.event()).collect()
    }
}

fn id(event: &Value) -> String {
    event["id"].as_str().expect("an id").to_owned()
}

/// Opens accounts and pays into each of them.
fn fill(fixture: &Fixture, prefix: &str, accounts: usize, deposits: usize) -> BTreeSet<String> {
    let mut http = fixture.node.client();
    let mut ids = BTreeSet::new();
    for account in 0..accounts {
        let name = format!("{prefix}-{account}");
        client::expect_success(&mut http, &client::open(&name));
        for _ in 0..deposits {
            client::expect_success(&mut http, &client::deposit(&name, 1));
        }
        ids.extend((1..=deposits + 1).map(|n| format!("account/{name}/{n}")));
    }
    ids
}

/// In each shard, positions follow each other.
fn assert_in_order(events: &[Value]) {
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for event in events {
        let position = event["position"].as_str().expect("a position");
        let (shard, number) = position.split_once(':').expect("two numbers");
        let number: u64 = number.parse().expect("a number");
        let shard: u64 = shard.parse().expect("a number");
        let before = last.insert(shard, number).unwrap_or_default();
        assert!(number > before, "{position} after {before}");
    }
}

#[test]
fn the_events_of_all_shards_come_as_cloud_events_and_new_ones_follow() {
    let fixture = Fixture::new();
    let before = fill(&fixture, "s", 12, 3);
    let mut stream = Stream::open(fixture.node.address, "?after=start", None);
    assert!(stream.head.starts_with("http/1.1 200"), "{}", stream.head);
    assert!(stream.head.contains("content-type: text/event-stream"));
    let old = stream.events(before.len());
    assert_in_order(&old);
    assert_eq!(old.iter().map(id).collect::<BTreeSet<_>>(), before);
    let after = fill(&fixture, "t", 3, 2);
    let new = stream.events(after.len());
    assert_eq!(new.iter().map(id).collect::<BTreeSet<_>>(), after);
    assert_in_order(&old.into_iter().chain(new).collect::<Vec<_>>());
    let mut http = fixture.node.client();
    client::expect_success(&mut http, &client::deposit("s-0", 9));
    let last = stream.event();
    let history = fixture.send(&Request::get(
        "/v1/aggregates/account/s-0/events?from_sequence=5",
    ));
    assert_eq!(json!([last]), history.json(), "the same as in the history");
}

#[test]
fn a_reader_that_is_cut_at_random_sees_each_event_once_and_in_order() {
    let fixture = Fixture::new();
    let ids = fill(&fixture, "c", 20, 9);
    let mut seen = Vec::new();
    let mut last_id = None;
    let mut cuts = 0;
    while seen.len() < ids.len() {
        let mut stream = Stream::open(fixture.node.address, "", last_id.as_deref());
        let some = (cuts * 7 % 11 + 1).min(ids.len() - seen.len());
        seen.extend(stream.events(some));
        last_id = Some(stream.last_id.clone());
        cuts += 1;
    }
    assert!(cuts > 20, "{cuts}");
    assert_in_order(&seen);
    let unique: BTreeSet<String> = seen.iter().map(id).collect();
    assert_eq!((unique.len(), unique), (seen.len(), ids));
}

#[test]
fn filters_leave_out_and_what_was_left_out_is_not_seen_after_a_resumption_either() {
    let fixture = Fixture::new();
    let mut http = fixture.node.client();
    fill(&fixture, "f", 3, 4);
    let order = Request::command("order", "o-1", "CreateOrder", r#"{"customer":"ada"}"#);
    client::expect_success(&mut http, &order);
    let mut orders = Stream::open(fixture.node.address, "?aggregate_type=order", None);
    assert_eq!(id(&orders.event()), "order/o-1/1");
    let query = "?aggregate_type=account,order&event_type=AccountOpened,OrderCreated";
    let mut some = Stream::open(fixture.node.address, query, None);
    let names: BTreeSet<String> = some.events(4).iter().map(id).collect();
    let expected = [
        "account/f-0/1",
        "account/f-1/1",
        "account/f-2/1",
        "order/o-1/1",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
    client::expect_success(&mut http, &client::open("f-9"));
    let mut resumed = Stream::open(fixture.node.address, query, Some(&some.last_id));
    assert_eq!(id(&resumed.event()), "account/f-9/1");
}

#[test]
fn a_stream_can_begin_now_or_behind_a_position() {
    let fixture = Fixture::new();
    fill(&fixture, "b", 4, 2);
    let mut now = Stream::open(fixture.node.address, "?after=now", None);
    let mut http = fixture.node.client();
    let reply = http.send(&client::open("later"));
    assert_eq!(id(&now.event()), "account/later/1");
    let position = reply.header("Phalanx-Position").expect("a position");
    let (shard, number) = position.split_once(':').expect("two numbers");
    let before = number.parse::<u64>().expect("a number") - 1;
    let query = format!("?after={shard}:{before}");
    let mut behind = Stream::open(fixture.node.address, &query, None);
    let all = behind.events(4 * 3 + 1 - usize::try_from(before).expect("small"));
    let of_shard = all.iter().filter(|e| {
        e["position"]
            .as_str()
            .unwrap()
            .starts_with(&format!("{shard}:"))
    });
    assert_eq!(of_shard.map(id).collect::<Vec<_>>(), ["account/later/1"]);
}

#[test]
fn what_a_stream_is_asked_for_is_checked() {
    let fixture = Fixture::new();
    let get = |query: &str| Request::get(&format!("/v1/events{query}"));
    let bad_id = get("").header("Last-Event-ID", "abc");
    let post = Request::post("/v1/events", "{}");
    run(
        &fixture.node,
        &[
            case("no position", get("?after=yesterday"), 400, "invalid-query"),
            case("no shard", get("?after=99:1"), 400, "invalid-query"),
            case("a shard twice", get("?after=0:1,0:2"), 400, "invalid-query"),
            case("no type", get("?aggregate_type=x"), 400, "invalid-query"),
            case("unknown", get("?since=now"), 400, "invalid-query"),
            case("a bad id", bad_id, 400, "invalid-header"),
            case("a post", post, 405, "method-not-allowed"),
        ],
    );
}

#[test]
fn an_idle_stream_outlives_the_limits_of_its_connection_and_ends_with_the_node() {
    let mut fixture = Fixture::with(|setup| {
        setup
            .set("HTTP__IDLE_TIMEOUT_MS", 300)
            .set("HTTP__HEADER_TIMEOUT_MS", 300)
            .set("HTTP__MAX_EVENT_STREAMS", 1)
    });
    let mut stream = Stream::open(fixture.node.address, "", None);
    let full = fixture.send(&Request::get("/v1/events"));
    assert_eq!((full.status, full.code()), (503, "overloaded".to_owned()));
    assert!(full.header("Retry-After").is_some());
    crate::support::wait::let_pass(Duration::from_millis(1_200));
    client::expect_success(&mut fixture.node.client(), &client::open("late"));
    assert_eq!(id(&stream.event()), "account/late/1");
    let began = Instant::now();
    fixture.node.stop();
    while stream.message().is_some() {}
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
}
