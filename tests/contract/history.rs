//! Chapter "History and time": events as CloudEvents, paging, and the state as it was.

use serde_json::{Value, json};

use crate::cases::{Fixture, assert_problem, case, run};
use crate::support::client;
use crate::support::http::{Request, Response};

const TARGET: &str = "/v1/aggregates/account/h-1";

/// An account with five events: opened, then 1, 2, 3 and 4 cents paid in.
fn five_events() -> Fixture {
    let fixture = Fixture::new();
    let mut http = fixture.node.client();
    client::expect_success(&mut http, &client::open("h-1"));
    for amount in 1..=4 {
        client::expect_success(&mut http, &client::deposit("h-1", amount));
    }
    fixture
}

fn events(fixture: &Fixture, query: &str) -> Response {
    let page = fixture.send(&Request::get(&format!("{TARGET}/events{query}")));
    assert_eq!(page.status, 200, "{query}: {}", page.text());
    assert_eq!(
        page.header("Content-Type"),
        Some("application/cloudevents-batch+json")
    );
    page
}

fn sequences(page: &Response) -> Vec<u64> {
    let body = page.json();
    body.as_array()
        .expect("an array")
        .iter()
        .map(|event| {
            let id = event["id"].as_str().expect("an id");
            let last = id.rsplit('/').next().expect("a last part");
            last.parse().expect("an id ends in the sequence number")
        })
        .collect()
}

#[test]
fn the_schema_of_an_event_lies_where_clients_reach_the_nodes() {
    let url = "https://orders.example.com/api";
    let fixture = Fixture::with(|setup| setup.set("HTTP__PUBLIC_URL", format!("{url}/")));
    assert_eq!(fixture.send(&client::open("h-9")).status, 201);
    let history = Request::get("/v1/aggregates/account/h-9/events");
    let events = fixture.send(&history).json();
    let path = "/v1/types/account/events/AccountOpened/1";
    assert_eq!(events[0]["dataschema"], format!("{url}{path}"));
}

#[test]
fn history_is_a_batch_of_cloud_events() {
    let fixture = Fixture::new();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let open = client::open("h-1").header("traceparent", parent);
    let reply = fixture.send(&open).json();
    client::expect_success(&mut fixture.node.client(), &client::deposit("h-1", 7));
    let page = events(&fixture, "").json();
    let opened = &page[0];
    assert_eq!(opened["specversion"], json!("1.0"));
    assert_eq!(opened["id"], json!("account/h-1/1"));
    assert_eq!(opened["source"], json!("/v1/aggregates/account/h-1"));
    assert_eq!(opened["type"], json!("AccountOpened"));
    assert_eq!(opened["datacontenttype"], json!("application/json"));
    assert_eq!(
        opened["data"],
        json!({"owner": "owner of h-1", "currency": "EUR"})
    );
    assert_eq!(opened["position"], reply["position"]);
    let schema = "phalanx:/v1/types/account/events/AccountOpened/1";
    assert_eq!(opened["dataschema"], schema);
    let time = opened["time"].as_str().expect("a time");
    assert!(
        time.starts_with("20") && time.ends_with('Z') && time.contains('T'),
        "{time}"
    );
    assert_eq!(opened["command"], json!("OpenAccount"));
    assert_eq!(opened["traceparent"], json!(parent));
    assert!(opened["causationid"].is_string(), "{opened}");
    assert!(opened["correlationid"].is_string(), "{opened}");
    for (name, value) in opened.as_object().expect("an object") {
        let named_well = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        assert!(named_well, "CloudEvents forbids the attribute name {name}");
        assert!(name == "data" || !value.is_null(), "{name} is null");
    }
    assert_eq!(page[1]["data"], json!({"amount_cents": 7}));
    assert_ne!(page[1]["id"], opened["id"]);
}

#[test]
fn pages_follow_each_other_without_a_gap_or_a_repeat() {
    let fixture = five_events();
    let mut seen = Vec::new();
    let mut page = events(&fixture, "?limit=2");
    let mut pages = 1;
    loop {
        let numbers = sequences(&page);
        assert!(numbers.len() <= 2, "{numbers:?}");
        seen.extend(numbers);
        let Some(next) = client::next_page(&page) else {
            break;
        };
        page = fixture.send(&Request::get(&next));
        assert_eq!(page.status, 200, "{}", page.text());
        pages += 1;
        assert!(pages < 10, "the pages never end");
    }
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    assert_eq!(pages, 3);
    let exact = events(&fixture, "?limit=5");
    assert_eq!(sequences(&exact), [1, 2, 3, 4, 5]);
    assert_eq!(client::next_page(&exact), None, "there is no more");
}

