//! SQL text from table definitions: rows of one stored table, many with each statement.
//!
//! Refuses: to put a value into a text. Names come from definitions, which were checked when they
//! were registered; everything else is bound. Invariant: for one table there are few different
//! texts, so that prepared statements are found again.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use phalanx_actors::projection::{
    Change, Column, ColumnType, Columns, Dialect, Key, Loaded, SUM_COLUMN, Stored, Table, Value,
    quoted,
};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;

use super::database::{Connection, answered, bind, query};
use super::error::StoreError;
use super::indexes::Indexes;
use super::postgres;
use super::sums::{RowSums, Tally, stored};
use super::update::{Texts, Updates};

/// Rows that are written with one statement of SQLite, at most.
const CHUNKS: [usize; 4] = [128, 16, 4, 1];

/// Rows that are read with one statement of SQLite. The next size that is large enough serves, the last
/// key filling it up: a statement more costs more than keys that are there already.
const READS: [usize; 8] = [128, 64, 32, 16, 8, 4, 2, 1];

/// The same for PostgreSQL, whose texts hold for any number.
const ARRAY: usize = 1000;

/// The types of a table's columns.
pub(super) fn column_types(table: &Table) -> Vec<ColumnType> {
    table.columns.iter().map(|c| c.column_type).collect()
}

/// The names of columns, separated by commas.
pub(super) fn column_list<'a>(columns: impl IntoIterator<Item = &'a Column>) -> String {
    let names = columns.into_iter().map(|column| quoted(&column.name));
    names.collect::<Vec<String>>().join(", ")
}

/// The columns that are read of a table as it is stored: its own, and in SQLite the sum.
pub(super) fn read_columns(table: &Table, dialect: Dialect) -> String {
    match dialect {
        Dialect::Sqlite => format!("{}, {}", column_list(&table.columns), quoted(SUM_COLUMN)),
        Dialect::Postgres => column_list(&table.columns),
    }
}

/// Their types.
pub(super) fn read_types(table: &Table, dialect: Dialect) -> Vec<ColumnType> {
    let mut types = column_types(table);
    if dialect == Dialect::Sqlite {
        types.push(ColumnType::Integer);
    }
    types
}

/// The statements of one stored table.
#[derive(Debug)]
pub(super) struct TableSql {
    sums: RowSums,
    types: Vec<ColumnType>,
    read_types: Vec<ColumnType>,
    key_at: usize,
    insert: Texts,
    /// In SQLite, where it is known what is stored.
    updates: Updates,
    delete: Texts,
    select: Texts,
    /// In PostgreSQL, those that a row may not fit into.
    indexes: Indexes,
}

impl TableSql {
    pub(super) fn new(table: &Table, dialect: Dialect, stored_as: &str) -> Self {
        let name = quoted(stored_as);
        let key = quoted(&table.key);
        let columns = read_columns(table, dialect);
        let conflict = match dialect {
            // It is known that there is none.
            Dialect::Sqlite => String::new(),
            Dialect::Postgres => on_conflict(table),
        };
        let types = column_types(table);
        let of = |sizes: &[usize], text: &dyn Fn(usize) -> String| -> Texts {
            let sizes = match dialect {
                Dialect::Sqlite => sizes,
                Dialect::Postgres => &[1],
            };
            sizes
                .iter()
                .map(|rows| (*rows, Arc::from(text(*rows))))
                .collect()
        };
        let keys = |rows| match dialect {
            Dialect::Sqlite => format!("{key} IN ({})", placeholders(rows)),
            Dialect::Postgres => format!("{key} = ANY($1)"),
        };
        let source = |rows| match dialect {
            Dialect::Sqlite => {
                let row = format!("({})", placeholders(types.len() + 1));
                format!("VALUES {}", vec![&*row; rows].join(", "))
            }
            Dialect::Postgres => {
                let arrays = (1..).zip(&types);
                let arrays: Vec<String> = arrays
                    .map(|(n, t)| format!("${n}::{}", postgres::array_type(*t)))
                    .collect();
                format!("SELECT * FROM UNNEST({})", arrays.join(", "))
            }
        };
        Self {
            sums: RowSums::new(stored_as, table.key_at()),
            read_types: read_types(table, dialect),
            key_at: table.key_at(),
            insert: of(&CHUNKS, &|rows| {
                let source = source(rows);
                format!("INSERT INTO {name} ({columns}) {source}{conflict}")
            }),
            updates: Updates::new(table, stored_as),
            delete: of(&CHUNKS, &|rows| {
                format!("DELETE FROM {name} WHERE {}", keys(rows))
            }),
            select: of(&READS, &|rows| {
                format!("SELECT {columns} FROM {name} WHERE {}", keys(rows))
            }),
            indexes: Indexes::new(table, stored_as),
            types,
        }
    }

