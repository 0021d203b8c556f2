//! Chapter "Watching an aggregate": its state now, then each change, resumed without a gap or a
//! repeat.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::Rng as _;
use serde_json::{Value, json};

use crate::cases::{Fixture, assert_problem, case, run};
use crate::support::http::Request;
use crate::support::sse::Stream;
use crate::support::{client, measured, seeded};

/// How long a node that ends waits for what is under way.
const GRACE_MS: u64 = 25_000;

fn target(id: &str) -> String {
    format!("{}/watch", client::account_target(id))
}

/// The sequence numbers of the events that a message names.
fn numbers(change: &Value) -> Vec<u64> {
    let events = change["events"].as_array().expect("events");
    let number = |event: &Value| event["sequence_number"].as_u64().expect("a number");
    events.iter().map(number).collect()
}

#[test]
fn the_state_comes_first_and_then_each_change_with_the_state_after_it() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    client::expect_success(http, &client::open("w-1"));
    client::expect_success(http, &client::deposit("w-1", 5));
    let mut stream = Stream::open(fixture.node.address, &target("w-1"), None);
    assert!(stream.head.starts_with("http/1.1 200"), "{}", stream.head);
    assert!(stream.head.contains("content-type: text/event-stream"));
    let first = stream.told();
    assert_eq!(
        (first.kind.as_str(), stream.last_id.as_str()),
        ("state", "2")
    );
    let mut fresh = fixture.send(&client::fresh("w-1")).json();
    fresh
        .as_object_mut()
        .expect("an object")
        .remove("served_by");
    assert_eq!(first.json(), fresh, "the form of a fresh read");

    // What happens to others is none of its business.
    client::expect_success(http, &client::open("w-2"));
    let at = client::expect_success(http, &client::deposit("w-1", 7)).json();
    let change = stream.told();
    assert_eq!(
        (change.kind.as_str(), stream.last_id.as_str()),
        ("change", "3")
    );
    fresh = fixture.send(&client::fresh("w-1")).json();
    let told = change.json();
    let expected = json!({
        "aggregate_type": "account", "aggregate_id": "w-1", "sequence_number": 3,
        "position": at["position"], "state": fresh["state"],
        "events": [{"type": "MoneyDeposited", "sequence_number": 3}],
    });
    assert_eq!(told, expected);
    // A refused command changes nothing; the next message is that of the next event.
    assert_eq!(http.send(&client::overdraw("w-1")).status, 422);
    client::expect_success(http, &client::deposit("w-1", 1));
    assert_eq!(numbers(&stream.event()), [4]);
}

#[test]
fn a_watcher_that_is_cut_at_random_is_told_of_each_event_once_and_in_order() {
    let fixture = Fixture::new();
    client::expect_success(&mut fixture.node.client(), &client::open("w-1"));
    let done = AtomicBool::new(false);
    let mut random = seeded("watch");
    let (mut seen, mut cuts) = (Vec::new(), 0);
    let deposits = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut http = fixture.node.client();
            let mut deposits = 0_u64;
            while !done.load(Ordering::Relaxed) {
                client::expect_success(&mut http, &client::deposit("w-1", 1));
                deposits += 1;
            }
            deposits
        });
        let mut last_id = None;
        while cuts < 100 {
            let mut stream = Stream::open(fixture.node.address, &target("w-1"), last_id.as_deref());
            if last_id.is_none() {
                let state = stream.told();
                assert_eq!(state.kind, "state");
                seen = (1..=state.json()["sequence_number"].as_u64().unwrap()).collect();
            }
            for _ in 0..random.random_range(0..4) {
                let change = stream.event();
                seen.extend(numbers(&change));
                // Opened by the first event, one cent by each later one.
                let last = change["sequence_number"].as_u64().unwrap();
                assert_eq!(change["state"]["balance_cents"], last - 1, "{change}");
            }
            last_id = Some(stream.last_id.clone());
            cuts += 1;
        }
        done.store(true, Ordering::Relaxed);
        writing.join().expect("no panic")
    });
    let mut rest = Stream::open(
        fixture.node.address,
        &target("w-1"),
        Some(&seen.last().unwrap().to_string()),
    );
    while *seen.last().unwrap() < deposits + 1 {
        seen.extend(numbers(&rest.event()));
    }
    assert_eq!(seen, (1..=deposits + 1).collect::<Vec<_>>());
    assert!(deposits > 100, "{deposits}");
}

