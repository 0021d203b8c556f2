//! Requests that other nodes hand to this one.
//!
//! It answers what it can answer in the term that was asked for, hands on what may be handed on, and
//! says "not here" to the rest. It refuses to try twice: attempts belong to the node where the
//! request came in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::BoxFuture;
use phalanx_actors::request::{Answer, EventView, FailureKind};
use tokio::time::Instant;

use super::course::{BEGIN_WAIT, superseded, too_old};
use super::{Cluster, Router};
use crate::cluster::NodeId;
use crate::cluster::feed::ClusterFeed;
use crate::cluster::queries::Queries;
use crate::cluster::steward::Steward;
use crate::cluster::streams::ClusterStreams;
use crate::cluster::transport::{CallError, CallKind, Service};
use crate::cluster::wire::{self, Asked, Heading, Led, Said};

/// Answers peers on behalf of a router, a steward, a feed and the read models.
#[derive(Debug, Clone)]
pub struct Receiver {
    router: Router,
    steward: Arc<Steward>,
    feed: ClusterFeed,
    streams: ClusterStreams,
    queries: Queries,
}

impl Receiver {
    /// Answers questions from `router`, housekeeping from `steward`, shows the committed events of
    /// `feed` and `streams`, and hands clients' requests about read models to `queries`.
    #[must_use]
    pub fn new(
        router: Router,
        steward: Arc<Steward>,
        feed: ClusterFeed,
        streams: ClusterStreams,
        queries: Queries,
    ) -> Self {
        Self {
            router,
            steward,
            feed,
            streams,
            queries,
        }
    }
}

impl Service for Receiver {
    fn handle(
        &self,
        from: NodeId,
        kind: CallKind,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        match kind {
            CallKind::Command | CallKind::Read | CallKind::History | CallKind::Past => {
                let router = self.router.clone();
                Box::pin(async move { router.receive(from, request).await })
            }
            CallKind::Status
            | CallKind::Transfer
            | CallKind::Drain
            | CallKind::Undrain
            | CallKind::Reshape => {
                let steward = Arc::clone(&self.steward);
                Box::pin(async move { steward.receive(from, kind, &request).await })
            }
            CallKind::Copies | CallKind::Records => self.feed.receive(kind, &request),
            CallKind::Stream => self.streams.receive(&request),
            CallKind::Query => self.queries.receive(&request),
            CallKind::Vote | CallKind::PreVote | CallKind::Append | CallKind::TakeOver => Box::pin(
                std::future::ready(Err(format!("{kind:?} is not for the router"))),
            ),
        }
    }
}

/// How a question is dealt with.
enum Way {
    /// It is answered here.
    Here,
    /// This node leads in the term and is about to serve.
    Soon,
    /// It goes to another node.
    On(NodeId),
    /// It is none of ours.
    None,
}

