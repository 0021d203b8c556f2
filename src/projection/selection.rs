//! A query of a view: filters, sort, limit and cursor, checked against the view's columns.
//!
//! Refuses: any name that is not a column's, and any value that is not of its column's type; what is
//! refused never gets near SQL. Invariant: rows come in one total order, for the key is the last thing
//! that they are sorted by, so a cursor neither repeats nor skips a row that stays where it is.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::fmt::temporal::Pieces;
use phalanx_actors::projection::{Column, ColumnType, Dialect, Table, Value, moment, quoted};

use super::error::ViewError;
use super::sql::read_columns;

/// Rows of a page when the query does not say.
const DEFAULT_LIMIT: u32 = 50;
/// Rows of a page, at most.
pub(super) const MAX_LIMIT: u32 = 1000;
/// Bytes of a cursor, at most: it has to fit into the first line of a request, with the rest of the query.
const MAX_CURSOR_BYTES: usize = 4096;

/// How a column is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Operator {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "ne" => Self::NotEqual,
            "gt" => Self::Greater,
            "gte" => Self::GreaterOrEqual,
            "lt" => Self::Less,
            "lte" => Self::LessOrEqual,
            _ => return None,
        })
    }

    fn sql(self) -> &'static str {
        match self {
            Self::Equal => "=",
            // A row without a value has another one than any.
            Self::NotEqual => "IS DISTINCT FROM",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    column: usize,
    operator: Operator,
    value: Value,
}

/// A sort column and whether it descends.
type Sort = (usize, bool);

/// See the file's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    filters: Vec<Filter>,
    /// Ends with the key.
    sort: Vec<Sort>,
    pub(super) limit: u32,
    /// The values of the sort columns in the row behind which the page begins.
    behind: Option<Vec<Value>>,
    /// Tells the cursors of one query from those of another.
    fingerprint: u32,
}

fn refused(parameter: &str, reason: impl Into<String>) -> ViewError {
    ViewError::Query {
        parameter: parameter.to_owned(),
        reason: reason.into(),
    }
}

impl Selection {
    /// Reads decoded pairs of names and values.
    pub(super) fn parse(
        table: &Table,
        version: u32,
        pairs: &[(Cow<'_, str>, Cow<'_, str>)],
    ) -> Result<Self, ViewError> {
        let mut selection = Self {
            filters: Vec::new(),
            sort: Vec::new(),
            limit: DEFAULT_LIMIT,
            behind: None,
            fingerprint: 0,
        };
        let mut cursor = None;
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in pairs {
            if seen.contains(&&**name) {
                let reason = format!("query parameter `{name}` appears twice");
                return Err(refused(name, reason));
            }
            seen.push(name);
            match &**name {
                "sort" => selection.sort = parse_sort(table, value)?,
                "limit" => selection.limit = parse_limit(value)?,
                "cursor" => cursor = Some(value),
                _ => selection.filters.push(parse_filter(table, name, value)?),
            }
        }
        let key = table.key_at();
        if !selection.sort.iter().any(|(column, _)| *column == key) {
            selection.sort.push((key, false));
        }
        selection.fingerprint = selection.fingerprint(table, version);
        if let Some(cursor) = cursor {
            let behind = selection.parse_cursor(table, cursor);
            let behind = behind.ok_or_else(|| {
                refused(
                    "cursor",
                    "the cursor was not made by this query of this view",
                )
            })?;
            selection.behind = Some(behind);
        }
        Ok(selection)
    }

    /// What a cursor must have in common with the query that it continues.
    fn fingerprint(&self, table: &Table, version: u32) -> u32 {
        let text = format!(
            "{} {version} {:?} {:?}",
            table.name, self.filters, self.sort
        );
        crc32c::crc32c(text.as_bytes())
    }

    fn parse_cursor(&self, table: &Table, cursor: &str) -> Option<Vec<Value>> {
        let json = unhex(cursor)?;
        let (fingerprint, parts): (u32, Vec<serde_json::Value>) =
            serde_json::from_slice(&json).ok()?;
        if fingerprint != self.fingerprint || parts.len() != self.sort.len() {
            return None;
        }
        let value = |((column, _), part): (&Sort, serde_json::Value)| {
            let column = table.columns.get(*column)?;
            let value = match (column.column_type, part) {
                (_, serde_json::Value::Null) => Value::Null,
                (ColumnType::Text, serde_json::Value::String(text)) => Value::from(text),
                (ColumnType::Boolean, serde_json::Value::Bool(yes)) => Value::from(yes),
                (ColumnType::Integer, part) => Value::Integer(part.as_i64()?),
                (ColumnType::Time, part) => Value::Time(moment(part.as_i64()?)?),
                _ => return None,
            };
            column.fits(&value).then_some(value)
        };
        self.sort.iter().zip(parts).map(value).collect()
    }

