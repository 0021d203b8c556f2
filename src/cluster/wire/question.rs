//! The bytes of a question.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use phalanx_actors::codec::{self, HEADER_LEN, ValueType};
use phalanx_actors::history::{At, Comparison};
use phalanx_actors::names::StreamName;
use phalanx_actors::request::{CommandRequest, Origin, Precondition};
use serde::{Deserialize, Serialize};

use super::{Asked, Heading, Question, WireError, open, seal};

#[derive(Debug, Serialize, Deserialize)]
struct Head<'a> {
    stream: &'a str,
    term: u64,
    hops: u8,
    time_left_ms: u32,
    what: What<'a>,
}

/// A command's body follows behind the head.
#[derive(Debug, Serialize, Deserialize)]
enum What<'a> {
    #[serde(borrow)]
    Command(Command<'a>),
    Read,
    History {
        from_sequence: u64,
        limit: u32,
    },
    AtSequence(u64),
    AtTime {
        second: i64,
        nanosecond: i32,
    },
    Between {
        from: u64,
        to: u64,
    },
    /// Its body follows as well.
    Hypothetical,
    /// A command that says more. Its body follows, too.
    CommandWith {
        #[serde(borrow)]
        command: Command<'a>,
        principal: Option<&'a str>,
        occurred_at_us: Option<i64>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Command<'a> {
    command: &'a str,
    key: Option<&'a str>,
    precondition: Condition,
    representation: bool,
    dry_run: bool,
    traceparent: Option<&'a str>,
}

impl Command<'_> {
    fn request(self, body: Bytes) -> CommandRequest {
        CommandRequest {
            command: self.command.to_owned(),
            body,
            idempotency_key: self.key.map(str::to_owned),
            // An earlier attempt may be on its way by another path.
            key_is_new: false,
            precondition: self.precondition.into(),
            representation: self.representation,
            dry_run: self.dry_run,
            traceparent: self.traceparent.map(Box::from),
            origin: None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Condition {
    Any,
    AtSequence(u64),
    Exists,
    Absent,
    Never,
}

impl From<Precondition> for Condition {
    fn from(precondition: Precondition) -> Self {
        match precondition {
            Precondition::Any => Self::Any,
            Precondition::AtSequence(sequence) => Self::AtSequence(sequence),
            Precondition::Exists => Self::Exists,
            Precondition::Absent => Self::Absent,
            Precondition::Never => Self::Never,
        }
    }
}

impl From<Condition> for Precondition {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::Any => Self::Any,
            Condition::AtSequence(sequence) => Self::AtSequence(sequence),
            Condition::Exists => Self::Exists,
            Condition::Absent => Self::Absent,
            Condition::Never => Self::Never,
        }
    }
}

pub(super) fn encode(heading: &Heading, question: Question<'_>) -> Result<Bytes, WireError> {
    let (what, body) = match question {
        Question::Command(request) => (command(request), &*request.body),
        Question::Read => (What::Read, &[][..]),
        Question::History {
            from_sequence,
            limit,
        } => {
            let limit = u32::try_from(limit).unwrap_or(u32::MAX);
            let what = What::History {
                from_sequence,
                limit,
            };
            (what, &[][..])
        }
        Question::Past(At::Sequence(sequence)) => (What::AtSequence(sequence), &[][..]),
        Question::Past(At::Time(time)) => {
            let what = What::AtTime {
                second: time.as_second(),
                nanosecond: time.subsec_nanosecond(),
            };
            (what, &[][..])
        }
        Question::Compare(Comparison::Between { from, to }) => {
            let (from, to) = (*from, *to);
            (What::Between { from, to }, &[][..])
        }
        Question::Compare(Comparison::WhatIf(body)) => (What::Hypothetical, &body[..]),
    };
    let head = Head {
        stream: heading.stream.as_str(),
        term: heading.term,
        hops: heading.hops,
        time_left_ms: u32::try_from(heading.time_left.as_millis()).unwrap_or(u32::MAX),
        what,
    };
    seal(ValueType::Question, 512 + body.len(), |out| {
        codec::append(out, &head)?;
        out.extend_from_slice(body);
        Ok(())
    })
}

fn command(request: &CommandRequest) -> What<'_> {
    let command = Command {
        command: &request.command,
        key: request.idempotency_key.as_deref(),
        precondition: request.precondition.into(),
        representation: request.representation,
        dry_run: request.dry_run,
        traceparent: request.traceparent.as_deref(),
    };
    match &request.origin {
        None => What::Command(command),
        Some(origin) => What::CommandWith {
            command,
            principal: origin.principal.as_deref(),
            occurred_at_us: origin.occurred_at.map(Timestamp::as_microsecond),
        },
    }
}

pub(super) fn decode(message: &Bytes) -> Result<(Heading, Asked), WireError> {
    let payload = open(ValueType::Question, message)?;
    let (head, rest): (Head<'_>, _) = codec::take_borrowed(payload)?;
    let heading = Heading {
        stream: StreamName::from_stored(head.stream)
            .ok_or(WireError::Impossible { what: "stream" })?,
        term: head.term,
        hops: head.hops,
        time_left: Duration::from_millis(u64::from(head.time_left_ms)),
    };
    let has_body = matches!(
        head.what,
        What::Command(_) | What::CommandWith { .. } | What::Hypothetical
    );
    if !rest.is_empty() && !has_body {
        return Err(WireError::Impossible { what: "length" });
    }
    let body = || message.slice(HEADER_LEN + payload.len() - rest.len()..);
    let asked = match head.what {
        What::Command(command) => Asked::Command(command.request(body())),
        What::CommandWith {
            command,
            principal,
            occurred_at_us,
        } => {
            let time = occurred_at_us.map(Timestamp::from_microsecond);
            let time = time
                .transpose()
                .map_err(|_| WireError::Impossible { what: "time" })?;
            Asked::Command(CommandRequest {
                origin: Origin::said(principal.map(str::to_owned), time),
                ..command.request(body())
            })
        }
        What::Read => Asked::Read,
        What::History {
            from_sequence,
            limit,
        } => Asked::History {
            from_sequence,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        },
        What::AtSequence(sequence) => Asked::Past(At::Sequence(sequence)),
        What::AtTime { second, nanosecond } => Asked::Past(At::Time(
            Timestamp::new(second, nanosecond)
                .map_err(|_| WireError::Impossible { what: "time" })?,
        )),
        What::Between { from, to } => Asked::Compare(Comparison::Between { from, to }),
        What::Hypothetical => Asked::Compare(Comparison::WhatIf(body())),
    };
    Ok((heading, asked))
}

/// Which of the forms a message has: its place in the enum, which is stored in one byte.
#[cfg(test)]
pub(super) fn form(message: &[u8]) -> u32 {
    let payload = open(ValueType::Question, message).unwrap();
    let head: Head<'_> = codec::take_borrowed(payload).unwrap().0;
    let written = codec::to_bytes(&head.what).unwrap();
    u32::from(written[0])
}

/// How many forms there are.
#[cfg(test)]
pub(super) fn forms() -> u32 {
    super::golden::forms(|place| codec::take_borrowed::<What<'_>>(place).map(drop))
}
