//! The replay gate: whether this build understands every event of a journal, and makes the same states
//! of them as the build that wrote it.
//!
//! Owns: going through a data directory on all cores, and adding up. Refuses: to write. What one stream
//! means is judged in `phalanx_actors::verify`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::JournalError;
use phalanx_actors::record::hash_key;
use phalanx_actors::types::TypeRegistry;
use phalanx_actors::verify::{Divergence, EventCount, StreamCheck};
use serde::Serialize;

use crate::journal::{Identity, Journal, OpenError};

/// Streams that a worker takes at once.
const BATCH: usize = 64;
/// Findings that are described; others are counted.
const MOST_FINDINGS: usize = 100;

/// What is asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyOptions {
    /// Look at so many aggregates only, chosen evenly.
    pub sample: Option<usize>,
    /// Threads; 0 means one for each core.
    pub threads: usize,
}

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its contents cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// One aggregate that this build takes otherwise.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Its type.
    pub aggregate_type: String,
    /// Its id.
    pub aggregate_id: String,
    /// Where it departs from what was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// Why it cannot be folded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// The events of one type and version.
#[derive(Debug, Clone, Serialize)]
pub struct TypeCount {
    /// The aggregate's type.
    pub aggregate_type: String,
    /// The event's type as stored.
    pub event_type: String,
    /// As stored.
    pub version: u16,
    /// The version that this build stores.
    pub current_version: u16,
    /// What became of them.
    #[serde(flatten)]
    pub count: EventCount,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether this build may be deployed on this journal.
    pub ok: bool,
    /// Of the journal.
    pub cluster_name: String,
    /// Of the journal.
    pub node_id: u64,
    /// Aggregates in the journal.
    pub aggregates: u64,
    /// Aggregates that were looked at.
    pub checked: u64,
    /// Events that were replayed.
    pub events: u64,
    /// Recorded states that were compared.
    pub states_compared: u64,
    /// Recorded states of another schema version, which were not.
    pub states_not_comparable: u64,
    /// Aggregates without any recorded state that could be compared.
    pub without_recorded_state: u64,
    /// Aggregates that diverge.
    pub diverging: u64,
    /// Aggregates that cannot be folded.
    pub failing: u64,
    /// Aggregates of types that this build does not know, by type.
    pub unknown_types: BTreeMap<String, u64>,
    /// Every event type and version that occurs.
    pub event_types: Vec<TypeCount>,
    /// The aggregates that diverge or cannot be folded, at most a hundred, by name.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub seconds: f64,
    /// Events that were replayed in a second.
    pub events_per_second: f64,
}

/// How far a run is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Events that were replayed.
    pub events: AtomicU64,
    /// Events to replay; an estimate when only a sample is looked at, 0 until it is known.
    pub of: AtomicU64,
    /// The run has ended.
    pub ended: AtomicBool,
}

