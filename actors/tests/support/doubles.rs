//! The journal, the replicator and the clock that tests hold in their hands.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::{
    Batch, BoxFuture, Clock, Journal, JournalError, Proposed, ProposedCallback, Replicator,
};
use phalanx_actors::record::Record;
use tokio::sync::watch;

/// How long a key is known, in microseconds.
pub const KEY_LIFETIME_US: i64 = 1_000_000;

#[derive(Debug, Default)]
struct Rows {
    log: Vec<Record>,
    indexed: usize,
    snapshots: HashMap<StreamName, Vec<u8>>,
}

/// One shard's committed records, with an index that the test may hold back.
#[derive(Debug)]
pub struct MemoryJournal {
    rows: Mutex<Rows>,
    position: watch::Sender<u64>,
    pub hold_index: AtomicBool,
    pub full: AtomicBool,
    pub behind: AtomicBool,
    damaged: AtomicBool,
    pub reads: AtomicUsize,
    pub snapshots_saved: AtomicUsize,
}

impl Default for MemoryJournal {
    fn default() -> Self {
        Self {
            rows: Mutex::default(),
            position: watch::Sender::new(0),
            hold_index: AtomicBool::new(false),
            full: AtomicBool::new(false),
            behind: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            snapshots_saved: AtomicUsize::new(0),
        }
    }
}

fn last_position(record: &Record) -> u64 {
    record.first_position + u64::from(record.event_count) - 1
}

impl MemoryJournal {
    /// Commits records. Positions must follow each other, as they must in the real journal.
    pub fn commit(&self, records: &[Record]) {
        let mut rows = self.rows.lock();
        for record in records {
            let expected = rows.log.last().map_or(1, |last| last_position(last) + 1);
            assert_eq!(record.first_position, expected, "a gap in positions");
            rows.log.push(record.clone());
        }
        drop(rows);
        if !self.hold_index.load(Ordering::Acquire) {
            self.index_all();
        }
    }

    /// Makes everything committed visible.
    pub fn index_all(&self) {
        let mut rows = self.rows.lock();
        rows.indexed = rows.log.len();
        let position = rows.log.last().map_or(0, last_position);
        drop(rows);
        self.position.send_replace(position);
    }

    pub fn last_position(&self) -> u64 {
        self.rows.lock().log.last().map_or(0, last_position)
    }

    /// Every committed record.
    pub fn log(&self) -> Vec<Record> {
        self.rows.lock().log.clone()
    }

    /// Takes a record away, as damage would.
    pub fn remove(&self, at: usize) {
        let mut rows = self.rows.lock();
        rows.log.remove(at);
        rows.indexed -= 1;
    }

    /// Refuses every read and every wait from now on, as a journal does that came upon damage.
    pub fn damage(&self) {
        self.damaged.store(true, Ordering::Release);
        self.position.send_modify(|_| {});
    }

    /// Takes that back.
    pub fn mend(&self) {
        self.damaged.store(false, Ordering::Release);
    }

    fn is_whole(&self, shard: ShardId) -> Result<(), JournalError> {
        if !self.damaged.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(JournalError::Corrupt {
            shard,
            what: "log row 3.0".to_owned(),
            reason: "its checksum is wrong".to_owned(),
        })
    }

    pub fn put_snapshot(&self, stream: &StreamName, snapshot: Vec<u8>) {
        self.rows.lock().snapshots.insert(stream.clone(), snapshot);
    }

    pub fn snapshot(&self, stream: &StreamName) -> Option<Vec<u8>> {
        self.rows.lock().snapshots.get(stream).cloned()
    }

    fn visible<T>(&self, read: impl FnOnce(&[Record]) -> T) -> T {
        let rows = self.rows.lock();
        read(&rows.log[..rows.indexed])
    }
}

impl Journal for MemoryJournal {
    fn read_snapshot(
        &self,
        shard: ShardId,
        stream: &StreamName,
    ) -> Result<Option<Vec<u8>>, JournalError> {
        self.is_whole(shard)?;
        Ok(self.snapshot(stream))
    }

    fn read_stream(
        &self,
        shard: ShardId,
        stream: &StreamName,
        from_sequence: u64,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.is_whole(shard)?;
        Ok(self.visible(|log| {
            log.iter()
                .filter(|r| r.stream == *stream)
                .filter(|r| r.first_sequence + u64::from(r.event_count) > from_sequence)
                .take(limit)
                .cloned()
                .collect()
        }))
    }

    fn find_key(
        &self,
        shard: ShardId,
        stream: &StreamName,
        key_hash: u128,
        now: Timestamp,
    ) -> Result<Option<Record>, JournalError> {
        self.is_whole(shard)?;
        let alive = now.as_microsecond() - KEY_LIFETIME_US;
        Ok(self.visible(|log| {
            log.iter()
                .rev()
                .find(|r| r.stream == *stream && r.key_hash == key_hash && r.time_us > alive)
                .cloned()
        }))
    }

