//! DDL from a table's definition, for each kind of store.

use std::borrow::Cow;

use super::table::{Column, ColumnType, Table};

/// Whose SQL it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

impl Dialect {
    fn type_name(self, column_type: ColumnType) -> &'static str {
        match (self, column_type) {
            (Self::Sqlite, ColumnType::Text) => "TEXT",
            // By the bytes, as in SQLite, and not as some language sorts.
            (Self::Postgres, ColumnType::Text) => "TEXT COLLATE \"C\"",
            (Self::Sqlite, ColumnType::Integer | ColumnType::Boolean | ColumnType::Time) => {
                "INTEGER"
            }
            (Self::Postgres, ColumnType::Integer) => "BIGINT",
            (Self::Postgres, ColumnType::Boolean) => "BOOLEAN",
            (Self::Postgres, ColumnType::Time) => "TIMESTAMPTZ",
        }
    }
}

/// A name in SQL. Names are checked when a projection is registered and hold nothing that needs an
/// escape; the quotes are for words of SQL such as `end`.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The column with the sum of a row, which tables of SQLite have besides their own. No column of a
/// definition can have this name.
pub const SUM_COLUMN: &str = "_sum";

/// The name of an index of a table that is stored under this name, by its number from 1 on.
#[must_use]
pub fn index_name(stored_as: &str, number: usize) -> String {
    format!("{stored_as}_by_{number}")
}

/// The statements that make a table under the name `stored_as`, with its indexes. Whatever has that
/// name must be gone.
#[must_use]
pub fn create_table(table: &Table, dialect: Dialect, stored_as: &str) -> Vec<String> {
    let column = |column: &Column| {
        let null = if column.nullable { "" } else { " NOT NULL" };
        let type_name = dialect.type_name(column.column_type);
        format!("{} {type_name}{null}", quoted(&column.name))
    };
    let mut lines: Vec<String> = table.columns.iter().map(column).collect();
    if dialect == Dialect::Sqlite {
        lines.push(format!("{} INTEGER NOT NULL", quoted(SUM_COLUMN)));
    }
    lines.push(format!("PRIMARY KEY ({})", quoted(&table.key)));
    // Rows of SQLite lie in the order of their key, without a second tree for it.
    let tail = match dialect {
        Dialect::Sqlite => " STRICT, WITHOUT ROWID",
        Dialect::Postgres => "",
    };
    let name = quoted(stored_as);
    let mut statements = vec![format!("CREATE TABLE {name} ({}){tail}", lines.join(", "))];
    for (number, columns) in (1..).zip(&table.indexes) {
        let column = |name: &Cow<'_, str>| {
            let nullable = table.find(name).is_some_and(|column| column.nullable);
            // In the order in which views sort.
            let order = match dialect {
                Dialect::Postgres if nullable => " NULLS FIRST",
                Dialect::Postgres | Dialect::Sqlite => "",
            };
            format!("{}{order}", quoted(name))
        };
        let columns: Vec<String> = columns.iter().map(column).collect();
        let index = quoted(&index_name(stored_as, number));
        let columns = columns.join(", ");
        statements.push(format!("CREATE INDEX {index} ON {name} ({columns})"));
    }
    statements
}
