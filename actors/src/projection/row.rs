//! Values and rows. Invariant: a row is a set of named values; whether it fits a table is checked
//! when it is put there.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;

use super::HandlerError;
use super::table::Table;

/// The value of a column.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// Nothing.
    Null,
    /// Text.
    Text(Arc<str>),
    /// A whole number.
    Integer(i64),
    /// Yes or no.
    Boolean(bool),
    /// A moment, to the microsecond.
    Time(Timestamp),
}

/// The value of a key column.
pub type Key = Value;

impl Value {
    /// A moment, cut to the microsecond, which is all that is kept.
    #[must_use]
    pub fn time(time: Timestamp) -> Self {
        Self::Time(moment(time.as_microsecond()).unwrap_or(time))
    }
}

/// The moment of a number of microseconds since 1970; `None` beyond those that there are. The function of
/// the library refuses all but the first of the last second.
#[must_use]
pub fn moment(us: i64) -> Option<Timestamp> {
    let (seconds, rest) = (us.div_euclid(1_000_000), us.rem_euclid(1_000_000));
    let nanos = i32::try_from(rest * 1_000).ok()?;
    Timestamp::new(seconds, nanos).ok()
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.as_str().into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Boolean(yes)
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::time(time)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A row: values by the names of their columns.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Where it is a row that was read, and has not been changed since.
    stored: Option<StoredRow>,
    /// Its values otherwise.
    built: Vec<(Cow<'static, str>, Value)>,
}

/// A row of the table with this number, shared with those who keep it.
#[derive(Debug, Clone)]
struct StoredRow {
    tables: Arc<[Table]>,
    table: usize,
    values: Arc<[Value]>,
}

impl StoredRow {
    fn values(&self) -> impl Iterator<Item = (&Cow<'static, str>, &Value)> {
        let columns = self.tables.get(self.table).into_iter();
        let columns = columns.flat_map(|table| &table.columns);
        columns.map(|column| &column.name).zip(&*self.values)
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.values().eq(other.values())
    }
}

impl Eq for Row {}

impl Row {
    /// The same row with this value in a column.
    #[must_use]
    pub fn with(mut self, column: &'static str, value: impl Into<Value>) -> Self {
        self.set(column, value);
        self
    }

    /// Sets the value of a column.
    pub fn set(&mut self, column: &'static str, value: impl Into<Value>) {
        let value = value.into();
        let own = self.own();
        match own.iter_mut().find(|(name, _)| *name == column) {
            Some((_, slot)) => *slot = value,
            None => own.push((Cow::Borrowed(column), value)),
        }
    }

    /// The value of a column; `None` when the row has no such column.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<&Value> {
        let mut values = self.values();
        values.find_map(|(name, value)| (name == column).then_some(value))
    }

    /// The number in a column.
    ///
    /// # Errors
    /// When it holds none.
    pub fn integer(&self, column: &str) -> Result<i64, HandlerError> {
        match self.get(column) {
            Some(Value::Integer(number)) => Ok(*number),
            other => Err(unexpected(column, "a number", other)),
        }
    }

    /// The text in a column.
    ///
    /// # Errors
    /// When it holds none.
    pub fn text(&self, column: &str) -> Result<&str, HandlerError> {
        match self.get(column) {
            Some(Value::Text(text)) => Ok(text),
            other => Err(unexpected(column, "a text", other)),
        }
    }

    /// Whether a column says yes.
    ///
    /// # Errors
    /// When it holds neither yes nor no.
    pub fn boolean(&self, column: &str) -> Result<bool, HandlerError> {
        match self.get(column) {
            Some(Value::Boolean(yes)) => Ok(*yes),
            other => Err(unexpected(column, "yes or no", other)),
        }
    }

    /// The moment in a column.
    ///
    /// # Errors
    /// When it holds none.
    pub fn time(&self, column: &str) -> Result<Timestamp, HandlerError> {
        match self.get(column) {
            Some(Value::Time(time)) => Ok(*time),
            other => Err(unexpected(column, "a moment", other)),
        }
    }

    /// The row with these values of a table, which is the one with this number.
    pub(super) fn stored(tables: Arc<[Table]>, table: usize, values: Arc<[Value]>) -> Self {
        let stored = StoredRow {
            tables,
            table,
            values,
        };
        Self {
            stored: Some(stored),
            built: Vec::new(),
        }
    }

    fn values(&self) -> impl Iterator<Item = (&str, &Value)> {
        let stored = self.stored.iter().flat_map(StoredRow::values);
        let built = self.built.iter().map(|(name, value)| (name, value));
        stored.chain(built).map(|(name, value)| (&**name, value))
    }

    /// The values as this row's own.
    fn own(&mut self) -> &mut Vec<(Cow<'static, str>, Value)> {
        if let Some(stored) = self.stored.take() {
            let values = stored.values();
            self.built = values.map(|(n, v)| (n.clone(), v.clone())).collect();
        }
        &mut self.built
    }

    pub(super) fn len(&self) -> usize {
        let stored = self.stored.as_ref().map(|stored| stored.values.len());
        stored.unwrap_or(self.built.len())
    }

    pub(super) fn take(&mut self, column: &str) -> Option<Value> {
        let own = self.own();
        let at = own.iter().position(|(name, _)| *name == column)?;
        Some(own.swap_remove(at).1)
    }

    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.values().map(|(name, _)| name)
    }
}

