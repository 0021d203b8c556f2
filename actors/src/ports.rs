//! What the core needs from the outside: a journal to read streams from, a replicator that commits
//! batches, a gate for reads, and a clock.
//!
//! The core never learns what stands behind these traits.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;

use crate::names::{ShardId, StreamName};
use crate::record::Record;

/// A boxed future, for ports that are used behind `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why the journal could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// Stored bytes are damaged. The shard must not be served.
    #[error("shard {shard}: {what} is damaged: {reason}")]
    Corrupt {
        /// The shard.
        shard: ShardId,
        /// Which row or file.
        what: String,
        /// What a check found.
        reason: String,
    },
    /// The disk refused.
    #[error("failed to read the journal: {0}")]
    Io(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// Bytes of records from which on [`Journal::read_stream`] may end before its limit.
pub const STREAM_READ_BYTES: usize = 1 << 20;

/// Whether what [`Journal::read_stream`] gave for a limit goes to the end of the stream. If it does not,
/// there may be more.
#[must_use]
pub fn reached_end(records: &[Record], limit: usize) -> bool {
    let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
    records.len() < limit && bytes < STREAM_READ_BYTES
}

/// Reading one shard's committed streams. Implementations are synchronous and read from memory or
/// local disk; callers keep the amount per call small.
pub trait Journal: Debug + Send + Sync + 'static {
    /// The newest snapshot of a stream as it was saved; `None` when there is none.
    ///
    /// # Errors
    /// See [`JournalError`].
    fn read_snapshot(
        &self,
        shard: ShardId,
        stream: &StreamName,
    ) -> Result<Option<Vec<u8>>, JournalError>;

    /// Records of a stream whose first sequence number is at least `from_sequence`, plus the one
    /// that covers it, in order, at most `limit` of them. At least one if there is one, and not many
    /// more once they weigh [`STREAM_READ_BYTES`]: see [`reached_end`].
    ///
    /// # Errors
    /// See [`JournalError`].
    fn read_stream(
        &self,
        shard: ShardId,
        stream: &StreamName,
        from_sequence: u64,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError>;

    /// The record that an unexpired idempotency key of this stream led to.
    ///
    /// # Errors
    /// See [`JournalError`].
    fn find_key(
        &self,
        shard: ShardId,
        stream: &StreamName,
        key_hash: u128,
        now: Timestamp,
    ) -> Result<Option<Record>, JournalError>;

    /// Saves a snapshot some time soon. It is a cache: losing it costs a replay.
    fn save_snapshot(&self, shard: ShardId, stream: &StreamName, snapshot: Vec<u8>);

    /// The position number up to which index rows are visible to the methods above.
    fn indexed_position(&self, shard: ShardId) -> u64;

    /// Whether free space is under the reserve, so that nothing more must be stored.
    fn is_full(&self) -> bool;

    /// Whether so much of a shard waits in memory for its disk that no more must be stored. Other nodes may
    /// have it on theirs, and commit it, while this one's stands still.
    fn is_behind(&self, _shard: ShardId) -> bool {
        false
    }

    /// Waits until [`Journal::indexed_position`] reaches `position`.
    ///
    /// # Errors
    /// When the shard's storage is given up, or was thrown away meanwhile: its index gets nowhere then.
    fn wait_indexed(
        &self,
        shard: ShardId,
        position: u64,
    ) -> BoxFuture<'_, Result<(), JournalError>>;
}

/// One aggregate's committed records, wherever they are kept.
pub trait Streams: Debug + Send + Sync + 'static {
    /// Records of a stream from the one that covers `from_sequence` on, in order and without a gap: at
    /// least one if there is one that begins up to position `until`, and not more than are handled at
    /// once.
    ///
    /// # Errors
    /// Why nobody can tell, in words. Nothing was left out silently.
    fn read(
        &self,
        shard: ShardId,
        stream: &StreamName,
        from_sequence: u64,
        until: u64,
    ) -> BoxFuture<'_, Result<Vec<Record>, String>>;
}

/// A reader's place in one shard's committed events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedCursor {
    shard: ShardId,
    position: u64,
    next_index: Option<u64>,
}

impl FeedCursor {
    /// A place behind the event with position number `position`; 0 stands before the first one.
    #[must_use]
    pub fn after(shard: ShardId, position: u64) -> Self {
        Self {
            shard,
            position,
            next_index: None,
        }
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Position number of the last event that was read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Where a feed goes on reading; `None` when it has to look for the position first. Only the
    /// feed that set it knows what it means.
    #[must_use]
    pub fn next_index(&self) -> Option<u64> {
        self.next_index
    }

    /// Moves the place: for feeds.
    pub fn advance(&mut self, position: u64, next_index: u64) {
        self.position = position;
        self.next_index = Some(next_index);
    }
}

/// Committed events of each shard in the order of their positions. What comes out is never taken
/// back: an event that is not committed yet is not shown, on a leader or on a follower.
pub trait Feed: Debug + Send + Sync + 'static {
    /// Position number of the last event of a shard that is known here to be committed; 0 when
    /// there is none. It may take a moment until a feed that gets its events from another node can
    /// show them.
    fn committed_position(&self, shard: ShardId) -> u64;

    /// The records behind the cursor, in order, and moves it behind them. At least one if one is
    /// here, then until they weigh about `max_bytes`. The first may begin before the cursor when
    /// that stood within a record. None while they are still on their way from another node:
    /// [`Feed::wait_committed`] tells when they are here.
    ///
    /// # Errors
    /// See [`JournalError`].
    fn read_committed(
        &self,
        cursor: &mut FeedCursor,
        max_bytes: usize,
    ) -> Result<Vec<Record>, JournalError>;

    /// Waits until there is something to read behind `beyond`. Costs nothing while it waits.
    fn wait_committed(&self, shard: ShardId, beyond: u64) -> BoxFuture<'_, ()>;

    /// The shards whose newest events can be had from nowhere at the moment.
    fn unreadable_shards(&self) -> Vec<ShardId> {
        Vec::new()
    }
}

/// Commands that travel in one log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// In the order of their positions, without gaps; never empty.
    pub records: Arc<[Record]>,
}

/// How a proposal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposed {
    /// On disk on a quorum.
    Committed,
    /// It certainly never will be: refused before it entered the log.
    NotProposed,
    /// Nobody knows yet: it may or may not survive.
    Unknown,
}

/// Called once, in proposal order for [`Proposed::Committed`].
pub type ProposedCallback = Box<dyn FnOnce(Proposed) + Send>;

/// Commits batches of one shard in the leader's own term.
pub trait Replicator: Debug + Send + Sync + 'static {
    /// Proposes a batch if this node still leads in `term`. Batches commit in the order of calls.
    ///
    /// Returns once the batch is in the leader's log, or `done` was told that it never will be:
    /// whoever waits for that before the next call can leave no hole between two batches.
    fn propose(&self, term: u64, batch: Batch, done: ProposedCallback) -> BoxFuture<'_, ()>;

    /// Whether this node may answer reads in `term` now: one check serves every read that was
    /// waiting when it began.
    fn confirm_leadership(&self, term: u64) -> BoxFuture<'_, bool>;
}

/// Time, so that a simulation can stand in for it.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Wall-clock time.
    fn now(&self) -> Timestamp;

    /// Nanoseconds since some fixed moment; never runs backwards.
    fn monotonic_ns(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    started: std::time::Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            started: std::time::Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
