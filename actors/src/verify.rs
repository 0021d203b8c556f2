//! Whether this build understands a stored stream as the build did that wrote it.
//!
//! Folds a stream from its first event, and compares what comes out with what was recorded: the hashes
//! of states that records carry, and the state in the snapshot. Owns: the comparison of one stream.
//! Refuses: to write, and to judge what cannot be compared; a state of another schema version counts
//! as not compared. It runs every upcaster that the stream needs, and counts them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::aggregate::Aggregate;
use crate::codec;
use crate::evolution::{Upcast, schema_of};
use crate::fold::{Folded, LoadError, guarded};
use crate::names::{ShardId, StreamName};
use crate::ports::{self, Journal, JournalError};
use crate::record::{Record, RecordView};
use crate::state_hash::StateHash;
use crate::variant;

/// Records per read.
const CHUNK: usize = 256;
/// Fields of a difference that are shown.
const MOST_FIELDS: usize = 50;

/// What became of the events of one type and version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EventCount {
    /// How many are stored.
    pub events: u64,
    /// How many of them became several.
    pub split: u64,
    /// How many of them became none.
    pub dropped: u64,
    /// Why, if any did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl EventCount {
    /// Takes in another count.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.split += other.split;
        self.dropped += other.dropped;
        self.reason = self.reason.or(other.reason);
    }
}

/// A field that two states have in different forms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldDifference {
    /// JSON pointer to it.
    pub path: String,
    /// What was recorded; absent where there was no such field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<Value>,
    /// What this build makes of the events; absent where there is no such field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed: Option<Value>,
}

/// Where this build departs from what was recorded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    /// The first event after which a recorded state is another one.
    pub sequence_number: u64,
    /// The event before it up to which recorded states agree; 0 when there is none.
    pub agrees_up_to: u64,
    /// Today's names of the events in between.
    pub event_types: Vec<String>,
    /// What they hold today.
    pub events: Vec<Value>,
    /// This build's state after the last event up to which recorded states agree.
    pub state_before: Value,
    /// This build's state after the differing event.
    pub state_after: Value,
    /// The sequence number of the snapshot that the states were compared at, if there is one behind the
    /// event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared_at: Option<u64>,
    /// In what the states differ there.
    pub difference: Vec<FieldDifference>,
}

/// What a stream's check found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StreamCheck {
    /// Stored events.
    pub events: u64,
    /// Recorded states that were compared.
    pub compared: u64,
    /// Recorded states of another schema version, which were not.
    pub not_comparable: u64,
    /// By event type and stored version.
    #[serde(skip)]
    pub types: BTreeMap<(String, u16), EventCount>,
    /// Where it departs.
    pub divergence: Option<Divergence>,
    /// Why it cannot be folded at all.
    pub failure: Option<String>,
}

/// Checks one stream. A stream that cannot be folded is a result, too.
///
/// # Errors
/// When the journal cannot be read.
pub(crate) fn check<A: Aggregate>(
    journal: &dyn Journal,
    shard: ShardId,
    stream: &StreamName,
) -> Result<StreamCheck, JournalError> {
    let snapshot = journal.read_snapshot(shard, stream)?;
    let mut checker = Checker::<A>::new(snapshot.as_deref());
    loop {
        let records = journal.read_stream(shard, stream, checker.folded.sequence + 1, CHUNK)?;
        for record in &records {
            match checker.take(record) {
                Ok(()) => {}
                Err(LoadError::Journal(error)) => return Err(error),
                Err(error @ LoadError::Fold { .. }) => {
                    checker.found.failure = Some(error.to_string());
                    return Ok(checker.found);
                }
            }
        }
        if ports::reached_end(&records, CHUNK) {
            return Ok(checker.found);
        }
    }
}

struct Checker<A: Aggregate> {
    folded: Folded<A>,
    snapshot: Option<Folded<A>>,
    found: StreamCheck,
    /// The last sequence number at which a recorded state agreed, and the state there.
    agreed: (u64, A::State),
    /// Records since then, for the report.
    since: Vec<Record>,
}

impl<A: Aggregate> Checker<A> {
    fn new(snapshot: Option<&[u8]>) -> Self {
        let mut found = StreamCheck::default();
        let readable = snapshot.and_then(Folded::<A>::from_snapshot);
        if snapshot.is_some() && readable.is_none() {
            found.not_comparable += 1;
        }
        Self {
            folded: Folded::default(),
            snapshot: readable,
            found,
            agreed: (0, A::State::default()),
            since: Vec::new(),
        }
    }

    fn take(&mut self, record: &Record) -> Result<(), LoadError> {
        self.count(record);
        self.folded.fold(record, u64::MAX)?;
        self.found.events = self.folded.sequence;
        if self.found.divergence.is_some() {
            self.describe_at_snapshot();
            return Ok(());
        }
        self.since.push(record.clone());
        let mut same = true;
        let mut compared = 0;
        if let Some(recorded) = recorded_hash(record) {
            if recorded.state_version == A::STATE_SCHEMA_VERSION {
                compared += 1;
                same &= StateHash::of::<A>(&self.folded.state).ok() == Some(recorded);
            } else {
                self.found.not_comparable += 1;
            }
        }
        if let Some(snapshot) = self.snapshot_here() {
            compared += 1;
            same &= is_same::<A>(&snapshot.state, &self.folded.state);
        }
        self.found.compared += compared;
        if !same {
            self.diverge();
        } else if compared > 0 {
            self.agreed = (self.folded.sequence, self.folded.state.clone());
            self.since.clear();
        }
        Ok(())
    }

