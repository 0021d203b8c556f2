//! From a request to its reply: finds the route, calls it, counts it.
//!
//! Every error becomes a problem here, where the path and the trace are known. Nothing of a
//! request's headers or body is ever logged.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, HOST};
use http::{HeaderValue, Method, Request, StatusCode, Version, request};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use phalanx_actors::names::StreamName;

use super::app::App;
use super::code::Code;
use super::framing::{MAX_FIELDS, MAX_TARGET_BYTES, Violation};
use super::guard::{ConnectionState, REFUSED};
use super::problem::Problem;
use super::response::{Reply, reply};
use super::routes::{Route, Target};
use super::trace::new_trace_id;
use super::{cluster, command, headers, health, history, pages, state, types};

/// Answers one request.
pub(crate) async fn handle(
    app: &App,
    connection: &ConnectionState,
    request: Request<Incoming>,
) -> Reply {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let target = Target::find(parts.uri.path());
    let route = target.map_or(Route::None, Target::route);
    let answer = dispatch(app, connection, &parts, target, body).await;
    let mut reply = answer.unwrap_or_else(|problem| {
        let path = parts.uri.path();
        problem_reply(*problem, path, &parts)
    });
    if app.closing.load(Ordering::Relaxed) && parts.version < Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        reply.headers_mut().insert(CONNECTION, close);
    }
    app.metrics
        .answered(route, reply.status(), started.elapsed());
    reply
}

/// The routes that matter for speed come first.
async fn dispatch(
    app: &App,
    connection: &ConnectionState,
    parts: &request::Parts,
    target: Option<Target<'_>>,
    body: Incoming,
) -> Answered {
    if parts.version == Version::HTTP_2 {
        check_http2(parts)?;
    }
    match target {
        Some(Target::Command {
            aggregate_type,
            id,
            command,
        }) if parts.method == Method::POST => {
            let address = command::Address {
                aggregate_type,
                id,
                command,
            };
            command::answer(app, connection, parts, address, body).await
        }
        Some(Target::State { aggregate_type, id }) if is_get(&parts.method) => {
            state::answer(app, connection, parts, aggregate_type, id).await
        }
        Some(Target::Transfer { shard }) if parts.method == Method::POST => {
            cluster::transfer(app, connection, parts, shard, body).await
        }
        Some(Target::Fixed(Route::Nodes)) if parts.method == Method::POST => {
            cluster::add_node(app, connection, parts, body).await
        }
        Some(Target::Node { node }) if parts.method == Method::DELETE => {
            cluster::remove_node(app, parts, node).await
        }
        Some(Target::Drain { node }) if parts.method == Method::POST => {
            cluster::drain(app, parts, node).await
        }
        target => show(app, connection, parts, target).await,
    }
}

/// Routes that are asked for rarely.
async fn show(
    app: &App,
    connection: &ConnectionState,
    parts: &request::Parts,
    target: Option<Target<'_>>,
) -> Answered {
    if parts.method.as_str() == REFUSED
        && let Some(refusal) = connection.refusal.lock().take()
    {
        let problem = violation(refusal.violation);
        return Ok(problem_reply(problem, &refusal.path, parts));
    }
    let Some(target) = target else {
        return Err(Box::new(Problem::new(
            Code::NotFound,
            "no route of this node matches the path",
        )));
    };
    let allow = target.route().allow();
    if parts.method == Method::OPTIONS {
        let mut reply = reply(StatusCode::NO_CONTENT, Bytes::new());
        reply
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(allow));
        return Ok(reply);
    }
    if !allow.starts_with("GET") || !is_get(&parts.method) {
        return Err(Box::new(Problem::method(allow)));
    }
    match target {
        Target::History { aggregate_type, id } => {
            history::answer(app, connection, parts, aggregate_type, id).await
        }
        Target::Type { aggregate_type } => types::one(app, parts, aggregate_type),
        Target::EventSchema {
            aggregate_type,
            event,
            version,
        } => types::event_schema(app, aggregate_type, event, version),
        Target::Problem { code } => pages::problem(parts, code),
        Target::Fixed(Route::Cluster) => cluster::members(app, parts).await,
        Target::Fixed(Route::Shards) => cluster::shards(app, parts).await,
        Target::Fixed(route) => fixed(app, parts, route),
        // Handled before; here only with a method that is refused above.
        Target::Command { .. }
        | Target::State { .. }
        | Target::Transfer { .. }
        | Target::Node { .. }
        | Target::Drain { .. } => Err(Box::new(Problem::method(allow))),
    }
}

