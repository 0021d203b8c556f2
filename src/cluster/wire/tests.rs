//! Round trips of every form, and messages that no node of ours would send.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use phalanx_actors::codec::{self, ValueType};
use phalanx_actors::history::{At, HistoryPage, RecordedEvent};
use phalanx_actors::names::{Position, StreamName};
use phalanx_actors::request::{
    Accepted, Answer, CommandRequest, EventView, Failure, FailureKind, Origin, Precondition,
    StateView,
};
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::LazyJust;
use serde_json::value::RawValue;

use super::*;
use crate::cluster::handshake::PROTOCOL_MAX;

fn stream() -> StreamName {
    StreamName::new("account", "a-1").unwrap()
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,20}"
}

fn raw() -> impl Strategy<Value = Box<RawValue>> {
    (text(), any::<i64>()).prop_map(|(text, number)| {
        let json = serde_json::json!({"text": text, "number": number});
        RawValue::from_string(json.to_string()).unwrap()
    })
}

fn position() -> impl Strategy<Value = Position> {
    (any::<u32>(), any::<u64>()).prop_map(|(shard, number)| Position { shard, number })
}

fn precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        Just(Precondition::Any),
        any::<u64>().prop_map(Precondition::AtSequence),
        Just(Precondition::Exists),
        Just(Precondition::Absent),
        Just(Precondition::Never),
    ]
}

fn command() -> impl Strategy<Value = CommandRequest> {
    (
        "[A-Za-z]{1,20}",
        prop::collection::vec(any::<u8>(), 0..300),
        option::of("[!-~]{1,255}"),
        precondition(),
        any::<(bool, bool)>(),
        option::of(text()),
        (option::of("\\PC{1,20}"), option::of(moment())),
    )
        .prop_map(
            |(command, body, idempotency_key, precondition, flags, traceparent, said)| {
                CommandRequest {
                    command,
                    body: body.into(),
                    idempotency_key,
                    key_is_new: false,
                    precondition,
                    representation: flags.0,
                    dry_run: flags.1,
                    traceparent: traceparent.map(Into::into),
                    origin: Origin::said(said.0, said.1),
                }
            },
        )
}

/// Times in whole microseconds.
fn moment() -> impl Strategy<Value = Timestamp> {
    (-60_000_000_000_000_000_i64..200_000_000_000_000_000)
        .prop_map(|us| Timestamp::from_microsecond(us).unwrap())
}

/// Times that can be told apart in every calendar.
fn time() -> impl Strategy<Value = Timestamp> {
    (-60_000_000_000_i64..200_000_000_000, 0..1_000_000_000_i32)
        .prop_map(|(second, nanosecond)| Timestamp::new(second, nanosecond).unwrap())
}

fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        command().prop_map(Asked::Command),
        Just(Asked::Read),
        (any::<u64>(), any::<u32>()).prop_map(|(from_sequence, limit)| Asked::History {
            from_sequence,
            limit: limit as usize,
        }),
        any::<u64>().prop_map(|sequence| Asked::Past(At::Sequence(sequence))),
        time().prop_map(|time| Asked::Past(At::Time(time))),
        any::<(u64, u64)>().prop_map(|(from, to)| Asked::Compare(Comparison::Between { from, to })),
        prop::collection::vec(any::<u8>(), 0..300)
            .prop_map(|body| Asked::Compare(Comparison::WhatIf(body.into()))),
    ]
}

fn accepted() -> impl Strategy<Value = Answer> {
    let event = ("[A-Za-z]{1,20}", any::<u64>(), option::of(raw())).prop_map(
        |(event_type, sequence_number, data)| EventView {
            event_type: event_type.into(),
            sequence_number,
            data,
        },
    );
    let events = prop::collection::vec(event, 0..5);
    (any::<u64>(), position(), any::<(bool, bool)>(), events).prop_map(
        |(sequence_number, position, (created, replayed), events)| {
            Answer::Accepted(Accepted {
                stream: stream(),
                sequence_number,
                position,
                created,
                replayed,
                events: events.into(),
            })
        },
    )
}

fn failure() -> impl Strategy<Value = Answer> {
    let kind = prop::sample::select(vec![
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
        FailureKind::Hypothesis,
    ]);
    (kind, text(), option::of(0..100_000_u64), option::of(text())).prop_map(
        |(kind, detail, after, pointer)| {
            Answer::Failed(Failure {
                kind,
                detail,
                retry_after: after.map(Duration::from_millis),
                pointer,
            })
        },
    )
}

fn answer() -> impl Strategy<Value = Answer> {
    let rejected =
        (text(), text(), text(), any::<i64>()).prop_map(|(code, detail, name, value)| {
            let fields = serde_json::Map::from_iter([(name, value.into())]);
            Answer::Rejected {
                code,
                detail,
                fields,
            }
        });
    let state = (any::<u64>(), position(), raw(), any::<u64>()).prop_map(
        |(sequence_number, position, state, term)| {
            Answer::State(StateView {
                stream: stream(),
                sequence_number,
                position,
                state,
                term,
            })
        },
    );
    let mismatch = any::<u64>().prop_map(|current_sequence_number| Answer::SequenceMismatch {
        current_sequence_number,
    });
    prop_oneof![
        accepted(),
        rejected,
        mismatch,
        state,
        LazyJust::new(|| Answer::NotFound),
        LazyJust::new(|| Answer::KeyReused),
        failure(),
    ]
}