    /// The snapshot, if it is of this moment.
    fn snapshot_here(&self) -> Option<&Folded<A>> {
        let (sequence, position) = (self.folded.sequence, self.folded.position);
        let snapshot = self.snapshot.as_ref();
        snapshot.filter(|s| s.sequence == sequence && s.position == position)
    }

    fn count(&mut self, record: &Record) {
        let schema = schema_of::<A>();
        let Ok(view) = RecordView::open(&record.bytes) else {
            // Folding says what is wrong.
            return;
        };
        for stored in view.events().flatten() {
            let known = schema.identify(&stored);
            let (name, version) = known.unwrap_or(("unknown", stored.version));
            let key = (name.to_owned(), version);
            let count = self.found.types.entry(key).or_default();
            count.events += 1;
            let upcast = guarded(|| schema.decode(&stored).map_err(|error| error.to_string()));
            match upcast {
                Ok(Upcast::Parts(_)) => count.split += 1,
                Ok(Upcast::Dropped(reason)) => {
                    count.dropped += 1;
                    count.reason = Some(reason);
                }
                Ok(Upcast::One(_)) | Err(_) => {}
            }
        }
    }

    fn diverge(&mut self) {
        let events = self.since.iter().flat_map(shown_events::<A>);
        let (event_types, events) = events.unzip();
        self.found.divergence = Some(Divergence {
            sequence_number: self.folded.sequence,
            agrees_up_to: self.agreed.0,
            event_types,
            events,
            state_before: as_json(&self.agreed.1),
            state_after: as_json(&self.folded.state),
            compared_at: None,
            difference: Vec::new(),
        });
        self.since.clear();
        self.describe_at_snapshot();
    }

    /// The hash of a state says that it is another one; only a snapshot shows which.
    fn describe_at_snapshot(&mut self) {
        let Some(snapshot) = self.snapshot_here() else {
            return;
        };
        let (recorded, replayed) = (as_json(&snapshot.state), as_json(&self.folded.state));
        let mut difference = Vec::new();
        compare(
            String::new(),
            Some(&recorded),
            Some(&replayed),
            &mut difference,
        );
        if let Some(divergence) = &mut self.found.divergence {
            divergence.compared_at = Some(self.folded.sequence);
            divergence.difference = difference;
        }
    }
}

fn recorded_hash(record: &Record) -> Option<StateHash> {
    RecordView::open(&record.bytes).ok()?.state_hash()
}

/// By their stored form; where that differs, by what they hold, for the order of a hash map's entries
/// says nothing.
fn is_same<A: Aggregate>(recorded: &A::State, replayed: &A::State) -> bool {
    let same_bytes = match (codec::to_bytes(recorded), codec::to_bytes(replayed)) {
        (Ok(recorded), Ok(replayed)) => recorded == replayed,
        _ => false,
    };
    same_bytes || as_json(recorded) == as_json(replayed)
}

fn as_json<T: Serialize>(value: &T) -> Value {
    let json = guarded(|| serde_json::to_value(value).map_err(|error| error.to_string()));
    json.unwrap_or_else(|reason| Value::String(format!("not representable: {reason}")))
}

/// Today's names and fields of a record's events.
fn shown_events<A: Aggregate>(record: &Record) -> Vec<(String, Value)> {
    let view = RecordView::open(&record.bytes).ok();
    let upcasts = view.and_then(|view| schema_of::<A>().decode_all(&view).ok());
    let events = upcasts.into_iter().flatten().flat_map(Upcast::into_events);
    let shown = events.map(|event| {
        let name = variant::variant_name(&event).unwrap_or_default();
        let fields = variant::variant_fields(&event, name);
        let fields = fields.ok().and_then(|f| serde_json::from_str(f.get()).ok());
        (name.to_owned(), fields.unwrap_or_default())
    });
    shown.collect()
}

/// Notes where two values differ, field by field.
fn compare(
    path: String,
    recorded: Option<&Value>,
    replayed: Option<&Value>,
    out: &mut Vec<FieldDifference>,
) {
    if recorded == replayed || out.len() >= MOST_FIELDS {
        return;
    }
    let below = |name: &str| format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
    match (recorded, replayed) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for name in a
                .keys()
                .chain(b.keys().filter(|name| !a.contains_key(*name)))
            {
                compare(below(name), a.get(name), b.get(name), out);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for at in 0..a.len().max(b.len()) {
                compare(below(&at.to_string()), a.get(at), b.get(at), out);
            }
        }
        _ => out.push(FieldDifference {
            path,
            recorded: recorded.cloned(),
            replayed: replayed.cloned(),
        }),
    }
}
