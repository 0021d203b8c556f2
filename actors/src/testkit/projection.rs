//! Given/when/then tests for projections: these events happened, this one comes, these rows follow.
//!
//! Besides the comparison that a test asks for, each check builds the rows again, one event at a
//! time, and must get the same: a read model is rebuilt like that.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use jiff::Timestamp;

use crate::aggregate::Aggregate;
use crate::evolution::schema_of;
use crate::names::StreamName;
use crate::projection::{
    DecodedEvent, Key, Loaded, Projection, ProjectionDefinition, Row, Run, Value, Workspace,
};
use crate::record::{Behind, Circumstances, Draft, FLAG_CIRCUMSTANCES, Record, RecordHead};

/// Starts a test of a projection without any events.
///
/// # Panics
/// When the projection's definition is refused.
#[must_use]
#[expect(clippy::panic, reason = "a test kit reports by panicking")]
pub fn projecting<P: Projection>() -> Projecting<P> {
    let definition = ProjectionDefinition::of::<P>();
    Projecting {
        definition: definition.unwrap_or_else(|error| panic!("{error}")),
        records: Vec::new(),
        refused: None,
        principal: None,
        occurred_at: None,
        _projection: PhantomData,
    }
}

/// A projection and what has happened.
#[derive(Debug)]
pub struct Projecting<P> {
    definition: ProjectionDefinition,
    records: Vec<Record>,
    refused: Option<String>,
    principal: Option<String>,
    occurred_at: Option<Timestamp>,
    _projection: PhantomData<P>,
}

/// Rows by table and key.
type Rows = BTreeMap<(usize, Key), Vec<Value>>;

impl<P: Projection> Projecting<P> {
    /// Sets who sends the commands that lead to the next events, as handlers see it.
    #[must_use]
    pub fn by(mut self, principal: &str) -> Self {
        self.principal = Some(principal.to_owned());
        self
    }

    /// Sets when the next events happened in the world, as handlers see it.
    #[must_use]
    pub fn occurred_at(mut self, time: Timestamp) -> Self {
        self.occurred_at = Some(time);
        self
    }

    /// These events happen to an aggregate, one command each; none of them may be refused.
    ///
    /// # Panics
    /// When an event is refused.
    #[must_use]
    #[track_caller]
    pub fn given<A: Aggregate>(
        mut self,
        id: &str,
        events: impl IntoIterator<Item = A::Event>,
    ) -> Self {
        for event in events {
            self = self.when::<A>(id, event);
            assert_eq!(self.refused, None, "no event that is given may be refused");
        }
        self
    }

    /// This event happens to an aggregate.
    ///
    /// # Panics
    /// When the event has no stored form.
    #[must_use]
    #[expect(clippy::panic, reason = "a test kit reports by panicking")]
    pub fn when<A: Aggregate>(mut self, id: &str, event: A::Event) -> Self {
        let stream = StreamName::new(A::TYPE, id).unwrap_or_else(|error| panic!("{error}"));
        let before = self.records.iter().filter(|r| r.stream == stream).count();
        let position = self.records.len() as u64 + 1;
        let circumstances = Circumstances {
            principal: self.principal.as_deref().unwrap_or_default(),
            occurred_at_us: self.occurred_at.map(Timestamp::as_microsecond),
        };
        let head = RecordHead {
            stream: stream.as_str(),
            first_sequence: before as u64 + 1,
            event_count: 1,
            time_us: 0,
            command: "Test",
            key: "test",
            fingerprint: [0; 16],
            flags: match circumstances.is_empty() {
                true => 0,
                false => FLAG_CIRCUMSTANCES,
            },
            traceparent: "",
        };
        let behind = Behind {
            circumstances,
            state: None,
        };
        let record = Draft::of::<A>(&head, schema_of::<A>(), &[event], behind)
            .and_then(|draft| Record::from_stored(draft.finish(position)));
        self.records
            .push(record.unwrap_or_else(|error| panic!("{error}")));
        self.refused = self.build(usize::MAX).1;
        self
    }

    /// Asserts that a table holds these rows and no others, in any order. Hidden columns are not
    /// compared: what they are for shows in the rows of later events.
    ///
    /// # Panics
    /// When it does not, or when the last event was refused.
    #[track_caller]
    pub fn then(self, table: &str, rows: impl IntoIterator<Item = Row>) -> Self {
        assert_eq!(self.refused, None, "the last event was refused");
        let at = self.definition.tables.iter().position(|t| t.name == table);
        let (built, _) = self.build(usize::MAX);
        let table = at.and_then(|at| self.definition.tables.get(at));
        let columns = || table.into_iter().flat_map(|table| &table.columns);
        let shown = |values: &Vec<Value>| -> Vec<Value> {
            let values = columns().zip(values).filter(|(column, _)| !column.hidden);
            values.map(|(_, value)| value.clone()).collect()
        };
        let rows_of = built.iter().filter(|((of, _), _)| Some(*of) == at);
        let mut found: Vec<Vec<Value>> = rows_of.map(|(_, values)| shown(values)).collect();
        let values = |row: Row| -> Vec<Value> {
            let value = |name: &str| row.get(name).cloned().unwrap_or(Value::Null);
            let columns = columns().filter(|column| !column.hidden);
            columns.map(|column| value(&column.name)).collect()
        };
        let mut expected: Vec<Vec<Value>> = rows.into_iter().map(values).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(
            self.build(1).0,
            built,
            "one by one, the rows must be the same"
        );
        self
    }

    /// Asserts that the last event was refused, for a reason in which these words are.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn then_refused(self, words: &str) -> Self {
        let refused = self.refused.as_deref();
        assert!(
            refused.is_some_and(|reason| reason.contains(words)),
            "expected a refusal with `{words}`, got {refused:?}"
        );
        self
    }

    /// The rows after all events that are not refused, and why the last one was. Rows are handed
    /// out of memory after every `batch` events.
    fn build(&self, batch: usize) -> (Rows, Option<String>) {
        let mut events: Vec<DecodedEvent> = Vec::new();
        for record in &self.records {
            self.definition.decode(0, record, 1, &mut events);
        }
        let mut stored: BTreeMap<(usize, Key), Vec<Value>> = BTreeMap::new();
        let mut refused = None;
        for events in events.chunks(batch.clamp(1, events.len().max(1))) {
            let mut workspace = Workspace::new(self.definition.tables.clone(), 0);
            let mut rest = events;
            refused = None;
            loop {
                let next = match workspace.run(rest, &|_| false) {
                    Run::Done => break,
                    Run::Refused { at, reason } => {
                        refused = (at + 1 == rest.len()).then_some(reason);
                        at + 1
                    }
                    Run::Wants { at, rows } => {
                        workspace.insert(rows.into_iter().map(|(table, key)| Loaded {
                            values: stored.get(&(table, key.clone())).cloned(),
                            table,
                            key,
                        }));
                        at
                    }
                };
                rest = rest.get(next..).unwrap_or_default();
            }
            for change in workspace.changes() {
                let place = (change.table, change.key.clone());
                match change.values {
                    Some(values) => stored.insert(place, values.to_vec()),
                    None => stored.remove(&place),
                };
            }
        }
        (stored, refused)
    }
}
