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
use tokio::sync::Notify;

use super::responder::ProposalResponder;

pub(crate) use crate::cluster::NodeId;

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
    type AsyncRuntime = super::runtime::GridRuntime;
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
#[derive(Debug, Clone)]
pub struct CommandBatch {
    pub(crate) records: Arc<[Record]>,
    /// Of a batch that this node proposes.
    pub(crate) entered: Option<Arc<Entered>>,
}

impl CommandBatch {
    /// A batch from the log, of this node or another.
    #[must_use]
    pub fn received(records: Arc<[Record]>) -> Self {
        Self {
            records,
            entered: None,
        }
    }

    /// A batch that is proposed here, and how its proposer learns that it is in the log.
    pub(crate) fn proposed(records: Arc<[Record]>) -> (Self, Arc<Entered>) {
        let entered = Arc::<Entered>::default();
        let batch = Self {
            records,
            entered: Some(Arc::clone(&entered)),
        };
        (batch, entered)
    }
}

impl PartialEq for CommandBatch {
    fn eq(&self, other: &Self) -> bool {
        self.records == other.records
    }
}

impl Eq for CommandBatch {}

impl fmt::Display for CommandBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.records.len())
    }
}

/// Tells a proposer that its batch is in the leader's log, or never will be. Until then it must not
/// propose the next one: raft refuses a batch for reasons that may be gone a moment later (a lease
/// that ran out, a transfer that failed), and a batch behind a refused one would leave a hole.
#[derive(Debug, Default)]
pub(crate) struct Entered(Notify);

impl Entered {
    pub(crate) fn signal(&self) {
        self.0.notify_one();
    }

    pub(crate) async fn wait(&self) {
        self.0.notified().await;
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

/// A vote as stored and as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredVote {
    term: u64,
    node_id: NodeId,
    committed: bool,
}

impl From<&RaftVote> for StoredVote {
    fn from(vote: &RaftVote) -> Self {
        Self {
            term: vote.leader_id.term,
            node_id: vote.leader_id.voted_for,
            committed: vote.committed,
        }
    }
}

impl From<StoredVote> for RaftVote {
    fn from(stored: StoredVote) -> Self {
        let mut vote = Self::new(stored.term, stored.node_id);
        vote.committed = stored.committed;
        vote
    }
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
    Ok(codec::seal(ValueType::Vote, 1, &StoredVote::from(vote))?.into())
}

pub(crate) fn vote_from_bytes(bytes: &[u8]) -> Result<RaftVote, CodecError> {
    codec::unseal::<StoredVote>(ValueType::Vote, bytes).map(Into::into)
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
