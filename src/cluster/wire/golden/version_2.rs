//! What came with version 2, and how a peer of version 1 is told it.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use phalanx_actors::history::{Compared, Comparison, HistoryPage, RecordedEvent};
use phalanx_actors::names::{Position, StreamName};
use phalanx_actors::record::{Draft, Record, RecordHead};
use phalanx_actors::request::{
    CommandRequest, EventView, FailureKind, Origin, Precondition, StateView,
};

use super::super::*;
use super::{Golden, raw, recorded};
use crate::cluster::status::{StaysDrained, Undrained};

/// The questions that came with version 2.
fn questions_of_version_2() -> Vec<Asked> {
    let told = |principal: Option<&str>, us: Option<i64>| {
        let time = us.map(|us| Timestamp::from_microsecond(us).unwrap());
        Asked::Command(CommandRequest {
            command: "Deposit".to_owned(),
            body: Bytes::from_static(b"{\"amount_cents\":5}"),
            idempotency_key: Some("key".to_owned()),
            key_is_new: false,
            precondition: Precondition::Any,
            representation: true,
            dry_run: false,
            traceparent: None,
            origin: Origin::said(principal.map(str::to_owned), time),
        })
    };
    let what_if = Bytes::from_static(b"{\"insert\":[]}");
    vec![
        Asked::Compare(Comparison::Between {
            from: 3,
            to: 70_000,
        }),
        Asked::Compare(Comparison::WhatIf(what_if)),
        told(Some("ada"), Some(1_700_000_000_000_005)),
        told(None, Some(-5)),
        told(Some("ada"), None),
    ]
}

#[test]
fn how_a_drain_is_taken_back() {
    let mut golden = Golden::version(2);
    let undrained = Undrained {
        node: 2,
        draining: false,
        was_draining: true,
    };
    let node = 2;
    let answers: [Result<Undrained, StaysDrained>; 3] = [
        Ok(undrained),
        Err(StaysDrained::Leaving { node }),
        Err(StaysDrained::Stopping { node }),
    ];
    golden.housekeeping("undrain.answer", &answers[0]);
    for (at, refused) in answers[1..].iter().enumerate() {
        golden.housekeeping(&format!("undrain.error.{at}"), refused);
    }
    golden.end();
}

#[test]
fn what_is_asked_since_version_2() {
    let mut golden = Golden::version(2);
    let heading = Heading {
        stream: StreamName::new("account", "a-1").unwrap(),
        term: 300,
        hops: 1,
        time_left: Duration::from_millis(4_500),
    };
    for (at, asked) in questions_of_version_2().iter().enumerate() {
        assert_eq!(asked.question().known_since(), 2);
        let written = question(&heading, asked.question()).unwrap();
        let stored = golden.check(&format!("question.{at}"), &written);
        let (read, found) = read_question(&stored).unwrap();
        assert_eq!(
            (read, format!("{found:?}")),
            (heading.clone(), format!("{asked:?}"))
        );
    }
    golden.end();
}

fn answers_of_version_2() -> Vec<Said> {
    let view = |sequence_number, json: &str| StateView {
        stream: StreamName::new("account", "a-1").unwrap(),
        sequence_number,
        position: Position {
            shard: 6,
            number: 300,
        },
        state: raw(json),
        term: 300,
    };
    let between = EventView {
        event_type: "MoneyDeposited".into(),
        sequence_number: 7,
        data: None,
    };
    let recorded = |principal: &str, us: Option<i64>| RecordedEvent {
        principal: principal.to_owned(),
        occurred_at: us.map(|us| Timestamp::from_microsecond(us).unwrap()),
        ..recorded()
    };
    vec![
        Said::Compared(Compared {
            before: view(6, "{\"open\":true}"),
            after: view(7, "{\"open\":false}"),
            events: vec![between],
        }),
        Said::History(HistoryPage {
            events: vec![recorded("ada", Some(5)), recorded("", None)],
            next_sequence: None,
        }),
        Said::failed(FailureKind::Hypothesis, "why"),
        Said::History(HistoryPage {
            events: vec![
                RecordedEvent {
                    command: "Deposit".to_owned(),
                    ..recorded("ada", None)
                },
                recorded("", Some(7)),
            ],
            next_sequence: Some(70_000),
        }),
    ]
}

#[test]
fn what_is_answered_since_version_2() {
    let mut golden = Golden::version(2);
    let stream = StreamName::new("account", "a-1").unwrap();
    for (at, answer) in answers_of_version_2().iter().enumerate() {
        let written = said(3, answer, 2).unwrap();
        let stored = golden.check(&format!("said.{at}"), &written);
        let (node, read) = read_said(&stream, &stored).unwrap();
        assert_eq!((node, format!("{read:?}")), (3, format!("{answer:?}")));
    }
    golden.end();
}

#[test]
fn committed_events_in_version_2() {
    let mut golden = Golden::version(2);
    let wanted = vec![(0, Some(70_000)), (3, None)];
    let wait_ms = 5_000;
    golden.housekeeping("copies.ask", &CopiesQuestion { wanted, wait_ms });
    let copies = vec![(0, 70_001), (3, 0)];
    golden.housekeeping("copies.answer", &CopiesAnswer { copies });
    let ask = RecordsQuestion {
        shard: 3,
        after: 70_000,
        max_bytes: 65_536,
    };
    golden.housekeeping("records.ask", &ask);
    let record = |number: u64| {
        let head = RecordHead {
            stream: "account\0a-1",
            first_sequence: number,
            event_count: 1,
            time_us: 5,
            command: "Deposit",
            key: "k",
            fingerprint: [7; 16],
            flags: 0,
            traceparent: "",
        };
        let bytes = Draft::new(&head, 1, &["event"]).unwrap().finish(number);
        Record::from_stored(bytes).unwrap()
    };
    for (at, numbers) in [0..0, 1..3].into_iter().enumerate() {
        let answer = RecordsAnswer {
            committed: 70_001,
            records: numbers.map(record).collect(),
        };
        let name = format!("records.answer.{at}");
        let stored = golden.check(&name, &records(&answer).unwrap());
        assert_eq!(read_records(&stored).unwrap(), answer);
    }
    golden.end();
}

/// An older peer is told a history without what it has no word for.
#[test]
fn a_history_for_version_1_comes_without_who_when_and_by_which_command() {
    let stream = StreamName::new("account", "a-1").unwrap();
    let all = answers_of_version_2();
    for answer in [&all[1], &all[3]] {
        let written = said(3, answer, 1).unwrap();
        let (_, read) = read_said(&stream, &written).unwrap();
        let Said::History(page) = read else {
            panic!("{read:?}");
        };
        assert_eq!(page.events.len(), 2);
        for event in page.events {
            assert_eq!((&*event.principal, event.occurred_at), ("", None));
            assert_eq!(event.command, "");
        }
    }
}
