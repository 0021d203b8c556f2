//! Events that one release stored and another one reads, over HTTP: split, dropped, with defaults, and
//! too new. The same data directory is run by an old build, by today's, and by the old one again.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

#[path = "releases/builds.rs"]
mod builds;
#[path = "releases/running.rs"]
mod running;

use serde_json::{Value, json};

use running::{Running, to};
use support::http::{Request, Response};
use support::sse::Stream;
use support::temp_dir;

/// What the old build stores: of `a` an opening, a payment, a note and a payment; of `b` notes only;
/// of `c` an opening. Gives the answer to the first payment.
fn fill(node: &Running) -> Response {
    node.done("a", "Open", &json!({"name": "ada"}));
    let paid = node.done("a", "Pay", &json!({"amount": 100, "fee": 1}));
    node.done("a", "Note", &json!({"text": "for the file"}));
    node.done("a", "Pay", &json!({"amount": 50, "fee": 2}));
    for text in ["one", "two"] {
        node.done("b", "Note", &json!({ "text": text }));
    }
    node.done("c", "Open", &json!({"name": "cleo"}));
    paid
}

/// Ids, types and data of events.
fn seen(events: &[Value]) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .map(|event| {
            (
                text(&event["id"]),
                text(&event["type"]),
                event["data"].clone(),
            )
        })
        .collect()
}

/// `a` as today's build shows it.
fn todays() -> Vec<(String, String, Value)> {
    let event =
        |number: &str, name: &str, data| (format!("books/a/{number}"), name.to_owned(), data);
    vec![
        event("1", "Opened", json!({"name": "ada", "country": "unknown"})),
        event("2", "Deposited", json!({"amount": 100})),
        event("2.2", "FeeTaken", json!({"fee": 1})),
        event("4", "Deposited", json!({"amount": 50})),
        event("4.2", "FeeTaken", json!({"fee": 2})),
    ]
}

#[test]
fn splits_and_drops_are_shown_alike_wherever_events_are_shown() {
    let directory = temp_dir();
    let data_dir = directory.path().join("data");
    let before = Running::old(&data_dir);
    let paid = fill(&before);
    before.stop();

    let node = Running::new(&data_dir);
    let history = node.read("/v1/aggregates/books/a/events");
    assert_eq!(seen(history.as_array().unwrap()), todays());
    let [last] = &history.as_array().unwrap()[4..] else {
        panic!("{history}");
    };
    assert_eq!(
        (&last["sequence"], &last["part"]),
        (&json!("4"), &json!("2"))
    );
    // The state after the numbers of the stored events.
    for (sequence, total) in [(1, 0), (2, 99), (3, 99), (4, 147)] {
        let past = node.read(&format!("/v1/aggregates/books/a?at_sequence={sequence}"));
        assert_eq!(past["state"]["total"], total, "{sequence}");
        assert_eq!(past["sequence_number"], sequence);
    }
    // The last one was dropped: nothing is missing in the list, and no link leads anywhere.
    let diff = node.get("/v1/aggregates/books/a/diff?from=1&to=3");
    assert_eq!(diff.header("Link"), None);
    assert_eq!(diff.json()["difference"][0]["value"], 99);
    let named = diff.json()["events"].clone();
    let named = named.as_array().unwrap().iter();
    let named: Vec<_> = named.map(|event| event["type"].clone()).collect();
    assert_eq!(named, ["Deposited", "FeeTaken"]);
    // The stream, and a resumption between the parts of an event.
    let mut stream = Stream::open(node.address, "/v1/events?after=start", None);
    let first = stream.events(2);
    assert_eq!(seen(&first), todays()[..2]);
    let mut stream = Stream::open(node.address, "/v1/events", Some(&stream.last_id));
    let rest = stream.events(4);
    assert_eq!(seen(&rest[..3]), todays()[2..]);
    assert_eq!(rest[3]["id"], "books/c/1");
    // The read model, and a retry over the release.
    let position = paid.header("Phalanx-Position").unwrap();
    let again = node.send(&to("a", "Pay", &json!({"amount": 100, "fee": 1})));
    assert_eq!((again.body.clone(), again.status), (paid.body.clone(), 200));
    assert_eq!(again.header("Phalanx-Position"), Some(position));
    node.stop();

    // Snapshots are of today's shape now, and a restart goes on from them.
    for round in 0..2 {
        let node = Running::new(&data_dir);
        assert_eq!(node.state("a")["total"], 147 + 8 * round);
        let last = node.done("a", "Pay", &json!({"amount": 9, "fee": 1, "round": round}));
        let after = last.header("Phalanx-Position").unwrap();
        let row = node.read(&format!("/v1/views/ledger/a?after={after}&wait=9s"));
        assert_eq!(row["total"], 147 + 8 * (round + 1), "{row}");
        assert_eq!(row["fees"], 3 + round + 1, "{row}");
        node.stop();
    }
}

