//! A journal that nobody serves, opened to be looked at.
//!
//! Owns: opening a data directory without changing a byte of it, and going through its streams. Refuses:
//! a directory that a node uses, and to format, to repair or to write anything. While it is open no
//! node can start on the directory. Invariant: every event of the log is shown, also those whose index
//! rows a crash took: they are indexed in memory.

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::{Clock, JournalError, SystemClock};

use super::directory::Directory;
use super::disk::{Batch, Durability, Scan, Table};
use super::index;
use super::open::{self, Opened};
use super::overlay::Overlay;
use super::queue::IndexWork;
use super::rocks::RocksDisk;
use super::rows;
use super::shard::Shard;
use super::shared::Shared;
use super::types::{Applied, AppliedRecord, Identity, JournalOptions, LogPayload, OpenError};
use super::{Inner, Journal};

/// Log that is read at once to index it.
const INDEX_BYTES: usize = 4 << 20;

impl Journal {
    /// Opens a directory to read it, whoever's it is; says whose. Nothing is ever written.
    ///
    /// # Errors
    /// [`OpenError`] when it is in use, is none of ours, or cannot be read.
    pub fn open_read_only(data_dir: &Path) -> Result<(Self, Identity), OpenError> {
        let directory = Directory::open_read_only(data_dir)?;
        let identity = directory.format.identity();
        let options = JournalOptions::new(data_dir.to_owned(), identity.clone());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let mark = directory.mark_file_read_only()?;
        let database = directory.database();
        let disk = RocksDisk::open_read_only(&options, database, mark, &clock)?;
        let opened = Opened {
            disk: Box::new(Overlay::new(disk)),
            marks: directory.marks.clone(),
            incarnation: directory.format.incarnation(),
            directory: None,
        };
        let incarnation = opened.incarnation;
        let shared = Arc::new(open::build(&options, opened, clock));
        for shard in &shared.shards {
            shared.index_rest(shard);
        }
        // Without the writer's threads: what is not running cannot write.
        let inner = Inner {
            threads: Mutex::default(),
            shared,
            incarnation,
            _directory: Some(directory),
        };
        Ok((Self(Arc::new(inner)), identity))
    }

    /// Names of a shard's streams in their order: those behind `after`, at most `limit`.
    ///
    /// # Errors
    /// When the shard is refused or the disk cannot be read.
    pub fn streams(
        &self,
        shard: ShardId,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<StreamName>, JournalError> {
        let shared = &self.0.shared;
        let mut found: Vec<StreamName> = Vec::new();
        while found.len() < limit {
            let after = found.last().or(after);
            match shared.next_stream(shard, after)? {
                Some(next) => found.push(next),
                None => break,
            }
        }
        Ok(found)
    }

    /// Position number up to which a shard is indexed: what [`Journal::streams`] can show of it.
    #[must_use]
    pub fn indexed(&self, shard: ShardId) -> u64 {
        self.0.shared.indexed(shard).unwrap_or(0)
    }
}

impl Shared {
    /// Indexes what the log has beyond the index. What keeps it from that refuses the shard: a reader
    /// must not take a part for the whole.
    fn index_rest(&self, shard: &Shard) {
        let (mut next, end) = {
            let log = shard.log.lock();
            let indexed = log.applied.as_ref().map(|applied| applied.index + 1);
            (indexed.or(log.first_index).unwrap_or(0), log.written_end)
        };
        while next < end {
            match self.index_some(shard, next..end) {
                Ok(behind) => next = behind,
                Err(error) => {
                    shard.refuse(error);
                    return;
                }
            }
        }
    }

    /// Indexes entries from the front of a range; gives the index behind them.
    fn index_some(&self, shard: &Shard, range: Range<u64>) -> Result<u64, JournalError> {
        let entries = self.read_log(shard.id, range, INDEX_BYTES)?;
        let missing = || shard.corrupt("the log", "it ends before its end");
        let last = entries.last().ok_or_else(missing)?;
        let mark = Applied {
            index: last.index,
            state: last.meta.clone(),
        };
        let mut records = Vec::new();
        for entry in &entries {
            if let LogPayload::Records(list) = &entry.payload {
                records.extend((0..).zip(list.iter()).map(|(slot, record)| AppliedRecord {
                    index: entry.index,
                    slot,
                    record: record.clone(),
                }));
            }
        }
        let behind = last.index + 1;
        let work = [IndexWork::Apply(shard.life(), records, mark)];
        let mut batch = Batch::default();
        let indexed = index::fill(&mut batch, self, &work)
            .map_err(|error| shard.corrupt("the index", error))?;
        self.disk
            .write(&batch, Durability::Lazy)
            .map_err(|error| shard.read_failed("the index", error))?;
        for position in indexed.into_values() {
            shard.indexed.send_replace(position);
        }
        Ok(behind)
    }

    /// The first stream behind another one.
    fn next_stream(
        &self,
        shard: ShardId,
        after: Option<&StreamName>,
    ) -> Result<Option<StreamName>, JournalError> {
        let state = self.readable(shard)?;
        let from = match after {
            Some(after) => rows::behind_stream(shard, after),
            None => rows::shard_start(shard).to_vec(),
        };
        let to = rows::shard_start(shard.saturating_add(1)).to_vec();
        let scan = Scan {
            table: Table::Index,
            from: &from,
            to: &to,
            within_stream: false,
        };
        let mut next = None;
        let scanned = self.disk.scan(scan, &mut |key, _| {
            next = rows::parse_stream_name(key);
            match next {
                // The applied mark stands before all streams.
                None => ControlFlow::Continue(()),
                Some(_) => ControlFlow::Break(()),
            }
        });
        scanned.map_err(|error| state.read_failed("the index", error))?;
        Ok(next)
    }
}
