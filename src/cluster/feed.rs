//! Committed events of all shards on any node: from its own copy where it has one, else from a
//! member that has.
//!
//! Owns what this node knows of the copies of others, and a bounded number of pages of their
//! records. Refuses to show anything that the member which told it has not committed, and to serve
//! others from what it has from others. Invariant: a record is asked for by the position behind which
//! it stands and taken only if it continues there, so whoever it comes from, nothing is left out and
//! nothing comes twice: positions are the same on all copies, and what is committed stays.
//!
//! ```text
//! reader --read_committed--> own copy
//!                       \--> pages <--fetch-- a member whose head is beyond the reader
//!        --wait_committed--> own copy grows, or a page arrives
//!                       heads <--following-- every member, one waiting call each
//! ```

mod fetch;
mod following;
mod pages;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use phalanx_actors::names::ShardId;
use phalanx_actors::ports::{BoxFuture, Feed, FeedCursor, JournalError};
use phalanx_actors::record::Record;
use tokio::sync::watch;
use tokio::time::Instant;

use self::pages::Pages;
use super::NodeId;
use super::handshake::PROTOCOL_WITH_FEEDS;
use super::metrics::FeedMetrics;
use super::peers::Peers;
use super::transport::CallKind;
use super::wire::{self, CopiesQuestion, RecordsAnswer, RecordsQuestion};

/// What the pages of all shards may weigh together.
const TOTAL_BYTES: usize = 64 << 20;
/// The largest page that is asked for.
const PAGE_BYTES: usize = 512 << 10;
/// The smallest, in a cluster with very many shards.
const LEAST_PAGE_BYTES: usize = 16 << 10;

/// What this node has of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// Nothing, or what is left of a copy that went elsewhere.
    None,
    /// A copy that must not be read.
    Damaged,
    /// One that is being built, and may be far behind.
    Building,
    /// One that counts.
    Full,
}

impl Copy {
    /// Whether what is here may be shown.
    fn is_readable(self) -> bool {
        self != Self::Damaged
    }

    /// Whether other members may rely on it.
    fn serves_others(self) -> bool {
        matches!(self, Self::Building | Self::Full)
    }
}

/// The copies of this node.
pub trait Copies: Debug + Send + Sync + 'static {
    /// What this node has of a shard. Asked often: it should cost little.
    fn copy(&self, shard: ShardId) -> Copy;
}

/// See the file's description. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClusterFeed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    local: Arc<dyn Feed>,
    copies: Arc<dyn Copies>,
    peers: Arc<dyn Peers>,
    shards: Vec<Remote>,
    /// What the pages of a shard may weigh.
    shard_bytes: usize,
    page_bytes: usize,
    runtime: tokio::runtime::Handle,
    metrics: FeedMetrics,
}

/// A shard as other members have it.
#[derive(Debug)]
struct Remote {
    state: Mutex<State>,
    /// Tells that it is worth looking again.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest position that each member with a copy has committed.
    heads: BTreeMap<NodeId, u64>,
    /// The newest position that anybody was ever known to have committed.
    known: u64,
    pages: Pages,
    /// Positions behind which records are on their way.
    fetching: BTreeSet<u64>,
    /// Who gave the last page.
    source: Option<NodeId>,
    /// Who failed to, and until when others are preferred.
    blamed: BTreeMap<NodeId, Instant>,
}

impl ClusterFeed {
    /// A feed over the copies of this node, which `local` reads, and those of its peers. Needs a
    /// runtime. It knows nothing of others until [`ClusterFeed::run`] runs.
    #[must_use]
    pub fn new(
        shards: u32,
        local: Arc<dyn Feed>,
        copies: Arc<dyn Copies>,
        peers: Arc<dyn Peers>,
    ) -> Self {
        let share = TOTAL_BYTES / usize::try_from(shards).unwrap_or(usize::MAX).max(1);
        let remote = |_| Remote {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
        };
        Self(Arc::new(Inner {
            local,
            copies,
            peers,
            shards: (0..shards).map(remote).collect(),
            shard_bytes: share,
            page_bytes: (share / 4).clamp(LEAST_PAGE_BYTES, PAGE_BYTES),
            runtime: tokio::runtime::Handle::current(),
            metrics: FeedMetrics::default(),
        }))
    }

