//! What was set aside, as it is stored.
//!
//! Invariant: a build has at most one letter of each aggregate, for its first event that could not be
//! handled; those behind it wait in the journal.

use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::projection::{ColumnType, DecodedEvent, Value};

use super::build::BuildId;
use super::database::Connection;
use super::error::StoreError;
use super::fields::{Fields, number};
use super::store::Store;
use super::sums::sum;

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

/// The columns of a letter, in the order in which [`Letter::read`] wants them, and their types.
const COLUMNS: &str = "id, shard, stream, sequence_number, position, event_type, \
     time_us, reason, attempts, parked_us";
const TYPES: [ColumnType; 10] = [
    ColumnType::Integer,
    ColumnType::Integer,
    ColumnType::Text,
    ColumnType::Integer,
    ColumnType::Integer,
    ColumnType::Text,
    ColumnType::Integer,
    ColumnType::Text,
    ColumnType::Integer,
    ColumnType::Integer,
];

/// Between type and id in a name that is stored. Names have a NUL there, which PostgreSQL does not
/// take; neither part has one of these before it ends: types have none at all.
const BETWEEN: char = '/';

impl Letter {
    fn read(row: Vec<Value>) -> Result<Self, sqlx::Error> {
        let mut fields = Fields::of(row);
        Ok(Self {
            id: fields.integer()?,
            shard: fields.small()?,
            stream: fields.text()?,
            sequence_number: fields.number()?,
            position: fields.number()?,
            event_type: fields.text_if_any(),
            time_us: fields.integer()?,
            reason: fields.text()?,
            attempts: fields.small()?,
            parked_us: fields.integer()?,
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

    /// The sum of what is stored of it, without its number.
    pub(super) fn sum(&self) -> u64 {
        let values = [
            self.shard.into(),
            self.stream.as_str().into(),
            number(self.sequence_number),
            number(self.position),
            self.event_type.as_deref().into(),
            self.time_us.into(),
            self.reason.as_str().into(),
            self.attempts.into(),
            self.parked_us.into(),
        ];
        sum(2, &values)
    }

    pub(crate) fn stream_name(&self) -> Option<StreamName> {
        if self.stream.contains('\0') {
            return StreamName::from_stored(&self.stream);
        }
        StreamName::from_stored(&self.stream.replacen(BETWEEN, "\0", 1))
    }
}

impl Store {
    /// The letters of a build, the oldest first.
    pub(crate) async fn letters(&mut self, build: BuildId) -> Result<Vec<Letter>, StoreError> {
        list(self.connection()?, build, 0, u32::MAX).await
    }

    /// One letter of a build.
    pub(crate) async fn letter(
        &mut self,
        build: BuildId,
        id: i64,
    ) -> Result<Option<Letter>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM phalanx_dead_letters WHERE build = ? AND id = ?");
        let rows = self.rows(&text, &[build.into(), id.into()], &TYPES).await?;
        Ok(rows.into_iter().next().map(Letter::read).transpose()?)
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
        let stream = if self.is_shared() {
            letter.stream.replacen('\0', &BETWEEN.to_string(), 1)
        } else {
            letter.stream.clone()
        };
        let values = [
            Value::from(build),
            letter.shard.into(),
            stream.into(),
            number(letter.sequence_number),
            number(letter.position),
            letter.event_type.as_deref().into(),
            letter.time_us.into(),
            letter.reason.as_str().into(),
            letter.attempts.into(),
            letter.parked_us.into(),
        ];
        self.run(text, &values).await?;
        Ok(())
    }

    /// Removes a letter.
    pub(crate) async fn delete_letter(&mut self, id: i64) -> Result<(), StoreError> {
        let text = "DELETE FROM phalanx_dead_letters WHERE id = ?";
        self.run(text, &[id.into()]).await?;
        Ok(())
    }
}

/// The sums of letters together.
pub(super) fn sum_of(letters: &[Letter]) -> u64 {
    letters
        .iter()
        .fold(0, |sum, letter| sum.wrapping_add(letter.sum()))
}

/// The letters of a build with numbers beyond `after`, by number.
pub(super) async fn list(
    mut connection: Connection<'_>,
    build: BuildId,
    after: i64,
    limit: u32,
) -> Result<Vec<Letter>, StoreError> {
    let text = format!(
        "SELECT {COLUMNS} FROM phalanx_dead_letters WHERE build = ? AND id > ? ORDER BY id LIMIT ?"
    );
    let values = [build.into(), after.into(), limit.into()];
    let rows = connection.rows(text, &values, &TYPES).await?;
    let letters: Result<Vec<_>, _> = rows.into_iter().map(Letter::read).collect();
    Ok(letters?)
}
