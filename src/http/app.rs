//! What all requests of a node share.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use phalanx_actors::ports::Feed;
use phalanx_actors::projection::ProjectionDefinition;
use tokio::sync::{Semaphore, watch};

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::queries::Queries;
use crate::cluster::roles::{self, Role};
use crate::cluster::router::Router;
use crate::cluster::steward::Steward;
use crate::projection::Views;

use super::buffers::Buffers;
use super::callers::Callers;
use super::metrics::HttpMetrics;
use super::public_url::PublicUrl;
use super::reasons::Reasons;
use super::response::{Reply, json};
use super::watch::Hub;
use super::{HttpLimits, openapi, types};

/// What the HTTP layer serves.
#[derive(Debug, Clone)]
pub struct HttpApp {
    /// Commands, reads and histories, of this node and of others.
    pub router: Router,
    /// Members, shards, and who leads them.
    pub steward: Arc<Steward>,
    /// Renders `/metrics`. Its recorder must be installed before [`super::serve`] is called, and
    /// its owner folds samples together from time to time (`run_upkeep`).
    pub metrics: PrometheusHandle,
    /// Read models; `None` when this node has none.
    pub views: Option<Views>,
    /// What the read models are, whichever member has them.
    pub definitions: Vec<Arc<ProjectionDefinition>>,
    /// The way to those of other members; `None` when there are none.
    pub queries: Option<Queries>,
    /// The longest time for which a query may wait for a view.
    pub max_wait: Duration,
    /// Committed events for event streams; `None` when this node shows none.
    pub feed: Option<Arc<dyn Feed>>,
    /// What this node does; the rest is refused.
    pub roles: BTreeSet<Role>,
    /// How it learns who sends requests.
    pub callers: Callers,
    /// Where clients reach it.
    pub public_url: PublicUrl,
}

impl HttpApp {
    /// Serves what `router` reaches and `steward` tells, and `metrics` at `/metrics`.
    #[must_use]
    pub fn new(router: Router, steward: Arc<Steward>, metrics: PrometheusHandle) -> Self {
        Self {
            router,
            steward,
            metrics,
            views: None,
            definitions: Vec::new(),
            queries: None,
            max_wait: Duration::ZERO,
            feed: None,
            roles: roles::all(),
            callers: Callers::default(),
            public_url: PublicUrl::default(),
        }
    }
}

/// The shared parts, made once per node.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) router: Router,
    pub(crate) steward: Arc<Steward>,
    pub(crate) views: Option<Views>,
    pub(crate) queries: Option<Queries>,
    pub(crate) max_wait: Duration,
    pub(crate) node_id: u64,
    pub(crate) prometheus: PrometheusHandle,
    pub(crate) limits: HttpLimits,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) metrics: HttpMetrics,
    pub(crate) reasons: Reasons,
    pub(crate) documents: Documents,
    pub(crate) feed: Option<Arc<dyn Feed>>,
    /// Tells watchers of their aggregates.
    pub(crate) hub: Option<Hub>,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) callers: Callers,
    pub(crate) public_url: PublicUrl,
    /// Room for event streams.
    pub(crate) streams: Arc<Semaphore>,
    /// Tells event streams that the node stops.
    pub(crate) farewell: watch::Sender<bool>,
    /// Set once the node has been ready.
    pub(crate) started: AtomicBool,
    /// Set once the listener is closed: each answer is its connection's last.
    pub(crate) closing: AtomicBool,
}

impl App {
    /// Prepares what does not change while the node runs.
    pub(crate) fn new(app: HttpApp, limits: HttpLimits) -> Self {
        let registry = app.router.types();
        let reasons = Reasons::new(registry);
        let streams = limits.max_event_streams.min(Semaphore::MAX_PERMITS);
        let streams = Arc::new(Semaphore::new(streams));
        let farewell = watch::Sender::new(false);
        let hub = app.feed.clone();
        let hub = hub.map(|feed| Hub::new(feed, farewell.subscribe()));
        let documents = Documents {
            types: types::render_all(registry).into(),
            openapi: openapi::document(registry, &app.definitions, &app.callers)
                .to_string()
                .into(),
        };
        Self {
            node_id: app.router.node_id(),
            router: app.router,
            steward: app.steward,
            views: app.views,
            queries: app.queries,
            max_wait: app.max_wait,
            prometheus: app.metrics,
            buffers: Buffers::new(limits.max_buffered_bytes),
            limits,
            metrics: HttpMetrics::new(),
            reasons,
            documents,
            feed: app.feed,
            hub,
            roles: app.roles,
            callers: app.callers,
            public_url: app.public_url,
            streams,
            farewell,
            started: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }
    }
}

/// Documents that are the same until the node restarts.
#[derive(Debug)]
pub(crate) struct Documents {
    types: Bytes,
    openapi: Bytes,
}

impl Documents {
    /// All aggregate types.
    pub(crate) fn types(&self) -> Reply {
        json(self.types.clone())
    }

    /// The OpenAPI document.
    pub(crate) fn openapi(&self) -> Reply {
        json(self.openapi.clone())
    }
}