fn recorded() -> impl Strategy<Value = RecordedEvent> {
    let texts = (text(), text(), text(), text(), text());
    (
        "[A-Za-z]{1,20}",
        any::<u64>(),
        position(),
        -60_000_000_000_000_000_i64..200_000_000_000_000_000,
        any::<u16>(),
        raw(),
        texts,
        option::of(moment()),
    )
        .prop_map(
            |(
                event_type,
                sequence_number,
                position,
                time_us,
                schema_version,
                data,
                texts,
                occurred_at,
            )| {
                RecordedEvent {
                    event_type: event_type.into(),
                    sequence_number,
                    position,
                    time: Timestamp::from_microsecond(time_us).unwrap(),
                    schema_version,
                    data,
                    command: texts.4,
                    causation_id: texts.0,
                    correlation_id: texts.1,
                    traceparent: texts.2,
                    principal: texts.3,
                    occurred_at,
                }
            },
        )
}

fn what_is_said() -> impl Strategy<Value = Said> {
    let history = (
        prop::collection::vec(recorded(), 0..4),
        any::<Option<u64>>(),
    )
        .prop_map(|(events, next_sequence)| {
            Said::History(HistoryPage {
                events,
                next_sequence,
            })
        });
    let leader = option::of((any::<u64>(), any::<u64>()));
    let elsewhere = (leader, text()).prop_map(|(leader, reason)| Said::NotHere {
        leader: leader.map(|(node, term)| Led { node, term }),
        reason,
    });
    let view = || {
        (any::<u64>(), position(), raw(), any::<u64>()).prop_map(
            |(sequence_number, position, state, term)| StateView {
                stream: stream(),
                sequence_number,
                position,
                state,
                term,
            },
        )
    };
    let named = ("[A-Za-z]{1,20}", any::<u64>()).prop_map(|(name, sequence_number)| EventView {
        event_type: name.into(),
        sequence_number,
        data: None,
    });
    let compared =
        (view(), view(), prop::collection::vec(named, 0..4)).prop_map(|(before, after, events)| {
            Said::Compared(Compared {
                before,
                after,
                events,
            })
        });
    prop_oneof![
        answer().prop_map(Said::Answer),
        history,
        compared,
        elsewhere
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_question_arrives_as_it_was_asked(
        asked in asked(),
        term in any::<u64>(),
        hops in any::<u8>(),
        time_left_ms in any::<u32>(),
    ) {
        let heading = Heading {
            stream: stream(),
            term,
            hops,
            time_left: Duration::from_millis(u64::from(time_left_ms)),
        };
        let message = question(&heading, asked.question()).unwrap();
        let (read, found) = read_question(&message).unwrap();
        prop_assert_eq!(read, heading);
        prop_assert_eq!(format!("{found:?}"), format!("{asked:?}"));
    }

    #[test]
    fn an_answer_arrives_as_it_was_given(answered in what_is_said(), node in any::<u64>()) {
        let message = said(node, &answered, PROTOCOL_MAX).unwrap();
        let (by, found) = read_said(&stream(), &message).unwrap();
        prop_assert_eq!(by, node);
        prop_assert_eq!(format!("{found:?}"), format!("{answered:?}"));
    }

    #[test]
    fn bytes_of_any_kind_are_refused_without_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assert!(read_question(&Bytes::from(bytes.clone())).is_err());
        prop_assert!(read_said(&stream(), &bytes).is_err());
        // Behind a sound envelope as well: whatever decodes, decodes to something that can be said.
        let question = codec::draft(ValueType::Question, VERSION, 0, |out| {
            out.extend_from_slice(&bytes);
            Ok(())
        });
        let mut question = question.unwrap();
        codec::finish(&mut question);
        if let Ok((heading, asked)) = read_question(&question.into()) {
            prop_assert!(super::question(&heading, asked.question()).is_ok());
        }
    }
}

#[test]
fn a_body_is_not_copied() {
    let request = CommandRequest {
        command: "Deposit".to_owned(),
        body: Bytes::from_static(b"{\"amount_cents\":5}"),
        idempotency_key: None,
        key_is_new: true,
        precondition: Precondition::Any,
        representation: false,
        dry_run: false,
        traceparent: None,
        origin: None,
    };
    let heading = Heading {
        stream: stream(),
        term: 1,
        hops: 0,
        time_left: Duration::from_secs(1),
    };
    let message = question(&heading, Question::Command(&request)).unwrap();
    let (_, asked) = read_question(&message).unwrap();
    let Asked::Command(read) = asked else {
        panic!("{asked:?}");
    };
    assert_eq!(read.body, request.body);
    assert!(message.as_ptr_range().contains(&read.body.as_ptr()));
    // Whoever receives it cannot know which attempts came before.
    assert!(!read.key_is_new);
}

#[test]
fn other_versions_and_endless_lengths_are_refused() {
    let other = codec::seal(ValueType::Said, VERSION + 1, &0_u64).unwrap();
    let refused = read_said(&stream(), &other).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a message of version 2; this node speaks version 1"
    );
    // A rejection whose code claims to have 2^62 bytes.
    let mut lie = vec![1, 1, 253];
    lie.extend_from_slice(&(1_u64 << 62).to_le_bytes());
    let mut message = codec::draft(ValueType::Said, VERSION, 0, |out| {
        out.extend_from_slice(&lie);
        Ok(())
    })
    .unwrap();
    codec::finish(&mut message);
    assert!(read_said(&stream(), &message).is_err());
    let stranger = StreamName::from_stored("no separator");
    assert_eq!(stranger, None);
}