    fn save_snapshot(&self, _shard: ShardId, stream: &StreamName, snapshot: Vec<u8>) {
        self.snapshots_saved.fetch_add(1, Ordering::Relaxed);
        self.put_snapshot(stream, snapshot);
    }

    fn indexed_position(&self, _shard: ShardId) -> u64 {
        *self.position.borrow()
    }

    fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    fn is_behind(&self, _shard: ShardId) -> bool {
        self.behind.load(Ordering::Acquire)
    }

    fn wait_indexed(
        &self,
        shard: ShardId,
        position: u64,
    ) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(async move {
            let mut indexed = self.position.subscribe();
            let there = |indexed: &u64| *indexed >= position || self.is_whole(shard).is_err();
            let _ended = indexed.wait_for(there).await;
            self.is_whole(shard)
        })
    }
}

#[derive(Default)]
struct Script {
    term: u64,
    manual: bool,
    pending: VecDeque<(Batch, ProposedCallback)>,
    gate_closed: bool,
}

/// Commits at once, or what the test lets through.
pub struct ScriptedReplicator {
    journal: Arc<MemoryJournal>,
    script: Mutex<Script>,
    pub gate_checks: AtomicUsize,
}

impl std::fmt::Debug for ScriptedReplicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScriptedReplicator")
    }
}

impl ScriptedReplicator {
    pub fn new(journal: Arc<MemoryJournal>) -> Self {
        Self {
            journal,
            script: Mutex::default(),
            gate_checks: AtomicUsize::new(0),
        }
    }

    pub fn set_term(&self, term: u64) {
        self.script.lock().term = term;
    }

    pub fn term(&self) -> u64 {
        self.script.lock().term
    }

    /// From now on nothing commits by itself.
    pub fn hold(&self) {
        self.script.lock().manual = true;
    }

    /// Commits what waits and everything to come.
    pub fn let_go(&self) {
        self.script.lock().manual = false;
        while self.commit_next() {}
    }

    pub fn close_gate(&self, closed: bool) {
        self.script.lock().gate_closed = closed;
    }

    /// Sizes of the batches that wait.
    pub fn pending(&self) -> Vec<usize> {
        let script = self.script.lock();
        script
            .pending
            .iter()
            .map(|(b, _)| b.records.len())
            .collect()
    }

    pub fn commit_next(&self) -> bool {
        let Some((batch, done)) = self.script.lock().pending.pop_front() else {
            return false;
        };
        self.journal.commit(&batch.records);
        done(Proposed::Committed);
        true
    }

    /// Reports the newest proposal first, which no log would do.
    pub fn commit_last(&self) {
        let (_batch, done) = self.script.lock().pending.pop_back().unwrap();
        done(Proposed::Committed);
    }

    /// Ends the oldest proposal without a commit; gives its batch.
    pub fn fail_next(&self, outcome: Proposed) -> Batch {
        let (batch, done) = self.script.lock().pending.pop_front().unwrap();
        done(outcome);
        batch
    }

    /// Forgets what waits; gives the batches, which may or may not be committed later.
    pub fn abandon(&self) -> Vec<Batch> {
        let pending = std::mem::take(&mut self.script.lock().pending);
        pending.into_iter().map(|(batch, _)| batch).collect()
    }
}

impl Replicator for ScriptedReplicator {
    fn propose(&self, term: u64, batch: Batch, done: ProposedCallback) -> BoxFuture<'_, ()> {
        assert!(!batch.records.is_empty());
        let mut script = self.script.lock();
        if term != script.term {
            drop(script);
            done(Proposed::NotProposed);
        } else if script.manual {
            script.pending.push_back((batch, done));
        } else {
            drop(script);
            self.journal.commit(&batch.records);
            done(Proposed::Committed);
        }
        Box::pin(std::future::ready(()))
    }

    fn confirm_leadership(&self, term: u64) -> BoxFuture<'_, bool> {
        self.gate_checks.fetch_add(1, Ordering::Relaxed);
        let script = self.script.lock();
        let leads = script.term == term && !script.gate_closed;
        Box::pin(std::future::ready(leads))
    }
}

/// Time that stands still unless the test moves it.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_us: AtomicI64,
    monotonic_ns: AtomicU64,
}

impl ManualClock {
    pub fn set_wall_us(&self, us: i64) {
        self.wall_us.store(us, Ordering::Release);
    }

    pub fn advance_monotonic(&self) {
        self.monotonic_ns.fetch_add(1_000, Ordering::AcqRel);
    }

    pub fn set_monotonic_ns(&self, ns: u64) {
        self.monotonic_ns.store(ns, Ordering::Release);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.wall_us.load(Ordering::Acquire)).unwrap()
    }

    fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns.load(Ordering::Acquire)
    }
}