    /// Writes the changes of this table. In SQLite, what is stored under their keys must be known, and
    /// the tally goes with them.
    ///
    /// # Errors
    /// Also when that is not what is there.
    pub(super) async fn write(
        &mut self,
        connection: Connection<'_>,
        mut changes: Vec<Change<'_>>,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        match connection {
            Connection::Sqlite(connection) => {
                // Rows lie in the order of their keys.
                changes.sort_unstable_by(|one, other| one.key.cmp(other.key));
                self.write_rows(connection, &changes, tally).await
            }
            Connection::Postgres(connection) => {
                let puts: Vec<_> = changes.iter().filter_map(|change| change.values).collect();
                self.indexes.make_room(connection, &puts).await?;
                let removed = changes.iter().filter(|change| change.values.is_none());
                let removed: Vec<&Key> = removed.map(|change| change.key).collect();
                Ok(self.write_arrays(connection, puts, &removed).await?)
            }
        }
    }

    async fn write_rows(
        &mut self,
        connection: &mut SqliteConnection,
        changes: &[Change<'_>],
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        let Sorted {
            removed,
            added,
            altered,
        } = self.sorted(changes, tally)?;
        let mut done = 0;
        for (keys, text) in chunked(&self.delete, &removed) {
            let query = keys.iter().copied().fold(query(Arc::clone(text)), bind);
            done += query.execute(&mut *connection).await?.rows_affected();
        }
        for (set, rows) in altered {
            let places = self.updates.places(set);
            let key_at = self.key_at;
            for (rows, text) in chunked(self.updates.texts(set), &rows) {
                let mut query = query(Arc::clone(text));
                for (row, sum) in rows {
                    let at = |at: &usize| row.get(*at).unwrap_or(&Value::Null);
                    query = places.iter().map(at).fold(query, bind);
                    query = bind(bind(query, sum), at(&key_at));
                }
                done += query.execute(&mut *connection).await?.rows_affected();
            }
        }
        for (rows, text) in chunked(&self.insert, &added) {
            let mut query = query(Arc::clone(text));
            for (row, sum) in rows {
                query = bind(row.iter().fold(query, bind), sum);
            }
            done += query.execute(&mut *connection).await?.rows_affected();
        }
        let wanted = changes.len() as u64;
        if done != wanted {
            let what = format!("{done} of {wanted} rows were there to be changed");
            return Err(self.sums.damaged(&what));
        }
        Ok(())
    }

    /// Sorts changes by the statement that they need.
    fn sorted<'a>(
        &self,
        changes: &[Change<'a>],
        tally: &mut Tally,
    ) -> Result<Sorted<'a>, StoreError> {
        let mut sorted = Sorted::default();
        for change in changes {
            let known = match change.stored {
                Stored::Row(row) => Some(row),
                Stored::Absent => None,
                Stored::Unknown => {
                    return Err(self.sums.damaged("a row is changed that was not read"));
                }
            };
            if let Some(known) = known {
                tally.take(self.sums.of(known));
            }
            let Some(values) = change.values else {
                sorted.removed.push(change.key);
                continue;
            };
            let sum = self.sums.of(values);
            tally.add(sum);
            let row = (values, stored(sum));
            if known.is_some() {
                let set = self.updates.set_for(change.columns);
                sorted.altered.entry(set).or_default().push(row);
            } else {
                sorted.added.push(row);
            }
        }
        Ok(sorted)
    }

    async fn write_arrays(
        &self,
        connection: &mut PgConnection,
        puts: Vec<&[Value]>,
        removed: &[&Key],
    ) -> Result<(), sqlx::Error> {
        let key_type = self.key_type();
        for (keys, text) in in_arrays(&self.delete, removed) {
            let keys = keys.iter().copied();
            let query = postgres::bind_column(postgres::query(Arc::clone(text)), key_type, keys);
            answered(query.execute(&mut *connection)).await?;
        }
        // A key that is altered may meet the same key in another row, and one statement must not
        // touch a row twice.
        let key = |row: &&[Value]| row.get(self.key_at).is_some_and(postgres::is_altered);
        let (altered, plain): (Vec<_>, Vec<_>) = puts.into_iter().partition(key);
        let Some((_, text)) = self.insert.first() else {
            return Ok(());
        };
        for rows in plain.chunks(ARRAY).chain(altered.chunks(1)) {
            let columns = self.types.iter().enumerate();
            let query = columns.fold(postgres::query(Arc::clone(text)), |query, (at, column)| {
                let values = rows.iter().map(|row| row.get(at).unwrap_or(&Value::Null));
                postgres::bind_column(query, *column, values)
            });
            answered(query.execute(&mut *connection)).await?;
        }
        Ok(())
    }

    fn key_type(&self) -> ColumnType {
        let found = self.types.get(self.key_at).copied();
        found.unwrap_or(ColumnType::Text)
    }

    /// Reads the rows of these keys of the table with this number.
    pub(super) async fn load(
        &self,
        connection: Connection<'_>,
        table: usize,
        keys: &[Key],
        out: &mut Vec<Loaded>,
    ) -> Result<(), StoreError> {
        let rows = match connection {
            Connection::Sqlite(connection) => self.select_in(connection, keys).await?,
            Connection::Postgres(connection) => self.select_any(connection, keys).await?,
        };
        let key_of = |values: &Vec<Value>| values.get(self.key_at).cloned().unwrap_or(Value::Null);
        if rows.len() < keys.len() {
            let found: HashSet<Key> = rows.iter().map(key_of).collect();
            let absent = keys.iter().filter(|key| !found.contains(key));
            out.extend(absent.map(|key| Loaded {
                table,
                key: key.clone(),
                values: None,
            }));
        }
        out.extend(rows.into_iter().map(|values| Loaded {
            table,
            key: key_of(&values),
            values: Some(values),
        }));
        Ok(())
    }

    async fn select_in(
        &self,
        connection: &mut SqliteConnection,
        keys: &[Key],
    ) -> Result<Vec<Vec<Value>>, StoreError> {
        let mut found = Vec::with_capacity(keys.len());
        for (keys, text) in filled(&self.select, keys) {
            let query = keys.fold(query(Arc::clone(text)), bind);
            for row in &query.fetch_all(&mut *connection).await? {
                let row = super::database::read(row, &self.read_types)?;
                found.push(self.sums.open(row)?.0);
            }
        }
        Ok(found)
    }

    async fn select_any(
        &self,
        connection: &mut PgConnection,
        keys: &[Key],
    ) -> Result<Vec<Vec<Value>>, sqlx::Error> {
        let mut found = Vec::with_capacity(keys.len());
        for (keys, text) in in_arrays(&self.select, keys) {
            let query = postgres::query(Arc::clone(text));
            let query = postgres::bind_column(query, self.key_type(), keys.iter());
            for row in &answered(query.fetch_all(&mut *connection)).await? {
                found.push(postgres::read(row, &self.types)?);
            }
        }
        Ok(found)
    }
}

