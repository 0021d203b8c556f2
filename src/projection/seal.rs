//! The seal of a build in a file: what its rows come to, bound to how far it is.
//!
//! A row's own sum tells that the row is as it was written once. It does not tell that it is the last one
//! that was written, or that none is missing: pages of a file may be older than others, for instance
//! after a damaged log that was half checkpointed. So each transaction seals the build anew: the tally of
//! its rows, that of its dead letters, its offsets, and what it is.
//!
//! Refuses: a build whose seal is not that of what is stored. Invariant: a seal changes in the
//! transaction that changes what it covers.

use phalanx_actors::projection::{ColumnType, Value};

use super::build::BuildId;
use super::database::Connection;
use super::error::StoreError;
use super::fields::Fields;
use super::sums::{Tally, stored, sum};

/// The table of seals, in a file alone.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS phalanx_seals (
    build INTEGER NOT NULL PRIMARY KEY, rows INTEGER NOT NULL, sum INTEGER NOT NULL,
    letters INTEGER NOT NULL, seal INTEGER NOT NULL) STRICT";

/// What a seal covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sealed {
    /// The rows of all its tables.
    pub(super) rows: Tally,
    /// The sums of its dead letters together.
    pub(super) letters: u64,
    /// How far each shard is.
    pub(super) offsets: Vec<u64>,
    /// The sum of what the build is.
    pub(super) what: u64,
}

impl Sealed {
    /// A build without anything in it.
    pub(super) fn empty(shards: u32, what: u64) -> Self {
        Self {
            rows: Tally::default(),
            letters: 0,
            offsets: (0..shards).map(|_| 0).collect(),
            what,
        }
    }

    fn seal(&self, build: BuildId) -> u64 {
        let mut values: Vec<Value> = vec![
            build.into(),
            stored(self.rows.rows),
            stored(self.rows.sum),
            stored(self.letters),
            stored(self.what),
        ];
        values.extend(self.offsets.iter().map(|offset| stored(*offset)));
        sum(0, &values)
    }
}

fn damaged(build: BuildId, reason: &str) -> StoreError {
    StoreError::Build {
        build,
        reason: reason.to_owned(),
    }
}

/// The sum of what a build is: the name of its projection, its version, its tables.
pub(super) fn what(name: &str, version: u32, tables: &str) -> u64 {
    sum(1, &[name.into(), version.into(), tables.into()])
}

async fn what_is(connection: &mut Connection<'_>, build: BuildId) -> Result<u64, StoreError> {
    let text = "SELECT projection, version, tables FROM phalanx_builds WHERE id = ?";
    let types = [ColumnType::Text, ColumnType::Integer, ColumnType::Text];
    let rows = connection.rows(text, &[build.into()], &types).await?;
    let row = rows.into_iter().next();
    let mut fields = Fields::of(row.ok_or_else(|| damaged(build, "there is no such build"))?);
    let (name, version, tables) = (fields.text()?, fields.small()?, fields.text()?);
    Ok(what(&name, version, &tables))
}

/// What is stored of a build, if its seal is the right one.
pub(super) async fn open(
    connection: &mut Connection<'_>,
    build: BuildId,
) -> Result<Sealed, StoreError> {
    let text = "SELECT position FROM phalanx_offsets WHERE build = ? ORDER BY shard";
    let types = [ColumnType::Integer];
    let offsets = connection.rows(text, &[build.into()], &types).await?;
    let offsets = offsets.into_iter().map(|row| Fields::of(row).number());
    let offsets: Result<Vec<u64>, _> = offsets.collect();
    let text = "SELECT rows, sum, letters, seal FROM phalanx_seals WHERE build = ?";
    let types = [ColumnType::Integer; 4];
    let found = connection.rows(text, &[build.into()], &types).await?;
    let found = found.into_iter().next();
    let mut fields = Fields::of(found.ok_or_else(|| damaged(build, "it has no seal"))?);
    let mut next = || fields.integer().map(i64::cast_unsigned);
    let (rows, sum, letters, seal) = (next()?, next()?, next()?, next()?);
    let sealed = Sealed {
        rows: Tally { rows, sum },
        letters,
        offsets: offsets?,
        what: what_is(connection, build).await?,
    };
    if sealed.seal(build) == seal {
        Ok(sealed)
    } else {
        Err(damaged(build, "its seal is not that of what is stored"))
    }
}

/// Seals what a transaction leaves behind of some builds.
pub(super) async fn close(
    connection: &mut Connection<'_>,
    builds: &[(BuildId, Sealed)],
) -> Result<(), StoreError> {
    if builds.is_empty() {
        return Ok(());
    }
    let rows = vec!["(?, ?, ?, ?, ?)"; builds.len()].join(", ");
    let text = format!(
        "INSERT INTO phalanx_seals VALUES {rows} ON CONFLICT (build) DO UPDATE SET \
         rows = excluded.rows, sum = excluded.sum, letters = excluded.letters, \
         seal = excluded.seal"
    );
    let values: Vec<Value> = builds
        .iter()
        .flat_map(|(build, sealed)| {
            [
                (*build).into(),
                stored(sealed.rows.rows),
                stored(sealed.rows.sum),
                stored(sealed.letters),
                stored(sealed.seal(*build)),
            ]
        })
        .collect();
    connection.execute(text, &values).await?;
    Ok(())
}
