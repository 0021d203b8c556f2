//! The way from callers to the writer: two lists, one that an fsync must cover and one that may ride
//! along later.
//!
//! Owns: when the writer is woken. Invariant: both lists keep the order in which they were filled.
//! A wake-up costs a system call and a switch, and a write of index rows costs the same few rows over
//! again (each shard's applied mark), so index work waits until there is enough of it, or until it is
//! old, or until somebody wants to read it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use phalanx_actors::names::{ShardId, StreamName};

use super::shard::{LogEnd, Placed};
use super::types::{Applied, AppliedRecord, Done};

/// How long index work may wait for more of it.
const INDEX_DELAY: Duration = Duration::from_millis(5);
/// Records that are indexed without waiting for more.
const INDEX_RECORDS: usize = 512;

/// Something that an fsync must cover.
pub(crate) struct LogWork {
    pub(crate) shard: ShardId,
    /// The log's count of truncations when this was queued.
    pub(crate) truncations: u64,
    pub(crate) kind: LogWorkKind,
    pub(crate) done: Done,
}

/// See [`LogWork`].
#[derive(Debug)]
pub(crate) enum LogWorkKind {
    /// Entries, not empty.
    Append(Vec<Placed>),
    /// A vote and its number.
    Vote(u64, Bytes),
    /// What raft calls purged; nothing is removed.
    Purged(Bytes),
    /// Removes the entries from `from` to before `until`; `kept` is the new end.
    Truncate {
        from: u64,
        until: u64,
        kept: Option<LogEnd>,
    },
    /// Removes everything of a damaged shard and puts this vote in its place.
    Discard(Bytes),
}

/// A shard's rows, until they are thrown away: what was meant for those before is none of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) shard: ShardId,
    /// Counts how often the shard began anew.
    pub(crate) number: u64,
}

/// Something that needs no fsync.
#[derive(Debug)]
pub(crate) enum IndexWork {
    /// Committed records and how far they go.
    Apply(Life, Vec<AppliedRecord>, Applied),
    /// A snapshot of an aggregate.
    Snapshot(Life, StreamName, Vec<u8>),
}

impl IndexWork {
    pub(crate) fn life(&self) -> Life {
        match self {
            Self::Apply(life, ..) | Self::Snapshot(life, ..) => *life,
        }
    }

    fn records(&self) -> usize {
        match self {
            Self::Apply(_, records, _) => records.len(),
            Self::Snapshot(..) => 1,
        }
    }
}

/// What the writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Writer {
    /// Works, and looks at the queue before it waits.
    #[default]
    Busy,
    /// Waits for a moment; will look at index work by itself.
    Napping,
    /// Waits until it is woken.
    Sleeping,
}

#[derive(Default)]
struct State {
    log: Vec<LogWork>,
    index: Vec<IndexWork>,
    /// Records in `index`.
    index_records: usize,
    /// When the oldest of them came.
    index_since: Option<Instant>,
    writer: Writer,
    /// Number of those who wait for the index.
    waiting: usize,
    closed: bool,
    /// An inline writer is at it further up the stack.
    draining: bool,
}

impl State {
    /// Whether index work should be done now.
    fn is_index_due(&self) -> bool {
        let old = |since: Instant| since.elapsed() >= INDEX_DELAY;
        !self.index.is_empty()
            && (self.waiting > 0
                || self.closed
                || self.index_records >= INDEX_RECORDS
                || self.index_since.is_some_and(old))
    }

    fn take_index(&mut self, taken: &mut Taken) {
        std::mem::swap(&mut self.index, &mut taken.index);
        self.index_records = 0;
        self.index_since = None;
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

/// What the writer took.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) log: Vec<LogWork>,
    pub(crate) index: Vec<IndexWork>,
}

impl Taken {
    pub(crate) fn is_empty(&self) -> bool {
        self.log.is_empty() && self.index.is_empty()
    }
}

/// How long the writer waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Index work is expected soon.
    pub(crate) nap: bool,
    /// Return after this even if nothing comes.
    pub(crate) at_most: Option<Duration>,
}

impl Queue {
    /// Queues log work; gives it back when the queue is closed.
    pub(crate) fn push_log(&self, work: LogWork) -> Result<(), LogWork> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(work);
        }
        state.log.push(work);
        let waiting = std::mem::take(&mut state.writer) != Writer::Busy;
        drop(state);
        if waiting {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Queues index work; drops it when the queue is closed.
    pub(crate) fn push_index(&self, work: IndexWork) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.index_records += work.records();
        state.index.push(work);
        state.index_since.get_or_insert_with(Instant::now);
        let wake = match state.writer {
            Writer::Busy => false,
            Writer::Napping => state.waiting > 0 || state.index_records >= INDEX_RECORDS,
            Writer::Sleeping => true,
        };
        if wake {
            state.writer = Writer::Busy;
        }
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Has index work done without delay for as long as the guard lives.
    pub(crate) fn hurry(&self) -> Hurry<'_> {
        let mut state = self.state.lock();
        state.waiting += 1;
        let idle = std::mem::take(&mut state.writer) != Writer::Busy;
        drop(state);
        if idle {
            self.wake.notify_one();
        }
        Hurry { queue: self }
    }

    /// Takes no more work; what is queued is still done.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// Whether no more work is taken.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Takes everything, waiting for something to come. `true` says that nothing will follow.
    pub(crate) fn take(&self, taken: &mut Taken, patience: Patience) -> bool {
        let mut state = self.state.lock();
        let mut nap = patience.nap;
        let mut tired = false;
        loop {
            let due = state.is_index_due();
            if !state.log.is_empty() || due || state.closed || tired {
                std::mem::swap(&mut state.log, &mut taken.log);
                if due {
                    state.take_index(taken);
                }
                return state.closed;
            }
            nap |= !state.index.is_empty();
            state.writer = if nap {
                Writer::Napping
            } else {
                Writer::Sleeping
            };
            let wait = if nap {
                let age = state.index_since.map_or(Duration::ZERO, |i| i.elapsed());
                Some(INDEX_DELAY.saturating_sub(age))
            } else {
                patience.at_most
            };
            let timed_out = match wait {
                Some(wait) => self.wake.wait_for(&mut state, wait).timed_out(),
                None => {
                    self.wake.wait(&mut state);
                    false
                }
            };
            state.writer = Writer::Busy;
            if timed_out {
                tired = !nap;
                nap = false;
            }
        }
    }

    /// Takes everything for a writer on the caller's thread; `false` when there is nothing or when
    /// the caller runs inside of that writer.
    pub(crate) fn take_inline(&self, taken: &mut Taken) -> bool {
        let mut state = self.state.lock();
        if state.draining || (state.log.is_empty() && state.index.is_empty()) {
            return false;
        }
        state.draining = true;
        std::mem::swap(&mut state.log, &mut taken.log);
        state.take_index(taken);
        true
    }

    /// Ends what [`Queue::take_inline`] began.
    pub(crate) fn drained_inline(&self) {
        self.state.lock().draining = false;
    }
}

/// See [`Queue::hurry`].
pub(crate) struct Hurry<'a> {
    queue: &'a Queue,
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.waiting = state.waiting.saturating_sub(1);
    }
}
