//! What version 1 says, form by form. See the file above for the rule that holds for its lines.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use phalanx_actors::history::{At, HistoryPage, RecordedEvent};
use phalanx_actors::names::{Position, StreamName};
use phalanx_actors::request::{
    Accepted, Answer, CommandRequest, EventView, Failure, FailureKind, Precondition, StateView,
};

use super::super::*;
use super::{Golden, raw, recorded};
use crate::cluster::status::{Drained, Kept, MoveError, Moved, Reshaped};

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
            unasked: false,
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
    golden.housekeeping("reshape.ask", &(3_u32, BTreeSet::from([1_u64, 2, 4])));
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