    /// The cursor of the page behind a row.
    pub(super) fn cursor_behind(&self, row: &[Value]) -> String {
        let part = |(column, _): &Sort| match row.get(*column) {
            None | Some(Value::Null) => serde_json::Value::Null,
            Some(Value::Text(text)) => text.as_ref().into(),
            Some(Value::Integer(number)) => (*number).into(),
            Some(Value::Boolean(yes)) => (*yes).into(),
            Some(Value::Time(time)) => time.as_microsecond().into(),
        };
        let parts: Vec<serde_json::Value> = self.sort.iter().map(part).collect();
        let json = serde_json::json!([self.fingerprint, parts]).to_string();
        hex(json.as_bytes())
    }

    /// Whether the cursor of the page behind a row is short enough to be sent: a row may be sorted by a
    /// text of any length.
    pub(super) fn can_end_at(&self, row: &[Value]) -> bool {
        let text = |(column, _): &Sort| match row.get(*column) {
            Some(Value::Text(text)) => text.len(),
            _ => 0,
        };
        let bytes: usize = self.sort.iter().map(text).sum();
        // One byte of text takes one byte of JSON at least, and one of JSON two of a cursor.
        let cannot = bytes * 2 > MAX_CURSOR_BYTES;
        let surely = bytes * 12 + self.sort.len() * 48 + 32 <= MAX_CURSOR_BYTES;
        surely || !cannot && self.cursor_behind(row).len() <= MAX_CURSOR_BYTES
    }

    /// The refusal of a page of which no row can be the last one.
    pub(super) fn endless(&self) -> ViewError {
        let most = MAX_CURSOR_BYTES / 2;
        refused(
            "sort",
            format!(
                "these rows are sorted by texts of more than about {most} bytes, which no cursor holds: \
                 sort by another column, or ask for more rows at once"
            ),
        )
    }

    /// The statement, and the values that it binds.
    pub(super) fn statement(
        &self,
        table: &Table,
        dialect: Dialect,
        stored_as: &str,
    ) -> (String, Vec<&Value>) {
        let name = |column: usize| {
            let column = table.columns.get(column);
            column.map_or_else(String::new, |column| quoted(&column.name))
        };
        let mut bound = Vec::new();
        let columns = read_columns(table, dialect);
        let mut text = format!("SELECT {columns} FROM {}", quoted(stored_as));
        let mut joint = " WHERE ";
        for filter in &self.filters {
            let (column, operator) = (name(filter.column), filter.operator.sql());
            text.push_str(joint);
            text.push_str(&format!("{column} {operator} ?"));
            bound.push(&filter.value);
            joint = " AND ";
        }
        if let Some(behind) = &self.behind {
            text.push_str(joint);
            self.keyset(table, behind, &name, &mut text, &mut bound);
        }
        text.push_str(" ORDER BY ");
        for (at, (column, descends)) in self.sort.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let nullable = table.columns.get(*column).is_some_and(|c| c.nullable);
            let order = match (*descends, nullable) {
                (false, false) => "",
                (false, true) => " NULLS FIRST",
                (true, false) => " DESC",
                (true, true) => " DESC NULLS LAST",
            };
            text.push_str(&format!("{comma}{}{order}", name(*column)));
        }
        text.push_str(" LIMIT ?");
        (text, bound)
    }

    /// The condition that a row comes behind another in the order of the sort. Rows without
    /// a value come first, or last when the order descends.
    fn keyset<'a>(
        &self,
        table: &Table,
        behind: &'a [Value],
        name: &dyn Fn(usize) -> String,
        text: &mut String,
        bound: &mut Vec<&'a Value>,
    ) {
        let nullable = |column: usize| table.columns.get(column).is_some_and(|c| c.nullable);
        // A bound on the first column alone, which an index can use.
        if let (Some((first, descends)), Some(value)) = (self.sort.first(), behind.first())
            && *value != Value::Null
            && !(*descends && nullable(*first))
        {
            let operator = if *descends { "<=" } else { ">=" };
            text.push_str(&format!("{} {operator} ? AND ", name(*first)));
            bound.push(value);
        }
        text.push('(');
        for (at, ((column, descends), value)) in self.sort.iter().zip(behind).enumerate() {
            if at > 0 {
                text.push_str(" OR ");
            }
            text.push('(');
            for ((column, _), value) in self.sort.iter().zip(behind).take(at) {
                if *value == Value::Null {
                    text.push_str(&format!("{} IS NULL AND ", name(*column)));
                } else {
                    text.push_str(&format!("{} = ? AND ", name(*column)));
                    bound.push(value);
                }
            }
            let column_name = name(*column);
            match (value, descends) {
                (Value::Null, false) => text.push_str(&format!("{column_name} IS NOT NULL")),
                (Value::Null, true) => text.push_str("FALSE"),
                (value, false) => {
                    text.push_str(&format!("{column_name} > ?"));
                    bound.push(value);
                }
                (value, true) => {
                    text.push_str(&format!("({column_name} < ?"));
                    if nullable(*column) {
                        text.push_str(&format!(" OR {column_name} IS NULL"));
                    }
                    text.push(')');
                    bound.push(value);
                }
            }
            text.push(')');
        }
        text.push(')');
    }
}

