//! What a table is made of: one definition from which DDL, the checks of rows and the checks of
//! queries follow.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::columns::Columns;
use super::row::{Row, Value};
use super::{HandlerError, ProjectionError};

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// Text.
    Text,
    /// A whole number of 64 bits.
    Integer,
    /// Yes or no.
    Boolean,
    /// A moment, to the microsecond.
    Time,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: Cow<'static, str>,
    /// What it holds.
    pub column_type: ColumnType,
    /// Whether it may hold nothing.
    pub nullable: bool,
    /// Whether only the projection's own handlers see it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
}

/// A table: columns, the one that is its key, and indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name within the projection.
    pub name: Cow<'static, str>,
    /// Its columns, in the order in which they are shown.
    pub columns: Vec<Column>,
    /// The name of the key column.
    pub key: Cow<'static, str>,
    /// Columns that are indexed together, one list for each index.
    pub indexes: Vec<Vec<Cow<'static, str>>>,
}

/// Names that queries and answers use for other things.
const RESERVED: [&str; 6] = ["after", "cursor", "lag", "limit", "sort", "wait"];

impl Table {
    /// A table without columns, whose key will be the column `key`.
    #[must_use]
    pub fn new(name: &'static str, key: &'static str) -> Self {
        Self {
            name: name.into(),
            columns: Vec::new(),
            key: key.into(),
            indexes: Vec::new(),
        }
    }

    /// Adds a column of text.
    #[must_use]
    pub fn text(self, name: &'static str) -> Self {
        self.column(name, ColumnType::Text)
    }

    /// Adds a column of whole numbers.
    #[must_use]
    pub fn integer(self, name: &'static str) -> Self {
        self.column(name, ColumnType::Integer)
    }

    /// Adds a column of yes or no.
    #[must_use]
    pub fn boolean(self, name: &'static str) -> Self {
        self.column(name, ColumnType::Boolean)
    }

    /// Adds a column of moments.
    #[must_use]
    pub fn time(self, name: &'static str) -> Self {
        self.column(name, ColumnType::Time)
    }

    fn column(mut self, name: &'static str, column_type: ColumnType) -> Self {
        self.columns.push(Column {
            name: name.into(),
            column_type,
            nullable: false,
            hidden: false,
        });
        self
    }

    /// Lets the column that was added last hold nothing.
    #[must_use]
    pub fn nullable(mut self) -> Self {
        if let Some(column) = self.columns.last_mut() {
            column.nullable = true;
        }
        self
    }

    /// Keeps the column that was added last for the projection's handlers: it lies in the row and is
    /// written with it, but no query can name it and no answer shows it.
    ///
    /// For what a handler must know to come to the next row, such as the state that the shown columns
    /// follow from. A second table for it would cost a second write for each event.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        if let Some(column) = self.columns.last_mut() {
            column.hidden = true;
        }
        self
    }

    /// Adds an index over these columns, so that filters and sorts by them are quick.
    #[must_use]
    pub fn index<const N: usize>(mut self, columns: [&'static str; N]) -> Self {
        self.indexes.push(columns.map(Cow::Borrowed).into());
        self
    }

    /// The columns that queries and answers know.
    pub fn shown(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !column.hidden)
    }

    /// Whether one of these columns is shown.
    #[must_use]
    pub fn shows(&self, columns: Columns) -> bool {
        let mut places = self.columns.iter().enumerate();
        places.any(|(at, column)| !column.hidden && columns.contains(at))
    }

    /// The column of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The key column's place.
    #[must_use]
    pub fn key_at(&self) -> usize {
        let at = self.columns.iter().position(|c| c.name == self.key);
        at.unwrap_or(0)
    }

    /// The row's values in the order of the columns.
    ///
    /// # Errors
    /// When a column is missing, unknown, or of another type.
    pub(super) fn values(&self, mut row: Row) -> Result<Vec<Value>, HandlerError> {
        if row.len() != self.columns.len() {
            let unknown = row.columns().find(|name| self.find(name).is_none());
            if let Some(unknown) = unknown {
                return Err(self.misfit(unknown, "there is no such column"));
            }
        }
        let values = self.columns.iter().map(|column| {
            let value = row
                .take(&column.name)
                .ok_or_else(|| self.misfit(&column.name, "it is missing"))?;
            if column.fits(&value) {
                Ok(value)
            } else {
                Err(self.misfit(&column.name, &format!("it cannot hold {value:?}")))
            }
        });
        values.collect()
    }

    fn misfit(&self, column: &str, why: &str) -> HandlerError {
        let name = &self.name;
        HandlerError::refused(format!("column `{column}` of table `{name}`: {why}"))
    }

    /// Checks names, key and indexes.
    pub(super) fn check(&self, projection: &'static str) -> Result<(), ProjectionError> {
        let wrong = |reason: String| ProjectionError::Table {
            projection,
            table: self.name.to_string(),
            reason,
        };
        let mut names = BTreeSet::new();
        if !is_name(&self.name) {
            return Err(wrong(
                "its name must be 1 to 48 of a-z, 0-9 and _".to_owned(),
            ));
        }
        for column in &self.columns {
            let name = &column.name;
            if !is_name(name) {
                return Err(wrong(format!("`{name}` is not a column name")));
            }
            if RESERVED.contains(&&**name) {
                return Err(wrong(format!("queries use the name `{name}`")));
            }
            if !names.insert(name) {
                return Err(wrong(format!("column `{name}` appears twice")));
            }
        }
        match self.find(&self.key) {
            None => return Err(wrong(format!("there is no key column `{}`", self.key))),
            Some(key) if key.nullable => {
                return Err(wrong("its key must not be nullable".to_owned()));
            }
            Some(key) if key.hidden => {
                return Err(wrong("its key must not be hidden".to_owned()));
            }
            Some(_) => {}
        }
        for index in &self.indexes {
            if index.is_empty() || !index.iter().all(|name| names.contains(name)) {
                return Err(wrong(format!("an index over {index:?} is not possible")));
            }
            let hidden = |name: &Cow<'_, str>| self.find(name).is_some_and(|c| c.hidden);
            if let Some(name) = index.iter().find(|name| hidden(name)) {
                let reason = format!("no query can use an index over `{name}`, which is hidden");
                return Err(wrong(reason));
            }
        }
        Ok(())
    }
}

impl Column {
    /// Whether it can hold a value.
    #[must_use]
    pub fn fits(&self, value: &Value) -> bool {
        match value {
            Value::Null => self.nullable,
            Value::Text(_) => self.column_type == ColumnType::Text,
            Value::Integer(_) => self.column_type == ColumnType::Integer,
            Value::Boolean(_) => self.column_type == ColumnType::Boolean,
            Value::Time(_) => self.column_type == ColumnType::Time,
        }
    }
}

/// Whether a name may stand in SQL and in URLs as it is.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=48).contains(&name.len())
        && name.bytes().all(allowed)
        && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
}
