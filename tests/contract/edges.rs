//! Edges of what a query can say, and that two routes which take the same thing take it alike.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cases::{Case, Fixture, case, run};
use crate::support::client;
use crate::support::http::{Http, Request};

fn opened(http: &mut Http, id: &str, owner: &str) -> String {
    let body = serde_json::json!({"owner": owner, "currency": "EUR"}).to_string();
    let reply = client::expect_success(http, &Request::command("account", id, "OpenAccount", body));
    let position = reply.header("Phalanx-Position");
    position.expect("a command has a position").to_owned()
}

#[test]
fn a_list_of_positions_is_read_alike_by_views_and_streams() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    let position = opened(http, "e-1", "ada");
    let reached = format!("/v1/views/accounts/e-1?after={position}&wait=5s");
    assert_eq!(http.get(&reached).status, 200);
    let mut cases: Vec<Case> = Vec::new();
    for bad in [
        "0:0,0:0",
        "0:0,1:0,0:0",
        "0:0,",
        ",0:0",
        "",
        "0",
        "0:-1",
        "99:0",
        "0:0;1:0",
        "4294967296:0",
        "0:18446744073709551616",
    ] {
        for path in ["/v1/events", "/v1/views/accounts", "/v1/views/accounts/e-1"] {
            let target = format!("{path}?after={bad}");
            cases.push(case(
                target.clone(),
                Request::get(&target),
                400,
                "invalid-query",
            ));
        }
    }
    run(&fixture.node, &cases);
    for case in &cases {
        assert_eq!(
            fixture.send(&case.request).json()["parameter"],
            "after",
            "{}",
            case.what
        );
    }
    for path in ["/v1/views/accounts", "/v1/views/accounts/e-1"] {
        let response = http.get(&format!("{path}?after=3:0,0:0,1:0"));
        assert_eq!(response.status, 200, "{}", response.text());
    }
}

#[test]
fn a_position_that_was_never_given_is_waited_for_and_no_longer() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    let position = opened(http, "e-1", "ada");
    let (shard, _) = position.split_once(':').expect("a position");
    let began = Instant::now();
    for number in [1_000_000_000, u64::MAX] {
        for path in ["/v1/views/accounts", "/v1/views/accounts/e-1"] {
            let target = format!("{path}?after={shard}:{number}&wait=100ms");
            let response = http.get(&target);
            assert_eq!((response.status, &*response.code()), (504, "view-behind"));
            let problem = response.json();
            assert_eq!(problem["position"], format!("{shard}:{number}"));
            assert!(problem["lag"]["events"].is_u64(), "{problem}");
        }
    }
    assert!(began.elapsed() >= Duration::from_millis(400));
    // No answer of before is given in its place, and the next one is answered at once.
    let target = format!("/v1/views/accounts/e-1?after={position}&wait=5s");
    assert_eq!(http.get(&target).status, 200);
}

/// The owners of all pages, each read with the cursor of the one before.
fn owners(http: &mut Http, query: &str) -> Vec<String> {
    let mut owners = Vec::new();
    let mut cursor = String::new();
    for _ in 0..100 {
        let response = http.get(&format!("/v1/views/accounts?{query}{cursor}"));
        assert_eq!(response.status, 200, "{}", response.text());
        let page = response.json();
        let rows = page["rows"].as_array().expect("rows");
        assert!(!rows.is_empty(), "a page that says there is more has rows");
        owners.extend(
            rows.iter()
                .filter_map(|row| row["owner"].as_str().map(str::to_owned)),
        );
        match &page["next_cursor"] {
            Value::Null => return owners,
            next => cursor = format!("&cursor={}", next.as_str().expect("a cursor")),
        }
    }
    panic!("the pages do not end");
}

#[test]
fn a_cursor_that_was_given_can_be_sent_however_long_what_it_sorts_by_is() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    let mut all: Vec<String> = (0..12)
        .map(|at| {
            let letter = char::from(b'a' + at);
            let len = if at % 3 == 1 { 6_000 } else { 3 };
            letter.to_string().repeat(len)
        })
        .collect();
    let mut after = std::collections::BTreeMap::new();
    for (at, owner) in all.iter().enumerate() {
        let position = opened(http, &format!("e-{at}"), owner);
        let (shard, number) = position.split_once(':').expect("a position");
        after.insert(shard.to_owned(), number.to_owned());
    }
    let after: Vec<String> = after.iter().map(|(s, n)| format!("{s}:{n}")).collect();
    let after = format!("after={}&wait=5s", after.join(","));
    for limit in [2, 3, 4, 5, 100] {
        let found = owners(http, &format!("{after}&sort=owner&limit={limit}"));
        assert_eq!(found, all, "{limit} rows in a page");
    }
    all.reverse();
    assert_eq!(
        owners(http, &format!("{after}&sort=-owner&limit=2")),
        all,
        "the other way round"
    );
    // Where each row of a page is one that no cursor can stand behind, that is said.
    let refused = http.get("/v1/views/accounts?sort=owner&limit=1&owner[gte]=b&owner[lt]=c");
    assert_eq!(refused.status, 200, "it is the only one");
    let refused = http.get("/v1/views/accounts?sort=owner&limit=1&owner[gte]=b");
    assert_eq!((refused.status, &*refused.code()), (400, "invalid-query"));
    assert_eq!(refused.json()["parameter"], "sort");
}
