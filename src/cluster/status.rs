//! How the cluster looks from a node: the words of `GET /v1/cluster` and `GET /v1/shards`, and of
//! the messages in which nodes tell one another.

use serde::{Deserialize, Serialize};

use super::NodeId;
use super::members::Standing;
use super::roles::Role;

/// One shard as a node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    /// The shard.
    pub shard: u32,
    /// Who votes in it; while voters are exchanged, those of before and after.
    pub voters: Vec<NodeId>,
    /// Who gets its log without a vote: a copy that is being built, or one that is on its way out.
    #[serde(default)]
    pub learners: Vec<NodeId>,
    /// While voters are exchanged, those of after.
    #[serde(default)]
    pub becoming: Vec<NodeId>,
    /// Whether a change of the voters is under way.
    #[serde(default)]
    pub changing: bool,
    /// Who leads it, as far as is known.
    pub leader: Option<NodeId>,
    /// The newest term that was heard of.
    pub term: u64,
    /// The last entry of this node's log; none when it is empty or the shard has no copy here.
    pub last_log_index: Option<u64>,
    /// The last entry that is applied here.
    pub applied_index: Option<u64>,
    /// How far the other copies are, as its leader sees it; empty where that is not known.
    pub followers: Vec<FollowerView>,
    /// Whether this node serves it: it leads it, and a majority answers.
    pub serving: bool,
    /// Why this node refuses to, if it does.
    pub refusal: Option<String>,
}

/// A copy as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerView {
    /// Where the copy is.
    pub node: NodeId,
    /// The last entry that it is known to have on disk.
    pub matched_index: Option<u64>,
    /// Entries that it lacks.
    pub lag: u64,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The node.
    pub node: NodeId,
    /// Made when its data directory was formatted.
    pub incarnation: String,
    /// Whether it hands over what it leads and takes nothing new.
    pub draining: bool,
    /// Every shard of the cluster.
    pub shards: Vec<ShardView>,
    /// Whether its disk has no space for commands.
    pub full: bool,
}

/// The end of a leader's log: of two, the later one knows more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEnd {
    /// The leader's term.
    pub term: u64,
    /// Its last entry.
    pub index: u64,
}

impl ShardView {
    /// Where the log ends here.
    #[must_use]
    pub fn log_end(&self) -> LogEnd {
        LogEnd {
            term: self.term,
            index: self.last_log_index.unwrap_or(0),
        }
    }
}

impl NodeView {
    /// Why the node should not be given a shard to lead now, if there is a reason.
    #[must_use]
    pub fn declines(&self) -> Option<&'static str> {
        match (self.draining, self.full) {
            (true, _) => Some("is draining"),
            (false, true) => Some("has no space for commands on its disk"),
            (false, false) => None,
        }
    }
}

/// `GET /v1/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster's name.
    pub name: String,
    /// The node that says so.
    pub node: NodeId,
    /// The number of shards.
    pub shards: u32,
    /// Copies of shards that are still to be moved, as far as this node can see.
    #[serde(default)]
    pub pending_moves: u32,
    /// Every member, by id.
    pub members: Vec<MemberView>,
}

/// A member as a node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// The member.
    pub id: NodeId,
    /// Where the others reach it.
    pub address: String,
    /// Made when its data directory was formatted; unknown while it cannot be asked.
    pub incarnation: Option<String>,
    /// How it is reached from the node that says so.
    pub state: MemberState,
    /// Why it is not connected.
    pub reason: Option<String>,
    /// `serving`, `joining`, `leaving`, `draining` or `unknown`.
    pub role: MemberRole,
    /// What it does for the cluster, as far as is known: see `node.roles` of the settings.
    #[serde(default)]
    pub roles: Vec<Role>,
    /// Shards that it leads.
    pub leads: u32,
    /// Shards in which it votes without leading.
    pub follows: u32,
    /// Whether its disk is full up to the reserve, so that it stores no commands.
    #[serde(default)]
    pub disk_full: bool,
}

/// How a member is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It is the node that says so.
    This,
    /// It can be asked.
    Connected,
    /// One of the two refuses the other.
    Refused,
    /// No connection.
    Unreachable,
}

