//! Index rows out of committed records.
//!
//! Owns: which rows a record leaves behind. Refuses: a gap in positions, which stops the shard.
//! Invariant: a shard's rows and its applied mark are in one batch of one table, and writing them
//! again changes nothing.

use std::collections::BTreeMap;

use phalanx_actors::codec::CodecError;
use phalanx_actors::names::ShardId;
use phalanx_actors::record::FLAG_GENERATED_KEY;

use super::disk::{Batch, Table};
use super::queue::IndexWork;
use super::rows::{self, AppliedRow, DedupRow, StreamRow};
use super::shared::Shared;
use super::types::AppliedRecord;

/// Fills a batch; gives the position that each shard is indexed to afterwards.
pub(crate) fn fill(
    batch: &mut Batch,
    shared: &Shared,
    work: &[IndexWork],
) -> Result<BTreeMap<ShardId, u64>, CodecError> {
    let mut applied: BTreeMap<ShardId, AppliedRow> = BTreeMap::new();
    let mut key = Vec::new();
    for work in work {
        match work {
            IndexWork::Apply(shard, records, mark) => {
                let before = applied.get(shard).map(|row| row.position);
                let Some(position) = before.or_else(|| shared.indexed(*shard)) else {
                    continue;
                };
                let Some(position) = follow(shared, *shard, position, records) else {
                    continue;
                };
                for applied in records {
                    put_record(batch, &mut key, shared.retention_us, *shard, applied)?;
                }
                let row = AppliedRow {
                    index: mark.index,
                    position,
                    state: mark.state.clone(),
                };
                applied.insert(*shard, row);
            }
            IndexWork::Snapshot(shard, stream, snapshot) => {
                rows::snapshot_key(&mut key, *shard, stream);
                batch.put(Table::Snapshot, &key, &[&rows::seal_snapshot(snapshot)?]);
            }
        }
    }
    for (shard, row) in &applied {
        batch.put(Table::Index, &rows::applied_key(*shard), &[&row.seal()?]);
    }
    Ok(applied
        .into_iter()
        .map(|(shard, row)| (shard, row.position))
        .collect())
}

/// The position after the records; `None`, with the shard refused, when they leave a gap.
fn follow(
    shared: &Shared,
    shard: ShardId,
    position: u64,
    records: &[AppliedRecord],
) -> Option<u64> {
    let state = shared.shard(shard)?;
    state.health().ok()?;
    let mut position = position;
    for applied in records {
        let first = applied.record.first_position;
        if first > position + 1 {
            let what = format!("log row {}.{}", applied.index, applied.slot);
            state.corrupt(what, format!("position {first} does not follow {position}"));
            return None;
        }
        let last = first + u64::from(applied.record.event_count).saturating_sub(1);
        position = position.max(last);
    }
    Some(position)
}

fn put_record(
    batch: &mut Batch,
    key: &mut Vec<u8>,
    retention_us: i64,
    shard: ShardId,
    applied: &AppliedRecord,
) -> Result<(), CodecError> {
    let AppliedRecord {
        index,
        slot,
        record,
    } = applied;
    rows::stream_key(key, shard, &record.stream, record.first_sequence);
    let row = StreamRow::new(*index, *slot, record).seal()?;
    batch.put(Table::Index, key, &[&row]);
    if record.flags & FLAG_GENERATED_KEY == 0 {
        rows::dedup_key(key, shard, &record.stream, record.key_hash);
        let row = DedupRow {
            index: *index,
            slot: *slot,
            expires_us: record.time_us.saturating_add(retention_us),
        };
        batch.put(Table::Index, key, &[&row.seal()?]);
    }
    Ok(())
}
