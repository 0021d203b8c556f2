//! What asks views: rows and lists, with waits and lags; and what operates projections.
//!
//! Owns: the connections that read. Refuses: to answer with rows that are older than what the query
//! asked for, and to answer at all where shards are missing on this node. Invariant: the lag of an
//! answer is never smaller than it was when the rows were read.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use phalanx_actors::names::Position;
use phalanx_actors::ports::{Clock, Feed};
use phalanx_actors::projection::{Dialect, Key, Table, Value};
use tokio::time::Instant;

use super::build::Build;
use super::database::{Reader, Readers};
use super::entry::{Entry, Withheld};
use super::error::{StoreError, ViewError};
use super::file::shows_damage;
use super::gather::{Answer, Known};
use super::json::{append_members, append_row};
use super::keeper::Wanted;
use super::lag::{Lag, Reached};
use super::postgres;
use super::selection::{Selection, parse_key};
use super::sql::{TableSql, read_types};
use super::standing::{Part, Stand, Standing};
use super::sums::RowSums;
use super::warden::Alarm;
use super::writer::WriterHandle;

/// Bytes of rows from which on a page ends before its limit.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// How long a query waits where some shard can be read from nowhere. When a copy has just left this node
/// for another, it takes this node a moment to follow that one.
const COPY_LEFT: Duration = Duration::from_millis(750);
/// How often it looks meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Decoded names and values of a query.
pub type Pairs<'a> = [(Cow<'a, str>, Cow<'a, str>)];

/// The views of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Views(pub(super) Arc<Shared>);

/// What everybody who asks views shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) entries: BTreeMap<&'static str, Arc<Entry>>,
    pub(super) feed: Arc<dyn Feed>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) writer: WriterHandle,
    pub(super) readers: Readers,
    pub(super) standing: Standing,
    /// Where damage of the file is reported, if it is a file.
    pub(super) alarm: Option<Alarm>,
    /// How to ask for the pen of a database that nodes share.
    pub(super) wanted: Option<Arc<Wanted>>,
    /// Shards whose events can be had from nowhere at the moment.
    pub(super) missing: Arc<AtomicUsize>,
    pub(super) shards: u32,
    pub(super) supervisor: ractor::ActorRef<super::supervisor::SupervisorMessage>,
}

/// What must be in the rows of an answer, and how long to wait for it.
#[derive(Debug, Clone, Default)]
pub struct Freshness {
    /// The events that must be in them, at most one for each shard.
    pub after: Vec<Position>,
    /// How long the view may take to get there.
    pub wait: Duration,
}

/// A page of rows.
#[derive(Debug)]
pub struct Page {
    /// A JSON array of objects.
    pub rows: Vec<u8>,
    /// Where the next page begins; `None` at the end.
    pub next_cursor: Option<String>,
    /// How far the view was behind.
    pub lag: Lag,
}

/// A row.
#[derive(Debug)]
pub struct FoundRow {
    /// The members of a JSON object.
    pub members: Vec<u8>,
    /// How far the view was behind.
    pub lag: Lag,
}

