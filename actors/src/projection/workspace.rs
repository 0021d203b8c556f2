//! The rows that are in memory, and the running of handlers over them.
//!
//! Handlers are synchronous and see memory only. A row that is not there stops the handler; the run
//! goes on, to find out which other rows will be wanted, and is repeated once all of them have been
//! read. That is sound because handlers are pure, and it turns single look-ups into a few large ones.
//!
//! Owns: which rows are known, which of them differ from what is stored and where, and undoing an event.
//! Invariant: what a stopped or failed event changed is undone before the next one begins; a change says
//! of what is stored only what was read or written before.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::columns::Columns;
use super::registry::DecodedEvent;
use super::row::{Key, Value};
use super::rows::Rows;
use super::table::Table;
use super::{Handled, HandlerError};
use crate::fold::guarded;
use crate::names::Position;

/// Events that are looked through for the rows that they want, after one had to stop.
const LOOK_AHEAD: usize = 1024;

/// What is known of a row: its values, or that there is none.
///
/// Shared, for a row that is looked at is also kept.
pub(super) type Known = Option<Arc<[Value]>>;

/// A row as it was read; `None` when there is none of this key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Which table, by its place in the definition.
    pub table: usize,
    /// The row's key.
    pub key: Key,
    /// Its values in the order of the columns.
    pub values: Option<Vec<Value>>,
}

/// What is stored under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored<'a> {
    /// Nobody has looked.
    Unknown,
    /// No row.
    Absent,
    /// A row with these values.
    Row(&'a [Value]),
}

/// A row that differs from what is stored, or may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// Which table, by its place in the definition.
    pub table: usize,
    /// The row's key.
    pub key: &'a Key,
    /// Its new values in the order of the columns; `None` removes it.
    pub values: Option<&'a [Value]>,
    /// What is there so far.
    pub stored: Stored<'a>,
    /// Where the new values differ from those that are stored: everywhere, unless both are known.
    pub columns: Columns,
    /// The last event that changed it.
    pub position: Position,
}

/// How a run over events ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// All events are done.
    Done,
    /// The event at this place cannot be handled; those before it are done, it left nothing behind.
    Refused {
        /// Its place among the events.
        at: usize,
        /// Why.
        reason: String,
    },
    /// The event at this place needs these rows; those before it are done.
    Wants {
        /// Its place among the events.
        at: usize,
        /// Tables and keys, each once.
        rows: Vec<(usize, Key)>,
    },
}

#[derive(Debug)]
struct Slot {
    known: Known,
    /// What was changed since it was stored, if anything was.
    changed: Option<Changed>,
    /// The generation in which it was last used.
    used: u64,
}

#[derive(Debug)]
struct Changed {
    /// The last event that changed it.
    position: Position,
    /// What is stored; `None` when nobody has looked.
    stored: Option<Known>,
    /// Where that differs, once it was compared.
    columns: Option<Columns>,
}

/// How long a key may be that is a text. How long one is, the store says: it may keep a text otherwise
/// than it came.
#[derive(Debug, Clone, Copy)]
pub struct KeyLimit {
    /// The bytes of the longest key that the store finds again.
    pub most_bytes: usize,
    /// The bytes of a text once it is stored.
    pub stored_bytes: fn(&str) -> usize,
}

/// See the file's description.
#[derive(Debug)]
pub struct Workspace {
    pub(super) tables: Arc<[Table]>,
    slots: Vec<HashMap<Key, Slot>>,
    changed: Vec<(usize, Key)>,
    undo: Vec<Undo>,
    wanted: Vec<(usize, Key)>,
    capacity: usize,
    key_limit: Option<KeyLimit>,
    /// The event that is at work.
    event: Position,
    generation: u64,
    /// Rows that came in since the generation began.
    fresh: usize,
}

/// A row that an event changed.
#[derive(Debug)]
struct Undo {
    table: usize,
    key: Key,
    before: Before,
}

/// How a row was before an event changed it.
#[derive(Debug)]
enum Before {
    /// Nothing was known of it.
    Unknown,
    /// It was as it is stored, which the slot has kept.
    AsStored,
    /// It had been changed already.
    Changed(Known, Position),
}

impl Workspace {
    /// Without any rows; keeps about `capacity` rows when they are stored.
    #[must_use]
    pub fn new(tables: Vec<Table>, capacity: usize) -> Self {
        Self {
            slots: tables.iter().map(|_| HashMap::new()).collect(),
            tables: tables.into(),
            changed: Vec::new(),
            undo: Vec::new(),
            wanted: Vec::new(),
            capacity,
            key_limit: None,
            event: Position {
                shard: 0,
                number: 0,
            },
            generation: 0,
            fresh: 0,
        }
    }

