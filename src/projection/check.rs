//! Looks through a whole file of read models for damage.
//!
//! Owns: one connection, on which it sees the file as it was at one moment, so that the writer may go on.
//! SQLite says whether trees, indexes and the types of values are in order; the sums say whether each
//! row is as it was written, and the seals whether all rows and offsets are of the same moment. Refuses:
//! to mend anything.
//!
//! While the file is used, `patrol.rs` does the same in parts.

use std::path::Path;
use std::sync::Arc;

use phalanx_actors::projection::{ColumnType, Dialect, Table, quoted};
use sqlx::ConnectOptions as _;

use super::build::stored_as;
use super::database::{Connection, Database};
use super::error::StoreError;
use super::fields::Fields;
use super::file::{check_header, connect_options};
use super::letters;
use super::seal;
use super::sql::{read_columns, read_types};
use super::store::{BuildState, StoredBuild, list};
use super::sums::{RowSums, Tally};

/// Looks through a file; gives the number of rows that it has.
///
/// # Errors
/// What is wrong with it, or why it cannot be read.
pub(super) async fn check(path: &Path) -> Result<u64, StoreError> {
    check_header(path)?;
    let options = connect_options(path).pragma("query_only", "ON");
    let mut database = Database::Sqlite(options.connect().await?);
    let checked = check_all(&mut database.connection()).await;
    if let Err(error) = database.close().await {
        tracing::debug!(%error, "a connection did not close well");
    }
    checked
}

async fn check_all(connection: &mut Connection<'_>) -> Result<u64, StoreError> {
    connection.execute("BEGIN", &[]).await?;
    let mut rows = 0;
    for build in list(connection.again()).await? {
        // One that nobody needs may be half gone.
        if build.state != BuildState::Dropped {
            rows += check_build(connection, &build).await?;
        }
    }
    check_trees(connection, "(the file)", "PRAGMA integrity_check(1)").await?;
    connection.execute("COMMIT", &[]).await?;
    Ok(rows)
}

/// Has SQLite look through trees, indexes and types.
pub(super) async fn check_trees(
    connection: &mut Connection<'_>,
    of: &str,
    text: impl Into<Arc<str>>,
) -> Result<(), StoreError> {
    // It says what is wrong in as many rows, or "ok" in one.
    let found = connection.rows(text, &[], &[ColumnType::Text]).await?;
    let found = found.into_iter().next().unwrap_or_default();
    let found = Fields::of(found).text()?;
    if found == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged {
        table: of.to_owned(),
        what: found,
    })
}

/// Whether the rows of a build, its dead letters and its seal are those that were written; gives how many
/// rows there are.
pub(super) async fn check_build(
    connection: &mut Connection<'_>,
    build: &StoredBuild,
) -> Result<u64, StoreError> {
    let sealed = seal::open(connection, build.id).await?;
    let mut tally = Tally::default();
    for table in &build.tables {
        let stored_as = stored_as(build.id, &table.name);
        check_table(connection, table, &stored_as, &mut tally).await?;
    }
    let letters = letters::list(connection.again(), build.id, 0, u32::MAX).await?;
    if tally == sealed.rows && letters::sum_of(&letters) == sealed.letters {
        return Ok(tally.rows);
    }
    Err(StoreError::Build {
        build: build.id,
        reason: format!(
            "it has {} rows and {} dead letters, which are not those that were written last",
            tally.rows,
            letters.len()
        ),
    })
}

async fn check_table(
    connection: &mut Connection<'_>,
    table: &Table,
    stored_as: &str,
    tally: &mut Tally,
) -> Result<(), StoreError> {
    let sums = RowSums::new(stored_as, table.key_at());
    let columns = read_columns(table, Dialect::Sqlite);
    let text = format!("SELECT {columns} FROM {}", quoted(stored_as));
    let types = read_types(table, Dialect::Sqlite);
    let mut damage = None;
    let mut take = |row| match sums.open(row) {
        Ok((_, sum)) => {
            tally.add(sum);
            true
        }
        Err(error) => {
            damage = Some(error);
            false
        }
    };
    connection.each(text, &[], &types, &mut take).await?;
    damage.map_or(Ok(()), Err)
}
