//! `GET /v1/aggregates/{type}/{id}`: the state, fresh from memory or as it was.
//!
//! A fresh read needs a reason; a read of the past does not, because it never touches the actor.

use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderValue, StatusCode, request};
use phalanx_actors::history::At;
use phalanx_actors::names::{Position, StreamName};
use phalanx_actors::request::{Answer, Failure, FailureKind, StateView};

use super::answers::{refusal, sequence_mismatch, timed_out};
use super::app::App;
use super::code::Code;
use super::guard::ConnectionState;
use super::headers::{POSITION, ReadHeaders};
use super::problem::Problem;
use super::response::{Reply, reply};
use super::service::{Answered, stream};
use super::time::rfc3339;
use super::{query, render};

/// Answers a read.
pub(crate) async fn answer(
    app: &App,
    connection: &ConnectionState,
    parts: &request::Parts,
    aggregate_type: &str,
    id: &str,
) -> Answered {
    let stream = stream(app, aggregate_type, id)?;
    let known = ["after", "at_sequence", "as_of"];
    let [after, at_sequence, as_of] = query::parse(parts.uri.query(), known)?;
    let headers = ReadHeaders::read(&parts.headers)?;
    let past = match (after.is_some(), at_sequence, as_of) {
        (_, None, None) => None,
        (false, Some(number), None) => {
            let number = query::number("at_sequence", &number, 1..=u64::MAX)?;
            Some(At::Sequence(number))
        }
        (false, None, Some(time)) => Some(At::Time(timestamp(&time)?)),
        _ => {
            return Err(Box::new(Problem::query(
                "at_sequence",
                "after, at_sequence and as_of exclude each other",
            )));
        }
    };
    if past.is_none() {
        justify(app, &stream, after.as_deref(), headers.justification)?;
    }
    let mut timer = std::mem::take(&mut *connection.timer.lock());
    let limit = app.limits.request_timeout();
    let read = async {
        match past {
            None => fresh(app, &stream).await,
            Some(at) => of_the_past(app, &stream, at).await,
        }
    };
    let view = timer.within(limit, read).await;
    *connection.timer.lock() = timer;
    let (view, node) = view.unwrap_or_else(|_| Err(Box::new(timed_out(false, limit))))?;
    Ok(render_state(node, &view, &headers)?)
}

/// Admits a fresh read, or says what it lacks.
fn justify(
    app: &App,
    stream: &StreamName,
    after: Option<&str>,
    justification: Option<&str>,
) -> Result<(), Problem> {
    let Some(reasons) = app.reasons.of(stream.aggregate_type()) else {
        let detail = "this node has no such aggregate type";
        return Err(Problem::new(Code::UnknownAggregateType, detail));
    };
    let Some(after) = after else {
        return reasons.admit(justification);
    };
    let position: Position = after.parse().map_err(|_| {
        Problem::query(
            "after",
            "a position has the form shard:number, as in 12:90817",
        )
    })?;
    if position.shard != stream.shard(app.router.shards()) {
        return Err(Problem::query(
            "after",
            "the position belongs to another shard than this aggregate",
        ));
    }
    reasons.admit_after_write();
    Ok(())
}

fn timestamp(text: &str) -> Result<jiff::Timestamp, Problem> {
    rfc3339(text).ok_or_else(|| {
        Problem::query(
            "as_of",
            "`as_of` must be an RFC 3339 timestamp, as in 2026-11-21T08:30:00Z",
        )
    })
}

/// The state from memory, and the node that holds it.
async fn fresh(app: &App, stream: &StreamName) -> Result<(StateView, u64), Box<Problem>> {
    match app.router.read(stream, app.limits.answer_within()).await {
        (Answer::State(view), node) => Ok((view, node)),
        (other, _) => Err(Box::new(read_refusal(other))),
    }
}

/// A read stores nothing, so its outcome is never in doubt.
pub(crate) fn read_refusal(answer: Answer) -> Problem {
    match answer {
        Answer::Failed(Failure {
            kind: FailureKind::OutcomeUnknown,
            detail,
            ..
        }) => Problem::new(Code::NoLeader, detail),
        other => refusal(other),
    }
}

/// The problem of a read, of the present or of the past, that failed.
pub(crate) fn of_a_read(failure: Failure) -> Problem {
    read_refusal(Answer::Failed(failure))
}

async fn of_the_past(
    app: &App,
    stream: &StreamName,
    at: At,
) -> Result<(StateView, u64), Box<Problem>> {
    let within = app.limits.answer_within();
    let (found, node) = app
        .router
        .state_at(stream, at, within)
        .await
        .map_err(of_a_read)?;
    let view = found.ok_or_else(|| {
        let detail = match at {
            At::Sequence(_) => "no event has happened to this aggregate yet",
            At::Time(_) => "no event had happened to this aggregate by that time",
        };
        Problem::new(Code::AggregateNotFound, detail)
    })?;
    match at {
        At::Sequence(number) if view.sequence_number < number => {
            let current = view.sequence_number;
            let detail = format!("the aggregate is at sequence number {current}");
            Err(Box::new(
                Problem::new(Code::SequenceNotReached, detail)
                    .with("current_sequence_number", current),
            ))
        }
        At::Sequence(_) | At::Time(_) => Ok((view, node)),
    }
}

fn render_state(node: u64, view: &StateView, headers: &ReadHeaders<'_>) -> Result<Reply, Problem> {
    let current = view.sequence_number;
    if headers
        .if_match
        .as_ref()
        .is_some_and(|tags| !tags.matches(current, false))
    {
        return Err(sequence_mismatch(current));
    }
    let rendered = render::state(view, node);
    let unchanged = headers
        .if_none_match
        .as_ref()
        .is_some_and(|tags| tags.matches(current, true));
    let mut reply = if unchanged {
        reply(StatusCode::NOT_MODIFIED, bytes::Bytes::new())
    } else {
        let mut reply = reply(StatusCode::OK, rendered.body);
        reply
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        reply
    };
    let headers = reply.headers_mut();
    headers.reserve(3);
    headers.insert(ETAG, rendered.etag);
    headers.insert(POSITION, rendered.position);
    Ok(reply)
}