#[test]
fn a_page_begins_where_it_is_told_to() {
    let fixture = five_events();
    assert_eq!(sequences(&events(&fixture, "?from_sequence=4")), [4, 5]);
    assert_eq!(
        sequences(&events(&fixture, "?from_sequence=2&limit=2")),
        [2, 3]
    );
    assert_eq!(events(&fixture, "?from_sequence=6").json(), json!([]));
}

#[test]
fn history_and_the_past_check_their_parameters() {
    let fixture = five_events();
    let get = |rest: &str| Request::get(&format!("{TARGET}{rest}"));
    let nobody = |rest: &str| Request::get(&format!("/v1/aggregates/account/nobody{rest}"));
    run(
        &fixture.node,
        &[
            case("limit 0", get("/events?limit=0"), 400, "invalid-query"),
            case(
                "limit text",
                get("/events?limit=many"),
                400,
                "invalid-query",
            ),
            case(
                "from text",
                get("/events?from_sequence=x"),
                400,
                "invalid-query",
            ),
            case(
                "from negative",
                get("/events?from_sequence=-1"),
                400,
                "invalid-query",
            ),
            case("at text", get("?at_sequence=x"), 400, "invalid-query"),
            case("as of text", get("?as_of=yesterday"), 400, "invalid-query"),
            case(
                "a bare date",
                get("?as_of=2026-11-21"),
                400,
                "invalid-query",
            ),
            case(
                "no RFC 3339",
                get("?as_of=20261121T083000Z"),
                400,
                "invalid-query",
            ),
            case(
                "the last instant that RFC 3339 can write",
                get("?as_of=9999-12-31T23:59:59.999Z"),
                200,
                "",
            ),
            case(
                "both times",
                get("?at_sequence=1&as_of=2020-01-01T00:00:00Z"),
                400,
                "invalid-query",
            ),
            case(
                "history of nobody",
                nobody("/events"),
                404,
                "aggregate-not-found",
            ),
            case(
                "past of nobody",
                nobody("?at_sequence=1"),
                404,
                "aggregate-not-found",
            ),
            case(
                "before it existed",
                get("?as_of=2001-01-01T00:00:00Z"),
                404,
                "aggregate-not-found",
            ),
        ],
    );
}

fn balance(body: &Value) -> i64 {
    body["state"]["balance_cents"].as_i64().expect("a balance")
}

#[test]
fn the_state_at_each_sequence_number_is_folded_from_the_journal() {
    let fixture = five_events();
    for (sequence, expected) in [(1, 0), (2, 1), (3, 3), (4, 6), (5, 10)] {
        let reply = fixture.send(&Request::get(&format!("{TARGET}?at_sequence={sequence}")));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let body = reply.json();
        assert_eq!(body["sequence_number"], json!(sequence));
        assert_eq!(balance(&body), expected);
        assert_eq!(body["state"]["owner"], json!("owner of h-1"));
    }
}

#[test]
fn the_state_as_of_a_time_holds_the_events_up_to_it() {
    let fixture = five_events();
    let history = events(&fixture, "").json();
    let history = history.as_array().expect("an array");
    // Times of different lengths: as texts they would not compare as they are.
    let instant = |event: &Value| -> jiff::Timestamp {
        let time = event["time"].as_str().expect("a time");
        time.parse().expect("a time")
    };
    for event in history {
        let time = event["time"].as_str().expect("a time");
        let up_to = history
            .iter()
            .filter(|other| instant(other) <= instant(event))
            .count();
        let reply = fixture.send(&Request::get(&format!("{TARGET}?as_of={time}")));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(
            reply.json()["sequence_number"],
            json!(up_to),
            "as of {time}"
        );
    }
    let later = fixture.send(&Request::get(&format!(
        "{TARGET}?as_of=2999-01-01T00:00:00%2B02:00"
    )));
    assert_eq!(balance(&later.json()), 10, "{}", later.text());
}

#[test]
fn a_history_is_the_same_after_a_restart() {
    let mut fixture = five_events();
    let before = events(&fixture, "");
    fixture.kill_and_restart();
    assert_eq!(events(&fixture, "").text(), before.text());
    fixture.stop_and_restart();
    assert_eq!(events(&fixture, "").text(), before.text());
}

#[test]
fn the_past_needs_no_reason_but_the_present_does() {
    let fixture = five_events();
    assert_eq!(
        fixture
            .send(&Request::get(&format!("{TARGET}?at_sequence=5")))
            .status,
        200
    );
    assert_problem(
        &fixture.send(&Request::get(TARGET)),
        428,
        "justification-required",
    );
}
