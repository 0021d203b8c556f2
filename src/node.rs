//! A node: the parts put together, started and stopped in order.
//!
//! Owns the order of start and shutdown. Holds no logic of requests: those go from `http` through
//! the command model to the actors, and from there through `replication` to the `journal`.

mod builder;
mod copies;
pub mod core;
mod error;
mod groups;
mod members;
mod open_files;
mod read_side;
mod repair;
mod routing;
mod shutdown;
mod starter;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::CommandModel;
use phalanx_actors::ports::Feed;
use phalanx_actors::shard::ShardHandle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::builder::NodeBuilder;
pub use self::error::NodeError;
use crate::cluster::peers::Peers;
use crate::cluster::router::Router;
use crate::cluster::steward::Steward;
use crate::journal::Journal;
use crate::projection::{Projections, Views};
use crate::replication::service::RaftCalls;

/// What is kept of the grace period for its end: for the last answers, and to close and flush. Of a short
/// one, a quarter.
const CLOSING: Duration = Duration::from_secs(1);
/// Time for the raft groups to end.
const GROUPS_END: Duration = Duration::from_secs(2);

/// A running node.
#[derive(Debug)]
pub struct Node {
    model: CommandModel,
    router: Router,
    steward: Arc<Steward>,
    peers: Arc<dyn Peers>,
    http_address: SocketAddr,
    stop_http: watch::Sender<bool>,
    http: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
    shards: Vec<ShardHandle>,
    groups: Arc<RaftCalls>,
    projections: Option<Projections>,
    journal: Journal,
    grace: Duration,
    linger: Duration,
}

impl Node {
    /// Starts to put a node together.
    #[must_use]
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// The way to the aggregates, without HTTP in between.
    #[must_use]
    pub fn model(&self) -> &CommandModel {
        &self.model
    }

    /// The way to all aggregates of the cluster.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Members, shards, and who leads them.
    #[must_use]
    pub fn steward(&self) -> &Arc<Steward> {
        &self.steward
    }

    /// The views of this node; `None` when it has none.
    #[must_use]
    pub fn views(&self) -> Option<&Views> {
        self.projections.as_ref().map(Projections::views)
    }

    /// Committed events of the shards that this node has copies of.
    #[must_use]
    pub fn feed(&self) -> Arc<dyn Feed> {
        Arc::new(self.journal.clone())
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Returns when this process must end, because another one of the same node is connected to the other
    /// members: two processes have been started on copies of one data directory. Nothing is to be handed over
    /// then, and nobody else listens to this process any more. Safe to cancel.
    pub async fn displaced(&self) -> NodeError {
        self.peers.displaced().await;
        NodeError::Displaced {
            node: self.steward.me(),
        }
    }

    /// Stops: hand over what this node leads, take no connections, refuse new requests, finish what
    /// is in flight, flush, close. What cannot be finished within the grace period is answered shortly before
    /// its end, a command with an unknown outcome, as after a crash.
    ///
    /// # Errors
    /// [`NodeError::Unfinished`] when requests were still in flight at the end of the period.
    pub async fn shutdown(self) -> Result<(), NodeError> {
        let end = Instant::now() + self.grace;
        let deadline = end - CLOSING.min(self.grace / 4);
        tracing::info!(in_flight = self.model.in_flight(), "shutting down");
        if self.router.has_peers() {
            // Still admitting: until another node leads, nobody else can answer.
            let drained = tokio::time::timeout_at(deadline, self.steward.drain_to_stop()).await;
            match drained {
                Ok(drained) => {
                    for kept in &drained.kept {
                        tracing::warn!(shard = kept.shard, reason = %kept.reason, "not handed over");
                    }
                }
                Err(_) => tracing::warn!("the grace period ended before all was handed over"),
            }
        }
        // Nobody listens any more only if the server has ended already.
        let _ended = self.stop_http.send(true);
        // Clients hear of it with their next answers; until then they are still served.
        let mut http = self.http;
        let lingered = deadline.min(Instant::now() + self.linger);
        let _ended = tokio::time::timeout_at(lingered, &mut http).await;
        self.model.stop_admitting();
        if !finished_by(&self.model, deadline).await {
            let count = self.model.in_flight();
            tracing::warn!(count, "what cannot be finished is answered now");
            self.router.end();
            for shard in &self.shards {
                shard.step_down();
            }
        }
        let finished = finished_by(&self.model, end).await;
        let unfinished = self.model.in_flight();
        // Idle keep-alive connections are closed by the server; what is left is cut.
        if !http.is_finished() {
            let _cut = tokio::time::timeout(Duration::from_millis(500), http).await;
        }
        for task in &self.background {
            task.abort();
        }
        if let Some(projections) = self.projections {
            projections.stop().await;
        }
        for shard in &self.shards {
            shard.step_down();
        }
        let groups = async {
            for group in self.groups.all() {
                group.shutdown().await;
            }
        };
        if tokio::time::timeout(GROUPS_END, groups).await.is_err() {
            // For a vote, say, that there is no space for. The journal's end is the group's as well.
            tracing::warn!("a raft group waits for the disk and is left behind");
        }
        for shard in &self.shards {
            shard.stop();
        }
        let journal = self.journal;
        let closed = tokio::task::spawn_blocking(move || journal.shutdown()).await;
        if closed.is_err() {
            tracing::error!("the journal's shutdown panicked");
        }
        tracing::info!("stopped");
        if finished {
            Ok(())
        } else {
            Err(NodeError::Unfinished { count: unfinished })
        }
    }
}

/// Waits until nothing is in flight; `false` when something still is at the deadline.
async fn finished_by(model: &CommandModel, deadline: Instant) -> bool {
    let finished = async {
        let mut poll = tokio::time::interval(Duration::from_millis(5));
        while model.in_flight() > 0 {
            poll.tick().await;
        }
    };
    tokio::time::timeout_at(deadline, finished).await.is_ok()
}
