//! A journal that nobody serves, opened to be looked at.
//!
//! Owns: opening a data directory without changing a byte of it, and going through its streams. Refuses:
//! a directory that a node uses, and to format, to repair or to write anything. While it is open no
//! node can start on the directory.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::{Clock, JournalError, SystemClock};

use super::directory::Directory;
use super::disk::{Scan, Table};
use super::open::{self, Opened};
use super::rocks::RocksDisk;
use super::rows;
use super::shared::Shared;
use super::types::{Identity, JournalOptions, OpenError};
use super::{Inner, Journal};

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
            disk: Box::new(disk),
            marks: directory.marks.clone(),
            incarnation: directory.format.incarnation(),
            directory: None,
        };
        let incarnation = opened.incarnation;
        // Without the writer's threads: what is not running cannot write.
        let inner = Inner {
            threads: Mutex::default(),
            shared: Arc::new(open::build(&options, opened, clock)),
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
