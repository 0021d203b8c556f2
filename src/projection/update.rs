//! `UPDATE` statements of SQLite that set the columns that differ, and no others.
//!
//! SQLite touches every index with a column that is set, also to the value that it has. Owns: one text
//! for each set of columns and number of rows. Refuses: to keep very many of them; then all columns are
//! set. Invariant: a text sets at least the columns that it was asked for.

use std::collections::HashMap;
use std::sync::Arc;

use phalanx_actors::projection::{Columns, Table, quoted};

/// Rows that are changed with one text, at most. A text is that many statements, which is less work
/// for SQLite than one statement over many rows, and crosses to its thread once.
const CHUNKS: [usize; 3] = [32, 8, 1];

/// Sets of columns that have texts of their own. Projections change rows in a few ways.
const SETS: usize = 16;

/// Texts by the number of rows that they are for, the largest first.
pub(super) type Texts = Vec<(usize, Arc<str>)>;

/// See the file's description.
#[derive(Debug)]
pub(super) struct Updates {
    name: String,
    key: String,
    key_at: usize,
    /// The names of all columns.
    columns: Vec<String>,
    texts: HashMap<Columns, Texts>,
}

impl Updates {
    pub(super) fn new(table: &Table, stored_as: &str) -> Self {
        Self {
            name: quoted(stored_as),
            key: quoted(&table.key),
            key_at: table.key_at(),
            columns: table.columns.iter().map(|c| quoted(&c.name)).collect(),
            texts: HashMap::new(),
        }
    }

    /// The columns that are set where these differ.
    pub(super) fn set_for(&self, differing: Columns) -> Columns {
        if self.texts.contains_key(&differing) || self.texts.len() < SETS {
            differing
        } else {
            Columns::ALL
        }
    }

    /// The places of the columns that are set, in the order in which they are bound; the key follows.
    pub(super) fn places(&self, set: Columns) -> Vec<usize> {
        let all = 0..self.columns.len();
        all.filter(|at| *at != self.key_at && set.contains(*at))
            .collect()
    }

    /// The texts that set these columns.
    pub(super) fn texts(&mut self, set: Columns) -> &Texts {
        let places = self.places(set);
        let Self { columns, texts, .. } = self;
        texts.entry(set).or_insert_with(|| {
            let names = places.iter().filter_map(|at| columns.get(*at));
            let sets: Vec<String> = names.map(|name| format!("{name} = ?")).collect();
            let (name, key) = (&self.name, &self.key);
            let one = format!("UPDATE {name} SET {} WHERE {key} = ?", sets.join(", "));
            let of = |rows: &usize| (*rows, Arc::from(vec![&*one; *rows].join("; ")));
            CHUNKS.iter().map(of).collect()
        })
    }
}
