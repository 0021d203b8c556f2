//! Which paths exist and which methods they answer.
//!
//! This table is the only place that names a path: the dispatcher, the metrics and the OpenAPI
//! document read it. Paths are matched as they were sent; only parameters are percent-decoded
//! later, each on its own, so `..` and encoded slashes stay inside their segment.

/// A route, without its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Sends a command.
    Command,
    /// Reads a state, fresh or of the past.
    State,
    /// Reads the history of an aggregate.
    History,
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
    /// Hands over all that a member leads.
    Drain,
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

impl Route {
    /// Every route, in the order of the variants.
    pub(crate) const ALL: [Self; 22] = [
        Self::Command,
        Self::State,
        Self::History,
        Self::Types,
        Self::Type,
        Self::EventSchema,
        Self::Cluster,
        Self::Shards,
        Self::Transfer,
        Self::Nodes,
        Self::Node,
        Self::Drain,
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
            Self::Types => "/v1/types",
            Self::Type => "/v1/types/{type}",
            Self::EventSchema => "/v1/types/{type}/events/{event}/{version}",
            Self::Cluster => "/v1/cluster",
            Self::Shards => "/v1/shards",
            Self::Transfer => "/v1/shards/{shard}/transfer",
            Self::Nodes => "/v1/nodes",
            Self::Node => "/v1/nodes/{node}",
            Self::Drain => "/v1/nodes/{node}/drain",
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

    /// The methods that it answers: the value of `Allow`.
    pub(crate) fn allow(self) -> &'static str {
        match self {
            Self::Command | Self::Transfer | Self::Nodes | Self::Drain => POST,
            Self::Node => DELETE,
            Self::State
            | Self::History
            | Self::Types
            | Self::Type
            | Self::EventSchema
            | Self::Cluster
            | Self::Shards
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

/// A route with its parameters as they stand in the path.
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
    Type {
        aggregate_type: &'p str,
    },
    EventSchema {
        aggregate_type: &'p str,
        event: &'p str,
        version: &'p str,
    },
    Transfer {
        shard: &'p str,
    },
    Node {
        node: &'p str,
    },
    Drain {
        node: &'p str,
    },
    Problem {
        code: &'p str,
    },
    /// A route without parameters.
    Fixed(Route),
}

impl<'p> Target<'p> {
    /// Finds the route of a path.
    pub(crate) fn find(path: &'p str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix("/v1/aggregates/") {
            return Self::of_aggregate(rest);
        }
        if let Some(rest) = path.strip_prefix("/v1/types/") {
            return Self::of_type(rest);
        }
        if let Some(rest) = path.strip_prefix("/v1/shards/") {
            let shard = rest.strip_suffix("/transfer")?;
            return (!shard.contains('/')).then_some(Self::Transfer { shard });
        }
        if let Some(rest) = path.strip_prefix("/v1/nodes/") {
            return match rest.split_once('/') {
                None => Some(Self::Node { node: rest }),
                Some((node, "drain")) => Some(Self::Drain { node }),
                Some(_) => None,
            };
        }
        if let Some(code) = path.strip_prefix("/problems/") {
            return (!code.contains('/')).then_some(Self::Problem { code });
        }
        Some(Self::Fixed(match path {
            "/v1/types" => Route::Types,
            "/v1/cluster" => Route::Cluster,
            "/v1/shards" => Route::Shards,
            "/v1/nodes" => Route::Nodes,
            "/livez" => Route::Live,
            "/readyz" => Route::Ready,
            "/startupz" => Route::Started,
            "/metrics" => Route::Metrics,
            "/openapi.json" => Route::OpenApi,
            "/docs" => Route::Docs,
            "/problems" => Route::Problems,
            "/" => Route::Landing,
            _ => return None,
        }))
    }

    fn of_aggregate(rest: &'p str) -> Option<Self> {
        let (aggregate_type, rest) = rest.split_once('/')?;
        let Some((id, rest)) = rest.split_once('/') else {
            return Some(Self::State {
                aggregate_type,
                id: rest,
            });
        };
        if rest == "events" {
            return Some(Self::History { aggregate_type, id });
        }
        let command = rest.strip_prefix("commands/")?;
        (!command.contains('/')).then_some(Self::Command {
            aggregate_type,
            id,
            command,
        })
    }

    fn of_type(rest: &'p str) -> Option<Self> {
        let Some((aggregate_type, rest)) = rest.split_once('/') else {
            return Some(Self::Type {
                aggregate_type: rest,
            });
        };
        let (event, version) = rest.strip_prefix("events/")?.split_once('/')?;
        (!version.contains('/')).then_some(Self::EventSchema {
            aggregate_type,
            event,
            version,
        })
    }

    /// The route without its parameters.
    pub(crate) fn route(self) -> Route {
        match self {
            Self::Command { .. } => Route::Command,
            Self::State { .. } => Route::State,
            Self::History { .. } => Route::History,
            Self::Type { .. } => Route::Type,
            Self::EventSchema { .. } => Route::EventSchema,
            Self::Transfer { .. } => Route::Transfer,
            Self::Node { .. } => Route::Node,
            Self::Drain { .. } => Route::Drain,
            Self::Problem { .. } => Route::Problem,
            Self::Fixed(route) => route,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_by_its_template() {
        for (at, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, at);
            if route == Route::None {
                continue;
            }
            let found = Target::find(route.template()).map(Target::route);
            assert_eq!(found, Some(route));
        }
    }

    #[test]
    fn nothing_else_is_found() {
        for path in [
            "",
            "*",
            "/v1",
            "/v1/",
            "/v1/aggregates",
            "/v1/aggregates/account",
            "/v1/aggregates/account/a/",
            "/v1/aggregates/account/a/commands",
            "/v1/aggregates/account/a/commands/X/",
            "/v1/aggregates/account/../../etc/passwd",
            "/v1/aggregates/account/a/what-if",
            "/v1/types/account/events/Opened",
            "/v1/views/accounts",
            "/v1/events",
            "/v1/shards/1",
            "/v1/shards/1/2/transfer",
            "/v1/nodes/1/2",
            "/v1/nodes/1/drain/",
            "/livez/",
            "/LIVEZ",
            "//livez",
            "/problems/a/b",
        ] {
            assert_eq!(Target::find(path), None, "{path}");
        }
    }
}
