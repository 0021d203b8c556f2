//! The raft types of this node, and their stored forms.
//!
//! Nobody outside of `replication` names openraft. The stored forms are our own small structs, so a
//! change of openraft's types cannot change bytes on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::EntryPayload;
use openraft::impls::leader_id_std::LeaderId;
use openraft::{BasicNode, LogId, Membership, RaftTypeConfig, StoredMembership};
use phalanx_actors::codec::{self, CodecError, ValueType};
use phalanx_actors::record::Record;
use serde::{Deserialize, Serialize};

use super::responder::ProposalResponder;

/// A node's id.
pub(crate) type NodeId = u64;

/// The type configuration of every shard's raft group: at most one leader per term.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = CommandBatch;
    type R = ();
    type NodeId = NodeId;
    type Node = BasicNode;
    type Term = u64;
    type LeaderId = LeaderId<u64, NodeId>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry =
        openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = ProposalResponder<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type Committed = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type RaftEntry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type RaftLogId = LogId<Committed>;
pub(crate) type RaftMembership = Membership<NodeId, BasicNode>;
pub(crate) type RaftStoredMembership = StoredMembership<Committed, NodeId, BasicNode>;
pub(crate) type RaftVote = openraft::type_config::alias::VoteOf<TypeConfig>;

/// What one log entry carries: the records of a batch of commands. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandBatch(pub(crate) Arc<[Record]>);

impl fmt::Display for CommandBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.0.len())
    }
}

/// A log id as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredLogId {
    term: u64,
    index: u64,
}

impl From<RaftLogId> for StoredLogId {
    fn from(log_id: RaftLogId) -> Self {
        Self {
            term: **log_id.committed_leader_id(),
            index: log_id.index(),
        }
    }
}

impl From<StoredLogId> for RaftLogId {
    fn from(stored: StoredLogId) -> Self {
        Self::new_term_index(stored.term, stored.index)
    }
}

#[derive(Serialize, Deserialize)]
struct StoredVote {
    term: u64,
    node_id: NodeId,
    committed: bool,
}

/// A membership as stored: voter sets (two while it changes) and every node's address.
#[derive(Debug, Serialize, Deserialize)]
struct StoredConfig {
    voters: Vec<BTreeSet<NodeId>>,
    addresses: BTreeMap<NodeId, String>,
}

/// The payload of an entry that carries no commands.
#[derive(Serialize, Deserialize)]
enum StoredPayload {
    Blank,
    Membership(StoredConfig),
}

/// What is applied, as stored.
#[derive(Serialize, Deserialize)]
struct StoredApplied {
    last: Option<StoredLogId>,
    membership_log_id: Option<StoredLogId>,
    membership: StoredConfig,
}

impl From<&RaftMembership> for StoredConfig {
    fn from(membership: &RaftMembership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            addresses: membership
                .nodes()
                .map(|(id, node)| (*id, node.addr.clone()))
                .collect(),
        }
    }
}

impl StoredConfig {
    fn restore(self) -> Result<RaftMembership, CodecError> {
        if self.voters.is_empty() && self.addresses.is_empty() {
            return Ok(RaftMembership::default());
        }
        let nodes: BTreeMap<NodeId, BasicNode> = self
            .addresses
            .into_iter()
            .map(|(id, address)| (id, BasicNode::new(address)))
            .collect();
        RaftMembership::new(self.voters, nodes)
            .map_err(|_| CodecError::Decode(bincode::error::DecodeError::Other("not a membership")))
    }
}

pub(crate) fn vote_to_bytes(vote: &RaftVote) -> Result<Bytes, CodecError> {
    let stored = StoredVote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.voted_for,
        committed: vote.committed,
    };
    Ok(codec::seal(ValueType::Vote, 1, &stored)?.into())
}

pub(crate) fn vote_from_bytes(bytes: &[u8]) -> Result<RaftVote, CodecError> {
    let stored: StoredVote = codec::unseal(ValueType::Vote, bytes)?;
    let mut vote = RaftVote::new(stored.term, stored.node_id);
    vote.committed = stored.committed;
    Ok(vote)
}

pub(crate) fn log_id_to_bytes(log_id: RaftLogId) -> Result<Bytes, CodecError> {
    Ok(codec::to_bytes(&StoredLogId::from(log_id))?.into())
}

pub(crate) fn log_id_from_bytes(bytes: &[u8]) -> Result<RaftLogId, CodecError> {
    codec::from_bytes::<StoredLogId>(bytes).map(Into::into)
}

/// The stored form of a payload without commands; `None` for commands.
pub(crate) fn payload_to_bytes(
    payload: &EntryPayload<CommandBatch, NodeId, BasicNode>,
) -> Result<Option<Bytes>, CodecError> {
    let stored = match payload {
        EntryPayload::Blank => StoredPayload::Blank,
        EntryPayload::Membership(membership) => StoredPayload::Membership(membership.into()),
        EntryPayload::Normal(_) => return Ok(None),
    };
    Ok(Some(codec::seal(ValueType::Entry, 1, &stored)?.into()))
}

pub(crate) fn payload_from_bytes(
    bytes: &[u8],
) -> Result<EntryPayload<CommandBatch, NodeId, BasicNode>, CodecError> {
    Ok(match codec::unseal(ValueType::Entry, bytes)? {
        StoredPayload::Blank => EntryPayload::Blank,
        StoredPayload::Membership(config) => EntryPayload::Membership(config.restore()?),
    })
}

pub(crate) fn applied_to_bytes(
    last: Option<RaftLogId>,
    membership: &RaftStoredMembership,
) -> Result<Bytes, CodecError> {
    let stored = StoredApplied {
        last: last.map(Into::into),
        membership_log_id: membership.log_id().map(Into::into),
        membership: membership.membership().into(),
    };
    Ok(codec::seal(ValueType::Applied, 1, &stored)?.into())
}

pub(crate) fn applied_from_bytes(
    bytes: &[u8],
) -> Result<(Option<RaftLogId>, RaftStoredMembership), CodecError> {
    let stored: StoredApplied = codec::unseal(ValueType::Applied, bytes)?;
    let membership = RaftStoredMembership::new(
        stored.membership_log_id.map(Into::into),
        stored.membership.restore()?,
    );
    Ok((stored.last.map(Into::into), membership))
}