fn unexpected(column: &str, wanted: &str, found: Option<&Value>) -> HandlerError {
    HandlerError::refused(format!("column `{column}` holds {found:?}, not {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_read_as_what_it_holds_and_as_nothing_else() {
        let time = Timestamp::from_microsecond(5).unwrap();
        let row = Row::default()
            .with("text", "a")
            .with("integer", 7)
            .with("boolean", true)
            .with("time", time)
            .with("nothing", None::<i64>);
        assert_eq!(row.text("text"), Ok("a"));
        assert_eq!(row.integer("integer"), Ok(7));
        assert_eq!(row.boolean("boolean"), Ok(true));
        assert_eq!(row.time("time"), Ok(time));
        for column in ["text", "integer", "boolean", "time", "nothing", "none"] {
            let read = [
                row.text(column).is_ok(),
                row.integer(column).is_ok(),
                row.boolean(column).is_ok(),
                row.time(column).is_ok(),
            ];
            let expected = ["text", "integer", "boolean", "time"].map(|name| name == column);
            assert_eq!(read, expected, "{column}");
        }
    }

    #[test]
    fn a_moment_is_cut_to_the_microsecond_also_at_both_ends_of_time() {
        for text in [
            "-009999-01-02T01:59:59Z",
            "-009999-01-02T01:59:59.0000019Z",
            "1969-12-31T23:59:59.9999999Z",
            "1970-01-01T00:00:00Z",
            "9999-12-30T22:00:00Z",
            "9999-12-30T22:00:00.9999999Z",
            "9999-12-30T22:00:00.999999999Z",
        ] {
            let time: Timestamp = text.parse().unwrap();
            let us = time.as_microsecond();
            let Value::Time(kept) = Value::time(time) else {
                panic!("{text}");
            };
            assert_eq!(
                (kept.as_microsecond(), moment(us)),
                (us, Some(kept)),
                "{text}"
            );
            assert_eq!(kept.as_nanosecond(), i128::from(us) * 1_000, "{text}");
        }
        assert_eq!(moment(i64::MAX).or(moment(i64::MIN)), None);
    }

    #[test]
    fn a_row_that_was_read_is_changed_without_the_one_that_is_kept() {
        let tables: Arc<[Table]> = vec![Table::new("t", "id").text("id").integer("n")].into();
        let kept: Arc<[Value]> = vec![Value::from("a"), Value::from(1_i64)].into();
        let read = Row::stored(Arc::clone(&tables), 0, Arc::clone(&kept));
        let built = Row::default().with("id", "a").with("n", 1_i64);
        assert_eq!(read, built);
        assert_eq!((read.text("id"), read.integer("n")), (Ok("a"), Ok(1)));
        assert_eq!((read.len(), read.get("m")), (2, None));
        let changed = read.clone().with("n", 2_i64).with("m", true);
        assert_eq!(
            changed,
            Row::default()
                .with("id", "a")
                .with("n", 2_i64)
                .with("m", true)
        );
        assert_eq!(
            (read, &*kept),
            (built, &["a".into(), Value::from(1_i64)][..])
        );
    }
}