/// Replays a data directory. Blocks; see `progress` from another thread.
///
/// # Errors
/// [`VerifyError`] when the journal could not be read; what it holds is never an error.
pub fn verify(
    data_dir: &Path,
    types: &TypeRegistry,
    options: VerifyOptions,
    progress: &Progress,
) -> Result<Report, VerifyError> {
    let started = Instant::now();
    let (journal, identity) = Journal::open_read_only(data_dir)?;
    for shard in 0..identity.shards {
        journal.shard_health(shard)?;
    }
    let events = (0..identity.shards)
        .map(|shard| journal.indexed(shard))
        .sum();
    let source = match options.sample {
        None => {
            progress.of.store(events, Ordering::Relaxed);
            Source::all(&journal, identity.shards)
        }
        Some(sample) => {
            let (chosen, aggregates) = choose(&journal, identity.shards, sample)?;
            let part = chosen.len() as u64 * events / aggregates.max(1);
            progress.of.store(part, Ordering::Relaxed);
            Source::chosen(&journal, chosen, aggregates)
        }
    };
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let total = Mutex::new(Total::default());
    let source = Mutex::new(source);
    std::thread::scope(|scope| {
        let work = || work(&journal, types, &source, &total, progress);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            // A worker runs the domain's code behind a guard; if it panics all the same, so do we.
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    let aggregates = source.into_inner().seen;
    Ok(total
        .into_inner()
        .report(types, &identity, aggregates, started.elapsed()))
}

/// Takes streams and checks them until there are no more.
fn work(
    journal: &Journal,
    types: &TypeRegistry,
    source: &Mutex<Source<'_>>,
    total: &Mutex<Total>,
    progress: &Progress,
) -> Result<(), JournalError> {
    loop {
        let batch = source.lock().next()?;
        if batch.is_empty() {
            return Ok(());
        }
        for (shard, stream) in batch {
            match types.verify(journal, shard, &stream) {
                Some(check) => {
                    let check = check?;
                    progress.events.fetch_add(check.events, Ordering::Relaxed);
                    total.lock().add(&stream, check);
                }
                None => total.lock().add_unknown(&stream),
            }
        }
    }
}

/// Where the streams come from.
struct Source<'a> {
    journal: &'a Journal,
    /// The shard to list, and how many there are.
    shard: ShardId,
    shards: u32,
    after: Option<StreamName>,
    chosen: Option<Vec<(ShardId, StreamName)>>,
    /// Aggregates that the journal has.
    seen: u64,
}

impl<'a> Source<'a> {
    fn all(journal: &'a Journal, shards: u32) -> Self {
        Self {
            journal,
            shard: 0,
            shards,
            after: None,
            chosen: None,
            seen: 0,
        }
    }

    fn chosen(journal: &'a Journal, chosen: Vec<(ShardId, StreamName)>, seen: u64) -> Self {
        Self {
            chosen: Some(chosen),
            seen,
            ..Self::all(journal, 0)
        }
    }

    /// The next streams; none at the end.
    fn next(&mut self) -> Result<Vec<(ShardId, StreamName)>, JournalError> {
        if let Some(chosen) = &mut self.chosen {
            let rest = chosen.len().saturating_sub(BATCH);
            return Ok(chosen.split_off(rest));
        }
        while self.shard < self.shards {
            let found = self
                .journal
                .streams(self.shard, self.after.as_ref(), BATCH)?;
            let shard = self.shard;
            self.after = found.last().cloned();
            if found.len() < BATCH {
                self.shard += 1;
                self.after = None;
            }
            if !found.is_empty() {
                self.seen += found.len() as u64;
                return Ok(found.into_iter().map(|stream| (shard, stream)).collect());
            }
        }
        Ok(Vec::new())
    }
}

/// So many streams out of all, each as likely as any other, and how many there are. The same journal
/// gives the same choice, so that a finding can be looked at again.
fn choose(
    journal: &Journal,
    shards: u32,
    sample: usize,
) -> Result<(Vec<(ShardId, StreamName)>, u64), JournalError> {
    let mut all = Source::all(journal, shards);
    let mut chosen: Vec<(u128, ShardId, StreamName)> = Vec::new();
    loop {
        let batch = all.next()?;
        if batch.is_empty() {
            break;
        }
        for (shard, stream) in batch {
            // The names with the smallest hashes: a hash knows nothing of what the name stands for.
            let hash = hash_key(stream.as_str());
            chosen.push((hash, shard, stream));
        }
        if chosen.len() > sample.saturating_mul(2).saturating_add(BATCH) {
            chosen.sort_unstable_by_key(|(hash, ..)| *hash);
            chosen.truncate(sample);
        }
    }
    chosen.sort_unstable_by_key(|(hash, ..)| *hash);
    chosen.truncate(sample);
    let chosen = chosen.into_iter().map(|(_, shard, stream)| (shard, stream));
    Ok((chosen.collect(), all.seen))
}

/// What was added up so far.
#[derive(Debug, Default)]
struct Total {
    sum: StreamCheck,
    checked: u64,
    without: u64,
    diverging: u64,
    failing: u64,
    unknown: BTreeMap<String, u64>,
    types: BTreeMap<(String, String, u16), EventCount>,
    findings: BTreeMap<(String, String), Finding>,
}

impl Total {
    fn add(&mut self, stream: &StreamName, check: StreamCheck) {
        let kind = stream.aggregate_type();
        self.checked += 1;
        self.sum.events += check.events;
        self.sum.compared += check.compared;
        self.sum.not_comparable += check.not_comparable;
        self.without += u64::from(check.compared == 0);
        for ((event, version), count) in &check.types {
            let key = (kind.to_owned(), event.clone(), *version);
            self.types.entry(key).or_default().add(count);
        }
        self.diverging += u64::from(check.divergence.is_some());
        self.failing += u64::from(check.failure.is_some());
        if check.divergence.is_none() && check.failure.is_none() {
            return;
        }
        let finding = Finding {
            aggregate_type: kind.to_owned(),
            aggregate_id: stream.id().to_owned(),
            divergence: check.divergence,
            failure: check.failure,
        };
        let key = (kind.to_owned(), stream.id().to_owned());
        self.findings.insert(key, finding);
        // The first ones by name, whichever worker was first.
        while self.findings.len() > MOST_FINDINGS {
            self.findings.pop_last();
        }
    }

    fn add_unknown(&mut self, stream: &StreamName) {
        self.checked += 1;
        let kind = stream.aggregate_type().to_owned();
        *self.unknown.entry(kind).or_default() += 1;
    }

    fn report(
        self,
        types: &TypeRegistry,
        identity: &Identity,
        aggregates: u64,
        took: Duration,
    ) -> Report {
        let seconds = took.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for the eye")]
        let events = self.sum.events as f64;
        let mut event_types = Vec::new();
        for ((aggregate_type, event_type, version), count) in self.types {
            event_types.push(TypeCount {
                current_version: types.event_version(&aggregate_type, &event_type),
                aggregate_type,
                event_type,
                version,
                count,
            });
        }
        Report {
            ok: self.diverging == 0 && self.failing == 0 && self.unknown.is_empty(),
            cluster_name: identity.cluster_name.clone(),
            node_id: identity.node_id,
            aggregates,
            checked: self.checked,
            events: self.sum.events,
            states_compared: self.sum.compared,
            states_not_comparable: self.sum.not_comparable,
            without_recorded_state: self.without,
            diverging: self.diverging,
            failing: self.failing,
            unknown_types: self.unknown,
            event_types,
            findings: self.findings.into_values().collect(),
            seconds,
            events_per_second: events / seconds.max(1e-9),
        }
    }
}