    /// Answers a question of another member, from this node's own copies only.
    pub(crate) fn receive(
        &self,
        kind: CallKind,
        request: &[u8],
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let inner = Arc::clone(&self.0);
        let answered = match kind {
            CallKind::Copies => match wire::read_housekeeping::<CopiesQuestion>(request) {
                Ok(question) => {
                    return Box::pin(async move {
                        let answer = following::tell_copies(inner, question).await;
                        wire::housekeeping(&answer).map_err(|error| error.to_string())
                    });
                }
                Err(error) => Err(error.to_string()),
            },
            _ => match wire::read_housekeeping::<RecordsQuestion>(request) {
                Ok(question) => return Box::pin(async move { inner.tell_records(question) }),
                Err(error) => Err(error.to_string()),
            },
        };
        Box::pin(std::future::ready(answered))
    }
}

impl Inner {
    fn remote(&self, shard: ShardId) -> Option<&Remote> {
        self.shards.get(usize::try_from(shard).ok()?)
    }

    /// Whether a member is connected and knows these questions.
    fn can_be_asked(&self, member: NodeId) -> bool {
        self.peers.is_connected(member) && self.peers.protocol(member) >= PROTOCOL_WITH_FEEDS
    }

    fn tell_records(&self, question: RecordsQuestion) -> Result<Bytes, String> {
        let RecordsQuestion {
            shard,
            after,
            max_bytes,
        } = question;
        if !self.copies.copy(shard).serves_others() {
            return Err(format!("this node keeps no copy of shard {shard}"));
        }
        let max_bytes = usize::try_from(max_bytes)
            .unwrap_or(usize::MAX)
            .min(PAGE_BYTES);
        let mut cursor = FeedCursor::after(shard, after);
        let read = self.local.read_committed(&mut cursor, max_bytes);
        let mut records = read.map_err(|error| error.to_string())?;
        // Of a large entry, only the beginning.
        let mut bytes = 0;
        let too_many = records.iter().position(|record| {
            bytes += record.bytes.len();
            bytes > max_bytes
        });
        records.truncate(too_many.map_or(records.len(), |kept| kept.max(1)));
        let committed = self.local.committed_position(shard);
        let answer = RecordsAnswer { committed, records };
        wire::records(&answer).map_err(|error| error.to_string())
    }

    /// Whether something behind a position can be read now. If not, sees to it that it will be.
    fn is_here(self: &Arc<Self>, remote: &Remote, shard: ShardId, beyond: u64) -> bool {
        let copy = self.copies.copy(shard);
        if copy.is_readable() && self.local.committed_position(shard) > beyond {
            return true;
        }
        if copy == Copy::Full {
            return false;
        }
        let here = remote.state.lock().pages.covers(beyond);
        if !here {
            self.want(shard, beyond);
        }
        here
    }
}

impl Feed for ClusterFeed {
    fn committed_position(&self, shard: ShardId) -> u64 {
        let known = self.0.remote(shard).map(|remote| remote.state.lock().known);
        let local = self.0.local.committed_position(shard);
        local.max(known.unwrap_or_default())
    }

    fn read_committed(
        &self,
        cursor: &mut FeedCursor,
        max_bytes: usize,
    ) -> Result<Vec<Record>, JournalError> {
        let (shard, after) = (cursor.shard(), cursor.position());
        let copy = self.0.copies.copy(shard);
        let local = copy.is_readable() && self.0.local.committed_position(shard) > after;
        if local || copy == Copy::Full {
            return self.0.local.read_committed(cursor, max_bytes);
        }
        let Some(remote) = self.0.remote(shard) else {
            return Ok(Vec::new());
        };
        let found = remote.state.lock().pages.read(after, max_bytes);
        let Some((records, last)) = found else {
            self.0.want(shard, after);
            return Ok(Vec::new());
        };
        // Where the own copy would go on is not known.
        *cursor = FeedCursor::after(shard, last);
        Ok(records)
    }

    fn wait_committed(&self, shard: ShardId, beyond: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some(remote) = self.0.remote(shard) else {
                return std::future::pending().await;
            };
            let mut changed = remote.changed.subscribe();
            loop {
                changed.mark_unchanged();
                if self.0.is_here(remote, shard, beyond) {
                    return;
                }
                let readable = self.0.copies.copy(shard).is_readable();
                tokio::select! {
                    // The sender lives as long as `self`.
                    _ = changed.changed() => {}
                    () = self.0.local.wait_committed(shard, beyond), if readable => {}
                }
            }
        })
    }

    fn unreadable_shards(&self) -> Vec<ShardId> {
        let lacks = |shard: &ShardId| {
            let nobody = |remote: &Remote| remote.state.lock().heads.is_empty();
            self.0.copies.copy(*shard) != Copy::Full && self.0.remote(*shard).is_none_or(nobody)
        };
        let shards = u32::try_from(self.0.shards.len()).unwrap_or(u32::MAX);
        (0..shards).filter(lacks).collect()
    }
}
