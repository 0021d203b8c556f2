//! Read models in a SQLite file of this node alone.
//!
//! Owns: opening the file, and throwing it away. Refuses: a file that belongs to another journal, or that
//! an older release has written. It is thrown away then, as is one that cannot be read: a read model can
//! be built again.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use tokio::time::Instant;

use super::database::Database;
use super::error::StoreError;
use super::store::{Place, Store};
use super::warden::Alarm;

/// Version of the tables in a file: with sums of rows, and seals.
const FORMAT: &str = "2";

/// What lies beside a file, by the end of its name. Its write-ahead log.
const LOG: &str = "-wal";
/// Where things are in that.
const LOG_INDEX: &str = "-shm";
/// What SQLite goes by until a new file has a write-ahead log.
const ROLLBACK: &str = "-journal";
/// How long a file that is thrown away may take to be closed.
const LET_GO: Duration = Duration::from_secs(5);
/// Our note that the file must be thrown away when it is opened next.
const NOTE: &str = ".damaged";

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The write-ahead log of a file.
pub(super) fn log_of(path: &Path) -> PathBuf {
    beside(path, LOG)
}

/// A file, and where its damage is reported.
#[derive(Debug, Clone)]
pub(super) struct FilePlace {
    pub(super) path: PathBuf,
    /// Whose read models they are.
    owner: String,
    pub(super) alarm: Alarm,
}

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
        // Pages are written once to the log for each commit and once to the file for each checkpoint: a
        // log of 16 MiB, where 1,000 pages would be usual.
        .pragma("wal_autocheckpoint", "4000")
        .disable_statement_logging()
}

impl Store {
    /// Opens or makes the file for a journal.
    pub(crate) async fn open(path: &Path, journal: &str, shards: u32) -> Result<Self, StoreError> {
        let place = FilePlace {
            path: path.to_owned(),
            owner: format!("{FORMAT} {journal} {shards}"),
            alarm: Alarm::new(path),
        };
        if beside(path, NOTE).exists() {
            tracing::error!(
                path = %path.display(),
                "the read models were found damaged; building them again"
            );
            place.alarm.found_at_start();
            discard(path).await?;
        }
        match Self::try_open(&place, shards).await {
            Ok(Some(store)) => return Ok(store),
            Ok(None) => tracing::warn!(
                path = %path.display(),
                "the read models belong to another journal or release; building them again"
            ),
            Err(error) if is_damage(&error) => {
                tracing::error!(
                    path = %path.display(), %error,
                    "the read models cannot be read; building them again"
                );
                place.alarm.found_at_start();
            }
            Err(error) => return Err(error),
        }
        Self::renew(&place, shards).await
    }

    /// Throws a file away and makes a new one.
    async fn renew(place: &FilePlace, shards: u32) -> Result<Self, StoreError> {
        discard(&place.path).await?;
        let store = Self::try_open(place, shards).await?;
        store.ok_or(StoreError::Build {
            build: 0,
            reason: "a new file belongs to another journal".to_owned(),
        })
    }

    /// Goes on with a new file. Numbers of builds are not used again: whoever knows one from before
    /// must not take it for another.
    pub(super) async fn start_over(&mut self) -> Result<(), StoreError> {
        let Place::File(place) = &self.place else {
            return Err(StoreError::Away("it is not in a file".to_owned()));
        };
        let place = place.clone();
        if let Some(database) = self.database.take()
            && let Err(error) = database.close().await
        {
            tracing::debug!(%error, "the damaged read models did not close well");
        }
        let newest = self.newest;
        *self = Self::renew(&place, self.shards).await?;
        self.newest = newest;
        let text = "INSERT INTO sqlite_sequence (name, seq) VALUES ('phalanx_builds', ?)";
        self.run(text, &[newest.into()]).await?;
        Ok(())
    }