#[test]
fn an_aggregate_of_which_nothing_is_left_exists_all_the_same() {
    let directory = temp_dir();
    let data_dir = directory.path().join("data");
    let before = Running::old(&data_dir);
    fill(&before);
    before.stop();

    let node = Running::new(&data_dir);
    assert_eq!(node.read("/v1/aggregates/books/b/events"), json!([]));
    assert_eq!(
        node.read("/v1/aggregates/books/b/events?from_sequence=3"),
        json!([])
    );
    let past = node.read("/v1/aggregates/books/b?at_sequence=2");
    assert_eq!(past["sequence_number"], 2);
    assert_eq!(past["state"]["total"], 0);
    assert_eq!(node.state("b")["total"], 0);
    // Who watches it and comes back, goes on.
    let watch = "/v1/aggregates/books/b/watch";
    let mut watcher = Stream::open(node.address, watch, None);
    let state = watcher.told();
    assert_eq!(
        state.json()["sequence_number"],
        watcher.last_id.parse::<u64>().unwrap()
    );
    let mut watcher = Stream::open(node.address, watch, Some(&watcher.last_id));
    let taken = to("b", "Open", &json!({"name": "bob"})).header("If-None-Match", "*");
    assert_eq!(node.send(&taken).status, 412);
    let next = node.done("b", "Pay", &json!({"amount": 5, "fee": 0}));
    assert_eq!(
        (next.status, next.json()["sequence_number"].clone()),
        (200, json!(4))
    );
    assert_eq!(watcher.told().json()["sequence_number"], 4);
    let nobody = node.get("/v1/aggregates/books/nobody/events");
    assert_eq!(
        (nobody.status, nobody.code()),
        (404, "aggregate-not-found".to_owned())
    );
    node.stop();
}

#[test]
fn an_event_of_a_newer_build_stops_its_aggregate_and_nothing_else() {
    let directory = temp_dir();
    let data_dir = directory.path().join("data");
    let before = Running::old(&data_dir);
    fill(&before);
    before.stop();
    let newer = Running::new(&data_dir);
    newer.done("a", "Pay", &json!({"amount": 9, "fee": 1}));
    newer.stop();

    let node = Running::old(&data_dir);
    let newer = "a newer build wrote it";
    let a = "/v1/aggregates/books/a";
    let fresh = Request::get(a).header("Phalanx-Justification", "test");
    for answer in [
        node.send(&to("a", "Pay", &json!({"amount": 1, "fee": 0}))),
        node.send(&Request::post(
            &format!("{a}/commands/Pay?dry_run=true"),
            r#"{"amount":1,"fee":0}"#,
        )),
        node.send(&fresh),
        node.get(&format!("{a}?at_sequence=5")),
        node.get(&format!("{a}?as_of=2999-01-01T00:00:00Z")),
        node.get(&format!("{a}/events")),
        node.get(&format!("{a}/diff?from=1&to=5")),
        node.send(&Request::post(&format!("{a}/what-if"), r#"{"insert":[]}"#)),
    ] {
        assert_eq!(
            (answer.status, answer.code()),
            (500, "aggregate-quarantined".to_owned())
        );
        assert!(answer.text().contains(newer), "{}", answer.text());
    }
    // What happened before it can be read, and others go on.
    assert_eq!(
        node.read("/v1/aggregates/books/a?at_sequence=4")["state"]["total"],
        147
    );
    let others = node.done("c", "Pay", &json!({"amount": 7, "fee": 2}));
    let after = others.header("Phalanx-Position").unwrap();

    // A reader of all events gets those before it, hears why there are no more, and how to go on.
    let mut stream = Stream::open(node.address, "/v1/events?after=start", None);
    assert_eq!(stream.events(7).len(), 7);
    let seen_until = stream.last_id.clone();
    for last_id in [None, Some(&*seen_until)] {
        if let Some(id) = last_id {
            stream = Stream::open(node.address, "/v1/events", Some(id));
        }
        let told = stream.told();
        assert_eq!(told.kind, "error", "{told:?}");
        let error = told.json();
        assert_eq!(error["code"], "aggregate-quarantined", "{error}");
        assert_eq!(error["aggregate"], "books/a", "{error}");
        assert_eq!(error["position"], "0:8", "{error}");
        assert!(error["detail"].as_str().unwrap().contains(newer), "{error}");
        let behind = error["resume_after"].as_str().unwrap().to_owned();
        let mut rest = Stream::open(node.address, "/v1/events", Some(&behind));
        assert_eq!(rest.event()["id"], "books/c/2");
    }

    // The projection sets the aggregate aside with the reason and takes the others in.
    let row = node.read(&format!("/v1/views/old_ledger/c?after={after}&wait=9s"));
    assert_eq!((&row["total"], &row["fees"]), (&json!(5), &json!(2)));
    let letters = node
        .read("/v1/projections/old_ledger/dead-letters")
        .to_string();
    assert!(
        letters.contains(newer) && letters.contains("\"a\""),
        "{letters}"
    );
    let kept = node.read("/v1/views/old_ledger/a");
    assert_eq!(kept["total"], 147);
    node.stop();
}
