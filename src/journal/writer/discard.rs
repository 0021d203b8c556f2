//! Throwing a damaged shard away.
//!
//! Owns: the order in which its rows go. Refuses: to read a damaged row, for removing needs no reading,
//! and to call a shard blank of which something can still be seen. Invariant: a crash at any moment
//! leaves the shard refused, until nothing of it is left but its vote.
//!
//! ```text
//! mark: given up, synced -> all rows go and the vote comes, one batch, synced -> look -> mark: empty, synced
//! ```
//! All tables go in one batch through the write-ahead log, also those that are otherwise written
//! without it, so nothing is left of a part of them.

use bytes::Bytes;
use phalanx_actors::names::ShardId;

use crate::failpoints::crash_point;

use super::super::disk::{Batch, Disk, DiskError, Durability, Scan, Table};
use super::super::log_read::ReadError;
use super::super::mark::ShardMark;
use super::super::open::{check_shard, damage};
use super::super::rows::{self, VoteRow};
use super::super::shard::LogState;
use super::super::shared::Shared;
use super::super::types::{Done, StorageFailure};
use super::{Pending, Writer, Writing};

/// Tables whose keys begin with the shard.
const BY_SHARD: [Table; 3] = [Table::Log, Table::Index, Table::Snapshot];

impl Writer {
    /// Throws everything of a damaged shard away but for a vote, on the writer's thread.
    pub(super) fn discard(
        &self,
        shared: &Shared,
        writing: &mut Writing,
        shard: ShardId,
        vote: Bytes,
        done: Done,
    ) {
        self.settle(shared, writing);
        if self.has_failed() {
            return done(Err(StorageFailure::Closed));
        }
        match self.empty(shared, shard, vote) {
            Ok(Ok(blank)) => {
                if let Some(state) = shared.shard(shard) {
                    state.begin_anew(blank);
                }
                done(Ok(()));
            }
            Ok(Err(reason)) => done(Err(StorageFailure::Refused { shard, reason })),
            Err(error) => {
                let waiting = Pending {
                    shard: usize::MAX,
                    truncations: 0,
                    end: None,
                    first: None,
                    vote: None,
                    done,
                };
                self.fail(shared, "a damaged shard", error, &mut vec![waiting]);
            }
        }
    }

    /// The log of the blank shard, or what keeps it from being blank.
    fn empty(
        &self,
        shared: &Shared,
        shard: ShardId,
        vote: Bytes,
    ) -> Result<Result<LogState, String>, DiskError> {
        let known = shared
            .shard(shard)
            .map_or(0, |state| state.log.lock().votes);
        let mut votes = 0;
        self.set_mark(shared, shard, |mark| {
            mark.give_up();
            votes = mark.votes.max(known) + 1;
        })?;
        crash_point!("journal::discard_marked");
        let mut batch = Batch::default();
        let (from, to) = rows::shard_range(shard);
        for table in BY_SHARD {
            batch.delete_range(table, &from, &to);
        }
        batch.delete(Table::Meta, &rows::purged_key(shard));
        let row = VoteRow {
            number: votes,
            vote,
        };
        let row = row.seal().map_err(DiskError::io)?;
        batch.put(Table::Meta, &rows::vote_key(shard), [&row[..]]);
        self.write(shared, &batch, Durability::Logged)?;
        crash_point!("journal::discard_written");
        shared.disk.sync_log()?;
        crash_point!("journal::discard_synced");
        let blank = match look(&*shared.disk, shard, votes) {
            Ok(blank) => blank,
            Err(ReadError::Disk(error)) => return Ok(Err(error.to_string())),
            Err(ReadError::Damage(left)) => {
                return Ok(Err(format!("{}: {}", left.what, left.reason)));
            }
        };
        self.set_mark(shared, shard, |mark| {
            *mark = ShardMark {
                votes,
                ..ShardMark::default()
            };
        })?;
        crash_point!("journal::discard_done");
        Ok(Ok(blank))
    }
}

/// Looks at the shard as the next start would: nothing but the vote must be there.
fn look(disk: &dyn Disk, shard: ShardId, votes: u64) -> Result<LogState, ReadError> {
    let (from, to) = rows::shard_range(shard);
    for table in BY_SHARD {
        let mut left = false;
        let scan = Scan {
            table,
            from: &from,
            to: &to,
            within_stream: false,
        };
        let scanned = disk.scan(scan, &mut |_, _| {
            left = true;
            std::ops::ControlFlow::Break(())
        });
        scanned.map_err(ReadError::Disk)?;
        if left {
            let what = format!("the table {}", table.name());
            return Err(damage(what, "rows of the shard are left"));
        }
    }
    let expected = ShardMark {
        votes,
        ..ShardMark::default()
    };
    check_shard(disk, shard, expected).map(|(log, _)| log)
}
