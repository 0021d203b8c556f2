//! Chapter "Events as a stream": server-sent events that resume without a gap or a repeat.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::Rng as _;

use serde_json::{Value, json};

use crate::cases::{Fixture, case, run};
use crate::support::client;
use crate::support::http::Request;
use crate::support::sse::{Message, Stream};
use crate::support::{measured, seeded, wait};

/// How long a node that ends waits for what is under way.
const GRACE_MS: u64 = 25_000;

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
    let mut stream = Stream::open(fixture.node.address, "/v1/events?after=start", None);
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
        let mut stream = Stream::open(fixture.node.address, "/v1/events", last_id.as_deref());
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
    let mut orders = Stream::open(
        fixture.node.address,
        "/v1/events?aggregate_type=order",
        None,
    );
    assert_eq!(id(&orders.event()), "order/o-1/1");
    let query = "/v1/events?aggregate_type=account,order&event_type=AccountOpened,OrderCreated";
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
    let mut now = Stream::open(fixture.node.address, "/v1/events?after=now", None);
    let mut http = fixture.node.client();
    let reply = http.send(&client::open("later"));
    assert_eq!(id(&now.event()), "account/later/1");
    let position = reply.header("Phalanx-Position").expect("a position");
    let (shard, number) = position.split_once(':').expect("two numbers");
    let before = number.parse::<u64>().expect("a number") - 1;
    let query = format!("/v1/events?after={shard}:{before}");
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
    let two_ids = get("")
        .header("Last-Event-ID", "0:1")
        .header("Last-Event-ID", "1:1");
    let post = Request::post("/v1/events", "{}");
    run(
        &fixture.node,
        &[
            case("no position", get("?after=yesterday"), 400, "invalid-query"),
            case("no shard", get("?after=99:1"), 400, "invalid-query"),
            case("a shard twice", get("?after=0:1,0:2"), 400, "invalid-query"),
            case("no type", get("?aggregate_type=x"), 400, "invalid-query"),
            case("no event", get("?event_type=Opened"), 400, "invalid-query"),
            case(
                "an event of another type",
                get("?aggregate_type=order&event_type=AccountOpened"),
                400,
                "invalid-query",
            ),
            case("unknown", get("?since=now"), 400, "invalid-query"),
            case("two ids", two_ids, 400, "invalid-header"),
            case("a bad id", bad_id, 400, "invalid-header"),
            case("a post", post, 405, "method-not-allowed"),
        ],
    );
}

#[test]
fn the_head_of_a_stream_is_that_of_the_stream() {
    let fixture = Fixture::new();
    let mut http = fixture.node.client();
    client::expect_success(&mut http, &client::open("h-1"));
    for target in [
        "/v1/events",
        "/v1/views/accounts/changes",
        "/v1/aggregates/account/h-1/watch",
    ] {
        let head = fixture.send(&Request::new("HEAD", target));
        assert_eq!(head.status, 200, "{target}");
        assert_eq!(head.header("Content-Type"), Some("text/event-stream"));
        let length = head.header("Content-Length");
        assert_eq!(length, None, "{target}: a stream has no length");
    }
}

#[test]
fn an_idle_stream_outlives_the_limits_of_its_connection_and_ends_with_the_node() {
    let mut fixture = Fixture::with(|setup| {
        setup
            .set("HTTP__IDLE_TIMEOUT_MS", 1_000)
            .set("HTTP__HEADER_TIMEOUT_MS", 1_000)
            .set("HTTP__MAX_EVENT_STREAMS", 1)
            .set("NODE__SHUTDOWN_GRACE_MS", GRACE_MS)
    });
    let mut stream = Stream::open(fixture.node.address, "/v1/events", None);
    let full = fixture.send(&Request::get("/v1/events"));
    assert_eq!((full.status, full.code()), (503, "overloaded".to_owned()));
    assert!(full.header("Retry-After").is_some());
    crate::support::wait::let_pass(Duration::from_millis(3_000));
    client::expect_success(&mut fixture.node.client(), &client::open("late"));
    assert_eq!(id(&stream.event()), "account/late/1");
    let began = Instant::now();
    fixture.node.stop();
    // A stream that was waited for would take all of it.
    let limit = Duration::from_millis(GRACE_MS - 1_000);
    stream.drain(limit);
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());
}

