//! Two states of an aggregate and the JSON Patch between them: `GET .../diff` for two moments of its
//! history, `POST .../what-if` for events that did not happen.
//!
//! Neither needs a justification: both fold from the journal and never touch the actor. Nothing is
//! stored. Invariant: the patch that is answered, applied to the first state, gives the second one.

use http::header::{ETAG, LINK};
use http::{HeaderValue, request};
use hyper::body::Incoming;
use phalanx_actors::history::{Compared, Comparison, MAX_EVENTS_BETWEEN};
use phalanx_actors::json_patch::{Operation, diff as patch};
use phalanx_actors::names::StreamName;
use phalanx_actors::request::StateView;
use serde::Serialize;
use serde_json::value::RawValue;

use super::answers::timed_out;
use super::app::App;
use super::code::Code;
use super::guard::ConnectionState;
use super::headers::{POSITION, check_media_type};
use super::problem::Problem;
use super::response::{Reply, json};
use super::service::{Answered, stream};
use super::state::of_a_read;
use super::timer::LazyTimer;
use super::{body, query};

/// The answer of `what-if`.
#[derive(Serialize)]
struct WhatIf<'a> {
    actual: &'a RawValue,
    hypothetical: &'a RawValue,
    difference: Vec<Operation>,
}

/// The answer of `diff`.
#[derive(Serialize)]
struct Diff<'a> {
    aggregate_type: &'a str,
    aggregate_id: &'a str,
    from: Moment<'a>,
    to: Moment<'a>,
    difference: Vec<Operation>,
    events: Vec<Event<'a>>,
}

#[derive(Serialize)]
struct Moment<'a> {
    sequence_number: u64,
    position: String,
    state: &'a RawValue,
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    sequence_number: u64,
}

/// Answers what the state is, and what it would be.
pub(crate) async fn what_if(
    app: &App,
    connection: &ConnectionState,
    parts: &request::Parts,
    aggregate_type: &str,
    id: &str,
    body: &mut Incoming,
) -> Answered {
    let stream = stream(app, aggregate_type, id)?;
    let [] = query::parse(parts.uri.query(), [])?;
    check_media_type(&parts.headers)?;
    let mut timer = std::mem::take(&mut *connection.timer.lock());
    let body = body::read(app, &parts.headers, body, &mut timer).await;
    let found = match body {
        Ok(body) => compare(app, &mut timer, &stream, &Comparison::WhatIf(body)).await,
        Err(problem) => Err(problem.into()),
    };
    *connection.timer.lock() = timer;
    let Compared { before, after, .. } = found?;
    let answer = WhatIf {
        actual: &before.state,
        hypothetical: &after.state,
        difference: difference(&before, &after)?,
    };
    rendered(&before, &answer)
}

/// Answers two states of the past, and what happened between them.
pub(crate) async fn diff(
    app: &App,
    connection: &ConnectionState,
    parts: &request::Parts,
    aggregate_type: &str,
    id: &str,
) -> Answered {
    let stream = stream(app, aggregate_type, id)?;
    let (from, to) = moments(parts.uri.query())?;
    let mut timer = std::mem::take(&mut *connection.timer.lock());
    let between = Comparison::Between { from, to };
    let found = compare(app, &mut timer, &stream, &between).await;
    *connection.timer.lock() = timer;
    let Compared {
        before,
        after,
        events,
    } = found?;
    if before.sequence_number != from || after.sequence_number != to {
        let current = after.sequence_number;
        let detail = format!("the aggregate is at sequence number {current}");
        let problem = Problem::new(Code::SequenceNotReached, detail);
        return Err(problem.with("current_sequence_number", current).into());
    }
    let named = events.last().map_or(from, |last| last.sequence_number);
    let answer = Diff {
        aggregate_type: stream.aggregate_type(),
        aggregate_id: stream.id(),
        difference: difference(&before, &after)?,
        from: moment(&before),
        to: moment(&after),
        events: events
            .iter()
            .map(|event| Event {
                event_type: &event.event_type,
                sequence_number: event.sequence_number,
            })
            .collect(),
    };
    let mut reply = rendered(&after, &answer)?;
    // Where the last ones were dropped, there are none to be named.
    if answer.events.len() >= MAX_EVENTS_BETWEEN && named < to {
        // The history goes on where the list ends.
        let (kind, id, next) = (stream.aggregate_type(), stream.id(), named + 1);
        let link =
            format!("</v1/aggregates/{kind}/{id}/events?from_sequence={next}>; rel=\"next\"");
        if let Ok(link) = HeaderValue::try_from(link) {
            reply.headers_mut().insert(LINK, link);
        }
    }
    Ok(reply)
}

/// The two sequence numbers of a query.
fn moments(query: Option<&str>) -> Result<(u64, u64), Problem> {
    let [from, to] = query::parse(query, ["from", "to"])?;
    let number = |name: &'static str, value: Option<std::borrow::Cow<'_, str>>, least: u64| {
        let missing = || Problem::query(name, "both `from` and `to` are needed");
        query::number(name, &value.ok_or_else(missing)?, least..=u64::MAX)
    };
    let from = number("from", from, 1)?;
    Ok((from, number("to", to, from)?))
}

/// The two states, or why there are none.
async fn compare(
    app: &App,
    timer: &mut LazyTimer,
    stream: &StreamName,
    comparison: &Comparison,
) -> Result<Compared, Box<Problem>> {
    let limit = app.limits.request_timeout();
    let within = app.limits.answer_within();
    let work = app.router.compare(stream, comparison, within);
    let found = match timer.within(limit, work).await {
        Ok(found) => found.map_err(|failure| Box::new(of_a_read(failure)))?,
        Err(_) => return Err(Box::new(timed_out(false, limit))),
    };
    let (found, _) = found;
    found.ok_or_else(|| {
        let detail = "no event has happened to this aggregate yet";
        Box::new(Problem::new(Code::AggregateNotFound, detail))
    })
}

fn difference(before: &StateView, after: &StateView) -> Result<Vec<Operation>, Problem> {
    let read = |view: &StateView| {
        let read = serde_json::from_str(view.state.get());
        read.map_err(|error| Problem::new(Code::Internal, format!("a state as JSON: {error}")))
    };
    Ok(patch(&read(before)?, &read(after)?))
}

fn moment(view: &StateView) -> Moment<'_> {
    Moment {
        sequence_number: view.sequence_number,
        position: view.position.to_string(),
        state: &view.state,
    }
}

fn rendered(newest: &StateView, answer: &impl Serialize) -> Result<Reply, Box<Problem>> {
    let body = serde_json::to_vec(answer)
        .map_err(|error| Problem::new(Code::Internal, format!("an answer as JSON: {error}")))?;
    let mut reply = json(body);
    let etag = format!("\"{}\"", newest.sequence_number);
    let position = newest.position.to_string();
    for (name, value) in [(ETAG, etag), (POSITION, position)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            reply.headers_mut().insert(name, value);
        }
    }
    Ok(reply)
}
