//! Requests about read models that another member answers, and the desk at which this node answers
//! those of others.
//!
//! Owns the translation between a request of HTTP and what travels, and which headers do. Refuses to
//! hand on what came from another member. Invariant: an answer has the status, the headers that count
//! and the body of the member that gave it, byte for byte.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, request};
use phalanx_actors::ports::BoxFuture;
use tokio::time::Instant;
use tower_service::Service as _;

use super::answers::timed_out;
use super::app::App;
use super::cluster::unknown_node;
use super::code::Code;
use super::problem::Problem;
use super::query;
use super::response::{Reply, reply};
use super::routes::Route;
use super::service::{Answered, Site};
use crate::cluster::queries::{self, Desk, Queries, Query, Unanswered, Whom};
use crate::cluster::roles::Role;
use crate::cluster::wire::{Header, QueryAnswer, QueryQuestion};

/// For how long a page of changes may wait for some, in milliseconds. Between nodes only.
pub(crate) const PAGE_WAIT: HeaderName = HeaderName::from_static("phalanx-page-wait");
/// The place behind a page of changes. Between nodes only.
pub(crate) const PLACE: HeaderName = HeaderName::from_static(PLACE_NAME);
const PLACE_NAME: &str = "phalanx-place";
/// See [`queries::ASK`].
pub(crate) const ASK: HeaderName = HeaderName::from_static(queries::ASK);

/// Headers of a client's request that travel with it.
const CLIENT_ASKS_WITH: [&str; 3] = ["prefer", "traceparent", "last-event-id"];
/// Headers of an answer that travel with it and on to the client.
const CLIENT_IS_ANSWERED_WITH: [&str; 5] = [
    "content-type",
    "cache-control",
    "retry-after",
    "allow",
    "preference-applied",
];

/// Time for another attempt of a dead letter, which takes in all that waits behind it.
const ATTEMPT: Duration = Duration::from_secs(120);

/// The largest answer: a page of rows ends soon after 4 MiB.
const MAX_ANSWER: usize = 32 << 20;

/// That a request came from another member, and how much time it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HandedOn {
    /// How long its client had waited when it came.
    waited: Duration,
    /// Until when that member waits.
    deadline: Instant,
}

impl HandedOn {
    /// What is left of a wait, so that the answer is there before nobody waits for it any more.
    pub(crate) fn left_of(self, wait: Duration) -> Duration {
        let rest = self.deadline.saturating_duration_since(Instant::now());
        let margin = (rest / 10).min(Duration::from_millis(100));
        wait.saturating_sub(self.waited).min(rest - margin)
    }
}

/// Whether a request came from another member.
pub(crate) fn is_handed_on(parts: &request::Parts) -> bool {
    parts.extensions.get::<HandedOn>().is_some()
}

fn is_of_projections(route: Route) -> bool {
    matches!(
        route,
        Route::Projections
            | Route::Projection
            | Route::PauseProjection
            | Route::ResumeProjection
            | Route::RebuildProjection
            | Route::DeadLetters
            | Route::RetryLetter
            | Route::SkipLetter
    )
}

/// Whether a route is about read models.
fn is_of_read_side(route: Route) -> bool {
    matches!(route, Route::View | Route::ViewRow | Route::ViewChanges) || is_of_projections(route)
}

/// Who is to be asked instead of this node, if anybody. Takes the parameter `node` of the routes of
/// projections out of the query.
///
/// # Errors
/// 400 `invalid-query`; 404 for what must not be handed on.
pub(crate) fn addressee(
    app: &App,
    parts: &mut request::Parts,
    route: Route,
) -> Result<Option<Whom>, Box<Problem>> {
    let of_read_side = is_of_read_side(route);
    if is_handed_on(parts) {
        if of_read_side {
            return Ok(None);
        }
        let detail = "no request of this kind is handed on";
        return Err(Box::new(Problem::new(Code::NotFound, detail)));
    }
    let method = parts.method.as_str();
    let answers = route.allow().split(", ").any(|allowed| allowed == method);
    if !of_read_side || !answers || parts.method == Method::OPTIONS {
        return Ok(None);
    }
    let named = if is_of_projections(route) {
        take_node(parts)?
    } else {
        None
    };
    let lacks = app.views.is_none() && !app.roles.contains(&Role::Query);
    Ok(match named {
        Some(node) if node == app.node_id => None,
        Some(node) => Some(Whom::Only(node)),
        None => lacks.then_some(Whom::Any),
    })
}

