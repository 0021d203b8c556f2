//! Which paths exist and which methods they answer.
//!
//! This table is the only place that names a path: the router, the metrics and the OpenAPI document
//! read it. Paths are matched as they were sent; only parameters are percent-decoded later, each on
//! its own, so `..` and encoded slashes stay inside their segment.
//!
//! axum matches the paths, but for those of aggregates. Nearly all requests are theirs, and an id
//! may come as anything, nothing included, and is then a bad id and not an unknown path.

use std::future::Future;

use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;

/// A route, without its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Sends a command.
    Command,
    /// Reads a state, fresh or of the past.
    State,
    /// Reads the history of an aggregate.
    History,
    /// Follows the state of an aggregate.
    Watch,
    /// Compares two states of the past.
    Diff,
    /// Folds events that did not happen.
    WhatIf,
    /// Describes all aggregate types.
    Types,
    /// Describes one aggregate type.
    Type,
    /// The JSON Schema of an event.
    EventSchema,
    /// The members of the cluster.
    Cluster,
    /// The shards and who leads them.
    Shards,
    /// Hands a shard to another member.
    Transfer,
    /// Lets a node join.
    Nodes,
    /// Lets a member leave.
    Node,
    /// Hands over all that a member leads, or lets it lead again.
    Drain,
    /// Reads a page of rows.
    View,
    /// Reads one row.
    ViewRow,
    /// Follows which rows change.
    ViewChanges,
    /// How all projections are doing.
    Projections,
    /// How one projection is doing.
    Projection,
    /// Stops taking events in.
    PauseProjection,
    /// Goes on taking events in.
    ResumeProjection,
    /// Builds a read model again.
    RebuildProjection,
    /// What was set aside.
    DeadLetters,
    /// Attempts what was set aside.
    RetryLetter,
    /// Attempts it without the event that failed.
    SkipLetter,
    /// Committed events as a stream.
    Events,
    /// Is the process alive?
    Live,
    /// Can it take requests?
    Ready,
    /// Has it ever been ready?
    Started,
    /// Prometheus metrics.
    Metrics,
    /// The OpenAPI document.
    OpenApi,
    /// That document for people.
    Docs,
    /// All problem codes.
    Problems,
    /// One problem code.
    Problem,
    /// The landing page.
    Landing,
    /// No route matched. Not a route; it gives such requests a label in the metrics.
    None,
}

/// Methods of routes that only show something.
const GET: &str = "GET, HEAD, OPTIONS";
/// Methods of routes that change something.
const POST: &str = "POST, OPTIONS";
/// Methods of routes that take something away.
const DELETE: &str = "DELETE, OPTIONS";
/// Methods of routes that begin something and end it.
const POST_DELETE: &str = "POST, DELETE, OPTIONS";

impl Route {
    /// Every route, in the order of the variants.
    pub(crate) const ALL: [Self; 37] = [
        Self::Command,
        Self::State,
        Self::History,
        Self::Watch,
        Self::Diff,
        Self::WhatIf,
        Self::Types,
        Self::Type,
        Self::EventSchema,
        Self::Cluster,
        Self::Shards,
        Self::Transfer,
        Self::Nodes,
        Self::Node,
        Self::Drain,
        Self::View,
        Self::ViewRow,
        Self::ViewChanges,
        Self::Projections,
        Self::Projection,
        Self::PauseProjection,
        Self::ResumeProjection,
        Self::RebuildProjection,
        Self::DeadLetters,
        Self::RetryLetter,
        Self::SkipLetter,
        Self::Events,
        Self::Live,
        Self::Ready,
        Self::Started,
        Self::Metrics,
        Self::OpenApi,
        Self::Docs,
        Self::Problems,
        Self::Problem,
        Self::Landing,
        Self::None,
    ];

