//! The bytes of every message between nodes, as each version of the protocol has them.
//!
//! `tests/golden/protocol_<version>.txt` holds a line for each form. A line of a version that was
//! released is never edited: a node of that release writes and reads exactly these bytes. A message that
//! changes gets a new version of the protocol, and lines in that version's file.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};

use bytes::Bytes;
use jiff::Timestamp;
use phalanx_actors::history::RecordedEvent;
use phalanx_actors::names::Position;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::*;
use crate::cluster::handshake::PROTOCOL_MAX;

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

/// How many forms a message has, by what reading one says: the first place at which nothing can stand.
pub(super) fn forms(read: impl Fn(&[u8]) -> Result<(), CodecError>) -> u32 {
    let unknown = |place: &u8| {
        let read = read(std::slice::from_ref(place));
        read.is_err_and(|error| error.to_string().contains("expected variant index"))
    };
    (0..250).find(unknown).unwrap().into()
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
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

/// Every call of the protocol and the lines that pin what is asked and answered. A new kind of call
/// does not compile until it is named here, and fails until its lines are in a file.
fn pins(kind: CallKind) -> &'static [&'static str] {
    match kind {
        CallKind::Command | CallKind::Read | CallKind::History | CallKind::Past => {
            &["question.0", "said.0"]
        }
        CallKind::Status => &["status.ask", "status.answer"],
        CallKind::Transfer => &["transfer.ask", "transfer.moved"],
        // Asked without a word.
        CallKind::Drain => &["drain.answer"],
        CallKind::Undrain => &["undrain.answer"],
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

mod status;
mod version_1;
mod version_2;