    /// `None` when the file belongs to another journal. Without a store, no connection is left that
    /// would still touch the file.
    async fn try_open(place: &FilePlace, shards: u32) -> Result<Option<Self>, StoreError> {
        check_header(&place.path)?;
        let options = connect_options(&place.path).create_if_missing(true);
        let mut store = Self {
            database: Some(Database::Sqlite(options.connect().await?)),
            place: Place::File(place.clone()),
            shards,
            newest: 0,
        };
        match store.claim_for(&place.owner).await {
            Ok(found) if found == place.owner => Ok(Some(store)),
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

/// An error when the file says that it was written in another way than by this program. SQLite would
/// take such a file for one that must not be written, or whose log is nothing to it.
pub(super) fn check_header(path: &Path) -> Result<(), StoreError> {
    let mut header = [0_u8; 20];
    let Ok(mut file) = std::fs::File::open(path) else {
        // What cannot be opened has no header; whoever opens it next says why.
        return Ok(());
    };
    if file.read_exact(&mut header).is_err()
        || header.starts_with(b"SQLite format 3\0\x10\0\x02\x02")
    {
        return Ok(());
    }
    Err(StoreError::Damaged {
        table: "(the file)".to_owned(),
        what: "its header is not as it was written".to_owned(),
    })
}

/// Notes that the file is no good, so that the next start builds everything again.
pub(super) fn condemn(path: &Path) {
    if let Err(error) = std::fs::write(beside(path, NOTE), []) {
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

/// Whether an error of a query says that the file is no good. One that SQLite does not understand says
/// nothing of the file.
pub(super) fn shows_damage(error: &sqlx::Error) -> bool {
    /// Corrupt, and no database.
    const DAMAGE: [i32; 2] = [11, 26];
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| i32::from_str(&code).ok());
            code.is_some_and(|code| DAMAGE.contains(&(code & 0xff)))
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => true,
        _ => false,
    }
}

/// Which files lie at the path of a file of read models and its log: device and number, if there is one.
pub(super) type Files = [Option<(u64, u64)>; 3];

/// See [`Files`].
///
/// # Errors
/// When it cannot be found out.
pub(super) fn files_at(path: &Path) -> std::io::Result<Files> {
    let mut files = Files::default();
    for (file, suffix) in files.iter_mut().zip(["", LOG, LOG_INDEX]) {
        *file = match std::fs::metadata(beside(path, suffix)) {
            Ok(found) => Some((found.dev(), found.ino())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
    }
    Ok(files)
}

async fn discard(path: &Path) -> Result<(), StoreError> {
    let_go(path).await;
    remove(path).map_err(|error| StoreError::Sql(sqlx::Error::Io(error)))
}

/// Waits until this process has the file open nowhere. A connection that could not be made to the end is
/// closed some time later, and the last one to be closed removes the write-ahead log by its name. SQLite
/// looks first whether the file is still there; the next one must not take its place in between, for its
/// log would go, and nobody could read it any more.
async fn let_go(path: &Path) {
    let Ok(file) = std::fs::metadata(path) else {
        return;
    };
    let deadline = Instant::now() + LET_GO;
    while is_open(&file) {
        if Instant::now() > deadline {
            tracing::warn!(path = %path.display(), "the damaged read models are still open somewhere");
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether this process has a file open, as far as the system tells.
fn is_open(file: &std::fs::Metadata) -> bool {
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else {
        return false;
    };
    let mut open = descriptors.flatten().filter_map(|descriptor| {
        // One that is closed meanwhile is none.
        std::fs::metadata(descriptor.path()).ok()
    });
    open.any(|open| (open.dev(), open.ino()) == (file.dev(), file.ino()))
}

/// Removes the file and what belongs to it.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    // What SQLite would take for a part of the next file goes before the file. The note goes last: as
    // long as anything is left, the file is to be thrown away.
    for suffix in [ROLLBACK, LOG, LOG_INDEX, "", NOTE] {
        match std::fs::remove_file(beside(path, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