    /// The path with its parameters in braces: an OpenAPI path and a metrics label.
    pub(crate) fn template(self) -> &'static str {
        match self {
            Self::Command => "/v1/aggregates/{type}/{id}/commands/{command}",
            Self::State => "/v1/aggregates/{type}/{id}",
            Self::History => "/v1/aggregates/{type}/{id}/events",
            Self::Watch => "/v1/aggregates/{type}/{id}/watch",
            Self::Diff => "/v1/aggregates/{type}/{id}/diff",
            Self::WhatIf => "/v1/aggregates/{type}/{id}/what-if",
            Self::Types => "/v1/types",
            Self::Type => "/v1/types/{type}",
            Self::EventSchema => "/v1/types/{type}/events/{event}/{version}",
            Self::Cluster => "/v1/cluster",
            Self::Shards => "/v1/shards",
            Self::Transfer => "/v1/shards/{shard}/transfer",
            Self::Nodes => "/v1/nodes",
            Self::Node => "/v1/nodes/{node}",
            Self::Drain => "/v1/nodes/{node}/drain",
            Self::View => "/v1/views/{view}",
            Self::ViewRow => "/v1/views/{view}/{key}",
            Self::ViewChanges => "/v1/views/{view}/changes",
            Self::Projections => "/v1/projections",
            Self::Projection => "/v1/projections/{projection}",
            Self::PauseProjection => "/v1/projections/{projection}/pause",
            Self::ResumeProjection => "/v1/projections/{projection}/resume",
            Self::RebuildProjection => "/v1/projections/{projection}/rebuild",
            Self::DeadLetters => "/v1/projections/{projection}/dead-letters",
            Self::RetryLetter => "/v1/projections/{projection}/dead-letters/{letter}/retry",
            Self::SkipLetter => "/v1/projections/{projection}/dead-letters/{letter}/skip",
            Self::Events => "/v1/events",
            Self::Live => "/livez",
            Self::Ready => "/readyz",
            Self::Started => "/startupz",
            Self::Metrics => "/metrics",
            Self::OpenApi => "/openapi.json",
            Self::Docs => "/docs",
            Self::Problems => "/problems",
            Self::Problem => "/problems/{code}",
            Self::Landing => "/",
            Self::None => "none",
        }
    }

    /// Whether [`Target::find`] finds it.
    fn is_of_aggregate(self) -> bool {
        matches!(
            self,
            Self::Command | Self::State | Self::History | Self::Watch | Self::Diff | Self::WhatIf
        )
    }

    /// The parameters in a path that it matched, in their order.
    pub(crate) fn parameters(self, path: &str) -> [&str; 3] {
        let mut found = [""; 3];
        let segments = self.template().split('/').zip(path.split('/'));
        let parameters = segments.filter(|(name, _)| name.starts_with('{'));
        for (slot, (_, value)) in found.iter_mut().zip(parameters) {
            *slot = value;
        }
        found
    }

    /// The methods that it answers: the value of `Allow`.
    pub(crate) fn allow(self) -> &'static str {
        match self {
            Self::Command
            | Self::WhatIf
            | Self::Transfer
            | Self::Nodes
            | Self::PauseProjection
            | Self::ResumeProjection
            | Self::RebuildProjection
            | Self::RetryLetter
            | Self::SkipLetter => POST,
            Self::Node => DELETE,
            Self::Drain => POST_DELETE,
            Self::State
            | Self::History
            | Self::Watch
            | Self::Diff
            | Self::Types
            | Self::Type
            | Self::EventSchema
            | Self::Cluster
            | Self::Shards
            | Self::View
            | Self::ViewRow
            | Self::ViewChanges
            | Self::Projections
            | Self::Projection
            | Self::DeadLetters
            | Self::Events
            | Self::Live
            | Self::Ready
            | Self::Started
            | Self::Metrics
            | Self::OpenApi
            | Self::Docs
            | Self::Problems
            | Self::Problem
            | Self::Landing
            | Self::None => GET,
        }
    }
}

/// A route below `/v1/aggregates/` with its parameters as they stand in the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target<'p> {
    Command {
        aggregate_type: &'p str,
        id: &'p str,
        command: &'p str,
    },
    State {
        aggregate_type: &'p str,
        id: &'p str,
    },
    History {
        aggregate_type: &'p str,
        id: &'p str,
    },
    Watch {
        aggregate_type: &'p str,
        id: &'p str,
    },
    Diff {
        aggregate_type: &'p str,
        id: &'p str,
    },
    WhatIf {
        aggregate_type: &'p str,
        id: &'p str,
    },
}