/// What a member is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// It leads shards, or may.
    Serving,
    /// It has been added and is getting its share of copies.
    Joining,
    /// Its copies are being rebuilt elsewhere; it is no member after that.
    Leaving,
    /// It hands over what it leads and takes nothing new until that is taken back or it is restarted.
    Draining,
    /// It cannot be asked.
    Unknown,
}

/// A leader was moved, or stands already where it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The shard.
    pub shard: u32,
    /// Who led it before.
    pub from: NodeId,
    /// Who leads it now.
    pub to: NodeId,
    /// In which term.
    pub term: u64,
}

/// What a drain achieved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// The node.
    pub node: NodeId,
    /// It takes no leadership that somebody else can have, until this is taken back or it is restarted.
    pub draining: bool,
    /// What it handed over.
    pub moved: Vec<Moved>,
    /// What it still leads, and why.
    pub kept: Vec<Kept>,
}

/// A drain was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undrained {
    /// The node.
    pub node: NodeId,
    /// It may lead again.
    pub draining: bool,
    /// Whether it was draining before.
    pub was_draining: bool,
}

/// Why a node leads nothing though nobody asks for it any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum StaysDrained {
    /// It is on its way out.
    #[error("node {node} leaves the cluster, and there is no way back for a leave")]
    Leaving {
        /// The node.
        node: NodeId,
    },
    /// Its process is about to end.
    #[error("node {node} is shutting down; it leads again when it is back")]
    Stopping {
        /// The node.
        node: NodeId,
    },
}

/// A shard that could not be handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The shard.
    pub shard: u32,
    /// Why.
    pub reason: String,
}

/// How a step of changing a shard's voters ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reshaped {
    /// The voters are as they should be, and nobody else gets the log.
    Done,
    /// The step is not finished; looking again goes on with it.
    Unfinished {
        /// What it waits for.
        reason: String,
    },
    /// The leader is to vote no more, so another voter has to lead first.
    HandOver {
        /// Who could.
        to: Vec<NodeId>,
    },
}

/// A member that was asked to be added or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberChange {
    /// The member.
    pub id: NodeId,
    /// Where the others reach it; unknown for one that was removed.
    pub address: Option<String>,
    /// How far it is in or out.
    pub standing: Standing,
}

/// Why a leader was not moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MoveError {
    /// There is no such shard.
    #[error("there is no shard {shard}; the cluster has {shards}")]
    NoShard {
        /// The shard.
        shard: u32,
        /// How many there are.
        shards: u32,
    },
    /// There is no such member.
    #[error("there is no member {node}; GET /v1/cluster lists them")]
    NoMember {
        /// The node.
        node: NodeId,
    },
    /// Nobody leads the shard at the moment.
    #[error("no leader of shard {shard} is known")]
    NoLeader {
        /// The shard.
        shard: u32,
    },
    /// The node that would have to act cannot be asked.
    #[error(
        "node {node} cannot be asked: {reason}{}",
        if *.unasked { "; nothing was done" } else { "" }
    )]
    Unreachable {
        /// The node.
        node: NodeId,
        /// Why.
        reason: String,
        /// Whether it certainly was not asked, so that nothing was done. Known where it would have
        /// been asked, and not told to other nodes.
        #[serde(skip)]
        unasked: bool,
    },
    /// The move makes no sense, or not now.
    #[error("shard {shard} stays with node {leader}: {reason}")]
    Refused {
        /// The shard.
        shard: u32,
        /// Who leads it.
        leader: NodeId,
        /// Why.
        reason: String,
    },
    /// The shard has moved, but to somebody else.
    #[error("node {leader} was elected to lead shard {shard}, not node {to}")]
    Elsewhere {
        /// The shard.
        shard: u32,
        /// Who should lead it.
        to: NodeId,
        /// Who does.
        leader: NodeId,
    },
    /// The shard had no new leader in time.
    #[error("node {to} did not take shard {shard} over in time")]
    TooSlow {
        /// The shard.
        shard: u32,
        /// Who should.
        to: NodeId,
    },
}
