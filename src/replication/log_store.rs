//! One shard's log, vote and their order on disk, as openraft wants them.
//!
//! A thin translation: the journal owns the bytes, the order and the fsync. Nothing here says
//! "flushed" by itself; the journal's writer does, after the fsync.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures_util::{Stream, stream};
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use phalanx_actors::codec::CodecError;
use phalanx_actors::names::ShardId;
use phalanx_actors::ports::JournalError;
use tokio::sync::oneshot;

use super::types::{self, CommandBatch, RaftEntry, RaftLogId, RaftVote, TypeConfig};
use crate::journal::{Done, Journal, LogEntry, LogPayload, StorageFailure};

/// Bytes that one read for replication or applying may bring into memory. One more entry may follow,
/// so a message of replication is never larger than this and `raft.max_batch_bytes`.
const READ_BYTES: usize = 1 << 20;

/// See the file's description. Cheap to clone; clones read the same log.
#[derive(Debug, Clone)]
pub struct ShardLog {
    journal: Journal,
    shard: ShardId,
}

impl ShardLog {
    /// The log of one shard.
    #[must_use]
    pub fn new(journal: Journal, shard: ShardId) -> Self {
        Self { journal, shard }
    }

    fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<RaftEntry>> {
        let start = match self.purged()? {
            Some(purged) => start.max(purged.index() + 1),
            None => start,
        };
        if start >= end {
            return Ok(Vec::new());
        }
        self.read_stored(start, end, max_bytes)
            .map_err(|error| {
                // openraft ends the group for good, and nothing would tell.
                self.journal.group_failed(self.shard, &error);
                journal_error(error)
            })?
            .into_iter()
            .map(from_stored)
            .collect()
    }

    fn read_stored(
        &self,
        start: u64,
        end: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, JournalError> {
        fail::fail_point!("replication::read_log", |_| Err(JournalError::Io(
            Arc::new(io::Error::other("a failpoint"))
        )));
        self.journal.read_log(self.shard, start..end, max_bytes)
    }

    fn purged(&self) -> io::Result<Option<RaftLogId>> {
        let stored = self
            .journal
            .read_purged(self.shard)
            .map_err(journal_error)?;
        stored
            .map(|bytes| types::log_id_from_bytes(&bytes))
            .transpose()
            .map_err(codec_error)
    }

    /// Queues a write and waits until it is on disk.
    async fn written(&self, write: impl FnOnce(&Journal, Done)) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |result| {
            // The core may be shutting down and not listen any more.
            let _gone = sender.send(result);
        });
        write(&self.journal, done);
        match receiver.await {
            Ok(result) => result.map_err(storage_error),
            Err(_) => Err(io::Error::other("the journal stopped")),
        }
    }
}

/// From which entry on, and before which.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for ShardLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX)
    }

    /// What is applied: after a crash it may be much.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<RaftEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut start, end) = bounds(&range);
        let log = self.clone();
        let mut entries = Vec::new().into_iter();
        let next = move || loop {
            if let Some(entry) = entries.next() {
                let entry: RaftEntry = entry;
                start = entry.index() + 1;
                return Some(Ok(entry));
            }
            if start >= end {
                return None;
            }
            match log.read(start, end, READ_BYTES) {
                Ok(read) if read.is_empty() => return None,
                Ok(read) => entries = read.into_iter(),
                Err(error) => {
                    start = end;
                    return Some(Err(error));
                }
            }
        };
        stream::iter(std::iter::from_fn(next))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(start, end, READ_BYTES)
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        let stored = self.journal.read_vote(self.shard).map_err(journal_error)?;
        stored
            .map(|bytes| types::vote_from_bytes(&bytes))
            .transpose()
            .map_err(codec_error)
    }
}

impl RaftLogStorage<TypeConfig> for ShardLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id = self.purged()?;
        let bounds = self.journal.log_bounds(self.shard).map_err(journal_error)?;
        let last = bounds
            .map(|bounds| types::log_id_from_bytes(&bounds.last_meta))
            .transpose()
            .map_err(codec_error)?;
        Ok(LogState {
            last_log_id: last.max(last_purged_log_id),
            last_purged_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let bytes = types::vote_to_bytes(vote).map_err(codec_error)?;
        self.written(|journal, done| journal.save_vote(self.shard, bytes, done))
            .await
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut proposers = Vec::new();
        let entries: Vec<LogEntry> = entries
            .into_iter()
            .map(|mut entry| {
                if let EntryPayload::Normal(batch) = &mut entry.payload {
                    proposers.extend(batch.entered.take());
                }
                to_stored(entry)
            })
            .collect::<Result<_, _>>()
            .map_err(codec_error)?;
        let done: Done =
            Box::new(move |result| callback.io_completed(result.map_err(storage_error)));
        self.journal.append(self.shard, entries, done);
        for proposer in proposers {
            proposer.signal();
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> Result<(), io::Error> {
        let last_kept = last_log_id.map(|log_id| log_id.index());
        self.written(|journal, done| journal.truncate_after(self.shard, last_kept, done))
            .await
    }

    /// Hides what was purged. The log is the event log: nothing is ever deleted from it, and the
    /// configuration of every group keeps openraft from asking.
    async fn purge(&mut self, log_id: RaftLogId) -> Result<(), io::Error> {
        let bytes = types::log_id_to_bytes(log_id).map_err(codec_error)?;
        self.written(|journal, done| journal.save_purged(self.shard, bytes, done))
            .await
    }
}

fn to_stored(entry: RaftEntry) -> Result<LogEntry, CodecError> {
    let log_id = entry.log_id();
    let payload = match entry.payload {
        EntryPayload::Normal(batch) => LogPayload::Records(batch.records),
        other => LogPayload::Other(types::payload_to_bytes(&other)?.unwrap_or_default()),
    };
    Ok(LogEntry {
        index: log_id.index(),
        meta: types::log_id_to_bytes(log_id)?,
        payload,
    })
}

fn from_stored(entry: LogEntry) -> io::Result<RaftEntry> {
    let log_id = types::log_id_from_bytes(&entry.meta).map_err(codec_error)?;
    let payload = match entry.payload {
        LogPayload::Records(records) => EntryPayload::Normal(CommandBatch::received(records)),
        LogPayload::Other(bytes) => types::payload_from_bytes(&bytes).map_err(codec_error)?,
    };
    Ok(RaftEntry::new(log_id, payload))
}

pub(crate) fn journal_error(error: JournalError) -> io::Error {
    io::Error::other(error)
}

pub(crate) fn codec_error(error: CodecError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn storage_error(error: StorageFailure) -> io::Error {
    io::Error::other(error)
}
