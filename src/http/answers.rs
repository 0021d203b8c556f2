//! The one place that maps what the command model says to what HTTP says.

use std::time::Duration;

use phalanx_actors::request::{Answer, Failure, FailureKind};

use super::code::Code;
use super::problem::Problem;

/// The code of each kind of failure.
pub(crate) fn code_of(kind: FailureKind) -> Code {
    match kind {
        FailureKind::MalformedBody => Code::MalformedBody,
        FailureKind::UnknownAggregateType => Code::UnknownAggregateType,
        FailureKind::UnknownCommand => Code::UnknownCommand,
        FailureKind::Overloaded => Code::Overloaded,
        FailureKind::NoLeader => Code::NoLeader,
        FailureKind::ShuttingDown => Code::ShuttingDown,
        FailureKind::NotReady => Code::NotReady,
        FailureKind::OutcomeUnknown => Code::OutcomeUnknown,
        FailureKind::StorageFull => Code::StorageFull,
        FailureKind::Quarantined => Code::AggregateQuarantined,
        FailureKind::Internal => Code::Internal,
        FailureKind::Hypothesis => Code::WhatIfFailed,
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let problem = Self::new(code_of(failure.kind), failure.detail);
        // Only statuses that tell when to come back carry Retry-After.
        let waits = matches!(
            failure.kind,
            FailureKind::Overloaded
                | FailureKind::NoLeader
                | FailureKind::ShuttingDown
                | FailureKind::NotReady
        );
        let problem = problem.retry_after(failure.retry_after.filter(|_| waits));
        match failure.pointer {
            Some(pointer) => problem.with("pointer", pointer),
            None if failure.kind == FailureKind::MalformedBody => problem.with("pointer", ""),
            None => problem,
        }
    }
}

/// The problem of an answer that is neither a state nor an acceptance.
pub(crate) fn refusal(answer: Answer) -> Problem {
    match answer {
        Answer::Rejected {
            code,
            detail,
            fields,
        } => {
            let mut problem = Problem::new(Code::CommandRejected, detail);
            for (name, value) in fields {
                problem = problem.with(&name, value);
            }
            problem.with("rejection", code)
        }
        Answer::SequenceMismatch {
            current_sequence_number,
        } => sequence_mismatch(current_sequence_number),
        Answer::NotFound => Problem::new(
            Code::AggregateNotFound,
            "no event has happened to this aggregate yet",
        ),
        Answer::KeyReused => Problem::new(
            Code::IdempotencyKeyReused,
            "the Idempotency-Key was used for another command or body",
        ),
        Answer::Failed(failure) => failure.into(),
        Answer::Accepted(_) | Answer::State(_) => Problem::new(
            Code::Internal,
            "the command model gave an answer to another question",
        ),
    }
}

/// 412 with the sequence number that the aggregate is at.
pub(crate) fn sequence_mismatch(current_sequence_number: u64) -> Problem {
    let detail = if current_sequence_number == 0 {
        "the aggregate does not exist yet".to_owned()
    } else {
        format!("the aggregate is at sequence number {current_sequence_number}")
    };
    Problem::new(Code::SequenceMismatch, detail)
        .with("current_sequence_number", current_sequence_number)
}

/// No answer came within the time that a request may take.
pub(crate) fn timed_out(may_be_stored: bool, limit: Duration) -> Problem {
    let millis = limit.as_millis();
    if may_be_stored {
        Problem::new(
            Code::OutcomeUnknown,
            format!("no answer within {millis} ms; the events may or may not be stored"),
        )
    } else {
        Problem::new(Code::Overloaded, format!("no answer within {millis} ms"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_the_status_of_the_contract() {
        let status = |kind| {
            let reply = Problem::from(Failure::new(kind, "x")).into_reply("/", "t");
            reply.status().as_u16()
        };
        for (kind, expected) in [
            (FailureKind::MalformedBody, 400),
            (FailureKind::UnknownAggregateType, 404),
            (FailureKind::UnknownCommand, 404),
            (FailureKind::Overloaded, 503),
            (FailureKind::NoLeader, 503),
            (FailureKind::ShuttingDown, 503),
            (FailureKind::NotReady, 503),
            (FailureKind::OutcomeUnknown, 504),
            (FailureKind::StorageFull, 507),
            (FailureKind::Quarantined, 500),
            (FailureKind::Internal, 500),
            (FailureKind::Hypothesis, 422),
        ] {
            assert_eq!(status(kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn a_rejection_carries_its_code_and_fields() {
        let mut fields = serde_json::Map::new();
        fields.insert("balance_cents".into(), 5.into());
        fields.insert("code".into(), "forged".into());
        let reply = refusal(Answer::Rejected {
            code: "insufficient-funds".into(),
            detail: "too little".into(),
            fields,
        })
        .into_reply("/x", "t");
        let body = reply.body();
        let json: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert_eq!(json["rejection"], "insufficient-funds");
        assert_eq!(json["balance_cents"], 5);
        assert_eq!(json["code"], "command-rejected");
        assert_eq!(json["outcome"], "not_applied");
    }
}