fn fixed(app: &App, parts: &request::Parts, route: Route) -> Answered {
    match route {
        Route::Types => types::all(app, parts),
        Route::Live => health::live(parts),
        Route::Ready => health::ready(app, parts),
        Route::Started => health::started(app, parts),
        Route::Metrics => Ok(health::metrics(app)),
        Route::OpenApi => Ok(app.documents.openapi()),
        Route::Docs => Ok(pages::docs()),
        Route::Problems => Ok(pages::problems(parts)),
        Route::Landing => Ok(pages::landing(app)),
        Route::Command
        | Route::State
        | Route::History
        | Route::Type
        | Route::EventSchema
        | Route::Cluster
        | Route::Shards
        | Route::Transfer
        | Route::Nodes
        | Route::Node
        | Route::Drain
        | Route::Problem
        | Route::None => Err(Box::new(Problem::new(Code::NotFound, "no such page"))),
    }
}

/// A reply, or the problem that stands for it. Boxed: problems are rare and large.
pub(crate) type Answered = Result<Reply, Box<Problem>>;

fn is_get(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// What the guard sees to for HTTP/1.1.
fn check_http2(parts: &request::Parts) -> Result<(), Box<Problem>> {
    let target = parts.uri.path().len() + parts.uri.query().map_or(0, str::len);
    if target > MAX_TARGET_BYTES {
        return Err(Box::new(violation(Violation::UriTooLong)));
    }
    if parts.headers.len() > MAX_FIELDS {
        return Err(Box::new(violation(Violation::HeadTooLarge)));
    }
    // The authority has a field of its own; one of the two must be there.
    if parts.uri.authority().is_none() && !parts.headers.contains_key(HOST) {
        let reason = "the request names no authority";
        return Err(Box::new(violation(Violation::Malformed(reason))));
    }
    Ok(())
}

fn problem_reply(problem: Problem, path: &str, parts: &request::Parts) -> Reply {
    match headers::trace(&parts.headers) {
        Some(trace) => problem.into_reply(path, trace.trace_id()),
        None => problem.into_reply(path, &new_trace_id()),
    }
}

/// What a refused head is answered with.
fn violation(violation: Violation) -> Problem {
    match violation {
        Violation::Malformed(reason) => Problem::new(Code::MalformedRequest, reason),
        Violation::HeadTooLarge => Problem::new(
            Code::HeaderTooLarge,
            "the head has too many bytes or too many fields",
        ),
        Violation::UriTooLong => {
            Problem::new(Code::UriTooLong, "the request line is longer than 8 KiB")
        }
        Violation::Timeout => Problem::new(
            Code::RequestTimeout,
            "the head of the request was not complete in time",
        ),
    }
}

/// Finds the stream that a path names.
///
/// # Errors
/// 404 `unknown-aggregate-type`, then 400 `invalid-id`.
pub(crate) fn stream(app: &App, aggregate_type: &str, id: &str) -> Result<StreamName, Problem> {
    let aggregate_type = type_name(app, aggregate_type)?;
    let name = decode(id).and_then(|id| StreamName::new(aggregate_type, &id).ok());
    name.ok_or_else(|| {
        Problem::new(
            Code::InvalidId,
            "an id is 1 to 200 characters out of A-Z a-z 0-9 . _ ~ : @ - and neither `.` nor `..`",
        )
    })
}

/// The registered name that a path segment means.
///
/// # Errors
/// 404 `unknown-aggregate-type`.
pub(crate) fn type_name(app: &App, segment: &str) -> Result<&'static str, Problem> {
    decode(segment)
        .and_then(|name| app.router.types().get(&name))
        .map(|found| found.name)
        .ok_or_else(|| {
            Problem::new(
                Code::UnknownAggregateType,
                "this node has no such aggregate type; /v1/types lists them",
            )
        })
}

/// Percent-decodes one segment; `None` when it is not UTF-8 then.
pub(crate) fn decode(segment: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(segment).decode_utf8().ok()
}