/// A row and its sum.
type Summed<'a> = (&'a [Value], Value);

/// Changes by the statement that they need.
#[derive(Debug, Default)]
struct Sorted<'a> {
    removed: Vec<&'a Key>,
    added: Vec<Summed<'a>>,
    altered: BTreeMap<Columns, Vec<Summed<'a>>>,
}

/// What PostgreSQL does where there is a row of the key already.
fn on_conflict(table: &Table) -> String {
    let key = quoted(&table.key);
    let columns = table.columns.iter().filter(|c| c.name != table.key);
    let sets: Vec<String> = columns
        .map(|column| quoted(&column.name))
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    if sets.is_empty() {
        format!(" ON CONFLICT ({key}) DO NOTHING")
    } else {
        format!(" ON CONFLICT ({key}) DO UPDATE SET {}", sets.join(", "))
    }
}

/// `?, ?, ?`
pub(super) fn placeholders(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// Cuts `items` into pieces for which there is a text.
fn chunked<'a, T>(
    texts: &'a [(usize, Arc<str>)],
    mut items: &'a [T],
) -> impl Iterator<Item = (&'a [T], &'a Arc<str>)> {
    std::iter::from_fn(move || {
        let (size, text) = texts.iter().find(|(size, _)| *size <= items.len())?;
        let (piece, rest) = items.split_at_checked(*size)?;
        items = rest;
        Some((piece, text))
    })
}

/// Cuts `items` into pieces of the largest size, and fills the last one up to the next size.
fn filled<'a, T>(
    texts: &'a [(usize, Arc<str>)],
    items: &'a [T],
) -> impl Iterator<Item = (impl Iterator<Item = &'a T>, &'a Arc<str>)> {
    let largest = texts.first().map_or(1, |(size, _)| *size);
    items.chunks(largest).filter_map(|piece| {
        let fits = |(size, _): &&(usize, Arc<str>)| *size >= piece.len();
        let (size, text) = texts.iter().rev().find(fits)?;
        let fill = piece.last().into_iter().cycle();
        Some((piece.iter().chain(fill).take(*size), text))
    })
}

/// Cuts `items` into pieces of at most [`ARRAY`], all for the one text.
fn in_arrays<'a, T>(
    texts: &'a [(usize, Arc<str>)],
    items: &'a [T],
) -> impl Iterator<Item = (&'a [T], &'a Arc<str>)> {
    let text = texts.first().map(|(_, text)| text);
    items
        .chunks(ARRAY)
        .filter_map(move |piece| Some((piece, text?)))
}