/// Takes the parameter `node` out of the query.
fn take_node(parts: &mut request::Parts) -> Result<Option<u64>, Box<Problem>> {
    let mut named = None;
    let mut rest: Vec<&str> = Vec::new();
    for pair in parts.uri.query().unwrap_or_default().split('&') {
        match pair.strip_prefix("node=") {
            Some(node) if named.is_none() => {
                named = Some(query::number("node", node, 1..=i64::MAX.unsigned_abs())?);
            }
            Some(_) => {
                let detail = "query parameter `node` appears twice";
                return Err(Box::new(Problem::query("node", detail)));
            }
            None => rest.push(pair),
        }
    }
    if named.is_some() {
        let query = rest.join("&");
        let path = parts.uri.path();
        let target = if query.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{query}")
        };
        // Parts of a valid target are one.
        if let Ok(target) = PathAndQuery::try_from(target) {
            parts.uri = Uri::from(target);
        }
    }
    Ok(named)
}

/// A request as it travels.
pub(crate) fn query_of(app: &App, parts: &request::Parts, route: Route) -> Query {
    let within = match route {
        Route::RetryLetter | Route::SkipLetter => ATTEMPT,
        _ => app.limits.answer_within(),
    };
    let since = Instant::now();
    let target = parts.uri.path_and_query().map(PathAndQuery::as_str);
    Query {
        posts: parts.method == Method::POST,
        target: target.unwrap_or("/").to_owned(),
        headers: picked(&parts.headers, CLIENT_ASKS_WITH),
        is_large: !matches!(route, Route::ViewRow),
        since,
        deadline: since + within,
    }
}

/// Asks another member, and answers as it does.
pub(crate) async fn answer(
    app: &App,
    parts: &request::Parts,
    route: Route,
    whom: Whom,
) -> Answered {
    let query = query_of(app, parts, route);
    let (_, answer) = ask(app, &query, whom).await?;
    Ok(reply_of(answer))
}

/// Asks another member.
///
/// # Errors
/// 503 when none can be asked or answers in time, 504 when nobody knows what was done.
pub(crate) async fn ask(
    app: &App,
    query: &Query,
    whom: Whom,
) -> Result<(u64, QueryAnswer), Box<Problem>> {
    let asked = match &app.queries {
        Some(queries) => Box::pin(queries.ask(query, whom)).await,
        None => Err(Unanswered::Nobody("there are no other members".to_owned())),
    };
    asked.map_err(|error| {
        let detail = error.to_string();
        Box::new(match error {
            Unanswered::NoMember(_) => unknown_node(app, &detail).with("parameter", "node"),
            Unanswered::Nobody(_) => {
                Problem::new(Code::NotReady, detail).with("role", Role::Query.name())
            }
            Unanswered::Busy => Problem::new(Code::Overloaded, detail),
            Unanswered::Late(reason) => {
                tracing::debug!(%reason, "no member has answered in time");
                timed_out(false, app.limits.answer_within())
            }
            Unanswered::Unknown(_) => Problem::new(Code::OutcomeUnknown, detail),
        })
    })
}

/// The answer of another member as this node's own.
pub(crate) fn reply_of(answer: QueryAnswer) -> Reply {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut reply = reply(status, answer.body);
    for (name, value) in &answer.headers {
        let known = CLIENT_IS_ANSWERED_WITH.iter().find(|known| *known == name);
        if let (Some(known), Ok(value)) = (known, HeaderValue::from_bytes(value)) {
            let name = HeaderName::from_static(known);
            reply.headers_mut().insert(name, value);
        }
    }
    reply
}

