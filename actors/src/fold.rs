//! From stored records to a state.
//!
//! One way of folding serves activation, history and the past. It checks that sequence numbers
//! follow each other without a gap; a gap is damage, not something to step over.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::aggregate::Aggregate;
use crate::codec::{self, CodecError, ValueType};
use crate::evolution::{self, Upcast};
use crate::names::{ShardId, StreamName};
use crate::ports::{self, Journal, JournalError};
use crate::record::{Record, RecordView};
use crate::request::{Failure, FailureKind};

/// Records per read; between reads other tasks get their turn.
pub(crate) const CHUNK: usize = 256;

/// Why a stream could not be folded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The journal failed or is damaged.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A record is intact but this code cannot fold it.
    #[error("event {sequence} cannot be folded: {reason}")]
    Fold {
        /// The first event of the record.
        sequence: u64,
        /// What went wrong.
        reason: String,
    },
}

impl LoadError {
    /// What the client hears.
    #[must_use]
    pub fn into_failure(self, stream: &StreamName) -> Failure {
        match self {
            Self::Journal(error) => {
                tracing::error!(%stream, %error, "failed to load an aggregate");
                let kind = match error {
                    // The node refuses the shard from now on, and somebody else may lead it soon.
                    JournalError::Corrupt { .. } => FailureKind::NotReady,
                    JournalError::Io(_) => FailureKind::Internal,
                };
                Failure::new(kind, error.to_string())
            }
            Self::Fold { .. } => Failure::new(FailureKind::Quarantined, self.to_string()),
        }
    }
}

/// A state and how far it was folded.
#[derive(Debug)]
pub struct Folded<A: Aggregate> {
    /// The state.
    pub state: A::State,
    /// Number of events folded.
    pub sequence: u64,
    /// Position number of the last one; 0 before the first.
    pub position: u64,
    /// When the last one was decided, in microseconds since the Unix epoch.
    pub last_time_us: i64,
}

impl<A: Aggregate> Default for Folded<A> {
    fn default() -> Self {
        Self {
            state: A::State::default(),
            sequence: 0,
            position: 0,
            last_time_us: i64::MIN,
        }
    }
}

#[derive(Serialize)]
struct SnapshotOut<'a, S> {
    sequence: u64,
    position: u64,
    last_time_us: i64,
    state: &'a S,
}

#[derive(Deserialize)]
struct SnapshotIn<S> {
    sequence: u64,
    position: u64,
    last_time_us: i64,
    state: S,
}

impl<A: Aggregate> Folded<A> {
    /// The stored form.
    ///
    /// # Errors
    /// When the state cannot be represented.
    pub fn to_snapshot(&self) -> Result<Vec<u8>, CodecError> {
        codec::seal(
            ValueType::Snapshot,
            A::STATE_SCHEMA_VERSION,
            &SnapshotOut {
                sequence: self.sequence,
                position: self.position,
                last_time_us: self.last_time_us,
                state: &self.state,
            },
        )
    }

    /// Reads a snapshot; `None` when it is damaged, of another schema version, or the domain's code fails
    /// on it.
    #[must_use]
    pub fn from_snapshot(bytes: &[u8]) -> Option<Self> {
        let (version, payload) = codec::open(ValueType::Snapshot, bytes).ok()?;
        if version != A::STATE_SCHEMA_VERSION {
            return None;
        }
        let read = || codec::from_bytes(payload).map_err(|error| error.to_string());
        let snapshot: SnapshotIn<A::State> = guarded(read).ok()?;
        Some(Self {
            state: snapshot.state,
            sequence: snapshot.sequence,
            position: snapshot.position,
            last_time_us: snapshot.last_time_us,
        })
    }

    /// Folds a record that begins where the last one ended, up to `until` events in all.
    ///
    /// # Errors
    /// A gap or an overlap, an event of an unknown shape, or a panic in the domain's code. The state is
    /// unusable then.
    pub fn fold(&mut self, record: &Record, until: u64) -> Result<(), LoadError> {
        let broken = |reason: String| LoadError::Fold {
            sequence: record.first_sequence,
            reason,
        };
        let expected = self.sequence + 1;
        if record.first_sequence > expected {
            return Err(broken(format!("event {expected} is missing")));
        }
        if record.first_sequence < expected {
            return Err(broken(format!("event {} is there twice", self.sequence)));
        }
        guarded(|| self.fold_events(record, until)).map_err(broken)
    }

