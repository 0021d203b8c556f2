//! What is different in PostgreSQL: how values are bound and read, and many rows at once.
//!
//! Rows go in and out as arrays, one for each column (`UNNEST`, `= ANY`), so that a statement has the
//! same text for any number of rows. Two values are not kept as they are: PostgreSQL knows no U+0000
//! in a text, which becomes U+FFFD, and no time before the year -4712, which becomes that year.
//! Refuses: to let such a value fail a transaction, for it would fail each time.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use phalanx_actors::projection::{ColumnType, Value, moment};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{
    PgArgumentBuffer, PgArguments, PgHasArrayType, PgRow, PgTypeInfo, PgValueFormat, PgValueRef,
};
use sqlx::{AssertSqlSafe, Decode, Encode, Postgres, Row as _, Type};

/// A query whose text is made of checked names and placeholders only.
pub(super) type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// Makes a query of a text.
pub(super) fn query<'q>(text: impl Into<Arc<str>>) -> Query<'q> {
    sqlx::query(AssertSqlSafe(text.into()))
}

/// Binds a value. Nothing is bound as a text: only columns of text are set to nothing that way.
pub(super) fn bind<'q>(query: Query<'q>, value: &Value) -> Query<'q> {
    match value {
        Value::Null => query.bind(None::<String>),
        Value::Text(text) => query.bind(kept(text).into_owned()),
        Value::Integer(number) => query.bind(*number),
        Value::Boolean(yes) => query.bind(*yes),
        Value::Time(time) => query.bind(Micros::of(*time)),
    }
}

/// Binds the values of one column as an array.
pub(super) fn bind_column<'q, 'v>(
    query: Query<'q>,
    column_type: ColumnType,
    values: impl Iterator<Item = &'v Value>,
) -> Query<'q> {
    match column_type {
        ColumnType::Text => query.bind(
            values
                .map(|value| match value {
                    Value::Text(text) => Some(kept(text).into_owned()),
                    _ => None,
                })
                .collect::<Vec<Option<String>>>(),
        ),
        ColumnType::Integer => query.bind(
            values
                .map(|value| match value {
                    Value::Integer(number) => Some(*number),
                    _ => None,
                })
                .collect::<Vec<Option<i64>>>(),
        ),
        ColumnType::Boolean => query.bind(
            values
                .map(|value| match value {
                    Value::Boolean(yes) => Some(*yes),
                    _ => None,
                })
                .collect::<Vec<Option<bool>>>(),
        ),
        ColumnType::Time => query.bind(
            values
                .map(|value| match value {
                    Value::Time(time) => Some(Micros::of(*time)),
                    _ => None,
                })
                .collect::<Vec<Option<Micros>>>(),
        ),
    }
}

/// A value as it is once it is stored.
pub(super) fn as_stored(value: Value) -> Value {
    match value {
        Value::Text(text) => match kept(&text) {
            Cow::Owned(text) => text.into(),
            Cow::Borrowed(_) => Value::Text(text),
        },
        Value::Time(time) => Value::Time(Micros::of(time).time()),
        other => other,
    }
}

/// Whether a value is another one once it is stored.
pub(super) fn is_altered(value: &Value) -> bool {
    match value {
        Value::Text(text) => matches!(kept(text), Cow::Owned(_)),
        Value::Time(time) => time.as_microsecond() < EARLIEST_US,
        Value::Null | Value::Integer(_) | Value::Boolean(_) => false,
    }
}

/// Bytes of a text once it is stored.
pub(super) fn kept_bytes(text: &str) -> usize {
    kept(text).len()
}

fn kept(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}

/// Reads the columns of a row, from the first one on.
pub(super) fn read(row: &PgRow, columns: &[ColumnType]) -> Result<Vec<Value>, sqlx::Error> {
    let value = |(at, column_type): (usize, &ColumnType)| {
        Ok(match column_type {
            ColumnType::Text => {
                let text: Option<&str> = row.try_get_unchecked(at)?;
                text.map_or(Value::Null, Value::from)
            }
            ColumnType::Integer => Value::from(row.try_get_unchecked::<Option<i64>, _>(at)?),
            ColumnType::Boolean => Value::from(row.try_get_unchecked::<Option<bool>, _>(at)?),
            ColumnType::Time => {
                let micros: Option<Micros> = row.try_get_unchecked(at)?;
                Value::from(micros.map(Micros::time))
            }
        })
    };
    columns.iter().enumerate().map(value).collect()
}

/// The name of a column's type, for arrays.
pub(super) fn array_type(column_type: ColumnType) -> &'static str {
    match column_type {
        ColumnType::Text => "TEXT[]",
        ColumnType::Integer => "BIGINT[]",
        ColumnType::Boolean => "BOOLEAN[]",
        ColumnType::Time => "TIMESTAMPTZ[]",
    }
}

/// `timestamptz` and an array of it. These numbers are part of PostgreSQL's catalogue and never
/// change: <https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat>
const TIMESTAMPTZ: (Oid, Oid) = (Oid(1184), Oid(1185));

/// 2000-01-01, from which PostgreSQL counts, in microseconds since 1970.
const EPOCH_US: i64 = 946_684_800_000_000;

/// -4712-01-01T00:00:00Z, in microseconds since 1970: a little after PostgreSQL's earliest time.
const EARLIEST_US: i64 = -210_863_520_000_000_000;

/// A moment as PostgreSQL has it: microseconds since 2000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Micros(i64);

impl Micros {
    fn of(time: Timestamp) -> Self {
        Self(time.as_microsecond().max(EARLIEST_US) - EPOCH_US)
    }

    fn time(self) -> Timestamp {
        // What others have put there may be later than any time that is known here.
        let us = self.0.saturating_add(EPOCH_US);
        moment(us).unwrap_or(Timestamp::MAX)
    }
}

impl Type<Postgres> for Micros {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ.0)
    }
}

impl PgHasArrayType for Micros {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ.1)
    }
}

impl Encode<'_, Postgres> for Micros {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<'_, Postgres>>::encode_by_ref(&self.0, buffer)
    }
}

impl Decode<'_, Postgres> for Micros {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => Ok(Self(<i64 as Decode<'_, Postgres>>::decode(value)?)),
            PgValueFormat::Text => Err("a time came as a text".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_time_is_the_one_that_it_says() {
        let earliest: Timestamp = "-004712-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(earliest.as_microsecond(), EARLIEST_US);
        let epoch: Timestamp = "2000-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(epoch.as_microsecond(), EPOCH_US);
    }
}
