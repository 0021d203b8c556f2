//! The way to other nodes.
//!
//! A cluster of one has no other nodes, so this network reaches nobody and says so: a call through
//! it can only mean a membership that this node has no way to serve.

use std::future::Future;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{AnyError, BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::types::{NodeId, RaftVote, TypeConfig};

/// The network of a cluster of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Alone {
    target: NodeId,
}

impl Alone {
    pub(crate) fn new() -> Self {
        Self { target: 0 }
    }

    fn unreachable(self) -> Unreachable<TypeConfig> {
        let text = format!("this node has no connection to node {}", self.target);
        Unreachable::new(&AnyError::error(text))
    }
}

impl RaftNetworkFactory<TypeConfig> for Alone {
    type Network = Self;

    async fn new_client(&mut self, target: NodeId, _node: &BasicNode) -> Self {
        Self { target }
    }
}

impl RaftNetworkV2<TypeConfig> for Alone {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: RaftVote,
        _snapshot: SnapshotOf<TypeConfig, Vec<u8>>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }
}
