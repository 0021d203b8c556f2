//! From a request to its reply: finds the route, calls it, counts it.
//!
//! Every error becomes a problem here, where the path and the trace are known. Nothing of a
//! request's headers or body is ever logged.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, request};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use phalanx_actors::names::StreamName;
use tower_service::Service as _;

use super::app::App;
use super::buffers::SMALL_ANSWER_BYTES;
use super::code::Code;
use super::framing::{MAX_FIELDS, MAX_TARGET_BYTES, Violation, is_authority};
use super::guard::{ConnectionState, REFUSED};
use super::pieces::Pieces;
use super::problem::Problem;
use super::projections::{Action, act};
use super::response::{Reply, reply};
use super::routes::{self, Route, Target};
use super::trace::new_trace_id;
use super::{
    body, changes, cluster, command, compare, elsewhere, events, headers, health, history, pages,
    projections, roles, state, types, views, watch,
};

use crate::cluster::queries::Whom;

/// What a request is answered with: what is complete in memory, or whatever axum streams.
pub(crate) type Outgoing = Response<Either<Full<Bytes>, Body>>;

/// Answers the requests of a node.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) app: Arc<App>,
    router: axum::Router,
}

impl Site {
    /// Every route of the node.
    pub(crate) fn new(app: Arc<App>) -> Self {
        let shared = app.clone();
        let router = routes::router(move |route, request| answer(app.clone(), route, request));
        Self {
            app: shared,
            router,
        }
    }

    /// The routes that axum finds.
    pub(crate) fn router(&self) -> axum::Router {
        self.router.clone()
    }

    /// Answers one request.
    pub(crate) async fn handle(
        &self,
        connection: &Arc<ConnectionState>,
        request: Request<Incoming>,
    ) -> Outgoing {
        let started = Instant::now();
        let (mut parts, mut body) = request.into_parts();
        if let Some(target) = Target::find(parts.uri.path()) {
            if let Target::Watch { aggregate_type, id } = target
                && is_get(&parts.method)
            {
                let checked = check_http2(&self.app, &parts);
                let checked = checked.and_then(|()| named(&self.app, Route::Watch, &parts));
                let opened = match checked.and_then(|()| roles::check(&self.app, Route::Watch)) {
                    Ok(()) => {
                        let watch =
                            watch::answer(&self.app, connection, &parts, aggregate_type, id);
                        Box::pin(watch).await
                    }
                    Err(problem) => Err(problem),
                };
                let asked = Asked(Route::Watch, &parts, started);
                let response = streamed(&self.app, asked, opened, &mut body).await;
                body::leave(parts.version, body);
                return response.map(Either::Right);
            }
            let answer = of_aggregate(&self.app, connection, &parts, target, &mut body).await;
            let asked = Asked(target.route(), &parts, started);
            let reply = finished(&self.app, asked, answer, &mut body).await;
            body::leave(parts.version, body);
            return reply.map(|body| outgoing(connection, parts.version, body));
        }
        parts.extensions.insert(connection.clone());
        let request = Request::from_parts(parts, body);
        match self.router.clone().call(request).await {
            Ok(response) => response.map(Either::Right),
            Err(never) => match never {},
        }
    }
}

/// Answers one request to a route that axum has found.
async fn answer(app: Arc<App>, route: Route, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let (mut parts, mut body) = request.into_parts();
    let connection = parts.extensions.remove::<Arc<ConnectionState>>();
    let connection = connection.unwrap_or_default();
    let whom = elsewhere::addressee(&app, &mut parts, route);
    let streams = matches!(route, Route::Events | Route::ViewChanges) && is_get(&parts.method);
    if streams && !elsewhere::is_handed_on(&parts) {
        let checked = check_http2(&app, &parts).and_then(|()| roles::check(&app, route));
        let checked = checked.and_then(|()| named(&app, route, &parts));
        let opened = match checked.and(whom) {
            Ok(whom) => Box::pin(open(&app, route, &connection, &parts, whom)).await,
            Err(problem) => Err(problem),
        };
        let asked = Asked(route, &parts, started);
        let response = streamed(&app, asked, opened, &mut body).await;
        body::leave(parts.version, body);
        return response;
    }
    let answer = match whom {
        Ok(whom) => other(&app, &connection, &parts, route, whom, &mut body).await,
        Err(problem) => Err(problem),
    };
    let asked = Asked(route, &parts, started);
    let reply = finished(&app, asked, answer, &mut body).await;
    body::leave(parts.version, body);
    reply.map(|body| match outgoing(&connection, parts.version, body) {
        Either::Left(whole) => Body::new(whole),
        Either::Right(pieces) => pieces,
    })
}

