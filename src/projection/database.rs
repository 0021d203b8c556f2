//! A connection to whichever database keeps the read models, and the same few questions for each.
//!
//! Statements are written once, with `?` where a value goes; values are those of rows. Owns: what
//! differs between the databases when a statement is sent and a row is read. Refuses: to put a value
//! into a text. Invariant: what was bound as a value is read as the same value, on each of them; the
//! exceptions stand in `postgres.rs`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use phalanx_actors::projection::{ColumnType, Value, moment};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row as _, Sqlite, SqlitePool};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::postgres;

/// After this long a server that does not answer counts as gone; the system would wait a quarter of
/// an hour.
const SILENCE: Duration = Duration::from_secs(60);

/// A connection of its own.
#[derive(Debug)]
pub(crate) enum Database {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Database {
    pub(crate) fn connection(&mut self) -> Connection<'_> {
        match self {
            Self::Sqlite(connection) => Connection::Sqlite(connection),
            Self::Postgres(connection) => Connection::Postgres(connection),
        }
    }

    /// Closes the connection and waits until it is.
    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(connection) => sqlx::Connection::close(connection).await,
            Self::Postgres(connection) => sqlx::Connection::close(connection).await,
        }
    }
}

/// The connections that read.
#[derive(Debug)]
pub(crate) enum Readers {
    /// Behind a lock, so that the file can be replaced while nobody reads it.
    Sqlite(Arc<RwLock<SqlitePool>>),
    Postgres(PgPool),
}

/// Keeps everybody from reading, until it is dropped.
#[derive(Debug)]
pub(super) struct Closed(
    #[expect(dead_code, reason = "it is held")] OwnedRwLockWriteGuard<SqlitePool>,
);

impl Readers {
    /// Connections to a file.
    pub(super) fn of_file(pool: SqlitePool) -> Self {
        Self::Sqlite(Arc::new(RwLock::new(pool)))
    }

    /// A connection. What a query says of the file holds as long as it has one.
    pub(crate) async fn acquire(&self) -> Result<Reader, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(pool) => {
                let pool = Arc::clone(pool).read_owned().await;
                let connection = pool.acquire().await?;
                Reader::Sqlite(connection, pool)
            }
            Self::Postgres(pool) => Reader::Postgres(Box::pin(pool.acquire()).await?),
        })
    }

    /// Waits for those who read a file, closes their connections and lets nobody else begin. Those
    /// who read afterwards open what lies at its path by then. Nothing for a database.
    pub(super) async fn replace(&self) -> Option<Closed> {
        let Self::Sqlite(pool) = self else {
            return None;
        };
        let mut pool = Arc::clone(pool).write_owned().await;
        pool.close().await;
        let options = SqliteConnectOptions::clone(&pool.connect_options());
        *pool = pool.options().clone().connect_lazy_with(options);
        Some(Closed(pool))
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.read().await.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// A connection that goes back to those that read.
#[derive(Debug)]
pub(crate) enum Reader {
    Sqlite(
        PoolConnection<Sqlite>,
        #[expect(dead_code, reason = "it is held")] OwnedRwLockReadGuard<SqlitePool>,
    ),
    Postgres(PoolConnection<Postgres>),
}

impl Reader {
    pub(crate) fn connection(&mut self) -> Connection<'_> {
        match self {
            Self::Sqlite(connection, _) => Connection::Sqlite(connection),
            Self::Postgres(connection) => Connection::Postgres(connection),
        }
    }
}

/// A connection in use.
#[derive(Debug)]
pub(crate) enum Connection<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