/// Those headers that travel.
fn picked<'n>(headers: &http::HeaderMap, names: impl IntoIterator<Item = &'n str>) -> Vec<Header> {
    let mut picked = Vec::new();
    for name in names {
        let values = headers.get_all(name).iter();
        picked.extend(values.map(|value| (name.to_owned(), value.as_bytes().to_vec())));
    }
    picked
}

/// Answers the requests of other members as this node's HTTP interface does.
#[derive(Debug)]
pub(crate) struct SiteDesk(Site);

impl SiteDesk {
    /// Lets other members ask as long as the value lives.
    pub(crate) fn open(site: &Site) -> Option<Arc<Self>> {
        let queries: &Queries = site.app.queries.as_ref()?;
        let desk = Arc::new(Self(site.clone()));
        let shared: Arc<dyn Desk> = Arc::clone(&desk) as _;
        queries.open(Arc::downgrade(&shared));
        Some(desk)
    }
}

impl Desk for SiteDesk {
    fn answer(&self, question: QueryQuestion) -> BoxFuture<'static, Result<QueryAnswer, String>> {
        let site = self.0.clone();
        Box::pin(async move {
            if site.app.views.is_none() {
                return Err("this node keeps no read models".to_owned());
            }
            let request = request_of(&question).map_err(|error| error.to_string())?;
            let response = match site.router().call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let (head, body) = response.into_parts();
            let body = axum::body::to_bytes(body, MAX_ANSWER).await;
            let inner = [PLACE_NAME, queries::ASK];
            let names = CLIENT_IS_ANSWERED_WITH.into_iter().chain(inner);
            Ok(QueryAnswer {
                status: head.status.as_u16(),
                headers: picked(&head.headers, names),
                body: body.map_err(|error| error.to_string())?,
            })
        })
    }
}

fn request_of(question: &QueryQuestion) -> http::Result<Request<Body>> {
    let millis = |count: u32| Duration::from_millis(u64::from(count));
    let method = if question.posts {
        Method::POST
    } else {
        Method::GET
    };
    let mut request = Request::builder().method(method).uri(&question.target);
    for (name, value) in &question.headers {
        if CLIENT_ASKS_WITH.contains(&name.as_str()) || name == PAGE_WAIT.as_str() {
            request = request.header(name, value.as_slice());
        }
    }
    let handed_on = HandedOn {
        waited: millis(question.waited_ms),
        deadline: Instant::now() + millis(question.time_left_ms),
    };
    request.extension(handed_on).body(Body::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(target: &str) -> request::Parts {
        let request = Request::builder().uri(target).body(());
        request.unwrap().into_parts().0
    }

    #[test]
    fn the_node_that_is_named_is_taken_out_of_the_query() {
        for (target, node, rest) in [
            ("/v1/projections?node=3", Some(3), "/v1/projections"),
            ("/p?limit=2&node=3&after=4", Some(3), "/p?limit=2&after=4"),
            ("/p?limit=2", None, "/p?limit=2"),
            ("/p", None, "/p"),
        ] {
            let mut parts = parts(target);
            assert_eq!(take_node(&mut parts).unwrap(), node);
            assert_eq!(parts.uri.to_string(), rest);
        }
        for bad in ["/p?node=0", "/p?node=x", "/p?node=", "/p?node=1&node=2"] {
            assert!(take_node(&mut parts(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_that_are_for_nodes_only_reach_no_client() {
        let header = |name: &str| (name.to_owned(), b"3".to_vec());
        let names = ["retry-after", "phalanx-ask", "phalanx-place", "set-cookie"];
        let reply = reply_of(QueryAnswer {
            status: 503,
            headers: names.map(header).to_vec(),
            body: bytes::Bytes::new(),
        });
        let left: Vec<_> = reply.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["retry-after"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_shrinks_by_what_was_waited_and_ends_before_the_deadline() {
        let second = Duration::from_secs(1);
        let handed_on = HandedOn {
            waited: second,
            deadline: Instant::now() + 5 * second,
        };
        assert_eq!(handed_on.left_of(3 * second), 2 * second);
        assert_eq!(handed_on.left_of(second / 2), Duration::ZERO);
        let most = Duration::from_millis(4900);
        assert_eq!(handed_on.left_of(60 * second), most);
    }
}