    fn fold_events(&mut self, record: &Record, until: u64) -> Result<(), String> {
        let view = RecordView::open(&record.bytes).map_err(|e| e.to_string())?;
        let events = decode_events::<A>(&view).map_err(|e| e.to_string())?;
        let numbers = (record.first_sequence..).zip(record.first_position..);
        for ((sequence, position), upcast) in numbers.zip(&events) {
            if sequence > until {
                break;
            }
            for event in upcast.events() {
                A::evolve(&mut self.state, event);
            }
            self.sequence = sequence;
            self.position = position;
            self.last_time_us = record.time_us;
        }
        Ok(())
    }
}

/// How far to fold: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The last event, by its sequence number.
    pub sequence: u64,
    /// The last moment, in microseconds since the Unix epoch.
    pub time_us: i64,
}

impl Bound {
    /// Everything.
    pub const NEWEST: Self = Self {
        sequence: u64::MAX,
        time_us: i64::MAX,
    };
}

/// Loads a stream's state at a bound, from the newest snapshot if that one is not beyond it; also
/// gives the sequence number of the snapshot it came from.
///
/// # Errors
/// See [`LoadError`].
pub async fn load<A: Aggregate>(
    journal: &dyn Journal,
    shard: ShardId,
    stream: &StreamName,
    bound: Bound,
) -> Result<(Folded<A>, u64), LoadError> {
    let snapshot = journal.read_snapshot(shard, stream)?;
    let start = snapshot
        .as_deref()
        .and_then(Folded::<A>::from_snapshot)
        // Times never run backwards within a stream.
        .filter(|start| start.sequence <= bound.sequence && start.last_time_us <= bound.time_us);
    if let Some(start) = start {
        let at = start.sequence;
        // The record that the snapshot ends in must be there, or the snapshot is of another world.
        match resume(journal, shard, stream, start, bound).await {
            Ok(Some(folded)) => return Ok((folded, at)),
            Ok(None) => {}
            // Perhaps the snapshot does not fit the code any more; the events decide.
            Err(error @ LoadError::Fold { .. }) => {
                tracing::warn!(%stream, %error, "a snapshot leads nowhere; replaying");
            }
            Err(error) => return Err(error),
        }
    }
    let mut folded = Folded::default();
    fold_from_journal(journal, shard, stream, &mut folded, bound).await?;
    Ok((folded, 0))
}

async fn resume<A: Aggregate>(
    journal: &dyn Journal,
    shard: ShardId,
    stream: &StreamName,
    mut start: Folded<A>,
    bound: Bound,
) -> Result<Option<Folded<A>>, LoadError> {
    let at = start.sequence;
    let covering = journal.read_stream(shard, stream, at, 1)?;
    let fits = covering.first().is_some_and(|record| {
        let last = record.first_sequence + u64::from(record.event_count) - 1;
        last == at && record.first_position + (at - record.first_sequence) == start.position
    });
    if !fits {
        tracing::warn!(%stream, "a snapshot does not fit its stream; replaying");
        return Ok(None);
    }
    fold_from_journal(journal, shard, stream, &mut start, bound).await?;
    Ok(Some(start))
}

/// Folds what the journal has beyond `folded`, up to `bound`.
async fn fold_from_journal<A: Aggregate>(
    journal: &dyn Journal,
    shard: ShardId,
    stream: &StreamName,
    folded: &mut Folded<A>,
    bound: Bound,
) -> Result<(), LoadError> {
    loop {
        let records = journal.read_stream(shard, stream, folded.sequence + 1, CHUNK)?;
        for record in &records {
            if folded.sequence >= bound.sequence || record.time_us > bound.time_us {
                return Ok(());
            }
            folded.fold(record, bound.sequence)?;
        }
        if ports::reached_end(&records, CHUNK) {
            return Ok(());
        }
        drop(records);
        tokio::task::yield_now().await;
    }
}

/// What a record's events are today: one entry for each that is stored, in order.
///
/// # Errors
/// When one is of a newer schema version or of an unknown shape.
pub fn decode_events<A: Aggregate>(
    view: &RecordView<'_>,
) -> Result<Vec<Upcast<A::Event>>, CodecError> {
    evolution::schema_of::<A>().decode_all(view)
}

/// A state as JSON.
///
/// # Errors
/// When serializing fails or panics.
pub fn to_json<S: Serialize>(state: &S) -> Result<Box<RawValue>, String> {
    guarded(|| serde_json::value::to_raw_value(state).map_err(|error| error.to_string()))
}

/// Runs code of the domain; a panic becomes a reason. What the code was changing is unusable then.
pub(crate) fn guarded<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("its code panicked: {}", text.unwrap_or("no message"))
}
