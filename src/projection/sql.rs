//! SQL text from table definitions, and values on their way in and out of SQLite.
//!
//! Refuses: to put a value into a text. Names come from definitions, which were checked when they
//! were registered; everything else is bound. Invariant: for one table there are few different
//! texts, so that prepared statements are found again.

use std::sync::Arc;

use jiff::Timestamp;
use phalanx_actors::projection::{Change, ColumnType, Key, Loaded, Table, Value, quoted};
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, Sqlite};

/// A query whose text is made of checked names and placeholders only.
pub(super) type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// Rows that are written with one statement, at most.
const CHUNKS: [usize; 4] = [128, 16, 4, 1];

/// Makes a query of a text.
pub(super) fn query<'q>(text: impl Into<Arc<str>>) -> Query<'q> {
    sqlx::query(AssertSqlSafe(text.into()))
}

/// Binds a value.
pub(super) fn bind<'q>(query: Query<'q>, value: &Value) -> Query<'q> {
    match value {
        Value::Null => query.bind(None::<i64>),
        Value::Text(text) => query.bind(Arc::clone(text)),
        Value::Integer(number) => query.bind(*number),
        Value::Boolean(yes) => query.bind(i64::from(*yes)),
        Value::Time(time) => query.bind(time.as_microsecond()),
    }
}

/// Reads the columns of a row, from the first one on.
pub(super) fn read(row: &SqliteRow, columns: &[ColumnType]) -> Result<Vec<Value>, sqlx::Error> {
    let value = |(at, column_type): (usize, &ColumnType)| {
        Ok(match column_type {
            ColumnType::Text => {
                let text: Option<&str> = row.try_get_unchecked(at)?;
                text.map_or(Value::Null, Value::from)
            }
            ColumnType::Integer => Value::from(row.try_get_unchecked::<Option<i64>, _>(at)?),
            ColumnType::Boolean => {
                let number: Option<i64> = row.try_get_unchecked(at)?;
                number.map_or(Value::Null, |number| Value::Boolean(number != 0))
            }
            ColumnType::Time => {
                let number: Option<i64> = row.try_get_unchecked(at)?;
                let time = number.map(|us| Timestamp::from_microsecond(us).unwrap_or_default());
                Value::from(time)
            }
        })
    };
    columns.iter().enumerate().map(value).collect()
}

/// The types of a table's columns.
pub(super) fn column_types(table: &Table) -> Vec<ColumnType> {
    table.columns.iter().map(|c| c.column_type).collect()
}

/// The names of a table's columns, separated by commas.
pub(super) fn column_list(table: &Table) -> String {
    let names: Vec<String> = table.columns.iter().map(|c| quoted(&c.name)).collect();
    names.join(", ")
}

/// The statements of one stored table, as texts by the number of rows that they are for.
#[derive(Debug)]
pub(super) struct TableSql {
    types: Vec<ColumnType>,
    key_at: usize,
    upsert: Vec<(usize, Arc<str>)>,
    delete: Vec<(usize, Arc<str>)>,
    select: Vec<(usize, Arc<str>)>,
}

impl TableSql {
    pub(super) fn new(table: &Table, stored_as: &str) -> Self {
        let name = quoted(stored_as);
        let key = quoted(&table.key);
        let columns = column_list(table);
        let row = format!("({})", placeholders(table.columns.len()));
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
        let of = |text: &dyn Fn(usize) -> String| -> Vec<(usize, Arc<str>)> {
            let texts = CHUNKS.map(|rows| (rows, Arc::from(text(rows))));
            texts.into()
        };
        Self {
            types: column_types(table),
            key_at: table.key_at(),
            upsert: of(&|rows| {
                let rows = vec![&*row; rows].join(", ");
                format!(
                    "INSERT INTO {name} ({columns}) VALUES {rows} ON CONFLICT ({key}) {conflict}"
                )
            }),
            delete: of(&|rows| {
                format!("DELETE FROM {name} WHERE {key} IN ({})", placeholders(rows))
            }),
            select: of(&|rows| {
                let keys = placeholders(rows);
                format!("SELECT {columns} FROM {name} WHERE {key} IN ({keys})")
            }),
        }
    }

    /// Writes the changes of this table.
    pub(super) async fn write(
        &self,
        connection: &mut SqliteConnection,
        changes: &[Change<'_>],
    ) -> Result<(), sqlx::Error> {
        let puts: Vec<&[Value]> = changes.iter().filter_map(|change| change.values).collect();
        for (rows, text) in chunked(&self.upsert, &puts) {
            let mut query = query(Arc::clone(text));
            for value in rows.iter().copied().flatten() {
                query = bind(query, value);
            }
            query.execute(&mut *connection).await?;
        }
        let removed = changes.iter().filter(|change| change.values.is_none());
        let removed: Vec<&Key> = removed.map(|change| change.key).collect();
        for (keys, text) in chunked(&self.delete, &removed) {
            let query = keys
                .iter()
                .fold(query(Arc::clone(text)), |q, key| bind(q, key));
            query.execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// Reads the rows of these keys of the table with this number.
    pub(super) async fn load(
        &self,
        connection: &mut SqliteConnection,
        table: usize,
        keys: &[Key],
        out: &mut Vec<Loaded>,
    ) -> Result<(), sqlx::Error> {
        for (keys, text) in chunked(&self.select, keys) {
            let query = keys
                .iter()
                .fold(query(Arc::clone(text)), |q, key| bind(q, key));
            let rows = query.fetch_all(&mut *connection).await?;
            let before = out.len();
            for row in &rows {
                let values = read(row, &self.types)?;
                let key = values.get(self.key_at).cloned().unwrap_or(Value::Null);
                out.push(Loaded {
                    table,
                    key,
                    values: Some(values),
                });
            }
            if rows.len() < keys.len() {
                let found: std::collections::HashSet<Key> = out
                    .iter()
                    .skip(before)
                    .map(|loaded| loaded.key.clone())
                    .collect();
                let absent = keys.iter().filter(|key| !found.contains(key));
                out.extend(absent.map(|key| Loaded {
                    table,
                    key: key.clone(),
                    values: None,
                }));
            }
        }
        Ok(())
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