#[test]
fn an_old_id_is_told_everything_since_and_an_impossible_one_is_refused() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    client::expect_success(http, &client::open("w-1"));
    for _ in 0..299 {
        client::expect_success(http, &client::deposit("w-1", 1));
    }
    let mut stream = Stream::open(fixture.node.address, &target("w-1"), Some("1"));
    let mut seen = Vec::new();
    let mut last = Value::Null;
    while seen.len() < 299 {
        last = stream.event();
        seen.extend(numbers(&last));
    }
    assert_eq!(seen, (2..=300).collect::<Vec<_>>());
    assert_eq!(last["state"]["balance_cents"], 299);
    let watch = |id: &str| Request::get(&target("w-1")).header("Last-Event-ID", id);
    let get = Request::get;
    let post = Request::post(&target("w-1"), "{}");
    run(
        &fixture.node,
        &[
            case("ahead", watch("301"), 400, "invalid-header"),
            case("no number", watch("0:17"), 400, "invalid-header"),
            case("zero", watch("0"), 400, "invalid-header"),
            case("never was", get(&target("w-9")), 404, "aggregate-not-found"),
            case(
                "never was, with an id",
                get(&target("w-9")).header("Last-Event-ID", "1"),
                404,
                "aggregate-not-found",
            ),
            case("a bad id", get(&target("a%2Fb")), 400, "invalid-id"),
            case(
                "no such type",
                get("/v1/aggregates/x/w-1/watch"),
                404,
                "unknown-aggregate-type",
            ),
            case(
                "unknown",
                get(&format!("{}?after=6:1", target("w-1"))),
                400,
                "invalid-query",
            ),
            case("a post", post, 405, "method-not-allowed"),
        ],
    );
}

#[test]
fn watches_count_as_event_streams_and_end_with_the_node() {
    let mut fixture = Fixture::with(|setup| {
        setup
            .set("HTTP__IDLE_TIMEOUT_MS", 1_000)
            .set("HTTP__MAX_EVENT_STREAMS", 1)
            .set("NODE__SHUTDOWN_GRACE_MS", GRACE_MS)
    });
    client::expect_success(&mut fixture.node.client(), &client::open("w-1"));
    let mut stream = Stream::open(fixture.node.address, &target("w-1"), None);
    assert_eq!(stream.told().kind, "state");
    let full = fixture.send(&Request::get(&target("w-1")));
    assert_problem(&full, 503, "overloaded");
    crate::support::wait::let_pass(Duration::from_millis(3_000));
    client::expect_success(&mut fixture.node.client(), &client::deposit("w-1", 3));
    assert_eq!(stream.event()["state"]["balance_cents"], 3);
    let began = Instant::now();
    fixture.node.stop();
    // A stream that was waited for would take all of it.
    let limit = Duration::from_millis(GRACE_MS - 1_000);
    stream.drain(limit);
    let took = began.elapsed();
    assert!(took < limit, "{took:?}");
}

/// Each event of somebody else would be a thousand wake-ups if watchers listened themselves.
#[test]
fn a_thousand_watchers_of_an_aggregate_at_rest_cost_nothing_while_another_is_busy() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    // Both lie in one shard, so that the watchers could hear of the other.
    let shard = |http: &mut crate::support::http::Http, id: &str| {
        let reply = client::expect_success(http, &client::open(id));
        let position = reply.header("Phalanx-Position").expect("a position");
        position.split(':').next().map(str::to_owned)
    };
    let rest = shard(http, "rest");
    let busy = (0..)
        .map(|n| format!("busy-{n}"))
        .find(|id| shard(http, id) == rest)
        .expect("one of them");
    let mut work = || {
        let before = fixture.node.processor_time();
        for _ in 0..500 {
            client::expect_success(http, &client::deposit(&busy, 1));
        }
        fixture.node.processor_time().saturating_sub(before)
    };
    work();
    let alone = work();
    let mut watchers: Vec<Stream> = (0..1_000)
        .map(|_| Stream::open(fixture.node.address, &target("rest"), None))
        .collect();
    for watcher in &mut watchers {
        assert_eq!(watcher.told().kind, "state");
    }
    // Their second look is over.
    crate::support::wait::let_pass(Duration::from_millis(1_500));
    // The node's own affairs fall into one of them or another.
    let watched = (0..3).map(|_| work()).min().expect("three");
    measured("500 commands alone, processor ms", alone.as_millis());
    measured(
        "500 commands beside 1000 watchers, processor ms",
        watched.as_millis(),
    );
    assert!(
        watched < alone * 2 + Duration::from_millis(300),
        "{watched:?} and not {alone:?}"
    );
    client::expect_success(http, &client::deposit("rest", 1));
    for watcher in &mut watchers {
        assert_eq!(numbers(&watcher.event()), [2]);
    }
}
