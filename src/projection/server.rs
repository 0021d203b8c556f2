//! Read models in a PostgreSQL database that nodes of a cluster share.
//!
//! One node at a time holds the *pen*: an advisory lock of the very session through which it writes,
//! so whoever has lost the session can neither commit nor keep the lock. Rows of a projection come
//! from all shards and are kept in the writer's memory; that is why the pen is one for all of them.
//! The offsets move by compare-and-set in the same transaction all the same, so that even two nodes
//! that both believe to hold it cannot take an event in twice.
//!
//! Owns: connecting, the schema, the pen. Refuses: a database whose read models belong to another
//! cluster or another history; it is never emptied, since it may be somebody else's. Invariant: a
//! password never gets into an error or a log.

use std::fmt;
use std::time::Duration;

use phalanx_actors::names::ShardId;
use phalanx_actors::projection::{ColumnType, ProjectionDefinition, Value, quoted};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use super::build::stored_as;
use super::database::Database;
use super::error::StoreError;
use super::fields::Fields;
use super::standing::Standing;
use super::store::{BuildState, FORMAT, Place, Store, StoredBuild};

/// Where the tables are.
pub(super) const SCHEMA: &str = "phalanx";

/// Names the pen among the advisory locks of the database.
const PEN: i64 = 0x7068_616c_616e_7801;

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// What a session is opened with. The server ends one whose node is cut off or stands still, so that
/// its pen is free for others.
const SESSION: [(&str, &str); 8] = [
    ("search_path", SCHEMA),
    ("client_min_messages", "warning"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "10000"),
    ("lock_timeout", "5000"),
    ("idle_in_transaction_session_timeout", "60000"),
];

/// A database, and what this node is to it.
pub(crate) struct Server {
    options: PgConnectOptions,
    /// Whose read models they are.
    owner: String,
    /// What this node is called in the database.
    node: String,
    pub(super) standing: Standing,
    holds_pen: bool,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the options: they hold the password.
        f.debug_struct("Server")
            .field("node", &self.node)
            .field("holds_pen", &self.holds_pen)
            .finish_non_exhaustive()
    }
}

/// What a node knows of a shard's history.
#[derive(Debug, Clone)]
pub(crate) struct ShardEnd {
    pub(crate) shard: ShardId,
    /// Position number of the last committed event.
    pub(crate) committed: u64,
    /// Tells the first record from those of other histories; nothing while there is none.
    pub(crate) first: Option<String>,
}

/// What reaching for the pen came to.
#[derive(Debug)]
pub(crate) enum Pen {
    /// This node writes.
    Held,
    /// Another one does.
    Elsewhere,
    /// Nobody does, and this node may not yet, for this reason.
    NotYet(String),
}

impl Server {
    pub(crate) fn new(
        options: PgConnectOptions,
        cluster: &str,
        node: String,
        shards: u32,
        standing: Standing,
    ) -> Self {
        Self {
            options: session(options),
            owner: owner(cluster, shards),
            node,
            standing,
            holds_pen: false,
        }
    }
}

/// Whose read models those of a cluster are.
pub(super) fn owner(cluster: &str, shards: u32) -> String {
    format!("{FORMAT} {cluster} {shards}")
}

/// Under which key is noted how the history of a shard begins.
pub(super) fn first_of(shard: ShardId) -> String {
    format!("first {shard}")
}

pub(super) fn foreign(found: &str, owner: &str) -> StoreError {
    StoreError::Foreign(format!(
        "they are those of `{found}`, and this node is of `{owner}` (format, cluster, shards)"
    ))
}

pub(super) fn another_history(shard: ShardId) -> StoreError {
    StoreError::Foreign(format!(
        "shard {shard} has another history in them than on this node"
    ))
}

/// The options of every connection.
pub(super) fn session(options: PgConnectOptions) -> PgConnectOptions {
    options
        .options(SESSION)
        .statement_cache_capacity(256)
        .disable_statement_logging()
}

/// Opens a connection.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    match tokio::time::timeout(CONNECT, options.connect()).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(StoreError::Away(format!("no answer within {CONNECT:?}"))),
    }
}

/// Whether an error says that the tables have not been made yet.
pub(super) fn is_unmade(error: &StoreError) -> bool {
    match error {
        // An unknown table or schema.
        StoreError::Sql(sqlx::Error::Database(error)) => {
            matches!(error.code().as_deref(), Some("42P01" | "3F000"))
        }
        _ => false,
    }
}

impl Store {
    /// A store on a server, not connected yet.
    pub(crate) fn on_server(server: Server, shards: u32) -> Self {
        Self {
            database: None,
            place: Place::Server(Box::new(server)),
            shards,
            newest: 0,
        }
    }

    /// Connects, if it is a server and there is no connection.
    pub(super) async fn ensure(&mut self) -> Result<(), StoreError> {
        if let (None, Place::Server(server)) = (&self.database, &self.place) {
            let connection = connect(&server.options).await?;
            self.database = Some(Database::Postgres(connection));
        }
        Ok(())
    }

    /// Gives the connection up, and the pen with it.
    pub(super) fn let_go(&mut self) {
        if let Place::Server(server) = &mut self.place {
            // Dropping the connection ends the session.
            self.database = None;
            server.holds_pen = false;
            server.standing.lost(None);
        }
    }

