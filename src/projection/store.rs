//! The file with the read models: which builds there are, how far each is, what was set aside.
//!
//! Owns: the store's own tables, and the one connection that writes. Refuses: a file that belongs to
//! another journal. It is emptied then, as is one that cannot be read: a read model can be built
//! again. Invariant: the rows of a build and its offsets change in the same transaction.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::projection::{
    DecodedEvent, Dialect, ProjectionDefinition, Table, create_table, quoted,
};
use sqlx::ConnectOptions as _;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};

use super::build::{Build, BuildId, Progress, stored_as};
use super::changes::Changes;
use super::error::StoreError;
use super::sql::{placeholders, query};

/// Version of the store's own tables.
const FORMAT: &str = "1";

/// What the store keeps besides the tables of projections.
const TABLES: [&str; 5] = [
    "CREATE TABLE IF NOT EXISTS phalanx_store (
        key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS phalanx_builds (
        id INTEGER PRIMARY KEY AUTOINCREMENT, projection TEXT NOT NULL, version INTEGER NOT NULL,
        state TEXT NOT NULL, tables TEXT NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS phalanx_offsets (
        build INTEGER NOT NULL, shard INTEGER NOT NULL, position INTEGER NOT NULL,
        PRIMARY KEY (build, shard)) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS phalanx_paused (
        projection TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS phalanx_dead_letters (
        id INTEGER PRIMARY KEY AUTOINCREMENT, build INTEGER NOT NULL, shard INTEGER NOT NULL,
        stream TEXT NOT NULL, sequence_number INTEGER NOT NULL, position INTEGER NOT NULL,
        event_type TEXT, time_us INTEGER NOT NULL, reason TEXT NOT NULL,
        attempts INTEGER NOT NULL, parked_us INTEGER NOT NULL, UNIQUE (build, stream)) STRICT",
];

/// What a build is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuildState {
    /// It answers queries.
    Live,
    /// It will take the place of the live one.
    Building,
    /// Nobody needs it any more.
    Dropped,
}

impl BuildState {
    fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Building => "building",
            Self::Dropped => "dropped",
        }
    }
}

/// A build as it is stored.
#[derive(Debug)]
pub(crate) struct StoredBuild {
    pub(crate) id: BuildId,
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) state: BuildState,
    pub(crate) tables: Vec<Table>,
}

/// An event that was set aside, and with it all later ones of its aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) id: i64,
    pub(crate) shard: ShardId,
    pub(crate) stream: String,
    pub(crate) sequence_number: u64,
    pub(crate) position: u64,
    pub(crate) event_type: Option<String>,
    pub(crate) time_us: i64,
    pub(crate) reason: String,
    pub(crate) attempts: u32,
    pub(crate) parked_us: i64,
}

/// The columns of a letter, in the order in which [`Letter::read`] wants them.
pub(crate) const LETTER_COLUMNS: &str = "id, shard, stream, sequence_number, position, event_type, \
     time_us, reason, attempts, parked_us";

impl Letter {
    pub(crate) fn read(row: &sqlx::sqlite::SqliteRow) -> Result<Self, sqlx::Error> {
        let number = |at: usize| row.try_get::<i64, _>(at).map(i64::unsigned_abs);
        Ok(Self {
            id: row.try_get(0)?,
            shard: u32::try_from(number(1)?).unwrap_or(u32::MAX),
            stream: row.try_get(2)?,
            sequence_number: number(3)?,
            position: number(4)?,
            event_type: row.try_get(5)?,
            time_us: row.try_get(6)?,
            reason: row.try_get(7)?,
            attempts: u32::try_from(number(8)?).unwrap_or(u32::MAX),
            parked_us: row.try_get(9)?,
        })
    }

    /// A letter that is not stored yet.
    pub(crate) fn new(event: &DecodedEvent, reason: String, attempts: u32, now_us: i64) -> Self {
        Self {
            id: 0,
            shard: event.position.shard,
            stream: event.stream.as_str().to_owned(),
            sequence_number: event.sequence_number,
            position: event.position.number,
            event_type: event.event_type().map(str::to_owned),
            time_us: event.time_us,
            reason,
            attempts,
            parked_us: now_us,
        }
    }

    pub(crate) fn stream_name(&self) -> Option<StreamName> {
        StreamName::from_stored(&self.stream)
    }
}