impl<'p> Target<'p> {
    /// Finds the route of a path.
    pub(crate) fn find(path: &'p str) -> Option<Self> {
        let rest = path.strip_prefix("/v1/aggregates/")?;
        let (aggregate_type, rest) = rest.split_once('/')?;
        let Some((id, rest)) = rest.split_once('/') else {
            return Some(Self::State {
                aggregate_type,
                id: rest,
            });
        };
        match rest {
            "events" => return Some(Self::History { aggregate_type, id }),
            "diff" => return Some(Self::Diff { aggregate_type, id }),
            "what-if" => return Some(Self::WhatIf { aggregate_type, id }),
            "watch" => return Some(Self::Watch { aggregate_type, id }),
            _ => {}
        }
        let command = rest.strip_prefix("commands/")?;
        (!command.contains('/')).then_some(Self::Command {
            aggregate_type,
            id,
            command,
        })
    }

    /// The route without its parameters.
    pub(crate) fn route(self) -> Route {
        match self {
            Self::Command { .. } => Route::Command,
            Self::State { .. } => Route::State,
            Self::History { .. } => Route::History,
            Self::Watch { .. } => Route::Watch,
            Self::Diff { .. } => Route::Diff,
            Self::WhatIf { .. } => Route::WhatIf,
        }
    }
}

/// A router for every route that is not of an aggregate; all of them, and whatever matches none,
/// are answered by `answer`.
pub(crate) fn router<A, F>(answer: A) -> axum::Router
where
    A: Fn(Route, Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let handler = |route| {
        let answer = answer.clone();
        move |request: Request| answer(route, request)
    };
    let others = Route::ALL
        .into_iter()
        .filter(|route| *route != Route::None && !route.is_of_aggregate());
    others
        .fold(axum::Router::new(), |router, route| {
            router.route(route.template(), any(handler(route)))
        })
        .fallback(handler(Route::None))
}

/// The template of the route that a path is answered by.
#[cfg(test)]
pub(crate) async fn found(path: &str) -> &'static str {
    if let Some(target) = Target::find(path) {
        return target.route().template();
    }
    use axum::body::Body;
    use axum::response::IntoResponse as _;
    use tower_service::Service as _;
    let mut router = router(|route, _| async move { route.template().into_response() });
    let request = http::Request::builder().uri(path).body(Body::empty());
    let response = router.call(request.unwrap()).await.unwrap();
    let body = axum::body::to_bytes(response.into_body(), 1 << 10).await;
    let body = String::from_utf8(body.unwrap().to_vec()).unwrap();
    let known = Route::ALL.into_iter().find(|r| r.template() == body);
    known.expect("a route").template()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_route_is_found_by_its_template() {
        for (at, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, at);
            if route != Route::None {
                let path = route.template().replace(['{', '}'], "");
                assert_eq!(found(&path).await, route.template());
            }
        }
    }

    #[tokio::test]
    async fn nothing_else_is_found() {
        for path in [
            "*",
            "/v1",
            "/v1/",
            "/v1/aggregates",
            "/v1/aggregates/account",
            "/v1/aggregates/account/a/",
            "/v1/aggregates/account/a/commands",
            "/v1/aggregates/account/a/commands/X/",
            "/v1/aggregates/account/../../etc/passwd",
            "/v1/aggregates/account/a/watch/",
            "/v1/aggregates/account/a/what-if/1",
            "/v1/aggregates/account/a/whatif",
            "/v1/aggregates/account/a/diff/",
            "/v1/types/",
            "/v1/types/account/events/Opened",
            "/v1/views",
            "/v1/views/",
            "/v1/views/accounts/",
            "/v1/views/accounts/a/b",
            "/v1/projections/",
            "/v1/projections/accounts/",
            "/v1/projections/accounts/stop",
            "/v1/projections/accounts/pause/",
            "/v1/projections/accounts/dead-letters/1",
            "/v1/projections/accounts/dead-letters/1/retry/2",
            "/v1/events/",
            "/v1/shards/1",
            "/v1/shards/1/2/transfer",
            "/v1/nodes/1/2",
            "/v1/nodes/1/drain/",
            "/livez/",
            "/LIVEZ",
            "//livez",
            "/problems/a/b",
        ] {
            assert_eq!(found(path).await, "none", "{path}");
        }
    }

    #[test]
    fn parameters_are_taken_as_they_were_sent() {
        let path = "/v1/types/a%2Fb/events/Opened/1";
        assert_eq!(
            Route::EventSchema.parameters(path),
            ["a%2Fb", "Opened", "1"]
        );
        assert_eq!(Route::Drain.parameters("/v1/nodes/7/drain"), ["7", "", ""]);
        assert_eq!(Route::Types.parameters("/v1/types"), ["", "", ""]);
    }
}
