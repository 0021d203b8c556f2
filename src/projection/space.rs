//! What the writer knows of a build: rows in memory, offsets, who is set aside, and what they come to.
//!
//! Owns: running handlers over rows that are read when they are wanted, and writing those that changed.
//! Invariant: it is what is stored, plus what the transaction that is under way will store; after one
//! that failed it is thrown away.

use std::collections::HashMap;

use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::projection::{
    Change, DecodedEvent, Dialect, Key, KeyLimit, Loaded, Run, Workspace,
};

use super::build::Build;
use super::error::StoreError;
use super::indexes::MAX_BYTES;
use super::letters::sum_of;
use super::postgres::kept_bytes;
use super::seal::Sealed;
use super::sql::TableSql;
use super::store::Store;
use super::sums::Tally;

/// What the writer knows of a build.
pub(super) struct Space {
    pub(super) workspace: Workspace,
    sql: Vec<TableSql>,
    /// Who is set aside, with the sum of the letter.
    pub(super) parked: HashMap<StreamName, u64>,
    pub(super) offsets: Vec<u64>,
    /// In a file, the rows that are stored.
    tally: Tally,
    /// In a file, the sum of what the build is.
    what: u64,
}

impl Space {
    pub(super) async fn load(
        store: &mut Store,
        build: &Build,
        cache_rows: usize,
    ) -> Result<Self, StoreError> {
        let letters = store.letters(build.id).await?;
        let sealed = store.sealed(build.id).await?;
        if sealed.letters != sum_of(&letters) {
            return Err(StoreError::Build {
                build: build.id,
                reason: "its dead letters are not those that were written".to_owned(),
            });
        }
        let dialect = store.dialect();
        let table = |table| TableSql::new(table, dialect, &build.stored_as(&table.name));
        let workspace = Workspace::new(build.tables.clone(), cache_rows);
        Ok(Self {
            workspace: match dialect {
                Dialect::Sqlite => workspace,
                Dialect::Postgres => workspace.with_key_limit(KeyLimit {
                    most_bytes: MAX_BYTES,
                    stored_bytes: kept_bytes,
                }),
            },
            sql: build.tables.iter().map(table).collect(),
            parked: letters
                .iter()
                .filter_map(|letter| Some((letter.stream_name()?, letter.sum())))
                .collect(),
            offsets: sealed.offsets,
            tally: sealed.rows,
            what: sealed.what,
        })
    }

    /// What is to be sealed in a file.
    pub(super) fn sealed(&self) -> Sealed {
        let letters = self.parked.values();
        Sealed {
            rows: self.tally,
            letters: letters.fold(0, |sum, letter| sum.wrapping_add(*letter)),
            offsets: self.offsets.clone(),
            what: self.what,
        }
    }

    pub(super) fn offset(&self, shard: ShardId) -> Option<u64> {
        self.offsets.get(usize::try_from(shard).ok()?).copied()
    }

    /// Runs handlers over events, reading the rows that they want, until the end or the first event
    /// that is refused.
    pub(super) async fn run(
        &mut self,
        store: &mut Store,
        events: &[DecodedEvent],
    ) -> Result<Option<(usize, String)>, StoreError> {
        let mut from = 0;
        let mut wanted: Vec<(usize, Key)> = Vec::new();
        loop {
            let rest = events.get(from..).unwrap_or_default();
            let parked = &self.parked;
            let skip =
                |event: &DecodedEvent| !parked.is_empty() && parked.contains_key(&event.stream);
            let ran = self.workspace.run(rest, &skip);
            match ran {
                Run::Done => return Ok(None),
                Run::Refused { at, reason } => return Ok(Some((from + at, reason))),
                Run::Wants { at: 0, rows } if rows == wanted => {
                    return Err(StoreError::Unread {
                        rows: format!("{rows:?}"),
                    });
                }
                Run::Wants { at, rows } => {
                    from += at;
                    let loaded = self.read(store, &rows).await?;
                    self.workspace.insert(loaded);
                    wanted = rows;
                }
            }
        }
    }

    /// Reads rows, which come sorted by table.
    async fn read(
        &self,
        store: &mut Store,
        rows: &[(usize, Key)],
    ) -> Result<Vec<Loaded>, StoreError> {
        let mut loaded = Vec::with_capacity(rows.len());
        for of_table in rows.chunk_by(|(one, _), (other, _)| one == other) {
            let Some((table, _)) = of_table.first() else {
                continue;
            };
            let keys: Vec<Key> = of_table.iter().map(|(_, key)| key.clone()).collect();
            if let Some(sql) = self.sql.get(*table) {
                sql.load(store.connection()?, *table, &keys, &mut loaded)
                    .await?;
            }
        }
        Ok(loaded)
    }

    /// Writes the rows that changed.
    pub(super) async fn flush(&mut self, store: &mut Store) -> Result<(), StoreError> {
        if !store.is_shared() {
            let blind = self.workspace.blind();
            let rows = self.read(store, &blind).await?;
            self.workspace.settle(rows);
        }
        self.workspace.compare();
        let most = self.workspace.changed();
        let room = |_: &TableSql| Vec::with_capacity(most);
        let mut by_table: Vec<Vec<Change<'_>>> = self.sql.iter().map(room).collect();
        for change in self.workspace.changes() {
            if let Some(changes) = by_table.get_mut(change.table) {
                changes.push(change);
            }
        }
        for (sql, changes) in self.sql.iter_mut().zip(by_table) {
            sql.write(store.connection()?, changes, &mut self.tally)
                .await?;
        }
        Ok(())
    }
}