impl Views {
    /// A page of rows.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn list(
        &self,
        view: &str,
        pairs: &Pairs<'_>,
        fresh: &Freshness,
    ) -> Result<Page, ViewError> {
        let entry = self.entry(view)?;
        self.bide(entry, fresh).await;
        let (build, _) = self.shown(entry)?;
        Selection::parse(view_table(&build)?, build.version, pairs)?;
        self.reach(entry, fresh).await?;
        // Perhaps another build answers by now. What is seen here is in what the reader reads.
        let reader = self.reader().await?;
        let (build, reached) = self.shown(entry)?;
        let table = view_table(&build)?;
        let selection = Selection::parse(table, build.version, pairs)?;
        let (rows, next_cursor) = self.select(reader, &build, table, &selection).await?;
        Ok(Page {
            rows,
            next_cursor,
            lag: self.lag(&build, &reached),
        })
    }

    /// The row of a key.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub async fn row(
        &self,
        view: &str,
        key: &str,
        fresh: &Freshness,
    ) -> Result<FoundRow, ViewError> {
        let entry = self.entry(view)?;
        self.bide(entry, fresh).await;
        self.shown(entry)?;
        self.reach(entry, fresh).await?;
        entry.rows.row(self, entry, key).await
    }

    /// The rows of these keys, in their order. What was seen of the view before is in them.
    pub(super) async fn rows(
        &self,
        entry: &Entry,
        known: &mut Known,
        keys: &[&str],
    ) -> Result<Vec<Answer>, ViewError> {
        let mut reader = self.reader().await?;
        let (build, reached) = self.shown(entry)?;
        let table = view_table(&build)?;
        let dialect = self.dialect();
        if known.as_ref().is_none_or(|(id, _)| *id != build.id) {
            let sql = TableSql::new(table, dialect, &build.stored_as(&table.name));
            *known = Some((build.id, sql));
        }
        let as_stored = |key| match dialect {
            Dialect::Sqlite => key,
            Dialect::Postgres => postgres::as_stored(key),
        };
        let parse = |key: &&str| parse_key(table, key).map(as_stored);
        let parsed: Vec<Option<Key>> = keys.iter().map(parse).collect();
        let mut wanted: Vec<Key> = parsed.iter().flatten().cloned().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut loaded = Vec::with_capacity(wanted.len());
        if let Some((_, sql)) = known {
            let found = sql.load(reader.connection(), 0, &wanted, &mut loaded).await;
            found.map_err(|error| self.failed(error))?;
        }
        drop(reader);
        let lag = self.lag(&build, &reached);
        let loaded = loaded.into_iter();
        let found: HashMap<Key, Vec<Value>> = loaded
            .filter_map(|row| Some((row.key, row.values?)))
            .collect();
        let answer = |key: Option<Key>| {
            let values = key.and_then(|key| found.get(&key));
            let values = values.ok_or(ViewError::NoRow { lag })?;
            let mut members = Vec::with_capacity(256);
            append_members(&mut members, table, values);
            Ok(FoundRow { members, lag })
        };
        Ok(parsed.into_iter().map(answer).collect())
    }

    pub(super) fn entry(&self, view: &str) -> Result<&Arc<Entry>, ViewError> {
        self.0.entries.get(view).ok_or(ViewError::Unknown)
    }

    /// The build that answers now, and how far it is at this moment.
    pub(super) fn shown(&self, entry: &Entry) -> Result<(Arc<Build>, Reached), ViewError> {
        self.trusted(entry, self.withheld(entry))
    }

    /// The build whose changes are told now. Those are what this process has written itself, so they
    /// are told while the file of before is still being checked.
    pub(super) fn followed(&self, entry: &Entry) -> Result<(Arc<Build>, Reached), ViewError> {
        let withheld = self.withheld(entry);
        self.trusted(entry, withheld.filter(|why| *why != Withheld::Checked))
    }

    fn trusted(
        &self,
        entry: &Entry,
        withheld: Option<Withheld>,
    ) -> Result<(Arc<Build>, Reached), ViewError> {
        let shards = self.0.missing.load(Ordering::Relaxed);
        if shards > 0 {
            return Err(ViewError::Incomplete { shards });
        }
        let build = entry.live();
        if build.is_unknown() || self.0.standing.is(Part::Away) {
            return Err(self.away());
        }
        if let Some(why) = withheld {
            return Err(ViewError::Away {
                reason: why.reason().to_owned(),
            });
        }
        let reached = Reached::now(&build);
        Ok((build, reached))
    }

    /// Why a view answers nothing for now, if so.
    fn withheld(&self, entry: &Entry) -> Option<Withheld> {
        let rung = self.0.alarm.as_ref().is_some_and(Alarm::has_rung);
        rung.then_some(Withheld::Rebuilt).or(entry.withheld())
    }

    /// How this node stands towards its store.
    #[must_use]
    pub fn standing(&self) -> Stand {
        self.0.standing.now()
    }

    /// Whether the store is a database that nodes share.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.0.wanted.is_some()
    }

    fn away(&self) -> ViewError {
        let reason = self.standing().reason;
        ViewError::Away {
            reason: reason.unwrap_or_else(|| "this node has not found its tables yet".to_owned()),
        }
    }

    /// What a failed query of the store means to whoever asked.
    pub(super) fn store_error(&self, error: sqlx::Error) -> ViewError {
        match error {
            error if self.is_shared() => match error {
                sqlx::Error::PoolTimedOut if !self.0.standing.is(Part::Away) => ViewError::Busy,
                sqlx::Error::PoolTimedOut => self.away(),
                error => {
                    tracing::debug!(%error, "a query of a view failed");
                    ViewError::Away {
                        reason: error.to_string(),
                    }
                }
            },
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => ViewError::Busy,
            error if shows_damage(&error) => self.damage(&StoreError::Sql(error)),
            // A new connection finds no file, or another one.
            error if self.0.alarm.as_ref().is_some_and(Alarm::look) => {
                self.damage(&StoreError::Sql(error))
            }
            error => {
                tracing::error!(%error, "a query of a view failed");
                ViewError::Store(error.to_string())
            }
        }
    }

    /// What a failed reading of rows means to whoever asked.
    fn failed(&self, error: StoreError) -> ViewError {
        match error {
            StoreError::Sql(error) => self.store_error(error),
            error => self.damage(&error),
        }
    }

    /// Reports damage that a query has met; what is to be said to whoever asked.
    fn damage(&self, error: &StoreError) -> ViewError {
        if let Some(alarm) = &self.0.alarm {
            alarm.ring(error);
        }
        ViewError::Away {
            reason: Withheld::Rebuilt.reason().to_owned(),
        }
    }

    fn dialect(&self) -> Dialect {
        if self.is_shared() {
            Dialect::Postgres
        } else {
            Dialect::Sqlite
        }
    }

    pub(super) fn lag(&self, build: &Build, reached: &Reached) -> Lag {
        reached.lag(build, &*self.0.feed, &*self.0.clock)
    }

    /// Waits, for as long as the query may, while the view answers nothing.
    async fn bide(&self, entry: &Entry, fresh: &Freshness) {
        let is_incomplete = || self.0.missing.load(Ordering::Relaxed) > 0;
        if is_incomplete() {
            let complete = async {
                while is_incomplete() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            // What comes of it is looked at next.
            let _complete = tokio::time::timeout(fresh.wait.min(COPY_LEFT), complete).await;
        }
        if entry.withheld().is_some() {
            // What comes of it is looked at next.
            let _released = tokio::time::timeout(fresh.wait, entry.released()).await;
        }
    }

    /// Waits until the view has reached every position, which costs nothing while it waits.
    async fn reach(&self, entry: &Entry, fresh: &Freshness) -> Result<(), ViewError> {
        let deadline = Instant::now() + fresh.wait;
        for position in &fresh.after {
            if position.shard >= self.0.shards {
                return Err(ViewError::Query {
                    parameter: "after".to_owned(),
                    reason: format!("there is no shard {}", position.shard),
                });
            }
            if entry.has_reached(*position) {
                continue;
            }
            let _hurry = self.0.writer.hurry();
            let waited = tokio::time::timeout_at(deadline, entry.wait(*position)).await;
            if waited.is_err() && !entry.has_reached(*position) {
                let build = entry.live();
                let lag = self.lag(&build, &Reached::now(&build));
                return Err(ViewError::Behind {
                    position: *position,
                    lag,
                });
            }
        }
        Ok(())
    }

    async fn select(
        &self,
        mut reader: Reader,
        build: &Build,
        table: &Table,
        selection: &Selection,
    ) -> Result<(Vec<u8>, Option<String>), ViewError> {
        let (dialect, stored_as) = (self.dialect(), build.stored_as(&table.name));
        let (text, mut bound) = selection.statement(table, dialect, &stored_as);
        // One more row says whether there is a next page.
        let limit = Value::Integer(i64::from(selection.limit) + 1);
        bound.push(&limit);
        let mut rows = vec![b'['];
        let mut count = 0;
        // The last row at which the page may end, and how many bytes there are up to it.
        let mut last: Option<(Vec<Value>, usize)> = None;
        let mut is_cut = false;
        let mut damage = None;
        let open = opener(dialect, &stored_as, table);
        let mut take = |row: Vec<Value>| {
            let values = match open(row) {
                Ok(values) => values,
                Err(error) => {
                    damage = Some(error);
                    return false;
                }
            };
            if count == selection.limit || rows.len() > MAX_PAGE_BYTES {
                is_cut = true;
                return false;
            }
            if count > 0 {
                rows.push(b',');
            }
            append_row(&mut rows, table, &values);
            if selection.can_end_at(&values) {
                last = Some((values, rows.len()));
            }
            count += 1;
            true
        };
        let types = read_types(table, dialect);
        let found = reader
            .connection()
            .each(text, bound, &types, &mut take)
            .await;
        found.map_err(|error| self.store_error(error))?;
        if let Some(error) = damage {
            return Err(self.damage(&error));
        }
        let mut next_cursor = None;
        if is_cut {
            let (last, end) = last.ok_or_else(|| selection.endless())?;
            rows.truncate(end);
            next_cursor = Some(selection.cursor_behind(&last));
        }
        rows.push(b']');
        Ok((rows, next_cursor))
    }

    async fn reader(&self) -> Result<Reader, ViewError> {
        let acquired = self.0.readers.acquire().await;
        acquired.map_err(|error| self.store_error(error))
    }
}

/// Makes the values of a row of what was read: without its sum, which must be right where there is one.
fn opener(
    dialect: Dialect,
    stored_as: &str,
    table: &Table,
) -> impl Fn(Vec<Value>) -> Result<Vec<Value>, StoreError> {
    let sums = match dialect {
        Dialect::Sqlite => Some(RowSums::new(stored_as, table.key_at())),
        Dialect::Postgres => None,
    };
    move |row| match &sums {
        Some(sums) => Ok(sums.open(row)?.0),
        None => Ok(row),
    }
}

/// The table that is the view.
pub(super) fn view_table(build: &Build) -> Result<&Table, ViewError> {
    build.tables.first().ok_or(ViewError::Unknown)
}