    /// An error unless this node may change rows.
    pub(crate) fn may_write(&self) -> Result<(), StoreError> {
        match &self.place {
            Place::Server(server) if !server.holds_pen => {
                Err(StoreError::Away("another node writes".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the connection still works.
    pub(crate) async fn ping(&mut self) -> Result<(), StoreError> {
        self.run("SELECT 1", &[]).await?;
        Ok(())
    }

    /// Reaches for the pen. After an error the connection is to be let go.
    ///
    /// A node whose projections are older than what is stored takes it only when it is `patient`:
    /// nobody with newer ones seems to be left.
    pub(crate) async fn reach_for_pen<'d>(
        &mut self,
        ends: &[ShardEnd],
        definitions: impl IntoIterator<Item = &'d ProjectionDefinition>,
        patient: bool,
    ) -> Result<Pen, StoreError> {
        self.ensure().await?;
        if !self.truth("SELECT pg_try_advisory_lock(?)", PEN).await? {
            return Ok(Pen::Elsewhere);
        }
        if let Some(reason) = self.hindrance(ends, definitions, patient).await? {
            self.run("SELECT pg_advisory_unlock(?)", &[PEN.into()])
                .await?;
            return Ok(Pen::NotYet(reason));
        }
        if let Place::Server(server) = &mut self.place {
            server.holds_pen = true;
            let node = server.node.clone();
            self.set_note("writer", &node).await?;
            self.clear_note("wish").await?;
        }
        // Ends the session of a process that stands still. Servers before 14 do not know it.
        let _unknown = self.run("SET idle_session_timeout = 15000", &[]).await;
        Ok(Pen::Held)
    }

    /// Gives the pen back.
    pub(crate) async fn lay_pen_down(&mut self) {
        let unlocked = self
            .run("SELECT pg_advisory_unlock(?)", &[PEN.into()])
            .await;
        if let Place::Server(server) = &mut self.place {
            server.holds_pen = false;
        }
        if unlocked.is_err() {
            self.let_go();
        }
    }

    /// Makes what is missing; gives the reason why this node must not write now.
    async fn hindrance<'d>(
        &mut self,
        ends: &[ShardEnd],
        definitions: impl IntoIterator<Item = &'d ProjectionDefinition>,
        patient: bool,
    ) -> Result<Option<String>, StoreError> {
        let there = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = ?)";
        if !self.truth(there, SCHEMA).await? {
            self.run(&format!("CREATE SCHEMA {}", quoted(SCHEMA)), &[])
                .await?;
        }
        let Place::Server(server) = &self.place else {
            return Ok(None);
        };
        let owner = server.owner.clone();
        let found = self.claim_for(&owner).await?;
        if found != owner {
            return Err(foreign(&found, &owner));
        }
        if let Some(reason) = self.compare(ends).await? {
            return Ok(Some(reason));
        }
        let stored = self.builds().await?;
        for definition in definitions {
            let newer = stored.iter().find(|build| {
                build.name == definition.name
                    && build.state == BuildState::Live
                    && build.version > definition.version
            });
            if let (Some(newer), false) = (newer, patient) {
                return Ok(Some(format!(
                    "version {} of `{}` is stored and this node has {}",
                    newer.version, newer.name, definition.version
                )));
            }
        }
        Ok(None)
    }

    /// Holds this node's history against the one that the rows are from; gives a reason to wait.
    async fn compare(&mut self, ends: &[ShardEnd]) -> Result<Option<String>, StoreError> {
        let text = "SELECT shard, max(position) FROM phalanx_offsets GROUP BY shard";
        let types = [ColumnType::Integer, ColumnType::Integer];
        for row in self.rows(text, &[], &types).await? {
            let mut fields = Fields::of(row);
            let (shard, stored) = (fields.small()?, fields.number()?);
            let end = ends.iter().find(|end| end.shard == shard);
            let committed = end.map_or(0, |end| end.committed);
            if committed < stored {
                return Ok(Some(format!(
                    "shard {shard} ends at {committed} here, and the read models are at {stored}"
                )));
            }
        }
        self.note_firsts(ends).await?;
        for end in ends {
            let Some(first) = &end.first else {
                continue;
            };
            let noted = self.note(&first_of(end.shard)).await?;
            if noted.as_ref().is_some_and(|noted| noted != first) {
                return Err(another_history(end.shard));
            }
        }
        Ok(None)
    }

    /// Notes how the history of each shard begins, where that is not noted yet.
    pub(crate) async fn note_firsts(&mut self, ends: &[ShardEnd]) -> Result<(), StoreError> {
        for end in ends {
            if let Some(first) = &end.first {
                let text = "INSERT INTO phalanx_store VALUES (?, ?) ON CONFLICT (key) DO NOTHING";
                let key = first_of(end.shard);
                self.run(text, &[key.into(), first.into()]).await?;
            }
        }
        Ok(())
    }

    /// Asks whoever holds the pen to lay it down for this node.
    pub(crate) async fn wish_for_pen(&mut self) -> Result<(), StoreError> {
        self.ensure().await?;
        let Place::Server(server) = &self.place else {
            return Ok(());
        };
        let node = server.node.clone();
        self.set_note("wish", &node).await
    }

    /// Whether all tables of a build are there. Somebody may have removed them by hand.
    pub(crate) async fn is_whole(&mut self, build: &StoredBuild) -> Result<bool, StoreError> {
        if !self.is_shared() {
            return Ok(true);
        }
        for table in &build.tables {
            let name = stored_as(build.id, &table.name);
            let text = "SELECT to_regclass(?) IS NOT NULL";
            if !self
                .truth(text, format!("{SCHEMA}.{}", quoted(&name)))
                .await?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn truth(&mut self, text: &str, value: impl Into<Value>) -> Result<bool, StoreError> {
        let rows = self
            .rows(text, &[value.into()], &[ColumnType::Boolean])
            .await?;
        let row = rows.first().and_then(|row| row.first());
        Ok(row == Some(&Value::Boolean(true)))
    }
}
