//! The values of a row one after the other, for rows that the store keeps for itself.
//!
//! Refuses: to guess. A value that is not what was put there is an error that says the store is
//! damaged.

use phalanx_actors::projection::Value;

/// The values of a row.
#[derive(Debug)]
pub(super) struct Fields(std::vec::IntoIter<Value>);

impl Fields {
    pub(super) fn of(row: Vec<Value>) -> Self {
        Self(row.into_iter())
    }

    pub(super) fn integer(&mut self) -> Result<i64, sqlx::Error> {
        match self.0.next() {
            Some(Value::Integer(number)) => Ok(number),
            other => Err(unexpected("a number", other.as_ref())),
        }
    }

    pub(super) fn number(&mut self) -> Result<u64, sqlx::Error> {
        self.integer().map(i64::unsigned_abs)
    }

    /// A number of 32 bits; one that is too large is the largest.
    pub(super) fn small(&mut self) -> Result<u32, sqlx::Error> {
        self.number().map(|n| u32::try_from(n).unwrap_or(u32::MAX))
    }

    pub(super) fn text(&mut self) -> Result<String, sqlx::Error> {
        match self.0.next() {
            Some(Value::Text(text)) => Ok(text.as_ref().to_owned()),
            other => Err(unexpected("a text", other.as_ref())),
        }
    }

    pub(super) fn text_if_any(&mut self) -> Option<String> {
        match self.0.next() {
            Some(Value::Text(text)) => Some(text.as_ref().to_owned()),
            _ => None,
        }
    }
}

/// A number as it is stored: positions never come near the end.
pub(super) fn number(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn unexpected(wanted: &str, found: Option<&Value>) -> sqlx::Error {
    sqlx::Error::Decode(format!("{wanted} was expected, not {found:?}").into())
}
