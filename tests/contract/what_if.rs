//! Chapter "History and time": what would have been, two moments compared, and the edges of the past.

use serde_json::{Value, json};

use crate::cases::{Fixture, assert_problem, case, run};
use crate::support::client;
use crate::support::http::{Http, Request, Response};
use crate::support::wait;

const TARGET: &str = "/v1/aggregates/account/w-1";

fn command(http: &mut Http, name: &str, body: &Value) -> Response {
    let request = Request::command("account", "w-1", name, body.to_string());
    let reply = http.send(&request);
    assert!(
        matches!(reply.status, 200 | 201),
        "{name} {body}: {}",
        reply.text()
    );
    reply
}

/// Opened, 100.50 paid in, then three months with a premium of 20.00 and 1 % of interest each.
fn savings() -> Fixture {
    let fixture = Fixture::new();
    let mut http = fixture.node.client();
    let cents = |amount: i64| json!({ "amount_cents": amount });
    let open = json!({"owner": "ada", "currency": "EUR"});
    command(&mut http, "OpenAccount", &open);
    command(&mut http, "Deposit", &cents(10_050));
    for _ in 0..3 {
        command(&mut http, "ReceivePremium", &cents(2_000));
        let rate = json!({"rate_percent": "1"});
        command(&mut http, "CreditInterest", &rate);
    }
    fixture
}

fn question(insert: &Value) -> Request {
    let body = json!({ "insert": insert }).to_string();
    Request::post(&format!("{TARGET}/what-if"), body)
}

fn deposit(after: u64, cents: i64) -> Value {
    json!({"after_sequence": after, "type": "MoneyDeposited", "data": {"amount_cents": cents}})
}

/// Asks, and checks that the patch leads from the one state to the other.
fn what_if(fixture: &Fixture, insert: &Value) -> Value {
    let reply = fixture.send(&question(insert));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    let names: Vec<&String> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(names, ["actual", "difference", "hypothetical"]);
    let patched = patched(&answer["actual"], &answer["difference"]);
    assert_eq!(patched, answer["hypothetical"]);
    answer
}

fn patched(from: &Value, patch: &Value) -> Value {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone()).expect("a patch");
    let mut state = from.clone();
    json_patch::patch(&mut state, &patch).expect("the patch fits");
    state
}

