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
use super::run::{self, leading_run};
use super::shard::Shard;
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
        let life = work.life();
        let shard = &life.shard;
        if shared.shard(*shard).map(Shard::life) != Some(life) {
            continue;
        }
        match work {
            IndexWork::Apply(_, records, mark) => {
                let before = applied.get(shard).map(|row| row.position);
                let Some(position) = before.or_else(|| shared.indexed(*shard)) else {
                    continue;
                };
                let Some(position) = follow(shared, *shard, position, records) else {
                    continue;
                };
                put_runs(batch, &mut key, shared.retention_us, *shard, records)?;
                let row = AppliedRow {
                    index: mark.index,
                    position,
                    state: mark.state.clone(),
                };
                applied.insert(*shard, row);
            }
            IndexWork::Snapshot(_, stream, snapshot) => {
                rows::snapshot_key(&mut key, *shard, stream);
                batch.put(Table::Snapshot, &key, [&rows::seal_snapshot(snapshot)?[..]]);
            }
        }
    }
    for (shard, row) in &applied {
        batch.put(Table::Index, &rows::applied_key(*shard), [&row.seal()?[..]]);
    }
    batch.sort();
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

/// The runs of records that come in the order of the log, each with its stream row. The records of
/// an entry must be complete.
pub(crate) fn runs(
    records: &[AppliedRecord],
) -> impl Iterator<Item = (&AppliedRecord, &[AppliedRecord], StreamRow)> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let entry = rest.iter().take_while(|next| next.index == first.index);
        let length = leading_run(entry.map(|applied| &applied.record));
        let (run, behind) = rest.split_at_checked(length)?;
        let row = StreamRow {
            index: first.index,
            slot: first.slot,
            records: u32::try_from(length).unwrap_or(u32::MAX),
            event_count: run::event_count(run.iter().map(|applied| &applied.record)),
            first_position: first.record.first_position,
            ends_entry: behind.first().is_none_or(|next| next.index != first.index),
        };
        rest = behind;
        Some((first, run, row))
    })
}

fn put_runs(
    batch: &mut Batch,
    key: &mut Vec<u8>,
    retention_us: i64,
    shard: ShardId,
    records: &[AppliedRecord],
) -> Result<(), CodecError> {
    for (first, run, row) in runs(records) {
        let record = &first.record;
        rows::stream_key(key, shard, &record.stream, record.first_sequence);
        batch.put(Table::Index, key, [&row.seal()?[..]]);
        for (nth, AppliedRecord { record, .. }) in (0..).zip(run) {
            if record.flags & FLAG_GENERATED_KEY != 0 {
                continue;
            }
            rows::dedup_key(key, shard, &record.stream, record.key_hash);
            let row = DedupRow {
                index: row.index,
                slot: row.slot,
                nth,
                expires_us: record.time_us.saturating_add(retention_us),
            };
            batch.put(Table::Index, key, [&row.seal()?[..]]);
        }
    }
    Ok(())
}
