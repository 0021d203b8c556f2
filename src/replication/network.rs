//! Raft's way to another node, over the transport.
//!
//! Owns the translation of openraft's calls into calls of the transport and of their failures into
//! openraft's. It refuses to retry: openraft does, at the pace that [`RETRY_PAUSE`] sets.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{AnyError, BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use phalanx_actors::codec::CodecError;
use phalanx_actors::names::ShardId;
use tokio::time::Instant;

use super::pipeline::Pipeline;
use super::promises::Promises;
use super::types::{NodeId, RaftVote, TypeConfig};
use super::wire;
use crate::cluster::peers::Peers;
use crate::cluster::transport::{CallError, CallKind, Lane};

/// Between attempts at a peer that cannot be reached. An attempt costs no message then.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

type RpcError = RPCError<TypeConfig>;

/// Makes the ways of one shard's group.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    shard: ShardId,
    peers: Arc<dyn Peers>,
    promises: Arc<Promises>,
    patience: Duration,
}

impl Network {
    /// `patience` is how long an answer of a follower may take; `promises` learns of them.
    pub(crate) fn new(
        shard: ShardId,
        peers: Arc<dyn Peers>,
        promises: Arc<Promises>,
        patience: Duration,
    ) -> Self {
        Self {
            shard,
            peers,
            promises,
            patience,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: NodeId, _node: &BasicNode) -> Way {
        Way {
            shard: self.shard,
            target,
            peers: Arc::clone(&self.peers),
            promises: Arc::clone(&self.promises),
            patience: self.patience,
        }
    }
}

/// The way of one shard's group to one node.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) shard: ShardId,
    pub(crate) target: NodeId,
    pub(crate) peers: Arc<dyn Peers>,
    promises: Arc<Promises>,
    pub(crate) patience: Duration,
}

impl Way {
    /// Notes what the answer to a request of this term says, which was sent at this moment or later.
    /// Only a follower of the term looks at the entries of a request.
    pub(crate) fn note(
        &self,
        term: u64,
        sent: Instant,
        answer: &AppendEntriesResponse<TypeConfig>,
    ) {
        match answer {
            AppendEntriesResponse::Success
            | AppendEntriesResponse::PartialSuccess(_)
            | AppendEntriesResponse::Conflict => self.promises.note(term, self.target, sent),
            AppendEntriesResponse::HigherVote(_) => {}
        }
    }

    async fn ask(
        &self,
        kind: CallKind,
        request: Result<Bytes, CodecError>,
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        let request = request.map_err(unreadable)?;
        self.peers
            .call(self.target, Lane::Raft, kind, request, timeout)
            .await
            .map_err(failed)
    }
}

/// A failed call in openraft's terms: what says that the peer is not there makes openraft pause.
pub(crate) fn failed(error: CallError) -> RpcError {
    match error {
        CallError::NotSent { .. } | CallError::Refused(_) => {
            RPCError::Unreachable(Unreachable::new(&error))
        }
        CallError::Unknown { .. } => RPCError::Network(NetworkError::new(&error)),
    }
}

pub(crate) fn unreadable(error: CodecError) -> RpcError {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkV2<TypeConfig> for Way {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let request = wire::append_to_bytes(self.shard, &rpc).map(|(bytes, _)| bytes);
        let (term, sent) = (rpc.vote.leader_id.term, Instant::now());
        let answer = self.ask(CallKind::Append, request, self.patience).await?;
        let answer = wire::append_answer_from_bytes(&answer).map_err(unreadable)?;
        self.note(term, sent, &answer);
        Ok(answer)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let pipeline = Pipeline::new(self.clone(), input);
        Box::pin(std::future::ready(Ok(pipeline.into_stream())))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let request = wire::vote_ask_to_bytes(self.shard, &rpc);
        let answer = self.ask(CallKind::Vote, request, option.soft_ttl()).await?;
        wire::vote_answer_from_bytes(&answer).map_err(unreadable)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let request = wire::vote_ask_to_bytes(self.shard, &rpc);
        let answer = self
            .ask(CallKind::PreVote, request, option.soft_ttl())
            .await?;
        wire::vote_answer_from_bytes(&answer).map_err(unreadable)
    }

    /// Never needed: the log is whole, so a follower that lacks something gets the log.
    async fn full_snapshot(
        &mut self,
        _vote: RaftVote,
        _snapshot: SnapshotOf<TypeConfig, Vec<u8>>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let text = format!(
            "shard {}: node {} was to get a snapshot, but the log is never purged and is sent \
             itself; this is a defect",
            self.shard, self.target
        );
        let error = Unreachable::new(&AnyError::error(text));
        Err(StreamingError::Unreachable(error))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let request = wire::take_over_to_bytes(self.shard, &req);
        let answer = self.ask(CallKind::TakeOver, request, self.patience).await?;
        match wire::take_over_answer_from_bytes(&answer).map_err(unreadable)? {
            None => Ok(Ok(())),
            // The words serve people; openraft only logs the failure and goes on.
            Some(reason) => Err(RPCError::Network(NetworkError::new(&AnyError::error(
                reason,
            )))),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY_PAUSE)))
    }
}
