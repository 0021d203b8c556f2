//! The journal as the core sees it.

use jiff::Timestamp;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::{self, BoxFuture, JournalError};
use phalanx_actors::record::Record;

use super::Journal;
use super::queue::IndexWork;

/// Bytes of a shard's log that may wait for the disk, or for their index rows, beside the cache.
const BEHIND_BYTES: usize = 32 << 20;

impl ports::Journal for Journal {
    fn read_snapshot(
        &self,
        shard: ShardId,
        stream: &StreamName,
    ) -> Result<Option<Vec<u8>>, JournalError> {
        self.0.shared.read_snapshot(shard, stream)
    }

    fn read_stream(
        &self,
        shard: ShardId,
        stream: &StreamName,
        from_sequence: u64,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        self.0
            .shared
            .read_stream(shard, stream, from_sequence, limit)
    }

    fn find_key(
        &self,
        shard: ShardId,
        stream: &StreamName,
        key_hash: u128,
        now: Timestamp,
    ) -> Result<Option<Record>, JournalError> {
        self.0.shared.find_key(shard, stream, key_hash, now)
    }

    fn save_snapshot(&self, shard: ShardId, stream: &StreamName, snapshot: Vec<u8>) {
        let shared = &self.0.shared;
        let Some(state) = shared.shard(shard) else {
            return;
        };
        if self.is_full() {
            // What is left of the space belongs to the log.
            return;
        }
        let work = IndexWork::Snapshot(state.life(), stream.clone(), snapshot);
        shared.queue.push_index(work);
        shared.drain_inline();
    }

    fn indexed_position(&self, shard: ShardId) -> u64 {
        self.0.shared.indexed(shard).unwrap_or(0)
    }

    fn is_full(&self) -> bool {
        Self::is_full(self)
    }

    fn is_behind(&self, shard: ShardId) -> bool {
        let shared = &self.0.shared;
        shared.readable(shard).is_ok_and(|shard| {
            let kept = shard.log.lock().cached_bytes();
            kept > shared.log_cache_bytes.saturating_add(BEHIND_BYTES)
        })
    }

    fn wait_indexed(
        &self,
        shard: ShardId,
        position: u64,
    ) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(async move {
            let shared = &self.0.shared;
            let state = shared.readable(shard)?;
            let life = state.life();
            let mut indexed = state.indexed.subscribe();
            if *indexed.borrow_and_update() < position {
                let _hurry = shared.queue.hurry();
                let there = |indexed: &u64| *indexed >= position || state.goes_on(life).is_err();
                // The sender lives as long as `self`: waiting cannot fail.
                let _ended = indexed.wait_for(there).await;
            }
            state.goes_on(life)
        })
    }
}
