//! A set of a table's columns.
//!
//! Invariant: a set holds every column that was put into it; of a table with very many columns it may
//! hold more.

use super::row::Value;

/// Columns by their places. Places from 63 on have no bit of their own: a set with one of them holds
/// all columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Columns(u64);

/// The first place without a bit of its own.
const PLACES: usize = 63;

impl Columns {
    /// Every column.
    pub const ALL: Self = Self(u64::MAX);

    /// No column.
    pub const NONE: Self = Self(0);

    /// Whether the column at this place is in it.
    #[must_use]
    pub fn contains(self, at: usize) -> bool {
        self == Self::ALL || (at < PLACES && self.0 >> at & 1 == 1)
    }

    /// Whether it holds no column.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// Where two rows of a table differ.
    #[must_use]
    pub fn differing(one: &[Value], other: &[Value]) -> Self {
        let places = one.iter().zip(other).enumerate();
        let differ = places.filter(|(_, (one, other))| one != other);
        differ.fold(Self::NONE, |columns, (at, _)| match at {
            0..PLACES => Self(columns.0 | 1 << at),
            _ => Self::ALL,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_may_be_wider_than_a_set_of_columns() {
        let wide: Vec<Value> = (0..70_i64).map(Value::from).collect();
        let differing = |at: usize| {
            let mut other = wide.clone();
            other[at] = (-1_i64).into();
            Columns::differing(&wide, &other)
        };
        assert!(Columns::differing(&wide, &wide).is_empty());
        let last_of_its_own = differing(62);
        assert!(last_of_its_own.contains(62));
        assert!(!last_of_its_own.contains(61) && !last_of_its_own.contains(66));
        let beyond = differing(66);
        assert!(
            beyond.contains(66) && beyond.contains(0),
            "it holds all then"
        );
    }
}
