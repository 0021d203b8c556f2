//! What is shown of a node's answers, and what an error says to do.

use super::*;

fn named() -> Named {
    Named {
        name: "accounts".to_owned(),
        node: Node {
            url: "http://n:1".to_owned(),
            node: None,
            json: false,
        },
    }
}

const LIST: &str = r#"{"node":2,"projections":[
    {"name":"account_totals","description":"d","version":3,"build":7,"state":"failing",
     "aggregate_types":["account"],"lag":{"events":12,"seconds":0.25},"events_handled":5,
     "events_per_second":1234.5,"dead_letters":1,"rebuild":{"version":4,"percent":50.0,
     "events_left":10,"events_per_second":5.0,"seconds_left":2.0},
     "shards":[{"shard":0,"reached":1,"committed":2,"failure":"no space"}]}]}"#;

#[test]
fn the_table_lines_up_and_names_what_fails() {
    let node = named().node;
    let text = node.show(LIST.as_bytes(), listed).unwrap();
    assert_eq!(
        text,
        "PROJECTION      VERSION  STATE    LAG  SECONDS  EVENTS/S  SET ASIDE  REBUILD\n\
         account_totals  3        failing  12   0.2      1234      1          50.0 %, 5 events/s, 2 s left\n\
         account_totals, shard 0: no space\n"
    );
    let json = Node { json: true, ..node };
    assert_eq!(json.show(LIST.as_bytes(), listed).unwrap().trim_end(), LIST);
    assert!(named().node.show(b"<html>", listed).is_err());
}

#[test]
fn dead_letters_come_with_what_to_do_about_them() {
    let answer = br#"{"dead_letters":[{"id":9,"aggregate_type":"account","aggregate_id":"a-1",
        "sequence_number":2,"position":"6:2","event_type":null,"time":"t","reason":"too\nlarge",
        "attempts":3,"parked_at":"2026-11-21T08:30:00Z"}]}"#;
    let node = named().node;
    let text = node.show(answer, |letters| letter_table(letters, &named()));
    let text = text.unwrap();
    assert!(
        text.contains(
            "9       account/a-1  2      -     3         2026-11-21T08:30:00Z  too large"
        ),
        "{text}"
    );
    assert!(text.contains("phalanx projections retry accounts LETTER --url http://n:1"));
    let none = node.show(br#"{"dead_letters":[]}"#, |l| letter_table(l, &named()));
    assert_eq!(none.unwrap(), "accounts has set nothing aside\n");
}

#[test]
fn a_refusal_says_what_to_do_next() {
    let refused = |code: &str| {
        let error = AskError::Status {
            url: "http://n:1".to_owned(),
            status: "HTTP/1.1 409 Conflict".to_owned(),
            text: format!(r#"{{"code":"{code}","detail":"it says"}}"#),
        };
        Failed::new(error, &named().node).to_string()
    };
    assert!(
        refused("rebuild-running").starts_with("it says\n`phalanx projections rebuild NAME --wait")
    );
    for code in ["not-found", "unknown-view"] {
        assert!(refused(code).contains("phalanx projections list --url http://n:1"));
    }
    assert!(refused("unknown-node").contains("phalanx cluster status --url http://n:1"));
    assert!(refused("internal").contains("http://n:1/problems/internal"));
}

#[test]
fn a_name_stays_within_its_segment() {
    let mut named = named();
    assert_eq!(named.path("/pause"), "/v1/projections/accounts/pause");
    named.name = "../x y".to_owned();
    assert_eq!(named.path(""), "/v1/projections/%2E%2E%2Fx%20y");
    named.name = "account_totals".to_owned();
    assert_eq!(named.path(""), "/v1/projections/account_totals");
}