/// The body as it is sent. A client that takes none of a large one is cut off: over HTTP/1.1 the guard of the
/// connection sees that, over HTTP/2 only who gives it in pieces.
fn outgoing(
    connection: &ConnectionState,
    version: Version,
    body: Bytes,
) -> Either<Full<Bytes>, Body> {
    if version == Version::HTTP_2 && body.len() > SMALL_ANSWER_BYTES {
        Either::Right(Body::new(Pieces::new(connection, body)))
    } else {
        Either::Left(Full::new(body))
    }
}

/// Opens a stream that axum has found.
async fn open(
    app: &Arc<App>,
    route: Route,
    connection: &Arc<ConnectionState>,
    parts: &request::Parts,
    whom: Option<Whom>,
) -> Result<Response<Body>, Box<Problem>> {
    if route == Route::Events {
        return events::answer(app, connection, parts);
    }
    let [view, ..] = route.parameters(parts.uri.path());
    changes::answer(app, connection, parts, view, whom).await
}

/// What goes for every stream, and for the problem that stands for one.
async fn streamed(
    app: &App,
    asked: Asked<'_>,
    opened: Result<Response<Body>, Box<Problem>>,
    body: &mut (impl hyper::body::Body<Data = Bytes> + Unpin),
) -> Response<Body> {
    match opened {
        Ok(response) => {
            let Asked(route, _, started) = asked;
            app.metrics
                .answered(route, response.status(), started.elapsed());
            response
        }
        Err(problem) => finished(app, asked, Err(problem), body)
            .await
            .map(Body::from),
    }
}

/// What was asked for, and when.
struct Asked<'r>(Route, &'r request::Parts, Instant);

/// What goes for every answer.
async fn finished(
    app: &App,
    Asked(route, parts, started): Asked<'_>,
    answer: Answered,
    body: &mut (impl hyper::body::Body<Data = Bytes> + Unpin),
) -> Reply {
    // Where a body ends that is not framed as announced, nobody knows; for one that is late, nobody
    // waits longer.
    let given_up = |code| matches!(code, Code::MalformedRequest | Code::RequestTimeout);
    let lost = answer
        .as_ref()
        .is_err_and(|problem| given_up(problem.code()));
    let answer = answer.and_then(|reply| Ok(held(app, route, reply)?));
    let mut reply = answer.unwrap_or_else(|problem| {
        let path = parts.uri.path();
        problem_reply(*problem, path, parts)
    });
    // Over HTTP/2 a stream ends alone, and the connection goes on.
    if parts.version < Version::HTTP_2
        && (lost
            || !body::discard(&parts.headers, body).await
            || app.closing.load(Ordering::Relaxed))
    {
        let close = HeaderValue::from_static("close");
        reply.headers_mut().insert(CONNECTION, close);
    }
    app.metrics
        .answered(route, reply.status(), started.elapsed());
    reply
}

/// Counts an answer until the client has taken it.
///
/// # Errors
/// 503 `overloaded` for what can be asked for again.
fn held(app: &App, route: Route, reply: Reply) -> Result<Reply, Problem> {
    let (head, body) = reply.into_parts();
    let body = match route {
        // The same bytes for everybody.
        Route::Types | Route::OpenApi | Route::Docs => body,
        Route::State
        | Route::History
        | Route::Diff
        | Route::WhatIf
        | Route::View
        | Route::ViewRow
        | Route::DeadLetters => app.buffers.answer(body)?,
        _ => app.buffers.answer_anyway(body),
    };
    Ok(Reply::from_parts(head, body))
}