impl Router {
    /// Answers a question of another node.
    pub(super) async fn receive(&self, from: NodeId, request: Bytes) -> Result<Bytes, String> {
        let (heading, asked) = wire::read_question(&request).map_err(|error| error.to_string())?;
        let Some(cluster) = &self.0.cluster else {
            return Err("this node is no member of a cluster of several".to_owned());
        };
        let deadline = Instant::now() + heading.time_left;
        let spoken = cluster.peers.protocol(from);
        let shard = heading.stream.shard(self.shards());
        let mut way = self.way(cluster, from, shard, &heading, &asked);
        if matches!(way, Way::Soon) {
            self.wait_until_serving(cluster, shard, &heading, &asked)
                .await;
            // A later attempt at a command may have come in meanwhile and have been decided: this one is
            // sent once more instead, behind it.
            way = if asked.question().stores() {
                Way::None
            } else {
                self.way(cluster, from, shard, &heading, &asked)
            };
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let said = match way {
            Way::Here => self.answer_here(&heading, &asked, left).await,
            Way::On(node) => {
                let stream = heading.stream.clone();
                let bytes = self
                    .hand_on(cluster, spoken, node, heading, &asked, left)
                    .await?;
                return in_version(spoken, &stream, bytes);
            }
            Way::Soon | Way::None => not_here(cluster, shard),
        };
        self.fitting(said, cluster.limits.answer_bytes, spoken)
    }

    /// Writes an answer so that it fits into a message. One that does not would end the connection,
    /// and every other call on it.
    fn fitting(&self, mut said: Said, most: usize, spoken: u32) -> Result<Bytes, String> {
        let write = |said: &Said| self.written(said, spoken);
        let message = write(&said)?;
        if message.len() <= most {
            return Ok(message);
        }
        let reason = format!(
            "the answer has {} bytes; transport.max_message_bytes lets {most} go to another node",
            message.len()
        );
        tracing::warn!(%reason, "an answer is too long for another node");
        let Said::Answer(Answer::Accepted(accepted)) = &mut said else {
            return write(&Said::failed(FailureKind::Internal, reason));
        };
        // It is stored, so it is answered: without the events' data, which the client may read.
        let bare = |event: &EventView| EventView {
            data: None,
            ..event.clone()
        };
        accepted.events = accepted.events.iter().map(bare).collect();
        let message = write(&said)?;
        if message.len() <= most {
            return Ok(message);
        }
        write(&Said::failed(FailureKind::OutcomeUnknown, reason))
    }

    fn written(&self, said: &Said, spoken: u32) -> Result<Bytes, String> {
        wire::said(self.node_id(), said, spoken).map_err(|error| error.to_string())
    }

    fn way(
        &self,
        cluster: &Cluster,
        from: NodeId,
        shard: ShardId,
        heading: &Heading,
        asked: &Asked,
    ) -> Way {
        let any_term = !asked.question().stores();
        let serving = self.0.model.serving_term(shard);
        if serving.is_some_and(|term| any_term || term == heading.term) {
            return if cluster.leaders.is_cut_off(shard) {
                Way::None
            } else {
                Way::Here
            };
        }
        match cluster.leaders.known(shard).led() {
            Some(Led { node, term }) if term == heading.term || any_term => {
                if node == self.node_id() {
                    Way::Soon
                } else if heading.hops > 0 && node != from {
                    Way::On(node)
                } else {
                    Way::None
                }
            }
            Some(_) | None => Way::None,
        }
    }

    async fn wait_until_serving(
        &self,
        cluster: &Cluster,
        shard: ShardId,
        heading: &Heading,
        asked: &Asked,
    ) {
        let weight = asked.question().weight();
        let Ok(_permit) = self.0.model.admit_elsewhere(&heading.stream, weight) else {
            return;
        };
        let Some(mut news) = cluster.leaders.watch(shard) else {
            return;
        };
        let term = cluster.leaders.known(shard).term;
        tokio::select! {
            () = self.0.model.began(shard, term) => {}
            () = superseded(term, &mut news) => {}
            () = tokio::time::sleep(heading.time_left.min(BEGIN_WAIT)) => {}
        }
    }

    async fn answer_here(&self, heading: &Heading, asked: &Asked, left: Duration) -> Said {
        let question = asked.question();
        let term = question.stores().then_some(heading.term);
        let here = self.here(&heading.stream, question, term);
        tokio::time::timeout(left, here).await.unwrap_or_else(|_| {
            let kind = if question.stores() {
                FailureKind::OutcomeUnknown
            } else {
                FailureKind::NoLeader
            };
            Said::failed(kind, "the leader did not answer in time")
        })
    }

    /// Hands a question to the leader on behalf of a node that cannot reach it.
    async fn hand_on(
        &self,
        cluster: &Cluster,
        spoken: u32,
        to: NodeId,
        heading: Heading,
        asked: &Asked,
        left: Duration,
    ) -> Result<Bytes, String> {
        let question = asked.question();
        if let Some(reason) = too_old(cluster, to, question) {
            let said = Said::failed(FailureKind::NoLeader, reason);
            return self.written(&said, spoken);
        }
        let admitted = self
            .0
            .model
            .admit_elsewhere(&heading.stream, question.weight());
        let _permit = match admitted {
            Ok(permit) => permit,
            Err(failure) => {
                let said = Said::Answer(Answer::Failed(failure));
                return self.written(&said, spoken);
            }
        };
        let shard = heading.stream.shard(self.shards());
        let heading = Heading {
            hops: heading.hops.saturating_sub(1),
            time_left: left,
            ..heading
        };
        let message = wire::question(&heading, question).map_err(|error| error.to_string())?;
        let call = cluster
            .peers
            .call(to, question.lane(), question.kind(), message, left);
        let said = match call.await {
            Ok(bytes) => return Ok(bytes),
            Err(CallError::NotSent { .. }) => not_here(cluster, shard),
            Err(error @ CallError::Unknown { .. }) if question.stores() => {
                Said::failed(FailureKind::OutcomeUnknown, error.to_string())
            }
            Err(error @ CallError::Unknown { .. }) => {
                Said::failed(FailureKind::NoLeader, error.to_string())
            }
            Err(CallError::Refused(reason)) => return Err(reason),
        };
        self.written(&said, spoken)
    }
}

/// What another node said, for an asker that may be older than it.
fn in_version(spoken: u32, stream: &StreamName, bytes: Bytes) -> Result<Bytes, String> {
    if spoken >= wire::CIRCUMSTANCES_SINCE {
        return Ok(bytes);
    }
    let (node, said) = wire::read_said(stream, &bytes).map_err(|error| error.to_string())?;
    wire::said(node, &said, spoken).map_err(|error| error.to_string())
}

fn not_here(cluster: &Cluster, shard: ShardId) -> Said {
    let known = cluster.leaders.known(shard);
    let reason = match known.leader {
        Some(node) => format!("node {node} leads shard {shard} in term {}", known.term),
        None => format!("no leader of shard {shard} is known in term {}", known.term),
    };
    Said::NotHere {
        leader: known.led(),
        reason,
    }
}
