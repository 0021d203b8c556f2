//! `POST /v1/aggregates/{type}/{id}/commands/{command}`.
//!
//! Checks what transport can check, in the order: type, id, command, query, headers, size. What
//! the fields mean is for the command model.

use http::header::{CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderValue, StatusCode, request};
use hyper::body::Incoming;
use phalanx_actors::names::StreamName;
use phalanx_actors::request::{Accepted, Answer, CommandRequest, Precondition};

use crate::failpoints::crash_point;

use super::answers::{refusal, timed_out};
use super::app::App;
use super::code::Code;
use super::guard::ConnectionState;
use super::headers::{CommandHeaders, IDEMPOTENT_REPLAY, POSITION, PREFERENCE_APPLIED, Return};
use super::problem::Problem;
use super::response::{Reply, reply};
use super::service::{Answered, decode, stream};
use super::timer::LazyTimer;
use super::{body, query, render};

/// The parameters of the path, still percent-encoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address<'p> {
    pub(crate) aggregate_type: &'p str,
    pub(crate) id: &'p str,
    pub(crate) command: &'p str,
}

/// A command that is ready to be sent, once or more often.
struct Command {
    stream: StreamName,
    /// With the first sequence number that the condition allows.
    request: CommandRequest,
    /// The others.
    others: Vec<u64>,
}

/// Answers a command.
pub(crate) async fn answer(
    app: &App,
    connection: &ConnectionState,
    parts: &request::Parts,
    address: Address<'_>,
    body: &mut Incoming,
) -> Answered {
    let stream = stream(app, address.aggregate_type, address.id)?;
    let name = command_name(app, &stream, address.command)?;
    let [dry_run] = query::parse(parts.uri.query(), ["dry_run"])?;
    let dry_run = match dry_run {
        None => false,
        Some(value) => query::boolean("dry_run", &value)?,
    };
    let headers = CommandHeaders::read(&parts.headers, &app.callers)?;
    // One request at a time uses the connection's timer; over HTTP/2 the others get a new one.
    let mut timer = std::mem::take(&mut *connection.timer.lock());
    let body = body::read(app, &parts.headers, body, &mut timer).await;
    let prefer = headers.prefer;
    let command = Command {
        stream,
        request: CommandRequest {
            command: name,
            body: body?,
            idempotency_key: headers.idempotency_key,
            key_is_new: false,
            precondition: headers.condition.first,
            representation: prefer == Some(Return::Representation),
            dry_run,
            traceparent: headers.trace.map(|trace| trace.as_str().into()),
            origin: headers.origin,
        },
        others: headers.condition.others,
    };
    let answered = send(app, &mut timer, &command).await;
    *connection.timer.lock() = timer;
    crash_point!("http::before_reply");
    Ok(render_accepted(&answered?, prefer))
}

fn command_name(app: &App, stream: &StreamName, segment: &str) -> Result<String, Problem> {
    let described = app.router.types().get(stream.aggregate_type());
    decode(segment)
        .filter(|name| {
            described.is_some_and(|d| d.commands.iter().any(|c| c.name == name.as_ref()))
        })
        .map(std::borrow::Cow::into_owned)
        .ok_or_else(|| {
            Problem::new(
                Code::UnknownCommand,
                format!("{} has no such command", stream.aggregate_type()),
            )
        })
}

/// Sends a command under each sequence number that its condition allows.
async fn send(
    app: &App,
    timer: &mut LazyTimer,
    command: &Command,
) -> Result<Accepted, Box<Problem>> {
    let Command {
        stream,
        request,
        others,
    } = command;
    let limit = app.limits.request_timeout();
    let within = app.limits.answer_within();
    let work = async {
        let mut answer = app.router.command(stream, request, within).await;
        // A sequence number never comes back, so each is tried at most once.
        for _ in others {
            match answer {
                Answer::SequenceMismatch {
                    current_sequence_number: current,
                } if others.contains(&current) => {
                    let request = CommandRequest {
                        precondition: Precondition::AtSequence(current),
                        ..request.clone()
                    };
                    answer = app.router.command(stream, &request, within).await;
                }
                _ => break,
            }
        }
        answer
    };
    match timer.within(limit, work).await {
        Ok(Answer::Accepted(accepted)) => Ok(accepted),
        Ok(other) => Err(Box::new(refusal(other))),
        Err(_) => Err(Box::new(timed_out(!request.dry_run, limit))),
    }
}

fn render_accepted(accepted: &Accepted, prefer: Option<Return>) -> Reply {
    let rendered = render::accepted(accepted);
    let status = if accepted.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut reply = reply(status, rendered.body);
    let headers = reply.headers_mut();
    headers.reserve(6);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ETAG, rendered.etag);
    headers.insert(POSITION, rendered.position);
    if accepted.created {
        let (kind, id) = (accepted.stream.aggregate_type(), accepted.stream.id());
        if let Ok(location) = HeaderValue::try_from(format!("/v1/aggregates/{kind}/{id}")) {
            headers.insert(LOCATION, location);
        }
    }
    if accepted.replayed {
        headers.insert(IDEMPOTENT_REPLAY, HeaderValue::from_static("true"));
    }
    // A stored reply keeps the form that the first request asked for.
    let has_data = accepted.events.iter().any(|event| event.data.is_some());
    let honoured = match prefer {
        Some(Return::Representation) => has_data || accepted.events.is_empty(),
        Some(Return::Minimal) => !has_data,
        None => false,
    };
    if let Some(prefer) = prefer.filter(|_| honoured) {
        headers.insert(PREFERENCE_APPLIED, prefer.applied());
    }
    reply
}
