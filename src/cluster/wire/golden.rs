//! The bytes of every message between nodes, as each version of the protocol has them.
//!
//! `tests/golden/protocol_<version>.txt` holds a line for each form. A line is never edited: a node of
//! the release before writes and reads exactly these bytes. A message that changes gets a new version
//! of the protocol, and lines in that version's file.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use phalanx_actors::history::{At, Compared, Comparison, HistoryPage, RecordedEvent};
use phalanx_actors::names::{Position, StreamName};
use phalanx_actors::record::{Draft, Record, RecordHead};
use phalanx_actors::request::{
    Accepted, Answer, CommandRequest, EventView, Failure, FailureKind, Origin, Precondition,
    StateView,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::*;
use crate::cluster::handshake::{PROTOCOL_MAX, PROTOCOL_WITH_SPACE};
use crate::cluster::status::{
    Drained, FollowerView, Kept, MoveError, Moved, NodeView, Reshaped, ShardView,
};

/// The lines of one version.
pub(crate) struct Golden {
    lines: &'static str,
    missing: String,
}

impl Golden {
    pub(crate) fn version(version: u32) -> Self {
        let lines = match version {
            1 => include_str!("../../../tests/golden/protocol_1.txt"),
            2 => include_str!("../../../tests/golden/protocol_2.txt"),
            _ => panic!("version {version} has no file"),
        };
        Self {
            lines,
            missing: String::new(),
        }
    }

    /// Compares with the line of that name and gives what stands there.
    pub(crate) fn check(&mut self, name: &str, written: &[u8]) -> Bytes {
        let hex: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
        let stored = self.lines.lines().find_map(|line| {
            let (found, bytes) = line.split_once(' ')?;
            (found == name).then_some(bytes)
        });
        if stored != Some(&hex) {
            writeln!(self.missing, "{name} {hex}").unwrap();
        }
        let digits = stored.unwrap_or(&hex).as_bytes().chunks(2);
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(byte).collect::<Vec<u8>>().into()
    }

    fn housekeeping<T>(&mut self, name: &str, value: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + Debug,
    {
        let stored = self.check(name, &housekeeping(value).unwrap());
        assert_eq!(read_housekeeping::<T>(&stored).unwrap(), *value, "{name}");
    }

    pub(crate) fn end(self) {
        assert!(self.missing.is_empty(), "not as pinned:\n{}", self.missing);
    }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn sample() -> NodeView {
    let led = ShardView {
        shard: 0,
        voters: vec![1, 2, 3, 4],
        learners: vec![5],
        becoming: vec![2, 3, 4],
        changing: true,
        leader: Some(2),
        term: 300,
        last_log_index: Some(70_000),
        applied_index: Some(69_999),
        followers: vec![
            FollowerView {
                node: 3,
                matched_index: Some(69_000),
                lag: 1_000,
            },
            FollowerView {
                node: 5,
                matched_index: None,
                lag: 70_001,
            },
        ],
        serving: true,
        refusal: None,
    };
    let elsewhere = ShardView {
        shard: 1,
        voters: vec![1, 3],
        learners: Vec::new(),
        becoming: Vec::new(),
        changing: false,
        leader: None,
        term: 0,
        last_log_index: None,
        applied_index: None,
        followers: Vec::new(),
        serving: false,
        refusal: Some("damaged".to_owned()),
    };
    NodeView {
        node: 2,
        incarnation: "0198c0de".to_owned(),
        draining: true,
        shards: vec![led, elsewhere],
        full: false,
    }
}

#[test]
fn housekeeping_of_version_1() {
    let mut golden = Golden::version(1);
    golden.housekeeping("transfer.ask", &(3_u32, 2_u64));
    let moved = Moved {
        shard: 3,
        from: 1,
        to: 2,
        term: 300,
    };
    let reason = || "why".to_owned();
    let (shard, node, to, leader) = (3, 2, 2, 1);
    let errors = [
        MoveError::NoShard { shard, shards: 2 },
        MoveError::NoMember { node },
        MoveError::NoLeader { shard },
        MoveError::Unreachable {
            node,
            reason: reason(),
        },
        MoveError::Refused {
            shard,
            leader,
            reason: reason(),
        },
        MoveError::Elsewhere { shard, to, leader },
        MoveError::TooSlow { shard, to },
    ];
    golden.housekeeping::<Result<Moved, MoveError>>("transfer.moved", &Ok(moved.clone()));
    for (at, error) in errors.into_iter().enumerate() {
        let name = format!("transfer.error.{at}");
        golden.housekeeping::<Result<Moved, MoveError>>(&name, &Err(error));
    }
    let drained = Drained {
        node: 1,
        draining: true,
        moved: vec![moved],
        kept: vec![Kept {
            shard: 4,
            reason: reason(),
        }],
    };
    golden.housekeeping("drain.answer", &drained);
    golden.housekeeping(
        "reshape.ask",
        &(3_u32, std::collections::BTreeSet::from([1_u64, 2, 4])),
    );
    let outcomes: [Result<Reshaped, String>; 4] = [
        Ok(Reshaped::Done),
        Ok(Reshaped::Unfinished { reason: reason() }),
        Ok(Reshaped::HandOver { to: vec![2, 4] }),
        Err(reason()),
    ];
    for (at, outcome) in outcomes.iter().enumerate() {
        golden.housekeeping(&format!("reshape.answer.{at}"), outcome);
    }
    golden.end();
}

#[test]
fn questions_of_version_1() {
    let mut golden = Golden::version(1);
    let heading = Heading {
        stream: StreamName::new("account", "a-1").unwrap(),
        term: 300,
        hops: 1,
        time_left: Duration::from_millis(4_500),
    };
    let command = |precondition, full: bool| {
        Asked::Command(CommandRequest {
            command: "Deposit".to_owned(),
            body: Bytes::from_static(b"{\"amount_cents\":5}"),
            idempotency_key: full.then(|| "key".to_owned()),
            key_is_new: false,
            precondition,
            representation: full,
            dry_run: !full,
            traceparent: full.then(|| "00-trace".into()),
            origin: None,
        })
    };
    let asked = [
        command(Precondition::Any, true),
        command(Precondition::AtSequence(7), false),
        command(Precondition::Exists, false),
        command(Precondition::Absent, false),
        command(Precondition::Never, false),
        Asked::Read,
        Asked::History {
            from_sequence: 7,
            limit: 100,
        },
        Asked::Past(At::Sequence(7)),
        Asked::Past(At::Time(Timestamp::new(1_700_000_000, 5).unwrap())),
    ];
    for (at, asked) in asked.iter().enumerate() {
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

/// An event as it is told.
fn recorded() -> RecordedEvent {
    RecordedEvent {
        event_type: "MoneyDeposited".into(),
        sequence_number: 7,
        position: Position {
            shard: 6,
            number: 300,
        },
        time: Timestamp::from_microsecond(1_700_000_000_000_005).unwrap(),
        schema_version: 2,
        data: raw("{\"amount_cents\":5}"),
        command: String::new(),
        causation_id: "cause".to_owned(),
        correlation_id: "all".to_owned(),
        traceparent: String::new(),
        principal: String::new(),
        occurred_at: None,
    }
}

fn answers() -> Vec<Said> {
    let stream = StreamName::new("account", "a-1").unwrap();
    let position = Position {
        shard: 6,
        number: 300,
    };
    let event = EventView {
        event_type: "MoneyDeposited".into(),
        sequence_number: 7,
        data: Some(raw("{\"amount_cents\":5}")),
    };
    let recorded = RecordedEvent {
        traceparent: "00-trace".to_owned(),
        ..recorded()
    };
    let mut all = vec![
        Said::Answer(Answer::Accepted(Accepted {
            stream: stream.clone(),
            sequence_number: 7,
            position,
            created: true,
            replayed: false,
            events: vec![event].into(),
        })),
        Said::Answer(Answer::Rejected {
            code: "insufficient-funds".to_owned(),
            detail: "why".to_owned(),
            fields: serde_json::Map::from_iter([("balance_cents".to_owned(), 5.into())]),
        }),
        Said::Answer(Answer::SequenceMismatch {
            current_sequence_number: 9,
        }),
        Said::Answer(Answer::State(StateView {
            stream,
            sequence_number: 7,
            position,
            state: raw("{\"open\":true}"),
            term: 300,
        })),
        Said::Answer(Answer::NotFound),
        Said::Answer(Answer::KeyReused),
        Said::History(HistoryPage {
            events: vec![recorded],
            next_sequence: Some(8),
        }),
        Said::NotHere {
            leader: Some(Led { node: 3, term: 301 }),
            reason: "why".to_owned(),
        },
    ];
    let kinds = [
        FailureKind::MalformedBody,
        FailureKind::UnknownAggregateType,
        FailureKind::UnknownCommand,
        FailureKind::Overloaded,
        FailureKind::NoLeader,
        FailureKind::ShuttingDown,
        FailureKind::NotReady,
        FailureKind::OutcomeUnknown,
        FailureKind::StorageFull,
        FailureKind::Quarantined,
        FailureKind::Internal,
    ];
    all.extend(kinds.into_iter().map(|kind| {
        Said::Answer(Answer::Failed(Failure {
            kind,
            detail: "why".to_owned(),
            retry_after: Some(Duration::from_millis(1_500)),
            pointer: Some("/amount_cents".to_owned()),
        }))
    }));
    all
}

#[test]
fn answers_of_version_1() {
    let mut golden = Golden::version(1);
    let stream = StreamName::new("account", "a-1").unwrap();
    for (at, answer) in answers().iter().enumerate() {
        let written = said(3, answer, 1).unwrap();
        let stored = golden.check(&format!("said.{at}"), &written);
        let (node, read) = read_said(&stream, &stored).unwrap();
        assert_eq!((node, format!("{read:?}")), (3, format!("{answer:?}")));
    }
    golden.end();
}

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

/// Every call of the protocol and the lines that pin what is asked and answered. A new kind of call
/// does not compile until it is named here, and fails until its lines are in a file.
fn pins(kind: CallKind) -> &'static [&'static str] {
    match kind {
        CallKind::Command | CallKind::Read | CallKind::History | CallKind::Past => {
            &["question.0", "said.0"]
        }
        CallKind::Status => &["status.answer"],
        CallKind::Transfer => &["transfer.ask", "transfer.moved"],
        // Asked without a word.
        CallKind::Drain => &["drain.answer"],
        CallKind::Reshape => &["reshape.ask", "reshape.answer.0"],
        CallKind::Copies => &["copies.ask", "copies.answer"],
        CallKind::Records => &["records.ask", "records.answer.1"],
        CallKind::Query => &["query.ask", "query.answer"],
        CallKind::Stream => &["stream.ask"],
        CallKind::Vote | CallKind::PreVote => &["vote.ask", "vote.answer"],
        CallKind::Append => &["append.ask", "append.answer.0"],
        CallKind::TakeOver => &["take_over.ask", "take_over.answer.0"],
    }
}

fn lines() -> impl Iterator<Item = (u32, &'static str, Bytes)> {
    (1..=PROTOCOL_MAX).flat_map(|version| {
        let lines = Golden::version(version).lines.lines();
        lines.map(move |line| {
            let (name, hex) = line.split_once(' ').unwrap();
            let pairs = hex.as_bytes().chunks(2);
            let byte =
                |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            (version, name, pairs.map(byte).collect::<Vec<u8>>().into())
        })
    })
}

#[test]
fn every_kind_of_call_is_pinned() {
    let kinds: Vec<CallKind> = (0..=u8::MAX).filter_map(CallKind::from_byte).collect();
    assert!(kinds.len() >= 14, "{kinds:?}");
    for kind in kinds {
        for pin in pins(kind) {
            assert!(lines().any(|(_, name, _)| name == *pin), "{kind:?}: {pin}");
        }
    }
}

#[test]
fn every_form_of_a_question_and_of_an_answer_is_pinned() {
    let mut questions = BTreeSet::new();
    let mut said = BTreeSet::new();
    for (_, name, bytes) in lines() {
        if name.starts_with("question.") {
            questions.insert(super::question::form(&bytes));
        } else if name.starts_with("said.") {
            said.insert(super::answer::form(&bytes));
        }
    }
    let all = |forms: u32| (0..forms).collect::<BTreeSet<u32>>();
    assert_eq!(questions, all(super::question::forms()));
    assert_eq!(said, all(super::answer::forms()));
}

#[test]
fn how_a_node_is_in_every_version() {
    for version in 1..=PROTOCOL_MAX {
        let mut golden = Golden::version(version);
        for (draining, full) in [(true, false), (false, false), (false, true)] {
            let view = NodeView {
                draining,
                full,
                ..sample()
            };
            let name = match (draining, full) {
                (false, false) => "status.answer.takes_shards",
                (_, true) => "status.answer.full",
                _ => "status.answer",
            };
            let knows = version >= PROTOCOL_WITH_SPACE;
            if full && !knows {
                // It has no word for it, so it says the next best.
                let written = node_view(&view, version).unwrap();
                let read = read_node_view(&written, version).unwrap();
                assert_eq!((read.draining, read.full), (true, false));
                continue;
            }
            let stored = golden.check(name, &node_view(&view, version).unwrap());
            assert_eq!(read_node_view(&stored, version).unwrap(), view);
            // No version takes another one's bytes for its own.
            let other = if knows { 1 } else { PROTOCOL_WITH_SPACE };
            assert!(read_node_view(&stored, other).is_err());
        }
        golden.end();
    }
}