    /// Has events refused that make a row with a key which the store could not find again.
    #[must_use]
    pub fn with_key_limit(mut self, limit: KeyLimit) -> Self {
        self.key_limit = Some(limit);
        self
    }

    /// An error for a key that the store could not find again.
    pub(super) fn check_key(&self, key: &Key) -> Handled {
        let (Some(limit), Value::Text(text)) = (self.key_limit, key) else {
            return Ok(());
        };
        let (bytes, most) = ((limit.stored_bytes)(text), limit.most_bytes);
        if bytes <= most {
            return Ok(());
        }
        Err(HandlerError::refused(format!(
            "a row would have a key of {bytes} bytes, and the store has room for {most}"
        )))
    }

    /// Runs the events in order. Those that `skip` names are passed over.
    pub fn run(&mut self, events: &[DecodedEvent], skip: &dyn Fn(&DecodedEvent) -> bool) -> Run {
        for (at, event) in events.iter().enumerate() {
            if skip(event) {
                continue;
            }
            match self.apply(event) {
                Ok(()) => self.undo.clear(),
                Err(_) if !self.wanted.is_empty() => {
                    self.undo_event();
                    self.look_ahead(events.get(at + 1..).unwrap_or_default(), skip);
                    let mut rows = std::mem::take(&mut self.wanted);
                    rows.sort_unstable();
                    rows.dedup();
                    return Run::Wants { at, rows };
                }
                Err(reason) => {
                    self.undo_event();
                    return Run::Refused { at, reason };
                }
            }
        }
        Run::Done
    }

    fn look_ahead(&mut self, events: &[DecodedEvent], skip: &dyn Fn(&DecodedEvent) -> bool) {
        for event in events.iter().take(LOOK_AHEAD) {
            if !skip(event) {
                // It is run for what it wants; how it ends now says nothing.
                drop(self.apply(event));
                self.undo_event();
            }
        }
    }

    /// Runs one handler. A handler that met a missing row has not succeeded, whatever it says.
    fn apply(&mut self, event: &DecodedEvent) -> Result<(), String> {
        let before = self.wanted.len();
        self.event = event.position;
        let result = guarded(|| {
            let handled: Result<(), HandlerError> = event.apply(&mut Rows::new(self));
            handled.map_err(|error| error.to_string())
        });
        if self.wanted.len() > before {
            return Err("a row has not been read yet".to_owned());
        }
        result
    }

    fn undo_event(&mut self) {
        while let Some(Undo { table, key, before }) = self.undo.pop() {
            let Some(rows) = self.slots.get_mut(table) else {
                continue;
            };
            match before {
                Before::Unknown => {
                    rows.remove(&key);
                }
                Before::AsStored => {
                    if let Some(slot) = rows.get_mut(&key)
                        && let Some(stored) = slot.changed.take().and_then(|c| c.stored)
                    {
                        slot.known = stored;
                    }
                }
                Before::Changed(known, position) => {
                    if let Some(slot) = rows.get_mut(&key) {
                        slot.known = known;
                        if let Some(changed) = &mut slot.changed {
                            changed.position = position;
                            changed.columns = None;
                        }
                    }
                    continue;
                }
            }
            // The first change of a row is noted when it is made, so the last note is this one.
            self.changed.pop();
        }
    }

    /// What is known of a row; `None`, with the row noted as wanted, when it has to be read.
    pub(super) fn look_up(&mut self, table: usize, key: &Key) -> Option<&Known> {
        let generation = self.generation;
        let known = self.slots.get_mut(table).and_then(|rows| rows.get_mut(key));
        match known {
            Some(slot) => {
                slot.used = generation;
                Some(&slot.known)
            }
            None => {
                self.wanted.push((table, key.clone()));
                None
            }
        }
    }

