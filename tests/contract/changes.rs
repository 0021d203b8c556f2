//! Chapter "Following a view": which rows have changed, after they are stored, resumed without a gap
//! or a repeat, or with a plain word that there is one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::Rng as _;
use serde_json::{Value, json};

use crate::cases::{Fixture, case, run};
use crate::support::http::{Http, Request};
use crate::support::sse::{Message, Stream};
use crate::support::{client, seeded, wait};

const TARGET: &str = "/v1/views/accounts/changes";

fn shard_and_number(position: &Value) -> (u64, u64) {
    let position = position.as_str().expect("a position");
    let (shard, number) = position.split_once(':').expect("two numbers");
    (
        shard.parse().expect("a number"),
        number.parse().expect("a number"),
    )
}

/// A stream that has begun, and the positions that the rows must show.
fn begin(fixture: &Fixture, target: &str) -> (Stream, String) {
    let mut stream = Stream::open(fixture.node.address, target, None);
    let reset = stream.told();
    assert_eq!(reset.kind, "reset");
    let data = reset.json();
    assert_eq!(data["reason"], "begin");
    (
        stream,
        data["positions"].as_str().expect("positions").to_owned(),
    )
}

fn change(stream: &mut Stream) -> Value {
    let told = stream.told();
    assert_eq!(told.kind, "change", "{}", told.data);
    told.json()
}

fn send(http: &mut Http, request: &Request) -> String {
    let reply = client::expect_success(http, request);
    reply
        .header("Phalanx-Position")
        .expect("a position")
        .to_owned()
}

#[test]
fn a_change_is_told_with_its_position_once_the_row_can_be_read() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    send(http, &client::open("c-0"));
    let (mut stream, _) = begin(&fixture, TARGET);
    let (mut one, _) = begin(&fixture, &format!("{TARGET}?id=c-2"));
    for (id, cents) in [("c-1", 5), ("c-2", 6), ("c-1", 7)] {
        if cents != 7 {
            send(http, &client::open(id));
        }
        let at = send(http, &client::deposit(id, cents));
        // A row that was changed twice by then may be told of once.
        let told = loop {
            let told = change(&mut stream);
            if told["position"] == at {
                break told;
            }
        };
        let expected = json!({"position": at, "rows": [{"key": id, "removed": false}]});
        assert_eq!(told, expected);
        let row = http.get(&format!("/v1/views/accounts/{id}?after={at}&wait=0s"));
        assert_eq!(row.status, 200, "{}", row.text());
    }
    let only = change(&mut one);
    assert_eq!(only["rows"][0]["key"], "c-2", "{only}");
    // Another view, over the same events, has other keys.
    let (mut totals, _) = begin(&fixture, "/v1/views/account_totals/changes");
    send(http, &client::deposit("c-1", 1));
    assert_eq!(
        change(&mut totals)["rows"],
        json!([{"key": "EUR", "removed": false}])
    );
}

