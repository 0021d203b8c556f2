//! Indexes of a PostgreSQL table whose entries have become too long.
//!
//! An entry of a B-tree holds about a third of a page, and a row with more in the columns of an index
//! cannot be stored at all, while SQLite knows no such bound. One long text would hold up everything that
//! comes after it. So the index goes, in the transaction that stores the row, and lists by its columns
//! are sorted without it; a rebuild makes it again, if there is no such row any more. A key cannot do
//! without its index: an event that makes a longer one is refused before it gets here, and set aside.
//! Invariant: no row gets to the server that does not fit into each index that is there.

use phalanx_actors::projection::{ColumnType, Table, Value, index_name, quoted};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::database::answered;
use super::postgres::kept_bytes;

/// Bytes of an entry, at most. The bound is 2704 with what belongs to an entry besides, on all versions.
pub(super) const MAX_BYTES: usize = 2600;

/// Bytes of a value that is no text, with what aligns it.
const NUMBER_BYTES: usize = 16;

/// See the file's description.
#[derive(Debug)]
pub(super) struct Indexes(Vec<Index>);

#[derive(Debug)]
struct Index {
    name: String,
    /// The places of its columns.
    columns: Vec<usize>,
}

impl Indexes {
    pub(super) fn new(table: &Table, stored_as: &str) -> Self {
        let place = |name: &str| table.columns.iter().position(|column| column.name == name);
        let has_text = |columns: &Vec<usize>| {
            let mut columns = columns.iter().filter_map(|at| table.columns.get(*at));
            columns.any(|column| column.column_type == ColumnType::Text)
        };
        let indexes = (1..).zip(&table.indexes).map(|(number, names)| Index {
            name: index_name(stored_as, number),
            columns: names.iter().filter_map(|name| place(name)).collect(),
        });
        Self(indexes.filter(|index| has_text(&index.columns)).collect())
    }

    /// Takes out, within the transaction, each index into which one of the rows does not fit.
    pub(super) async fn make_room(
        &mut self,
        connection: &mut PgConnection,
        rows: &[&[Value]],
    ) -> Result<(), sqlx::Error> {
        let (fitting, outgrown) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|index| rows.iter().all(|row| index.bytes_of(row) <= MAX_BYTES));
        self.0 = fitting;
        for Index { name, .. } in outgrown {
            tracing::warn!(
                index = name,
                "a row has a text that is too long for an index, which is taken out"
            );
            let text = format!("DROP INDEX IF EXISTS {}", quoted(&name));
            let done = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *connection);
            Box::pin(answered(done)).await?;
        }
        Ok(())
    }
}

impl Index {
    fn bytes_of(&self, row: &[Value]) -> usize {
        let bytes = |at: &usize| match row.get(*at) {
            Some(Value::Text(text)) => kept_bytes(text) + NUMBER_BYTES,
            _ => NUMBER_BYTES,
        };
        self.columns.iter().map(bytes).sum()
    }
}