/// The routes that matter for speed.
async fn of_aggregate(
    app: &App,
    connection: &ConnectionState,
    parts: &request::Parts,
    target: Target<'_>,
    body: &mut Incoming,
) -> Answered {
    check_http2(app, parts)?;
    if parts.method != Method::OPTIONS {
        roles::check(app, target.route())?;
        named(app, target.route(), parts)?;
    }
    match target {
        Target::Command {
            aggregate_type,
            id,
            command,
        } if parts.method == Method::POST => {
            let address = command::Address {
                aggregate_type,
                id,
                command,
            };
            command::answer(app, connection, parts, address, body).await
        }
        Target::State { aggregate_type, id } if is_get(&parts.method) => {
            state::answer(app, connection, parts, aggregate_type, id).await
        }
        Target::History { aggregate_type, id } if is_get(&parts.method) => {
            history::answer(app, connection, parts, aggregate_type, id).await
        }
        Target::Diff { aggregate_type, id } if is_get(&parts.method) => {
            Box::pin(compare::diff(app, connection, parts, aggregate_type, id)).await
        }
        Target::WhatIf { aggregate_type, id } if parts.method == Method::POST => {
            let asked = compare::what_if(app, connection, parts, aggregate_type, id, body);
            Box::pin(asked).await
        }
        Target::Command { .. }
        | Target::State { .. }
        | Target::History { .. }
        | Target::Watch { .. }
        | Target::Diff { .. }
        | Target::WhatIf { .. } => other_method(target.route(), parts),
    }
}

/// Routes that are asked for rarely, and paths that are none.
async fn other(
    app: &App,
    connection: &ConnectionState,
    parts: &request::Parts,
    route: Route,
    whom: Option<Whom>,
    body: &mut Body,
) -> Answered {
    check_http2(app, parts)?;
    if parts.method.as_str() == REFUSED
        && let Some(refusal) = connection.refusal.lock().take()
    {
        let problem = violation(refusal.violation);
        return Ok(problem_reply(problem, &refusal.path, parts));
    }
    if parts.method != Method::OPTIONS && !elsewhere::is_handed_on(parts) {
        roles::check(app, route)?;
        named(app, route, parts)?;
    }
    let [first, second, third] = route.parameters(parts.uri.path());
    let reads = is_get(&parts.method);
    let posts = parts.method == Method::POST;
    let acts =
        (posts || parts.method == Method::DELETE) && route.allow().contains(parts.method.as_str());
    if acts && !matches!(route, Route::Transfer | Route::Nodes) {
        // Before anything is done: a body that nobody asked for has the limits of the others.
        body::read_for(app, connection, &parts.headers, body).await?;
    }
    if let Some(whom) = whom {
        return elsewhere::answer(app, parts, route, whom).await;
    }
    match route {
        Route::Transfer if posts => cluster::transfer(app, connection, parts, first, body).await,
        Route::Drain if posts => cluster::drain(app, parts, first).await,
        Route::Drain if parts.method == Method::DELETE => cluster::undrain(app, parts, first).await,
        Route::Nodes if posts => cluster::add_node(app, connection, parts, body).await,
        Route::Node if parts.method == Method::DELETE => {
            cluster::remove_node(app, parts, first).await
        }
        Route::Types if reads => types::all(app, parts),
        Route::Type if reads => types::one(app, parts, first),
        Route::EventSchema if reads => types::event_schema(app, first, second, third),
        Route::Cluster if reads => cluster::members(app, parts).await,
        Route::Shards if reads => cluster::shards(app, parts).await,
        Route::View if reads => views::list(app, parts, first).await,
        // As a stream it has been opened already.
        Route::ViewChanges if reads => changes::page(app, parts, first).await,
        Route::ViewRow if reads => views::row(app, parts, first, second).await,
        Route::Projections if reads => projections::all(app, parts),
        Route::Projection if reads => projections::one(app, parts, first),
        Route::PauseProjection if posts => act(app, parts, first, Action::Pause).await,
        Route::ResumeProjection if posts => act(app, parts, first, Action::Resume).await,
        Route::RebuildProjection if posts => act(app, parts, first, Action::Rebuild).await,
        Route::DeadLetters if reads => projections::dead_letters(app, parts, first).await,
        Route::RetryLetter if posts => projections::retry(app, parts, first, second, false).await,
        Route::SkipLetter if posts => projections::retry(app, parts, first, second, true).await,
        Route::Live if reads => health::live(parts),
        Route::Ready if reads => health::ready(app, parts),
        Route::Started if reads => health::started(app, parts),
        Route::Metrics if reads => Ok(health::metrics(app)),
        Route::OpenApi if reads => Ok(app.documents.openapi()),
        Route::Docs if reads => Ok(pages::docs()),
        Route::Problems if reads => Ok(pages::problems(parts)),
        Route::Problem if reads => pages::problem(parts, first),
        Route::Landing if reads => Ok(pages::landing(app)),
        Route::None if parts.method == Method::OPTIONS && parts.uri.path() == "*" => {
            Ok(options("GET, HEAD, POST, DELETE, OPTIONS"))
        }
        Route::None => Err(Box::new(Problem::new(
            Code::NotFound,
            "no route of this node matches the path",
        ))),
        other => other_method(other, parts),
    }
}