fn balance(fixture: &Fixture) -> i64 {
    let reply = fixture.send(&client::fresh("w-1"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let state = &reply.json()["state"];
    state["balance_cents"].as_i64().expect("a balance")
}

#[test]
fn a_payment_found_three_months_late_is_put_right_to_the_cent() {
    let fixture = savings();
    assert_eq!(balance(&fixture), 16_476);
    // 50.55 were paid right after the account was opened with 100.50, and nobody booked them.
    let late = json!([deposit(2, 5_055)]);
    let answer = what_if(&fixture, &late);
    assert_eq!(answer["actual"]["balance_cents"], 16_476);
    assert_eq!(answer["hypothetical"]["balance_cents"], 21_684);
    assert_eq!(
        answer["difference"],
        json!([{"op": "replace", "path": "/balance_cents", "value": 21_684}])
    );
    assert_eq!(balance(&fixture), 16_476, "nothing was stored");

    // The payment, and the interest that it would have earned: 1.71 + 1.93 + 2.15 - 4.26.
    let mut http = fixture.node.client();
    let correct = |amount: i64, reason: &str| json!({"amount_cents": amount, "reason": reason, "refers_to": 2});
    let body = correct(5_055, "a payment of the first month");
    let reply = command(&mut http, "Correct", &body).json();
    assert_eq!(reply["events"][0]["type"], "BalanceCorrected");
    let last = command(&mut http, "Correct", &correct(153, "interest on it")).json();
    assert_eq!(
        json!(balance(&fixture)),
        answer["hypothetical"]["balance_cents"]
    );

    // The read models follow.
    let position = last["position"].as_str().expect("a position");
    let row = fixture.send(&Request::get(&format!(
        "/v1/views/accounts/w-1?after={position}&wait=9s"
    )));
    assert_eq!(row.status, 200, "{}", row.text());
    assert_eq!(row.json()["balance_cents"], 21_684, "{}", row.text());
    wait::until(
        "the totals follow",
        std::time::Duration::from_secs(60),
        || {
            let reply = fixture.send(&Request::get("/v1/views/account_totals/EUR"));
            (reply.json()["balance_cents"] == 21_684).then_some(())
        },
    );
    // What happened is still what happened.
    let past = fixture.send(&Request::get(&format!("{TARGET}?at_sequence=8")));
    assert_eq!(past.json()["state"]["balance_cents"], 16_476);
}

#[test]
fn events_are_inserted_where_they_are_said_to_belong() {
    let fixture = savings();
    let withdraw = json!({"after_sequence": 2, "type": "MoneyWithdrawn",
        "data": {"amount_cents": 30_050}});
    for (insert, hypothetical) in [
        (json!([]), 16_476),
        (json!([deposit(8, 1)]), 16_477),
        (json!([deposit(0, 5_055)]), 21_684),
        (json!([deposit(2, 5_000), deposit(2, 55)]), 21_684),
        // Not in the order of the history.
        (json!([deposit(8, 100), deposit(2, 5_055)]), 21_784),
        (json!([withdraw]), -14_485),
    ] {
        let answer = what_if(&fixture, &insert);
        assert_eq!(answer["hypothetical"]["balance_cents"], hypothetical);
        assert_eq!(answer["actual"]["balance_cents"], 16_476);
    }
    let opened = |after: u64, owner: &str| {
        json!({"after_sequence": after, "type": "AccountOpened",
            "data": {"owner": owner, "currency": "EUR"}})
    };
    let answer = what_if(&fixture, &json!([opened(3, "bob"), opened(3, "eve")]));
    assert_eq!(answer["hypothetical"]["owner"], "eve");
    // The schema of the event says so.
    let nothing_said = json!({"after_sequence": 8, "type": "MoneyDeposited",
        "data": {"amount_cents": 4, "reference": null}});
    let answer = what_if(&fixture, &json!([nothing_said]));
    assert_eq!(answer["hypothetical"]["balance_cents"], 16_480);
    let history = fixture.send(&Request::get(&format!("{TARGET}/events")));
    assert_eq!(history.json().as_array().map(Vec::len), Some(8));
}

#[test]
fn questions_that_do_not_fit_are_refused() {
    let fixture = savings();
    let nobody = Request::post("/v1/aggregates/account/nobody/what-if", "{\"insert\":[]}");
    let unknown = Request::post("/v1/aggregates/nothing/w-1/what-if", "{\"insert\":[]}");
    let bad_id = Request::post("/v1/aggregates/account/a%20b/what-if", "{\"insert\":[]}");
    let plain = question(&json!([]))
        .without("Content-Type")
        .header("Content-Type", "text/plain");
    let target = format!("{TARGET}/what-if");
    let big = format!("{{\"insert\":[]{}}}", " ".repeat(1 << 20));
    run(
        &fixture.node,
        &[
            case("nobody", nobody, 404, "aggregate-not-found"),
            case("unknown type", unknown, 404, "unknown-aggregate-type"),
            case("bad id", bad_id, 400, "invalid-id"),
            case("plain text", plain, 415, "unsupported-media-type"),
            case("a GET", Request::get(&target), 405, "method-not-allowed"),
            case(
                "too large",
                Request::post(&target, big),
                413,
                "content-too-large",
            ),
            case(
                "a parameter",
                Request::post(&format!("{target}?dry_run=true"), "{\"insert\":[]}"),
                400,
                "invalid-query",
            ),
        ],
    );
    for (insert, pointer) in [
        (json!(7), "/insert"),
        (json!([deposit(9, 1)]), "/insert/0/after_sequence"),
        (json!([deposit(1, 1), {"after_sequence": 1}]), "/insert/1"),
        (
            json!([{"after_sequence": 1, "type": "Deposit", "data": {"amount_cents": 1}}]),
            "/insert/0/type",
        ),
        (
            json!([{"after_sequence": 1, "type": "MoneyDeposited", "data": {"amount_cents": "1"}}]),
            "/insert/0/data/amount_cents",
        ),
        (
            json!([{"after_sequence": 1, "type": "MoneyDeposited",
                "data": {"amount_cents": 1, "amuont": 1}}]),
            "/insert/0/data/amuont",
        ),
    ] {
        let reply = fixture.send(&question(&insert));
        assert_problem(&reply, 400, "malformed-body");
        assert_eq!(reply.json()["pointer"], pointer, "{}", reply.text());
    }
}

#[test]
fn two_moments_are_compared() {
    let fixture = savings();
    let get = |query: &str| fixture.send(&Request::get(&format!("{TARGET}/diff{query}")));
    let reply = get("?from=2&to=4");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("ETag"), Some("\"4\""));
    let answer = reply.json();
    assert_eq!(answer["aggregate_id"], "w-1");
    for (name, number) in [("from", 2), ("to", 4)] {
        let past = fixture.send(&Request::get(&format!("{TARGET}?at_sequence={number}")));
        for member in ["sequence_number", "position", "state"] {
            assert_eq!(answer[name][member], past.json()[member], "{name} {member}");
        }
    }
    assert_eq!(
        answer["difference"],
        json!([{"op": "replace", "path": "/balance_cents", "value": 12_171}])
    );
    assert_eq!(
        answer["events"],
        json!([{"type": "PremiumReceived", "sequence_number": 3},
            {"type": "InterestCredited", "sequence_number": 4}])
    );
    let same = get("?from=8&to=8").json();
    assert_eq!(
        (&same["difference"], &same["events"]),
        (&json!([]), &json!([]))
    );
    for (query, parameter) in [
        ("", "from"),
        ("?from=1", "to"),
        ("?to=1", "from"),
        ("?from=0&to=1", "from"),
        ("?from=3&to=2", "to"),
        ("?from=x&to=2", "from"),
        ("?from=1&to=2&at=3", "at"),
    ] {
        let reply = get(query);
        assert_problem(&reply, 400, "invalid-query");
        assert_eq!(reply.json()["parameter"], parameter, "{query}");
    }
    for query in ["?from=1&to=9", "?from=9&to=9"] {
        let reply = get(query);
        assert_problem(&reply, 404, "sequence-not-reached");
        assert_eq!(reply.json()["current_sequence_number"], 8);
    }
    let nobody = Request::get("/v1/aggregates/account/nobody/diff?from=1&to=2");
    assert_problem(&fixture.send(&nobody), 404, "aggregate-not-found");
}

#[test]
fn the_past_has_edges() {
    let fixture = savings();
    let get = |query: &str| fixture.send(&Request::get(&format!("{TARGET}{query}")));
    assert_problem(&get("?at_sequence=0"), 400, "invalid-query");
    let beyond = get("?at_sequence=9");
    assert_problem(&beyond, 404, "sequence-not-reached");
    assert_eq!(beyond.json()["current_sequence_number"], 8);
    let page = fixture
        .send(&Request::get(&format!("{TARGET}/events")))
        .json();
    let events = page.as_array().expect("an array");
    let times: Vec<jiff::Timestamp> = events
        .iter()
        .map(|event| {
            event["time"]
                .as_str()
                .expect("a time")
                .parse()
                .expect("a time")
        })
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    let microsecond = jiff::SignedDuration::from_micros(1);
    let first = times[0];
    let at = |time: jiff::Timestamp| {
        let up_to = times.iter().filter(|other| **other <= time).count();
        (time, up_to)
    };
    for (time, up_to) in times.iter().copied().map(at) {
        // The same instant with an offset, and with more digits than are kept.
        let offset = jiff::tz::Offset::from_hours(-3).expect("an offset");
        let there = offset.to_datetime(time);
        let digits = format!("{:06}", time.subsec_nanosecond() / 1_000);
        let seconds = time.strftime("%Y-%m-%dT%H:%M:%S");
        for text in [
            time.to_string(),
            format!("{}-03:00", there.strftime("%Y-%m-%dT%H:%M:%S%.6f")),
            format!("{seconds}.{digits}999Z"),
        ] {
            let reply = get(&format!("?as_of={text}"));
            assert_eq!(reply.status, 200, "{text}: {}", reply.text());
            assert_eq!(reply.json()["sequence_number"], json!(up_to), "{text}");
        }
    }
    assert_problem(
        &get(&format!("?as_of={}", first - microsecond)),
        404,
        "aggregate-not-found",
    );
}