/// See the file's description.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) connection: SqliteConnection,
    path: PathBuf,
    shards: u32,
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
            connection: options.connect().await?,
            path: path.to_owned(),
            shards,
        };
        match store.claim(&format!("{FORMAT} {journal} {shards}")).await {
            Ok(true) => Ok(Some(store)),
            Ok(false) => {
                store.close().await;
                Ok(None)
            }
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    /// Makes the store's own tables and notes whose file it is; `false` when it is another's.
    async fn claim(&mut self, owner: &str) -> Result<bool, StoreError> {
        for table in TABLES {
            self.execute(table).await?;
        }
        query("INSERT INTO phalanx_store VALUES ('owner', ?) ON CONFLICT (key) DO NOTHING")
            .bind(owner)
            .execute(&mut self.connection)
            .await?;
        let found = query("SELECT value FROM phalanx_store WHERE key = 'owner'")
            .fetch_one(&mut self.connection)
            .await?;
        let found: String = found.try_get(0)?;
        Ok(found == owner)
    }

    /// Closes the connection and waits until it is.
    pub(crate) async fn close(self) {
        if let Err(error) = sqlx::Connection::close(self.connection).await {
            tracing::warn!(%error, "the store of read models did not close well");
        }
    }

    /// Notes that the file is no good, so that the next start builds everything again.
    pub(crate) fn condemn(&self) {
        tracing::error!(
            path = %self.path.display(),
            "the read models are damaged; restart the node to have them built again"
        );
        if let Err(error) = std::fs::write(damage_note(&self.path), []) {
            tracing::error!(%error, "failed to note that the read models are damaged");
        }
    }

    /// Opens the connection again, after one that cannot be trusted any more.
    pub(crate) async fn reopen(&mut self) -> Result<(), StoreError> {
        self.connection = connect_options(&self.path).connect().await?;
        Ok(())
    }

    pub(crate) async fn begin(&mut self) -> Result<(), StoreError> {
        self.execute("BEGIN IMMEDIATE").await
    }

    pub(crate) async fn commit(&mut self) -> Result<(), StoreError> {
        self.execute("COMMIT").await
    }

    /// Ends a transaction that failed. A connection that cannot even do that is replaced.
    pub(crate) async fn roll_back(&mut self) {
        if self.execute("ROLLBACK").await.is_err()
            && let Err(error) = self.reopen().await
        {
            tracing::error!(%error, "the store of read models cannot be opened again");
        }
    }

    pub(crate) async fn execute(&mut self, text: &str) -> Result<(), StoreError> {
        query(text).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Every build, the oldest first.
    pub(crate) async fn builds(&mut self) -> Result<Vec<StoredBuild>, StoreError> {
        let text = "SELECT id, projection, version, state, tables FROM phalanx_builds ORDER BY id";
        let rows = query(text).fetch_all(&mut self.connection).await?;
        let build = |row: &sqlx::sqlite::SqliteRow| {
            let id: BuildId = row.try_get(0)?;
            let unreadable = |reason: String| StoreError::Build { build: id, reason };
            let tables: String = row.try_get(4)?;
            let tables = serde_json::from_str(&tables).map_err(|e| unreadable(e.to_string()))?;
            let state = match &*row.try_get::<String, _>(3)? {
                "live" => BuildState::Live,
                "building" => BuildState::Building,
                _ => BuildState::Dropped,
            };
            Ok(StoredBuild {
                id,
                name: row.try_get(1)?,
                version: row.try_get::<i64, _>(2)?.try_into().unwrap_or(u32::MAX),
                state,
                tables,
            })
        };
        rows.iter().map(build).collect()
    }

    /// A stored build as it is filled: by this definition, if it has the same version.
    pub(crate) async fn load(
        &mut self,
        stored: StoredBuild,
        definition: &Arc<ProjectionDefinition>,
    ) -> Result<Build, StoreError> {
        let offsets = self.offsets(stored.id).await?;
        let same = stored.version == definition.version && stored.tables == definition.tables;
        Ok(Build {
            id: stored.id,
            name: stored.name,
            version: stored.version,
            tables: stored.tables,
            definition: same.then(|| Arc::clone(definition)),
            changes: Arc::new(Changes::new(offsets.clone())),
            shards: offsets.into_iter().map(Progress::new).collect(),
            handled: AtomicU64::new(0),
            letters: AtomicU64::new(0),
        })
    }

    /// Makes a new build with empty tables.
    pub(crate) async fn create(
        &mut self,
        definition: &Arc<ProjectionDefinition>,
        state: BuildState,
    ) -> Result<Build, StoreError> {
        self.begin().await?;
        match self.make(definition, state).await {
            Ok(build) => {
                self.commit().await?;
                Ok(build)
            }
            Err(error) => {
                self.roll_back().await;
                Err(error)
            }
        }
    }

    async fn make(
        &mut self,
        definition: &Arc<ProjectionDefinition>,
        state: BuildState,
    ) -> Result<Build, StoreError> {
        let tables = serde_json::to_string(&definition.tables).map_err(|e| StoreError::Build {
            build: 0,
            reason: e.to_string(),
        })?;
        let text = "INSERT INTO phalanx_builds (projection, version, state, tables) \
                    VALUES (?, ?, ?, ?)";
        let made = query(text)
            .bind(definition.name)
            .bind(i64::from(definition.version))
            .bind(state.name())
            .bind(tables)
            .execute(&mut self.connection)
            .await?;
        let id = made.last_insert_rowid();
        for table in &definition.tables {
            let name = stored_as(id, &table.name);
            for statement in create_table(table, Dialect::Sqlite, &name) {
                self.execute(&statement).await?;
            }
        }
        for shard in 0..self.shards {
            query("INSERT INTO phalanx_offsets VALUES (?, ?, 0)")
                .bind(id)
                .bind(i64::from(shard))
                .execute(&mut self.connection)
                .await?;
        }
        let build = Build {
            id,
            name: definition.name.to_owned(),
            version: definition.version,
            tables: definition.tables.clone(),
            definition: Some(Arc::clone(definition)),
            changes: Arc::new(Changes::new((0..self.shards).map(|_| 0).collect())),
            shards: (0..self.shards).map(|_| Progress::new(0)).collect(),
            handled: AtomicU64::new(0),
            letters: AtomicU64::new(0),
        };
        if state == BuildState::Live {
            self.show(&build).await?;
        }
        Ok(build)
    }

    /// Lets SQL tools see the rows of a build under the projection's name.
    async fn show(&mut self, build: &Build) -> Result<(), StoreError> {
        let Some(table) = build.tables.first() else {
            return Ok(());
        };
        let (view, stored) = (quoted(&build.name), quoted(&build.stored_as(&table.name)));
        self.execute(&format!("DROP VIEW IF EXISTS {view}")).await?;
        self.execute(&format!("CREATE VIEW {view} AS SELECT * FROM {stored}"))
            .await
    }

    /// Puts a build in the place of another, within a transaction of the caller.
    pub(crate) async fn swap(&mut self, new: &Build, old: &Build) -> Result<(), StoreError> {
        for (build, state) in [(old, BuildState::Dropped), (new, BuildState::Live)] {
            query("UPDATE phalanx_builds SET state = ? WHERE id = ?")
                .bind(state.name())
                .bind(build.id)
                .execute(&mut self.connection)
                .await?;
        }
        self.show(new).await
    }

    /// Removes a build with all that belongs to it.
    pub(crate) async fn drop_build(
        &mut self,
        id: BuildId,
        tables: &[Table],
    ) -> Result<(), StoreError> {
        for table in tables {
            let stored = quoted(&stored_as(id, &table.name));
            self.execute(&format!("DROP TABLE IF EXISTS {stored}"))
                .await?;
        }
        for table in ["phalanx_offsets", "phalanx_dead_letters"] {
            query(format!("DELETE FROM {table} WHERE build = ?"))
                .bind(id)
                .execute(&mut self.connection)
                .await?;
        }
        query("DELETE FROM phalanx_builds WHERE id = ?")
            .bind(id)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// How far each shard of a build is.
    pub(crate) async fn offsets(&mut self, build: BuildId) -> Result<Vec<u64>, StoreError> {
        let text = "SELECT shard, position FROM phalanx_offsets WHERE build = ? ORDER BY shard";
        let rows = query(text)
            .bind(build)
            .fetch_all(&mut self.connection)
            .await?;
        let mut offsets = Vec::new();
        for row in &rows {
            let position: i64 = row.try_get(1)?;
            offsets.push(position.unsigned_abs());
        }
        if u32::try_from(offsets.len()) != Ok(self.shards) {
            return Err(StoreError::Build {
                build,
                reason: format!(
                    "it has {} offsets for {} shards",
                    offsets.len(),
                    self.shards
                ),
            });
        }
        Ok(offsets)
    }

    /// Moves offsets, each only from where it is expected to be.
    pub(crate) async fn move_offsets(&mut self, moves: &[OffsetMove]) -> Result<(), StoreError> {
        let row = format!("({})", placeholders(4));
        let rows = vec![&*row; moves.len()].join(", ");
        let text = format!(
            "UPDATE phalanx_offsets SET position = moved.column4 FROM (VALUES {rows}) AS moved \
             WHERE build = moved.column1 AND shard = moved.column2 AND position = moved.column3"
        );
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let bound = moves.iter().fold(query(text), |query, moved| {
            query
                .bind(moved.build)
                .bind(i64::from(moved.shard))
                .bind(number(moved.from))
                .bind(number(moved.to))
        });
        let done = bound.execute(&mut self.connection).await?;
        match moves.first() {
            Some(first) if usize::try_from(done.rows_affected()) != Ok(moves.len()) => {
                Err(StoreError::Fenced {
                    shard: first.shard,
                    expected: first.from,
                })
            }
            _ => Ok(()),
        }
    }

    /// The letters of a build, the oldest first.
    pub(crate) async fn letters(&mut self, build: BuildId) -> Result<Vec<Letter>, StoreError> {
        let text = format!(
            "SELECT {LETTER_COLUMNS} FROM phalanx_dead_letters WHERE build = ? ORDER BY id"
        );
        let rows = query(text)
            .bind(build)
            .fetch_all(&mut self.connection)
            .await?;
        let letters: Result<Vec<_>, _> = rows.iter().map(Letter::read).collect();
        Ok(letters?)
    }

    /// Writes a letter; one of the same aggregate is replaced and keeps its number.
    pub(crate) async fn put_letter(
        &mut self,
        build: BuildId,
        letter: &Letter,
    ) -> Result<(), StoreError> {
        let text = "INSERT INTO phalanx_dead_letters (build, shard, stream, sequence_number, \
             position, event_type, time_us, reason, attempts, parked_us) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (build, stream) DO UPDATE SET \
             sequence_number = excluded.sequence_number, position = excluded.position, \
             event_type = excluded.event_type, time_us = excluded.time_us, \
             reason = excluded.reason, attempts = excluded.attempts";
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        query(text)
            .bind(build)
            .bind(i64::from(letter.shard))
            .bind(&letter.stream)
            .bind(number(letter.sequence_number))
            .bind(number(letter.position))
            .bind(&letter.event_type)
            .bind(letter.time_us)
            .bind(&letter.reason)
            .bind(i64::from(letter.attempts))
            .bind(letter.parked_us)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Removes a letter.
    pub(crate) async fn delete_letter(&mut self, id: i64) -> Result<(), StoreError> {
        query("DELETE FROM phalanx_dead_letters WHERE id = ?")
            .bind(id)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// The projections that are paused.
    pub(crate) async fn paused(&mut self) -> Result<Vec<String>, StoreError> {
        let rows = query("SELECT projection FROM phalanx_paused")
            .fetch_all(&mut self.connection)
            .await?;
        let names: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        Ok(names?)
    }

    /// Notes whether a projection is paused.
    pub(crate) async fn set_paused(&mut self, name: &str, paused: bool) -> Result<(), StoreError> {
        let text = if paused {
            "INSERT INTO phalanx_paused VALUES (?) ON CONFLICT (projection) DO NOTHING"
        } else {
            "DELETE FROM phalanx_paused WHERE projection = ?"
        };
        query(text).bind(name).execute(&mut self.connection).await?;
        Ok(())
    }
}

/// An offset on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OffsetMove {
    pub(crate) build: BuildId,
    pub(crate) shard: ShardId,
    pub(crate) from: u64,
    pub(crate) to: u64,
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
        StoreError::Sql(sqlx::Error::ColumnDecode { .. } | sqlx::Error::RowNotFound)
        | StoreError::Build { .. } => true,
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
