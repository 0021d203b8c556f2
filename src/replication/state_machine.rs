//! What applying a committed entry means: its index rows.
//!
//! The log holds the events, so applying writes only what finds them again, and how far it got.
//! Rows and mark move together in the journal; after a crash, entries beyond the mark are applied
//! once more with the same result.

use std::io;

use futures_util::{Stream, StreamExt};
use openraft::entry::RaftEntry as _;
use openraft::storage::{
    EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta,
};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{EntryPayload, OptionalSend};
use phalanx_actors::names::ShardId;
use phalanx_actors::ports::Journal as _;

use super::log_store::{codec_error, journal_error};
use super::types::{self, CommandBatch, RaftLogId, RaftStoredMembership, TypeConfig};
use crate::failpoints::crash_point;
use crate::journal::{Applied, AppliedRecord, Journal};

/// Bytes of records that are applied before the index rows of as many before them are waited for. After a crash
/// a shard may have as much to apply as tables in memory hold, and all of it would wait in memory.
const APPLIED_BYTES: usize = 4 << 20;

/// One shard's index. See the file's description.
#[derive(Debug)]
pub struct ShardIndex {
    journal: Journal,
    shard: ShardId,
    last: Option<RaftLogId>,
    membership: RaftStoredMembership,
}

impl ShardIndex {
    /// Reads how far the shard was applied.
    ///
    /// # Errors
    /// When the stored mark is damaged.
    pub fn open(journal: Journal, shard: ShardId) -> Result<Self, io::Error> {
        let stored = journal.applied(shard).map_err(journal_error)?;
        let (last, membership) = stored
            .map(|applied| types::applied_from_bytes(&applied.state))
            .transpose()
            .map_err(codec_error)?
            .unwrap_or_default();
        Ok(Self {
            journal,
            shard,
            last,
            membership,
        })
    }

    fn save(&self, records: Vec<AppliedRecord>) -> Result<(), io::Error> {
        let Some(last) = self.last else {
            return Ok(());
        };
        let applied = Applied {
            index: last.index(),
            state: types::applied_to_bytes(Some(last), &self.membership).map_err(codec_error)?,
        };
        self.journal.apply(self.shard, records, applied);
        Ok(())
    }

    fn snapshot(&self) -> Result<SnapshotOf<TypeConfig, Vec<u8>>, io::Error> {
        let bytes = types::applied_to_bytes(self.last, &self.membership).map_err(codec_error)?;
        Ok(Snapshot {
            meta: SnapshotMeta {
                last_log_id: self.last,
                last_membership: self.membership.clone(),
            },
            snapshot: bytes.to_vec(),
        })
    }
}

impl RaftStateMachine<TypeConfig> for ShardIndex {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = ShardSnapshot;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<RaftLogId>, RaftStoredMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut saved = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let log_id = entry.log_id();
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(CommandBatch { records: batch, .. }) => {
                    bytes += batch.iter().map(|r| r.bytes.len()).sum::<usize>();
                    records.extend((0..).zip(batch.iter()).map(|(slot, record)| AppliedRecord {
                        index: log_id.index(),
                        slot,
                        record: record.clone(),
                    }));
                }
                EntryPayload::Membership(membership) => {
                    self.membership = RaftStoredMembership::new(Some(log_id), membership);
                }
            }
            self.last = Some(log_id);
            if let Some(responder) = responder {
                responder.send(());
            }
            if bytes >= APPLIED_BYTES {
                bytes = 0;
                let last: Option<&AppliedRecord> = records.last();
                let position = last.map_or(0, |applied| applied.record.last_position());
                self.save(std::mem::take(&mut records))?;
                // Not for its own rows: they are written while the next piece is read.
                let before = std::mem::replace(&mut saved, position);
                let indexed = self.journal.wait_indexed(self.shard, before).await;
                indexed.map_err(journal_error)?;
            }
        }
        crash_point!("replication::before_apply");
        self.save(records)
    }

    async fn get_snapshot_builder(&mut self) -> ShardSnapshot {
        ShardSnapshot(Some(self.snapshot()))
    }

    /// Takes over where another node's log stands. It carries no events: those come with the log,
    /// which no node ever purges, so openraft has no reason to send one.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: Vec<u8>,
    ) -> Result<(), io::Error> {
        types::applied_from_bytes(&snapshot).map_err(codec_error)?;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.save(Vec::new())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, Vec<u8>>>, io::Error> {
        match self.last {
            Some(_) => self.snapshot().map(Some),
            None => Ok(None),
        }
    }
}

/// A snapshot that was taken when its builder was asked for.
#[derive(Debug)]
pub struct ShardSnapshot(Option<Result<SnapshotOf<TypeConfig, Vec<u8>>, io::Error>>);

impl RaftSnapshotBuilder<TypeConfig> for ShardSnapshot {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, Vec<u8>>, io::Error> {
        self.0
            .take()
            .unwrap_or_else(|| Err(io::Error::other("this snapshot was given away already")))
    }
}
