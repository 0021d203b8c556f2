//! Why the read side could not do it.

use phalanx_actors::names::{Position, ShardId};
use phalanx_actors::ports::JournalError;

use super::lag::Lag;

/// Why projections could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file with the read models.
    #[error("failed to open the read models in {path}: {source}")]
    Open {
        /// The file.
        path: String,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// What the settings say of the store cannot be used.
    #[error("`projections.store` cannot be used: {reason}")]
    Address {
        /// Why not, without any part of it.
        reason: &'static str,
    },
    /// An actor could not be started.
    #[error("failed to start the projectors: {0}")]
    Actor(String),
}

/// Why the store of read models could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused.
    #[error("the store of read models: {0}")]
    Sql(#[from] sqlx::Error),
    /// A read of the journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What is stored is not what the writer has put there.
    #[error("the offset of shard {shard} is not {expected} any more")]
    Fenced {
        /// The shard.
        shard: ShardId,
        /// What the offset should be.
        expected: u64,
    },
    /// Rows that were read are not there afterwards.
    #[error("rows were read and are still wanted: {rows}")]
    Unread {
        /// Tables and keys.
        rows: String,
    },
    /// What is stored of a build cannot be read.
    #[error("what is stored of build {build} cannot be read: {reason}")]
    Build {
        /// The build.
        build: i64,
        /// Why not.
        reason: String,
    },
    /// What is stored is not what was written.
    #[error("the table {table} is damaged: {what}")]
    Damaged {
        /// The table as it is stored.
        table: String,
        /// What is wrong with it.
        what: String,
    },
    /// The database cannot be used now, or not by this node.
    #[error("the database of read models cannot be used now: {0}")]
    Away(String),
    /// The database holds the read models of somebody else.
    #[error("the read models in the database are not of this cluster: {0}")]
    Foreign(String),
    /// The read side is being stopped.
    #[error("the read side is stopping")]
    Stopping,
}

impl StoreError {
    /// Whether the disk of a file has no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        /// `SQLITE_FULL`; further bits may say more.
        const FULL: i32 = 13;
        let Self::Sql(sqlx::Error::Database(error)) = self else {
            return false;
        };
        let error = error.try_downcast_ref::<sqlx::sqlite::SqliteError>();
        let code = error.and_then(|error| sqlx::error::DatabaseError::code(error)?.parse().ok());
        code.is_some_and(|code: i32| code & 0xff == FULL)
    }
}

/// Why a view could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ViewError {
    /// There is no such view.
    #[error("this node has no such view; /v1/projections lists them")]
    Unknown,
    /// The query is wrong.
    #[error("{reason}")]
    Query {
        /// Which parameter.
        parameter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The view did not reach a position in time.
    #[error("the view has not reached {position} yet")]
    Behind {
        /// The position.
        position: Position,
        /// How far the view is behind.
        lag: Lag,
    },
    /// There is no row of this key.
    #[error("the view has no row of this key")]
    NoRow {
        /// How far the view is behind.
        lag: Lag,
    },
    /// The events of some shards can be had from nowhere, so the rows may be old without a sign.
    #[error(
        "no member with a copy of {shards} shards can be reached from here, so the view cannot \
         answer for all of them"
    )]
    Incomplete {
        /// How many.
        shards: usize,
    },
    /// Another node fills the views, and only that one knows which rows change.
    #[error("changes of rows are told by the node that fills the views: {writer}")]
    Elsewhere {
        /// Which one, as far as this node knows.
        writer: String,
    },
    /// Too many queries at once.
    #[error("too many queries of views at once")]
    Busy,
    /// The database of read models cannot be asked now.
    #[error("the database of read models cannot be asked now: {reason}")]
    Away {
        /// Why not.
        reason: String,
    },
    /// The store failed.
    #[error("{0}")]
    Store(String),
}

/// Why an operation on a projection was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// There is no such projection.
    #[error("this node has no such projection; /v1/projections lists them")]
    Unknown,
    /// There is no such dead letter.
    #[error("the projection has no dead letter of this number")]
    NoLetter,
    /// It is being built already.
    #[error("the projection is being rebuilt already")]
    Rebuilding,
    /// The database of read models cannot be asked now.
    #[error("it cannot be done now: {reason}")]
    Away {
        /// Why not.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
