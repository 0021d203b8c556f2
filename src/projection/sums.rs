//! Sums of what a file of read models holds, so that a flipped bit is noticed and never shown.
//!
//! Owns: the sum of a row, which is stored with it, and the tally of many. SQLite has no checksums of
//! its own. Invariant: a sum covers every value of a row as it is stored, and the name of the table that
//! it is stored in; the tally of some rows is the same in whatever order they came and went.

use phalanx_actors::projection::Value;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::error::StoreError;

/// Gives rows of one stored table their sums, and checks them.
#[derive(Debug, Clone)]
pub(super) struct RowSums {
    stored_as: String,
    key_at: usize,
    seed: u64,
}

impl RowSums {
    pub(super) fn new(stored_as: &str, key_at: usize) -> Self {
        Self {
            stored_as: stored_as.to_owned(),
            key_at,
            seed: xxh3_64(stored_as.as_bytes()),
        }
    }

    /// The sum of a row.
    pub(super) fn of(&self, row: &[Value]) -> u64 {
        sum(self.seed, row)
    }

    /// Takes the sum off a row as it was read, if it is that of the row.
    pub(super) fn open(&self, mut row: Vec<Value>) -> Result<(Vec<Value>, u64), StoreError> {
        let sum = row.pop();
        let right = self.of(&row);
        if sum == Some(stored(right)) {
            return Ok((row, right));
        }
        let key = row.get(self.key_at).unwrap_or(&Value::Null);
        Err(self.damaged(&format!("the row of key {key:?} is not as it was written")))
    }

    pub(super) fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged {
            table: self.stored_as.clone(),
            what: what.to_owned(),
        }
    }
}

/// A sum as it is stored: SQLite has signed numbers only.
pub(super) fn stored(sum: u64) -> Value {
    Value::Integer(sum.cast_signed())
}

/// The sum of values one after the other.
pub(super) fn sum(seed: u64, values: &[Value]) -> u64 {
    let mut bytes = Vec::with_capacity(128);
    for value in values {
        match value {
            Value::Null => bytes.push(0),
            Value::Text(text) => {
                bytes.push(1);
                bytes.extend_from_slice(&text.len().to_le_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
            Value::Integer(number) => {
                bytes.push(2);
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            Value::Boolean(yes) => bytes.extend_from_slice(&[3, u8::from(*yes)]),
            Value::Time(time) => {
                bytes.push(4);
                bytes.extend_from_slice(&time.as_microsecond().to_le_bytes());
            }
        }
    }
    xxh3_64_with_seed(&bytes, seed)
}

/// How many rows there are, and their sums together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) rows: u64,
    pub(super) sum: u64,
}

impl Tally {
    /// A row came.
    pub(super) fn add(&mut self, sum: u64) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(sum);
    }

    /// A row went.
    pub(super) fn take(&mut self, sum: u64) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_differs_anywhere_or_lies_elsewhere_has_another_sum() {
        let sums = RowSums::new("b1_t", 0);
        let row: Vec<Value> = vec!["ab".into(), "c".into(), 7_i64.into(), true.into()];
        let with_sum = |mut row: Vec<Value>| {
            row.push(stored(sums.of(&row)));
            row
        };
        assert_eq!(sums.open(with_sum(row.clone())).unwrap().0, row);
        for (at, other) in [
            (0, "a".into()),
            (1, "bc".into()),
            (2, 6_i64.into()),
            (2, true.into()),
            (3, false.into()),
            (3, Value::Null),
            (4, 1_i64.into()),
        ] {
            let mut changed = with_sum(row.clone());
            changed[at] = other;
            let error = sums.open(changed).unwrap_err().to_string();
            assert!(error.contains("b1_t"), "{error}");
        }
        let moved: Vec<Value> = vec!["a".into(), "bc".into(), 7_i64.into(), true.into()];
        assert_ne!(sums.of(&moved), sums.of(&row), "a letter that moved");
        let elsewhere = RowSums::new("b2_t", 0);
        assert!(elsewhere.open(with_sum(row)).is_err());
    }
}
