//! Read models in a SQLite file of this node alone.
//!
//! Owns: opening the file, and throwing it away. Refuses: a file that belongs to another journal. It is
//! emptied then, as is one that cannot be read: a read model can be built again.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use super::database::Database;
use super::error::StoreError;
use super::store::{FORMAT, Place, Store};

/// How every connection is opened.
pub(crate) fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // Rows and offsets move together, so a power cut may take both back without harm.
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(5))
        .statement_cache_capacity(512)
        .pragma("cache_size", "-16384")
        .pragma("temp_store", "MEMORY")
        .pragma("mmap_size", "268435456")
        .disable_statement_logging()
}

impl Store {
    /// Opens or makes the file for a journal.
    pub(crate) async fn open(path: &Path, journal: &str, shards: u32) -> Result<Self, StoreError> {
        if damage_note(path).exists() {
            tracing::error!(
                path = %path.display(),
                "the read models were found damaged; building them again"
            );
            remove(path).map_err(|error| StoreError::Sql(sqlx::Error::Io(error)))?;
        }
        match Self::try_open(path, journal, shards).await {
            Ok(Some(store)) => return Ok(store),
            Ok(None) => tracing::warn!(
                path = %path.display(),
                "the read models belong to another journal; building them again"
            ),
            Err(error) if is_damage(&error) => tracing::error!(
                path = %path.display(), %error,
                "the read models cannot be read; building them again"
            ),
            Err(error) => return Err(error),
        }
        remove(path).map_err(|error| StoreError::Sql(sqlx::Error::Io(error)))?;
        let store = Self::try_open(path, journal, shards).await?;
        store.ok_or(StoreError::Build {
            build: 0,
            reason: "a new file belongs to another journal".to_owned(),
        })
    }

    /// `None` when the file belongs to another journal. Without a store, no connection is left that
    /// would still touch the file.
    async fn try_open(path: &Path, journal: &str, shards: u32) -> Result<Option<Self>, StoreError> {
        let options = connect_options(path).create_if_missing(true);
        let mut store = Self {
            database: Some(Database::Sqlite(options.connect().await?)),
            place: Place::File(path.to_owned()),
            shards,
        };
        let owner = format!("{FORMAT} {journal} {shards}");
        match store.claim_for(&owner).await {
            Ok(found) if found == owner => Ok(Some(store)),
            Ok(_another) => {
                store.close().await;
                Ok(None)
            }
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }
}

/// Opens a connection again, after one that cannot be trusted any more.
pub(super) async fn reopen(path: &Path) -> Result<Database, StoreError> {
    Ok(Database::Sqlite(connect_options(path).connect().await?))
}

/// Notes that the file is no good, so that the next start builds everything again.
pub(super) fn condemn(path: &Path) {
    tracing::error!(
        path = %path.display(),
        "the read models are damaged; restart the node to have them built again"
    );
    if let Err(error) = std::fs::write(damage_note(path), []) {
        tracing::error!(%error, "failed to note that the read models are damaged");
    }
}

/// Whether an error says that the file is no good, and not that it cannot be had just now.
pub(crate) fn is_damage(error: &StoreError) -> bool {
    /// Permissions, busy, locked, memory, read-only, interrupted, I/O, full, cannot open, lock protocol.
    const ELSEWHERE: [i32; 10] = [3, 5, 6, 7, 8, 9, 10, 13, 14, 15];
    match error {
        StoreError::Sql(sqlx::Error::Database(error)) => {
            let code = error.code().and_then(|code| i32::from_str(&code).ok());
            // The low byte says what, the rest says more about it.
            code.is_some_and(|code| !ELSEWHERE.contains(&(code & 0xff)))
        }
        StoreError::Sql(
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound,
        )
        | StoreError::Build { .. }
        | StoreError::Damaged { .. } => true,
        _ => false,
    }
}

/// Where it is noted that the file must be thrown away when it is opened next.
fn damage_note(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}

/// Removes the file and what belongs to it.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    // The note goes last: as long as anything is left, the file is to be thrown away.
    for suffix in ["-wal", "-shm", "", ".damaged"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