/// A method that the route does not answer itself.
fn other_method(route: Route, parts: &request::Parts) -> Answered {
    let allow = route.allow();
    if parts.method != Method::OPTIONS {
        return Err(Box::new(Problem::method(allow)));
    }
    Ok(options(allow))
}

/// Which methods there are.
fn options(allow: &'static str) -> Reply {
    let mut reply = reply(StatusCode::NO_CONTENT, Bytes::new());
    reply
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allow));
    reply
}

/// A reply, or the problem that stands for it. Boxed: problems are rare and large.
pub(crate) type Answered = Result<Reply, Box<Problem>>;

fn is_get(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// Somebody is said to have sent the request, where that must be so.
fn named(app: &App, route: Route, parts: &request::Parts) -> Result<(), Box<Problem>> {
    app.callers.check(route, &parts.headers)
}

/// What the guard sees to for HTTP/1.1.
fn check_http2(app: &App, parts: &request::Parts) -> Result<(), Box<Problem>> {
    if parts.version != Version::HTTP_2 {
        return Ok(());
    }
    let target = parts.uri.path().len() + parts.uri.query().map_or(0, str::len);
    if target > MAX_TARGET_BYTES {
        return Err(Box::new(violation(Violation::UriTooLong)));
    }
    let bytes = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let head: usize = target + parts.headers.iter().map(bytes).sum::<usize>();
    if parts.headers.len() > MAX_FIELDS || head > app.limits.max_header_bytes {
        return Err(Box::new(violation(Violation::HeadTooLarge)));
    }
    check_authority(parts).map_err(|reason| Box::new(violation(Violation::Malformed(reason))))
}

/// The authority has a field of its own; one of the two must be there, and both must say the same.
fn check_authority(parts: &request::Parts) -> Result<(), &'static str> {
    let authority = parts.uri.authority().map(|a| a.as_str().as_bytes());
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Err("Host appears twice");
    }
    match (authority, host) {
        (None, None) => Err("the request names no authority"),
        (Some(one), Some(other)) if !one.eq_ignore_ascii_case(other) => {
            Err("Host and :authority differ")
        }
        (Some(named), _) | (None, Some(named)) if is_authority(named) => Ok(()),
        _ => Err("the authority is not a host and a port"),
    }
}

pub(crate) fn problem_reply(problem: Problem, path: &str, parts: &request::Parts) -> Reply {
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
