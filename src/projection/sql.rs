//! SQL text from table definitions: rows of one stored table, many with each statement.
//!
//! Refuses: to put a value into a text. Names come from definitions, which were checked when they
//! were registered; everything else is bound. Invariant: for one table there are few different
//! texts, so that prepared statements are found again.

use std::collections::HashSet;
use std::sync::Arc;

use phalanx_actors::projection::{Change, ColumnType, Dialect, Key, Loaded, Table, Value, quoted};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;

use super::database::{Connection, answered, bind, query};
use super::postgres;

/// Rows that are written with one statement of SQLite, at most.
const CHUNKS: [usize; 4] = [128, 16, 4, 1];

/// The same for PostgreSQL, whose texts hold for any number.
const ARRAY: usize = 1000;

/// The types of a table's columns.
pub(super) fn column_types(table: &Table) -> Vec<ColumnType> {
    table.columns.iter().map(|c| c.column_type).collect()
}

/// The names of a table's columns, separated by commas.
pub(super) fn column_list(table: &Table) -> String {
    let names: Vec<String> = table.columns.iter().map(|c| quoted(&c.name)).collect();
    names.join(", ")
}

/// Texts by the number of rows that they are for, the largest first.
type Texts = Vec<(usize, Arc<str>)>;

/// The statements of one stored table.
#[derive(Debug)]
pub(super) struct TableSql {
    types: Vec<ColumnType>,
    key_at: usize,
    upsert: Texts,
    delete: Texts,
    select: Texts,
}

impl TableSql {
    pub(super) fn new(table: &Table, dialect: Dialect, stored_as: &str) -> Self {
        let name = quoted(stored_as);
        let key = quoted(&table.key);
        let columns = column_list(table);
        let sets: Vec<String> = table
            .columns
            .iter()
            .filter(|column| column.name != table.key)
            .map(|column| quoted(&column.name))
            .map(|column| format!("{column} = excluded.{column}"))
            .collect();
        let conflict = if sets.is_empty() {
            "DO NOTHING".to_owned()
        } else {
            format!("DO UPDATE SET {}", sets.join(", "))
        };
        let types = column_types(table);
        let sizes: &[usize] = match dialect {
            Dialect::Sqlite => &CHUNKS,
            Dialect::Postgres => &[1],
        };
        let of = |text: &dyn Fn(usize) -> String| -> Texts {
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
                let row = format!("({})", placeholders(types.len()));
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
            key_at: table.key_at(),
            upsert: of(&|rows| {
                let source = source(rows);
                format!("INSERT INTO {name} ({columns}) {source} ON CONFLICT ({key}) {conflict}")
            }),
            delete: of(&|rows| format!("DELETE FROM {name} WHERE {}", keys(rows))),
            select: of(&|rows| format!("SELECT {columns} FROM {name} WHERE {}", keys(rows))),
            types,
        }
    }

    /// Writes the changes of this table.
    pub(super) async fn write(
        &self,
        connection: Connection<'_>,
        changes: &[Change<'_>],
    ) -> Result<(), sqlx::Error> {
        let puts: Vec<&[Value]> = changes.iter().filter_map(|change| change.values).collect();
        let removed = changes.iter().filter(|change| change.values.is_none());
        let removed: Vec<&Key> = removed.map(|change| change.key).collect();
        match connection {
            Connection::Sqlite(connection) => {
                for (rows, text) in chunked(&self.upsert, &puts) {
                    let values = rows.iter().copied().flatten();
                    let query = values.fold(query(Arc::clone(text)), bind);
                    query.execute(&mut *connection).await?;
                }
                for (keys, text) in chunked(&self.delete, &removed) {
                    let keys = keys.iter().copied();
                    let query = keys.fold(query(Arc::clone(text)), bind);
                    query.execute(&mut *connection).await?;
                }
                Ok(())
            }
            Connection::Postgres(connection) => self.write_arrays(connection, puts, &removed).await,
        }
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
        let Some((_, text)) = self.upsert.first() else {
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
    ) -> Result<(), sqlx::Error> {
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
    ) -> Result<Vec<Vec<Value>>, sqlx::Error> {
        let mut found = Vec::with_capacity(keys.len());
        for (keys, text) in chunked(&self.select, keys) {
            let query = keys.iter().fold(query(Arc::clone(text)), bind);
            for row in &query.fetch_all(&mut *connection).await? {
                found.push(super::database::read(row, &self.types)?);
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