impl Connection<'_> {
    /// The same one, for a while.
    pub(super) fn again(&mut self) -> Connection<'_> {
        match self {
            Self::Sqlite(connection) => Connection::Sqlite(connection),
            Self::Postgres(connection) => Connection::Postgres(connection),
        }
    }

    /// Runs a statement; gives the number of rows that it changed. One without values may be
    /// anything, also what cannot be prepared.
    pub(crate) async fn execute<'v>(
        &mut self,
        text: impl Into<Arc<str>>,
        values: impl IntoIterator<Item = &'v Value>,
    ) -> Result<u64, sqlx::Error> {
        let text = text.into();
        match self {
            Self::Sqlite(connection) => {
                let query = values.into_iter().fold(query(text), bind);
                Ok(query.execute(&mut **connection).await?.rows_affected())
            }
            Self::Postgres(connection) => {
                let mut values = values.into_iter().peekable();
                let done = if values.peek().is_none() {
                    let text: String = String::from(&*text);
                    let done = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut **connection);
                    Box::pin(answered(done)).await?
                } else {
                    let query = postgres::query(numbered(&text));
                    let query = values.fold(query, postgres::bind);
                    Box::pin(answered(query.execute(&mut **connection))).await?
                };
                Ok(done.rows_affected())
            }
        }
    }

    /// All rows that a statement gives, read as these types.
    pub(crate) async fn rows<'v>(
        &mut self,
        text: impl Into<Arc<str>>,
        values: impl IntoIterator<Item = &'v Value>,
        types: &[ColumnType],
    ) -> Result<Vec<Vec<Value>>, sqlx::Error> {
        let mut found = Vec::new();
        let mut take = |row| {
            found.push(row);
            true
        };
        self.each(text, values, types, &mut take).await?;
        Ok(found)
    }

    /// Hands on each row that a statement gives, until `take` says that it is enough.
    pub(crate) async fn each<'v>(
        &mut self,
        text: impl Into<Arc<str>>,
        values: impl IntoIterator<Item = &'v Value>,
        types: &[ColumnType],
        take: &mut (dyn FnMut(Vec<Value>) -> bool + Send),
    ) -> Result<(), sqlx::Error> {
        let text = text.into();
        match self {
            Self::Sqlite(connection) => {
                let query = values.into_iter().fold(query(text), bind);
                let mut found = query.fetch(&mut **connection);
                while let Some(row) = found.try_next().await? {
                    if !take(read(&row, types)?) {
                        break;
                    }
                }
            }
            Self::Postgres(connection) => {
                let query = postgres::query(numbered(&text));
                let query = values.into_iter().fold(query, postgres::bind);
                let mut found = query.fetch(&mut **connection);
                while let Some(row) = answered(found.try_next()).await? {
                    if !take(postgres::read(&row, types)?) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What a server answers, unless it does not for too long.
pub(super) async fn answered<T>(
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(SILENCE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// A query whose text is made of checked names and placeholders only.
pub(super) type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// Makes a query of a text.
pub(super) fn query<'q>(text: impl Into<Arc<str>>) -> Query<'q> {
    sqlx::query(AssertSqlSafe(text.into()))
}

/// Binds a value.
pub(super) fn bind<'q>(query: Query<'q>, value: &Value) -> Query<'q> {
    match value {
        Value::Null => query.bind(None::<i64>),
        Value::Text(text) => query.bind(Arc::clone(text)),
        Value::Integer(number) => query.bind(*number),
        Value::Boolean(yes) => query.bind(i64::from(*yes)),
        Value::Time(time) => query.bind(time.as_microsecond()),
    }
}

/// A number that was never written stands for nothing.
fn unknown(number: i64) -> sqlx::Error {
    sqlx::Error::Decode(format!("{number} is not a value of its column").into())
}

/// Reads the columns of a row, from the first one on.
pub(super) fn read(row: &SqliteRow, columns: &[ColumnType]) -> Result<Vec<Value>, sqlx::Error> {
    let value = |(at, column_type): (usize, &ColumnType)| {
        Ok(match column_type {
            ColumnType::Text => {
                let text: Option<&str> = row.try_get_unchecked(at)?;
                text.map_or(Value::Null, Value::from)
            }
            ColumnType::Integer => Value::from(row.try_get_unchecked::<Option<i64>, _>(at)?),
            ColumnType::Boolean => {
                let number: Option<i64> = row.try_get_unchecked(at)?;
                match number {
                    None => Value::Null,
                    Some(number @ (0 | 1)) => Value::Boolean(number == 1),
                    Some(number) => return Err(unknown(number)),
                }
            }
            ColumnType::Time => {
                let number: Option<i64> = row.try_get_unchecked(at)?;
                let time = number.map(|us| moment(us).ok_or_else(|| unknown(us)));
                Value::from(time.transpose()?)
            }
        })
    };
    columns.iter().enumerate().map(value).collect()
}

/// The text with `$1`, `$2` and so on for each `?`, as PostgreSQL wants it. No statement has a `?`
/// that means anything else.
fn numbered(text: &str) -> String {
    let mut numbered = String::with_capacity(text.len() + 16);
    for (at, part) in text.split('?').enumerate() {
        if at > 0 {
            // Writing to a text cannot fail.
            let _written = write!(numbered, "${at}");
        }
        numbered.push_str(part);
    }
    numbered
}