fn parse_sort(table: &Table, value: &str) -> Result<Vec<Sort>, ViewError> {
    let mut sort: Vec<Sort> = Vec::new();
    for part in value.split(',') {
        let (name, descends) = match part.strip_prefix('-') {
            Some(name) => (name, true),
            None => (part, false),
        };
        let column = column_at(table, name)
            .ok_or_else(|| refused("sort", format!("{}; {}", no_column(name), known(table))))?;
        if sort.iter().any(|(other, _)| *other == column) {
            return Err(refused("sort", format!("`{name}` appears twice")));
        }
        sort.push((column, descends));
    }
    Ok(sort)
}

fn parse_limit(value: &str) -> Result<u32, ViewError> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let parsed = value.parse().ok();
    parsed
        .filter(|limit| digits && (1..=MAX_LIMIT).contains(limit))
        .ok_or_else(|| {
            let reason = format!("`limit` must be a whole number from 1 to {MAX_LIMIT}");
            refused("limit", reason)
        })
}

fn parse_filter(table: &Table, name: &str, value: &str) -> Result<Filter, ViewError> {
    let (column, operator) = match name.strip_suffix(']').and_then(|n| n.split_once('[')) {
        None => (name, Operator::Equal),
        Some((column, word)) => {
            let operator = Operator::parse(word).ok_or_else(|| {
                let reason = format!("`{word}` is not one of gte, gt, lte, lt, ne");
                refused(name, reason)
            })?;
            (column, operator)
        }
    };
    let at = column_at(table, column)
        .ok_or_else(|| refused(name, format!("{}; {}", no_column(column), known(table))))?;
    Ok(Filter {
        column: at,
        operator,
        value: parse_value(table, at, name, value)?,
    })
}

/// The one filter of a stream of changes: the key that the pairs name.
pub(super) fn parse_key_filter(
    table: &Table,
    pairs: &[(Cow<'_, str>, Cow<'_, str>)],
) -> Result<Option<Value>, ViewError> {
    let Some((name, value)) = pairs.first() else {
        return Ok(None);
    };
    let filter = parse_filter(table, name, value)?;
    if filter.column != table.key_at() || filter.operator != Operator::Equal {
        let reason = format!("changes are filtered by `{}=` alone", table.key);
        return Err(refused(name, reason));
    }
    match pairs.get(1) {
        Some((name, _)) => Err(refused(name, "a stream of changes has one filter")),
        None => Ok(Some(filter.value)),
    }
}

/// Reads a value of a column's type.
fn parse_value(
    table: &Table,
    column: usize,
    parameter: &str,
    text: &str,
) -> Result<Value, ViewError> {
    let column_type = table.columns.get(column).map(|c| c.column_type);
    let (value, expected) = match column_type.unwrap_or(ColumnType::Text) {
        ColumnType::Text => (Some(Value::from(text)), "a text"),
        ColumnType::Integer => {
            let number: Option<i64> = text.parse().ok().filter(|_| !text.starts_with('+'));
            (number.map(Value::from), "a whole number of 64 bits")
        }
        ColumnType::Boolean => {
            let yes = match text {
                "true" => Some(Value::from(true)),
                "false" => Some(Value::from(false)),
                _ => None,
            };
            (yes, "true or false")
        }
        ColumnType::Time => {
            let expected = "an RFC 3339 timestamp, as in 2026-11-21T08:30:00Z";
            (parse_time(text).map(Value::from), expected)
        }
    };
    value.ok_or_else(|| refused(parameter, format!("`{parameter}` must be {expected}")))
}

/// Reads a time. Those of the last day of year 9999 are beyond what a time can be, and are a usual way to
/// say that there is no end; they are the last one there is.
fn parse_time(text: &str) -> Option<jiff::Timestamp> {
    let time: Option<jiff::Timestamp> = text.parse().ok();
    time.or_else(|| {
        let pieces = Pieces::parse(text).ok()?;
        let whole = pieces.time().is_some() && pieces.offset().is_some();
        (whole && pieces.date() >= jiff::civil::date(9999, 12, 30)).then_some(jiff::Timestamp::MAX)
    })
}

/// Reads a key as it stands in a path; `None` when no row can have it.
pub(super) fn parse_key(table: &Table, text: &str) -> Option<Value> {
    parse_value(table, table.key_at(), "key", text).ok()
}

fn column_at(table: &Table, name: &str) -> Option<usize> {
    let named = |column: &Column| !column.hidden && column.name == name;
    table.columns.iter().position(named)
}

fn no_column(name: &str) -> String {
    format!("the view has no column `{name}`")
}

fn known(table: &Table) -> String {
    let names: Vec<&str> = table.shown().map(|column| &*column.name).collect();
    format!("it has {}", names.join(", "))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a text cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests;
