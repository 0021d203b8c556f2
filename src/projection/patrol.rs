//! Looks through a file of read models while it is used.
//!
//! A row that is read is checked then. What nobody sees is a row that is missing from a list, or one that
//! an index leads past; that takes a look at the whole file, as at the start. Owns: doing so in parts, one
//! build or one table at a time, each as it is at a moment of its own. Refuses: to hold such a moment for
//! long where rows change fast. The file's log cannot begin anew meanwhile, and would grow.
//! Invariant: on behalf of a patrol the log does not grow beyond [`LOG_BYTES`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use phalanx_actors::projection::{ColumnType, quoted};
use sqlx::ConnectOptions as _;

use super::check::{check_build, check_trees};
use super::database::{Connection, Database};
use super::error::StoreError;
use super::fields::Fields;
use super::file::{check_header, connect_options, log_of};
use super::store::{BuildState, list};

/// How long the file's log may be. It keeps its length, so one that is longer already may be used.
const LOG_BYTES: u64 = 256 << 20;

/// Steps of SQLite between two looks at the log: some milliseconds.
const STEPS: i32 = 50_000;

/// Whether to go on, as the thread that reads sees it.
#[derive(Debug)]
struct Limits {
    log: PathBuf,
    log_bytes: u64,
    /// Nobody waits for the outcome any more.
    left: AtomicBool,
    /// The log has grown too long.
    outgrown: AtomicBool,
}

impl Limits {
    fn of(path: &Path, log_bytes: u64) -> Self {
        let mut limits = Self {
            log: log_of(path),
            log_bytes,
            left: AtomicBool::new(false),
            outgrown: AtomicBool::new(false),
        };
        limits.log_bytes = limits.log_length().max(log_bytes);
        limits
    }

    fn log_length(&self) -> u64 {
        // One that is not there has not been begun.
        std::fs::metadata(&self.log).map_or(0, |log| log.len())
    }

    fn may_go_on(&self) -> bool {
        if self.log_length() > self.log_bytes {
            self.outgrown.store(true, Ordering::Relaxed);
        }
        !self.left.load(Ordering::Relaxed) && !self.outgrown.load(Ordering::Relaxed)
    }
}

/// Ends what is under way when it is dropped.
struct Patrolling(Arc<Limits>);

impl Drop for Patrolling {
    fn drop(&mut self) {
        self.0.left.store(true, Ordering::Relaxed);
    }
}

/// Looks through a file that is in use; gives the number of rows that it has, or `None` when rows change
/// too fast.
///
/// # Errors
/// What is wrong with it, or why it cannot be read.
pub(super) async fn patrol(path: &Path) -> Result<Option<u64>, StoreError> {
    patrol_within(path, LOG_BYTES, STEPS).await
}

pub(super) async fn patrol_within(
    path: &Path,
    log_bytes: u64,
    steps: i32,
) -> Result<Option<u64>, StoreError> {
    check_header(path)?;
    let limits = Arc::new(Limits::of(path, log_bytes));
    let patrolling = Patrolling(Arc::clone(&limits));
    let options = connect_options(path).pragma("query_only", "ON");
    let mut connection = options.connect().await?;
    let mut handle = connection.lock_handle().await?;
    handle.set_progress_handler(steps, move || limits.may_go_on());
    drop(handle);
    let mut database = Database::Sqlite(connection);
    let checked = check_parts(&mut database.connection()).await;
    if let Err(error) = database.close().await {
        tracing::debug!(%error, "a connection did not close well");
    }
    if checked.is_err() && patrolling.0.outgrown.load(Ordering::Relaxed) {
        return Ok(None);
    }
    checked.map(Some)
}

async fn check_parts(connection: &mut Connection<'_>) -> Result<u64, StoreError> {
    let mut rows = 0;
    for build in list(connection.again()).await? {
        connection.execute("BEGIN", &[]).await?;
        // It may be gone by now, or going.
        let mut builds = list(connection.again()).await?.into_iter();
        let build = builds.find(|now| now.id == build.id && now.state != BuildState::Dropped);
        if let Some(build) = build {
            rows += check_build(connection, &build).await?;
        }
        connection.execute("COMMIT", &[]).await?;
    }
    check_trees(connection, SCHEMA, "PRAGMA integrity_check(sqlite_schema)").await?;
    let text = "SELECT name FROM sqlite_schema WHERE type = 'table'";
    for row in connection.rows(text, &[], &[ColumnType::Text]).await? {
        let table = Fields::of(row).text()?;
        connection.execute("BEGIN", &[]).await?;
        if is_there(connection, &table).await? {
            let text = format!("PRAGMA integrity_check({})", quoted(&table));
            check_trees(connection, &table, text).await?;
        }
        connection.execute("COMMIT", &[]).await?;
    }
    Ok(rows)
}

/// Where SQLite notes which tables there are.
const SCHEMA: &str = "sqlite_schema";

async fn is_there(connection: &mut Connection<'_>, table: &str) -> Result<bool, StoreError> {
    let text = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?";
    let types = [ColumnType::Integer];
    let found = connection.rows(text, &[table.into()], &types).await?;
    Ok(!found.is_empty())
}

#[cfg(test)]
mod tests;