    /// Changes a row, whether it is known or not.
    pub(super) fn change(&mut self, table: usize, key: Key, values: Option<Vec<Value>>) {
        let Some(rows) = self.slots.get_mut(table) else {
            return;
        };
        let known = values.map(Arc::from);
        let (used, position) = (self.generation, self.event);
        let before = match rows.entry(key.clone()) {
            Entry::Occupied(mut entry) => {
                let slot = entry.get_mut();
                slot.used = used;
                let before = std::mem::replace(&mut slot.known, known);
                match &mut slot.changed {
                    Some(changed) => {
                        let last = std::mem::replace(&mut changed.position, position);
                        changed.columns = None;
                        Before::Changed(before, last)
                    }
                    None => {
                        slot.changed = Some(Changed {
                            position,
                            stored: Some(before),
                            columns: None,
                        });
                        Before::AsStored
                    }
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(Slot {
                    known,
                    changed: Some(Changed {
                        position,
                        stored: None,
                        columns: None,
                    }),
                    used,
                });
                self.fresh += 1;
                Before::Unknown
            }
        };
        if !matches!(before, Before::Changed(..)) {
            self.changed.push((table, key.clone()));
        }
        self.undo.push(Undo { table, key, before });
    }

    /// Takes in rows that were read.
    pub fn insert(&mut self, rows: impl IntoIterator<Item = Loaded>) {
        let generation = self.generation;
        for row in rows {
            if let Some(slots) = self.slots.get_mut(row.table) {
                self.fresh += 1;
                slots.entry(row.key).or_insert(Slot {
                    known: row.values.map(Arc::from),
                    changed: None,
                    used: generation,
                });
            }
        }
    }

    /// Takes in what is stored under the keys of [`Workspace::blind`].
    pub fn settle(&mut self, rows: impl IntoIterator<Item = Loaded>) {
        for row in rows {
            let slots = self.slots.get_mut(row.table);
            let slot = slots.and_then(|slots| slots.get_mut(&row.key));
            if let Some(changed) = slot.and_then(|slot| slot.changed.as_mut())
                && changed.stored.is_none()
            {
                changed.stored = Some(row.values.map(Arc::from));
                changed.columns = None;
            }
        }
    }

    /// The rows that were changed without knowing what is stored under their keys, sorted.
    #[must_use]
    pub fn blind(&self) -> Vec<(usize, Key)> {
        let blind = self.changed.iter().filter(|(table, key)| {
            let changed = self
                .slot(*table, key)
                .and_then(|slot| slot.changed.as_ref());
            changed.is_some_and(|changed| changed.stored.is_none())
        });
        let mut blind: Vec<_> = blind.cloned().collect();
        blind.sort_unstable();
        blind
    }

    /// Compares the rows that were changed with what is stored, so that nobody has to do it again.
    pub fn compare(&mut self) {
        for (table, key) in &self.changed {
            let slots = self.slots.get_mut(*table);
            if let Some(slot) = slots.and_then(|slots| slots.get_mut(key))
                && let Some(changed) = &mut slot.changed
            {
                changed.columns = Some(differing(changed, slot.known.as_deref()));
            }
        }
    }

    /// The rows that differ from what is stored, or may, each once.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        self.changed.iter().filter_map(|(table, key)| {
            let slot = self.slot(*table, key)?;
            let changed = slot.changed.as_ref()?;
            let values = slot.known.as_deref();
            let columns = changed
                .columns
                .unwrap_or_else(|| differing(changed, values));
            let stored = match &changed.stored {
                None => Stored::Unknown,
                Some(None) => Stored::Absent,
                Some(Some(stored)) => Stored::Row(stored),
            };
            (!columns.is_empty()).then_some(Change {
                table: *table,
                key,
                values,
                stored,
                columns,
                position: changed.position,
            })
        })
    }

    /// Rows that were changed, at most.
    #[must_use]
    pub fn changed(&self) -> usize {
        self.changed.len()
    }

    fn slot(&self, table: usize, key: &Key) -> Option<&Slot> {
        self.slots.get(table)?.get(key)
    }

    /// Notes that the changes are stored, and forgets rows that were not used lately when many came
    /// in.
    pub fn stored(&mut self) {
        for (table, key) in std::mem::take(&mut self.changed) {
            if let Some(slot) = self
                .slots
                .get_mut(table)
                .and_then(|rows| rows.get_mut(&key))
            {
                slot.changed = None;
            }
        }
        if self.fresh <= self.capacity / 2 {
            return;
        }
        self.fresh = 0;
        let ended = self.generation;
        self.generation += 1;
        for slots in &mut self.slots {
            slots.retain(|_, slot| slot.used == ended);
        }
        if self.known() > self.capacity {
            self.forget();
        }
    }

    /// Number of rows of which something is known.
    #[must_use]
    pub fn known(&self) -> usize {
        self.slots.iter().map(HashMap::len).sum()
    }

    /// Forgets everything: what is stored may differ from what was thought.
    pub fn forget(&mut self) {
        self.slots.iter_mut().for_each(HashMap::clear);
        self.changed.clear();
        self.undo.clear();
        self.wanted.clear();
        self.fresh = 0;
    }
}

/// Where the values of a row differ from what is stored: nowhere, everywhere, or in some columns.
fn differing(changed: &Changed, values: Option<&[Value]>) -> Columns {
    match (&changed.stored, values) {
        (Some(None), None) => Columns::NONE,
        (Some(Some(stored)), Some(values)) => Columns::differing(stored, values),
        _ => Columns::ALL,
    }
}

#[cfg(test)]
mod tests;