#[test]
fn a_follower_that_is_cut_at_random_misses_no_row_and_is_told_nothing_twice() {
    let fixture = Fixture::new();
    let accounts: Vec<String> = (0..30).map(|n| format!("c-{n}")).collect();
    for id in &accounts {
        send(&mut fixture.node.client(), &client::open(id));
    }
    let (stream, _) = begin(&fixture, TARGET);
    let mut last_id = stream.last_id.clone();
    drop(stream);
    let (done, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut random = seeded("changes");
    let mut told: Vec<Value> = Vec::new();
    let newest: BTreeMap<String, String> = std::thread::scope(|scope| {
        let writers: Vec<_> = accounts
            .chunks(10)
            .map(|accounts| {
                let (fixture, done, written) = (&fixture, &done, &written);
                scope.spawn(move || {
                    let mut http = fixture.node.client();
                    let mut newest = BTreeMap::new();
                    while !done.load(Ordering::Relaxed) {
                        // The follower reads no more than a third of that, however slow it is, and
                        // is not left behind by more than a node keeps.
                        if written.fetch_add(accounts.len(), Ordering::Relaxed) > 6_000 {
                            wait::let_pass(Duration::from_millis(5));
                            continue;
                        }
                        for id in accounts {
                            let at = send(&mut http, &client::deposit(id, 1));
                            newest.insert(id.clone(), at);
                        }
                    }
                    newest
                })
            })
            .collect();
        for _ in 0..100 {
            let mut stream = Stream::open(fixture.node.address, TARGET, Some(&last_id));
            for _ in 0..random.random_range(0..20) {
                told.push(change(&mut stream));
            }
            last_id = stream.last_id.clone();
        }
        done.store(true, Ordering::Relaxed);
        let newest = writers
            .into_iter()
            .map(|writer| writer.join().expect("no panic"));
        newest.flatten().collect()
    });
    let mut rest = Stream::open(fixture.node.address, TARGET, Some(&last_id));
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    let mut at = 0;
    while known != newest {
        if at == told.len() {
            told.push(change(&mut rest));
        }
        let (shard, number) = shard_and_number(&told[at]["position"]);
        let before = ends.insert(shard, number).unwrap_or_default();
        assert!(number > before, "{} after {shard}:{before}", told[at]);
        let key = told[at]["rows"][0]["key"]
            .as_str()
            .expect("a key")
            .to_owned();
        let position = told[at]["position"]
            .as_str()
            .expect("a position")
            .to_owned();
        known.insert(key, position);
        at += 1;
    }
    assert!(told.len() > 300, "{}", told.len());
}

#[test]
fn a_rebuild_and_a_restart_are_survived_and_an_old_id_is_told_so() {
    let mut fixture = Fixture::new();
    let http = &mut fixture.node.client();
    send(http, &client::open("c-1"));
    let (mut stream, _) = begin(&fixture, TARGET);
    let at = send(http, &client::deposit("c-1", 1));
    while change(&mut stream)["position"] != at {}
    let before = stream.last_id.clone();
    let begun = http.send(&Request::post("/v1/projections/accounts/rebuild", ""));
    assert_eq!(begun.status, 200, "{}", begun.text());
    let rebuilt = loop {
        let told: Message = stream.told();
        // While the rows are built anew, the present ones go on.
        if told.kind == "reset" {
            break told.json();
        }
    };
    assert_eq!(rebuilt["reason"], "rebuilt");
    // Who reads the rows now sees at least what the reset names, and later changes follow.
    let positions = rebuilt["positions"].as_str().expect("positions");
    let rows = http.get(&format!("/v1/views/accounts?after={positions}&wait=9s"));
    assert_eq!(
        rows.json()["rows"][0]["balance_cents"],
        1,
        "{}",
        rows.text()
    );
    let at = send(http, &client::deposit("c-1", 2));
    assert_eq!(change(&mut stream)["position"], at);
    let mut old = Stream::open(fixture.node.address, TARGET, Some(&before));
    let told = old.told();
    assert_eq!(
        (told.kind.as_str(), &told.json()["reason"]),
        ("reset", &json!("too-old"))
    );
    // A place holds over a restart, as long as nothing is missing.
    let place = stream.last_id.clone();
    fixture.stop_and_restart();
    let http = &mut fixture.node.client();
    let mut stream = Stream::open(fixture.node.address, TARGET, Some(&place));
    let at = send(http, &client::deposit("c-1", 3));
    assert_eq!(change(&mut stream)["position"], at);
    // What happens while the follower is away, and is stored by a node that then stops, is not known
    // any more.
    let place = stream.last_id.clone();
    drop(stream);
    let at = send(http, &client::deposit("c-1", 4));
    let stored = http.get(&format!("/v1/views/accounts/c-1?after={at}&wait=9s"));
    assert_eq!(stored.status, 200, "{}", stored.text());
    fixture.stop_and_restart();
    let mut stream = Stream::open(fixture.node.address, TARGET, Some(&place));
    let told = stream.told();
    assert_eq!(
        (told.kind.as_str(), &told.json()["reason"]),
        ("reset", &json!("too-old"))
    );
}

#[test]
fn rows_that_were_set_aside_and_are_taken_in_late_are_not_passed_over() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    send(http, &client::open("c-1"));
    send(http, &client::open("c-2"));
    let rich = send(http, &client::deposit("c-1", i64::MAX));
    // They may lie in two shards, which a projection reads side by side.
    let taken = http.get(&format!("/v1/views/account_totals?after={rich}&wait=9s"));
    assert_eq!(taken.status, 200, "{}", taken.text());
    send(http, &client::deposit("c-2", 7));
    let target = "/v1/projections/account_totals/dead-letters";
    let letter = wait::until("a dead letter", Duration::from_secs(60), || {
        let letters = http.get(target).json();
        letters["dead_letters"][0]["id"].as_i64()
    });
    let (mut stream, _) = begin(&fixture, "/v1/views/account_totals/changes");
    let id = stream.last_id.clone();
    let withdraw = json!({"amount_cents": i64::MAX}).to_string();
    let withdraw = Request::command("account", "c-1", "Withdraw", withdraw);
    let room = send(http, &withdraw);
    let taken = http.get(&format!("/v1/views/account_totals?after={room}&wait=9s"));
    assert_eq!(taken.status, 200, "{}", taken.text());
    let retried = http.send(&Request::post(&format!("{target}/{letter}/retry"), ""));
    assert_eq!(retried.json()["resolved"], true, "{}", retried.text());
    let mut reasons = Vec::new();
    while reasons.is_empty() {
        let told = stream.told();
        if told.kind == "reset" {
            reasons.push(told.json()["reason"].clone());
        }
    }
    assert_eq!(reasons, [json!("lost")]);
    let mut resumed = Stream::open(
        fixture.node.address,
        "/v1/views/account_totals/changes",
        Some(&id),
    );
    assert_eq!(resumed.told().json()["reason"], "too-old");
}

#[test]
fn what_a_follower_asks_for_is_checked() {
    let fixture = Fixture::new();
    let get = |query: &str| Request::get(&format!("{TARGET}{query}"));
    let with_id = |id: &str| get("").header("Last-Event-ID", id);
    let post = Request::post(TARGET, "{}");
    run(
        &fixture.node,
        &[
            case(
                "no view",
                Request::get("/v1/views/x/changes"),
                404,
                "unknown-view",
            ),
            case("no column", get("?colour=red"), 400, "invalid-query"),
            case("no key", get("?owner=ada"), 400, "invalid-query"),
            case("no equality", get("?id[gt]=a"), 400, "invalid-query"),
            case("two", get("?id=a&id=b"), 400, "invalid-query"),
            case("an id of events", with_id("0:17"), 400, "invalid-header"),
            case("no shard", with_id("1.1.0/99:1"), 400, "invalid-header"),
            case("a post", post, 405, "method-not-allowed"),
        ],
    );
    let none = Fixture::with(|setup| setup.set("HTTP__MAX_EVENT_STREAMS", 0));
    let full = none.send(&Request::get(TARGET));
    assert_eq!((full.status, full.code()), (503, "overloaded".to_owned()));
}