/// Well before a comment is due, which could not be sent.
#[test]
fn a_client_that_leaves_a_silent_stream_gives_its_place_back() {
    let fixture = Fixture::with(|setup| setup.set("HTTP__MAX_EVENT_STREAMS", 1));
    client::expect_success(&mut fixture.node.client(), &client::open("a"));
    let targets = [
        "/v1/events",
        "/v1/aggregates/account/a/watch",
        "/v1/views/accounts/changes",
    ];
    let open = |target| {
        wait::until("a place for a stream", Duration::from_secs(10), || {
            Stream::try_open(fixture.node.address, target, None).ok()
        })
    };
    for target in targets {
        let stream = open(target);
        let full = fixture.send(&Request::get("/v1/events"));
        assert_eq!((full.status, full.code()), (503, "overloaded".to_owned()));
        drop(stream);
    }
    drop(open("/v1/events"));
}

#[test]
fn a_hundred_cuts_at_random_moments_while_events_come_lose_and_repeat_nothing() {
    let fixture = Fixture::new();
    let done = AtomicBool::new(false);
    let mut random = seeded("events");
    let mut seen = Vec::new();
    let mut last_id = None;
    let expected: BTreeSet<String> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (fixture, done) = (&fixture, &done);
                scope.spawn(move || {
                    let mut ids = BTreeSet::new();
                    let mut round = 0;
                    while !done.load(Ordering::Relaxed) {
                        ids.extend(fill(fixture, &format!("r-{writer}-{round}"), 2, 3));
                        round += 1;
                    }
                    ids
                })
            })
            .collect();
        for _ in 0..100 {
            let mut stream = Stream::open(fixture.node.address, "/v1/events", last_id.as_deref());
            seen.extend(stream.events(random.random_range(0..12)));
            last_id = Some(stream.last_id.clone()).filter(|id| !id.is_empty());
        }
        done.store(true, Ordering::Relaxed);
        let ids = writers
            .into_iter()
            .map(|writer| writer.join().expect("no panic"));
        ids.flatten().collect()
    });
    let mut rest = Stream::open(fixture.node.address, "/v1/events", last_id.as_deref());
    seen.extend(rest.events(expected.len().saturating_sub(seen.len())));
    assert_in_order(&seen);
    let unique: BTreeSet<String> = seen.iter().map(id).collect();
    assert_eq!((unique.len(), unique), (seen.len(), expected));
}

/// Thirty readers that read nothing, each with 30 MB before it.
#[test]
fn readers_that_do_not_read_cost_no_memory_and_are_cut_where_they_can_go_on() {
    let readers = 30;
    let fixture = Fixture::with(|setup| {
        setup
            // Those who write have as long, on a busy machine as well.
            .set("HTTP__BODY_TIMEOUT_MS", 3_000)
            .set("HTTP__MAX_EVENT_STREAMS", readers)
    });
    let mut http = fixture.node.client();
    let owner = "o".repeat(300_000);
    let mut expected = BTreeSet::new();
    for account in 0..100 {
        let name = format!("big-{account}");
        let body = json!({"owner": owner, "currency": "EUR"}).to_string();
        client::expect_success(
            &mut http,
            &Request::command("account", &name, "OpenAccount", body),
        );
        expected.insert(format!("account/{name}/1"));
    }
    let before = fixture.node.resident_bytes();
    let mut slow: Vec<Stream> = (0..readers)
        .map(|_| Stream::open(fixture.node.address, "/v1/events", None))
        .collect();
    // All places are taken until the first one is cut, which may be before the last one has come: that
    // there are no more is shown by a stream that is not cut. Memory is looked at meanwhile.
    let mut most = before;
    wait::until("the readers are cut", Duration::from_secs(120), || {
        most = most.max(fixture.node.resident_bytes());
        // Those that look are left.
        let connections = fixture.node.metric("phalanx_http_connections");
        connections.is_some_and(|open| open <= 3.0).then_some(())
    });
    let grown = most.saturating_sub(before);
    measured("memory for 30 readers that do not read, MiB", grown >> 20);
    assert!(grown < 150 << 20, "{grown} bytes for {readers} readers");
    // One of them wakes up: what the node sent before it gave up is still in the socket.
    let mut late = slow.swap_remove(0);
    let sent = late.drain(Duration::from_secs(60));
    let told = sent.iter().filter(|message| !message.data.is_empty());
    let mut seen: Vec<Value> = told.map(Message::json).collect();
    assert!(seen.len() < expected.len(), "{}", seen.len());
    let last_id = Some(late.last_id.clone()).filter(|id| !id.is_empty());
    let mut resumed = Stream::open(fixture.node.address, "/v1/events", last_id.as_deref());
    seen.extend(resumed.events(expected.len() - seen.len()));
    assert_in_order(&seen);
    let unique: BTreeSet<String> = seen.iter().map(id).collect();
    assert_eq!((unique.len(), unique), (seen.len(), expected));
}
